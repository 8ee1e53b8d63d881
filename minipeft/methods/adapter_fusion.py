"""AdapterFusion: several tasks learned apart, then put together without overwriting any of them.

First an adapter is trained on each of N tasks (the Pfeiffer placement, one delta each). Then all of them are frozen,
and in each layer an attention over the adapters, asked anew for each token, learns which of them help with a new task:

    z_t = U_t φ(D_t h + b_D) + b_U          what adapter t finds; D_t (m, d), U_t (d, m) frozen; φ = ReLU
    α   = softmax_t(q·k_t)                  q = W_q h + b_q, k_t = W_k z_t + b_k; over the adapters, not the tokens
    o   = Σ_t α_t W_v z_t                   W_q, W_k, W_v (d, d)

o is added where one adapter would add its A(h). With s, the residual stream after the MLP, that is y = LN(s + o) and
h = LN(s) in a post-norm block (BERT), y = s + o and h = s in a pre-norm block (GPT-2).
W_v starts at the identity, and the loss gets λ‖I − W_v‖² for each layer: what the adapters say is mixed, not replaced.

    for name in names:
        adapted = Pfeiffer(size=16).attach(model)
        fit(adapted, task(name), steps=300, lr=3e-2), save(adapted, name)
    method = AdapterFusion(adapters=len(names), size=16)
    fused = method.attach(model)
    method.fill(fused, [read(name, model) for name in names])
    fit(fused, task("swap+violet"), steps=300, lr=1e-2)

Trainable parameters: L·(3d² + 2d); stored are, besides, the N frozen adapters: the delta of a fusion needs no other.
Cannot be merged. At inference it costs all N adapters, the keys and values of each, in every layer.

Sources: 1) Pfeiffer et al. 2021, arXiv:2005.00247. 2) github.com/adapter-hub/adapters, `BertFusion`.
Paper and library (`adapters` 1.3): neither divides the scores by √d, nor does this file. Besides its diagonal of ones
W_v starts with entries of 10⁻⁶ there, with zeros here. The library can cool the softmax from a temperature of 50, and
drops out scores before the softmax, as often as the model drops attention; neither is here. In its code and here keys
and values read z_t without the residual, and the query reads h, where the paper's text has what the MLP puts out.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Method, Wrapper, attachments, place, swap
from minipeft.targets import match, sites


class Fusion(nn.Module):
    """o = Σ_t softmax_t(q·k_t) W_v z_t over N frozen adapters. `weights` keeps the α (B, T, N) of the last pass.

    `D` (N, m, d), `b_D` (N, m), `U` (N, d, m), `b_U` (N, d): the adapters, buffers, zero until `fill` copies them in.
    `query`, `key`, `value`: linear layers, W_q and W_k normal at the start, σ = 0.02, with biases of zero; no b_v.
    All is of the width, type and device of `like`, a vector (d,).
    """

    def __init__(self, like, adapters, size):
        super().__init__()
        d = len(like)
        for name, shape in {"D": (size, d), "b_D": (size,), "U": (d, size), "b_U": (d,)}.items():
            self.register_buffer(name, torch.zeros(adapters, *shape))
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
        for layer in (self.query, self.key):  # small, so that at first all adapters count alike
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.eye_(self.value.weight)
        self.to(like)
        self.weights = None

    def forward(self, h):  # (B, T, d)
        z = F.relu(torch.einsum("...d,nmd->...nm", h, self.D) + self.b_D)  # (B, T, N, m)
        z = torch.einsum("...nm,ndm->...nd", z, self.U) + self.b_U  # (B, T, N, d)
        q, k, v = self.query(h), self.key(z), self.value(z)
        α = torch.einsum("...d,...nd->...n", q, k).softmax(-1)  # (B, T, N)
        self.weights = α.detach()
        return torch.einsum("...n,...nd->...d", α, v)  # (B, T, d)


class SequentialFusion(Wrapper):
    """s + o in front of a whole pre-norm block, whose output s is."""

    def __init__(self, base, fusion):
        super().__init__(base)
        self.fusion = fusion

    def forward(self, x, *rest):  # (B, T, d)
        s = self.base(x, *rest)
        return s + self.fusion(s)


class SequentialFusionInNorm(Wrapper):
    """LN(s + o) in front of the LayerNorm that ends a post-norm block; the fusion reads h = LN(s)."""

    def __init__(self, base, fusion):
        super().__init__(base)
        self.fusion = fusion

    def forward(self, s):  # (B, T, d)
        h = self.base(s)
        return self.base(s + self.fusion(h))


def fusions(model):
    """{path: Fusion}, layer by layer; the `weights` of each are what it attended to."""
    found = {}
    for path, parent, name in sites(model):
        layer = getattr(parent, name)
        while isinstance(layer, Wrapper):
            if isinstance(layer, SequentialFusion | SequentialFusionInNorm):
                found.setdefault(path, layer.fusion)  # of two in one place, the last attached
            layer = layer.base
    return found


@dataclass(frozen=True)
class AdapterFusion(Method):
    """An attention over frozen adapters, which `fill` puts in.

    Args:
        adapters: N, how many.
        size: m, the width of their bottleneck.
        regularization: λ of λ‖I − W_v‖², which the loss gets for each layer.
    """

    adapters: int = 2
    size: int = 16
    regularization: float = 0.01

    SIZES = ("adapters", "size")
    LIMITS = {"regularization": (0, math.inf)}

    def insert(self, model):
        for path, block, _ in match(model, ("mlp",)):
            if not hasattr(block, "pre_norm"):
                raise TypeError(
                    f"fusions stand in Transformer blocks, with `pre_norm` and `norm2`, "
                    f"but {path!r} is in a {type(block).__name__}"
                )
            end = path.removesuffix(".mlp") if block.pre_norm else path.removesuffix("mlp") + "norm2"
            layer = SequentialFusion if block.pre_norm else SequentialFusionInNorm
            swap(model, end, layer(getattr(*place(model, end)), Fusion(block.norm2.weight, self.adapters, self.size)))

    @torch.no_grad()
    def fill(self, model, deltas):
        """Copy trained adapters into the attached fusion.

        Args:
            deltas: as many as `adapters`, of Pfeiffer with the same size, each as `deltas.read(path, model)` gives it.

        Raises ValueError, before anything is changed, if they do not fit; RuntimeError if this is not attached.
        """
        if self not in [a.method for a in attachments(model)]:
            raise RuntimeError(f"{self} is not attached to this model; attach it, then fill it")
        if len(deltas) != self.adapters:
            raise ValueError(f"{self} has places for {self.adapters} adapters, got {len(deltas)}")
        copies = []
        for n, delta in enumerate(deltas):
            if str(delta.method) != f"Pfeiffer(size={self.size})":
                raise ValueError(f"{self} fuses deltas of Pfeiffer(size={self.size}); number {n} is {delta.method}")
            names = {"D": "D.weight", "b_D": "D.bias", "U": "U.weight", "b_U": "U.bias"}
            places = {
                f"{path}.adapter.{theirs}": getattr(fusion, ours)[n]
                for path, fusion in fusions(model).items()
                for ours, theirs in names.items()
            }
            if {k: t.shape for k, t in places.items()} != {k: t.shape for k, t in delta.tensors.items()}:
                raise ValueError(f"adapter number {n} is of another base: its layers are not those of this model")
            copies += [(buffer, delta.tensors[name]) for name, buffer in places.items()]
        for buffer, tensor in copies:
            buffer.copy_(tensor)

    def groups(self, model, lr):
        if not all(fusion.U.any(2).any(1).all() for fusion in fusions(model).values()):
            raise RuntimeError(f"{self} has empty places, so there is nothing to fuse: put adapters in with fill")
        return super().groups(model, lr)

    def regularizer(self, model):
        values = [fusion.value.weight for fusion in fusions(model).values()]
        return self.regularization * sum((torch.eye(len(W)).to(W) - W).square().sum() for W in values)
