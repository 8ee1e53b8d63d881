"""DoRA: lengths and directions of rows, what a layer makes of them, its gradient, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import arrivals, fill, linear, numbers, types
from minipeft.methods.lora import LoRALinear

exercise = Exercise(
    "dora",
    "methods/dora.py",
    stubs=(
        "lengths",
        "decompose",
        "DoRALinear.__init__",
        "DoRALinear.V",
        "DoRALinear.g",
        "DoRALinear.forward",
        "DoRALinear.delta",
    ),
    title="DoRA: how long and which way, trained apart",
    minutes=35,
    difficulty=2,
    why="What an update does to the length of a row and what to its direction, and why a gradient may be cut on purpose.",
    read="Liu et al. 2024, arXiv:2402.09353, sections 4.1 to 4.3",
    lesson="13",
)

LENGTHS = "return W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)"
DIRECTION = "return magnitude, W / magnitude[:, None]"
ZERO_B = "self.B = nn.Parameter(W.new_zeros(out, rank))"
RANDOM_A = "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)"
FACTORS = (
    "self.A = nn.Parameter(W.new_empty(rank, into))\n        self.B = nn.Parameter(W.new_zeros(out, rank))\n        "
    + RANDOM_A
)
START_M = "self.m = nn.Parameter(lengths(W.detach()))"
V = "return self.base.weight + self.scale * self.B @ self.A  # (out, in)"
LENGTH = "        with torch.no_grad():\n            length = lengths(self.V())\n"
RATIO = "return self.m / length"
FROZEN = "Wx = y if bias is None else y - bias"
UPDATE = "BAx = F.linear(F.linear(x, self.A), self.scale * self.B)"
SUM = "return y + (g - 1) * Wx + g * BAx  # (..., out), g ⊙ (Wx + s·BAx) + b: written so, the start is exactly y"
FORWARD = f"y, g, bias = self.base(x), self.g(), self.base.bias\n        {FROZEN}\n        {UPDATE}\n        {SUM}"
DELTA = "return self.g()[:, None] * self.V() - self.base.weight  # (out, in)"


def layer(impl, rank=2, alpha=6, base=None):
    """A DoRALinear far from its start, with in ≠ out ≠ r and a bias."""
    return fill(impl.DoRALinear(base or linear(), rank, alpha / rank), "trainable")


def spread(factor):
    """How the numbers of a factor lie, in words."""
    values = factor.detach().flatten()
    if not values.any():
        return "all zero"
    if values.min() >= 0 or values.max() <= 0:
        return "all on one side of zero"
    apart = (values - values.mean()).abs().max() / values.std()  # √3 if they are spread evenly
    return "crowded round zero like a bell" if apart > 2.5 else "spread evenly"


def holed():
    """A frozen Linear with a row and a column of zeros."""
    base = linear()
    with torch.no_grad():
        base.weight[1], base.weight[:, 2] = 0, 0
    return base


def attached(impl):
    """Two layers of different width, the method on both, far from the start."""
    made = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return fill(impl.DoRA(rank=2, alpha=6, targets=("0", "2")).attach(fill(made)), "trainable")


@exercise.observe("decomposition", "The lengths of the rows of a weight are not the expected ones.")
def lengths_of_the_rows(impl):
    return impl.lengths(numbers("W", (4, 6)))


@exercise.observe("decomposition", "The magnitude of a weight is not the expected one.")
def magnitude(impl):
    return impl.decompose(numbers("W", (4, 6)))[0]


@exercise.observe("decomposition", "The directions of a weight are not the expected ones.")
def direction(impl):
    return impl.decompose(numbers("W", (4, 6)))[1]


@exercise.observe("decomposition", "Magnitude times direction should give the weight back.")
def put_together(impl):
    m, direction = impl.decompose(numbers("W", (5, 5)))
    return m[:, None] * direction if m.shape == (5,) else [m, direction]


@exercise.observe("set-up", "The layer should train A (r, in), B (out, r) and the magnitudes m, and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.DoRALinear(linear(), 2, 3.0)).items()}


@exercise.observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("set-up", "A, B and m should have the type of the base, whatever it is: 16 bits in front of 16 bits.")
def type_of_the_parameters(impl):
    bases = [linear().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{name: str(p.dtype) for name, p in attach.trainable(impl.DoRALinear(b, 2, 3.0)).items()} for b in bases]


@exercise.observe("start", "At the start the output must be that of the base.")
def start(impl):
    base = linear()
    return impl.DoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@exercise.observe("start", "m should start at what it is in the frozen weight.")
def start_of_m(impl):
    return impl.DoRALinear(linear(), 2, 3.0).m


@exercise.observe("start", "One of A and B should start at zero and the other random: how do its numbers lie?")
def spread_of_the_start(impl):
    made = impl.DoRALinear(linear(100, 80), 8, 1.0)
    return {name: spread(getattr(made, name)) for name in "AB"}


@exercise.observe(
    "start", "In units of 1/√in, the smallest and the largest number that A or B starts with are not the expected ones."
)
def width_of_the_start(impl):
    made = impl.DoRALinear(linear(100, 80), 8, 1.0)
    ends = {name: (float(getattr(made, name).min()), float(getattr(made, name).max())) for name in "AB"}
    return {name: [round(20 * end * 100**0.5) / 20 for end in both] for name, both in ends.items()}


@exercise.observe("start", "Two layers made one after the other start with the same random numbers. Is a seed set?")
def two_layers_differ(impl):
    first, second = (impl.DoRALinear(linear(), 2, 3.0) for _ in range(2))
    return {
        "random": any(spread(getattr(first, name)) != "all zero" for name in "AB"),
        "different": any(bool((getattr(first, name) != getattr(second, name)).any()) for name in "AB"),
    }


@exercise.observe("start", "Making a layer sets the seed of all random numbers of the program.")
def random_numbers_go_on(impl):
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.DoRALinear(linear(), 2, 3.0)
        after.append(float(torch.rand(())))
    return after[0] != after[1]


@exercise.observe("start", "The first step should reach B and m, and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.DoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 1e-9) for name, p in attach.trainable(made).items()}


@exercise.observe("weight", "V = W + s·B A is not the expected one.")
def turned_weight(impl):
    return layer(impl).V()


@exercise.observe("weight", "g = m/‖V‖, by which the rows of V are multiplied, is not the expected one.")
def ratio_of_the_lengths(impl):
    return layer(impl).g()


@exercise.observe("weight", "With another rank and scale V or g is not the expected one.")
def weight_at_another_scale(impl):
    made = layer(impl, rank=3, alpha=3)
    return [made.V(), made.g()]


@exercise.observe("forward", "The output for rows of tokens (B, T, in) is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@exercise.observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@exercise.observe("forward", "A layer without a bias should work as well.")
def output_without_a_bias(impl):
    return layer(impl, base=linear(bias=False))(numbers("x", (4, 5)))


@exercise.observe("forward", "Once B is no longer zero, a gradient should reach A, B and m.")
def where_gradients_arrive(impl):
    made = layer(impl)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@exercise.observe("forward", "The gradients that reach A, B and m are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@exercise.observe("forward", "The gradient that goes on to the layer below is not the expected one.")
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@exercise.observe("forward", "After A, B and m have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x)


@exercise.observe("forward", "A pass has changed the base or the input, which others read too.")
def nothing_else_is_changed(impl):
    base, x = linear(), numbers("x", (4, 5))
    layer(impl, base=base)(x)
    return [base.weight - linear().weight, base.bias - linear().bias, x - numbers("x", (4, 5))]


@exercise.observe("forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = numbers("x", (4, 5))
    return types(
        lambda dtype: impl.DoRALinear(linear().to(dtype), 2, 3.0), lambda made: made(x.to(made.base.weight.dtype))
    )


@exercise.observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@exercise.observe("merge", "ΔW is not what has to be added to W to get W'.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "After A, B and m have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("merge", "The lengths of the rows of W' should be the sizes of m, whatever A and B are.")
def lengths_of_the_merged_weight(impl):
    made = layer(impl)
    W = made.merged().weight
    return W.square().sum(1).sqrt() - made.m.abs() if made.m.shape == (3,) else W


@exercise.observe("fine print", "A weight with zeros in it should stay free of NaN, at the start and afterwards.")
def zeros_in_the_weight(impl):
    x, made = numbers("x", (4, 5)), impl.DoRALinear(holed(), 2, 3.0)
    return [made(x) - holed()(x), layer(impl, base=holed())(x), impl.decompose(holed().weight)[1]]


@exercise.observe(
    "fine print", "In front of a LoRA, the layer should take over the weight that acts below, LoRA included."
)
def stacked(impl):
    made = layer(impl, base=fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False))
    return [made(numbers("x", (4, 5))), made.merged().weight]


exercise.mistake(
    "lengths of columns",
    ((LENGTHS, "return W.norm(dim=0).clamp(min=torch.finfo(W.dtype).tiny)"), (DIRECTION, "return magnitude, W / magnitude"),
     (FORWARD, "return F.linear(self.g() * x, self.V(), self.base.bias)"), (DELTA, "return self.g() * self.V() - self.base.weight")),
    "the lengths are those of the columns, the weights of one input, instead of the rows",
    "the paper's W is (in, out) and speaks of columns; what is `nn.Linear`'s weight?",
    "One magnitude belongs to each output neuron, so there are as many as outputs.",
    "nbasyl/DoRA#1, NVlabs/DoRA#11, catid/dora#4, LyCORIS#216",
    any_value=("zeros in the weight",),
)  # fmt: skip
exercise.mistake(
    "squared lengths",
    ((LENGTHS, "return W.square().sum(dim=1).clamp(min=torch.finfo(W.dtype).tiny)"),),
    "the lengths are squared: the root is missing",
    "how long is the direction of a row (3, 4)?",
    "A start equal to the base does not show it, because m and ‖V‖ are wrong alike; a direction of length 1 does.",
)
exercise.mistake(
    "one length for all",
    ((LENGTHS, "return W.norm().clamp(min=torch.finfo(W.dtype).tiny).expand(len(W))"),),
    "there is one length for the whole matrix instead of one for each row",
    "over which dimension does your norm add up?",
    "A norm without a dimension takes all numbers together.",
)
exercise.mistake(
    "division by zero",
    ((LENGTHS, "return W.norm(dim=1)"),),
    "a row of zeros is divided by its length, zero",
    "what is the direction of a row of zeros, and what does your code make of it?",
    "0/0 is NaN, and one NaN spoils the whole model; pruned weights do have such rows.",
)
exercise.mistake(
    "direction not divided",
    ((DIRECTION, "return magnitude, W"),),
    "the direction is the weight itself, as long as before",
    "how long is a row of your direction?",
    "Magnitude times direction is the weight, so what is in the one cannot be in the other.",
)
exercise.mistake(
    "gradient through the length",
    ((LENGTH, "        length = lengths(self.V())\n"),),
    "the gradient also flows through ‖V‖",
    "which part of W' does section 4.3 of the paper take for a constant?",
    "The outputs are the same; the gradients of A and B are not, and memory is spent on them.",
    "huggingface/peft#1474, where it is spelled out",
)
exercise.mistake(
    "no gradient for A and B",
    ((UPDATE, "BAx = F.linear(F.linear(x, self.A), self.scale * self.B).detach()"),),
    "the update is cut out of the gradient along with ‖V‖, so A and B never learn",
    "what is `layer.B.grad` after a backward pass?",
    "Only the length that V is divided by counts as a constant, not V itself.",
    forms=(
        (
            (V, "return (self.base.weight + self.scale * self.B @ self.A).detach()"),
            (FORWARD, "return F.linear(x, self.g()[:, None] * self.V(), self.base.bias)"),
        ),
        ((FORWARD, "return F.linear(x, self.g()[:, None] * self.V().detach(), self.base.bias)"),),
    ),
)
exercise.mistake(
    "no gradient for m",
    ((LENGTH + "        " + RATIO, "        with torch.no_grad():\n            return self.m / lengths(self.V())"),),
    "m is cut out of the gradient along with ‖V‖, so it never learns",
    "what is `layer.m.grad` after a backward pass?",
    "The quotient has a numerator that is trained; only the denominator counts as a constant.",
    forms=(
        ((RATIO, "return self.m.detach() / length"),),
        ((FORWARD, FORWARD.replace("self.g(), self", "self.g().detach(), self")),),
    ),
)
exercise.mistake(
    "length of W alone",
    ((LENGTH, "        length = lengths(self.base.weight)\n"),),
    "V is divided by the length of the frozen W, in which the update is missing",
    "how long are the rows of your W', and how long should m make them?",
    "As soon as B is not zero, ‖W‖ and ‖V‖ differ.",
    "ComfyUI#15458",
)
exercise.mistake(
    "update added afterwards",
    ((SUM, "return y + (g - 1) * Wx + BAx"), (DELTA, "return self.g()[:, None] * self.base.weight + self.scale * self.B @ self.A - self.base.weight")),
    "only W is brought to its new length, and the update is added to the result",
    "is the update part of V in the equation, or does it come after?",
    "s·B A turns the row before its length is set.",
)  # fmt: skip
exercise.mistake(
    "not divided",
    ((RATIO, "return self.m"),),
    "V is multiplied by m and never divided by its length",
    "what does the layer answer at the start, when m is ‖W‖?",
    "m stands before a direction, and a direction has the length 1.",
)
exercise.mistake(
    "turned over",
    ((RATIO, "return length / self.m"),),
    "the ratio is turned over: ‖V‖/m instead of m/‖V‖",
    "should a row become longer or shorter when its m grows?",
    "The start does not show it, since m is ‖V‖ there; divide by the length that V has, multiply by the one it should have.",
)
exercise.mistake(
    "m starts at one",
    ((START_M, "self.m = nn.Parameter(W.new_ones(out))"),),
    "m starts at one, so every row is given the length 1",
    "how long are the rows of W before training?",
    "The model should start as the base, and m is the length that a row has.",
    "the review of adapter-hub/adapters#790",
)
exercise.mistake(
    "m is no parameter",
    ((START_M, "self.m = lengths(W.detach())"),),
    "m is a plain tensor, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained and saved.",
)
exercise.mistake(
    "m as a column",
    ((START_M, "self.m = nn.Parameter(lengths(W.detach())[:, None])"), (RATIO, "return self.m[:, 0] / length")),
    "m is a column (out, 1) instead of (out)",
    "which shape does the equation at the top give m?",
    "The numbers are right; a stored m should have the shape that everyone reads.",
)
exercise.mistake(
    "both random",
    ((ZERO_B, "self.B = nn.Parameter(W.new_empty(out, rank).normal_())"),),
    "A and B both start random",
    "what is V at the start, if B A is not zero?",
    "m starts at ‖W‖, and the base comes out only if V is W.",
    forms=(
        ((RANDOM_A, "nn.init.normal_(self.A)\n        nn.init.normal_(self.B)"),),
        (
            (
                RANDOM_A,
                "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))",
            ),
        ),
    ),
    any_value=("start", "spread of the start", "width of the start"),
)
exercise.mistake(
    "zero and random exchanged",
    (("        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "        nn.init.zeros_(self.A)\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))\n"),),
    "A starts at zero and B random, instead of the other way round",
    "which of the two gets a gradient at the first step?",
    "It works too, but the paper, and every stored delta, starts with B at zero.",
    any_value=("spread of the start", "width of the start"),
)  # fmt: skip
exercise.mistake(
    "no scale",
    ((V, "return self.base.weight + self.B @ self.A"), (UPDATE, "BAx = F.linear(F.linear(x, self.A), self.B)")),
    "the scale s is left out of V",
    "if α doubles, what changes in your layer?",
    "The update is s·B A, as in LoRA.",
)
exercise.mistake(
    "scale on one side",
    ((UPDATE, "BAx = F.linear(F.linear(x, self.A), self.B)"),),
    "the scale s is in V, but the update that forward adds lacks it",
    "is the merged layer the same function as the unmerged one?",
    "Forward and V must hold the same update, or the lengths belong to another weight.",
)
exercise.mistake(
    "bias left out",
    ((SUM, "return g * (Wx + BAx)"),),
    "the bias of the frozen layer is lost",
    "what does the layer answer to a row of zeros?",
    "W' takes the place of W only; b stays as it is.",
)
exercise.mistake(
    "bias scaled",
    ((SUM, "return g * (y + BAx)"),),
    "the bias is multiplied by m/‖V‖ too",
    "which part of the frozen layer's output is m/‖V‖ meant for?",
    "If you scale the output of the base instead of its weight, leave the bias out first.",
    "nbasyl/DoRA#2, where such terms are discussed",
    forms=(
        ((FORWARD, "return F.linear(x, self.V() / lengths(self.V()).detach()[:, None], self.base.bias) * self.m"),),
    ),
)
exercise.mistake(
    "bias taken for granted",
    ((FROZEN, "Wx = y - bias"),),
    "a layer without a bias is not thought of",
    "what is `base.bias` in a model whose projections have none, like T5 or Llama?",
    "Where there is no bias, the output of the frozen layer is W x already.",
)
exercise.mistake(
    "base added",
    ((SUM, "return y + g * (Wx + BAx)"),),
    "the output of the base is added to that of W', which holds W already",
    "how often is W in your output?",
    "W' replaces W; unlike in LoRA there is nothing to add to.",
)
exercise.mistake(
    "delta is the LoRA's",
    ((DELTA, "return self.scale * self.B @ self.A"),),
    "ΔW is only s·B A, as if this were a LoRA",
    "where do the magnitudes go when the layer is merged?",
    "Merging has to end at W', with its new lengths.",
)
exercise.mistake(
    "delta is the whole weight",
    ((DELTA, "return self.g()[:, None] * self.V()"),),
    "`delta` returns W' instead of the change W' − W",
    "what comes out if W is added to what you return?",
    "The framework merges by adding ΔW to W.",
)
exercise.mistake(
    "weight at the bottom",
    ((V, 'return getattr(self.base, "base", self.base).weight + self.scale * self.B @ self.A'),),
    "where the layer is stacked on another method, V leaves out what that one has learned",
    "what is `self.base` if a LoRA stands there already, and which weight acts in it?",
    "The base of your layer gives the weight that acted before you came; do not look further down.",
)
exercise.mistake(
    "weight of the layer",
    ((DELTA, "return self.g()[:, None] * self.V() - self.weight"),),
    "W is read through the layer's own `weight`, which is W + ΔW and asks for `delta` in turn",
    "what does `weight` of a `WeightWrapper` give, and what does it need for that?",
    "The weight of an adapted layer is the adapted one; the frozen one belongs to `base`.",
    forms=(((V, "return self.weight + self.scale * self.B @ self.A"),),),
)

exercise.mistake(
    "Gaussian",
    ((RANDOM_A, "nn.init.normal_(self.A)"),),
    "A is drawn from a Gaussian, where this exercise spreads it evenly",
    "between which two numbers should every number of A lie at the start?",
    "The paper of LoRA says Gaussian; the authors' code, the library and this exercise use the uniform distribution that `nn.Linear` starts with.",
    "Hu et al. 2021, section 4.1, beside loralib's reset_parameters",
    forms=(((RANDOM_A, "nn.init.normal_(self.A, std=0.02)"),),),
    any_value=("width of the start",),
)  # fmt: skip
exercise.mistake(
    "one-sided",
    ((RANDOM_A, "nn.init.uniform_(self.A, 0, into**-0.5)"),),
    "the numbers of A all have one sign at the start",
    "what is the mean of the numbers that A starts with?",
    "`torch.rand` draws between 0 and 1. The mean of A should be zero, or each row of A adds up x with one sign.",
    any_value=("width of the start",),
)  # fmt: skip
exercise.mistake(
    "fan of the wrong side",
    ((RANDOM_A, "nn.init.uniform_(self.A, -(rank**-0.5), rank**-0.5)"),),
    "A starts with a width of 1/√r instead of 1/√in",
    "how many numbers does one number of A x add up?",
    "The initialiser has read r as the number of inputs, as it does for an A stored as (in, r).",
    "rasbt/LLMs-from-scratch, appendix E",
)  # fmt: skip
exercise.mistake(
    "type of its own",
    ((FACTORS, "self.A = nn.Parameter(torch.empty(rank, into))\n        self.B = nn.Parameter(torch.zeros(out, rank))\n        " + RANDOM_A),),
    "A, B or m is made without asking for the type of the base",
    "which type has `torch.zeros(out, rank)`, and which type has a model in 16 bits?",
    "The formula is right. A tensor made from sizes alone gets torch's default type; think of how it can take over the base's type.",
    forms=(
        ((FACTORS, FACTORS.replace("W.new_empty(rank, into)", "torch.empty(rank, into)")),),
        ((FACTORS, FACTORS.replace("W.new_zeros(out, rank)", "torch.zeros(out, rank)")),),
        ((START_M, "self.m = nn.Parameter(lengths(W.detach()).float())"),),
        ((START_M, "self.m = nn.Parameter(lengths(W.detach()).to(torch.get_default_dtype()))"),),
    ),
)  # fmt: skip
exercise.mistake(
    "seed in the layer",
    ((FACTORS, "torch.manual_seed(0)\n        " + FACTORS),),
    "`__init__` sets a seed, so every layer starts with the same A",
    "what do two layers of one model start with, and what becomes of the random numbers that the program draws next?",
    "Whoever runs the experiment sets a seed, once. A layer only draws.",
    forms=(
        ((RANDOM_A, "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))"),),
    ),
)  # fmt: skip
exercise.mistake(
    "length kept",
    ((LENGTH, "        if 'kept' not in vars(self):\n            self.kept = lengths(self.V()).detach()\n        length = self.kept\n"),),
    "‖V‖ is kept from before, though A and B have changed since",
    "when do A and B change, and when is your ‖V‖ computed?",
    "Every step changes V. Its lengths have to be those of the V that acts now.",
)  # fmt: skip
exercise.mistake(
    "V kept",
    ((V, "if 'kept' not in vars(self):\n            self.kept = self.base.weight + self.scale * self.B @ self.A\n        return self.kept"),
     (FORWARD, "return F.linear(x, self.g()[:, None] * self.V(), self.base.bias)")),
    "V is kept from before, though A and B have changed since",
    "when do A and B change, and when is your V computed?",
    "Every step changes A and B. What is computed once and kept is that of an earlier step.",
    forms=(
        ((V, "if 'kept' not in vars(self):\n            self.kept = self.base.weight + self.scale * self.B @ self.A\n        return self.kept"),),
    ),
)  # fmt: skip
exercise.mistake(
    "delta kept",
    ((DELTA, "if 'kept' not in vars(self):\n            self.kept = self.g()[:, None] * self.V() - self.base.weight\n        return self.kept"),),
    "ΔW is kept from before, though A, B and m have changed since",
    "when do A, B and m change, and when is your ΔW computed?",
    "Every step changes them. What is computed once and kept is that of an earlier step.",
    forms=(
        ((DELTA, "if 'kept' not in vars(self):\n            self.kept = self.g()[:, None] * self.V() - self.base.weight\n        return self.kept"),
         (FORWARD, "return self.base(x) + F.linear(x, self.delta())")),
    ),
)  # fmt: skip
exercise.mistake(
    "input cut off",
    ((UPDATE, UPDATE.replace("F.linear(x, self.A)", "F.linear(x.detach(), self.A)")),),
    "x is cut off from the gradient, so the layer below learns through a part of the weight only, or not at all",
    "by which ways does a change of x reach the output, and does a gradient come back on each of them?",
    "Frozen means that a weight is not trained. The gradient still has to pass through it to the layer below.",
    forms=(
        ((FORWARD, "x = x.detach()\n        " + FORWARD),),
        ((FORWARD, FORWARD.replace("self.base(x)", "self.base(x).detach()")),),
        ((FORWARD, FORWARD.replace("self.base(x)", "self.base(x.detach())")),),
        ((FORWARD, "return F.linear(x.detach(), self.g()[:, None] * self.V(), self.base.bias)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "lengths too long",
    ((LENGTHS, "return W.norm(dim=1) + 0.01"),),
    "a number is added to every length, not only to that of a row of zeros",
    "how long is the row (3, 4), and what does your function say?",
    "A guard against a division by zero should change nothing where there is no zero.",
    forms=(
        ((LENGTHS, "return W.norm(dim=1) + 1e-3"),),
        ((LENGTHS, "return (W.square().sum(dim=1) + 1e-2).sqrt()"),),
        ((LENGTHS, "return W.norm(dim=1) + 1e-5"),),
        ((LENGTHS, "return W.norm(dim=1) + 1e-4"),),
    ),
)  # fmt: skip
exercise.mistake(
    "sums of sizes",
    ((LENGTHS, "return W.abs().sum(dim=1).clamp(min=torch.finfo(W.dtype).tiny)"),),
    "the lengths are sums of absolute values",
    "how long is the row (3, 4)?",
    "A length is the Euclidean norm: it does not change when a row is turned.",
)  # fmt: skip
exercise.mistake(
    "mean of the squares",
    ((LENGTHS, "return W.square().mean(dim=1).sqrt().clamp(min=torch.finfo(W.dtype).tiny)"),),
    "the lengths are roots of the mean square instead of the sum",
    "how long is the row (3, 4)?",
    "A length adds the squares up; their mean is that of a norm layer.",
)  # fmt: skip
exercise.mistake(
    "V scaled whole",
    ((V, "return self.scale * (self.base.weight + self.B @ self.A)"),),
    "the scale s multiplies W too",
    "what is V at the start, when B is zero?",
    "The start does not show it, because a direction does not know how long V is. s belongs to B A alone.",
    forms=(
        ((V, "return self.scale * (self.base.weight + self.B @ self.A)"), (FORWARD, "return F.linear(x, self.g()[:, None] * self.V(), self.base.bias)")),
    ),
)  # fmt: skip
exercise.mistake(
    "scale twice",
    ((V, "return self.base.weight + self.scale**2 * self.B @ self.A"), (UPDATE, "BAx = F.linear(F.linear(x, self.A), self.scale**2 * self.B)")),
    "the scale is applied twice",
    "how often does s stand in the equation?",
    "Somewhere s multiplies what has been multiplied by s already.",
    forms=(
        ((V, "return self.base.weight + self.scale**2 * self.B @ self.A"),),
        ((UPDATE, "BAx = F.linear(F.linear(x, self.A), self.scale**2 * self.B)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "base left out",
    ((SUM, "return (g - 1) * Wx + g * BAx"),),
    "the output of the frozen layer is missing; only the change of it comes out",
    "what does the layer answer at the start, when m is ‖W‖ and B is zero?",
    "(g − 1) W x is what W x has to be changed by, so W x has to be there too.",
)  # fmt: skip
exercise.mistake(
    "update by g minus one",
    ((SUM, "return y + (g - 1) * (Wx + BAx)"),),
    "the update is multiplied by g − 1 like W x, though it is not in the base's output",
    "how often is W x in your output, all in all, and how often is B A x?",
    "The base brings W x along, so that only g − 1 of it is missing. Of B A x it brings nothing.",
)  # fmt: skip
exercise.mistake(
    "sizes exchanged",
    (("out, into = W.shape\n", "into, out = W.shape\n"),),
    "the shape of the weight is read as (in, out), which makes A and B of each other's size",
    "which of its two sizes does `nn.Linear`'s weight have first?",
    "A square layer hides this. The weight is stored as (out, in), one row for each output.",
)  # fmt: skip
exercise.mistake(
    "A before B",
    ((V, "return self.base.weight + self.scale * self.A @ self.B"),),
    "V multiplies the factors in the wrong order",
    "in which order does x meet A and B, and which shapes have A B and B A?",
    "V has the shape (out, in). The factor on the left gives it its rows, the one on the right its columns.",
)  # fmt: skip
exercise.mistake(
    "base written over",
    ((FORWARD, "self.base.weight.data += self.delta()\n        return self.base(x)"),),
    "a pass writes W' into the frozen weight itself",
    "what does your layer answer when the same input comes a second time?",
    "The base shares its numbers with the model that you attached to; a layer reads them and never writes.",
    "huggingface/peft#1355, where merging twice added the update twice",
)  # fmt: skip
exercise.mistake(
    "direction first",
    ((DIRECTION, "return W / magnitude[:, None], magnitude"),),
    "`decompose` returns the direction before the magnitude",
    "in which order does the docstring name the two?",
    "Magnitude first, then direction.",
)  # fmt: skip
exercise.mistake(
    "lengths as a column",
    ((LENGTHS, "return W.norm(dim=1, keepdim=True).clamp(min=torch.finfo(W.dtype).tiny)"), (DIRECTION, "return magnitude, W / magnitude"),
     (FORWARD, "return F.linear(x, self.g() * self.V(), self.base.bias)"), (DELTA, "return self.g() * self.V() - self.base.weight")),
    "the lengths, and m with them, are a column (out, 1) instead of (out)",
    "which shape do the docstrings give the lengths and m?",
    "The numbers are right; a stored m should have the shape that everyone reads.",
)  # fmt: skip
exercise.mistake(
    "W keeps its length",
    ((SUM, "return y + g * BAx"), (DELTA, "return self.scale * self.g()[:, None] * (self.B @ self.A)")),
    "only the update is multiplied by m/‖V‖, and W keeps its length",
    "how long are the rows of your W', and how long should m make them?",
    "V is W and the update together; its whole length becomes m.",
    forms=(((SUM, "return y + g * BAx"),),),
)  # fmt: skip
exercise.mistake(
    "m left out",
    ((FORWARD, "return F.linear(x, self.V() / lengths(self.V()).detach()[:, None], self.base.bias)"),),
    "m is left out of the output: every row of W' has the length 1",
    "what changes in the output when m doubles?",
    "A direction says which way a row goes. How long it is has to come from m.",
    forms=(((FORWARD, "return F.linear(x, self.V() / lengths(self.V())[:, None], self.base.bias)"),),),
)  # fmt: skip

exercise.right(
    "W' written down",
    ((FORWARD, "return F.linear(x, self.g()[:, None] * self.V(), self.base.bias)"),),
)
exercise.right(
    "as the library does it",
    ((SUM, "return y + (g - 1) * F.linear(x, self.base.weight) + g * self.scale * (x @ self.A.T @ self.B.T)"),
     (LENGTH, "        length = lengths(self.V().detach())\n")),
)  # fmt: skip
exercise.right(
    "magnitude times direction",
    ((SUM, "return self.m * (Wx + BAx) / lengths(self.V()).detach() + (0 if bias is None else bias)"),
     (DELTA, "_, direction = decompose(self.V())\n        return self.m.unsqueeze(1) * direction - self.base.weight")),
)  # fmt: skip
exercise.right(
    "lengths by hand",
    ((LENGTHS, 'return torch.einsum("oi,oi->o", W, W).sqrt().clamp(min=1e-12)'), (DIRECTION, "return magnitude, F.normalize(W, dim=1)")),
)  # fmt: skip
exercise.right(
    "plain constructors",
    (("self.A = nn.Parameter(W.new_empty(rank, into))\n        self.B = nn.Parameter(W.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "self.B = nn.Parameter(torch.zeros(out, rank).to(W))\n        self.A = nn.Parameter(((torch.rand(rank, into) * 2 - 1) / into**0.5).to(W))\n"),),
)  # fmt: skip

exercise.variant(
    "columns",
    ((LENGTHS, "return W.norm(dim=0).clamp(min=torch.finfo(W.dtype).tiny)"), (DIRECTION, "return magnitude, W / magnitude"),
     (FORWARD, "return F.linear(self.g() * x, self.V(), self.base.bias)  # (..., out)"), (DELTA, "return self.g() * self.V() - self.base.weight  # (out, in)"),
     ('"""‖W‖ (out), the lengths of the rows of W (out, in), and a tiny number where a row is zero."""', '"""‖W‖ (in), the lengths of the columns of W (out, in), and a tiny number where a column is zero."""'),
     ('"""Magnitude (out) and direction (out, in) of the rows of W:', '"""Magnitude (in) and direction (out, in) of the columns of W:'),
     ('"""m/‖V‖ (out). The', '"""m/‖V‖ (in). The'),
     ("of each row of W are trained apart", "of each column of W are trained apart"),
     ("s = α/r, m (out)\n\n‖V‖ (out) are the lengths of the rows, so m_i is the length of row i of W'.",
      "s = α/r, m (in)\n\n‖V‖ (in) are the lengths of the columns of `nn.Linear`'s weight, so m_i is the length of column i of W'."),
     ("its code, peft and this file all take\nthe weights of one output neuron together, which `nn.Linear` holds as a row.",
      "its code and peft\ntake the weights of one output neuron together, which `nn.Linear` holds as a row; this file those of one input."),
     ('"""y = g ⊙ (x Vᵀ) + b, g', '"""y = (g ⊙ x) Vᵀ + b, g')),
    "the lengths are those of the columns of `nn.Linear`'s weight, so m has one number for each input",
)  # fmt: skip
exercise.variant(
    "whole gradient",
    ((LENGTH, "        length = lengths(self.V())\n"),
     ("In the gradient ‖V‖ counts as a constant\n(that saves memory).", "The gradient passes through ‖V‖ too: nothing\nis taken for a constant."),
     ("Sources: 1) Liu et al. 2024, arXiv:2402.09353; the constant ‖V‖ is section 4.3.", "Sources: 1) Liu et al. 2024, arXiv:2402.09353; its section 4.3 is left out here."),
     ("The gradient passes through m but not through ‖V‖.", "The gradient passes through m and through ‖V‖.")),
    "the gradient passes through ‖V‖ as well, so the shortcut of section 4.3 is not taken",
)  # fmt: skip
exercise.variant(
    "m in logarithms",
    ((START_M, "self.m = nn.Parameter(lengths(W.detach()).log())"), (RATIO, "return self.m.exp() / length"),
     ("    W' = m ⊙ V/‖V‖,  V", "    W' = exp(m) ⊙ V/‖V‖,  V"),
     ("m at ‖W‖: then m/‖V‖ is 1", "m at ln ‖W‖: then exp(m)/‖V‖ is 1"),
     ("+ b, g = m/‖V‖, V", "+ b, g = exp(m)/‖V‖, V"), ('"""m/‖V‖ (out). The', '"""exp(m)/‖V‖ (out). The')),
    "m is the logarithm of the length: W' = exp(m) ⊙ V/‖V‖",
)  # fmt: skip
