"""Full fine-tuning on copies: which weights, tied ones, and a base that stays as it is."""

import torch
from torch import nn

from minipeft import attach, deltas
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, numbers, types

observe = Observations()


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


@observe("copy", "A copied weight should have the same numbers as the weight.")
def numbers_of_a_copy(impl):
    weight = nn.Parameter(numbers("W", (3, 4)))
    return impl.copied(weight) - weight


@observe("copy", "A copied weight should be a parameter that gets a gradient, also where the weight is frozen.")
def kind_of_a_copy(impl):
    made = impl.copied(nn.Parameter(numbers("W", (3, 4)), requires_grad=False))
    return {"type": type(made).__name__, "gets a gradient": made.requires_grad and made.is_leaf}


@observe("copy", "A change of the copy must not be a change of the weight.")
def memory_of_a_copy(impl):
    weight = nn.Parameter(numbers("W", (3, 4)), requires_grad=False)
    with torch.no_grad():
        impl.copied(weight).add_(1)
    return weight - numbers("W", (3, 4))


@observe("copy", "A copied weight should have the type of the weight.")
def type_of_a_copy(impl):
    return str(impl.copied(nn.Parameter(numbers("W", (3, 4)).bfloat16())).dtype)


@observe("copy", "The weight that is copied should stay as frozen as it was; only the copy is trained.")
def original_of_a_copy(impl):
    weight = nn.Parameter(numbers("W", (3, 4)), requires_grad=False)
    impl.copied(weight)
    return {"gets a gradient": weight.requires_grad}


@observe("which weights", "Without targets every weight should be trained, biases and norms included.")
def all_weights(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(attached(impl)).items()}


@observe("which weights", "`targets` names a module: what is below it should be trained, and nothing else.")
def weights_below_a_module(impl):
    return {targets: swapped(attached(impl, (targets,))) for targets in ("up", "q", "norm_q")}


@observe("which weights", "`targets` names a single weight: that one should be trained, and nothing else.")
def one_weight(impl):
    return swapped(attached(impl, ("up.weight",)))


@observe(
    "which weights", "Where `targets` names several places, the weights of all should be trained, each of them once."
)
def several_targets(impl):
    return sorted(path for path, _ in impl.Full(("norm_q.bias", "upper", "q")).chosen(Tied()))


@observe(
    "which weights", "`targets` may be a regular expression, `all-linear` or a whole name behind a dot, as for `match`."
)
def other_names(impl):
    return {str(named): swapped(attached(impl, named)) for named in (r"up\w*", "all-linear", (".up",))}


@observe("which weights", "`targets` may be a function that chooses modules, as for `match`.")
def a_function_as_targets(impl):
    return swapped(attached(impl, lambda path, module: isinstance(module, nn.LayerNorm)))


@observe("which weights", "`chosen` should give pairs of a dotted name and the weight that stands there.")
def chosen(impl):
    return [[path, weight] for path, weight in impl.Full(("upper",)).chosen(Tied())]


@observe("start", "Before training the model should answer as the base.")
def start(impl):
    return attached(impl)(TOKENS) - Tied()(TOKENS)


@observe("tied weights", "A weight that stands in two places should be one weight in the copy too.")
def one_copy_of_a_tied_weight(impl):
    made = attached(impl)
    return [made.head.weight is made.token.weight, sum(p.numel() for p in made.parameters())]


@observe("tied weights", "Two weights that happen to have equal numbers are two, and should stay two.")
def equal_weights(impl):
    base = nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3))
    made = impl.Full().attach(base)
    return {"one weight": made[0].weight is made[1].weight, "one bias": made[0].bias is made[1].bias}


@observe("tied weights", "Each of the two places of a tied weight should get the copy.")
def places_of_a_tied_weight(impl):
    return swapped(attached(impl))


@observe("tied weights", "A tied weight should be stored once, under either of its names.")
def what_is_stored(impl):
    return {name.replace("head", "token"): t.numel() for name, t in deltas.trained(attached(impl)).items()} | {
        "tensors": len(deltas.trained(attached(impl)))
    }


@observe("training", "After all weights have moved, the model does not answer as it should.")
def after_a_move(impl):
    return moved(attached(impl))(TOKENS)


@observe("training", "The gradients that reach the weights are not the expected ones.")
def gradients(impl):
    made = attached(impl)
    made(TOKENS).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@observe("training", "In a model of another type, the trained weights or the answer do not have the model's type.")
def types_of_a_model(impl):
    return types(lambda dtype: attached(impl, made=Tied().to(dtype)), lambda made: made(TOKENS))


@observe("the base", "After all weights have moved, the base should answer as it always did.")
def the_base_afterwards(impl):
    return attach.detach(moved(attached(impl)))(TOKENS) - Tied()(TOKENS)


@observe("the base", "Another view of the same base should not change with what this one has learned.")
def another_view(impl):
    base = Tied()
    other = attached(impl, ("up",), base)
    moved(attached(impl, made=base))
    return other(TOKENS) - Tied()(TOKENS)
