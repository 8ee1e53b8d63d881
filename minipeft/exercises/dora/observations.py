"""DoRA: lengths and directions of rows, what a layer makes of them, its gradient, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers
from minipeft.methods.lora import LoRALinear

observe = Observations()


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


@observe("decomposition", "The lengths of the rows of a weight are not the expected ones.")
def lengths_of_the_rows(impl):
    return impl.lengths(numbers("W", (4, 6)))


@observe("decomposition", "The magnitude of a weight is not the expected one.")
def magnitude(impl):
    return impl.decompose(numbers("W", (4, 6)))[0]


@observe("decomposition", "The directions of a weight are not the expected ones.")
def direction(impl):
    return impl.decompose(numbers("W", (4, 6)))[1]


@observe("decomposition", "Magnitude times direction should give the weight back.")
def put_together(impl):
    m, direction = impl.decompose(numbers("W", (5, 5)))
    return m[:, None] * direction if m.shape == (5,) else [m, direction]


@observe("set-up", "The layer should train A (r, in), B (out, r) and the magnitudes m, and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.DoRALinear(linear(), 2, 3.0)).items()}


@observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe("start", "At the start the output must be that of the base.")
def start(impl):
    base = linear()
    return impl.DoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@observe("start", "m should start at what it is in the frozen weight.")
def start_of_m(impl):
    return impl.DoRALinear(linear(), 2, 3.0).m


@observe("start", "One of A and B should start at zero and the other should not: which, and how wide is it?")
def width_of_the_start(impl):
    made = impl.DoRALinear(linear(400, 4), 8, 1.0)
    return {name: round(20 * float(getattr(made, name).detach().abs().max()) * 20) / 20 for name in "AB"}


@observe("start", "The first step should reach B and m, and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.DoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 1e-9) for name, p in attach.trainable(made).items()}


@observe("weight", "V = W + s·B A is not the expected one.")
def turned_weight(impl):
    return layer(impl).V()


@observe("weight", "g = m/‖V‖, by which the rows of V are multiplied, is not the expected one.")
def ratio_of_the_lengths(impl):
    return layer(impl).g()


@observe("weight", "With another rank and scale V or g is not the expected one.")
def weight_at_another_scale(impl):
    made = layer(impl, rank=3, alpha=3)
    return [made.V(), made.g()]


@observe("forward", "The output for rows of tokens (B, T, in) is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@observe("forward", "A layer without a bias should work as well.")
def output_without_a_bias(impl):
    return layer(impl, base=linear(bias=False))(numbers("x", (4, 5)))


@observe("forward", "The gradients that reach A, B and m are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@observe("merge", "ΔW is not what has to be added to W to get W'.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "The lengths of the rows of W' should be the sizes of m, whatever A and B are.")
def lengths_of_the_merged_weight(impl):
    made = layer(impl)
    W = made.merged().weight
    return W.square().sum(1).sqrt() - made.m.abs() if made.m.shape == (3,) else W


@observe("fine print", "A weight with zeros in it should stay free of NaN, at the start and afterwards.")
def zeros_in_the_weight(impl):
    x, made = numbers("x", (4, 5)), impl.DoRALinear(holed(), 2, 3.0)
    return [made(x) - holed()(x), layer(impl, base=holed())(x), impl.decompose(holed().weight)[1]]


@observe("fine print", "In front of a LoRA, the layer should take over the weight that acts below, LoRA included.")
def stacked(impl):
    made = layer(impl, base=fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False))
    return [made(numbers("x", (4, 5))), made.merged().weight]
