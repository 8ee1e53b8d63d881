"""LoRA's backward pass by hand."""

import numpy as np

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import numbers

observe = Observations()

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


@observe("forward", "y has another shape, or not the numbers that x Wᵀ + b + s·x Aᵀ Bᵀ gives.")
def output(impl):
    return array(impl.forward(*given("x", "W", "b", "A", "B"), S), "y")


@observe("forward", "Where B is zero, y must be what the base gives alone.")
def output_at_the_start(impl):
    x, W, b, A, B = given("x", "W", "b", "A", "B", zero="B")
    return array(impl.forward(x, W, b, A, B, S), "y") - (x @ W.T + b)


@observe(
    "gradients of the weights", "dW should have the shape of W and hold, for each number of W, a sum over the rows."
)
def gradient_of_the_frozen_weight(impl):
    return array(impl.gradient_of_W(*given("dy", "x")), "dW")


@observe("gradients of the weights", "dB, which has the shape of B, is not the expected one.")
def gradient_of_B(impl):
    return array(impl.gradient_of_B(*given("dy", "x", "A"), S), "dB")


@observe("gradients of the weights", "dA, which has the shape of A, is not the expected one.")
def gradient_of_A(impl):
    return array(impl.gradient_of_A(*given("dy", "x", "B"), S), "dA")


@observe("gradients of the weights", "With a single row dA and dB are not the expected ones.")
def gradients_of_one_row(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return [array(impl.gradient_of_A(dy[:1], x[:1], B, S), "dA"), array(impl.gradient_of_B(dy[:1], x[:1], A, S), "dB")]


@observe("gradients of the weights", "At the start, where B is zero, dA must be zero everywhere and dB must not.")
def gradients_at_the_start(impl):
    dy, x, A, B = given("dy", "x", "A", "B", zero="B")
    return [array(impl.gradient_of_A(dy, x, B, S), "dA"), array(impl.gradient_of_B(dy, x, A, S), "dB")]


@observe("gradients of the weights", "If s doubles, dA and dB should double.")
def gradients_at_another_scale(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return [array(impl.gradient_of_A(dy, x, B, 2 * S), "dA"), array(impl.gradient_of_B(dy, x, A, 2 * S), "dB")]


@observe("below and above", "dx, which goes on to the layer below, is not the expected one.")
def gradient_of_x(impl):
    return array(impl.gradient_of_x(*given("dy", "W", "A", "B"), S), "dx")


@observe("below and above", "With B at zero, dx must be what the base alone sends down.")
def gradient_of_x_at_the_start(impl):
    dy, W, A, B = given("dy", "W", "A", "B", zero="B")
    return array(impl.gradient_of_x(dy, W, A, B, S), "dx") - dy @ W


@observe("below and above", "dα, a single number, is not the expected one.")
def gradient_of_alpha(impl):
    return array(impl.gradient_of_alpha(*given("dy", "x", "A", "B")), "dα")


@observe("below and above", "With r = 1, where s is α, dα is not the expected one.")
def gradient_of_alpha_with_rank_one(impl):
    dy, x, A, B = given("dy", "x", "A", "B")
    return array(impl.gradient_of_alpha(dy, x, A[:1], B[:, :1]), "dα")


@observe("steps", "`step` should return A and B after the step, in this order and with their shapes.")
def shapes_after_a_step(impl):
    after = impl.step(*given("x", "target", "W", "b", "A", "B"), S, 0.1)
    return [str(array(t, "a factor").shape) for t in after]


@observe("steps", "The change of A and B in a step is not the expected one.")
def a_step(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.1)
    return [moved(A, A1), moved(B, B1)]


@observe("steps", "With a learning rate of zero A and B should stay where they are.")
def a_step_of_no_size(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.0)
    return [moved(A, A1), moved(B, B1)]


@observe("steps", "When B starts at zero, the first step should move B alone and the second step both factors.")
def two_steps_from_the_start(impl):
    x, target, W, b, A, B = given("x", "target", "W", "b", "A", "B", zero="B")
    A1, B1 = impl.step(x, target, W, b, A.copy(), B.copy(), S, 0.1)
    A2, B2 = impl.step(x, target, W, b, np.copy(A1), np.copy(B1), S, 0.1)
    return [array(t, "a factor") for t in (A1 - A, B1 - B, A2 - A1, B2 - B1)]


@observe("steps", "What comes in must stay as it is; something is changed in place.")
def nothing_is_changed(impl):
    names = ("x", "target", "W", "b", "A", "B", "dy")
    here = dict(zip(names, given(*names), strict=True))
    x, target, W, b, A, B, dy = here.values()
    impl.forward(x, W, b, A, B, S)
    impl.gradient_of_A(dy, x, B, S), impl.gradient_of_B(dy, x, A, S), impl.gradient_of_W(dy, x)
    impl.gradient_of_x(dy, W, A, B, S), impl.gradient_of_alpha(dy, x, A, B)
    impl.step(x, target, W, b, A, B, S, 0.1)
    return {name: here[name] - before for name, before in zip(names, given(*names), strict=True)}


@observe("fine print", "The numbers are right in their first seven digits only. In which type are they computed?")
def digits(impl):
    """Do they follow a change of a billionth?"""
    dy, x, W, b, A, B = given("dy", "x", "W", "b", "A", "B", zero="b")
    looked_at = {
        "y": (x, lambda x: impl.forward(x, W, b, A, B, S)),
        "dW": (dy, lambda dy: impl.gradient_of_W(dy, x)),
        "dB": (dy, lambda dy: impl.gradient_of_B(dy, x, A, S)),
        "dA": (dy, lambda dy: impl.gradient_of_A(dy, x, B, S)),
        "dx": (dy, lambda dy: impl.gradient_of_x(dy, W, A, B, S)),
        "dα": (dy, lambda dy: impl.gradient_of_alpha(dy, x, A, B)),
    }
    found = {}
    for name, (of, look) in looked_at.items():
        before, after = array(look(of.copy()), name), array(look(of * (1 + 1e-9)), name)
        found[name] = bool(np.abs(after - before - 1e-9 * before).max() <= 1e-12 * np.abs(before).max())
    return found
