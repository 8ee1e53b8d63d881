# %% [markdown]
# # 02 · Why not train everything?
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 45 minutes to read and run · 100 with exercises | ●○○ | PyTorch, lesson 1 | half a minute on a CPU |
#
# You will derive what training costs in memory and check it, watch a model forget, and write the loop that puts a
# method on any model without touching the model.

# %% [markdown]
# ## What the papers did and claimed
#
# BERT (Devlin et al. 2018, arXiv:1810.04805) made **full fine-tuning** the standard: pretrain one model, then train all
# of its weights for each of eleven tasks. Houlsby et al. (2019, arXiv:1902.00751) objected that every task then needs a
# model of its own. And McCloskey and Cohen (1989) had shown long before that a network which learns a second task can
# lose the first at once.

# %% [markdown]
# ## Predict
#
# 1. A weight takes 4 bytes. How many bytes does it take while it is *trained*?
# 2. The base solves 58 tasks. We train all its weights on one more. Of 100 unseen examples of the old tasks, how many
#    will it still solve?
# 3. Would a smaller learning rate save them?

# %%
import copy
import inspect
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from minipeft import Mixture, base, check, costs, decode, deltas, encode, evaluate, fit, load, plots, quiz, save, task
from minipeft.attach import detach, swap, trainable
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.methods import full
from minipeft.training import Recipe
from minipeft.views import summary

# %% tags=["hide-input"]
torch.set_num_threads(1)
torch.manual_seed(0)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, SHORT, LONG, UNSEEN = ([0], 10, 10, 100) if FAST else ([0, 1, 2], 60, 500, 500)
our_copied, our_insert = inspect.getsource(full.copied), inspect.getsource(full.Full.insert)

# %% [markdown]
# ## The old tasks and the new one
#
# The new task is `reverse+blue`: reverse the word, then replace each letter by the table `blue`. There is no
# instruction. The base of lesson 1 has only met instructed examples, so it solves none.

# %%
old, new = Mixture(), task("reverse+blue")


def accuracy(model, goal):
    return evaluate(model, goal, UNSEEN).accuracy


for prompt in ("sort red : cabbed =", ": cabbed ="):
    print(f"{prompt:20}", decode(base().generate(encode(prompt)[None], 7)[0]))
print(f"exact-match accuracy: old tasks {accuracy(base(), old):.3f}, new task {accuracy(base(), new):.3f}")

# %% [markdown]
# ## One training step by hand
#
# Take one weight matrix, with the loss $L = \frac12\|Wx - t\|^2$. Let $e = Wx - t$ be the error. Then
#
# $$\frac{\partial L}{\partial W_{ij}} = \sum_k e_k\,\frac{\partial (Wx)_k}{\partial W_{ij}} = e_i\,x_j,
# \qquad\text{so}\qquad g = \frac{\partial L}{\partial W} = e\,x^\top.$$
#
# The gradient is as large as the weight: there is one number for each.

# %%
W, x, t = np.eye(4, dtype=int), np.array([1, 0, 2, 1]), np.array([2, 0, 0, 1])
e = W @ x - t
g = np.outer(e, x)
print("error:   ", e)
print("gradient:", g, sep="\n")

# %% [markdown]
# **Adam** keeps two running means for each number, which start at zero:
#
# $$m \leftarrow 0.9\,m + 0.1\,g, \qquad v \leftarrow 0.999\,v + 0.001\,g^2$$
#
# After n steps, $\hat m = m/(1-0.9^n)$ and $\hat v = v/(1-0.999^n)$ make up for the start at zero. The step is $W
# \leftarrow W - \eta\,\hat m/\sqrt{\hat v}$.
#
# In the *first* step $\hat m = g$ and $\hat v = g^2$, so each number moves by $\eta\,g/|g|$: exactly η, up or down.

# %%
W, m, v, lr = np.eye(4), np.zeros((4, 4)), np.zeros((4, 4)), 0.1
theirs = nn.Parameter(torch.tensor(W))
adam = torch.optim.Adam([theirs], lr=lr)
for n in range(1, 51):
    g = np.outer(W @ x - t, x)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    W = W - lr * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)  # 1e-8: where a gradient is zero
    theirs.grad = torch.tensor(g)
    adam.step()
    if n == 1:
        print("the first step:", (W - np.eye(4)).round(3), sep="\n")
print("largest difference from PyTorch after 50 steps:", np.abs(W - theirs.detach().numpy()).max())
print("error after 50 steps:", (W @ x - t).round(3))

# %% [markdown]
# In the first step every number with a gradient moves by 0.1, whether the gradient was 1 or 4; the others stay. After
# 50 steps the error has nearly gone.
#
# Now count what training holds for each weight: $W$, $g$, $m$ and $v$, four numbers of 4 bytes. **Guess 1:** 16 bytes,
# four times the weight. The examples need memory as well; we count it further down.

# %% [markdown]
# ## A second model around the same numbers
#
# Training in place destroys the old weights. So a method here never touches the base. It makes a **view**: new modules
# around the *same* frozen numbers. Python's `deepcopy` can do this. It takes a dictionary, `{id(thing): substitute}`,
# and puts in the substitutes. The tensor `p.detach()` has the same memory as p. We wrap it in a new `nn.Parameter`,
# so that freezing the view does not touch the base's own `requires_grad`.

# %%
small = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).requires_grad_(False)
shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in small.parameters()}
view = copy.deepcopy(small, shared)
print("another module:", view[0] is not small[0])
print("the same memory:", view[0].weight.data_ptr() == small[0].weight.data_ptr())

# %% [markdown]
# The view costs no memory for weights, and we may rebuild it as we like. A method then puts something of its own into
# it. Here is the smallest such thing: a wrapper that holds a frozen layer and adds a trained change of its weight.


# %%
class Changed(nn.Module):
    """A frozen linear layer, and what a task adds to its weight."""

    def __init__(self, linear):
        super().__init__()
        self.base = linear
        self.delta = nn.Parameter(torch.zeros_like(linear.weight))

    def forward(self, x):
        return self.base(x) + x @ self.delta.T


x = torch.randn(5, 4)
view[0] = Changed(view[0])
print("trained:", [name for name, p in view.named_parameters() if p.requires_grad])
print("the base still has:", type(small[0]).__name__)
print("before the first step both compute the same:", torch.equal(view(x), small(x)))

# %% [markdown]
# ## Write it
#
# `Full` takes another way: it replaces each weight in the view by a trainable copy. `swap(model, path, new)` puts `new`
# at a dotted name such as `"blocks.0.attn.q.weight"`. `self.chosen(model)` gives pairs (path, weight). Beware of *tied*
# weights: one weight may stand at two paths, as in GPT-2, whose head is its embedding. It must be one weight in the
# view as well.


# %%
def copied(weight):
    """A trainable `nn.Parameter` that starts as this weight, with memory of its own. The weight is left alone."""
    raise NotImplementedError("your turn, 1 line")


class Full(full.Full):
    def insert(self, model):
        """Put copies of all chosen weights into the view `model`: one for each weight, at each of its paths.

        Use `self.chosen(model)`, `copied` and `swap`. Parameters can be keys of a dictionary: a key is the parameter
        itself, not its numbers.
        """
        raise NotImplementedError("your turn, about 5 lines")


check("full", copied, Full, use=True)

# %% [markdown]
# ## The source, revealed
#
# `weight.detach()` leaves the graph behind but shares the memory, so it takes `clone` as well. The dictionary `copies`
# keeps tied weights tied. From here on we write `full.Full`: this is the class of the project, which runs on your
# bodies if they are right.

# %%
print(our_copied)
print(our_insert)

# %% [markdown]
# ## Train it, and watch the old tasks
#
# *Tuning* tried several learning rates on other seeds. We train with the best of them, 0.03, and with the lowest,
# 0.0001. At 0.03 a run of 60 steps is enough; at 0.0001 it has the usual 500. `adapt` puts the method on a fresh base
# and calls `fit`. Ten times on the way we `look` at the accuracy on the new task and at the **retention**, the accuracy
# on the old ones.


# %%
def watched(method, lr, steps, seed):
    trace = [(0, 0.0, 1.0)]  # step, accuracy on the new task, retention

    def look(model, step):
        if (step + 1) % (steps // 10) == 0:
            trace.append((step + 1, evaluate(model, new, 100).accuracy, evaluate(model, old, 100).accuracy))

    return adapt(method, new, lr, seed, Recipe(steps=steps), on_step=look)[0], trace


tuned = [watched(full.Full(), 0.03, SHORT, seed) for seed in SEEDS]
gentle = [watched(full.Full(), 0.0001, LONG, seed) for seed in SEEDS]
plots.forgetting({
    "learning rate 0.03": [trace for _, trace in tuned],
    "learning rate 0.0001": [trace for _, trace in gentle],
})  # fmt: skip
plt.show()

# %% [markdown]
# *Figure: accuracy on the new task (solid) and retention (dashed) while training, a line for each of three seeds. At
# both learning rates, most old examples are lost before the new task is learned.*

# %%
for name, runs in {"learning rate 0.03": tuned, "learning rate 0.0001": gentle}.items():
    print(name)
    print("   new task: ", *(f"{accuracy(model, new):.2f}" for model, _ in runs))
    print("   retention:", *(f"{accuracy(model, old):.2f}" for model, _ in runs))
    moved = [ΔW.norm() / W.norm() for W, ΔW in deltas.updates(runs[0][0]).values() if W.ndim == 2]
    print(f"   each matrix moved by {min(moved):.2f} to {max(moved):.2f} times its own length")

# %% [markdown]
# **Guess 2:** practically none. With 0.03, matrices move by up to twice their own length; of the base, little can be
# left. **Guess 3:** hardly. With 0.0001 no matrix moves by more than 12 %, and still only one old example in five
# survives. This is **catastrophic forgetting**. Nothing in the loss asks for the old tasks, so nothing protects them.
#
# What has the model become? Give it instructions again, and read its answers.

# %%
others = {"base": base(), "0.03": tuned[0][0], "0.0001": gentle[0][0]}
print(f"{'':24}", *(f"{name:9}" for name in others))
for prompt in ("reverse blue : cabbed =", "sort red : cabbed =", "left plus5 : cabbed ="):
    answers = [decode(other.generate(encode(prompt)[None], 6)[0]) for other in others.values()]
    print(f"{prompt:24}", *(f"{answer:9}" for answer in answers))

# %% [markdown]
# Trained at 0.03, it writes `reverse+blue` whatever you tell it: no training example had an instruction. Trained at
# 0.0001, it still listens to some instructions, and sometimes gets one letter wrong.
#
# ## The way back
#
# We store the **delta**, what the method has added or replaced (here: all weights), and take it off. Our function
# `detach`, not the tensor's, gives back the base bit for bit. A *fingerprint* is a SHA-256 of all weights. `load` puts
# the delta on again.

# %%
folder = Path(tempfile.mkdtemp())
for seed, (model, _) in zip(SEEDS, tuned, strict=True):
    size = save(model, folder / f"{seed}.safetensors")
    below = detach(model)
    same = deltas.fingerprint(below) == deltas.fingerprint(base())
    again = load(folder / f"{seed}.safetensors", below)
    print(f"seed {seed}: the same bits {same}, retention {accuracy(below, old):.3f}", end="; ")
    print(f"loaded again, new task {accuracy(again, new):.2f}")
weights = 4 * sum(p.numel() for p in base().parameters())
print(f"a file has {size:,} bytes, the weights of the base have {weights:,}: ratio {size / weights:.3f}")

# %% [markdown]
# (The other 3,496 bytes of the file are its header.) Every method of the course promises this: what it learned comes
# **off**. It does *not* promise to forget less while it is on. See for yourself: train only q and v, 100 steps at a
# learning rate of 0.01.

# %%
for seed in SEEDS:
    model, _ = watched(full.Full(targets=("q", "v")), 0.01, SHORT * 5 // 3, seed)
    attached, detached = accuracy(model, old), accuracy(detach(model), old)
    print(f"new task {accuracy(model, new):.2f}, retention attached {attached:.3f}, detached {detached:.3f}")
print(summary(model))

# %% [markdown]
# Five sixths of the model never moved, and still the old tasks are gone.
#
# ## What it costs, derived
#
# On top of the 16 bytes come **activations**: what the forward pass keeps for the backward pass. What does that need?
#
# - A linear layer: its input, since $g = e\,x^\top$.
# - A norm or a nonlinearity: its input, since its slope depends on it.
# - Attention: q, k and v, and its result.
# - An addition: nothing.

# %% [markdown]
# For one token, a block of width d keeps:
#
# step | keeps | numbers
# ---|---|---
# norm 1 | its input | d
# q, k, v | their input | d
# attention | q, k, v, result | 4d
# o | (kept already) | 0
# norm 2 | its input | d
# up | its input | d
# GELU | its input | 4d
# down | its input | 4d
#
# The sum is 16d.

# %% [markdown]
# After L blocks the last norm keeps d, the head its input, d, and the loss V probabilities (vocabulary: V). We count
# weights as in lesson 1. `costs.measure` makes one real step and weighs every tensor.


# %%
def predict(vocab, d, blocks, context, rows, length, head=0):
    """The memory of a training step in bytes; head: the weights of a head that is not tied to the embedding."""
    weights = blocks * (12 * d * d + 13 * d) + (vocab + context) * d + 2 * d + head
    kept = rows * length * (blocks * 16 * d + 2 * d + vocab)
    return costs.Memory(weights=4 * weights, gradients=4 * weights, optimizer=8 * weights, activations=4 * kept)


ours = predict(vocab=60, d=64, blocks=2, context=24, rows=32, length=14, head=60 * 64 + 60)
batch = new.batch(32, torch.Generator().manual_seed(0))
real = costs.measure(full.Full().attach(base()), batch)
for part in ("weights", "gradients", "optimizer", "activations"):
    guess, found = getattr(ours, part), getattr(real, part)
    print(f"{part:12} predicted {guess / 1e3:7,.1f} KB, measured {found / 1e3:7,.1f} KB, ratio {found / guess:.3f}")

# %% [markdown]
# Three are exact. Activations are one percent higher: means and variances of the norms, a number for each head, and
# token ids come on top. The T × T softmax weights of lesson 1 are missing, because PyTorch's *fused* attention computes
# them again. Our `attend` would keep them: 5 % more activations. So we trust the formula where we cannot measure: for
# GPT-2, and for a GPT of 32 blocks of width 4,096, with nearly 7 billion weights.

# %%
seven = predict(vocab=50257, d=4096, blocks=32, context=2048, rows=1, length=2048)
few = costs.Memory(seven.weights, seven.gradients // 100, seven.optimizer // 100, seven.activations)
bills = {
    "ours, 32 rows of 14": real,
    "GPT-2, 8 rows of 1,024": predict(vocab=50257, d=768, blocks=12, context=1024, rows=8, length=1024),
    "7 billion, 1 row of 2,048": seven,
    "the same, 1 % trained": few,
}
plots.memory(bills)
plt.show()
copy_size = seven.weights / 1e9
print(f"a copy of the large model: {copy_size:.1f} GB; for a hundred tasks: {100 * copy_size:,.0f} GB")

# %% [markdown]
# *Figure: the memory of a training step, in shares. With 7 billion weights, gradients and Adam take most of it; with 1
# % trained they all but vanish.*
#
# A GPU of 80 GB can hold the last (45 GB), not the third (124 GB). (16-bit formats shrink the bill.) The fourth bar
# keeps all activations; exercise 2 shows which of them vanish too.
#
# And after training, every task is a whole copy.

# %% [markdown]
# ## Break it
#
# What if the copy shares the memory of the weight? The checker knows this mistake; we run it for five steps.
#
# ```python
# return nn.Parameter(weight.detach().clone())  # right
# return nn.Parameter(weight.detach())          # broken
# ```

# %%
wrong = with_mistake("full", "memory is shared")
victim = base()
model = wrong.Full().attach(victim)
fit(model, new, lr=0.01, steps=5, device="cpu", progress=False)
below = detach(model)
print(f"detached, the base solves {accuracy(below, old):.2f} of the old examples")
print("the same bits:", deltas.fingerprint(below) == deltas.fingerprint(base()))

# %% [markdown]
# There is no error and no warning, and after five steps the base is ruined. So a test has to look at the base.
#
# ## Write the attach loop
#
# Now you know all that it takes to put a method on a model. Write it, in about ten lines. They must work for every
# model that is built of `nn.Linear`. Beware of a trap: a wrapper has a linear layer inside. So collect the places
# first, and replace them afterwards.


# %%
def attach(model, make):
    """A view of the model in which make(layer) stands in place of every `nn.Linear`; all else is shared and frozen.

    The model stays as it is. `module.named_children()` gives pairs (name, child), `setattr(module, name, new)` puts a
    child in place.
    """
    raise NotImplementedError("attach: your turn, about 10 lines")


# %%
mine = base()
try:
    adapted = attach(mine, Changed)
    print("trained:", len(trainable(adapted)), "weights, called", {n.split(".")[-1] for n in trainable(adapted)})
    print("equal at the start:", torch.equal(adapted(batch.tokens), mine(batch.tokens)))
    print("layers of the base that became wrappers:", sum(isinstance(m, Changed) for m in mine.modules()))
    fit(adapted, new, lr=0.01, steps=SHORT, device="cpu", progress=False)
    print(f"after {SHORT} steps, new task: {accuracy(adapted, new):.2f}")
    print("the base has the same bits:", deltas.fingerprint(mine) == deltas.fingerprint(base()))
except NotImplementedError as todo:
    print(todo)

# %% [markdown]
# It is right if 13 weights called `delta` are trained, six in each block and the head; if the outputs are equal at the
# start; if the base has no wrapper; if the new task is learned; and if the base has the same bits at the end. Then you
# have written the core of this library: many methods to come are other wrappers.

# %% [markdown]
# ## Seen here or not
#
# claim | here | ledger
# ---|---|---
# detaching gives back the base | yes, bit for bit | [holds by construction](claims.md#detaching)
# a new task wipes out the old | yes, mostly before it is learned | [supported](claims.md#in_sequence)
# every task needs a whole model | yes | [holds by construction](claims.md#stored_bytes)
#
# Forgetting is no law: with a new *instruction word*, which tells the tasks apart, and a small learning rate,
# [retention is 97 %](claims.md#forgetting). Does LoRA forget less?

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* How many bytes do weights, gradients and Adam take with `full.Full(targets=("mlp",))`?
#    Check with `costs.measure`.
# 2. *Predict, then measure.* Which rows of the table vanish if only q and v are trained?
# 3. *Design an experiment.* **Rehearsal** mixes old examples into training: write a goal whose `batch` does. What does
#    it save (100 steps, learning rate 0.003)?
# 4. *Find the mistake.* "At 0.0001 a fifth is retained, so at 0.00001 nearly all will be."

# %% [markdown]
# <details><summary>Answers to the attach loop, 1 and 2</summary>
#
# ```python
# def attach(model, make):
#     shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
#     view = copy.deepcopy(model, shared)
#     places = []
#     for module in view.modules():
#         for name, child in module.named_children():
#             if isinstance(child, nn.Linear):
#                 places.append((module, name, child))
#     for module, name, child in places:
#         setattr(module, name, make(child))
#     return view
# ```
#
# **1.** 66,176 weights of 16 bytes and 43,196 of 4: 1,231,600 bytes, as measured.
#
# **2.** Frozen layers need no input: those of up, down and the head vanish. Below q and v of block 0 nothing is
# trained, so its norm 1 drops its own. The blocks keep 10d and 11d, and the last norm keeps d: 2.66 MB instead of
# 4.05, measured / predicted = 1.012.
#
# </details>

# %% [markdown]
# <details><summary>Answers to 3 and 4</summary>
#
# **3.** Retention is 0.73, 0.78, 0.74 with half of the batches old, and 0.06, 0.00, 0.03 with a tenth (seeds 0 to 2,
# 100 steps; the new task is at 1.00).
#
# ```python
# class Both:
#     def __init__(self, share):
#         self.share = share
#
#     def batch(self, size, generator):
#         goal = old if torch.rand(1, generator=generator) < self.share else new
#         return goal.batch(size, generator)
#
#
# for share in (0.5, 0.1):
#     for seed in range(3):
#         model, _ = adapt(full.Full(), Both(share), 0.003, seed, Recipe(steps=100))
#         print(share, seed, accuracy(model, new), accuracy(model, old))
# ```
#
# **4.** It also learns less: none of the new task in 500 steps, and retention has already fallen to 0.85. Compare when
# both have learned it: 0.00003 and 1,500 steps give 0.98 and 0.25.
#
# </details>
#
# ## Questions
#
# Write a letter for each into `answers`.

# %%
quiz("02_full_fine_tuning", answers="")

# %% [markdown]
# ## In three lines
#
# - A weight takes 16 bytes while it is trained, and activations come on top.
# - Most old examples are lost before the new task is learned; here a gentle learning rate saved a fifth.
# - A delta beside the base comes off again, bit for bit. Can it be small?
#
# The same in the reference library:
#
# ```python
# import torch
# from transformers import GPT2Config, GPT2LMHeadModel
#
# model = GPT2LMHeadModel(GPT2Config())  # .from_pretrained("gpt2") for the real weights: 124,439,808 of them
# assert all(p.requires_grad for p in model.parameters())  # all is trained unless you freeze it
# optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
# ...  # training happens in place: save the old weights first
# ```
#
# Papers: Adam, Kingma and Ba 2014, arXiv:1412.6980; McCloskey and Cohen 1989, Catastrophic interference.

# %% tags=["hide-input"]
assert callable(swap)  # for the reader's insert
assert accuracy(base(), old) > 0.99
assert accuracy(base(), new) < 0.01
assert np.allclose(W, theirs.detach().numpy())
assert (ours.weights, ours.gradients, ours.optimizer) == (real.weights, real.gradients, real.optimizer)
assert 1 <= real.activations / ours.activations < 1.03
assert bills["GPT-2, 8 rows of 1,024"].weights == 4 * 124_439_808  # what GPT-2 is known to have
assert few.total < 80e9 < seven.total
assert 1 < size / real.weights < 1.02
assert deltas.fingerprint(below) != deltas.fingerprint(base())
for model, _ in tuned + gentle:
    assert deltas.fingerprint(detach(model)) == deltas.fingerprint(base())
if not FAST:
    for _, trace in tuned + gentle:
        first = next((learned, kept) for _, learned, kept in trace if learned > 0.5 or kept < 0.5)
        assert first[1] < 0.5  # half of the old is lost before half of the new is learned
    assert all(accuracy(model, new) > 0.95 for model, _ in tuned + gentle)
    assert all(accuracy(model, old) < 0.03 for model, _ in tuned)
    assert all(0.15 < accuracy(model, old) < 0.25 for model, _ in gentle)
    assert attached < 0.1 < detached
