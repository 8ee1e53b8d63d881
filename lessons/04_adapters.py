# %% [markdown]
# # 04 · Adapters: a thin MLP inside a frozen model
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 45 minutes to read and run · 90 with exercises | ●●○ | PyTorch, lessons 1 to 3 | one minute on a CPU |
#
# You will write the module that made parameter-efficient fine-tuning popular, put it in three places, look into its
# bottleneck, and work out when it can be merged into a model.

# %% [markdown]
# ## What the papers did and claimed
#
# Houlsby et al. (2019, [arXiv:1902.00751](https://arxiv.org/abs/1902.00751)) put small trained modules into a frozen
# BERT, two in each layer, and tuned it to 26 text classification tasks. On GLUE they came within 0.4 % of full
# fine-tuning and added 3.6 % parameters per task. Pfeiffer et al. (2020, 2005.00247) used one adapter per layer. He
# et al. (2021, 2110.04366) put it beside the MLP instead of behind it.

# %% [markdown]
# ## Predict
#
# An **adapter** is a thin MLP. It projects a vector of 64 numbers down to 16, applies a nonlinearity, and projects
# back up. Its answer is added. Write down your guesses:
#
# 1. At the start an adapter should change nothing. Why not start with all weights at zero?
# 2. Of the 16 dimensions in the middle, how many does it use?
# 3. Can a trained adapter be merged into the frozen weights, so that it costs no time?

# %%
import copy
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from minipeft import base, check, costs, deltas, evaluate, fit, merge, plots
from minipeft.attach import trainable
from minipeft.classroom import quiz, with_mistake
from minipeft.lab import adapt, compare, learning_rate_of, stored, tuned_method
from minipeft.lab.counting import multiplications
from minipeft.lab.inside import bottlenecks, with_affine_adapters, with_fewer_directions
from minipeft.methods import Full, Houlsby, LoRA, ParallelAdapter, Pfeiffer, adapter
from minipeft.tasks import task
from minipeft.training import RECIPE, Recipe

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, UNSEEN, REPEATS, recipe = ([0], 100, 20, Recipe(steps=60)) if FAST else ([0, 1, 2], 300, 200, RECIPE)
OURS = adapter.Bottleneck, adapter.SequentialAdapter, adapter.ParallelAdapterLayer
OURS = [owner.forward for owner in OURS]  # kept, to be shown after yours may have taken their place


def refuses(model):
    try:
        merge(model)
    except TypeError:
        return True
    return False


# %% [markdown]
# ## The base and two tasks
#
# The tasks are those of lesson 3. The base can do `reverse+blue` when an instruction says so; without one, training
# has to select it. The table of `reverse+violet` has to be learned.

# %%
base_model = base()
instructed, blue, violet = task("reverse+blue", instructed=True), task("reverse+blue"), task("reverse+violet")
for name, goal in (("blue, instructed", instructed), ("blue", blue), ("violet", violet)):
    accuracy = evaluate(base_model, goal).accuracy
    print(f"{name:17} {goal.prompt('cabbed'):24} the base solves {accuracy:.3f} of unseen examples")

# %% [markdown]
# ## The idea, on four numbers
#
# $$A(h) = U\,\varphi(D h + b_D) + b_U$$
#
# $D$ (*down*) computes $m$ numbers from $d$; this narrow place is the **bottleneck**. The nonlinearity $\varphi$, GELU
# in Houlsby's adapters and ReLU in the others, lets it react to a condition. $U$ (*up*) makes $d$ numbers again. The
# result is added: $h+A(h)$.
#
# We write one with $d=4$, $m=1$ and ReLU. *If* the first number exceeds the second by more than 1, it raises
# the last.

# %%
D, b_D = np.array([[1, -1, 0, 0]]), -1  # (m, d) = (1, 4)
U = np.array([[0], [0], [0], [2]])  # (d, m)


def A(h):
    return U @ np.maximum(D @ h + b_D, 0)  # φ is ReLU, and b_U is zero


for h in ([3, 0, 5, 0], [1, 0, 5, 0], [0, 3, 5, 0]):
    print("h =", h, "  in the middle:", np.maximum(D @ h + b_D, 0), "  h + A(h) =", h + A(h))

# %% [markdown]
# Only the first vector meets the condition, so its last number rises.
#
# ## Why not start at zero?
#
# Let $a = Dh + b_D$ and $z = \varphi(a)$, and let $g = \partial L/\partial A$ come from above. By the chain rule
#
# $$\frac{\partial L}{\partial U} = g\,z^\top\qquad\frac{\partial L}{\partial D} =
# \big(U^\top g\odot\varphi'(a)\big)\,h^\top\qquad\frac{\partial L}{\partial b_U} = g$$
#
# If $D$ and $b_D$ are zero, $z = \varphi(0) = 0$, and $U$ gets no gradient. If $U$ is zero, $D$ gets none.

# %%
torch.manual_seed(0)
h, g = torch.tensor([3.0, 0, 5, 0]), torch.tensor([1.0, 2, 3, 4])
small_D, small_U = 0.01 * torch.randn(1, 4), 0.01 * torch.randn(4, 1)
starts = {"both zero": (0 * small_D, 0 * small_U), "U zero": (small_D, 0 * small_U), "both small": (small_D, small_U)}
for name, start in starts.items():
    down, up = (nn.Parameter(weight.clone()) for weight in start)
    answer = up @ nn.functional.gelu(down @ h)  # φ is GELU, as in Houlsby's adapters
    answer.backward(g)
    print(f"{name:10} gradients: D {down.grad.norm():.3f}, U {up.grad.norm():.3f}; length of A(h) {answer.norm():.4f}")

# %% [markdown]
# Guess 1: with both at zero, neither matrix would ever move. Two starts work. Either only $U$ is zero: the start is
# exact, and $D$ joins after the first step. Or both are small, as in Houlsby's paper: the start is *near* the
# identity.
#
# ## Three places
#
# Attention and MLP are **sublayers**. Each reads the residual stream $x$ through a norm, as $n$, and answers $f$. The
# block adds $f$ to $x$. Adapters change what is added.

# %%
plots.structure("Adapter")
plt.show()

# %% [markdown]
# *Figure: three blocks, read from bottom to top. Houlsby's adapters stand behind attention and MLP, Pfeiffer's
# behind the whole block, the parallel one beside the MLP.*
#
# | method | added to $x$, instead of $f$ |
# |---|---|
# | Houlsby, both sublayers | $f+A(f)$ |
# | Pfeiffer, MLP only | $f+A(x+f)$ |
# | parallel, MLP only | $f+s\,A(n)$ |
#
# Here $x+f$ is the whole block's output, and $s = 4$. Only the parallel adapter need not *wait* for the sublayer.

# %% [markdown]
# ## Write it
#
# Write three `forward` methods. The rest of each class is ours. If all are right, the lesson runs on your code.


# %%
class Bottleneck(adapter.Bottleneck):
    def forward(self, h):
        """A(h) for every token, (B, T, d) → (B, T, d). `self.D`, `self.U`: nn.Linear with biases; `self.act`: φ."""
        raise NotImplementedError("your turn, 2 lines")


class SequentialAdapter(adapter.SequentialAdapter):
    def forward(self, x, *rest):
        """Add what the table says; A is `self.adapter`. The frozen `self.base` takes x and the rest (mask, cache).
        `self.base` returns f for Houlsby (a sublayer), x + f for Pfeiffer (a whole block)."""
        raise NotImplementedError("your turn, 2 lines")


class ParallelAdapterLayer(adapter.ParallelAdapterLayer):
    def forward(self, x):
        """The last row of the table; x is its n. `self.base`: the frozen MLP; `self.adapter`: A; `self.scale`: s."""
        raise NotImplementedError("your turn, 1 line")


check("adapter", Bottleneck, SequentialAdapter, ParallelAdapterLayer, use=True)

# %% [markdown]
# ## The source, revealed
#
# One `SequentialAdapter` serves two methods: it does not know whether it wraps a sublayer or a whole block.

# %%
for function in OURS:
    print(inspect.getsource(function))

# %% [markdown]
# ## Count, then attach
#
# $D$ has $md$ numbers and $m$ biases, $U$ has $dm$ and $d$: an adapter has $2dm + m + d$. Houlsby et al. also train
# all LayerNorms, $2d$ numbers each. Here $d = 64$, with two layers and five norms:
#
# - Houlsby, $m = 8$: $4 \cdot 1{,}096 + 5 \cdot 128 = 5{,}024$
# - Pfeiffer or parallel, $m = 16$: $2 \cdot 2{,}128 = 4{,}256$

# %%
METHODS = [Houlsby(size=8), Pfeiffer(size=16), ParallelAdapter(size=16)]
batch = blue.batch(64, torch.Generator().manual_seed(0))
for method, predicted in zip(METHODS, (5024, 4256, 4256), strict=True):
    torch.manual_seed(0)
    view = method.attach(base_model)
    measured = sum(p.numel() for p in trainable(view).values())
    moved = (view(batch.tokens) - base_model(batch.tokens)).abs().max()
    print(f"{method!s:25} predicted {predicted:,}, measured {measured:,}; logits differ by {moved:.0e} at the start")

# %% [markdown]
# The parallel adapter starts with $U = 0$, exactly as the base. The other two start near it.
#
# ## How near must the start be?
#
# Houlsby's weights start with a standard deviation of σ = 0.01. We draw them wider and ask the untrained model to
# follow instructions.

# %%
after = {}
for sigma in (0.001, 0.01, 0.1, 0.3, 1.0):
    after[f"σ = {sigma}"] = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        view = Houlsby(size=8).attach(base_model)
        for one in bottlenecks(view).values():
            nn.init.normal_(one.D.weight, std=sigma)
            nn.init.normal_(one.U.weight, std=sigma)
        after[f"σ = {sigma}"].append(evaluate(view, instructed, UNSEEN).accuracy)
plots.bars(after, colour=plots.HUES["Houlsby"])
plt.show()

# %% [markdown]
# *Figure: accuracy on blue with an instruction, before training; dots are three seeds. Up to 0.1 nothing is lost; from
# 0.3, everything is.*
#
# *Learning* has an optimum. 90 % of a new table takes 206 steps at σ = 0.0001, 192 at 0.01, 149 at 0.1, and 495 at 1,
# which destroys the base ([ledger](claims.md#near_identity): ten seeds, a tuned learning rate for each σ).
#
# ## Train them
#
# We train for 500 steps of 32 new examples, at tuned learning rates.

# %%
trained = {}
for method in METHODS:
    trained[method] = [adapt(method, blue, learning_rate_of(method), seed, recipe)[0] for seed in SEEDS]
    scores = [evaluate(model, blue).accuracy for model in trained[method]]
    print(f"{method!s:25} unseen examples of blue that are solved, by seed:", *(f"{score:.3f}" for score in scores))

# %% [markdown]
# All three solve practically everything with every seed, so this test cannot tell them apart. We make it tighter: how
# many steps does the new table `violet` take? Ten stored runs of each method tell.

# %%
rows = compare(violet, [tuned_method(method) for method in (Full(), *METHODS)], seeds=10, lab=stored())
plots.bars({row["method"]: row["reached"] for row in rows}, label="steps until 90 % of violet is solved")
plt.show()

# %% [markdown]
# *Figure: training steps until 90 % of violet is solved; dots are ten seeds. Pfeiffer and the parallel adapter need
# fewer than Houlsby, full fine-tuning needs fewest.*
#
# So one adapter of 16 needs [fewer steps](claims.md#one_adapter) than two of 8. But speed is not everything: from only
# 96 examples of a new table, Pfeiffer solves 0.97, the parallel adapter 0.78 and full fine-tuning 1.00
# ([ledger](claims.md#adapters), ten seeds).

# %% [markdown]
# ## Into the bottleneck
#
# We send 1,000 examples through Pfeiffer's adapters and collect the vectors before ($h$), inside ($z$) and behind
# ($A(h)$). In how many directions do they vary? We sort the principal directions by their variance and add up the
# shares. $A(h)$ can vary in 16 at most, because $U$ is a 64 × 16 matrix.

# %%
many = blue.batch(1000, torch.Generator().manual_seed(1))
pfeiffer = trained[Pfeiffer(size=16)]
panels = plots.new(9, 3.4, columns=2)
for ax, (path, vectors) in zip(panels, plots.adapter_activations(pfeiffer[0], many).items(), strict=True):
    plots.bottleneck(vectors, ax).set_title(path, fontsize=10)
plt.show()

# %% [markdown]
# *Figure: share of the variance that the first directions hold, in both layers. Inside the bottleneck, 5 and 8 of 16
# hold 90 %.*
#
# Variance is not importance. To see what is *needed*, we let the vectors inside vary in the first $k$ directions
# only, and test.

# %%
narrow = {}
for k in (1, 2, 4, 8, 16):
    narrow[f"k = {k}"] = [evaluate(with_fewer_directions(one, many, k), blue, UNSEEN).accuracy for one in pfeiffer]
plots.bars(narrow, colour=plots.HUES["Pfeiffer"])
plt.show()

# %% [markdown]
# *Figure: accuracy on blue if the vectors inside both adapters vary in k directions; dots are three seeds. One is of
# no use, four keep most, eight lose nothing.*
#
# Guess 2: two of the three models need more than four of their 16 dimensions; eight are enough for all. Exercise 2 asks
# how many are needed to *learn*.

# %% [markdown]
# ## Can it be merged without φ?
#
# Without φ, $A(h) = UDh$ plus a constant. What made $h$?
#
# - **Houlsby**: a linear layer made $f = Wa$ from $a$. Then $f + UDf = (I + UD)Wa$, and this merges.
# - **Pfeiffer** adds $UD(x + f)$. Its part $UDx$ comes from the skip, which runs through no weight of the block.
# - **Parallel** adds $UDn$, linear in $n$. The MLP's weights cannot add that: a nonlinearity stands between them.

# %%
W, x, a = np.arange(16).reshape(4, 4) % 5, np.array([1, -2, 0, 1]), np.array([2, 0, 1, 0])
merged = (np.eye(4) + U @ D) @ W
print("Houlsby: ", W @ a + U @ D @ W @ a, "  merged:", merged @ a)

nothing = np.zeros(4)  # the last layer of the MLP reads only zeros: any weight gives f = 0
f = W @ nothing
print("Pfeiffer:", x + f + U @ D @ (x + f), "  with f = 0, whatever the weight:", x + f)

# %% [markdown]
# With $f = 0$, Pfeiffer's adapter still changes $x$, and no weight of this layer could do that.
#
# Now for real: we train Houlsby's adapters without φ, norms frozen, and merge each into the last layer of its sublayer.
# With biases, $h = Wa + b$, and the new bias is $(I + UD)b + Ub_D + b_U$. The weight changes by $UDW$, of rank $m$ at
# most. This is where LoRA will begin (lesson 10).

# %%
torch.manual_seed(0)
linear, plain = Houlsby(size=8, norms=False).attach(base_model), copy.deepcopy(base_model)
for one in bottlenecks(linear).values():
    one.act = nn.Identity()
fit(linear, blue, lr=0.03, device="cpu", progress=False, **recipe.settings())

with torch.no_grad():
    for block, target in zip(linear.blocks, plain.blocks, strict=True):
        for one, layer in ((block.attn.adapter, target.attn.o), (block.mlp.adapter, target.mlp.down)):
            I_UD = torch.eye(64) + one.U.weight @ one.D.weight
            layer.weight.copy_(I_UD @ layer.weight)
            layer.bias.copy_(I_UD @ layer.bias + one.U(one.D.bias))  # `one.U` adds b_U
    difference = (plain(batch.tokens) - linear(batch.tokens)).abs().max()
print(f"trained without φ: {evaluate(linear, blue).accuracy:.3f} solved; merged, logits differ by {difference:.0e}")

# %% [markdown]
# The difference is rounding. Without φ, the adapters also learned well (one seed).
#
# ## With φ
#
# Every affine map (a matrix and a bias), $M(h)=Vh+c$, passes the **mirror test**:
#
# $$M(h) + M(-h) - 2M(0) = Vh - Vh + 2c - 2c = 0$$
#
# If an adapter fails it for one $h$, no affine map can replace it. We test each model's first adapter. Then we
# replace every adapter by the affine map that fits its inputs and outputs best.

# %%
straights = []
for method, models in trained.items():
    place, first = next(iter(bottlenecks(models[0]).items()))
    h, _, _ = plots.adapter_activations(models[0], batch)[place]  # what this adapter reads, a row for each token
    with torch.no_grad():
        mirror = (first(h) + first(-h) - 2 * first(0 * h)).norm(dim=1).mean()
        size = first(h).norm(dim=1).mean()
    straights.append(evaluate(with_affine_adapters(models[0], many), blue).accuracy)
    print(f"{method!s:25} mirror test {mirror:4.1f} beside {size:4.1f}, the mean length of A(h)")
    print(f"{'':25} affine maps instead of adapters: {straights[-1]:.3f} solved")

# %% [markdown]
# Guess 3: no. No tested adapter gives 0, so none can be merged exactly, and `merge` refuses. The test uses $-h$. On
# vectors that occur, affine maps do nearly as well. φ forbids merging even where it is hardly used.
#
# ## What it costs
#
# Each method adds 4,096 multiplications a token: $4 \cdot 2 \cdot 64 \cdot 8 = 2 \cdot 2 \cdot 64 \cdot 16$. So does
# LoRA of rank 8 on q and v, until it is merged.

# %%
one_row = blue.batch(1, torch.Generator().manual_seed(0))
lora = LoRA(rank=8).attach(base_model)
models = {"base": base_model, "LoRA, merged": merge(lora), "LoRA": lora}
models |= {str(method): found[0] for method, found in trained.items()}
times = costs.latency(models, one_row, repeats=REPEATS)
counts = {name: multiplications(model, one_row.tokens) for name, model in models.items()}
for name in models:
    predicted = 0 if name in ("base", "LoRA, merged") else 4096 * one_row.tokens.numel()
    more, ratio = counts[name] - counts["base"], counts[name] / counts["base"]
    print(f"{name:25} {more:6,} multiplications more, predicted {predicted:6,}; × {ratio:.2f}", end=", ")
    print(f"time × {times[name][0] / times['base'][0]:.2f}")

# %% [markdown]
# The count is 1.04 times the base's, but at batch 1 the clock shows more than 4 %: each small product has a fixed cost.
# Merged LoRA adds nothing; a time below 1 is noise. [The ledger](claims.md#inference) times it with care; at batch 256
# adapters add 4 to 8 %.
#
# ## Break it
#
# We start both matrices at zero. The model starts as exactly the base, and no error is raised:
#
# ```python
# nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)  # right
# nn.init.zeros_(layer.weight)                                    # broken
# ```

# %%
broken = with_mistake("adapter", "both zero").Pfeiffer(size=16)
model, history = adapt(broken, blue, learning_rate_of(Pfeiffer()), 0, recipe)
failed = evaluate(model, blue).accuracy
print(f"after {len(history.loss)} steps the loss is {history.loss[-1]:.2f}, and {failed:.3f} of blue is solved")
print("not zero:", *(name for name, p in trainable(model).items() if p.any()))

# %% [markdown]
# Only $b_U$ has moved, and two biases cannot select this task.
#
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | near full fine-tuning | undecided | [undecided](claims.md#adapters) |
# | must start near the identity | helps; nearer is slower | [undecided](claims.md#near_identity) |
# | one per layer suffices | yes | [supported](claims.md#one_adapter) |
# | parallel beats sequential | faster, but not with few data | [contradicted](claims.md#parallel_adapters) |
# | adapters add latency | yes | [supported](claims.md#inference) |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* Houlsby has four adapters. Which are missed if you take them away? `silenced(model,
#    "blocks.0.attn")`, in `minipeft.lab.inside`, gives a copy in which that adapter answers zero.
# 2. *Predict, then measure.* Train `Pfeiffer(size=m)` on blue with $m$ = 1, 2, 4, 8. Which sizes can learn it?
# 3. *Design the experiment.* On blue, φ is hardly used. Is it on violet, where a table has to be learned? Find two
#    ways to ask.

# %% [markdown]
# 4. *Find the mistake.* A colleague puts Pfeiffer's adapter around a block. What is wrong, and which test shows it
#    before any training?
#
#    ```python
#    def forward(self, x, *rest):
#        y = self.base(x, *rest)
#        return x + y + self.adapter(y)
#    ```
# 5. *Derive, then measure.* Our parallel adapter's φ is ReLU. Make it GELU, as in the MLP: then both together are one
#    wider MLP. Set `act` as in the cell without φ, and train first: with $U = 0$ the test is empty. Build the MLP, and
#    compare logits.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: Only the first: 0.00, 0.00, 0.02 by seed. Without any other: 1.00.
#
# 2: By seed: 0.00, 0.00, 0.00; 0.66, 0.95, 0.01; 1.00, 1.00, 0.08; 1.00, 1.00, 1.00. Two can be enough; with eight it
# is sure.
#
# 3: No. Affine maps solve 0.98 to 1.00, and so do runs without φ.
#
# 4: y contains x already. A fresh view should nearly equal the base.
#
# 5: `A=mlp.adapter`, `s=mlp.scale`, up and down from `mlp.base`; after training, logits differ by 1e-5:
#
# ```python
# up.weight = nn.Parameter(torch.cat([up.weight, A.D.weight]))
# up.bias = nn.Parameter(torch.cat([up.bias, A.D.bias]))
# down.weight = nn.Parameter(torch.cat([down.weight, s * A.U.weight], dim=1))
# down.bias = nn.Parameter(down.bias + s * A.U.bias)
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions to check your understanding. Put your letters into `answers`, such as `"abcda"`.

# %%
quiz("04_adapters", answers="")

# %% [markdown]
# ## In three lines
#
# - An adapter is a thin MLP that adds: $2dm + m + d$ numbers, started near zero, but never with both matrices at
#   zero.
# - Its place decides what it reads, whether it waits, and whether it could be merged without φ.
# - With φ it stays: few multiplications, more time.
#
# In the reference library, `adapters`, norms stay frozen:
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

# %% tags=["hide-input"]
assert evaluate(base_model, instructed).accuracy > 0.95 > 0.02 > evaluate(base_model, blue).accuracy
assert (A([3, 0, 5, 0]) == [0, 0, 0, 4]).all() > A([1, 0, 5, 0]).any()
assert np.allclose(W @ a + U @ D @ W @ a, merged @ a)
for method, predicted in zip(METHODS, (5024, 4256, 4256), strict=True):
    fresh = method.attach(base_model)
    assert sum(p.numel() for p in trainable(fresh).values()) == predicted
    assert costs.predict(fresh).optimizer == costs.measure(fresh, batch).optimizer == 8 * predicted
    assert torch.equal(fresh(batch.tokens), base_model(batch.tokens)) == isinstance(method, ParallelAdapter)
assert min(after["σ = 0.01"]) > 0.9 > 0.1 > max(after["σ = 1.0"])
assert difference < 1e-3
assert all(refuses(models[0]) for models in trained.values())
assert all("norm" in name for name in deltas.updates(trained[METHODS[0]][0]))  # no weight of a layer was touched
assert {counts[str(m)] - counts["base"] for m in METHODS} == {57_344} != {counts["LoRA, merged"] - counts["base"]}
assert not any(p.any() for name, p in trainable(model).items() if not name.endswith("U.bias"))
assert failed < 0.05 < max(narrow["k = 16"]) or FAST
assert deltas.fingerprint(base_model) == deltas.fingerprint(base())
if not FAST:
    assert min(evaluate(one, blue).accuracy for found in trained.values() for one in found) > 0.99
    assert max(narrow["k = 1"]) < 0.05 < 0.95 < min(narrow["k = 8"])
    assert min(straights) > 0.95 < evaluate(linear, blue).accuracy
