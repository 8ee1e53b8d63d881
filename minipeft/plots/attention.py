"""Figures of attention: which token reads from which, how much is read from virtual tokens, how adapters are fused."""

import numpy as np
import torch
from matplotlib.lines import Line2D

from minipeft.plots.boxes import say
from minipeft.plots.style import AMOUNT, INK, PALE, WIDEST, bare, heatmap, legend, new, shades


def attention(weights, words, ax=None, title=None, splits=(), virtual=0):
    """One attention map: weights (T, S), rows read, columns are read from; `words` labels the last of both.

    Grey is what a query may not see, where the weight is exactly zero. Small maps show their numbers.

    Args:
        splits: a thin line is drawn after so many words, to part an instruction from what follows.
        virtual: how many of the keys, the first ones, are virtual tokens, or the places of those that are. They are
            called P1, P2 … and parted by a strong line from the others, which `words` names. Those of a prompt are
            queries too, T = S; those of a prefix are keys alone.
    """
    weights = np.asarray(torch.as_tensor(weights).detach().cpu())
    T, S = weights.shape
    learned = virtual_positions(virtual, S)
    names, real = np.empty(S, dtype=object), np.flatnonzero(~learned)
    names[learned], names[real] = [f"P{i + 1}" for i in range(learned.sum())], list(words)[len(words) - len(real) :]
    ax = ax or new(3.6, 3.4)
    heatmap(ax, np.ma.masked_equal(weights, 0), AMOUNT, 0, 1, "{:.2f}" if S <= 6 else "")
    ax.set_facecolor(PALE)
    rules = [(np.append(real, S)[after], {"color": "#999999", "lw": 0.6}) for after in splits]
    rules += [(place + 1, {"color": INK, "lw": 1.5}) for place in np.flatnonzero(np.diff(learned))]
    for place, look in rules:
        ax.axvline(place - 0.5, **look)
        if place > S - T:  # else it lies above all the queries
            ax.axhline(place - 0.5 - (S - T), **look)
    ax.set_xticks(range(S), names, rotation=90)
    ax.set_yticks(range(T), names[S - T :])
    ax.set_xlabel("key: token read from")
    ax.set_ylabel("query: token that reads")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def attention_maps(maps, words, splits=(), virtual=0):
    """All attention maps of a model: a row for each layer's (H, T, S), a column for each head, one scale of colour.

    words, splits, virtual: as in `attention`.
    """
    layers, (heads, T, S) = len(maps), maps[0].shape
    wide = min(2.45 * heads + 0.8, WIDEST)
    high = (wide - 0.5) / heads * layers * T / S + 1.9
    axes = new(wide, high, heads, layers, squeeze=False, sharex=True, sharey=True)
    for (layer, head), ax in np.ndenumerate(axes):
        attention(maps[layer][head], words, ax, f"layer {layer}, head {head}", splits, virtual)
        ax.label_outer()
        ax.set(xlabel="", ylabel="")
    figure = axes[0, 0].figure
    figure.supxlabel("key: token read from", fontsize=10)
    figure.supylabel("query: token that reads", fontsize=10)
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, location="top", shrink=0.4, aspect=40, pad=0.03)
    bar.set_label("attention weight (grey: not visible)")
    return axes


def virtual_positions(virtual, keys):
    """Which of the keys are virtual tokens, (S,) booleans. virtual: how many, at the beginning, or their places."""
    learned = np.zeros(keys, dtype=bool)
    learned[list(range(virtual) if isinstance(virtual, int) else virtual)] = True
    return learned


def virtual_share(maps, virtual):
    """How much of their attention the real tokens give to the virtual ones, (L, H), and how much it were if even.

    Even is the same weight for every key that a token may see.

    Args:
        maps: for each layer the weights (H, T, S); or (B, H, T, S), of rows without padding, for their mean.
        virtual: how many of the keys, the first ones, are virtual tokens, or the places of those that are.
    """
    shares, even = [], []
    for weights in (torch.as_tensor(w).detach().cpu() for w in maps):
        H, T, S = weights.shape[-3:]
        learned = torch.from_numpy(virtual_positions(virtual, S))
        weights = weights[..., ~learned[S - T :], :]  # (…, H, real tokens, S)
        shares.append(weights[..., learned].sum(-1).mean(-1).reshape(-1, H).mean(0))
        visible = (weights > 0).float()
        even.append((visible[..., learned].sum(-1) / visible.sum(-1)).mean())
    return torch.stack(shares), float(torch.stack(even).mean())


def attention_share(found, ax=None):
    """Bars for each layer and head: the share of the real tokens' attention that virtual tokens get.

    found: {label: what `virtual_share` gives}. A black line across a bar is the share if attention were even.
    """
    shape = {tuple(shares.shape) for shares, _ in found.values()}
    if len(shape) > 1:
        raise ValueError(f"the models must have as many layers and heads as each other, got {sorted(shape)}")
    layers, heads = shape.pop()
    ax = bare(ax or new(min(WIDEST, 2.4 + 0.34 * layers * (heads + 2) * len(found) ** 0.5), 3.2))
    group, width = heads + 2, 0.84 / len(found)  # a bar more for the mean, and a gap
    mean = heads + 0.25
    for i, (label, (shares, even), colour) in enumerate(zip(found, found.values(), shades(found), strict=True)):
        for layer, each in enumerate(np.asarray(shares)):
            x = layer * group + np.append(np.arange(heads), mean) + (i - (len(found) - 1) / 2) * width
            ax.bar(x, [*each, each.mean()], 0.95 * width, color=colour, label=None if layer else label)
            ax.hlines([even] * len(x), x - width / 2, x + width / 2, color=INK, lw=1.5)
    ticks = {k * group + head: str(head) for k in range(layers) for head in range(heads)}
    ax.set_xticks(*zip(*(ticks | {k * group + mean: "mean" for k in range(layers)}).items(), strict=True))
    for layer in range(layers):
        middle = layer * group + mean / 2
        say(ax, middle, 1.06, f"layer {layer}", transform=ax.get_xaxis_transform())
    ax.set_ylim(0, 1)
    ax.set_xlabel("head, and the mean over heads")
    ax.set_ylabel("attention to virtual tokens\n(share of the real tokens')")
    ax.tick_params(axis="x", length=0, labelsize=9)
    line = Line2D([], [], color=INK, lw=1.5, label="if it were even")
    handles = [*ax.containers[::layers], line]
    legend(ax, handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=min(len(handles), 2))
    return ax


def fusion_weights(weights, names, mask=None, words=None, axes=None):
    """Attention of AdapterFusion to its adapters: for each layer, token by token, the mean of α over the examples.

    Args:
        weights: {path: α (B, T, N)}, the `weights` of `adapter_fusion.fusions(model)` after a pass.
        names: of the N adapters, the tasks they were trained on.
        mask: (B, T), False at padding, which is left out.
        words: names of the T positions; their numbers if None.
    """
    (B, T, N), layers = next(iter(weights.values())).shape, len(weights)
    if axes is None:
        axes = new(min(3.4 + 0.38 * T, WIDEST), 1 + layers * (0.45 + 0.3 * N), rows=layers, sharex=True)
    axes = np.atleast_1d(axes)
    real = (torch.ones(B, T) if mask is None else mask.float().cpu()).numpy()
    empty = np.tile(real.sum(0) == 0, (N, 1))
    for (path, α), ax in zip(weights.items(), axes, strict=True):
        α = α.detach().float().cpu().numpy()
        mean = np.einsum("btn,bt->nt", α, real / real.sum(0).clip(1))  # (N, T)
        image = heatmap(ax, np.ma.masked_where(empty, mean), AMOUNT, 0, 1, "{:.2f}", aspect="auto")
        ax.set_facecolor(PALE)
        ax.set_yticks(range(N), names)
        ax.set_xticks(range(T), range(T) if words is None else words)
        ax.set_title(path.replace("blocks.", "block "), fontsize=9, loc="left")
        ax.set_ylabel("adapter of")
        ax.spines[:].set_visible(False)
    axes[-1].set_xlabel("token at which the adapters are mixed")
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.01).set_label("attention α, mean over examples")
    return axes
