"""Figures of activations: what passes through an adapter, and what a method adds to an activation, token by token."""

import numpy as np
import torch

from minipeft.methods.adapter import Bottleneck
from minipeft.plots.style import GREY, INK, SIGNED, bare, heatmap, hue, legend, new


@torch.no_grad()
def adapter_activations(model, batch):
    """What passes through every adapter, {path: (h, z, A(h))}: (N, d) in, (N, m) inside behind φ, (N, d) out.

    A row for each of the N tokens of the batch that are not padding. Raises ValueError if there is no adapter.
    """
    found = {}

    def keep(path):
        def hook(adapter, inputs, output):
            T = batch.tokens.shape[1]
            real = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask.bool()
            through = inputs[0], adapter.act(adapter.D(inputs[0])), output
            found[path] = tuple(t[:, -T:][real].cpu() for t in through)  # virtual tokens come first

        return hook

    adapters = {path: m for path, m in model.named_modules() if isinstance(m, Bottleneck)}
    if not adapters:
        raise ValueError("there are no bottlenecks in this model; attach Houlsby, Pfeiffer or ParallelAdapter")
    hooks = [m.register_forward_hook(keep(path.removesuffix(".adapter"))) for path, m in adapters.items()]
    try:
        batch = batch.to(next(model.parameters()).device)
        batch.logits(model)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def explained_variance(X):
    """Shares of the variance of the rows of X (N, n) along its principal directions, largest first; their sum is 1."""
    energy = torch.linalg.svdvals((X - X.mean(0)).double()) ** 2
    return (energy / energy.sum()).numpy()


def bottleneck(through, ax=None, label="Pfeiffer", enough=0.9):
    """How many directions hold how much of the variance before, inside and behind a bottleneck.

    through: (h, z, A(h)), of `adapter_activations`. enough: a share; how many directions hold it is marked and told.
    """
    ax = bare(ax or new(6.5, 3.4))
    (d, m), colour = (through[0].shape[1], through[1].shape[1]), hue(label)
    names = (f"before: h, d = {d}", f"inside: z = φ(D h), m = {m}", f"behind: A(h), d = {d}")
    ax.axhline(enough, color=INK, lw=0.8, ls=":")
    for X, name, look in zip(through, names, ((GREY, "s", "-"), (colour, "^", "--"), (colour, "o", "-")), strict=True):
        ink, marker, dashes = look
        held = np.cumsum(explained_variance(X))
        needed = int(np.searchsorted(held, enough)) + 1
        name += f"; {needed} hold{'s' * (needed == 1)} {enough:.0%}"
        ax.plot(np.arange(1, len(held) + 1), held, marker=marker, ls=dashes, color=ink, ms=4, label=name)
        ax.plot(needed, held[needed - 1], marker=marker, ms=11, mfc="none", mec=INK, zorder=4)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_ylim(0, 1.04)
    ax.set_xlabel("principal directions, the largest first (number)")
    ax.set_ylabel("explained variance (share)")
    legend(ax, loc="lower right")
    return ax


def common_share(change):
    """The share of the squared length of the rows (N, n) that their mean has: 1 if all rows are the same."""
    change = change.detach().double()
    return float(change.mean(0).square().sum() / change.square().sum(1).mean())


def token_changes(changes, words, axes=None):
    """A map for each {label: change (T, n)}: a row for each token, a column for each of the n numbers that changed.

    words: names of the T tokens. The colours of a map end at its largest change; above it stands the `common_share`.
    """
    if axes is None:
        axes = new(min(4 * len(changes) + 1, 9), 1 + 0.2 * len(words), columns=len(changes))
    axes = np.atleast_1d(axes)
    for (label, change), ax in zip(changes.items(), axes, strict=True):
        values = change.detach().float().cpu().numpy()
        limit = float(abs(values).max()) or 1.0
        image = heatmap(ax, values, SIGNED, -limit, limit, aspect="auto")
        share = common_share(change) if values.any() else float("nan")
        ax.set_title(f"{label}: {share:.0%} shared by all tokens", fontsize=10)
        ax.set_xlabel("entry of the vector (index)")
        ax.set_yticks(range(len(words)), words)
        ax.spines[:].set_visible(False)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05)
    bar.set_label("change")  # the last bar only: beside the others, the next map would seem to be meant
    axes[0].set_ylabel("token")
    return axes
