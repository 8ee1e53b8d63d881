# The index into the prompts is remembered from the first batch.
# earns: is taken from the first batch and kept for all others

import torch
import torch.nn.functional as F


class RowsLinear(Rows):
    def forward(self, x):
        weight = bottom(self).weight
        out, into = weight.shape
        ranks = [one.A.shape[0] for one in self.views.values() if isinstance(one, LoRALinear)]
        r = max(ranks) if ranks else 0
        turn_in = self.rows(IA3Input, lambda one: one.l.unsqueeze(0), torch.ones(1, into, dtype=weight.dtype))
        turn_out = self.rows(IA3Output, lambda one: one.l.unsqueeze(0), torch.ones(1, out, dtype=weight.dtype))

        def padded_A(one):
            return torch.cat([one.A, one.A.new_zeros(r - one.A.shape[0], into)])

        def padded_B(one):
            return torch.cat([one.B * one.scale, one.B.new_zeros(out, r - one.B.shape[1])], 1)

        A = self.rows(LoRALinear, padded_A, weight.new_zeros(r, into))
        B = self.rows(LoRALinear, padded_B, weight.new_zeros(out, r))
        y = self.base(x if turn_in is None else x * turn_in)
        if turn_out is not None:
            y = y * turn_out
        if A is not None:
            y = y + torch.bmm(torch.bmm(x, A.mT), B.mT)
        return y

    def rows(self, kind, of, none):
        found = []
        some = False
        for name in self.batch.names:
            one = self.views.get(name)
            if isinstance(one, kind):
                some = True
                found.append(of(one))
            else:
                found.append(none)
        if not some:
            return None
        return torch.stack(found).index_select(0, self.batch.index)


class RowsBegin(Rows):
    def rows(self, parts):
        most = max(p.shape[-2] for p in parts)
        filled, real = [], []
        for p in parts:
            n = p.shape[-2]
            blank = p.new_zeros(*p.shape[:-2], most - n, p.shape[-1])
            filled.append(torch.cat([blank, p], -2))
            real.append(torch.tensor([False] * (most - n) + [True] * n))
        if not hasattr(self, "index"):
            self.index = self.batch.index
        index = self.index
        return torch.stack(filled)[index], torch.stack(real)[index]
