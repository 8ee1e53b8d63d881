"""Stored features: a head that is trained on them learns what a linear probe learns through the whole model."""

import torch
from torch import nn

from minipeft.attach import trainable
from minipeft.methods import LinearProbe
from minipeft.models.vision import VisionConfig, ViT
from minipeft.training import evaluate, fit
from minipeft.worlds.pictures import Digits
from minipeft.worlds.stored import Stored

TRAINING = {"steps": 5, "lr": 1e-2, "device": "cpu", "progress": False}


def vit():
    torch.manual_seed(1)
    return ViT(VisionConfig(28, 7, 10, dim=8, layers=1, heads=2, ff=8)).requires_grad_(False).eval()


def test_a_head_on_stored_features_is_the_linear_probe():
    digits, base, trunk = Digits("validation", each=5, paper=True), vit(), vit()
    probe = LinearProbe().attach(base)
    trunk.head = nn.Identity()
    stored, head = Stored(digits, trunk), vit().head.requires_grad_(True)
    histories = [fit(model, task, **TRAINING).loss for model, task in ((probe, digits), (head, stored))]
    assert torch.allclose(*map(torch.tensor, histories), atol=1e-5)
    for a, b in zip(trainable(probe).values(), head.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert evaluate(probe, digits).loss - evaluate(head, stored).loss < 1e-5
    assert str(stored) == "features of handwritten digits on paper (validation, 5 of each)"
    assert not stored.every().tokens.requires_grad
