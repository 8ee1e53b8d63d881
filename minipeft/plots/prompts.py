"""Figures of soft prompts and prefixes: the words they are nearest to, how they moved, how similar they are."""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from minipeft.plots.boxes import disc, say
from minipeft.plots.style import AMOUNT, FROZEN, GREY, HUES, INK, SIGNED, WIDEST, bare, heatmap, new, readable


def nearest_tokens(P, table, best=3):
    """The tokens whose embeddings, rows of `table` (V, d), are most similar to each vector of P (n, d).

    Returns cosine similarities and tokens, both (n, best), the most similar first.
    """
    return (F.normalize(P, dim=1) @ F.normalize(table, dim=1).T).topk(best)


def nearest_words(P, table, words, best=3, seed=0, rows=None):
    """The `best` words for each vector of a soft prompt, by cosine similarity; beside them those for random vectors.

    What random vectors are similar to is chance (they are normal; a cosine knows no length). Their title tells what the
    similarity to the best word stays below for 95 % of 1,000 of them.

    Args:
        P: (n, d), what was learned.
        table: (V, d), the embeddings of the tokens; words: their names.
        rows: n names of the vectors, if they are not the virtual tokens P1 to Pn of one prompt.
    """
    P, table = P.detach().float().cpu(), table.detach().float().cpu()
    chance = torch.randn(1000, P.shape[1], generator=torch.Generator().manual_seed(seed))
    limit = float(nearest_tokens(chance, table, 1).values.quantile(0.95))
    axes = new(min(2 * (1.1 + 1.15 * best), 9), 1.5 + 0.36 * len(P), columns=2, sharey=True)
    titles = "learned vectors", f"random vectors\n(best word: below {limit:.2f} for 95 %)"
    for ax, vectors, title in zip(axes, (P, chance[: len(P)]), titles, strict=True):
        values, tokens = nearest_tokens(vectors, table, best)
        image = heatmap(ax, values.numpy(), AMOUNT, 0, 1, aspect="auto")
        for (i, j), value in np.ndenumerate(values.numpy()):
            say(ax, j, i, f"{words[tokens[i, j]]}  {value:.2f}", color=readable(AMOUNT(value)[:3]))
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(best), [f"{k + 1}." for k in range(best)])
        ax.set_yticks(range(len(P)), rows or [f"P{i + 1}" for i in range(len(P))])
        ax.spines[:].set_visible(False)
        ax.set_xlabel("nearest words, best first")
    axes[0].set_ylabel("" if rows else "virtual token")
    axes[0].figure.colorbar(image, ax=axes, pad=0.01).set_label("cosine similarity")
    return axes


def similarity_maps(found, name="virtual token", label="cosine similarity"):
    """How similar vectors are to each other, a square map for each {title: (n, n)}. A list of Axes.

    All maps have one scale, from −1 to 1; small ones show their numbers. name: of what stands in rows and columns,
    counted from 1, or a pair of names if they differ. label: what the numbers are.
    """
    row, column = (name, name) if isinstance(name, str) else name
    n = max(len(values) for values in found.values())
    side = min(1.2 + 0.4 * n, 3.2)
    axes = np.atleast_1d(new(min(side * len(found) + 1, 9), side + 0.4, columns=len(found), sharey=True))
    for ax, (title, values) in zip(axes, found.items(), strict=True):
        values = torch.as_tensor(values).detach().cpu().numpy()
        image = heatmap(ax, values, SIGNED, -1, 1, "{:.2f}" if len(values) <= 6 else "", first=1)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(column)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(min(n, 8), integer=True))
    axes[0].set_ylabel(row)
    axes[0].figure.colorbar(image, ax=list(axes), pad=0.01).set_label(label)
    return list(axes)


def principal_plane(table):
    """The plane in which the rows of `table` (V, d) differ most, its first two principal components.

    Returns their mean (d,), the two directions (2, d), and the share of the variance along each (2,).
    """
    mean = table.mean(0)
    _, s, V = torch.linalg.svd(table - mean, full_matrices=False)
    sign = V.gather(1, V.abs().argmax(1, keepdim=True)).sign()  # an SVD leaves it open
    return mean, (sign * V)[:2], (s**2 / (s**2).sum())[:2]


def around(at, size):
    return Bbox.from_extents(*(at - size / 2), *(at + size / 2))


def name_points(ax, names, points, avoid=(), **kwargs):
    """Names beside their points (N, 2): not on each other, and on as few of the points to `avoid` as can be.

    Limits, labels and titles must be there already. A name that stands far from its point is tied to it by a line.
    Returns the texts.
    """
    ax.figure.draw_without_rendering()  # now the layout has its sizes
    points, pixels = np.asarray(points, dtype=float), ax.figure.dpi / 72
    spots = ax.transData.transform([*points, *np.reshape(avoid, (-1, 2))])
    dots, texts, taken, lines = [around(at, 8 * pixels) for at in spots], [], [], []
    for name, point, at in zip(names, points, spots, strict=False):
        text = ax.annotate(
            name, point, (0, 0), textcoords="offset points", ha="center", va="center", zorder=6,
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}, **kwargs,
        )  # fmt: skip
        size, tried = Text.get_window_extent(text).size / pixels, []  # without the line
        for far, turn in product((5, 9, 14, 20, 27, 35, 44, 54), np.arange(16) * np.pi / 8):
            offset = np.array([np.cos(turn), np.sin(turn)]) * (far + size / 2)
            box, line = around(at + pixels * offset, pixels * size), Path([at, at + pixels * offset])
            crossed = sum(line.intersects_bbox(other, False) for other in taken)
            crossed += sum(other.intersects_bbox(box, False) for other in lines)
            outside = not np.allclose(Bbox.union([ax.bbox, box]).size, ax.bbox.size)
            cost = 1000 * (box.count_overlaps(taken) + outside) + 20 * crossed + box.count_overlaps(dots) + far / 9
            tried.append((cost, tuple(offset), far, box, line))
        _, offset, far, box, line = min(tried, key=lambda one: one[0])
        text.set_position(offset)
        text.arrow_patch.set_visible(far > 14)
        texts.append(text)
        taken.append(box)
        lines += [line] * (far > 14)
    return texts


def prompt_trajectory(path, table, words, named=()):
    """The trajectories of a soft prompt's vectors among the embeddings of the vocabulary while it is trained.

    Both pictures show one plane: the first two principal components of the embeddings, which do not know the prompt.
    Left to scale; right every vector of the prompt is brought to the mean length of an embedding, so that its direction
    can be compared with theirs. The trajectory of virtual token 1 leads from the ring to the disc with this number.

    Args:
        path: (steps, n, d), the vectors at the start and later, as `fit(..., on_step=...)` lets you collect them.
        table: (V, d), the embeddings; words: their names, of which those of one letter are written where they are.
        named: which of the other words to name; they are dots otherwise. So are letters without room of their own.
    """
    path, table = path.detach().float().cpu(), table.detach().float().cpu()
    mean, directions, shares = principal_plane(table)
    places = (table - mean) @ directions.T  # (V, 2)
    unit = path * table.norm(dim=1).mean() / path.norm(dim=2, keepdim=True)
    moved = path[-1] - path[0]
    inside = float((moved @ directions.T).norm() ** 2 / moved.norm() ** 2)
    left, right = axes = new(9, 4.9, columns=2)
    left.set_title(f"to scale; {100 * inside:.0f} % of the way (squared)\nlies in this plane", fontsize=9)
    right.set_title("each vector of the prompt brought\nto the length of an embedding", fontsize=9)
    hue = HUES["PromptTuning"]
    for ax, vectors in ((left, path), (right, unit)):
        ways = (vectors - mean) @ directions.T  # (steps, n, 2)
        seen = torch.cat([places, ways.flatten(0, 1)])
        low, high = seen.amin(0), seen.amax(0)
        (x, y), half = ((low + high) / 2).tolist(), 0.56 * float((high - low).max())
        taken = ways[[0, -1]].flatten(0, 1).tolist()  # by numbers, then by letters
        bare(ax).set(xlim=(x - half, x + half), ylim=(y - half, y + half), box_aspect=1)
        ax.set_xlabel(f"first principal component ({100 * shares[0]:.0f} % of the variance)")
        ax.set_ylabel(f"second principal component ({100 * shares[1]:.0f} %)")
        for spot, word in zip(places.tolist(), words, strict=True):
            crowded = any(abs(spot[0] - x) < 0.06 * half and abs(spot[1] - y) < 0.08 * half for x, y in taken)
            if len(word) == 1 and ax is right and not crowded:
                taken.append(spot)
                say(ax, *spot, word, color=GREY, zorder=3)
            else:
                ax.plot(*spot, "o", ms=4 if word in named else 3, color=INK if word in named else FROZEN)
        for number, way in enumerate(ways.unbind(1), start=1):
            ax.plot(*way.T, lw=1, color=hue)
            disc(ax, *way[0], number, "white", hue, size=12, zorder=4 + number / 10)
            disc(ax, *way[-1], number, hue, size=12, zorder=5 + number / 10)
    corner, size = places.amin(0) - 0.1, places.amax(0) - places.amin(0) + 0.2
    left.add_patch(Rectangle(corner.tolist(), *size.tolist(), fill=False, edgecolor=GREY, ls=":"))
    left.annotate("all words", (corner + size).tolist(), (3, -2), textcoords="offset points", va="top", color=INK)
    spots = places[[words.index(word) for word in named]]
    name_points(right, named, spots, [*places, *ways[:: max(1, len(ways) // 30)].flatten(0, 1)], fontsize=9, color=INK)
    return axes


@torch.no_grad()
def prefixes(model):
    """The prefix of every layer, {path of the attention: (P_K, P_V)}, both (n, d): what its cache begins with.

    So they are of prefix tuning or of P-tuning v2. Raises ValueError if the caches begin empty.
    """
    cache = model.new_cache()
    if not cache.length:
        raise ValueError("no layer begins with keys and values; attach PrefixTuning or PTuningV2")
    pairs = [[x.transpose(-3, -2).flatten(-2) for x in (layer.k, layer.v)] for layer in cache.layers]
    return {f"blocks.{i}.attn": tuple(pair) for i, pair in enumerate(pairs)}


def prefix_map(found, heads):
    """Keys and values of a prefix, entry by entry: a row of blocks for each layer, a column for each head, K beside V.

    A block is one head's part (n, d/H): a row for each virtual token, a column for each entry. The number beside a row
    is its length, ‖·‖.

    Args:
        found: {path: (P_K, P_V)}, as `prefixes` gives it.
        heads: H.
    """
    blocks = torch.stack([torch.stack(pair) for pair in found.values()]).detach().float().cpu()  # (L, 2, n, d)
    layers, _, n, d = blocks.shape
    blocks = blocks.unflatten(3, (heads, -1)).permute(0, 1, 3, 2, 4)  # (L, 2, H, n, d/H)
    limit = float(blocks.abs().quantile(0.99))
    wide, ratios = min(1.4 + 2 * heads, WIDEST), [6] * heads + [1] + [6] * heads
    axes = new(wide, 1.1 + layers * (0.4 + 0.2 * n), 2 * heads + 1, layers, squeeze=False, width_ratios=ratios)
    for gap in axes[:, heads]:
        gap.remove()
    axes = np.delete(axes, heads, axis=1)
    for (layer, column), ax in np.ndenumerate(axes):
        kind, head = divmod(column, heads)
        block = blocks[layer, kind, head]
        image = heatmap(ax, block.numpy(), SIGNED, -limit, limit, aspect="auto")
        ax.set_xticks([])
        ax.set_yticks(range(n), [f"P{i + 1}" for i in range(n)] if head == 0 else [""] * n)
        for i, length in enumerate(block.norm(dim=1)):
            beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(f"{length:.1f}", (1, i), (2, 0), **beside, va="center", fontsize=9, color=INK)
        if layer == 0:
            ax.set_title(f"{'KV'[kind]}, head {head}", fontsize=9)
        if column == 0:
            ax.set_ylabel(f"layer {layer}\nvirtual token", fontsize=9)
    figure = axes[0, 0].figure
    figure.supxlabel(f"entry of the vector, {d // heads} for each head; beside each row its length ‖·‖", fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.02, pad=0.02).set_label("entry")
    return axes
