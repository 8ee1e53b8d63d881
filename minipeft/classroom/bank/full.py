"""Full fine-tuning on copies: which weights, tied ones, and a base that stays as it is."""

import torch
from torch import nn

from minipeft import attach, deltas
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, numbers

exercise = Exercise(
    "full",
    "methods/full.py",
    stubs=("copied", "Full.insert", "Full.chosen"),
    title="Full fine-tuning: every weight, and the base kept beside it",
    minutes=20,
    difficulty=1,
    why="What the other methods are measured with: what it means to train all, and what a copy for each task costs.",
    read="lesson 02, and the docstring of `targets.match`",
    lesson="02",
)

COPY = "return nn.Parameter(weight.detach().clone())"
LOOP = "        for path, weight in self.chosen(model):\n            if weight not in copies:\n                copies[weight] = copied(weight)\n            swap(model, path, copies[weight])"
PLACES = "places = [(path, getattr(parent, name)) for path, parent, name in sites(model)]  # modules and weights"
WEIGHTS = "weights = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter)]"
NAMED = "named = [path for path, *_ in match(model, self.targets)]"
BELOW = 'return [(path, weight) for path, weight in weights if any(f"{path}.".startswith(f"{n}.") for n in named)]'


class Tied(nn.Module):
    """A head that is tied to the embedding, layers whose names begin or end alike, a norm."""

    def __init__(self):
        super().__init__()
        self.token, self.up, self.norm_q = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.upper = nn.ModuleDict({"q": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 7, bias=False)
        fill(self)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        return self.head(self.norm_q(self.upper["q"](torch.tanh(self.up(self.token(tokens))))))


TOKENS = torch.tensor([[1, 4, 6], [0, 2, 2]])


def attached(impl, targets=None, made=None):
    return impl.Full(targets=targets).attach(made or Tied())


def moved(made):
    """Every trained weight one further."""
    with torch.no_grad():
        for p in attach.trainable(made).values():
            p += 1
    return made


def swapped(made):
    """The places that were changed: a tied weight has two."""
    return sorted(attach.attachments(made)[0].layers)


@exercise.observe("copy", "A copied weight should have the same numbers as the weight.")
def numbers_of_a_copy(impl):
    weight = nn.Parameter(numbers("W", (3, 4)))
    return impl.copied(weight) - weight


@exercise.observe(
    "copy", "A copied weight should be a parameter that gets a gradient, also where the weight is frozen."
)
def kind_of_a_copy(impl):
    made = impl.copied(nn.Parameter(numbers("W", (3, 4)), requires_grad=False))
    return {"type": type(made).__name__, "gets a gradient": made.requires_grad and made.is_leaf}


@exercise.observe("copy", "A change of the copy must not be a change of the weight.")
def memory_of_a_copy(impl):
    weight = nn.Parameter(numbers("W", (3, 4)), requires_grad=False)
    with torch.no_grad():
        impl.copied(weight).add_(1)
    return weight - numbers("W", (3, 4))


@exercise.observe("copy", "A copied weight should have the type of the weight.")
def type_of_a_copy(impl):
    return str(impl.copied(nn.Parameter(numbers("W", (3, 4)).bfloat16())).dtype)


@exercise.observe("which weights", "Without targets every weight should be trained, biases and norms included.")
def all_weights(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("which weights", "`targets` names a module: what is below it should be trained, and nothing else.")
def weights_below_a_module(impl):
    return {targets: swapped(attached(impl, (targets,))) for targets in ("up", "q", "norm_q")}


@exercise.observe("which weights", "`targets` names a single weight: that one should be trained, and nothing else.")
def one_weight(impl):
    return swapped(attached(impl, ("up.weight",)))


@exercise.observe(
    "which weights", "Where `targets` names several places, the weights of all should be trained, each of them once."
)
def several_targets(impl):
    return sorted(path for path, _ in impl.Full(("norm_q.bias", "upper", "q")).chosen(Tied()))


@exercise.observe("which weights", "`chosen` should give pairs of a dotted name and the weight that stands there.")
def chosen(impl):
    return [[path, weight] for path, weight in impl.Full(("upper",)).chosen(Tied())]


@exercise.observe("start", "Before training the model should answer as the base.")
def start(impl):
    return attached(impl)(TOKENS) - Tied()(TOKENS)


@exercise.observe("tied weights", "A weight that stands in two places should be one weight in the copy too.")
def one_copy_of_a_tied_weight(impl):
    made = attached(impl)
    return [made.head.weight is made.token.weight, sum(p.numel() for p in made.parameters())]


@exercise.observe("tied weights", "Each of the two places of a tied weight should get the copy.")
def places_of_a_tied_weight(impl):
    return swapped(attached(impl))


@exercise.observe("tied weights", "A tied weight should be stored once.")
def what_is_stored(impl):
    return {name: t.numel() for name, t in deltas.trained(attached(impl)).items()}


@exercise.observe("training", "After all weights have moved, the model does not answer as it should.")
def after_a_move(impl):
    return moved(attached(impl))(TOKENS)


@exercise.observe("training", "The gradients that reach the weights are not the expected ones.")
def gradients(impl):
    made = attached(impl)
    made(TOKENS).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@exercise.observe("the base", "After all weights have moved, the base should answer as it always did.")
def the_base_afterwards(impl):
    return attach.detach(moved(attached(impl)))(TOKENS) - Tied()(TOKENS)


@exercise.observe("the base", "Another view of the same base should not change with what this one has learned.")
def another_view(impl):
    base = Tied()
    other = attached(impl, ("up",), base)
    moved(attached(impl, made=base))
    return other(TOKENS) - Tied()(TOKENS)


exercise.mistake(
    "memory is shared",
    ((COPY, "return nn.Parameter(weight.detach())"),),
    "the copy uses the memory of the original, so the base is trained along",
    "what does the base answer after a step on your copy?",
    "`detach` leaves the graph, not the memory: two tensors look at the same numbers.",
)
exercise.mistake(
    "plain tensor that learns",
    ((COPY, "return weight.detach().clone().requires_grad_(True)"),),
    "the copy gets a gradient, but it is a plain tensor, not a parameter",
    "what does `isinstance(copy, nn.Parameter)` say?",
    "A module lists, moves and saves parameters; a tensor in their place is refused.",
)
exercise.mistake(
    "plain tensor",
    ((COPY, "return weight.clone()"),),
    "the copy is a plain tensor, not a parameter",
    "what does `isinstance(copy, nn.Parameter)` say?",
    "A module registers parameters; a tensor in their place is refused or never trained.",
)
exercise.mistake(
    "copy is frozen",
    ((COPY, "return nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)"),),
    "the copy is as frozen as the original",
    "which parameters of a fresh view are frozen, and what does a copy inherit?",
    "Everything in a view is frozen at first; what should be trained has to say so, and `deepcopy` keeps the flag.",
)
exercise.mistake(
    "from scratch",
    ((COPY, "return nn.Parameter(weight.new_empty(weight.shape).normal_())"),),
    "the weights start random: this would be training from scratch",
    "what does the model know before the first step?",
    "Fine-tuning begins where pretraining ended.",
)  # fmt: skip
exercise.mistake(
    "from zero",
    ((COPY, "return nn.Parameter(weight.new_zeros(weight.shape))"),),
    "the copy starts at zero, as if it were a change of the weight",
    "what stands in the model after the swap: a change, or the weight itself?",
    "The copy takes the place of the weight, so it needs its numbers.",
)
exercise.mistake(
    "type of their own",
    ((COPY, "return nn.Parameter(weight.detach().float().clone())"),),
    "the copy is always in 32 bits",
    "what happens where a weight of 32 bits meets an input of 16?",
    "A copy has the type of what it stands for.",
)
exercise.mistake(
    "ties are cut",
    ((LOOP, "        for path, weight in self.chosen(model):\n            swap(model, path, copied(weight))"),),
    "a weight that stands in two places becomes two weights",
    "after a step, are the head and the embedding still the same table?",
    "One weight is one copy, however many places it stands in.",
    "huggingface/transformers#14035, where a head is cut off from its embedding like this, on purpose",
)
exercise.mistake(
    "second place forgotten",
    ((LOOP, "        for path, weight in self.chosen(model):\n            if weight not in copies:\n                copies[weight] = copied(weight)\n                swap(model, path, copies[weight])"),),
    "of a weight that stands in two places only the first gets the copy",
    "how many places of the model hold a tied weight, and how many of them do you change?",
    "`model.named_parameters()` lists a tied weight once; its places are two.",
)  # fmt: skip
exercise.mistake(
    "base trained in place",
    ((LOOP, "        for _, weight in self.chosen(model):\n            weight.requires_grad_(True)"),),
    "the frozen weights are set free where they stand, without a copy",
    "with which model do the weights of a fresh view share their memory?",
    "All other methods leave the base alone; so does this one, at the price of a copy.",
)
exercise.mistake(
    "own weight swapped in",
    (
        (
            LOOP,
            "        for path, weight in self.chosen(model):\n            swap(model, path, weight.requires_grad_(True))",
        ),
    ),
    "the view's own weight is put back instead of a copy, so the base is trained along",
    "which numbers does the base have after a step, and where does `weight` have its memory?",
    "The parameters of a view are new, their numbers are the base's: only a clone has numbers of its own.",
)
exercise.mistake(
    "matrices only",
    ((WEIGHTS, "weights = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter) and thing.ndim > 1]"),),
    "only matrices are trained, and biases and norms stay frozen",
    "how many numbers does your version train, and how many has the model?",
    "Full means full: a vector is a weight like any other.",
)  # fmt: skip
exercise.mistake(
    "targets not used",
    (("        " + NAMED + "\n        " + BELOW, "        return weights"),),
    "everything is trained, whatever `targets` says",
    "what is different between Full() and Full(targets=('up',)) in your version?",
    "With targets, only what they name is trained.",
)
exercise.mistake(
    "whole names only",
    ((BELOW, "return [(path, weight) for path, weight in weights if path in named]"),),
    "only weights that are named themselves are found, not those of a named module",
    "what is the dotted name of the bias of a module `up`?",
    "A target may be a module; then what is below it counts too.",
)
exercise.mistake(
    "modules only",
    ((BELOW, 'return [(path, weight) for path, weight in weights if any(path.startswith(f"{n}.") for n in named)]'),),
    "a target that is itself a weight is passed by",
    "which of the two is 'up.weight' in your code: something to train, or something to look below?",
    "`match` finds modules and weights; the weights among them are meant themselves.",
)
exercise.mistake(
    "names that begin alike",
    ((BELOW, "return [(path, weight) for path, weight in weights if any(path.startswith(n) for n in named)]"),),
    "a target also catches modules whose names begin with it",
    "does 'blocks.1' mean 'blocks.10' too?",
    "A dotted name ends at a dot.",
)
exercise.mistake(
    "part of a name",
    (("        " + NAMED + "\n        " + BELOW, "        return [(path, weight) for path, weight in weights if any(t in path for t in self.targets)]"),),
    "a target is looked for anywhere in the name",
    "in which of the model's names does a 'q' or an 'up' occur?",
    "What a name means is decided by `match`, part by part between the dots, not letter by letter.",
)  # fmt: skip
exercise.mistake(
    "each target for itself",
    (("        " + NAMED + "\n        " + BELOW, '        named = [path for path, *_ in match(model, self.targets)]\n        return [(path, weight) for n in named for path, weight in weights if f"{path}.".startswith(f"{n}.")]'),),
    "a weight that two targets name is taken twice",
    "how often does a weight come up if one target is a part of another?",
    "Ask for each weight whether any target holds it, not for each target which weights it holds.",
)  # fmt: skip

exercise.right(
    "deepcopy",
    ((COPY, "import copy\n\n    return copy.deepcopy(weight).requires_grad_(True)"),),
)
exercise.right(
    "filled by hand",
    ((COPY, "import torch\n\n    fresh = torch.empty_like(weight)\n    with torch.no_grad():\n        fresh.copy_(weight)\n    return nn.Parameter(fresh)"),
     ("        copies = {}\n" + LOOP, "        copies, places = {}, self.chosen(model)\n        for _, weight in places:\n            copies[id(weight)] = copied(weight)\n        for path, weight in places:\n            swap(model, path, copies[id(weight)])")),
)  # fmt: skip
exercise.right(
    "a loop over the names",
    (("        " + NAMED + "\n        " + BELOW,
      '        found = []\n        named = {path for path, *_ in match(model, self.targets)}\n        for path, weight in weights:\n            parts = path.split(".")\n            if any(".".join(parts[:i]) in named for i in range(1, len(parts) + 1)):\n                found.append((path, weight))\n        return found'),
     (PLACES + "\n        " + WEIGHTS, "weights = list(model.named_parameters(remove_duplicate=False))")),
)  # fmt: skip

exercise.variant(
    "matrices only",
    ((WEIGHTS, "weights = [(path, thing) for path, thing in places if isinstance(thing, nn.Parameter) and thing.ndim > 1]"),
     ("Full fine-tuning: every weight of the model is trained.", "Full fine-tuning: every matrix of the model is trained; biases and norms stay frozen."),
     ("    W ← W − η·∂L/∂W        for every W of the model", "    W ← W − η·∂L/∂W        for every W of the model that has two dimensions or more"),
     ("[(path, weight)] of the places", "[(path, weight)], of two dimensions or more, of the places")),
    "only weights with two dimensions or more are trained; biases and norms stay frozen",
)  # fmt: skip
exercise.variant(
    "ties are cut",
    ((LOOP, "        for path, weight in self.chosen(model):\n            swap(model, path, copied(weight))"),
     ("A weight that stands in two places (a tied head) is one weight in the copy too.", "A weight that stands in two places (a tied head) becomes two, which are trained apart.")),
    "a weight that stands in two places gets two copies, which are trained apart",
)  # fmt: skip
exercise.variant(
    "all but the targets",
    ((BELOW, 'return [(path, weight) for path, weight in weights if not any(f"{path}.".startswith(f"{n}.") for n in named)]'),
     ("targets: names of modules or weights to train instead of all (see `targets.match`); None for the whole model.", "targets: names of modules or weights to leave frozen (see `targets.match`); None to train the whole model."),
     ("or what `targets` names (`match`) and below.", "or all but what `targets` names (`match`) and below.")),
    "`targets` names what stays frozen, and all the rest is trained",
)  # fmt: skip
