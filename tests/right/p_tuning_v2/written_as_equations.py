# Everything by matrix products: keys, values and classes. The start is drawn layer by layer.

import torch
from torch import nn


class DeepPrompts(Wrapper):
    def keys_values(self, block, P):
        x = P
        if block.pre_norm:
            centred = P - P.mean(-1, keepdim=True)
            x = centred / (P.var(-1, unbiased=False, keepdim=True) + block.norm1.eps).sqrt()
            x = x * block.norm1.weight + block.norm1.bias
        k, v = block.attn.k, block.attn.v
        return torch.addmm(k.bias, x, k.weight.T), torch.addmm(v.bias, x, v.weight.T)

    def forward(self, blocks):
        begun = self.base(blocks)
        made = [self.keys_values(block, P) for block, P in zip(blocks, self.P)]
        for i, (K, V) in enumerate(made):
            begun.layers[i].extend(v=blocks[i].attn.split(V), k=blocks[i].attn.split(K))
        return begun


class DeepKeys(Wrapper):
    def forward(self, blocks):
        begun, n = self.base(blocks), self.P_K.shape[1]
        for i in range(len(blocks)):
            H = blocks[i].attn.heads
            begun.layers[i].extend(
                self.P_K[i].reshape(n, H, -1).permute(1, 0, 2), self.P_V[i].reshape(n, H, -1).permute(1, 0, 2)
            )
        return begun


class ClassHead(Wrapper):
    def __init__(self, base, dim, classes, place):
        super().__init__(base)
        self.classify, self.place = nn.Linear(dim, classes, bias=True), place

    def forward(self, h):
        token = h[:, 0] if self.place == 0 else h[:, self.place]
        return torch.einsum("bd,cd->bc", token, self.classify.weight) + self.classify.bias


class Unpadded(Wrapper):
    def forward(self, tokens, cache):
        if cache.mask is not None:
            B, T = tokens.shape
            real = cache.mask.narrow(1, cache.mask.shape[1] - T, T).select(1, self.place)
            if int(real.sum()) < B:
                raise ValueError(f"{B - int(real.sum())} rows have padding where the head reads")
        return self.base(tokens, cache)


class PTuningV2(Method):
    def insert(self, model):
        table = embeddings(model)
        start = self.start(table, len(model.blocks))
        if self.form == "hidden":
            wrap(model, (".begin",), lambda begin, path: DeepPrompts(begin, *start), nn.Module)
        else:
            wrap(model, (".begin",), lambda begin, path: DeepKeys(begin, *start), nn.Module)
        if self.classes:
            place = {True: -1, False: 0}[bottom(model).config.causal]
            for path, make in {".embed": lambda e, p: Unpadded(e, place), ".head": lambda h, p: self.new_head(h, table, place)}.items():
                wrap(model, (path,), make, nn.Module)

    def new_head(self, head, table, place):
        return ClassHead(head, table.shape[-1], self.classes, place).to(device=table.device, dtype=table.dtype)

    def start(self, table, layers):
        def draw(std):
            rows = [torch.empty_like(table[:1]).repeat(self.length, 1).normal_(0.0, std) for _ in range(layers)]
            return torch.stack(rows)

        return [draw(table.std().item())] if self.form == "hidden" else [draw(1.0), draw(1.0)]
