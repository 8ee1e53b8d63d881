"""Figures of single methods: what each looks like once it is trained."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.patches import Rectangle

from minipeft import deltas
from minipeft.attach import disabled
from minipeft.methods.adapter import Bottleneck
from minipeft.methods.dora import decompose
from minipeft.methods.qlora import decode, encode, levels_of, predicted_bits
from minipeft.plots.style import AMOUNT, GREY, INK, PALE, bare, hue, new, readable, shades


def short(name):
    """`blocks.0.attn.q.weight` as figures call it: `0.attn.q`."""
    return name.removeprefix("blocks.").removesuffix(".weight").removesuffix(".bias")


@torch.no_grad()
def activations(model, batch):
    """What passes through every adapter, {path: (h, z, A(h))}: (N, d) in, (N, m) inside behind φ, (N, d) out.

    A row for each of the N tokens of the batch that are not padding.
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
        model(batch.tokens, batch.mask)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def variances(X):
    """Shares of the variance of the rows of X (N, n) along its principal directions, largest first; their sum is 1."""
    energy = torch.linalg.svdvals((X - X.mean(0)).double()) ** 2
    return (energy / energy.sum()).numpy()


def bottleneck(through, ax=None, label="Pfeiffer", enough=0.9):
    """How many directions hold how much of the variance before, inside and behind a bottleneck.

    through: (h, z, A(h)), one entry of `activations`. enough: a share; how many directions hold it is marked and told.
    """
    ax = bare(ax or new(6.5, 3.4))
    h, z, _ = through
    d, m, colour = h.shape[1], z.shape[1], hue(label)
    names = (f"before: h, d = {d}", f"inside: z = φ(D h), m = {m}", f"behind: A(h), d = {d}")
    looks = [
        {"color": c, "marker": mark, "ls": ls}
        for c, mark, ls in ((GREY, "s", "-"), (colour, "^", "--"), (colour, "o", "-"))
    ]
    ax.axhline(enough, color=INK, lw=0.8, ls=":")
    for X, name, look in zip(through, names, looks, strict=True):
        held = np.cumsum(variances(X))
        needed = int(np.searchsorted(held, enough)) + 1
        name += f"; {needed} hold{'s' * (needed == 1)} {enough:.0%}"
        ax.plot(np.arange(1, len(held) + 1), held, ms=4, label=name, **look)
        ax.plot(needed, held[needed - 1], marker=look["marker"], ms=11, mfc="none", mec=INK, zorder=4)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_ylim(0, 1.04)
    ax.set_xlabel("principal directions, the largest first (number)")
    ax.set_ylabel("variance they hold (share)")
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return ax


def rank_map(histories, budget, axes=None, label="AdaLoRA"):
    """AdaLoRA at work: above its budget b(t), below what rank each matrix was left with.

    Args:
        histories: {path: [(t, rank), ...]}, the `history` of each of `adalora.layers(model)`.
        budget: b(t) for t = 0, ..., steps: [method.budget(t, steps, matrices) for t in range(steps + 1)].
    """
    if axes is None:
        size = {"figsize": (7.5, 1.9 + 0.24 * len(histories)), "layout": "constrained", "dpi": 80}
        ratios = [1.6, 0.24 * len(histories)]
        axes = plt.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": ratios}, **size)[1]
    above, below = bare(axes[0]), bare(axes[1])
    colour, steps = hue(label), len(budget) - 1
    moments = [t for t, _ in next(iter(histories.values()))]
    ranks = np.array([[rank for _, rank in history] for history in histories.values()])  # (matrices, moments)
    above.plot(budget, color=colour, lw=2, label="budget b(t)")
    above.plot(moments, ranks.sum(0), "o", ms=5, mfc="white", mec=INK, label="ranks of all matrices")
    above.set_ylim(bottom=0)
    above.set_ylabel("triplets kept")
    above.legend(frameon=False, fontsize=9)
    most = int(ranks.max())
    shown = LinearSegmentedColormap.from_list("ranks", AMOUNT(np.linspace(0, 0.85, 256)), N=most + 1)
    edges = [*moments, steps]
    below.pcolormesh(
        edges, np.arange(len(ranks) + 1), ranks, cmap=shown, norm=BoundaryNorm(np.arange(most + 2) - 0.5, most + 1),
        edgecolors="#cccccc", lw=0.4,
    )  # fmt: skip
    for (i, j), rank in np.ndenumerate(ranks):
        if edges[j + 1] - edges[j] > 0.025 * steps:
            middle = (edges[j] + edges[j + 1]) / 2
            text = {"ha": "center", "va": "center", "fontsize": 8, "color": readable(shown(rank / max(most, 1))[:3])}
            below.text(middle, i + 0.5, rank, **text)
    below.set_yticks(np.arange(len(ranks)) + 0.5, map(short, histories))
    below.tick_params(axis="y", length=0, labelsize=8)
    below.invert_yaxis()
    below.set_xlim(0, steps)
    below.set_xlabel("training step t")
    below.set_ylabel("matrix (cells: its rank)")
    return axes


def levels(names=("nf4", "int4", "fp4"), values=None, block_size=64, ax=None, label="QLoRA"):
    """The levels of 4-bit formats under the density of the values they have to hold.

    names: of `qlora.TYPES`. values: a tensor, cut into blocks that are divided by their largest; normal ones if None.
    A strip for each format: its levels are lines, the cell of each has the colour of the share of values in it.
    """
    ax = bare(ax or new(8, 1.9 + 0.5 * len(names)))
    if values is None:
        values = torch.randn(1000 * block_size, generator=torch.Generator().manual_seed(0))
    values = values.detach().float().cpu().flatten()
    values = values[: len(values) // block_size * block_size]
    scaled = (values.view(-1, block_size) / values.view(-1, block_size).abs().amax(1, keepdim=True)).flatten().numpy()
    σ, x = scaled.std(), np.linspace(-1, 1, 401)
    normal = np.exp(-(x**2) / (2 * σ**2))  # as high as 1
    bins = np.linspace(-1, 1, 82)
    heights = np.histogram(scaled, bins)[0] / (len(scaled) * (bins[1] - bins[0])) * σ * math.sqrt(2 * math.pi)
    ax.stairs(heights, bins, fill=True, color=PALE, label=f"values / largest of their {block_size}")
    ax.plot(x, normal, color=INK, lw=1.2, label=f"normal density, σ = {σ:.2f}")
    first = levels_of(names[0]).numpy()
    ax.vlines(first, 0, np.interp(first, x, normal), color=hue(label), lw=1, label=f"levels of {names[0]}")
    shares, texts = {}, []
    for name in names:
        table = levels_of(name)
        codes, absmax = encode(values, table, block_size)
        error = (decode(codes, absmax, table, block_size) - values).norm() / values.norm()
        shares[name] = torch.bincount(codes.long(), minlength=len(table)).numpy() / len(codes)
        texts.append(f"{len(table)} levels\nerror {100 * error:.1f} %")
    scale = plt.Normalize(0, max(share.max() for share in shares.values()))
    for i, name in enumerate(names):
        at = levels_of(name).numpy()
        edges, y = [-1, *(at[1:] + at[:-1]) / 2, 1], -0.42 * (i + 1)
        for left, right, share in zip(edges, edges[1:], shares[name], strict=False):
            ax.add_patch(Rectangle((left, y), right - left, 0.26, facecolor=AMOUNT(scale(share)), edgecolor="white"))
        ax.vlines(at, y - 0.04, y + 0.3, color=INK, lw=1.4)
        ax.text(1.05, y + 0.13, texts[i], va="center", fontsize=8, color=INK)
    ax.set(xlim=(-1.02, 1.02), ylim=(-0.42 * len(names) - 0.08, 1.08))
    ax.set_yticks([0.13 - 0.42 * (i + 1) for i in range(len(names))], names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("value / largest of its block")
    ax.set_ylabel("density", y=(0.42 * len(names) + 0.6) / (0.42 * len(names) + 1.16))
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.02), handlelength=1.2)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(scale, AMOUNT), ax=ax, pad=0.02, fraction=0.03)
    bar.set_label("values in the cell (share)")
    return ax


def block_error(W, outlier=20.0, block_size=64, quant_type="nf4", sizes=(16, 32, 64, 128, 256, 512), axes=None,
                label="QLoRA"):  # fmt: skip
    """What one outlier does to the block it is in, left, and what the size of the blocks does to that, right.

    W is rounded as it is, and once more with one value raised to `outlier` standard deviations. An error is the root
    mean square of what rounding changes, over the standard deviation of W; the outlier itself does not count.
    """
    axes = new(10, 3, columns=2) if axes is None else axes
    left, right = bare(axes[0]), bare(axes[1])
    clean = W.detach().float().cpu().flatten()
    whole = math.lcm(block_size, *sizes)
    if len(clean) < whole:
        raise ValueError(f"W has {len(clean)} values, blocks of up to {max(sizes)} need {whole}; take smaller sizes")
    clean = clean[: len(clean) // whole * whole]
    place, σ = len(clean) // 2, clean.std()
    spoiled = clean.clone()
    spoiled[place] = outlier * σ
    others = torch.arange(len(clean)) != place

    def squares(values, block):
        """The squared error of each value, in units of σ²."""
        table = levels_of(quant_type)
        return ((decode(*encode(values, table, block), table, block) - values) / σ) ** 2 * others

    series = {"no outlier": (clean, GREY), f"one value at {outlier:g} σ": (spoiled, hue(label))}
    here = place // block_size
    near = slice(max(0, here - 15), here + 17)  # blocks to be drawn
    for name, (values, colour) in reversed(series.items()):  # grey in front: the rest is what the outlier did
        errors = squares(values, block_size).view(-1, block_size).mean(1).sqrt().numpy()
        left.bar(np.arange(len(errors))[near], errors[near], width=0.8, color=colour, label=name)
        if values is spoiled:
            left.annotate("block of the outlier", (here, errors[here]), (6, -2), textcoords="offset points", fontsize=8)
    left.axhline(1, color=INK, lw=0.8, ls=":")
    left.text(near.start, 1.02, "if all were rounded to zero", fontsize=8, color=INK, va="bottom")
    left.set_ylim(0, 1.18)
    left.set_xlabel(f"block of {block_size} values (index)")
    left.set_ylabel("error of the block (σ of W)")
    for (name, (values, colour)), marker in zip(series.items(), "so", strict=True):
        errors = [float(squares(values, block).mean().sqrt()) for block in sizes]
        right.plot(sizes, errors, "-", marker=marker, color=colour, label=name)
    right.set_xscale("log", base=2)
    right.minorticks_off()
    right.set_xticks(sizes, [f"{block}\n{predicted_bits(block, double_quant=False):.3g}" for block in sizes])
    right.set_ylim(bottom=0)
    right.set_xlabel("values in a block (below: bits stored per weight)")
    right.set_ylabel("error of all values (σ of W)")
    right.legend(frameon=False, fontsize=9)
    return axes


def biases(model, ax=None):
    """How far each bias vector moved, ‖Δb‖/‖b‖: a row for each kind, a column for each block; grey where none did.

    The bias of the keys is hatched: it adds the same to all scores of a query, so its moving changes nothing.
    """
    with disabled(model):
        names = [name.removesuffix(".bias") for name, _ in model.named_parameters() if name.endswith(".bias")]
    moved = {name.removesuffix(".bias"): pair for name, pair in deltas.updates(model).items() if name.endswith(".bias")}
    change = {name: float(d.norm() / b.norm().clamp(min=1e-12)) for name, (b, d) in moved.items()}
    spots = {}  # name: (row, column)
    for name in names:
        _, number, rest = name.split(".", 2) if name.startswith("blocks.") else ("", "", name)
        spots[name] = rest, f"block {number}" if number else "outside"
    rows, cols = (list(dict.fromkeys(spot[i] for spot in spots.values())) for i in (0, 1))
    ax = bare(ax or new(2.9 + 0.75 * len(cols), 0.9 + 0.28 * len(rows)))
    top = max(change.values(), default=0) or 1
    low = max(min((v for v in change.values() if v), default=top / 10), top / 1000)
    norm = LogNorm(min(low, top / 10), top, clip=True)
    shown = LinearSegmentedColormap.from_list("shown", AMOUNT(np.linspace(0.15, 0.95, 256)))
    for name, (row, column) in spots.items():
        value, x, y = change.get(name), cols.index(column), rows.index(row)
        face = shown(norm(value))[:3] if value else to_rgb(PALE)
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", gid=name))
        if row.endswith("attn.k"):
            ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="white", hatch="///", lw=0))
        if value:
            box = {"facecolor": face, "edgecolor": "none", "pad": 1} if row.endswith("attn.k") else None
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": readable(face), "bbox": box}
            ax.text(x + 0.5, y + 0.5, f"{value:.2f}" if value < 9.95 else f"{value:.0f}", **style)
    ax.set(xlim=(0, len(cols)), ylim=(len(rows), 0))
    ax.set_xticks(np.arange(len(cols)) + 0.5, cols)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [row + " (idle)" * row.endswith("attn.k") for row in rows])
    ax.tick_params(length=0, labelsize=9)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("where in the model")
    ax.set_ylabel("bias of")
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(norm, shown), ax=ax, pad=0.03, fraction=0.06)
    marks = np.geomspace(norm.vmin, norm.vmax, 3)
    bar.set_ticks(marks, labels=[f"{mark:.2g}" for mark in marks])
    bar.minorticks_off()
    bar.set_label("‖Δb‖ / ‖b‖  (grey: frozen)", fontsize=9)
    return ax


def fusion_weights(weights, names, mask=None, words=None, axes=None):
    """To which adapter AdapterFusion attends: for each layer, position by position, the mean of α over the lines.

    Args:
        weights: {path: α (B, T, N)}, the `weights` of `adapter_fusion.fusions(model)` after a pass.
        names: of the N adapters, the tasks they were trained on.
        mask: (B, T), False at padding, which is left out.
        words: names of the T positions; their numbers if None.

    At the right, mean and standard deviation over all tokens.
    """
    (B, T, N), layers = next(iter(weights.values())).shape, len(weights)
    if axes is None:
        figure = {"figsize": (3.8 + 0.36 * T, 0.9 + layers * (0.45 + 0.3 * N)), "layout": "constrained", "dpi": 80}
        axes = np.atleast_1d(plt.subplots(layers, 1, sharex=True, **figure)[1])
    real = torch.ones(B, T) if mask is None else mask.float().cpu()
    real = real.numpy()
    for (path, α), ax in zip(weights.items(), axes, strict=True):
        α = α.detach().float().cpu().numpy()
        mean = np.einsum("btn,bt->nt", α, real / real.sum(0).clip(1))  # (N, T)
        tokens = α[real > 0]  # (tokens, N)
        image = ax.imshow(np.ma.masked_where(np.tile(real.sum(0) == 0, (N, 1)), mean), cmap=AMOUNT, vmin=0, vmax=1)
        image.axes.set(aspect="auto", facecolor=PALE)
        for (n, t), value in np.ndenumerate(mean):
            style = {"ha": "center", "va": "center", "fontsize": 7, "color": readable(AMOUNT(value)[:3])}
            ax.text(t, n, f"{100 * value:.0f}", **style)
        for n, (average, spread) in enumerate(zip(tokens.mean(0), tokens.std(0), strict=True)):
            ax.text(T - 0.3, n, f"{average:.2f} ± {spread:.2f}", va="center", fontsize=9, color=INK)
        ax.set_yticks(range(N), names)
        ax.set_xticks(range(T), range(T) if words is None else words)
        ax.tick_params(length=0)
        ax.set_title(path.replace("blocks.", "block "), fontsize=9, loc="left")
        ax.set_ylabel("adapter of")
        ax.spines[:].set_visible(False)
    axes[0].text(T - 0.3, -0.62, "mean ± s. d.\nover tokens", va="bottom", fontsize=8, color=INK)
    axes[-1].set_xlabel("token at which the adapters are asked (cells: mean of α in %)")
    return axes


def magnitude_direction(updates, axes=None):
    """How each row of the weights changed in length and in direction, side by side for several methods.

    updates: {label: {name: (W, ΔW)}}, of `deltas.updates`; matrices that not all of them changed are left out. A dot is
    a row, a white mark the median of a matrix. Dotted: where a change at right angles to the row takes it, 1 / cos θ.
    r: the correlation of what is drawn, of the angle and of |log₂| of the ratio of lengths.
    """
    common = [name for name in next(iter(updates.values())) if all(name in of for of in updates.values())]
    common = [name for name in common if next(iter(updates.values()))[name][0].ndim == 2]
    if not common:
        raise ValueError("there is no matrix that all of them changed; give the methods the same targets")
    if axes is None:
        axes = np.atleast_1d(new(3 * len(updates) + 1.2, 3.6, columns=len(updates), sharex=True, sharey=True))
    widest = 1.0
    for (label, pairs), colour, ax in zip(updates.items(), shades(updates), axes, strict=True):
        points = {}
        for name in common:
            W, ΔW = (t.float().cpu() for t in pairs[name])
            (before, was), (after, now) = decompose(W), decompose(W + ΔW)
            angle = torch.rad2deg(torch.acos((was * now).sum(1).clamp(-1, 1)))
            points[name] = angle.numpy(), (after / before).numpy()
        angles, ratios = (np.concatenate([pair[i] for pair in points.values()]) for i in (0, 1))
        with np.errstate(invalid="ignore"):  # where nothing changed there is no correlation
            r = np.corrcoef(angles, np.abs(np.log2(ratios)))[0, 1]
        bare(ax).plot(angles, ratios, "o", ms=3, color=colour, alpha=0.45, mew=0)
        for (name, pair), marker in zip(points.items(), itertools.cycle("os^Dv<>pX*"), strict=False):
            ax.plot(*map(np.median, pair), marker, ms=8, mfc="white", mec=INK, mew=1.3, label=short(name), zorder=4)
        θ = np.linspace(0, 85, 200)
        ax.plot(θ, 1 / np.cos(np.deg2rad(θ)), ":", color=INK, lw=1.2, label="1 / cos θ")
        ax.axhline(1, color=GREY, lw=0.8)
        ax.set_title(f"{label}, r = {r:.2f}", fontsize=10)
        ax.set_xlabel("change of direction θ (degrees)")
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
        widest = max(widest, angles.max())
    for ax in axes:
        ax.set_xlim(0, 1.05 * widest)
    axes[0].set_ylabel("length of the row, new / old")
    axes[-1].legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), title="median of", title_fontsize=8
    )
    return axes
