"""Bottleneck adapters, all three of them: one thin MLP, and three places to put it.

Inside a frozen model a small MLP is trained that squeezes d numbers through m ≪ d and adds what it finds:

    A(h) = U φ(D h + b_D) + b_U                   D (m, d), U (d, m), both with a bias

The three methods differ in what A reads and where its answer is added. Let F be a sublayer, attention or MLP:

                      post-norm block (BERT), f = F(x)      pre-norm block (GPT-2), n = LN(x), f = F(n)
    Houlsby           LN(x + f + A(f))                      x + f + A(f)          behind attention and MLP
    Pfeiffer          LN(x + f + A(LN(x + f)))              x + f + A(x + f)      behind the MLP only
    ParallelAdapter   LN(x + f + s·A(x))                    x + f + s·A(n)        beside the MLP

Trainable parameters, in L layers: Pfeiffer and ParallelAdapter L·(2dm + m + d); Houlsby twice that, and 2d for each
LayerNorm of the model. None can be merged: φ stands in between. At inference each costs two thin products, one after
the other and, except beside the MLP, after the sublayer: in a small batch that waiting is most of the price.
The start is near the base, not at it: with D and U both zero neither would ever have a gradient. In ParallelAdapter U
alone is zero, as B is in LoRA, so the start is exact.

Sources: 1) Houlsby et al. 2019, arXiv:1902.00751, and github.com/google-research/adapter-bert.
         2) Pfeiffer et al. 2020, arXiv:2005.00247. 3) He et al. 2021, arXiv:2110.04366.
Paper and library (`adapters` 1.3): Houlsby et al. draw D and U from N(0, 0.01²), cut off at two σ (their code takes
0.001), apply GELU and train all LayerNorms; the library draws from N(0, 0.02²), applies SiLU, which it calls swish,
and freezes the norms, which is `norms=False` here. Pfeiffer et al. know BERT alone: the equation for a pre-norm block
is the library's. Beside the MLP of a pre-norm block the library reads x; the code of He et al. has tried x and n, and
here it is n, what the MLP reads. Dropout, which the library offers, is left out.
"""

import math
from dataclasses import dataclass

from torch import nn

from minipeft.attach import Method, Wrapper, place, swap
from minipeft.targets import match, sites


class Bottleneck(nn.Module):
    """A(h) = U φ(D h + b_D) + b_U. Of the width, type and device of `like`, a vector (d,).

    `D` and `U` are `nn.Linear`, `act` is φ. The weights start normal, σ = 0.01, cut off at two σ; the biases at zero.
    """

    def __init__(self, like, size, act):
        super().__init__()
        self.D, self.U, self.act = nn.Linear(len(like), size), nn.Linear(size, len(like)), act
        for layer in (self.D, self.U):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
        self.to(like)

    def forward(self, h):  # (B, T, d)
        z = self.act(self.D(h))  # (B, T, m)
        return self.U(z)  # (B, T, d)


class SequentialAdapter(Wrapper):
    """f + A(f) in front of a sublayer F (Houlsby), y + A(y) in front of a whole pre-norm block (Pfeiffer)."""

    def __init__(self, base, adapter):
        super().__init__(base)
        self.adapter = adapter

    def forward(self, x, *rest):  # (B, T, d), and what else attention wants: the mask, the cache
        f = self.base(x, *rest)
        return f + self.adapter(f)


class SequentialAdapterInNorm(Wrapper):
    """LN(s + A(LN(s))), s = x + f, in front of the LayerNorm that ends a post-norm block (Pfeiffer): it acts twice."""

    def __init__(self, base, adapter):
        super().__init__(base)
        self.adapter = adapter

    def forward(self, s):  # (B, T, d)
        h = self.base(s)
        return self.base(s + self.adapter(h))


class ParallelAdapterLayer(Wrapper):
    """F(x) + s·A(x) in front of the MLP. U starts at zero, D as any linear layer, within ±1/√d; biases at zero."""

    def __init__(self, base, adapter, scale):
        super().__init__(base)
        self.adapter, self.scale = adapter, scale
        nn.init.kaiming_uniform_(adapter.D.weight, a=math.sqrt(5))  # U(−1/√d, 1/√d)
        nn.init.zeros_(adapter.U.weight)

    def forward(self, x):  # (B, T, d)
        return self.base(x) + self.scale * self.adapter(x)


def sublayers(model, *names):
    """(path, block, module) for these sublayers of every Transformer block; cross-attention goes with attention."""
    if "attn" in names and any(name == "cross" for _, _, name in sites(model)):
        names = (*names, "cross")
    for path, block, name in match(model, names):
        if not hasattr(block, "pre_norm"):
            raise TypeError(
                f"adapters stand in Transformer blocks, with `pre_norm` and `norm2`, "
                f"but {path!r} is in a {type(block).__name__}"
            )
        yield path, block, getattr(block, name)


def layer_norms(model):
    """(path, parameter) for the weight of every LayerNorm and RMSNorm in the model, and the biases that they have."""
    norms = nn.LayerNorm, nn.RMSNorm
    return [(path, getattr(norm, name)) for path, norm, name in sites(model) if isinstance(norm, norms)]


@dataclass(frozen=True)
class Bottlenecks(Method):
    """What the three share."""

    size: int = 16

    SIZES = ("size",)


@dataclass(frozen=True)
class Houlsby(Bottlenecks):
    """Two adapters per layer, behind attention and behind the MLP; φ is GELU.

    Args:
        size: m, the width of the bottleneck.
        norms: train the LayerNorms too, all of the model, as in the paper: a copy, swapped in, learns; the base stays.
    """

    norms: bool = True

    def insert(self, model):
        for path, block, module in sublayers(model, "attn", "mlp"):
            swap(model, path, SequentialAdapter(module, Bottleneck(block.norm2.weight, self.size, nn.GELU())))
        for path, weight in layer_norms(model) if self.norms else []:
            swap(model, path, nn.Parameter(weight.detach().clone()))


@dataclass(frozen=True)
class Pfeiffer(Bottlenecks):
    """One adapter per layer, behind the MLP; it reads what the block would have put out; φ is ReLU.

    Args:
        size: m, the width of the bottleneck.
    """

    def insert(self, model):
        for path, block, _ in sublayers(model, "mlp"):
            end = path.removesuffix(".mlp") if block.pre_norm else path.removesuffix("mlp") + "norm2"
            layer = SequentialAdapter if block.pre_norm else SequentialAdapterInNorm
            adapter = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            swap(model, end, layer(getattr(*place(model, end)), adapter))


@dataclass(frozen=True)
class ParallelAdapter(Bottlenecks):
    """One adapter per layer, beside the MLP: it reads what the MLP reads.

    Args:
        size: m, the width of the bottleneck.
        scale: s, by which its answer is multiplied; the paper found 4 to be good.
    """

    scale: float = 4.0

    def insert(self, model):
        for path, block, module in sublayers(model, "mlp"):
            adapter = Bottleneck(block.norm2.weight, self.size, nn.ReLU())
            swap(model, path, ParallelAdapterLayer(module, adapter, self.scale))
