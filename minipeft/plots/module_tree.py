"""The tree of a model's modules with the methods on it: what is frozen, what is trained, and how much of each."""

import math

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from torch import nn

from minipeft.attach import attachments, detach, place, trainable
from minipeft.plots.boxes import box
from minipeft.plots.style import GREY, INK, PALE, bare, darker, hue, legend, new


def parts(model):
    """What the model consists of with its methods on: a tree of modules, at whose leaves {tensor: (shape, trained?)}.

    Every tensor is there once, and a weight stored in 4 bits with the shape it stands for. A method's own tensors come
    last in the module that it stands in front of. What no delta holds (random matrices that a seed gives) is left out.
    Of several methods only the upper one is trained.
    """
    tree, seen = {}, set()

    def put(path, shape, learned):
        *above, name = path.split(".")
        node = tree
        for i, step in enumerate(above):
            if not step.isdigit():
                number = f" {above[i + 1]}" if i + 1 < len(above) and above[i + 1].isdigit() else ""
                node = node.setdefault(step.removesuffix("s") + number if number else step, {})
        while name in node:  # one LoRA on another
            name += "′"
        node[name] = tuple(shape), learned

    entries = attachments(model)
    copies = {path: a is entries[-1] for a in entries for path, p in a.layers.items() if isinstance(p, nn.Parameter)}
    for path, p in detach(model).named_parameters():
        put(path, p.shape, copies.get(path, p.requires_grad and not entries))
    for a in entries:
        for path, layer in a.layers.items():
            if path not in copies:
                weight = isinstance(getattr(*place(a.base, path)), nn.Parameter)
                inside = path.rpartition(".")[0] if weight else path
                for name, t in layer.state_dict(keep_vars=True).items():
                    if not name.startswith("base.") and t not in seen:
                        put(f"{inside}.{name}", t.shape, t.requires_grad and a is entries[-1])
                        seen.add(t)
    begin = {"begin": tree.pop("begin")} if "begin" in tree else {}  # it has only what a method has put there
    return columns(begin | tree)


def columns(node):
    """A tensor that stands beside modules becomes a leaf of its own."""
    if all(isinstance(child, tuple) for child in node.values()):
        return node
    return {name: {name: child} if isinstance(child, tuple) else columns(child) for name, child in node.items()}


def is_leaf(node):
    return isinstance(next(iter(node.values())), tuple)


def size(node):
    """How many numbers there are in a tensor or below a module."""
    return math.prod(node[0]) if isinstance(node, tuple) else sum(size(child) for child in node.values())


def depth(node):
    return 0 if is_leaf(node) else 1 + max(depth(child) for child in node.values())


def learns(node):
    return node[1] if isinstance(node, tuple) else any(learns(child) for child in node.values())


def module_tree(model, ax=None):
    """The tree of the model's modules with the methods on it: grey is frozen, coloured is trained.

    Every module is a column, as wide as it has parameters; its tensors are stacked in it. So areas are numbers of
    parameters, and what a method trains can be compared with what it leaves alone. The `gid` of a tile is its name.
    """
    ax = ax or new(9, 3.9)
    tree, methods = parts(model), [a.method for a in attachments(model)]
    label = " on ".join(str(method) for method in reversed(methods))
    colour, total, levels, head = hue(label), size(tree), depth(tree), 0.14
    bare(ax).set(xlim=(0, total), ylim=(0, 1 + levels * head), yticks=[0, 0.5, 1])
    ax.spines["left"].set_bounds(0, 1)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("parameters, module by module")
    ax.set_ylabel("share of the module's\nparameters", y=0.5 / (1 + levels * head))
    learned = sum(p.numel() for p in trainable(model).values())
    frozen = Patch(facecolor=PALE, edgecolor=GREY, label=f"frozen: {total - learned:,}")
    told = f"trained: {learned:,}" + f", {label}" * bool(label)
    trained = Patch(facecolor=colour, edgecolor=darker(colour), label=told)
    legend(ax, handles=[frozen, trained], ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    ax.figure.draw_without_rendering()  # now the layout has its sizes
    wide, high = ax.bbox.size / (total, 1 + levels * head) * 72 / ax.figure.dpi  # points of one unit

    def tile(x, y, width, height, face, edge, text, gid=None):
        """A box with its text, upright or turned, if it fits; says whether it does."""
        inside, long = (width * wide, height * high), 6.3 * len(text)
        turn = next((turn for turn in (0, 90) if long < inside[turn // 90] and inside[1 - turn // 90] > 10), None)
        box(ax, x, y, width, height, "" if turn is None else text, face, edge, lw=0.7, gid=gid, rotation=turn)
        return turn is not None

    unnamed = []  # (place, names) of what is trained in columns too narrow for their names

    def draw(node, x, level, path, named):
        for name, child in node.items():
            width, at, leaf, learned = size(child), f"{path}{name}", is_leaf(child), learns(child)
            bottom = 1 if leaf else 1 + (levels - level - 1) * head
            face = tuple(1 - 0.35 * (1 - np.array(to_rgb(colour)))) if learned else "#f6f6f6"
            fits = tile(x, bottom, width, 1 + (levels - level) * head - bottom, face, GREY, name)
            if learned and named and not fits:
                if unnamed and (x + width / 2 - unnamed[-1][0]) * wide < 14:
                    unnamed[-1][1].append(name)
                else:
                    unnamed.append((x + width / 2, [name]))
            if leaf:
                stack(child, x, width, at)
            else:
                draw(child, x, level + 1, f"{at}.", named and (fits or not learned))
            x += width

    def stack(tensors, x, width, path):
        y, tiles = 0.0, []
        for name, (shape, learned) in tensors.items():
            height = math.prod(shape) / width
            look = (colour, darker(colour), name) if learned else (PALE, "white", " × ".join(map(str, shape)))
            tiles.append((learned, (x, y, width, height, *look, f"{path}.{name}")))
            y += height
        for _, drawn in sorted(tiles, key=lambda entry: entry[0]):  # what is trained last: its edge stays whole
            tile(*drawn)

    draw(tree, 0, 0, "", True)
    for i, (x, names) in enumerate(unnamed):  # neighbours at different heights
        text, y, left = ", ".join(dict.fromkeys(names)), (0.23, 0.14, 0.05)[i % 3], x * wide > 100
        ax.annotate(
            text, (x, y), (-14 if left else 14, 0), textcoords="offset points", ha="right" if left else "left",
            va="center", fontsize=9, color=INK, zorder=6, arrowprops={"arrowstyle": "->", "color": GREY},
            bbox={"facecolor": PALE, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return ax
