# %% [markdown]
# # 10 · LoRA: the change is two thin matrices
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 40 minutes to read and run · 80 with exercises | ●●○ | PyTorch, lesson 1 | 30 s on a CPU |
#
# After this lesson you can write LoRA from memory, derive its gradients, say which rank is enough, and predict what an
# adapter costs. Its settings follow in lesson 11.

# %% [markdown]
# ## What the paper did
#
# Hu et al. 2021 ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)) freeze a pretrained model and train a product of
# two thin matrices beside some of its weights. They adapt RoBERTa, DeBERTa, GPT-2 and GPT-3, which has 175 billion
# parameters. They report the quality of full fine-tuning or better, up to 10,000 times fewer trained parameters, a
# third of the GPU memory, and no additional latency.

# %% [markdown]
# ## First, guess
#
# 1. LoRA adds a product $BA$ that is zero at the start. How can training move it away from zero?
# 2. We plant a change of rank 4 in a weight and let LoRA find it. What is gained from rank 3 to rank 4, and what from
#    rank 4 to rank 8?
# 3. Our base has 109,372 parameters. How many must LoRA train for a new task: a tenth of that, a hundredth, or less?

# %%
import copy
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from minipeft import Full, LoRA, base, check, costs, decode, deltas, encode, evaluate, merge, plots, quiz, summary, task
from minipeft.attach import detach, trainable
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.lab.planted_head import PlantedHead
from minipeft.methods import lora
from minipeft.training import Recipe, fit

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS = [0] if FAST else [0, 1, 2]
RECIPE = Recipe(steps=150) if FAST else Recipe()  # 500 steps of 32 examples
BODIES = lora.LoRALinear.__init__, lora.LoRALinear.forward, lora.LoRALinear.delta
OURS = "\n".join(inspect.getsource(body) for body in BODIES)

# %% [markdown]
# ## The base and the task
#
# The **base** is the pretrained model. It knows many tasks by their instruction: `reverse blue` means that the word is
# reversed and that each letter is replaced by its entry in the table `blue`. Without the instruction, the base cannot
# know what we want. We teach it to do `reverse+blue` whenever no instruction is given.

# %%
model = base()
for goal in (task("reverse+blue", instructed=True), task("reverse+blue")):
    prompt = goal.prompt("cabbed")
    answer = decode(model.generate(encode(prompt)[None], new=7)[0])
    print(f"{prompt:24} {answer:10} accuracy on unseen examples: {evaluate(model, goal).accuracy:.2f}")

# %% [markdown]
# With the instruction, the base is right; without it, it copies the word.
#
# ## The idea on a 4 × 4
#
# Training changes a weight $W$ into $W + \Delta W$. Full fine-tuning learns all of $\Delta W$. LoRA learns two thin
# factors, $\Delta W = BA$. $A$ reads $r$ numbers from the input $x$, and $B$ says where each of them is added to the
# output. The number $r$ is the **rank**; here it is 1.

# %%
W = np.eye(4)
A = np.array([[0.0, 1.0, 0.0, -1.0]])  # (r, in) = (1, 4): read the second number minus the fourth
B = np.array([[1.0], [0.0], [2.0], [0.0]])  # (out, r) = (4, 1): add it to the first output, and twice to the third
x = np.array([1.0, 5.0, 2.0, 3.0])

print("BA =", B @ A, sep="\n")
print("A x             =", A @ x)
print("W x + B (A x)   =", W @ x + B @ (A @ x), "   LoRA beside W")
print("(W + B A) x     =", (W + B @ A) @ x, "   LoRA added to W")

# %% [markdown]
# Every row of $BA$ is a multiple of the one row of $A$: that is what rank 1 means. The last two lines are equal, so
# LoRA can run beside $W$ while it is trained, and be added to $W$ afterwards.
#
# How many numbers does this save? $\Delta W$ has $\text{out}\cdot\text{in}$ of them, the two factors have
# $r\,(\text{out}+\text{in})$.

# %%
print("   width           full     LoRA, r = 1     LoRA, r = 8    full / LoRA, r = 8")
for d in (4, 64, 768, 12288):  # this example, our base, GPT-2, GPT-3
    print(f"{d:8,}{d * d:15,}{1 * (d + d):16,}{8 * (d + d):16,}{d * d / (8 * (d + d)):18.2f}")

# %% [markdown]
# The wider the matrix, the more LoRA saves. In a 4 × 4, rank 8 would cost *more* than the whole matrix.
#
# ## The gradients, by hand
#
# The layer computes $h=Ax$ and $y=Wx+s\,Bh$. The scale is $s=\alpha/r$, and you choose the number $\alpha$. Dividing by
# $r$ lets one learning rate serve several small ranks (lesson 14). Let $g=\partial L/\partial y$ be the gradient from
# above. Two steps of the chain rule are enough.

# %% [markdown]
# **For $B$.** Output $i$ contains $s\,B_{ik}h_k$, and no other output contains $B_{ik}$. So
#
# $$\frac{\partial L}{\partial B_{ik}} = s\,g_i\,h_k, \qquad \frac{\partial L}{\partial B} = s\,g\,(Ax)^\top$$
#
# **For $A$.** Every output $i$ contains $h_k$ with the factor $s\,B_{ik}$, so $\partial L/\partial h = s\,B^\top g$.
# And $h_k$ contains $A_{kj}x_j$:
#
# $$\frac{\partial L}{\partial A} = s\,B^\top g\,x^\top$$
#
# Each gradient contains the *other* matrix. We compute both, in numbers that you can check in your head ($s=1$). (For a
# batch: `python -m minipeft start lora_gradients`.)

# %%
g = np.array([1.0, 0.0, -1.0, 2.0])  # the gradient that arrives from above

for name, b in (("B as above", B), ("B = 0", 0 * B)):
    grad_B, grad_A = np.outer(g, A @ x), np.outer(b.T @ g, x)
    print(f"{name:12} ∂L/∂B = {grad_B.ravel()}    ∂L/∂A = {grad_A.ravel()}")

    A_, B_ = torch.tensor(A, requires_grad=True), torch.tensor(b, requires_grad=True)
    y = torch.tensor(W @ x) + B_ @ (A_ @ torch.tensor(x))
    (torch.tensor(g) @ y).backward()  # so ∂L/∂y is g
    print(f"{'autograd':12} ∂L/∂B = {B_.grad.numpy().ravel()}    ∂L/∂A = {A_.grad.numpy().ravel()}")

# %% [markdown]
# Our gradients and autograd's are equal. Guess 1: $A$ starts random and $B$ at zero, so the model starts as the base.
# But $\partial L/\partial B$ contains $A$: the first step moves $B$, and from the second step on $A$ moves too. If
# *both* were zero, both gradients would be zero for ever.
#
# ## Write it
#
# A LoRA layer **wraps** a frozen `nn.Linear`:
#
# ```python
# # LoRALinear(linear, rank, scale) makes a layer with these attributes:
# self.base     # the frozen nn.Linear; calling it computes x Wᵀ + b for rows x
# self.A        # (r, in), random
# self.B        # (out, r), zero
# self.scale    # s = α/r
# self.dropout  # acts on the input of A and nowhere else; by default it does nothing
# ```
#
# Write the two bodies. If they are right, the rest of the lesson runs on them.


# %%
class LoRALinear(lora.LoRALinear):
    def forward(self, x):  # (..., in) → (..., out)
        """The frozen layer's output plus s·B A dropout(x), for each row of x. F.linear(x, M) computes x Mᵀ."""
        raise NotImplementedError("your turn, 2 lines")

    def delta(self):  # (out, in)
        """ΔW: the matrix that can be added to the frozen weight so that the layer is no longer needed."""
        raise NotImplementedError("your turn, 1 line")


check("lora", LoRALinear, use=True)

# %% [markdown]
# ## The source, revealed
#
# `__init__` makes the two factors. In `forward`, the product with `A` comes first: it shrinks a token from `in` numbers
# to `r`. The matrix $BA$ is never built there; only `delta` builds it.

# %%
plots.structure("LoRA")
plt.show()
print(OURS)

# %% [markdown]
# *Figure: the frozen weight, grey; beside it the path through A and B, whose output is added.*
#
# ## Attach it
#
# `attach` returns a **view**: the same frozen weights, with a wrapper around each module that `targets` names. The
# targets are `q` and `v`, as in the paper, and $s=\alpha/r=8/4=2$. (These are the defaults.) Before training we check
# three promises: the outputs are those of the base, only `A` and `B` are trained, and at first only `B` has a gradient.

# %%
torch.manual_seed(0)  # draws A
goal = task("reverse+blue")
model = LoRA(rank=4, alpha=8, targets=("q", "v")).attach(base())
batch = goal.batch(64, torch.Generator().manual_seed(0))
logits = model(batch.tokens)
print("largest difference from the base:", (logits - base()(batch.tokens)).abs().max().item())
print(summary(model))

F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
for name, p in trainable(model).items():
    print(f"{name:22} {tuple(p.shape)!s:9} norm of the gradient {p.grad.norm():.4f}")

# %% [markdown]
# Four matrices with $4\cdot(64+64)$ numbers each make 2,048.
#
# ## Train it
#
# `adapt` attaches the method and trains it with the standard recipe: 500 steps of 32 new examples. The learning rate
# 0.03 was tuned on other seeds. One seed is an anecdote, so we take three; each seed draws its own `A` and its own
# data.

# %%
runs = {f"seed {seed}": adapt(LoRA(rank=4), goal, 3e-2, seed, RECIPE) for seed in SEEDS}
histories = {name: history for name, (_, history) in runs.items()}
left, right = plots.new(8.5, 2.8, columns=2)
plots.curves(histories, "loss", left)
plots.curves(histories, "accuracy", right)
plt.show()
scores = [evaluate(view, goal).accuracy for view, _ in runs.values()]
print("accuracy on unseen examples:", *(f"{score:.3f}" for score in scores))

# %% [markdown]
# *Figure: loss and accuracy while training, a line for each seed. All three go from no example to nearly all between
# steps 50 and 110. Then they jitter, two of them down to 0.85 near step 170, and settle.*
#
# The learning rate is highest at step 167. As it falls, the jitter ends.
#
# ## What moved
#
# We look at seed 0: first at every tensor of the model, then inside one of them.

# %%
model = runs["seed 0"][0]
plots.what_moved(model, deltas.updates(model))
plt.show()
layer = model.blocks[0].attn.q
plots.low_rank(layer.A, layer.B, layer.scale)
plt.show()

# %% [markdown]
# *Figure: a bar for each tensor. Only q and v changed, q of block 0 by five times its norm.*
#
# *Figure: B, A and their product, the change of q in block 0. The last 16 of its rows are nearly white.*
#
# Those 16 rows are head 3, which read the word for the table in lesson 1. Does LoRA leave *this* head alone? We look at
# `v` too, and undo head 3's changes: zeros in its rows of $B$.


# %%
def undone(view, name):
    """A copy of the model without LoRA's change of head 3 in q or v of block 0."""
    view = copy.deepcopy(view)
    getattr(view.blocks[0].attn, name).B.data[48:] = 0  # the last 16 rows
    return view


shares, without = {}, {}
print("   head 3's share of ‖ΔW‖², seed 0   accuracy when it is undone, by seed")
for name in ("q", "v"):
    change = getattr(model.blocks[0].attn, name).delta().detach()
    shares[name] = (change[48:].square().sum() / change.square().sum()).item()
    without[name] = [evaluate(undone(view, name), goal).accuracy for view, _ in runs.values()]
    print(f"{name}  {shares[name]:31.2f}  ", *(f"{score:.2f}" for score in without[name]))

# %% [markdown]
# No. A quarter would be an equal share. In `q`, head 3 has 0.03, and undoing that costs little. In `v` it has 0.49, and
# undoing that costs nearly everything. In attention, `q` decides *where* a head looks and `v` *what it hands over*. So
# LoRA changed what head 3 hands over. Our guess: now it is what `blue` would have made it hand over.

# %% [markdown]
# ## Which rank is enough? Plant one
#
# Take a task whose rank we know: two tokens change places in what the model writes. In the output layer, `model.head`,
# rows $w_0$ and $w_1$ of $W$ are exchanged. Row 0 gains $w_1-w_0$ and row 1 loses it. If $e_i$ is a column with a 1 at
# place $i$,
#
# $$\Delta W = (e_0-e_1)(w_1-w_0)^\top$$
#
# This is one column times one row: rank 1. Two such exchanges have rank 2. On a 4 × 4:

# %%
W = np.diag([1.0, 1.0, 2.0, 2.0])
change = W[[1, 0, 3, 2]] - W  # rows 0 and 1 change places, and so do rows 2 and 3
U, S, V = np.linalg.svd(change)
print("singular values:", S.round(2), "   energy:", (change**2).sum(), "=", (S**2).sum().round(2))
for r in (1, 2):
    best = (U[:, :r] * S[:r]) @ V[:r]
    print(f"the best matrix of rank {r} leaves {((change - best) ** 2).sum() / (change**2).sum():.2f} of the energy")

# %% [markdown]
# The **singular value decomposition** writes a matrix as a sum of rank-1 matrices, largest first. Their sizes are the
# singular values, 4 and 2 here. Their squares add up to the **energy**, the sum of all squared numbers. The best matrix
# of rank $r$ keeps the $r$ largest (Eckart and Young). Here rank 1 leaves $2^2/(4^2+2^2) = 0.2$ of the energy, and no
# training can remove that.

# %% [markdown]
# Now the output layer: four pairs of letters change places. `PlantedHead` computes the planted $\Delta W$.
#
# - `imitate` trains a LoRA on `head` for 200 steps so that its logits equal the planted head's. It returns the squared
#   error of the logits, divided by that of the untouched base.
# - `bound` is the least error that rank $r$ can reach. The logits change by $\Delta W$ times the inputs $X$, so it
#   needs the singular values of $\Delta W X$.

# %%
planted = PlantedHead("ab", "cd", "ef", "gh")
print("rank of the planted change:", planted.rank)
errors, bound = {}, {}
for r in (1, 2, 3, 4, 5, 8):
    method = LoRA(rank=r, alpha=2 * r, targets=("head",))  # α = 2r, so s = 2 at every rank
    errors[r] = [planted.imitate(method, seed)[1] for seed in SEEDS]  # the pair is (ΔW, error)
    if r < planted.rank:
        bound[r] = planted.bound(r)
plots.error_by_rank(errors, true_rank=planted.rank, bound=bound)
plt.show()

# %% [markdown]
# *Figure: the error that LoRA leaves, by rank. Up to rank 3 it lies on the least possible error; at rank 4 it falls to
# a four-hundredth of that at rank 3, and then stays low.*
#
# Guess 2: below the true rank, the error is the least that Eckart and Young allow. At the true rank, 0.0004 of the
# base's error is left; above it there is next to nothing to gain.
#
# And in a task where nobody planted anything?

# %%
for r in (1, 2, 4):
    view, history = adapt(LoRA(rank=r, alpha=2 * r), goal, 3e-2, 0, RECIPE)
    numbers = sum(p.numel() for p in trainable(view).values())
    share = numbers / sum(p.numel() for p in base().parameters())
    print(f"rank {r}: {numbers:5,} numbers, {share:.2%} of the base, accuracy {evaluate(view, goal).accuracy:.3f}")

# %% [markdown]
# Guess 3: rank 1 is enough here. That is 512 numbers, about one parameter of the base in two hundred (one seed). All
# ranks reach 1.00, so this task cannot tell them apart. Lesson 11 has one that can.
#
# ## Merge it
#
# $W + s\,BA$ has the shape of $W$. `merge` writes it into a plain `nn.Linear`. The view and the base stay as they
# are.

# %%
with torch.no_grad():
    merged = merge(model)
    apart, together = model(batch.tokens), merged(batch.tokens)
gap, largest = (apart - together).abs().max(), apart.abs().max()
print(f"largest difference of a logit: {gap:.1e}, where logits reach {largest:.0f}")
print("type of the merged layer:", type(merged.blocks[0].attn.q).__name__)
same = deltas.fingerprint(detach(model)) == deltas.fingerprint(base())
print("detached, the base is the same to the last bit:", same)

# %% [markdown]
# ## What it costs: time
#
# Merged, LoRA *is* a model of the base's shape, so we predict a ratio of 1. Unmerged, each token passes two thin
# matrices more. For each token, the base multiplies by $2\cdot(4+8)\cdot64^2+64\cdot60$ = 102,144 weights: 4 for
# attention, 8 for the MLP. LoRA of rank 4 on all six matrices of both blocks adds
# $2\cdot4\cdot(4\cdot128+2\cdot320)=9{,}216$. The ratio is 1.09. We measure a forward pass of one example.

# %%
everywhere = LoRA(rank=4, targets=("q", "k", "v", "o", "up", "down")).attach(base())
models = {"base": base(), "merged": merge(everywhere), "unmerged": everywhere}
one = goal.batch(1, torch.Generator().manual_seed(0))
times = costs.latency(models, one, repeats=200)
for name, predicted in {"base": 1, "merged": 1, "unmerged": 1.09}.items():
    median = times[name][1]
    print(f"{name:9} predicted {predicted:.2f}, measured {median / times['base'][1]:.2f}   ({median:.2f} ms)")

# %% [markdown]
# Merged, LoRA is free. Unmerged, it costs far more than its multiplications say, because every small product has a
# start-up cost. Merge before you serve a single task; [lesson 15](15_several_tasks.ipynb) serves several.
#
# ## What it costs: memory
#
# For each *trained* number, training stores a gradient and Adam two running means. So we predict three times the
# trained numbers, of four bytes each. We do not predict the **activations**, which the forward pass keeps for the
# backward pass.

# %%
few = goal.batch(8, torch.Generator().manual_seed(0))
measured = {}
for method in (Full(), LoRA(rank=4)):
    view = method.attach(base())
    predicted, found = costs.predict(view), costs.measure(view, few)
    for part in ("weights", "gradients", "optimizer"):
        guess, real = getattr(predicted, part), getattr(found, part)
        print(f"{method!s:13} {part:10} predicted {guess / 1000:6.1f} kB, measured {real / 1000:6.1f} kB")
    print(f"{method!s:13} stored for one task: {costs.delta_bytes(view) / 1000:.1f} kB\n")
    measured[str(method)] = found
plots.memory(measured, shares=False)
plt.show()

# %% [markdown]
# *Figure: memory of a training step with eight examples. LoRA has almost no gradients and no Adam state; its
# activations shrink by a third. In all it needs 42 %.*
#
# The predictions are exact; a task is stored in 8 kB, not 437. Most activations stay: the gradient must still pass
# every layer. LoRA needs 30 % in all with one example, 59 % with 64.
#
# ## Break it
#
# Three mistakes raise no error. What will each one show?
#
# ```python
# nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))                     # right: A random,
# self.B = nn.Parameter(base.weight.new_zeros(out, rank))              # B zero
#
# nn.init.zeros_(self.A)                                               # broken 1: both zero
# self.B = nn.Parameter(base.weight.new_empty(out, rank).normal_())    # broken 2: both random
# ```
#
# ```python
# return self.scale * self.B @ self.A                       # right: delta, which is what merging adds
# return self.B @ self.A                                    # broken 3: s is forgotten
# ```

# %%
zero = with_mistake("lora", "both zero").LoRA(rank=4).attach(base())
fit(zero, goal, lr=3e-2, steps=20, device="cpu", progress=False)
moved = sum(int(p.any()) for p in trainable(zero).values())
print(f"both zero: after 20 steps, {moved} of {len(trainable(zero))} matrices are not zero")

known = task("reverse+red", instructed=True)  # the base has practised this one
random = with_mistake("lora", "both random").LoRA(rank=4).attach(base())
before, after = evaluate(base(), known).accuracy, evaluate(random, known).accuracy
print(f"both random: accuracy on a known task {before:.2f} before attaching, {after:.2f} after, before any training")

silent = with_mistake("lora", "delta without scale").LoRA(rank=4).attach(base())
silent.load_state_dict(model.state_dict())
apart, together = evaluate(silent, goal).accuracy, evaluate(merge(silent), goal).accuracy
print(f"merged without s: accuracy {apart:.2f} unmerged, {together:.2f} merged")

# %% [markdown]
# With both at zero, nothing ever moves. With both random, the base is destroyed before the first step. Without $s$ in
# `delta`, training and evaluation look perfect, and the *merged* model fails.
#
# Three tests of one line catch them: after a step, $B$ is not zero; at the start, the outputs are the base's; merged
# and unmerged outputs are equal.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | LoRA equals full fine-tuning | untested | [contradicted](claims.md#lora_and_full) |
# | rank helps up to the task's | yes | [supported](claims.md#elbow) |
# | merged, no latency | yes | [supported](claims.md#inference) |
# | a third of the memory | 42 % | [holds](claims.md#training_memory) at one example |
#
# Ledger, row 1: from 60 examples of a new table, LoRA solves 0.82 (q, v), 0.98 (all six); full fine-tuning 0.99.

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* What does `LoRA(rank=8, targets=("k", "up"))` train? Check: `summary`.
# 2. *Predict, then measure.* `PlantedHead("abc")` makes b of a, c of b, a of c. Which rank is needed? Check: `imitate`.
# 3. *Find the mistake.* A `forward` begins with `h = F.linear(self.base(x), self.A)`. Which test fails?
# 4. *Design the experiment.* Is $B$ more important than $A$?
# 5. *Write* a loop that puts a `lora.LoRALinear` in the place of each `q` and `v` of `base()`.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: $2\cdot8\cdot(64+64)+2\cdot8\cdot(64+256)$ (7,168).
#
# 2: Rank 2: the three changes add up to zero. Ranks 1, 2, 3 leave 0.51, 0.0004, 0.0004 (seed 0, α = 2r).
#
# 3: Merging. Training learns $BAW$; `delta` gives $BA$. Accuracy 1.00, merged 0.00 (seed 0).
#
# 4: Fix a random $A$, train $B$; fix a random $B$, train $A$ from zero. Take equal numbers and tuned learning rates. In
# the [ledger](claims.md#b_matters_more), $A$ alone wins.
#
# 5: 2,048 numbers are trained; the outputs are the base's.
#
# ```python
# model = base()  # frozen already
# for block in model.blocks:
#     for name in ("q", "v"):
#         setattr(block.attn, name, lora.LoRALinear(getattr(block.attn, name), rank=4, scale=2.0))
# print(sum(p.numel() for p in model.parameters() if p.requires_grad))
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("10_lora", answers="")

# %% [markdown]
# ## In three lines
#
# - LoRA learns $\Delta W = s\,BA$ beside a frozen $W$: $r\,(\text{in}+\text{out})$ numbers instead of
#   $\text{in}\cdot\text{out}$.
# - $A$ starts random and $B$ at zero: the model starts as the base, and $B$ moves first. Merged, it costs no time.
# - Below the rank of the task there is an error that no training removes; above it, more rank brings nothing.
#
# The same in peft, the reference library:
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
#
# Papers: LoRA [2106.09685](https://arxiv.org/abs/2106.09685), A and B compared
# [2402.16842](https://arxiv.org/abs/2402.16842).

# %% tags=["hide-input"]
assert evaluate(base(), task("reverse+blue", instructed=True)).accuracy > 0.5 > 0.1 > evaluate(base(), goal).accuracy
assert torch.equal(logits, base()(batch.tokens))
names = [f"blocks.{i}.attn.{p}.{m}" for i in (0, 1) for p in "qv" for m in "AB"]
assert list(trainable(LoRA(rank=4, alpha=8, targets=("q", "v")).attach(base()))) == names
assert set(deltas.updates(model)) == {name.replace(".A", ".weight").replace(".B", ".weight") for name in names}
assert torch.linalg.matrix_rank(layer.delta(), rtol=1e-5) == 4
assert all(error < 1.1 * bound[r] for r in bound for error in errors[r])
assert all(300 < a / b < 600 and b / c < 10 for a, b, c in zip(errors[3], errors[4], errors[8], strict=True))
assert [type(m) for m in merged.modules()] == [type(m) for m in base().modules()]
assert moved == 0 < 0.3 < before - after
assert found.gradients == 4 * 2048 == found.optimizer / 2
assert 0.5 < found.activations / measured["Full"].activations < 0.8
if not FAST:
    assert min(scores) > 0.98 > 0.35 > max(without["v"])
    assert min(without["q"]) > 0.95 > shares["v"] > 0.4 > 0.1 > shares["q"]
    assert together + 0.1 < apart == evaluate(model, goal).accuracy
    assert 0.85 < times["merged"][1] / times["base"][1] < 1.15 < times["unmerged"][1] / times["base"][1]
