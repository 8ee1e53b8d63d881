"""Looking inside a view: undo part of what was learned, silence or straighten an adapter, compare an activation.

Each function leaves the view and its base as they are.
"""

import copy

import torch
from torch import nn

from minipeft import deltas
from minipeft.attach import detach
from minipeft.methods.adapter import Bottleneck
from minipeft.plots import adapter_activations


def put_back(model, name):
    """A copy of the view in which the modules of this name have the base's weights and biases again.

    name: the end of their paths, "attn.q" or "norm1". What was trained elsewhere stays trained. It works for methods
    that train copies of the base's own parameters: BitFit, Full, Houlsby's norms.
    """
    undone = copy.deepcopy(model)
    with torch.no_grad():
        for path, (old, _) in deltas.updates(model).items():
            owner = path.rpartition(".")[0]
            if f".{owner}".endswith(f".{name}"):
                undone.get_parameter(path).copy_(old)
    return undone


def bottlenecks(model):
    """The adapters of a view by their places, {"blocks.0.attn": Bottleneck}, from the first to the last."""
    return {path.rpartition(".")[0]: m for path, m in model.named_modules() if isinstance(m, Bottleneck)}


def silenced(model, *paths):
    """A copy of the view in which the adapters at these paths, or below them, answer zero."""
    quiet = copy.deepcopy(model)
    for place, adapter in bottlenecks(quiet).items():
        if any(f"{place}.".startswith(f"{path}.") for path in paths):
            nn.init.zeros_(adapter.U.weight)
            nn.init.zeros_(adapter.U.bias)
    return quiet


@torch.no_grad()
def with_fewer_directions(model, batch, keep):
    """A copy of the view in which the vectors inside each adapter vary in `keep` directions only.

    These are the directions of the greatest variance on this batch; along the others the mean stands for every vector.
    """
    narrow = copy.deepcopy(model)
    for place, adapter in bottlenecks(model).items():
        _, z, _ = adapter_activations(model, batch)[place]
        mean = z.mean(0)
        V = torch.linalg.svd(z - mean, full_matrices=False).Vh[:keep]  # (keep, m)
        rest, U = mean - V.T @ (V @ mean), adapter.U.weight  # z → V'V z + rest
        other = bottlenecks(narrow)[place].U
        other.weight.copy_(U @ V.T @ V)
        other.bias.add_(U @ rest)
    return narrow


class Affine(nn.Module):
    """h → W h + b, in the place of an adapter."""

    def __init__(self, W, b):
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)

    def forward(self, h):
        return h @ self.W.T + self.b


def with_affine_adapters(model, batch):
    """A copy of the view in which a matrix and a bias stand for each adapter, as near to it as any on this batch.

    They are found by least squares, from the first adapter to the last, on the activations that really occur.
    """
    straight = copy.deepcopy(model)
    for place, adapter in bottlenecks(model).items():
        h, _, answer = (t.double() for t in adapter_activations(straight, batch)[place])
        found = torch.linalg.lstsq(torch.cat([h, torch.ones_like(h[:, :1])], dim=1), answer).solution
        straight.get_submodule(place).adapter = Affine(*(t.to(adapter.U.weight) for t in (found[:-1].T, found[-1])))
    return straight


@torch.no_grad()
def output_change(model, path, tokens):
    """What the module at `path` puts out in the view minus what it puts out in the base, (T, n), for one row (1, T)."""
    outputs = []
    for one in (model, detach(model)):
        hook = one.get_submodule(path).register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
        try:
            one(tokens)
        finally:
            hook.remove()
    return outputs[0] - outputs[1]
