"""BitFit: what a bias is, which of them are trained, and on what."""

from functools import cache

import torch
from torch import nn

from minipeft import attach, targets
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, model, numbers

exercise = Exercise(
    "bitfit",
    "methods/bitfit.py",
    stubs=("is_bias", "inside", "chosen", "copies", "BitFit.groups"),
    title="BitFit: only the biases are trained",
    minutes=20,
    difficulty=1,
    why="How little has to move to change what a model does, and why a parameter is told by its place and not by a part of its name.",
    read="Ben Zaken, Ravfogel, Goldberg 2021, arXiv:2106.10199, section 3",
    lesson="03",
)


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


@exercise.observe(
    "what is a bias",
    "Of the `weight` and the `bias` of a layer, or of γ and β of a norm, the wrong one is taken for a bias.",
)
def of_usual_layers(impl):
    layers = nn.Linear(3, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4)
    return {type(layer).__name__: told(impl, layer, "weight", "bias") for layer in layers}


@exercise.observe(
    "what is a bias", "A parameter whose name only contains the word is not a bias, whether it is a vector or not."
)
def names_that_contain_it(impl):
    made = nn.Module()
    for name in ("bias_gain", "unbias", "debiased", "gain"):
        made.register_parameter(name, nn.Parameter(torch.ones(2)))
    return told(impl, made, *dict(made.named_parameters()))


@exercise.observe("what is a bias", "An LSTM has several biases, under names of their own.")
def of_an_LSTM(impl):
    return told(impl, nn.LSTM(3, 2), "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@exercise.observe("what is a bias", "A single cell of a GRU has biases too, under names of their own.")
def of_a_cell(impl):
    return told(impl, nn.GRUCell(3, 2), "weight_ih", "bias_ih", "bias_hh")


@exercise.observe(
    "what is a bias",
    "MultiheadAttention keeps the biases of q, k and v in one parameter; `bias_k` and `bias_v` are not biases.",
)
def of_an_attention(impl):
    return told(
        impl, nn.MultiheadAttention(4, 2, add_bias_kv=True), "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"
    )


@exercise.observe("inside", "A path is inside of a place if it is the place itself or lies below it.")
def itself_and_below(impl):
    paths = ("blocks.0", "blocks.0.attn", "blocks.0.attn.q.bias", "blocks.2.attn", "norm")
    return {path: bool(impl.inside(path, ["blocks.0"])) for path in paths}


@exercise.observe(
    "inside", '"blocks.10" begins like "blocks.1" but lies elsewhere; and a place is a whole path, from the top.'
)
def names_that_look_alike(impl):
    paths = ("blocks.1", "blocks.1.bias", "blocks.10", "blocks.10.bias", "outer.blocks.1.bias")
    return {path: bool(impl.inside(path, ["blocks.1"])) for path in paths}


@exercise.observe("inside", "A path has to be inside of one of several places; without any place nothing is inside.")
def several_places(impl):
    return [bool(impl.inside("norm.bias", places)) for places in (["up", "norm"], ["norm", "up"], ["up", "head"], [])]


@exercise.observe("inside", 'The place "" is the whole model: every path is inside of it.')
def the_whole_model(impl):
    return [bool(impl.inside(path, [""])) for path in ("norm.bias", "blocks.0.attn.q.bias")]


@exercise.observe("chosen", "`chosen` should give the paths of all biases of a model, and nothing else.")
def all_biases(impl):
    return which(impl.chosen(traps(), [""], []))


@exercise.observe("chosen", "With places given, only the biases inside of them should be trained.")
def biases_of_some_places(impl):
    return which(impl.chosen(traps(), ["norm", "blocks.1", "up.bias"], []))


@exercise.observe("chosen", "A new head should be trained whole: all of its weights, beside the biases elsewhere.")
def with_a_head(impl):
    return which(impl.chosen(traps(), ["norm"], ["head"]))


@exercise.observe("copies", "There should be one trained copy for each path that was chosen.")
def what_is_copied(impl):
    made = two().requires_grad_(False)
    found = impl.copies(weights(made), {"0.bias", "1.bias"})
    return {path: [isinstance(p, nn.Parameter), p.requires_grad, list(p.shape)] for path, p in found.items()}


@exercise.observe("copies", "A copy should begin with the numbers of the original.")
def where_copies_begin(impl):
    made = two()
    return [impl.copies(weights(made), {"0.bias", "2.bias"})[path] for path in ("0.bias", "2.bias")]


@exercise.observe("copies", "When a copy is trained, the original should keep its numbers.")
def originals_are_left_alone(impl):
    made, before = two(), two()
    with torch.no_grad():
        for p in impl.copies(weights(made), {"0.bias", "1.bias"}).values():
            p.add_(1)
    return {name: p - q for (name, p), q in zip(made.named_parameters(), before.parameters(), strict=True)}


@exercise.observe("copies", "The original should stay frozen; only the copy is trained.")
def originals_stay_frozen(impl):
    made = two().requires_grad_(False)
    impl.copies(weights(made), {"0.bias", "1.bias"})
    return which(attach.trainable(made))


@exercise.observe(
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


@exercise.observe("in a model", "The parameters that are trained in a Transformer are not the expected ones.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(impl.BitFit().attach(model(layers=1))).items()}


@exercise.observe("in a model", "Before the first step the model should answer exactly as the base.")
def start(impl):
    made, x = two(), numbers("x", (2, 3))
    before = made(x)
    return impl.BitFit().attach(made)(x) - before


@exercise.observe("in a model", "Whatever the view has learned, the base should answer as before.")
def the_base_afterwards(impl):
    made, x = two(), numbers("x", (2, 3))
    before = made(x)
    fill(impl.BitFit().attach(made), "trainable", 2.0)
    return made(x) - before


def per_parameter(impl, setting):
    """{name: the setting in each of the groups that hold this parameter}"""
    method = impl.BitFit()
    made = method.attach(two())
    found, names = {}, {p: name for name, p in made.named_parameters()}
    for group in method.groups(made, 0.5):
        for p in group["params"]:
            found.setdefault(names[p], []).append(group.get(setting, "not set"))
    return found


@exercise.observe("the optimizer", "Weight decay should be set to zero for what BitFit trains.")
def decay(impl):
    return per_parameter(impl, "weight_decay")


@exercise.observe(
    "the optimizer", "Each trained parameter should be in exactly one group, at the rate that is asked for."
)
def rates(impl):
    return per_parameter(impl, "lr")


exercise.mistake(
    "part of a name",
    (
        ('    return name == "bias"', '    return "bias" in name'),
        ('return name == "in_proj_bias"', 'return "bias" in name'),
    ),
    "whatever has `bias` somewhere in its name is taken for one",
    "is a parameter called bias_gain or bias_k a bias?",
    "Ask what the module does with it; PyTorch calls the bias of most layers by that very name.",
)
exercise.mistake(
    "end of a name",
    (('    return name == "bias"', '    return name.endswith("bias")'),),
    "whatever ends in `bias` is taken for one",
    "is a parameter called unbias a bias?",
    "A whole path may end in a dot and the word; a name alone has no dot to hold on to.",
)
exercise.mistake(
    "beginning of a name",
    (('return name == "in_proj_bias"\n    return name == "bias"', 'return name.startswith("bias")\n    return name.startswith("bias")'),),
    "whatever begins with `bias` is taken for one, in every kind of module",
    "what are `bias_k` and `bias_v` of `nn.MultiheadAttention`, and which of its names ends in bias?",
    "Only the recurrent layers number their biases; elsewhere it is one certain name.",
)  # fmt: skip
exercise.mistake(
    "every vector",
    (('    return name == "bias"', "    return getattr(module, name).ndim == 1"),),
    "every parameter with one dimension is taken for a bias",
    "which shapes have γ and β of a LayerNorm?",
    "γ is as long as β. The shape does not tell them apart, the name does.",
)
exercise.mistake(
    "linear layers only",
    (('    return name == "bias"', '    return name == "bias" and isinstance(module, nn.Linear)'),),
    "only linear layers count, so β of the norms stays frozen",
    "which letter of LayerNorm's γ ⊙ x̂ + β is a bias?",
    "The paper trains every bias, and a LayerNorm has one.",
)
exercise.mistake(
    "gain trained too",
    (('    return name == "bias"', '    return name == "bias" or isinstance(module, nn.LayerNorm)'),),
    "γ of the norms is trained along",
    "which of the two in γ ⊙ x̂ + β multiplies, and which is added?",
    "γ is a weight, small as it is; training it as well is another method.",
)
exercise.mistake(
    "no LSTM",
    (('    if isinstance(module, nn.RNNBase | nn.RNNCellBase):\n        return name.startswith("bias_")\n', ""),),
    "the biases of an LSTM or GRU are passed by",
    "what are the parameters of `nn.LSTM` called?",
    "The docstring tells two kinds of modules whose biases have names of their own.",
)
exercise.mistake(
    "no cells",
    (("nn.RNNBase | nn.RNNCellBase", "nn.RNNBase"),),
    "single cells, such as GRUCell, are passed by",
    "is a `nn.GRUCell` an `nn.GRU`?",
    "Layers and cells have different base classes in PyTorch.",
)
exercise.mistake(
    "no attention",
    (('    if isinstance(module, nn.MultiheadAttention):\n        return name == "in_proj_bias"\n', ""),),
    "the bias of q, k and v in `nn.MultiheadAttention` is passed by",
    "where does `nn.MultiheadAttention` keep its three biases?",
    "It is one parameter of length 3d, with a name of its own.",
)
exercise.mistake(
    "begins alike",
    (('path.startswith(place + ".")', "path.startswith(place)"),),
    '"blocks.10" is taken for something below "blocks.1"',
    "what has to stand between a place and what is below it?",
    "Names of a path are separated by dots; compare whole names.",
)
exercise.mistake(
    "somewhere in the path",
    (('not place or path == place or path.startswith(place + ".")', "place in path"),),
    "a place is looked for anywhere in the path",
    "is blocks.10 inside of blocks.1?",
    "`in` compares letters. A place is a whole path: it begins at the top and ends at a dot or at the end.",
)
exercise.mistake(
    "below only",
    (("not place or path == place or path", "not place or path"),),
    "a place that is a bias itself is not found",
    'what is inside of the place "up.bias"?',
    "A place may be the parameter's own path.",
)
exercise.mistake(
    "the whole model forgotten",
    (("not place or path == place or path", "path == place or path"),),
    'the place "", which is the whole model, has nothing inside',
    "which path begins with a dot?",
    "The model itself has no name; everything is below it.",
)
exercise.mistake(
    "all places at once",
    (("return any(not place", "return all(not place"),),
    "a path has to be inside of all places, where one is enough",
    "can a bias be in `up` and in `norm`?",
    "Places are alternatives.",
)
exercise.mistake(
    "head forgotten",
    (("    return biases | {path for path, *_ in weights if inside(path, head)}", "    return biases"),),
    "the head stays frozen though it is asked for",
    "a new head has random weights: are they trained?",
    "The paper trains the biases and the task's head.",
)
exercise.mistake(
    "biases of the head only",
    (("inside(path, head)}", "is_bias(_[0], _[1]) and inside(path, head)}"),),
    "of the head only the biases are trained",
    "what is known about the weight of a new head?",
    "A new head is random, all of it; a bias alone cannot mend that.",
)
exercise.mistake(
    "head only",
    (("    return biases | {path for path, *_ in weights if inside(path, head)}", "    head = {path for path, *_ in weights if inside(path, head)}\n    return head or biases"),),
    "with a head to train, the biases elsewhere are forgotten",
    "what is trained in the blocks when there is a new head?",
    "The head comes in addition.",
)  # fmt: skip
exercise.mistake(
    "places ignored",
    (("if is_bias(module, name) and inside(path, places)}", "if is_bias(module, name)}"),),
    "all biases are trained, whatever the places are",
    "what changes in your result when only one place is given?",
    "A bias has to be a bias and to be inside of one of the places.",
)
exercise.mistake(
    "part of a path",
    (("if is_bias(module, name) and inside(path, places)}", 'if "bias" in path and inside(path, places)}'),),
    "the word `bias` is looked for in the whole path",
    "what is `relative_attention_bias.weight` of T5?",
    "That is a table of positions. Another module's name does not make a parameter a bias.",
    "peft went by parts of names once, and by the kind of a module now",
)
exercise.mistake(
    "everything inside",
    (("if is_bias(module, name) and inside(path, places)}", "if inside(path, places)}"),),
    "all weights inside of the places are trained, not the biases alone",
    "how many of your paths end in weight?",
    "Full fine-tuning trains all; the point here is how little is enough.",
)
exercise.mistake(
    "originals trained",
    (("new[p] = nn.Parameter(p.detach().clone())", "new[p] = p.requires_grad_(True)"),),
    "the originals themselves are trained, so the base is trained along",
    "with which model do the parameters of a fresh view share their memory?",
    "The docstring speaks of new parameters, since the base still needs the old numbers.",
    'peft warns that with bias="all" `disable_adapter` no longer gives the base',
)
exercise.mistake(
    "memory shared",
    (("nn.Parameter(p.detach().clone())", "nn.Parameter(p.detach())"),),
    "the new parameter shares its memory with the original: one step moves both",
    "does `detach` copy any numbers?",
    "A new Parameter around old memory is only a new name for it, and that memory is the base's.",
)
exercise.mistake(
    "from zero",
    (("nn.Parameter(p.detach().clone())", "nn.Parameter(p.detach() * 0)"),),
    "the new biases start at zero, and what the old ones knew is gone",
    "does the model answer as the base before the first step?",
    "Pretrained biases are part of what the model knows; go on from them.",
)  # fmt: skip
exercise.mistake(
    "no parameter",
    (("nn.Parameter(p.detach().clone())", "p.detach().clone()"),),
    "the copies are plain tensors, which no optimizer will find",
    "of which class is what you return?",
    "Only an `nn.Parameter` can take the place of one.",
)
exercise.mistake(
    "frozen copies",
    (("nn.Parameter(p.detach().clone())", "nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)"),),
    "the copies are as frozen as the originals are",
    "how many parameters are trained after `attach`?",
    "The model was frozen before; what is copied now is what should learn.",
)
exercise.mistake(
    "one becomes two",
    (("        if p not in new:\n            new[p] = nn.Parameter(p.detach().clone())\n", "        new[p] = nn.Parameter(p.detach().clone())\n"),
     ("    return {path: new[p] for path, p in there.items()}", "    return {path: nn.Parameter(p.detach().clone()) for path, p in there.items()}")),
    "a bias that two layers share becomes two, which then go different ways",
    "what is `layer1.bias is layer2.bias` before and after?",
    "Remember which copy was made for which original.",
)  # fmt: skip
exercise.mistake(
    "decay left on",
    (('return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]', "return super().groups(model, lr)"),),
    "the biases decay as the optimizer decays everything",
    "where does weight decay draw a bias: to what it was, or to zero?",
    "A group may bring its own `weight_decay`, which counts more than the optimizer's.",
)  # fmt: skip
exercise.mistake(
    "rate lost",
    (('return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]', 'return [{"params": group["params"], "weight_decay": 0.0} for group in super().groups(model, lr)]'),),
    "the groups do not tell the learning rate",
    "which rate does a group have that names none?",
    "The optimizer would take its default, whatever is asked for.",
)  # fmt: skip
exercise.mistake(
    "everything to the optimizer",
    (('return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]', 'return [{"params": list(model.parameters()), "lr": lr, "weight_decay": 0.0}]'),),
    "the optimizer gets the frozen weights too",
    "how many parameters do your groups hold, and how many are trained?",
    "Give it what is trained and nothing else: `trainable` of attach lists that, and so does the method above this one.",
)  # fmt: skip

exercise.right(
    "by the names of a table",
    (('    if isinstance(module, nn.RNNBase | nn.RNNCellBase):\n        return name.startswith("bias_")\n    if isinstance(module, nn.MultiheadAttention):\n        return name == "in_proj_bias"\n    return name == "bias"',
      '    recurrent = isinstance(module, nn.LSTM | nn.GRU | nn.RNN | nn.LSTMCell | nn.GRUCell | nn.RNNCell)\n    own = "bias_" if recurrent else "in_proj_bias" if isinstance(module, nn.MultiheadAttention) else "bias"\n    return name[: len(own)] == own if recurrent else name == own'),),
)  # fmt: skip
exercise.right(
    "name by name",
    (('    return any(not place or path == place or path.startswith(place + ".") for place in places)',
      '    names = path.split(".")\n    for place in places:\n        above = place.split(".") if place else []\n        if names[: len(above)] == above:\n            return True\n    return False'),),
)  # fmt: skip
exercise.right(
    "with a dot at both ends",
    (('any(not place or path == place or path.startswith(place + ".") for place in places)', 'any(f".{path}.".startswith(f".{place}." if place else ".") for place in places)'),),
)  # fmt: skip
exercise.right(
    "in a loop",
    (("    biases = {path for path, module, name in weights if is_bias(module, name) and inside(path, places)}\n    return biases | {path for path, *_ in weights if inside(path, head)}",
      "    found = set()\n    for path, module, name in weights:\n        if inside(path, head) or (inside(path, places) and is_bias(module, name)):\n            found.add(path)\n    return found"),),
)  # fmt: skip
exercise.right(
    "remembered by identity",
    (("    new = {}\n    there = {path: getattr(module, name) for path, module, name in weights if path in paths}\n    for p in there.values():\n        if p not in new:\n            new[p] = nn.Parameter(p.detach().clone())\n    return {path: new[p] for path, p in there.items()}",
      "    import copy\n\n    memory, new = {}, {}\n    for path, module, name in weights:\n        if path in paths:\n            new[path] = copy.deepcopy(getattr(module, name), memory).requires_grad_(True)\n    return new"),),
)  # fmt: skip
exercise.right(
    "one group by hand",
    (('return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]', 'mine = [p for p in model.parameters() if p.requires_grad]\n        return [{"params": [p], "lr": lr, "weight_decay": 0} for p in mine[:1]] + [dict(params=mine[1:], lr=lr, weight_decay=0)]'),),
)  # fmt: skip

exercise.variant(
    "gain too",
    (('    return name == "bias"', '    return name == "bias" or isinstance(module, nn.LayerNorm)'),
     ("LayerNorm: β (d) is trained, γ (d) is not", "LayerNorm: β (d) is trained, and here γ (d) too"),
     ("    Two kinds have names of their own.", "    Here γ of a LayerNorm counts as one too. Two kinds have names of their own.")),
    "γ of a LayerNorm counts as a bias too",
)  # fmt: skip
exercise.variant(
    "keys left out",
    (("if is_bias(module, name) and inside(path, places)}", 'if is_bias(module, name) and inside(path, places) and not path.endswith(".k.bias")}'),
     ("all weights inside of `head`.\n", "all weights inside of `head`.\n\n    Here the idle ones are left out: the biases whose paths end in `.k.bias`.\n")),
    "the biases of keys, which are idle, are left out: paths that end in .k.bias",
)  # fmt: skip
exercise.variant(
    "ten times faster",
    (('return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]', 'return [group | {"weight_decay": 0.0, "lr": 10 * lr} for group in super().groups(model, lr)]'),
     ('"""As in every method, but without decay,', '"""As in every method, but at ten times the rate `lr` and without decay,')),
    "the biases learn ten times as fast as the rate says",
)  # fmt: skip
