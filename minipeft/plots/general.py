"""Figures for any method: training curves, bars, accuracy against parameters, the three doors, what a check found."""

import numpy as np
from matplotlib.patches import Rectangle

from minipeft.plots.style import FROZEN, INK, SIGNED, SPARE, bare, dash, mark, new, shades, spread


def curves(histories, quantity="loss", ax=None, window=10):
    """Training curves. histories: {label: History}; quantity: "loss" or "accuracy"; smoothed over `window` steps."""
    ax = bare(ax or new())
    for (label, history), colour in zip(histories.items(), shades(histories), strict=True):
        values = np.array(getattr(history, quantity))
        over = min(window, len(values))
        smooth = np.convolve(values, np.ones(over) / over, "valid")
        ax.plot(np.arange(len(smooth)) + over, smooth, color=colour, ls=dash(label), label=label)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss (nats per token)" if quantity == "loss" else "lines right (share)")
    if quantity == "loss":
        ax.set_yscale("log")
    ax.legend(frameon=False)
    return ax


def bars(values, ax=None, label="lines right (share)", colour=FROZEN):
    """A horizontal bar for each {label: number}, the number at its end; of a list the mean, and a dot for each."""
    ax = bare(ax or new(6.5, 0.6 + 0.36 * len(values)))
    for y, value in enumerate(values.values()):
        several = np.atleast_1d(value)
        mean, top = several.mean(), several.max()
        ax.barh(y, mean, height=0.62, color=colour)
        if len(several) > 1:
            ax.plot(several, np.full(len(several), y), "o", ms=4, color=INK, alpha=0.6, clip_on=False)
        text = f"{mean:,.0f}" if mean.is_integer() and top > 1 else f"{mean:.2f}"
        ax.annotate(text, (top, y), (7, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(values)), values)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.14)
    ax.set_xlim(left=0)
    ax.set_xlabel(label)
    if ax.get_xlim()[1] > 1000:
        ax.xaxis.set_major_formatter("{x:,.0f}")
    return ax


def differs(expected, yours):
    """Expected, yours, and yours − expected, as maps on one scale: what a check found. Arrays of one shape. Three Axes.

    A vector is a row; of more than two dimensions all but the last lie below each other.
    """
    maps = [np.atleast_2d(np.asarray(a, dtype=float)) for a in (expected, yours)]
    maps = [a.reshape(-1, a.shape[-1]) for a in maps]
    maps.append(maps[1] - maps[0])
    rows, columns = maps[0].shape
    limit = np.nanmax(np.abs(maps)) or 1.0
    width = min(max(0.28 * columns, 1.6), 2.9)
    axes = new(3 * width + 1.2, min(max(0.28 * rows, 0.6), 3.2) + 0.9, columns=3)
    for ax, values, title in zip(axes, maps, ("expected", "yours", "yours − expected"), strict=True):
        image = ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("column", fontsize=9)
        ax.set_xticks(range(0, columns, -(-columns // 6)))
        ax.set_yticks(range(0, rows, -(-rows // 6)))
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("row", fontsize=9)
    axes[0].figure.colorbar(image, ax=axes, label="value", shrink=0.9)
    return axes


def pareto(rows, ax=None):
    """Accuracy and trainable parameters, one point for each method with the range over seeds.

    rows: dictionaries with `method`, `parameters`, `accuracy` (list over seeds), as `comparison.compare` gives them.
    The names stand in columns outside, on the left for an accuracy of a half or less, tied to their points by lines.
    """
    ax = bare(ax or new(6.5, max(3.6, 1 + 0.15 * len(rows))))
    ax.axvspan(0, 1, color="#f4f4f4", zorder=0)  # points are inside, keys to the names outside
    rows = sorted(rows, key=lambda row: row["parameters"])
    sides = {"left": [], "right": []}
    for row, colour in zip(rows, shades([r["method"] for r in rows]), strict=True):
        values, y = np.array(row["accuracy"]), row["parameters"]
        x = values.mean().clip(values.min(), values.max())  # rounding may put it outside
        ax.errorbar(
            x, y, xerr=[[x - values.min()], [values.max() - x]], ls="none", color=colour, capsize=3, zorder=3,
            **mark(row["method"]),
        )  # fmt: skip
        sides["right" if x > 0.5 else "left"].append((row["method"], x, y, colour))
    ax.set_yscale("log")
    ax.margins(y=0.05)
    ax.set_xlabel("lines right (share), mean and range over seeds")
    ax.set_ylabel("trainable parameters")
    ax.figure.draw_without_rendering()  # now the layout has its sizes
    width, height = ax.bbox.size * 72 / ax.figure.dpi  # in points, like sizes of text
    room = {"left": 12, "right": 12}
    across = ax.get_xaxis_transform()  # x as data, y as a share of the height
    for side, chosen in sides.items():
        names = [ax.annotate(
            name, (0, 0), (7 if side == "right" else -7, 0), xycoords=across, textcoords="offset points",
            fontsize=8, color=INK, va="center", ha="left" if side == "right" else "right",
        ) for name, *_ in chosen]  # fmt: skip
        if names:
            room[side] = 50 + 72 / ax.figure.dpi * max(name.get_window_extent().width for name in names)
        sides[side] = chosen, names
    one = max(width - sum(room.values()), 40)  # so many points wide is the share 1
    for side, (chosen, names) in sides.items():
        column = 1 + 36 / one if side == "right" else -36 / one
        wanted = [ax.transAxes.inverted().transform(ax.transData.transform((x, y)))[1] for _, x, y, _ in chosen]
        places = spread(wanted, 10.5 / height, 0.01, 0.99)
        for (label, x, _, colour), name, start, end in zip(chosen, names, wanted, places, strict=True):
            name.xy = column, end
            ax.plot([x, column], [start, end], color=colour, lw=0.8, zorder=1, transform=across)
            ax.plot(column, end, color=colour, transform=across, **mark(label) | {"ms": 5})
    ax.set_xlim(-room["left"] / one, 1 + room["right"] / one)
    ax.set_xticks(np.linspace(0, 1, 6 if one > 120 else 3))
    ax.spines["bottom"].set_bounds(0, 1)
    return ax


def doors(layers=2, ax=None):
    """The Transformer as a map: the residual stream runs to the right, and three doors are where a method steps in."""
    ax = ax or new(9, 3.8)
    door = SPARE[0]

    def box(x, y, width, height, text, edge=INK, fill="#efefef"):
        ax.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, lw=1.2, zorder=3))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color=INK, zorder=4)

    def arrow(*points):
        xs, ys = zip(*points, strict=True)
        ax.plot(xs[:-1], ys[:-1], color=INK, lw=1.2, zorder=1)
        ax.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2}, zorder=2)

    def mark(x, y, number):
        ax.plot(x, y, "o", ms=15, color=door, zorder=5)
        ax.text(x, y, str(number), ha="center", va="center", color="white", weight="bold", fontsize=9, zorder=6)

    ax.add_patch(Rectangle((3.15, -0.55), 9.75, 4.75, facecolor="none", edgecolor="#999999", ls="--", lw=1))
    ax.text(12.75, 3.9, f"block, {layers} times", ha="right", va="center", fontsize=9, color=INK)
    ax.text(0.45, 0, "tokens", ha="center", va="center", fontsize=9, color=INK)
    arrow((0.95, 0), (1.4, 0))
    box(1.4, -0.35, 1.4, 0.7, "embed", door)
    ax.plot([2.8, 12.9], [0, 0], color=FROZEN, lw=5, zorder=0, solid_capstyle="butt")
    ax.text(3.3, -0.3, "residual stream: (B, T, d)", fontsize=8, color=INK, va="center")
    for x, name, parts in ((3.5, "attn", ("q", "k", "v", "o")), (8.3, "mlp", ("up", "down"))):
        arrow((x + 0.2, 0), (x + 0.2, 0.75))
        box(x - 0.25, 0.75, 0.95, 0.55, f"norm{1 if name == 'attn' else 2}")
        arrow((x + 0.2, 1.3), (x + 0.2, 2.1), (x + 0.8, 2.1))
        box(x + 0.8, 1.45, 2.65, 1.6, "", door, "#ffffff")
        ax.text(x + 2.1, 2.8, name, ha="center", va="center", fontsize=9, color=INK, zorder=4)
        width = 2.25 / len(parts)
        for i, part in enumerate(parts):
            box(x + 1.05 + i * width, 1.7, width - 0.1, 0.75, part, door)
        mark(x + 1.05, 2.45, 1)
        arrow((x + 3.45, 2.1), (x + 3.95, 2.1), (x + 3.95, 0.2))
        mark(x + 3.95, 1.35, 2)
        ax.text(x + 3.95, 0, "+", ha="center", va="center", fontsize=14, weight="bold", color=INK, zorder=4)
    box(5.0, 3.45, 1.6, 0.5, "k v cache", door)
    arrow((5.8, 3.45), (5.8, 3.05))
    mark(5.0, 3.95, 3)
    mark(1.4, 0.35, 3)
    for x, name in ((13.1, "norm"), (14.5, "head")):
        arrow((x - 0.2, 0), (x + 0.05, 0))
        box(x + 0.05, -0.35, 1.05, 0.7, name)
    arrow((15.6, 0), (16.0, 0))
    ax.text(16.1, 0, "logits", va="center", fontsize=9, color=INK)
    names = ("a weight: q k v o, up down", "a sublayer: what attn or mlp adds", "the token stream: embed and the cache")
    for i, (x, name) in enumerate(zip((0.3, 5.3, 11.0), names, strict=True)):
        mark(x, -1.25, i + 1)
        ax.text(x + 0.4, -1.25, name, va="center", fontsize=9, color=INK)
    ax.set_xlim(-0.2, 17.2)
    ax.set_ylim(-1.65, 4.3)
    ax.axis("off")
    return ax
