"""A fresh head: which token it reads, what it computes of it, and how it is made for each kind of model."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import KINDS, arrivals, fill, model, numbers, rows, short, types, usual_type

observe = Observations()

D, OLD, NEW = 6, 5, 4  # width; classes of the old head and of the new one


def head(impl, place, bias=True):
    return fill(impl.ClassHead(D, NEW, place, bias=bias))


def features():
    return numbers("features", (3, 5, D))


class Wrapped(nn.Module):
    """In front of a head, as a method's layer is: it keeps the head as `base`."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, h):
        return self.base(h)


class Net(nn.Module):
    """A model with a head and no config: what the head reads is not a sequence."""

    def __init__(self, head):
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), head

    def forward(self, x):
        return self.head(self.body(x))


class Reader(nn.Module):
    """A model whose head reads one token."""

    def __init__(self, head):
        super().__init__()
        self.body, self.head = nn.Linear(3, D), head

    def forward(self, x):
        return self.head(self.body(x))


def frozen(made):
    return fill(made).requires_grad_(False)


def reader(impl, place=2, wrappers=0):
    made = Reader(impl.ClassHead(D, OLD, place))
    for _ in range(wrappers):
        made.head = Wrapped(made.head)
    return frozen(made)


def fresh(impl, base, classes=NEW):
    return fill(impl.fresh_head(base, classes))


def described(new):
    """What a head is: its kind, the shapes of what is in it, and the token that it reads."""
    kind = "Linear" if isinstance(new, nn.Linear) else "ClassHead" if hasattr(new, "classify") else "something else"
    shapes = {name: list(p.shape) for name, p in new.named_parameters()}
    return {"kind": kind, "place": getattr(new, "place", "none")} | shapes


@observe("head", "The head should have one Linear, `classify`, with a weight (classes, d) and a bias.")
def parameters_of_the_head(impl):
    return {name: list(p.shape) for name, p in impl.ClassHead(D, NEW, 0).named_parameters()}


@observe("head", "With bias=False, as for a projection into a shared space, there should be a weight and no bias.")
def parameters_without_a_bias(impl):
    return {name: list(p.shape) for name, p in impl.ClassHead(D, NEW, 0, bias=False).named_parameters()}


@observe("head", "The head is new and has learned nothing: all of it should be trained.")
def what_is_trained(impl):
    return {name: p.requires_grad for name, p in impl.ClassHead(D, NEW, 0).named_parameters()}


@observe("head", "The head should tell by `place` which token it reads: the models ask it about padding there.")
def the_place_that_is_told(impl):
    return [getattr(impl.ClassHead(D, NEW, place), "place", "nothing") for place in (0, -1, 2)]


@observe("answer", "There should be one row of scores for each picture or text, (B, classes).")
def shape_of_the_answer(impl):
    return list(head(impl, 0)(features()).shape)


@observe("answer", "The scores are not W h + b of the token at `place`.")
def scores(impl):
    return {f"place {place}": head(impl, place)(features()) for place in (0, -1, 2)}


@observe("answer", "Without a bias, the scores are not W h of the token at `place`.")
def scores_without_a_bias(impl):
    return {f"place {place}": head(impl, place, bias=False)(features()) for place in (0, -1)}


@observe("answer", "The scores should depend on one token, and on no other.")
def which_tokens_count(impl):
    found = {}
    for place in (0, -1, 2):
        h = features().requires_grad_()
        head(impl, place)(h).sum().backward()
        found[f"place {place}"] = [bool(t) for t in h.grad.abs().amax((0, 2))]
    return found


@observe("answer", "When the scores are sent back, a gradient should reach the weight, the bias and the token.")
def where_gradients_arrive(impl):
    h, made = features().requires_grad_(), head(impl, 0)
    found = arrivals(made, made(h))
    return found | {"token": h.grad is not None and bool(h.grad.any())}


@observe("answer", "The caller's features should stay as they are, and training should be like evaluation.")
@torch.no_grad()
def what_is_left_alone(impl):
    made, h = head(impl, 0), features()
    evaluated = made.eval()(h)
    return {"features": h - features(), "training": made.train()(h) - evaluated}


@observe("kinds of models", "A head that reads one token should be followed by one that reads the same token.")
def after_a_ClassHead(impl):
    return {f"place {place}": described(impl.fresh_head(reader(impl, place), NEW)) for place in (0, -1, 2)}


@observe("kinds of models", "A head after a projection without a bias should have a bias: it classifies.")
def after_a_projection(impl):
    return described(impl.fresh_head(frozen(Reader(impl.ClassHead(D, OLD, 0, bias=False))), NEW))


@observe(
    "kinds of models", "For a decoder and an encoder with a head for every token, the new head is not the right one."
)
def after_a_head_for_every_token(impl):
    return {kind: described(impl.fresh_head(model(**settings), NEW)) for kind, settings in KINDS.items()}


@observe(
    "kinds of models", "For a model that has a Linear as its head and is no Transformer, the new head is not right."
)
def after_a_Linear(impl):
    return described(impl.fresh_head(frozen(Net(nn.Linear(8, OLD))), NEW))


@observe("kinds of models", "The number of classes should be the one that is asked for.")
def number_of_classes(impl):
    bases = {"a ClassHead": reader(impl), "a decoder": model(), "a Linear": frozen(Net(nn.Linear(8, OLD)))}
    return {name: [len(next(impl.fresh_head(base, n).parameters())) for n in (2, 7)] for name, base in bases.items()}


@observe("kinds of models", "Below wrappers, as methods put them in front of a head, the same head should be found.")
def below_wrappers(impl):
    bases = {"one wrapper": reader(impl, 2, 1), "two wrappers": reader(impl, 2, 2)}
    bases["a wrapped Linear"] = frozen(Net(Wrapped(nn.Linear(8, OLD))))
    found = {}
    for name, base in bases.items():
        try:
            found[name] = described(impl.fresh_head(base, NEW))
        except TypeError:
            found[name] = "refused"
    return found


@observe(
    "kinds of models",
    "A model whose head does not tell what a classifier would read should be refused, by a TypeError.",
)
def what_is_refused(impl):
    found = {}
    for name, base in {"no head": nn.Linear(3, 3), "an unknown head": frozen(Net(nn.Tanh()))}.items():
        try:
            found[name] = described(impl.fresh_head(base, NEW))
        except TypeError as error:
            found[name] = "refused, and told which kind of model" if type(base).__name__ in str(error) else "refused"
    return found


@observe("model", "On a model, the new head does not give the expected scores.")
@torch.no_grad()
def scores_of_a_model(impl):
    found = {}
    for kind, settings in KINDS.items():
        base = model(**settings)
        base.head = fresh(impl, base)
        found[kind] = base(rows()[0])
    return found


@observe(
    "model", "The model that the head is made for should stay as it is; whoever attaches a method puts the head in."
)
def the_model_is_left_alone(impl):
    found = {}
    for name, base in {"a ClassHead": reader(impl), "a decoder": model()}.items():
        old, before = base.head, {n: t.clone() for n, t in base.state_dict().items()}
        impl.fresh_head(base, NEW)
        after = base.state_dict()
        found[name] = {
            "the same head": base.head is old,
            "the same numbers": before.keys() == after.keys() and all(after[n].equal(t) for n, t in before.items()),
        }
    return found


@observe("model", "A fresh head should be trained, on a model that is frozen as much as on another.")
def a_head_for_a_frozen_model(impl):
    bases = {
        "a ClassHead": reader(impl),
        "a decoder": model().requires_grad_(False),
        "a Linear": Net(nn.Linear(8, OLD)),
    }
    return {name: all(p.requires_grad for p in impl.fresh_head(base, NEW).parameters()) for name, base in bases.items()}


@observe("start", "A head should have the type of its model, bfloat16 for example.")
def types_of_the_head(impl):
    def made(dtype):
        base = model(causal=False).to(dtype)
        base.head = impl.fresh_head(base, NEW)
        return base

    with usual_type():
        other = {"a ClassHead": reader(impl).bfloat16(), "a Linear": frozen(Net(nn.Linear(8, OLD))).bfloat16()}
        kinds = {
            name: {n: short(p.dtype) for n, p in impl.fresh_head(base, NEW).named_parameters()}
            for name, base in other.items()
        }
    return types(made, lambda base: base(rows()[0])) | kinds


@observe(
    "start", "Two heads made one after the other should start differently, and a seed of the caller should decide."
)
def where_heads_start(impl):
    found = {}
    for name, base in {"a ClassHead": reader(impl), "a decoder": model()}.items():
        drawn = []
        for seed in (1, 1, 2):
            torch.default_generator.manual_seed(seed)
            drawn.append(next(impl.fresh_head(base, NEW).parameters()).detach())
        one, again, other = drawn
        found[name] = {"the same seed": one.equal(again), "another seed": one.equal(other), "zeros": not one.any()}
    return found


@observe("start", "The rows of the old head belong to other classes: nothing of them should be in the new one.")
@torch.no_grad()
def nothing_of_the_old_head(impl):
    old = reader(impl)
    new = impl.fresh_head(old, NEW)
    return {
        "weight": bool(torch.isin(new.classify.weight, old.head.classify.weight).any()),
        "bias": bool(torch.isin(new.classify.bias, old.head.classify.bias).any()),
    }
