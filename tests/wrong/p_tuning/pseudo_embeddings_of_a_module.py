# P-tuning whose pseudo-embeddings are an nn.Embedding called E.
# earns: The parameters of the LSTM encoder are not those that its equation names

from dataclasses import replace

import torch
from torch import nn


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Embedding(length, dim)
        self.lstm = nn.LSTM(input_size=dim, hidden_size=width, num_layers=2, bidirectional=True, batch_first=True)
        first, second = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, dim)
        self.mlp = nn.Sequential(first, nn.ReLU(), second)

    def forward(self):
        states, _ = self.lstm(self.E.weight.unsqueeze(0))
        return self.mlp(states.squeeze(0))


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.normal(0.0, 1.0, (length, dim)))
        parts = [nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)]
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
