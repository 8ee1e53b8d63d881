# The head gets the mean over all that comes from the picture, as many ViTs pool.
# earns: the mean of all vectors

import torch
from torch import nn

from minipeft.models.heads import ClassHead
from minipeft.models.transformer import Begin, Block, Cache, Transformer


class PatchEmbed(nn.Module):
    def forward(self, images, cache=None):
        B, C, side, _ = images.shape
        p = self.size
        rows = side // p
        squares = []
        for i in range(rows):
            for j in range(rows):
                square = images[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p]
                squares.append(square.reshape(B, C * p * p))
        squares = torch.stack(squares, 1)
        x = self.patch(squares)
        cls = self.class_token.repeat(B, 1, 1)
        x = torch.cat((cls, x), 1)
        x = x + self.position(torch.arange(1 + rows * rows))
        if cache is not None:
            learned = []
            for vectors in cache.front:
                if vectors.dim() == 2:
                    vectors = vectors.unsqueeze(0)
                learned.append(vectors.expand(B, vectors.shape[1], vectors.shape[2]))
            cache.front = []
            x = torch.cat([*learned, x], 1)
        return self.norm(x)


class ViT(Transformer):
    def forward(self, images):
        images = checked_pictures(images, self.config)
        images = images.to(self.embed.patch.weight.dtype)
        cache = self.new_cache(fixed=True)
        hidden = self.embed(images, cache)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, mask=None, cache=cache.layers[i])
        hidden = self.norm(hidden[:, -1 - self.config.patches :])
        return self.head(hidden.mean(dim=1).unsqueeze(1))
