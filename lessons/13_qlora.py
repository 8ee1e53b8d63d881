# %% [markdown]
# # 13 · QLoRA: a frozen base in four bits
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 70 minutes | ●●● | lesson 10 (LoRA) | a minute on a CPU |
#
# You will store weights in half a byte, find out which 16 numbers serve best, train LoRA on top, count bits.

# %% [markdown]
# ## First, guess
#
# LoRA leaves the base's weights alone, yet keeps each in 32 bits. With 4 bits, a weight can be one of 16 numbers only:
# it is **quantized**.
#
# 1. Does the base still work with 4 bits? With 3? With 2?
# 2. Which 16 numbers would you take?
# 3. Rounding has no slope. How can a gradient pass?

# %%
import copy
import inspect
import os
import time
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
import torch

from minipeft import LoRA, Mixture, QLoRA, base, check, costs, deltas, evaluate, merge, plots, task
from minipeft.attach import detach, trainable
from minipeft.classroom import diagnose, with_mistake
from minipeft.lab.trial import adapt, first_step
from minipeft.methods import Full, qlora
from minipeft.training import Recipe

torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, STEPS, LINES = ([0], 20, 100) if FAST else ([0, 1, 2], 100, 500)

# %% [markdown]
# ## The base and the task
#
# The task is `reverse+violet`, untold. The base never saw that table, so it must be written into weights.
#
# The `Mixture` is what the base knows: all it was trained on. We quantize the twelve matrices of the two blocks,
# nothing else.

# %%
knows, learn = Mixture(), task("reverse+violet")
for goal in (knows, learn):
    print(f"{goal!s:15} lines that are right: {evaluate(base(), goal, LINES).accuracy:.2f}")

SIX = ("q", "k", "v", "o", "up", "down")
matrices = {
    name: p.detach() for name, p in base().named_parameters() if name.endswith(tuple(f"{six}.weight" for six in SIX))
}
weights = torch.cat([W.flatten() for W in matrices.values()])
print(f"{len(weights):,} of the base's {sum(p.numel() for p in base().parameters()):,} numbers are in 12 matrices")
assert len(matrices) == 12
assert evaluate(base(), knows, LINES).accuracy > 0.95
assert evaluate(base(), learn, LINES).accuracy < 0.05

# %% [markdown]
# ## Rounding by hand
#
# Take a block of weights and its largest magnitude, **absmax**. Between −absmax and absmax lie evenly spaced
# **levels**: here 15, from −7/7 to 7/7. A weight becomes the number of the nearest level, its **code**.
#
# Then let one weight be ten times absmax: an **outlier**.

# %%
LEVELS = np.arange(-7, 8) / 7  # what is called int4


def there_and_back(block):
    absmax = np.abs(block).max()
    codes = np.abs(block[:, None] / absmax - LEVELS).argmin(1)  # the nearest; 0 to 14 fit into four bits
    return absmax, codes, LEVELS[codes] * absmax


block = np.array([0.30, -0.12, 0.04, 0.70, -0.48, 0.00, 0.21, -0.66])
for outlier in (0.21, 7.0):
    block[6] = outlier
    absmax, codes, back = there_and_back(block)
    print(f"absmax {absmax:.2f}   codes", codes, "\n  block", block, "\n  back ", back.round(2), "\n")
    assert np.abs(back - block).max() <= absmax / 14 + 1e-9  # half of the distance of two levels
    assert back[5] == 0  # zero stays zero
assert (back[[0, 1, 2, 4, 5]] == 0).all()  # the outlier wiped out all but the largest

# %% [markdown]
# The outlier spoils its block: the levels move apart. So blocks are small. QLoRA takes 64 weights, in the order in
# which they lie in memory. Each block stores its absmax.
#
# *Figure: a matrix of the base. Left, one outlier, and only its block suffers. Right, smaller blocks suffer less, but
# cost more bits.*

# %%
W = matrices["blocks.0.mlp.up.weight"]
plots.block_error(W)
plt.show()
for seed in SEEDS:
    spoiled = W.flatten().clone()
    place = torch.randint(len(spoiled), (1,), generator=torch.Generator().manual_seed(seed)).item()
    spoiled[place] = 20 * W.std()
    Ŵ = qlora.dequantize(qlora.quantize(spoiled, double_quant=False), spoiled.shape)
    error = (Ŵ - spoiled).view(-1, 64).square().mean(1).sqrt()
    hit = place // 64
    others = torch.arange(len(error)) != hit
    print(f"seed {seed}: block of the outlier {error[hit]:.4f}, mean of the others {error[others].mean():.4f}")
    assert error[hit] > 2 * error[others].max()
errors = [qlora.rounding_error(W, block_size=size, double_quant=False) for size in (16, 64, 256)]
assert errors == sorted(errors)

# %% [markdown]
# ## Guess 2: which levels? Four by hand
#
# Trained weights look normally distributed: many small, few large. So levels should be dense near zero. The
# **quantile** $\Phi^{-1}(p)$ is the number below which a share $p$ of them lies. $\Phi^{-1}(½) = 0$.
# $\Phi^{-1}(1) = \infty$, so the outermost $p$ stays half a level inside.

# %%
Q, n = NormalDist().inv_cdf, 4  # 2 bits: 4 levels
edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2  # half a level, averaged over n and n − 1 levels
up = [Q(0.5 + (edge - 0.5) * i / 2) for i in (1, 2)]  # two above zero
down = [-Q(edge)]  # one below
print(f"edge {edge:.3f}, quantiles", np.round([*down, 0, *up], 3))
nf2 = np.array([*down, 0, *up]) / up[-1]  # the outermost becomes ±1
print("four levels:", nf2.round(3))
assert np.allclose(nf2, qlora.normal(2), atol=1e-6)

nf4 = qlora.normal(4)
print("sixteen:", nf4.numpy().round(2))
assert (len(nf4), (nf4 < 0).sum(), (nf4 == 0).sum(), (nf4 > 0).sum()) == (16, 7, 1, 8)

# %% [markdown]
# That is **NF4**, *normal float*. Zero is a level, so that zeros stay zeros. Four bits make 16 codes; zero takes one,
# and 15 cannot be split evenly: 7 and 8.
#
# **FP4** is a tiny float (0, ½, 1, 1½, 2, 3, 4, 6, over 6), **int4** is even; 15 codes each.
#
# *Figure: the base's weights; below, each code's cells.*

# %%
plots.quantization_levels(("nf4", "fp4", "int4"), values=weights)
plt.show()
error = {code: [qlora.rounding_error(W, code, 64, False) for W in matrices.values()] for code in ("nf4", "fp4", "int4")}
for code, found in error.items():
    codes, _ = qlora.encode(weights, qlora.levels_of(code), 64)
    share = torch.bincount(codes.long()) / len(codes)
    bits, whole = -(share * share.log2()).sum(), qlora.rounding_error(weights, code, 64, False)
    print(f"{code:5} error {100 * whole:.2f} %, by matrix {100 * min(found):.1f} to {100 * max(found):.1f}", end="; ")
    print(f"its codes carry {bits:.2f} bits")
    assert (bits > 3.85) == (code == "nf4")  # 4 if all were used equally
nf, fp, even = (np.array(found) for found in error.values())
assert (nf < 0.92 * np.minimum(fp, even)).all()  # in each of the 12 matrices
print(f"FP4 below int4 in {(fp < even).sum()} matrices of 12")
assert (fp < even).sum() >= 10

# %% [markdown]
# The weights fit the bell curve. Darker cells hold more of them: NF4 uses its codes about equally.
#
# ## Where NF4 loses
#
# *Figure: the error on other weights, a mark for each seed (base: each matrix). Uniform ones: int4 wins. Heavy tails,
# many outliers: all lose, int4 most, and NF4's lead over FP4 shrinks.*

# %%
kinds = {"the base": error} | {kind: {code: [] for code in error} for kind in ("normal", "uniform", "heavy tails")}
for seed in SEEDS:
    g = torch.Generator().manual_seed(seed)
    z, u, chi = torch.randn(128000, generator=g), torch.rand(128000, generator=g), torch.randn(3, 128000, generator=g)
    heavy = z / chi.square().mean(0).sqrt()  # Student's t with 3 degrees of freedom
    for kind, values in (("normal", z), ("uniform", 2 * u - 1), ("heavy tails", heavy)):
        for code in error:
            kinds[kind][code].append(qlora.rounding_error(values, code, 64, False))
plots.quantization_errors(kinds)
plt.show()
for i in range(len(SEEDS)):
    nf, fp, even = (kinds["normal"][code][i] for code in error)
    assert nf < 0.9 * fp < even * 0.9
    assert kinds["uniform"]["int4"][i] < 0.85 * kinds["uniform"]["nf4"][i]
    nf, fp, even = (kinds["heavy tails"][code][i] for code in error)
    assert 0.95 * fp < nf < fp < 0.8 * even

# %% [markdown]
# ## Two codes in a byte
#
# There is no type of 4 bits. Two codes share a byte, the earlier one in the upper half: 7 and 12 are
# $7\cdot16+12=124$, or `0x7c`. To calculate, a weight is unpacked.
#
# *Figure: a matrix, unpacked again, and the change. NF4 cannot be told from W by eye; two bits can.*

# %%
tiny = torch.tensor([[0.0, 0.9], [-2.0, 2.0]])
stored = qlora.quantize(tiny, double_quant=False)
print({name: t.tolist() for name, t in stored.items()}, "in hex:", [f"{b:#04x}" for b in stored["packed"].tolist()])
assert stored["packed"].tolist() == [7 << 4 | 12, 0 << 4 | 15]
assert [(b >> 4, b & 15) for b in stored["packed"].tolist()] == [(7, 12), (0, 15)]
Ŵ = qlora.dequantize(stored, tiny.shape)
print("unpacked:", Ŵ.tolist())
assert torch.allclose(Ŵ.flatten(), 2 * nf4[[7, 12, 0, 15]])
plots.quantized_weights(matrices["blocks.0.attn.q.weight"], ("nf4", "nf2"))
plt.show()

# %% [markdown]
# ## Double quantization
#
# An absmax of 32 bits for 64 weights is half a bit for each: 4.5. But absmax are numbers, too. Take their mean away,
# as levels lie on both sides of zero, and round the rest to 8 bits, in groups of 256 with a scale each:
#
# $$4 + \tfrac{8}{64} + \tfrac{32}{64 \cdot 256} = 4.127$$

# %%
once, twice = qlora.quantize(W, double_quant=False), qlora.quantize(W)
for name, stored in (("once", once), ("twice", twice)):
    print(f"{name:6}", {key: f"{t.numel()} of {str(t.dtype)[6:]}" for key, t in stored.items()})
absmax = qlora.decode(twice["absmax"], twice["absmax2"], qlora.DYNAMIC, qlora.GROUP) + twice["mean"]
print(f"absmax are wrong by at most {(absmax / once['absmax'] - 1).abs().max():.2%}")
assert (absmax / once["absmax"] - 1).abs().max() < 0.02

for double in (False, True):
    model = QLoRA(double_quant=double).attach(base())
    predicted, measured = qlora.predicted_bits(64, double), qlora.measured_bits(model)
    worst = np.mean([qlora.rounding_error(W, double_quant=double) for W in matrices.values()])
    print(f"bits: predicted {predicted:.3f}, measured {measured:.3f}, ratio {measured / predicted:.3f}", end="; ")
    print(f"error {100 * worst:.3f} %")
    assert predicted <= measured < predicted + 0.01
    print(f"65 billion such weights: {65 * predicted / 8:.1f} GB; in 16 bits they are 130")
    assert abs(worst - np.mean(error["nf4"])) < 1e-3

# %% [markdown]
# The error stays. The paper *fine-tunes* 65 billion weights on one 48-GB card.
#
# ## The structure and the source
#
# $y = x\hat W^\top + b + s\,xA^\top B^\top$. *Figure: LoRA, coloured, beside Ŵ, grey, made from codes at every pass.*
#
# Guess 3: the gradient $g$ never goes *into* the codes, but *past* them, to $x$, as $g\hat W$: `Product`.

# %%
plots.structure("QLoRA")
plt.show()
for thing in (qlora.encode, qlora.quantize, qlora.Product, qlora.QuantizedLinear):
    print(inspect.getsource(thing))

# %% [markdown]
# ## Attach it
#
# Four promises: the start is the base with Ŵ for W, and not the base; only $A$ and $B$ train; codes are whole numbers
# without a gradient; and the gradients are those of a plain matrix $\hat W + sBA$.

# %%
model = QLoRA(rank=2).attach(base())
batch, plain = learn.batch(32, torch.Generator().manual_seed(0)), base()
for name, W in matrices.items():
    plain.get_parameter(name).data = qlora.dequantize(qlora.quantize(W), W.shape)
assert torch.allclose(model(batch.tokens), plain(batch.tokens), atol=1e-4)
assert not torch.allclose(model(batch.tokens), base()(batch.tokens), atol=1e-2)
assert {name[-1] for name in trainable(model)} == {"A", "B"}
assert len(trainable(model)) == 24
print({name: str(p.dtype)[6:] for name, p in model.blocks[0].attn.q.base.named_parameters()})

layer = copy.deepcopy(model.blocks[0].mlp.up)
torch.nn.init.normal_(layer.B, std=0.1)
x, g = torch.randn(5, 64, requires_grad=True), torch.randn(5, 256)
layer(x).backward(g)
s, Ŵ = layer.scale, layer.base.weight
assert torch.allclose(x.grad, g @ (Ŵ + s * layer.B @ layer.A), atol=1e-4)
assert torch.allclose(layer.A.grad, s * layer.B.T @ g.T @ x, atol=1e-4)
assert torch.allclose(layer.B.grad, s * g.T @ x @ layer.A.T, atol=1e-4)

# %% [markdown]
# ## Train it, on 4 bits and on 32
#
# LoRA of rank 2 on all twelve matrices, once on the base, once on its quantized twin, both at a learning rate of 0.03.
# 100 steps do; our recipe has 500.
#
# *Figure: the loss, seed 0, logarithmic. On 4 bits it falls later here; with seed 2 it falls sooner.*


# %%
def train(method, goal=learn, seed=0, steps=STEPS, lr=3e-2):  # the seed draws A and the lines
    return adapt(method, goal, lr, seed, Recipe(steps=steps))


methods = {"LoRA(32 bits)": LoRA(rank=2, alpha=4, targets=SIX), "QLoRA(4 bits)": QLoRA(rank=2, alpha=4)}
runs = {name: [train(method, seed=seed) for seed in SEEDS] for name, method in methods.items()}
plots.curves({name: made[0][1] for name, made in runs.items()}, "loss", plots.new(4.6, 2.2))
plt.show()
for name, made in runs.items():
    scores = [evaluate(m, learn, LINES).accuracy for m, _ in made]
    reached = [first_step(history.accuracy) for _, history in made]
    print(f"{name} accuracy by seed:", *(f"{score:.3f}" for score in scores), "  0.9 at step:", *reached)
    assert FAST or min(scores) > 0.95

# %% [markdown]
# ## What moved
#
# *Figure: the strip of the whole model. All twelve matrices are coloured, as what LoRA adds to Ŵ counts here; the rest
# is grey.*
#
# And the codes? The same bytes as before training.

# %%
trained = [m for m, _ in runs["QLoRA(4 bits)"]]
moved = deltas.updates(trained[0])
plots.what_moved(trained[0], moved)
plt.show()
assert set(moved) == set(matrices)
for m in trained:
    for name, W in matrices.items():
        layer = m.get_submodule(name.removesuffix(".weight")).base
        for part, tensor in qlora.quantize(W).items():
            assert torch.equal(getattr(layer, part), tensor)
    assert deltas.fingerprint(detach(m)) == deltas.fingerprint(base())

# %% [markdown]
# ## Guess 1: accuracy against bits
#
# What is left of what the base *knew*? We round, look, and train a LoRA of rank 4 on the mixture (40 steps, 0.01).
#
# *Figure: hollow: only rounded; filled: mended, a dot for each seed. At 4 bits nothing is lost; at 2 everything, and
# the levels decide how much comes back.*

# %%
before = {c: evaluate(QLoRA(quant_type=c).attach(base()), knows, LINES).accuracy
          for c in ("nf4", "fp4", "int4", "nf3", "int3", "nf2", "int2")}  # fmt: skip
mend = {"steps": 8 if FAST else 40, "lr": 1e-2}
after, mended = {}, {}
for code in ("nf3", "int3", "nf2", "int2"):
    mended[code] = [train(QLoRA(rank=4, quant_type=code), knows, seed, **mend)[0] for seed in SEEDS]
    after[code] = [evaluate(m, knows, LINES).accuracy for m in mended[code]]
    print(f"{code:4} {before[code]:.3f} →", *(f"{score:.3f}" for score in after[code]))
plots.accuracy_by_bits(before, after, plots.new(4.8, 2.7))
plt.show()
print({code: round(before[code], 3) for code in ("nf4", "fp4", "int4")})
four = torch.linspace(-1, 1, 4)
for name, levels in (("nf2", qlora.levels_of("nf2")), ("int2", qlora.levels_of("int2")), ("four even levels", four)):
    back = qlora.decode(*qlora.encode(weights, levels, 64), levels, 64)
    print(f"{name}: {len(levels)} levels, error {100 * (back - weights).norm() / weights.norm():.0f} %")
assert min(before[code] for code in ("nf4", "fp4", "int4")) > 0.98
assert before["int3"] + 0.03 < before["nf3"] < 0.98
assert max(before["nf2"], before["int2"]) < 0.05
assert FAST or min(after["nf2"]) > max(after["int2"]) + 0.3
assert FAST or min(after["int3"]) > before["int3"] + 0.02

# %% [markdown]
# At 4 bits accuracy does *not* separate the codes; the weight error does. At 2 bits NF2 wins; but int2 has a level
# less, and four even ones beat NF2.
#
# ## What it costs
#
# Predict: of 437,488 bytes, 98,304 weights shrink from 32 to 4.127 bits. Gradients and Adam's means are LoRA's;
# activations stay. Every pass unpacks: slower, until merged.

# %%
taken = {}
for name, method in (methods | {"Full": Full()}).items():
    m = method.attach(base())
    real = taken[type(method)] = costs.measure(m, batch)
    bits = qlora.predicted_bits() if name == "QLoRA(4 bits)" else 32
    by_hand = 437_488 - 98_304 * (32 - bits) / 8 + (name != "Full") * real.gradients  # A and B are weights, too
    ratio = real.weights / by_hand
    print(f"{name:14} weights: predicted {by_hand:,.0f}, measured {real.weights:,} bytes, ratio {ratio:.3f}", end="; ")
    print(f"gradients, Adam {real.gradients + real.optimizer:,}; activations {real.activations:,}")
    assert abs(ratio - 1) < 0.002
assert taken[QLoRA].activations == taken[LoRA].activations
models = {"base": base(), "LoRA": runs["LoRA(32 bits)"][0][0], "QLoRA": trained[0]}
models["merged"] = merge(trained[0])
for name, m in models.items():
    begun, repeats = time.process_time(), 20 if FAST else 100
    with torch.no_grad():
        _ = [m(batch.tokens[:1]) for _ in range(repeats)]
    models[name] = 1000 * (time.process_time() - begun) / repeats
    print(f"{name:7} {models[name]:5.2f} ms of processor time for a line")
assert models["QLoRA"] > models["base"]

# %% [markdown]
# ## Merging
#
# What was trained is $\hat W + sBA$; `merge` writes it in full precision. What if it is rounded again? Or $sBA$ added
# to the *original* W? We try the new task on 4 bits and the mending on 2.

# %%
lost = {"nf4": [], "nf2": []}
for code, m in [("nf4", m) for m in trained] + [("nf2", m) for m in mended["nf2"]]:
    goal, (exact, again, original) = learn if code == "nf4" else knows, (merge(m) for _ in range(3))
    assert (exact(batch.tokens) - m(batch.tokens)).abs().max() < 1e-3
    for name, (Ŵ, ΔW) in deltas.updates(m).items():
        stored = qlora.quantize(Ŵ + ΔW, code)
        again.get_parameter(name).data = qlora.dequantize(stored, Ŵ.shape, code)
        original.get_parameter(name).data = matrices[name] + ΔW
    scores = [evaluate(one, goal, LINES) for one in (exact, again, original)]
    lost[code].append([score.accuracy for score in scores])
    text = ", ".join(f"{score.accuracy:.3f} (loss {score.loss:.4f})" for score in scores)
    print(f"{code}: merged, rounded again, onto W: {text}")
for exact, again, original in lost["nf4"]:
    assert FAST or min(again, original) > exact - 0.05 > 0.9
for exact, again, original in lost["nf2"]:
    assert FAST or (again < 0.05 and exact > 0.4 and original < 0.9)

# %% [markdown]
# $BA$ fits *this* rounding. At 2 bits, rounding again destroys the gain, and adding $BA$ to W lowers its accuracy from
# 100 % to about 72 %.
#
# ## Break it
#
# Two mistakes with right outputs. **Autograd keeps the weight** unpacked: nothing is saved. **Nothing goes back**
# to $x$.
#
# *Figure: the loss, seed 0: with the second mistake it falls less.*

# %%
saved = taken[LoRA].weights - taken[QLoRA].weights
ids = ("autograd keeps the weight", "nothing goes back")
keeps, stops = (with_mistake("qlora", name) for name in ids)
for name, file in zip(ids, (keeps, stops), strict=True):
    bad = file.QLoRA(rank=2).attach(base())
    assert torch.allclose(bad(batch.tokens), plain(batch.tokens), atol=1e-4)
    more = costs.measure(bad, batch).activations - taken[QLoRA].activations
    print(f"{name}: {more:,} bytes more in activations; four bits had saved {saved:,}")
    assert (more > saved) == (file is keeps)
bad_ones = [train(stops.QLoRA(rank=2, alpha=4), seed=seed)[1] for seed in SEEDS]
good = [history for _, history in runs["QLoRA(4 bits)"]]
plots.curves({"QLoRA(rank=2), right": good[0], "nothing goes back": bad_ones[0]}, ax=plots.new(5, 2.4))
plt.show()
for seed, fine, bad in zip(SEEDS, good, bad_ones, strict=True):
    loss = np.mean(fine.loss[-5:])
    print(f"seed {seed}: loss after {STEPS} steps {loss:.2f}, with the mistake {np.mean(bad.loss[-5:]):.2f}")
    assert FAST or np.mean(bad.loss[-5:]) > 1.5 * loss
print(diagnose("qlora", stops.Product).text())

# %% [markdown]
# ## Your turn
#
# 1. Bits with blocks of 32, once and twice quantized?
# 2. NF4, absmax 3: what is `0x7f`?
# 3. Same bits: blocks of 64 once, or 16 twice? (`rounding_error`)
# 4. Can 2 bits learn `violet`? (`train`)
# 5. Beat NF4: move each level to the mean of its values, repeat (Lloyd).
# 6. Write two functions:


# %%
def decode(codes, absmax, levels, size):  # codes (n,), absmax (blocks,): the values (n,) they stand for
    raise NotImplementedError("your turn, 1 line; `repeat_interleave` helps")


def predicted_bits(block_size=64, double_quant=True):
    raise NotImplementedError("your turn, 1 line; a group has `qlora.GROUP` absmax")


check("qlora", decode, predicted_bits)  # the rest: python -m minipeft start qlora

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: 5 and 4.254. 2: Codes 7 and 15: 0 and 3. 3: Blocks of 16: 4.500 and 4.508 bits, errors 9.2 and 8.1 %.
#
# 4: Yes, all lines: in this toy $BA$ grows as large as Ŵ. A new task says little about a code.
#
# 5: Yes, 8.9 against 9.2 %. Zero is no level any more.
#
# ```python
# blocks = weights.view(-1, 64)
# absmax = blocks.abs().amax(1, keepdim=True)
# scaled, levels = (blocks / absmax).flatten(), qlora.normal(4)
# for _ in range(30):
#     codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
#     levels = torch.zeros(16).index_add(0, codes, scaled) / codes.bincount()
#     levels[0], levels[-1] = -1, 1
# values = qlora.decode(*qlora.encode(weights, levels, 64), levels, 64)
# print((values - weights).norm() / weights.norm())
# ```
#
# </details>

# %% [markdown]
# ## In three lines
#
# - A frozen weight is only read: 4 bits and a scale for each block do, 4.127 in all.
# - NF4 has its levels where normal weights are. Gradients pass Ŵ, never the codes.
# - It saves memory, not time; what is trained belongs to Ŵ.
#
# Paper: Dettmers et al. 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314).

# %% [markdown]
# ## The same in the reference libraries
#
# ```python
# import torch
# from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
# from transformers import AutoModelForCausalLM, BitsAndBytesConfig
#
# four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
#                           bnb_4bit_compute_dtype=torch.bfloat16)
# model = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=four)
# model = prepare_model_for_kbit_training(model)  # freezes, norms in float32, recomputes activations
# model = get_peft_model(model, LoraConfig(r=64, lora_alpha=16, target_modules="all-linear"))
# ```
#
# Our parity tests hold the bytes equal to `bitsandbytes.functional.quantize_4bit`. GPT-2's own layers, `Conv1D`, are
# quantized there, too.
