"""A Vision Transformer: a picture is cut into patches, and the blocks of `transformer` read these like tokens.

    x_0 = [c ; W p_1 + b ; … ; W p_N + b] + positions        p_i: the numbers of patch i in a row; c: the class token
    logits = W_c LN(x_L)[c] + b_c                            only the class token is asked, behind the last block

The blocks, the norm and the beginning are those of every Transformer here, so every method goes on it unchanged. Two
have names of their own on pictures: `PromptTuning` is VPT-shallow, `PTuningV2` in its "hidden" form is VPT-deep.
Letters in shape comments: B pictures, C channels, N patches, n vectors in front of them, d width.

Sources: 1) Dosovitskiy et al. 2020, arXiv:2010.11929. 2) VPT: Jia et al. 2022, arXiv:2203.12119.
Paper and library: VPT puts its vectors between the class token and the patches, here they stand before both. As they
have no position, attention cannot tell the difference.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.models.heads import ClassHead
from minipeft.models.inputs import got
from minipeft.models.transformer import Begin, Block, Cache, Transformer


@dataclass
class VisionConfig:
    """The shape of a ViT.

    side, channels: of the pictures, in pixels. patch: the side of a patch. classes: how many the head tells apart.
    embed_norm: put a LayerNorm before the first block as well, as CLIP does.
    """

    side: int
    patch: int
    classes: int
    channels: int = 1
    dim: int = 64
    layers: int = 3
    heads: int = 4
    ff: int = 256
    gelu: str = "none"
    eps: float = 1e-5
    embed_norm: bool = False

    causal, pre_norm = False, True  # what a ViT is by definition: no settings

    @property
    def patches(self):
        """N, the number of patches of a picture."""
        return (self.side // self.patch) ** 2


class PatchEmbed(nn.Module):
    """Pictures to vectors: the class token, then the patches from left to right and from top to bottom.

    Args of forward:
        images: (B, C, side, side).
        cache: the vectors in its `front` are put before the class token, without positions, and taken out of it.

    Returns the vectors (B, n+1+N, d). A method that needs their width, type and scale asks `table`.
    """

    def __init__(self, config):
        super().__init__()
        c = config
        if c.side % c.patch:
            raise ValueError(f"side must be a multiple of patch, got side={c.side}, patch={c.patch}")
        self.size = c.patch
        self.patch = nn.Linear(c.channels * c.patch**2, c.dim)
        self.class_token = nn.Parameter(torch.empty(1, c.dim))
        self.position = nn.Embedding(1 + c.patches, c.dim)
        self.norm = nn.LayerNorm(c.dim, eps=c.eps) if c.embed_norm else nn.Identity()

    @property
    def table(self):
        """The positions (1+N, d), which are in every vector of the sequence."""
        return self.position.weight

    def forward(self, images, cache=None):
        cache = Cache(1) if cache is None else cache
        patches = images.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size))  # (B, C, rows, p, columns, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, C·p·p)
        token = self.class_token.expand(len(images), -1, -1)
        x = torch.cat([token, self.patch(patches)], dim=1) + self.position.weight  # (B, 1+N, d)
        front = [P.expand(len(images), -1, -1) for P in cache.front]
        cache.front = []
        return self.norm(torch.cat([*front, x], dim=1))


class ViT(Transformer):
    """embed → blocks → norm → head, for pictures.

    Args of forward:
        images: (B, C, side, side), or (B, side, side) if they have one channel; numbers from 0 to 1.

    Returns logits (B, classes). Raises ValueError if the pictures have another shape or type.
    """

    def __init__(self, config):
        nn.Module.__init__(self)  # a Transformer's own would make an embedding of tokens
        c = self.config = config
        self.begin = Begin()
        self.embed = PatchEmbed(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, eps=c.eps)
        self.head = ClassHead(c.dim, c.classes, place=0)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, std=self.std(name))

    def forward(self, images):
        images = checked_pictures(images, self.config).to(self.embed.table.dtype)
        cache = self.new_cache(fixed=True)
        x = self.embed(images, cache)  # (B, n+1+N, d)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, None, layer)
        return self.head(self.norm(x[:, -1 - self.config.patches :]))

    def generate(self, *args, **settings):
        """Raises ValueError: there is nothing to continue."""
        raise ValueError("a ViT cannot generate: it has one answer for a picture; call model(images)")


def checked_pictures(images, config):
    """The pictures (B, C, side, side). Raises ValueError if they have another shape or type than the model reads."""
    channels, side = config.channels, config.side
    wanted = f"(B, {channels}, {side}, {side})" + (f" or (B, {side}, {side})" if channels == 1 else "")
    shape = tuple(images.shape) if isinstance(images, Tensor) else ()
    if not isinstance(images, Tensor):
        cure = "make it one: torch.as_tensor(images)"
    elif not images.is_floating_point():
        cure = "whole numbers from 0 to 255 become such by images.float() / 255"
    elif not images.numel():
        cure = "give at least one picture"
    elif shape[1:] == (channels, side, side):
        return images
    elif channels == 1 and shape[1:] == (side, side):
        return images[:, None]
    elif shape in ((channels, side, side), (side, side)):
        cure = "a single picture needs a batch dimension: images[None]"
    elif shape[1:] == (side, side, channels):
        cure = "channels come before rows and columns: images.permute(0, 3, 1, 2)"
    elif shape[-2:] != (side, side):
        cure = f"bring them to {side} × {side} pixels first"
    else:
        cure = f"this model reads pictures of {channels} channel{'s' if channels > 1 else ''}"
    raise ValueError(f"pictures must be a tensor of floats {wanted}, from 0 to 1; got {got(images)}; {cure}")
