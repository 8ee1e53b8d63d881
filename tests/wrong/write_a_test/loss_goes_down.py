# Trains the layer, and is content if the loss goes down.
# earns: never computes the right answer
import torch
from torch import nn


def test(impl):
    base = nn.Linear(8, 3).requires_grad_(False)
    layer = impl.LoRALinear(base, 4, 2.0)
    x, target = torch.randn(64, 8), torch.randn(64, 3)
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
