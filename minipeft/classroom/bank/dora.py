"""DoRA: lengths and directions of rows, the weight that is made of them, its gradient, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers
from minipeft.methods.lora import LoRALinear

exercise = Exercise(
    "dora",
    "methods/dora.py",
    holes=(
        "decompose",
        "DoRALinear.__init__",
        "DoRALinear.adapted",
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

FORWARD = "return F.linear(x, self.adapted(), flat(self.base).bias)  # (..., out)"
DIVIDED = "return (self.m / length)[:, None] * V  # (out, in)"
ZERO_B = "self.B = nn.Parameter(W.new_zeros(out, rank))"


def layer(impl, rank=2, alpha=6, base=None):
    """A DoRALinear far from its start, with in ≠ out ≠ r and a bias."""
    return fill(impl.DoRALinear(base or linear(), rank, alpha / rank), "trainable")


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


@exercise.observe("set-up", "In a whole model: what is trained there is not what should be.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("start", "At the start the output must be that of the base.")
def start(impl):
    base = linear()
    return impl.DoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@exercise.observe("start", "m should start at what it is in the frozen weight.")
def start_of_m(impl):
    return impl.DoRALinear(linear(), 2, 3.0).m


@exercise.observe("start", "Of A and B one starts at zero and the other does not: which, and how wide is it?")
def width_of_the_start(impl):
    made = impl.DoRALinear(linear(400, 4), 8, 1.0)
    return {name: round(20 * float(getattr(made, name).detach().abs().max()) * 20) / 20 for name in "AB"}


@exercise.observe("start", "The first step should reach B and m, and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.DoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 1e-9) for name, p in attach.trainable(made).items()}


@exercise.observe("weight", "W' = m ⊙ V/‖V‖ is not the expected one.")
def adapted_weight(impl):
    return layer(impl).adapted()


@exercise.observe("weight", "With another rank and scale W' is not the expected one.")
def adapted_weight_at_another_scale(impl):
    return layer(impl, rank=3, alpha=3).adapted()


@exercise.observe("weight", "The lengths of the rows of W' should be the sizes of m, whatever A and B are.")
def lengths_of_the_adapted_weight(impl):
    made = layer(impl)
    return made.adapted().square().sum(1).sqrt() - made.m.abs() if made.m.shape == (3,) else made.adapted()


@exercise.observe("forward", "The output for rows of tokens (B, T, in) is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@exercise.observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@exercise.observe("forward", "The gradients that reach A, B and m are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@exercise.observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@exercise.observe("merge", "ΔW is not what has to be added to W to get W'.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "Merged, the layer should answer as before.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("fine print", "A weight with zeros in it should stay free of NaN, at the start and afterwards.")
def zeros_in_the_weight(impl):
    x, made = numbers("x", (4, 5)), impl.DoRALinear(holed(), 2, 3.0)
    return [made(x) - holed()(x), layer(impl, base=holed())(x), impl.decompose(holed().weight)[1]]


@exercise.observe(
    "fine print", "Stacked on a LoRA, the layer should take over the weight that stands below, LoRA included."
)
def stacked(impl):
    made = layer(impl, base=fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False))
    return [made(numbers("x", (4, 5))), made.merged().weight]


exercise.mistake(
    "lengths of columns",
    (("magnitude = W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)\n    return magnitude, W / magnitude[:, None]",
      "magnitude = W.norm(dim=0).clamp(min=torch.finfo(W.dtype).tiny)\n    return magnitude, W / magnitude"),
     (DIVIDED, "return (self.m / length) * V")),
    "the lengths are those of the columns, the weights of one input, instead of the rows",
    "the paper's W is (in, out) and speaks of columns; what is `nn.Linear`'s weight?",
    "One magnitude belongs to each output neuron, so there are as many as outputs.",
    "nbasyl/DoRA#1, NVlabs/DoRA#11, catid/dora#4, LyCORIS#216",
)  # fmt: skip
exercise.mistake(
    "squared lengths",
    (("magnitude = W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)", "magnitude = W.square().sum(dim=1).clamp(min=torch.finfo(W.dtype).tiny)"),),
    "the lengths are squared: the root is missing",
    "how long is the direction of a row (3, 4)?",
    "A start equal to the base does not show it, because m and ‖V‖ are wrong alike; a direction of length 1 does.",
)  # fmt: skip
exercise.mistake(
    "one length for all",
    (("magnitude = W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)", "magnitude = W.norm().clamp(min=torch.finfo(W.dtype).tiny).expand(len(W))"),),
    "there is one length for the whole matrix instead of one for each row",
    "over which dimension does your norm add up?",
    "A norm without a dimension takes all numbers together.",
)  # fmt: skip
exercise.mistake(
    "division by zero",
    (("W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)", "W.norm(dim=1)"),),
    "a row of zeros is divided by its length, zero",
    "what is the direction of a row of zeros, and what does your code make of it?",
    "0/0 is NaN, and one NaN spoils the whole model; pruned weights do have such rows.",
)
exercise.mistake(
    "gradient through the length",
    (("length, _ = decompose(V.detach())  # ‖V‖ (out)", "length, _ = decompose(V)"),),
    "the gradient also flows through ‖V‖",
    "which part of W' does section 4.3 of the paper take for a constant?",
    "The outputs are the same; the gradients of A and B are not, and memory is spent on them.",
    "huggingface/peft#1474, where it is spelled out",
)
exercise.mistake(
    "no gradient for A and B",
    (("V = flat(self.base).weight + self.scale * self.B @ self.A  # (out, in)\n        length, _ = decompose(V.detach())",
      "V = (flat(self.base).weight + self.scale * self.B @ self.A).detach()\n        length, _ = decompose(V)"),),
    "all of V is cut out of the gradient, so A and B never learn",
    "what is `layer.B.grad` after a backward pass?",
    "Only the length that V is divided by counts as a constant, not V itself.",
)  # fmt: skip
exercise.mistake(
    "length of W alone",
    (("length, _ = decompose(V.detach())  # ‖V‖ (out)", "length, _ = decompose(flat(self.base).weight)"),),
    "V is divided by the length of the frozen W, in which the update is missing",
    "how long are the rows of your W', and how long should m make them?",
    "As soon as B is not zero, ‖W‖ and ‖V‖ differ.",
    "ComfyUI#15458",
)
exercise.mistake(
    "update added afterwards",
    (("V = flat(self.base).weight + self.scale * self.B @ self.A  # (out, in)\n        length, _ = decompose(V.detach())  # ‖V‖ (out)\n        return (self.m / length)[:, None] * V  # (out, in)",
      "_, direction = decompose(flat(self.base).weight)\n        return self.m[:, None] * direction + self.scale * self.B @ self.A"),),
    "only W is taken apart, and the update is added to the result",
    "is the update part of the direction in the equation, or does it come after?",
    "s·B A turns the row before its length is set.",
)  # fmt: skip
exercise.mistake(
    "not divided",
    ((DIVIDED, "return self.m[:, None] * V"),),
    "V is multiplied by m and never divided by its length",
    "what does the layer answer at the start, when m is ‖W‖?",
    "m stands before a direction, and a direction has the length 1.",
)
exercise.mistake(
    "m starts at one",
    (("self.m = nn.Parameter(decompose(W.detach())[0])", "self.m = nn.Parameter(W.new_ones(out))"),),
    "m starts at one, so every row is given the length 1",
    "how long are the rows of W before training?",
    "The model should start as the base, and m is the length that a row has.",
    "the review of adapter-hub/adapters#790",
)
exercise.mistake(
    "m is no parameter",
    (("self.m = nn.Parameter(decompose(W.detach())[0])", "self.m = decompose(W.detach())[0]"),),
    "m is a plain tensor, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained and saved.",
)
exercise.mistake(
    "m as a column",
    (("self.m = nn.Parameter(decompose(W.detach())[0])", "self.m = nn.Parameter(decompose(W.detach())[0][:, None])"),
     (DIVIDED, "return self.m / length[:, None] * V")),
    "m is a column (out, 1) instead of (out)",
    "which shape does the equation at the top give m?",
    "The numbers are right; a stored m should have the shape that everyone reads.",
)  # fmt: skip
exercise.mistake(
    "both random",
    ((ZERO_B, "self.B = nn.Parameter(W.new_empty(out, rank).normal_())"),),
    "A and B both start random",
    "what is V at the start, if B A is not zero?",
    "m starts at ‖W‖, and the base comes out only if V is W.",
)
exercise.mistake(
    "zero and random exchanged",
    (("        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "        nn.init.zeros_(self.A)\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))\n"),),
    "A starts at zero and B random, instead of the other way round",
    "which of the two gets a gradient at the first step?",
    "It works too, but the paper, and every stored delta, starts with B at zero.",
)  # fmt: skip
exercise.mistake(
    "no scale",
    (("V = flat(self.base).weight + self.scale * self.B @ self.A  # (out, in)", "V = flat(self.base).weight + self.B @ self.A"),),
    "the scale s is left out of V",
    "if somebody doubles α, what changes in your layer?",
    "The update is s·B A, as in LoRA.",
)  # fmt: skip
exercise.mistake(
    "bias left out",
    ((FORWARD, "return F.linear(x, self.adapted())"),),
    "the bias of the frozen layer is lost",
    "what does the layer answer to a row of zeros?",
    "W' takes the place of W only; b stays as it is.",
)
exercise.mistake(
    "bias scaled",
    ((FORWARD, "bias = flat(self.base).bias\n        V = flat(self.base).weight + self.scale * self.B @ self.A\n        return F.linear(x, self.adapted()) + self.m / decompose(V.detach())[0] * bias"),),
    "the bias is multiplied by m/‖V‖ too",
    "which part of the frozen layer's output is m/‖V‖ meant for?",
    "Whoever scales the output of the base instead of its weight has to leave the bias out first.",
    "nbasyl/DoRA#2, where such terms are discussed",
)  # fmt: skip
exercise.mistake(
    "base added",
    ((FORWARD, "return self.base(x) + F.linear(x, self.adapted())"),),
    "the output of the base is added to that of W', which holds W already",
    "how often is W in your output?",
    "W' replaces W; unlike in LoRA there is nothing to add to.",
)
exercise.mistake(
    "delta is the LoRA's",
    (("return self.adapted() - flat(self.base).weight  # (out, in)", "return self.scale * self.B @ self.A"),),
    "ΔW is only s·B A, as if this were a LoRA",
    "where do the magnitudes go when the layer is merged?",
    "Merging has to end at W', with its new lengths.",
)
exercise.mistake(
    "delta is the whole weight",
    (("return self.adapted() - flat(self.base).weight  # (out, in)", "return self.adapted()"),),
    "`delta` returns W' instead of the change W' − W",
    "what comes out if W is added to what you return?",
    "The framework merges by adding ΔW to W.",
)
exercise.mistake(
    "weight at the bottom",
    (("V = flat(self.base).weight + self.scale * self.B @ self.A  # (out, in)", "V = self.base.weight + self.scale * self.B @ self.A"),
     ("return self.adapted() - flat(self.base).weight  # (out, in)", "return self.adapted() - self.base.weight")),
    "where the layer is stacked on another method, what that one has learned is passed by",
    "what is `self.base` if a LoRA stands there already, and what is its `weight`?",
    "A wrapper answers for the frozen layer at the bottom; what stands below as a whole is another weight.",
)  # fmt: skip

exercise.right(
    "as the library does it",
    ((FORWARD, "flatbase = flat(self.base)\n        V = flatbase.weight + self.scale * self.B @ self.A\n        ratio = self.m / decompose(V.detach())[0]\n        y = F.linear(x, flatbase.weight)\n        return self.base(x) + (ratio - 1) * y + ratio * self.scale * (x @ self.A.T @ self.B.T)"),),
)  # fmt: skip
exercise.right(
    "magnitude times direction",
    ((DIVIDED, "return self.m[:, None] * (V / length.unsqueeze(1))"),),
)
exercise.right(
    "lengths by hand",
    (("magnitude = W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)\n    return magnitude, W / magnitude[:, None]",
      'length = torch.einsum("oi,oi->o", W, W) ** 0.5\n    return length, F.normalize(W, dim=1)'),
     ("length, _ = decompose(V.detach())  # ‖V‖ (out)\n        return (self.m / length)[:, None] * V",
      "with torch.no_grad():\n            length = torch.linalg.vector_norm(V, dim=-1, keepdim=True) + 1e-12\n        return self.m.view(-1, 1) * V / length")),
)  # fmt: skip
exercise.right(
    "plain constructors",
    (("self.A = nn.Parameter(W.new_empty(rank, into))\n        self.B = nn.Parameter(W.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "self.B = nn.Parameter(torch.zeros(out, rank))\n        self.A = nn.Parameter((torch.rand(rank, into) * 2 - 1) / into**0.5)\n"),),
)  # fmt: skip

exercise.house(
    "columns",
    (("magnitude = W.norm(dim=1).clamp(min=torch.finfo(W.dtype).tiny)\n    return magnitude, W / magnitude[:, None]",
      "magnitude = W.norm(dim=0).clamp(min=torch.finfo(W.dtype).tiny)\n    return magnitude, W / magnitude"),
     (DIVIDED, "return (self.m / length) * V  # (out, in)"),
     ("length, _ = decompose(V.detach())  # ‖V‖ (out)", "length, _ = decompose(V.detach())  # ‖V‖ (in)"),
     ('"""Magnitude (out) and direction (out, in) of the rows of W:', '"""Magnitude (in) and direction (out, in) of the columns of W:'),
     ("of each row of W are trained apart", "of each column of W are trained apart"),
     ("s = α/r, m (out)\n\n‖V‖ (out) are the lengths of the rows, so m_i is the length of row i of W'.",
      "s = α/r, m (in)\n\n‖V‖ (in) are the lengths of the columns of `nn.Linear`'s weight, so m_i is the length of column i of W'."),
     ("its code, peft and this file all take\nthe weights of one output neuron together, which `nn.Linear` holds as a row.",
      "its code and peft\ntake the weights of one output neuron together, which `nn.Linear` holds as a row; this file those of one input."),
     ('"""y = x (m ⊙ V/‖V‖)ᵀ + b, V', '"""y = x (V/‖V‖ ⊙ m)ᵀ + b, V')),
    "the lengths are those of the columns of `nn.Linear`'s weight, so m has one number for each input",
)  # fmt: skip
exercise.house(
    "whole gradient",
    (("length, _ = decompose(V.detach())", "length, _ = decompose(V)"),
     ("In the gradient ‖V‖ counts as a constant\n(that saves memory).", "The gradient passes through ‖V‖ too: nothing\nis taken for a constant."),
     ("Sources: 1) Liu et al. 2024, arXiv:2402.09353; the constant ‖V‖ is section 4.3.", "Sources: 1) Liu et al. 2024, arXiv:2402.09353; its section 4.3 is left out here."),
     ('"""W\'. The gradient passes through m and V but not through ‖V‖."""', '"""W\'. The gradient passes through m, V and ‖V‖."""')),
    "the gradient passes through ‖V‖ as well, so the shortcut of section 4.3 is not taken",
)  # fmt: skip
exercise.house(
    "m in logarithms",
    (("self.m = nn.Parameter(decompose(W.detach())[0])", "self.m = nn.Parameter(decompose(W.detach())[0].log())"),
     ("(self.m / length)", "(self.m.exp() / length)"),
     ("    W' = m ⊙ V/‖V‖,  V", "    W' = exp(m) ⊙ V/‖V‖,  V"),
     ("m at ‖W‖: then m/‖V‖ is 1", "m at ln ‖W‖: then exp(m)/‖V‖ is 1")),
    "m is the logarithm of the length: W' = exp(m) ⊙ V/‖V‖",
)  # fmt: skip
