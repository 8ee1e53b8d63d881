"""Figures of prompts and prefixes: what they are near to, where they went, how similar they are."""

import matplotlib
import numpy as np
import pytest
import torch

from minipeft import plots
from minipeft.methods import PrefixTuning, PTuning, PTuningV2
from minipeft.plots.prompts import name_points
from tests.figures import extent, labelled, overlapping
from tests.models import DIM, HEADS, LAYERS, close, make, rows, stirred

pytestmark = pytest.mark.usefixtures("figures")


def test_the_nearest_words_are_those_of_least_angle():
    table, words = torch.eye(6, 12) * torch.arange(1.0, 7)[:, None], [*"abcdef"]
    P = torch.zeros(2, 12)
    P[0, 3], P[0, 1], P[1, 5] = 40.0, 30.0, -1.0  # d and b; away from f
    values, tokens = plots.nearest_tokens(P, table, 2)
    assert [words[t] for t in tokens[0]] == ["d", "b"]
    close(values[0], torch.tensor([0.8, 0.6]))
    assert 5 not in tokens[1]
    left, right = plots.nearest_words(P, table, words, best=2)
    assert left.get_ylabel()
    assert [t.get_text() for t in left.texts][:2] == ["d  0.80", "b  0.60"]
    close(torch.tensor(np.asarray(left.images[0].get_array())), values)
    shown = np.asarray(right.images[0].get_array())
    assert shown.shape == (2, 2)
    assert not np.isclose(shown, values).any()
    assert [t.get_text().split()[1] for t in right.texts] == [f"{value:.2f}" for value in shown.flatten()]
    again = plots.nearest_words(P, table, words, best=2)[1]
    assert np.array_equal(shown, np.asarray(again.images[0].get_array())), "the same chance every time"
    named = plots.nearest_words(P, table, words, best=2, rows=["seed 0", "seed 1"])[0]
    assert [label.get_text() for label in named.get_yticklabels()] == ["seed 0", "seed 1"]
    assert not named.get_ylabel()


def test_what_random_vectors_reach_is_told_for_95_percent_of_them():
    table, P = torch.randn(9, 5, generator=torch.Generator().manual_seed(3)), torch.ones(2, 5)
    told = float(plots.nearest_words(P, table, [*"abcdefghi"])[1].get_title().split("below ")[1].split(" for")[0])
    chance = torch.randn(4000, 5, generator=torch.Generator().manual_seed(9))
    below = (plots.nearest_tokens(chance, table, 1).values < told).float().mean()
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
    mean, directions, shares = plots.principal_plane(table)
    close(shares, torch.tensor([4 / 5, 1 / 5]))
    close((directions @ axes.T).abs(), torch.eye(2, 3))
    close(((table - mean) @ directions.T).abs(), places.abs())
    close(plots.principal_plane(table.flip(0))[1], directions)  # signs too


def test_a_journey_is_drawn_where_it_went():
    table, places, _ = flat()
    words = [*"abcdefghij", *(f"word{i}" for i in range(20))]
    mean, directions, _ = plots.principal_plane(table)
    path = mean + torch.randn(9, 2, 7, generator=torch.Generator().manual_seed(5))
    left, right = plots.prompt_trajectory(path, table, words, ("word3", "word7", "word11"))
    short = path / path.norm(dim=2, keepdim=True) * table.norm(dim=1).mean()
    for ax, vectors in ((left, path), (right, short)):
        labelled(ax)
        ways = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 1]
        assert np.allclose(np.stack(ways, 1), (vectors - mean) @ directions.T, atol=1e-5)
        assert [t.get_text() for t in ax.texts if t.get_text().isdigit()] == ["1", "1", "2", "2"]
        (left_end, right_end), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert right_end - left_end == pytest.approx(high - low), "one scale both ways"
        assert all(left_end < x < right_end and low < y < high for way in ways for x, y in way)
    spots = {t.get_text(): t.get_position() for t in right.texts if t.get_text() in words[:10]}
    assert len(spots) > 5
    dots = np.array([line.get_xydata()[0] for line in right.lines if len(line.get_xdata()) == 1])
    for word, place in zip(words[:10], (table[:10] - mean) @ directions.T, strict=True):
        spot = spots[word] if word in spots else min(dots, key=lambda dot: np.abs(dot - place.numpy()).sum())
        assert np.allclose(spot, place, atol=1e-5), "a letter without room is a dot"
    named = {t.get_text(): t.xy for t in right.texts if t.get_text().startswith("word")}
    assert list(named) == ["word3", "word7", "word11"]
    assert np.allclose(np.abs(list(named.values())), places[[13, 17, 21]].abs(), atol=1e-5)
    rings = [line for line in right.lines if line.get_markerfacecolor() == "white"]
    assert np.allclose([ring.get_xydata()[0] for ring in rings], (short[0] - mean) @ directions.T, atol=1e-5)


def test_a_journey_tells_how_much_of_it_the_plane_shows():
    table, _, axes = flat()
    for across, told in ((0.0, "100 %"), (1.0, "50 %"), (3.0, "10 %")):
        path = torch.stack([axes[:1], 2 * axes[:1] + across * axes[2:]])  # one along the first axis
        to_scale, _ = plots.prompt_trajectory(path, table, [f"w{i}" for i in range(30)])
        assert f"; {told} of the way" in to_scale.get_title()
    plots.plt.close("all")  # where the start and the end have one direction their numbers cover each other


def test_names_at_one_spot_do_not_cover_each_other():
    ax = plots.new(5, 4)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x", ylabel="y", title="crowded")
    spots = [(0.97, 0.5), (0.98, 0.5), (0.97, 0.52), (0.02, 0.03), (0.02, 0.02), (0.5, 0.5), (0.5, 0.52)]
    spots += [(0.3 + 0.07 * (i % 3), 0.8 + 0.05 * (i // 3)) for i in range(9)]
    texts = name_points(ax, [f"some word {i}" for i in range(len(spots))], spots, [(0.5, 0.56)])
    ax.figure.draw_without_rendering()
    assert overlapping(texts) == []
    assert [t.xy for t in texts] == [pytest.approx(spot) for spot in spots]
    for text in texts:
        box = extent(text)
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
    cache = model.new_cache()
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


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def test_each_map_shows_its_numbers_where_they_stand():
    (ax,) = plots.similarity_maps({"LSTM": torch.tensor([[1.0, -0.25], [0.5, 1.0]])})
    assert numbers(ax) == ["1.00", "-0.25", "0.50", "1.00"]
    assert [text.get_position() for text in ax.texts] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    assert np.array_equal(ax.images[0].get_array(), [[1, -0.25], [0.5, 1]])


def test_all_maps_share_one_scale_and_are_named():
    axes = plots.similarity_maps({"one": torch.eye(3), "two": -torch.eye(3)}, name="vector", label="coupling")
    assert [ax.get_title() for ax in axes] == ["one", "two"]
    assert {ax.images[0].get_clim() for ax in axes} == {(-1, 1)}
    assert {ax.get_xlabel() for ax in axes} == {"vector"}
    assert "coupling" in {ax.get_ylabel() for ax in axes[0].figure.axes}


def test_rows_and_columns_may_have_two_names():
    (ax,) = plots.similarity_maps({"LSTM": torch.eye(2)}, name=("asked to move", "moves along"))
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("asked to move", "moves along")


def test_large_maps_show_no_numbers():
    (ax,) = plots.similarity_maps({"many": torch.eye(12)})
    assert numbers(ax) == []


def test_a_parameter_can_be_given():
    (ax,) = plots.similarity_maps({"P": torch.nn.Parameter(torch.eye(2))})
    assert numbers(ax) == ["1.00", "0.00", "0.00", "1.00"]
