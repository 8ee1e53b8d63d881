# %% [markdown]
# # 11 · LoRA in practice
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 50 minutes to read and run · 90 with exercises | ●●● | lesson 10; singular values | 50 s on a CPU |
#
# Lesson 10 was the idea. Now you have to choose: which α, which learning rate, which layers, which rank, which
# precision for merging? After this lesson you can give a reason for each choice, and you can look inside a trained
# change.

# %% [markdown]
# ## What the papers say
#
# Hu et al. 2021 fix α and vary where LoRA goes and its rank (§7). Three later papers set α, rank and learning rates by
# derivation: rsLoRA (Kalajdzievski 2023), LoRA+ (Hayou et al. 2024), and *LoRA Without Regret* (Schulman and Thinking
# Machines Lab 2025), which finds that LoRA wants ten times the learning rate of full fine-tuning. Shuttleworth et al.
# 2024 look at the singular vectors that LoRA leaves behind.

# %% [markdown]
# ## First, guess
#
# 1. You make α 16 times as large. What happens to the best learning rate: a 16th, a quarter, or the same?
# 2. You can afford 2,000 trained parameters. Where do they learn a new symbol table best: in `q`, in `v`, in both, in
#    the feed-forward layers, or spread over everything?
# 3. Full fine-tuning changes all 64 directions of a weight. With how many of them does the model still solve the task?
# 4. You merge a small $\Delta W$ into a weight of 16 bits. How much of it arrives?

# %%
import math
import os
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

from minipeft import Full, LoRA, base, deltas, evaluate, plots, quiz, spectra, task
from minipeft.classroom import with_mistake
from minipeft.classroom.beside import beside
from minipeft.lab import adapt
from minipeft.tasks import rows
from minipeft.training import Recipe, loss_of

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SHORT = Recipe(steps=10 if FAST else 150)
LONG = Recipe(steps=10 if FAST else 300, batch_size=64)
SEEDS = [0] if FAST else [0, 1]
SIX = ("q", "k", "v", "o", "up", "down")

# %% [markdown]
# ## α and the learning rate, by hand
#
# Adam divides each gradient by its own size. So its first step moves every number by the learning rate $\eta$, up or
# down: only the sign of the gradient counts. Take the layer of lesson 10, with $h=Ax=2$ and $g=(1,0,-1,2)$. The
# gradient of $B$ is $s\,g\,h$, so after one step
#
# $$B = -\eta\,\text{sign}(g\,h), \qquad \Delta W = sBA = -s\,\eta\;\text{sign}(g\,h)\,A$$

# %%
A, g, h = torch.tensor([[0.0, 1.0, 0.0, -1.0]]), torch.tensor([[1.0], [0.0], [-1.0], [2.0]]), 2.0

for alpha, lr in ((2, 0.02), (4, 0.02), (4, 0.01)):  # the rank is 1, so s = α
    B = torch.zeros(4, 1, requires_grad=True)
    optimizer = torch.optim.Adam([B], lr=lr)
    B.grad = alpha * g * h
    optimizer.step()
    change = alpha * B.detach() @ A
    print(f"α = {alpha}, learning rate {lr}: first row of ΔW = {change[0].numpy().round(3)}")

# %% [markdown]
# Twice the α with half the learning rate gives the same first step. Later, $A$ moves as well. After $t$ steps both
# factors have moved by about $\eta\,t$, so $\Delta W = sBA$ grows like $s\,\eta^2$. If the best $\Delta W$ has a
# certain size, $s\,\eta^2$ should be constant at the best learning rate: **16 times the α, a quarter of the learning
# rate**.
#
# We test it on `reverse+violet`, a table that the base has never seen, with 150 steps (not the usual 500), so that the
# loss can tell. One seed.

# %%
violet, losses, views = task("reverse+violet"), {}, {}
grids = {
    "Full": (Full(), (1e-3, 3e-3, 1e-2, 3e-2)),
    "LoRA(α = 2)": (LoRA(rank=4, alpha=2, targets=SIX), (3e-3, 1e-2, 3e-2, 1e-1)),
    "LoRA(α = 32)": (LoRA(rank=4, alpha=32, targets=SIX), (1e-3, 3e-3, 1e-2, 3e-2)),
}
for name, (method, learning_rates) in grids.items():
    for lr in learning_rates:
        views[name, lr] = adapt(method, violet, lr, 0, SHORT)[0]
        losses.setdefault(name, {})[lr] = evaluate(views[name, lr], violet).loss
plots.learning_rates(losses)
plt.show()

# %% [markdown]
# *Figure: test loss against the learning rate. With α = 2 the best learning rate is 0.03, with α = 32 it is 0.01, and
# full fine-tuning's is 0.003.*
#
# Guess 1: on this coarse grid the best learning rate falls by about three. With ten seeds and a parabola through the
# losses, the [ledger](claims.md#learning_rate_of_lora) finds 0.029 and 0.0061: a factor of 4.8, where we predicted 4.

# %% [markdown]
# ## Does LoRA want ten times the learning rate?
#
# That depends on α. In the same row of the ledger, LoRA's best learning rate is that of full fine-tuning times 1.4 with
# α = 32, times 3.3 with α = 8, and times 6.4 with α = 2. "Ten times" is a statement about a model *and* an α. On a real
# model with $s=2$, LoRA does want [about ten times](claims.md#real_learning_rate).
#
# **In practice:** fix α, then tune the learning rate over at least three values, a factor of three apart.

# %% [markdown]
# ## LoRA+ is α in disguise
#
# LoRA+ gives $B$ a learning rate $\lambda$ times that of $A$. Write $B' = sB$, so that $\Delta W = B'A$. Under Adam,
# $B$ moves by $\eta_B$ a step, so $B'$ moves by $s\,\eta_B$. Only this product counts. Then $\lambda = 16$ must do the
# same as 16 times the α. One thing could spoil it: clipping, because a larger $s$ makes the gradients larger. We switch
# it off.

# %%
unclipped = Recipe(steps=SHORT.steps, clip=1e9)
for name, method in {
    "α = 8, λ = 16": LoRA(rank=4, alpha=8, lr_ratio=16, targets=SIX),
    "α = 128, λ = 1": LoRA(rank=4, alpha=128, targets=SIX),
}.items():
    view, history = adapt(method, violet, 3e-3, 0, unclipped)
    losses[name] = evaluate(view, violet).loss
    print(f"{name:15} loss at step 50 {history.loss[min(49, len(history.loss) - 1)]:.5f}, test loss {losses[name]:.7f}")

# %% [markdown]
# They agree to six digits. So before you try LoRA+, tune α. The [ledger](claims.md#lora_plus) cannot decide whether
# LoRA+ beats a tuned LoRA here; LoRA with a larger α does.
#
# ## Why divide by the rank?
#
# After Adam's first step, output $i$ of the trained example $x$ has moved by $s\,\eta\sum_k |h_k|$, where $h=Ax$ has
# $r$ entries. For another input $x'$ the terms $\text{sign}(h_k)\,h'_k$ have random signs. Which scale, $\alpha/r$ or
# rsLoRA's $\alpha/\sqrt r$, keeps these moves the same for every rank? We average over 500 draws of $A$.

# %%
torch.manual_seed(0)
x, other = torch.linalg.qr(torch.randn(64, 2))[0].T * 8  # two inputs with nothing in common, each of length 8
print("change of an output / (α·η)     s = α/r: on x   on another     s = α/√r: on x   on another")
for r in (1, 4, 16, 64):
    A = (2 * torch.rand(500, r, 64) - 1) / 8  # 500 draws, each from U(−1/√64, 1/√64)
    h, h_other = A @ x, A @ other
    on_x, on_other = h.abs().sum(1).mean(), (h.sign() * h_other).sum(1).square().mean().sqrt()
    scaled = [change / scale for scale in (r, math.sqrt(r)) for change in (on_x, on_other)]
    print(f"rank {r:3}" + "{:30.2f} {:12.2f} {:18.2f} {:12.2f}".format(*scaled))

# %% [markdown]
# Both papers are right, each about something else. With $\alpha/r$ the trained example moves equally at every rank, but
# what carries over to other inputs shrinks as the rank grows. With $\alpha/\sqrt r$ the others move equally and the
# trained example moves more.
#
# Here, with $\alpha/r$, one learning rate suits [ranks 1 to 32](claims.md#rank_and_rate), against what rsLoRA says. A
# high rank still [pays more](claims.md#rslora_high_rank) with $\alpha/\sqrt r$, as it says.

# %% [markdown]
# ## Which layers?
#
# Guess 2. Six placements with 2,048 to 2,560 trained numbers each, 150 steps of the new table, learning rate 0.03.

# %%
places = {
    "q": LoRA(rank=8, alpha=16, targets=("q",)),
    "v": LoRA(rank=8, alpha=16, targets=("v",)),
    "q and v": LoRA(rank=4, alpha=8, targets=("q", "v")),
    "q, k, v and o": LoRA(rank=2, alpha=4, targets=("q", "k", "v", "o"), rank_pattern={"v": 3}),
    "feed-forward": LoRA(rank=2, alpha=4, targets=("up", "down")),
    "all six": LoRA(rank=1, alpha=2, targets=SIX),
}
scores = {}
for name, method in places.items():
    scores[name] = [evaluate(adapt(method, violet, 3e-2, seed, SHORT)[0], violet).accuracy for seed in SEEDS]
plots.bars(scores)
plt.show()

# %% [markdown]
# *Figure: accuracy on unseen examples by placement; bars are means of two seeds, dots are the seeds. Attention as a
# whole learns the table; q alone, v alone and the feed-forward layers do not in this time.*
#
# `q` decides *where* the model reads, `v` *what* it passes on. The task needs both: read backwards, write new letters.
# Ten seeds: [q and v beat either alone](claims.md#where); [attention beats all six](claims.md#all_linear) at this
# budget and equals it at four times the budget. On a real model [all layers win](claims.md#real_layers). **In
# practice:** start with all linear layers.

# %% [markdown]
# ## Which rank?
#
# The new table needs rank 1 only. That is no wonder: it is one of $16!$ orders of 16 letters, and $\log_2 16!$ is 44
# bits. Rank is capacity, so a test needs *data that have to be stored*. Random words with random answers follow no
# rule: each answer of six letters has 24 bits. Anything with a `batch` method is a task.


# %%
@dataclass(frozen=True)
class RandomWords:
    """So many random words, each with a random answer: nothing to understand, only to memorise."""

    size: int

    def batch(self, size, generator):
        words, answers = torch.randint(16, (2, self.size, 6), generator=torch.Generator().manual_seed(0))
        chosen = torch.randint(self.size, (size,), generator=generator)
        return rows(torch.empty(size, 0, dtype=torch.long), words[chosen], answers[chosen])


def stored(view, words):
    """The share of the bits of the answers that training has stored."""
    batch = words.batch(1000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        bits = 7 * loss_of(view(batch.tokens), batch.targets).item() / math.log(2)  # left, of one answer and its stop
    return max(0.0, 1 - bits / 24)


# %% [markdown]
# 256 words have $256\cdot 24 = 6{,}144$ bits. If a trained number can hold about one bit, rank 1 on all six matrices
# (2,304 numbers) must fail, rank 4 (9,216) could be enough, and rank 16 (36,864) is plenty. We train 300 steps of 64.

# %%
found = {}
for words in (RandomWords(64), RandomWords(256)):
    for r in (1, 4, 16) if words.size == 256 else (1,):
        view, _ = adapt(LoRA(rank=r, alpha=2 * r, targets=SIX), words, 1e-2, 0, LONG)
        found[f"{words.size} words, rank {r}"] = stored(view, words)
plots.bars(found, label="share of the bits stored")
plt.show()

# %% [markdown]
# *Figure: what LoRA stores of random words. Rank 1 stores nearly all of 64 words and almost nothing of 256; rank 16
# stores all of them.*
#
# The same rank 1 that learns a rule perfectly cannot store 256 words. The [ledger](claims.md#capacity) has full
# fine-tuning and 512 words beside it. On a real model and text, ranks 1 to 32 [hardly differ](claims.md#real_rank).
# **In practice:** 8 or 16 for a style, a format or a skill; more for many facts, or full fine-tuning.

# %% [markdown]
# ## What does full fine-tuning really change?
#
# Hu et al. assume that the change which full fine-tuning makes has a low rank. We train all six matrices of each block
# freely and look at the singular values of one change.

# %%
full, _ = adapt(Full(targets=tuple(f"{name}.weight" for name in SIX)), violet, 3e-3, 0, SHORT)
place = "blocks.0.attn.v.weight"
changes = {
    "Full": deltas.updates(full)[place][1],
    "LoRA(α = 32)": deltas.updates(views["LoRA(α = 32)", 3e-3])[place][1],
}
plots.spectrum(changes)
plt.show()

# %% [markdown]
# *Figure: singular values of the change of v in layer 0, divided by the largest. LoRA's end after four; those of full
# fine-tuning fall slowly and never stop.*
#
# There is no cliff: the rank is 64. But do all 64 directions matter? We keep the $k$ largest of each matrix and ask the
# model again. Then we do the opposite and remove them.

# %%
print("directions of 64     share of ‖ΔW‖²     accuracy with these alone     accuracy without them")
cut = {}
for k in (1, 2, 4, 8, 16):
    alone = evaluate(spectra.truncated(full, k), violet).accuracy
    without = evaluate(spectra.truncated(full, k, without=True), violet).accuracy
    cut[k] = alone, without
    print(f"{k:16} {spectra.energy_share(full, k):18.2f} {alone:29.2f} {without:25.2f}")

# %% [markdown]
# Guess 3: 8 of 64 directions hold 79 % of the energy and do nearly all of the work; without the first two, nothing
# works. Both sides of the dispute are right: the change does *not* have a low rank, and a low rank is *enough*. Ten
# seeds: [the row](claims.md#low_rank_change); on a real model 64 of 576 directions hold [74
# %](claims.md#real_rank_of_full).

# %% [markdown]
# ## Do two runs find the same directions?
#
# Hu et al. (§7.2) compare the input directions of two changes $X$ and $Y$: the rows of $V$ in $X=USV$, largest first.
# Take the first $i$ rows of $V_X$ and the first $j$ of $V_Y$. All their scalar products form the matrix $V_X V_Y^\top$
# $(i \times j)$. If the smaller set lies within the span of the larger one, the squares in it add up to $\min(i,j)$. So
#
# $$\varphi = \frac{\lVert V_X V_Y^\top \rVert^2}{\min(i, j)}, \qquad 0 \le \varphi \le 1$$
#
# Now you write it.


# %%
def similarity(X, Y, i, j):
    """φ as a float. torch.linalg.svd(X) returns U, S, V; the rows of V are the input directions, largest first."""
    raise NotImplementedError("your turn, 2 or 3 lines")


torch.manual_seed(0)
X, Y = torch.randn(5, 8), torch.randn(5, 8)
cases = {"X with itself, 2 and 2": (X, X, 2, 2), "X with Y, 2 and 4": (X, Y, 2, 4), "X with Y, 5 and 3": (X, Y, 5, 3)}
similarity = beside(similarity, spectra.similarity, cases)

# %% [markdown]
# Two runs differ in the seed, so in the start of $A$ and in the data. If their directions had nothing in common,
# $\varphi$ would be $\max(i,j)/64$ on average.

# %%
runs = [adapt(LoRA(rank=16, alpha=32, targets=SIX), violet, 1e-2, seed, SHORT)[0] for seed in (0, 1)]
maps = {}
for place in ("blocks.0.attn.q", "blocks.1.attn.q"):
    X, Y = (deltas.updates(view)[f"{place}.weight"][1] for view in runs)
    maps[place] = torch.tensor([[similarity(X, Y, i, j) for j in range(1, 9)] for i in range(1, 9)])
X, Y = torch.randn(2, 64, 64)
maps["random matrices"] = torch.tensor([[similarity(X, Y, i, j) for j in range(1, 9)] for i in range(1, 9)])
plots.similarity_maps(maps, name="directions counted", label="φ")
plt.show()
for place, grid in maps.items():
    print(f"{place:16} φ(2, 2) = {grid[1, 1]:.2f}, φ(8, 8) = {grid[7, 7]:.2f}")

# %% [markdown]
# *Figure: φ between two runs of rank 16, by how many directions are counted in each. In q of layer 0 the first two are
# largely shared, and what follows is less so; in layer 1 the runs share little more than random matrices do.*
#
# The paper found the same pattern in GPT-3: a few leading directions are shared, the others are mostly noise of the
# run. Only in layer 0 do we see it clearly (one pair of seeds). Two adapters can do the same work in different
# directions.

# %% [markdown]
# ## Intruder dimensions
#
# Shuttleworth et al. compare the *trained weight* $W+\Delta W$ with $W$. Of its ten largest left singular vectors, an
# **intruder** is one that is like none of $W$'s: every cosine is below 0.5. They find intruders after LoRA and not
# after full fine-tuning, and connect them with forgetting. We count in twelve matrices, at several sizes of the change.

# %%
print("learning rate              accuracy     mean ‖ΔW‖/‖W‖     intruders of 120")
intruders = {}
for name in ("Full", "LoRA(α = 32)"):
    for lr in (1e-3, 3e-3, 1e-2):
        view = views[name, lr]
        size, intruders[name, lr] = spectra.relative_size(view), spectra.intruders(view)
        accuracy = evaluate(view, violet).accuracy
        print(f"{name:13} {lr:<10} {accuracy:10.2f} {size:17.2f} {intruders[name, lr]:20}")

# %% [markdown]
# The larger the change, the more intruders, with *both* methods. So compare at equal accuracy, and with gentle learning
# rates. Then LoRA on q and v alone has 6 intruders, LoRA on all six and full fine-tuning have none, and shrinking them
# helps [no more than shrinking all of ΔW](claims.md#intruder_dimensions). On a real model there were [none at
# all](claims.md#real_intruders).

# %% [markdown]
# ## Merging in 16 bits
#
# A number in bfloat16 keeps 8 significant bits. Between 1 and 2 its neighbours lie $2^{-7}$ apart. What is smaller than
# half of that vanishes when it is added:

# %%
one = torch.tensor(1.0, dtype=torch.bfloat16)
for change in (0.0030, 0.0045, 0.0100):
    print(f"1 + {change:.4f} = {one + torch.tensor(change, dtype=torch.bfloat16):.4f} in bfloat16")

# %% [markdown]
# A matrix has numbers of all sizes, so a part of them loses its change. We take a trained $\Delta W$, make it as large
# as some share of $W$, merge in bfloat16 and in float16, and measure how much of it is lost.


# %%
def lost(W, change, dtype):
    """The share of ΔW that does not arrive when it is merged into a weight of this type."""
    before = W.to(dtype).float()
    after = (before + change).to(dtype).float()
    return ((after - before - change).norm() / change.norm()).item()


W, change = deltas.updates(runs[0])["blocks.1.attn.v.weight"]
for size in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
    small = change * size * W.norm() / change.norm()
    shares = lost(W, small, torch.bfloat16), lost(W, small, torch.float16)
    print(f"‖ΔW‖/‖W‖ = {size:<6} lost in bfloat16 {shares[0]:6.1%}, in float16 {shares[1]:6.1%}")

# %% [markdown]
# Guess 4: if $\Delta W$ is a hundredth of $W$, a sixth of it is lost in bfloat16. Float16 keeps three bits more, so we
# expect an eighth of the error, and that is what we see.
#
# The sum is rounded once, at the end, so it does not help to compute $BA$ more precisely. **In practice:** keep the
# adapter unmerged, merge into the 32-bit weights and keep those, or use float16 for storage if no weight exceeds its
# range. Always test the *merged* model.

# %% [markdown]
# ## Break it
#
# ```python
# return self.alpha / rank  # right
# return self.alpha         # broken: s without the rank
# ```
#
# Training with the broken line looks healthy, because it is only another α. What happens when the adapter is loaded
# where the line is right?

# %%
broken = with_mistake("lora", "alpha without rank").LoRA(rank=4, alpha=8, targets=SIX)
trained, history = adapt(broken, violet, 1e-2, 0, SHORT)
right = LoRA(rank=4, alpha=8, targets=SIX).attach(base())
right.load_state_dict(trained.state_dict())
there, here = evaluate(trained, violet).accuracy, evaluate(right, violet).accuracy
print(f"where it was trained: accuracy {there:.2f};   loaded where s = α/r: accuracy {here:.2f}")

# %% [markdown]
# The factors $A$ and $B$ mean nothing without $s$. An adapter's file must carry α and rank, and the code that reads it
# must divide in the same way. rsLoRA's flag is the same trap.
#
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | 10 × the learning rate of full | depends on α | [row](claims.md#learning_rate_of_lora) |
# | LoRA+ learns faster | it is a larger α | [row](claims.md#lora_plus) |
# | α/r slows high ranks | no | [row](claims.md#rank_and_rate) |
# | full ΔW has low rank | no, but it is enough | [row](claims.md#low_rank_change) |
# | LoRA makes intruders | large changes do | [row](claims.md#intruder_dimensions) |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* LoRA of rank 8 with α = 16 becomes rank 32. Which α keeps $s$? Which keeps rsLoRA's scale?
# 2. *Predict, then measure.* How much of $\Delta W$ is lost at ‖ΔW‖/‖W‖ = 0.01 in a format with 8 bits of mantissa, one
#    more than bfloat16?
# 3. *Design the experiment.* You want to show that LoRA on all layers beats LoRA on q and v. What must be equal?
# 4. *Write it.* `gradient_of_alpha`: how would the loss change with α? `python -m minipeft start lora_gradients`
# 5. *Find the mistake.* Someone computes φ with `torch.linalg.svd(X)[0]`. What is measured then?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: α = 64 keeps $\alpha/r = 2$. For $\alpha/\sqrt r$: $16/\sqrt 8 = \alpha/\sqrt{32}$, so α = 32.
#
# 2: Half as much, about 8 %.
#
# 3: The trained numbers, a tuned learning rate for each, steps, data and seeds.
#
# 5: Columns of $U$ are output directions, and `[:i]` takes *rows* of $U$, which are no directions at all.
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("11_lora_in_practice", answers="")

# %% [markdown]
# ## In three lines
#
# - α and the learning rate are one choice: fix α, tune the learning rate. $s\,\eta^2$ tells how they trade.
# - Put LoRA on all linear layers; buy rank for data that must be stored, not for a difficult rule.
# - A merge in bfloat16 loses small changes; test the merged model.
#
# ```python
# from peft import LoraConfig
#
# LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", use_rslora=False)
# ```
#
# LoRA [2106.09685](https://arxiv.org/abs/2106.09685), rsLoRA [2312.03732](https://arxiv.org/abs/2312.03732), LoRA+
# [2402.12354](https://arxiv.org/abs/2402.12354), intruders [2410.21228](https://arxiv.org/abs/2410.21228), [LoRA
# Without Regret](https://thinkingmachines.ai/blog/lora).

# %% tags=["hide-input"]
if not FAST:
    best = {name: min(losses[name], key=losses[name].get) for name in grids}
    assert best["Full"] <= best["LoRA(α = 32)"] < best["LoRA(α = 2)"]
    assert math.isclose(losses["α = 8, λ = 16"], losses["α = 128, λ = 1"], rel_tol=1e-3)
