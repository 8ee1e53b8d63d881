# right
import torch
from torch import nn
from torch.nn import functional as fn

from minipeft.attach import Method, WeightWrapper, trainable

POWER = {False: 1.0, True: 0.5}  # s = alpha / r^power


def thin(x, A, B, s):
    return torch.einsum("...i,ri,or->...o", x, A, s * B)


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        W = base.weight
        into = W.shape[-1]
        start = (2 * torch.rand(rank, into, dtype=W.dtype, device=W.device) - 1) * into**-0.5
        self.register_parameter("A", nn.Parameter(start))
        self.register_parameter("B", nn.Parameter(torch.zeros(W.shape[0], rank, dtype=W.dtype, device=W.device)))
        self.p, self.scale = dropout, scale

    def forward(self, x):
        dropped = fn.dropout(x, self.p, self.training) if self.p > 0 else x
        return thin(dropped, self.A, self.B, self.scale).add(self.base(x))

    def delta(self):
        return torch.mm(self.B, self.A).mul(self.scale)


class LoRA(Method):
    def scale(self, rank):
        return self.alpha / rank ** POWER[bool(self.rslora)]

    def groups(self, model, lr):
        named = trainable(model)
        is_b = {name: name.rpartition(".")[2] == "B" for name in named}
        fast = {"lr": self.lr_ratio * lr, "params": [p for name, p in named.items() if is_b[name]]}
        rest = {"lr": lr, "params": [p for name, p in named.items() if not is_b[name]]}
        return [fast, rest]


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        columns = fn.embedding(tokens, self.A.transpose(0, 1), self.base.padding_idx if hasattr(self.base, "padding_idx") else None)
        return torch.add(self.base(tokens), torch.einsum("...r,dr->...d", columns, self.B), alpha=self.scale)

    def delta(self):
        return torch.einsum("dr,rv->vd", self.B, self.A) * self.scale
