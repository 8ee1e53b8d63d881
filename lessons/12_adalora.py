# %% [markdown]
# # 12 · AdaLoRA: which matrices deserve rank?
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 60 minutes | ●●● | lesson 10 (LoRA) | a minute on a CPU |
#
# You will let twelve matrices compete for sixteen ranks, find out who deserves them, and test what that was worth.

# %% [markdown]
# ## First, guess
#
# LoRA gives every matrix the same rank. **AdaLoRA** gives each too many and takes most back in training.
#
# 1. Three of twelve matrices need a change. Can training find them?
# 2. A part of an update is large. Is it important?
# 3. It ends with as many ranks as a LoRA. Did it cost the same?

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minipeft import AdaLoRA, LoRA, Mixture, base, check, costs, deltas, evaluate, merge, plots, task
from minipeft.attach import WeightWrapper, trainable
from minipeft.classroom import diagnose, with_mistake
from minipeft.lab.trial import adapt, first_step
from minipeft.methods.adalora import AdaLoRALinear, allocate, layers, ranks
from minipeft.training import RECIPE, Recipe, schedule

torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, STEPS, LINES = ([0], 12, 600) if FAST else ([0, 1, 2], 150, 1500)

# %% [markdown]
# ## A task whose ranks we know
#
# We plant what is to be found, as in lesson 10. A **teacher** is the base with a random ΔW in three matrices, of rank
# 8, 4 and 4. The **student** is the bare base. It must imitate the teacher's logits, untold where the change is. (The
# teacher is no better at anything.)

# %%
PLANTED = {"blocks.1.attn.v": (8, 0.7), "blocks.1.attn.q": (4, 1.5), "blocks.0.mlp.down": (4, 0.3)}  # rank, size


@torch.no_grad()
def plant(seed):
    teacher, seen, draw = base(), {}, torch.Generator().manual_seed(seed)
    for path in PLANTED:
        note = lambda _, x, path=path: seen.update({path: x[0].flatten(0, 1)})  # noqa: E731
        teacher.get_submodule(path).register_forward_pre_hook(note)
    teacher(Mixture().batch(256, draw).tokens)
    for path, (rank, size) in PLANTED.items():
        W, x = teacher.get_submodule(path).weight, seen[path]  # x (N, in): what reaches this matrix
        _, spread, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        change = torch.linalg.qr(torch.randn(len(W), rank, generator=draw))[0]  # out: random directions
        change = change @ (V[:rank] / spread[:rank, None])  # in: those in which x varies most, made alike
        W += change * size * (x @ W.T).norm() / (x @ change.T).norm()
    return teacher


# %% [markdown]
# ## Triplets, on a 4 × 4
#
# Lesson 10 met singular values: how strong a matrix is in each direction. The whole decomposition is a sum of
# **triplets**: a direction out $p_i$, a number $\lambda_i$, a direction in $q_i$.
#
# $$\Delta W = P\Lambda Q = \sum_i \lambda_i\,p_i q_i^\top$$

# %%
P = np.array([[0.6, 0.8, 0], [0.8, -0.6, 0], [0, 0, 1], [0, 0, 0]])  # (out, r): a column for each triplet
Q = np.array([[0, 0, 0.6, 0.8], [0, 0, 0.8, -0.6], [1.0, 0, 0, 0]])  # (r, in): a row for each
lam = np.array([5.0, 2.0, 1.0])  # the diagonal of Λ
ΔW = P * lam @ Q
print(ΔW, "\nits singular values:", np.linalg.svd(ΔW)[1].round(3))
for i in range(3):
    without = P * np.where(np.arange(3) == i, 0, lam) @ Q  # λ[i] ← 0: the triplet is *masked*
    print(f"without triplet {i}: rank {np.linalg.matrix_rank(without)}, off by {np.linalg.norm(without - ΔW):.1f}")
    assert np.isclose(np.linalg.norm(without - ΔW), lam[i])

# %% [markdown]
# So rank can be given back triplet by triplet: set a λ to zero. But this reading of λ needs directions of length 1, at
# right angles. Training keeps to that only if asked, by a penalty in the loss:
#
# $$\gamma\left(\lVert P^\top P - I\rVert^2 + \lVert QQ^\top - I\rVert^2\right)$$


# %%
def regularizer(P, Q):
    return ((P.T @ P - np.eye(P.shape[1])) ** 2).sum() + ((Q @ Q.T - np.eye(len(Q))) ** 2).sum()


longer = P * [10, 1, 1], lam / [10, 1, 1], Q  # the first direction is ten times as long, its λ a tenth
p, q = P[:, :1], Q[:1]
leaning = np.hstack([p, p + 0.1 * P[:, 1:2]]), np.array([-10.0, 10.0]), np.vstack([q, q])  # almost the same twice
for name, (p_, λ, q_) in {"SVD": (P, lam, Q), "longer": longer, "leaning": leaning}.items():
    whole = p_ * λ @ q_
    off = [np.linalg.norm(whole - p_ * np.where(np.arange(len(λ)) == i, 0, λ) @ q_) for i in range(len(λ))]
    print(f"{name:8} λ = {λ!s:14} ‖ΔW‖ = {np.linalg.norm(whole):4.1f}", end="   ")
    print(f"masking one changes ΔW by {np.round(off, 1)!s:12} penalty {regularizer(p_, q_):8.1f}")
assert np.allclose(longer[0] * longer[1] @ longer[2], ΔW)  # the same update, but λ tells another story
assert regularizer(P, Q) < 1e-9 < 2 < min(regularizer(longer[0], Q), regularizer(leaning[0], leaning[2]))

# %% [markdown]
# *Longer*: the same ΔW, yet the largest triplet has the smallest λ. *Leaning*: two triplets of 10 that all but cancel;
# masking one ruins the sum.
#
# ## Importance
#
# Is a large λ important? Ask the loss. To first order it changes by $w\,\partial L/\partial w$ if the number $w$
# becomes zero. AdaLoRA's **sensitivity** is $I=|w\,\partial L/\partial w|$.

# %%
λ = torch.tensor([1.0, 0.5, 5.0], requires_grad=True)
P_, Q_, x = torch.tensor(P), torch.tensor(Q), torch.tensor([0.0, 1, 2, 0], dtype=torch.float64)
target = torch.tensor([9.0, 6, 0, 0], dtype=torch.float64)


def loss(λ):
    return (P_ @ (λ * (Q_ @ x)) - target).square().sum() / 2


loss(λ).backward()
for i in range(3):
    real = loss(torch.where(torch.arange(3) == i, 0, λ)) - loss(λ)
    told = abs(λ[i] * λ.grad[i])
    print(f"λ = {λ[i]:.1f}   I = |λ ∂L/∂λ| = {told:5.2f}   the loss really changes by {real:5.2f}")
    assert abs(told - real) < 0.15 * abs(real) + 1e-9
assert λ.argmax() == 2
assert λ.grad[2] == 0

# %% [markdown]
# Guess 2: no. The λ of 5 reads a direction that $x$ never has, and costs nothing.
#
# A batch tells little, so $I$ is smoothed: $\bar I \leftarrow \beta\bar I + (1-\beta)I$, with β = 0.85. And its
# unrest, the **uncertainty**: $\bar U \leftarrow \beta\bar U+(1-\beta)|I-\bar I|$. A number scores $\bar I\cdot\bar U$.

# %%
layer, β = AdaLoRALinear(nn.Linear(4, 4), rank=2), 0.85
layer.lam.data.fill_(1.0)
mean, unrest = np.zeros(2), np.zeros(2)
for t in range(60):
    now = np.array([1.0, 2.0 * (t % 2)])  # triplet 0 is always worth 1; triplet 1 nothing, 2, nothing, 2, ...
    mean = β * mean + (1 - β) * now
    unrest = β * unrest + (1 - β) * np.abs(now - mean)
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    layer.lam.grad = torch.tensor(now, dtype=torch.float32)  # λ = 1, so that |λ·gradient| is `now`
    with torch.no_grad():
        layer.update_importance(β, β)
    if t in (0, 1, 2, 3, 58, 59):
        print(
            f"step {t:2}:  I = {now}   Ī = {mean.round(2)}   Ū = {unrest.round(2)}   Ī·Ū = {(mean * unrest).round(2)}"
        )
assert np.allclose(layer.scores(), mean * unrest, atol=1e-5)  # the library's layer says the same
assert mean[1] / mean[0] < 1.1 < 10 < (mean * unrest)[1] / (mean * unrest)[0]

# %% [markdown]
# $I$ changes the winner at every step, $\bar I$ sees two alike. What is uncertain scores *higher*: the benefit of the
# doubt.
#
# A triplet's score is that of λ plus the means over its $p$ and $q$. All matrices enter **one** ranking. The budget
# $b(t)$ says how many stay: all at first, then a cubic fall, then fixed.

# %%
method, T = AdaLoRA(rank=16 / 12, initial_rank=8), 150  # 12 matrices: from 8 · 12 = 96 triplets to 16
first, last = 15, 105  # for a tenth of the steps all stay, the last 30 % change nothing more
for t in (1, 15, 30, 45, 60, 105, 150):
    left = 1 - np.clip((t - first) / (last - first), 0, 1)
    by_hand = int((96 - 16) * left**3 + 16)
    print(f"b({t}) = {by_hand}", end="   ")
    assert by_hand == method.budget(t, T, 12)

scores = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([0.2, 0.05, 0.7])  # two matrices with three triplets each
tiny = [AdaLoRALinear(nn.Linear(4, 4), rank=3) for _ in scores]
for made, s in zip(tiny, scores, strict=True):
    made.scores = lambda s=s: s
with torch.no_grad():
    allocate(tiny, t=1, budget=3)
print("\nof three each, a budget of 3 keeps", *(made.kept.tolist() for made in tiny))
assert [int(made.kept.sum()) for made in tiny] == [2, 1]

# %% [markdown]
# ## The structure and the source
#
# *Figure: beside the frozen weight, Q reads r numbers, Λ weighs each, P writes. A masked λ is grey, a 0.*

# %%
plots.structure("AdaLoRA")
plt.show()
for part in (AdaLoRALinear, AdaLoRA.regularizer, AdaLoRA.after_step, allocate):
    print(inspect.getsource(part))

# %% [markdown]
# Until the final choice a masked λ is still trained, and may come back: P and Q are never masked.
#
# ## Attach it
#
# To all twelve matrices, 8 triplets each: $r\,(\text{in} + \text{out} + 1)$ numbers. Λ starts at zero, P and Q small
# and random. Predict what has a gradient of the loss in the first step.

# %%
torch.manual_seed(0)
model = AdaLoRA(rank=16 / 12, initial_rank=8).attach(base())
tokens = Mixture().batch(32, torch.Generator().manual_seed(0)).tokens
predicted = 2 * 8 * (4 * (64 + 64 + 1) + 2 * (64 + 256 + 1))  # blocks · r · (q k v o, up down)
measured = sum(p.numel() for p in trainable(model).values())
print(f"trained numbers: predicted {predicted:,}, measured {measured:,}, of {12 * 8} triplets")
assert predicted == measured
assert torch.equal(model(tokens), base()(tokens))
F.mse_loss(model(tokens), plant(0)(tokens)).backward()
assert {name.split(".")[-1] for name, p in trainable(model).items() if p.grad.any()} == {"lam"}

# %% [markdown]
# ## Who imitates best with 16 ranks?
#
# Planted are 8 + 4 + 4 = 16. **Spread** is a LoRA with one or two for every matrix. **Told** is the control: a LoRA
# with 8, 4, 4 in the right places.
#
# 150 steps of 16 lines (our recipe: 500 of 32), best of three learning rates, tried elsewhere. Printed: errors.

# %%
ALL = ("q", "k", "v", "o", "up", "down")
METHODS = {
    "LoRA, spread": LoRA(rank=1, alpha=2, targets=ALL, rank_pattern={"q": 2, "v": 2}),  # 12 + 4 ranks
    "AdaLoRA": AdaLoRA(rank=16 / 12, initial_rank=8, targets=ALL),
    "LoRA, told": LoRA(rank=4, targets=tuple(PLANTED), rank_pattern={"blocks.1.attn.v": 8}),
}
pool = {}
for seed in (*SEEDS, 100):  # a teacher for each seed, and 1,500 lines with its logits; the first 300 are the test
    lines, wise = Mixture().batch(LINES, torch.Generator().manual_seed(1000 + seed)).tokens, plant(seed)
    with torch.no_grad():
        pool[seed] = lines, torch.cat([wise(some) for some in lines.split(100)])


# %%
def imitate(method, lr, seed):
    (lines, wanted), student = pool[seed], base()
    whole = F.mse_loss(student(lines[:300]), wanted[:300]).detach()
    torch.manual_seed(seed)
    student, draw = method.attach(base()), torch.Generator().manual_seed(seed)
    parameters = list(trainable(student).values())
    optimizer = torch.optim.AdamW(parameters, lr, RECIPE.betas, weight_decay=0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * schedule(step, STEPS, STEPS // 3)
        some = torch.randint(300, len(lines), (16,), generator=draw)
        loss = F.mse_loss(student(lines[some]), wanted[some]) / whole
        optimizer.zero_grad()
        (loss + method.regularizer(student)).backward()
        nn.utils.clip_grad_norm_(parameters, RECIPE.clip)
        optimizer.step()
        method.after_step(student, step, STEPS)
    with torch.no_grad():
        return student, (F.mse_loss(student(lines[:300]), wanted[:300]) / whole).item()  # share that is left


# %%
rate = {}
for name, method in METHODS.items():
    tried = {lr: imitate(method, lr, 100)[1] for lr in ((0.03, 0.1, 0.3) if name == "AdaLoRA" else (0.01, 0.03, 0.1))}
    rate[name] = min(tried, key=tried.get)
    print(f"{name:13}", *(f"{lr}: {error:.3f}" for lr, error in tried.items()), f"  best: {rate[name]}", sep="   ")
    assert FAST or rate[name] == list(tried)[1]  # the best one lies between two worse ones

runs = {name: [imitate(method, rate[name], seed) for seed in SEEDS] for name, method in METHODS.items()}
errors = {name: [error for _, error in made] for name, made in runs.items()}
plots.bars(errors, plots.new(6.5, 1.9), "error left (share of the base's)", plots.HUES["AdaLoRA"])
plt.show()
for name, found in errors.items():
    print(f"{name:13}", *(f"{error:.4f}" for error in found))
for spread, ada, told in zip(*errors.values(), strict=True):
    assert FAST or told < ada < 0.5 * spread

# %% [markdown]
# *Figure: squared error left, as a share of the bare base's; a dot for each seed. AdaLoRA leaves a third of the
# spread LoRA's.*
#
# Did it *find* the places?
#
# *Figure 1: the budget and the ranks of all; under it each matrix's rank, seed 0.*
#
# *Figure 2: final ranks, mean over seeds. The framed cells, those planted, have nearly all.*

# %%
model, method = runs["AdaLoRA"][0][0], METHODS["AdaLoRA"]
histories = {path: layer.history for path, layer in layers(model).items()}
plots.rank_history(histories, [method.budget(t, STEPS, 12) for t in range(STEPS + 1)])
plt.show()
chosen = [ranks(m) for m, _ in runs["AdaLoRA"]]
plots.rank_grid(
    {path: [found[path] for found in chosen] for path in chosen[0]}, {path: rank for path, (rank, _) in PLANTED.items()}
)
plt.show()
for found in chosen:
    there = [found[path] for path in PLANTED]
    hits = sum(min(found[path], rank) for path, (rank, _) in PLANTED.items())
    print("v, q, down:", there, "of [8, 4, 4], elsewhere:", 16 - sum(there), f"   in a right place: {hits} of 16")
    assert sum(found.values()) == 16
    assert FAST or (hits >= 11 and min(there) >= 3)

# %% [markdown]
# Guess 1: yes, but for one or two of sixteen.
#
# *Figure 1: what each of 96 triplets is worth at the final choice, seed 0. One bar, dotted, for all matrices: what is
# right of it stays.*
#
# *Figure 2: the model as a strip. Nearly all is grey: where all triplets are masked, ΔW is zero.*

# %%
found = layers(model)
scores, kept = {p: layer.scores() for p, layer in found.items()}, {p: layer.kept for p, layer in found.items()}
plots.triplet_scores(scores, kept)
plt.show()
updates = deltas.updates(model)
plots.what_moved(model, updates)
plt.show()
lowest = min(layer.scores()[layer.kept].min() for layer in found.values() if layer.kept.any())
highest = max(layer.scores()[~layer.kept].max() for layer in found.values() if not layer.kept.all())
assert lowest >= highest
changed = {name.removesuffix(".weight") for name, (_, ΔW) in updates.items() if ΔW.any()}
assert changed == {path for path, rank in ranks(model).items() if rank}

# %% [markdown]
# ## Places, or more numbers?
#
# The race was not fair: at the start AdaLoRA trained 18,528 numbers, the spread LoRA 2,816. Did the surplus help, or
# the choice? A fresh LoRA gets the ranks *found*. And another AdaLoRA starts with 24 triplets, 1.5 times its budget, as
# in the paper.


# %%
def handed(places):
    """A LoRA with these ranks."""
    places = {path: rank for path, rank in places.items() if rank}
    return LoRA(rank=1, targets=tuple(places), rank_pattern=places)


errors |= {"found ranks": [], "from 24": []}
for seed, places in zip(SEEDS, chosen, strict=True):
    student, error = imitate(handed(places), rate["LoRA, told"], seed)
    errors["found ranks"].append(error)
    errors["from 24"].append(imitate(AdaLoRA(rank=16 / 12, initial_rank=2, targets=ALL), rate["AdaLoRA"], seed)[1])
    print(f"seed {seed}, {sum(p.numel() for p in trainable(student).values()):,} numbers:", end="")
    print(*(f"   {name} {found[seed]:.4f}" for name, found in errors.items()))
    assert FAST or error < 0.5 * errors["LoRA, spread"][seed]
    assert FAST or error < errors["AdaLoRA"][seed]

# %% [markdown]
# The choice: with a sixth of the numbers a fresh LoRA beats AdaLoRA itself. But it must start with many.
#
# ## A task that nobody planted
#
# `reverse+violet`, 12 ranks from 24 triplets, 150 steps; LoRAs of rank 1 and 2 everywhere.
#
# *Figure 1: lines right, a dot for each seed.*
#
# *Figure 2: the ranks found, mean over seeds.*

# %%
natural = {
    "LoRA, rank 1": (LoRA(rank=1, alpha=2, targets=ALL), 3e-2),
    "AdaLoRA": (AdaLoRA(rank=1, initial_rank=2), 0.1),
}
natural["LoRA, rank 2"] = LoRA(rank=2, alpha=4, targets=ALL), 3e-2
violet, right, found, reached = task("reverse+violet"), {}, {}, {}
for name, (method, lr) in natural.items():
    made = [adapt(method, violet, lr, seed, Recipe(steps=STEPS)) for seed in SEEDS]
    right[name], found[name] = [evaluate(m, violet).accuracy for m, _ in made], [m for m, _ in made]
    reached[name] = [first_step(history.accuracy) for _, history in made]
    print(f"{name:13} {sum(p.numel() for p in trainable(made[0][0]).values()):,} numbers; 0.9 at step:", *reached[name])
plots.bars(right, plots.new(6.5, 1.9), colour=plots.HUES["AdaLoRA"])
plt.show()
picked = [ranks(m) for m in found["AdaLoRA"]]
plots.rank_grid({path: [each[path] for each in picked] for path in picked[0]})
plt.show()
assert FAST or max(reached["LoRA, rank 2"]) < min(reached["AdaLoRA"])
assert FAST or min(right["AdaLoRA"]) > 0.98 > min(right["LoRA, rank 1"])

# %% [markdown]
# Here the numbers help, not the choice: rank 2 everywhere trains as many as AdaLoRA at its start, and needs fewer
# steps.
#
# ## What it costs
#
# Three numbers more for each trained one, gradient and Adam's means; and two, $\bar I$ and $\bar U$, until the final
# choice. Predicted, then measured. Masked triplets are multiplied too, until merged.

# %%
batch = task("reverse+violet").batch(64, torch.Generator().manual_seed(0))
for name in ("LoRA, spread", "AdaLoRA"):
    m = METHODS[name].attach(base())
    n, expected, real = sum(p.numel() for p in trainable(m).values()), costs.predict(m), costs.measure(m, batch)
    notes = [t for one in layers(m).values() for kind in (one.sensitivity, one.uncertainty) for t in kind.values()]
    guess = expected.gradients + expected.optimizer + 4 * 2 * n * (name == "AdaLoRA")
    found = real.gradients + real.optimizer + sum(4 * t.numel() for t in notes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        m(batch.tokens)
    print(
        f"{name:13} {n:6,} trained; predicted {guess:7,}, measured {found:7,} bytes, ratio {found / guess:.2f}",
        end="; ",
    )
    print(f"{counter.get_total_flops() / 2 / batch.tokens.numel():,.0f} multiplications for a token")
    assert guess == found
m = runs["AdaLoRA"][0][0]
kept = sum(int(layer.kept.sum()) * (len(layer.P) + layer.Q.shape[1] + 1) for layer in layers(m).values())
print(f"a task on disk: {costs.delta_bytes(m):,} bytes, of which the 16 kept triplets are {4 * kept:,}")
assert [type(module) for module in merge(m).modules()] == [type(module) for module in base().modules()]

# %% [markdown]
# Guess 3: no. Only once merged it costs what LoRA costs.
#
# ## Break it
#
# Mistakes from the bank of the exercise, in the real source. **The size of λ**: the largest λs stay. **No penalty**: γ
# is lost. *Lean*: the largest |cosine| of two kept directions. A third, **no smoothing**, goes to the checker.


# %%
def lean(found):
    sides = [F.normalize(w[layer.kept], dim=1) for layer in found.values() for w in (layer.P.T, layer.Q)]
    return max((w @ w.T - torch.eye(len(w))).abs().max().item() for w in sides if len(w))


seen = {"as it should be": (errors["AdaLoRA"][0], lean(layers(model)), chosen[0])}
for what in ("the size of λ", "no penalty"):
    broken = with_mistake("adalora", what)
    student, error = imitate(broken.AdaLoRA(rank=16 / 12, initial_rank=8), rate["AdaLoRA"], 0)
    seen[what] = error, lean(broken.layers(student)), broken.ranks(student)
for what, (error, leans, got) in seen.items():
    print(f"{what:16} error {error:.3f}   lean {leans:.2f}   v, q, down: {[got[path] for path in PLANTED]}")
right, size, loose = seen.values()
assert FAST or size[0] > 1.5 * right[0]
assert FAST or (loose[1] > 0.3 > 0.1 > right[1])
print("\n", diagnose("adalora", with_mistake("adalora", "no smoothing").AdaLoRALinear).text())

# %% [markdown]
# By size wrong matrices win; down goes empty. Without the penalty directions lean; the error hardly grows.
#
# ## Your turn
#
# 1. Count by hand what `AdaLoRA(rank=1, initial_rank=6, targets=("q", "up"))` trains, and how many triplets stay.
# 2. After which of 150 steps has half of the excess gone?
# 3. Write `scores` and `allocate`.


# %%
class AdaLoRALinear(WeightWrapper):
    def scores(self):  # S (r,), from self.sensitivity and self.uncertainty, {"P": (out, r), "lam": (r,), "Q": (r, in)}
        raise NotImplementedError("your turn, 2 lines")


def allocate(layers, t, budget):  # one ranking; set kept, mask λ in place, append (t, rank) to history
    raise NotImplementedError("your turn, 6 lines")


check("adalora", AdaLoRALinear, allocate)

# %% [markdown]
# The whole file: `python -m minipeft start adalora`.
#
# 4. Halve the budget: `AdaLoRA(rank=8 / 12, initial_rank=8)`. Who loses ranks? Predict, then imitate.
# 5. Tell a LoRA the *wrong* places: 8, 4, 4 in `blocks.0.attn.v`, `blocks.0.attn.q`, `blocks.1.mlp.down`. Better than
#    spread?
# 6. In "Break it", write `"no smoothing"` for `"the size of λ"`. Which planted matrix loses?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: $2 \cdot 6\,(129 + 321)$ = 5,400; 4 of 24 stay.
#
# 2: $0.794^3 = ½$: $15 + 0.206 \cdot 90$, step 34.
#
# 4: All three planted.
#
# 5: Far worse, about three times its error.
#
# 6: down, all its ranks; the error is about three times as large.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - $\Delta W=P\Lambda Q$; the triplets that the loss would miss stay.
# - Given many triplets, it finds planted ranks.
# - If you know the ranks, you don't need AdaLoRA.
#
# Paper: Zhang et al. 2023, [arXiv:2303.10512](https://arxiv.org/abs/2303.10512).
#
# ## The same in peft
#
# ```python
# from peft import AdaLoraConfig, get_peft_model
#
# config = AdaLoraConfig(
#     init_r=8, target_r=1, lora_alpha=8,  # our initial_rank and rank; here ΔW is multiplied by α/r of the start
#     target_modules=["q", "k", "v", "o", "up", "down"],
#     total_step=150, tinit=15, tfinal=45, deltaT=10, orth_reg_weight=0.1,  # total_step is a must
# )
# model = get_peft_model(base(), config)
# ...  # in the loop, after loss.backward() and optimizer.step(), before zero_grad:
# model.update_and_allocate(step)
# ```
#
# Its penalty is a mean of norms, and left out in silence without a `task_type`.
