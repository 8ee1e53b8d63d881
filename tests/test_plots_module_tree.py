"""The tree of modules: its areas are numbers of parameters, its colours say what is trained."""

import math

import pytest
from matplotlib.colors import to_hex
from torch import nn

from minipeft import plots
from minipeft.attach import attachments, detach, trainable
from minipeft.methods import (
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    Full,
    Houlsby,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PrefixTuning,
    PromptTuning,
    QLoRA,
    VeRA,
)
from minipeft.methods.adapter_fusion import fusions
from minipeft.plots.module_tree import parts
from minipeft.plots.style import PALE, shades
from tests.figures import labelled
from tests.models import DIM, LAYERS, count, make

pytestmark = pytest.mark.usefixtures("figures")


def tiles(ax):
    """The tiles that stand for tensors, by name."""
    return {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}


def area(tile):
    return tile.get_width() * tile.get_height()


EVERY = [
    *(method() for method in METHODS.values()),
    PrefixTuning(length=3, mlp=5),
    LoRA(rank=2, targets=("q.weight", "token")),
]


def leaves(tree):
    """(numbers, trained?) of every tensor of a tree."""
    for child in tree.values():
        if isinstance(child, dict):
            yield from leaves(child)
        else:
            yield math.prod(child[0]), child[1]


@pytest.mark.parametrize("causal", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("method", EVERY, ids=str)
def test_the_parts_are_those_of_the_base_and_what_is_trained(method, causal):
    model = method.attach(make(causal=causal))
    found = list(leaves(parts(model)))
    base = [p.numel() for p in detach(model).parameters()]
    assert sorted(n for n, learned in found if learned) == sorted(p.numel() for p in trainable(model).values())
    adapters = [b.numel() for fusion in fusions(model).values() for b in fusion.buffers()]  # frozen, of the method
    new = attachments(model)[0].layers.values()
    copies = [p.numel() for p in {p for p in new if isinstance(p, nn.Parameter)}]
    assert sum(n for n, _ in found) == sum(base) + count(model) - sum(copies) + sum(adapters)


@pytest.mark.parametrize("method", [Houlsby(size=3), AdapterFusion(), AdaLoRA()], ids=str)
def test_areas_of_the_tree_are_numbers_of_parameters_and_what_is_trained_has_the_hue(method):
    model = method.attach(make())
    ax = labelled(plots.module_tree(model))
    hue = to_hex(shades([method])[0])
    expected = [(n, hue if learned else PALE) for n, learned in leaves(parts(model))]
    drawn = [(round(area(tile), 3), to_hex(tile.get_facecolor())) for tile in tiles(ax).values()]
    assert sorted(drawn) == sorted(expected)
    assert ax.get_xlim()[1] == sum(n for n, _ in expected)


def test_the_tree_names_what_it_shows():
    model = LoRA(rank=2, targets=("q",)).attach(make())
    shown = tiles(plots.module_tree(model))
    assert set(shown) == {n.replace("blocks.", "block ").replace(".base", "") for n, _ in model.named_parameters()}
    block = [name for name in shown if name.startswith("block 1.attn.q")]
    assert [name.split(".")[-1] for name in block] == ["weight", "bias", "A", "B"]
    assert area(shown["block 1.attn.q.A"]) == pytest.approx(2 * DIM)


def test_the_tiles_of_the_tree_fill_it_without_overlap():
    ax = plots.module_tree(Pfeiffer(size=3).attach(make()))
    columns = {}
    for tile in tiles(ax).values():
        columns.setdefault((tile.get_x(), tile.get_width()), []).append((tile.get_y(), tile.get_height()))
    right = 0
    for (left, width), stack in sorted(columns.items()):
        assert left == pytest.approx(right)
        right = left + width
        top = 0
        for bottom, height in sorted(stack):
            assert bottom == pytest.approx(top)
            top = bottom + height
        assert top == pytest.approx(1)
    assert right == ax.get_xlim()[1]


def test_a_method_stands_in_the_tree_where_it_stands_in_the_model():
    names = {
        Pfeiffer(size=3): "block 2.adapter.D.weight",
        ParallelAdapter(size=3): "block 2.mlp.adapter.U.bias",
        PromptTuning(length=3): "begin.P",
        PrefixTuning(length=3): "begin.P_V",
        AdapterFusion(): "block 0.fusion.b_D.b_D",
        VeRA(rank=4): "block 0.attn.v.d",
    }
    for method, name in names.items():
        node = parts(method.attach(make()))
        for step in name.split("."):
            node = node[step]
        assert node[1] is (name != "block 0.fusion.b_D.b_D")  # the adapters that are fused are frozen


def test_headers_of_the_tree_are_coloured_only_above_what_is_trained():
    ax = plots.module_tree(LoRA(targets=("down",)).attach(make()))
    faces = {}
    for patch in ax.patches:
        if patch.get_gid() is None:
            faces.setdefault(to_hex(patch.get_facecolor()), []).append(patch)
    plain = faces.pop("#f6f6f6")
    (coloured,) = faces.values()
    assert len(coloured) == 3 * LAYERS  # block, mlp and down
    assert len(plain) == 8 * LAYERS + 5  # attn q k v o, up, norm1, norm2; embed token position, norm, head
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[1] == f"trained: {LAYERS * 4 * 32}, LoRA(rank=4, targets=('down',))"


def test_the_tree_counts_a_tied_weight_once_and_shows_a_weight_of_4_bits_as_what_it_stands_for():
    model = make()
    model.head.weight = model.embed.token.weight
    adapted = QLoRA(rank=2).attach(model)
    ax = plots.module_tree(adapted)
    base = sum(p.numel() for p in model.parameters())
    shown = tiles(ax)
    assert "head.weight" not in shown
    assert sum(map(area, shown.values())) == pytest.approx(base + count(adapted))
    assert area(shown["block 0.mlp.up.weight"]) == pytest.approx(20 * DIM)


def test_the_tree_of_a_stack_shows_both_and_colours_the_upper():
    model = LoRA(rank=2).attach(make())
    ax = plots.module_tree(LoRA(rank=3).attach(model))
    shown, hue = tiles(ax), to_hex(shades(["LoRA"])[0])
    assert to_hex(shown["block 0.attn.q.A"].get_facecolor()) == PALE
    assert to_hex(shown["block 0.attn.q.A′"].get_facecolor()) == hue
    assert [area(shown[f"block 0.attn.q.{name}"]) for name in ("A", "A′")] == pytest.approx([2 * DIM, 3 * DIM])
    assert "LoRA(rank=3) on LoRA(rank=2)" in ax.get_legend().get_texts()[1].get_text()


@pytest.mark.parametrize("lower", [Full(), BitFit(), PromptTuning(length=2), AdapterFusion()], ids=str)
def test_the_lower_method_of_a_stack_is_shown_frozen(lower):
    model = LoRA(rank=2).attach(lower.attach(make()))
    found = list(leaves(parts(model)))
    assert sum(n for n, learned in found if learned) == count(model)
    below = list(leaves(parts(detach(model, 1))))
    assert sum(n for n, _ in found) == sum(n for n, _ in below) + count(model)


def test_the_tree_is_drawn_of_other_models_and_of_a_bare_one_too():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 3), nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))

    bare = tiles(plots.module_tree(make().requires_grad_(False)))
    assert {to_hex(tile.get_facecolor()) for tile in bare.values()} == {PALE}
    shown = tiles(plots.module_tree(LoRA(rank=2, targets=("lstm.weight_hh_l0",)).attach(Reader())))
    assert area(shown["lstm.A"]) == pytest.approx(2 * 3)
    assert area(shown["head 2.weight"]) == pytest.approx(4)
