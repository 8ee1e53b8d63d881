"""PiSSA: the weight split in two, the layer that trains the larger part, its merge."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, linear, numbers, scattered, through_weight, types
from minipeft.methods.lora import LoRALinear

observe = Observations()


def layer(impl, rank=2, base=None):
    """A PiSSALinear whose A and B are far from their start, with in ≠ out ≠ r and a bias."""
    return fill(impl.PiSSALinear(base or linear(), rank), "trainable")


def parts(impl, shape=(4, 6), rank=2):
    return impl.split(numbers("W", shape), rank)


def attached(impl):
    """Two layers of different width, the method on both, far from the start."""
    made = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return fill(impl.PiSSA(rank=2, targets=("0", "2")).attach(fill(made)), "trainable")


@observe("split", "A₀, B₀ and R should have the shapes (r, in), (out, r) and (out, in).")
def shapes(impl):
    return [str(tuple(part.shape)) for part in parts(impl)]


@observe("split", "A weight is split differently the second time: then a stored A and B would meet another R.")
def the_same_again(impl):
    return [bool((a - b).abs().max() < 1e-12) for a, b in zip(parts(impl), parts(impl), strict=True)]


@observe("split", "B₀A₀ should be the part of W with the largest singular values.")
def largest_part(impl):
    first, second, _ = parts(impl)
    return second @ first


@observe("split", "For a weight with more outputs than inputs, B₀A₀ is not the expected one.")
def largest_part_of_a_tall_weight(impl):
    first, second, _ = parts(impl, (6, 4), 3)
    return second @ first


@observe(
    "split",
    "The sizes of A₀'s rows or of B₀'s columns show that each factor has not the share of S that it should have.",
)
def share_of_each_factor(impl):
    first, second, _ = parts(impl)
    return {"A": (first @ first.T).diagonal().sort()[0], "B": (second.T @ second).diagonal().sort()[0]}


@observe("split", "The rows of A₀, and the columns of B₀, should stand at right angles, as singular vectors do.")
def right_angles(impl):
    first, second, _ = parts(impl)
    both = {"A": first @ first.T, "B": second.T @ second}
    return {name: bool((g - g.diagonal().diag()).abs().max() < 1e-3) for name, g in both.items()}


@observe("split", "In double precision the parts are exact to only seven digits. In which type are they computed?")
def digits(impl):
    first, second, _ = parts(impl)
    return [bool((g - g.diagonal().diag()).abs().max() < 1e-10) for g in (first @ first.T, second.T @ second)]


@observe("split", "R should be what B₀A₀ leaves of W.")
def rest(impl):
    return parts(impl)[2]


@observe("split", "A weight in 32 bits is split less exactly than the same numbers in 64 bits.")
def digits_in_32_bits(impl):
    W = numbers("W", (40, 60)).float()
    rough, exact = (impl.split(W.to(dtype), 3)[0].detach().double() for dtype in (torch.float32, torch.float64))
    return bool((rough.abs() - exact.abs()).abs().max() < 3e-7 * exact.abs().max())


@observe("split", "A weight in 16 bits should be split too, into parts of its own type.")
def types_of_the_parts(impl):
    return [str(part.dtype) for part in impl.split(numbers("W", (4, 6)).bfloat16(), 2)]


@observe("set-up", "The layer should train A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.PiSSALinear(linear(), 2)).items()}


@observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe("set-up", "A delta should keep only A and B; R follows from the base.")
def what_is_stored(impl):
    return sorted(impl.PiSSALinear(linear(), 2).stored())


@observe("start", "At the start the output must be that of the base, up to rounding.")
def start(impl):
    return impl.PiSSALinear(linear(), 2)(numbers("x", (4, 5))) - linear()(numbers("x", (4, 5)))


@observe("start", "At the start there is no change yet, so ΔW should be zero.")
def delta_at_the_start(impl):
    return impl.PiSSALinear(linear(), 2).delta()


@observe("start", "The frozen weight itself must stay as it is: the model that you attached to has the same numbers.")
def base_is_left_alone(impl):
    base = linear()
    impl.PiSSALinear(base, 2)(numbers("x", (4, 5)))
    return [base.weight - linear().weight, base.bias - linear().bias]


@observe("forward", "The output for rows of tokens (B, T, in), with other A and B, is not the expected one.")
def output(impl):
    return layer(impl)(numbers("x", (2, 4, 5)))


@observe("forward", "For an input of zeros the bias should come out, as it is.")
def bias(impl):
    return layer(impl)(torch.zeros(1, 5)) - linear().bias


@observe("forward", "A layer without a bias should work as well.")
def output_without_a_bias(impl):
    return layer(impl, base=linear(bias=False))(numbers("x", (4, 5)))


@observe("forward", "A gradient should reach A and B from the first step on.")
def where_gradients_arrive(impl):
    x = numbers("x", (4, 5))
    return [arrivals(made, made(x.clone().requires_grad_())) for made in (impl.PiSSALinear(linear(), 2), layer(impl))]


@observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters() if p.requires_grad}


@observe("forward", "The gradient that goes on to the layer below, through R and through A and B, is not right.")
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@observe("forward", "After A and B have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x)


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
    return types(lambda dtype: impl.PiSSALinear(linear().to(dtype), 2), lambda made: made(x.to(made.base.weight.dtype)))


@observe("forward", "The output of a model with two such layers is not the expected one.")
def output_of_a_model(impl):
    return attached(impl)(numbers("x", (4, 5)))


@observe("merge", "ΔW should have the shape of the weight.")
def shape_of_delta(impl):
    return list(layer(impl).delta().shape)


@observe("merge", "Forward and ΔW disagree: the merged layer does not answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "ΔW is not what has to be added to W to get R + BA.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "After A and B have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


@observe("merge", "What reads the layer's `weight`, W + ΔW, sends A and B other gradients than it should, or none.")
def gradients_through_the_weight(impl):
    return through_weight(layer(impl))


@observe("fine print", "In front of a LoRA, the layer should split the weight that acts below, LoRA included.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False)
    made = impl.PiSSALinear(below, 2)
    return [made.B @ made.A, made(numbers("x", (4, 5))), made.merged().weight]


@observe("fine print", "A layer that is moved to another type should take R along.")
def moved(impl):
    return str(layer(impl).float()(numbers("x", (4, 5)).float()).dtype)
