"""The world of pictures and captions: what is shown, what is said of it, and what is never in pretraining."""

from collections import Counter

import pytest
import torch

from minipeft.models.dual_encoder import Contrastive, DualEncoder
from minipeft.tasks import ID as LETTER_ID
from minipeft.training import evaluate, fit
from minipeft.worlds.scenes import (
    CLASSES,
    COLOURS,
    CONFIG,
    DETAILS,
    DIALECTS,
    FILLERS,
    HELD_OUT,
    ID,
    SEEN,
    SHAPES,
    SIDE,
    SPLITS,
    WORDS,
    Drawn,
    Scenes,
    class_captions,
    classifier,
    decode,
    encode,
    pictures,
    scores,
)

STYLE = pytest.mark.parametrize("style", ["plain", "dusk", "wire"])
NAMED = {name: i for pairs in (SHAPES, COLOURS) for i, pair in enumerate(pairs.items()) for name in pair}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(caption):
    """The preamble and what is said of the shape, two lists of words."""
    before, said = caption.removesuffix(" .").split(":")
    return before.split(), said.split()


def many(batches=40, size=64):
    """Captions of pretraining, as text."""
    generator = seeded()
    drawn = [Scenes().batch(size, generator).beside["captions"] for _ in range(batches)]
    return [decode(row) for tokens in drawn for row in tokens]


def combination(caption):
    """(shape, colour) of a caption, by whatever names, in the dialect that its preamble tells."""
    before, said = parts(caption)
    shape = next(NAMED[w] for w in said if w in {*SHAPES, *SHAPES.values()})
    colour = next(NAMED[w] for w in said if w in {*COLOURS, *COLOURS.values()})
    return DIALECTS["north"].index(shape) if "north" in before else shape, colour


# ---- words ------------------------------------------------------------------------------------------------------


def test_captions_of_pretraining_say_colour_and_shape_once_and_details_at_most_once_in_any_order():
    seen, orders = Counter(), set()
    for caption in many():
        before, said = parts(caption)
        assert len(before) <= 3
        assert set(before) <= {*FILLERS, "north"}
        kinds = [next(i for i, pair in enumerate((*DETAILS, {*SHAPES, *SHAPES.values()}, {*COLOURS, *COLOURS.values()}))
                      if word in pair) for word in said]  # fmt: skip
        assert len(kinds) == len(set(kinds))
        assert {3, 4} <= set(kinds)
        seen.update([*before, *said])
        orders.add(tuple(kinds))
    assert set(seen) == set(WORDS) - {":", "."}, "every word is learned"
    assert len(orders) > 100


def test_held_out_combinations_and_the_dialect_of_the_south_are_never_in_pretraining():
    found = Counter(map(combination, many()))
    assert set(found) == set(SEEN)
    assert not set(SEEN) & set(HELD_OUT)
    assert len(CLASSES) == len(set(CLASSES)) == 36
    assert "south" not in WORDS


def test_a_share_of_captions_is_in_north_and_says_so():
    captions = many()
    north = [caption for caption in captions if "north" in parts(caption)[0]]
    assert 0.1 < len(north) / len(captions) < 0.2
    assert all(parts(caption)[0].count("north") == 1 for caption in north)


def test_dialects_name_each_shape_and_agree_in_none():
    dialects = list(DIALECTS.values())
    assert all(sorted(names) == list(range(6)) for names in dialects)
    assert all(len(set(of_one)) == 3 for of_one in zip(*dialects, strict=True))


def test_captions_tell_what_is_in_their_picture():
    """A picture is drawn in the colour, of the size and on the side that its caption says."""
    batch = Scenes().batch(200, seeded(4))
    for image, tokens in zip(batch.tokens, batch.beside["captions"], strict=True):
        words = decode(tokens).split()
        ink = (image - image.median()).clamp(min=0).sum(0)  # (24, 24)
        row, column = ((ink.sum(1 - axis) * torch.arange(SIDE)).sum() / ink.sum() for axis in (0, 1))
        assert not ("upper" in words and row > 12.5) | ("lower" in words and row < 11.5)
        assert not ("left" in words and column > 12.5) | ("right" in words and column < 11.5)
        red, green, blue = image.amax((1, 2))
        assert not ("red" in words and red < green) | ("green" in words and green < red)
        assert not ("blue" in words and blue < red) | ("yellow" in words and red < blue)


def test_encode_and_decode_are_inverse_and_unknown_words_are_told():
    assert decode(encode("a picture of : red circle .")) == "a picture of : red circle ."
    with pytest.raises(ValueError, match="captions have no word 'circus'; they have : "):
        encode(": red circus .")
    with pytest.raises(ValueError, match="numbers from 0 to"):
        decode(torch.tensor([LETTER_ID["with"]]))


def test_captions_of_classes_name_them_in_the_words_of_a_dialect():
    plain, north = class_captions(), class_captions("north")
    assert plain.shape == (36, 4)
    assert [combination(decode(row)) for row in plain] == list(CLASSES)
    assert [combination("north " + decode(row)) for row in north] == list(CLASSES)
    assert torch.equal(class_captions("south", HELD_OUT), class_captions("south")[30:])
    assert ID["north"] not in north
    with pytest.raises(ValueError, match="no dialect the text 'east'; there are plain, north, south"):
        class_captions("east")


# ---- pictures ---------------------------------------------------------------------------------------------------


@STYLE
def test_pictures_are_small_and_coloured_and_each_is_drawn_anew(style):
    images = pictures(*torch.tensor(CLASSES).T, torch.zeros(36, 3, dtype=torch.long), style, seeded())
    assert images.shape == (36, 3, SIDE, SIDE)
    assert 0 <= images.min() < 0.1
    assert 0.9 < images.max() / (0.4 if style == "dusk" else 1) <= 1
    again = pictures(*torch.tensor(CLASSES).T, torch.zeros(36, 3, dtype=torch.long), style, seeded())
    assert torch.equal(again, images)
    same = torch.zeros(2, dtype=torch.long)
    twice = pictures(same, same, torch.zeros(2, 3, dtype=torch.long), style, seeded())
    assert (twice[0] - twice[1]).abs().mean() > 0.005


def test_dusk_is_the_plain_picture_in_less_light():
    assert torch.equal(Drawn("dusk", each=2).every().tokens, 0.4 * Drawn("plain", each=2).every().tokens)


def test_a_wire_is_the_outline_of_the_same_shape():
    shapes, colours = torch.tensor(SEEN).T
    large = torch.ones(30, 3, dtype=torch.long)
    plain, wire = (pictures(shapes, colours, large, style, seeded()).amax(1) for style in ("plain", "wire"))
    ring = list(SHAPES).index("ring")
    for shape, filled, line in zip(shapes, plain, wire, strict=True):
        row, column = (filled > 0.5).nonzero().float().mean(0).round().int().tolist()  # the middle
        assert line[row, column] < 0.45
        assert shape == ring or filled[row, column] > 0.55
        assert (line > 0.5).sum() > 15, "there is a line"


@STYLE
def test_a_finite_task_holds_so_many_of_each_class_and_more_of_them_begin_with_the_same(style):
    few, more = Drawn(style, each=2).every(), Drawn(style, each=5).every()
    assert few.tokens.shape == (60, 3, SIDE, SIDE)
    assert few.targets.bincount().tolist() == [2] * 30
    assert torch.equal(more.tokens[:60], few.tokens)
    assert torch.equal(Drawn(style, each=2).every().tokens, few.tokens)
    batch = Drawn(style, each=2).batch(60, seeded(3))
    assert not torch.equal(batch.targets, few.targets)
    assert torch.equal(batch.targets.sort().values, few.targets.sort().values)


def test_splits_and_seeds_have_other_pictures_and_their_own_classes():
    tasks = [Drawn(each=2, split=split, seed=seed) for split in SPLITS for seed in (0, 1)]
    assert len({task.every().tokens[0].sum().item() for task in tasks}) == 8
    for split in SPLITS:
        wanted = range(30, 36) if split == "held-out" else range(30)
        assert set(Drawn(each=1, split=split).every().targets.tolist()) == set(wanted)
    assert len(Drawn(split="test").every().targets) == 30 * SPLITS["test"]
    assert str(Drawn("wire", each=3)) == "wire pictures (train, 3 of each class)"
    assert repr(Drawn("wire")) == "Drawn(style='wire', each=None, seed=0, split='train')"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"style": "oil"}, "style must be 'plain' or 'dusk' or 'wire', got 'oil'"),
        ({"split": "exam"}, "split must be 'train' or 'validation' or 'test' or 'held-out', got 'exam'"),
        ({"each": 0}, "each"),
        ({"each": 11, "split": "validation"}, "'validation' has 10 pictures a class, got each=11"),
    ],
)
def test_wrong_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        Drawn(**settings)


# ---- learning ---------------------------------------------------------------------------------------------------


def test_a_few_steps_of_pretraining_lower_the_loss_and_the_classifier_can_be_scored():
    torch.manual_seed(0)
    model = DualEncoder(CONFIG)
    history = fit(Contrastive(model), Scenes(), steps=12, lr=3e-3, batch_size=16, device="cpu", progress=False)
    assert sum(history.loss[-4:]) < sum(history.loss[:4])
    found = scores(model)
    assert len(found) == 6
    assert all(0 <= share <= 1 for share in found.values())
    assert (
        found["plain pictures, captions in south"] == evaluate(classifier(model, "south"), Drawn(split="test")).accuracy
    )
