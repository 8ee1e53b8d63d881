# %% [markdown]
# # 2 · Why not train everything?
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 45 minutes | ●○○ | PyTorch, lesson 1 | under a minute on a CPU |
#
# You will train all weights for one task, weigh what that takes, and see what is left of the old tasks.

# %% [markdown]
# ## First, guess
#
# **Full fine-tuning** trains every weight of a pretrained model on a new task.
#
# 1. A weight takes 4 bytes. How many bytes does *training* it take?
# 2. The base does 58 tasks. We teach it one more. How many of 100 old lines will it still get right?
# 3. Would a smaller learning rate save them?

# %%
import inspect
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from minipeft import Full, Mixture, base, check, costs, decode, deltas, encode, evaluate, fit, load, plots, save, task
from minipeft.attach import detach, trainable
from minipeft.classroom import with_mistake
from minipeft.lab import adapt, learning_rate_of
from minipeft.methods.full import copied
from minipeft.training import RECIPE, Recipe
from minipeft.views import summary

torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, SHORT, LONG, LINES = ([0], 10, 10, 100) if FAST else ([0, 1, 2], 60, RECIPE.steps, 500)

# %% [markdown]
# ## The base, the old tasks and the new one
#
# The base of lesson 1 does what it is told. The new task: reverse a word and swap its letters by the table `blue`,
# *without* being told. Of such lines it has none right.

# %%
old, new = Mixture(), task("reverse+blue")
for line in ("sort red : cabbed =", ": cabbed ="):
    print(f"{line:20}", decode(base().generate(encode(line)[None], 6)[0]))
letters = encode(": cabbed")[1:] - encode(": a")[1]
print("wanted for the last:", decode(new.answer(letters[None])[0] + encode(": a")[1]))
before = evaluate(base(), old, LINES).accuracy, evaluate(base(), new, LINES).accuracy
print(f"right: {before[0]:.3f} of the lines of old tasks, {before[1]:.3f} of the new one's")
assert before[0] > 0.99
assert before[1] < 0.01

# %% [markdown]
# ## One weight by hand
#
# A step of plain gradient descent is $W \leftarrow W - \eta\,g$ with the gradient $g=\partial L/\partial W$. Models are
# trained with **Adam**, which keeps two running means for every number: $m$ of $g$, and $v$ of $g^2$. It steps by
# $\eta\,m/\sqrt v$, so all numbers move at a similar pace.

# %%
rng = np.random.default_rng(0)
W, x, t = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
theirs, xt, tt = torch.nn.Parameter(torch.tensor(W)), torch.tensor(x), torch.tensor(t)
adam = torch.optim.Adam([theirs], lr=0.1)
start, m, v = W.copy(), np.zeros((4, 4)), np.zeros((4, 4))
for step in range(1, 51):
    g = np.outer(W @ x - t, x)  # of L = ‖W x − t‖²/2
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    W = W - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)  # both means began at zero
    adam.zero_grad()
    ((theirs @ xt - tt).square().sum() / 2).backward()
    adam.step()
assert np.allclose(W, theirs.detach()), "by hand and by PyTorch: the same"
print("‖W x − t‖ before and after:", np.linalg.norm(start @ x - t).round(3), np.linalg.norm(W @ x - t).round(3))
print("W, g, m, v:", W.size, "+", g.size, "+", m.size, "+", v.size, "numbers of 4 bytes, so", 4 * 4, "bytes a weight")

# %% [markdown]
# So question 1: 16 bytes, four times the weight, before a single line has passed.
#
# What was learned is $\Delta W$, the new weight minus the old one. We call what a task changes, stored beside the base,
# a **delta**. *Figure: with full fine-tuning, every W and every b has one.*

# %%
plots.structure("Full")
plt.show()
print("ΔW =", (W - start).round(2), sep="\n")

# %% [markdown]
# ## The source
#
# In this course a way of fine-tuning is a **method**. It changes no model: `attach` returns a **view**, a second model
# around the same numbers, all frozen. In the view, `Full` replaces each weight by a trainable copy. The base stays.
# That takes memory, but if you train in place, there is no way back.

# %%
print(inspect.getsource(copied))
print(inspect.getsource(Full.insert))
model = Full().attach(base())
batch = new.batch(32, torch.Generator().manual_seed(0))
print(summary(model))
assert set(trainable(model)) == {name for name, _ in base().named_parameters()}  # all of them
assert torch.equal(model(batch.tokens), base()(batch.tokens))  # before the first step: the base

# %% [markdown]
# ## Train, and watch the old tasks
#
# Trainings in this course follow one **recipe**: 500 steps of 32 new lines; for a third of them the learning rate
# rises. We take two learning rates: 0.03, which tuning chose, and 0.0001, the lowest that it tried. At 0.03, 60 steps
# are enough. We count lines while training.


# %%
def watched(lr, steps, seed, goal=new, method=None):
    trace = [(0, before[1], before[0])]

    def look(model, step):
        if (step + 1) % (steps // 10) == 0:
            trace.append((step + 1, *(evaluate(model, asked, LINES // 5).accuracy for asked in (new, old))))

    return adapt(method or Full(), goal, lr, seed, Recipe(steps=steps), on_step=look)[0], trace


plans = {"tuned": (learning_rate_of(Full()), SHORT), "gentle": (1e-4, LONG)}
runs = {name: [watched(lr, steps, seed) for seed in SEEDS] for name, (lr, steps) in plans.items()}
plots.forgetting({f"{name}: learning rate {plans[name][0]:g}": [trace for _, trace in runs[name]] for name in runs})
plt.show()

# %%
kept = {name: [evaluate(model, old, LINES).accuracy for model, _ in found] for name, found in runs.items()}
learned = {name: [evaluate(model, new, LINES).accuracy for model, _ in found] for name, found in runs.items()}
for name in runs:
    print(
        f"{name:7} new task:", *(f"{a:.2f}" for a in learned[name]), "  old tasks:", *(f"{a:.3f}" for a in kept[name])
    )
if not FAST:
    for _, trace in runs["tuned"] + runs["gentle"]:
        first = next((learned, kept) for _, learned, kept in trace if learned > 0.5 or kept < 0.5)
        assert first[1] < 0.5  # half of the old is lost before half of the new is learned
        assert trace[-1][1] > 0.85
    assert max(kept["tuned"]) < 0.03
    assert 0.15 < min(kept["gentle"]) < max(kept["gentle"]) < 0.25

# %% [markdown]
# *Figure: the new task (solid) and the old ones (dashed), a line for each seed. The old tasks fall first, at both
# rates; only then the new one is learned.*
#
# Questions 2 and 3: nearly none at the tuned rate, about one in five at the gentle one. This is **forgetting**.

# %% [markdown]
# ## What does it do now when it is told?
#
# We tell it other things and look twice: does it do what it is told, or `reverse+blue` all the same?


# %%
def told(model, name):
    asked = task(name, instructed=True)
    tokens = asked.batch(100, torch.Generator().manual_seed(1)).tokens
    x, a = tokens[:, 3:9], encode(": a")[1]  # two words and the colon, then six letters
    written = model.generate(tokens[:, :10], 6)
    return [(written == goal.answer(x - a) + a).all(1).float().mean().item() for goal in (asked, new)]


pairs = ("sort+red", "left+plus5", "copy+next")
for name, found in {"the base": [(base(), None)], **runs}.items():
    shares = [np.mean([told(model, pair) for pair in pairs], axis=0).round(2) for model, _ in found]
    print(f"{name:9} does as told:", *(a for a, _ in shares), "  does reverse+blue:", *(b for _, b in shares))
    assert FAST or name != "tuned" or min(b for _, b in shares) > 0.9

# %% [markdown]
# At the tuned rate it does `reverse+blue` whatever it is told: no line it was trained on had an instruction to listen
# to. At the gentle rate it mostly does neither.
#
# ## The way back
#
# We store the delta. `detach` returns the base: not "about as good", but the same bits. `load` returns a view that does
# the new task.

# %%
folder = Path(tempfile.mkdtemp())
for seed, (model, _) in enumerate(runs["tuned"]):
    size = save(model, folder / f"{seed}.safetensors")
    below = detach(model)
    assert deltas.fingerprint(below) == deltas.fingerprint(base())  # SHA-256 of all weights
    assert all(torch.equal(p, q) for p, q in zip(below.parameters(), base().parameters(), strict=True))
    off = evaluate(below, old, LINES).accuracy
    on = evaluate(load(folder / f"{seed}.safetensors", below), new, LINES).accuracy
    print(f"seed {seed}: detached, old tasks {off:.3f}; loaded again, new task {on:.2f}; the file: {size:,} bytes")
    assert off == before[0]
    assert on == learned["tuned"][seed]

# %% [markdown]
# That is the promise of all methods in this course: a delta that comes **off**. Not that it forgets less while it is
# on.
#
# Let us check that: train only the weights and biases of q and v, 100 steps at a learning rate of 0.01.

# %%
part = [watched(1e-2, SHORT * 5 // 3, seed, method=Full(targets=("q", "v")))[0] for seed in SEEDS]
print(summary(part[0]))
for model in part:
    attached = evaluate(model, new, LINES).accuracy, evaluate(model, old, LINES).accuracy
    off = evaluate(detach(model), old, LINES).accuracy
    print(f"q and v: new task {attached[0]:.2f}, old tasks attached {attached[1]:.3f}, detached {off:.3f}")
    assert off == before[0]
    assert FAST or attached[1] < 0.1

# %% [markdown]
# An attached delta forgets, too, though 85 % of the model never moved. The README's table says the same of every
# method to come.
#
# ## What moved
#
# *Figure: after full fine-tuning, the whole model as a strip, a block for each weight and bias, coloured by its
# relative change. Nothing is grey.*

# %%
model = runs["gentle"][0][0]
plots.what_moved(model, deltas.updates(model))
plt.show()
change = {name: (ΔW.norm() / W.norm()).item() for name, (W, ΔW) in deltas.updates(model).items()}
print(f"{len(change)} tensors; the gentle rate moved the head by {change['head.weight']:.1%} of its length")
assert len(change) == len(list(base().parameters()))
assert min(change.values()) > 0

# %% [markdown]
# ## Memory, predicted
#
# Weights 4 bytes each, gradients 4, Adam 8. And **activations**: what the forward pass keeps for the backward pass.
# For one token in one block, in units of the width d: in and out of two norms 4, q k v 3, mixed values 1, the wide MLP
# before and after its bend 8. Together **16 d**.


# %%
def predict(V, d, L, context, lines, T, head=0):
    """Bytes of a training step: V tokens, width d, L blocks; `lines` lines of T tokens; head: its own weights."""
    N = V * d + context * d + L * (12 * d * d + 13 * d) + 2 * d + head  # tokens, positions, blocks, last norm
    return costs.Memory(4 * N, 4 * N, 8 * N, activations=4 * lines * T * (L * 16 * d + 2 * d + V))


ours = predict(V=60, d=64, L=2, context=24, lines=32, T=batch.tokens.shape[1], head=60 * 64 + 60)
real = costs.measure(Full().attach(base()), batch)  # weighs every tensor of one real step
for name in ("weights", "gradients", "optimizer", "activations"):
    guess, found = getattr(ours, name), getattr(real, name)
    print(f"{name:12} predicted {guess / 1e3:8,.1f} KB   measured {found / 1e3:8,.1f} KB   ratio {found / guess:.3f}")
    assert found == guess or (name == "activations" and 1 <= found / guess < 1.03)

# %% [markdown]
# Activations come out 1 % higher: the norms also keep their means, the attention a number for each head.
#
# The prediction holds, so we trust it where we cannot measure: for GPT-2, and for nearly 7 billion weights (32 blocks
# of width 4,096).

# %%
bills = {"ours, 32 lines of 14": real, "GPT-2, 8 lines of 1,024": predict(50257, 768, 12, 1024, 8, 1024)}
seven = predict(50257, 4096, 32, 2048, 1, 2048)
few = costs.Memory(seven.weights, seven.gradients // 100, seven.optimizer // 100, seven.activations)
bills |= {"7 billion, 1 line of 2,048": seven, "the same, 1 % trained": few}
plots.memory(bills)
plt.show()
for name, bill in bills.items():
    print(f"{name:27} weights {bill.weights / 1e9:9.4f} GB, a training step {bill.total / 1e9:9.4f} GB")
assert bills["GPT-2, 8 lines of 1,024"].weights == 4 * 124_439_808  # what GPT-2 is known to have
assert few.total < 80e9 < seven.total  # a large GPU has 80 GB

# %% [markdown]
# *Figure: shares of the bill. Gradients and Adam are three times the weights; with 1 % trained they all but vanish.
# Activations stay, more or less.*
#
# (All in 32 bits; 16-bit formats shrink the bill.)
#
# ## One copy per task
#
# The file above was as large as the base. And for a hundred tasks?

# %%
ratio = size / real.weights
print(f"our delta: {size:,} bytes; the base: {real.weights:,}; ratio {ratio:.3f}")
for name, bill in list(bills.items())[1:3]:
    one = bill.weights / 1e9
    print(f"{name.split(',')[0]:10} a task: {one:6.1f} GB   a hundred: {100 * one:8,.0f} GB")
assert 1 < ratio < 1.02

# %% [markdown]
# ## If you still have the old lines
#
# Then there is another cure for forgetting: **rehearsal**. Half of the batches are old lines (100 steps, learning rate
# 0.003).


# %%
class Both:
    def batch(self, size, generator):
        return (new if torch.rand(1, generator=generator) < 0.5 else old).batch(size, generator)


for seed in SEEDS:
    model, _ = watched(3e-3, SHORT * 5 // 3, seed, goal=Both())
    both = evaluate(model, new, LINES).accuracy, evaluate(model, old, LINES).accuracy
    print(f"seed {seed}: new task {both[0]:.2f}, old tasks {both[1]:.2f}")
    assert FAST or (both[0] > 0.9 and 0.5 < both[1] < before[0] - 0.05)

# %% [markdown]
# Most is kept, but not all; and it takes the old lines, which for a downloaded model are seldom at hand.
#
# ## Break it
#
# **Shared memory**: one of the mistakes that `check` knows; the copies are no copies. Five steps are enough. **Too
# hot**: ten times the tuned learning rate, 60 steps.

# %%
wrong = with_mistake("full", "memory is shared")
model = wrong.Full().attach(base())
fit(model, new, steps=5, lr=1e-2, device="cpu", progress=False)
below = detach(model)
print("shared memory: the base after detaching:", f"{evaluate(below, old, LINES).accuracy:.2f} of the old lines")
assert deltas.fingerprint(below) != deltas.fingerprint(base())
for seed in SEEDS:
    score = evaluate(watched(10 * learning_rate_of(Full()), SHORT, seed)[0], new, LINES // 2)
    print(f"too hot, seed {seed}: loss {score.loss:.2f}, new task {score.accuracy:.2f}")
    assert score.accuracy < 0.1

# %% [markdown]
# ## Your turn
#
# 1. Plain gradient descent instead of Adam: how many bytes a weight?
# 2. How many numbers does `Full(targets=("mlp",))` train? Count, then check with `summary`.
# 3. This is `copied` with shared memory. Mend it. *Figure: what the checker expects of the original, which should stay
#    zero; what it finds; the difference.*


# %%
def copied(weight):
    return torch.nn.Parameter(weight.detach())  # your turn: a trainable parameter with memory of its own


check("full", copied)
plt.show()

# %% [markdown]
# The whole file: `python -m minipeft start full`.
#
# 4. Hard: let only one batch in ten be old. How much is kept? Predict, then change `Both`.
#
# <details><summary>Answers</summary>
#
# 1: 8. 2: 66,176. 3: `weight.detach().clone()`. 4: 0.06, 0.00 and 0.00 of the old lines, for seeds 0 to 2.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - Training all weights takes 16 bytes each, and activations; every task is a copy.
# - The old tasks are forgotten, a little less at a gentle rate.
# - A delta that comes off gives everything back. Can it be small?
#
# Papers: Adam, Kingma and Ba 2014, arXiv:1412.6980; forgetting, Kirkpatrick et al. 2016, arXiv:1612.00796.

# %% [markdown]
# ## The same in transformers
#
# ```python
# import torch
# from transformers import GPT2Config, GPT2LMHeadModel
#
# model = GPT2LMHeadModel(GPT2Config())  # .from_pretrained("gpt2") for the real weights
# assert sum(p.numel() for p in model.parameters()) == 124_439_808
# assert all(p.requires_grad for p in model.parameters())  # all is trained unless you freeze it
# optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)  # far smaller rates than our toy wants
# ...  # train as usual; it happens in place: save the old weights first
# ```
