"""Heads that give one answer for a row: they read one token of it. Pooling belongs to the head."""

import copy

from torch import nn


class ClassHead(nn.Module):
    """W h + b of the token at `place`, (B, classes): the first one ([CLS]) or, in a causal model, the last.

    W and b are those of a Linear, `classify`. A projection into a shared space is one without a bias. Padding at that
    token is refused; transformers finds the last token of GPT-2 itself, and leaves BERT's pooler before the head.
    """

    def __init__(self, dim, classes, place, bias=True):
        super().__init__()
        self.classify, self.place = nn.Linear(dim, classes, bias=bias), place

    def forward(self, h):  # (B, T, d)
        return self.classify(h[:, self.place])


def fresh_head(model, classes):
    """A new head for a model, of its type and on its device, with random weights.

    Raises TypeError for a model that has no head, or one whose head does not tell what a classifier would read.
    """
    head, config = getattr(model, "head", None), getattr(model, "config", None)
    while hasattr(head, "base"):  # below wrappers
        head = head.base
    if isinstance(head, ClassHead):
        new = ClassHead(head.classify.in_features, classes, head.place)
    elif hasattr(config, "causal"):
        new = ClassHead(config.dim, classes, -1 if config.causal else 0)
    elif isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, classes)
    else:
        raise TypeError(
            f"{type(model).__name__} has no head that a classifier could take the place of: classes={classes} needs a "
            "model with `head`, a Linear over its features, or a part of this one that has it"
        )
    return new.to(next(model.parameters()))


def head_for(model, classes):
    """What takes the place of the head of a model: a fresh one, or for classes="own" a copy that learns.

    Of a model that pools what its head gives for every token (`models.sentences`), the fresh one is a Linear.
    """
    head = getattr(model, "head", None)
    if classes == "own":
        if not isinstance(head, nn.Module):
            raise TypeError(
                f'{type(model).__name__} has no head: classes="own" needs a model, or a part of one, with it'
            )
        return copy.deepcopy(head.merged() if hasattr(head, "merged") else head).requires_grad_(True)
    if getattr(model, "pools", False):
        return nn.Linear(model.config.dim, classes).to(next(model.parameters()))
    return fresh_head(model, classes)
