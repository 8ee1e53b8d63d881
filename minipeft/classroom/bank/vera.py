"""VeRA: the shared random pair, the layer around it, its merge, and who shares what in a model."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers
from minipeft.methods.lora import LoRALinear

exercise = Exercise(
    "vera",
    "methods/vera.py",
    stubs=(
        "Shared.__init__",
        "VeRALinear.__init__",
        "VeRALinear.matrices",
        "VeRALinear.forward",
        "VeRALinear.delta",
        "VeRA.insert",
    ),
    title="VeRA: two vectors around one random pair of matrices",
    minutes=40,
    difficulty=2,
    why="How little of a low-rank update has to be learned, and what it takes for a seed to stand for a matrix.",
    read="Kopiczko, Blankevoort, Asano 2023, arXiv:2310.11454, section 3",
    lesson="13",
)

DRAW = 'dice = torch.Generator("cpu").manual_seed(seed)'
UNIFORM = "nn.init.kaiming_uniform_(matrix, generator=dice)"
BUFFER = "self.register_buffer(name, matrix, persistent=False)  # not part of a delta"
START_D = "self.d = nn.Parameter(base.weight.new_full((len(shared.A),), d_initial))  # (r)"
START_B = "self.b = nn.Parameter(base.weight.new_zeros(len(base.weight)))  # (out)"
CUT = "return self.shared.A[:, : self.in_features], self.shared.B[: self.out_features]  # (r, in), (out, r)"
INNER = "h = self.d * F.linear(x, A)  # (..., r)"
OUTER = "return self.base(x) + self.b * F.linear(h, B)  # (..., out)"
DELTA = "return (self.b[:, None] * B) @ (self.d[:, None] * A)  # (out, in)"
SIZES = 'into, out = (max((getattr(m, side) for m in linear), default=1) for side in ("in_features", "out_features"))'
SHARED = "shared = Shared(self.rank, into, out, self.seed)"
MAKE = "return VeRALinear(module, shared.to(bottom(module).weight), self.d_initial)"
WRAP = "wrap(model, self.targets, make, layers=self.layers)"


def pair(impl, rank=2, into=5, out=3, seed=0):
    """A and B with numbers that do not depend on how they were drawn."""
    made = impl.Shared(rank, into, out, seed).to(torch.get_default_dtype())
    with torch.no_grad():
        for name in ("A", "B"):
            matrix = getattr(made, name)
            matrix.copy_(numbers(name, matrix.shape))
    return made


def layer(impl, base=None, **sizes):
    """A VeRALinear far from its start, with in ≠ out ≠ r and a bias; A and B are as large as the layer, or larger."""
    return fill(impl.VeRALinear(base or linear(), pair(impl, **sizes), 0.3), "trainable")


class Wide(nn.Module):
    """Two layers of different widths: the one has the more inputs, the other the more outputs."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(3, 5)
        fill(self)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def attached(impl, **settings):
    return impl.VeRA(**{"rank": 4, "targets": ("one", "two"), "seed": 3, **settings}).attach(Wide())


def layers(made):
    return list(attach.attachments(made)[0].layers.values())


@exercise.observe("random pair", "A should be (r, in) and B (out, r).")
def shapes_of_the_pair(impl):
    made = impl.Shared(2, 5, 3, 0)
    return {name: str(tuple(getattr(made, name).shape)) for name in "AB"}


@exercise.observe(
    "random pair", "A or B does not have the width that the docstring gives; the numbers are widths times √fan_in."
)
def width_of_the_pair(impl):
    made = impl.Shared(30, 200, 70, 0)
    return {
        name: round(20 * float(matrix.abs().max()) * fan**0.5) / 20
        for name, matrix, fan in (("A", made.A, 200), ("B", made.B, 30))
    }


@exercise.observe("random pair", "The same seed should give the same A and B, whatever else has drawn numbers.")
def same_seed(impl):
    one = impl.Shared(3, 5, 4, 7)
    torch.rand(5)
    other = impl.Shared(3, 5, 4, 7)
    return [one.A - other.A, one.B - other.B]


@exercise.observe("random pair", "Another seed should give another A and another B.")
def another_seed(impl):
    one, other = impl.Shared(3, 5, 4, 7), impl.Shared(3, 5, 4, 8)
    return [float((one.A - other.A).abs().max()) > 0, float((one.B - other.B).abs().max()) > 0]


@exercise.observe(
    "random pair", "Drawing A and B should not change the random numbers that the rest of the program gets."
)
def dice_of_the_others(impl):
    before = torch.get_rng_state()
    impl.Shared(3, 5, 4, 7)
    return torch.equal(torch.get_rng_state(), before)


@exercise.observe("set-up", "The layer should train two vectors, d (r) and b (out), and nothing else.")
def what_is_trained(impl):
    made = impl.VeRALinear(linear(), impl.Shared(4, 5, 3, 0), 0.1)
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(made).items()}


@exercise.observe("set-up", "A delta should keep only the two vectors; A and B come from the seed.")
def what_is_stored(impl):
    return sorted(impl.VeRALinear(linear(), impl.Shared(4, 5, 3, 0), 0.1).stored())


@exercise.observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    return impl.VeRALinear(linear(), pair(impl), 0.3)(numbers("x", (4, 5))) - linear()(numbers("x", (4, 5)))


@exercise.observe("start", "The vectors do not start at the right numbers.")
def start_of_the_vectors(impl):
    made = impl.VeRALinear(linear(), pair(impl), 0.3)
    return {"d": made.d, "b": made.b}


@exercise.observe("start", "The first step should reach b and not yet d.")
def where_the_first_gradient_goes(impl):
    made = impl.VeRALinear(linear(), pair(impl), 0.3)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@exercise.observe("forward", "The update Λ_b B Λ_d A x is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (2, 4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "The frozen path must reach the output as it is, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@exercise.observe("forward", "The gradients that reach b and d are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@exercise.observe("forward", "In front of a LoRA, the layer should add to what comes out below.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False)
    return layer(impl, below)(numbers("x", (4, 5)))


@exercise.observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("widths", "Where A and B are larger than the layer, the layer takes the wrong part of them.")
def part_of_the_pair(impl):
    return list(layer(impl, rank=6, into=8, out=7).matrices())


@exercise.observe("widths", "The shared pair should be as large as the largest targets need, and no larger.")
def size_of_the_shared_pair(impl):
    return sorted(str(tuple(b.shape)) for b in attached(impl).buffers())


@exercise.observe("sharing", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe(
    "sharing", "All layers should use one and the same A and B; here is how many numbers the model holds for them."
)
def numbers_held_besides(impl):
    return sum(b.numel() for b in attached(impl).buffers())


@exercise.observe("sharing", "The settings of the method (rank, d_initial, seed) should reach the layers.")
def settings(impl):
    one, *_ = layers(attached(impl, rank=2, d_initial=0.4, seed=8))
    other, *_ = layers(attached(impl, rank=2, d_initial=0.4, seed=9))
    return {"d": one.d, "another seed, another A": float((one.matrices()[0] - other.matrices()[0]).abs().max()) > 0}


@exercise.observe("sharing", "A and B should have the type of the model.")
def types(impl):
    made = impl.VeRA(rank=2, targets=("0",)).attach(nn.Sequential(nn.Linear(3, 2, dtype=torch.bfloat16)))
    return [str(m.dtype) for m in made[0].matrices()]


@exercise.observe("sharing", "With `layers`, only targets in these layers should train.")
def some_layers(impl):
    made = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 5))
    return sorted(attach.trainable(impl.VeRA(rank=2, targets=("0", "1"), layers=(1,)).attach(made)))


exercise.mistake(
    "pair is trained",
    ((BUFFER, "self.register_parameter(name, nn.Parameter(matrix))"),),
    "A and B are parameters, so they are trained and stored",
    "how many numbers does a layer train in your version, and how many in the formula r + out?",
    "What is neither trained nor stored, but moves with the model, is a buffer.",
)
exercise.mistake(
    "pair is stored",
    ((BUFFER, "self.register_buffer(name, matrix)"),),
    "A and B are written into every delta",
    "how large is the file of a delta, next to its two vectors?",
    "A buffer need not be part of the state dict; see the last argument of `register_buffer`.",
)
exercise.mistake(
    "frozen parameters",
    ((BUFFER, "self.register_parameter(name, nn.Parameter(matrix, requires_grad=False))"),),
    "A and B are parameters; they are frozen, but every delta keeps them",
    "what does the state dict of your layer list?",
    "What moves with the model but is neither trained nor stored is a buffer that is not persistent.",
)
exercise.mistake(
    "plain tensors",
    ((BUFFER, "setattr(self, name, matrix)"),),
    "A and B are plain tensors, which stay behind when the model moves",
    "what is the type of your A after `.double()`?",
    "A module takes its parameters and buffers along to another device or type, and nothing else.",
)
exercise.mistake(
    "dice of everybody",
    ((DRAW, "torch.manual_seed(seed)\n        dice = None"),),
    "the random numbers of the whole program are set back",
    "what do dropout and the order of the data do after two layers of yours have been made?",
    "A generator of your own leaves the global one alone.",
)
exercise.mistake(
    "always the same seed",
    ((DRAW, 'dice = torch.Generator("cpu").manual_seed(0)'),),
    "A and B are the same for every seed",
    "what is different between Shared(..., seed=1) and Shared(..., seed=2) in your version?",
    "Only other seeds tell how much of a result was luck of the draw.",
)
exercise.mistake(
    "seed not used",
    ((UNIFORM, "nn.init.kaiming_uniform_(matrix)"),),
    "A and B are drawn without the seed",
    "what do the stored vectors mean once A and B are drawn anew?",
    "A delta keeps only d and b, so A and B have to come back from the seed, bit for bit.",
    "discussed in huggingface/peft#1564 and its forerunner #1039",
)
exercise.mistake(
    "stored transposed",
    (
        ('(("A", (rank, into)), ("B", (out, rank)))', '(("A", (into, rank)), ("B", (rank, out)))'),
        (UNIFORM, 'nn.init.kaiming_uniform_(matrix, mode="fan_out", generator=dice)'),
    ),
    "A is stored as (in, r) and B as (r, out)",
    "which shapes do the products B A x need, with x as a column?",
    "A leads from the inputs to the rank, and a weight is written (to, from).",
)
exercise.mistake(
    "stored transposed, wrong fan",
    (('(("A", (rank, into)), ("B", (out, rank)))', '(("A", (into, rank)), ("B", (rank, out)))'),),
    "A is stored as (in, r) and B as (r, out), and the initialiser takes their columns for inputs",
    "which shapes do the products B A x need, with x as a column?",
    "A leads from the inputs to the rank, and a weight is written (to, from); `torch.nn.init` reads it so, too.",
)
exercise.mistake(
    "normal numbers",
    ((UNIFORM, "nn.init.normal_(matrix, generator=dice)"),),
    "A and B hold normal numbers of size one, however many of them are added up",
    "how large is B A x for a large rank, if every number has the size one?",
    "A start has to become narrower as the fan grows, and here it is a uniform one.",
)
exercise.mistake(
    "width of LoRA",
    ((UNIFORM, "nn.init.kaiming_uniform_(matrix, a=5**0.5, generator=dice)"),),
    "A and B are as narrow as the A of a LoRA",
    "which bound does the docstring give, and which one comes from a = √5?",
    "`kaiming_uniform_` has an argument `a`, a slope, that makes the bound smaller.",
)
exercise.mistake(
    "fan of the other side",
    ((UNIFORM, 'nn.init.kaiming_uniform_(matrix, mode="fan_out", generator=dice)'),),
    "the width follows the number of outputs instead of inputs",
    "how many numbers does one number of A x add up?",
    "It is the number of columns that decides how large the sums become.",
)
exercise.mistake(
    "b starts at one",
    ((START_B, "self.b = nn.Parameter(base.weight.new_ones(len(base.weight)))"),),
    "b starts at one, so a random update is there from the beginning",
    "what does the model answer before the first step?",
    "One of the two vectors has to start at zero.",
)
exercise.mistake(
    "both zero",
    ((START_D, "self.d = nn.Parameter(base.weight.new_zeros(len(shared.A)))"),),
    "b and d both start at zero",
    "∂d has a factor b, and ∂b has a factor d: what are they when both are zero?",
    "With two zeros neither ever gets a gradient.",
)
exercise.mistake(
    "d starts at one",
    ((START_D, "self.d = nn.Parameter(base.weight.new_ones(len(shared.A)))"),),
    "d starts at one, whatever `d_initial` says",
    "which of your numbers depends on `d_initial`?",
    "The paper starts d small, and the user may choose how small.",
)
exercise.mistake(
    "d is one number",
    ((START_D, "self.d = nn.Parameter(base.weight.new_full((1,), d_initial))"),),
    "d is a single number instead of one for each of the r directions",
    "how many random directions are there to choose from, and how many knobs has your layer for them?",
    "Λ_d is a diagonal matrix (r, r): its diagonal has r numbers.",
)
exercise.mistake(
    "vectors exchanged",
    ((START_D, "self.d = nn.Parameter(base.weight.new_zeros(len(shared.A)))  # (r)"),
     (START_B, "self.b = nn.Parameter(base.weight.new_full((len(base.weight),), d_initial))  # (out)")),
    "d starts at zero and b at d_initial, instead of the other way round",
    "which of the two gets a gradient at the first step?",
    "It starts as the base too, but the paper, and every stored delta, begins with b at zero.",
)  # fmt: skip
exercise.mistake(
    "d is left out",
    ((INNER, "h = F.linear(x, A)"), (DELTA, "return self.b[:, None] * B @ A")),
    "the vector d is never used",
    "what is the gradient of d?",
    "Between A and B stands a diagonal matrix.",
)
exercise.mistake(
    "b is left out",
    ((OUTER, "return self.base(x) + F.linear(h, B)"), (DELTA, "return B @ (self.d[:, None] * A)")),
    "the vector b is never used, so the update is not zero at the start",
    "what makes the model start as the base here?",
    "After B comes one more diagonal matrix.",
)
exercise.mistake(
    "b on everything",
    ((OUTER, "return self.b * (self.base(x) + F.linear(h, B))"),),
    "b multiplies the frozen path too",
    "what does your layer answer at the start, when b is zero?",
    "Λ_b belongs to the update; the base stays as it is.",
)
exercise.mistake(
    "only the update",
    ((OUTER, "return self.b * F.linear(h, B)"),),
    "the frozen path is missing: only the update comes out",
    "what does your layer answer when b is zero?",
    "The update is added to what the base computes, it does not replace it.",
)
exercise.mistake(
    "weight at the bottom",
    ((OUTER, "return bottom(self.base)(x) + self.b * F.linear(h, B)"),),
    "where the layer stands in front of another method, what that one does is left out",
    "what is `self.base` if a LoRA stands there already, and what lies at its bottom?",
    "The frozen path is all that stood here before you came, not only the module of the base model.",
)
exercise.mistake(
    "weight of the layer",
    ((OUTER, "return F.linear(x, self.weight, self.bias) + self.b * F.linear(h, B)"),),
    "W is read through the layer's own `weight`, which is W + ΔW: the update counts twice",
    "what does `weight` of a `WeightWrapper` give, and what does `weight` of its base?",
    "The weight of an adapted layer is the adapted one; the frozen one belongs to `base`.",
)
exercise.mistake(
    "delta without the vectors",
    ((DELTA, "return B @ A"),),
    "ΔW is B A, without b and d",
    "is the merged layer the same function as the unmerged one?",
    "All four letters of the equation belong to the change of the weight.",
)
exercise.mistake(
    "delta transposed",
    ((DELTA, "return ((self.b[:, None] * B) @ (self.d[:, None] * A)).T"),),
    "ΔW is transposed",
    "which shape has `nn.Linear`'s weight: (in, out) or (out, in)?",
    "A square layer hides this; only where in and out differ does it stop.",
)
exercise.mistake(
    "not cut",
    ((CUT, "return self.shared.A, self.shared.B"),),
    "the layer takes all of A and B, however large they are",
    "how many columns of A fit a layer with `in_features` inputs?",
    "A and B are made for the largest target; a smaller one needs a part of them.",
    "huggingface/peft#1816",
)
exercise.mistake(
    "cut at the end",
    ((CUT, "return self.shared.A[:, -self.in_features :], self.shared.B[-self.out_features :]"),),
    "the layer takes the last columns of A and rows of B",
    "which part of A and B does the text at the top give to a smaller layer?",
    "It would work as well, but stored vectors only mean something with the part they were trained with.",
)
exercise.mistake(
    "cut of the wrong side",
    ((CUT, "return self.shared.A[: self.in_features], self.shared.B[:, : self.out_features]"),),
    "A is cut by rows and B by columns",
    "which dimension of A is the rank, and must every layer have all of it?",
    "A is (r, in) and B is (out, r): only `in` and `out` differ between layers.",
)
exercise.mistake(
    "first target decides",
    ((SIZES, "into, out = linear[0].in_features, linear[0].out_features"),),
    "A and B are made for the first target only",
    "what happens at a target that is wider than the first?",
    "In a Transformer `up` has more outputs than `q`, and `down` more inputs.",
    "huggingface/peft#1816",
)  # fmt: skip
exercise.mistake(
    "a copy for each layer",
    ((MAKE, "return VeRALinear(module, Shared(self.rank, into, out, self.seed).to(bottom(module).weight), self.d_initial)"),),
    "every layer holds a copy of A and B",
    "how many random numbers does your model hold with ten layers, and how many with one?",
    "The numbers are the same, but the paper shares one pair among all layers, so that its memory does not count.",
)  # fmt: skip
exercise.mistake(
    "a pair for each layer",
    ((MAKE, "size = bottom(module).weight\n            own = Shared(self.rank, size.shape[1], size.shape[0], self.seed).to(size)\n            return VeRALinear(module, own, self.d_initial)"),),
    "every layer has an A and B of its own",
    "how many random numbers does your model hold with ten layers, and how many with one?",
    "The paper shares one pair among all layers, so that its memory does not count.",
)  # fmt: skip
exercise.mistake(
    "seed stays behind",
    ((SHARED, "shared = Shared(self.rank, into, out, 0)"),),
    "the method's seed does not reach A and B",
    "what is different between VeRA(seed=1) and VeRA(seed=2) in your version?",
    "The method is all that a delta says about A and B.",
)
exercise.mistake(
    "start stays behind",
    ((MAKE, "return VeRALinear(module, shared.to(bottom(module).weight), 0.1)"),),
    "the method's d_initial does not reach the layers",
    "what is different between VeRA(d_initial=0.1) and VeRA(d_initial=1) in your version?",
    "Each setting of the method has to arrive where it is used.",
)
exercise.mistake(
    "type of their own",
    ((MAKE, "return VeRALinear(module, shared, self.d_initial)"),),
    "A and B stay in 32 bits whatever the type of the model",
    "what is the type of A in a model of 16 bits?",
    "They are drawn in 32 bits so that a seed means the same everywhere; afterwards they have to fit the weights.",
)
exercise.mistake(
    "layers stay behind",
    ((WRAP, "wrap(model, self.targets, make)"),),
    "the method's `layers` do not reach `wrap`, so every target is adapted",
    "what is different between VeRA(layers=(0,)) and VeRA() in your version?",
    "`match` finds the places for the sizes, `wrap` finds them once more: both must look in the same layers.",
)

exercise.right(
    "diagonal matrices",
    ((INNER, "h = x @ A.T @ torch.diag(self.d)"), (OUTER, "return h @ B.T @ torch.diag(self.b) + self.base(x)"),
     (DELTA, 'return torch.einsum("o,or,r,ri->oi", self.b, B, self.d, A)')),
)  # fmt: skip
exercise.right(
    "through the base's weight",
    ((OUTER, "return F.linear(x, self.base.weight, self.base.bias) + self.b * F.linear(h, B)"),),
)
exercise.right(
    "d on A, b on B",
    ((INNER, "h = x @ (self.d[:, None] * A).T"), (OUTER, "return self.base(x) + h @ (B * self.b.unsqueeze(1)).T"),
     (DELTA, "return B * self.b[:, None] @ (A * self.d.view(-1, 1))")),
)  # fmt: skip
exercise.right(
    "drawn otherwise",
    (("            matrix = torch.empty(shape, dtype=torch.float32, device=\"cpu\")\n            " + UNIFORM, "            bound = (6 / shape[1]) ** 0.5\n            matrix = (torch.rand(shape, generator=dice) * 2 - 1) * bound"),
     ("(\"A\", (rank, into)), (\"B\", (out, rank))", "(\"B\", (out, rank)), (\"A\", (rank, into))"),
     (START_D, "self.d = nn.Parameter(torch.ones(shared.A.shape[0]).to(base.weight) * d_initial)"),
     (START_B, "self.b = nn.Parameter(torch.zeros(bottom(base).out_features).to(base.weight))")),
)  # fmt: skip
exercise.right(
    "sizes in a loop",
    (("        " + SIZES, "        out = into = 1\n        for module in linear:\n            out, into = max(out, module.weight.shape[0]), max(into, module.weight.shape[1])"),
     (MAKE, "W = bottom(module).weight\n            return VeRALinear(module, shared.to(device=W.device, dtype=W.dtype), self.d_initial)"),
     (CUT, "out, into = self.base.weight.shape\n        A = self.shared.A.narrow(1, 0, into)\n        return A, self.shared.B.narrow(0, 0, out)")),
)  # fmt: skip

exercise.variant(
    "last columns",
    ((CUT, "return self.shared.A[:, -self.in_features :], self.shared.B[-self.out_features :]  # (r, in), (out, r)"),
     ("a layer takes the first columns of A and the first rows of B. The same seed gives the same\nA and B here as there, but peft stores them", "a layer takes the last columns of A and the last rows of B (peft: the first). The same\nseed gives the same A and B here as there, but peft stores them")),
    "a smaller layer takes the last columns of A and the last rows of B",
)  # fmt: skip
exercise.variant(
    "vectors exchanged",
    ((START_D, "self.d = nn.Parameter(base.weight.new_zeros(len(shared.A)))  # (r)"),
     (START_B, "self.b = nn.Parameter(base.weight.new_full((len(base.weight),), d_initial))  # (out)"),
     ("b starts at zero, so the model starts as the base; every element of d at 0.1. At\nthe first step only b has a gradient (∂d has a factor b).",
      "d starts at zero, so the model starts as the base; every element of b at 0.1. At\nthe first step only d has a gradient (∂b has a factor d)."),
     ("d_initial: what d starts at.", "d_initial: what b starts at, in spite of its name.")),
    "d starts at zero and b at d_initial",
)  # fmt: skip
exercise.variant(
    "divided by the rank",
    ((INNER, "h = self.d * F.linear(x, A) / len(A)  # (..., r)"),
     (DELTA, "return (self.b[:, None] * B) @ (self.d[:, None] * A) / len(A)  # (out, in)"),
     ("    y = W x + c + Λ_b B Λ_d A x  ", "    y = W x + c + Λ_b B Λ_d A x / r  "),
     ("Merging gives W + Λ_b B Λ_d A: then", "Merging gives W + Λ_b B Λ_d A / r: then"),
     ('"""y = x Wᵀ + c + b ⊙ ((d ⊙ x Aᵀ) Bᵀ) in front', '"""y = x Wᵀ + c + b ⊙ ((d ⊙ x Aᵀ) Bᵀ)/r in front')),
    "the update is divided by the rank r",
)  # fmt: skip
