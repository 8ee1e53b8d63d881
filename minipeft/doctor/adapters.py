"""Low-rank pairs B, A wherever they come from, told by their names and shapes alone; no library is imported for it.

ours      blocks.0.attn.q.A, .B                                    layer.scale
peft      ….q_proj.lora_A.default.weight, lora_B, lora_embedding_A  layer.scaling["default"], lora_alpha, r
loralib   ….q.lora_A, lora_B                                        layer.scaling, lora_alpha
others    lora_down.weight, lora_up.weight; lora_a, lora_b          scaling, scale or nothing
"""

import re
from dataclasses import dataclass

from torch import Tensor, nn

from minipeft.attach import attachments

PAIRS = {
    "A": "B", "lora_A": "lora_B", "lora_a": "lora_b", "lora_down": "lora_up", "lora_embedding_A": "lora_embedding_B",
}  # fmt: skip
PARTS = {*PAIRS, *PAIRS.values()}


@dataclass
class Pair:
    """The two factors of one update, ΔW = s·BA, with A (r, in) and B (out, r), or both transposed.

    path: the dotted name of the layer. name: that of the adapter, if a layer can hold several ("default" in peft).
    names: those of A and B. group: what was attached at the same time has the same one. layer: None in a file.
    """

    path: str
    name: str
    names: tuple[str, str]
    A: Tensor
    B: Tensor
    layer: nn.Module | None = None
    group: object = ""

    @property
    def rank(self):
        """r, as the layer tells it, or as the shapes do. For the experts of a layer, peft stacks their factors."""
        told = None if self.layer is None else number_of(self.layer, self.name, "r")
        if told:
            return int(told)
        return min(self.A.shape[0], self.B.shape[1]) if fits(self.A, self.B) else self.A.shape[1]

    @property
    def sides(self):
        """(in, out) of the weight."""
        if fits(self.A, self.B):
            return self.A[0].numel(), self.B.shape[0]
        return self.A.shape[0], self.B.shape[1]

    @property
    def scale(self):
        """s, or None if the layer does not tell it. peft's AdaLoRA divides its `scaling` by the rank later on."""
        if self.layer is None or "lora_E" in self.layer._modules:
            return None
        return number_of(self.layer, self.name, "scaling", "scale")

    @property
    def alpha(self):
        """α, as the layer tells it, or s·r."""
        told = None if self.layer is None else number_of(self.layer, self.name, "lora_alpha", "alpha")
        return self.scale * self.rank if told is None and self.scale is not None else told

    @property
    def zero(self):
        """Is BA = 0?"""
        return not (self.A.any() and self.B.any())

    @property
    def dead(self):
        """Are A and B both zero? Then both gradients are, too, for ever."""
        return not (self.A.any() or self.B.any())

    @property
    def active(self):
        """Does it take part? A layer of peft holds several adapters, and some rest."""
        names = getattr(self.layer, "active_adapters", None)
        return self.name in names if isinstance(names, list | tuple) else True

    @property
    def learns(self):
        return self.A.requires_grad or self.B.requires_grad


def number_of(layer, name, *attributes):
    """The first of these attributes of a layer, or its entry for the adapter `name`, as a float; None if none is."""
    for attribute in attributes:
        value = vars(layer).get(attribute)
        value = value.get(name) if isinstance(value, dict) else value
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def fits(A, B):
    """Is it A (r, in) and B (out, r)? loralib stacks the A of several targets in one."""
    return A.shape[0] % B.shape[1] == 0


def pairs(tensors, model=None):
    """All pairs among tensors, {dotted name: tensor}, in their order. model: where to find the layers."""
    together = {
        id(layer): i for i, entry in enumerate(attachments(model) if model else ()) for layer in entry.layers.values()
    }
    modules, found = dict(model.named_modules()) if model else {}, []
    for name, A in tensors.items():
        parts = name.split(".")
        for i, part in enumerate(parts):
            partner = ".".join([*parts[:i], PAIRS.get(part, ""), *parts[i + 1 :]])
            B = tensors.get(partner)
            if part not in PAIRS or B is None or not product(A, B):
                continue
            path, adapter = ".".join(parts[:i]), "".join(p for p in parts[i + 1 :] if p != "weight")
            layer = modules.get(path)
            group = together.get(id(layer), adapter)
            found.append(Pair(path, adapter, (name, partner), A, B, layer, group))
    return found


def product(A, B):
    """Could B A be the product of an update? Numbers that are only promised (meta) cannot be examined."""
    if A.is_meta or B.is_meta or A.ndim < 2 or B.ndim < 2 or not A.numel() or not B.numel():
        return False
    return fits(A, B) or A.shape[1] == B.shape[0]


def fits_name(name, path):
    """Is this name the end of a dotted one?"""
    return path == name or path.endswith("." + name)


def fits_pattern(pattern, path, whole=False):
    """Does peft find this path by the pattern, a regular expression for the end of a name, or for the whole?"""
    try:
        return re.fullmatch(pattern if whole else rf"(.*\.)?({pattern})", path) is not None
    except re.error:
        return False
