# %% [markdown]
# # 10 · LoRA: the change is two thin matrices
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 60 minutes | ●●○ | PyTorch, lesson 1 (Transformer, toy world) | a minute on a CPU |
#
# *Low-rank adaptation*: you will derive its gradients, read its source, train, measure, and break it.

# %% [markdown]
# ## First, guess
#
# Told `reverse blue`, our base of 109,372 numbers reverses a word and swaps letters. It should do so untold.
#
# 1. How many numbers must we train: all, a tenth, a hundredth?
# 2. LoRA adds a matrix product, $BA$, that starts at zero. How can zero learn?
# 3. Trained freely, do weights change in few directions only?

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minipeft import Full, LoRA, Mixture, base, check, costs, decode, deltas, encode, evaluate, fit, plots, task

from minipeft import detach, merge, recording, summary, trainable  # isort: skip
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.methods import lora
from minipeft.training import Recipe

torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, STEPS, ENOUGH = ([0], 150, 0.7) if FAST else ([0, 1, 2], 200, 0.95)

# %% [markdown]
# ## The base and the task
#
# A line has instruction words, a colon, six letters and `=`. The **base** is the pretrained model; now it is
# **frozen**: none of its numbers will change. It knows the words `reverse` and `blue`, though it never saw them
# together. Without words it cannot know what we want.

# %%
told, untold = task("reverse+blue", instructed=True), task("reverse+blue")
model = base()
for asked in (told, untold):
    for word in ("cabbed", "minola"):
        line = encode(asked.prompt(word))
        print(decode(line), decode(model.generate(line[None], new=7)[0]))
    print(f"    lines that are right: {evaluate(model, asked).accuracy:.2f}\n")
assert evaluate(model, told).accuracy > 0.5
assert evaluate(model, untold).accuracy < 0.1

# %% [markdown]
# ## The idea on a 4 × 4
#
# Training turns a weight $W$ into $W + \Delta W$. **Full fine-tuning** learns all of $\Delta W$. LoRA learns two thin
# factors, $\Delta W = BA$: $A$ reads a few numbers out of $x$, $B$ says where they are added. How many it reads is the
# **rank** $r$.

# %%
W = np.eye(4)
B = np.array([[1.0], [0.0], [2.0], [0.0]])  # (out, r) = (4, 1): add to the first place, twice to the third
A = np.array([[0.0, 1.0, 0.0, -1.0]])  # (r, in) = (1, 4): read second minus fourth
x = np.array([1.0, 5.0, 2.0, 3.0])

print("BA =", B @ A, sep="\n")
print("A x =", A @ x, "   y = W x + B (A x) =", W @ x + B @ (A @ x), "\n")
assert np.linalg.matrix_rank(B @ A) == 1  # all rows of BA are multiples of one row
assert np.allclose(W @ x + B @ (A @ x), (W + B @ A) @ x)  # beside W, or added to W: the same

print("how many numbers: out · in, against r · (in + out)\n   width         full   LoRA r=1   LoRA r=8  full / r=8")
for d in (4, 64, 768, 12288):  # this example, our base, GPT-2, GPT-3
    print(f"{d:8,} {d * d:12,} {2 * d:10,} {16 * d:10,} {d * d / (16 * d):11.2f}")

# %% [markdown]
# ## The gradients, by hand
#
# In full, $y = Wx + s\,BAx$ with $s=\alpha/r$. You choose $\alpha$; the paper divides by $r$ so that one learning rate
# serves several ranks. With $g=\partial L/\partial y$:
#
# $$\frac{\partial L}{\partial B} = s\,g\,(Ax)^\top \qquad \frac{\partial L}{\partial A} = s\,B^\top g\,x^\top$$
#
# Each has the *other* matrix in it.

# %%
rng = np.random.default_rng(0)
W, A, B = rng.normal(size=(3, 5)), rng.normal(size=(2, 5)), rng.normal(size=(3, 2))
x, t, s = rng.normal(size=5), rng.normal(size=3), 1.5

for name, b in {"B random": B, "B zero": 0 * B}.items():
    g = W @ x + s * b @ (A @ x) - t  # ∂L/∂y of L = ‖y − t‖²/2
    by_hand = s * np.outer(b.T @ g, x), s * np.outer(g, A @ x)  # ∂A, ∂B

    A_, B_ = torch.tensor(A, requires_grad=True), torch.tensor(b, requires_grad=True)
    y = torch.tensor(W @ x) + s * B_ @ (A_ @ torch.tensor(x))
    autograd = torch.autograd.grad((y - torch.tensor(t)).square().sum() / 2, (A_, B_))
    for mine, theirs in zip(by_hand, autograd, strict=True):
        assert np.allclose(mine, theirs)
    print(f"{name}:   ‖∂A‖ = {np.linalg.norm(by_hand[0]):5.2f}   ‖∂B‖ = {np.linalg.norm(by_hand[1]):5.2f}")

# %% [markdown]
# ## The source
#
# Guess 2: $A$ starts random, $B$ at zero. So $BA = 0$, the model starts *as the base*. At first only $B$ has a
# gradient; then $A$ joins in.
#
# *Figure: the frozen weight, grey; beside it A and B, coloured.*
#
# The layer is a **wrapper**: it stands in another module's place and keeps it as `base`.

# %%
plots.structure("LoRA")
plt.show()
print(inspect.getsource(lora.LoRALinear))

# %% [markdown]
# ## Attach it
#
# `attach` leaves the model alone and returns a **view**: new modules around the same frozen numbers, and a wrapper
# around each module that `targets` names: `q` and `v`, as in the paper. Three promises: the outputs are the base's to
# the last bit, only $A$ and $B$ are trained, at the start only $B$ has a gradient.

# %%
model = LoRA(rank=4, alpha=8, targets=("q", "v")).attach(base())
batch = untold.batch(64, torch.Generator().manual_seed(0))
logits = model(batch.tokens)
assert torch.equal(logits, base()(batch.tokens))

names = [f"blocks.{i}.attn.{proj}.{matrix}" for i in (0, 1) for proj in "qv" for matrix in "AB"]
assert list(trainable(model)) == names
assert sum(p.numel() for p in trainable(model).values()) == 4 * 4 * (64 + 64)  # matrices · r · (in + out)

F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
for name, p in trainable(model).items():
    assert (p.grad.norm() == 0) == name.endswith("A")
print(model.blocks[0].attn)
print(summary(model))

# %% [markdown]
# ## Train it
#
# A result from one seed is an anecdote, so we use several. Tuning chose LoRA's learning rate, 0.03. 200 steps are
# enough here; our recipe has 500.
#
# *Figure: loss (left, logarithmic) and accuracy (right) while training, a line for each seed. All seeds climb from none
# right to nearly all between steps 40 and 100.*


# %%
def learn(method, lr=3e-2, seed=0, goal=untold):
    return adapt(method, goal, lr, seed, Recipe(steps=STEPS))  # the seed draws A and the lines


runs = {f"LoRA(rank=4), seed {seed}": learn(LoRA(rank=4), seed=seed) for seed in SEEDS}
left, right = plots.new(8, 2.8, columns=2)
plots.curves({name: history for name, (_, history) in runs.items()}, "loss", left)
plots.curves({name: history for name, (_, history) in runs.items()}, "accuracy", right)
plt.show()
scores = [evaluate(m, untold).accuracy for m, _ in runs.values()]
model = runs["LoRA(rank=4), seed 0"][0]
print(summary(model), "  lines that are right, by seed:", *(f"{score:.3f}" for score in scores))
assert min(scores) > ENOUGH

# %% [markdown]
# ## What moved, what was learned
#
# *Figure 1: the whole model as a strip. Only q and v are coloured.*
#
# *Figure 2: the trained B times A is the change of one weight: 512 numbers make 4,096.*
#
# Its norm is six times that of the weight. The last 16 rows, the fourth head, stay nearly zero.

# %%
plots.what_moved(model, deltas.updates(model))
plt.show()
layer = model.blocks[0].attn.q
print(f"‖ΔW‖ / ‖W‖ = {layer.delta().norm() / layer.base.weight.norm():.1f}")
plots.low_rank(layer.A, layer.B, layer.scale)
plt.show()
assert set(deltas.updates(model)) == {f"blocks.{i}.attn.{proj}.weight" for i in (0, 1) for proj in "qv"}
assert torch.linalg.matrix_rank(layer.delta(), rtol=1e-5) == 4
assert FAST or layer.delta()[48:].norm() < 0.2 * layer.delta().norm()

# %% [markdown]
# ## Which rank is enough? Plant one
#
# Take a task whose rank we know. In the head, the rows of a and b change places, c and d, e and f, g and h. Each pair
# is a $\Delta W$ of rank 1, all four of rank 4. A LoRA on the head must imitate it; $\alpha=2r$, so $s=2$ always.

# %%
old, order = base().head, torch.arange(60)
here, there = ":abcdefgh", ":badcfehg"
order[encode(here)[1:]] = encode(there)[1:]
planted = old.weight[order] - old.weight  # ΔW (60, 64)
TRUE = int(torch.linalg.matrix_rank(planted))
print(f"the planted change has rank {TRUE}")

trunk = base()
trunk.head = torch.nn.Identity()  # what comes before the head is frozen, so compute it once
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    H = torch.cat([trunk(Mixture().batch(200, generator).tokens).flatten(0, 1) for _ in range(6)])  # (N, 64)
    Y = old(H) + H @ planted.T  # (N, 60), the logits to imitate
train, test = slice(0, len(H) // 2), slice(len(H) // 2, None)
moved = (Y - old(H)).square().mean().sqrt()
print(f"{len(H):,} tokens; swapping the letters moves a logit by {moved:.2f} on average")

# %% [markdown]
# A matrix of rank 4 is a sum of four of rank 1. **Singular values** are their sizes, largest first. Their squares sum
# to the **energy**: all numbers of the matrix, squared.
#
# Rank $r$ imitates the $r$ largest at best (Eckart-Young). The other energy stays: the error.
#
# *Figure: on that bound up to rank 3, then hundreds of times lower.*


# %%
def imitate(method, seed, lr=3e-2):
    torch.manual_seed(seed)
    model = method.attach(base())
    optimizer = torch.optim.Adam(trainable(model).values(), lr=lr)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        some = torch.randint(train.stop, (512,))
        loss = F.mse_loss(model.head(H[some]), Y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    with torch.no_grad():
        far, start = F.mse_loss(model.head(H[test]), Y[test]), F.mse_loss(old(H[test]), Y[test])
    return model, (far / start).item()  # squared distance to the wanted logits, over the base's


# %%
ranks = (1, 2, 3, 4, 5, 8)
students = {
    rank: [imitate(LoRA(rank=rank, alpha=2 * rank, targets=("head",)), seed) for seed in SEEDS] for rank in ranks
}
errors = {rank: [error for _, error in found] for rank, found in students.items()}
wanted = H[test] @ planted.T  # what has to be added to the logits
energy = torch.linalg.svdvals(wanted) ** 2
assert torch.isclose(energy.sum(), wanted.square().sum())
bound = {rank: (energy[rank:].sum() / energy.sum()).item() for rank in range(1, TRUE)}
plots.error_by_rank(errors, true_rank=TRUE, bound=bound)
plt.show()
below, at = errors[TRUE - 1], errors[TRUE]
print(f"drop from rank {TRUE - 1} to rank {TRUE}, by seed:", *(f"{a / b:.0f}x" for a, b in zip(below, at, strict=True)))
for seed in range(len(SEEDS)):
    assert below[seed] / at[seed] > 30  # the elbow stands at the true rank
    assert at[seed] / errors[8][seed] < 10  # more rank brings little
    assert all(errors[rank][seed] < 1.1 * bound[rank] for rank in bound)  # training comes close to the bound

# %% [markdown]
# ## What would full fine-tuning have learned?
#
# *Figure: singular values of the head's change, a marker for each. The plant, full fine-tuning, and LoRA of rank 8 and
# 4 have nearly the same four, so they stand side by side; then a cliff. Rank 2 ends after two.*

# %%
full, error = imitate(Full(targets=("head.weight",)), seed=0)
found = {"planted": planted, "Full(head)": full.head.weight - old.weight}
found |= {f"LoRA(rank={rank})": students[rank][0][0].head.delta() for rank in (8, 4, 2)}
plots.spectrum(found, relative=False, first=8)
plt.show()
print(f"error of full fine-tuning: {error:.4f}")
for name in ("Full(head)", "LoRA(rank=8)"):
    values = torch.linalg.svdvals(found[name].detach())
    print(f"{name:13}", values[: TRUE + 2].numpy().round(3))
    if there == ":badcfehg":  # for the pairs; exercise 5 plants something else
        assert values[TRUE] < 1e-3 * values[TRUE - 1]

# %% [markdown]
# A warning: we planted a low rank, and it was found. Symmetry helped: row a gains what b loses.
#
# And if nobody planted? Back to `reverse+blue`: all of q and v, or LoRA. Do the largest directions of full
# fine-tuning do its work?
#
# *Figure: singular values of one change over the largest. Full fine-tuning (learning rate 0.01) has no cliff.*

# %%
rivals = {"Full(q, v)": learn(Full(targets=("q.weight", "v.weight")), lr=1e-2)[0]}
for rank in [4] if FAST else [8, 4, 2, 1]:
    rivals[f"LoRA(rank={rank})"] = model if rank == 4 else learn(LoRA(rank=rank, alpha=2 * rank))[0]
moved = {name: {place: d for place, (_, d) in deltas.updates(m).items()} for name, m in rivals.items()}
plots.spectrum({name: changes["blocks.0.attn.q.weight"] for name, changes in moved.items()})
plt.show()
for name, m in rivals.items():
    accuracy = evaluate(m, untold).accuracy
    print(f"{name:13} accuracy {accuracy:.3f}")
    assert accuracy > ENOUGH or name == "LoRA(rank=1)"
assert all(S[4] > 0.3 * S[3] for S in map(torch.linalg.svdvals, moved["Full(q, v)"].values()))  # no cliff

for k in (1, 2, 4, 6, 8, 16):
    part = base()
    for place, change in moved["Full(q, v)"].items():
        U, S, V = torch.linalg.svd(change)
        part.get_parameter(place).data = part.get_parameter(place) + (U[:, :k] * S[:k]) @ V[:k]
    kept = evaluate(part, untold).accuracy
    print(f"full fine-tuning, the largest {k:2} of 64 directions: accuracy {kept:.3f}")
    assert FAST or kept < 0.1 or (k > 2 and (k < 8 or kept > 0.95))

# %% [markdown]
# Guess 3: yes and no (one run; [twenty](claims.md#low_rank_change)). There is no cliff, but eight directions do nearly
# all of the work; at learning rate 0.03 it takes sixteen.
#
# Guess 1: rank 2, under one in a hundred, is enough. Rank 1: seed 2 has 0.00 after 200 steps. After 500, ten of ten
# seeds have 1.00 (README).

# %% [markdown]
# ## Merging
#
# $W + s\,BA$ is a matrix like $W$. `merge` writes it into a plain `nn.Linear`: the result is one more view, which holds
# nothing of LoRA. Nothing has to be undone: the view with $A$ and $B$ is as it was, and `detach` returns the base,
# which nobody changed.

# %%
with torch.no_grad():
    apart = model(batch.tokens)
    merged = merge(model)
    difference = (merged(batch.tokens) - apart).abs().max().item()
    print(f"largest difference of a logit: {difference:.1e}, of {apart.abs().max():.0f}")
    assert difference < 1e-5 * max(1, apart.abs().max().item())
    assert type(merged.blocks[0].attn.q) is torch.nn.Linear
    assert [type(m) for m in merged.modules()] == [type(m) for m in base().modules()]
    assert torch.equal(model(batch.tokens), apart)
    assert deltas.fingerprint(detach(model)) == deltas.fingerprint(base())

# %% [markdown]
# ## What it costs: time
#
# Merged, LoRA *is* a model of the base's shape. Unmerged, it makes two thin products more for each wrapped weight. We
# wrap all six weights of a block, feed one line at a time and count multiplications; the clock shows more, for every
# product has a start-up cost too.

# %%
everywhere = LoRA(targets=("q", "k", "v", "o", "up", "down")).attach(base())
models = {"base": base(), "merged": merge(everywhere), "unmerged": everywhere}
times = costs.latency(models, untold.batch(1, torch.Generator().manual_seed(0)), repeats=50 if FAST else 200)
work = {}
for name, (low, median, high) in times.items():
    with FlopCounterMode(display=False) as counter, torch.no_grad(), recording(models[name]):
        models[name](untold.batch(1, torch.Generator().manual_seed(0)).tokens)
    work[name] = counter.get_total_flops() / 2
    print(
        f"{name:9} {work[name]:12,.0f} multiplications, {median:5.2f} ms ({low:.2f} to {high:.2f} in half of the runs)"
    )
assert work["merged"] == work["base"] < work["unmerged"]

# %% [markdown]
# ## What it costs: memory
#
# For each *trained* number Adam needs a gradient and two running means. So we predict: three times the weights for full
# fine-tuning, almost nothing for LoRA. **Activations**, which the forward pass keeps for the backward pass, we only
# measure.

# %%
measured = {}
for method in (Full(), LoRA(rank=4)):
    m = method.attach(base())
    expected, real = costs.predict(m), costs.measure(m, batch)
    print(f"{method!s:14}{'predicted':>12}{'measured':>12}   (kilobytes)")
    for part in ("weights", "gradients", "optimizer"):
        guess, found = getattr(expected, part), getattr(real, part)
        print(f"  {part:12}{guess / 1000:12,.1f}{found / 1000:12,.1f}   ratio {found / guess:.2f}")
        assert guess == found
    print(f"  {'activations':12}{'':12}{real.activations / 1000:12,.1f}")
    print(f"  {'a task, stored':24}{costs.delta_bytes(m) / 1000:12,.1f}\n")
    measured[type(method)] = real
ratio = measured[LoRA].activations / measured[Full].activations
print(f"activations, LoRA / full: {ratio:.2f}")
assert ratio > 0.4

# %% [markdown]
# Activations shrink far less: the gradient must reach the first `q`. It pays where weights are large.
#
# ## Break it
#
# Mistakes from the exercises. **Both zero**: each gradient has the other as a factor. **Both random**: not the base at
# the start. **Merged without s**: $s = 2$ is left out, which costs a tenth of the lines or more.

# %%
slips = ("both zero", "both random", "delta without scale")
wrong = [with_mistake("lora", slip).LoRA(rank=4) for slip in slips]
known = task("reverse+red", instructed=True)  # the base has practised this one
for seed, (name, (good, _)) in zip(SEEDS, runs.items(), strict=True):
    torch.manual_seed(seed)
    zero, random, silent = (method.attach(base()) for method in wrong)
    fit(zero, untold, steps=20, lr=1e-2, device="cpu", progress=False)
    assert all(p.count_nonzero() == 0 for p in trainable(zero).values())  # nothing ever moves
    before, after = evaluate(base(), known).accuracy, evaluate(random, known).accuracy
    silent.load_state_dict(good.state_dict())
    apart, merged = evaluate(silent, untold).accuracy, evaluate(merge(silent), untold).accuracy
    print(f"{name}: both random {before:.2f} → {after:.2f}, merged without s {apart:.2f} → {merged:.2f}")
    assert after < before - 0.3
    assert apart == evaluate(good, untold).accuracy  # no loss shows it
    assert merged < apart - 0.1

# %% [markdown]
# ## Your turn
#
# 1. What does `LoRA(rank=8, targets=("k", "up"))` train? From which rank on does LoRA train *more* than a 64 × 64
#    weight has? Check with `summary`. More such: `python -m minipeft start predict_parameters`.
# 2. Mend this layer's silent mistake. Whole file: `python -m minipeft start lora`.
#
# *Figure: ΔW as it should be, as it is, the difference.*


# %%
class LoRALinear(lora.LoRALinear):
    def forward(self, x):  # (..., in)
        h = F.linear(self.dropout(x), self.A)  # (..., r)
        return self.base(x) + F.linear(h, self.scale * self.B)  # (..., out)

    def delta(self):
        return self.B @ self.A  # (out, in)


check("lora", LoRALinear)
plt.show()  # what differs

# %% [markdown]
# 3. `python -m minipeft start lora_gradients`: by hand. If $A = 0$, $B$ random, which learns first?
# 4. `python -m minipeft start find_the_mistake`.
# 5. Plant a *cycle*: `here, there = ":abc", ":bca"`. Its rank? Run on to the spectrum.
# 6. New table: `learn(LoRA(rank=4), 1e-2, goal=task("reverse+violet"))`. What helps: rank 8
#    with α = 16, or learning rate 0.03?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: 7,168; from 33 on. 3: $A$; $\partial B$ has a factor $A$.
#
# 5: 2, and the elbow is there. Full fine-tuning ends at 3: three rows move, and nothing pairs them.
#
# 6: Either. Five seeds, rank 4: 0.35 to 0.69 at 0.01, 0.99 or more at 0.03. Rank 8 with α = 16: 0.99 or more.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - LoRA learns $\Delta W = s\,BA$ beside a frozen $W$: $r\,(\text{in} + \text{out})$ numbers.
# - $A$ random, $B = 0$: it starts as the base. Merged, it costs no time.
# - A low-rank solution must exist; full fine-tuning need not find it.
#
# Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685). The same in peft:
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# config = LoraConfig(r=4, lora_alpha=8, target_modules=["q", "v"])
# model = get_peft_model(base(), config)  # changes the model it is given; ours makes a view
# model.print_trainable_parameters()
# ...  # train as usual
# model = model.merge_and_unload()  # plain nn.Linear again
# ```
