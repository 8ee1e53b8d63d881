"""Two networks that are no Transformers, made of PyTorch's own modules: one for pictures, one for sequences.

They know nothing of fine-tuning. Of the Transformer's three doors the methods here use one: their weights have names.
LoRA goes in front of a convolution ("conv2"), and to the matrix of a recurrent layer by its name ("rnn.weight_hh_l0").

Sources: 1) convolutions: LeCun et al. 1998. 2) GroupNorm: Wu & He 2018, arXiv:1803.08494.
         3) LSTM: Hochreiter & Schmidhuber 1997. 4) GRU: Cho et al. 2014, arXiv:1406.1078.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from minipeft.models.inputs import check_rows, got


@dataclass
class ConvConfig:
    """The shape of a ConvNet."""

    classes: int
    channels: int = 16  # c of the first convolution; the next ones have 2c and 4c
    side: int = 28  # of the pictures


class ConvNet(nn.Module):
    """Three convolutions, each halved by max pooling, and a Linear `head` that reads all that is left: 3 × 3 places.

    Forward takes pictures (B, side, side) of grey values and returns logits (B, classes).
    Raises ValueError if the pictures have another shape or are no floating-point numbers.
    """

    def __init__(self, config):
        super().__init__()
        self.config, c = config, config.channels
        self.conv1 = nn.Conv2d(1, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * c, 4 * c, 3, padding=1)
        self.norm = nn.GroupNorm(c // 2, 4 * c)  # groups of eight channels
        self.head = nn.Linear(4 * c * (config.side // 8) ** 2, config.classes)

    def forward(self, pictures):
        side = self.config.side
        if not isinstance(pictures, Tensor) or pictures.shape[1:] != (side, side) or not pictures.is_floating_point():
            wanted = f"pictures must be a tensor of floating-point numbers (B, {side}, {side})"
            raise ValueError(f"{wanted}, got {got(pictures)}")
        x = pictures[:, None]  # (B, 1, 28, 28)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, c, 14, 14)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, 2c, 7, 7)
        x = F.max_pool2d(F.relu(self.norm(self.conv3(x))), 2)  # (B, 4c, 3, 3)
        return self.head(x.flatten(1))  # (B, classes)


LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


@dataclass
class RecurrentConfig:
    """The shape of a Recurrent. kind: "LSTM" or "GRU"."""

    vocab: int
    dim: int = 32
    hidden: int = 96
    kind: str = "LSTM"


class Recurrent(nn.Module):
    """embed → rnn → head: one recurrent layer reads the tokens from left to right.

    The state h (hidden) of `rnn` after each token is W_ih x + W_hh h through its gates; the two matrices hold those of
    all gates one below the other, `rnn.weight_ih_l0` (4·hidden, d) and `rnn.weight_hh_l0` (4·hidden, hidden) of an
    LSTM, 3·hidden rows of a GRU.

    Forward takes tokens (B, T) and returns logits (B, T, V). It takes no mask: what follows a token has no effect on
    its logits, so pad on the right and leave the padding out of the targets.
    Raises ValueError if tokens have another shape or type, or are not in the vocabulary.
    """

    def __init__(self, config):
        super().__init__()
        if config.kind not in LAYERS:
            raise ValueError(f"kind must be {' or '.join(map(repr, LAYERS))}, got {config.kind!r}")
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.dim)
        self.rnn = LAYERS[config.kind](config.dim, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, config.vocab)

    def forward(self, tokens):
        check_rows(tokens, None)
        if strange := [token for token in map(int, tokens.aminmax()) if not 0 <= token < self.config.vocab]:
            raise ValueError(
                f"the vocabulary has the tokens 0 to {self.config.vocab - 1}, the input holds {strange[0]}"
            )
        h, _ = self.rnn(self.embed(tokens))  # (B, T, hidden)
        return self.head(h)  # (B, T, V)
