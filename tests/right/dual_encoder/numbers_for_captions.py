# Equal captions get equal numbers, by torch.unique; the temperature is multiplied into the pictures.

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_rows


class DualEncoder(nn.Module):
    def forward(self, images, captions, mask=None):
        u = F.normalize(self.image(images), p=2.0, dim=1) * self.scale.exp()
        v = F.normalize(self.text(captions, mask), p=2.0, dim=1)
        return F.linear(u, v)


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
        if images.shape[0] != captions.shape[0]:
            raise ValueError(f"{len(images)} pictures, {len(captions)} captions")
        logits = self.model(images, captions)
        number = torch.unique(captions, dim=0, return_inverse=True)[1]
        places = torch.arange(len(number), device=number.device)
        other = places.unsqueeze(0) != places.unsqueeze(1)
        twin = (number.unsqueeze(0) == number.unsqueeze(1)) & other
        answers = logits.new_empty(len(number), 2, len(number))
        answers[:, 0] = logits.masked_fill(twin, torch.finfo(logits.dtype).min)
        answers[:, 1] = answers[:, 0].clone().T
        return answers
