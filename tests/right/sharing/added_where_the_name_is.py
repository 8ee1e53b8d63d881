# A right solution that goes through the names and adds each update to the rows of its name.
import torch
import torch.nn.functional as F


class RowsLinear(Rows):
    def forward(self, x):
        whose = [self.batch.names[i] for i in self.batch.index.tolist()]
        here = {name: self.views[name] for name in self.batch.names if name in self.views}

        def of(name, kind):
            return isinstance(here.get(name), kind)

        given = x
        if any(of(name, IA3Input) for name in whose):
            ones = x.new_ones(x.shape[-1])
            given = x * torch.stack([here[name].l if of(name, IA3Input) else ones for name in whose])[:, None]
        y = self.base(given)
        if any(of(name, IA3Output) for name in whose):
            ones = y.new_ones(y.shape[-1])
            y = y * torch.stack([here[name].l if of(name, IA3Output) else ones for name in whose])[:, None]
        for name, layer in here.items():
            if isinstance(layer, LoRALinear):
                rows = torch.tensor([one == name for one in whose])
                update = layer.scale * F.linear(F.linear(x[rows], layer.A), layer.B)
                y = y.index_add(0, rows.nonzero()[:, 0], update)
        return y

    def rows(self, kind, of, none):
        found = {}
        for name in self.batch.names:
            layer = self.views.get(name)
            if isinstance(layer, kind):
                found[name] = of(layer)
        if not found:
            return None
        return torch.stack([found.get(self.batch.names[i], none) for i in self.batch.index])


class RowsBegin(Rows):
    def rows(self, parts):
        longest = max(part.shape[-2] for part in parts)
        vectors = []
        for part in parts:
            room = part.new_zeros(part.shape[:-2] + (longest,) + part.shape[-1:])
            room = torch.cat([room[..., part.shape[-2] :, :], part], dim=-2)
            vectors.append(room)
        place = torch.arange(longest).flip(0)  # counted from the tokens
        lengths = torch.tensor([part.shape[-2] for part in parts])
        return torch.stack([vectors[i] for i in self.batch.index]), place < lengths[self.batch.index][:, None]
