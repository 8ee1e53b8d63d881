# P-tuning whose MLP encoder has GELUs where the equation has ReLUs.
# earns: another nonlinearity stands where the ReLU belongs

from dataclasses import replace

import torch
from torch import nn


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.randn(length, dim))
        self.lstm = nn.LSTM(dim, width, 2, bidirectional=True)
        self.mlp = nn.Sequential()
        self.mlp.append(nn.Linear(width * 2, width * 2))
        self.mlp.append(nn.ReLU())
        self.mlp.append(nn.Linear(width * 2, dim))

    def forward(self):
        sequence = self.E[:, None]
        out = self.lstm(sequence)[0][:, 0]
        return self.mlp(out)


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.normal(0.0, 1.0, (length, dim)))
        parts = [nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim)]
        self.mlp = nn.Sequential(*parts)

    def forward(self):
        h = self.E
        for layer in self.mlp:
            h = layer(h)
        return h


class Template(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        free = list(self.encoder())
        row = [free.pop(0) if is_free else anchor for is_free, anchor in zip(self.virtual.tolist(), self.anchors)]
        cache.front = cache.front + [torch.stack(row)]
        return cache

    def stored(self):
        h = self.encoder()
        return {"encoder.h": h.detach()}


class PTuning(Method):
    def layout(self, table):
        places = [VIRTUAL] * self.length if self.template is None else list(self.template)
        for token in places:
            if token >= table.shape[0]:
                raise ValueError(f"{token} is no token: there are {table.shape[0]}")
        virtual = torch.tensor([token == VIRTUAL for token in places])
        anchors = torch.stack([table[max(token, 0)] for token in places]).detach()
        return virtual, anchors

    def folded(self):
        return PTuning(length=self.length, template=self.template, encoder=None, width=self.width)
