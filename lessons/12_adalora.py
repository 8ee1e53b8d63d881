# %% [markdown]
# # 12 · AdaLoRA: which matrices deserve rank?
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 45 minutes to read and run · 90 with exercises | ●●● | lessons 1 and 10 | a minute on a CPU |
#
# You will let twelve matrices compete for twelve ranks. You write the competition yourself, check its result against a
# truth that we have planted, and find out when it is worth its price.

# %% [markdown]
# ## What the paper did and claimed
#
# LoRA gives every matrix the same rank, whether the matrix needs it or not. AdaLoRA (Zhang et al. 2023,
# [arXiv:2303.10512](https://arxiv.org/abs/2303.10512)) starts with too many ranks everywhere and takes the least
# important ones away during training. The authors fine-tuned DeBERTaV3-base on GLUE and SQuAD and BART-large on
# summaries. At equal budgets AdaLoRA did better than LoRA, most clearly where the budget was small.

# %% [markdown]
# ## Predict
#
# 1. Three of twelve matrices need a change. Can training find out which?
# 2. One part of an update is much larger than the others. Is it therefore more important?
# 3. AdaLoRA ends with as many ranks as a LoRA of rank 1. Does training cost the same memory?

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from minipeft import AdaLoRA, LoRA, base, check, costs, plots, quiz, task, trainable
from minipeft.classroom import with_mistake
from minipeft.lab.planting import distance, imitate, plant
from minipeft.methods import adalora
from minipeft.tasks import Mixture
from minipeft.training import Recipe

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, STEPS = ([0], 12) if FAST else ([0, 1, 2], 200)

# %% [markdown]
# ## Triplets
#
# AdaLoRA has five parts: triplets, a penalty, a score, one ranking, one budget.
#
# The singular value decomposition writes a matrix as a sum of **triplets**: a direction $p_i$ out, a number
# $\lambda_i$, a direction $q_i$ in.
#
# $$\Delta W = P\,\Lambda\,Q = \sum_i \lambda_i\, p_i q_i^\top$$
#
# Training starts with every λ at zero and random directions, so the model starts as the base. By hand, we take the
# simplest directions, so every triplet is one entry of the matrix.

# %%
P = np.eye(4)[:, [0, 1, 2]]  # (out, r): the columns are the directions out
Q = np.eye(4)[[3, 2, 0]]  # (r, in): the rows are the directions in
lam = np.array([5.0, 2.0, 1.0])
print(P * lam @ Q)

for i in range(3):
    masked = np.where(np.arange(3) == i, 0, lam)
    print(f"λ[{i}] ← 0: rank {np.linalg.matrix_rank(P * masked @ Q)}, error {np.linalg.norm(P * (lam - masked) @ Q)}")

# %% [markdown]
# Setting one λ to zero is called **masking** its triplet. The rank falls by one, and the error is exactly that λ. So
# ranks can be taken away one by one.
#
# ## Why there is a penalty
#
# λ tells the error only if all directions have length 1 and stand at right angles. Training does not care about that.
# Here are two updates whose λ misleads:


# %%
def look(name, P, λ, Q):
    ΔW = P * λ @ Q
    error = [np.linalg.norm(λ[i] * np.outer(P[:, i], Q[i])) for i in range(len(λ))]
    penalty = ((P.T @ P - np.eye(len(λ))) ** 2).sum() + ((Q @ Q.T - np.eye(len(λ))) ** 2).sum()
    print(f"{name:12} λ {λ!s:13} size of ΔW {np.linalg.norm(ΔW):.1f}", end="   ")
    print(f"error if masked {np.round(error, 1)!s:11} penalty {penalty:.0f}")


look("right angles", P, lam, Q)
look("longer", P * [10, 1, 1], lam / [10, 1, 1], Q)  # the first direction is ten times as long, its λ a tenth
p, q = P[:, 0], Q[0]
nearly = p + 0.1 * P[:, 1]
look("leaning", np.stack([p, nearly], axis=1), np.array([-10.0, 10.0]), np.stack([q, q]))

# %% [markdown]
# *Longer* is the same ΔW as before, but its most important triplet has the smallest λ. *Leaning* has two triplets that
# nearly cancel: masking one of them makes an error of 10.
#
# AdaLoRA therefore adds γ times the **penalty** of the last column to the loss. The diagonal of $P^\top P$ holds
# squared lengths, and the rest holds inner products, so the penalty is zero only for orthonormal directions:
#
# $$\gamma\left(\lVert P^\top P - I\rVert^2 + \lVert QQ^\top - I\rVert^2\right)$$

# %% [markdown]
# ## Is a large λ important?
#
# Ask the loss. To first order, setting a number $w$ to zero changes it by $-w$ times its gradient. AdaLoRA calls the
# size of this change the **sensitivity** $I$ of $w$:
#
# $$L(0) - L(w) \approx -w\,\frac{\partial L}{\partial w} \qquad\qquad I = \left|w\,\frac{\partial L}{\partial
# w}\right|$$
#
# Our update should turn $x$ into $t$. With $y = \sum_i \lambda_i\,p_i\,(q_i^\top x)$ and $L=\frac12\lVert y-t\rVert^2$,
# the chain rule gives $\partial L/\partial\lambda_i = p_i^\top(y-t)\cdot q_i^\top x$.

# %%
x, t = np.array([2.0, 0, 1, 0]), np.array([4.0, 3, 6, 0])


def loss(λ):
    return ((P @ (λ * (Q @ x)) - t) ** 2).sum() / 2


gradient = (P.T @ (P @ (lam * (Q @ x)) - t)) * (Q @ x)
for i in range(3):
    real = loss(np.where(np.arange(3) == i, 0, lam)) - loss(lam)
    print(f"λ = {lam[i]}   sensitivity {abs(lam[i] * gradient[i]):.0f}   the loss really grows by {real:.0f}")

# %% [markdown]
# Guess 2: no. The largest λ reads where $x$ is zero. In $I$, only the order is right.
#
# ## One batch tells little
#
# So AdaLoRA smooths $I$, with $\beta = 0.85$, and keeps an **uncertainty**: how far $I$ usually is from its mean.
#
# $$\bar I \leftarrow \beta\bar I + (1-\beta)\,I \qquad \bar U \leftarrow \beta\bar U + (1-\beta)\,|I - \bar I|$$
#
# A number scores $\bar I \cdot \bar U$. We try it on a steady number and a restless one.

# %%
β, mean, uncertainty = 0.85, np.zeros(2), np.zeros(2)
for step in range(60):
    now = np.array([1.0, 2.0 * (step % 2)])  # always 1, against 0, 2, 0, 2, ...
    mean = β * mean + (1 - β) * now
    uncertainty = β * uncertainty + (1 - β) * abs(now - mean)
    if step in (0, 1, 2, 58, 59):
        print(f"step {step:2}   I {now}   Ī {mean.round(2)}   Ū {uncertainty.round(2)}")
print("scores Ī·Ū:", (mean * uncertainty).round(2))

# %% [markdown]
# $I$ names another winner at every step; $\bar I$ sees that both are worth 1. The restless number scores *higher*:
# while its importance is uncertain, AdaLoRA would rather keep it. A perfectly steady number would even score zero, but
# with random batches no number is steady.

# %% [markdown]
# ## One ranking, one budget
#
# A triplet scores what its λ scores, plus the mean over its $p$ and the mean over its $q$. (Means, so that wide
# matrices have no advantage.) The triplets of **all** matrices enter one ranking. Suppose two matrices have three
# triplets each:
#
# matrix|scores
# ---|---
# A|**0.9**, 0.1, **0.5**
# B|0.2, 0.05, **0.7**
#
# A budget of 3 keeps the bold ones: rank 2 for A, rank 1 for B.

# %% [markdown]
# The budget $b(t)$ says how many triplets stay after step $t$. For a tenth of the steps all stay; then the surplus
# falls as (time left)³; for the last 30 % nothing changes any more.
#
# Take 96 triplets (12·8), a final budget of 12 and 200 steps. At step 80, half of the falling time is left, so
# $(1/2)^3$ of the surplus of 84 is left: $b(80) = 12 + 10.5$, rounded down to 22.
#
# ## In the model

# %%
plots.structure("AdaLoRA")
plt.show()

# %% [markdown]
# *Figure: beside the frozen weight, Q makes r numbers, Λ weighs each of them, P writes. A masked λ is grey: a 0.*
#
# Until the final choice a masked λ is trained (its gradient has no factor λ), so a triplet can return.
#
# ## Write it
#
# A layer has `lam` (r), and two dictionaries `sensitivity` and `uncertainty`: the $\bar I$ and $\bar U$ of its numbers.
# Their keys and shapes are `"P"` (out, r), `"lam"` (r) and `"Q"` (r, in).


# %%
class AdaLoRALinear(adalora.AdaLoRALinear):
    def scores(self):
        """S (r,): a number scores Ī·Ū; a triplet that of its λ, plus the mean over its column of P and its row of Q."""
        raise NotImplementedError("your turn, 2 lines")


def allocate(layers, t, budget):
    """Keep the `budget` triplets with the highest scores of all layers together, and mask the others.

    Each layer gets `layer.kept`, booleans (r,); λ of the others becomes 0, in place; (t, rank) is appended to
    `layer.history`. Take places from `topk`, not a threshold, so that equal scores cannot break the budget.
    """
    raise NotImplementedError("your turn, 6 lines")


check("adalora", AdaLoRALinear, allocate, use=True)

# %% [markdown]
# ## The source, revealed

# %%
print(inspect.getsource(adalora.AdaLoRALinear.scores))
print(inspect.getsource(adalora.allocate))
print(inspect.getsource(adalora.AdaLoRA.after_step))

# %% [markdown]
# (If your own is right, you see it here in place of ours.) `after_step` runs after each step of the optimizer. It notes
# the gradients, allocates every ten steps while the budget falls, and holds the final choice. In a training loop
# AdaLoRA needs two lines more than LoRA:
#
# ```python
# (loss + method.regularizer(model)).backward()
# optimizer.step()
# method.after_step(model, step, steps)
# ```
#
# `fit` has both for every method; most methods do nothing there.

# %% [markdown]
# ## A task whose ranks we know
#
# To know whether AdaLoRA finds the right places, we plant them. A **teacher** is the base with a random ΔW in three of
# its twelve matrices, of rank 6, 3 and 3. A **student** is the bare base with a method attached; it learns to imitate
# the teacher's logits. Nobody tells it where the changes are. We report the squared error on unseen examples, as a
# share of the bare base's.

# %%
# in each place: the rank of ΔW, and ‖ΔW x‖ / ‖W x‖ over inputs x
PLANTED = {"blocks.1.attn.v": (6, 0.7), "blocks.1.attn.q": (3, 1.5), "blocks.0.mlp.down": (3, 0.3)}

for path, place in PLANTED.items():
    teacher = plant({path: place}, seed=0)  # this change alone
    values = torch.linalg.svdvals(teacher.get_submodule(path).weight - base().get_submodule(path).weight)
    rank, change = (values > 1e-4).sum(), distance(base(), teacher)
    print(f"{path:18} rank {rank}   largest singular value {values[0]:.1f}   logits change by {change:.1f} (squared)")

# %% [markdown]
# Look at the last two lines: `down` has far smaller singular values than `q`, and changes the logits at least as much.
#
# ## Train it
#
# Twelve ranks for twelve matrices: **LoRA, spread** gives each matrix rank 1. **AdaLoRA** starts with 8 triplets in
# each and ends with 12 in all. We train for 200 steps of 32 (the standard has 500), with learning rates chosen on other
# seeds.

# %%
PLAN = Recipe(steps=STEPS)
ALL = ("q", "k", "v", "o", "up", "down")
SPREAD, ADA = LoRA(rank=1, alpha=2, targets=ALL), AdaLoRA(rank=1, initial_rank=8, targets=ALL)

spread, ada, students = [], [], []
for seed in SEEDS:
    spread.append(imitate(SPREAD, PLANTED, 0.03, seed, PLAN)[1])
    student, error = imitate(ADA, PLANTED, 0.1, seed, PLAN)
    students.append(student)
    ada.append(error)
print("error left by LoRA, spread:", *(f"{100 * error:.1f} %" for error in spread))
print("error left by AdaLoRA:     ", *(f"{100 * error:.1f} %" for error in ada))

# %% [markdown]
# AdaLoRA leaves about a tenth of the spread LoRA's error. Did it find the places?

# %%
histories = {path: layer.history for path, layer in adalora.layers(students[0]).items()}
plots.rank_history(histories, [ADA.budget(t, STEPS, 12) for t in range(STEPS + 1)])
plt.show()

# %% [markdown]
# *Figure: seed 0. Above, the budget and the ranks of all matrices together; below, the rank of each matrix. In the end
# nine of twelve matrices have rank 0.*
#
# Some triplets come back: k of block 1 falls to rank 0, and later has rank 1 for a while. Here is where the ranks end,
# for each seed:

# %%
found = [adalora.ranks(student) for student in students]
print("planted   v 6   q 3   down 3")
for seed, ranks in zip(SEEDS, found, strict=True):
    v, q, down = (ranks[path] for path in PLANTED)
    print(f"seed {seed}    v {v}   q {q}   down {down}   elsewhere {sum(ranks.values()) - v - q - down}")

# %% [markdown]
# Guess 1: yes. In each seed at least eleven of twelve ranks lie where they were planted. [Ten seeds in the
# ledger](claims.md#adalora_planted) agree: 11.1 of 12 on average.

# %% [markdown]
# ## The right places, or more numbers?
#
# The comparison was not fair: at its start AdaLoRA trained 18,528 numbers, the spread LoRA 2,304. Three controls tell
# what helped:
#
# - a LoRA of **rank 8** everywhere has 18,432 numbers, and keeps them;
# - a fresh LoRA gets the **ranks found** by AdaLoRA;
# - another AdaLoRA starts **from 2** triplets in each matrix: twice its final budget, not eight times (the paper starts
#   from 1.5 times).

# %%
handed = []
for ranks in found:
    places = {path: rank for path, rank in ranks.items() if rank}
    handed.append(LoRA(rank=1, alpha=2, targets=tuple(places), rank_pattern=places))
WIDE, FROM_2 = LoRA(rank=8, alpha=16, targets=ALL), AdaLoRA(rank=1, initial_rank=2, targets=ALL)

errors = {"LoRA, rank 1": spread, "AdaLoRA, from 2": [], "AdaLoRA, from 8": ada}
errors |= {"LoRA, rank 8": [], "LoRA, ranks found": []}
for seed, fresh in zip(SEEDS, handed, strict=True):
    errors["AdaLoRA, from 2"].append(imitate(FROM_2, PLANTED, 0.1, seed, PLAN)[1])
    errors["LoRA, rank 8"].append(imitate(WIDE, PLANTED, 0.01, seed, PLAN)[1])
    errors["LoRA, ranks found"].append(imitate(fresh, PLANTED, 0.1, seed, PLAN)[1])
percent = {name: [100 * error for error in found_errors] for name, found_errors in errors.items()}
plots.bars(percent, plots.new(7, 2.3), "error left (% of the bare base's)", plots.HUES["AdaLoRA"])
plt.show()

# %% [markdown]
# *Figure: the error left, three seeds each. Rank 8 everywhere and a fresh LoRA with the ranks found leave least.*
#
# The fresh LoRA does as well as rank 8 everywhere, with about a ninth of the numbers. So if you already know the right
# ranks, you don't need AdaLoRA. It is a way to find them.
#
# Why is *from 2* so much worse? `initial_rank` is also the most that a matrix can keep, so none gets its 6 or 3.

# %% [markdown]
# ## What it costs
#
# A triplet has in + out + 1 numbers. A trained number costs three more in training: its gradient and Adam's two
# moments. AdaLoRA adds two, $\bar I$ and $\bar U$. We predict bytes (four a number), then weigh the tensors.

# %%
batch = task("reverse+violet").batch(64, torch.Generator().manual_seed(0))
for name, method, each in (("LoRA, spread", SPREAD, 3), ("AdaLoRA", ADA, 5)):
    model = method.attach(base())
    numbers = sum(p.numel() for p in trainable(model).values())
    predicted, memory = 4 * each * numbers, costs.measure(model, batch)
    measured = memory.gradients + memory.optimizer
    for layer in adalora.layers(model).values():
        measured += sum(4 * t.numel() for t in (*layer.sensitivity.values(), *layer.uncertainty.values()))
    print(f"{name:13} {numbers:6,} numbers: predicted {predicted:7,} bytes, measured {measured:7,}", end=", ")
    print(f"ratio {measured / predicted:.2f}")

print(f"AdaLoRA's file: {costs.delta_bytes(students[0]):,} bytes, masked triplets included")

# %% [markdown]
# Guess 3: no. Gradients, moments and means take 13 times as much memory as with the spread LoRA: eight times the
# numbers are trained, and each costs five numbers instead of three. Masked triplets are stored as well, and computed
# until you merge. After merging, inference costs exactly as much as the base's.

# %% [markdown]
# ## Break it
#
# What if the largest λs stay, instead of the most important triplets?
#
# ```python
# return s["lam"] + s["P"].mean(0) + s["Q"].mean(1)  # right
# return self.lam.abs()                              # broken
# ```

# %%
broken = with_mistake("adalora", "the size of λ")
student, error = imitate(broken.AdaLoRA(rank=1, initial_rank=8, targets=ALL), PLANTED, 0.1, 0, PLAN)
for name, ranks, left in (("right", found[0], ada[0]), ("broken", broken.ranks(student), error)):
    print(f"{name:7} ranks of v, q, down: {[ranks[path] for path in PLANTED]}   error left {left:.3f}")

# %% [markdown]
# `down` loses all of its ranks, and the error is seven times as large. You saw why: its singular values are small,
# although they matter. A ranking by size is blind to that. (One seed here.)

# %% [markdown]
# ## Seen here or not
#
# claim|here|ledger
# ---|---|---
# AdaLoRA puts ranks where they are needed|yes, if it starts with enough|[supported](claims.md#adalora_planted)
# it beats an evenly spread LoRA|yes, where ranks are planted|[supported](claims.md#adalora_planted)
# the same on an ordinary task|not run|[lower loss, no fewer steps](claims.md#adalora_natural)
#
# On that ordinary task, AdaLoRA starts from 2 triplets. A LoRA of rank 2 everywhere trains as many numbers and needs
# the fewest steps.

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* How many numbers does `AdaLoRA(rank=1, initial_rank=6, targets=("q", "up"))` train? Which
#    of P, λ and Q get a gradient from the loss in the first step?
# 2. *Predict, then measure.* Plot the error for `initial_rank` 2, 3, 4, 6, 8.
# 3. *Predict, then measure.* Put a LoRA of rank 6, 3 and 3 into the **wrong** blocks: v and q of block 0, `down` of
#    block 1. Is it better than rank 1 everywhere?

# %% [markdown]
# 4. *Find the mistake.* Someone writes `kept = scores >= scores.topk(budget).values[-1]` in `allocate`. It passes a
#    test with random scores. Build two layers on which it fails.
# 5. *Design the experiment.* Is the penalty needed here? Say what you would compare and which result would convince
#    you. Then run it with `gamma=0`.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1\. $2 \cdot 6\,(129 + 321)$ = 5,400. Only λ: the gradients of P and Q contain Λ, which starts at zero; that of Λ
# contains P and Q, which start random.
#
# 2\. Seed 0: 0.094, 0.035, 0.034, 0.017, 0.013. It falls at 3, where q and down are complete, and again at 6, where v
# is.
#
# 3\. Much worse: 0.41, 0.42, 0.40 (seeds 0 to 2, learning rate 0.1), against 0.15, 0.12, 0.11.
#
# </details>

# %% [markdown]
# <details><summary>Answers to 4 and 5</summary>
#
# 4\. Equal scores: `torch.ones(4)` with a budget of 2 keeps all four.
#
# 5\. Compare error, ranks and angles, seed by seed. Over ten seeds, 1.8 % of the error is left with the penalty and 1.2
# % without; it is less in seven of ten. Of twelve ranks, 11.1 and 11.2 are right. Directions do lean (a cosine up to
# 0.8 instead of 0.01), but nothing suffers from it here.
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions, as an interviewer would ask them. Write a letter for each into `answers`.

# %%
quiz("12_adalora", answers="")

# %% [markdown]
# ## In three lines
#
# - ΔW is a sum of triplets; AdaLoRA starts with too many and keeps those that the loss would miss most.
# - It finds planted ranks, if it starts with enough triplets, and pays for them in training.
# - If you already know the right ranks, you don't need AdaLoRA.
#
# In the reference library:
#
# ```python
# from peft import AdaLoraConfig, get_peft_model
#
# config = AdaLoraConfig(
#     init_r=8, target_r=1, lora_alpha=8,  # ΔW is multiplied by α / init_r
#     target_modules=["q", "k", "v", "o", "up", "down"],
#     total_step=200, tinit=20, tfinal=60, deltaT=10, orth_reg_weight=0.1,
# )
# model = get_peft_model(base(), config)
# model.update_and_allocate(step)  # in the loop, after optimizer.step() and before zero_grad()
# ```
#
# Its penalty is a mean of norms, and it is left out without a word if the model has no `task_type`.

# %% tags=["hide-input"]
assert all(np.isclose(np.linalg.norm(lam[i] * np.outer(P[:, i], Q[i])), lam[i]) for i in range(3))
assert np.allclose(P * [10, 1, 1] * (lam / [10, 1, 1]) @ Q, P * lam @ Q)
assert [ADA.budget(t, 200, 12) for t in (20, 80, 140)] == [96, 22, 12]
assert mean[1] / mean[0] < 1.1 < 10 < (mean * uncertainty)[1] / (mean * uncertainty)[0]
assert lam.argmax() == 0 == gradient[0]
first = ADA.attach(base())
tokens = Mixture().batch(32, torch.Generator().manual_seed(0)).tokens
assert torch.equal(first(tokens), base()(tokens))
F.mse_loss(first(tokens), plant(PLANTED, 0)(tokens)).backward()
assert {name.split(".")[-1] for name, p in trainable(first).items() if p.grad.any()} == {"lam"}
assert measured == 4 * 5 * 18528
assert [sum(ranks.values()) for ranks in found] == [12] * len(SEEDS)
if not FAST:
    assert all(a > b > 3 * c > 3 * max(d, e) for a, b, c, d, e in zip(*errors.values(), strict=True))
    for ranks in found:
        assert sum(min(ranks[path], rank) for path, (rank, _) in PLANTED.items()) >= 11
    assert broken.ranks(student)["blocks.0.mlp.down"] == 0
    assert error > 5 * ada[0]
