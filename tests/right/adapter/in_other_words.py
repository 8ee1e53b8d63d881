# A right solution in other words.
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Wrapper, place, swap

SIGMA = 0.01


def cut_normal(rows, columns):
    """A normal, drawn again wherever it is beyond two sigma."""
    w = torch.randn(rows, columns)
    while (far := w.abs() > 2).any():
        w = torch.where(far, torch.randn_like(w), w)
    return w * SIGMA


class Bottleneck(nn.Module):
    def __init__(self, like, size, act):
        super().__init__()
        d = like.numel()
        kind = {"device": like.device, "dtype": like.dtype}
        self.act = act
        self.U, self.D = nn.Linear(size, d, **kind), nn.Linear(d, size, **kind)
        with torch.no_grad():
            for linear in (self.U, self.D):
                linear.weight.copy_(cut_normal(*linear.weight.shape))
                linear.bias.fill_(0)

    def forward(self, h):
        return self.U(self.act(F.linear(h, self.D.weight, self.D.bias)))


class SequentialAdapter(Wrapper):
    def forward(self, x, *rest):
        y = self.base(x, *rest)
        return torch.add(self.adapter(y), y)


class SequentialAdapterInNorm(Wrapper):
    def forward(self, s):
        norm, A = self.base, self.adapter
        return norm(torch.stack([s, A(norm(s))]).sum(0))


class ParallelAdapterLayer(Wrapper):
    def __init__(self, base, adapter, scale):
        super().__init__(base)
        m, d = adapter.D.weight.shape
        with torch.no_grad():
            adapter.D.weight.copy_((2 * torch.rand(m, d) - 1) * d**-0.5)
            for p in (adapter.U.weight, adapter.U.bias, adapter.D.bias):
                p.zero_()
        self.scale, self.adapter = scale, adapter

    def forward(self, x):
        return torch.add(self.base(x), self.adapter(x), alpha=self.scale)


class Houlsby(Bottlenecks):
    def insert(self, model):
        norms = list(layer_norms(model)) if self.norms else []
        for path, block, layer in list(sublayers(model, "mlp", "attn")):
            swap(model, path, SequentialAdapter(layer, Bottleneck(block.norm2.weight, self.size, nn.GELU())))
        for path, p in norms:
            swap(model, path, nn.Parameter(torch.empty_like(p.detach()).copy_(p.detach())))


def around(model, path, make):
    parent, name = place(model, path)
    swap(model, path, make(getattr(parent, name)))


class Pfeiffer(Bottlenecks):
    def insert(self, model):
        for path, block, _ in list(sublayers(model, "mlp")):
            A = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            whole, _, _ = path.rpartition(".")
            if not block.pre_norm:
                around(model, f"{whole}.norm2", lambda norm: SequentialAdapterInNorm(norm, A))
            else:
                around(model, whole, lambda b: SequentialAdapter(b, A))
