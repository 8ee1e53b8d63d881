"""Figures of attention: which token reads from which, and how much from virtual ones and from adapters."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from minipeft import plots
from minipeft.methods import AdapterFusion, PrefixTuning, PromptTuning, PTuningV2
from minipeft.methods.adapter_fusion import fusions
from minipeft.models.transformer import recording
from minipeft.plots.style import HUES, PALE
from tests.figures import labelled
from tests.models import HEADS, LAYERS, T, close, make, rows, stirred

pytestmark = pytest.mark.usefixtures("figures")


def test_attention_maps_are_labelled_by_words():
    weights = torch.rand(2, 4, 4).softmax(-1)
    ax = labelled(plots.attention(weights[0], ["a", "b", "c", "d"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]


def test_what_a_query_may_not_see_is_grey_and_has_no_number():
    ax = plots.attention(torch.tensor([[1.0, 0.0], [0.25, 0.75]]), ["a", "b"])
    assert [t.get_text() for t in ax.texts] == ["1.00", "0.25", "0.75"]
    assert np.ma.getmaskarray(ax.images[0].get_array()).tolist() == [[False, True], [False, False]]
    assert to_hex(ax.get_facecolor()) == PALE


def test_all_maps_of_a_model_have_one_scale_and_their_layer_and_head():
    axes = plots.attention_maps([torch.rand(2, 3, 3).softmax(-1).tril() for _ in range(3)], ["a", "b", "c"])
    assert axes.shape == (3, 2)
    assert [ax.get_title() for ax in axes[1]] == ["layer 1, head 0", "layer 1, head 1"]
    assert {ax.images[0].get_clim() for ax in axes.flat} == {(0, 1)}


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


def test_fusion_weights_are_means_over_what_is_no_padding():
    model = stirred(AdapterFusion(adapters=2, size=3), make())
    _, tokens, mask = rows()
    model(tokens, mask)
    weights = {path: fusion.weights for path, fusion in fusions(model).items()}
    axes = plots.fusion_weights(weights, ["one", "two"], mask, words=list("abcdefg"))
    assert len(axes) == LAYERS
    for ax, α in zip(axes, weights.values(), strict=True):
        image = np.asarray(ax.images[0].get_array())
        assert image.shape == (2, T)
        assert np.allclose(image.sum(0), 1, atol=1e-5)
        for t in range(T):
            assert np.allclose(image[:, t], α[mask[:, t], t].mean(0), atol=1e-6)
        assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
        assert ax.get_ylabel()
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == list("abcdefg")
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == list("abcdefg")
    assert axes[-1].get_xlabel()
    assert "α" in axes[0].figure.axes[-1].get_ylabel(), "a colour bar"
