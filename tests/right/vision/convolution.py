import torch
from torch import nn

from minipeft.models.heads import ClassHead
from minipeft.models.transformer import Begin, Block, Cache, Transformer


class PatchEmbed(nn.Module):
    def forward(self, images, cache=None):
        d, p = self.patch.out_features, self.size
        kernel = self.patch.weight.reshape(d, images.shape[1], p, p)
        maps = nn.functional.conv2d(images, kernel, self.patch.bias, stride=p)
        x = torch.cat([self.class_token.expand(len(images), 1, d), maps.flatten(2).mT], dim=1) + self.position.weight
        prompts = cache.front if cache else []
        x = torch.cat([*(P.expand(len(images), P.shape[-2], d) for P in prompts), x], dim=1)
        if cache:
            cache.front = []
        return self.norm(x)


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
