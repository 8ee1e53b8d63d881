# Adapters whose bottleneck calls the layers by F.linear, with starts drawn by the inverse of the normal distribution.

import math

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        (d,) = like.shape
        self.act = act
        self.D, self.U = nn.Linear(d, size), nn.Linear(size, d)
        edge = math.erf(2 / math.sqrt(2))
        for linear in (self.D, self.U):
            even = torch.empty(linear.weight.shape).uniform_(-edge, edge)
            linear.weight = nn.Parameter(0.01 * math.sqrt(2) * torch.erfinv(even))
            linear.bias = nn.Parameter(torch.zeros(len(linear.bias)))
        self.to(like)

    def forward(self, h):
        inner = F.linear(h, self.D.weight, self.D.bias)
        return F.linear(self.act(inner), self.U.weight) + self.U.bias


class SequentialAdapter(Wrapper):
    def forward(self, *given):
        out = self.base(*given)
        return sum((out, self.adapter(out)))


class SequentialAdapterInNorm(Wrapper):
    def forward(self, s):
        normed = self.base(s)
        change = self.adapter(normed)
        return self.base(change.add(s))


class ParallelAdapterLayer(Wrapper):
    def __init__(self, base, adapter, scale):
        super().__init__(base)
        self.scale = scale
        self.adapter = adapter
        with torch.no_grad():
            bound = 1 / math.sqrt(adapter.D.weight.shape[1])
            adapter.D.weight.copy_((2 * torch.rand_like(adapter.D.weight) - 1) * bound)
            adapter.U.weight.mul_(0)

    def forward(self, x):
        return torch.add(self.base(x), self.adapter(x), alpha=self.scale)


class Houlsby(Bottlenecks):
    def insert(self, model):
        for path, block, module in list(sublayers(model, "mlp", "attn")):
            thin = Bottleneck(block.norm1.weight, self.size, nn.GELU())
            swap(model, path, SequentialAdapter(module, thin))
        if not self.norms:
            return
        for path, old in layer_norms(model):
            new = torch.empty_like(old).copy_(old)
            swap(model, path, nn.Parameter(new.detach()))


class Pfeiffer(Bottlenecks):
    def insert(self, model):
        kinds = {True: ("", SequentialAdapter), False: (".norm2", SequentialAdapterInNorm)}
        for path, block, _ in list(sublayers(model, "mlp")):
            tail, Layer = kinds[bool(block.pre_norm)]
            where = path.rpartition(".")[0] + tail
            owner, name = place(model, where)
            swap(model, where, Layer(getattr(owner, name), Bottleneck(block.norm2.weight, self.size, nn.ReLU())))
