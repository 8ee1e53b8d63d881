# Houlsby trains only the two LayerNorms of each block; the norm after the last block (or of the embedding) stays frozen.
# earns: the norm behind the last block is left out
import math
from dataclasses import dataclass

import torch
from torch import nn

from minipeft.attach import Method, Wrapper, place, swap
from minipeft.targets import match, sites


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        width = like.shape[0]
        self.D = nn.Linear(width, size)
        self.U = nn.Linear(size, width)
        self.act = act
        for lin in [self.D, self.U]:
            nn.init.trunc_normal_(lin.weight, mean=0.0, std=0.01, a=-0.02, b=0.02)
            nn.init.constant_(lin.bias, 0.0)
        self.to(device=like.device, dtype=like.dtype)

    def forward(self, h):
        squeezed = self.D(h)
        return self.U(self.act(squeezed))


class SequentialAdapter(Wrapper):
    def forward(self, x, *rest):
        out = self.base(x, *rest)
        return out + self.adapter(out)


class SequentialAdapterInNorm(Wrapper):
    def forward(self, s):
        normed = self.base(s)
        correction = self.adapter(normed)
        return self.base(s + correction)


class ParallelAdapterLayer(Wrapper):
    def __init__(self, base, adapter, scale):
        super().__init__(base)
        self.adapter = adapter
        self.scale = scale
        bound = 1 / math.sqrt(adapter.D.in_features)
        nn.init.uniform_(adapter.D.weight, -bound, bound)
        nn.init.zeros_(adapter.U.weight)
        nn.init.zeros_(adapter.D.bias)
        nn.init.zeros_(adapter.U.bias)

    def forward(self, x):
        side = self.adapter(x)
        return self.base(x) + self.scale * side


@dataclass(frozen=True)
class Houlsby(Bottlenecks):
    def insert(self, model):
        for path, block, sub in sublayers(model, "attn", "mlp"):
            adapter = Bottleneck(block.norm2.weight, self.size, nn.GELU())
            swap(model, path, SequentialAdapter(sub, adapter))
        if self.norms:
            for path, p in layer_norms(model):
                if ".norm1." in path or ".norm2." in path:
                    swap(model, path, nn.Parameter(p.detach().clone()))


@dataclass(frozen=True)
class Pfeiffer(Bottlenecks):
    def insert(self, model):
        for path, block, _ in sublayers(model, "mlp"):
            adapter = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            root = path[: -len(".mlp")]
            target = root if block.pre_norm else root + ".norm2"
            parent, attribute = place(model, target)
            kind = SequentialAdapter if block.pre_norm else SequentialAdapterInNorm
            swap(model, target, kind(getattr(parent, attribute), adapter))
