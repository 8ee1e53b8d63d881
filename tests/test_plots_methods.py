"""Figures of single methods: what is in their artists is what was given, worked out here another way."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import Rectangle
from torch import nn

from minipeft import deltas
from minipeft import plots as figures
from minipeft.attach import disabled, trainable
from minipeft.methods import (
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
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
from minipeft.methods.qlora import dequantize, levels_of, quantize, rounding_error
from minipeft.plots import AMOUNT, shades, style
from minipeft.plots.tree import parts
from minipeft.tasks import Batch
from tests.models import DIM, LAYERS, T, close, count, make, rows, stirred


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def labelled(ax):
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    return ax


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
    with disabled(model):
        base = [p.numel() for p in model.parameters()]
    assert sorted(n for n, learned in found if learned) == sorted(p.numel() for p in trainable(model).values())
    adapters = [b.numel() for fusion in fusions(model).values() for b in fusion.buffers()]  # frozen, of the method
    copies = [s.replacement.numel() for s in model.attachments[0].swaps if isinstance(s.replacement, nn.Parameter)]
    assert sum(n for n, _ in found) == sum(base) + count(model) - sum(copies) + sum(adapters)


@pytest.mark.parametrize("method", [Houlsby(size=3), AdapterFusion(), AdaLoRA()], ids=str)
def test_areas_of_the_tree_are_numbers_of_parameters_and_what_is_trained_has_the_hue(method):
    model = method.attach(make())
    ax = labelled(figures.module_tree(model))
    hue = to_hex(shades([method])[0])
    expected = [(n, hue if learned else style.PALE) for n, learned in leaves(parts(model))]
    drawn = [(round(area(tile), 3), to_hex(tile.get_facecolor())) for tile in tiles(ax).values()]
    assert sorted(drawn) == sorted(expected)
    assert ax.get_xlim()[1] == sum(n for n, _ in expected)


def test_the_tree_names_what_it_shows():
    model = LoRA(rank=2, targets=("q",)).attach(make())
    shown = tiles(figures.module_tree(model))
    assert set(shown) == {n.replace("blocks.", "block ").replace(".base", "") for n, _ in model.named_parameters()}
    block = [name for name in shown if name.startswith("block 1.attn.q")]
    assert [name.split(".")[-1] for name in block] == ["weight", "bias", "A", "B"]
    assert area(shown["block 1.attn.q.A"]) == pytest.approx(2 * DIM)


def test_the_tiles_of_the_tree_fill_it_without_overlap():
    ax = figures.module_tree(Pfeiffer(size=3).attach(make()))
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
        PromptTuning(length=3): "embed.P.P",
        PrefixTuning(length=3): "block 1.attn.P_V.P_V",
        AdapterFusion(): "block 0.fusion.b_D.b_D",
        VeRA(rank=4): "block 0.attn.v.d",
    }
    for method, name in names.items():
        node = parts(method.attach(make()))
        for step in name.split("."):
            node = node[step]
        assert node[1] is (name != "block 0.fusion.b_D.b_D")  # the adapters that are fused are frozen


def test_headers_of_the_tree_are_coloured_only_above_what_is_trained():
    ax = figures.module_tree(LoRA(targets=("down",)).attach(make()))
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
    ax = figures.module_tree(QLoRA(rank=2).attach(model))
    with disabled(model):
        base = sum(p.numel() for p in model.parameters())
    shown = tiles(ax)
    assert "head.weight" not in shown
    assert sum(map(area, shown.values())) == pytest.approx(base + count(model))
    assert area(shown["block 0.mlp.up.weight"]) == pytest.approx(20 * DIM)


def test_the_tree_of_a_stack_shows_both_and_colours_the_upper():
    model = LoRA(rank=2).attach(make())
    ax = figures.module_tree(LoRA(rank=3).attach(model, stack=True))
    shown, hue = tiles(ax), to_hex(shades(["LoRA"])[0])
    assert to_hex(shown["block 0.attn.q.A"].get_facecolor()) == style.PALE
    assert to_hex(shown["block 0.attn.q.A′"].get_facecolor()) == hue
    assert [area(shown[f"block 0.attn.q.{name}"]) for name in ("A", "A′")] == pytest.approx([2 * DIM, 3 * DIM])
    assert "LoRA(rank=3) on LoRA(rank=2)" in ax.get_legend().get_texts()[1].get_text()


def test_the_tree_is_drawn_of_other_models_and_of_a_bare_one_too():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 3), nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))

    bare = tiles(figures.module_tree(make().requires_grad_(False)))
    assert {to_hex(tile.get_facecolor()) for tile in bare.values()} == {style.PALE}
    shown = tiles(figures.module_tree(LoRA(rank=2, targets=("lstm.weight_hh_l0",)).attach(Reader())))
    assert area(shown["lstm.A"]) == pytest.approx(2 * 3)
    assert area(shown["head 2.weight"]) == pytest.approx(4)


def batch(side=None):
    _, tokens, mask = rows(side)
    return Batch(tokens, tokens, mask)


@pytest.mark.parametrize("method", [Houlsby(size=3), Pfeiffer(size=3), ParallelAdapter(size=3)], ids=str)
def test_activations_are_what_passes_through_without_padding(method):
    model, rows_ = stirred(method, make()), batch("left")
    found = figures.activations(model, rows_)
    adapters = {path: module for path, module in model.named_modules() if path.endswith(".adapter")}
    assert {f"{path}.adapter" for path in found} == set(adapters)
    for path, (h, z, out) in found.items():
        adapter = adapters[f"{path}.adapter"]
        assert [len(t) for t in (h, z, out)] == [int(rows_.mask.sum())] * 3
        assert [t.shape[1] for t in (h, z, out)] == [DIM, 3, DIM]
        close(z, adapter.act(h @ adapter.D.weight.T + adapter.D.bias))
        close(out, adapter(h))
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_leave_virtual_tokens_out():
    model = Pfeiffer(size=3).attach(PromptTuning(length=2).attach(make()), stack=True)
    _, tokens, _ = rows()
    whole = []
    hook = model.blocks[0].adapter.register_forward_hook(lambda adapter, inputs, output: whole.append(inputs[0]))
    (h, *_), *_ = figures.activations(model, Batch(tokens, tokens)).values()
    hook.remove()
    assert whole[0].shape[1] == 2 + T
    close(h, whole[0][:, 2:].flatten(0, 1))


def test_a_model_without_bottlenecks_is_told():
    with pytest.raises(ValueError, match=r"no bottlenecks.*attach Houlsby"):
        figures.activations(LoRA().attach(make()), batch())


def test_the_bottleneck_shows_shares_of_variance_and_how_many_directions_hold_enough():
    torch.manual_seed(0)
    h = torch.randn(400, 12) + 5  # a mean is no variance
    z = torch.randn(400, 2) @ torch.tensor([[10.0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    out = torch.randn(400, 3) @ torch.randn(3, 12)
    ax = labelled(figures.bottleneck((h, z, out)))
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    for line, X in zip(lines, (h, z, out), strict=True):
        values = np.linalg.eigvalsh(np.cov(X.numpy().astype(float).T))[::-1]
        assert np.allclose(line.get_ydata(), np.cumsum(values) / values.sum(), atol=1e-6)
        assert line.get_ydata()[-1] == pytest.approx(1)
    assert [len(line.get_xdata()) for line in lines] == [12, 5, 12]
    assert lines[2].get_ydata()[2] == pytest.approx(1)  # of rank 3
    assert lines[1].get_label() == "inside: z = φ(D h), m = 5; 1 holds 90%"
    assert float(figures.variances(h).sum()) == pytest.approx(1)
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert all(line.get_ydata()[0] >= 0.9 for line in rings)
    assert [int(line.get_xdata()[0]) for line in rings][1] == 1


def test_the_rank_map_has_every_rank_at_its_time_and_their_sum_on_the_budget():
    method, steps = AdaLoRA(rank=1, initial_rank=2, interval=5), 40
    histories = {
        "blocks.0.attn.q": [(0, 2), (10, 2), (15, 1), (28, 0)],
        "blocks.1.mlp.up": [(0, 2), (10, 1), (15, 1), (28, 2)],
    }
    budget = [method.budget(t, steps, 2) for t in range(steps + 1)]
    above, below = figures.rank_map(histories, budget)
    (mesh,) = below.collections
    assert np.asarray(mesh.get_array()).reshape(2, 4).tolist() == [[2, 2, 1, 0], [2, 1, 1, 2]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 10, 15, 28, steps]
    assert [text.get_text() for text in below.texts] == list("22102112")
    assert [text.get_text() for text in below.get_yticklabels()] == ["0.attn.q", "1.mlp.up"]
    assert below.yaxis_inverted()
    line, dots = above.lines
    assert line.get_ydata().tolist() == budget
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([0, 10, 15, 28], [4, 3, 2, 2])
    labelled(below)
    assert above.get_ylabel()


def test_levels_stand_at_the_levels_and_cells_have_the_colour_of_their_share():
    torch.manual_seed(0)
    values, names = torch.randn(50, 37), ("nf4", "int4", "fp4")
    ax = labelled(figures.levels(names, values, block_size=32))
    lines = [np.array([segment[0][0] for segment in c.get_segments()]) for c in ax.collections]
    assert all(np.allclose(at, levels_of(name)) for at, name in zip(lines, ("nf4", *names), strict=True))
    blocks = values.flatten()[: 1850 // 32 * 32].view(-1, 32)
    scaled = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
    cells = [patch for patch in ax.patches if type(patch) is Rectangle]
    colours, most = {}, 0
    for name in names:
        nearest = (scaled[:, None] - levels_of(name)).abs().argmin(1)
        shares = torch.bincount(nearest, minlength=len(levels_of(name))) / len(scaled)
        assert float(shares.sum()) == pytest.approx(1)
        colours[name], most = shares, max(most, float(shares.max()))
    assert len(cells) == sum(map(len, colours.values()))
    for name, shares in colours.items():
        mine, cells = cells[: len(shares)], cells[len(shares) :]
        assert sum(cell.get_width() for cell in mine) == pytest.approx(2)
        ends = [cell.get_x() for cell in mine[1:]]
        assert ends == pytest.approx(((levels_of(name)[1:] + levels_of(name)[:-1]) / 2).tolist(), abs=1e-6)
        for cell, share in zip(mine, shares, strict=True):
            assert np.allclose(cell.get_facecolor(), AMOUNT(float(share) / most), atol=0.01)
    for text, name in zip(ax.texts, names, strict=True):
        error = rounding_error(blocks, name, block_size=32, double_quant=False)
        assert text.get_text() == f"{len(levels_of(name))} levels\nerror {100 * error:.1f} %"


def test_an_outlier_spoils_its_own_block_and_larger_blocks_more_of_the_matrix():
    torch.manual_seed(0)
    W = 0.3 * torch.randn(64, 64)
    left, right = map(labelled, figures.block_error(W, outlier=30, sizes=(16, 64, 256)))
    spoiled, clean = (np.array([bar.get_height() for bar in bars]) for bars in left.containers)
    different = np.flatnonzero(~np.isclose(spoiled, clean))
    assert [left.containers[0][i].get_x() + 0.4 for i in different] == pytest.approx([32])  # 2048 = 32 · 64
    assert len(clean) == 32
    σ, expected = W.std(), []
    for values in (W.flatten(), W.flatten().index_fill(0, torch.tensor(2048), 30 * W.std())):
        for size in (16, 64, 256):
            back = dequantize(quantize(values, "nf4", size, double_quant=False), (4096,), "nf4", size)
            change = (back - values).index_fill(0, torch.tensor(2048), 0)
            expected.append(float(change.square().mean().sqrt() / σ))
            if size == 64:
                height = float(change[2048:2112].square().mean().sqrt() / σ)
                assert height == pytest.approx((spoiled if values[2048] > 20 * σ else clean)[different[0]], rel=1e-5)
    without, outlier = (line.get_ydata() for line in right.lines)
    assert [*without, *outlier] == pytest.approx(expected, rel=1e-5)
    assert all(outlier > without)
    assert [text.get_text() for text in right.get_xticklabels()] == ["16\n6", "64\n4.5", "256\n4.12"]


def test_a_matrix_too_small_for_its_blocks_is_told():
    with pytest.raises(ValueError, match=r"100 values.*need 512.*smaller"):
        figures.block_error(torch.randn(10, 10))


def test_biases_have_the_colour_and_the_number_of_their_relative_change():
    model = stirred(BitFit(targets=("attn.k", "mlp.up")), make())
    ax = labelled(figures.biases(model))
    shown = tiles(ax)
    numbers = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in ax.texts}
    updates = deltas.updates(model)
    assert len(updates) == len(numbers) == 2 * LAYERS
    with disabled(model):
        assert set(shown) == {name[:-5] for name, _ in model.named_parameters() if name.endswith(".bias")}
    for name, (b, change) in updates.items():
        tile = shown[name.removesuffix(".bias")]
        value = float(change.norm() / b.norm())
        assert numbers[tile.get_x() + 0.5, tile.get_y() + 0.5] == f"{value:.2f}"
        assert to_hex(tile.get_facecolor()) != style.PALE
        assert tile.get_x() == int(name.split(".")[1])
    frozen = set(shown) - {name.removesuffix(".bias") for name in updates}
    assert {to_hex(shown[name].get_facecolor()) for name in frozen} == {style.PALE}
    hatched = [patch.get_y() for patch in ax.patches if patch.get_hatch()]
    ticks = [text.get_text() for text in ax.get_yticklabels()]
    assert {ticks[int(y)] for y in hatched} == {"attn.k (idle)"}
    assert len(hatched) == LAYERS


def test_the_bias_that_moved_more_is_darker():
    model = BitFit(targets=("mlp.up",)).attach(make())
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            block.mlp.up.bias *= 1 + 0.1 * 3**i
    shown = tiles(figures.biases(model))
    faces = [shown[f"blocks.{i}.mlp.up"].get_facecolor() for i in range(LAYERS)]
    assert sorted(faces, key=sum, reverse=True) == faces
    assert len(set(faces)) == LAYERS


def test_fusion_weights_are_means_over_what_is_no_padding():
    model = stirred(AdapterFusion(adapters=2, size=3), make())
    _, tokens, mask = rows()
    model(tokens, mask)
    weights = {path: fusion.weights for path, fusion in fusions(model).items()}
    axes = figures.fusion_weights(weights, ["one", "two"], mask, words=list("abcdefg"))
    assert len(axes) == LAYERS
    for ax, α in zip(axes, weights.values(), strict=True):
        image = np.asarray(ax.images[0].get_array())
        assert image.shape == (2, T)
        assert np.allclose(image.sum(0), 1, atol=1e-5)
        for t in range(T):
            assert np.allclose(image[:, t], α[mask[:, t], t].mean(0), atol=1e-6)
        sums = [text.get_text() for text in ax.texts if "±" in text.get_text() and "mean" not in text.get_text()]
        assert sums == [f"{α[mask][:, n].mean():.2f} ± {α[mask][:, n].std(correction=0):.2f}" for n in range(2)]
        assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
        assert ax.get_ylabel()
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == list("abcdefg")
    assert axes[-1].get_xlabel()


def dots(ax):
    """Angles and ratios of the rows, and of the medians of the matrices."""
    lines = {line.get_label(): line for line in ax.lines if line.get_marker() not in ("None", "", None)}
    (cloud,) = [line for label, line in lines.items() if label.startswith("_")]
    medians = {label: line for label, line in lines.items() if not label.startswith("_")}
    return cloud, medians


def test_lengths_and_directions_are_told_apart():
    W = torch.eye(3, 4)
    turned = torch.tensor([[0.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, -2, 0]])  # by 90°, 45°, 180°
    updates = {
        "Full": {"blocks.0.attn.q.weight": (W, W), "only.weight": (W, W)},
        "LoRA(rank=4)": {"blocks.0.attn.q.weight": (W, turned - W), "bias": (W[0], W[0])},
    }
    axes = [labelled(ax) if i == 0 else ax for i, ax in enumerate(figures.magnitude_direction(updates))]
    longer, medians = dots(axes[0])
    assert longer.get_xdata().tolist() == [0, 0, 0]
    assert longer.get_ydata().tolist() == [2, 2, 2]
    assert list(medians) == ["0.attn.q"]  # the only one that both changed
    other, medians = dots(axes[1])
    assert other.get_xdata().tolist() == pytest.approx([90, 45, 180])
    assert other.get_ydata().tolist() == pytest.approx([1, math.sqrt(2), 2])
    assert (float(medians["0.attn.q"].get_xdata()[0]), float(medians["0.attn.q"].get_ydata()[0])) == pytest.approx(
        (90, math.sqrt(2))
    )
    assert axes[0].get_yscale() == axes[1].get_yscale() == "log"
    for ax in axes:  # all can be seen, in the same frame
        assert ax.get_xlim() == axes[0].get_xlim()
        assert ax.get_xlim()[1] > 180
        assert ax.get_ylim()[0] < 1 < 2 < ax.get_ylim()[1]
    assert to_hex(longer.get_color()) == to_hex(shades(["Full"])[0])


def test_a_change_at_right_angles_lies_on_the_dotted_line():
    torch.manual_seed(0)
    W, ΔW = torch.randn(20, 8), torch.randn(20, 8)
    ΔW -= (ΔW * W).sum(1, keepdim=True) / (W * W).sum(1, keepdim=True) * W
    (ax,) = figures.magnitude_direction({"DoRA": {"q": (W, ΔW)}})
    (curve,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    cloud, _ = dots(ax)
    expected = np.interp(cloud.get_xdata(), curve.get_xdata(), curve.get_ydata())
    assert np.allclose(cloud.get_ydata(), expected, rtol=1e-2)


def test_the_correlation_is_told_and_dora_can_leave_lengths_alone():
    model = DoRA(rank=2).attach(make())
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in (block.attn.q for block in model.blocks):
            layer.B.normal_()
    (ax,) = figures.magnitude_direction({"DoRA(rank=2)": deltas.updates(model)})
    cloud, medians = dots(ax)
    assert np.allclose(cloud.get_ydata(), 1, atol=1e-5)
    assert float(medians["0.attn.q"].get_xdata()[0]) > 10
    torch.manual_seed(0)
    W, ΔW = torch.randn(30, 8), torch.randn(30, 8)
    (ax,) = figures.magnitude_direction({"Full": {"q": (W, ΔW)}})
    cloud, _ = dots(ax)
    r = np.corrcoef(cloud.get_xdata(), np.abs(np.log2(cloud.get_ydata())))[0, 1]
    assert ax.get_title() == f"Full, r = {r:.2f}"


def test_methods_that_share_no_matrix_are_told():
    W = torch.randn(3, 3)
    with pytest.raises(ValueError, match="same targets"):
        figures.magnitude_direction({"Full": {"q": (W, W)}, "LoRA": {"v": (W, W)}})


def test_text_can_be_read_on_every_colour():
    assert [style.readable(colour) for colour in ("#ffffff", "#56b4e9", "#002b4d", "#000000")] == [
        figures.INK, figures.INK, "white", "white",
    ]  # fmt: skip


def test_every_method_has_a_drawing_of_its_structure():
    drawn = set(figures.STRUCTURES) - {"Adapter"} | {"Houlsby", "Pfeiffer", "ParallelAdapter"}
    assert drawn == set(METHODS)
    with pytest.raises(ValueError, match="no drawing of 'Magic'; there are: Full"):
        figures.structure("Magic")


@pytest.mark.parametrize("method", figures.STRUCTURES)
def test_a_structure_is_readable_and_shows_what_is_trained_and_what_is_frozen(method):
    ax = figures.structure(method)
    figure = ax.figure
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in ax.texts if t.get_text()]
    inside = figure.bbox
    for i, a in enumerate(boxes):
        assert inside.union([inside, a]).bounds == inside.bounds, "it leaves the figure"
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    hue = to_rgba("#009e73" if method == "Adapter" else figures.HUES[method])
    colours = {p.get_facecolor() for p in ax.patches if p.get_facecolor()[3] == 1}
    assert hue in colours
    assert len(colours) > 1 or method == "Full"
    figures.plt.close("all")
