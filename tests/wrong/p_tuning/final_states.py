# P-tuning whose h are all made of the LSTM's final states, as a classifier of sentences would read them.
# earns: only the LSTM's last output is used

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
        _, (last, _) = self.lstm(sequence)
        both = torch.cat([last[-2], last[-1]], dim=-1)
        return self.mlp(both).expand(len(self.E), -1)


class MLPEncoder(nn.Module):
    def __init__(self, length, dim, width):
        super().__init__()
        self.E = nn.Parameter(nn.init.normal_(torch.zeros(length, dim)))
        self.mlp = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.mlp.append(nn.Linear(width, dim))

    def forward(self):
        return torch.stack([self.mlp(e) for e in self.E])


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
