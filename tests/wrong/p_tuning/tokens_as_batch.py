# The LSTM is batch_first but gets (n, 1, d): n sequences of one token each, so no h_i depends on its neighbours.
# earns: the LSTM takes n for the batch
from dataclasses import replace

import torch
from torch import nn

from minipeft.attach import Method, Wrapper


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.randn(length, dim))
        self.lstm = nn.LSTM(input_size=dim, hidden_size=width, num_layers=2, bidirectional=True, batch_first=True)
        both = 2 * width
        self.mlp = nn.Sequential(nn.Linear(both, both), nn.ReLU(), nn.Linear(both, dim))

    def forward(self):
        states, _ = self.lstm(self.E.unsqueeze(1))
        return self.mlp(states.squeeze(1))


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.randn(length, dim))
        self.mlp = nn.Sequential(
            nn.Linear(dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, dim),
        )

    def forward(self):
        return self.mlp(self.E)


class Template(Wrapper):
    def forward(self, blocks):
        cache = self.base(blocks)
        h = self.encoder().to(self.anchors)
        rows = self.anchors.clone()
        rows[self.virtual] = h
        cache.front.append(rows)
        return cache

    def stored(self):
        return {"encoder.h": self.encoder()}


class PTuning(Method):
    def layout(self, table):
        template = self.template
        if template is None:
            template = (VIRTUAL,) * self.length
        for token in template:
            if token >= table.shape[0]:
                raise ValueError(f"{token} is not among the {table.shape[0]} tokens of the vocabulary")
        ids = torch.tensor(template, device=table.device)
        virtual = ids == VIRTUAL
        return virtual, table[ids.masked_fill(virtual, 0)].detach()

    def folded(self):
        return replace(self, encoder=None)
