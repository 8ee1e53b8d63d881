"""The dual encoder, what it is asked in pretraining and as a classifier, and every method on either of its towers."""

import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from minipeft.attach import attachments, detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import IA3, METHODS, AdapterFusion, LoRA, PrefixTuning, PromptTuning, PTuning, PTuningV2
from minipeft.models.dual_encoder import Contrastive, DualConfig, DualEncoder, ZeroShot
from minipeft.models.transformer import Config
from minipeft.models.vision import VisionConfig
from minipeft.tasks import Batch
from minipeft.training import fit, trained_methods
from minipeft.views import merge
from tests.models import BOS, DIM, FF, HEADS, LAYERS, VOCAB, bits, close, moved, rows, same_bits, stirred

WIDTH, WIDE = 8, 16  # of the shared space; of the picture tower
EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
TOWER = pytest.mark.parametrize("tower", ["image", "text"])
SAME_START = ["Full", "LinearProbe", "BitFit", "LoRA", "AdaLoRA", "DoRA", "VeRA", "PiSSA", "IA3", "ParallelAdapter"]
CHANGES_WEIGHTS = ["Full", "BitFit", "LoRA", "AdaLoRA", "QLoRA", "DoRA", "VeRA", "PiSSA", "IA3"]


def config():
    image = VisionConfig(12, 4, WIDTH, 3, WIDE, layers=2, heads=2, ff=FF)
    return DualConfig(image, Config(VOCAB, DIM, LAYERS, HEADS, FF, bos=BOS), WIDTH)


def make():
    torch.manual_seed(0)
    model = DualEncoder(config())
    towers = [*model.image.parameters(), *model.text.parameters()]
    return moved(model, towers, 0.3).requires_grad_(False).eval()


def pictures(number=4):
    return torch.rand(number, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def captions():
    """Three of seven tokens."""
    return torch.randint(2, VOCAB, (3, 7), generator=torch.Generator().manual_seed(6))


def test_logits_are_scaled_cosines_of_one_picture_and_one_caption():
    model, x, tokens = make(), pictures(), captions()
    logits = model(x, tokens)
    assert logits.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            cosine = F.cosine_similarity(model.image(x[i : i + 1]), model.text(tokens[j : j + 1]))[0]
            close(logits[i, j], cosine / 0.07)
    assert not torch.isclose(logits[0], logits[1], atol=1e-2).all()
    assert not torch.isclose(logits[:, 0], logits[:, 1], atol=1e-2).all()


def test_captions_padded_on_the_left_are_what_they_are_alone_and_on_the_right_are_refused():
    model, x, (alone, tokens, mask) = make(), pictures(), rows("left")
    close(model(x, tokens, mask), torch.cat([model(x, row[None]) for row in alone], dim=1))
    close(ZeroShot(model, tokens, mask)(x), model(x, tokens, mask))
    _, tokens, mask = rows("right")
    with pytest.raises(ValueError, match="the head reads the last token, but a row has padding there: pad on the left"):
        model(x, tokens, mask)


def test_a_config_that_is_stored_makes_the_same_model_again():
    model = make()
    again = DualEncoder(DualConfig(**asdict(model.config)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(pictures(), captions()), model(pictures(), captions()))


def test_projections_start_so_that_a_random_pair_fits_neither_well_nor_badly():
    torch.manual_seed(0)
    logits = DualEncoder(config())(pictures(), captions())
    assert logits.abs().max() < 1 / 0.07 / 2
    assert logits.std() > 0.1


# ---- what it is asked -------------------------------------------------------------------------------------------


def test_zero_shot_is_the_model_with_one_caption_a_class_and_gradients_reach_both_towers():
    model = make().requires_grad_(True)
    classify = ZeroShot(model, captions())
    assert torch.equal(classify(pictures()), model(pictures(), captions()))
    F.cross_entropy(classify(pictures()), torch.tensor([0, 2, 1, 2])).backward()
    for name, p in model.named_parameters():
        assert name.endswith("attn.k.bias") or p.grad.any(), name


def test_contrastive_asks_every_picture_for_its_caption_and_every_caption_for_its_picture():
    model, x, tokens = make(), pictures(3), captions()
    asked, logits, right = Contrastive(model)(x, tokens), model(x, tokens), torch.arange(3)
    assert asked.shape == (3, 2, 3)
    by_hand = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    close(F.cross_entropy(asked.flatten(0, 1), right.repeat_interleave(2)), by_hand)


def test_a_caption_that_stands_in_the_batch_twice_is_not_a_wrong_answer_for_its_twin():
    model, x, tokens = make(), pictures(4), captions()[[0, 1, 0, 2]]
    asked, logits = Contrastive(model)(x, tokens), model(x, tokens)
    assert asked.isfinite().all(), "evaluate refuses infinities"
    left = [i for i in range(4) if i != 2]  # what is left to choose from for picture 0
    close(F.cross_entropy(asked[0, 0], torch.tensor(0)), F.cross_entropy(logits[0, left], torch.tensor(0)))
    close(F.cross_entropy(asked[2, 1], torch.tensor(2)), F.cross_entropy(logits[[1, 2, 3], 2], torch.tensor(1)))
    assert torch.equal(asked[1, 0], logits[1])


class Pairs:
    """Three pictures and their captions."""

    def batch(self, size, generator):
        return Batch(pictures(3), torch.arange(3)[:, None].expand(3, 2), more={"captions": captions()})


class Few:
    """Three pictures, one of each class."""

    def batch(self, size, generator):
        return Batch(pictures(3), torch.arange(3))


QUICK = {"steps": 30, "lr": 1e-2, "device": "cpu", "progress": False}


def test_fit_trains_it_on_pairs_until_every_one_is_found():
    model = make().requires_grad_(True)
    history = fit(Contrastive(model), Pairs(), **QUICK)
    assert history.accuracy[-1] == 1
    assert history.loss[-1] < history.loss[0] / 1.5


@TOWER
def test_fit_trains_a_method_on_a_tower_through_the_classifier_and_leaves_the_rest(tower):
    base = make()
    before, view = bits(base), LoRA(rank=2, lr_ratio=4, places=(tower,)).attach(base)
    classify = ZeroShot(view, captions())
    assert trained_methods(classify) == [(view, attachments(view)[0].method)]
    history = fit(classify, Few(), **QUICK)
    assert history.loss[-1] < history.loss[0] / 1.5
    assert all(p.any() for p in trainable(view).values()), "B starts at zero"
    assert same_bits(base, before)


def test_a_method_may_also_be_attached_to_the_classifier():
    base = ZeroShot(make(), captions())
    view = IA3(places=("model.image",)).attach(base)
    assert trainable(view)
    assert all(name.startswith("model.image.") for name in trainable(view))
    history = fit(view, Few(), **QUICK | {"lr": 3e-2})
    assert history.loss[-1] < history.loss[0]
    close(merge(view)(pictures()), view(pictures()))


# ---- methods on a tower -----------------------------------------------------------------------------------------


@EACH
@TOWER
def test_a_method_on_one_tower_trains_what_it_has_there_and_nothing_else(method, tower):
    base, x, tokens = make().double(), pictures(), captions()
    before, plain = bits(base), base(x, tokens)
    features = {"image": base.image(x), "text": base.text(tokens)}
    narrow = {"size": 3} if method is AdapterFusion else {}  # else its softmax would be at its end
    view = stirred(method(places=(tower,), **narrow), base)
    alone = method(**narrow).attach(getattr(base, tower))
    assert set(trainable(view)) == {f"{tower}.{name}" for name in trainable(alone)}
    logits = view(x, tokens)
    assert not torch.isclose(logits, plain, atol=1e-3).all()
    other = {"image": "text", "text": "image"}[tower]
    assert torch.equal(getattr(view, other)(x if other == "image" else tokens), features[other])
    F.cross_entropy(logits, torch.tensor([0, 2, 1, 2])).backward()
    for name, p in view.named_parameters():
        blind = name.endswith(("attn.k.bias", "key.bias"))  # the softmax does not see them
        assert p.grad is None if not p.requires_grad else blind or p.grad.any(), name
    assert detach(view) is base
    assert same_bits(base, before)
    assert torch.equal(base(x, tokens), plain)


@EACH
@TOWER
def test_a_method_starts_as_the_base_or_near_it(method, tower):
    base, x, tokens = make(), pictures(), captions()
    start = method(places=(tower,)).attach(base)(x, tokens)
    assert start.isfinite().all()
    if method.__name__ in SAME_START:
        close(start, base(x, tokens), 1e-4)


@EACH
@TOWER
def test_a_saved_delta_gives_the_same_answers_on_a_fresh_base(method, tower, tmp_path):
    view, x, tokens = stirred(method(places=(tower,)), make()), pictures(), captions()
    save(view, tmp_path / "d.safetensors")
    loaded = load(tmp_path / "d.safetensors", make())
    assert attachments(loaded)[0].method.places == (tower,)
    close(loaded(x, tokens), view(x, tokens))


@EACH
def test_what_can_be_merged_is_equal(method):
    view, x, tokens = stirred(method(places=("image",)), make()), pictures(), captions()
    if method.__name__ in CHANGES_WEIGHTS:
        close(merge(view)(x, tokens), view(x, tokens), 1e-4)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [PromptTuning(), PTuning(), PrefixTuning(), PTuningV2()], ids=str)
def test_a_prompt_must_say_which_tower_it_stands_in(method):
    with pytest.raises(ValueError, match=r"several sequences .*: image, text; say which, places=\('image',\), or name"):
        method.attach(make())


def test_a_prompt_may_stand_in_both():
    view = PromptTuning(length=3, places=("image", "text")).attach(make())
    assert {name: tuple(p.shape) for name, p in trainable(view).items()} == {
        "image.begin.P": (3, WIDE),
        "text.begin.P": (3, DIM),
    }


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ("a red circle", "got 'a red circle'; turn the text into tokens first"),
        (captions()[0], r"a single row needs a batch dimension: tokens\[None\]"),
        (captions() + VOCAB, f"the vocabulary has the tokens 0 to {VOCAB - 1}"),
    ],
)
def test_what_is_no_caption_is_told(tokens, says):
    with pytest.raises(ValueError, match=says):
        make()(pictures(), tokens)
    with pytest.raises(ValueError, match=says):
        ZeroShot(make(), tokens)(pictures())


def test_wrong_pictures_and_pairs_that_are_none_are_told():
    with pytest.raises(ValueError, match=r"pictures must be a tensor of floats \(B, 3, 12, 12\)"):
        make()(captions(), captions())
    with pytest.raises(ValueError, match="one caption for each picture, got 3 for 4"):
        Contrastive(make())(pictures(4), captions())
    with pytest.raises(TypeError, match="DualEncoder has no head that a classifier could take the place of"):
        LoRA(classes=4).attach(make())


def test_a_tower_by_itself_takes_a_fresh_head():
    base, x = make(), pictures()
    view = LoRA(classes=5).attach(base.image)
    assert view(x).shape == (4, 5)
    assert base.image(x).shape == (4, WIDTH)
    assert math.isclose(float(base.scale.exp()), 1 / 0.07, rel_tol=1e-6)
