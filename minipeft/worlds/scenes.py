"""A world of pictures and captions: one coloured shape on dark paper, and words that say what it is.

    a picture of : small crimson disc left .

A caption begins with a preamble of up to three words that mean nothing, and a colon. Then it names the colour and the
shape, and none to three of size, height and side, in any order. A full stop ends it. Every shape and every colour has
two names. The base is pretrained on pictures and their captions, `Scenes`: all combinations of six shapes and six
colours but six, HELD_OUT.

A picture is classified by the caption that fits it best, among those of all 36 combinations: see `classifier`.
Two things can change, and then the base has to be adapted:
  the style      of the pictures. Pretraining has the "plain" one only, filled shapes. "dusk" is the same in little
                 light; a "wire" shape is an outline
  the dialect    of the captions. In "north" and "south" the names of the shapes are permuted, each in its way. In
                 pretraining a sixth is in "north", and there the preamble says so; "south" is never in pretraining
The captions of a classifier never say their dialect: finding out which one is spoken belongs to the delta.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

from minipeft.arguments import ANY, a_row_of_tokens, got
from minipeft.models.dual_encoder import DualConfig, ZeroShot
from minipeft.models.transformer import Config
from minipeft.models.vision import VisionConfig
from minipeft.settings import Settings
from minipeft.tasks import Batch, shuffled
from minipeft.training import evaluate

SIDE = 24  # of a picture, in pixels
SHAPES = {"circle": "disc", "square": "box", "triangle": "wedge", "cross": "plus", "diamond": "rhomb", "ring": "hoop"}
COLOURS = {
    "red": "crimson", "green": "emerald", "blue": "azure", "yellow": "gold", "purple": "violet", "orange": "amber",
}  # fmt: skip
INKS = {
    "red": (0.90, 0.15, 0.15), "green": (0.15, 0.80, 0.20), "blue": (0.20, 0.30, 0.95), "yellow": (0.95, 0.90, 0.15),
    "purple": (0.65, 0.20, 0.80), "orange": (0.95, 0.55, 0.10),
}  # fmt: skip
DETAILS = (("small", "large"), ("upper", "lower"), ("left", "right"))
FILLERS = ("a", "picture", "of", "drawing", "here", "is")
DIALECTS = {  # which shape's names each shape has
    "plain": (0, 1, 2, 3, 4, 5),
    "north": (1, 2, 0, 4, 5, 3),
    "south": (3, 5, 4, 1, 0, 2),  # never in pretraining
}

HELD_OUT = tuple((i, i) for i in range(6))  # (shape, colour)
SEEN = tuple((shape, colour) for shape in range(6) for colour in range(6) if shape != colour)
CLASSES = SEEN + HELD_OUT

NAMES = [*SHAPES.items(), *COLOURS.items()]
WORDS = (":", ".", *FILLERS, "north", *(word for pair in (*DETAILS, *NAMES) for word in pair))
ID = {word: i for i, word in enumerate(WORDS)}
NAME_IDS = torch.tensor([[ID[word] for word in pair] for pair in NAMES])  # (12, 2): two names each
DETAIL_IDS = torch.tensor([[ID[word] for word in pair] for pair in DETAILS])  # (3, 2)

CONFIG = DualConfig(
    image=VisionConfig(side=SIDE, patch=6, classes=64, channels=3, dim=64, layers=2, heads=4, ff=256),
    text=Config(vocab=len(WORDS), dim=64, layers=2, heads=4, ff=256, context=12, bos=ID[":"]),
    width=64,
)
RECIPE = {"steps": 2000, "lr": 2e-3, "batch_size": 128, "warmup": 0.1, "weight_decay": 0.05}
SPLITS = {"train": 100, "validation": 10, "test": 20, "held-out": 40}  # pictures of each class


def encode(text):
    """A caption to tokens: `encode(": red circle .")` is a tensor (T,). Raises ValueError for an unknown word."""
    if strange := [word for word in text.split() if word not in ID]:
        raise ValueError(f"captions have no word {strange[0]!r}; they have {' '.join(WORDS)}")
    return torch.tensor([ID[word] for word in text.split()])


def decode(tokens):
    """Tokens (T,) to a caption, the inverse of `encode`. Raises TypeError or ValueError for what is not one row."""
    return " ".join(WORDS[token] for token in a_row_of_tokens("decode", tokens, len(WORDS)))


def class_captions(dialect="plain", classes=CLASSES):
    """The captions of these combinations in a dialect, (classes, 4): `: red square .` is one."""
    if dialect not in DIALECTS:
        raise ValueError(f"there is no dialect {got(dialect)}; there are {', '.join(DIALECTS)}")
    shapes, colours = list(SHAPES), list(COLOURS)
    return torch.stack([encode(f": {colours[c]} {shapes[DIALECTS[dialect][s]]} .") for s, c in classes])


def classifier(model, dialect="plain", classes=CLASSES):
    """A dual encoder, or a view of one, as a classifier of pictures. classes: SEEN for training, CLASSES for a test."""
    return ZeroShot(model, class_captions(dialect, classes).to(next(model.parameters()).device))


def distances(x, y, r):
    """How far points (x, y) lie outside of each shape of radius r around the origin; below 0 inside. (6, …)"""
    circle = (x.square() + y.square()).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - 0.88 * r
    triangle = torch.maximum(0.87 * x.abs() - 0.5 * y, y) - 0.55 * r
    bars = [torch.maximum(a.abs() - r, b.abs() - 0.33 * r) for a, b in ((x, y), (y, x))]
    diamond = (x.abs() + y.abs()) / 2**0.5 - 0.75 * r
    ring = (circle + 0.3 * r).abs() - 0.28 * r
    return torch.stack([circle, square, triangle, torch.minimum(*bars), diamond, ring])


def pictures(shapes, colours, details, style, generator):
    """Pictures (B, 3, 24, 24) of shapes and colours (B,); details: (B, 3), for each of DETAILS which of the two.

    The rest is drawn with the generator: the exact size and place, a slight rotation, ink, paper and noise.
    """
    B = len(shapes)

    def uniform(low, high):
        return low + (high - low) * torch.rand(B, 1, 1, generator=generator)

    large, lower, right = details.T[..., None, None]  # (B, 1, 1) each
    r = torch.where(large == 1, uniform(5.4, 6.4), uniform(3.6, 4.4))
    top, left = (torch.where(far == 1, uniform(14.5, 17), uniform(7, 9.5)) for far in (lower, right))  # of the centre
    angle, points = uniform(-0.15, 0.15), torch.arange(SIDE) + 0.5
    down, across = points[:, None] - top, points - left  # (B, 24, 1), (B, 1, 24)
    x, y = angle.cos() * across - angle.sin() * down, angle.sin() * across + angle.cos() * down
    d = distances(x, y, r)[shapes, torch.arange(B)]  # (B, 24, 24)
    cover = torch.exp(-d.square()) if style == "wire" else torch.sigmoid(-3 * d)  # how much ink is on a pixel
    ink = torch.tensor(list(INKS.values()))[colours] + 0.06 * torch.randn(B, 3, generator=generator)
    drawn = torch.lerp(uniform(0, 0.25)[:, None], ink[:, :, None, None], cover[:, None])  # paper, ink
    seen = (drawn + 0.04 * torch.randn(drawn.shape, generator=generator)).clamp(0, 1)
    return 0.4 * seen if style == "dusk" else seen


def captions(shapes, colours, details, north, generator):
    """Captions (B, T) of what `pictures` shows. How many words they have is drawn once, the same for all.

    north: (B,) booleans; True where the caption is in that dialect. Its preamble says so; if there is to be no
    preamble, all are in the plain one.
    """
    B = len(shapes)

    def random(high, *shape):
        return torch.randint(high, shape, generator=generator)

    def mixed(words):
        return words.gather(1, torch.rand(words.shape, generator=generator).argsort(1))

    preamble = ID[FILLERS[0]] + random(len(FILLERS), B, int(random(4, 1)))  # (B, 0 to 3)
    north = north & (preamble.shape[1] > 0)
    preamble[:, :1] = torch.where(north[:, None], ID["north"], preamble[:, :1])
    called = torch.where(north, torch.tensor(DIALECTS["north"])[shapes], shapes)
    names = NAME_IDS[torch.stack([called, 6 + colours], dim=1)]  # (B, 2, 2)
    names = names.gather(2, random(2, B, 2, 1))[..., 0]  # (B, 2)
    said = mixed(DETAIL_IDS[torch.arange(3), details])[:, : int(random(4, 1))]  # (B, 0 to 3)
    colon, stop = (torch.full((B, 1), ID[mark]) for mark in ":.")
    return torch.cat([mixed(preamble), colon, mixed(torch.cat([names, said], dim=1)), stop], dim=1)


def sample(classes, style, generator):
    """Pictures of these combinations (B, 2), and what they show: shapes, colours (B,) and details (B, 3)."""
    shapes, colours = classes.T
    details = torch.randint(2, (len(classes), 3), generator=generator)
    return pictures(shapes, colours, details, style, generator), (shapes, colours, details)


@dataclass(frozen=True)
class Scenes:
    """What the base is pretrained on, as `dual_encoder.Contrastive` asks it: plain pictures of SEEN and their captions.

    About a sixth of the captions are in the dialect "north".
    """

    def __str__(self):
        return "scenes and captions"

    def batch(self, size, generator):
        """`size` new pictures, drawn with `generator`, each with a caption of its own."""
        classes = torch.tensor(SEEN)[torch.randint(len(SEEN), (size,), generator=generator)]
        images, shown = sample(classes, "plain", generator)
        north = torch.rand(size, generator=generator) < 0.2
        right = torch.arange(size)[:, None].expand(size, 2)  # caption i for picture i, picture i for caption i
        return Batch(images, right, beside={"captions": captions(*shown, north, generator)}, whole=True)


@dataclass(frozen=True)
class Drawn(Settings):
    """Pictures in a style, to be classified. The classes are numbered as in CLASSES: those of SEEN are 0 to 29.

    Args:
        style: "plain", as in pretraining, "dusk" or "wire".
        each: how many pictures of each class; None for all that the split has.
        seed: draws the pictures of the split.
        split: "train", "validation" and "test" have the classes of SEEN, "held-out" those of HELD_OUT, for a test.
    """

    style: Literal["plain", "dusk", "wire"] = "plain"
    each: int | None = None
    seed: int = 0
    split: Literal["train", "validation", "test", "held-out"] = "train"

    LIMITS = {"seed": ANY}

    def __post_init__(self):
        super().__post_init__()
        if self.each is not None and self.each > SPLITS[self.split]:
            raise ValueError(f"Drawn: {self.split!r} has {SPLITS[self.split]} pictures a class, got each={self.each}")

    def __str__(self):
        number = f"{self.each} of each class" if self.each else "all"
        return f"{self.style} pictures ({self.split}, {number})"

    def batch(self, size, generator):
        """`size` of the pictures, each as often as another (give or take one), in an order drawn with `generator`."""
        return shuffled(self.every(), size, generator)

    def every(self):
        """All of them, as one Batch."""
        return drawn(self.style, self.each or SPLITS[self.split], self.seed, self.split)


@dataclass(frozen=True)
class Naming(Drawn):
    """The same pictures together with the captions that they are classified by: what a dual encoder itself is asked.

    Its batches say `captions` to the model, so a method is attached to the dual encoder, and its places are "image" and
    "text". In training those are the captions of SEEN; in all other splits those of all combinations.

    Args:
        dialect: "plain", "north" or "south", that of the captions.
    """

    dialect: Literal["plain", "north", "south"] = "plain"

    kind = "new pictures"

    def __str__(self):
        return f"{super().__str__()}, captions in {self.dialect}"

    def every(self):
        classes = SEEN if self.split == "train" else CLASSES
        return replace(super().every(), more={"captions": class_captions(self.dialect, classes)})

    def known(self):
        """The pictures and words of pretraining."""
        return Naming(split="test")

    def sets(self, examples, seed):
        """What to train on (`examples` of each class), what to choose by and what to report: for `lab.trial`."""
        others = (replace(self, each=None, split=split) for split in ("validation", "test"))
        return replace(self, each=examples or self.each, seed=seed, split="train"), *others


@lru_cache(maxsize=8)
def drawn(style, each, seed, split):
    """The pictures of `Drawn`. They are drawn round by round: fewer of each class are the first of more."""
    generator = torch.Generator().manual_seed(len(SPLITS) * seed + list(SPLITS).index(split))
    first, classes = (len(SEEN), HELD_OUT) if split == "held-out" else (0, SEEN)
    rounds = [sample(torch.tensor(classes), style, generator)[0] for _ in range(each)]
    return Batch(torch.cat(rounds), first + torch.arange(len(classes)).repeat(each))


pretraining = Scenes()


def scores(model):
    """Accuracy without any training, {what: share}, among the captions of all 36 combinations."""
    asked = {
        "plain pictures": ("plain", "test", "plain"),
        "plain pictures, held-out combinations": ("plain", "held-out", "plain"),
        "dusk pictures": ("dusk", "test", "plain"),
        "wire pictures": ("wire", "test", "plain"),
        "plain pictures, captions in north": ("plain", "test", "north"),
        "plain pictures, captions in south": ("plain", "test", "south"),
    }
    return {
        what: evaluate(classifier(model, dialect), Drawn(style, split=split)).accuracy
        for what, (style, split, dialect) in asked.items()
    }
