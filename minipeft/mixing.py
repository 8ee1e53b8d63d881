"""Several tasks in one batch: named views of one base, and every row under its own.

    several = MultiTask({"blue": load("blue.safetensors", model), "violet": load("violet.safetensors", model)})
    several(tokens, ["violet", None, "blue"])        # None is the bare base

The answer to a row is what its view gives alone, whatever the method and the model. On a Transformer, rows under
different views share a pass in this code if all their layers are of these kinds; others go through view by view:
  LoRA, IA³                 y_i = l_i ⊙ (W (e_i ⊙ x_i) + b) + B_i A_i x_i: one product with W for all rows
  prompts and prefixes      every row begins with a cache of its own; shorter ones are padded on the left

It can be trained like any model. Tasks share an update if their views stand on a view that has one:

    shared = LoRA(rank=4).attach(model)
    several = MultiTask({name: LoRA(rank=1).attach(shared, together=True) for name in names})
    fit(several, Together({name: task(name) for name in names}), lr=1e-2)        # the shared one and the private ones

Sources: 1) prompts: Lester et al. 2021, arXiv:2104.08691. 2) LoRA: Punica, Chen et al. 2023, arXiv:2310.18547.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minipeft.arguments import got
from minipeft.attach import Wrapper, attachments, bottom, detach, place, trainable, view
from minipeft.methods.ia3 import IA3Input, IA3Output
from minipeft.methods.lora import LoRALinear
from minipeft.models.transformer import Transformer
from minipeft.views import layers_of

SHARING = LoRALinear, IA3Input, IA3Output


class Rows(Wrapper):
    """In front of a module of the base: for each row it does what the view of that row does there.

    views: {name: what stands here in the view of this name, or the view itself}, a plain dictionary: it is theirs.
    batch: its `names` are those that occur, its `index` (B,) tells the name of each row.
    """

    def __init__(self, base, views, batch):
        super().__init__(base)
        self.views, self.batch = views, batch


class RowsLinear(Rows):
    """y_i = l_i ⊙ (W (e_i ⊙ x_i) + b) + B_i A_i x_i; where a view has no such layer, l = e = 1 and A = B = 0."""

    def forward(self, x):  # (B, T, in)
        (out, into), new = bottom(self).weight.shape, bottom(self).weight.new_ones
        r = max((len(layer.A) for layer in self.views.values() if isinstance(layer, LoRALinear)), default=0)
        e = self.rows(IA3Input, lambda layer: layer.l[None], new(1, into))  # (B, 1, in)
        l = self.rows(IA3Output, lambda layer: layer.l[None], new(1, out))  # (B, 1, out)
        A = self.rows(LoRALinear, lambda layer: F.pad(layer.A, (0, 0, 0, r - len(layer.A))), 0 * new(r, into))
        B = self.rows(LoRALinear, lambda layer: F.pad(layer.scale * layer.B, (0, r - len(layer.A))), 0 * new(out, r))
        y = self.base(x if e is None else e * x)
        y = y if l is None else l * y
        return y if A is None else y + (x @ A.transpose(1, 2)) @ B.transpose(1, 2)  # (B, T, out)

    def rows(self, kind, of, none):
        """What `of` gives of the layer of this kind, or `none`, for each row, (B, ...); None if no row has one."""
        layers = [self.views.get(name) for name in self.batch.names]
        if not any(isinstance(layer, kind) for layer in layers):
            return None
        return torch.stack([of(layer) if isinstance(layer, kind) else none for layer in layers])[self.batch.index]


class RowsBegin(Rows):
    """Each row begins with what its view begins with, padded on the left to the longest."""

    def forward(self, blocks):
        cache, theirs = self.base(blocks), [self.views[name].new_cache() for name in self.batch.names]
        split, none = blocks[0].attn.split, blocks[0].attn.o.weight.detach()[:0]  # no vectors, (0, d)
        front, real = self.rows([torch.cat([none, *one.front]) for one in theirs])  # (B, n, d), (B, n)
        if any(one.length for one in theirs):
            for layer, *parts in zip(cache.layers, *(one.layers for one in theirs), strict=True):
                layer.k, keys = self.rows([split(none) if one.k is None else one.k for one in parts])  # (B, H, S, d/H)
                layer.v, _ = self.rows([split(none) if one.v is None else one.v for one in parts])
            real = torch.cat([keys, real], dim=1)  # (B, S+n)
        cache.front, cache.mask = [front], None if real.all() else real
        return cache

    def rows(self, parts):
        """(..., n, d) of each name for each row, (B, ..., n, d), with zeros in front; a mask (B, n), False there."""
        most = max(t.shape[-2] for t in parts)
        real = torch.stack([torch.arange(most, device=t.device) >= most - t.shape[-2] for t in parts])
        filled = torch.stack([F.pad(t, (0, 0, most - t.shape[-2], 0)) for t in parts])
        return filled[self.batch.index], real[self.batch.index]


class MultiTask(nn.Module):
    """Named views of one base, {name: view}, for batches whose rows name theirs. At least one; see also `add`.

    `base` is what all views stand on: the view below, if it is the same for all of them; else the bare model.
    """

    def __init__(self, views):
        super().__init__()
        if not isinstance(views, dict) or not views:
            raise ValueError(
                f'MultiTask takes named views, {{"blue": load(path, model)}}, at least one, got {got(views)}'
            )
        self.views, self.batch = {}, SimpleNamespace()  # what the rows of a batch need; `model` is what they share
        for name, one in views.items():
            self.add(name, one)

    def add(self, name, one):
        """Take in a view. Raises ValueError if the name is no text or taken, or the view is none or of another base."""
        if not isinstance(name, str) or name in self.views:
            raise ValueError(f"a view needs a name, a text that is not taken: {name!r}; taken are {list(self.views)}")
        if not isinstance(one, nn.Module) or not attachments(one):
            raise ValueError(f"{name!r} is a {type(one).__name__} and no view: give what `attach` or `load` returned")
        if self.views and detach(one) is not detach(self.base):
            raise ValueError(f"{name!r} is a view of another model than the others: attach all of them to the same one")
        self.views[name] = one
        self.changed()

    def remove(self, name):
        """Take a view out, and return it."""
        self.known([name])
        one = self.views.pop(name)
        self.changed()
        return one

    def changed(self):
        below = [detach(one, 1) for one in self.views.values()] or [self.base]
        self.batch.base = below[0] if all(one is below[0] for one in below) else detach(below[0])
        self.batch.model, self.each = None, nn.ModuleList(self.views.values())

    @property
    def base(self):
        return self.batch.base

    def forward(self, tokens, names, *rest, **more):
        """What the model gives, each row under the view of its name; what else it takes is cut into rows likewise.

        Raises ValueError for names or outputs that do not fit.
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
        return made if stop is None else made[:, : int((made != stop).sum(1).max()) + 1]  # after the first stop all are

    def run(self, tokens, names, compute):
        if len(names) != len(tokens):
            raise ValueError(f"a name for each row is needed: there are {len(names)} names for {len(tokens)} rows")
        self.known([name for name in names if name is not None])
        groups, pieces = {}, []
        place_of = {name: None if self.shares(name) else name for name in dict.fromkeys(names)}
        for row, name in enumerate(names):
            groups.setdefault(place_of[name], []).append(row)
        for rows in groups.values():
            model, index = self.model([names[row] for row in rows]), torch.tensor(rows)
            pieces.append(compute(model, lambda value, index=index: cut(value, index, len(tokens))))
        if len({piece.shape[1:] for piece in pieces}) > 1:
            shapes = {names[rows[0]]: tuple(p.shape[1:]) for rows, p in zip(groups.values(), pieces, strict=True)}
            raise ValueError(f"rows give outputs of different shape, {shapes}: run these tasks in batches of their own")
        order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
        return torch.cat(pieces)[order.to(pieces[0].device)]

    def known(self, names):
        if unknown := sorted({str(name) for name in names if name not in self.views}):
            raise ValueError(f"there is no view {', '.join(unknown)}; there are {', '.join(self.views)}, and None")

    def shares(self, name):
        """Do rows under this name share a pass with others?"""
        if name is None or type(self.base) is not Transformer:  # a ViT has no padding, which shorter prompts need
            return name is None
        layers = [(at, layer) for at, layer in self.layers(name) if at != "begin"]
        if not all(type(layer) in SHARING and type(bottom(layer)) is nn.Linear for _, layer in layers):
            return False
        dropping = any(isinstance(m, nn.Dropout) and m.training for _, layer in layers for m in layer.modules())
        return len(dict(layers)) == len(layers) and not dropping

    def layers(self, name):
        """[(dotted name, layer)] of what the view of this name has above the base."""
        return layers_of(self.views[name])[len(layers_of(self.base)) :]

    def model(self, names):
        """The model for rows with these names, which share a pass."""
        different, numbers = list(dict.fromkeys(names)), next(self.base.parameters())
        if len(different) == 1:
            return self.base if different[0] is None else self.views[different[0]]
        self.batch.names = different
        self.batch.index = torch.tensor([different.index(name) for name in names], device=numbers.device)
        model, sharing = self.batch.model, [name for name in self.views if self.shares(name)]
        moved = model is not None and next(model.parameters()).data_ptr() != numbers.data_ptr()
        if model is None or moved or self.batch.sharing != sharing:
            learning = trainable(self.base).values() if attachments(self.base) else ()
            model, found = view(self.base, kept=learning), {}
            for name in sharing:
                for path, layer in self.layers(name):
                    found.setdefault(path, {})[name] = layer
            for path, layers in found.items():
                parent, last = place(model, path)
                rows, views = (RowsBegin, {None: self.base, **self.views}) if path == "begin" else (RowsLinear, layers)
                setattr(parent, last, rows(getattr(parent, last), views, self.batch))
            self.batch.model, self.batch.sharing = model, sharing
        return model


def cut(value, rows, size):
    """These rows of a tensor with so many; anything else as it is."""
    return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
