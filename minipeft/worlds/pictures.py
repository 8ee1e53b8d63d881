"""The world of pictures: printed characters to learn from, and handwritten digits to be adapted to.

The base is pretrained on `Characters`: 118 letters and symbols in twelve fonts, warped anew each time they are drawn.
There are no digits among them and no O, I or l; of letters that look alike (Γ and Г, И and и) there is only one.
`Digits` are those of MNIST (see DIGITS.md): white on black, as the characters are, or on paper, where the base has
seen neither the handwriting nor the background.

The characters are rendered from the fonts that matplotlib ships, by Pillow, which matplotlib needs itself. The same
versions of both give the same pictures.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from minipeft.arguments import ANY, checked, got
from minipeft.models.vision import VisionConfig
from minipeft.tasks import Batch, shuffled
from minipeft.training import evaluate

SIDE, BOX = 28, 20  # pixels of a picture; of what stands in it, as in MNIST
CHARACTERS = (
    "ABCDEFGHJKLMNPQRSTUVWXYZabdefghjmnqrty"
    "ΓΔΛΞΠΣΦΩαβγδεζηθλμξπστφχψω"
    "БДЖИЛЦЧЭЮЯбзйфшщы"
    "@#$%&?!+=<>{[]}/*~^§¶∫√∞∂∇∈∩±÷€£¥←↑→↓"
)
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol",
)  # fmt: skip
SPLITS = {"train": 250, "validation": 50, "test": 200}  # digits of each class
PAPER = {"train": 1, "validation": 2, "test": 3}  # seeds of the paper that they are written on


# ---- printed characters -----------------------------------------------------------------------------------------


@functools.cache
def characters():
    """Each character in each font that has it: pictures (M, 28, 28) in 0..1, white on black, and their labels (M,)."""
    import matplotlib
    from PIL import ImageFont

    folder, pictures, labels = Path(matplotlib.get_data_path(), "fonts", "ttf"), [], []
    for name in FONTS:
        font = ImageFont.truetype(folder / f"{name}.ttf", 80)
        missing = rendered("\uffff", font)
        for label, character in enumerate(CHARACTERS):
            picture = rendered(character, font)
            if not np.array_equal(picture, missing):
                pictures.append(picture)
                labels.append(label)
    return torch.from_numpy(np.stack(pictures)).float() / 255, torch.tensor(labels)


def rendered(character, font):
    """The character in the middle of a picture (28, 28), its longer side 20 pixels."""
    from PIL import Image, ImageDraw

    sheet = Image.new("L", (160, 160))
    ImageDraw.Draw(sheet).text((40, 30), character, fill=255, font=font)
    cut = sheet.crop(sheet.getbbox())
    scale = BOX / max(cut.size)
    cut = cut.resize([max(1, round(scale * side)) for side in cut.size], Image.Resampling.LANCZOS)
    picture = Image.new("L", (SIDE, SIDE))
    picture.paste(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2))
    return np.asarray(picture)


def warped(x, generator):
    """Pictures (B, 28, 28), each turned, scaled, sheared, moved, bent, made bolder or thinner, and given some noise."""
    B = len(x)

    def between(low, high, *shape):
        return low + (high - low) * torch.rand(B, *shape, generator=generator)

    angle, scale, aspect = between(-20, 20) * math.pi / 180, between(0.75, 1.15), between(0.8, 1.25)
    shear, right, down = between(-0.3, 0.3), between(-0.2, 0.2), between(-0.2, 0.2)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [cos * aspect, shear - sin * aspect, right, sin / aspect, cos / aspect, down]
    grid = F.affine_grid(torch.stack(rows, 1).view(B, 2, 3), (B, 1, SIDE, SIDE), align_corners=False)
    grid = grid + 0.06 * smooth(B, 5, generator, channels=2).permute(0, 2, 3, 1)
    y = F.grid_sample(x[:, None], grid, align_corners=False)
    kind = between(0, 1, 1, 1, 1)
    bolder, thinner = F.max_pool2d(y, 3, 1, 1), -F.max_pool2d(-y, 2, 1, 1)[..., :SIDE, :SIDE]
    y = torch.where(kind < 0.3, bolder, torch.where(kind > 0.75, thinner, y))[:, 0]
    noise = torch.randn(y.shape, generator=generator) * between(0, 0.1, 1, 1)
    return (y + noise).clamp(0, 1)


def smooth(number, knots, generator, channels=1):
    """Smooth random fields (number, channels, 28, 28), through N(0, 1) at knots × knots places."""
    at_knots = torch.randn(number, channels, knots, knots, generator=generator)
    return F.interpolate(at_knots, (SIDE, SIDE), mode="bicubic", align_corners=True)


@dataclass(frozen=True)
class Characters:
    """What the base is pretrained on: which of the 118 printed characters is it?"""

    def __str__(self):
        return "printed characters"

    def batch(self, size, generator):
        """`size` new pictures, drawn with `generator`."""
        pictures, labels = characters()
        index = torch.randint(len(pictures), (size,), generator=generator)
        return Batch(warped(pictures[index], generator), labels[index])


# ---- handwritten digits -----------------------------------------------------------------------------------------


@functools.cache
def digits(split, paper):
    """All digits of a split, (10, n, 28, 28) in 0..1; the first index is the digit."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        pictures = torch.from_numpy(file[split]).float() / 255
    return on_paper(pictures.flatten(0, 1), PAPER[split]).view_as(pictures) if paper else pictures


def on_paper(x, seed):
    """Pictures (B, 28, 28), white on black, as dark ink on light, uneven, grainy paper, drawn with the seed."""
    generator = torch.Generator().manual_seed(seed)
    light, ink = (torch.rand(len(x), 1, 1, generator=generator) for _ in range(2))
    uneven = 0.12 * smooth(len(x), 4, generator)[:, 0]
    grain = 0.06 * torch.randn(x.shape, generator=generator)
    return (0.65 + 0.3 * light + uneven - (0.4 + 0.4 * ink) * x + grain).clamp(0, 1)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits of MNIST, a finite task.

    split: "train" (250 of each digit), "validation" (50) or "test" (200).
    each: so many of each digit, chosen with `seed`; None for all of them.
    paper: as dark ink on uneven paper. A digit always lies on the same sheet.
    """

    split: str = "train"
    each: int | None = None
    seed: int = 0
    paper: bool = False

    def __post_init__(self):
        if self.split not in list(SPLITS):
            raise ValueError(f"Digits: split must be one of {', '.join(SPLITS)}, got {got(self.split)}")
        if not isinstance(self.paper, bool):
            raise ValueError(f"Digits: paper must be True or False, got {got(self.paper)}")
        object.__setattr__(self, "seed", checked("Digits: seed", self.seed, int, ANY))
        if self.each is not None:
            object.__setattr__(self, "each", checked("Digits: each", self.each, int))
            if self.each > SPLITS[self.split]:
                there = f"the {self.split} split has {SPLITS[self.split]} of each digit"
                raise ValueError(f"Digits: {there}, got each={self.each}: ask for fewer")

    def __str__(self):
        number = f"{self.each} of each" if self.each else "all"
        return f"handwritten digits{' on paper' if self.paper else ''} ({self.split}, {number})"

    def batch(self, size, generator):
        """`size` of them, each as often as another (give or take one), in an order drawn with `generator`."""
        return shuffled(self.every(), size, generator)

    kind = "new pictures"

    def known(self):
        """What the base was pretrained on."""
        return Characters()

    def sets(self, examples, seed):
        """What to train on (`examples` of each digit), what to choose by and what to report: for `lab.trial`."""
        others = (Digits(split, paper=self.paper) for split in ("validation", "test"))
        return Digits(each=examples or self.each, seed=seed, paper=self.paper), *others

    def every(self):
        """All of them, as one Batch: the zeros first, then the ones."""
        pictures = digits(self.split, self.paper)
        number = self.each or SPLITS[self.split]
        generator = torch.Generator().manual_seed(self.seed)
        chosen = [of_one[torch.randperm(len(of_one), generator=generator)[:number]] for of_one in pictures]
        return Batch(torch.cat(chosen), torch.arange(10).repeat_interleave(number))


# ---- the base ---------------------------------------------------------------------------------------------------

CONFIG = VisionConfig(side=SIDE, patch=7, classes=len(CHARACTERS))
RECIPE = {"steps": 3500, "batch_size": 128, "lr": 2e-3, "warmup": 200 / 3500, "weight_decay": 0.05}
pretraining = Characters()


def scores(model):
    """What the card of the base tells of it."""
    return {"printed characters, freshly warped": evaluate(model, pretraining, 2000).accuracy}
