# Adapters whose D widens and whose U narrows: the two names are exchanged, and the shapes with them.
# earns: D and U have each other's names

from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        self.U = nn.Linear(like.numel(), size)
        self.D = nn.Linear(size, like.numel())
        self.act = act
        for p in self.parameters():
            nn.init.zeros_(p) if p.ndim == 1 else nn.init.trunc_normal_(p, std=0.01, a=-0.02, b=0.02)
        self.to(like.device, like.dtype)

    def forward(self, h):
        return self.D(self.act(self.U(h)))


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
