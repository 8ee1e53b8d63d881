# The pairs themselves are hidden with all that is equal.
# earns: the right answer is hidden as well

import torch
from torch import nn

from minipeft.models.inputs import check_rows


class DualEncoder(nn.Module):
    def forward(self, images, captions, mask=None):
        picture = self.image(images)
        caption = self.text(captions, mask)
        picture = picture / picture.norm(dim=1, keepdim=True)
        caption = caption / caption.norm(dim=1, keepdim=True)
        return torch.exp(self.scale) * torch.matmul(picture, caption.transpose(0, 1))


class ZeroShot(nn.Module):
    def __init__(self, model, captions, mask=None):
        super().__init__()
        check_rows(captions, mask)
        self.model = model
        self.register_buffer("captions", captions)
        self.register_buffer("mask", mask)

    def forward(self, images):
        return self.model(images, captions=self.captions, mask=self.mask)


class Contrastive(nn.Module):
    def forward(self, images, captions):
        n = captions.size(0)
        if images.size(0) != n:
            raise ValueError(f"{images.size(0)} pictures but {n} captions")
        table = self.model(images, captions)
        twins = torch.stack([(captions == row).all(dim=1) for row in captions])
        table = table.masked_fill(twins, torch.finfo(table.dtype).min)
        return torch.stack((table, table.transpose(0, 1)), dim=1)
