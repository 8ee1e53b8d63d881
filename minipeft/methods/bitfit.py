"""BitFit: only the biases are trained. What the model knows stays in its weights; what it does with it is shifted.

    y = W x + b            b (out) is trained, W (out, in) is not
    y = γ ⊙ x̂ + β          LayerNorm: β (d) is trained, γ (d) is not

Trainable parameters: all biases; in a Transformer of width d, with f in the middle of the MLP, 7d + f for each layer,
and those outside. One of them is idle: b_k adds q·b_k to all scores of a query, which the softmax does not see.
Nothing is added to the model, so there is nothing to merge and inference costs exactly the base.

Sources: 1) Ben Zaken, Ravfogel, Goldberg 2021, arXiv:2106.10199.
Paper and library: the paper also trains the task's head, which there is a new one with random weights. The head of the
toy base is pretrained and writes the letters of every task, so here its weight is frozen unless `head` asks for it.
peft has no BitFit, but trains biases beside a LoRA (`bias="all"`): those of that very name, so not the ones of an LSTM
or of `nn.MultiheadAttention`, which are trained here; and its `disable_adapter` leaves the trained biases in place,
where `detach` gives the old ones back.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from minipeft.attach import Method, swap
from minipeft.targets import match, sites


def is_bias(module, name):
    """By what the module is and not by a part of a name: T5's table `relative_attention_bias.weight` is no bias.

    Two kinds have names of their own. An LSTM, a GRU or a cell of one: `bias_ih_l0`, `bias_hh_l0`, ... (their sum
    counts). A `nn.MultiheadAttention`: `in_proj_bias` of q, k and v; its `bias_k` and `bias_v` are none, but one more
    key and value.
    """
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return name.startswith("bias_")
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_bias"
    return name == "bias"


def inside(path, places):
    """Is this path one of the places, or does it lie below one? "" is the whole model."""
    return any(not place or path == place or path.startswith(place + ".") for place in places)


def chosen(weights, places, head):
    """The paths of what is trained: the biases inside of `places`, and all weights inside of `head`.

    weights: (path, module, name) of each parameter of a model, ("blocks.0.attn.q.bias", that Linear, "bias").
    """
    biases = {path for path, module, name in weights if is_bias(module, name) and inside(path, places)}
    return biases | {path for path, *_ in weights if inside(path, head)}


def copies(weights, paths):
    """{path: new parameter} that begin as what stands there.

    One parameter that stands in two places is one in the copy too.
    """
    new = {}
    there = {path: getattr(module, name) for path, module, name in weights if path in paths}
    for p in there.values():
        if p not in new:
            new[p] = nn.Parameter(p.detach().clone())
    return {path: new[p] for path, p in there.items()}


@dataclass(frozen=True)
class BitFit(Method):
    """Train the biases.

    Args:
        targets: names of modules whose biases are trained, or a predicate (see `targets.match`); None for the whole
            model. ("attn.q", "mlp.up") is the paper's half: query and middle of the MLP.
        head: train the module `head` too, weight and bias; for a head that is new.
    """

    targets: tuple[str, ...] | str | Callable | None = None
    head: bool = False

    def insert(self, model):
        below = [""] if self.targets is None else [path for path, *_ in match(model, self.targets)]
        head = [path for path, *_ in match(model, (".head",))] if self.head else []
        weights = [place for place in sites(model) if isinstance(getattr(*place[1:]), nn.Parameter)]
        paths = chosen(weights, below, head)
        idle = [place for place in below if not any(inside(path, [place]) for path in paths)]
        if idle or not chosen(weights, below, []):
            where = ", ".join(repr(place) for place in idle if place) or "the model"
            raise ValueError(
                f"BitFit found no bias in {where} (Llama and T5, for example, are built without them); "
                "name modules that have one, or take a method that needs none, such as LoRA"
            )
        for path, new in copies(weights, paths).items():
            swap(model, path, new)

    def groups(self, model, lr):
        """As in every method, but without decay, which would draw a bias to zero and not to what it was in the base."""
        return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]
