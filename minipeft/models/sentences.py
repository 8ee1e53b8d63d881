"""An encoder with one answer for a whole text: what its head gives for each token, averaged over the real tokens.

    y = mean over t of (W h_t + b) = W · mean over t of h_t + b

The head is linear, so it makes no difference that it comes before the mean. Without a head (`nn.Identity`) the answer
is the embedding of the sentence, (B, d). A classifier is a fresh head: `LoRA(rank=4, classes=2).attach(model)`.

Source: Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084.
"""

import torch

from minipeft.models.transformer import Transformer


class MeanPooled(Transformer):
    """A Transformer that gives (B, classes), or (B, d) without a head. Args of forward: those of `Transformer`."""

    pools = True  # a fresh head is a Linear, for every token

    def forward(self, tokens, mask=None, cache=None):
        y = super().forward(tokens, mask, cache)  # (B, T, classes)
        real = torch.ones_like(tokens) if mask is None else mask  # (B, T)
        weights = real.to(y) / real.sum(1, keepdim=True).clamp(min=1)
        return (weights[..., None] * y).sum(1)
