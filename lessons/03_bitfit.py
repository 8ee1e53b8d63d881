# %% [markdown]
# # 3 · BitFit: only the biases
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 40 minutes | ●○○ | PyTorch, lesson 1 (Transformer, toy world) | a minute on a CPU |
#
# You will see what a bias can do, what it cannot, and where in the model that shows.

# %% [markdown]
# ## First, guess
#
# A linear layer computes $y = Wx + b$. We freeze every $W$, train every $b$: 1,532 of 109,372 numbers.
#
# 1. Can that tell the base to do `reverse blue` without being told?
# 2. Can it teach `violet`, a table of letters the base never saw?
# 3. One kind of bias has no effect at all. Which?

# %%
import copy
import inspect
import itertools
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from minipeft import BitFit, Full, LoRA, base, costs, deltas, encode, evaluate, fit, merge, plots, task
from minipeft.attach import detach, trainable
from minipeft.classroom import check
from minipeft.lab import adapt, compare, learning_rate_of, stored, tuned_method
from minipeft.methods import bitfit
from minipeft.models.transformer import recording
from minipeft.tasks import Few
from minipeft.training import RECIPE, Recipe

# %% [markdown]
# ## The base and two tasks
#
# The base knows the words `reverse` and `blue`. It fails when nobody says them: there the skill exists and must be
# *chosen*. For `violet` there is no word and no skill: it must be *learned*.

# %%
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, recipe = ([0], Recipe(steps=80)) if FAST else ([0, 1, 2], RECIPE)
told, blue, violet = task("reverse+blue", instructed=True), task("reverse+blue"), task("reverse+violet")
for name, asked in {"blue, told": told, "blue": blue, "violet": violet}.items():
    score = evaluate(base(), asked).accuracy
    print(f"{name:12} {asked.prompt('cabbed'):24} lines that are right: {score:.2f}")
    assert (score > 0.5) == asked.instructed

# %% [markdown]
# ## A bias by hand
#
# A change $\Delta b$ is added to whatever comes. A change $\Delta W$ does something else to each input. Four inputs,
# the columns of $X$: what is added to their outputs?

# %%
X = np.array([[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 0, 2.0]])  # 4 inputs, one in each column
delta_b = np.array([[3.0], [0], [-1], [0]])
delta_W = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
by_b, by_W = np.tile(delta_b, 4), delta_W @ X
print("Δb adds\n", by_b, "\nΔW adds\n", by_W)
assert (by_b == by_b[:, :1]).all()  # the same to all
assert len(np.unique(by_W, axis=1).T) > 2  # not so

# %% [markdown]
# That seems very little. But in front of a bend a bias is a **switch**. A ReLU gives $\max(0, h)$: with a bias low
# enough a *unit*, one number inside an MLP, is off, whatever comes.
#
# This MLP has two tables in store. Four units know the first, four the second. The bias alone says which is used.

# %%
letters = np.eye(4)  # column i is the letter "abcd"[i]
first, second, third = (letters[:, order] for order in ([1, 0, 3, 2], [2, 3, 1, 0], [3, 2, 0, 1]))
up, down = np.vstack([letters, letters]), np.hstack([first, second])  # (8, 4), (4, 8)


def read(b_up, b_down=0.0):
    wide = np.maximum(up @ letters + b_up, 0)  # (8, 4), a column for each letter
    return "".join("abcd"[i] for i in (down @ wide + b_down).argmax(0))


def switch(units):
    return -1.0 * np.isin(np.arange(8), units)[:, None]


print("abcd becomes", read(switch([4, 5, 6, 7])), "or", read(switch([0, 1, 2, 3])))
assert read(switch([4, 5, 6, 7])) == "badc" == "".join("abcd"[i] for i in first.argmax(0))
assert read(switch([0, 1, 2, 3])) == "".join("abcd"[i] for i in second.argmax(0))

# %% [markdown]
# So biases **select** among what the weights can do. Now a third table, which is not in store. We try every setting
# of the eight switches, together with every letter that the bias of `down` may favour. How many of four letters can
# be right?

# %%
wanted = {name: "".join("abcd"[i] for i in t.argmax(0)) for name, t in zip("123", (first, second, third), strict=True)}
favours = [np.zeros((4, 1)), *(0.5 * letters[:, [i]] for i in range(4))]
best = dict.fromkeys(wanted, 0)
for on, favour in itertools.product(itertools.product([0, 1], repeat=8), favours):
    answer = read(-1.0 * np.array(on)[:, None], favour)
    for name, table in wanted.items():
        best[name] = max(best[name], sum(a == b for a, b in zip(answer, table, strict=True)))
for name, table in wanted.items():
    print(f"table {name}, {table}: at best {best[name]} of 4 letters")
assert list(best.values()) == [4, 4, 1]

# %% [markdown]
# One: with its units off, the favoured letter comes out. So we predict: choosing yes, new tables hardly.
#
# ## The structure
#
# *Figure: the frozen weight, grey; the bias, coloured, is added behind it.*
#
# Guess 3: the keys'. It adds $q \cdot \Delta b_k$, the same number, to all scores of a query, and softmax does not see
# that.

# %%
plots.structure("BitFit")
plt.show()
scores = torch.tensor([2.0, -1.0, 0.5])
print(scores.softmax(0), (scores + 7).softmax(0))
assert torch.allclose(scores.softmax(0), (scores + 7).softmax(0))

shifted, tokens = base(), encode("reverse next : cabbed =")[None]
with torch.no_grad():
    for block in shifted.blocks:
        block.attn.k.bias += torch.randn(64)
    change = (shifted(tokens) - base()(tokens)).abs().max().item()
print(f"keys' biases moved at random: the logits change by {change:.0e}")
assert change < 1e-3

# %% [markdown]
# ## The source
#
# The method has no formula of its own; its care is in saying *what a bias is*. A LayerNorm
# multiplies by a vector γ: no bias. It adds a vector β: a bias. T5, another Transformer, has a table called
# `relative_attention_bias.weight`: none, whatever its name contains.

# %%
print(inspect.getsource(bitfit.is_bias))
print(inspect.getsource(bitfit.chosen))
print(inspect.getsource(bitfit.copies))

# %% [markdown]
# ## Attach it
#
# In a layer of width $d$, with $f$ in the middle of the MLP: q, k, v, o, `down` and two norms have $d$ each, `up` has
# $f$. That is $7d + f$. Behind the blocks stand a norm, $d$, and the head, one for each of 60 tokens.

# %%
model = BitFit().attach(base())
d, f, layers, vocabulary = 64, 256, 2, 60
predicted = layers * (7 * d + f) + d + vocabulary
measured = sum(p.numel() for p in trainable(model).values())
print(f"predicted {predicted:,}, measured {measured:,}, ratio {measured / predicted:.2f}")
assert predicted == measured
assert all(name.endswith(".bias") for name in trainable(model))
batch = blue.batch(64, torch.Generator().manual_seed(0))
assert torch.equal(model(batch.tokens), base()(batch.tokens))  # it begins as the base, to the last bit
assert [type(m) for m in model.modules()] == [type(m) for m in base().modules()]  # nothing is added or wrapped
assert torch.equal(merge(model)(batch.tokens), model(batch.tokens))  # so merging has nothing to do
assert deltas.fingerprint(detach(model)) == deltas.fingerprint(base())  # the old ones were not touched

# %% [markdown]
# ## Train it to choose
#
# We follow the recipe of lesson 2: 500 steps of 32 new lines. Every learning rate was tuned alike: BitFit wants 0.1, a
# large one, as so few numbers must do so much.
#
# *Figure: loss (left, logarithmic) and accuracy (right), a line for each seed. They climb from nothing to all lines
# right.*


# %%
def trained(method, goal, seed=0, **more):
    return adapt(method, goal, learning_rate_of(method), seed, recipe, **more)


runs = {f"BitFit(), seed {seed}": trained(BitFit(), blue, seed) for seed in SEEDS}
left, right = plots.new(8, 2.8, columns=2)
plots.curves({name: history for name, (_, history) in runs.items()}, "loss", left)
plots.curves({name: history for name, (_, history) in runs.items()}, "accuracy", right)
plt.show()
scores = [evaluate(m, blue).accuracy for m, _ in runs.values()]
print("lines that are right, by seed:", *(f"{score:.3f}" for score in scores))
assert FAST or min(scores) > 0.99
(row,) = compare(blue, [tuned_method(BitFit())], seeds=10, lab=stored())
print("the runs of the README's table, ten seeds: ", *(f"{score:.3f}" for score in row["accuracy"]))
assert sum(score < 0.5 for score in row["accuracy"]) == 2

# %% [markdown]
# Of the README's ten seeds, two stop at four lines in ten.
#
# ## What moved
#
# *Figure 1: the whole model as a strip, a block for each weight and bias. Only thin blocks, the biases, are coloured.*
#
# *Figure 2: how far each bias moved, against its length in the base. The keys' are hatched.*

# %%
model = runs["BitFit(), seed 0"][0]
plots.what_moved(model, deltas.updates(model))
plt.show()
plots.bias_changes(model)
plt.show()
assert {name.rpartition(".")[2] for name in deltas.updates(model)} == {"bias"}
far = {name: d.norm() / b.norm() for name, (b, d) in deltas.updates(model).items()}
assert min(far["blocks.0.attn.k.bias"], far["blocks.1.attn.k.bias"]) > far["norm.bias"] > 0

# %% [markdown]
# The idle ones moved far: Adam makes every gradient a step of like size, even mere rounding. So moved is not *needed*.
# Put the biases of one kind back to what they were. How many lines stay right?
#
# *Figure: lines right after each such return, a dot for each seed. The keys' biases are not missed.*

# %%
kinds = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2", ".norm", ".head")
left_over = {"nothing put back": scores}
for kind in kinds:
    left_over[kind.removeprefix(".")] = []
    for m, _ in runs.values():
        returned = copy.deepcopy(m)
        with torch.no_grad():
            for name, (old, _) in deltas.updates(m).items():
                if f".{name}".endswith(f"{kind}.bias") and (kind[0] != "." or name.count(".") == 1):
                    returned.get_parameter(name).copy_(old)
        left_over[kind.removeprefix(".")].append(evaluate(returned, blue, 200).accuracy)
plots.bars(left_over, colour=plots.HUES["BitFit"])
plt.show()
assert np.allclose(left_over["attn.k"], scores, atol=0.08)  # 200 lines here, 1,000 there
assert FAST or min(np.mean(left_over[kind.removeprefix(".")]) for kind in kinds) < np.mean(scores) - 0.3

# %% [markdown]
# Guess 1: yes. One number in seventy is enough to choose.
#
# ## Train it to learn
#
# Now `violet`, against LoRA (lesson 10), which trains 2,048 numbers that change the *weights* of q and v.
#
# *Figure: accuracy on violet while training, a line for each seed. Both learn the table; BitFit needs more than twice
# the steps.*

# %%
pair = {"BitFit()": BitFit(), "LoRA(rank=4)": LoRA(rank=4)}
news = {name: [trained(method, violet, seed) for seed in SEEDS] for name, method in pair.items()}
histories = {f"{name}, seed {seed}": news[name][i][1] for name in news for i, seed in enumerate(SEEDS)}
plots.curves(histories, "accuracy")
plt.show()
news = {name: [model for model, _ in found] for name, found in news.items()}
right = {name: [evaluate(model, violet).accuracy for model in models] for name, models in news.items()}
rows = compare(violet, [tuned_method(method) for method in pair.values()], seeds=10, lab=stored())
for (name, shares), row in zip(right.items(), rows, strict=True):
    print(f"{name:14} lines right, by seed:", *(f"{x:.3f}" for x in shares), end="   ")
    print("README's ten seeds: nine in ten right after", min(row["reached"]), "to", max(row["reached"]), "steps")
    assert FAST or min(shares) > 0.98

# %% [markdown]
# ## Why: the same to all, or to each its own
#
# We compare with the base what the first layer's q puts out for one line.
#
# *Figure: a row for each token, a column for each of 64 numbers; blue is more, red less. BitFit's rows are all alike.
# LoRA's differ.*


# %%
@torch.no_grad()
def changes(model, path, line):
    found = []
    for m in (model, base()):
        hook = m.get_submodule(path).register_forward_hook(lambda module, inputs, output: found.append(output[0]))
        m(line)
        hook.remove()
    return found[0] - found[1]  # (T, n)


line, words = encode(": cabbed = gh")[None], list(":cabbed=gh")
plots.token_changes({name: changes(models[0], "blocks.0.attn.q", line) for name, models in news.items()}, words)
plt.show()
for seed, m, other in zip(SEEDS, *news.values(), strict=True):
    pairs = (m, "blocks.0.attn.q"), (other, "blocks.0.attn.q"), (m, "blocks.1.attn.q")
    first, lora, second = (plots.common_share(changes(*pair, line)) for pair in pairs)
    print(
        f"seed {seed}, the same for all: BitFit {first:.3f}, LoRA {lora:.3f}; BitFit in the second layer {second:.3f}"
    )
    assert first > 0.999 > 0.99 > second > lora

# %% [markdown]
# That holds for the *first* layer. Behind it stand a softmax and GELUs, in which biases act as switches: what reaches
# the second layer is no longer the same for all.
#
# Guess 2: yes. Our prediction was wrong: BitFit is not bound to what our 4 × 4, with one bend, could do. It is *slow*.

# %% [markdown]
# ## Few examples
#
# The paper finds BitFit as good as training all weights, and better when data are few. Here? 32 lines of `blue` and no
# others, 500 steps. BitFit gets 0.3, its best with 32 lines.
#
# *Figure: accuracy on unseen lines, a dot for each seed. Both know their 32 lines; on others full fine-tuning is
# better.*

# %%
few = {"BitFit": (BitFit(), 3e-1), "Full": (Full(), learning_rate_of(Full()))}
fresh, learned = {}, {}
for name, (method, lr) in few.items():
    made = [(adapt(method, blue, lr, seed, recipe, examples=32)[0], seed) for seed in SEEDS]
    fresh[name] = [evaluate(m, blue).accuracy for m, _ in made]
    learned[name] = [evaluate(m, Few(blue, 32, seed), 32).accuracy for m, seed in made]
    print(f"{name:7} its 32 lines, by seed:", *(f"{x:.2f}" for x in learned[name]), end="   ")
    print("fresh lines:", *(f"{x:.2f}" for x in fresh[name]))
plots.bars(fresh)
plt.show()
assert FAST or min(learned["Full"] + learned["BitFit"]) == 1
assert FAST or min(fresh["Full"]) > max(fresh["BitFit"])

# %% [markdown]
# With 32 examples the claim does **not** show. With 8, BitFit has the lower loss; with 128 full fine-tuning is ahead
# ([ledger](claims.md#few_biases)).
#
# ## What it costs
#
# No module is added: a forward pass is the base's. Gradients and Adam's means exist for biases only. And linear layers
# need not keep their *input* for the backward pass: **activations** shrink.

# %%
measured, work = {}, {}
for method in (Full(), LoRA(rank=4), BitFit()):
    m = method.attach(base())
    expected, real = costs.predict(m), costs.measure(m, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), recording(m):  # attention written out
        m(batch.tokens)
    name, work[str(method)] = str(method), counter.get_total_flops() // 2
    measured[name] = real
    guess, found = expected.gradients + expected.optimizer, real.gradients + real.optimizer
    print(
        f"{name:13} gradients and means: predicted {guess:>9,}, measured {found:>9,} bytes, ratio {found / guess:.2f}"
    )
    print(f"{'':13} activations {real.activations:,} bytes, {work[name]:,} multiplications")
    assert guess == found
ratio = measured["BitFit"].activations / measured["Full"].activations
print(f"activations, BitFit / Full: {ratio:.2f}; a task, stored: {costs.delta_bytes(m):,} bytes")
assert ratio < 0.9
assert work["BitFit"] == work["Full"] < work["LoRA(rank=4)"]

# %% [markdown]
# ## Break it
#
# Two mistakes in `copies`. **Originals trained** (60 steps): without copies there is no way back. **From zero**: the
# new biases begin at zero. No error is raised.
#
# *Figure: lines right, told. The first ruins the base. The second is hardly seen: this base hardly uses its biases.*
#
# *Figure: what the checker expects, finds, the difference.*

# %%
lost, zero = base(), BitFit().attach(base())
for name, p in lost.named_parameters():
    p.requires_grad_(name.endswith(".bias"))
fit(lost, blue, steps=60, lr=0.1, device="cpu", progress=False)
torch.nn.utils.vector_to_parameters(torch.zeros(1532), trainable(zero).values())
known = {"the base": base(), "originals trained": lost, "all biases at zero": zero}
share = {name: evaluate(m, told).accuracy for name, m in known.items()}
plots.bars(share)
plt.show()
assert share["originals trained"] < share["the base"] - 0.3
assert share["all biases at zero"] > share["the base"] - 0.2


def copies(weights, paths):
    return {
        path: torch.nn.Parameter(getattr(module, name).detach() * 0) for path, module, name in weights if path in paths
    }


check("bitfit", copies)  # in a notebook it also draws, with plt.show()

# %% [markdown]
# ## Your turn
#
# 1. Write `is_bias`; its docstring tells the traps. Then the rest: `python -m minipeft start bitfit`.
# 2. How many biases have BERT-base's layers ($d$ = 768, $f$ = 3,072, 12 layers)?
# 3. A part only: `BitFit(targets=("attn.q", "mlp.up"))`. How many numbers? Train it on `blue`.
# 4. `violet`, 200 steps: BitFit, LoRA?
# 5. `BitFit(targets=("head",))`: predict, train. Why?


# %%
def is_bias(module, name):
    raise NotImplementedError("your turn, about 5 lines")


check("bitfit", is_bias)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 2: $12\,(7 \cdot 768 + 3{,}072)$ = 101,376.
#
# 3: 2 (64 + 256) = 640; about four lines in ten, for three seeds.
#
# 4: With `Recipe(steps=200)` LoRA has nearly all lines right and BitFit none, for three seeds.
#
# 5: None right. It adds the same scores to the letters everywhere.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - BitFit trains what is *added*: $7d + f$ numbers a layer, no module.
# - A shift is the same for all; before a bend it switches. It selects.
# - New tables it learns slowly; few data are no strength.
#
# Paper: Ben Zaken et al. 2021, [arXiv:2106.10199](https://arxiv.org/abs/2106.10199). In peft beside a LoRA, alone in
# PyTorch:
#
# ```python
# from peft import LoraConfig, get_peft_model
#
# config = LoraConfig(r=1, target_modules=["q"], bias="all")
# model = get_peft_model(base(), config)
# model.print_trainable_parameters()
# ```
#
# ```python
# for name, p in model.named_parameters():
#     p.requires_grad = name.endswith(".bias")
# ```
