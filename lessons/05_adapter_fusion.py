# %% [markdown]
# # 05 · AdapterFusion: adapters that work together
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 35 minutes to read and run · 75 with exercises | ●●○ | lessons 1 and 4 (attention, adapters) | a minute on a CPU |
#
# After this lesson you can combine adapters of different tasks without changing them. You will write the attention that
# mixes them, and find out whom it listens to and whom it needs.

# %% [markdown]
# ## What the paper did and claimed
#
# Pfeiffer et al. (2021, arXiv:2005.00247) trained adapters for 16 language-understanding tasks, one for each, inside
# frozen BERT and RoBERTa models. For a target task they then trained an attention over all of these adapters, which
# include the target's own. They report that this does better than full fine-tuning and multi-task learning, most of all
# on tasks with few examples.

# %% [markdown]
# ## Predict
#
# Three adapters are finished and stay frozen. The first can shift letters, the second knows a new table of letters, the
# third can reverse a word. A new task needs the first two skills and has 16 examples.
#
# 1. Is it enough to take the mean of the three adapters' answers?
# 2. Which solves most unseen examples: a learned mixture, a fresh adapter, or one of the three, trained further?
# 3. Will the mixture ignore the third adapter?

# %%
import copy
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from minipeft import AdapterFusion, Pfeiffer, base, check, deltas, evaluate, fit, load, plots, quiz, task
from minipeft.attach import detach, trainable
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.lab.counting import multiplications
from minipeft.methods import adapter_fusion
from minipeft.methods.adapter_fusion import fusions
from minipeft.tasks import Few, examples
from minipeft.training import RECIPE, Recipe

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, UNSEEN = ([0], 60) if FAST else ([0, 1, 2, 3, 4], 300)
long, short = (Recipe(steps=40), Recipe(steps=8)) if FAST else (RECIPE, Recipe(steps=100))
our_forward = inspect.getsource(adapter_fusion.Fusion.forward)

# %% [markdown]
# ## The tasks
#
# A task of our toy world (lesson 1) is an operation on six letters, then a table that replaces letters. `left` moves
# each letter one place to the left. `copy` and `plain` change nothing, so `left+plain` shows the operation alone, and
# `copy+violet` the table alone. The goal needs both. The base has never seen `violet`, and there is no instruction: the
# model has to find out from the examples what is wanted.

# %%
SOURCES = ("left+plain", "copy+violet", "reverse+plain")
goal = task("left+violet")
for name in (*SOURCES, "left+violet"):
    words, answers = examples(task(name), 1)
    score = evaluate(base(), task(name), UNSEEN).accuracy
    print(f"{name:14} {words[0]} {answers[0]}    the base solves {score:.2f} of unseen examples")

# %% [markdown]
# ## Phase 1: train the adapters, one by one
#
# Each source task gets a Pfeiffer adapter (lesson 4), trained alone on a frozen base in the usual way: 500 steps of 32
# examples, with one seed. `adapt` attaches a method to a fresh base and trains it. From each model we take only what
# was trained, its **adapter checkpoint**, and put it on a shelf.

# %%
shelf = {}
for name in SOURCES:
    model, _ = adapt(Pfeiffer(size=16), task(name), lr=3e-2, seed=0, recipe=long)
    shelf[name] = deltas.delta_of(model)
    own, other = evaluate(model, task(name), UNSEEN).accuracy, evaluate(model, goal, UNSEEN).accuracy
    print(f"adapter of {name:14} accuracy on its own task {own:.2f}, on {goal} {other:.2f}")

# %% [markdown]
# Each adapter solves its own task, but none solves the goal: the skills are there, in pieces.
#
# ## The idea on a 4 × 4, by hand
#
# In lesson 1, a token attends to *tokens*. Here, it attends to *adapters*. The query comes from $h$, the token's vector
# in the residual stream, keys and values from $z_t$, the answer of adapter $t$:
#
# $$s_t = (W_q h)\cdot(W_k z_t) \qquad \alpha = \mathrm{softmax}(s) \qquad o = \sum_t \alpha_t\, W_v z_t$$

# %%
z = 2 * np.eye(3, 4)  # three adapters, d = 4: adapter t answers with a 2 in place t
I = np.eye(4)


def fuse(h, W_q, W_k, W_v):
    s = (z @ W_k.T) @ (W_q @ h)  # (3,), a score for each adapter
    α = np.exp(s) / np.exp(s).sum()
    return α, α @ (z @ W_v.T)  # (3,), (4,)


h = np.array([3.0, 3, 0, 0])
for name, W_q, W_v in (("W_q = 0", 0 * I, I), ("W_q = I", I, I), ("W_q = I, W_v = 2I", I, 2 * I)):
    α, o = fuse(h, W_q, I, W_v)
    print(f"{name:18} α = {α.round(2)}   o = {o.round(2)}")

# %% [markdown]
# Suppose the goal needs $z_1 + z_2 = (2, 2, 0, 0)$.
#
# - With $W_q = 0$ all scores are equal, and $o$ is the mean of the three answers.
# - With $W_q = I$ the token asks for the first two and gets them, but a softmax *shares*: its weights sum to one, so
#   each answer arrives at half strength.
# - $W_v$ has no such limit. With $W_v = 2I$, both answers arrive in full.

# %% [markdown]
# ## How does it learn whom to listen to?
#
# Let $v_t = W_v z_t$ be the values and $g = \partial L/\partial o$. From $o = \sum_j \alpha_j v_j$ follows
# $\partial L/\partial\alpha_j = g\cdot v_j$. A softmax has $\partial\alpha_j/\partial s_t = \alpha_j(1-\alpha_t)$ if
# $j = t$, else $-\alpha_j\alpha_t$. So
#
# $$\frac{\partial L}{\partial s_t} = \alpha_t\, g\cdot v_t - \alpha_t \sum_j \alpha_j\, g\cdot v_j.$$
#
# The sum is $g\cdot o$, and therefore
#
# $$\frac{\partial L}{\partial s_t} = \alpha_t\, g\cdot (v_t - o).$$

# %% [markdown]
# Training moves $o$ along $-g$. So an adapter's score rises exactly if its value lies further in that direction than
# the present mixture does. We check this with equal scores, where each $\alpha_t$ is ⅓ and $o = (⅔, ⅔, ⅔, 0)$. For $L =
# \lVert o - (2, 2, 0, 0)\rVert^2/2$, $g$ is $o - (2, 2, 0, 0)$.

# %%
s = torch.zeros(3, dtype=torch.double, requires_grad=True)
wanted = torch.tensor([2.0, 2, 0, 0])
o = s.softmax(0) @ torch.tensor(z)
((o - wanted) ** 2).sum().div(2).backward()

o = o.detach().numpy()
g = o - wanted.numpy()
by_hand = 1 / 3 * (z - o) @ g
print("by hand    ", by_hand.round(3))
print("by autograd", s.grad.numpy().round(3))

# %% [markdown]
# The gradients are −4/9, −4/9 and 8/9. A step subtracts them, so the first two scores rise and the third falls. Nobody
# had to name the useful adapters.
#
# If the values $v_t$ are zero or noise, so is the gradient of the scores. This is one reason why $W_v$ starts as the
# identity; "Break it" shows a weightier reason. To keep $W_v$ near the identity, `fit` adds
# $\lambda\lVert I - W_v\rVert^2$ to the loss for every block ($\lambda = 0.01$).

# %% [markdown]
# ## Where it stands
#
# Every block of the Transformer gets a fusion of its own. $W_q$ and $W_k$ have a bias and start small (σ = 0.02), so
# that all adapters count alike at first. $W_v$ has no bias. That makes $3d^2 + 2d$ trained numbers a block, however
# many adapters there are.

# %%
plots.structure("AdapterFusion")
plt.show()

# %% [markdown]
# *Figure: the output h of a block goes into three frozen adapters and the query Q. The answers z give keys and values;
# their mixture o is added to h. Only Q, K and V, in green, are trained.*
#
# ## Write it
#
# This is the forward pass of one fusion, for whole batches. The frozen adapters are stacked along a first dimension of
# length $N$. Nothing is divided by $\sqrt d$. (As a file: `python -m minipeft start adapter_fusion`.)


# %%
class Fusion(adapter_fusion.Fusion):
    def forward(self, h):  # (B, T, d)
        """o = Σ_t α_t W_v z_t for every token, (B, T, d), where adapter t finds z_t = U_t ReLU(D_t h + b_D) + b_U.

        Frozen: self.D (N, m, d), self.b_D (N, m), self.U (N, d, m), self.b_U (N, d). Trained: the layers self.query,
        self.key, self.value. Keep α (B, T, N), detached, in self.weights. Hint: torch.einsum("...d,nmd->...nm", h, D).
        """
        raise NotImplementedError("your turn, 6 lines")


check("adapter_fusion", Fusion, use=True)

# %% [markdown]
# ## The source, revealed
#
# This is our forward pass, beside yours. `z` has one answer for each token and adapter, (B, T, N, d). The softmax runs
# over the last dimension of the scores, the adapters. `SequentialFusion` wraps a whole block, `self.base`, and adds the
# mixture to the block's output. The code calls this output `s`; it is the h of the figure.

# %%
print(our_forward)
print(inspect.getsource(adapter_fusion.SequentialFusion.forward))

# %% [markdown]
# ## Phase 2: put them together
#
# `attach` puts an empty fusion into each block, and `fill` copies the adapters into it. We predict
# $2\,(3 \cdot 64^2 + 2 \cdot 64) = 24{,}832$ trained numbers. Before any training, does the mean of the adapters help?


# %%
def compose(adapters, seed, kind=AdapterFusion):
    method = kind(adapters=len(adapters))
    torch.manual_seed(seed)  # W_q and W_k are drawn at random
    model = method.attach(base())
    method.fill(model, list(adapters.values()))
    return model


model = compose(shelf, seed=0)
print(f"trained numbers: predicted 24,832, measured {sum(p.numel() for p in trainable(model).values()):,}")
untrained = evaluate(model, goal, UNSEEN).accuracy
print(f"before training: {untrained:.2f} of unseen examples solved")
for path, fusion in fusions(model).items():
    print(path, "mean attention to each adapter:", fusion.weights.mean((0, 1)).numpy().round(2))

# %% [markdown]
# Guess 1: no. All three adapters get about a third of the attention, and their mean solves nothing.
#
# ## Train it
#
# Three rivals get the same 16 examples, 100 steps (not the usual 500), and the best of five learning rates, found on
# other seeds: the fusion, a fresh adapter, and a **warm start**, which trains one finished adapter further. For the
# warm start we take `left+plain`, the source that leads furthest.


# %%
def learn(model, lr, seed):
    fit(model, Few(goal, 16, seed), lr=lr, seed=seed, device="cpu", progress=False, **short.settings())
    return model


def right(model):
    return evaluate(model, goal, UNSEEN).accuracy


# %%
fused = [learn(compose(shelf, seed), 3e-3, seed) for seed in SEEDS]
warm = [learn(load(shelf["left+plain"], base()), 1e-2, seed) for seed in SEEDS]
fresh = [adapt(Pfeiffer(size=16), goal, 3e-3, seed, short, examples=16)[0] for seed in SEEDS]

rivals = {"AdapterFusion": fused, "warm start": warm, "fresh adapter": fresh}
solved = {name: [right(model) for model in models] for name, models in rivals.items()}
plots.bars(solved, colour=plots.HUES["AdapterFusion"])
plt.show()

# %% [markdown]
# *Figure: accuracy on unseen examples of left+violet, learned from 16. Bars are means, dots are five seeds. The fusion
# leads on every seed; the fresh adapter solves nothing.*
#
# Guess 2: the learned mixture wins. A fresh adapter has to learn a shift and a table. 500 steps (three seeds, not
# shown) teach it the 16 by heart, but none of 300 unseen examples. The warm start has only the table to learn, the
# fusion only whom to ask.

# %% [markdown]
# ## What moved, what was learned
#
# Training has moved only $W_q$, $W_k$ and $W_v$. We test what stayed the same, with the fusion of seed 0.

# %%
print("the base is the same as before:", deltas.fingerprint(detach(fused[0])) == deltas.fingerprint(base()))
now, before = fusions(fused[0])["blocks.0"], fusions(compose(shelf, seed=0))["blocks.0"]
print("so are the adapters:", torch.equal(now.D, before.D) and torch.equal(now.U, before.U))
for path, fusion in fusions(fused[0]).items():
    change = (fusion.value.weight - torch.eye(64)).norm() / torch.eye(64).norm()
    print(f"{path}: W_v has moved away from the identity by {change:.0%}")

# %% [markdown]
# The base and the adapters are the same as before, bit for bit. The paper calls this *non-destructive*. Only the
# attention has learned. $W_v$ is still close to the identity, so it does not make anything twice as loud. How does the
# fusion get around sharing? Look at whom it listens to, token by token: `x1` to `x6` are the letters of the word, `y1`
# to `y6` those of the answer; a full stop follows.

# %%
batch = goal.batch(300, torch.Generator().manual_seed(1))
with torch.no_grad():
    for model in fused:
        model(batch.tokens)  # each fusion keeps its α of this pass in `weights`
weights = {path: fusion.weights for path, fusion in fusions(fused[0]).items()}
words = [":", *(f"x{i}" for i in range(1, 7)), "=", *(f"y{i}" for i in range(1, 7))]
plots.fusion_weights(weights, SOURCES, words=words)
plt.show()

# %% [markdown]
# *Figure: attention α to each adapter (row) at each token (column), seed 0. Block 0 prefers left+plain at four of
# six letters (x2, x3, x5, x6); from = to y5 it gives each about a third. Block 1 listens to copy+violet, except at
# y6.*
#
# What block 0 adds at a letter changes this letter's key in block 1, and so can change *where* later tokens read. A
# shift needs this. (Why not at x1 and x4? We do not know.)

# %% [markdown]
# No attention follows block 1: it can only change *which* letter is written. This suggests how the fusion avoids
# sharing: block 0 listens most to the shift, block 1 to the table.
#
# ## Listened to, and needed
#
# The third adapter gets a quarter of the attention in block 0. Does the fusion need it? Attention alone cannot tell
# (lesson 1). We **silence** one adapter in one block: it answers zero.


# %%
def silenced(model, path, t):
    model = copy.deepcopy(model)
    fusions(model)[path].U[t] = 0
    fusions(model)[path].b_U[t] = 0
    return model


heard, needed = {}, {}
for path in ("blocks.0", "blocks.1"):
    for t, name in enumerate(SOURCES):
        row = f"{path.replace('blocks.', 'block ')}: {name}"
        heard[row] = [fusions(model)[path].weights[..., t].mean().item() for model in fused]
        needed[row] = [right(silenced(model, path, t)) for model in fused]

# %%
left, after = plots.new(9, 3, columns=2)
plots.bars(heard, left, "attention α, mean over tokens", plots.HUES["AdapterFusion"])
plots.bars(needed, after, "accuracy with this adapter silenced", plots.HUES["AdapterFusion"])
after.set_yticklabels([])
plt.show()

# %% [markdown]
# *Figure: left, the attention to each adapter; right, the accuracy without it. Dots are five seeds. Without left+plain
# in block 0 or copy+violet in block 1, nothing is solved. Without reverse+plain, hardly anything is lost.*
#
# Guess 3: no, it is heard, but hardly needed. In block 0, copy+violet gets little more attention than reverse+plain,
# yet without it 0.57 is left of 0.86. So block 0 needs the table, too. We do not know why. Only an intervention tells
# who matters.

# %% [markdown]
# ## What it costs
#
# Trained numbers do not grow with $N$, but work does, because all adapters run. For each token and block we predict
# $2Ndm$ multiplications in the adapters; in the fusion, $d^2$ for the query, $2Nd^2$ for keys and values, and $2Nd$ for
# scores and mixture.

# %%
d, m, tokens = 64, 16, batch.tokens[:1]
plain = multiplications(base(), tokens)
print(f"base         {plain:9,} multiplications for an example of {tokens.numel()} tokens")
for N in (1, 3, 10):
    model = AdapterFusion(adapters=N, size=m).attach(base())
    adapters, fusion = 2 * N * d * m, d * d + 2 * N * d * d + 2 * N * d
    predicted = plain + 2 * tokens.numel() * (adapters + fusion)  # two blocks
    measured = multiplications(model, tokens)
    trained = sum(p.numel() for p in trainable(model).values())
    print(f"fusion of {N:2} {predicted:9,} predicted, ratio {measured / predicted:.2f}", end="   ")
    print(f"{measured / plain:.2f} times the base; {trained:,} numbers trained")

# %% [markdown]
# With three adapters, an example costs 1.67 times what it costs in the base. Most of this is the attention, not the
# adapters: keys and values take $2Nd^2 = 24{,}576$ multiplications, the adapters $2Ndm = 6{,}144$. A fusion cannot be
# merged into the base, so this price is paid for every token, for good.

# %% [markdown]
# ## Break it
#
# `nn.Linear` starts with random numbers. What if we forget to replace them in $W_v$?
#
# ```python
# self.value = nn.Linear(d, d, bias=False)
# nn.init.eye_(self.value.weight)  # right: every answer passes unchanged
#                                  # broken: nothing here, so W_v stays random
# ```
#
# First we fuse one adapter alone, without training, and ask for its own task. Then we train a fusion of three as above.

# %%
broken = with_mistake("adapter_fusion", "W_v random")
violet = {"copy+violet": shelf["copy+violet"]}
for name, kind in {"right": AdapterFusion, "broken": broken.AdapterFusion}.items():
    alone = [evaluate(compose(violet, seed, kind), task("copy+violet"), UNSEEN).accuracy for seed in SEEDS]
    print(f"{name:6}  one adapter, on its own task:", *(f"{score:.2f}" for score in alone))

failed = [learn(compose(shelf, seed, broken.AdapterFusion), 3e-3, seed) for seed in SEEDS]
spoiled = [right(model) for model in failed]
own = [evaluate(model, Few(goal, 16, seed)).accuracy for seed, model in zip(SEEDS, failed, strict=True)]
print("broken  three adapters, trained for the goal:", *(f"{score:.2f}" for score in spoiled))
print("        on the 16 examples themselves:       ", *(f"{score:.2f}" for score in own))

# %% [markdown]
# With a random $W_v$, an adapter that is perfect on its own task solves nothing. The next layers expect its answers in
# the directions in which they were trained, and $W_v$ has mixed all directions. Training does not repair this. It even
# learns most of the 16 examples by heart, so the training loss looks fine, and no error is raised.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | with few examples, fusion beats a fresh adapter | yes | [supported](claims.md#fusion) |
# | it beats full fine-tuning | not run here | [supported](claims.md#fusion) |
# | one adapter a block is enough (same paper) | not run here | [supported](claims.md#one_adapter) |
#
# Our useful sources show one part each. The ledger also fuses sources that show the table with another operation;
# fusion then gains much less.

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* Fuse without `reverse+plain`; then with it, but without `copy+violet`. What happens, and
#    why?
# 2. *Write* `added(seed)`: an untrained fusion of the two useful adapters, with $W_v = 2I$. How good is it?
# 3. *Design the experiment.* Which part does the work, the attention or $W_v$? Use `learn` as above.
# 4. *Find the mistake.* A colleague's fusion learns most of 16 examples and solves no unseen one. Which test
#    without training finds the reason?
#
# ```python
# α = torch.einsum("...d,...nd->...n", q, k).softmax(1)  # (B, T, N)
# ```

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1\. Five seeds: 0.95 to 0.98, since nobody useless takes a share; then 0.00 each.
#
# 2\. 0.74 to 0.76, less than the trained fusion (0.86).
#
# ```python
# for fusion in fusions(model).values():
#     fusion.value.weight.data *= 2
# ```
#
# 3\. Freeze the other part before `learn`. Only $W_v$: 0.40 to 0.59. Only the attention: 0.70 to 0.89.
#
# ```python
# for name, p in trainable(model).items():
#     p.requires_grad_("value" in name)
# ```
#
# 4\. The softmax runs over the tokens. Quickest: `fusion.weights.sum(-1)`, over the adapters, is about 3/14, not 1.
# In a decoder, a later token changes an earlier one; with a right fusion this prints 0:
#
# ```python
# other = batch.tokens.clone()
# other[:, -1] = other[:, 1]
# print((fused[0](other)[:, 0] - fused[0](batch.tokens)[:, 0]).abs().max())
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions as an interviewer might ask them. Fill in a letter for each; a wrong answer is refuted by running code.

# %%
quiz("05_adapter_fusion", answers="")

# %% [markdown]
# ## In three lines
#
# - AdapterFusion leaves finished adapters as they are and learns, for each token and block, how to mix their answers.
# - It pays when examples are few and the skills are on the shelf.
# - All adapters run for every token, and the mixture cannot be merged.
#
# Paper: Pfeiffer et al. 2021, [arXiv:2005.00247](https://arxiv.org/abs/2005.00247).
#
# The same in the reference library, `adapters`:
#
# ```python
# import adapters
# from adapters.composition import Fuse
# from transformers import GPT2Config, GPT2LMHeadModel
#
# gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4))
# adapters.init(gpt2)
# for name in ("left", "violet", "reverse"):
#     gpt2.add_adapter(name, config=adapters.SeqBnConfig(reduction_factor=4))  # Pfeiffer, m = 64 / 4
#     gpt2.train_adapter(name)  # phase 1: train it here
# three = Fuse("left", "violet", "reverse")
# gpt2.add_adapter_fusion(three)
# gpt2.train_adapter_fusion(three)  # phase 2: 24,832 numbers
# penalty = gpt2.get_fusion_regularization_loss()  # yours to add to the loss
# ```

# %% tags=["hide-input"]
whole = deltas.fingerprint(base())
assert evaluate(base(), goal, UNSEEN).accuracy < 0.05
assert np.allclose([by_hand, s.grad.numpy()], [-4 / 9, -4 / 9, 8 / 9])
assert all(deltas.fingerprint(detach(model)) == whole for model in fused)
assert 0.9 < measured / predicted < 1.02  # a reader's own body may multiply in another way
assert max(untrained, *solved["fresh adapter"], *spoiled) < 0.05
if not FAST:
    assert all(f > w + 0.1 for f, w in zip(solved["AdapterFusion"], solved["warm start"], strict=True))
    assert max(needed["block 0: left+plain"] + needed["block 1: copy+violet"]) < 0.05
    assert min(solved["AdapterFusion"]) > 0.7
    third = [*needed["block 0: reverse+plain"], *needed["block 1: reverse+plain"]]
    assert all(after > before - 0.12 for after, before in zip(third, 2 * solved["AdapterFusion"], strict=True))
    first, second = (weights[f"blocks.{i}"].mean(0) for i in (0, 1))  # (T, N)
    assert not first[[2, 3, 5, 6]].argmax(1).any()
    assert first[7:13].max() < 0.45
    assert (second[:-1].argmax(1) == 1).all()
    assert 0.55 < np.mean(needed["block 0: copy+violet"]) / np.mean(solved["AdapterFusion"]) < 0.75
    assert min(heard["block 0: reverse+plain"]) > 0.15
    assert min(heard["block 1: copy+violet"]) > 0.5
    assert np.mean(own) > 0.8
