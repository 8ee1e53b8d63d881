"""IA³: scales on outputs and on inputs, what they do to weight and bias, why they must not decay."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, linear, numbers, scattered, through_weight, types
from minipeft.methods.lora import LoRALinear

observe = Observations()


def output(impl, base=None):
    """A scale on the output, far from one, with in ≠ out and a bias."""
    return fill(impl.IA3Output(base or linear()), "trainable")


def into(impl, base=None):
    return fill(impl.IA3Input(base or linear()), "trainable")


def lora():
    return fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False)


class Small(nn.Module):
    """Something with a key and with an MLP."""

    def __init__(self):
        super().__init__()
        self.k, self.up, self.down = nn.Linear(5, 4), nn.Linear(4, 7), nn.Linear(7, 3)
        fill(self)

    def forward(self, x):
        return self.down(torch.tanh(self.up(self.k(x))))


def attached(impl):
    return impl.IA3(outputs=("k",), inputs=("down",)).attach(Small())


def reached(made):
    """{name: does a gradient arrive?} of l and of the input."""
    x = numbers("x", (4, 5)).requires_grad_()
    return arrivals(made, made(x) + 0 * x.sum()) | {"x": bool(x.grad.any())}


def of_both(impl, look):
    return {kind: look(make) for kind, make in (("IA3Output", output), ("IA3Input", into))}


def changes(made):
    """What the layer answers and how it would be merged."""
    return [made(numbers("x", (4, 5))), made.deltas(), made.weight, made.bias]


@observe("set-up", "Each layer should train one vector, l: on the output (out), on the input (in).")
def what_is_trained(impl):
    return {
        f"{kind}: {name}": str(tuple(p.shape))
        for kind in ("IA3Output", "IA3Input")
        for name, p in attach.trainable(getattr(impl, kind)(linear())).items()
    }


@observe("set-up", "In a whole model, other parameters are trained than the settings ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    x = numbers("x", (4, 5))
    return {kind: getattr(impl, kind)(linear())(x) - linear()(x) for kind in ("IA3Output", "IA3Input")}


@observe("start", "The scale does not start at the right number.")
def start_of_the_scale(impl):
    return {kind: getattr(impl, kind)(linear()).l for kind in ("IA3Output", "IA3Input")}


@observe("start", "The scale should start with the same number for every feature: nothing here is random.")
def one_number_everywhere(impl):
    return {kind: bool((l := getattr(impl, kind)(linear()).l).min() == l.max()) for kind in ("IA3Output", "IA3Input")}


@observe("output", "For keys and values, the output for rows of tokens (B, T, in) is not the expected one.")
def scaled_output(impl):
    return output(impl)(numbers("x", (2, 4, 5)))


@observe("output", "For an input of zeros, the bias does not come out as it should.")
def bias_of_a_scaled_output(impl):
    return output(impl)(torch.zeros(1, 5))


@observe("output", "The gradient that reaches l is not the expected one.")
def gradient_of_an_output_scale(impl):
    made = output(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return made.l.grad


@observe("output", "A gradient should reach l, and pass through the frozen layer to what learns below.")
def arriving_gradients(impl):
    return of_both(impl, lambda make: reached(make(impl)))


@observe("output", "In a base of another type, l or the answer should have the type of the base.")
def types_of_the_base(impl):
    def run(made):
        return made(numbers("x", (4, 5)).to(made.base.weight.dtype))

    return of_both(impl, lambda make: types(lambda dtype: make(impl, linear().to(dtype)), run))


@observe("output", "With l = 0 the layer should fall silent.")
def silenced(impl):
    made = output(impl)
    with torch.no_grad():
        made.l.zero_()
    return made(numbers("x", (4, 5)))


@observe("input", "Before `down`, the output for rows of tokens (B, T, in) is not the expected one.")
def scaled_input(impl):
    return into(impl)(numbers("x", (2, 4, 5)))


@observe("input", "For an input of zeros the bias should come out, as it is.")
def bias_behind_a_scaled_input(impl):
    return into(impl)(torch.zeros(1, 5)) - linear().bias


@observe("input", "The gradient that reaches l is not the expected one.")
def gradient_of_an_input_scale(impl):
    made = into(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return made.l.grad


@observe("input", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    output(impl)(x), into(impl)(x)
    return x - numbers("x", (4, 5))


@observe(
    "input",
    "A transposed x, whose rows do not lie in memory one behind the other, stops a layer or changes its answer.",
)
def x_scattered_in_memory(impl):
    return of_both(impl, lambda make: scattered(make(impl)))


@observe("merge", "The change of the weight is not what the scale on the output amounts to.")
def delta_of_an_output_scale(impl):
    return output(impl).delta()


@observe("merge", "`deltas` should give the change of every parameter that changes, by its name.")
def deltas_of_an_output_scale(impl):
    return output(impl).deltas()


@observe("merge", "Without a bias there is only a weight to change.")
def deltas_without_a_bias(impl):
    return output(impl, linear(bias=False)).deltas()


@observe("merge", "The merged layer should answer as the layer did.")
def merged_output_scale(impl):
    made, x = output(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "The change of the weight is not what the scale on the input amounts to.")
def delta_of_an_input_scale(impl):
    return into(impl).delta()


@observe("merge", "A scale on the input changes the weight and leaves the bias as it is.")
def deltas_of_an_input_scale(impl):
    return into(impl, linear(4, 4)).deltas()  # square, so that a wrong length is seen elsewhere


@observe("merge", "The merged layer should answer as the layer did.")
def merged_input_scale(impl):
    made, x = into(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "When l has learned more, the answer and the change of the weight should follow it.")
def after_l_has_changed(impl):
    def later(make):
        made = make(impl)
        changes(made)
        return changes(fill(made, "trainable", 2.0))

    return of_both(impl, later)


@observe(
    "merge",
    "What reads a layer's `weight` or `bias`, changed by l, sends l another gradient than it should, or none.",
)
def gradients_through_the_weight(impl):
    return of_both(impl, lambda make: through_weight(make(impl)))


@observe("merge", "A pass or a merge should leave the frozen weight and bias as they are.")
def frozen_numbers(impl):
    def left(make):
        base = linear()
        made = make(impl, base)
        changes(made), made.merged()
        return [base.weight - linear().weight, base.bias - linear().bias]

    return of_both(impl, left)


@observe(
    "training",
    "Each scale should be in exactly one group, with the learning rate that was asked for and without decay.",
)
def groups(impl):
    made = attached(impl)
    names = {p: name for name, p in made.named_parameters()}
    found = {name: [] for name in attach.trainable(made)}
    for group in impl.IA3().groups(made, 0.25):
        for p in group["params"]:
            found.setdefault(names[p], []).append({key: value for key, value in group.items() if key != "params"})
    return found


@observe("fine print", "In front of a LoRA, the layer should scale what comes out below, and merge to the same.")
def stacked(impl):
    made, x = [output(impl, lora()), into(impl, lora())], numbers("x", (4, 5))
    return [part(x) for part in made] + [part.merged()(x) - part(x) for part in made]
