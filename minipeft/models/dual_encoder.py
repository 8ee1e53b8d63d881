"""A dual encoder, as in CLIP: one tower reads pictures, the other captions, and both end in one shared space.

    u_i = W_I h_i / |W_I h_i|          h_i (d,): the class token of picture i behind the last block of its tower
    v_j = W_T h_j / |W_T h_j|          h_j (d,): the last token of caption j, which has seen all others (causal)
    logits_ij = e^s · u_i·v_j          s: a trained number, the logarithm of the inverse temperature

It is pretrained on pairs (`Contrastive`): each picture has to find its caption among those of the batch, and each
caption its picture. Then it classifies pictures without further training: the classes are captions (`ZeroShot`).

Both towers have the doors of every model here, so every method goes on either: `places=("image",)`, or "text". Three
have names of their own: `PromptTuning(places=("text",))` is CoOp, `PromptTuning(places=("image",))` is VPT-shallow and
`PTuningV2(places=("image",))` is VPT-deep.
Letters in shape comments: B pictures, C captions, T tokens, w the width of the shared space.

Sources: 1) CLIP: Radford et al. 2021, arXiv:2103.00020. 2) CoOp: Zhou et al. 2021, arXiv:2109.01134.
         3) VPT: Jia et al. 2022, arXiv:2203.12119.
Paper and library: CLIP keeps e^s below 100, here nothing does. CoOp's vectors stand behind the first token of the
caption, here they stand before it, as every prompt here does.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.heads import ClassHead
from minipeft.models.inputs import check_rows
from minipeft.models.transformer import Config, Transformer
from minipeft.models.vision import VisionConfig, ViT


@dataclass
class DualConfig:
    """The shape of a dual encoder: one configuration for each tower, and the width of the space that they share.

    Dictionaries, as `asdict` makes them, become configurations. The `classes` of the picture tower are `width`.
    """

    image: VisionConfig
    text: Config
    width: int

    def __post_init__(self):
        self.image = VisionConfig(**self.image) if isinstance(self.image, dict) else self.image
        self.text = Config(**self.text) if isinstance(self.text, dict) else self.text


class DualEncoder(nn.Module):
    """Two towers, `image` and `text`, and `scale`, the logarithm of the inverse temperature.

    Args of forward:
        images: (B, channels, side, side), numbers from 0 to 1.
        captions: (C, T) integers. All end at their last token: padding stands on the left.
        mask: (C, T) booleans, False at padding of the captions; None if there is none.

    Returns logits (B, C): how well each caption fits each picture. Raises ValueError for what a tower cannot read.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.image, self.text = ViT(c.image), Transformer(c.text)
        for tower, place in ((self.image, 0), (self.text, -1)):
            dim = tower.config.dim
            tower.head = ClassHead(dim, c.width, place, bias=False)
            nn.init.normal_(tower.head.classify.weight, std=dim**-0.5)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # as CLIP begins

    def forward(self, images, captions, mask=None):
        u = F.normalize(self.image(images), dim=-1)  # (B, w)
        v = F.normalize(self.text(captions, mask), dim=-1)  # (C, w)
        return self.scale.exp() * u @ v.T  # (B, C)


class ZeroShot(nn.Module):
    """A classifier of pictures made of a dual encoder, `model`, and a caption for each class.

    forward(images) gives logits (B, classes). The captions are read anew in each pass, so gradients reach the text
    tower too. To adapt it, attach a method to the dual encoder and make the classifier of what `attach` returns.

    Args:
        model: a DualEncoder, or a view of one.
        captions, mask: (classes, T), as the model takes them.

    Raises ValueError if the captions are no rows of tokens.
    """

    def __init__(self, model, captions, mask=None):
        super().__init__()
        check_rows(captions, mask)
        self.model = model
        self.register_buffer("captions", captions)
        self.register_buffer("mask", mask)

    def forward(self, images):
        return self.model(images, self.captions, self.mask)


class Contrastive(nn.Module):
    """Asks a dual encoder, `model`, what it is pretrained on: which caption belongs to which picture of a batch.

    forward(images, captions), B of each, gives logits (B, 2, B): row i holds those of picture i for every caption and
    those of caption i for every picture. The right answer to both is i. A caption that stands in the batch several
    times fits several pictures: such a pair counts neither as right nor as wrong.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, captions):
        if len(images) != len(captions):
            raise ValueError(f"there must be one caption for each picture, got {len(captions)} for {len(images)}")
        logits = self.model(images, captions)  # (B, B)
        same = (captions[:, None] == captions).all(-1) & ~torch.eye(len(captions), dtype=torch.bool).to(captions.device)
        logits = logits.masked_fill(same, torch.finfo(logits.dtype).min)
        return torch.stack([logits, logits.T], dim=1)
