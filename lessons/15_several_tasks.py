# %% [markdown]
# # 15 · Several tasks: one base, many deltas
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 40 minutes to read and run · 80 with exercises | ●●○ | lessons 6 and 10 | 25 s on a CPU |
#
# After this lesson you can store a task as a small file, serve four tasks in one batch, say when two tasks can be
# added, and explain why a model forgets.

# %% [markdown]
# ## What the papers did
#
# S-LoRA ([arXiv:2311.03285](https://arxiv.org/abs/2311.03285)) and Punica
# ([2310.18547](https://arxiv.org/abs/2310.18547)) serve many LoRAs on one Llama, S-LoRA even thousands: a batch mixes
# tasks, and the base works once for all. Ilharco et al. 2022 ([2212.04089](https://arxiv.org/abs/2212.04089)) add up
# what fine-tuning has changed in CLIP and T5, and one model does several tasks. McCloskey and Cohen showed in 1989 what
# such tools avoid: a network that learns a second task forgets the first.

# %% [markdown]
# ## First, guess
#
# 1. A model has 7 billion parameters and a hundred tasks. How much disk do a hundred fine-tuned copies need, how much
#    one base with a hundred LoRAs?
# 2. The rows of a batch belong to four tasks. How many passes do they need?
# 3. One delta reverses the word, another replaces its letters. What does their sum do?
# 4. One model learns three tasks in turn. What is left of the first?

# %%
import inspect
import os
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from minipeft import Full, LoRA, MultiTask, PromptTuning, arithmetic, base, check, costs, decode, deltas, encode

from minipeft import evaluate, fit, mixing, plots, quiz, task  # isort: skip
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.lab.at_once import AtOnce
from minipeft.training import Recipe
from minipeft.worlds.languages import Worded

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, UNSEEN = ([0], 40) if FAST else ([0, 1, 2, 3, 4], 200)
SHORT = Recipe(steps=12 if FAST else 80)
LONG = Recipe(steps=12 if FAST else 240)
OURS = inspect.getsource(mixing.RowsLinear.rows)

# %% [markdown]
# ## Three tasks
#
# The base copies a word when no instruction is given. Our tasks change one thing each: `reverse` and `left` change the
# order of the letters, `blue` replaces each letter by its entry in a table.

# %%
model = base()
goals = {"reverse": task("reverse+plain"), "left": task("left+plain"), "blue": task("copy+blue")}
for name, goal in goals.items():
    row = goal.batch(1, torch.Generator().manual_seed(0)).tokens[0]
    accuracy = evaluate(model, goal, UNSEEN).accuracy
    print(f"{name:8} an example: {decode(row)}   the base's accuracy: {accuracy:.2f}")

# %% [markdown]
# We train a LoRA of rank 4 for each. The tasks that change the order go into the attention, and the task that changes
# letters goes into the MLP. Here training takes 80 steps of 32 examples instead of the usual 500, with a learning rate
# of 0.01; exercise 2 shows why it is not higher. `delta_of` collects all that was trained. We call that a **delta**
# (others say adapter checkpoint).

# %%
ATTENTION, MLP = ("q", "k", "v", "o"), ("up", "down")
places = {"reverse": ATTENTION, "left": ATTENTION, "blue": MLP}


def learn(name, seed):
    method = LoRA(rank=4, targets=places[name])
    view, _ = adapt(method, goals[name], 1e-2, seed, SHORT)
    return deltas.delta_of(view, {"task": name})


def score(delta, goal):
    """Accuracy on unseen examples of a task with a delta on the base."""
    return evaluate(deltas.load(delta, model), goal, UNSEEN).accuracy


found = {name: [learn(name, seed) for seed in SEEDS] for name in goals}
for name, goal in goals.items():
    print(f"{name:8} accuracy by seed:", *(f"{score(delta, goal):.2f}" for delta in found[name]))

# %% [markdown]
# ## A task is a file
#
# A file holds the trained numbers, the method with its settings, and the **fingerprint** of the base: a hash of all its
# weights. A LoRA of rank 4 on q, k, v and o of two blocks has $4\,(64+64)$ numbers at each of $2\cdot 4$ places, 4,096
# in all. At four bytes each we predict 16,384 bytes; a header comes on top.

# %%
folder = Path(tempfile.mkdtemp())
copy = 4 * sum(p.numel() for p in model.parameters())
for name in goals:
    delta = found[name][0]
    numbers = sum(tensor.numel() for tensor in delta.tensors.values())
    size = deltas.write(delta, folder / name)
    print(f"{name:8} predicted {4 * numbers:,} bytes, the file has {size:,}, ratio {size / 4 / numbers:.2f}")
    print(f"{'':8} a copy of the whole model has {copy:,} bytes, {copy / size:.0f} times as many")

# %% [markdown]
# Guess 1: at two bytes a number, 7 billion parameters need 14 GB, so a hundred copies need 1,400 GB. With 32
# blocks of width 4,096, the same LoRA has $4\,(4096+4096)$ numbers at each of $32\cdot 4$ places: 8 MB. A hundred of
# them and the base need less than 15 GB.
#
# Now we load the files, and then put one on a base that is *almost* the right one: a single number differs in its last
# bit.

# %%
line = encode(": cabbed =")[None]
for name in goals:
    view = deltas.load(folder / name, model)
    print(f"{name:8}: cabbed = {decode(view.generate(line, new=6)[0])}")

stranger = base()
with torch.no_grad():
    bias = stranger.head.bias[:1]
    bias.copy_(torch.nextafter(bias, bias + 1))
try:
    deltas.load(folder / "reverse", stranger)
except deltas.DeltaError as error:
    refused = str(error).replace(str(folder), "...")
    print("\nrefused:", refused)

# %% [markdown]
# $\Delta W$ was trained for one $W$. On another base $V$, $V+\Delta W$ would answer without an error, and
# nobody has trained that. So the file is refused.
#
# ## Several tasks in one batch, on a 4 × 4
#
# A server has rows of many tasks at once. Row $i$ needs the pair of its task $t(i)$:
#
# $$y_i = W x_i + B_{t(i)}\,A_{t(i)}\,x_i$$
#
# $W$ is the same for all rows, so it works once. Only the pair is looked up.

# %%
W = np.eye(4)
A = np.array([[[0.0, 1, 0, 0]], [[0.0, 0, 0, 1]]])  # (tasks, r, in): task 0 reads number 1, task 1 reads number 3
B = np.array([[[1.0], [0], [0], [0]], [[0.0], [0], [2], [0]]])  # (tasks, out, r): where it is added, and how often
X = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 0, 1, 1]])  # three rows
t = np.array([0, 1, 0])  # the task of each

for x, task_of_x in zip(X, t, strict=True):  # one by one: three passes
    print("one by one:", (W + B[task_of_x] @ A[task_of_x]) @ x)

own_A, own_B = A[t], B[t]  # (rows, r, in), (rows, out, r): looked up for each row
h = own_A @ X[:, :, None]  # (rows, r, 1)
print("together:", X @ W.T + (own_B @ h)[:, :, 0], sep="\n")

# %% [markdown]
# The first two rows differ only in their task: one gets $1+2=3$ in the first place, the other $3+2\cdot 4=11$ in the
# third. `X @ W.T` was computed once.
#
# ## Write it
#
# A `RowsLinear` wraps each linear layer:
#
# ```python
# self.views        # {name: the layer of this task here}; a task that changes nothing here is not in it
# self.batch.names  # ["blue", None, "left"]: the names that occur in the batch; None is the bare base
# self.batch.index  # tensor([0, 2, 0, 1]): for each row, the place of its name in that list
# ```
#
# Its `forward` calls `rows` once for all $A_i$, once for all $B_i$. For $A$, it passes:
#
# ```python
# kind = LoRALinear  # layers of another kind have no A
# of(layer)          # gives the layer's A, filled up with zero rows to the largest rank
# none               # a matrix of zeros with A's shape, for names without such a layer; not Python's None
# ```
#
# ```text
# an example, at a layer q, which blue does not change, with the names and the index above:
#
# one entry for each name   none, none, A of left
# one entry for each row    none, A of left, none, none
# ```
#
# If no name has a layer of this kind, `rows` returns None, and `forward` adds nothing.


# %%
class RowsLinear(mixing.RowsLinear):
    def rows(self, kind, of, none):  # → (rows, ...) or None
        """of(layer) for each row whose layer here is of this kind, `none` for each other row.

        None if no row has a layer of this kind. You may use isinstance(layer, kind) and torch.stack.
        """
        raise NotImplementedError("your turn, 4 lines; self.views.get(name) is the layer of a name, or None")


check("sharing", RowsLinear, use=True)

# %% [markdown]
# ## The source, revealed
#
# `torch.stack` makes one entry for each *name*; the index turns that into one entry for each *row*. No loop runs over
# the rows. Autograd goes back through the index, so a mixed batch can be trained too: each row's gradient reaches its
# own pair.

# %%
print(OURS)

# %% [markdown]
# ## Four tasks in one batch
#
# Each loaded delta is a **view**: the shared frozen weights, with the delta's layers around them. `MultiTask` takes
# named views. The fourth is of another kind: a prompt of two vectors, those of the words `sort red` (lesson 6).


# %%
def serve(seed):
    """A MultiTask with the three deltas of a seed, and a prompt."""
    views = {name: deltas.load(found[name][seed], model) for name in goals}
    words = tuple(encode("sort red").tolist())
    views["sort red"] = PromptTuning(length=2, init=words).attach(model)
    return MultiTask(views)


several = serve(0)
names = ["reverse", "blue", None, "sort red", "left", "blue", "sort red", "reverse"]
tokens = torch.stack([encode(f": {word} =") for word in ["cabbed"] * 5 + ["minola"] * 3])
answers = several.generate(tokens, names, new=6)
rows = [decode(row).replace(" ", "") for row in torch.cat([tokens, answers], dim=1)]
plots.mixed_batch([list(row) for row in rows], names, given=tokens.shape[1])
plt.show()

# %% [markdown]
# *Figure: one batch of eight rows. What was given is white; each answer has the colour of its row's delta. The first
# five rows ask for the same word and get five answers.*
#
# Is each answer what the row would get alone, under its own view? We compare all logits.

# %%
for seed in SEEDS:
    several, names = serve(seed), [*goals, "sort red", None] * 3
    tokens = goals["reverse"].batch(15, torch.Generator().manual_seed(seed)).tokens[:, :8]  # up to the equals sign
    with torch.no_grad():
        together = several(tokens, names)
        alone = [several.views.get(name, model)(row[None])[0] for name, row in zip(names, tokens, strict=True)]
    gap = (together - torch.stack(alone)).abs().max() / together.abs().max()
    print(f"seed {seed}: the largest difference is {gap:.0e} of the largest logit")

# %% [markdown]
# They are equal up to rounding.
#
# ## What it costs: predicted, then measured
#
# Twelve rows of eight tokens belong to three LoRAs and the bare base. In one mixed pass, each row gets a pair at
# *every* place where *any* row has one; if its own task has none there, the pair is zero. So we predict the base's
# multiplications and $r\,(\text{in}+\text{out})$ more for each token and place. How does the *time* compare with four
# passes, one for each task?

# %%
whose = ["reverse", "left", "blue", None] * 3
batch = goals["reverse"].batch(12, torch.Generator().manual_seed(0)).tokens[:, :8]


def mixed():
    return several(batch, whose)


def one_by_one():
    return [several(batch[i::4], whose[i::4]) for i in range(4)]


def bare():
    return model(batch)


with torch.no_grad():
    ways = {"mixed": mixed, "one by one": one_by_one, "bare": bare}
    times = costs.taking_turns(ways, repeats=60, clock=time.process_time)  # quartiles of processor time


# %%
def multiplications(way):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops() // 2


attention, mlp = 2 * 4 * 4 * (64 + 64), 2 * 2 * 4 * (64 + 256)  # blocks · matrices · r · (in + out), for each token
extra = {mixed: 12 * 8 * (attention + mlp), one_by_one: 3 * 8 * (2 * attention + mlp), bare: 0}
for name, way in ways.items():
    predicted = multiplications(bare) + extra[way]
    print(f"{name:10} predicted {predicted:,} multiplications, measured {multiplications(way):,}")
    print(f"{'':10} {times[name][1]:.2f} ms, ratio to one by one {times[name][1] / times['one by one'][1]:.2f}")

# %% [markdown]
# Guess 2: one pass. The predictions are exact. The mixed batch multiplies *more* than four passes do, because of the
# zeros, and still takes less time: at this size, starting an operation costs more than what it computes. The more tasks
# there are, the more it saves: eight LoRAs in one pass take [0.57](claims.md#one_pass) of the time of eight passes. It
# is slower than the bare base, because it stacks the pairs first; Punica's kernels read them in place.

# %% [markdown]
# ## Adding tasks, on the same 4 × 4
#
# A task is a change of weights, so tasks can be **added**: $W + \Delta W_1 + \Delta W_2$. This is **task arithmetic**,
# and there a delta is called a task vector. The sum of two LoRAs is a LoRA again, of twice the rank:
#
# $$B_0A_0 + B_1A_1 = \begin{bmatrix}B_0 & B_1\end{bmatrix}\begin{bmatrix}A_0\\A_1\end{bmatrix}$$

# %%
x = X[0]
added = B[0] @ A[0] + B[1] @ A[1]
stacked = np.hstack([B[0], B[1]]) @ np.vstack([A[0], A[1]])
factors = (B[0] + B[1]) @ (A[0] + A[1])  # tempting: the rank stays 1
for name, change in {"added": added, "stacked": stacked, "factors added": factors}.items():
    print(f"{name:14} rank {np.linalg.matrix_rank(change)}   (W + ΔW) x = {(W + change) @ x}")

# %% [markdown]
# The sum does both changes: 1 + 2 in the first place, 3 + 2 · 4 in the third. Adding the *factors*, each by itself, is
# something else: beside $B_0A_0 + B_1A_1$ the product contains $B_0A_1$ and $B_1A_0$, which nobody trained. So the
# first place has 1 + 2 + 4.
#
# In one layer, the sum is exact. In a network, the second layer gets inputs that it did not see in training. So we
# measure.

# %%
left_blue, both = task("left+blue"), task("reverse+blue")
asked = [  # what is shown, which deltas are added, what is asked for
    ("reverse alone, asked: reverse+blue", ["reverse"], both),
    ("blue alone, asked: reverse+blue", ["blue"], both),
    ("reverse + blue, asked: reverse+blue", ["reverse", "blue"], both),
    ("left + blue, asked: left+blue", ["left", "blue"], left_blue),
    ("reverse + left, asked: reverse", ["reverse", "left"], goals["reverse"]),
    ("reverse + left, asked: left", ["reverse", "left"], goals["left"]),
]
sums = {}
for text, names, goal in asked:
    added = [arithmetic.add(model, [found[name][seed] for name in names]) for seed in SEEDS]
    sums[text] = [score(delta, goal) for delta in added]
plots.bars(sums, plots.new(7.5, 2.8), "accuracy on unseen examples")
plt.show()

# %% [markdown]
# *Figure: accuracy of single deltas and of sums; a bar is the mean, a dot is a seed. An order and a table add up to
# both, in part; two orders add up to neither.*
#
# Guess 3: `reverse + blue` reverses *and* replaces letters. Nobody trained that, and no single delta does it. Over five
# seeds its accuracy goes from 0.59 to 0.95, and that of `left + blue` from 0.27 to 0.89. So test every sum.

# %% [markdown]
# When can adding work? **Both wishes must be possible at once.** `reverse` chooses *which* letter is read, and `blue`
# chooses *how* it is written: one answer can satisfy both. `reverse` and `left` both choose which letter is read, and
# for the same place they want different ones. Their sum solves neither task.
#
# For such tasks, load one delta at a time, or mix the rows of a batch. Or give each task an instruction word of its
# own.

# %% [markdown]
# ## More arithmetic
#
# In the ledger, three LoRAs learn a [new instruction word](claims.md#addition) each, and each has 1.00 on its own.
# Words tell the tasks apart, so adding helps: over the three tasks, the sum has a mean accuracy of 0.86, the best
# single LoRA 0.33.

# %% [markdown]
# Deltas can also be subtracted. The **analogy** `reverse+red` − `copy+red` + `copy+blue` solves 0.40 of `reverse+blue`,
# each delta alone 0.00 ([supported](claims.md#analogies)). The **negation** $W-\Delta W$ should forget one task and no
# other; it does not ([contradicted](claims.md#negation)).
#
# Two papers merge with more care: **TIES** (exercise 5) and **DARE**, which drops numbers at random. In the ledger,
# TIES [does not beat](claims.md#conflicts) the sum, and DARE may drop half of the numbers, but [not nine
# tenths](claims.md#dropping).

# %% [markdown]
# ## One after the other
#
# Now **one** model learns `reverse`, then `left`, then `blue`, with full fine-tuning of 80 steps each. A word in front
# of each example tells the tasks apart. As a control, another model learns all three at once, in 240 steps: `AtOnce`
# makes batches with equally many examples of each. Our deltas need no such word: whoever loads a file has chosen the
# task.

# %%
words = {"reverse": "please", "left": "then", "blue": "now"}
told_apart = {name: Worded(goal, words[name]) for name, goal in goals.items()}
for goal in told_apart.values():
    print(decode(goal.batch(1, torch.Generator().manual_seed(0)).tokens[0]))


def train(view, goal, seed, recipe):
    """Full fine-tuning, which goes on from where the view is; then the accuracy on each of the three tasks."""
    fit(view, goal, lr=3e-3, seed=seed, device="cpu", progress=False, **recipe.settings())
    return [evaluate(view, each, UNSEEN).accuracy for each in told_apart.values()]


in_turn, at_once = [], []
for seed in SEEDS[:3]:
    one = Full().attach(base())
    in_turn.append([train(one, goal, seed, SHORT) for goal in told_apart.values()])  # after each of the three
    at_once.append(train(Full().attach(base()), AtOnce(*told_apart.values()), seed, LONG))

# %%
in_files = []  # the folder gets one file after the other; a task whose file is not there yet has the bare base
for seed in SEEDS[:3]:
    folder, after = Path(tempfile.mkdtemp()), []
    for new in goals:
        deltas.write(found[new][seed], folder / new)
        views = {name: deltas.load(folder / name, model) for name in goals if (folder / name).exists()}
        after.append([evaluate(views.get(name, model), goal, UNSEEN).accuracy for name, goal in goals.items()])
    in_files.append(after)
shown = {"one model, fine-tuned in turn": np.mean(in_turn, 0), "a delta for each": np.mean(in_files, 0)}
plots.accuracy_matrix(shown, list(goals))
plt.show()
for seed, scores in zip(SEEDS, at_once, strict=False):
    print(f"one model, all three at once, seed {seed}:", *(f"{score:.2f}" for score in scores))

# %% [markdown]
# *Figure: accuracy on each task (columns) after each training (rows), means over three seeds. One model knows only what
# it learned last; with deltas, all that was learned stays.*
#
# Guess 4: nothing is left, although the same model can learn all three at once. The loss of `left` says nothing about
# `reverse`, so the shared weights move wherever the new examples pull them. Deltas share no trained weight.

# %% [markdown]
# ## Break it
#
# Here are two mistakes that raise no error. `entries` is what `torch.stack` returns.
#
# ```python
# return entries[self.batch.index]                                    # right
# return entries[self.batch.index - 1]                                # broken: neighbour's update
# return entries[torch.arange(len(self.batch.index)) % len(entries)]  # broken: in the order of the rows
# ```
#
# We test each with two batches. In the first, every name occurs once; in the second, each occurs twice, side by side.
# Which test finds which mistake?

# %%
views = {name: deltas.load(found[name][0], model) for name in goals}
once = [*goals, None]
twice = [name for name in once for _ in range(2)]


def own_answers(several, names):
    """How many rows of a mixed batch get the answer that their own view gives."""
    tokens = goals["reverse"].batch(len(names), torch.Generator().manual_seed(0)).tokens[:, :8]
    answers = several.generate(tokens, names, new=6)
    alone = [views.get(name, model).generate(row[None], new=6)[0] for name, row in zip(names, tokens, strict=True)]
    return sum(torch.equal(a, b) for a, b in zip(answers, alone, strict=True))


ways = {"right": MultiTask(views)}
for mistake in ("neighbour's update", "in the order of the rows"):
    ways[mistake] = with_mistake("sharing", mistake).MultiTask(views)
for name, way in ways.items():
    print(f"{name:25} own answer: {own_answers(way, once)} of 4 rows, {own_answers(way, twice)} of 8 rows")

# %% [markdown]
# "Neighbour's update" gives every row another task's answer, and both tests find it. "In the order of the rows" passes
# the first test: with each name once, taking the names in turn *is* right. So a test of mixed batches must repeat
# names.
#
# Neither mistake crashes. A user would get a fluent answer to somebody else's task.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger: ten seeds |
# |---|---|---|
# | a mixed batch answers as each row alone | yes | [holds by construction](claims.md#mixed_batches) |
# | it takes less time | yes | [supported](claims.md#one_pass) |
# | a sum does both skills | 0.59 to 0.95 | [supported](claims.md#composition) |
# | factors cannot be added | on a 4 × 4 | [supported](claims.md#averaged_factors) |
# | tasks in turn are forgotten | yes | [supported](claims.md#in_sequence) |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* Rows are under two LoRAs, the base, prompts of two lengths and a `Full`. Those with the
#    same $W$ share a pass. How many passes? (`MultiTask({...}).shares(name)`)
# 2. *Predict, then measure.* Train `reverse` and `blue` with learning rate 0.03 instead of 0.01. How good is each,
#    and the sum? How large is $\Delta W$ (`arithmetic.changes`)?
# 3. *Find the mistake.* `served = minipeft.merge(deltas.load(folder / "blue", model))`, then
#    `deltas.load(folder / "left", served)`. Why is it refused?

# %% [markdown]
# 4. *Design the experiment.* "Subtracting a task vector makes the model forget this task and little else." What do you
#    measure, against which control? How do you choose $\lambda$ in $W-\lambda\,\Delta W$?
# 5. *Write it.* TIES for the vectors (3, −1, 0.2, 2) and (−2, −3, 0.1, 2), in numpy. Set the smallest number of each to
#    zero; at each place, average the numbers whose sign is that of the sum. Check: (3, −2, 0, 2).

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: Two: one for `Full`, which has its own $W$, one for the others.
#
# 2: Each alone has 1.00. The sum has 0.26, 0.31, 0.19, 0.75, 0.04 by seed: $\|\Delta W\|$ is two to three times as
# large.
#
# 3: A merged base is another base. Load both on `model`, or load what `arithmetic.add` returns.
#
# 4: Accuracy on the task and on others; the control is a random change of equal size; validation examples choose
# $\lambda$ ([ledger](claims.md#negation)).
#
# ```python
# one, two = np.array([3, -1, 0.2, 2]), np.array([-2, -3, 0.1, 2])  # 5
# cut = np.stack([np.where(abs(v) > abs(v).min(), v, 0) for v in (one, two)])
# agree = np.sign(cut) == np.sign(cut.sum(0))
# print((cut * agree).sum(0) / np.maximum(1, agree.sum(0)))
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("15_several_tasks", answers="")

# %% [markdown]
# ## In three lines
#
# - A task is a small file, and it belongs to one base. In a mixed batch, $W$ works once and each row looks up its pair.
# - Deltas can be added if one answer can satisfy both. Test the sum.
# - One model that learns tasks in turn overwrites them. Separate deltas cannot.
#
# The same in peft, the reference library:
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# order = LoraConfig(r=4, lora_alpha=8, target_modules=["q", "k", "v", "o"])
# letters = LoraConfig(r=4, lora_alpha=8, target_modules=["up", "down"])
# model = get_peft_model(base(), order, adapter_name="reverse")
# model.add_adapter("blue", letters)
# model.set_adapter("reverse")  # train this one, then the next
# model.save_pretrained("adapters")  # a folder for each
#
# model.eval()
# model(tokens, adapter_names=["reverse", "__base__", "blue"])  # a mixed batch
#
# model.add_weighted_adapter(["reverse", "blue"], [1.0, 1.0], "both", combination_type="cat")
# # "cat" is exact; "linear" adds A and B, each by itself
# ```
#
# Papers: TIES [2306.01708](https://arxiv.org/abs/2306.01708), DARE [2311.03099](https://arxiv.org/abs/2311.03099), LoRA
# soups [2410.13025](https://arxiv.org/abs/2410.13025).

# %% tags=["hide-input"]
assert max(evaluate(model, goal, UNSEEN).accuracy for goal in (*goals.values(), both)) < 0.05
assert deltas.fingerprint(model) == deltas.fingerprint(base())  # after all of this, bit for bit
assert ("another base" in refused, bool(gap < 1e-5)) == (True, True)
assert 4 * numbers < size < 4.6 * numbers
assert np.array_equal(X @ W.T + (own_B @ h)[:, :, 0], [[3, 2, 3, 4], [1, 2, 11, 4], [5, 0, 1, 1]])
row, asked_row = encode(": minola ="), encode("sort red : minola =")
answers = serve(0).generate(torch.stack([row, row]), [None, "sort red"], new=6)
assert torch.equal(answers, torch.stack([row[1:7], base().generate(asked_row[None], new=6)[0]]))
assert all(multiplications(way) == multiplications(bare) + more for way, more in extra.items())
assert [own_answers(ways["right"], names) for names in (once, twice)] == [4, 8]
reverse_alone, blue_alone, reverse_blue, left_plus_blue, *orders = sums.values()
assert max(*reverse_alone, *blue_alone) < 0.02
if not FAST:
    assert [own_answers(way, once) for way in ways.values()] == [4, 0, 4]
    assert times["bare"][1] < times["mixed"][1] < times["one by one"][1]
    for accuracies, ends in ((reverse_blue, [0.59, 0.95]), (left_plus_blue, [0.27, 0.89])):
        assert np.allclose([min(accuracies), max(accuracies)], ends, atol=0.02)
    assert np.max(orders) < 0.1
    assert np.min([np.diag(rows) for rows in in_turn]) > 0.9 > 0.05 > np.max([np.tril(rows, -1) for rows in in_turn])
    assert min(np.min(at_once), np.min([rows[2] for rows in in_files])) > 0.9
