# The template is filled with index_put; the encoders are built from lists of layers; a batch of one through the LSTM.

from dataclasses import fields

import torch
from torch import nn


def perceptron(*sizes):
    net = nn.Sequential()
    for a, b in zip(sizes, sizes[1:]):
        if len(net):
            net.append(nn.ReLU())
        net.append(nn.Linear(a, b))
    return net


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.lstm = nn.LSTM(dim, width, num_layers=2, bidirectional=True, batch_first=True)
        self.mlp = perceptron(2 * width, 2 * width, dim)
        self.E = nn.Parameter(torch.empty(length, dim))
        nn.init.normal_(self.E)

    def forward(self):
        h0 = self.E.new_zeros(4, 1, self.lstm.hidden_size)
        out, _ = self.lstm(self.E[None], (h0, torch.zeros_like(h0)))
        return self.mlp(out)[0]


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.mlp = perceptron(dim, width, width, dim)
        self.E = nn.Parameter(torch.randn(dim, length).T.contiguous())

    def forward(self):
        return torch.cat([self.mlp(row[None]) for row in self.E])


class Template(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        where = self.virtual.nonzero().squeeze(1)
        cache.front.append(self.anchors.index_put((where,), self.encoder().to(self.anchors.dtype)))
        return cache

    def stored(self):
        return {"encoder.h": self.encoder().detach().clone()}


class PTuning(Method):
    def layout(self, table):
        V, d = table.shape
        tokens = list(self.template or [VIRTUAL] * self.length)
        if max(tokens) >= V:
            raise ValueError(f"no token {max(tokens)} in a vocabulary of {V}")
        anchors = torch.zeros(len(tokens), d).type_as(table)
        for place, token in enumerate(tokens):
            if token != VIRTUAL:
                anchors[place] = table[token].detach()
        return torch.tensor([token == VIRTUAL for token in tokens]), anchors

    def folded(self):
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return type(self)(**{**kept, "encoder": None})
