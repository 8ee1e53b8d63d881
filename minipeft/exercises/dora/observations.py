"""DoRA: lengths and directions of rows, what a layer makes of them, its gradient, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, linear, numbers, scattered, through_weight, types
from minipeft.methods.lora import LoRALinear

observe = Observations()


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


@observe("decomposition", "The lengths of the rows of a weight are not the expected ones.")
def lengths_of_the_rows(impl):
    return impl.lengths(numbers("W", (4, 6)))


@observe("decomposition", "For rows that are short, but not zero, the lengths are not the expected ones.")
def lengths_of_short_rows(impl):
    return impl.lengths(numbers("W", (4, 6), 0.05))


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


@observe("set-up", "A, B and m should have the type of the base, whatever it is: 16 bits in front of 16 bits.")
def type_of_the_parameters(impl):
    bases = [linear().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{name: str(p.dtype) for name, p in attach.trainable(impl.DoRALinear(b, 2, 3.0)).items()} for b in bases]


@observe("weight", "At the start, where B is zero, V should be the frozen W, with the lengths that its rows have.")
def V_at_the_start(impl):
    return impl.DoRALinear(linear(), 2, 3.0).V() - linear().weight


@observe("weight", "V = W + s·B A is not the expected one.")
def turned_weight(impl):
    return layer(impl).V()


@observe("weight", "A gradient should pass through V to A and B; only ‖V‖ counts as a constant.")
def where_gradients_arrive_through_V(impl):
    made = layer(impl)
    return arrivals(made, made.V())


@observe("start", "m should start at what it is in the frozen weight.")
def start_of_m(impl):
    return impl.DoRALinear(linear(), 2, 3.0).m


@observe("weight", "At the start, where m is ‖V‖, g should be one for every row.")
def g_at_the_start(impl):
    return impl.DoRALinear(linear(), 2, 3.0).g()


@observe("weight", "g = m/‖V‖, by which the rows of V are multiplied, is not the expected one.")
def ratio_of_the_lengths(impl):
    return layer(impl).g()


@observe("weight", "With another rank and scale V or g is not the expected one.")
def weight_at_another_scale(impl):
    made = layer(impl, rank=3, alpha=3)
    return [made.V(), made.g()]


@observe("start", "At the start the output must be that of the base.")
def start(impl):
    base = linear()
    return impl.DoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@observe("start", "One of A and B should start at zero and the other random: how do its numbers lie?")
def spread_of_the_start(impl):
    made = impl.DoRALinear(linear(100, 80), 8, 1.0)
    return {name: spread(getattr(made, name)) for name in "AB"}


@observe(
    "start", "In units of 1/√in, the smallest and the largest number that A or B starts with are not the expected ones."
)
def width_of_the_start(impl):
    made = impl.DoRALinear(linear(100, 80), 8, 1.0)
    ends = {name: (float(getattr(made, name).min()), float(getattr(made, name).max())) for name in "AB"}
    return {name: [round(20 * end * 100**0.5) / 20 for end in both] for name, both in ends.items()}


@observe("start", "Two layers made one after the other start with the same random numbers. Is a seed set?")
def two_layers_differ(impl):
    first, second = (impl.DoRALinear(linear(), 2, 3.0) for _ in range(2))
    return {
        "random": any(spread(getattr(first, name)) != "all zero" for name in "AB"),
        "different": any(bool((getattr(first, name) != getattr(second, name)).any()) for name in "AB"),
    }


@observe("start", "Making a layer sets the seed of all random numbers of the program.")
def random_numbers_go_on(impl):
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.DoRALinear(linear(), 2, 3.0)
        after.append(float(torch.rand(())))
    return after[0] != after[1]


@observe("start", "The first step should reach B and m, and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.DoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 1e-9) for name, p in attach.trainable(made).items()}


@observe("forward", "Where B is zero and m has changed, g ⊙ W x and the bias should come out.")
def output_of_W_alone(impl):
    made = layer(impl)
    with torch.no_grad():
        made.B.zero_()
    return made(numbers("x", (4, 5)))


@observe("forward", "Where W is zero, g ⊙ (s·B A x) and the bias should come out.")
def output_of_the_update_alone(impl):
    base = linear()
    with torch.no_grad():
        base.weight.zero_()
    return layer(impl, base=base)(numbers("x", (4, 5)))


@observe("forward", "The output for rows of tokens (B, T, in) is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@observe("forward", "A layer without a bias should work as well.")
def output_without_a_bias(impl):
    return layer(impl, base=linear(bias=False))(numbers("x", (4, 5)))


@observe("forward", "Once B is no longer zero, a gradient should reach A, B and m.")
def where_gradients_arrive(impl):
    made = layer(impl)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@observe("forward", "The gradients that reach A, B and m are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@observe("forward", "The gradient that goes on to the layer below is not the expected one.")
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@observe("forward", "After A, B and m have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x)


@observe("forward", "A pass has changed the base, whose numbers every other view of it shares.")
def base_is_left_alone(impl):
    base = linear()
    layer(impl, base=base)(numbers("x", (4, 5)))
    return [base.weight - linear().weight, base.bias - linear().bias]


@observe("forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    layer(impl)(x)
    return x - numbers("x", (4, 5))


@observe(
    "forward",
    "A transposed x, whose rows do not lie in memory one behind the other, stops the layer or changes its answer.",
)
def x_scattered_in_memory(impl):
    return scattered(layer(impl))


@observe("forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = numbers("x", (4, 5))
    return types(
        lambda dtype: impl.DoRALinear(linear().to(dtype), 2, 3.0), lambda made: made(x.to(made.base.weight.dtype))
    )


@observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@observe("merge", "ΔW should have the shape of the weight.")
def shape_of_delta(impl):
    return list(layer(impl).delta().shape)


@observe("merge", "The lengths of the rows of W' should be the sizes of m, whatever A and B are.")
def lengths_of_the_merged_weight(impl):
    made = layer(impl)
    W = made.merged().weight
    return W.square().sum(1).sqrt() - made.m.abs() if made.m.shape == (3,) else W


@observe("merge", "Forward and ΔW disagree: the merged layer does not answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "ΔW is not what has to be added to W to get W'.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "After A, B and m have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


@observe("merge", "What reads the layer's `weight`, W + ΔW, should send a gradient to A, B and m, as forward does.")
def where_gradients_arrive_through_the_weight(impl):
    found = through_weight(layer(impl))  # whether ‖V‖ is a constant here too is left open
    return {name: g is not None and bool(g.abs().max() > 0) for name, g in found.items()}


@observe("fine print", "A weight with zeros in it should stay free of NaN, at the start and afterwards.")
def zeros_in_the_weight(impl):
    x, made = numbers("x", (4, 5)), impl.DoRALinear(holed(), 2, 3.0)
    return [made(x) - holed()(x), layer(impl, base=holed())(x), impl.decompose(holed().weight)[1]]


@observe("fine print", "In front of a LoRA, the layer should take over the weight that acts below, LoRA included.")
def stacked(impl):
    made = layer(impl, base=fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False))
    return [made(numbers("x", (4, 5))), made.merged().weight]
