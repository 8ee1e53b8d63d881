"""The ViT, and every method on it: its vectors in front, its fresh head, its file."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from minipeft.attach import attachments, detach, trainable
from minipeft.deltas import load, read, save
from minipeft.methods import METHODS, AdapterFusion, PromptTuning, PTuningV2, QLoRA
from minipeft.models.transformer import Transformer
from minipeft.models.vision import VisionConfig, ViT
from minipeft.views import merge
from tests.models import DIM, FF, HEADS, LAYERS, bits, close, moved, same_bits, stirred

SHAPE = {"dim": DIM, "layers": LAYERS, "heads": HEADS, "ff": FF}
CLASSES, FRESH = 5, 4
EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
SAME_START = ["Full", "LinearProbe", "BitFit", "LoRA", "AdaLoRA", "DoRA", "VeRA", "PiSSA", "IA3", "ParallelAdapter"]
CHANGES_WEIGHTS = ["Full", "BitFit", "LoRA", "AdaLoRA", "QLoRA", "DoRA", "VeRA", "PiSSA", "IA3"]


def make(channels=3, **settings):
    torch.manual_seed(0)
    model = ViT(VisionConfig(12, 4, CLASSES, channels, **SHAPE, **settings))
    return moved(model, model.parameters(), 0.3).eval()


def pictures(channels=3):
    return torch.rand(4, channels, 12, 12, generator=torch.Generator().manual_seed(5))


def through(model, x, between=lambda x: x):
    """Logits of the vectors x (B, S, d), the class token first; what stands `between` the blocks."""
    for i, block in enumerate(model.blocks):
        x = between(x) if i else x
        x = block(x)
    return model.head(model.norm(x))


def test_a_vit_is_its_parts_one_after_the_other_and_gives_one_answer_a_picture():
    model, x = make(), pictures()
    assert isinstance(model, Transformer)
    logits = model(x)
    assert logits.shape == (4, CLASSES)
    close(logits, through(model, model.embed(x)))
    assert not torch.isclose(logits[0], logits[1], atol=1e-3).all()


@pytest.mark.parametrize("norm", [False, True])
def test_patches_are_read_as_a_convolution_reads_them_that_steps_from_patch_to_patch(norm):
    model, x = make(embed_norm=norm), pictures()
    embed = model.embed
    kernel = embed.patch.weight.view(DIM, 3, 4, 4)
    patches = F.conv2d(x, kernel, embed.patch.bias, stride=4).flatten(2).transpose(1, 2)  # (B, 9, d)
    whole = torch.cat([embed.class_token.expand(4, 1, -1), patches], dim=1) + embed.position.weight
    close(embed(x), F.layer_norm(whole, (DIM,), embed.norm.weight, embed.norm.bias) if norm else whole)


def test_pictures_of_one_channel_need_no_axis_for_it():
    model, x = make(channels=1), pictures(1)
    assert torch.equal(model(x[:, 0]), model(x))


def test_pictures_are_read_in_the_type_of_the_model():
    model, x = make(), pictures()
    expected = model(x)
    close(model.double()(x), expected.double())


def test_a_config_that_is_stored_makes_the_same_model_again():
    model = make(embed_norm=True, gelu="tanh", eps=1e-3)
    again = ViT(VisionConfig(**asdict(model.config)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(pictures()), model(pictures()))


def test_the_residual_stream_starts_at_the_scale_of_a_transformer():
    torch.manual_seed(0)
    model = ViT(VisionConfig(28, 7, 10))
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(model.std(name), rel=0.2), name
        assert p.ndim == 2 or not name.endswith("bias") or not p.any()


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([[0.5]], r"\(B, 1, 12, 12\) or \(B, 12, 12\).*got \[\[0\.5\]\]; make it one: torch\.as_tensor"),
        (torch.ones(2, 12, 12, dtype=torch.uint8), r"of torch\.uint8; .*images\.float\(\) / 255"),
        (torch.rand(12, 12), r"needs a batch dimension: images\[None\]"),
        (torch.rand(2, 12, 12, 1), r"channels come before rows and columns: images\.permute\(0, 3, 1, 2\)"),
        (torch.rand(2, 28, 28), "bring them to 12 × 12 pixels first"),
        (torch.rand(2, 3, 12, 12), "this model reads pictures of 1 channel$"),
        (torch.rand(0, 12, 12), "give at least one picture"),
    ],
)
def test_what_is_no_batch_of_pictures_is_told_before_any_work(images, says):
    model, work = make(channels=1), []
    model.embed.register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match=says):
        model(images)
    assert not work


def test_pictures_of_several_channels_need_the_axis():
    with pytest.raises(ValueError, match=r"floats \(B, 3, 12, 12\), from 0 to 1; .*pictures of 3 channels"):
        make()(pictures(1))
    with pytest.raises(ValueError, match="batch dimension"):
        make()(pictures()[0])


def test_what_a_vit_cannot_do_is_told():
    with pytest.raises(ValueError, match="a ViT cannot generate: it has one answer for a picture"):
        make().generate(pictures(), 3)
    with pytest.raises(ValueError, match="side must be a multiple of patch, got side=12, patch=5"):
        ViT(VisionConfig(12, 5, CLASSES))
    with pytest.raises(TypeError, match="does not read tokens on its own: leave out init"):
        PromptTuning(init=(1, 2)).attach(make())


# ---- methods ----------------------------------------------------------------------------------------------------


@EACH
def test_a_method_trains_its_own_numbers_and_a_fresh_head_and_leaves_the_base_alone(method):
    base, x = make().double(), pictures()
    before, plain = bits(base), base(x)
    narrow = {"size": 3} if method is AdapterFusion else {}  # else its softmax would be at its end
    view = stirred(method(classes=FRESH, **narrow), base)
    own = {name for name in trainable(method().attach(base)) if not name.startswith("head")}
    assert set(trainable(view)) == own | {"head.classify.weight", "head.classify.bias"}
    assert bool(own) == (method.__name__ != "LinearProbe")
    logits = view(x)
    assert logits.shape == (4, FRESH)
    F.cross_entropy(logits, torch.tensor([0, 3, 1, 2])).backward()
    for name, p in view.named_parameters():
        blind = name.endswith(("attn.k.bias", "key.bias"))  # the softmax does not see them
        assert p.grad is None if not p.requires_grad else blind or p.grad.any(), name
    assert detach(view) is base
    assert same_bits(base, before)
    assert torch.equal(base(x), plain)


@EACH
def test_a_method_starts_as_the_base_or_near_it(method):
    base, x = make(), pictures()
    start = method().attach(base)(x)
    if method.__name__ in SAME_START:
        close(start, base(x))
    elif method not in (AdapterFusion, QLoRA):  # a mixture of adapters that are there; rounded weights
        assert (start - base(x)).abs().mean() < base(x).std()


@EACH
def test_a_method_with_its_head_comes_back_from_its_file(method, tmp_path):
    view, x = stirred(method(classes=FRESH), make()), pictures()
    logits = view(x)
    save(view, tmp_path / "d.safetensors")
    close(load(tmp_path / "d.safetensors", make())(x), logits, 1e-6)
    assert read(tmp_path / "d.safetensors").method.classes == FRESH


@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_what_changes_weights_is_merged(name):
    view, x = stirred(METHODS[name](classes=FRESH), make()), pictures()
    merged = merge(view)
    assert not attachments(merged)
    close(merged(x), view(x))


def test_prompt_tuning_is_shallow_vpt_wherever_the_vectors_stand():
    """Jia et al. put P between the class token and the patches; attention sees no order, only what has a position."""
    view, x = stirred(PromptTuning(length=3), make()), pictures()
    token, patches = view.embed(x).split([1, 9], dim=1)
    P = view.begin.P.expand(4, -1, -1)
    close(view(x), through(view, torch.cat([token, P, patches], dim=1)))


def test_p_tuning_v2_is_deep_vpt():
    view, x = stirred(PTuningV2(length=3), make()), pictures()
    token, patches = view.embed(x).split([1, 9], dim=1)
    P = iter(view.begin.P.expand(4, -1, -1, -1).unbind(1))  # (B, 3, d) for each layer
    first = torch.cat([token, next(P), patches], dim=1)
    close(view(x), through(view, first, lambda x: torch.cat([x[:, :1], next(P), x[:, 4:]], dim=1)))
