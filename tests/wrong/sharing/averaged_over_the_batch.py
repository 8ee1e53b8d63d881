# All rows of a batch get the average of their updates, as if it were one task.
# earns: every row gets the mean of all updates
import torch
import torch.nn.functional as F


class RowsLinear(Rows):
    def forward(self, x):
        e = self.rows(IA3Input, lambda view: view.l[None], torch.ones_like(x[:1, 0]))
        l = self.rows(IA3Output, lambda view: view.l[None], bottom(self).weight.new_ones(1, len(bottom(self).weight)))
        A, B = self.factors()
        y = self.base(x * e if e is not None else x)
        if l is not None:
            y = y * l
        if A is not None:
            y = y + torch.einsum("bti,bri,bor->bto", x, A, B)
        return y

    def factors(self):
        """A (B, r, in) and B (B, out, r) of each row, filled up to the largest rank, or None."""
        out, into = bottom(self).weight.shape
        loras = [view for view in self.views.values() if isinstance(view, LoRALinear)]
        rank = max([view.A.size(0) for view in loras], default=0)
        zeros = bottom(self).weight.new_zeros
        A = self.rows(LoRALinear, lambda view: F.pad(view.A, (0, 0, 0, rank - view.A.size(0))), zeros(rank, into))
        B = self.rows(LoRALinear, lambda view: F.pad(view.B * view.scale, (0, rank - view.A.size(0))), zeros(out, rank))
        return A, B

    def rows(self, kind, of, none):
        layers = [self.views.get(name) for name in self.batch.names]
        if all(not isinstance(layer, kind) for layer in layers):
            return None
        stacked = torch.stack([of(layer) if isinstance(layer, kind) else none for layer in layers])
        return stacked.mean(dim=0, keepdim=True).repeat_interleave(len(self.batch.index), dim=0)


class RowsBegin(Rows):
    def rows(self, parts):
        longest = max(part.size(-2) for part in parts)
        gaps = [longest - part.size(-2) for part in parts]
        vectors = torch.stack([F.pad(part, (0, 0, gap, 0)) for part, gap in zip(parts, gaps)])
        mask = torch.stack([torch.arange(longest) >= gap for gap in gaps])
        return vectors[self.batch.index], mask[self.batch.index]
