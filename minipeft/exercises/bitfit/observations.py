"""BitFit: what a bias is, which of them are trained, and on what."""

from functools import cache

import torch
from torch import nn

from minipeft import attach, targets
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, model, numbers, types

observe = Observations()


class Traps(nn.Module):
    """Biases of every kind, and names that only look like one."""

    def __init__(self):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(6, 3)
        self.up, self.bias_free, self.norm = nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.LayerNorm(4)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(11))
        self.head = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
        self.header = nn.Linear(2, 2)


@cache
def traps():
    """(path, module, name) of all parameters of Traps, which nobody changes."""
    return weights(Traps())


def weights(made):
    return [place for place in targets.sites(made) if isinstance(getattr(*place[1:]), nn.Parameter)]


def two():
    """Two layers of different width."""
    return fill(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))


def told(impl, module, *names):
    return {name: bool(impl.is_bias(module, name)) for name in names}


def which(paths):
    return {path: True for path in sorted(paths)}


@observe(
    "what is a bias",
    "Of the `weight` and the `bias` of a layer, or of γ and β of a norm, the wrong one is taken for a bias.",
)
def of_usual_layers(impl):
    layers = nn.Linear(3, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4)
    return {type(layer).__name__: told(impl, layer, "weight", "bias") for layer in layers}


@observe(
    "what is a bias", "A parameter whose name only contains the word is not a bias, whether it is a vector or not."
)
def names_that_contain_it(impl):
    made = nn.Module()
    for name in ("bias_gain", "unbias", "debiased", "gain"):
        made.register_parameter(name, nn.Parameter(torch.ones(2)))
    return told(impl, made, *dict(made.named_parameters()))


@observe("what is a bias", "An LSTM has several biases, under names of their own.")
def of_an_LSTM(impl):
    return told(impl, nn.LSTM(3, 2), "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@observe("what is a bias", "A single cell of a GRU has biases too, under names of their own.")
def of_a_cell(impl):
    return told(impl, nn.GRUCell(3, 2), "weight_ih", "bias_ih", "bias_hh")


@observe("what is a bias", "A plain `nn.RNN` and a GRU have biases under the same names as an LSTM.")
def of_other_recurrent_layers(impl):
    return {kind.__name__: told(impl, kind(3, 2), "weight_ih_l0", "bias_hh_l0") for kind in (nn.RNN, nn.GRU)}


@observe("what is a bias", "The cells of an LSTM and of a plain RNN have biases, under the same names as a GRUCell.")
def of_other_cells(impl):
    return {kind.__name__: told(impl, kind(3, 2), "weight_ih", "bias_hh") for kind in (nn.LSTMCell, nn.RNNCell)}


@observe("what is a bias", "The bias of a layer of another class, one's own included, is called `bias` too.")
def of_other_layers(impl):
    own = nn.Module()
    own.weight, own.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))
    layers = {"one's own": own, "GroupNorm": nn.GroupNorm(1, 2), "Bilinear": nn.Bilinear(2, 2, 2)}
    return {name: told(impl, layer, "weight", "bias") for name, layer in layers.items()}


@observe(
    "what is a bias",
    "MultiheadAttention keeps the biases of q, k and v in one parameter; `bias_k` and `bias_v` are not biases.",
)
def of_an_attention(impl):
    return told(
        impl, nn.MultiheadAttention(4, 2, add_bias_kv=True), "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"
    )


@observe("inside", "A path is inside of a place if it is the place itself or lies below it.")
def itself_and_below(impl):
    paths = ("blocks.0", "blocks.0.attn", "blocks.0.attn.q.bias", "blocks.2.attn", "norm")
    return {path: bool(impl.inside(path, ["blocks.0"])) for path in paths}


@observe("inside", '"blocks.10" begins like "blocks.1" but lies elsewhere; and a place is a whole path, from the top.')
def names_that_look_alike(impl):
    paths = ("blocks.1", "blocks.1.bias", "blocks.10", "blocks.10.bias", "outer.blocks.1.bias")
    return {path: bool(impl.inside(path, ["blocks.1"])) for path in paths}


@observe("inside", "A path has to be inside of one of several places; without any place nothing is inside.")
def several_places(impl):
    return [bool(impl.inside("norm.bias", places)) for places in (["up", "norm"], ["norm", "up"], ["up", "head"], [])]


@observe("inside", 'The place "" is the whole model: every path is inside of it.')
def the_whole_model(impl):
    return [bool(impl.inside(path, [""])) for path in ("norm.bias", "blocks.0.attn.q.bias")]


@observe("chosen", "`chosen` should give the paths of all biases of a model, and nothing else.")
def all_biases(impl):
    return which(impl.chosen(traps(), [""], []))


@observe("chosen", "With places given, only the biases inside of them should be trained.")
def biases_of_some_places(impl):
    return which(impl.chosen(traps(), ["norm", "blocks.1", "up.bias"], []))


@observe("chosen", "A new head should be trained whole: all of its weights, beside the biases elsewhere.")
def with_a_head(impl):
    return which(impl.chosen(traps(), ["norm"], ["head"]))


@observe("copies", "There should be one trained copy for each path that was chosen.")
def what_is_copied(impl):
    made = two().requires_grad_(False)
    found = impl.copies(weights(made), {"0.bias", "1.bias"})
    return {path: [isinstance(p, nn.Parameter), p.requires_grad, list(p.shape)] for path, p in found.items()}


@observe("copies", "A copy should begin with the numbers of the original.")
def where_copies_begin(impl):
    made = two()
    return [impl.copies(weights(made), {"0.bias", "2.bias"})[path] for path in ("0.bias", "2.bias")]


@observe("copies", "When a copy is trained, the original should keep its numbers.")
def originals_are_left_alone(impl):
    made, before = two(), two()
    with torch.no_grad():
        for p in impl.copies(weights(made), {"0.bias", "1.bias"}).values():
            p.add_(1)
    return {name: p - q for (name, p), q in zip(made.named_parameters(), before.parameters(), strict=True)}


@observe("copies", "The original should stay frozen; only the copy is trained.")
def originals_stay_frozen(impl):
    made = two().requires_grad_(False)
    impl.copies(weights(made), {"0.bias", "1.bias"})
    return which(attach.trainable(made))


@observe(
    "copies", "A bias that two layers share is one parameter and should stay one; two that are equal should stay two."
)
def shared_bias(impl):
    made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        for layer in made:
            layer.bias.zero_()
    made[1].bias = made[0].bias
    found = impl.copies(weights(made), {"0.bias", "1.bias", "2.bias"})
    return {
        "0 and 1 are one": found["0.bias"] is found["1.bias"],
        "0 and 2 are one": found["0.bias"] is found["2.bias"],
    }


@observe("in a model", "The parameters that are trained in a Transformer are not the expected ones.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(impl.BitFit().attach(model(layers=1))).items()}


@observe("in a model", "Before the first step the model should answer exactly as the base.")
def start(impl):
    made, x = two(), numbers("x", (2, 3))
    before = made(x)
    return impl.BitFit().attach(made)(x) - before


@observe("in a model", "Whatever the view has learned, the base should answer as before.")
def the_base_afterwards(impl):
    made, x = two(), numbers("x", (2, 3))
    before = made(x)
    fill(impl.BitFit().attach(made), "trainable", 2.0)
    return made(x) - before


@observe("in a model", "A gradient should reach every trained parameter, and the input.")
def arriving_gradients(impl):
    made, x = impl.BitFit().attach(two()), numbers("x", (2, 3)).requires_grad_()
    return arrivals(made, made(x) + 0 * x.sum()) | {"x": bool(x.grad.any())}


@observe("in a model", "In a model of another type, a copy does not have the type of the original.")
def types_of_a_model(impl):
    def run(made):
        return made(numbers("x", (2, 3)).to(made[0].weight.dtype))

    return types(lambda dtype: impl.BitFit().attach(two().to(dtype)), run)


def per_parameter(impl, setting, settings=None, base=None):
    """{name: the setting in each of the groups that hold this parameter}"""
    method = impl.BitFit(**(settings or {}))
    made = method.attach(base or two())
    found, names = {}, {p: name for name, p in made.named_parameters()}
    for group in method.groups(made, 0.5):
        for p in group["params"]:
            found.setdefault(names[p], []).append(group.get(setting, "not set"))
    return found


@observe("the optimizer", "Weight decay should be set to zero for what BitFit trains.")
def decay(impl):
    return {name: list(map(in_words, found)) for name, found in per_parameter(impl, "weight_decay").items()}


def in_words(decay):
    return {True: "above zero", False: "zero"}[decay > 0] if isinstance(decay, int | float) else str(decay)


@observe(
    "the optimizer",
    "Weight decay should be set to zero for what BitFit trains, also for the weight of a head.",
)
def decay_of_a_head(impl):
    found = per_parameter(impl, "weight_decay", {"head": True}, model(layers=1))
    return {name: in_words(*decays) for name, decays in found.items() if "head" in name}


@observe("the optimizer", "Where only some biases are trained, the optimizer should get no others.")
def groups_of_some_places(impl):
    return per_parameter(impl, "lr", {"targets": ("2",)})


@observe("the optimizer", "Each trained parameter should be in exactly one group, at the rate that is asked for.")
def rates(impl):
    return per_parameter(impl, "lr")
