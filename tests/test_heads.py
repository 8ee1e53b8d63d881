"""A fresh head, trained with any method at its own learning rate and saved with it; and the places of a method."""

import pytest
import torch
from torch import nn

from minipeft.attach import attachments, detach, trainable
from minipeft.deltas import load, save, trained, updates
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    Full,
    Houlsby,
    LinearProbe,
    LoRA,
    Pfeiffer,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
)
from minipeft.models.heads import ClassHead
from minipeft.tasks import Batch
from minipeft.training import evaluate, fit
from minipeft.views import merge
from tests.models import DIM, LAYERS, bits, close, count, make, rows, same_bits, stirred

CLASSES = 5


class Sorted:
    """Which of five groups is the second token in?"""

    def __str__(self):
        return "groups of tokens"

    def batch(self, size, generator):
        tokens = torch.randint(3, 23, (size, 6), generator=generator)
        tokens[:, 0] = 1
        return Batch(tokens, (tokens[:, 1] - 3) // 4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_a_fresh_head_and_saves_it_with_the_rest(name, causal, tmp_path):
    base, tokens = make(None, causal), rows()[1]
    method, before = METHODS[name](classes=CLASSES), bits(base)
    view = stirred(method, base)
    head = {n for n in trainable(view) if n.startswith("head.")}
    assert head == {"head.classify.weight", "head.classify.bias"}
    assert count(view) >= CLASSES * (DIM + 1)
    assert (len(trainable(view)) == 2) is (name == "LinearProbe")
    logits = view(tokens)
    assert logits.shape == (3, CLASSES)
    save(view, tmp_path / "delta")
    again = load(tmp_path / "delta", base)
    close(again(tokens), logits)
    assert trained(again).keys() == trained(view).keys()
    assert attachments(again)[0].method == attachments(view)[0].method.folded()
    assert same_bits(base, before)
    assert detach(view)(tokens).shape == (3, tokens.shape[1], 23)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_a_copy_of_the_own_head_and_saves_it_with_the_rest(name, tmp_path):
    base, tokens = make(None), rows()[1]
    method, before = METHODS[name](classes="own", head_lr=1e-2), bits(base)
    fresh = method.attach(base)
    assert {n for n in trainable(fresh) if n.startswith("head.")} == {"head.weight", "head.bias"}
    assert torch.equal(fresh.head.weight, base.head.weight)
    view = stirred(method, base)
    logits = view(tokens)
    assert logits.shape == base(tokens).shape
    save(view, tmp_path / "delta")
    close(load(tmp_path / "delta", base)(tokens), logits)
    assert same_bits(base, before)


def test_a_copy_of_the_head_is_untied_merges_and_needs_a_head():
    model = make("rotary", tied=True)
    view = stirred(LoRA(rank=2, classes="own"), model)
    assert view.head.weight is not view.embed.token.weight
    with pytest.warns(UserWarning, match="were one weight and now differ"):
        plain = merge(view)
    tokens = rows()[1]
    close(plain(tokens), view(tokens))
    with pytest.raises(TypeError, match="has no head"):
        LoRA(rank=2, targets=("0",), classes="own").attach(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_a_copy_of_the_head_starts_from_what_stands_there():
    below = stirred(LoRA(rank=2, targets=("head",)), make(None))
    view = LinearProbe(classes="own").attach(below)
    tokens = rows()[1]
    close(view(tokens), below(tokens))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_which_token_the_head_reads_depends_on_the_direction_and_not_on_the_norms(causal, pre_norm):
    view, vectors = stirred(LinearProbe(classes=CLASSES), make(None, causal, pre_norm=pre_norm)), []
    view.norm.register_forward_hook(lambda module, args, out: vectors.append(out))
    logits, head = view(rows()[1]), view.head.classify
    close(logits, vectors[0][:, -1 if causal else 0] @ head.weight.T + head.bias)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_head_has_the_type_of_the_base_and_numbers_of_its_own(kind):
    base = make().to(kind)
    torch.manual_seed(3)
    one, other = (LoRA(classes=CLASSES).attach(base).head.classify for _ in range(2))
    torch.manual_seed(3)
    again = LoRA(classes=CLASSES).attach(base).head.classify
    assert one.weight.dtype == one.bias.dtype == kind
    assert torch.equal(one.weight, again.weight), "the seed of the caller decides"
    assert not torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(
    "method", [LoRA(classes=4), Full(classes=4), BitFit(classes=4), LinearProbe(classes=4)], ids=str
)
def test_what_can_be_merged_is_merged_with_its_head(method):
    base, tokens = make(None), rows()[1]
    view = stirred(method, base)
    plain = merge(view)
    close(plain(tokens), view(tokens))
    assert type(plain.head) is ClassHead
    assert all(name.startswith(("blocks.", "embed.", "norm.")) for name in updates(view))


@pytest.mark.parametrize("name", ["PromptTuning", "PTuning", "PrefixTuning", "PTuningV2", "Houlsby"])
def test_what_cannot_be_merged_cannot_be_merged_with_a_head(name):
    with pytest.raises(TypeError, match="cannot be merged: it is not a change of the frozen weights alone"):
        merge(METHODS[name](classes=4).attach(make(None)))


def test_the_head_has_its_own_learning_rate_and_the_groups_of_the_method_stay():
    view = LoRA(rank=2, lr_ratio=16, classes=CLASSES, head_lr=1e-2).attach(make(None))
    start = {name: p.detach().clone() for name, p in trainable(view).items()}
    fit(view, Sorted(), steps=1, lr=1e-4, warmup=0, device="cpu", progress=False, clip=1e9)
    moved = {name: (p - start[name]).abs().max().item() for name, p in trainable(view).items()}
    assert all(m == pytest.approx(1e-2, rel=0.01) for name, m in moved.items() if name.startswith("head."))
    assert all(m == pytest.approx(16e-4, rel=0.01) for name, m in moved.items() if name.endswith(".B"))


def test_without_a_rate_of_its_own_the_head_learns_as_the_method_does():
    view = BitFit(classes=CLASSES).attach(make(None))
    start = {name: p.detach().clone() for name, p in trainable(view).items()}
    fit(view, Sorted(), steps=1, lr=1e-3, warmup=0, weight_decay=0.5, device="cpu", progress=False, clip=1e9)
    moved = {name: (p - start[name]).abs().max().item() for name, p in trainable(view).items()}
    assert all(m == pytest.approx(1e-3, rel=0.6) for name, m in moved.items() if not name.endswith("k.bias"))
    decayed = view.head.classify.weight - start["head.classify.weight"] * (1 - 0.5e-3)
    assert decayed.detach().abs().max() == pytest.approx(1e-3, rel=0.01), "the head decays, though a bias does not"


def test_a_probe_learns_a_task_of_classes():
    torch.manual_seed(0)
    view = LinearProbe(classes=CLASSES).attach(make(None, causal=True))
    before = evaluate(view, Sorted(), 300).accuracy
    fit(view, Sorted(), steps=200, lr=1e-1, device="cpu", progress=False)
    assert evaluate(view, Sorted(), 300).accuracy > before + 0.2


@pytest.mark.parametrize(("causal", "side", "place"), [(True, "right", "last"), (False, "left", "first")])
def test_padding_where_the_head_reads_is_told(causal, side, place):
    _, tokens, mask = rows(side)
    view = LoRA(classes=3).attach(make(None, causal))
    with pytest.raises(ValueError, match=f"the head reads the {place} token, but a row has padding there: pad on the"):
        view(tokens, mask)
    with pytest.raises(ValueError, match="a model that classifies cannot generate" if causal else "bidirectional"):
        view.generate(tokens, 2)


def test_a_padded_row_is_classified_as_it_is_alone():
    for causal, side in ((True, "left"), (False, "right")):
        alone, tokens, mask = rows(side)
        view = stirred(LoRA(classes=3), make(None, causal))
        for row, logits in zip(alone, view(tokens, mask), strict=True):
            close(logits, view(row[None])[0])


def test_a_linear_head_gets_a_linear_one_and_a_model_without_a_head_an_error():
    net = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    view = LoRA(targets=("body",), classes=7).attach(net)
    assert view.head.weight.shape == (7, 4)
    assert net.head.weight.shape == (2, 4)
    with pytest.raises(TypeError, match="Linear has no head that a classifier could take the place of: classes=3"):
        LoRA(targets=("weight",), classes=3).attach(nn.Linear(3, 4))


# ---- places -----------------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """Two Transformers in one model; its answer is the product of their last logits."""

    def __init__(self):
        super().__init__()
        self.left, self.right = make(None), make(1)

    def forward(self, tokens):
        return self.left(tokens)[:, -1:] * self.right(tokens)[:, -1:]


AT_THE_BEGINNING = PromptTuning(length=2), PTuning(length=2, width=4), PrefixTuning(length=2), PTuningV2(length=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_stays_within_its_places(name):
    model, tokens = Towers().eval(), rows()[1]
    view = stirred(METHODS[name](places=("right",)), model)
    assert all(path.startswith("right.") for path in attachments(view)[0].layers)
    close(view.left(tokens), model.left(tokens))
    assert (view.right(tokens) - model.right(tokens)).abs().max() > 1e-3
    deeper = METHODS[name](places=("left.blocks.1",))
    if isinstance(deeper, PromptTuning | PTuning | PrefixTuning | PTuningV2 | LinearProbe):
        with pytest.raises(
            (TypeError, ValueError), match=r"must have `begin`, with `blocks`|no module or weight is named"
        ):
            deeper.attach(model)
        return
    assert all(path.startswith("left.blocks.1") for path in attachments(deeper.attach(model))[0].layers)


@pytest.mark.parametrize("method", AT_THE_BEGINNING, ids=str)
def test_what_stands_in_front_of_a_sequence_must_know_which(method):
    model, tokens = Towers().eval(), rows()[1]
    with pytest.raises(ValueError, match=r"several sequences .* could stand before: left, right; say which, places="):
        method.attach(model)
    both = type(method)(length=2, places=("left", "right"))
    view = stirred(both, model)
    for tower in ("left", "right"):
        assert (getattr(view, tower)(tokens) - getattr(model, tower)(tokens)).abs().max() > 1e-3


def test_places_that_are_not_there_are_told():
    with pytest.raises(
        ValueError, match="places names 'middle', which is no part of Towers; its parts are left, right"
    ):
        LoRA(places=("middle",)).attach(Towers())
    with pytest.raises(ValueError, match="no module or weight is named 'q'"):
        LoRA(targets=("q",), places=("left.head",)).attach(Towers())


def test_a_stack_keeps_to_the_places_of_each():
    model = Towers().eval()
    view = IA3(places=("left",)).attach(LoRA(places=("right",)).attach(model))
    Full(places=("right",), targets=("head",)).attach(view)
    assert all(path.startswith("left.") for path in attachments(view)[1].layers)


class Meddling(LoRA):
    """Counts what `fit` asks of it."""

    def regularizer(self, model):
        self.asked.append(sorted(trainable(model)))
        return sum(p.square().sum() for p in trainable(model).values())

    def after_step(self, model, step, steps):
        self.asked.append(step)


def test_a_method_on_a_tower_keeps_its_groups_its_regularizer_and_what_it_does_after_a_step():
    """The tower is a view, and the whole model is none."""
    torch.manual_seed(0)
    model = Towers().requires_grad_(False)
    method = Meddling(rank=2, lr_ratio=16)
    object.__setattr__(method, "asked", [])
    model.left = method.attach(model.left)
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    goal = Sorted()
    history = fit(model, Two(goal), steps=1, lr=1e-4, warmup=0, device="cpu", progress=False, clip=1e9)
    moved = {name: (p - start[name]).abs().max().item() for name, p in trainable(model).items()}
    assert all(m == pytest.approx(16e-4, rel=0.01) for name, m in moved.items() if name.endswith(".B"))
    assert method.asked == [sorted(trainable(model.left)), 0]
    assert len(history.loss) == 1


class Two:
    """The classes of a task as tokens, for a model that answers with logits (B, 1, V)."""

    def __init__(self, goal):
        self.goal = goal

    def batch(self, size, generator):
        batch = self.goal.batch(size, generator)
        return Batch(batch.tokens, batch.targets[:, None])


def test_the_budget_of_adalora_counts_the_fresh_head_for_nothing():
    with_head, without = (AdaLoRA(rank=1, initial_rank=2, classes=n).attach(make(None)) for n in (CLASSES, None))
    assert count(with_head) == count(without) + CLASSES * (DIM + 1)


def test_adapters_and_fusions_in_one_tower():
    model = Towers().eval()
    assert len(attachments(Houlsby(norms=False, places=("left",)).attach(model))[0].layers) == 2 * LAYERS
    assert len(attachments(Pfeiffer(places=("right",)).attach(model))[0].layers) == LAYERS
    assert len(attachments(AdapterFusion(places=("right",)).attach(model))[0].layers) == LAYERS
