"""P-tuning (v1): virtual tokens that a small network makes, at any place of a template.

Free vectors are hard to train, says the paper, since each is moved apart from its neighbours. So one network makes all
of them, from pseudo-embeddings E:

    h_i = MLP([→LSTM(E)_i ; ←LSTM(E)_i])        E (n, d), i = 1 … n; LSTM of width w, MLP 2w → 2w → d with a ReLU

They stand where a template says, mixed with *anchors*, real tokens that stay ordinary embeddings:

    [h_1] [h_2] please [h_3] x        template = (-1, -1, please, -1)

A virtual token is the number −1. The template is put in front of the input; more of them may stand inside the input.
Trainable parameters: n·d for E, and with two LSTM layers 8w(d+w+2) + 8w(3w+2) + (4w²+2w) + (2wd+d); for the encoder
"mlp", d → w → w → d, (dw+w) + (w²+w) + (wd+d). After training the encoder is folded away: n·d are saved, and inference
costs as much as prompt tuning. It cannot be merged.

Sources: 1) Liu et al. 2021, "GPT understands, too", arXiv:2103.10385. 2) its code, THUDM/P-tuning.
Paper and library: peft has no template, only virtual tokens in front; its default encoder is the MLP, which sees each
of them alone. The paper tunes the whole model as well on SuperGLUE; here, as in peft, the base is frozen.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, Wrapper, wrap

VIRTUAL = -1  # stands for "the next virtual token" among tokens


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
    """Puts the template, a row of tokens, in front of the input of a frozen `embed`."""

    def __init__(self, base, template, length):
        super().__init__(base)
        self.template, self.length = template, length

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):  # (B, T)
        expected = 0
        if start is None:
            expected = self.length
            tokens, mask = self.begin(tokens, mask)
        found = (tokens == VIRTUAL).sum(1)
        if (found != expected).any():
            raise ValueError(
                f"a row has {int(found[found != expected][0])} virtual tokens (-1) here, expected {expected}: "
                f"{self.length} in all, {self.template.count(VIRTUAL)} of them in the template, at the beginning"
            )
        return self.base(tokens, start, mask, front, skip)

    def begin(self, tokens, mask):  # (B, T); mask: (B, T), False at padding, or None
        """Rows that begin with the template, and a mask as long as they are, or None."""
        template = tokens.new_tensor(self.template).expand(len(tokens), -1)
        mask = mask if mask is None else F.pad(mask, (template.shape[1], 0), value=True)
        return torch.cat([template, tokens], dim=1), mask  # (B, template + T)


class Virtual(Wrapper):
    """The embedded tokens, but h where one is virtual, in front of a frozen token embedding, which knows no token −1.

    A row holds either all n virtual tokens or, when it goes on from a cache, none.
    """

    def __init__(self, base, encoder):
        super().__init__(base)
        self.encoder = encoder

    def forward(self, tokens):  # (B, T)
        virtual = tokens == VIRTUAL
        x = self.base(tokens.masked_fill(virtual, 0))
        if not virtual.any():
            return x
        h = self.encoder()  # (n, d)
        return x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))  # in their order, row by row

    def stored(self):
        """What is saved, {name: tensor}: the parameter of an encoder that is folded away, by its name in this layer."""
        return {"encoder.h": self.encoder()}


@dataclass(frozen=True)
class PTuning(Method):
    """Virtual tokens made by an encoder.

    Args:
        length: n, the number of virtual tokens in all.
        template: tokens to put in front of the input, -1 for a virtual one; by default n virtual ones. Those of the n
            that are not in the template must stand in every input, as tokens -1.
        encoder: "lstm", "mlp", or None for free vectors, which is what is left after folding.
        width: w, of the encoder.
    """

    length: int = 4
    template: tuple[int, ...] | None = None
    encoder: str | None = "lstm"
    width: int = 32

    def __post_init__(self):
        for name in ("length", "width"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be lstm, mlp or None, got {self.encoder!r}")
        if self.template is not None:
            if not isinstance(self.template, tuple | list) or not all(type(t) is int for t in self.template):
                raise ValueError(f"template must be a tuple of tokens, -1 for a virtual one, got {self.template!r}")
            if self.template.count(VIRTUAL) > self.length:
                raise ValueError(
                    f"the template has {self.template.count(VIRTUAL)} virtual tokens but length is {self.length}"
                )

    def insert(self, model):
        template = (VIRTUAL,) * self.length if self.template is None else tuple(self.template)
        vocab, dim = model.embed.token.weight.shape
        if beyond := [t for t in template if not VIRTUAL <= t < vocab]:
            raise ValueError(
                f"the template holds the token {beyond[0]}; there are 0 to {vocab - 1}, and -1 for virtual"
            )
        encoder = ENCODERS[self.encoder](self.length, dim, self.width).to(model.embed.token.weight)
        wrap(model, ("embed.token",), lambda token, path: Virtual(token, encoder))
        wrap(model, ("embed",), lambda embed, path: Template(embed, template, self.length))

    def folded(self):
        """The same method for what is left after training."""
        return replace(self, encoder=None)
