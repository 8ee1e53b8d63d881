"""The structure of each method, drawn by code: what flows with which shape, what is frozen (grey), what is trained.

structure("LoRA")        the one Axes; `STRUCTURES` names the methods
"""

from matplotlib.patches import Polygon, Rectangle

from minipeft.plots.style import FROZEN, HUES, INK, PALE, new, readable


class Sheet:
    """An Axes to draw on, in units of about a tenth of an inch; y points upwards."""

    def __init__(self, ax, method, width, height):
        self.ax, self.hue = ax, HUES[method]
        ax.set_xlim(0, width)
        ax.set_ylim(0, height)
        ax.set_aspect("equal")
        ax.axis("off")

    def box(self, x, y, w, h, text="", trained=False, shape="", size=9):
        """A module; its shape stands below the name."""
        fill, edge = (self.hue, self.hue) if trained else (PALE, FROZEN)
        self.ax.add_patch(Rectangle((x, y), w, h, facecolor=fill, edgecolor=edge, lw=1, zorder=2))
        self.name(x + w / 2, y + h / 2, text, shape, readable(self.hue) if trained else INK, size)

    def thin(self, x, y, w, h, text, shape="", opens=False, trained=True):
        """A thin matrix: a funnel that narrows from left to right, or opens."""
        left, right = (h / 4, h / 2) if opens else (h / 2, h / 4)
        m = y + h / 2
        corners = [(x, m - left), (x, m + left), (x + w, m + right), (x + w, m - right)]
        fill, edge = (self.hue, self.hue) if trained else (PALE, FROZEN)
        self.ax.add_patch(Polygon(corners, facecolor=fill, edgecolor=edge, lw=1, zorder=2))
        self.name(x + w / 2, m, text, shape, readable(self.hue) if trained else INK, 9)

    def name(self, x, y, text, shape, colour, size):
        said = f"{text}\n{shape}" if shape else text
        self.ax.text(x, y, said, ha="center", va="center", fontsize=size, color=colour, zorder=4, linespacing=1.3)

    def arrow(self, *points, text="", above=True):
        """A line through points with a head at its end; the text stands beside its first piece."""
        xs, ys = zip(*points, strict=True)
        self.ax.plot(xs[:-1], ys[:-1], color=INK, lw=1, zorder=1, solid_joinstyle="miter")
        self.ax.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1, "shrinkA": 0, "shrinkB": 0},
        )
        if text:
            self.say((xs[0] + xs[1]) / 2, max(ys[0], ys[1]) + 0.9 if above else min(ys[0], ys[1]) - 0.9, text)

    def plus(self, x, y, sign="+"):
        self.ax.text(
            x, y, sign, ha="center", va="center", fontsize=11, color=INK, zorder=5,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK, "lw": 1},
        )  # fmt: skip

    def say(self, x, y, text, align="center", size=8, colour=INK):
        self.ax.text(x, y, text, ha=align, va="center", fontsize=size, color=colour, zorder=5)

    def row(self, x, y, n, trained, text="", w=2.6, h=2.4, gap=0.5, labels=None):
        """A row of n vectors, as one sees tokens; returns where it ends."""
        for i in range(n):
            self.box(x + i * (w + gap), y, w, h, labels[i] if labels else text, trained, size=8)
        return x + n * (w + gap) - gap


def beside(s, frozen, y=11.0):
    """The frozen way from x to y, above; the sum at the end."""
    s.say(1.2, y, "x", size=11)
    s.arrow((2.4, y), (14, y), text="(…, in)")
    s.box(14, y - 3, 12, 6, *frozen)
    s.arrow((26, y), (38.8, y), text="(…, out)")
    s.plus(40, y)
    s.arrow((41.2, y), (47, y))
    s.say(48.5, y, "y", size=11)
    s.arrow((5, y), (5, 3), (9, 3))


def draw_lora(s):
    beside(s, ("W, b", False, "(out, in)"))
    s.thin(9, 0.5, 10, 5, "A", "(r, in)")
    s.arrow((19, 3), (23, 3), text="(…, r)")
    s.thin(23, 0.5, 10, 5, "B = 0", "(out, r)", opens=True)
    s.arrow((33, 3), (40, 3), (40, 9.6), text="· α/r")


def draw_qlora(s):
    beside(s, ("Ŵ, b", False, "from 4-bit codes"))
    s.thin(9, 0.5, 10, 5, "A", "(r, in)")
    s.arrow((19, 3), (23, 3), text="(…, r)")
    s.thin(23, 0.5, 10, 5, "B = 0", "(out, r)", opens=True)
    s.arrow((33, 3), (40, 3), (40, 9.6), text="· α/r")


def draw_adalora(s):
    beside(s, ("W, b", False, "(out, in)"))
    s.thin(9, 0.5, 9, 5, "Q", "(r, in)")
    s.arrow((18, 3), (20.5, 3))
    for i, live in enumerate((True, True, False, True)):
        s.box(20.5, 4.6 - 1.3 * i, 3.6, 1.1, "" if live else "0", live, size=7)
    s.say(22.3, 7.0, "Λ (r)")
    s.arrow((24.1, 3), (26.5, 3))
    s.thin(26.5, 0.5, 9, 5, "P", "(out, r)", opens=True)
    s.arrow((35.5, 3), (40, 3), (40, 9.6))


def draw_dora(s):
    s.box(2, 8, 11, 5, "W", False, "(out, in)")
    s.plus(17, 10.5)
    s.arrow((13, 10.5), (15.8, 10.5))
    s.thin(2, 0.5, 8, 5, "B = 0", "(out, r)")
    s.thin(10.6, 0.5, 8, 5, "A", "(r, in)", opens=True)
    s.arrow((17, 5.2), (17, 9.2))
    s.arrow((18.2, 10.5), (20.5, 10.5))
    s.box(20.5, 8, 13.5, 5, "V / ‖V‖", False, "rows of length 1", size=8)
    s.arrow((34, 10.5), (36.8, 10.5))
    s.plus(38, 10.5, "×")
    s.box(34, 0.5, 8, 5, "m", True, "(out)")
    s.arrow((38, 5.5), (38, 9.1))
    s.arrow((39.2, 10.5), (43, 10.5))
    s.say(46.2, 10.5, "W' of the\nlayer", size=9)
    s.say(27.5, 6.6, "direction")
    s.say(45.6, 3, "magnitude")


def draw_vera(s):
    beside(s, ("W, b", False, "(out, in)"))
    s.thin(8, 0.5, 8, 5, "A", "random", trained=False)
    s.arrow((16, 3), (18, 3))
    s.box(18, 1, 4, 4, "d", True, "(r)", size=8)
    s.arrow((22, 3), (24, 3))
    s.thin(24, 0.5, 8, 5, "B", "random", opens=True, trained=False)
    s.arrow((32, 3), (34, 3))
    s.box(34, 1, 4.4, 4, "b = 0", True, "(out)", size=8)
    s.arrow((38.4, 3), (40, 3), (40, 9.6))
    s.say(20, -1.2, "A and B are the same in every layer")


def draw_pissa(s):
    s.box(1, 5.5, 10, 6, "W", False, "(out, in)")
    s.say(13, 8.5, "=", size=13)
    s.box(15, 5.5, 10, 6, "W − BA", False, "the rest", size=9)
    s.say(27, 8.5, "+", size=13)
    s.thin(29, 6, 9, 5, "B", "(out, r)")
    s.thin(38.6, 6, 9, 5, "A", "(r, in)", opens=True)
    s.say(38.3, 3.6, "the r largest singular\ndirections of W:\nhere training begins")
    s.say(20, 4.2, "frozen")


def draw_ia3(s):
    for i, name in enumerate("qkv"):
        y = 11.5 - 4.4 * i
        s.box(5, y, 7, 3.2, f"W_{name}")
        s.arrow((2, y + 1.6), (5, y + 1.6))
        if name == "q":
            s.arrow((12, y + 1.6), (20.5, y + 1.6))
            continue
        s.arrow((12, y + 1.6), (14, y + 1.6))
        s.box(14, y, 4.5, 3.2, f"⊙ l_{name}", True, size=8)
        s.arrow((18.5, y + 1.6), (20.5, y + 1.6))
    s.box(20.5, 2.7, 5, 12, "softmax\n(QKᵀ) V", size=8)
    s.say(13, 0.5, "attention: l_k, l_v (d)")
    s.arrow((29, 8.7), (31, 8.7))
    s.box(31, 7.1, 4.6, 3.2, "W_up")
    s.arrow((35.6, 8.7), (36.8, 8.7))
    s.box(36.8, 7.1, 2.4, 3.2, "φ")
    s.arrow((39.2, 8.7), (40.4, 8.7))
    s.box(40.4, 7.1, 4.6, 3.2, "⊙ l_ff", True, size=8)
    s.arrow((45, 8.7), (46.2, 8.7))
    s.box(46.2, 7.1, 5.4, 3.2, "W_down")
    s.arrow((51.6, 8.7), (53.5, 8.7))
    s.say(41, 0.5, "MLP: l_ff (f)")


def draw_bitfit(s):
    s.say(1.2, 7, "x", size=11)
    s.arrow((2.4, 7), (8, 7), text="(…, in)")
    s.box(8, 4, 12, 6, "W", False, "(out, in)")
    s.arrow((20, 7), (24.8, 7))
    s.plus(26, 7)
    s.box(23, 0.3, 6, 3.6, "b", True, "(out)", size=8)
    s.arrow((26, 3.9), (26, 5.6))
    s.arrow((27.2, 7), (32, 7))
    s.say(33.4, 7, "y", size=11)
    s.say(20, 12, "the same for every bias of the model, those of LayerNorm too")


def draw_full(s):
    s.say(1.2, 6, "x", size=11)
    s.arrow((2.4, 6), (9, 6), text="(…, in)")
    s.box(9, 3, 12, 6, "W + ΔW", True, "(out, in)")
    s.arrow((21, 6), (24.8, 6))
    s.plus(26, 6)
    s.box(23, 0, 6, 3, "b + Δb", True, size=8)
    s.arrow((26, 3), (26, 4.7))
    s.arrow((27.2, 6), (32, 6))
    s.say(33.4, 6, "y", size=11)
    s.say(18, 11, "every number of the model; the base is kept beside it")


def block(s, x, title, after_attn=False, after_mlp=False, parallel=False, after_all=False):
    """A pre-norm block from bottom to top, with adapters where they go."""
    top = 40
    s.say(x + 6, top + 2.2, title, size=10)
    s.arrow((x + 2, 0), (x + 2, top + 1))
    for y, name, adapter in ((3, "attn", after_attn), (18, "MLP", after_mlp)):
        s.arrow((x + 2, y - 1), (x + 9, y - 1), (x + 9, y))
        s.box(x + 5.5, y, 7, 2, "LN", size=8)
        s.arrow((x + 9, y + 2), (x + 9, y + 3))
        s.box(x + 5.5, y + 3, 7, 3, name)
        end = y + 6
        if adapter:
            s.arrow((x + 9, end), (x + 9, end + 1))
            s.box(x + 5.5, end + 1, 7, 3, "adapter", True, size=8)
            s.arrow((x + 9, end + 4), (x + 9, end + 5.5), (x + 3.2, end + 5.5))
            s.arrow((x + 9, end + 0.4), (x + 13.6, end + 0.4), (x + 13.6, end + 5.5), (x + 9, end + 5.5))  # its skip
        else:
            s.arrow((x + 9, end), (x + 9, end + 5.5), (x + 3.2, end + 5.5))
        if parallel and name == "MLP":
            s.arrow((x + 9, y + 2.5), (x + 16.5, y + 2.5), (x + 16.5, y + 3))
            s.box(x + 13.2, y + 3, 6.6, 3, "adapter", True, size=8)
            s.arrow((x + 16.5, y + 6), (x + 16.5, end + 5.5), (x + 9, end + 5.5))
        s.plus(x + 2, end + 5.5)
    if after_all:
        s.arrow((x + 2, 31.2), (x + 9, 31.2), (x + 9, 32.4))
        s.box(x + 5.5, 32.4, 7, 3, "adapter", True, size=8)
        s.arrow((x + 9, 35.4), (x + 9, 37.4), (x + 3.2, 37.4))
        s.plus(x + 2, 37.4)


def draw_adapter(s):
    block(s, 0, "Houlsby", True, True)
    block(s, 15.5, "Pfeiffer", after_all=True)
    block(s, 31, "parallel", parallel=True)
    s.say(58.5, 27, "the adapter", size=10)
    s.arrow((58.5, 6), (58.5, 8), text="")
    s.box(53.5, 8, 10, 2.6, "D: d → m", True, size=8)
    s.arrow((58.5, 10.6), (58.5, 12.4))
    s.box(56.5, 12.4, 4, 2.6, "φ", size=9)
    s.arrow((58.5, 15), (58.5, 16.8))
    s.box(53.5, 16.8, 10, 2.6, "U: m → d", True, size=8)
    s.arrow((58.5, 19.4), (58.5, 22))


def draw_adapter_fusion(s):
    s.box(1, 6, 8, 4, "MLP", False, "h (d)")
    for i in range(3):
        y = 12 - 5.5 * i
        s.arrow((9, 8), (11, 8), (11, y + 1.8), (14, y + 1.8))
        s.box(14, y, 9, 3.6, f"adapter {i + 1}", size=8)
        s.arrow((23, y + 1.8), (27, y + 1.8))
        s.box(27, y, 5, 3.6, "K, V", True, size=8)
        s.arrow((32, y + 1.8), (36, 8))
    s.box(36, 5.5, 8, 5, "softmax\n(QKᵀ) V", size=8)
    s.arrow((5, 6), (5, -3), (40, -3), (40, -1.4))
    s.box(37.5, -1.4, 5, 3.4, "Q", True, size=8)
    s.arrow((40, 2), (40, 5.5))
    s.arrow((44, 8), (48, 8))
    s.say(18.5, 18, "trained before, frozen now")
    s.say(22, -4.4, "which adapter is listened to is decided token by token")


def layers(s, y0, number=2, width=37):
    for i in range(number):
        s.box(0, y0 + 8.2 * i + 4, width, 2.6, f"layer {i + 1}", size=8)


def draw_prompt_tuning(s):
    layers(s, 0)
    end = s.row(1, 0, 3, True, labels=["P₁", "P₂", "P₃"])
    s.row(end + 2.5, 0, 7, False, labels=["E(x₁)", *(f"E(x{i})" for i in "₂₃₄₅₆₇")])
    for y in (2.4, 6.6, 10.6, 14.8):
        for i in range(10):
            x = 2.3 + 3.1 * i + (2.0 if i > 2 else 0)
            s.arrow((x, y), (x, y + 1.6))
    s.say(5.4, 9.4, "carried along", size=8)
    s.say(23, 9.4, "like tokens", size=8)
    s.say(18.5, 18, "the first n positions are cut off before the head")


def draw_p_tuning(s):
    s.row(1, 0, 3, True, labels=["e₁", "e₂", "e₃"])
    s.box(0.5, 4.2, 9.8, 2.6, "LSTM, MLP", True, size=8)
    for i in range(3):
        x = 2.3 + 3.1 * i
        s.arrow((x, 2.4), (x, 4.2))
    words = ["h₁", "h₂", "E(x₁)", "E(x₂)", "h₃", "E(x₃)", "E(x₄)"]
    for i, word in enumerate(words):
        s.box(14 + 3.3 * i, 9.6, 2.9, 2.4, word, word.startswith("h"), size=8)
    s.arrow((5.4, 6.8), (5.4, 10.8), (13.6, 10.8))
    s.box(13, 14, 25, 2.6, "layers", size=8)
    for i in range(7):
        s.arrow((15.45 + 3.3 * i, 12), (15.45 + 3.3 * i, 14))
    s.say(25.5, 7.6, "a template says where they stand")
    s.say(20, 1.2, "afterwards only h is stored", align="left")


def draw_prefix_tuning(s):
    for i in range(2):
        y = 10 * i
        s.box(0, y + 4.6, 37, 3, f"attention of layer {i + 1}: q of every token sees all k, v", size=8)
        end = s.row(1, y + 0.4, 3, True, labels=["k, v"] * 3)
        s.row(end + 2.5, y + 0.4, 7, False, labels=["k, v"] * 7)
        for j in range(10):
            x = 2.3 + 3.1 * j + (2.0 if j > 2 else 0)
            s.arrow((x, y + 2.8), (x, y + 4.6))
        s.arrow((22, y + 7.6), (22, y + 9.6))
    s.say(5.4, -1, "learned, in every layer")
    s.say(23, -1, "computed from tokens")


def draw_p_tuning_v2(s):
    for i in range(2):
        y = 9 * i
        s.box(0, y + 4.6, 37, 2.6, f"layer {i + 1}", size=8)
        end = s.row(1, y + 0.4, 3, True, labels=[f"P{'₁₂'[i]}"] * 3)
        s.row(end + 2.5, y + 0.4, 7, False, labels=["h"] * 7)
        for j in range(10):
            x = 2.3 + 3.1 * j + (2.0 if j > 2 else 0)
            s.arrow((x, y + 2.8), (x, y + 4.6))
        for j in range(3, 10):
            x = 2.3 + 3.1 * j + 2.0
            s.arrow((x, y + 7.2), (x, y + 9.2))
        s.say(5.4, y + 8.2, "dropped here")
    s.say(5.4, -1, "new before every layer")
    s.say(23, -1, "from the layer below")


STRUCTURES = {  # method: (drawing, width, height, lowest y)
    "Full": (draw_full, 36, 13, -1), "BitFit": (draw_bitfit, 36, 14, -1), "Adapter": (draw_adapter, 66, 44, -1),
    "AdapterFusion": (draw_adapter_fusion, 50, 20, -6), "PromptTuning": (draw_prompt_tuning, 38, 19, -1),
    "PTuning": (draw_p_tuning, 40, 18, -1), "PrefixTuning": (draw_prefix_tuning, 38, 20, -2.5),
    "PTuningV2": (draw_p_tuning_v2, 38, 19, -2.5), "LoRA": (draw_lora, 51, 15.5, -1),
    "AdaLoRA": (draw_adalora, 51, 15.5, -1), "QLoRA": (draw_qlora, 51, 15.5, -1), "DoRA": (draw_dora, 50, 14, -1),
    "VeRA": (draw_vera, 51, 15.5, -2.5), "PiSSA": (draw_pissa, 50, 12, 1), "IA3": (draw_ia3, 55, 16, -1),
}  # fmt: skip


def structure(method, ax=None):
    """How a method is built: what flows with which shape; grey is frozen, coloured is trained.

    method: a name of STRUCTURES; "Adapter" shows the three of them. Raises ValueError for another.
    """
    if method not in STRUCTURES:
        raise ValueError(f"there is no drawing of {method!r}; there are: {', '.join(STRUCTURES)}")
    draw, width, height, low = STRUCTURES[method]
    ax = ax or new(0.125 * width, 0.125 * (height - low))
    s = Sheet(ax, "Houlsby" if method == "Adapter" else method, width, height)
    ax.set_ylim(low, height)
    draw(s)
    return ax
