# Adapters whose three methods share a helper, and whose parallel layer starts by Kaiming's function for a gain of √(1/3).

import torch
from torch import nn


def thin(block, size, act):
    return Bottleneck(block.norm2.weight.detach(), size, act)


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        where = {"device": like.device, "dtype": like.dtype}
        self.D = nn.Linear(len(like), size, **where)
        self.U = nn.Linear(size, len(like), **where)
        self.act = act
        self.apply(self.near_zero)

    @staticmethod
    @torch.no_grad()
    def near_zero(module):
        if isinstance(module, nn.Linear):
            fresh = nn.init.trunc_normal_(torch.empty(module.weight.shape), mean=0.0, std=1.0, a=-2.0, b=2.0)
            module.weight.copy_(fresh / 100)
            module.bias.zero_()

    def forward(self, h):
        for step in (self.D, self.act, self.U):
            h = step(h)
        return h


class SequentialAdapter(Wrapper):
    def forward(self, x, *rest):
        f = self.base(x, *rest)
        correction = self.adapter(f)
        return correction + f


class SequentialAdapterInNorm(Wrapper):
    def forward(self, s):
        return self.base(s + self.adapter(self.base(s)))


class ParallelAdapterLayer(Wrapper):
    def __init__(self, base, adapter, scale):
        super().__init__(base)
        self.adapter, self.scale = adapter, scale
        nn.init.kaiming_uniform_(adapter.D.weight, a=2**0.5, nonlinearity="leaky_relu")
        adapter.D.weight.data /= 2**0.5
        nn.init.constant_(adapter.U.weight, 0.0)

    def forward(self, x):
        learned = self.adapter(x)
        return self.base(x) + learned * self.scale


class Houlsby(Bottlenecks):
    def insert(self, model):
        found = list(layer_norms(model)) if self.norms else []
        for path, p in found:
            swap(model, path, nn.Parameter(p.detach().clone(), requires_grad=True))
        for path, block, layer in sublayers(model, "attn", "mlp"):
            swap(model, path, SequentialAdapter(layer, thin(block, self.size, nn.GELU())))


class Pfeiffer(Bottlenecks):
    def insert(self, model):
        for path, block, _ in sublayers(model, "mlp"):
            end = path.removesuffix(".mlp")
            if not block.pre_norm:
                end += ".norm2"
            there = getattr(*place(model, end))
            made = (SequentialAdapter if block.pre_norm else SequentialAdapterInNorm)(there, thin(block, self.size, nn.ReLU()))
            swap(model, end, made)
