# The vectors of the pictures are centred over the batch.
# earns: the logits should be the cosines of the angles

import math
import torch
import torch.nn.functional as F
from torch import nn


class DualEncoder(nn.Module):
    def forward(self, images, captions, mask=None):
        seen = self.image(images)
        read = self.text(captions, mask)
        seen = seen - seen.mean(0)
        seen = seen / seen.norm(dim=1, keepdim=True)
        read = read / read.norm(dim=1, keepdim=True)
        factor = torch.exp(self.scale)
        return factor * torch.einsum("bw,cw->bc", seen, read)


class ZeroShot(nn.Module):
    def __init__(self, model, captions, mask=None):
        super().__init__()
        check_rows(captions, mask)
        self.model = model
        self.register_buffer("captions", captions)
        self.register_buffer("mask", mask)

    def forward(self, images):
        return self.model(images, self.captions, self.mask)


class Contrastive(nn.Module):
    def forward(self, images, captions):
        n = len(images)
        if len(captions) != n:
            raise ValueError(f"{n} pictures, but {len(captions)} captions")
        logits = self.model(images, captions)
        equal = (captions.unsqueeze(0) == captions.unsqueeze(1)).all(dim=2)
        equal.fill_diagonal_(False)
        lowest = torch.finfo(logits.dtype).min
        logits = torch.where(equal, torch.full_like(logits, lowest), logits)
        return torch.stack([logits, logits.T], 1)
