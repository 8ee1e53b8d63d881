"""Looking inside a trained view: undo part of what was learned, silence an adapter, compare an activation.

Each function leaves the view and its base as they are.
"""

import copy

import torch
from torch import nn

from minipeft import deltas
from minipeft.attach import detach
from minipeft.methods.adapter import Bottleneck


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


def silenced(model, *paths):
    """A copy of the view in which the adapters at these paths, or below them, answer zero."""
    quiet = copy.deepcopy(model)
    for path, adapter in quiet.named_modules():
        if isinstance(adapter, Bottleneck) and any(f"{path}.".startswith(f"{place}.") for place in paths):
            nn.init.zeros_(adapter.U.weight)
            nn.init.zeros_(adapter.U.bias)
    return quiet


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
