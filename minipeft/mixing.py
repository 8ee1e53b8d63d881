"""Several tasks in one batch: named deltas on one base, and every row under its own.

    several = MultiTask(base(), {"blue": "blue.safetensors", "violet": "violet.safetensors"})
    several(tokens, ["violet", None, "blue"])        # None is the bare base

The answer to a row is what its delta gives alone, whatever the method. Rows under the same delta go through the model
together. Rows under different ones share a pass where the mathematics allows it:
  LoRA              x Wᵀ is one product for all rows, and beside it stand batched small ones with A[i], B[i] of each row
  prompt tuning     prompts of one length are a batch of vectors P[i] in front of the tokens
Rows under other methods go through in a pass for each delta, and all are put back in order.

Sources: 1) prompts: Lester et al. 2021, arXiv:2104.08691. 2) LoRA: Punica, Chen et al. 2023, arXiv:2310.18547.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from minipeft import deltas
from minipeft.attach import Attachment, Method, Swap, Wrapper, attachments, check, undo
from minipeft.methods.lora import LoRALinear
from minipeft.methods.prompt_tuning import Prompt


class LoRARows(Wrapper):
    """y = x Wᵀ + b + x A[i]ᵀ B[i]ᵀ in front of a frozen `nn.Linear`, i the delta of each row.

    Ranks are padded with zeros and the scales are in B; a delta that leaves this layer alone (None) is zeros.
    """

    def __init__(self, base, layers, index):
        super().__init__(base)
        rank = max(len(layer.A) for layer in layers if layer)
        out, into = base.weight.shape
        none = base.weight.new_zeros(rank, into), base.weight.new_zeros(out, rank)
        pairs = [padded(layer, rank) if layer else none for layer in layers]
        self.A, self.B = (
            torch.stack(factors)[index] for factors in zip(*pairs, strict=True)
        )  # (B, r, in), (B, out, r)

    def forward(self, x):  # (B, T, in)
        h = x @ self.A.transpose(1, 2)  # (B, T, r)
        return self.base(x) + h @ self.B.transpose(1, 2)  # (B, T, out)


def padded(layer, rank):
    missing = rank - len(layer.A)
    return F.pad(layer.A, (0, 0, 0, missing)), F.pad(layer.scale * layer.B, (0, missing))


class PromptRows(Prompt):
    """[P[i] ; E(x)] in front of a frozen `embed`, i the delta of each row."""

    def __init__(self, base, layers, index):
        Wrapper.__init__(self, base)
        self.P = torch.stack([layer.P for layer in layers])[index]  # (B, n, d)


class MultiTask:
    """Named deltas on one frozen model.

    Args:
        model: a bare base, in eval mode.
        paths: {name: path of a saved delta}; more come with `add` and `keep`.
    """

    def __init__(self, model, paths=None):
        self.model, self.deltas = model, {}
        for name, path in (paths or {}).items():
            self.add(name, path)

    def add(self, name, path):
        """Load a saved delta under a name. Raises ValueError if the name is taken, DeltaError as `deltas.load` does."""
        self.free(name)
        deltas.load(path, self.model)
        self.keep(name)

    def keep(self, name):
        """Take off what is attached to the model and keep it under a name. RuntimeError if that is not one method."""
        self.free(name)
        check(self.model, "keeping it under a name")
        if len(attachments(self.model)) != 1:
            raise RuntimeError(f"keep takes one attached method, there are {len(attachments(self.model))}")
        entry = attachments(self.model)[0]
        undo(self.model)
        self.deltas[name] = entry

    def free(self, name):
        if not isinstance(name, str) or name in self.deltas:
            raise ValueError(f"a delta needs a name, a text that is not taken: {name!r}; taken are {list(self.deltas)}")

    def __call__(self, tokens, names, mask=None):
        """Logits (B, T, V) of tokens (B, T), each row under the delta of its name.

        Raises ValueError for an unknown name, another number of names than rows, or outputs that do not fit together;
        RuntimeError if something is attached to the model itself, or it is in training mode.
        """
        return self.run(len(tokens), names, lambda rows: self.model(tokens[rows], None if mask is None else mask[rows]))

    def generate(self, tokens, names, new, mask=None, stop=None, **settings):
        """As `Transformer.generate`, each row under the delta of its name."""

        def some(rows):
            made = self.model.generate(tokens[rows], new, None if mask is None else mask[rows], stop=stop, **settings)
            return made if stop is None else F.pad(made, (0, new - made.shape[1]), value=stop)

        made = self.run(len(tokens), names, some)
        if stop is None:
            return made
        longest = int((made != stop).sum(1).max()) + 1  # all that follows the first stop is stop
        return made[:, :longest]

    def run(self, size, names, compute):
        if len(names) != size:
            raise ValueError(f"a name for each row is needed: there are {len(names)} names for {size} rows")
        if unknown := sorted({str(n) for n in names if n is not None and n not in self.deltas}):
            raise ValueError(f"there is no delta {', '.join(unknown)}; there are {', '.join(self.deltas)}, and None")
        if attachments(self.model):
            state = "merged into" if attachments(self.model)[0].merged else "attached to"
            raise RuntimeError(
                f"{attachments(self.model)[0].method} is {state} the model itself: keep(name) it, or detach(model)"
            )
        if self.model.training:
            raise RuntimeError("mixed batches are for inference, the model is in training mode: call model.eval()")
        groups = {}
        for row, name in enumerate(names):
            groups.setdefault(self.sharing(name), []).append(row)
        pieces = []
        for rows in groups.values():
            with standing(self.model, self.together([names[row] for row in rows])):
                pieces.append(compute(torch.tensor(rows)))
        if len({piece.shape[1:] for piece in pieces}) > 1:
            shapes = {names[rows[0]]: tuple(p.shape[1:]) for rows, p in zip(groups.values(), pieces, strict=True)}
            raise ValueError(f"rows give outputs of different shape, {shapes}: run these tasks in batches of their own")
        order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
        return torch.cat(pieces)[order.to(pieces[0].device)]

    def sharing(self, name):
        """Rows for which this is equal share a pass."""
        swaps = self.deltas[name].swaps if name is not None else []
        if all(type(s.replacement) is LoRALinear and s.replacement.base is s.original for s in swaps):
            return "LoRA"  # and the bare base; QLoRA's base is another one
        if all(type(s.replacement) is Prompt for s in swaps):
            return "prompts", len(swaps[0].replacement.P)
        return "alone", name

    def together(self, names):
        """The swaps under which rows with these names go through in one pass."""
        different = list(dict.fromkeys(names))
        if len(different) == 1:
            return [] if names[0] is None else self.deltas[names[0]].swaps
        index = torch.tensor([different.index(name) for name in names])
        layers = [{s.path: s for s in self.deltas[name].swaps} if name is not None else {} for name in different]
        swaps = []
        for path, s in {path: s for named in layers for path, s in named.items()}.items():
            own = [named[path].replacement if path in named else None for named in layers]
            rows = LoRARows if isinstance(s.replacement, LoRALinear) else PromptRows
            swaps.append(Swap(path, s.parent, s.name, s.original, rows(s.original, own, index)))
        return swaps


@contextmanager
def standing(model, swaps):
    """Inside, these replacements stand on the model."""
    model.attachments = [Attachment(Method(), [], [], swaps)]
    try:
        for s in swaps:
            s.put(s.replacement)
        yield
    finally:
        for s in reversed(swaps):
            s.put(s.original)
        del model.attachments
