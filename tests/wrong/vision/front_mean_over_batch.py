# A prompt of each picture's own is averaged over the batch.
# earns: Where each picture brings vectors of its own

import torch
from torch import nn

from minipeft.models.heads import ClassHead
from minipeft.models.transformer import Begin, Block, Cache, Transformer


class PatchEmbed(nn.Module):
    def forward(self, images, cache=None):
        n, channels, height, width = images.shape
        p = self.size
        grid = images.reshape(n, channels, height // p, p, width // p, p)
        flat = torch.einsum("bcyixj->byxcij", grid).reshape(n, -1, channels * p * p)
        vectors = self.patch(flat)
        first = self.class_token[None].expand(n, 1, -1)
        sequence = torch.cat([first, vectors], 1)
        sequence = sequence + self.position.weight[None]
        if cache is not None and cache.front:
            ahead = [f.mean(0, keepdim=True).repeat(n, 1, 1) if f.ndim == 3 else f[None].repeat(n, 1, 1) for f in cache.front]
            cache.front = []
            sequence = torch.cat(ahead + [sequence], 1)
        return self.norm(sequence)


class ViT(Transformer):
    def forward(self, images):
        images = checked_pictures(images, self.config)
        images = images.to(self.embed.position.weight.dtype)
        cache = self.new_cache(fixed=True)
        x = self.embed(images, cache)
        extra = x.shape[1] - 1 - self.config.patches
        for number, block in enumerate(self.blocks):
            x = block(x, None, cache.layers[number])
        x = self.norm(x[:, extra:])
        return self.head(x)
