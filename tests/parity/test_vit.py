"""Our ViT with the weights of `transformers`' computes what that one does; so does LoRA on it, beside peft's."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification

from minipeft.attach import trainable
from minipeft.methods import LoRA
from minipeft.models.transformer import recording
from minipeft.published.vit import from_vit
from minipeft.views import merge
from tests.models import DIM, FF, HEADS, LAYERS, count

SETTINGS = {"hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FF}
OURS = {"q_proj": "q", "v_proj": "v"}
RENAMED = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for the old name


@pytest.fixture(params=[{}, {"num_channels": 1, "layer_norm_eps": 1e-2}], ids=["colours", "grey, a large eps"])
def pair(request, randomised):
    """The library's model and ours, with the same weights, and four pictures."""
    size = {"image_size": 12, "patch_size": 4, "num_labels": 5, "attn_implementation": "eager"}
    theirs = randomised(ViTForImageClassification(ViTConfig(**SETTINGS, **size, **request.param)), 0.4)
    ours = from_vit(theirs.state_dict(), heads=HEADS, eps=theirs.config.layer_norm_eps)
    return theirs, ours, torch.randn(4, theirs.config.num_channels, 12, 12)


def test_logits_and_attention_maps_are_equal(pair, close, apart):
    theirs, ours, images = pair
    with torch.no_grad(), recording(ours) as layers:
        expected = theirs(images, output_attentions=True)
        close(ours(images), expected.logits, 1e-5)
    apart(expected.logits[0], expected.logits[1])
    assert len(layers) == len(expected.attentions) == LAYERS
    for layer, weights in zip(layers, expected.attentions, strict=True):
        close(layer.weights, weights, 1e-5)


def test_gradients_are_equal(pair, same_gradients, close):
    theirs, ours, images = pair
    same_gradients(ours.requires_grad_(True)(images), theirs(images).logits)
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert len(mine) == len(other)
    gradients = from_vit({name: p.grad for name, p in other.items()}, heads=HEADS)  # under our names, in our shapes
    for name, p in gradients.named_parameters():
        close(mine[name].grad, p, 1e-5)


def test_a_published_file_has_other_names_for_the_same_weights(pair, tmp_path, close):
    theirs, ours, images = pair
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in weights
    assert torch.equal(from_vit(weights, HEADS, theirs.config.layer_norm_eps)(images), ours(images))


def test_other_weights_are_refused(pair):
    theirs, _, _ = pair
    with pytest.raises(ValueError, match=r"no 'classifier\.weight'"):
        from_vit({name: w for name, w in theirs.state_dict().items() if "classifier" not in name}, HEADS)


@RENAMED
def test_lora_on_query_and_value_is_that_of_peft(pair, same_gradients, close, apart):
    theirs, ours, images = pair
    plain = ours(images)
    view = LoRA(3, 5, ("q", "v")).attach(ours)
    library = get_peft_model(copy.deepcopy(theirs), LoraConfig(r=3, lora_alpha=5, target_modules=[*OURS])).eval()
    mine, other = trainable(view), {}
    for name, p in trainable(library).items():
        i, place, part = re.fullmatch(r".*layers\.(\d)\.attention\.(\w+)\.lora_([AB])\.default\.weight", name).groups()
        other[f"blocks.{i}.attn.{OURS[place]}.{part}"] = p
    assert mine.keys() == other.keys()
    assert count(view) == library.get_nb_trainable_parameters()[0] == LAYERS * 2 * 3 * 2 * DIM
    with torch.no_grad():
        for name, p in mine.items():
            other[name].copy_(p.normal_(std=0.5))
    got, expected = view(images), library(images).logits
    apart(got, plain)
    close(got, expected, 1e-5)
    same_gradients(got / 10, expected / 10)
    for name, p in mine.items():
        close(p.grad, other[name].grad, 1e-5)
    with torch.no_grad():
        close(merge(view)(images), library.merge_and_unload()(images).logits, 1e-5)


@RENAMED
def test_five_steps_of_lora_with_a_fresh_head_are_those_of_peft(pair, train, close):
    """peft trains a copy of the classifier beside LoRA through `modules_to_save`; `classes` gives us a new one."""
    theirs, ours, images = pair
    config = LoraConfig(r=3, lora_alpha=5, target_modules=[*OURS], modules_to_save=["classifier"])
    library = get_peft_model(copy.deepcopy(theirs), config).eval()
    view = LoRA(3, 5, ("q", "v"), classes=5).attach(ours)
    saved, curves = library.get_base_model().classifier.modules_to_save["default"], []
    with torch.no_grad():
        view.head.classify.weight.copy_(saved.weight)
        view.head.classify.bias.copy_(saved.bias)
        found = trainable(library)
        for i in range(LAYERS):
            for place, name in OURS.items():
                path = f"base_model.model.vit.layers.{i}.attention.{place}.lora_A.default.weight"
                trainable(view)[f"blocks.{i}.attn.{name}.A"].copy_(found[path])
    assert count(view) == library.get_nb_trainable_parameters()[0]
    labels = torch.tensor([0, 3, 4, 1])
    for model, logits in ((view, view.forward), (library, lambda x: library(x).logits)):
        curves.append(
            train([*trainable(model).values()], lambda logits=logits: F.cross_entropy(logits(images), labels))
        )
    close(*curves, 1e-5)
