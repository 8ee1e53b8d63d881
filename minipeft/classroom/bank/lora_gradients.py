"""LoRA's backward pass by hand."""

import numpy as np

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import numbers

exercise = Exercise(
    "lora_gradients",
    "classroom/workbook/lora_gradients.py",
    stubs=(
        "forward",
        "gradient_of_W",
        "gradient_of_B",
        "gradient_of_A",
        "gradient_of_x",
        "gradient_of_alpha",
        "step",
    ),
    title="LoRA's gradients by hand, without autograd",
    minutes=45,
    difficulty=2,
    why="What autograd does for a LoRA layer, why A stands still at the first step, and that both gradients are shadows of dW.",
    read="Hu et al. 2021, arXiv:2106.09685, section 4.1; Hayou et al. 2024, arXiv:2402.12354, section 3",
)

SHAPES = {"dy": (4, 3), "x": (4, 5), "W": (3, 5), "b": (3,), "A": (2, 5), "B": (3, 2), "target": (4, 3)}
S = 1.5


def given(*names, zero=()):
    """Arrays by their letters; n, in, out and r are all different."""
    return [
        0 * numbers(name, SHAPES[name]).numpy() if name in zero else numbers(name, SHAPES[name]).numpy().copy()
        for name in names
    ]


def array(value, of):
    """What is the same in any writing: an array of floats, or a number."""
    if not isinstance(value, np.ndarray | np.generic | float | int):
        raise TypeError(f"{of} is a {type(value).__name__}, expected is a numpy array")
    return np.asarray(value, dtype=float)


def moved(before, after):
    """The change of a factor; the factor itself if it has another shape."""
    after = array(after, "a factor")
    return after - before if after.shape == before.shape else after


@exercise.observe("forward", "y has another shape, or not the numbers that x Wᵀ + b + s·x Aᵀ Bᵀ gives.")
def output(impl):
    return array(impl.forward(*given("x", "W", "b", "A", "B"), S), "y")


@exercise.observe("forward", "Where B is zero, y must be what the base gives alone.")
def output_at_the_start(impl):
    x, W, b, A, B = given("x", "W", "b", "A", "B", zero="B")
    return array(impl.forward(x, W, b, A, B, S), "y") - (x @ W.T + b)


@exercise.observe(
    "gradients of the weights", "dW should have the shape of W and hold, for each number of W, a sum over the rows."
)
def gradient_of_the_frozen_weight(impl):
    return array(impl.gradient_of_W(*given("dy", "x")), "dW")


@exercise.observe("gradients of the weights", "dB, which has the shape of B, is not the expected one.")
def gradient_of_B(impl):
    return array(impl.gradient_of_B(*given("dy", "x", "A"), S), "dB")


@exercise.observe("gradients of the weights", "dA, which has the shape of A, is not the expected one.")
def gradient_of_A(impl):
    return array(impl.gradient_of_A(*given("dy", "x", "B"), S), "dA")


@exercise.observe("gradients of the weights", "With a single row dA and dB are not the expected ones.")
def gradients_of_one_row(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return [array(impl.gradient_of_A(dy[:1], x[:1], B, S), "dA"), array(impl.gradient_of_B(dy[:1], x[:1], A, S), "dB")]


@exercise.observe(
    "gradients of the weights", "At the start, where B is zero, dA must be zero everywhere and dB must not."
)
def gradients_at_the_start(impl):
    dy, x, A, B = given("dy", "x", "A", "B", zero="B")
    return [array(impl.gradient_of_A(dy, x, B, S), "dA"), array(impl.gradient_of_B(dy, x, A, S), "dB")]


@exercise.observe("gradients of the weights", "If s doubles, dA and dB should double.")
def gradients_at_another_scale(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return [array(impl.gradient_of_A(dy, x, B, 2 * S), "dA"), array(impl.gradient_of_B(dy, x, A, 2 * S), "dB")]


@exercise.observe("below and above", "dx, which goes on to the layer below, is not the expected one.")
def gradient_of_x(impl):
    return array(impl.gradient_of_x(*given("dy", "W", "A", "B"), S), "dx")


@exercise.observe("below and above", "With B at zero, dx must be what the base alone sends down.")
def gradient_of_x_at_the_start(impl):
    dy, W, A, B = given("dy", "W", "A", "B", zero="B")
    return array(impl.gradient_of_x(dy, W, A, B, S), "dx") - dy @ W


@exercise.observe("below and above", "dα, a single number, is not the expected one.")
def gradient_of_alpha(impl):
    return array(impl.gradient_of_alpha(*given("dy", "x", "A", "B")), "dα")


@exercise.observe("below and above", "With r = 1, where s is α, dα is not the expected one.")
def gradient_of_alpha_with_rank_one(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return array(impl.gradient_of_alpha(dy, x, A[:1], B[:, :1]), "dα")


@exercise.observe("steps", "`step` should return A and B after the step, in this order and with their shapes.")
def shapes_after_a_step(impl):
    after = impl.step(*given("x", "target", "W", "b", "A", "B"), S, 0.1)
    return [str(array(t, "a factor").shape) for t in after]


@exercise.observe("steps", "The change of A and B in a step is not the expected one.")
def a_step(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.1)
    return [moved(A, A1), moved(B, B1)]


@exercise.observe("steps", "With a learning rate of zero A and B should stay where they are.")
def a_step_of_no_size(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.0)
    return [moved(A, A1), moved(B, B1)]


@exercise.observe(
    "steps", "When B starts at zero, the first step should move B alone and the second step both factors."
)
def two_steps_from_the_start(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B", zero="B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.1)
    A2, B2 = impl.step(x, target, W, b, np.copy(A1), np.copy(B1), S, 0.1)
    return [array(t, "a factor") for t in (A1 - A, B1 - B, A2 - A1, B2 - B1)]


@exercise.observe("steps", "What comes in must stay as it is; something is changed in place.")
def nothing_is_changed(impl):
    names = ("x", "target", "W", "b", "A", "B", "dy")
    here = dict(zip(names, given(*names), strict=True))
    x, target, W, b, A, B, dy = here.values()
    impl.forward(x, W, b, A, B, S)
    impl.gradient_of_A(dy, x, B, S), impl.gradient_of_B(dy, x, A, S), impl.gradient_of_W(dy, x)
    impl.gradient_of_x(dy, W, A, B, S), impl.gradient_of_alpha(dy, x, A, B)
    impl.step(x, target, W, b, A, B, S, 0.1)
    return {name: here[name] - before for name, before in zip(names, given(*names), strict=True)}


Y = "return x @ W.T + b + s * (x @ A.T) @ B.T"
DW = "return dy.T @ x\n"
DB = "return s * dy.T @ (x @ A.T)"
DA = "return s * (dy @ B).T @ x"
DX = "return dy @ W + s * (dy @ B) @ A"
DALPHA = "return np.sum(dy * ((x @ A.T) @ B.T)) / rank"
DY = "dy = (forward(x, W, b, A, B, s) - target) / len(x)"
STEP = "return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)"

exercise.mistake(
    "no scale in the gradients",
    (("return s * dy.T @ (x @ A.T)", "return dy.T @ (x @ A.T)"), ("return s * (dy @ B).T @ x", "return (dy @ B).T @ x")),
    "the scale s is left out of dA and dB",
    "if s doubles, y reacts twice as much to a change of A: what does that mean for dA?",
    "A constant factor of a product stays a factor of its derivative.",
)  # fmt: skip
exercise.mistake(
    "no scale in dA",
    (("return s * (dy @ B).T @ x", "return (dy @ B).T @ x"),),
    "the scale s is in dB but not in dA",
    "does s stand before A or before B in the formula, or before both?",
    "s multiplies the whole product, so each factor's gradient has it.",
)  # fmt: skip
exercise.mistake(
    "no scale in dB",
    (("return s * dy.T @ (x @ A.T)", "return dy.T @ (x @ A.T)"),),
    "the scale s is in dA but not in dB",
    "does s stand before A or before B in the formula, or before both?",
    "s multiplies the whole product, so each factor's gradient has it.",
)  # fmt: skip
exercise.mistake(
    "scale twice",
    (("return s * dy.T @ (x @ A.T)", "return s * s * dy.T @ (x @ A.T)"),),
    "the scale s stands in dB twice",
    "how often does s stand in y?",
    "If h is taken with s, the rest of the product must be taken without.",
)  # fmt: skip
exercise.mistake(
    "gradients transposed",
    (("return s * dy.T @ (x @ A.T)", "return s * (x @ A.T).T @ dy"), ("return s * (dy @ B).T @ x", "return s * x.T @ (dy @ B)")),
    "dA and dB are transposed",
    "which shape must a gradient have?",
    "A gradient is subtracted from its letter, so it has the letter's shape; y has Aᵀ and Bᵀ in it, not A and B.",
)  # fmt: skip
for letter, edit in (
    ("A", ("return s * (dy @ B).T @ x", "return s * x.T @ (dy @ B)")),
    ("B", ("return s * dy.T @ (x @ A.T)", "return s * (x @ A.T).T @ dy")),
):
    exercise.mistake(
        f"d{letter} transposed",
        (edit,),
        f"a d{letter} that is transposed",
        "which shape must a gradient have?",
        f"A gradient is subtracted from its letter, so it has the letter's shape; y has {letter}ᵀ in it, not {letter}.",
    )
for letter, edit in (
    ("A", ("return s * (dy @ B).T @ x", "return s * (dy @ B).T @ x / len(x)")),
    ("B", ("return s * dy.T @ (x @ A.T)", "return s * dy.T @ (x @ A.T) / len(x)")),
):
    exercise.mistake(
        f"mean over rows in d{letter}",
        (edit,),
        f"a d{letter} that is the mean over the rows instead of the sum",
        "if the loss is a mean over rows, where does 1/n enter: here, or in dy?",
        "dy knows already how much each row counts in the loss.",
    )
exercise.mistake(
    "alpha mean",
    (("    return np.sum(dy * ((x @ A.T) @ B.T)) / rank", "    return np.mean(dy * ((x @ A.T) @ B.T)) / rank"),),
    "a mean in dα where a sum belongs",
    "α acts on every number of y: how do its effects on the loss combine?",
    "What acts in many places gets the sum of what comes from each of them.",
    forms=(((DALPHA, "return np.sum(dy * ((x @ A.T) @ B.T)) / rank / len(x)"),),),
)  # fmt: skip
exercise.mistake(
    "W transposed",
    (("return dy.T @ x\n", "return x.T @ dy\n"),),
    "dW is transposed",
    "which shape has W, which is stored like the weight of `nn.Linear`?",
    "What is asked for is the gradient of W, and the product has Wᵀ in it.",
)  # fmt: skip
exercise.mistake(
    "mean over rows",
    (("return s * dy.T @ (x @ A.T)", "return s * dy.T @ (x @ A.T) / len(x)"), ("return s * (dy @ B).T @ x", "return s * (dy @ B).T @ x / len(x)")),
    "dA and dB are means over the rows instead of sums",
    "if the loss is a mean over rows, where does 1/n enter: here, or in dy?",
    "dy knows already how much each row counts in the loss.",
)  # fmt: skip
exercise.mistake(
    "mean over rows in dW",
    ((DW, "return dy.T @ x / len(x)\n"),),
    "a dW that is the mean over the rows instead of the sum",
    "if the loss is a mean over rows, where does 1/n enter: here, or in dy?",
    "dy knows already how much each row counts in the loss.",
)  # fmt: skip
exercise.mistake(
    "base way only",
    (("return dy @ W + s * (dy @ B) @ A", "return dy @ W"),),
    "dx has only the way through W",
    "how many ways lead from x to y?",
    "Both terms of a sum send a gradient back.",
)  # fmt: skip
exercise.mistake(
    "LoRA's way only",
    (("return dy @ W + s * (dy @ B) @ A", "return s * (dy @ B) @ A"),),
    "dx has only the way through A and B",
    "W is frozen: does that mean that nothing passes through it?",
    "Frozen means that W itself gets no gradient; the layer below still has to learn through it.",
)  # fmt: skip
exercise.mistake(
    "dx without scale",
    (("return dy @ W + s * (dy @ B) @ A", "return dy @ W + (dy @ B) @ A"),),
    "the scale s is left out of dx",
    "with which weight, all in all, is x multiplied?",
    "As far as x can tell the layer is one matrix, W + s·B A.",
)  # fmt: skip
exercise.mistake(
    "gradient of s",
    (("    return np.sum(dy * ((x @ A.T) @ B.T)) / rank", "    return np.sum(dy * ((x @ A.T) @ B.T))"),),
    "the gradient of s instead of that of α",
    "if α grows by one, by how much does s grow?",
    "One more link of the chain: from s to α.",
)  # fmt: skip
exercise.mistake(
    "alpha row by row",
    (("    return np.sum(dy * ((x @ A.T) @ B.T)) / rank", "    return np.sum(dy * ((x @ A.T) @ B.T), axis=1) / rank"),),
    "a dα for each row instead of one for all",
    "how many α are there?",
    "What acts in many places gets a sum of what comes from each of them.",
    forms=(
        ((DALPHA, "return dy * ((x @ A.T) @ B.T) / rank"),),
        ((DALPHA, "return np.sum(dy * ((x @ A.T) @ B.T), axis=0) / rank"),),
    ),
)  # fmt: skip
exercise.mistake(
    "alpha times rank",
    (("    return np.sum(dy * ((x @ A.T) @ B.T)) / rank", "    return np.sum(dy * ((x @ A.T) @ B.T)) * rank"),),
    "a multiplication by r in dα where a division belongs",
    "s = α/r: what is ds/dα?",
    "A large r makes a step of α count less.",
)  # fmt: skip
exercise.mistake(
    "uphill",
    (("return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)",
      "return A + lr * gradient_of_A(dy, x, B, s), B + lr * gradient_of_B(dy, x, A, s)"),),
    "a step uphill: a sign is turned, of dy or of the step",
    "does the loss become smaller? And if y is above the target, which sign should dy have?",
    "A gradient points to where the loss grows; take the derivative of ½ (y − t)² with its sign, and step against it.",
)  # fmt: skip
exercise.mistake(
    "dy not divided",
    (("dy = (forward(x, W, b, A, B, s) - target) / len(x)", "dy = forward(x, W, b, A, B, s) - target"),),
    "the division by n is missing in dy",
    "what is L divided by?",
    "The mean over rows enters through dy, once.",
)  # fmt: skip
exercise.mistake(
    "mean over all numbers",
    (("dy = (forward(x, W, b, A, B, s) - target) / len(x)", "dy = (forward(x, W, b, A, B, s) - target) / target.size"),),
    "a mean over all numbers, as `mse_loss` has it, instead of rows",
    "by what does L divide: the number of rows, or of all numbers in y?",
    "The formula for L stands in the docstring.",
    forms=(((DY, "dy = 2 * (forward(x, W, b, A, B, s) - target) / target.size"),),),
)  # fmt: skip
exercise.mistake(
    "half forgotten",
    (("dy = (forward(x, W, b, A, B, s) - target) / len(x)", "dy = 2 * (forward(x, W, b, A, B, s) - target) / len(x)"),),
    "a factor of 2 in dy, as without the ½",
    "what is the derivative of ½ u²?",
    "The ½ is there for this.",
)  # fmt: skip
exercise.mistake(
    "one after the other",
    (("    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)",
      "    B = B - lr * gradient_of_B(dy, x, A, s)\n    return A - lr * gradient_of_A(dy, x, B, s), B"),),
    "one factor's gradient is taken with the other one already moved",
    "at which A and B are the two gradients of a step taken?",
    "A step of gradient descent takes all gradients at one point, and then moves.",
)  # fmt: skip
exercise.mistake(
    "one after the other, A first",
    (("    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)",
      "    A = A - lr * gradient_of_A(dy, x, B, s)\n    return A, B - lr * gradient_of_B(dy, x, A, s)"),),
    "the gradient of B is taken with A already moved",
    "at which A is the gradient of B taken?",
    "A step of gradient descent takes all gradients at one point, and then moves.",
)  # fmt: skip
exercise.mistake(
    "in place",
    (("    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)",
      "    dA, dB = gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)\n    A -= lr * dA\n    B -= lr * dB\n    return A, B"),),
    "A and B are changed in place",
    "is it your function that made the arrays A and B?",
    "`A -= …` writes into the array that was handed in, so the caller finds it changed.",
    forms=(
        ((STEP, "A -= lr * gradient_of_A(dy, x, B, s)\n    B -= lr * gradient_of_B(dy, x, A, s)\n    return A, B"),),
        ((STEP, "B -= lr * gradient_of_B(dy, x, A, s)\n    A -= lr * gradient_of_A(dy, x, B, s)\n    return A, B"),),
    ),
)  # fmt: skip
exercise.mistake(
    "bias forgotten",
    (("return x @ W.T + b + s * (x @ A.T) @ B.T", "return x @ W.T + s * (x @ A.T) @ B.T"),),
    "the bias is left out",
    "what does the layer answer to x = 0?",
    "The frozen layer brings its bias along.",
)  # fmt: skip
exercise.mistake(
    "forward without scale",
    (("return x @ W.T + b + s * (x @ A.T) @ B.T", "return x @ W.T + b + (x @ A.T) @ B.T"),),
    "the scale s is left out of y",
    "if s doubles, what changes in y?",
    "The update is s·h Bᵀ.",
)  # fmt: skip
exercise.mistake(
    "forward scales all",
    (("return x @ W.T + b + s * (x @ A.T) @ B.T", "return s * (x @ W.T + b + (x @ A.T) @ B.T)"),),
    "the scale s acts on the base too",
    "what is y when B is zero?",
    "s belongs to the update; the base's part stays as it is.",
)  # fmt: skip
exercise.mistake(
    "B left out of dA",
    (("return s * (dy @ B).T @ x", "return s * np.ones_like(dy @ B).T @ x"),),
    "dA does not know B",
    "by which factor does a change of h reach y?",
    "Between A and the loss stands B: follow the chain through it. It is also why dA is zero at the start.",
)  # fmt: skip

exercise.mistake(
    "scale twice in dA",
    ((DA, "return s * s * (dy @ B).T @ x"),),
    "the scale s stands in dA twice",
    "how often does s stand in y?",
    "If dh is taken with s, the rest of the product must be taken without.",
)  # fmt: skip
exercise.mistake(
    "scale twice in both",
    ((DA, "return s * s * (dy @ B).T @ x"), (DB, "return s * s * dy.T @ (x @ A.T)")),
    "the scale s stands in dA and in dB twice",
    "how often does s stand in y?",
    "s is one factor of the product. Each gradient gets it once.",
)  # fmt: skip
exercise.mistake(
    "scale twice in dx",
    ((DX, "return dy @ W + s * s * (dy @ B) @ A"),),
    "the scale s stands in dx twice",
    "with which weight, all in all, is x multiplied?",
    "As far as x can tell the layer is one matrix, W + s·B A.",
)  # fmt: skip
exercise.mistake(
    "dx scaled everywhere",
    ((DX, "return s * (dy @ W + (dy @ B) @ A)"),),
    "in dx the scale s acts on the way through W too",
    "what is dx when B is zero?",
    "s belongs to the way through A and B; the way through W stays as it is.",
)  # fmt: skip
exercise.mistake(
    "forward's transposes in dx",
    ((DX, "return dy @ W.T + s * dy @ B.T @ A.T"),),
    "dx multiplies by the transposes that the forward pass has",
    "which shape has dx, and which have dy, W, A and B?",
    "In P = M N, dM = dP Nᵀ; here N is Wᵀ, so it is transposed a second time.",
)  # fmt: skip
exercise.mistake(
    "dW has the shape of the rows",
    ((DW, "return np.einsum('no,ni->noi', dy, x)\n"),),
    "a dW for each row of x, and no sum over the rows",
    "every row of x meets the same W: how do their effects on the loss combine?",
    "The gradient of a weight has the weight's shape. A weight that acts on many rows gets the sum of what they send.",
)  # fmt: skip
exercise.mistake(
    "a gradient for each row",
    ((DA, "return s * np.einsum('nr,ni->nri', dy @ B, x)"), (DB, "return s * np.einsum('no,nr->nor', dy, x @ A.T)")),
    "a gradient for each row of x, and no sum over the rows",
    "every row of x meets the same A and B: how do their effects on the loss combine?",
    "The gradient of a weight has the weight's shape. A weight that acts on many rows gets the sum of what they send.",
    forms=(
        ((DA, "return s * np.einsum('nr,ni->nri', dy @ B, x)"),),
        ((DB, "return s * np.einsum('no,nr->nor', dy, x @ A.T)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "dB from x",
    ((DB, "return s * dy.T @ x"),),
    "dB is taken from x, as if B met x itself",
    "what goes into A, and what goes into B?",
    "B is multiplied by h, which has r numbers in a row; a gradient is made of what the weight was multiplied by.",
)  # fmt: skip
exercise.mistake(
    "dy in place",
    ((DB, "dy *= s\n    return dy.T @ (x @ A.T)"),),
    "dy is changed in place, though the other gradients are computed from it next",
    "who else reads the dy that your function gets?",
    "`dy *= s` writes into the array that was handed in. Multiply into a new array.",
    forms=(
        ((DA, "dy *= s\n    return (dy @ B).T @ x"),),
        ((DA, "dy *= s\n    return (dy @ B).T @ x"), (DB, "dy *= s\n    return dy.T @ (x @ A.T)")),
    ),
)  # fmt: skip
exercise.mistake(
    "factors in another order",
    ((STEP, "return B - lr * gradient_of_B(dy, x, A, s), A - lr * gradient_of_A(dy, x, B, s)"),),
    "`step` returns B before A",
    "in which order does the docstring name the two?",
    "The caller takes the first for A.",
)  # fmt: skip
exercise.mistake(
    "gradients returned",
    ((STEP, "return gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)"),),
    "`step` returns the gradients and takes no step",
    "what should A be after a step with a learning rate of zero?",
    "A step starts from where A and B are.",
)  # fmt: skip
exercise.mistake(
    "change returned",
    ((STEP, "return -lr * gradient_of_A(dy, x, B, s), -lr * gradient_of_B(dy, x, A, s)"),),
    "`step` returns the changes of A and B instead of A and B",
    "what should A be after a step with a learning rate of zero?",
    "A step starts from where A and B are.",
)  # fmt: skip
exercise.mistake(
    "only B moves",
    ((STEP, "return A, B - lr * gradient_of_B(dy, x, A, s)"),),
    "A stays where it is in every step",
    "is dA zero as soon as B is not?",
    "A stands still at the first step only, because B is zero there.",
)  # fmt: skip
exercise.mistake(
    "only A moves",
    ((STEP, "return A - lr * gradient_of_A(dy, x, B, s), B"),),
    "B stays where it is in every step",
    "which of the two gradients is not zero at the start?",
    "If B stays at zero, dA stays at zero too, and nothing is learned.",
)  # fmt: skip
exercise.mistake(
    "uphill in one factor",
    ((STEP, "return A + lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)"),),
    "one of the two factors takes its step uphill",
    "which sign has the step of A, and which that of B?",
    "Both factors step against their gradients.",
    forms=(((STEP, "return A - lr * gradient_of_A(dy, x, B, s), B + lr * gradient_of_B(dy, x, A, s)"),),),
)  # fmt: skip
exercise.mistake(
    "base forgotten in the step",
    ((DY, "dy = (s * (x @ A.T) @ B.T - target) / len(x)"),),
    "the error of the step is that of the update alone, without the frozen layer",
    "what is y in the formula for L?",
    "The loss compares the whole output with the target, the frozen part included.",
)  # fmt: skip
exercise.mistake(
    "no learning rate",
    ((STEP, "return A - gradient_of_A(dy, x, B, s), B - gradient_of_B(dy, x, A, s)"),),
    "the learning rate is left out of the step",
    "what should A be after a step with a learning rate of zero?",
    "A step goes lr times the gradient.",
)  # fmt: skip
exercise.mistake(
    "bias scaled",
    ((Y, "return x @ W.T + s * (b + (x @ A.T) @ B.T)"),),
    "the scale s acts on the bias too",
    "what is y for x = 0?",
    "s belongs to the update; the base's part, its bias included, stays as it is.",
)  # fmt: skip
exercise.mistake(
    "no transposes",
    ((Y, "return x @ W + b + s * (x @ A) @ B"),),
    "x is multiplied by the weights as they are stored, (out, in)",
    "which two sizes must agree in x W, and which do in x Wᵀ?",
    "`nn.Linear` stores (out, in), one row for each output; a row of x meets each of these rows.",
)  # fmt: skip
exercise.mistake(
    "half twice",
    ((DY, DY.replace("len(x)", "(2 * len(x))")),),
    "the ½ is in dy too, though the derivative of the square has used it up",
    "what is the derivative of ½ u²?",
    "The 2 that comes down from the square and the ½ cancel.",
)  # fmt: skip
exercise.mistake(
    "averaged twice",
    ((DY, DY.replace("len(x)", "len(x) ** 2")),),
    "the division by n is there twice",
    "what is L divided by, and where does that enter?",
    "The mean over rows enters through dy, once; the gradients made from dy have it in them.",
)  # fmt: skip

exercise.right(
    "by way of dW",
    (("return s * dy.T @ (x @ A.T)", "return s * gradient_of_W(dy, x) @ A.T"), ("return s * (dy @ B).T @ x", "return s * B.T @ gradient_of_W(dy, x)")),
)  # fmt: skip
exercise.right(
    "einsum",
    (("return s * dy.T @ (x @ A.T)", 'return s * np.einsum("no,ni,ri->or", dy, x, A)'),
     ("return s * (dy @ B).T @ x", 'return s * np.einsum("no,or,ni->ri", dy, B, x)'),
     ("    rank = len(A)\n    return np.sum(dy * ((x @ A.T) @ B.T)) / rank", '    return float(np.einsum("no,ni,ri,or->", dy, x, A, B)) / A.shape[0]')),
)  # fmt: skip
exercise.right(
    "row by row",
    (("return dy.T @ x\n", "return sum(np.outer(g, row) for g, row in zip(dy, x))\n"),
     ("return dy @ W + s * (dy @ B) @ A", "return dy @ (W + s * B @ A)"),
     ("return x @ W.T + b + s * (x @ A.T) @ B.T", "return np.stack([(W + s * B @ A) @ row + b for row in x])")),
)  # fmt: skip
exercise.right(
    "a step by hand",
    (("    dy = (forward(x, W, b, A, B, s) - target) / len(x)\n    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)",
      "    dy = (x @ (W + s * B @ A).T + b - target) / x.shape[0]\n    dW = dy.T @ x\n    return [A - lr * s * B.T @ dW, B - lr * s * dW @ A.T]"),),
)  # fmt: skip

exercise.variant(
    "square root",
    (("y (n, out), s = α/r\n", "y (n, out), s = α/√r\n"), ("dα, one number: through s = α/r, if α were trained.", "dα, one number: through s = α/√r, if α were trained."),
     ("@ B.T)) / rank", "@ B.T)) / np.sqrt(rank)")),
    "the scale is s = α/√r",
)  # fmt: skip
exercise.variant(
    "mean loss",
    (("    L = ½ Σ (y − target)² / n,", "    L = Σ (y − target)² / n,"),
     ("dy = (forward(x, W, b, A, B, s) - target) / len(x)", "dy = 2 * (forward(x, W, b, A, B, s) - target) / len(x)")),
    "the loss of `step` has no ½ in front",
)  # fmt: skip
exercise.variant(
    "B learns faster",
    (('"""A and B after one step of gradient descent on L.', '"""A and B after one step of gradient descent on L. B learns 16 times as fast as A.'),
     ("B - lr * gradient_of_B(dy, x, A, s)", "B - 16 * lr * gradient_of_B(dy, x, A, s)")),
    "the learning rate of B in `step` is 16 times that of A",
)  # fmt: skip
