"""PiSSA: the weight split in two, the layer that trains the larger part, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import arrivals, fill, linear, numbers, types
from minipeft.methods.lora import LoRALinear

exercise = Exercise(
    "pissa",
    "methods/pissa.py",
    stubs=(
        "split",
        "PiSSALinear.__init__",
        "PiSSALinear.forward",
        "PiSSALinear.delta",
    ),
    title="PiSSA: training the largest part of a weight",
    minutes=35,
    difficulty=2,
    why="What the singular values say about a weight, and what a method has to keep that does not start at nothing.",
    read="Meng, Wang, Zhang 2024, arXiv:2404.02948, section 3",
    lesson="13",
)

EXACT = "exact = W.detach().cpu().double()"
ROOT = "root = S[:rank].sqrt()"
A = "A = (root[:, None] * Vt[:rank]).to(W)"
B = "B = (U[:, :rank] * root).to(W)"
R = "R = exact - B.cpu().double() @ A.cpu().double()  # of A and B as they are rounded"
PARAMETERS = "self.A, self.B = nn.Parameter(A), nn.Parameter(B)"
BUFFER = 'self.register_buffer("R", R, persistent=False)'
INNER = "h = F.linear(x, self.A)  # (..., r)"
OUTER = "return F.linear(x, self.R, self.base.bias) + F.linear(h, self.B)  # (..., out)"
FORWARD = f"{INNER}\n        {OUTER}"
DELTA = "return self.R + self.B @ self.A - self.base.weight  # (out, in)"


def layer(impl, rank=2, base=None):
    """A PiSSALinear whose A and B are far from their start, with in ≠ out ≠ r and a bias."""
    return fill(impl.PiSSALinear(base or linear(), rank), "trainable")


def parts(impl, shape=(4, 6), rank=2):
    return impl.split(numbers("W", shape), rank)


def attached(impl):
    """Two layers of different width, the method on both, far from the start."""
    made = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return fill(impl.PiSSA(rank=2, targets=("0", "2")).attach(fill(made)), "trainable")


@exercise.observe("split", "A₀, B₀ and R should have the shapes (r, in), (out, r) and (out, in).")
def shapes(impl):
    return [str(tuple(part.shape)) for part in parts(impl)]


@exercise.observe("split", "B₀A₀ should be the part of W with the largest singular values.")
def largest_part(impl):
    first, second, _ = parts(impl)
    return second @ first


@exercise.observe("split", "For a weight with more outputs than inputs, B₀A₀ is not the expected one.")
def largest_part_of_a_tall_weight(impl):
    first, second, _ = parts(impl, (6, 4), 3)
    return second @ first


@exercise.observe(
    "split",
    "The sizes of A₀'s rows or of B₀'s columns show that each factor has not the share of S that it should have.",
)
def share_of_each_factor(impl):
    first, second, _ = parts(impl)
    return {"A": (first @ first.T).diagonal().sort()[0], "B": (second.T @ second).diagonal().sort()[0]}


@exercise.observe(
    "split", "The rows of A₀, and the columns of B₀, should stand at right angles, as singular vectors do."
)
def right_angles(impl):
    first, second, _ = parts(impl)
    both = {"A": first @ first.T, "B": second.T @ second}
    return {name: bool((g - g.diagonal().diag()).abs().max() < 1e-3) for name, g in both.items()}


@exercise.observe(
    "split", "In double precision the parts are exact to only seven digits. In which type are they computed?"
)
def digits(impl):
    first, second, _ = parts(impl)
    return [bool((g - g.diagonal().diag()).abs().max() < 1e-10) for g in (first @ first.T, second.T @ second)]


@exercise.observe("split", "R should be what B₀A₀ leaves of W.")
def rest(impl):
    return parts(impl)[2]


@exercise.observe("split", "A weight is split differently the second time: then a stored A and B would meet another R.")
def the_same_again(impl):
    return [bool((a - b).abs().max() < 1e-12) for a, b in zip(parts(impl), parts(impl), strict=True)]


@exercise.observe("split", "A weight in 32 bits is split less exactly than the same numbers in 64 bits.")
def digits_in_32_bits(impl):
    W = numbers("W", (40, 60)).float()
    rough, exact = (impl.split(W.to(dtype), 3)[0].detach().double() for dtype in (torch.float32, torch.float64))
    return bool((rough.abs() - exact.abs()).abs().max() < 3e-7 * exact.abs().max())


@exercise.observe("split", "A weight in 16 bits should be split too, into parts of its own type.")
def types_of_the_parts(impl):
    return [str(part.dtype) for part in impl.split(numbers("W", (4, 6)).bfloat16(), 2)]


@exercise.observe("set-up", "The layer should train A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.PiSSALinear(linear(), 2)).items()}


@exercise.observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("set-up", "A delta should keep only A and B; R follows from the base.")
def what_is_stored(impl):
    return sorted(impl.PiSSALinear(linear(), 2).stored())


@exercise.observe("start", "At the start the output must be that of the base, up to rounding.")
def start(impl):
    return impl.PiSSALinear(linear(), 2)(numbers("x", (4, 5))) - linear()(numbers("x", (4, 5)))


@exercise.observe("start", "At the start there is no change yet, so ΔW should be zero.")
def delta_at_the_start(impl):
    return impl.PiSSALinear(linear(), 2).delta()


@exercise.observe(
    "start", "The frozen weight itself must stay as it is: the model that you attached to has the same numbers."
)
def base_is_left_alone(impl):
    base = linear()
    impl.PiSSALinear(base, 2)(numbers("x", (4, 5)))
    return [base.weight - linear().weight, base.bias - linear().bias]


@exercise.observe("forward", "The output for rows of tokens (B, T, in), with other A and B, is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@exercise.observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@exercise.observe("forward", "A layer without a bias should work as well.")
def output_without_a_bias(impl):
    return layer(impl, base=linear(bias=False))(numbers("x", (4, 5)))


@exercise.observe("forward", "A gradient should reach A and B from the first step on.")
def where_gradients_arrive(impl):
    x = numbers("x", (4, 5))
    return [arrivals(made, made(x.clone().requires_grad_())) for made in (impl.PiSSALinear(linear(), 2), layer(impl))]


@exercise.observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters() if p.requires_grad}


@exercise.observe(
    "forward", "The gradient that goes on to the layer below, through R and through A and B, is not right."
)
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@exercise.observe("forward", "After A and B have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x)


@exercise.observe("forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    layer(impl)(x)
    return x - numbers("x", (4, 5))


@exercise.observe("forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = numbers("x", (4, 5))
    return types(lambda dtype: impl.PiSSALinear(linear().to(dtype), 2), lambda made: made(x.to(made.base.weight.dtype)))


@exercise.observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@exercise.observe("merge", "ΔW is not what has to be added to W to get R + BA.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "After A and B have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("fine print", "In front of a LoRA, the layer should split the weight that acts below, LoRA included.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False)
    made = impl.PiSSALinear(below, 2)
    return [made.B @ made.A, made(numbers("x", (4, 5))), made.merged().weight]


@exercise.observe("fine print", "A layer that is moved to another type should take R along.")
def moved(impl):
    return str(layer(impl).float()(numbers("x", (4, 5)).float()).dtype)


exercise.mistake(
    "smallest values",
    (
        (ROOT, "root = S[-rank:].sqrt()"),
        (A, "A = (root[:, None] * Vt[-rank:]).to(W)"),
        (B, "B = (U[:, -rank:] * root).to(W)"),
    ),
    "A and B are made of the smallest singular values",
    "in which order does `torch.linalg.svd` return the singular values?",
    "That is another method, MiLoRA; here the principal part is trained and the rest is frozen.",
)
exercise.mistake(
    "order turned",
    ((ROOT, "root = S.flip(0)[:rank].sqrt()"),),
    "the singular values do not belong to the vectors beside them",
    "which singular value belongs to the first column of U?",
    "`svd` sorts values and vectors alike, the largest first; keep the pairs together.",
)
exercise.mistake(
    "no root",
    ((ROOT, "root = S[:rank]"),),
    "both A and B have the whole of S, so their product has S²",
    "how often does S stand in U S Vᵀ, and how often in your B A?",
    "The start does not show it, since R makes up for everything; the size of A and B does.",
)
exercise.mistake(
    "values left out",
    ((ROOT, "root = torch.ones_like(S[:rank])"),),
    "the singular values are in neither factor",
    "what is U_r V_rᵀ, without S_r between them?",
    "Each factor gets the root of S, so that the product has all of it.",
)
exercise.mistake(
    "values on one side",
    ((A, "A = Vt[:rank].to(W)"), (B, "B = (U[:, :rank] * root**2).to(W)")),
    "S is in B alone, where A and B should have a root of it each",
    "how large are A and B, one compared with the other?",
    "The product is right; the first steps are not, because each factor's gradient has the size of the other.",
    forms=(((A, "A = Vt[:rank].to(W)"), (B, "B = (U[:, :rank] * S[:rank]).to(W)"), (ROOT + "\n", "pass\n")),),
)
exercise.mistake(
    "V transposed",
    ((A, "A = (root[:, None] * Vt[:, :rank].T).to(W)"),),
    "V and Vᵀ are exchanged",
    "what does your function return as its third, V or Vᵀ, and is a singular vector a row or a column there?",
    "`torch.linalg.svd` returns Vᵀ and the older `torch.svd` returns V: a square weight hides the difference.",
)
exercise.mistake(
    "A and B exchanged",
    (("return A, B, R.to(W)", "return B, A, R.to(W)"),),
    "`split` returns B before A",
    "in which order does the docstring list the three, and with which shapes?",
    "A is the one that x meets first.",
)
exercise.mistake(
    "start of LoRA",
    ((A, "A = torch.randn_like(exact[:rank]).to(W)"), (B, "B = torch.zeros_like(exact[:, :rank]).to(W)")),
    "A starts random and B at zero, as in LoRA",
    "what is left in R, if B A is zero?",
    "Here the two factors take something out of W at the start: its principal part.",
    forms=(
        (
            (A, "A = torch.nn.init.kaiming_uniform_(torch.empty_like(exact[:rank])).to(W)"),
            (B, "B = torch.zeros_like(exact[:, :rank]).to(W)"),
        ),
    ),
    any_value=("share of each factor", "right angles", "digits"),
)
exercise.mistake(
    "rest is all of W",
    ((R, "R = exact"),),
    "R is still W: nothing was taken out of it",
    "what does the layer answer at the start, with R = W and B A not zero?",
    "What A and B hold must not be in the frozen part a second time.",
    "huggingface/peft#1626 and #3049, where A and B were put on W instead of R",
)
exercise.mistake(
    "base instead of rest",
    ((OUTER, "return self.base(x) + F.linear(h, self.B)"),),
    "B A x is added to the output of the frozen layer, not to that of R",
    "how often is the principal part in your output at the start?",
    "The base computes W x, and W = R + B₀A₀.",
    "huggingface/peft#1626 and #3049, where A and B were put on W instead of R",
)
exercise.mistake(
    "rest computed anew",
    ((OUTER, "return F.linear(x, self.base.weight - self.B @ self.A, self.base.bias) + F.linear(h, self.B)"),),
    "R is computed from the present A and B, so nothing that they learn has an effect",
    "what happens to your output when A changes?",
    "R is fixed at the start; W − B A, computed anew, takes away what is added.",
)  # fmt: skip
exercise.mistake(
    "only the product",
    ((OUTER, "return F.linear(h, self.B, self.base.bias)"),),
    "the rest R is missing in the output",
    "what does the layer answer at the start, with the smaller singular values gone?",
    "The frozen part belongs to the output too.",
)
exercise.mistake(
    "rest is trained",
    ((BUFFER, "self.R = nn.Parameter(R)"),),
    "R is a parameter, so it is trained and stored",
    "how many numbers does the layer train in your version, and how many does r·(in + out) count?",
    "R is as large as W and stays frozen.",
)
exercise.mistake(
    "rest is stored",
    ((BUFFER, 'self.register_buffer("R", R)'),),
    "R is written into every delta",
    "how large is the file of a delta, next to A and B?",
    "A buffer need not be part of the state dict; R can be found from the base again.",
)
exercise.mistake(
    "plain tensor",
    ((BUFFER, "self.R = R"),),
    "R is a plain tensor, which stays behind when the model moves",
    "what is the type of R after `.half()`, or its device after `.cuda()`?",
    "A module takes its parameters and buffers along, and nothing else.",
)
exercise.mistake(
    "base overwritten",
    ((BUFFER, BUFFER + "\n        self.base.weight.data.copy_(R)"),
     (OUTER, "return self.base(x) + F.linear(h, self.B)"), (DELTA, "return self.B @ self.A")),
    "the frozen weight itself is overwritten by R",
    "what does the model answer to which you attached the method?",
    "The library does so; here a view shares its frozen numbers with the base, and the base must not change.",
    "huggingface/transformers#34468, and the review of huggingface/peft#1626",
)  # fmt: skip
exercise.mistake(
    "bias left out",
    ((OUTER, "return F.linear(x, self.R) + F.linear(h, self.B)"),),
    "the bias of the frozen layer is lost",
    "what does the layer answer to a row of zeros?",
    "R and B A share out the weight; b stays as it is.",
)
exercise.mistake(
    "bias twice",
    ((OUTER, "return F.linear(x, self.R, self.base.bias) + F.linear(h, self.B, self.base.bias)"),),
    "the bias is added on both paths",
    "what does the layer answer to a row of zeros?",
    "Two paths meet in the output, and b comes with one of them.",
)
exercise.mistake(
    "delta is the product",
    ((DELTA, "return self.B @ self.A"),),
    "ΔW is B A, as if this were a LoRA",
    "what is ΔW at the start, when nothing has been learned yet?",
    "B A holds what was in W already; only what it has become beyond that is a change.",
    "huggingface/peft#1626 and #3049",
)
exercise.mistake(
    "delta is the whole weight",
    ((DELTA, "return self.R + self.B @ self.A"),),
    "`delta` returns the new weight instead of the change",
    "what comes out if W is added to what you return?",
    "The framework merges by adding ΔW to W.",
)
exercise.mistake(
    "weight at the bottom",
    (
        ("A, B, R = split(self.base.weight, rank)", "A, B, R = split(bottom(self.base).weight, rank)"),
        (DELTA, "return self.R + self.B @ self.A - bottom(self.base).weight"),
    ),
    "where the layer is stacked on another method, what that one has learned is left out",
    "what is `self.base` if a LoRA stands there already, and what lies at its bottom?",
    "The weight to be split is the one that acted before you came; the base of a wrapper gives it.",
)
exercise.mistake(
    "weight of the layer",
    ((DELTA, "return self.R + self.B @ self.A - self.weight"),),
    "`delta` reads W through the layer's own `weight`, which is W + ΔW and asks for `delta` in turn",
    "what does `weight` of a `WeightWrapper` give, and what does it need for that?",
    "The weight of an adapted layer is the adapted one; the frozen one belongs to `base`.",
)
exercise.mistake(
    "split in its own type",
    (("exact = W.detach().cpu().double()", "exact = W.detach()"), (R, "R = exact - B @ A")),
    "the singular values are computed in the type of the weight",
    "in which types does `torch.linalg.svd` work, and how exactly?",
    "In 16 bits there is no such function at all, and in 32 the rest depends on the machine.",
    forms=(((EXACT, "exact = W.detach()"),),),
)
exercise.mistake(
    "types of the computation",
    (
        (A, "A = root[:, None] * Vt[:rank]"),
        (B, "B = U[:, :rank] * root"),
        (R, "R = exact - B @ A"),
        ("return A, B, R.to(W)", "return A, B, R"),
    ),
    "the three parts come back in double precision, whatever W has",
    "what is the type of A if W has 16 bits?",
    "Compute as exactly as you like, but return what fits the model.",
)

exercise.mistake(
    "values in A alone",
    ((A, "A = (root[:, None] ** 2 * Vt[:rank]).to(W)"), (B, "B = U[:, :rank].to(W)")),
    "S is in A alone, where A and B should have a root of it each",
    "how large are A and B, one compared with the other?",
    "The product is right; the first steps are not, because each factor's gradient has the size of the other.",
)  # fmt: skip
exercise.mistake(
    "U and V exchanged",
    ((A, "A = (U[:, :rank] * root).T.to(W)"), (B, "B = (Vt[:rank].T * root).to(W)"), (R, "R = exact - (B.cpu().double() @ A.cpu().double()).T")),
    "A is made of U and B of V, instead of the other way round",
    "which of U and V has vectors as long as x?",
    "x meets A first, so the rows of A have in numbers: those are the vectors of V.",
)  # fmt: skip
exercise.mistake(
    "sign of the rest",
    ((R, "R = B.cpu().double() @ A.cpu().double() - exact"),),
    "R has the wrong sign, where it is made or where it is used",
    "what should R + B₀A₀ be?",
    "R is what is missing from B₀A₀, not what is too much.",
    forms=(((OUTER, "return F.linear(x, -self.R, self.base.bias) + F.linear(h, self.B)"),),),
)  # fmt: skip
exercise.mistake(
    "split in 32 bits",
    ((EXACT, "exact = W.detach().cpu().float()"),
     (R, "R = W.detach().cpu().double() - B.cpu().double() @ A.cpu().double()")),
    "the singular values are computed in 32 bits, where double precision is asked for",
    "which type has the matrix that you give to `torch.linalg.svd`?",
    "R is computed again on every machine that loads A and B. In 32 bits each finds a slightly different one; in double precision they agree after rounding.",
    forms=(((EXACT, "exact = W.detach().cpu().float()"), (R, "R = exact - B.cpu().float() @ A.cpu().float()")),),
)  # fmt: skip
exercise.mistake(
    "factors cut off",
    ((FORWARD, "return F.linear(x, (self.R + self.B @ self.A).detach(), self.base.bias)"),),
    "A and B are cut off from the gradient in forward",
    "what are `layer.A.grad` and `layer.B.grad` after a backward pass?",
    "`.data`, `.detach()`, `torch.no_grad()` and `torch.tensor(…)` give the numbers without their history. A and B are what should learn.",
    forms=(
        ((INNER, "h = F.linear(x, self.A.detach())"),),
        ((OUTER, "return F.linear(x, self.R, self.base.bias) + F.linear(h, self.B.detach())"),),
        ((FORWARD, "with torch.no_grad():\n            return F.linear(x, self.R + self.B @ self.A, self.base.bias)"),),
        ((INNER, "h = F.linear(x, self.A).detach()"),),
        ((OUTER, "return F.linear(x, self.R, self.base.bias) + F.linear(h, self.B).detach()"),),
    ),
)  # fmt: skip
exercise.mistake(
    "input cut off",
    ((OUTER, "return F.linear(x.detach(), self.R, self.base.bias) + F.linear(h, self.B)"),),
    "x is cut off from the gradient, so the layer below learns through one of the two paths only, or not at all",
    "by which ways does a change of x reach the output, and does a gradient come back on each of them?",
    "Frozen means that a weight is not trained. The gradient still has to pass through it to the layer below.",
    forms=(
        ((INNER, "h = F.linear(x.detach(), self.A)"),),
        ((INNER, "x = x.detach()\n        h = F.linear(x, self.A)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "weight kept",
    ((FORWARD, 'if "kept" not in vars(self):\n            self.kept = self.R + self.B @ self.A\n        return F.linear(x, self.kept, self.base.bias)'),),
    "the sum R + B A is kept from before, though A and B have changed since",
    "when do A and B change, and when is your sum computed?",
    "Every step changes A and B. Only R stays as it was at the start.",
)  # fmt: skip
exercise.mistake(
    "delta kept",
    ((DELTA, 'if "kept" not in vars(self):\n            self.kept = self.R + self.B @ self.A - self.base.weight\n        return self.kept'),),
    "ΔW is kept from before, though A and B have changed since",
    "when do A and B change, and when is your ΔW computed?",
    "Every step changes A and B. What is computed once and kept is that of an earlier step.",
    forms=(
        ((DELTA, 'if "kept" not in vars(self):\n            self.kept = self.R + self.B @ self.A - self.base.weight\n        return self.kept'),
         (FORWARD, "return self.base(x) + F.linear(x, self.delta())")),
    ),
)  # fmt: skip
exercise.mistake(
    "bias taken for granted",
    ((FORWARD, "return x @ self.R.T + x @ self.A.T @ self.B.T + self.base.bias"),),
    "a layer without a bias is not thought of",
    "what is `base.bias` in a model whose projections have none, like T5 or Llama?",
    "Where there is no bias, there is nothing to add.",
)  # fmt: skip
exercise.mistake(
    "input in place",
    ((OUTER, "y = F.linear(x, self.R, self.base.bias) + F.linear(h, self.B)\n        x.mul_(0)\n        return y"),),
    "an operation in place (one whose name ends in an underscore) changes x itself",
    "which other layers read the same x, for example q, k and v?",
    "The residual stream and the neighbouring projections get the same tensor.",
)  # fmt: skip
exercise.mistake(
    "B before A",
    ((FORWARD, "return F.linear(x, self.R, self.base.bias) + F.linear(F.linear(x, self.B), self.A)"),),
    "x meets B first and then A",
    "which of A and B has rows as long as x?",
    "In W x = B A x the factor beside x comes first.",
)  # fmt: skip
exercise.mistake(
    "types of the parameters",
    ((PARAMETERS, "self.A, self.B = nn.Parameter(A.float()), nn.Parameter(B.float())"),),
    "A and B have a type of their own instead of the base's",
    "which type has A, if the base has 16 bits?",
    "Compute as exactly as you like; what is trained has to fit the input and the weight beside it.",
    forms=(((PARAMETERS, "self.A, self.B = nn.Parameter(A.double()), nn.Parameter(B.double())"),),),
)  # fmt: skip
exercise.mistake(
    "randomised",
    (("U, S, Vt = torch.linalg.svd(exact, full_matrices=False)", "U, S, V = torch.svd_lowrank(exact, q=rank, niter=1)\n    Vt = V.T"),),
    "the decomposition is a randomised one, which finds other parts each time",
    "does your function return the same parts for the same weight, today and on the machine that loads the delta?",
    "A delta keeps A and B alone, and R is computed again. Only the full decomposition gives the same R every time.",
    "the library's pissa_niter, which stores what it found",
    any_value=("largest part", "largest part of a tall weight", "share of each factor", "right angles", "digits", "rest", "output", "gradients", "gradient of the input", "after a change", "output of a model", "delta", "delta after a change", "stacked"),
)  # fmt: skip

exercise.right(
    "diagonal matrices",
    ((A, "A = (torch.diag(root) @ Vt[:rank]).to(W)"), (B, "B = (U[:, :rank] @ torch.diag(root)).to(W)"),
     (OUTER, "return x @ self.R.T + h @ self.B.T + (0 if self.base.bias is None else self.base.bias)")),
)  # fmt: skip
exercise.right(
    "the rest from the smaller values",
    ((R, "R = U[:, rank:] @ torch.diag(S[rank:]) @ Vt[rank:]"),
     (DELTA, "return self.B @ self.A + (self.R - self.base.weight)")),
)  # fmt: skip
exercise.right(
    "other signs",
    ((ROOT, "root = S[:rank] ** 0.5\n    U, Vt = -U, -Vt"),),
)
exercise.right(
    "one product",
    (("        " + INNER + "\n        " + OUTER, "        return F.linear(x, torch.add(self.R, self.B @ self.A), self.base.bias)"),
     (BUFFER, 'self.register_buffer("R", R.clone(), False)')),
)  # fmt: skip

exercise.variant(
    "smallest values",
    ((ROOT, "root = S[-rank:].sqrt()"), ("Vt[:rank]", "Vt[-rank:]"), ("U[:, :rank]", "U[:, -rank:]"),
     ("PiSSA: a LoRA that starts as the largest part of W itself; what is frozen is the rest.", "MiLoRA: a LoRA that starts as the smallest part of W itself; what is frozen is the rest."),
     ("LoRA starts with a random A and B = 0, so its first steps are small and point anywhere. The singular vectors with the\nlargest singular values carry most of W: trained directly, they move at once, and along directions that matter.",
      "The singular vectors with the largest singular values carry most of W and stay as they are. What is trained is the part\nwith the smallest singular values: U_r, S_r and V_r stand for the last r of them here."),
     ('"""The principal singular values and vectors of the weights are trained, the rest is frozen.', '"""The smallest singular values and vectors of the weights are trained, the rest is frozen.')),
    "A and B hold the r smallest singular values, and the largest stay frozen (MiLoRA)",
)  # fmt: skip
exercise.variant(
    "values in B",
    (("A = (root[:, None] * Vt", "A = (Vt"), (" * root)", " * root**2)"),
     ("B₀ = U_r √S_r (out, r),  A₀ = √S_r V_rᵀ (r, in)        R", "B₀ = U_r S_r (out, r),  A₀ = V_rᵀ (r, in)        R")),
    "B has all of S and A none: B₀ = U_r S_r, A₀ = V_rᵀ",
)  # fmt: skip
exercise.variant(
    "rest is stored",
    ((BUFFER, 'self.register_buffer("R", R)'), ("R is a buffer that is not stored.", "R is a buffer that is stored."),
     ("A delta holds A and B; R follows from the base and is computed again.", "A delta holds A, B and R, though R follows from the base.")),
    "a delta keeps R too, beside A and B",
)  # fmt: skip
