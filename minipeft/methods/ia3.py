"""IA³: keys, values and the middle of the MLP are rescaled, element by element, by three learned vectors per layer.

The name is short for Infused Adapter by Inhibiting and Amplifying Inner Activations. Nothing is added to what flows
through the model; some of it is turned up and some of it down:

    K = l_k ⊙ (W_k x + b_k)        V = l_v ⊙ (W_v x + b_v)        l_k, l_v (d), the same for every token
    MLP(x) = W_down (l_ff ⊙ φ(W_up x + b_up)) + b_down            l_ff (f), f the width in the middle

All start at one: the model starts as the base, exactly. Trainable parameters: 2d + f for each layer. Merging scales
the rows of W_k and W_v, with their biases, and the columns of W_down: then inference costs exactly the base; unmerged
it costs one product of vectors for each l.

Sources: 1) Liu, Tam et al. 2022, arXiv:2205.05638. 2) the authors' code, github.com/r-three/t-few.
Paper and library: the paper tunes T5, which has no biases. Its equations scale the keys and values themselves, whatever
they are made of, so here b_k and b_v are scaled with them, as in the authors' code and in peft. The authors put l_ff
behind `wi_1`: in the gated MLP of their T5, W_o (φ(W_0 x) ⊙ W_1 x), that is the input of W_o. Where φ stands between
the two matrices, as here, behind `up` would be another method; before `down` is the equation. To unmerge, peft divides
by l + 1e-8 and so loses what an l of zero has taken away; here the view that was merged is still there. On GPT-2, where
q, k and v are one matrix, peft's default rescales the queries too.
"""

from dataclasses import dataclass

from torch import nn

from minipeft.attach import Method, WeightWrapper
from minipeft.targets import match, wrap


class IA3Output(WeightWrapper):
    """y = l ⊙ (W x + b) in front of a frozen `nn.Linear`: for keys and values."""

    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))  # (out)

    def forward(self, x):  # (..., in)
        return self.l * self.base(x)  # (..., out)

    def delta(self):
        return (self.l - 1)[:, None] * self.base.weight  # (out, in): rows

    def deltas(self):
        """{"weight": ΔW, "bias": Δb}: the bias changes too, where there is one."""
        bias = self.base.bias
        return super().deltas() | ({} if bias is None else {"bias": (self.l - 1) * bias})


class IA3Input(WeightWrapper):
    """y = W (l ⊙ x) + b in front of a frozen `nn.Linear`: for `down`, whose input is φ(up x)."""

    def __init__(self, base):
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))  # (in)

    def forward(self, x):  # (..., in)
        return self.base(self.l * x)  # (..., out)

    def delta(self):
        return self.base.weight * (self.l - 1)  # (out, in): columns


@dataclass(frozen=True)
class IA3(Method):
    """Learned vectors that rescale keys, values and the middle of the MLP.

    Args:
        outputs: names of Linear modules whose output is rescaled; see `targets.match`.
        inputs: names of Linear modules whose input is rescaled.
        layers: indices of the Transformer layers to adapt, (0, 2); None for all.
    """

    outputs: tuple[str, ...] = ("k", "v")
    inputs: tuple[str, ...] = ("down",)
    layers: tuple[int, ...] | None = None

    def insert(self, model):
        out, into = (
            {path for path, *_ in match(model, names, self.layers)} if names else set()
            for names in (self.outputs, self.inputs)
        )
        if both := ", ".join(sorted(out & into)):
            raise ValueError(f"{both}: named both in outputs and in inputs; a module is rescaled on one side, choose")
        names = *self.outputs, *self.inputs
        wrap(model, names, lambda m, path: IA3Input(m) if path in into else IA3Output(m), layers=self.layers)

    def groups(self, model, lr):
        """The vectors do not decay: that would draw them to zero, where the layer falls silent; the base is at one."""
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
