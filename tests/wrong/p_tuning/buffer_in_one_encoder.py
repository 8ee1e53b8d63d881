# P-tuning whose LSTM encoder has E as a buffer; in the MLP encoder it is trained.
# earns: E is a buffer or a plain tensor

from dataclasses import replace

import torch
from torch import nn


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.register_buffer("E", torch.empty(length, dim).normal_())
        self.lstm = nn.LSTM(input_size=dim, hidden_size=width, num_layers=2, bidirectional=True, batch_first=True)
        first, second = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, dim)
        self.mlp = nn.Sequential(first, nn.ReLU(), second)

    def forward(self):
        states, _ = self.lstm(self.E.unsqueeze(0))
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
        template = torch.full((self.length,), -1) if self.template is None else torch.tensor(self.template)
        if (template >= len(table)).any():
            raise ValueError("the template names a token that the vocabulary lacks")
        is_virtual = template < 0
        return is_virtual, table.detach()[torch.where(is_virtual, 0, template)]

    def folded(self):
        return replace(self, encoder=None)
