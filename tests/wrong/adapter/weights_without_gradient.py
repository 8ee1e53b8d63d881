# Adapters that multiply by the numbers of D, so that D never learns.
# earns: no gradient reaches

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        width = like.shape[0]
        self.D = nn.Linear(width, size)
        self.U = nn.Linear(size, width)
        self.act = act
        for lin in [self.D, self.U]:
            nn.init.trunc_normal_(lin.weight, 0.0, 0.01, -0.02, 0.02)
            lin.bias.data.fill_(0)
        self.to(dtype=like.dtype, device=like.device)

    def forward(self, h):
        narrow = torch.nn.functional.linear(h, self.D.weight.data, self.D.bias.data)
        return self.U(self.act(narrow))


class SequentialAdapter(Wrapper):
    def forward(self, x, *rest):
        out = self.base(x, *rest)
        return self.adapter(out) + out


class SequentialAdapterInNorm(Wrapper):
    def forward(self, s):
        norm = self.base
        return norm(self.adapter(norm(s)) + s)


class ParallelAdapterLayer(Wrapper):
    def __init__(self, base, adapter, scale):
        super().__init__(base)
        self.adapter = adapter
        self.scale = scale
        width = adapter.D.in_features
        nn.init.uniform_(adapter.D.weight, -(width**-0.5), width**-0.5)
        nn.init.zeros_(adapter.U.weight)

    def forward(self, x):
        frozen = self.base(x)
        return frozen + self.adapter(x) * self.scale


class Houlsby(Bottlenecks):
    def insert(self, model):
        for name in ("attn", "mlp"):
            for path, block, layer in list(sublayers(model, name)):
                small = Bottleneck(block.norm2.weight, self.size, nn.GELU())
                swap(model, path, SequentialAdapter(layer, small))
        if self.norms:
            for path, p in layer_norms(model):
                swap(model, path, nn.Parameter(p.data.clone()))


class Pfeiffer(Bottlenecks):
    def insert(self, model):
        for path, block, _ in list(sublayers(model, "mlp")):
            parent = path[: -len(".mlp")]
            small = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            if block.pre_norm:
                owner, name = place(model, parent)
                swap(model, parent, SequentialAdapter(getattr(owner, name), small))
            else:
                owner, name = place(model, parent + ".norm2")
                swap(model, parent + ".norm2", SequentialAdapterInNorm(getattr(owner, name), small))
