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
# on the GLUE tasks, but trained only the biases and a head: about one parameter in a thousand. With little data
# this matched full fine-tuning or beat it; with more it fell behind. The biases of the queries and the MLP's first
# layer, half of all, did nearly as well. Their hypothesis is that fine-tuning mainly *exposes* old knowledge, rather
# than *adding* new.

# %% [markdown]
# ## Predict
#
# Our base has 109,372 parameters, of which 1,532 are biases. We train only these. Write down your guesses:
#
# 1. The base can reverse a word and apply the table `blue` when an instruction says so. Can the biases make it do so
#    *without* an instruction?
# 2. The base has never seen the table `violet`. Can the biases teach it?
# 3. A layer has biases in q, k, v, o, `up`, `down` and two norms. One is idle. Which?

# %%
import copy
import inspect
import itertools
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from minipeft import BitFit, Full, LoRA, base, check, costs, deltas, detach, encode, evaluate, fit, merge, plots
from minipeft.attach import trainable
from minipeft.classroom import quiz, with_mistake
from minipeft.lab import adapt, compare, learning_rate_of, stored, tuned_method
from minipeft.lab.inside import output_change, put_back
from minipeft.methods import bitfit
from minipeft.tasks import task
from minipeft.training import RECIPE, Recipe, loss_of
from minipeft.views import summary

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, UNSEEN, recipe = ([0], 100, Recipe(steps=60)) if FAST else ([0, 1, 2], 300, RECIPE)
NETWORKS = range(2 if FAST else 10)
OURS = bitfit.is_bias, bitfit.copies  # kept, to be shown after yours may have taken their place

# %% [markdown]
# ## Two tasks: one to expose, one to add
#
# The hypothesis can be tested. `reverse+blue` is in the base already, but the base uses it only with an instruction,
# so training has to **select** a skill. The table of `reverse+violet` did not occur in pretraining, so training has
# to **add** one.

# %%
instructed, blue, violet = task("reverse+blue", instructed=True), task("reverse+blue"), task("reverse+violet")
base_model = base()
for name, goal in (("blue, instructed", instructed), ("blue", blue), ("violet", violet)):
    accuracy = evaluate(base_model, goal).accuracy
    print(f"{name:17} {goal.prompt('cabbed'):24} the base solves {accuracy:.3f} of unseen examples")

# %% [markdown]
# With the instruction, the base solves all unseen examples of `blue`. Without it, the base solves none, and none of
# `violet`.
#
# ## A bias by hand
#
# A linear layer computes $y = Wx + b$. If we change $b$ by $\Delta b$, every input gets the same addition. If we
# change $W$ by $\Delta W$, the addition is $\Delta W x$, which depends on the input. Four inputs are the columns of
# $X$:

# %%
X = np.array([[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 0, 2]])
delta_b = np.array([[3], [0], [-1], [0]])
delta_W = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])

print("Δb adds to the four outputs\n", np.hstack([delta_b] * 4))
print("ΔW adds to the four outputs\n", delta_W @ X)

# %% [markdown]
# The columns of the first matrix are all equal. That seems to leave biases very little.
#
# ## A bias before a nonlinearity is a switch
#
# In an MLP, a nonlinearity follows the bias. ReLU, $\max(0, h)$, gives 0 for every negative $h$. So a low bias
# switches a *unit*, one entry of the hidden vector, off for all inputs. This MLP stores two letter tables, each in
# four of its units. We switch off four.

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


off = -1  # this is low enough: a unit gets 1 for its letter and 0 for the others
print("units 4 to 7 off: abcd becomes", read(np.array([[0, 0, 0, 0, off, off, off, off]]).T))
print("units 0 to 3 off: abcd becomes", read(np.array([[off, off, off, off, 0, 0, 0, 0]]).T))

# %% [markdown]
# No weight has changed, yet another table is read. **Biases select among what the weights can do.**
#
# ## Can they write a third table?
#
# Take a→d, b→c, c→a, d→b. For input a, the weights can write b or c; d can only come from what is the same for all
# inputs: the bias of `down`. (An always-on unit adds no more than this bias could.) That favours *one* letter, and
# each input wants another. We expect one of four.

# %%
third = "dcab"
most = 0
for switches in itertools.product([0, off], repeat=8):  # every way to switch the eight units
    for favoured in range(4):  # the letter that the bias of `down` favours; more than 0.5 gives 1, too
        answer = read(np.array([switches]).T, 0.5 * letters[:, [favoured]])
        most = max(most, sum(a == b for a, b in zip(answer, third, strict=True)))
print(f"of the four letters of the third table, at most {most} can be right")

# %% [markdown]
# This little MLP says no to guess 2. Later we ask the base.
#
# ## The bias that does nothing
#
# A query gives each key a score, $s_j = q \cdot k_j$. A change $\Delta$ of the keys' bias makes it $q \cdot (k_j +
# \Delta) = s_j + c$, where $c = q \cdot \Delta$ is the same for all $j$. Softmax does not see $c$:
#
# $$\frac{e^{s_j+c}}{\sum_i e^{s_i+c}} = \frac{e^c\,e^{s_j}}{e^c\sum_i e^{s_i}} = \frac{e^{s_j}}{\sum_i e^{s_i}}$$

# %%
moved, tokens = copy.deepcopy(base_model), encode("reverse next : cabbed =")[None]
torch.manual_seed(0)
with torch.no_grad():
    for block in moved.blocks:
        block.attn.k.bias += torch.randn(64)
    change = (moved(tokens) - base_model(tokens)).abs().max()
print(f"with random biases of the keys, no logit changes by more than {change:.0e}")

# %% [markdown]
# That is rounding. Guess 3: it is the bias of the **keys**.
#
# ## Which parameters are biases?
#
# BitFit has no formula of its own; the difficulty lies in this question. `"bias" in name` seems an obvious test. Look
# at what PyTorch calls the parameters of a few modules:

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
# - Recurrent layers (`nn.RNNBase`) and single cells (`nn.RNNCellBase`) have several biases, all called `bias_…`.
# - `MultiheadAttention` holds the biases of q, k and v in `in_proj_bias`. Its `bias_k` and `bias_v` are one more key
#   and value, not biases.
# - T5 has a *module* called `relative_attention_bias`. Its parameter is a `weight`.

# %% [markdown]
# ## Write it
#
# Write two functions. `is_bias` answers the question above. `copies` makes the parameters that will be trained: the
# base must stay as it is, so we train copies. `check` tells you what is wrong. If both are right, the rest of the
# lesson runs on your code, otherwise on ours.


# %%
def is_bias(module, name):
    """Is the parameter of this name a bias of this module? True or False.

    module: any nn.Module. name: what the module itself calls the parameter, without a path, such as "weight".
    """
    raise NotImplementedError("your turn, about 5 lines")


def copies(weights, paths):
    """{path: nn.Parameter} for the chosen paths: new parameters with the old values, in memory of their own.

    weights: a list of (path, module, name), such as ("blocks.0.attn.q.bias", the nn.Linear, "bias").
    paths: the set of the chosen paths. If one parameter stands at two paths, both get the same new one.
    """
    raise NotImplementedError("your turn, about 6 lines")


check("bitfit", is_bias, copies, use=True)

# %% [markdown]
# ## The source, revealed
#
# `OURS` holds the project's versions. `copies` first collects the old parameters. One that stands at two paths
# becomes a single key of `new`, so it is copied once.

# %%
for function in OURS:
    print(inspect.getsource(function))

# %% [markdown]
# ## Count, then attach
#
# Let a layer have width $d$ and its MLP width $f$. The biases of q, k, v and o have $4d$ numbers, that of `up` $f$,
# that of `down` $d$, and those of two norms $2d$: together $7d + f$. Outside, the last norm has $d$ and the head one
# for each of 60 tokens. With $d = 64$, $f = 256$ and two layers:
#
# $$2(7 \cdot 64 + 256) + 64 + 60 = 1{,}532$$

# %%
view = BitFit().attach(base_model)
print(summary(view))

# %% [markdown]
# ## Train it to select
#
# We train as everywhere in this course: 500 steps of 32 new examples, at a learning rate that was tuned on other seeds.
# BitFit's is 0.1, three times LoRA's. The project also stores the results behind its README: the same training with ten
# seeds.

# %%
selected, histories = [], {}
for seed in SEEDS:
    model, history = adapt(BitFit(), blue, learning_rate_of(BitFit()), seed, recipe)  # the tuned one, 0.1
    selected.append(model)
    histories[f"seed {seed}"] = history
plots.curves(histories, "accuracy")
plt.show()

scores = [evaluate(model, blue).accuracy for model in selected]
print("accuracy on blue, trained here, seeds 0 to 2:  ", *(f"{score:.2f}" for score in scores))
# the same training with ten seeds: `stored()` reads the results from a file, so nothing is trained here
(row,) = compare(blue, [tuned_method(BitFit())], seeds=10, lab=stored())
print("accuracy on blue, from the README, seeds 0 to 9:", *(f"{score:.2f}" for score in row["accuracy"]))

# %% [markdown]
# *Figure: exact-match accuracy while training, a line for each of three seeds. All stay at zero for a hundred steps,
# then climb to 1.*
#
# Of ten seeds, eight solve everything and two stop at 0.41. Guess 1: yes, biases can select the skill, though not
# every run finds it.
#
# ## What moved?
#
# We measure how far each bias vector moved, $\lVert\Delta b\rVert$, and compare this with its length in the base,
# $\lVert b\rVert$. And we look at the first gradients.

# %%
axes = plots.new(9, 3.7, columns=2)
plots.bias_changes(selected[0], axes[0], relative=False)
plots.bias_changes(selected[0], axes[1])
plt.show()

batch = blue.batch(64, torch.Generator().manual_seed(0))
loss_of(view(batch.tokens), batch.targets).backward()
for name in "qkvo":
    gradient = view.get_parameter(f"blocks.0.attn.{name}.bias").grad
    print(f"gradient of the bias of {name} before training: {gradient.norm():.0e}")

# %% [markdown]
# *Figure: how far each kind of bias moved (seed 0). Left, by length: q, up and head moved far. Right, relative to the
# base: the idle keys moved farthest.*
#
# In the base, the keys' biases are almost zero, perhaps because they were idle there too: hence the large ratio. In
# length they moved at least nine times less than q. Their gradient is rounding noise, which Adam scales up. What
# *moved* need not be *needed*: we put each kind back.

# %%
kinds = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2", "norm", "head"]
ablated = {"nothing put back": [evaluate(model, blue, UNSEEN).accuracy for model in selected]}
for kind in kinds:
    ablated[kind] = [evaluate(put_back(model, kind), blue, UNSEEN).accuracy for model in selected]
plots.bars(ablated, colour=plots.HUES["BitFit"])
plt.show()

# %% [markdown]
# *Figure: accuracy after the biases of one kind were put back; bars are means, dots are three seeds. Without o, up or
# down nothing is left; without v or norm2 a tenth is left, without q about half (0.56). The others are not
# missed, not even the head.*
#
# Exercise 3 asks whether v is needed.
#
# ## Train it to add a table
#
# Now `violet`. For comparison, LoRA (lesson 10) trains 2,048 numbers in the *weights* of q and v.

# %%
methods = {"BitFit()": BitFit(), "LoRA()": LoRA(rank=4)}
learned, histories = {}, {}
for name, method in methods.items():
    learned[name] = []
    for seed in SEEDS:
        model, history = adapt(method, violet, learning_rate_of(method), seed, recipe)
        learned[name].append(model)
        histories[f"{name}, seed {seed}"] = history
    accuracies = [evaluate(model, violet).accuracy for model in learned[name]]
    print(f"{name:8} unseen examples of violet, by seed:", *(f"{score:.3f}" for score in accuracies))
plots.curves(histories, "accuracy")
plt.show()

# %% [markdown]
# *Figure: accuracy on violet while training. Both methods learn the table with every seed; BitFit needs more than
# twice as many steps.*
#
# Guess 2: yes, but slowly. Our little MLP was wrong about the base. Why?
#
# ## What the biases add
#
# We look at the queries of the first layer for one prompt. What has training added to them, token by token? Above each
# map stands a share: how much of the squared change is the same for all tokens.

# %%
prompt = encode(": cabbed = gh")[None]
changes = {name: output_change(models[0], "blocks.0.attn.q", prompt) for name, models in learned.items()}
plots.token_changes(changes, list(":cabbed=gh"))
plt.show()
later = output_change(learned["BitFit()"][0], "blocks.1.attn.q", prompt)
print(f"second layer, BitFit: {plots.common_share(later):.0%} of the squared change is the same for all tokens")

# %% [markdown]
# *Figure: change of the queries in the first layer, a row for each token, a column for each entry. BitFit adds the same
# to all tokens; LoRA does not. LoRA's colours span eight times as much.*
#
# In the first layer BitFit can do no more than our $\Delta b$. In the second, 5 % of the change differs from token to
# token. Between them lie a softmax and 256 units with GELU, a smooth ReLU; each unit is a switch.

# %% [markdown]
# ## How many switches does a table need?
#
# Our MLP had eight units; the base has $2 \times 256$, and attention too. Violet has 16 letters; we stay with four. We
# take *random* frozen weights and $n$ units, and ask for all 24 tables that permute four letters. Only biases are
# trained.

# %%
tables = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4)


def share_of_tables(n, seed):
    """The share of the 24 tables that biases alone can write into a random ReLU MLP with n units."""
    torch.manual_seed(seed)
    up, down = torch.randn(n, 4), torch.randn(4, n) / n**0.5  # frozen
    b_up, b_down = torch.zeros(24, 1, n, requires_grad=True), torch.zeros(24, 1, 4, requires_grad=True)
    adam = torch.optim.Adam([b_up, b_down], lr=0.1)
    for _ in range(300):
        logits = torch.relu(up.T + b_up) @ down.T + b_down  # (24, 4, 4): table, input letter, output letter
        adam.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), tables.flatten(), reduction="sum").backward()
        adam.step()
    return (logits.argmax(-1) == tables).all(-1).float().mean().item()


by_units = {f"{n} units": [share_of_tables(n, seed) for seed in NETWORKS] for n in (4, 8, 16, 32, 64)}
plots.bars(by_units, label="share of the 24 tables that biases can write", colour=plots.HUES["BitFit"])
plt.show()

# %% [markdown]
# *Figure: the share of tables that biases alone write into a random MLP; dots are ten networks. With 8 units it is
# one in six, with 64 nearly all.*
#
# Of many units, the right selection *is* a new table. (Williams et al.,
# [arXiv:2407.00957](https://arxiv.org/abs/2407.00957), prove it for continuous functions.) This shows that it
# is possible, not that the base does it this way. Still, "biases can learn it" does not show that it was there before.

# %% [markdown]
# ## What it costs
#
# No module is added, so inference costs what the base costs. In training, gradients and Adam's two moments exist for
# 1,532 numbers: $3 \cdot 4 \cdot 1{,}532 = 18{,}384$ bytes. There is a second saving. For token $t$, $y_t = Wx_t + b$
# and $g_t = \partial L/\partial y_t$,
#
# $$\frac{\partial L}{\partial W} = \sum_t g_t\,x_t^\top\qquad\frac{\partial L}{\partial b} = \sum_t g_t$$
#
# Only the first needs $x_t$. A layer with a frozen $W$ need not store them.

# %%
for method in (Full(), LoRA(rank=4), BitFit()):
    view = method.attach(base_model)
    expected, real = costs.predict(view), costs.measure(view, batch)
    predicted, measured = expected.gradients + expected.optimizer, real.gradients + real.optimizer
    print(f"{method!s:13} gradients and moments: predicted {predicted:,} bytes, measured {measured:,}, ", end="")
    print(f"ratio {measured / predicted:.2f}; activations {real.activations / 1e6:.2f} MB")

# %% [markdown]
# BitFit stores 37 % fewer bytes of activations than full fine-tuning. It still needs what softmax, GELU and the norms
# have stored, to pass gradients on.
#
# ## Break it
#
# Suppose `copies` trained the base's own biases. No error is raised:
#
# ```python
# new[p] = nn.Parameter(p.detach().clone())  # right: a copy is trained
# new[p] = p.requires_grad_(True)            # broken: the base's own bias is trained
# ```
#
# We train `blue` for 60 steps with each, and detach. What does the base still know?

# %%
broken, left = with_mistake("bitfit", "originals trained"), {}
for name, method in {"right": BitFit(), "broken": broken.BitFit()}.items():
    own = base()
    view = method.attach(own)
    history = fit(view, blue, lr=0.1, steps=60, device="cpu", progress=False)
    left[name] = evaluate(detach(view), instructed, UNSEEN).accuracy
    print(f"{name:6} loss {history.loss[0]:.1f} to {history.loss[-1]:.1f}; ", end="")
    print(f"detached, the base solves {left[name]:.2f} of blue with an instruction")

# %% [markdown]
# The broken version learns as well, and nothing warns you until you ask for the old model.
#
# ## Seen here or not
#
# | claim | here | more |
# |---|---|---|
# | biases alone adapt a model | yes, eight seeds of ten | [README](../README.md) |
# | better than full fine-tuning with little data, worse with more | undecided | [ledger](claims.md#few_biases) |
# | fine-tuning exposes rather than adds | biases also add a table, slowly | this lesson |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then compare.* BERT-base has 12 layers, $d = 768$, $f = 3072$ and 110 million parameters. Which share
#    are biases of its layers?
# 2. *Derive, then measure.* What the bias of `v` does, that of `o` could do. Why? Show it on the base.
# 3. *Design the experiment.* The ablation shows which biases are needed. Are they *enough*? You can train some kinds
#    alone, such as `BitFit(targets=("attn.q", "mlp.up"))`.

# %% [markdown]
# 4. *Find the mistake.* A colleague wants BitFit for a T5. What is trained here? (In T5 no linear layer has a bias,
#    and its norms have none either.)
#
#    ```python
#    for name, p in t5.named_parameters():
#        p.requires_grad = "bias" in name
#    ```
# 5. *Design the experiment.* Is BitFit better than full fine-tuning with 8 examples? Say which learning rates, how
#    many seeds and which measure you would take. Then read how [the ledger](claims.md#few_biases) did it.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: $12\,(7 \cdot 768 + 3072)$ = 101,376, or 0.09 %, as the paper says.
#
# 2: Attention weights sum to 1, so a change $\Delta$ of all values adds $W_o\Delta$ to every output.
#
# ```python
# torch.manual_seed(0)
# shifted, delta = base(), torch.randn(64)
# for block in shifted.blocks:
#     block.attn.v.bias += delta
#     block.attn.o.bias -= block.attn.o.weight @ delta
# print((shifted(tokens) - base_model(tokens)).abs().max())  # about 2e-5; without the last line of the loop, 14
# ```
#
# 3: With o, up and down, three seeds reach 1.00, without v. With q and up, the paper's half, they reach 0.43, 0.43,
# 0.46.
#
# ```python
# for targets in (("attn.o", "mlp.up", "mlp.down"), ("attn.q", "mlp.up")):
#     for seed in range(3):
#         print(targets, evaluate(adapt(BitFit(targets=targets), blue, 0.1, seed)[0], blue).accuracy)
# ```
#
# 4: Only `relative_attention_bias.weight`, in encoder and decoder.
#
# 5: Tune each on 8 examples. Both accuracies are near 0, so compare losses.
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions to check your understanding. Put your letters into `answers`, such as `"abcda"`.

# %%
quiz("03_bitfit", answers="")

# %% [markdown]
# ## In three lines
#
# - BitFit trains what is added: $7d + f$ numbers a layer, no new module, no cost at inference.
# - Before a nonlinearity a bias is a switch. A few switches select; many can also write something new.
# - Ask the module what a bias is, and train copies.
#
# The reference library peft trains biases beside a LoRA; its `disable_adapter` leaves them changed:
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# config = LoraConfig(r=1, target_modules=["q"], bias="all")
# model = get_peft_model(base(), config)
# ```
#
# Papers: BitFit arXiv:2106.10199, learned biases 2407.00957.

# %% tags=["hide-input"]
fresh = BitFit().attach(base_model)
assert [round(evaluate(base_model, goal).accuracy, 3) for goal in (instructed, blue, violet)] == [1, 0, 0]
assert most == 1 < 2 < len({tuple(column) for column in (delta_W @ X).T})  # ΔW adds something else to each input
assert change < 1e-3 > view.blocks[0].attn.k.bias.grad.norm()
assert sum(p.numel() for p in trainable(fresh).values()) == 1532 == 2 * (7 * 64 + 256) + 64 + 60
assert all(name.endswith(".bias") for name in trainable(fresh))
assert [type(m) for m in fresh.modules()] == [type(m) for m in base_model.modules()]  # nothing is added or wrapped
assert torch.equal(merge(fresh)(batch.tokens), base_model(batch.tokens))  # it begins as the base, to the last bit
assert deltas.fingerprint(base_model) == deltas.fingerprint(base())  # which no training has touched
assert sum(score < 0.5 for score in row["accuracy"]) == 2
moves = {name: change.norm() for name, (_, change) in deltas.updates(selected[0]).items()}
assert FAST or all(moves[f"blocks.{i}.attn.q.bias"] > 9 * moves[f"blocks.{i}.attn.k.bias"] for i in (0, 1))
assert FAST or 7 < changes["LoRA()"].abs().max() / changes["BitFit()"].abs().max() < 9.5
shared = [plots.common_share(found) for found in (changes["LoRA()"], later, changes["BitFit()"])]
assert shared[0] < shared[1] < 0.99 < shared[2]
assert costs.measure(fresh, batch).activations < 0.67 * costs.measure(Full().attach(base_model), batch).activations
assert left["right"] > 0.95 > 0.6 > left["broken"]
assert FAST or min(scores + [evaluate(m, violet).accuracy for models in learned.values() for m in models]) > 0.98
assert FAST or [round(2 * np.mean(ablated[kind])) for kind in kinds] == [1, 2, 0, 0, 0, 0, 2, 0, 2, 2]
assert FAST or np.mean(by_units["8 units"]) < 0.3 < 0.95 < np.mean(by_units["64 units"])
