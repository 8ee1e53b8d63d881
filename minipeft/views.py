"""What one does with a view: merge it into plain modules, move it together with its base, tell what is on it."""

import torch

from minipeft.attach import Wrapper, attachments, detach, trainable, view
from minipeft.checks import check_finite, unwrapped, warn_untied


@torch.no_grad()
def merge(model):
    """One more view, of plain modules with the effect of every method in their weights; nothing else of them is in it.

    It has the speed and the names of the base. The view that was merged stays as it is.

    Raises TypeError if a layer cannot be merged; RuntimeError if nothing is attached; ValueError if a merged weight
    is not finite. Warns if weights that the base ties differ afterwards.
    """
    if not attachments(model):
        raise RuntimeError("nothing is attached, so there is nothing to merge")
    model = unwrapped(model)
    plain = view(model, own=trainable(model).values())
    del plain._attachment
    merged = {}  # a module that has two names is merged once
    for parent in list(plain.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, Wrapper) and not isinstance(parent, Wrapper):
                merged[child] = merged[child] if child in merged else child.merged()
                parent._modules[name] = merged[child]
    check_finite(plain, "the merged model")
    warn_untied(detach(model), plain)
    return plain


def move(model, *to):
    """`model.to(*to)` for views and their bases together, so that what they share stays shared. Returns the model."""
    model = unwrapped(model)
    for part in model.modules():
        if entry := vars(part).get("_attachment"):
            move(entry.base, *to)
            for mine, theirs in entry.shared:
                mine.data = theirs.data
    return model.to(*to)


def layers_of(model):
    """[(dotted name, layer or weight)] of all that the methods on a model have put there, the first attached first."""
    return [item for entry in attachments(model) for item in entry.layers.items()]


def summary(model):
    """One line: `trainable: 512 of 110,908 (0.46 %)`, in parameters, of those that the base has.

    Of several views together, a MultiTask, the base counts once.
    """
    one = next(iter(getattr(model, "views", {}).values()), model)
    base, new = (sum(p.numel() for p in ps) for ps in (detach(one).parameters(), trainable(model).values()))
    return f"trainable: {new:,} of {base:,} ({100 * new / base:.2f} %)"
