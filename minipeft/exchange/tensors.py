"""The tensors of a layer, as they are here and as peft stores them.

Each has another name there, some another shape. GPT-2's q, k and v, three layers here, are thirds of one matrix there;
so three updates become one and are taken apart again:

    B A = [B_q 0; 0 0; 0 B_v] [A_q; A_v]        the rank of the fused matrix is the sum of the ranks of its parts

Shapes: A (r, in), B (out, r), m and the l of an output (out,), the l of an input (in,).
"""

import torch
from torch import nn

from minipeft.exchange.names import is_conv1d
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, VeRA
from minipeft.methods.dora import lengths
from minipeft.models.llama import rotate

PEFT = {  # {method: {our name of a tensor: peft's}}
    LoRA: {"A": "lora_A.weight", "B": "lora_B.weight"},
    DoRA: {"A": "lora_A.weight", "B": "lora_B.weight", "m": "lora_magnitude_vector"},
    AdaLoRA: {"Q": "lora_A", "lam": "lora_E", "P": "lora_B"},
    VeRA: {"d": "vera_lambda_d", "b": "vera_lambda_b"},
    IA3: {"l": "ia3_l"},
}
EMBEDDING = {"A": "lora_embedding_A", "B": "lora_embedding_B"}
ROWS = ("A", "Q", "lam")  # of these a fused matrix has those of its parts one below the other
BLOCKS = ("B", "P")  # of these, blocks on the diagonal; of m and l, one behind the other as well


def names_of(kind, module):
    """{our name: peft's} of the tensors of a layer of this method in front of a module."""
    return EMBEDDING if kind is LoRA and isinstance(module, nn.Embedding) else PEFT[kind]


def absent(name, module):
    """What a part without a layer adds to the tensor of a fused matrix: nothing, or what changes nothing."""
    W = module.weight
    empty = {"A": (0, W.shape[1]), "Q": (0, W.shape[1]), "lam": (0,), "B": (len(W), 0), "P": (len(W), 0)}
    if name in empty:
        return W.new_empty(empty[name])
    return lengths(W.detach()) if name == "m" else W.new_ones(len(W))  # l


def joined(name, tensors, modules):
    """The tensor of a fused matrix from those of its parts; None for a part that has none."""
    if len(tensors) == 1:
        return tensors[0]
    pairs = zip(tensors, modules, strict=True)
    filled = [absent(name, module).cpu() if tensor is None else tensor for tensor, module in pairs]
    return torch.block_diag(*filled) if name in BLOCKS else torch.cat(filled)


def parted(tensors, modules):
    """[{name: tensor}] of the parts, from the tensors of a fused matrix.

    None for a part that nothing changes, but not for all of them.
    """
    if len(modules) == 1:
        return [tensors]
    sizes = [len(module.weight) for module in modules]
    split = {name: [t] * len(sizes) if name in ROWS else list(t.split(sizes)) for name, t in tensors.items()}
    whole = [{name: pieces[i] for name, pieces in split.items()} for i in range(len(sizes))]
    parts = [without_idle(part, module) for part, module in zip(whole, modules, strict=True)]
    return parts if any(parts) else whole


def without_idle(part, module):
    """The tensors of a part without the directions it does not use; None if then it does nothing."""
    still = all(torch.equal(part[name], absent(name, module).to(part[name])) for name in ("m", "l") if name in part)
    if block := next((name for name in BLOCKS if name in part), None):
        used = part[block].any(0)  # (r,)
        part = {name: t[used] if name in ROWS else t[:, used] if name == block else t for name, t in part.items()}
        still = still and not used.any()
    return None if still else part


def padded(part, rank):
    """The same update with this rank: what is added is zero."""
    missing = rank - next(len(t) for name, t in part.items() if name in ROWS)
    grown = {}
    for name, t in part.items():
        width = (0, 0) * (t.ndim - 1) + (0, missing) if name in ROWS else (0, missing)
        grown[name] = nn.functional.pad(t, width) if name in ROWS + BLOCKS else t
    return grown


def to_peft_shape(name, tensor, module, into=False):
    """A tensor of a layer in the shape that peft stores. into: it is the l of an input."""
    if name == "lam":
        return tensor[:, None]
    if name == "l":
        return tensor[None] if into else tensor[:, None]
    return tensor[:, :, None, None] if name == "B" and isinstance(module, nn.Conv2d) else tensor


def from_peft_shape(name, tensor, module):
    if name in ("lam", "l"):
        return tensor.flatten()
    return tensor.flatten(1) if name == "B" and isinstance(module, nn.Conv2d) else tensor


def turned(part, module):
    """The factors of a LoRA on the weight of a Conv1D, which is turned, (in, out): Wᵀ + s·BA = (W + s·AᵀBᵀ)ᵀ."""
    return {"A": part["B"].T, "B": part["A"].T} if is_conv1d(module) else part


def prefix_to_peft(layers, rope_base=None):
    """peft's matrix (n, 2LGc) of the keys and values in a cache: those of layer 0, those of layer 1, ...; and G.

    rope_base: of a Llama. Its cache holds keys that are not rotated yet; that of transformers holds rotated ones.
    """
    found = []
    for layer in layers:
        positions = torch.arange(layer.k.shape[-2], device=layer.k.device)  # (n,)
        k = layer.k if rope_base is None else rotate(layer.k, positions, rope_base)
        found += [x.transpose(0, 1).flatten(1) for x in (k, layer.v)]  # (G, n, c) → (n, Gc)
    return torch.cat(found, dim=1), len(layers[0].k)


def prefix_from_peft(matrix, layers, heads, rope_base=None):
    """{"P_K": (L, n, Gc), "P_V": (L, n, Gc)} of peft's matrix (n, 2LGc)."""
    parts = torch.stack(matrix.chunk(2 * layers, dim=1))  # (2L, n, Gc)
    keys, values = parts[0::2], parts[1::2]
    if rope_base is not None:
        k = keys.unflatten(-1, (heads, -1)).transpose(1, 2)  # (L, G, n, c)
        k = rotate(k, -torch.arange(len(matrix)), rope_base)
        keys = k.transpose(1, 2).flatten(2)
    return {"P_K": keys.contiguous(), "P_V": values.contiguous()}
