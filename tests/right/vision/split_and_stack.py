import torch
from torch import nn

from minipeft.models.heads import ClassHead
from minipeft.models.transformer import Begin, Block, Cache, Transformer


class PatchEmbed(nn.Module):
    def forward(self, images, cache=None):
        B, C, side, _ = images.shape
        p = self.size
        rows = side // p
        strips = images.split(p, dim=2)
        squares = torch.stack([s.flatten(1) for strip in strips for s in strip.split(p, dim=3)], dim=1)
        x = self.patch(squares)
        cls = self.class_token.repeat(B, 1, 1)
        x = torch.cat((cls, x), 1)
        x = x + self.position(torch.arange(1 + rows * rows))
        start = [] if cache is None else [v.expand(B, *v.shape[-2:]) for v in cache.front]
        if cache is not None:
            cache.front = []
        return self.norm(torch.cat(start + [x], dim=-2))


class ViT(Transformer):
    def forward(self, images):
        images = checked_pictures(images, self.config)
        images = images.to(self.embed.patch.weight.dtype)
        cache = self.new_cache(fixed=True)
        hidden = self.embed(images, cache)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, mask=None, cache=cache.layers[i])
        keep = self.config.patches + 1
        hidden = hidden[:, hidden.shape[1] - keep :]
        return self.head(self.norm(hidden))
