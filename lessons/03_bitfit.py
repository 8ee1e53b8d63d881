# %% [markdown]
# # 03 · BitFit: train only the biases
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 35 minutes to read and run · 75 with exercises | ●○○ | PyTorch, lessons 1 and 2 | one minute on a CPU |
#
# You will see what a bias can change in a Transformer and what it cannot, write BitFit so that it misses no bias and
# invents none, and predict what it costs.

# %% [markdown]
# ## What the paper did and claimed
#
# Ben Zaken, Ravfogel and Goldberg (2021, [arXiv:2106.10199](https://arxiv.org/abs/2106.10199)) fine-tuned BERT models
# on the GLUE tasks, but trained only the biases and a new task head: about one parameter in a thousand. With small and
# medium training sets this was competitive with training everything. They take it as support for a hypothesis:
# fine-tuning mainly *exposes* knowledge from pretraining, rather than *adding* new knowledge.

# %% [markdown]
# ## Predict
#
# Our base has 109,372 parameters, and 1,532 of them are biases. We train these and freeze the rest. Write down your
# guesses:
#
# 1. The base can reverse a word and apply the table `blue` when an instruction says so. Can the biases make it do so
#    *without* an instruction?
# 2. The base has never seen the table `violet`. Can the biases teach it?
# 3. One kind of bias never has any effect on the output. Which one?

# %%
import copy
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from minipeft import BitFit, Full, LoRA, base, costs, deltas, detach, encode, evaluate, fit, plots, summary, task
from minipeft.classroom import check, quiz, with_mistake
from minipeft.lab import adapt, compare, learning_rate_of, stored, tuned_method
from minipeft.lab.inside import output_change, put_back
from minipeft.methods import bitfit
from minipeft.training import RECIPE, Recipe

# %% tags=["hide-input"]
import os

torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, UNSEEN, recipe = ([0], 100, Recipe(steps=60)) if FAST else ([0, 1, 2], 300, RECIPE)
NETWORKS = range(2 if FAST else 10)

# %% [markdown]
# ## Two tasks: one to expose, one to add
#
# The hypothesis gives us two tests. `reverse+blue` is in the base already, but the base needs an instruction to use it.
# Here training only has to **select** a skill. The table of `reverse+violet` did not occur in pretraining. Here training
# has to **add** one.

# %%
instructed, blue, violet = task("reverse+blue", instructed=True), task("reverse+blue"), task("reverse+violet")
base_model = base()
for name, goal in (("blue, instructed", instructed), ("blue", blue), ("violet", violet)):
    accuracy = evaluate(base_model, goal).accuracy
    print(f"{name:17} {goal.prompt('cabbed'):24} the base solves {accuracy:.3f} of unseen examples")

# %% [markdown]
# With the instruction, the base solves nearly all examples of `blue`. Without it, it solves none, and none of `violet`.
#
# ## A bias by hand
#
# A linear layer computes $y = Wx + b$. If we change $b$ by $\Delta b$, every input gets the same addition. If we change
# $W$ by $\Delta W$, the addition is $\Delta W x$, which differs from input to input. Four inputs are the columns of $X$:

# %%
X = np.array([[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 0, 2]])
delta_b = np.array([[3], [0], [-1], [0]])
delta_W = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])

print("Δb adds to the four outputs\n", np.hstack([delta_b] * 4))
print("ΔW adds to the four outputs\n", delta_W @ X)

# %% [markdown]
# The columns of the first matrix are all equal; those of the second are not. That seems to leave biases very little.
#
# ## A bias before a nonlinearity is a switch
#
# In an MLP, a nonlinearity follows the bias. ReLU, $\max(0, h)$, gives 0 for every negative $h$. So a low bias switches
# a *unit*, one entry of the hidden vector, off for every input. Here is an MLP that stores two letter tables, each in
# four of its eight units.

# %%
letters = np.eye(4)  # column i stands for the letter "abcd"[i]
first = letters[:, [1, 0, 3, 2]]  # a→b, b→a, c→d, d→c
second = letters[:, [2, 3, 1, 0]]  # a→c, b→d, c→b, d→a

up = np.vstack([letters, letters])  # (8, 4): units 0 and 4 detect "a", units 1 and 5 detect "b", and so on
down = np.hstack([first, second])  # (4, 8): units 0 to 3 write the first table, units 4 to 7 the second


def read(b_up, b_down=0):
    hidden = np.maximum(up @ letters + b_up, 0)  # (8, 4): a column for each input letter
    best = (down @ hidden + b_down).argmax(axis=0)
    return "".join("abcd"[i] for i in best)


# %% [markdown]
# We set the biases of four units to −1, which switches these units off.

# %%
off_4_to_7 = np.array([[0, 0, 0, 0, -1, -1, -1, -1]]).T
off_0_to_3 = np.array([[-1, -1, -1, -1, 0, 0, 0, 0]]).T
print("units 4 to 7 off: abcd becomes", read(off_4_to_7))
print("units 0 to 3 off: abcd becomes", read(off_0_to_3))

# %% [markdown]
# No weight has changed, yet the MLP reads another table. **Biases select among what the weights can do.**
#
# ## Can they write a third table?
#
# Take a→d, b→c, c→a, d→b. For the input a, the weights can write b or c. The letter d can only come from what is the
# same for all inputs: the bias of `down`, or units that are always on. But that part favours *one* letter, and each
# input wants another. So we expect one letter of four at best.

# %%
third = "dcab"
most = 0
for switches in itertools.product([0, -1], repeat=8):  # every way to switch the eight units
    for favoured in range(4):  # the letter that the bias of `down` favours
        answer = read(np.array([switches]).T, 0.5 * letters[:, [favoured]])
        most = max(most, sum(a == b for a, b in zip(answer, third, strict=True)))
print(f"of the four letters of the third table, at most {most} can be right")

# %% [markdown]
# So this little MLP says no to guess 2. We will test that on the base.
#
# ## The bias that does nothing
#
# A query $q$ meets the keys $k_j$ in the scores $s_j = q \cdot k_j$. A change $\Delta$ of the keys' bias is added to
# every key, so the new scores are $q \cdot (k_j + \Delta) = s_j + c$ with $c = q \cdot \Delta$, the same for all $j$. The
# softmax does not see such a constant:
#
# $$\frac{e^{s_j + c}}{\sum_i e^{s_i + c}} = \frac{e^c\,e^{s_j}}{e^c \sum_i e^{s_i}} = \frac{e^{s_j}}{\sum_i e^{s_i}}$$

# %%
moved, tokens = copy.deepcopy(base_model), encode("reverse next : cabbed =")[None]
torch.manual_seed(0)
with torch.no_grad():
    for block in moved.blocks:
        block.attn.k.bias += torch.randn(64)
    change = (moved(tokens) - base_model(tokens)).abs().max()
print(f"with random biases of the keys, no logit changes by more than {change:.0e}")

# %% [markdown]
# The rest is rounding. Guess 3: it is the bias of the **keys**.
#
# ## Which parameters are biases?
#
# BitFit has no formula of its own. Its care lies in this question. `"bias" in name` would be the obvious test. Look at
# what PyTorch calls the parameters of a few modules:

# %%
modules = {
    "nn.Linear": nn.Linear(4, 4),
    "nn.LayerNorm": nn.LayerNorm(4),
    "nn.GRU": nn.GRU(4, 4),
    "nn.MultiheadAttention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "T5's relative_attention_bias": nn.Embedding(32, 8),
}
for kind, module in modules.items():
    print(f"{kind:29}", ", ".join(name for name, _ in module.named_parameters(recurse=False)))

# %% [markdown]
# - LayerNorm computes $\gamma \odot \hat x + \beta$. Its `weight` γ multiplies, its `bias` β is added.
# - A recurrent layer or cell has several biases, all called `bias_…`.
# - `MultiheadAttention` holds the biases of q, k and v in `in_proj_bias`. Its `bias_k` and `bias_v` are one more key and
#   value, not biases.
# - T5 has a *module* called `relative_attention_bias`. Its parameter is a `weight`.

# %% [markdown]
# ## Write it
#
# Write two functions. `is_bias` answers the question above. `copies` makes the parameters that will be trained: the base
# must stay as it is, so we train copies. `check` tells you what is wrong. If both are right, the rest of the lesson runs
# on your code, otherwise on ours.


# %%
def is_bias(module, name):
    """Is the parameter `name` of this module a bias? `name` has no path: "weight", "bias", "bias_hh_l0", ...

    Recurrent layers and cells are nn.RNNBase and nn.RNNCellBase: a name that begins with "bias_".
    nn.MultiheadAttention: "in_proj_bias" alone. Every other module: "bias" alone.
    """
    raise NotImplementedError("your turn, about 5 lines")


def copies(weights, paths):
    """{path: nn.Parameter} for the chosen paths: new parameters that start with the old values, in memory of their own.

    weights: a list of (path, module, name), such as ("blocks.0.attn.q.bias", the nn.Linear, "bias").
    paths: the set of the chosen paths. If one parameter stands at two paths, both get the same new one.
    """
    raise NotImplementedError("your turn, about 6 lines")


check("bitfit", is_bias, copies, use=True)

# %% [markdown]
# ## The source, revealed
#
# Our `copies` first collects the old parameters. A parameter that stands at two paths is then one key of `new`, so it is
# copied once.

# %%
print(inspect.getsource(bitfit.is_bias))
print(inspect.getsource(bitfit.copies))

# %% [markdown]
# ## Count, then attach
#
# In a layer of width $d$, with an MLP of width $f$, the biases are:
#
# | q, k, v, o | up | down | two norms | a layer |
# |---|---|---|---|---|
# | $4d$ | $f$ | $d$ | $2d$ | $7d + f$ |
#
# Outside the layers, the last norm has $d$ and the head one for each of 60 tokens. With $d = 64$, $f = 256$ and two
# layers that is $2\,(7 \cdot 64 + 256) + 64 + 60 = 1{,}532$.

# %%
model = BitFit().attach(base_model)
print(summary(model))

# %% [markdown]
# ## Train it to select
#
# We train as everywhere in this course: 500 steps of 32 new examples, with a learning rate that was tuned on other
# seeds. For BitFit that is 0.1, three times LoRA's, since so few numbers have to move the model.

# %%
runs = {f"BitFit, seed {seed}": adapt(BitFit(), blue, learning_rate_of(BitFit()), seed, recipe) for seed in SEEDS}
plots.curves({name: history for name, (_, history) in runs.items()}, "accuracy")
plt.show()

scores = [evaluate(model, blue).accuracy for model, _ in runs.values()]
print("unseen examples of blue that are solved, by seed:", *(f"{score:.3f}" for score in scores))

# %% [markdown]
# *Figure: exact-match accuracy while training, a line for each of three seeds. All stay near zero for about 150 steps,
# then climb to 1 together.*
#
# Three seeds may flatter a method. The project keeps the runs of its own table, with the same settings and ten seeds:

# %%
(row,) = compare(blue, [tuned_method(BitFit())], seeds=10, lab=stored())
print("ten seeds:", *(f"{score:.2f}" for score in row["accuracy"]))

# %% [markdown]
# Eight seeds solve everything; two stop at 0.41. Guess 1: yes, biases can select the skill, though not every run finds
# it.
#
# ## What moved?
#
# We compare each trained bias vector with the base's: $\lVert\Delta b\rVert / \lVert b\rVert$, for seed 0.

# %%
model, _ = runs["BitFit, seed 0"]
plots.bias_changes(model)
plt.show()

# %% [markdown]
# *Figure: how far each kind of bias moved, relative to its length, in block 0, block 1 and outside. The idle biases of
# the keys, hatched, moved as far as others.*
#
# The keys' biases moved although they do nothing. Adam divides a gradient by its own recent size, so that even
# rounding noise becomes a full step. Having *moved* is not being *needed*. For that we need an ablation: we put the
# biases of one kind back to the base's values, and test again.

# %%
kinds = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2", "norm", "head"]
ablated = {"nothing put back": [evaluate(model, blue, UNSEEN).accuracy for model, _ in runs.values()]}
for kind in kinds:
    ablated[kind] = [evaluate(put_back(model, kind), blue, UNSEEN).accuracy for model, _ in runs.values()]
plots.bars(ablated, colour=plots.HUES["BitFit"])
plt.show()

# %% [markdown]
# *Figure: accuracy after the biases of one kind were put back; bars are means, dots are three seeds. Without the trained
# biases of `up` or `norm2`, nothing is left. Without those of the keys, nothing is lost.*

# %% [markdown]
# ## Train it to add a table
#
# Now `violet`. LoRA (lesson 10) is the comparison: it trains 2,048 numbers, but they change *weights*, those of q and v.

# %%
methods = {"BitFit": BitFit(), "LoRA": LoRA(rank=4)}
learned, histories = {}, {}
for name, method in methods.items():
    found = [adapt(method, violet, learning_rate_of(method), seed, recipe) for seed in SEEDS]
    learned[name] = [model for model, _ in found]
    histories |= {f"{name}, seed {seed}": history for seed, (_, history) in zip(SEEDS, found, strict=True)}
    accuracies = [evaluate(model, violet).accuracy for model in learned[name]]
    print(f"{name:7} unseen examples of violet, by seed:", *(f"{score:.3f}" for score in accuracies))
plots.curves(histories, "accuracy")
plt.show()

# %% [markdown]
# *Figure: accuracy on violet while training. Both methods learn the table with every seed; BitFit needs more than twice
# as many steps.*
#
# Guess 2: yes, if slowly. Our little MLP was wrong about the base. Why?

# %% [markdown]
# ## What the biases put out
#
# First we look at the queries of the first layer for one prompt: what did training add to them, token by token?

# %%
prompt = encode(": cabbed = gh")[None]
changes = {name: output_change(models[0], "blocks.0.attn.q", prompt) for name, models in learned.items()}
plots.token_changes(changes, list(":cabbed=gh"))
plt.show()
later = output_change(learned["BitFit"][0], "blocks.1.attn.q", prompt)
print(f"BitFit, queries of the second layer: {plots.common_share(later):.0%} shared by all tokens")

# %% [markdown]
# *Figure: change of each token's query in the first layer, a row for each token, 64 entries. BitFit adds the same row to
# all tokens; LoRA adds different ones.*
#
# In the first layer BitFit can do no more than our $\Delta b$. In the second it adds something different to each token:
# in between lie a softmax and many GELUs, and each of these units is a switch.

# %% [markdown]
# ## How many switches does a table need?
#
# Our MLP had eight units, and the base has 512. So we ask for all 24 tables of four letters, with *random* frozen
# weights and $n$ units. Only biases are trained.

# %%
tables = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4)


def share_of_tables(n, seed):
    """The share of the 24 tables that biases alone can write into a random ReLU MLP with n units."""
    torch.manual_seed(seed)
    up, down = torch.randn(n, 4), torch.randn(4, n) / n**0.5  # frozen, the same for all tables
    b_up = torch.zeros(24, 1, n, requires_grad=True)  # a bias vector for each table
    b_down = torch.zeros(24, 1, 4, requires_grad=True)
    adam = torch.optim.Adam([b_up, b_down], lr=0.1)
    for _ in range(300):
        hidden = torch.relu(up.T + b_up)  # (24, 4, n): a row for each input letter
        logits = hidden @ down.T + b_down  # (24, 4, 4)
        adam.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), tables.flatten(), reduction="sum").backward()
        adam.step()
    return (logits.argmax(-1) == tables).all(-1).float().mean().item()


# %%
by_units = {f"{n} units": [share_of_tables(n, seed) for seed in NETWORKS] for n in (4, 8, 16, 32, 64)}
plots.bars(by_units, label="share of the 24 tables that biases can write", colour=plots.HUES["BitFit"])
plt.show()

# %% [markdown]
# *Figure: the share of tables that biases alone write into a random MLP, by its number of units; dots are ten random
# networks. With 8 units it is a few, with 64 it is all.*
#
# With enough random units, the right selection of them *is* a new table. Williams et al.
# ([arXiv:2407.00957](https://arxiv.org/abs/2407.00957)) prove this in general: networks with random weights and learned
# biases approximate any continuous function. So exposing and adding are no opposites, and "it can be learned by biases"
# does not show that it was there before.

# %% [markdown]
# ## What it costs
#
# Nothing is added to the model, so a forward pass costs what the base's costs. Training is cheaper in three ways.
# Gradients and Adam's two moments exist for 1,532 numbers only: $3 \cdot 4 \cdot 1{,}532 = 18{,}384$ bytes. The third is
# less obvious. For $y_t = Wx_t + b$ and $g_t = \partial L/\partial y_t$,
#
# $$\frac{\partial L}{\partial W} = \sum_t g_t\,x_t^\top \qquad \frac{\partial L}{\partial b} = \sum_t g_t$$
#
# Only the first needs the inputs $x_t$. A layer with a frozen $W$ need not store them for the backward pass.

# %%
batch = blue.batch(64, torch.Generator().manual_seed(0))
for method in (Full(), LoRA(rank=4), BitFit()):
    view = method.attach(base_model)
    expected, real = costs.predict(view), costs.measure(view, batch)
    predicted, measured = expected.gradients + expected.optimizer, real.gradients + real.optimizer
    print(f"{method!s:13} gradients and moments: predicted {predicted:,} bytes, measured {measured:,}, ", end="")
    print(f"ratio {measured / predicted:.2f}; activations {real.activations / 1e6:.2f} MB")

# %% [markdown]
# BitFit stores about a fifth less activations than full fine-tuning. It still stores what the softmax, the GELUs and
# the norms need: the gradient has to pass them on its way down. A trained task takes
# [7,816 bytes](claims.md#stored_bytes) on disk.

# %% [markdown]
# ## Break it
#
# Suppose `copies` trained the base's own biases. No error is raised, and the loss falls as it should.
#
# ```python
# new[p] = nn.Parameter(p.detach().clone())  # right: a copy is trained
# new[p] = p.requires_grad_(True)            # broken: the base's own bias is trained
# ```
#
# After 60 steps we detach the method. What does the base still know?

# %%
broken = with_mistake("bitfit", "originals trained")
after = {"base, never trained": evaluate(base_model, instructed).accuracy}
for name, method in {"right, detached": BitFit(), "broken, detached": broken.BitFit()}.items():
    own = base()
    view = method.attach(own)
    fit(view, blue, lr=0.1, steps=60, device="cpu", progress=False)
    after[name] = evaluate(detach(view), instructed).accuracy
plots.bars(after)
plt.show()

# %% [markdown]
# *Figure: accuracy on blue with an instruction, which the base had before. The right method leaves it untouched; after
# the broken one it is gone.*
#
# The broken version trains well, and you notice nothing until you ask for the old model. Our loader would refuse such a
# base: its fingerprint has changed.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | biases alone can adapt a model | yes, eight seeds of ten | [table](../README.md#what-you-will-see) |
# | with few data, as good as full fine-tuning | undecided: better with 8 examples, worse with 128 | [row](claims.md#few_biases) |
# | fine-tuning exposes, it does not add | no: biases also add a table, slowly | this lesson |
# | detaching gives the base back | by construction | [row](claims.md#detaching) |
#
# "Here" means a model of 109 thousand parameters and six-letter tasks.

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* BERT-base has $d = 768$, $f = 3072$ and 12 layers. How many biases do its layers have, and
#    what share of 110 million is that?
# 2. *Derive, then measure.* A second bias of attention is not idle, but superfluous: whatever it does, the bias of `o`
#    could do. Which one, and why? Show it on the base.
# 3. *Predict, then measure.* Train `BitFit(targets=("attn.q", "mlp.up"))`, the half that the paper recommends, on
#    `blue`. Then train `BitFit(targets=("head",))`.

# %% [markdown]
# 4. *Find the mistake.* A colleague freezes T5 like this. Which parameters does the line take by mistake, which does it
#    miss in an LSTM of another class, and how would you notice?
#
#    ```python
#    for name, p in model.named_parameters():
#        p.requires_grad = "bias" in name
#    ```
# 5. *Design the experiment.* You want to know whether BitFit is better than full fine-tuning with 8 or 32 examples. What
#    do you measure, at which learning rates, with how many seeds?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: TODO
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions to see whether it has settled. Put your letters into `answers`, such as `"abcda"`.

# %%
quiz("03_bitfit", answers="")

# %% [markdown]
# ## In three lines
#
# - BitFit trains what is added: $7d + f$ numbers a layer, no new module, no cost at inference.
# - Before a nonlinearity a bias is a switch. Few switches select; many switches can also write something new.
# - Say what a bias is by its module, and train copies.
#
# In peft, biases are trained beside a LoRA, and `disable_adapter` does not bring the old ones back:
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# config = LoraConfig(r=1, target_modules=["q"], bias="all")
# model = get_peft_model(base(), config)
# ```
#
# Paper: Ben Zaken et al. 2021, arXiv:2106.10199.

# %% tags=["hide-input"]
pass
