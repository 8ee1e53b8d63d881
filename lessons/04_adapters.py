# %% [markdown]
# # 4 · Adapters: a thin MLP inside a frozen model
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 50 minutes | ●●○ | PyTorch, lessons 1 and 3 (Transformer, biases) | a minute on a CPU |
#
# You will place one small module in three ways, look into it, and count its cost.

# %% [markdown]
# ## First, guess
#
# An **adapter** is a small trained MLP between frozen modules. It squeezes 64 numbers through 16 and widens them again.
#
# 1. It should begin by changing nothing. Why not start all its weights at zero?
# 2. Are all 16 needed?
# 3. After training, can an adapter vanish into the frozen weights?

# %%
import copy
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minipeft import Houlsby, LoRA, ParallelAdapter, Pfeiffer, base, costs, deltas, evaluate, fit, merge, plots, task
from minipeft.attach import Wrapper, detach, trainable
from minipeft.classroom import check
from minipeft.lab import adapt, learning_rate_of
from minipeft.methods import adapter
from minipeft.models.transformer import recording
from minipeft.training import RECIPE, Recipe

# %% [markdown]
# ## The base and the task
#
# As before: the base knows `reverse` and `blue`, but not when nobody says so. From lines without words the adapter
# has to find out what is wanted.

# %%
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, recipe = ([0], Recipe(steps=80)) if FAST else ([0, 1, 2], RECIPE)
told, untold = task("reverse+blue", instructed=True), task("reverse+blue")
for asked in (told, untold):
    print(f"{asked.prompt('cabbed'):24} lines that are right: {evaluate(base(), asked).accuracy:.2f}")
assert evaluate(base(), told).accuracy > 0.5
assert evaluate(base(), untold).accuracy < 0.1

# %% [markdown]
# ## The idea on four numbers
#
# $A(h) = U\,\varphi(D h + b_D) + b_U$. $D$ reads $m$ numbers out of $d$: the **bottleneck**. φ bends them, so that it
# can answer "if". $U$ writes.
#
# Here $d = 4$, $m = 1$: *if* the first number exceeds the second by more than 1, raise the last.

# %%
D, b_D = np.array([[1.0, -1, 0, 0]]), -1.0  # (m, d) = (1, 4)
U = np.array([[0.0], [0], [0], [2]])  # (d, m)


def A(h):
    return U @ np.maximum(D @ h + b_D, 0)  # (d,), φ is ReLU


for h in ([3.0, 0, 5, 0], [1.0, 0, 5, 0], [0.0, 3, 5, 0]):
    print("h =", h, "  z =", np.maximum(D @ h + b_D, 0), "  h + A(h) =", h + A(h))
assert (A([3.0, 0, 5, 0]) == [0, 0, 0, 4]).all()
assert not A([1.0, 0, 5, 0]).any()

# %% [markdown]
# ## Guess 3: why it cannot vanish
#
# Without φ, $h + U D h$ is one matrix times $h$. If a frozen $W$ made $h$, it melts into $W$, as LoRA (lesson 10)
# does. For a matrix and a bias, $A(h) + A(-h) - 2 A(0)$ is zero. With φ it is not: they cannot stand in for the
# adapter.

# %%
W, x = np.arange(16.0).reshape(4, 4) % 5, np.array([1.0, -2, 0, 1])
straight = W @ x + U @ (D @ (W @ x))
assert np.allclose(straight, (W + U @ D @ W) @ x)  # without φ: merged
print("rank of U D W, what would be added to W:", np.linalg.matrix_rank(U @ D @ W))

h = np.array([3.0, 0, 5, 0])
print("A(h) + A(−h) − 2 A(0) =", A(h) + A(-h) - 2 * A(0 * h), " for a matrix and a bias it would be zero")
assert (A(h) + A(-h) - 2 * A(0 * h)).any()

# %% [markdown]
# ## Three places
#
# Attention and MLP are *sublayers*: each reads the residual stream $x$ through a norm, as $n$, and adds an answer $f$.
# With adapters:
#
# - Houlsby, twice a layer: $f + A(f)$
# - Pfeiffer, once: $f + A(x + f)$
# - parallel, once: $f + s \cdot A(n)$, with $s = 4$
#
# *Figure: where the adapters, coloured, stand.*

# %%
plots.structure("Adapter")
plt.show()

# %% [markdown]
# Houlsby's and Pfeiffer's must *wait* for the sublayer. The parallel one starts with it.
#
# ## The source
#
# The bottleneck, and two of the wrappers. `SequentialAdapter` stands in front of a sublayer (Houlsby) or a whole block
# (Pfeiffer): what its `base` puts out is $f$, or $x + f$.

# %%
for thing in (adapter.Bottleneck, adapter.SequentialAdapter, adapter.ParallelAdapterLayer):
    print(inspect.getsource(thing))

# %% [markdown]
# ## Attach them
#
# $D$ has $md$ numbers and $m$ biases, $U$ has $dm$ and $d$. So an adapter has $2dm + m + d$. Houlsby et al. train the
# LayerNorms too, $2d$ each; here are five. Counted first, then measured.

# %%
d, layers, norms = 64, 2, 5


def size_of(m):
    return 2 * d * m + m + d


methods = {Houlsby(size=8): 2 * layers * size_of(8) + norms * 2 * d}
methods |= {Pfeiffer(size=16): layers * size_of(16), ParallelAdapter(size=16): layers * size_of(16)}
batch = untold.batch(64, torch.Generator().manual_seed(0))
logits = base()(batch.tokens)
for method, predicted in methods.items():
    torch.manual_seed(0)
    model = method.attach(base())
    measured = sum(p.numel() for p in trainable(model).values())
    moved = (model(batch.tokens) - logits).abs().max().item()
    print(f"{method!s:25} predicted {predicted:,}, measured {measured:,}; logits differ from the base's by {moved:.1e}")
    assert measured == predicted
    assert moved < 0.1
    assert (moved == 0) == isinstance(method, ParallelAdapter)

# %% [markdown]
# ## Near, not at: the start
#
# The parallel adapter starts with $U = 0$: exactly the base. The others follow Houlsby et al.: $D$ and $U$ random but
# small, with standard deviation σ = 0.01. Wider ones destroy what the base knows, as the figure shows. From σ = 1 they
# also [learn slowly](claims.md#near_identity).
#
# *Figure: lines right, told, before training.*

# %%
after = {}
for sigma in (0.001, 0.01, 0.1, 0.3, 1.0):
    after[f"σ = {sigma}"] = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = Houlsby(size=8).attach(base())
        for name, p in trainable(model).items():
            if name.endswith(("D.weight", "U.weight")):
                nn.init.normal_(p, std=sigma)
        after[f"σ = {sigma}"].append(evaluate(model, told, 300).accuracy)
plots.bars(after, colour=plots.HUES["Houlsby"])
plt.show()
assert min(after["σ = 0.01"]) > 0.9
assert max(after["σ = 1.0"]) < 0.1

# %% [markdown]
# ## Train them
#
# The recipe of lesson 2, 500 steps, and for each method its own tuned learning rate. So these are the runs of the
# README's table, seeds 0 to 2.
#
# *Figure: loss (left, logarithmic) and accuracy (right), a line for each method, seed 0. All three climb to all lines
# right.*

# %%
runs = {m: [adapt(m, untold, learning_rate_of(m), seed, recipe) for seed in SEEDS] for m in methods}
left, right = plots.new(8, 2.8, columns=2)
plots.curves({str(method): made[0][1] for method, made in runs.items()}, "loss", left)
plots.curves({str(method): made[0][1] for method, made in runs.items()}, "accuracy", right).get_legend().remove()
plt.show()
for method, made in runs.items():
    scores = [evaluate(model, untold).accuracy for model, _ in made]
    lr = learning_rate_of(method)
    print(f"{method!s:25} learning rate {lr}, accuracy by seed:", *(f"{score:.3f}" for score in scores))
    assert FAST or min(scores) > 0.99

# %% [markdown]
# ## What moved
#
# Houlsby's model as a strip: what the *base* has.
#
# *Figure: only thin blocks are coloured, the weights and biases of the norms. All else is grey: no weight was touched.
# What was learned stands beside it, in the adapters, as in every adapter method.*

# %%
houlsby, pfeiffer, parallel = (made[0][0] for made in runs.values())
plots.what_moved(houlsby, deltas.updates(houlsby))
plt.show()
assert all("norm" in name for name in deltas.updates(houlsby))
assert not deltas.updates(pfeiffer)

# %% [markdown]
# ## Into the bottleneck
#
# We send 1,000 lines through and look at the vectors before ($h$), inside ($z$) and behind ($A(h)$). In how many
# directions do they vary? $A(h)$ does in 16 at most, for $U$ is 64 × 16.
#
# *Figure: the share of the variance that the first directions hold. Inside, fewer than ten hold 90 %.*

# %%
many = untold.batch(1000, torch.Generator().manual_seed(1))
through = {path: plots.adapter_activations(pfeiffer, many)[path] for path in ("blocks.0", "blocks.1")}
for ax, (path, vectors) in zip(plots.new(9, 3.4, columns=2), through.items(), strict=True):
    plots.bottleneck(vectors, ax).set_title(path, fontsize=10)
plt.show()
for seed, (model, _) in zip(SEEDS, runs[Pfeiffer(size=16)], strict=True):
    for path, (_, z, out) in plots.adapter_activations(model, many).items():
        needed = int((plots.explained_variance(z).cumsum() < 0.9).sum()) + 1
        used = int((plots.explained_variance(out) > 1e-9).sum())
        print(f"seed {seed}, {path}: {needed} directions hold 90 % inside; behind it varies in {used}")
        assert used <= 16
        assert FAST or needed < 10

# %% [markdown]
# Guess 2: not evenly. A few directions hold nearly all, so a narrower adapter might do (exercise 4).
#
# Which adapter does the work? We silence one of Houlsby's four, $A = 0$, or both of a layer.
#
# *Figure: lines right, a dot for each seed. Without the first hardly anything is left; the others are not missed.*

# %%
places = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn", "mlp")]
alone = {"all four": []} | {f"without {path}": [] for path in places} | {"without blocks.1": []}
for model, _ in runs[Houlsby(size=8)]:
    for name, shares in alone.items():
        silent = copy.deepcopy(model)
        for path in places:
            if path.startswith(name.removeprefix("without ")):
                nn.init.zeros_(silent.get_submodule(path).adapter.U.weight)
                nn.init.zeros_(silent.get_submodule(path).adapter.U.bias)
        shares.append(evaluate(silent, untold, 300).accuracy)
plots.bars(alone, colour=plots.HUES["Houlsby"])
plt.show()
missed = alone.pop("without blocks.0.attn")
assert FAST or max(missed) < 0.1 < 0.95 < min(min(shares) for shares in alone.values())

# %% [markdown]
# ## What it costs: time
#
# With these sizes each method makes 4,096 multiplications more for each token: four adapters of $2 \cdot 64 \cdot 8$ or
# two of $2 \cdot 64 \cdot 16$. LoRA of rank 8 on q and v (lesson 10) has as many, until it is merged. Counted, and
# by the clock (lower quartile).

# %%
one = untold.batch(1, torch.Generator().manual_seed(0))
models = {
    "base": base(),
    "LoRA merged": merge(LoRA(rank=8).attach(base())),
    "LoRA(rank=8)": LoRA(rank=8).attach(base()),
}
models |= {str(method): made[0][0] for method, made in runs.items()}
times = costs.latency(models, one, repeats=40 if FAST else 200)
work = {}
for name, (low, _, _) in times.items():
    with FlopCounterMode(display=False) as counter, torch.no_grad(), recording(models[name]):  # attention written out
        models[name](one.tokens)
    work[name] = counter.get_total_flops() // 2
    more, guess = work[name] - work["base"], 0 if name in ("base", "LoRA merged") else 4096 * one.tokens.numel()
    print(f"{name:25} {work[name]:9,} multiplications, {more:6,} more, predicted {guess:6,}", end="   ")
    print(f"{low:5.2f} ms, {low / times['base'][0]:.2f} of the base")
    assert more == guess

# %% [markdown]
# Four in a hundred multiplications more, but the clock shows more than that: small products cost their start. On one
# CPU thread nothing runs at the same time, so that the parallel adapter need not wait brings nothing here.
#
# LoRA merged is a plain model. Adapters refuse, and say why. `detach` returns the base.

# %%
for model in (houlsby, pfeiffer, parallel):
    try:
        merge(model)
        raise AssertionError("an adapter was merged")
    except TypeError as error:
        print(error)
    assert deltas.fingerprint(detach(model)) == deltas.fingerprint(base())
assert work["LoRA merged"] == work["base"] < min(work[str(method)] for method in methods)

# %% [markdown]
# ## What it costs: memory
#
# Gradients and Adam's two means exist for trained numbers only. A task on disk is the adapter alone, next to a base of
# 437,488 bytes.

# %%
for method in methods:
    m = method.attach(base())
    expected, real = costs.predict(m), costs.measure(m, batch)
    guess, found = expected.gradients + expected.optimizer, real.gradients + real.optimizer
    print(f"{method!s:25} predicted {guess:,}, measured {found:,} bytes, ratio {found / guess:.2f}", end="; ")
    print(f"a task, stored: {costs.delta_bytes(m):,} bytes")
    assert guess == found
assert sum(4 * p.numel() for p in base().parameters()) == 437_488

# %% [markdown]
# ## Break it
#
# Guess 1. **Both zero**: ∂U has a factor $\varphi(D h)$, ∂D has a factor $U$. Both are zero and stay so. Only $b_U$
# learns: the adapter becomes a *bias* (lesson 3), the same for all tokens.
#
# We train it, 30 steps, and look. The checker knows this mistake, too.

# %%
for seed in SEEDS:
    zero = Pfeiffer(size=16).attach(base())
    nn.utils.vector_to_parameters(torch.zeros(2 * size_of(16)), trainable(zero).values())
    fit(zero, untold, steps=30, lr=1e-2, batch_size=32, seed=seed, device="cpu", progress=False)
    alive = {name.rpartition("adapter.")[2] for name, p in trainable(zero).items() if p.count_nonzero()}
    shares = [plots.common_share(out) for _, _, out in plots.adapter_activations(zero, batch).values()]
    print(f"seed {seed}: not zero: {alive}; of what each adapter adds is the same for all:", np.round(shares, 3))
    assert alive == {"U.bias"}
    assert min(shares) > 0.999


# %%
class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        self.D, self.U, self.act = nn.Linear(len(like), size), nn.Linear(size, len(like)), act
        for p in self.parameters():
            nn.init.zeros_(p)
        self.to(like)


check("adapter", Bottleneck)

# %% [markdown]
# ## Your turn
#
# 1. Count by hand what `Houlsby(size=4, norms=False)` trains.
# 2. From which $m$ on has one adapter more numbers than an MLP of the base, 33,088?
# 3. Write `Bottleneck.forward` and `SequentialAdapter.forward`. `check` then says *right so far*; the rest is in
#    `python -m minipeft start adapter`.


# %%
class Bottleneck(nn.Module):
    def forward(self, h):  # (B, T, d), with self.D, self.U, self.act
        raise NotImplementedError("your turn, 2 lines")


class SequentialAdapter(Wrapper):
    def forward(self, x, *rest):  # (B, T, d), and what else attention wants; with self.base, self.adapter
        raise NotImplementedError("your turn, 2 lines")


check("adapter", Bottleneck, SequentialAdapter)

# %% [markdown]
# 4. How small may $m$ be? Try `Pfeiffer(size=...)` of 1, 2, 4, 8 on `untold`, and look into each bottleneck.
# 5. Replace φ by `torch.nn.Identity()` in a trained Pfeiffer. Does it still work? What if it is trained so?
# 6. Use the test from above: is $A(h) + A(-h) - 2 A(0)$ zero for the trained adapters?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: Four of 580: 2,320. 2: 129 $m$ + 64 is 33,088 at $m$ = 256: from 257 on.
#
# 4: 1 has none right; 2, 4: most or hardly any, by seed; 8: nearly all.
#
# 5: Taken away: none. Trained without: nearly all; yet no merging: no weight made its $x$.
#
# 6: No. Without φ, yes.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - An adapter is a thin MLP that adds: $2dm + m + d$ numbers, started near zero, not at it.
# - Its place says what it reads and whether it waits ([ledger](claims.md#parallel_adapters)).
# - Its φ forbids merging: it costs time.
#
# Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247; He et al. 2021, arXiv:2110.04366.

# %% [markdown]
# ## The same in the reference library
#
# The library is `adapters`. Its Houlsby leaves the norms frozen, ours with `norms=False`.
#
# ```python
# import adapters
# from transformers import GPT2Config, GPT2LMHeadModel
#
# gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4))
# adapters.init(gpt2)
# config = adapters.DoubleSeqBnConfig(reduction_factor=8)  # Houlsby, m = 64 / 8
# gpt2.add_adapter("blue", config=config)  # SeqBnConfig: Pfeiffer, ParBnConfig: parallel
# gpt2.train_adapter("blue")  # freezes the rest
# ```
