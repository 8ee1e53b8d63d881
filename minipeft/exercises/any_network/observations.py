"""LoRA without a Transformer: in front of convolutions of every kind, and on the weights of recurrent layers."""

import torch
import torch.nn.functional as F
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import after_a_move, arrivals, fill, numbers, short, through_weight, types
from minipeft.methods.lora import LoRAConv2d
from minipeft.views import merge

observe = Observations()

INTO, OUT, RANK = 3, 4, 2  # all of them differ, and from the sides of the kernel too
PLAIN = {"kernel_size": (3, 5), "padding": (1, 2)}
WEIGHT = (8, 5)


def conv(**settings):
    """A frozen convolution with a kernel that is not square and a bias that is not zero."""
    return fill(nn.Conv2d(INTO, OUT, **(PLAIN | settings))).requires_grad_(False)


def picture(side=9):
    return numbers("picture", (2, INTO, side, side + 2))


def layer(impl, rank=RANK, scale=3.0, dropout=0.0, **settings):
    """A LoRAConv2d far from its start."""
    return fill(impl.LoRAConv2d(conv(**settings), rank, scale, dropout), "trainable").eval()


def update(impl, rank=RANK, scale=3.0, **settings):
    """What the layer adds to the answer of its base."""
    return layer(impl, rank, scale, **settings)(picture()) - conv(**settings)(picture())


def named(impl, shape=WEIGHT, rank=RANK, scale=3.0):
    """A LoRAWeight far from its start."""
    return fill(impl.LoRAWeight(numbers("weight", shape), rank, scale), "trainable")


class Recurrent(nn.Module):
    """A recurrent layer, of which the last state is read."""

    def __init__(self, kind, **settings):
        super().__init__()
        self.rnn = kind(5, 3, batch_first=True, **settings)
        fill(self)

    def forward(self, x):
        return self.rnn(x)[0]


NETWORKS = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "LSTM without biases, in both directions": (nn.LSTM, {"bias": False, "bidirectional": True}),
    "GRU of two layers": (nn.GRU, {"num_layers": 2}),
}


def recurrent(impl, name):
    """(the network, LoRA on every matrix of it, rows for it); what is trained is far from its start."""
    kind, settings = NETWORKS[name]
    base = Recurrent(kind, **settings)
    matrices = tuple(path for path, p in base.named_parameters() if p.ndim == 2)
    made = fill(impl.LoRA(rank=RANK, alpha=6, targets=matrices).attach(base), "trainable")
    return base, made, numbers("rows", (2, 4, 5))


class Pictures(nn.Module):
    """Two convolutions, one with a stride."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(INTO, OUT, 3, padding=1, stride=2)
        self.second = nn.Conv2d(OUT, 5, (1, 3), bias=False)
        fill(self)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def shapes(module):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(module).items()}


def refused(make):
    """What becomes of a layer that cannot be."""
    try:
        make()
    except (ValueError, TypeError) as error:
        return f"refused with a {type(error).__name__}"
    return "made"


def spread(p):
    """How the numbers of a factor lie, in words."""
    p = p.detach()
    return "all zero" if not p.any() else "all alike" if p.min() == p.max() else "random"


def ends(factors, inputs):
    """The least and the greatest number that A starts with, in units of 1/√inputs."""
    return [round(10 * float(end) * inputs**0.5) / 10 for end in factors["A"].detach().aminmax()]


def drawn(make):
    """Do two of them start alike, and does making one set the seed of all random numbers?"""
    one, two = ([p.detach() for p in attach.trainable(make()).values() if p.any()] for _ in "ab")
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        make()
        after.append(float(torch.rand(())))
    alike = [torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    return {"two start alike": any(alike), "a seed is set": after[0] == after[1]}


# ---- in front of a convolution -----------------------------------------------------------------------------------


@observe("convolution: set-up", "A should be (r, in, k, k') as the kernel is, B (out, r); nothing else is trained.")
def factors_of_a_convolution(impl):
    return shapes(impl.LoRAConv2d(conv(), RANK, 3.0))


@observe("convolution: set-up", "A and B should have the type of the base, 16 bits in front of 16 bits.")
def type_of_the_factors(impl):
    bases = [conv().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{n: short(p.dtype) for n, p in attach.trainable(impl.LoRAConv2d(b, RANK, 3.0)).items()} for b in bases]


@observe("convolution: set-up", "A convolution in groups has a ΔW of another form: it should be refused.")
def convolution_in_groups(impl):
    return refused(lambda: impl.LoRAConv2d(nn.Conv2d(4, 4, 3, groups=2), RANK, 3.0))


@observe("convolution: set-up", "At the start the output must be exactly that of the base.")
def start_of_a_convolution(impl):
    return impl.LoRAConv2d(conv(), RANK, 3.0)(picture()) - conv()(picture())


@observe("convolution: set-up", "One of the two factors must start at zero, the other random.")
def spread_of_the_start(impl):
    return {name: spread(p) for name, p in attach.trainable(impl.LoRAConv2d(conv(), RANK, 3.0)).items()}


@observe("convolution: set-up", "A should start even between ±1/√inputs, where the inputs of a number are in · k · k'.")
def width_of_the_start(impl):
    base = nn.Conv2d(40, 30, (3, 5)).requires_grad_(False)
    return ends(attach.trainable(impl.LoRAConv2d(base, 20, 1.0)), 40 * 15)


@observe("convolution: set-up", "Two layers should start with different random numbers, and no seed should be set.")
def two_layers(impl):
    return drawn(lambda: impl.LoRAConv2d(conv(), RANK, 3.0))


@observe("convolution: forward", "The update that is added to the base, s·B (A∗x), is not the expected one.")
def update_of_a_convolution(impl):
    return update(impl)


@observe("convolution: forward", "With another rank and scale the update is not the expected one.")
def update_at_another_scale(impl):
    return update(impl, rank=3, scale=0.5)


@observe("convolution: forward", "The frozen path must reach the output once, its bias included.")
def whole_output(impl):
    return layer(impl)(picture())


@observe("convolution: forward", "Without a bias in the base the layer should work as well.")
def without_a_bias(impl):
    return update(impl, bias=False)


@observe("convolution: forward", "With a stride, A must take the same steps over the picture as the base.")
def stride(impl):
    return update(impl, stride=(2, 3))


@observe("convolution: forward", "With another padding, A must see the same rim as the base.")
def padding(impl):
    return {"none": update(impl, padding=0), "wider": update(impl, padding=(3, 0))}


@observe("convolution: forward", "With holes in the kernel (dilation), A must have the same holes.")
def dilation(impl):
    return update(impl, dilation=(2, 1))


@observe("convolution: forward", "Where the base continues the picture round its rim, A must do so too.")
def other_rims(impl):
    return {mode: update(impl, padding_mode=mode) for mode in ("circular", "reflect")}


@observe("convolution: forward", "With a kernel of one pixel the layer should be LoRA at each pixel.")
def kernel_of_one_pixel(impl):
    return update(impl, kernel_size=1, padding=0)


@observe("convolution: forward", "A gradient should reach both A and B once B is no longer zero.")
def where_gradients_arrive(impl):
    return arrivals(made := layer(impl), made(picture().requires_grad_()))


@observe("convolution: forward", "The gradients of A and B, or the one for the layer below, are not the expected ones.")
def gradients_of_a_convolution(impl):
    made, x = layer(impl, stride=2), picture().requires_grad_()
    made(x).pow(2).sum().backward()
    return {"x": x.grad} | {name: p.grad for name, p in attach.trainable(made).items()}


@observe("convolution: forward", "Dropout should act on the input of A, while training only, never on the frozen path.")
def dropout(impl):
    x, whole = torch.ones(100, INTO, 1, 1), {"kernel_size": 1, "padding": 0, "rank": 1}
    made = layer(impl, dropout=0.5, **whole)
    usual, base = made(x), conv(kernel_size=1, padding=0)(x)
    trained = made.train()(x)
    gone = (trained - base).abs().flatten(1).max(1).values < 1e-9
    return {
        "in evaluation": usual - base,
        "of 100 pictures of three numbers, is the update of about an eighth gone": bool(2 <= gone.sum() <= 35),
        "an update has a part of 0, 1, 2 or 3 inputs": len({round(float(v), 6) for v in (trained - base)[:, 0, 0, 0]}),
    }


@observe(
    "convolution: forward",
    "Dropout should drop single numbers of x; yours drops a whole channel of a picture, or none of it.",
)
def dropout_of_single_numbers(impl):
    x, whole = torch.ones(100, INTO, 1, 5), {"kernel_size": 1, "padding": 0, "rank": 1}
    made = layer(impl, dropout=0.5, **whole)
    update = made.train()(x) - conv(kernel_size=1, padding=0)(x)
    return {"the pixels of a picture lose different inputs": bool((update - update[..., :1]).abs().max() > 1e-9)}


@observe("convolution: forward", "After A and B have changed, the answer should follow. Is something kept from before?")
def after_a_change(impl):
    return after_a_move(lambda: layer(impl), lambda made: made(picture()))


@observe("convolution: forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = picture()
    return types(
        lambda dtype: impl.LoRAConv2d(conv().to(dtype), RANK, 3.0), lambda made: made(x.to(made.base.weight.dtype))
    )


@observe("convolution: forward", "In front of another LoRA, the layer should add to what comes out below.")
def stacked(impl):
    below = fill(LoRAConv2d(conv(stride=2), RANK, 3.0), "trainable", 0.3).requires_grad_(False)
    return fill(impl.LoRAConv2d(below, RANK, 3.0), "trainable").eval()(picture()) - below(picture())


@observe("convolution: forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = picture()
    layer(impl)(x)
    return x - picture()


@observe("convolution: delta", "ΔW should be the kernel, (out, in, k, k'), that adds what B and A add.")
def delta_of_a_convolution(impl):
    return layer(impl).delta()


@observe("convolution: delta", "After A and B have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    return after_a_move(lambda: layer(impl), lambda made: made.delta())


@observe("convolution: delta", "The update should be what the base's own convolution makes with ΔW as its kernel.")
def delta_is_the_update(impl):
    made = layer(impl, stride=2)
    return made(picture()) - conv(stride=2)(picture()) - F.conv2d(picture(), made.delta(), None, 2, (1, 2))


@observe("convolution: delta", "What reads `weight`, and never calls the layer, must send a gradient to A and B.")
def gradient_through_delta(impl):
    return through_weight(layer(impl))


@observe("convolution: delta", "A merged network should answer as the one with A and B.")
def merged_convolutions(impl):
    base = Pictures()
    made = fill(impl.LoRA(rank=RANK, alpha=6, targets=("first", "second")).attach(base), "trainable").eval()
    return {"moved": made(picture()) - base(picture()), "merged − unmerged": merge(made)(picture()) - made(picture())}


# ---- a weight by its name ----------------------------------------------------------------------------------------


@observe("named weight: set-up", "For a weight (8, 5), A should be (r, 5), B (8, r); nothing else is kept.")
def factors_of_a_weight(impl):
    made = impl.LoRAWeight(numbers("weight", WEIGHT), RANK, 3.0)
    return {"trained": shapes(made), "kept": sorted(made.state_dict())}


@observe("named weight: set-up", "A frozen weight must not be kept: the checkpoint would hold what the base has.")
def what_is_kept_of_a_parameter(impl):
    return sorted(impl.LoRAWeight(nn.Parameter(numbers("weight", WEIGHT), False), RANK, 3.0).state_dict())


@observe("named weight: set-up", "A weight of three axes is a matrix of its first axis against all the others.")
def factors_of_three_axes(impl):
    return shapes(impl.LoRAWeight(numbers("weight", (4, 3, 5)), RANK, 3.0))


@observe("named weight: set-up", "A vector has no low-rank change: it should be refused.")
def vector(impl):
    return refused(lambda: impl.LoRAWeight(numbers("weight", (8,)), RANK, 3.0))


@observe("named weight: set-up", "A and B should have the type of the weight.")
def type_of_the_factors_of_a_weight(impl):
    weights = [numbers("weight", WEIGHT).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{n: short(p.dtype) for n, p in attach.trainable(impl.LoRAWeight(w, RANK, 3.0)).items()} for w in weights]


@observe("named weight: set-up", "B should start at zero and A random.")
def spread_of_the_start_of_a_weight(impl):
    made = impl.LoRAWeight(numbers("weight", WEIGHT), RANK, 3.0)
    return {name: spread(p) for name, p in attach.trainable(made).items()}


@observe("named weight: set-up", "A should start even between ±1/√inputs; the inputs are all axes but the first.")
def width_of_the_start_of_a_weight(impl):
    return ends(attach.trainable(impl.LoRAWeight(torch.zeros(30, 40, 10), 20, 1.0)), 400)


@observe("named weight: set-up", "Two weights should start with different random numbers, and no seed should be set.")
def two_weights(impl):
    return drawn(lambda: impl.LoRAWeight(numbers("weight", WEIGHT), RANK, 3.0))


@observe("named weight: forward", "From W, the layer should make W + s·BA.")
def new_weight(impl):
    return named(impl)(numbers("weight", WEIGHT))


@observe("named weight: forward", "At another scale and rank, and with three axes, the new weight is not as expected.")
def new_weight_of_three_axes(impl):
    return named(impl, (4, 3, 5), rank=3, scale=0.5)(numbers("weight", (4, 3, 5)))


@observe("named weight: forward", "ΔW should be s·BA, in the shape of the weight.")
def delta_of_a_weight(impl):
    return {"two axes": named(impl).delta(), "three": named(impl, (4, 3, 5)).delta()}


@observe("named weight: forward", "After A and B, or W, have changed, the new weight should follow. Is something kept?")
def new_weight_after_a_change(impl):
    W = numbers("weight", WEIGHT)
    of_factors = after_a_move(lambda: named(impl), lambda made: made(W))
    made = named(impl)
    made(W)
    return {"A and B": of_factors, "W": made(W + 1) - named(impl)(W + 1)}


@observe("named weight: forward", "The weight that the layer is given is changed in place: it belongs to the base.")
def the_base_is_left_alone(impl):
    W = numbers("weight", WEIGHT)
    named(impl)(W)
    return W - numbers("weight", WEIGHT)


@observe("named weight: forward", "The gradients of A and B, or the one that goes on to W, are not the expected ones.")
def gradients_of_a_weight(impl):
    made, W = named(impl), numbers("weight", WEIGHT).requires_grad_()
    made(1 * W).pow(2).sum().backward()
    return {"W": W.grad} | {name: p.grad for name, p in attach.trainable(made).items()}


@observe("named weight: forward", "What reads ΔW must send a gradient to A and B.")
def gradient_through_the_delta_of_a_weight(impl):
    made = named(impl)
    read = (made.delta() * numbers("reader", WEIGHT)).sum()
    if read.requires_grad:
        read.backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@observe("named weight: forward", "For a weight in 64 or 16 bits, the new weight or its type is not the expected one.")
def weights_of_other_types(impl):
    def make(dtype):
        made = impl.LoRAWeight(numbers("weight", WEIGHT).to(dtype), RANK, 3.0)
        made.given = dtype
        return made

    return types(make, lambda made: made(numbers("weight", WEIGHT).to(made.given)))


@observe("in a network", "With all its matrices changed, a recurrent network does not answer as expected.")
def recurrent_networks(impl):
    found = {}
    for name in NETWORKS:
        base, made, x = recurrent(impl, name)
        found[name] = made(x) - base(x)
    return found


@observe("in a network", "Of a recurrent network, a gradient should reach every A and every B.")
def where_gradients_arrive_in_a_network(impl):
    found = {}
    for name in ("LSTM", "GRU of two layers"):
        _, made, x = recurrent(impl, name)
        found[name] = arrivals(made, made(x))
    return found


@observe("in a network", "On a weight that a LoRA has changed already, the layer should change what comes out of that.")
def weight_changed_twice(impl):
    base = Recurrent(nn.LSTM)
    below = fill(impl.LoRA(rank=1, alpha=2, targets=("rnn.weight_hh_l0",)).attach(base), "trainable", 0.3)
    made = fill(impl.LoRA(rank=RANK, alpha=6, targets=("rnn.weight_hh_l0",)).attach(below), "trainable")
    x = numbers("rows", (2, 4, 5))
    return made(x) - base(x)


@observe("in a network", "A merged recurrent network should answer as the one with A and B.")
def merged_recurrent_networks(impl):
    found = {}
    for name in NETWORKS:
        _, made, x = recurrent(impl, name)
        found[name] = merge(made)(x) - made(x)
    return found


@observe("in a network", "The kernel of a convolution can be named as well: then the answers are those of LoRAConv2d.")
def kernel_by_its_name(impl):
    base = Pictures()
    made = fill(impl.LoRA(rank=RANK, alpha=6, targets=("first.weight",)).attach(base), "trainable")
    A, B = attach.trainable(made).values()
    with torch.no_grad():
        kernel = base.first.weight + 3.0 * (B @ A).view_as(base.first.weight)
        return made(picture()) - base.second(torch.tanh(F.conv2d(picture(), kernel, base.first.bias, 2, 1)))
