"""Figures of pictures: what is drawn is what was given, and it can be read."""

import numpy as np
import pytest
import torch

from minipeft import plots
from minipeft.methods import PromptTuning
from minipeft.models.transformer import recording
from minipeft.models.vision import VisionConfig, ViT
from minipeft.worlds.pictures import Digits

pytestmark = pytest.mark.usefixtures("figures")


def digits(n, paper=False):
    return Digits("validation", each=n, paper=paper).every().tokens


def vit():
    return ViT(VisionConfig(28, 7, 10, dim=12, layers=2, heads=2, ff=8))


def test_rows_of_pictures_are_named_and_a_shorter_row_leaves_its_places_white():
    ax = plots.pictures({"digits": digits(1), "five of them on paper": digits(1, paper=True)[:5]})
    sheet = ax.images[0].get_array()
    assert sheet.shape == (2 * 30 - 2, 10 * 30 - 2)
    assert np.allclose(sheet[:28, 30:58], digits(1)[1])
    assert (sheet[30:, 5 * 30 :] == 1).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["digits", "five of them on paper"]


def test_patches_are_drawn_in_the_order_in_which_the_model_reads_them():
    image = torch.arange(28.0 * 28).view(28, 28) / 28**2
    whole, sequence = plots.patches(image, 7)
    assert len(whole.lines) == 6, "three rules each way"
    squares = [np.asarray(shown.get_array()) for shown in sequence.images]
    assert len(squares) == 16
    model = vit()
    read = image[None, None].unflatten(3, (-1, 7)).unflatten(2, (-1, 7)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    embedded = model.embed.patch(read.flatten(1, 2))[0] + model.embed.position.weight[1:]
    drawn = model.embed.patch(torch.tensor(np.stack(squares)).flatten(1)) + model.embed.position.weight[1:]
    assert torch.allclose(drawn, embedded, atol=1e-5)
    assert torch.allclose(drawn, model.embed(image[None, None])[0, 1:], atol=1e-5)
    texts = [t.get_text() for t in sequence.texts]
    assert sorted(texts, key=lambda t: (len(t), t)) == sorted(map(str, [*range(17), "c"]), key=lambda t: (len(t), t))


def test_the_attention_of_the_class_token_is_a_share_for_each_patch_with_and_without_a_prompt():
    base, images = vit(), digits(1)
    for model in (base, PromptTuning(length=3).attach(base)):
        with recording(model) as layers, torch.no_grad():
            model(images)
        n = layers[0].weights.shape[-1] - 17
        for layer in (0, 1, -1):
            shares = plots.class_attention(model, images, layer)
            assert shares.shape == (10, 4, 4)
            assert torch.allclose(shares.sum((1, 2)), torch.ones(10))
            row = layers[layer].weights[:, :, n].mean(1)  # of the class token, behind n vectors
            assert torch.allclose(shares.flatten(1), row[:, n + 1 :] / row[:, n + 1 :].sum(1, keepdim=True), atol=1e-6)
        assert not layers[0].recording


def test_attention_is_drawn_over_the_outlines_with_one_scale_of_colour():
    images, model = digits(1)[:3], vit()
    maps = {"the base": plots.class_attention(model, images), "even": torch.full((3, 4, 4), 1 / 16)}
    axes = plots.attention_on_pictures(images, maps)
    assert axes.shape == (2, 3)
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in axes.flat}) == 1
    assert [row[0].get_ylabel() for row in axes] == list(maps)
    assert np.allclose(axes[0, 1].images[0].get_array(), maps["the base"][1])
    assert all(ax.collections for ax in axes.flat), "outlines"
