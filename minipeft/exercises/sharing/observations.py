"""Rows of several tasks in one batch: whose update each row gets, what all rows share, and where gradients arrive."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers
from minipeft.methods import IA3, LoRA, PrefixTuning, PromptTuning
from minipeft.methods.ia3 import IA3Input, IA3Output
from minipeft.methods.lora import LoRALinear

observe = Observations()

INTO, OUT = 5, 3
WHOSE = ["b", "a", "b", None, "c"]  # of the rows; the views are made in the order a, b, c


def named(layer, name):
    """A layer with numbers of its own."""
    with torch.no_grad():
        for key, p in layer.named_parameters():
            if p.requires_grad:
                p.copy_(numbers(f"{name} {key}", p.shape))
    return layer


def lora(name, rank=2, scale=1.5):
    return named(LoRALinear(linear(INTO, OUT), rank, scale), name)


def loras():
    """Three LoRA layers of one rank and one scale."""
    return {name: lora(name) for name in "abc"}


def rescaling():
    """A view that rescales the output, one that rescales the input, and a LoRA."""
    return {
        "a": named(IA3Output(linear(INTO, OUT)), "a"),
        "b": named(IA3Input(linear(INTO, OUT)), "b"),
        "c": lora("c"),
    }


def batch(whose):
    names = list(dict.fromkeys(whose))
    return SimpleNamespace(names=names, index=torch.tensor([names.index(name) for name in whose]))


def layer(impl, views, whose=WHOSE, base=None):
    """The student's layer in front of a weight, for rows of these names."""
    return impl.RowsLinear(base or linear(INTO, OUT), views, batch(whose))


def x(size=5):
    return numbers("x", (size, 4, INTO))


def added(impl, views, whose=WHOSE):
    """What the layer adds to W x + b."""
    return layer(impl, views, whose)(x(len(whose))) - linear(INTO, OUT)(x(len(whose)))


def asked(made, none=7.0, kind=LoRALinear):
    """What `rows` gives when it is asked for A, with `none` everywhere for who has no LoRA."""
    return made.rows(kind, lambda one: one.A, torch.full((2, INTO), none))


# ---- rows: whose numbers ----------------------------------------------------------------------------------------


@observe("whose numbers", "`rows` should give something for every row of the batch, not for every name: (B, ...).")
def shape_of_rows(impl):
    return list(asked(layer(impl, loras())).shape)


@observe("whose numbers", "A row should get what `of` gives of the layer of its own name.")
def numbers_of_each_row(impl):
    return asked(layer(impl, loras(), ["b", "a", "b", "c", "a"]))


@observe("whose numbers", "Where only some of the views occur in a batch, each row should still get its own view's.")
def when_some_views_are_not_there(impl):
    return asked(layer(impl, loras(), ["c", "c", "b"]))


@observe("whose numbers", "A row without such a layer should get `none`: that of the bare base, or of another kind.")
def rows_without_a_layer(impl):
    return asked(layer(impl, rescaling(), ["c", None, "a", "c"]))


@observe("whose numbers", "If no row of the batch has a layer of this kind, `rows` should give None.")
def when_no_row_has_one(impl):
    found = [asked(layer(impl, loras(), [None, None])), asked(layer(impl, rescaling(), ["a", "b"]))]
    return [one is None for one in found]


@observe("whose numbers", "The gradient of a view should be the sum over its rows; other views should get none.")
def gradient_through_rows(impl):
    views = loras()
    got = asked(layer(impl, views, ["b", "a", "b", "b"]))
    if got.requires_grad:
        (got * numbers("way back", got.shape)).sum().backward()
    return {name: one.A.grad for name, one in views.items()}


# ---- forward: W once for all, B A for each ----------------------------------------------------------------------


@observe("the update", "What is added to W x + b should be s·B A x with the A and B of the row's own view.")
def update_of_each_row(impl):
    return added(impl, loras())


@observe("the update", "Two views with other scales s: each row's update should be multiplied by its own s, once.")
def scale_of_each_row(impl):
    return added(impl, {"a": lora("a", scale=0.25), "b": lora("b", scale=4.0), "c": lora("c", scale=1.0)})


@observe("the update", "Views of different ranks in one batch should each give their own update, as they do alone.")
def different_ranks(impl):
    return added(impl, {"a": lora("a", rank=1), "b": lora("b", rank=4), "c": lora("c", rank=2)})


@observe("the update", "A row of the bare base should get W x + b exactly.")
def row_of_the_base(impl):
    return layer(impl, loras())(x())[3] - linear(INTO, OUT)(x()[3])


@observe("the update", "Where all rows are of the bare base, or of views without a LoRA here, W x + b is the answer.")
def rows_without_any_update(impl):
    return layer(impl, {"a": lora("a")}, ["b", None, "b"])(x(3)) - linear(INTO, OUT)(x(3))


@observe("the update", "The frozen weight should work once for the whole batch: that is the point of sharing a pass.")
def work_of_the_weight(impl):
    base, seen = linear(INTO, OUT), []
    base.register_forward_hook(lambda module, given, answer: seen.append(list(given[0].shape)))
    layer(impl, loras(), base=base)(x())
    return seen


@observe("the update", "The answer should have one row of (T, out) for each row of x.")
def shape_of_the_answer(impl):
    return list(layer(impl, loras())(x()).shape)


@observe("the update", "When A and B have moved, as in training, the next pass should use the new numbers.")
def after_a_step(impl):
    views = loras()
    made = layer(impl, views)
    made(x())
    with torch.no_grad():
        for one in views.values():
            one.A += 1
            one.B += 1
    return made(x()) - linear(INTO, OUT)(x())


@observe("the update", "When the answer is sent back, a gradient should arrive at A and B of every view that occurs.")
def gradients_of_the_private_parts(impl):
    views = loras()
    answer = layer(impl, views, ["b", "a", "b"])(x(3))
    if answer.requires_grad:
        answer.pow(2).sum().backward()
    return {f"{key} of {name}": p.grad for name, one in views.items() for key, p in attach.trainable(one).items()}


@observe("the update", "A gradient should flow back through W and through the update, to what learns below.")
def gradient_of_the_input(impl):
    below = x().requires_grad_()
    layer(impl, loras())(below).pow(2).sum().backward()
    return below.grad


@observe("the update", "A shared update in the weight below should get the sum of the gradients of all rows.")
def gradient_of_what_is_shared(impl):
    shared = lora("shared", rank=1)
    layer(impl, loras(), base=shared)(x()).pow(2).sum().backward()
    return {key: p.grad for key, p in attach.trainable(shared).items()}


@observe("the update", "x is changed in place.")
def input_is_left_alone(impl):
    given, again = x(), x()
    layer(impl, loras())(given)
    layer(impl, rescaling())(again)
    return [given - x(), again - x()]


@observe("the update", "On a base of another type, the answer does not have that type, or is not right.")
def other_types(impl):
    def run(made):
        return made(x().to(made.base.weight.dtype))

    def make(dtype):
        views = {name: fill(LoRALinear(linear(INTO, OUT).to(dtype), rank, 1.5), "trainable", 0.3)
                 for rank, name in enumerate("abc", start=1)}  # fmt: skip
        made = layer(impl, views, base=linear(INTO, OUT).to(dtype))
        made.each = nn.ModuleList(views.values())
        return made

    return models.types(make, run)


# ---- IA³ --------------------------------------------------------------------------------------------------------


@observe("IA³", "A row under a view that rescales outputs should get l ⊙ (W x + b), and no other row.")
def outputs_rescaled(impl):
    return added(impl, {name: one for name, one in rescaling().items() if name == "a"}, ["a", None, "c", "a"])


@observe("IA³", "A row under a view that rescales inputs should get W (e ⊙ x) + b, and no other row.")
def inputs_rescaled(impl):
    return added(impl, {name: one for name, one in rescaling().items() if name == "b"}, ["b", None, "c", "b"])


@observe("IA³", "With LoRA, rescaled inputs and rescaled outputs in one batch, each row should get its own only.")
def all_kinds_in_one_batch(impl):
    return added(impl, rescaling())


@observe("IA³", "A gradient should arrive at every l of a view that occurs.")
def gradients_of_the_scales(impl):
    views = rescaling()
    answer = layer(impl, views)(x())
    if answer.requires_grad:
        answer.pow(2).sum().backward()
    return {name: one.l.grad for name, one in views.items() if name != "c"}


# ---- prompts and prefixes ---------------------------------------------------------------------------------------


def begins(impl, whose=("b", "a", "b", None)):
    return impl.RowsBegin(models.Begin(), {}, batch(whose))


def parts(*lengths, head=()):
    return [numbers(f"vectors {i}", (*head, n, 3)) for i, n in enumerate(lengths)]


@observe("prompts", "Each row should begin with the vectors of its own name: (B, n, d).")
def vectors_of_each_row(impl):
    return begins(impl).rows(parts(2, 2, 2))[0]


@observe("prompts", "Shorter ones should be padded with zeros in front, to the longest.")
def shorter_vectors(impl):
    return begins(impl).rows(parts(3, 1, 2))[0]


@observe("prompts", "The mask (B, n), of truth values, should be True at vectors and False at padding.")
def mask_of_the_vectors(impl):
    masks = [begins(impl).rows(parts(*lengths))[1] for lengths in ((3, 1, 2), (2, 2, 2), (0, 4, 0))]
    return [{"type": models.short(mask.dtype), "values": mask} for mask in masks]


@observe("prompts", "Keys and values have more dimensions, (H, n, d/H): they should be padded along n as well.")
def vectors_of_several_heads(impl):
    vectors, mask = begins(impl).rows(parts(1, 2, 0, head=(2,)))
    return [vectors, mask]


@observe("prompts", "A gradient should arrive at the vectors of every name that occurs, the sum over its rows.")
def gradients_of_the_vectors(impl):
    given = [one.requires_grad_() for one in parts(3, 1, 2)]
    vectors, _ = begins(impl).rows(given)
    if vectors.requires_grad:
        (vectors * numbers("back", vectors.shape)).sum().backward()
    return [one.grad for one in given]


# ---- the whole model --------------------------------------------------------------------------------------------


METHODS = {
    "LoRA": LoRA(rank=2, alpha=3), "larger LoRA": LoRA(rank=3, targets=("v", "up")), "IA3": IA3(),
    "prompt": PromptTuning(length=2), "prefix": PrefixTuning(length=3),
}  # fmt: skip
NAMES = ["prompt", "LoRA", None, "IA3", "prefix", "larger LoRA", "LoRA"]


def stirred(method, model, name, together=False):
    """A view with numbers of its own in what this method trains."""
    made = method.attach(model, together=together)
    with torch.no_grad():
        for path, one in attach.attachments(made)[-1].layers.items():
            for key, p in one.named_parameters():
                if p.requires_grad and not key.startswith("base."):
                    p.copy_(numbers(f"{name} {path} {key}", p.shape))
    return made


def several(impl, base=None, together=False):
    base = base or models.model(layers=1)
    return impl.MultiTask({name: stirred(method, base, name, together) for name, method in METHODS.items()})


def tokens(size):
    return models.rows()[0][torch.arange(size) % 3]


@observe("whole model", "Each row of a mixed batch should get the logits that its view gives alone.")
@torch.no_grad()
def as_alone(impl):
    made, given = several(impl), tokens(len(NAMES))
    got = made(given, NAMES)
    alone = [made.views[name] if name else made.base for name in NAMES]
    return torch.stack([got[i] - one(given[i : i + 1])[0] for i, one in enumerate(alone)])


@observe("whole model", "A later batch, whose rows have other names, should be answered as if it were the first one.")
@torch.no_grad()
def a_second_batch(impl):
    made, given = several(impl), tokens(len(NAMES))
    made(given, NAMES[::-1])
    return made(given, NAMES) - several(impl)(given, NAMES)


@observe("whole model", "Rows that are padded on the left should get the logits that they get alone, too.")
@torch.no_grad()
def padded_rows(impl):
    made, (given, mask) = several(impl), models.rows("left")
    names = ["prefix", "LoRA", "prompt"]
    got = made(given, names, mask)
    alone = [made.views[name](row[None], real[None])[0] for name, row, real in zip(names, given, mask, strict=True)]
    return [(mine - theirs)[real] for mine, theirs, real in zip(got, alone, mask, strict=True)]


@observe("whole model", "Where views share an update, a batch should train that update and each private part.")
def arrivals_with_a_shared_update(impl):
    shared = stirred(LoRA(rank=2, targets=("q", "up")), models.model(layers=1), "shared")
    made, given = several(impl, shared, together=True), tokens(len(NAMES))
    loss = F.cross_entropy(made(given, NAMES)[:, :-1].flatten(0, 1), given[:, 1:].flatten())
    if loss.requires_grad:
        loss.backward()
    found = {name: p.grad for name, p in attach.trainable(made).items()}
    return {name: grad is not None and bool(grad.any()) for name, grad in found.items()}


@observe("whole model", "The gradient of a shared update should be the sum of what each row alone would give it.")
def gradient_of_a_shared_update(impl):
    shared = stirred(LoRA(rank=2, targets=("q", "up")), models.model(layers=1), "shared")
    made, given = several(impl, shared, together=True), tokens(len(NAMES))
    made(given, NAMES).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(shared).items()}


@observe("whole model", "After a mixed batch was sent back, the base should be as it was, without a gradient.")
def the_base_afterwards(impl):
    base = models.model(layers=1)
    made = several(impl, base)
    answer = made(tokens(len(NAMES)), NAMES)
    if answer.requires_grad:
        answer.pow(2).sum().backward()
    reached = [name for name, p in base.named_parameters() if p.grad is not None]
    return {"reached": reached, "moved": base(tokens(3)) - models.model(layers=1)(tokens(3))}
