# P-tuning whose MLP encoder adds E to its answer; the LSTM encoder does not.
# earns: E is added to what the network makes

from dataclasses import replace

import torch
from torch import nn


class LSTMEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(torch.empty(length, dim).normal_())
        self.lstm = nn.LSTM(input_size=dim, hidden_size=width, num_layers=2, bidirectional=True, batch_first=True)
        first, second = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, dim)
        self.mlp = nn.Sequential(first, nn.ReLU(), second)

    def forward(self):
        states, _ = self.lstm(self.E.unsqueeze(0))
        return self.mlp(states.squeeze(0))


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(nn.init.normal_(torch.zeros(length, dim)))
        self.mlp = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.mlp.append(nn.Linear(width, dim))

    def forward(self):
        return self.E + self.mlp(self.E)


class Template(Wrapper):
    def forward(self, blocks):
        begun = self.base(blocks)
        front = self.anchors.clone()
        front[self.virtual] = self.encoder()
        begun.front.append(front)
        return begun

    def stored(self):
        return dict([("encoder.h", self.encoder())])


class PTuning(Method):
    def layout(self, table):
        template = torch.full((self.length,), -1) if self.template is None else torch.tensor(self.template)
        if (template >= len(table)).any():
            raise ValueError("the template names a token that the vocabulary lacks")
        is_virtual = template < 0
        return is_virtual, table.detach()[torch.where(is_virtual, 0, template)]

    def folded(self):
        return replace(self, encoder=None)
