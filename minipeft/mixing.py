"""Several tasks in one batch: named views of one base, and every row under its own.

    several = MultiTask({"blue": load("blue.safetensors", model), "violet": load("violet.safetensors", model)})
    several(tokens, ["violet", None, "blue"])        # None is the bare base

The answer to a row is what its view gives alone, whatever the method and the model. On a Transformer, rows under
different views share a pass in this code where the mathematics allows it:
  LoRA, IA³                 y_i = l_i ⊙ (W (e_i ⊙ x_i) + b) + B_i A_i x_i: one product with W for all rows
  prompts and prefixes      every row begins with a cache of its own; shorter ones are padded on the left
All other rows, and other models, go through in a pass for each view.

Sources: 1) prompts: Lester et al. 2021, arXiv:2104.08691. 2) LoRA: Punica, Chen et al. 2023, arXiv:2310.18547.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minipeft.attach import Wrapper, attachments, detach, place, view
from minipeft.methods.ia3 import IA3Input, IA3Output
from minipeft.methods.lora import LoRALinear
from minipeft.models.transformer import Transformer

JOINED = LoRALinear, IA3Input, IA3Output


class Batch:
    """Which rows are under which view: the names that occur, and for each row the index (B,) of its own."""

    names, index = (), None


class RowsLinear(Wrapper):
    """y_i = l_i ⊙ (W (e_i ⊙ x_i) + b) + B_i A_i x_i in front of a frozen `nn.Linear`, for each row i of the batch.

    layers: {name: the layer that the view of this name has here}. A view without one has l = e = 1 and A = B = 0.
    """

    def __init__(self, base, layers, batch):
        super().__init__(base)
        self.layers, self.batch = layers, batch  # a plain dictionary: the layers are parts of the views

    def forward(self, x):  # (B, T, in)
        e, l, pairs = self.vectors(IA3Input, x.shape[-1]), self.vectors(IA3Output, len(self.base.weight)), self.pairs()
        y = self.base(x if e is None else e * x)  # (B, T, out)
        y = y if l is None else l * y
        if pairs:
            A, B = (torch.stack(factors)[self.batch.index] for factors in zip(*pairs, strict=True))
            y = y + (x @ A.transpose(1, 2)) @ B.transpose(1, 2)  # A (B, r, in), B (B, out, r)
        return y

    def here(self, kind):
        """The layer of this kind, or None, for each name in the batch."""
        return [layer if isinstance(layer := self.layers.get(name), kind) else None for name in self.batch.names]

    def vectors(self, kind, size):
        """l or e of each row, (B, 1, size); None if no row has one."""
        if not any(layers := self.here(kind)):
            return None
        ones = self.base.weight.new_ones(size)
        return torch.stack([layer.l if layer else ones for layer in layers])[self.batch.index][:, None]

    def pairs(self):
        """A (r, in) and s·B (out, r) for each name in the batch, r the highest rank among them; () if none has any."""
        if not any(layers := self.here(LoRALinear)):
            return ()
        rank, W = max(len(layer.A) for layer in layers if layer), self.base.weight
        none = W.new_zeros(rank, W.shape[1]), W.new_zeros(len(W), rank)
        return [padded(layer, rank - len(layer.A)) if layer else none for layer in layers]


def padded(layer, missing):
    return F.pad(layer.A, (0, 0, 0, missing)), F.pad(layer.scale * layer.B, (0, missing))


class RowsBegin(Wrapper):
    """In front of `begin`: each row begins with what its view begins with, padded on the left to the longest."""

    def __init__(self, base, views, batch):
        super().__init__(base)
        self.views, self.batch = views, batch

    def forward(self, blocks):
        cache, theirs = self.base(blocks), [self.views[name].new_cache() for name in self.batch.names]
        split, none = blocks[0].attn.split, blocks[0].attn.o.weight.detach()[:0]  # no vectors, (0, d)
        for layer, *parts in zip(cache.layers, *(one.layers for one in theirs), strict=True):
            held = [(split(none),) * 2 if part.k is None else (part.k, part.v) for part in parts]
            (layer.k, keys), (layer.v, _) = (self.rows(x) for x in zip(*held, strict=True))
        front, vectors = self.rows([torch.cat([none, *one.front]) for one in theirs])
        real = torch.cat([keys, vectors], dim=1)  # (B, S+n)
        cache.front, cache.mask = [front], None if real.all() else real
        return cache

    def rows(self, parts):
        """One tensor (..., n, d) for each name as one for each row, (B, ..., n, d), with zeros in front where n is less
        than the most; and a mask (B, n) that is False there."""
        most = max(t.shape[-2] for t in parts)
        real = torch.stack([torch.arange(most, device=t.device) >= most - t.shape[-2] for t in parts])
        filled = torch.stack([F.pad(t, (0, 0, most - t.shape[-2], 0)) for t in parts])
        return filled[self.batch.index], real[self.batch.index]


class MultiTask:
    """Named views of one base, for batches whose rows name theirs. What is trained in a view is seen here.

    Args:
        views: {name: adapted view}, all of one base; more come with `add`.

    Raises ValueError if there is no view, or as `add` does.
    """

    def __init__(self, views):
        if not views:
            raise ValueError('there are no views: give at least one, as in MultiTask({"blue": load(path, model)})')
        self.views, self.batch, self.shared = {}, Batch(), None
        for name, one in views.items():
            self.add(name, one)

    def add(self, name, one):
        """Take in a view. Raises ValueError if the name is no text or taken, or the view is none or of another base."""
        if not isinstance(name, str) or name in self.views:
            raise ValueError(f"a view needs a name, a text that is not taken: {name!r}; taken are {list(self.views)}")
        if not isinstance(one, nn.Module) or not attachments(one):
            raise ValueError(f"{name!r} is a {type(one).__name__} and no view: give what `attach` or `load` returned")
        if self.views and detach(one) is not self.base:
            raise ValueError(f"{name!r} is a view of another model than the others: attach all of them to the same one")
        self.base, self.views[name], self.shared = detach(one), one, None

    def remove(self, name):
        """Take a view out, and return it."""
        self.known([name])
        self.shared = None
        return self.views.pop(name)

    def __call__(self, tokens, names, *rest, **more):
        """What the model gives, each row under the view of its name; None is the bare base.

        What else the model takes (a mask) follows, and is cut into rows if it has as many as the tokens.

        Raises ValueError for an unknown name, another number of names than rows, or outputs that do not fit together;
        RuntimeError in training mode.
        """

        def some(model, cut):
            return model(*map(cut, (tokens, *rest)), **{key: cut(value) for key, value in more.items()})

        return self.run(tokens, names, some)

    def generate(self, tokens, names, new, mask=None, stop=None, **settings):
        """As `Transformer.generate`, each row under the view of its name."""

        def some(model, cut):
            made = model.generate(cut(tokens), new, cut(mask), stop=stop, **settings)
            return made if stop is None else F.pad(made, (0, new - made.shape[1]), value=stop)

        made = self.run(tokens, names, some)
        if stop is None:
            return made
        return made[:, : int((made != stop).sum(1).max()) + 1]  # all that follows the first stop is stop

    def run(self, tokens, names, compute):
        if len(names) != len(tokens):
            raise ValueError(f"a name for each row is needed: there are {len(names)} names for {len(tokens)} rows")
        self.known([name for name in names if name is not None])
        groups = {}
        for row, name in enumerate(names):
            groups.setdefault(None if self.shares(name) else name, []).append(row)
        pieces = []
        for rows in groups.values():
            model, index = self.model([names[row] for row in rows]), torch.tensor(rows)
            if model.training:
                raise RuntimeError("mixed batches are for inference, and a view is in training mode: call view.eval()")
            pieces.append(compute(model, lambda t, index=index: cut(t, index, len(tokens))))
        if len({piece.shape[1:] for piece in pieces}) > 1:
            shapes = {names[rows[0]]: tuple(p.shape[1:]) for rows, p in zip(groups.values(), pieces, strict=True)}
            raise ValueError(f"rows give outputs of different shape, {shapes}: run these tasks in batches of their own")
        order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
        return torch.cat(pieces)[order.to(pieces[0].device)]

    def known(self, names):
        if unknown := sorted({str(name) for name in names if name not in self.views}):
            raise ValueError(f"there is no view {', '.join(unknown)}; there are {', '.join(self.views)}, and None")

    def shares(self, name):
        """Do rows under this name share a pass with others? Only if all of its layers are of the kinds that do."""
        if name is None or not isinstance(self.base, Transformer):
            return name is None
        layers = [item for entry in attachments(self.views[name]) for item in entry.layers.items()]
        return all(
            path == "begin" or (type(layer) in JOINED and type(layer.base) is nn.Linear) for path, layer in layers
        )

    def model(self, names):
        """The model for rows with these names, which share a pass."""
        different = list(dict.fromkeys(names))
        if len(different) == 1:
            return self.base if different[0] is None else self.views[different[0]]
        device = next(self.base.parameters()).device
        self.batch.names, self.batch.index = different, torch.tensor([different.index(n) for n in names], device=device)
        if self.shared is None:
            self.shared = self.joined()
        return self.shared

    def joined(self):
        """A view of the base whose layers do for each row what its own view does."""
        shared, found = view(self.base), {}
        for name in filter(self.shares, self.views):
            for path, layer in [item for entry in attachments(self.views[name]) for item in entry.layers.items()]:
                found.setdefault(path, {})[name] = layer
        for path, layers in found.items():
            parent, last = place(shared, path)
            views = {None: self.base, **self.views}
            rows, what = (RowsBegin, views) if path == "begin" else (RowsLinear, layers)
            setattr(parent, last, rows(getattr(parent, last), what, self.batch))
        return shared


def cut(value, rows, size):
    """These rows of a tensor with so many; anything else as it is."""
    return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
