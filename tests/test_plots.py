"""Every figure takes data and gives Axes, labelled, with what the data say in it."""

from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from minipeft import deltas, plots
from minipeft.attach import trainable
from minipeft.methods import METHODS, LoRA, PrefixTuning, PromptTuning, PTuning, PTuningV2
from minipeft.models.transformer import Cache, Config, Transformer, recording
from minipeft.plots.prompts import write
from minipeft.plots.style import FAMILIES, HUES, dash, mark, spread
from minipeft.training import History
from tests.models import DIM, HEADS, LAYERS, T, close, make, rows, stirred


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def labelled(ax):
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    return ax


def test_curves_smooth_and_bear_short_runs():
    ax = labelled(plots.curves({"LoRA(rank=1)": History(loss=[2.0] * 30), "Full": History(loss=[2.0] * 3)}))
    assert [len(line.get_xdata()) for line in ax.lines] == [21, 1]
    assert all(np.allclose(line.get_ydata(), 2) for line in ax.lines)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["LoRA(rank=1)", "Full"]


def test_low_rank_blocks_have_their_true_proportion():
    ax = plots.low_rank(torch.randn(3, 20), torch.randn(12, 3), scale=2.0)
    extents = [image.get_extent() for image in ax.images]
    assert [(x1 - x0, y1 - y0) for x0, x1, y0, y1 in extents] == [(3, 12), (20, 3), (20, 12)]
    B, A, product = (np.asarray(image.get_array()) for image in ax.images)
    assert np.allclose(product, 2 * B @ A, atol=1e-5)


def test_spectrum_shows_the_rank():
    delta = torch.randn(9, 3) @ torch.randn(3, 8)
    ax = labelled(plots.spectrum({"LoRA(rank=3)": delta, "Full": torch.randn(9, 8)}))
    lengths = [len(line.get_xdata()) for line in ax.lines if not line.get_label().startswith("_")]
    assert lengths == [3, 8]
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("size", [8, 40])
def test_equal_spectra_do_not_hide_each_other(size):
    delta = torch.randn(size, size)
    ax = plots.spectrum({"Full": delta, "LoRA(rank=4)": delta, "LoRA(rank=2)": delta})
    drawn = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len({line.get_marker() for line in drawn}) == 3
    if size == 8:
        assert len({line.get_xdata()[0] for line in drawn}) == 3  # side by side, round their index
        assert np.mean([line.get_xdata()[0] for line in drawn]) == pytest.approx(1)


def test_what_moved_is_grey_where_nothing_did():
    model = LoRA(targets=("q",)).attach(Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10)))
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()
    ax = plots.what_moved(model, deltas.updates(model))
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in ax.patches]
    moved = [colour for colour in colours if colour != "#e6e6e6"]
    assert len(moved) == 2  # a q in each of two blocks
    assert len(colours) == len([*model.parameters()]) - 4  # without A and B


def many(accuracy):
    """As many tuned_methods as the course has, most of them with the same few numbers of parameters."""
    labels = [f"LoRA(rank={r})" for r in (1, 2, 4, 8)] + [
        f"{name}(length=4, start=1)" for name in HUES if name != "LoRA"
    ]
    sizes = [512, 512, 2048, 4096, 4100, 109372]
    return [
        {"method": label, "parameters": sizes[i % 6], "accuracy": accuracy(i)}
        for i, label in enumerate(reversed(labels))
    ]


def overlapping(texts):
    """Pairs of names that cover each other, when all is drawn."""
    texts[0].figure.canvas.draw()
    boxes = [(t.get_text(), matplotlib.text.Text.get_window_extent(t)) for t in texts]
    return [(a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[:i] if box.overlaps(other)]


def test_pareto_has_a_point_with_its_range_for_each_method():
    table = [
        {"method": "LoRA(rank=1)", "parameters": 512, "accuracy": [0.2, 0.4]},
        {"method": "Full", "parameters": 99999, "accuracy": [1.0]},
    ]
    ax = labelled(plots.pareto(table[::-1]))
    points = [(c.lines[0].get_xydata().tolist(), c.lines[2][0].get_segments()[0].tolist()) for c in ax.containers]
    assert points[0] == ([[pytest.approx(0.3), 512]], [[pytest.approx(0.2), 512], [pytest.approx(0.4), 512]])
    assert points[1] == ([[1, 99999]], [[1, 99999], [1, 99999]])
    assert [(t.get_text(), t.xy[0] < 0, t.xy[0] > 1) for t in ax.texts] == [
        ("LoRA(rank=1)", True, False),  # half or less: its name stands on the left
        ("Full", False, True),
    ]


@pytest.mark.parametrize("share", [0.1, 0.7, 0.998])
def test_pareto_takes_seeds_that_agree(share):
    plots.pareto([{"method": "Full", "parameters": 9, "accuracy": [share] * 3}])  # their mean is not quite the same


def test_pareto_ties_every_name_to_its_point():
    table = many(lambda i: [1.0] if i % 3 else [0.1 * (i % 5), 0.1])
    ax = plots.pareto(table)
    ax.figure.canvas.draw()
    to_data = ax.get_xaxis_transform() + ax.transData.inverted()
    names = {t.xy: t.get_text() for t in ax.texts}
    found = {}
    for line in ax.lines:
        if len(line.get_xdata()) == 2 and line.get_transform() == ax.get_xaxis_transform():
            (start, end), colour = line.get_xydata(), line.get_color()
            key = next(k for k in ax.lines if k is not line and k.get_xydata().tolist() == [end.tolist()])
            assert key.get_color() == colour
            assert key.get_marker() == mark(names[tuple(end)])["marker"]
            found[names[tuple(end)]] = to_data.transform(start).tolist()
    assert found == {
        row["method"]: pytest.approx([np.mean(row["accuracy"]), row["parameters"]], abs=1e-9) for row in table
    }


@pytest.mark.parametrize(
    ("accuracy", "panels"),
    [(lambda i: [1.0], 1), (lambda i: [0.0], 1), (lambda i: [i / 19, 0.5], 1), (lambda i: [float(i % 2)], 2)],
    ids=["all right", "all wrong", "from 0 to 1", "half of each, in two panels"],
)
def test_pareto_stays_readable_with_all_methods(accuracy, panels):
    table = many(accuracy)
    assert len(table) == 20
    axes = [plots.pareto(table)] if panels == 1 else plots.new(13, 3.8, columns=2)
    for ax in axes if panels == 2 else []:
        plots.pareto(table, ax).set_title("reverse+blue")
    ax = axes[-1]
    assert sorted(t.get_text() for t in ax.texts) == sorted(row["method"] for row in table)
    assert overlapping(ax.texts) == []
    low, high = ax.transData.transform([(0, 1e3), (1, 1e3)])[:, 0]
    for text in ax.texts:
        box = matplotlib.text.Text.get_window_extent(text)
        assert 0 <= box.x0 < box.x1 <= ax.figure.bbox.x1
        assert ax.bbox.y0 - 5 < box.y0 < box.y1 < ax.bbox.y1 + 5
        assert box.x1 < low or box.x0 > high, "names stand outside, points inside"


def test_what_is_spread_keeps_its_order_and_stays_near():
    assert spread([3.0, 3.0, 3.0], 1, 0, 9).tolist() == [2, 3, 4]
    assert spread([1.0, 5.0], 1, 0, 9).tolist() == [1, 5], "what is apart stays"
    assert spread([0.0, 0.1, 5.0, 5.2, 9.0], 2, 0, 9) == pytest.approx([0, 2, 4.1, 6.1, 9])
    assert spread([9.0, 9.0], 2, 0, 9).tolist() == [7, 9]
    assert spread([1.0, 1.0, 1.0], 5, 0, 9).tolist() == [0, 5, 10], "without room it runs over, but does not overlap"
    assert spread([], 1, 0, 9).tolist() == []


def test_attention_maps_are_labelled_by_words():
    weights = torch.rand(2, 4, 4).softmax(-1)
    ax = labelled(plots.attention(weights[0], ["a", "b", "c", "d"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]


def test_virtual_tokens_are_named_and_parted_by_a_rule():
    prompt = plots.attention(torch.rand(5, 5).softmax(-1), ["x", "a", "b", "c"], virtual=2, splits=(1,))
    names = ["P1", "P2", "a", "b", "c"]
    assert [t.get_text() for t in prompt.get_xticklabels()] == names
    assert [t.get_text() for t in prompt.get_yticklabels()] == names
    where = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in prompt.lines}
    assert where == {((at, at), (0, 1)) for at in (1.5, 2.5)} | {((0, 1), (at, at)) for at in (1.5, 2.5)}
    _, strong = sorted({line.get_linewidth() for line in prompt.lines})
    assert {tuple(line.get_xdata()) for line in prompt.lines if line.get_linewidth() == strong} == {(1.5, 1.5), (0, 1)}

    prefix = plots.attention(torch.rand(3, 5).softmax(-1), ["a", "b", "c"], virtual=2)
    assert [t.get_text() for t in prefix.get_xticklabels()] == names
    assert [t.get_text() for t in prefix.get_yticklabels()] == names[2:], "a prefix asks nothing"
    assert [(line.get_xdata(), line.get_ydata()) for line in prefix.lines] == [([1.5, 1.5], [0, 1])]
    prefix = plots.attention(torch.rand(3, 5).softmax(-1), ["a", "b", "c"], virtual=2, splits=(1,))
    assert [line.get_ydata() for line in prefix.lines if line.get_xdata() == [0, 1]] == [[0.5, 0.5]]

    template = plots.attention(torch.rand(5, 5).softmax(-1), ["a", "b", "c"], virtual=(0, 2))
    assert [t.get_text() for t in template.get_xticklabels()] == ["P1", "a", "P2", "b", "c"]
    assert sorted({line.get_xdata()[0] for line in template.lines if line.get_xdata()[0]}) == [0.5, 1.5, 2.5]


def test_the_share_of_virtual_tokens_counts_real_readers_only():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.3, 0.5, 0], [0.1, 0.2, 0.3, 0.4]])
    shares, even = plots.virtual_share([weights[None]], 2)
    assert shares.tolist() == [[pytest.approx((0.5 + 0.3) / 2)]]
    assert even == pytest.approx((2 / 3 + 2 / 4) / 2)
    shares, _ = plots.virtual_share([weights[None, 2:]], 2)  # a prefix: the same rows without those of the prompt
    assert shares.tolist() == [[pytest.approx(0.4)]]
    shares, even = plots.virtual_share([weights[None]], (0, 2))
    assert shares.tolist() == [[pytest.approx((0.9 + 0.4) / 2)]]
    assert even == pytest.approx((1 / 2 + 2 / 4) / 2)
    other = weights.flip(0).tril().softmax(-1)
    batch = torch.stack([torch.stack([weights, other]), torch.stack([other, other])])  # (B, H, T, S)
    shares, _ = plots.virtual_share([batch, batch[:1]], 1)
    of = [w[1:, 0].mean().item() for w in (weights, other)]
    close(shares, torch.tensor([[(of[0] + of[1]) / 2, of[1]], of]))


@pytest.mark.parametrize("method", [PromptTuning(length=2), PrefixTuning(length=2), PTuningV2(length=2)], ids=str)
def test_virtual_and_real_tokens_share_all_of_the_attention(method):
    model, (_, tokens, _) = stirred(method, make()), rows()
    with recording(model) as layers, torch.no_grad():
        model(tokens)
    maps = [layer.weights for layer in layers]
    virtual, even = plots.virtual_share(maps, 2)
    real = torch.stack([w[:, :, -T:, -T:].sum(-1).mean((0, 2)) for w in maps])
    assert virtual.shape == (LAYERS, HEADS)
    close(virtual + real, torch.ones(LAYERS, HEADS))
    assert even == pytest.approx(np.mean([2 / (2 + seen) for seen in range(1, T + 1)]))


def test_bars_of_attention_are_as_high_as_the_shares():
    a, b = torch.tensor([[0.1, 0.3], [0.5, 0.9]]), torch.tensor([[0.2, 0.4], [0.6, 0.0]])
    ax = labelled(plots.attention_share({"PromptTuning(length=2)": (a, 0.25), "PrefixTuning(length=2)": (b, 0.5)}))
    high = [[bar.get_height() for bar in container] for container in ax.containers]
    assert high == [pytest.approx(row) for row in ([0.1, 0.3, 0.2], [0.5, 0.9, 0.7], [0.2, 0.4, 0.3], [0.6, 0.0, 0.3])]
    colours = [matplotlib.colors.to_hex(container[0].get_facecolor()) for container in ax.containers]
    assert colours == [HUES["PromptTuning"]] * 2 + [HUES["PrefixTuning"]] * 2
    lines = [segment[:, 1].tolist() for c in ax.collections for segment in c.get_segments()]
    assert lines == [[0.25] * 2] * 6 + [[0.5] * 2] * 6
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["PromptTuning(length=2)", "PrefixTuning(length=2)", "if it were even"]
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for container in ax.containers for bar in container)
    assert all(end < start for (_, end), (start, _) in pairwise(bars))
    with pytest.raises(ValueError, match=r"as many layers and heads .*\(1, 2\), \(2, 2\)"):
        plots.attention_share({"a": (a, 0.5), "b": (b[:1], 0.5)})


def test_the_nearest_words_are_those_of_least_angle():
    table, words = torch.eye(6, 12) * torch.arange(1.0, 7)[:, None], [*"abcdef"]
    P = torch.zeros(2, 12)
    P[0, 3], P[0, 1], P[1, 5] = 40.0, 30.0, -1.0  # d and b; away from f
    values, tokens = plots.likeness(P, table, 2)
    assert [words[t] for t in tokens[0]] == ["d", "b"]
    close(values[0], torch.tensor([0.8, 0.6]))
    assert 5 not in tokens[1]
    left, right = plots.nearest(P, table, words, best=2)
    assert left.get_ylabel()
    assert [t.get_text() for t in left.texts][:2] == ["d  0.80", "b  0.60"]
    close(torch.tensor(np.asarray(left.images[0].get_array())), values)
    shown = np.asarray(right.images[0].get_array())
    assert shown.shape == (2, 2)
    assert not np.isclose(shown, values).any()
    assert [t.get_text().split()[1] for t in right.texts] == [f"{value:.2f}" for value in shown.flatten()]
    again = plots.nearest(P, table, words, best=2)[1]
    assert np.array_equal(shown, np.asarray(again.images[0].get_array())), "the same chance every time"


def test_what_random_vectors_reach_is_told_for_95_percent_of_them():
    table, P = torch.randn(9, 5, generator=torch.Generator().manual_seed(3)), torch.ones(2, 5)
    told = float(plots.nearest(P, table, [*"abcdefghi"])[1].get_title().split("below ")[1].split(" for")[0])
    chance = torch.randn(4000, 5, generator=torch.Generator().manual_seed(9))
    below = (plots.likeness(chance, table, 1).values < told).float().mean()
    assert 0.92 < below < 0.98


def flat(d=7):
    """Points of a plane in d dimensions, off the origin, wider one way than the other; and their places in it."""
    generator = torch.Generator().manual_seed(4)
    axes = torch.linalg.qr(torch.randn(d, 3, generator=generator))[0].T  # the third is at right angles to the plane
    places = torch.randn(30, 2, generator=generator)
    places = torch.linalg.qr(places - places.mean(0))[0] * torch.tensor([2.0, 1.0])
    return places @ axes[:2] + 3 * axes[2] + axes[0], places, axes


def test_the_plane_is_the_one_in_which_the_words_lie():
    table, places, axes = flat()
    mean, directions, shares = plots.plane(table)
    close(shares, torch.tensor([4 / 5, 1 / 5]))
    close((directions @ axes.T).abs(), torch.eye(2, 3))
    close(((table - mean) @ directions.T).abs(), places.abs())
    close(plots.plane(table.flip(0))[1], directions)  # signs too


def test_a_journey_is_drawn_where_it_went():
    table, places, _ = flat()
    words = [*"abcdefghij", *(f"word{i}" for i in range(20))]
    mean, directions, _ = plots.plane(table)
    path = mean + torch.randn(9, 2, 7, generator=torch.Generator().manual_seed(5))
    left, right = plots.journey(path, table, words, ("word3", "word7", "word11"))
    short = path / path.norm(dim=2, keepdim=True) * table.norm(dim=1).mean()
    for ax, vectors in ((left, path), (right, short)):
        labelled(ax)
        ways = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 1]
        assert np.allclose(np.stack(ways, 1), (vectors - mean) @ directions.T, atol=1e-5)
        assert [t.get_text() for t in ax.texts if t.get_text().isdigit()] == ["1", "1", "2", "2"]
        (left_end, right_end), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert right_end - left_end == pytest.approx(high - low), "one scale both ways"
        assert all(left_end < x < right_end and low < y < high for way in ways for x, y in way)
    letters = {t.get_text(): t.get_position() for t in right.texts if t.get_text() in words[:10]}
    assert list(letters) == words[:10]
    assert np.allclose(np.abs(list(letters.values())), places[:10].abs(), atol=1e-5)
    named = {t.get_text(): t.xy for t in right.texts if t.get_text().startswith("word")}
    assert list(named) == ["word3", "word7", "word11"]
    assert np.allclose(np.abs(list(named.values())), places[[13, 17, 21]].abs(), atol=1e-5)
    rings = [line for line in right.lines if line.get_markerfacecolor() == "white"]
    assert np.allclose([ring.get_xydata()[0] for ring in rings], (short[0] - mean) @ directions.T, atol=1e-5)


def test_a_journey_tells_how_much_of_it_the_plane_shows():
    table, _, axes = flat()
    for across, told in ((0.0, "100 %"), (1.0, "50 %"), (3.0, "10 %")):
        path = torch.stack([axes[:1], 2 * axes[:1] + across * axes[2:]])  # one along the first axis
        assert f"; {told} of the way" in plots.journey(path, table, [f"w{i}" for i in range(30)])[0].get_title()


def test_names_at_one_spot_do_not_cover_each_other():
    ax = plots.new(5, 4)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x", ylabel="y", title="crowded")
    spots = [(0.97, 0.5), (0.98, 0.5), (0.97, 0.52), (0.02, 0.03), (0.02, 0.02), (0.5, 0.5), (0.5, 0.52)]
    spots += [(0.3 + 0.07 * (i % 3), 0.8 + 0.05 * (i // 3)) for i in range(9)]
    texts = write(ax, [f"some word {i}" for i in range(len(spots))], spots, [(0.5, 0.56)])
    assert overlapping(texts) == []
    assert [t.xy for t in texts] == [pytest.approx(spot) for spot in spots]
    for text in texts:
        box = matplotlib.text.Text.get_window_extent(text)
        assert ax.bbox.x0 <= box.x0 < box.x1 <= ax.bbox.x1
        assert ax.bbox.y0 <= box.y0 < box.y1 <= ax.bbox.y1
        assert not box.overlaps(matplotlib.transforms.Bbox([ax.transData.transform((0.5, 0.56))] * 2).padded(2))
        assert not box.contains(*ax.transData.transform(text.xy)), "it stands beside its point"


@pytest.mark.parametrize(
    "method",
    [PrefixTuning(length=4), PrefixTuning(length=4, mlp=5), PTuningV2(length=4), PTuningV2(4, form="key/value")],
    ids=str,
)
def test_the_map_of_a_prefix_shows_what_attention_reads(method):
    model, (_, tokens, _) = stirred(method, make()), rows()
    cache = Cache(LAYERS)
    with torch.no_grad():
        model(tokens, cache=cache)
    found = plots.prefixes(model)
    assert list(found) == [f"blocks.{i}.attn" for i in range(LAYERS)]
    axes = plots.prefix_map(found, HEADS)
    assert axes.shape == (LAYERS, 2 * HEADS)
    for (layer, column), ax in np.ndenumerate(axes):
        past = cache.layers[layer]
        block = (past.k if column < HEADS else past.v)[0, column % HEADS, :4]  # (n, d/H)
        assert block.shape == (4, DIM // HEADS)
        close(torch.tensor(np.asarray(ax.images[0].get_array())), block)
        assert [t.get_text() for t in ax.texts] == [f"{x:.1f}" for x in block.norm(dim=1)]
    titles = [ax.get_title() for ax in axes[0]]
    assert titles == [f"{kind}, head {head}" for kind in "KV" for head in range(HEADS)]
    assert len({ax.images[0].get_clim() for ax in axes.flat}) == 1, "one scale of colour"


def test_a_model_without_a_prefix_is_told():
    with pytest.raises(ValueError, match="attach"):
        plots.prefixes(PTuning(length=2).attach(make()))


def views(colour):
    """Lightness and two hues (CIELAB) of a colour as it is, and as seen without green cones (Machado et al. 2009)."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    for light in (linear, np.clip(np.array(seen) @ linear, 0, 1)):
        x, y, z = np.cbrt(np.maximum(np.array(xyz) @ light / (0.9505, 1, 1.089), 1e-4))
        yield np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_method_has_a_look_of_its_own():
    assert set(METHODS) <= set(HUES)
    looks = {name: str(sorted(mark(name).items())) for name in HUES}
    assert len(set(looks.values())) == len(HUES)
    assert mark("PTuning(length=4)")["marker"] == mark("PromptTuning")["marker"] != mark("LoRA")["marker"]
    assert mark("planted")["marker"] == "o"
    assert dash("Full") == dash("LoRA(rank=2)") == dash("planted") == "-"
    for members in FAMILIES.values():
        assert len({dash(name) for name in members}) == len(members)


def test_hues_are_told_apart_without_green_cones_and_in_a_family_without_any():
    seen = {name: list(views(hue)) for name, hue in {**HUES, "frozen": plots.FROZEN}.items()}
    for a in seen:
        for b in list(seen)[: list(seen).index(a)]:
            for one, other in zip(seen[a], seen[b], strict=True):
                assert np.linalg.norm(one - other) > 10, (a, b)
            if any({a, b} <= set(members) for members in FAMILIES.values()):
                assert abs(seen[a][0][0] - seen[b][0][0]) > 9, (a, b)


def test_what_is_no_method_does_not_take_the_hue_of_one_beside_it():
    colours = [matplotlib.colors.to_hex(colour) for colour in plots.shades(["PromptTuning", "planted"])]
    assert colours == [HUES["PromptTuning"], plots.SPARE[1]]


def test_shades_tell_apart_and_keep_the_hue():
    colours = plots.shades(["LoRA(rank=1)", "LoRA(rank=2)", "Full", "planted", "other"])
    assert len(set(colours)) == 5
    assert matplotlib.colors.to_hex(colours[0]) == plots.HUES["LoRA"]


@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 5)])
def test_what_a_check_found_is_drawn_on_one_scale(shape):
    expected = np.arange(np.prod(shape)).reshape(shape) / 7 - 1
    axes = plots.differs(expected, 2 * expected)
    first, second, third = (ax.images[0] for ax in axes)
    np.testing.assert_allclose(second.get_array(), 2 * first.get_array())
    np.testing.assert_allclose(third.get_array(), first.get_array())
    assert first.get_clim() == second.get_clim() == third.get_clim()
    assert [ax.get_title() for ax in axes] == ["expected", "yours", "yours − expected"]
    plots.plt.close("all")
