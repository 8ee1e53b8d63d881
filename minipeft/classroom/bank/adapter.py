"""Bottleneck adapters: the thin MLP, its start, and the places of Houlsby, Pfeiffer and the parallel adapter."""

import math
from functools import lru_cache

import torch
from torch import nn

from minipeft import attach, deltas
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, numbers

exercise = Exercise(
    "adapter",
    "methods/adapter.py",
    stubs=(
        "Bottleneck.__init__",
        "Bottleneck.forward",
        "SequentialAdapter.forward",
        "SequentialAdapterInNorm.forward",
        "ParallelAdapterLayer.__init__",
        "ParallelAdapterLayer.forward",
        "Houlsby.insert",
        "Pfeiffer.insert",
    ),
    title="Adapters: one thin MLP, three places to put it",
    minutes=50,
    difficulty=2,
    why="Why it matters where an adapter stands and which skip goes round it, and why all three start near the base.",
    read="Houlsby et al. 2019, arXiv:1902.00751, section 2.1; Pfeiffer et al. 2020, arXiv:2005.00247; "
    "He et al. 2021, arXiv:2110.04366, section 3.3",
    lesson="04",
)

WIDTH, SIZE = 4, 2


class Sublayer(nn.Module):
    """Stands for attention or an MLP: what it puts out depends on everything that it is given."""

    def __init__(self, name="F"):
        super().__init__()
        self.W = nn.Parameter(numbers(name, (WIDTH, WIDTH)), requires_grad=False)

    def forward(self, x, mask=None, cache=None):
        y = x @ self.W
        for given in (mask, cache):
            y = y if given is None else y + given
        return y


class Block(nn.Module):
    """A Transformer block as small as it can be, with everything random."""

    def __init__(self, pre_norm):
        super().__init__()
        self.attn, self.mlp, self.pre_norm = Sublayer("attention"), Sublayer("MLP"), pre_norm
        self.norm1, self.norm2 = norm(), norm()

    def forward(self, x):
        if self.pre_norm:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Stack(nn.Module):
    """Such blocks, and a norm behind them where they begin with theirs."""

    def __init__(self, pre_norm=True, layers=1):
        super().__init__()
        self.blocks = nn.ModuleList(Block(pre_norm) for _ in range(layers))
        self.norm = norm() if pre_norm else nn.Identity()

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def shape(p):
    return str(tuple(p.shape))


def x():
    return numbers("x", (2, 3, WIDTH))


@lru_cache(maxsize=4)
def adapter(impl, act=nn.GELU):
    """An adapter far from its start."""
    return fill(impl.Bottleneck(torch.ones(WIDTH), SIZE, act()), "trainable")


def width(p):
    """The standard deviation of random weights to a factor of two, so that it does not depend on how they are drawn."""
    return f"about {0.01 * 2.0 ** round(math.log2(100 * p.std().item())):g}" if p.any() else "0"


def norm():
    return fill(nn.LayerNorm(WIDTH), scale=1.0).requires_grad_(False)


def whole(method, model=None):
    """What a model trains, what its adapters answer by themselves, and what it puts out."""
    made = fill(method.attach(model or Stack()), "trainable")
    places = {name: shape(p) for name, p in attach.trainable(made).items()}
    each = [m.adapter(x()) for m in made.modules() if isinstance(m, attach.Wrapper)]
    return {"trained": places, "an adapter alone": each, "output": made(x())}


@exercise.observe(
    "bottleneck", "An adapter should be two linear layers, D (d to m) and U (m to d), each with its bias."
)
def parameters_of_an_adapter(impl):
    return {name: shape(p) for name, p in impl.Bottleneck(torch.ones(6), 2, nn.GELU()).named_parameters()}


@exercise.observe(
    "bottleneck", "The weights do not start as wide or are not cut off as the docstring says, or a bias is not zero."
)
def start_of_an_adapter(impl):
    made = impl.Bottleneck(torch.ones(60), 20, nn.GELU())
    return {
        name: {"zero": not p.any()}
        if p.ndim == 1
        else {"standard deviation": width(p), "reaches beyond 0.0201": bool(p.abs().max() > 0.0201)}
        for name, p in made.named_parameters()
    }


@exercise.observe("bottleneck", "The new weights should have the type of `like`, which is that of the model.")
def type_of_the_weights(impl):
    made = impl.Bottleneck(torch.ones(6, dtype=torch.bfloat16), 2, nn.GELU())
    return {name: str(p.dtype) for name, p in made.named_parameters()}


@exercise.observe("bottleneck", "A(h) is not what the equation says.")
def answer_of_an_adapter(impl):
    return adapter(impl)(x())


@exercise.observe("bottleneck", "With another φ, handed in as `act`, A(h) is not what the equation says.")
def answer_with_another_act(impl):
    return adapter(impl, nn.Tanh)(x())


@exercise.observe("behind a sublayer", "The layer should put out f + A(f), where f is what the frozen module puts out.")
def behind(impl):
    return impl.SequentialAdapter(Sublayer(), adapter(impl))(x())


@exercise.observe("behind a sublayer", "A mask or a cache that the layer is given has to reach the frozen module.")
def the_other_arguments(impl):
    made = impl.SequentialAdapter(Sublayer(), adapter(impl))
    return made(x(), numbers("mask", (3, 1)), numbers("cache", (3, WIDTH)))


@exercise.observe(
    "behind a sublayer", "The start should be near the base: the output may hardly differ from the base's."
)
def near_the_base(impl):
    moved = impl.SequentialAdapter(Sublayer(), impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.GELU()))(x()) - Sublayer()(
        x()
    )
    return {"moves by more than 0.01": bool(moved.abs().max() > 0.01)}


@exercise.observe("behind a sublayer", "The gradient has to flow back through the frozen module, to what learns below.")
def gradient_below(impl):
    below = x().requires_grad_()
    impl.SequentialAdapter(Sublayer(), adapter(impl))(below).pow(2).sum().backward()
    return below.grad


@exercise.observe(
    "behind a norm", "SequentialAdapterInNorm should put out LN(s + A(LN(s))), with the same LN both times."
)
def behind_a_norm(impl):
    return impl.SequentialAdapterInNorm(norm(), adapter(impl))(x())


@exercise.observe("behind a norm", "An adapter that answers zero should leave the block as it was.")
def behind_a_norm_with_nothing_to_say(impl):
    silent = impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.ReLU())
    for p in silent.parameters():
        p.data.zero_()
    layer = norm()
    return impl.SequentialAdapterInNorm(layer, silent)(x()) - layer(x())


@exercise.observe("behind a norm", "The gradients of s, D and U behind a norm are not the expected ones.")
def gradients_behind_a_norm(impl):
    made, below = impl.SequentialAdapterInNorm(norm(), adapter.__wrapped__(impl)), x().requires_grad_()
    made(1 * below).pow(3).sum().backward()
    return {"s": below.grad} | {name: p.grad for name, p in made.adapter.named_parameters()}


@exercise.observe("behind a norm", "The input is changed in place.")
def input_is_left_alone(impl):
    given = x()
    impl.SequentialAdapterInNorm(norm(), adapter(impl))(given)
    return given - x()


def beside(impl, scale=3.0):
    return impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.ReLU()), scale)


@exercise.observe("beside the MLP", "At the start a parallel adapter must change nothing.")
def start_beside(impl):
    return beside(impl)(x()) - Sublayer()(x())


@exercise.observe(
    "beside the MLP",
    "D, U or a bias does not start as it should: just one of the four is random, with a width of 1/√d.",
)
def width_of_the_start_beside(impl):
    made = impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(225), 8, nn.ReLU()), 3.0)
    size = {name: float(p.detach().abs().max()) for name, p in made.adapter.named_parameters()}
    return {name: round(20 * top * 225**0.5) / 20 for name, top in size.items()}  # in units of 1/√d


@exercise.observe("beside the MLP", "The first step should reach U and its bias, and not yet D.")
def where_the_first_gradient_goes(impl):
    made = beside(impl)
    made(x()).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in made.adapter.named_parameters()}


@exercise.observe("beside the MLP", "What the layer adds to F(x) is not s·A(x).")
def what_is_added_beside(impl):
    return fill(beside(impl), "trainable")(x()) - Sublayer()(x())


@exercise.observe("beside the MLP", "In a pre-norm block ParallelAdapter should give x + f + s·A(n), n = LN(x).")
def parallel_adapters(impl):
    return whole(impl.ParallelAdapter(SIZE, 2.5))


@exercise.observe("Houlsby", "In a pre-norm block Houlsby should train two adapters: x + f + A(f), φ = GELU.")
def Houlsby_in_a_pre_norm_block(impl):
    return whole(impl.Houlsby(SIZE, norms=False))


@exercise.observe("Houlsby", "In a post-norm block Houlsby should train two adapters: LN(x + f + A(f)), φ = GELU.")
def Houlsby_in_a_post_norm_block(impl):
    return whole(impl.Houlsby(SIZE, norms=False), Stack(pre_norm=False))


@exercise.observe(
    "Houlsby", "All LayerNorms should learn, starting from the base's values; the base itself should stay as it is."
)
def norms_that_learn(impl):
    made = Stack()
    base = {name: p.clone() for name, p in made.named_parameters()}
    learned = {name: p for name, p in attach.trainable(impl.Houlsby(SIZE).attach(made)).items() if "norm" in name}
    start = {name: p - base[name] for name, p in learned.items()}
    for p in learned.values():
        p.data += 1
    after = {name: p - base[name] for name, p in made.named_parameters()}
    return {"change before training": start, "change of the base after training": after}


@exercise.observe("Houlsby", "What a delta would keep of Houlsby is not what was trained.")
def what_is_stored(impl):
    return {name: shape(p) for name, p in deltas.trained(impl.Houlsby(SIZE).attach(Stack())).items()}


@exercise.observe(
    "Pfeiffer", "In pre-norm blocks Pfeiffer should train an adapter around each: y + A(y), y its output, φ = ReLU."
)
def Pfeiffer_in_pre_norm_blocks(impl):
    return whole(impl.Pfeiffer(SIZE), Stack(layers=2))


@exercise.observe(
    "Pfeiffer", "In a post-norm block Pfeiffer should train one adapter at the last norm: LN(s + A(LN(s))), s = x + f."
)
def Pfeiffer_in_a_post_norm_block(impl):
    return whole(impl.Pfeiffer(SIZE), Stack(pre_norm=False))


@exercise.observe("Pfeiffer", "On a view that has adapters already, Pfeiffer should add to what they answer.")
def Pfeiffer_on_Pfeiffer(impl):
    below = fill(impl.Pfeiffer(SIZE).attach(Stack()), "trainable", 0.3)
    return whole(impl.Pfeiffer(SIZE), below)["output"]


INIT = """        for layer in (self.D, self.U):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
"""
LINEAR = "self.D, self.U, self.act = nn.Linear(len(like), size), nn.Linear(size, len(like)), act"
ANSWER = "        z = self.act(self.D(h))  # (B, T, m)\n        return self.U(z)  # (B, T, d)"
BEHIND = "        f = self.base(x, *rest)\n        return f + self.adapter(f)"
NORM = "        h = self.base(s)\n        return self.base(s + self.adapter(h))"
START = """        nn.init.kaiming_uniform_(adapter.D.weight, a=math.sqrt(5))  # U(−1/√d, 1/√d)
        nn.init.zeros_(adapter.U.weight)
"""
BESIDE = "return self.base(x) + self.scale * self.adapter(x)"
TWO = 'for path, block, module in sublayers(model, "attn", "mlp"):'
GELU = "swap(model, path, SequentialAdapter(module, Bottleneck(block.norm2.weight, self.size, nn.GELU())))"
NORMS = "for path, weight in layer_norms(model) if self.norms else []:"
COPY = "swap(model, path, nn.Parameter(weight.detach().clone()))"
PLACES = 'for path, block, _ in sublayers(model, "mlp"):'
END = 'end = path.removesuffix(".mlp") if block.pre_norm else path.removesuffix("mlp") + "norm2"'
LAYER = "layer = SequentialAdapter if block.pre_norm else SequentialAdapterInNorm\n"
RELU = "            adapter = Bottleneck(block.norm2.weight, self.size, nn.ReLU())\n            swap(model, end, layer"

exercise.mistake(
    "no start of its own",
    ((INIT, ""),),
    "the weights keep the start of `nn.Linear`, which is far too wide",
    "how far is the model from its base before the first step?",
    "An adapter stands in the middle of a trained model: a wide random start destroys what the layers above rely on.",
    "Houlsby et al. 2019, section 3.6: above a standard deviation of 0.01 accuracy falls",
)
exercise.mistake(
    "both zero",
    ((INIT, "        for p in self.parameters():\n            nn.init.zeros_(p)\n"),),
    "D and U both start at zero",
    "∂U has a factor φ(D h), and ∂D has a factor U: what are they when both are zero?",
    "Then neither matrix ever gets a gradient. Near the base is the aim, not exactly at it.",
)
exercise.mistake(
    "not cut off",
    (
        (
            "nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)",
            "nn.init.trunc_normal_(layer.weight, std=0.01)",
        ),
    ),
    "the normal start is not cut off at two σ",
    "in which unit does `trunc_normal_` take its bounds a and b?",
    "Its bounds are values, not multiples of σ; by default they lie at −2 and 2, where such numbers never come.",
)
exercise.mistake(
    "random biases",
    (("            nn.init.zeros_(layer.bias)\n", ""),),
    "the biases start random",
    "what does your adapter answer to h = 0 before the first step?",
    "A new `nn.Linear` draws its bias, too; here both biases begin at zero.",
)
exercise.mistake(
    "no biases",
    ((LINEAR, "self.D, self.U, self.act = nn.Linear(len(like), size, bias=False), nn.Linear(size, len(like), bias=False), act"),
     ("            nn.init.zeros_(layer.bias)\n", "")),
    "the adapter has no biases",
    "which of the four letters of the equation are vectors?",
    "The count 2dm + m + d has a bias in it for D and one for U.",
)  # fmt: skip
exercise.mistake(
    "D and U exchanged",
    ((LINEAR, "self.U, self.D, self.act = nn.Linear(len(like), size), nn.Linear(size, len(like)), act"),
     (ANSWER, "        z = self.act(self.U(h))\n        return self.D(z)")),
    "D and U have each other's names",
    "which of the two goes down, to the narrow middle?",
    "It computes the same, but the stored weights have the wrong shapes: D is (m, d), U is (d, m).",
)  # fmt: skip
exercise.mistake(
    "type of its own",
    (("        self.to(like)\n", ""),),
    "the new weights do not follow the type and device of the model",
    "which type have your weights when the model is in bfloat16?",
    "What is made anew is in the default type and on the CPU, until it is moved to where `like` is.",
)
exercise.mistake(
    "no φ",
    ((ANSWER, "        return self.U(self.D(h))"),),
    "φ is missing between D and U",
    "what is U(D h) without anything in between: could it be one matrix?",
    "Two linear layers in a row are one linear layer of low rank; the adapter is an MLP.",
)
exercise.mistake(
    "φ at the end",
    ((ANSWER, "        return self.act(self.U(self.D(h)))"),),
    "φ comes behind U instead of in the middle",
    "in which width does φ work, m or d?",
    "What the adapter adds must be free to have any sign; φ belongs to the narrow middle.",
)
exercise.mistake(
    "φ on both sides",
    ((ANSWER, "        return self.act(self.U(self.act(self.D(h))))"),),
    "φ is applied behind D and behind U",
    "can your adapter add a large negative number?",
    "Only the narrow middle has a nonlinearity; what comes out of U is added as it is.",
)
exercise.mistake(
    "always ReLU",
    ((ANSWER, "        return self.U(nn.functional.relu(self.D(h)))"),),
    "φ is fixed, whatever `act` was handed in",
    "what changes in your adapter when `act` is GELU?",
    "Houlsby and Pfeiffer use the same bottleneck with different nonlinearities; it has to use the one that it got.",
)
exercise.mistake(
    "skip counted twice",
    ((ANSWER, "        return h + self.U(self.act(self.D(h)))"),),
    "the bottleneck adds its own input, which the layer around it adds again",
    "how often does f stand in the sum when U is zero?",
    "In this file A is the correction alone; the skip round it is written once, where the adapter is placed.",
    "adapter-hub/adapters#95, about which of two equal tensors is the residual",
)
exercise.mistake(
    "no skip",
    ((BEHIND, "        return self.adapter(self.base(x, *rest))"),),
    "the skip round the adapter is missing",
    "what comes out of the sublayer when A answers nearly zero, as it does at the start?",
    "There are two nested skips: the block's, round the sublayer, and the adapter's own.",
)
exercise.mistake(
    "answer added to the input",
    ((BEHIND, "        return x + self.adapter(self.base(x, *rest))"),),
    "the skip begins at x instead of at f",
    "what comes out of the sublayer when A answers zero?",
    "The adapter's own skip goes round the adapter alone, not round the sublayer as well.",
)
exercise.mistake(
    "skip from the input",
    ((BEHIND, "        f = self.base(x, *rest)\n        return x + f + self.adapter(f)"),),
    "x is added here, and the block adds it again",
    "which module adds x, the sublayer or the block around it?",
    "A sublayer returns only what is about to be added to the residual stream.",
)
exercise.mistake(
    "reads the input",
    ((BEHIND, "        return self.base(x, *rest) + self.adapter(x)"),),
    "the adapter reads what the sublayer reads, not what it puts out",
    "does your adapter stand behind the sublayer or beside it?",
    "Behind means one after the other; side by side is the third method of this file.",
)
exercise.mistake(
    "arguments lost",
    ((BEHIND, "        f = self.base(x)\n        return f + self.adapter(f)"),),
    "mask and cache do not reach the frozen module",
    "what becomes of the padding mask when attention has an adapter behind it?",
    "Whatever the wrapper is given besides x belongs to the module behind which it stands.",
)
exercise.mistake(
    "gradient cut",
    ((BEHIND, "        f = self.base(x, *rest).detach()\n        return f + self.adapter(f)"),),
    "the gradient stops at the frozen module",
    "how does the adapter of the first layer learn, when the loss is at the far end?",
    "Frozen means that the weights do not change; the gradient still has to pass, so no `detach` and no `no_grad`.",
)
exercise.mistake(
    "residual behind the norm",
    ((NORM, "        h = self.base(s)\n        return self.base(h + self.adapter(h))"),),
    "A is added to LN(s) where it should be added to s",
    "with A silent, is LN(LN(s)) the same as LN(s)?",
    "The adapter reads the normalised sum, but its answer goes to the raw one, before the norm acts again.",
    "adapter-hub/adapters#95, about the residual",
)
exercise.mistake(
    "no norm at the end",
    ((NORM, "        h = self.base(s)\n        return h + self.adapter(h)"),),
    "the adapter stands behind the norm, and nothing normalises its answer",
    "how often does LN stand in the equation?",
    "In a post-norm block the norm comes last; its output goes straight into the next layer.",
)
exercise.mistake(
    "sum without a norm",
    ((NORM, "        return s + self.adapter(self.base(s))"),),
    "the raw sum comes out, as if a norm were to follow",
    "what is the last thing that a post-norm block does?",
    "It is right for a pre-norm block; here the layer stands in for the norm that ends the block.",
)
exercise.mistake(
    "reads the raw sum",
    ((NORM, "        return self.base(s + self.adapter(s))"),),
    "the adapter reads s, not LN(s)",
    "what does A stand in front of in the table, s or LN(s)?",
    "Pfeiffer's adapter reads what the block would have put out without it.",
)
exercise.mistake(
    "a new norm",
    ((NORM, "        h = nn.functional.layer_norm(s, s.shape[-1:])\n        return self.base(s + self.adapter(h))"),),
    "the input of the adapter goes through a fresh norm, not through the pretrained one",
    "what are weight and bias of the norm that your adapter reads through?",
    "It is the same LayerNorm twice; what it has learned belongs to it.",
    "adapter-hub/adapters#290, about whether these norms are new or the pretrained ones",
)
exercise.mistake(
    "sum changed in place",
    ((NORM, "        s += self.adapter(self.base(s))\n        return self.base(s)"),),
    "`+=` writes into s, which others still need",
    "which numbers does the backward pass of the first LN need?",
    "In place, the tensor that autograd has kept is gone; make a new one.",
)
exercise.mistake(
    "U random",
    (("        nn.init.zeros_(adapter.U.weight)\n", ""),),
    "U starts random in a parallel adapter",
    "what does the model answer before the first step?",
    "Of D and U one is zero here, so that the start is exactly the base, as with B in LoRA.",
)
exercise.mistake(
    "zero on the other side",
    ((START, START.replace("D.", "#.").replace("U.", "D.").replace("#.", "U.").replace("  # U(−1/√d, 1/√d)", "")),),
    "D starts at zero and U random, instead of the other way round",
    "what is the gradient of U when φ(D h) is zero?",
    "With ReLU and D at zero nothing gets through the middle: not the answer, and not the gradient of either matrix.",
)
exercise.mistake(
    "D still small",
    (("        nn.init.kaiming_uniform_(adapter.D.weight, a=math.sqrt(5))  # U(−1/√d, 1/√d)\n", ""),),
    "D keeps the small start of the bottleneck",
    "how wide is the start of an ordinary linear layer with d inputs?",
    "The small start keeps a random U harmless. With U at zero it is not needed, and would only slow down the learning.",
)
exercise.mistake(
    "D started again, bias and all",
    ((START, "        adapter.D.reset_parameters()\n        nn.init.zeros_(adapter.U.weight)\n"),),
    "the bias of D starts random",
    "what else does `reset_parameters` draw besides the weight?",
    "Only the weight of D gets the start of a linear layer; the biases stay at zero.",
)
exercise.mistake(
    "no scale",
    ((BESIDE, "return self.base(x) + self.adapter(x)"),),
    "the scale s is left out",
    "what changes in your layer when s doubles?",
    "He et al. found the scale to matter: the answer of the adapter is multiplied by s before it is added.",
)
exercise.mistake(
    "scale on everything",
    ((BESIDE, "return self.scale * (self.base(x) + self.adapter(x))"),),
    "s multiplies the frozen path, too",
    "what comes out when A answers zero?",
    "Only what was learned is scaled; F(x) stays as it was pretrained.",
)
exercise.mistake(
    "scale inside",
    ((BESIDE, "return self.base(x) + self.adapter(self.scale * x)"),),
    "s multiplies what the adapter reads instead of what it answers",
    "is A(s·x) the same as s·A(x), with biases and a nonlinearity in A?",
    "The scale comes last, on the way out.",
)
exercise.mistake(
    "reads the output",
    ((BESIDE, "f = self.base(x)\n        return f + self.scale * self.adapter(f)"),),
    "the parallel adapter reads what the MLP puts out, so it stands behind it",
    "could your adapter start to compute before the MLP has finished?",
    "Parallel means that both read the same x.",
)
exercise.mistake(
    "MLP only",
    ((TWO, 'for path, block, module in sublayers(model, "mlp"):'),),
    "only the MLP has an adapter behind it",
    "how many adapters per layer does Houlsby's count have?",
    "One adapter per layer is Pfeiffer's finding; Houlsby has one behind each sublayer.",
)
exercise.mistake(
    "one for all layers",
    ((TWO, 'shared = None\n        ' + TWO + "\n            shared = shared or Bottleneck(block.norm2.weight, self.size, nn.GELU())"),
     (GELU, "swap(model, path, SequentialAdapter(module, shared))")),
    "all places share a single adapter",
    "how many different adapters are made, and where in the loop?",
    "Each place learns something of its own; a module that is made once and used everywhere is one set of weights.",
)  # fmt: skip
exercise.mistake(
    "ReLU in Houlsby",
    ((GELU, GELU.replace("GELU", "ReLU")),),
    "φ is ReLU in Houlsby's adapters",
    "which φ does the description of the class ask for?",
    "The two papers differ in this, too.",
)
exercise.mistake(
    "Houlsby around the block",
    ((GELU, 'path = path if path.endswith("attn") else path.removesuffix(".mlp")\n            '
      "swap(model, path, SequentialAdapter(model.get_submodule(path), Bottleneck(block.norm2.weight, self.size, nn.GELU())))"),),
    "the adapter behind the MLP stands behind the whole block, where x has been added already",
    "does your adapter read f or x + f?",
    "Houlsby's adapters act before the residual sum and before the norm.",
)  # fmt: skip
exercise.mistake(
    "placed without swap",
    (
        (
            GELU,
            'setattr(block, path.split(".")[-1], SequentialAdapter(module, Bottleneck(block.norm2.weight, self.size, nn.GELU())))',
        ),
    ),
    "the adapters are put in place without `swap`, so no delta will hold them",
    "how does `save` know which modules of a view are the method's?",
    "`swap` notes what it puts in and where; a module that goes in another way is not saved.",
)
exercise.mistake(
    "norms frozen",
    ((NORMS, "for path, weight in []:"),),
    "the LayerNorms do not learn",
    "how many parameters does Houlsby train besides the adapters?",
    "In the paper the LayerNorms are trained, all of the model; that is 2d numbers for each.",
    "google-research/adapter-bert#8; adapter-hub/adapters#98 and #37",
)
exercise.mistake(
    "norms always",
    ((NORMS, "for path, weight in layer_norms(model):"),),
    "the LayerNorms learn although norms=False",
    "what does the setting `norms` change in your code?",
    "The library keeps the norms frozen; norms=False does the same here.",
)
exercise.mistake(
    "norms of the blocks only",
    ((NORMS, 'for path, weight in [found for found in layer_norms(model) if self.norms and "blocks" in found[0]]:'),),
    "the norm behind the last block is left out",
    "how many LayerNorms has a pre-norm model of L layers?",
    "All norms of the model learn, also the one before the head.",
)
exercise.mistake(
    "norms of the base",
    ((COPY, "weight.requires_grad_(True)"),),
    "the base's own LayerNorms are trained",
    "what does the base answer after a step of training?",
    "A view shares its numbers with the base, so what learns needs memory of its own.",
)
exercise.mistake(
    "fresh norms",
    ((COPY, 'swap(model, path, nn.Parameter(weight.new_full(weight.shape, float(path.endswith("weight")))))'),),
    "the LayerNorms start anew, with ones and zeros",
    "what had the norms of the base learned?",
    "They go on from the pretrained values; fresh ones throw the model off at once.",
    "adapter-hub/adapters#37, closed when the trained norms turned out to be new ones",
)
exercise.mistake(
    "norm weights without biases",
    ((NORMS, 'for path, weight in [found for found in layer_norms(model) if self.norms and "weight" in found[0]]:'),),
    "the biases of the LayerNorms stay frozen",
    "how many vectors has a LayerNorm?",
    "Each LayerNorm has 2d numbers, and both vectors learn.",
)
exercise.mistake(
    "two per layer",
    ((PLACES, 'for path, block, _ in sublayers(model, "attn", "mlp"):'),
     (END, 'end = path if path.endswith("attn") else ' + END.removeprefix("end = ")),
     (LAYER, 'layer = SequentialAdapter if block.pre_norm or path.endswith("attn") else SequentialAdapterInNorm\n')),
    "an adapter of Pfeiffer stands behind attention, too",
    "where did Pfeiffer et al. find an adapter to be enough?",
    "Half of Houlsby's parameters: behind the MLP only.",
    "adapter-hub/adapters#168, about the difference between the two",
)  # fmt: skip
exercise.mistake(
    "place of Houlsby",
    ((END, "end = path"), (LAYER, "layer = SequentialAdapter\n")),
    "the adapter of Pfeiffer reads f, as Houlsby's does",
    "what does A read in the second line of the table: f, or the sum with x?",
    "It reads what the block would have put out, so it stands where that is known.",
    "adapter-hub/adapters#59, about the place in a pre-norm model",
)
exercise.mistake(
    "one place for both kinds of block",
    ((END, 'end = path.removesuffix(".mlp")'), (LAYER, "layer = SequentialAdapter\n")),
    "a post-norm block is treated like a pre-norm one",
    "what is the last thing that a post-norm block does?",
    "Where the norm comes last, the answer of the adapter has to go through it.",
    "adapter-hub/adapters#59, about the place in a pre-norm model",
)
exercise.mistake(
    "adapters below are lost",
    (
        (
            RELU + "(getattr(*place(model, end)), adapter))",
            RELU + "(block if block.pre_norm else block.norm2, adapter))",
        ),
    ),
    "where an adapter stands in front of the block already, it is thrown out",
    "what stands at the place `end` in a view that has adapters already: the block, or a wrapper in front of it?",
    "`sublayers` gives the block at the bottom; the new layer goes in front of whatever stands at that name.",
)
exercise.mistake(
    "GELU in Pfeiffer",
    ((RELU, RELU.replace("ReLU", "GELU")),),
    "φ is GELU in Pfeiffer's adapters",
    "which φ does the description of the class ask for?",
    "The two papers differ in this, too.",
)
exercise.mistake(
    "Pfeiffer shared by all layers",
    ((PLACES, "adapter = None\n        " + PLACES),
     (RELU, "            adapter = adapter or Bottleneck(block.norm2.weight, self.size, nn.ReLU())\n            swap(model, end, layer")),
    "all layers share a single adapter of Pfeiffer",
    "how many different adapters does a model of L layers need?",
    "Each layer learns something of its own; make the adapter inside the loop.",
)  # fmt: skip

exercise.right(
    "matmul",
    (
        (
            ANSWER,
            "        z = self.act(h @ self.D.weight.T + self.D.bias)\n        return z @ self.U.weight.T + self.U.bias",
        ),
    ),
)
exercise.right(
    "drawn and clamped by hand",
    ((INIT, """        with torch.no_grad():
            for layer in (self.U, self.D):
                w = torch.randn(4, *layer.weight.shape) * 0.01
                for row in w[1:]:
                    w[0] = torch.where(w[0].abs() > 0.02, row, w[0])
                layer.weight.copy_(w[0].clamp(-0.02, 0.02))
                layer.bias.zero_()
"""),
     ("from torch import nn", "import torch\nfrom torch import nn")),
)  # fmt: skip
exercise.right(
    "made where it belongs",
    ((LINEAR, "place = {\"dtype\": like.dtype, \"device\": like.device}\n        self.act = act\n"
      "        self.U = nn.Linear(size, like.numel(), **place)\n        self.D = nn.Linear(like.shape[0], size, **place)"),
     ("        self.to(like)\n", "")),
)  # fmt: skip
exercise.right("sums in another order", (
    (BEHIND, "        y = self.base(x, *rest)\n        y = self.adapter(y) + y\n        return y"),
    (NORM, "        return self.base(self.adapter(self.base(s)) + s)"),
    (BESIDE, "return self.adapter(x).mul(self.scale).add(self.base(x))"),
))  # fmt: skip
exercise.right(
    "start of D drawn by hand",
    ((START, """        bound = adapter.D.in_features ** -0.5
        nn.init.uniform_(adapter.D.weight, -bound, bound)
        adapter.U.weight.data.zero_()
"""),),
)  # fmt: skip
exercise.right(
    "two loops, and norms from named_modules",
    ((TWO, 'for path, block, module in [*sublayers(model, "mlp"), *sublayers(model, "attn")]:'),
     (NORMS, "for path, weight in layer_norms(model) * self.norms:"),
     (COPY, "swap(model, path, nn.Parameter(weight.data + 0))")),
)  # fmt: skip
exercise.right(
    "two cases",
    ((END, 'last = path.rpartition(".")[0]'),
     (LAYER, "\n"),
     (RELU + "(getattr(*place(model, end)), adapter))", """            A = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            if block.pre_norm:
                swap(model, last, SequentialAdapter(getattr(*place(model, last)), A))
            else:
                swap(model, f"{last}.norm2", SequentialAdapterInNorm(block.norm2, A))""")),
)  # fmt: skip

exercise.variant(
    "wider start",
    (("nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)", "nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)"),
     ("The weights start normal, σ = 0.01, cut off at two σ", "The weights start normal, here with σ = 0.02, cut off at two σ")),
    "the weights of an adapter start with σ = 0.02, cut off at two σ",
)  # fmt: skip
exercise.variant(
    "scale on the way in",
    ((BESIDE, "return self.base(x) + self.adapter(self.scale * x)"),
     ("    ParallelAdapter   LN(x + f + s·A(x))                    x + f + s·A(n)        beside the MLP",
      "    ParallelAdapter   LN(x + f + A(s·x))                    x + f + A(s·n)        beside the MLP"),
     ('"""F(x) + s·A(x) in front of the MLP.', '"""F(x) + A(s·x) in front of the MLP.'),
     ("scale: s, by which its answer is multiplied; the paper found 4 to be good.", "scale: s, by which what it reads is multiplied.")),
    "s multiplies what the parallel adapter reads, not what it answers: A(s·x)",
)  # fmt: skip
exercise.variant(
    "attention only",
    ((TWO, 'for path, block, module in sublayers(model, "attn"):'),
     ("x + f + A(f)          behind attention and MLP", "x + f + A(f)          behind attention only"),
     ("L·(2dm + m + d); Houlsby twice that, and 2d for each\nLayerNorm of the model.", "L·(2dm + m + d); Houlsby as many, and 2d for each\nLayerNorm of the model."),
     ('"""Two adapters per layer, behind attention and behind the MLP; φ is GELU.', '"""One adapter per layer, behind attention only; φ is GELU.')),
    "Houlsby has one adapter per layer, behind attention only",
)  # fmt: skip
