"""P-tuning (v1): virtual tokens that a small network makes, at any place of a template.

Free vectors are hard to train, says the paper, since each is moved apart from its neighbours. So one network makes all
of them, from pseudo-embeddings E:

    h_i = MLP([→LSTM(E)_i ; ←LSTM(E)_i])        E (n, d), i = 1 … n; LSTM of width w, MLP 2w → 2w → d with a ReLU

They stand where a template says, mixed with *anchors*, real tokens that stay ordinary embeddings:

    [h_1] [h_2] please [h_3] x        template = (-1, -1, please, -1), where -1 is the next virtual token

Trainable parameters: n·d for E, and with two LSTM layers 8w(d+w+2) + 8w(3w+2) + (4w²+2w) + (2wd+d); for the encoder
"mlp", d → w → w → d, (dw+w) + (w²+w) + (wd+d). After training the encoder is folded away: n·d are saved, and inference
costs as much as prompt tuning. It cannot be merged.

Sources: 1) Liu et al. 2021, "GPT understands, too", arXiv:2103.10385. 2) its code, THUDM/P-tuning.
Paper and library: peft has no template, only virtual tokens in front; its default encoder is the MLP, which sees each
of them alone. The paper's templates may go on behind x; here all of it stands in front, as a soft prompt does. The
paper tunes the whole model as well on SuperGLUE; here, as in peft, the base is frozen.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from minipeft.attach import Method, Wrapper
from minipeft.targets import stacks, table, wrap

VIRTUAL = -1  # stands for "the next virtual token" in a template


class LSTMEncoder(nn.Module):
    """h = MLP(LSTM(E)), both directions: every h_i depends on all of E.

    Its parts: `E`, drawn from N(0, 1); `lstm`, of two layers; `mlp`, an `nn.Sequential`.
    """

    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.randn(length, dim))
        self.lstm = nn.LSTM(dim, width, num_layers=2, bidirectional=True)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim))

    def forward(self):
        return self.mlp(self.lstm(self.E)[0])  # (n, d) → (n, 2w) → (n, d)


class MLPEncoder(nn.Module):
    """h_i = MLP(E_i): one network for all, but each h_i depends on its own E_i alone.

    Its parts: `E`, drawn from N(0, 1); `mlp`, an `nn.Sequential` with a ReLU between linear layers.
    """

    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.randn(length, dim))
        self.mlp = nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)
        )

    def forward(self):
        return self.mlp(self.E)  # (n, d)


class Folded(nn.Module):
    """h itself: what is left when the encoder is folded away."""

    def __init__(self, length, dim, width=None):
        super().__init__()
        self.h = nn.Parameter(torch.randn(length, dim))

    def forward(self):
        return self.h


ENCODERS = {"lstm": LSTMEncoder, "mlp": MLPEncoder, None: Folded}


class Template(Wrapper):
    """In front of `begin`: the sequence begins with the template, h at its virtual places and anchors at the others.

    virtual: (m,) booleans, which of the template's m places are virtual. anchors: (m, d), the embeddings of its tokens,
    anything at the virtual places. Both follow from the settings and the base, so no delta holds them.
    """

    def __init__(self, base, encoder, virtual, anchors):
        super().__init__(base)
        self.encoder = encoder
        self.register_buffer("virtual", virtual, persistent=False)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, blocks):
        cache = self.base(blocks)
        h = self.encoder().to(self.anchors)  # (n, d); autocast may have made it in half precision
        cache.front.append(self.anchors.masked_scatter(self.virtual[:, None], h))  # (m, d)
        return cache

    def stored(self):
        """What is saved, {name: tensor}: the parameter of an encoder that is folded away, by its name in this layer."""
        return {"encoder.h": self.encoder()}


@dataclass(frozen=True)
class PTuning(Method):
    """Virtual tokens made by an encoder.

    Args:
        length: n, the number of virtual tokens.
        template: tokens to put in front of the input, with n times -1 for the virtual ones; None for these alone.
        encoder: "lstm", "mlp", or None for free vectors, which is what is left after folding.
        width: w, of the encoder.
    """

    length: int = 4
    template: tuple[int, ...] | None = None
    encoder: Literal["lstm", "mlp"] | None = "lstm"
    width: int = 32

    SIZES = ("length",)
    LIMITS = {"template": (VIRTUAL, float("inf"))}

    def __post_init__(self):
        super().__post_init__()
        if self.template is not None and (found := self.template.count(VIRTUAL)) != self.length:
            raise ValueError(f"the template has {found} virtual tokens (-1), length is {self.length}: make them equal")

    def insert(self, model):
        for path, part in stacks(model, words=self.template is not None):
            like = table(part)
            encoder = ENCODERS[self.encoder](self.length, like.shape[1], self.width).to(like)
            parts = encoder, *self.layout(like)
            wrap(model, (f".{path}",), lambda begin, path, parts=parts: Template(begin, *parts), nn.Module)

    def layout(self, table):
        """Which of the template's m places are virtual, (m,), and what stands at the others, (m, d).

        table: (V, d), the embeddings of the tokens. Raises ValueError for an anchor that is none of them.
        """
        template = (VIRTUAL,) * self.length if self.template is None else self.template
        if beyond := [token for token in template if token >= len(table)]:
            raise ValueError(f"the template holds {beyond[0]}, but the vocabulary has the tokens 0 to {len(table) - 1}")
        template = torch.tensor(template, device=table.device)
        return template == VIRTUAL, table[template.clamp(min=0)].detach()

    def folded(self):
        """The same method for what is left after training."""
        return replace(self, encoder=None)
