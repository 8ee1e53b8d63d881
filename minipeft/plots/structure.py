"""How methods are built, drawn by code: where they step into the Transformer, and what flows in each with which shape.

doors()                  the Transformer as a map, with the three places where a method can step in
structure("LoRA")        one method; `STRUCTURES` names them. Grey is frozen, coloured is trained
"""

from matplotlib.patches import Rectangle

from minipeft.plots.boxes import arrow, box, disc, funnel, say, sheet, sign
from minipeft.plots.style import FROZEN, PALE, SPARE, hue, new


def doors(layers=2, ax=None):
    """The Transformer as a map: the residual stream runs to the right, and three doors are where a method steps in."""
    ax = ax or new(9, 3.6)
    door = SPARE[0]
    ax.add_patch(Rectangle((3.15, -0.55), 9.75, 4.75, facecolor="none", edgecolor=FROZEN, ls="--", lw=1))
    say(ax, 12.75, 3.9, f"block, {layers} times", align="right")
    say(ax, 0.45, 0, "tokens")
    arrow(ax, (0.95, 0), (1.4, 0))
    box(ax, 1.4, -0.35, 1.4, 0.7, "embed")
    box(ax, 1.4, 3.45, 1.4, 0.5, "begin", edge=door)
    disc(ax, 1.4, 3.95, 3, door)
    arrow(ax, (2.1, 3.45), (2.1, 0.35))
    say(ax, 1.35, 1.9, "vectors\nin front")
    ax.plot([2.8, 12.9], [0, 0], color=FROZEN, lw=5, zorder=0, solid_capstyle="butt")
    say(ax, 3.3, -0.3, "residual stream: (B, T, d)", align="left")
    for x, name, parts in ((3.5, "attn", ("q", "k", "v", "o")), (8.3, "mlp", ("up", "down"))):
        arrow(ax, (x + 0.2, 0), (x + 0.2, 0.75))
        box(ax, x - 0.25, 0.75, 0.95, 0.55, f"norm{1 if name == 'attn' else 2}")
        arrow(ax, (x + 0.2, 1.3), (x + 0.2, 2.1), (x + 0.8, 2.1))
        box(ax, x + 0.8, 1.45, 2.65, 1.6, face="white", edge=door)
        say(ax, x + 2.1, 2.8, name)
        width = 2.25 / len(parts)
        for i, part in enumerate(parts):
            box(ax, x + 1.05 + i * width, 1.7, width - 0.1, 0.75, part, edge=door)
        disc(ax, x + 1.05, 2.45, 1, door)
        arrow(ax, (x + 3.45, 2.1), (x + 3.95, 2.1), (x + 3.95, 0.2))
        disc(ax, x + 3.95, 1.35, 2, door)
        say(ax, x + 3.95, 0, "+", size=14, weight="bold")
    arrow(ax, (2.8, 3.7), (5.0, 3.7))
    say(ax, 4.12, 3.92, "k and v")
    box(ax, 5.0, 3.45, 1.6, 0.5, "cache")
    arrow(ax, (5.8, 3.45), (5.8, 3.05))
    for x, name in ((13.1, "norm"), (14.5, "head")):
        arrow(ax, (x - 0.2, 0), (x + 0.05, 0))
        box(ax, x + 0.05, -0.35, 1.05, 0.7, name)
    arrow(ax, (15.6, 0), (16.0, 0))
    say(ax, 16.1, 0, "logits", align="left")
    names = ("a weight: q k v o, up down", "a sublayer: what attn or mlp adds", "the beginning of a sequence: begin")
    for i, (x, name) in enumerate(zip((0.3, 5.3, 11.0), names, strict=True)):
        disc(ax, x, -1.25, i + 1, door)
        say(ax, x + 0.4, -1.25, name, align="left")
    ax.set(xlim=(-0.2, 17.2), ylim=(-1.65, 4.3))
    ax.axis("off")
    return ax


def beside_weight(ax, weight):
    """The frozen way from x to y, above; below it the way of the method begins, and the two meet in a sum."""
    say(ax, 1.2, 11, "x", size=11)
    arrow(ax, (2.4, 11), (14, 11), text="(…, in)")
    box(ax, 14, 8, 12, 6, weight)
    arrow(ax, (26, 11), (38.8, 11), text="(…, out)")
    sign(ax, 40, 11)
    arrow(ax, (41.2, 11), (47, 11))
    say(ax, 48.5, 11, "y", size=11)


def draw_lora(ax, hue, weight="W, b\n(out, in)"):
    beside_weight(ax, weight)
    arrow(ax, (5, 11), (5, 3), (9, 3))
    funnel(ax, 9, 0.5, 10, 5, "A\n(r, in)", hue)
    arrow(ax, (19, 3), (23, 3), text="(…, r)")
    funnel(ax, 23, 0.5, 10, 5, "B = 0\n(out, r)", hue, opens=True)
    arrow(ax, (33, 3), (40, 3), (40, 9.6), text="· α/r")


def draw_qlora(ax, hue):
    draw_lora(ax, hue, "Ŵ, b\nfrom 4-bit codes")


def draw_adalora(ax, hue):
    beside_weight(ax, "W, b\n(out, in)")
    arrow(ax, (5, 11), (5, 3), (9, 3))
    funnel(ax, 9, 0.5, 9, 5, "Q\n(r, in)", hue)
    arrow(ax, (18, 3), (20.5, 3))
    for i in range(4):
        masked = i == 2
        box(ax, 20.5, 4.55 - 1.5 * i, 3.6, 1.4, "0" if masked else "", PALE if masked else hue)
    say(ax, 22.3, 7, "Λ (r)")
    arrow(ax, (24.1, 3), (26.5, 3))
    funnel(ax, 26.5, 0.5, 9, 5, "P\n(out, r)", hue, opens=True)
    arrow(ax, (35.5, 3), (40, 3), (40, 9.6))


def draw_vera(ax, hue):
    beside_weight(ax, "W, b\n(out, in)")
    arrow(ax, (5, 11), (5, 3), (7, 3))
    funnel(ax, 7, 0.5, 8.5, 5, "A\nrandom")
    arrow(ax, (15.5, 3), (17.5, 3))
    box(ax, 17.5, 1, 4, 4, "d\n(r)", hue)
    arrow(ax, (21.5, 3), (23.5, 3))
    funnel(ax, 23.5, 0.5, 8.5, 5, "B\nrandom", opens=True)
    arrow(ax, (32, 3), (34, 3))
    box(ax, 34, 1, 4.4, 4, "b = 0\n(out)", hue)
    arrow(ax, (38.4, 3), (40, 3), (40, 9.6))
    say(ax, 20, -1.2, "A and B are the same in every layer")


def draw_dora(ax, hue):
    box(ax, 2, 8, 11, 5, "W\n(out, in)")
    arrow(ax, (13, 10.5), (15.8, 10.5))
    sign(ax, 17, 10.5)
    funnel(ax, 2, 0.5, 8, 5, "B = 0\n(out, r)", hue)
    funnel(ax, 10.6, 0.5, 8, 5, "A\n(r, in)", hue, opens=True)
    arrow(ax, (17, 5.2), (17, 9.2))
    arrow(ax, (18.2, 10.5), (20.5, 10.5))
    box(ax, 20.5, 8, 13.5, 5, "V / ‖V‖\nrows of length 1")
    arrow(ax, (34, 10.5), (36.8, 10.5))
    sign(ax, 38, 10.5, "×")
    box(ax, 34, 0.5, 8, 5, "m\n(out)", hue)
    arrow(ax, (38, 5.5), (38, 9.1))
    arrow(ax, (39.2, 10.5), (43, 10.5))
    say(ax, 47, 10.5, "W' of\nthe layer")
    say(ax, 27.5, 6.6, "direction")
    say(ax, 46.5, 3, "magnitude")


def draw_pissa(ax, hue):
    box(ax, 1, 5.5, 10, 6, "W\n(out, in)")
    say(ax, 13, 8.5, "=", size=13)
    box(ax, 15, 5.5, 10, 6, "W − BA\nthe rest")
    say(ax, 27, 8.5, "+", size=13)
    funnel(ax, 29, 6, 9, 5, "B\n(out, r)", hue)
    funnel(ax, 38.6, 6, 9, 5, "A\n(r, in)", hue, opens=True)
    say(ax, 38.3, 3.4, "the r largest singular\ndirections of W:\nhere training begins")
    say(ax, 20, 4.2, "frozen")


def draw_ia3(ax, hue):
    for y, name in ((11.5, "q"), (7.1, "k"), (2.7, "v")):
        middle = y + 1.6
        arrow(ax, (2, middle), (5, middle))
        box(ax, 5, y, 6.5, 3.2, f"W_{name}")
        if name == "q":
            arrow(ax, (11.5, middle), (21, middle))
        else:
            arrow(ax, (11.5, middle), (13.5, middle))
            box(ax, 13.5, y, 5.5, 3.2, f"⊙ l_{name}", hue)
            arrow(ax, (19, middle), (21, middle))
    box(ax, 21, 2.7, 7, 12, "softmax\n(QKᵀ) V")
    say(ax, 14, 0.5, "attention: l_k, l_v (d)")
    boxes = (("W_up", 5.4, PALE), ("φ", 2.6, PALE), ("⊙ l_ff", 5.4, hue), ("W_down", 6.6, PALE))
    x = 31
    for name, width, face in boxes:
        arrow(ax, (x, 8.7), (x + 1.8, 8.7))
        box(ax, x + 1.8, 7.1, width, 3.2, name, face)
        x += 1.8 + width
    arrow(ax, (x, 8.7), (x + 1.8, 8.7))
    say(ax, 45, 0.5, "MLP: l_ff (f)")


def draw_bias(ax, hue, weight, bias, face, told):
    """x W + b, with the bias below; `face` is that of W."""
    say(ax, 1.2, 7, "x", size=11)
    arrow(ax, (2.4, 7), (9, 7), text="(…, in)")
    box(ax, 9, 4, 12, 6, weight, face)
    arrow(ax, (21, 7), (25.8, 7))
    sign(ax, 27, 7)
    box(ax, 23.5, 0, 7, 3.8, bias, hue)
    arrow(ax, (27, 3.8), (27, 5.6))
    arrow(ax, (28.2, 7), (33, 7))
    say(ax, 34.4, 7, "y", size=11)
    say(ax, 20, 12, told)


def draw_bitfit(ax, hue):
    draw_bias(ax, hue, "W\n(out, in)", "b\n(out)", PALE, "the same for every bias of the model, those of LayerNorm too")


def draw_full(ax, hue):
    draw_bias(ax, hue, "W + ΔW\n(out, in)", "b + Δb\n(out)", hue, "every number of the model is trained")


def draw_linear_probe(ax, hue):
    say(ax, 1.2, 6.5, "x", size=11)
    arrow(ax, (2.4, 6.5), (6, 6.5))
    box(ax, 6, 3.5, 12, 6, "the model")
    arrow(ax, (18, 6.5), (24, 6.5), text="h (d)")
    box(ax, 24, 3.5, 8, 6, "W, b\n(out, d)", hue)
    arrow(ax, (32, 6.5), (37, 6.5))
    say(ax, 38.5, 6.5, "y", size=11)
    say(ax, 20, 0.5, "no gradient goes further back than the head")


def draw_block(ax, hue, x, title, after_attn=False, after_mlp=False, parallel=False, after_all=False):
    """A pre-norm block from bottom to top, with adapters where they go, and the names x, n, f of what flows."""
    say(ax, x + 6, 42.2, title, size=10)
    arrow(ax, (x + 2, 0), (x + 2, 41))
    for y, name, adapter in ((3, "attn", after_attn), (18, "MLP", after_mlp)):
        end = y + 6
        arrow(ax, (x + 2, y - 1), (x + 9, y - 1), (x + 9, y))
        box(ax, x + 5.5, y, 7, 2, "LN")
        arrow(ax, (x + 9, y + 2), (x + 9, y + 3))
        box(ax, x + 5.5, y + 3, 7, 3, name)
        say(ax, x + 0.6, y - 1, "x", size=10, style="italic")
        say(ax, x + 7.3, y + 2.5, "n", size=10, style="italic")
        say(ax, *((x + 14.6, end + 2.5) if adapter else (x + 7.9, end + 1.2)), "f", size=10, style="italic")
        top = end + (6.2 if adapter else 5.5)
        if adapter:
            arrow(ax, (x + 9, end), (x + 9, end + 1))
            box(ax, x + 5.5, end + 1, 7, 3, "adapter", hue)
            arrow(ax, (x + 9, end + 4), (x + 9, top - 1.2))
            arrow(ax, (x + 9, end + 0.4), (x + 13.8, end + 0.4), (x + 13.8, top), (x + 10.2, top))
        elif parallel and name == "MLP":
            arrow(ax, (x + 9, end), (x + 9, top - 1.2))
            arrow(ax, (x + 9, y + 2.5), (x + 16.5, y + 2.5), (x + 16.5, y + 3))
            box(ax, x + 13.2, y + 3, 6.6, 3, "adapter", hue)
            arrow(ax, (x + 16.5, end), (x + 16.5, top), (x + 10.2, top))
            say(ax, x + 18.2, end + 2.2, "× s", size=10)
        else:
            arrow(ax, (x + 9, end), (x + 9, top), (x + 3.2, top))
        if adapter or (parallel and name == "MLP"):  # the adapter's answer joins f before the block adds both
            sign(ax, x + 9, top)
            arrow(ax, (x + 7.8, top), (x + 3.2, top))
        sign(ax, x + 2, top)
    if after_all:
        say(ax, x - 0.1, 31.2, "x + f", size=10, style="italic")
        arrow(ax, (x + 2, 31.2), (x + 9, 31.2), (x + 9, 32.4))
        box(ax, x + 5.5, 32.4, 7, 3, "adapter", hue)
        arrow(ax, (x + 9, 35.4), (x + 9, 37.4), (x + 3.2, 37.4))
        sign(ax, x + 2, 37.4)


def draw_adapter(ax, hue):
    draw_block(ax, hue, 0, "Houlsby", True, True)
    draw_block(ax, hue, 15.5, "Pfeiffer", after_all=True)
    draw_block(ax, hue, 31, "parallel", parallel=True)
    say(ax, 58.5, 24, "the adapter", size=10)
    arrow(ax, (58.5, 6), (58.5, 8))
    box(ax, 53.5, 8, 10, 2.6, "D: d → m", hue)
    arrow(ax, (58.5, 10.6), (58.5, 12.4))
    box(ax, 56.5, 12.4, 4, 2.6, "φ")
    arrow(ax, (58.5, 15), (58.5, 16.8))
    box(ax, 53.5, 16.8, 10, 2.6, "U: m → d", hue)
    arrow(ax, (58.5, 19.4), (58.5, 22))


def draw_adapter_fusion(ax, hue):
    box(ax, 0.5, -4, 7.5, 4, "block")
    arrow(ax, (8, -2), (44.8, -2))
    say(ax, 24, -3.4, "residual stream h (…, d)")
    say(ax, 10.2, 3, "h", align="right")
    for i, y in enumerate((12, 6.5, 1)):
        arrow(ax, (11, -2), (11, y + 1.8), (14, y + 1.8))
        box(ax, 14, y, 9, 3.6, f"adapter {i + 1}")
        arrow(ax, (23, y + 1.8), (27, y + 1.8), text="z" + "₁₂₃"[i])
        box(ax, 27, y, 5, 3.6, "K, V", hue)
        arrow(ax, (32, y + 1.8), (36, 8.3))
    box(ax, 36, 5.8, 8, 5, "softmax\n(QKᵀ) V")
    arrow(ax, (40, -2), (40, 0.4))
    box(ax, 37.5, 0.4, 5, 3.4, "Q", hue)
    arrow(ax, (40, 3.8), (40, 5.8))
    arrow(ax, (44, 8.3), (46, 8.3), (46, -0.7))
    say(ax, 46.8, 3.5, "o", align="left")
    sign(ax, 46, -2)
    arrow(ax, (47.2, -2), (52, -2))
    say(ax, 50, -3.4, "h + o")
    say(ax, 18.5, 17.4, "trained before, frozen now")


TEN = [2.3 + 3.1 * i + 2.0 * (i > 2) for i in range(10)]  # the middles of three virtual tokens and seven real ones


def tokens(ax, middles, y, labels, face=PALE):
    """A row of vectors, as one sees tokens."""
    for x, label in zip(middles, labels, strict=True):
        box(ax, x - 1.4, y, 2.8, 2.4, label, face)


def arrows_up(ax, middles, y, length=1.6):
    for x in middles:
        arrow(ax, (x, y), (x, y + length))


def draw_prompt_tuning(ax, hue):
    tokens(ax, TEN[:3], 0, ["P₁", "P₂", "P₃"], hue)
    tokens(ax, TEN[3:], 0, [f"x{i}" for i in "₁₂₃₄₅₆₇"])
    for i in range(2):
        box(ax, 0, 8.2 * i + 4, 37, 2.6, f"layer {i + 1}")
    for y in (2.4, 6.6, 10.6, 14.8):
        arrows_up(ax, TEN, y)
    say(ax, TEN[1], 9.4, "carried along")
    say(ax, TEN[6], 9.4, "like tokens")
    say(ax, 18.5, 18, "the first n positions are cut off before the head")


def draw_p_tuning(ax, hue):
    tokens(ax, TEN[:3], 0, ["e₁", "e₂", "e₃"], hue)
    box(ax, 0.5, 4.2, 9.8, 2.6, "LSTM, MLP", hue)
    arrows_up(ax, TEN[:3], 2.4, 1.8)
    template = [15.5 + 3.3 * i for i in range(7)]
    for x, word in zip(template, ["h₁", "h₂", "a", "h₃", "x₁", "x₂", "x₃"], strict=True):
        tokens(ax, [x], 9.6, [word], hue if word[0] == "h" else PALE)
    arrow(ax, (5.4, 6.8), (5.4, 10.8), (13.6, 10.8))
    box(ax, 13, 14, 25, 2.6, "layers")
    arrows_up(ax, template, 12, 2)
    say(ax, 25.5, 7.6, "the template: h₁ h₂ a h₃ (a: a real word)")
    say(ax, 20, 1.2, "after training only h is stored", align="left")


def draw_prefix_tuning(ax, hue):
    for i, y in enumerate((0, 10)):
        box(ax, 0, y + 4.6, 37, 3, f"attention of layer {i + 1}: q of every token sees all k, v")
        tokens(ax, TEN[:3], y + 0.4, ["k, v"] * 3, hue)
        tokens(ax, TEN[3:], y + 0.4, ["k, v"] * 7)
        arrows_up(ax, TEN, y + 2.8, 1.8)
        arrow(ax, (22, y + 7.6), (22, y + 9.6))
    say(ax, TEN[1] + 1, -1, "learned, in every layer")
    say(ax, TEN[6], -1, "computed from tokens")


def draw_p_tuning_v2(ax, hue):
    for i, y in enumerate((0, 9)):
        box(ax, 0, y + 4.6, 37, 2.6, f"layer {i + 1}")
        tokens(ax, TEN[:3], y + 0.4, [f"P{'₁₂'[i]}"] * 3, hue)
        tokens(ax, TEN[3:], y + 0.4, ["h"] * 7)
        arrows_up(ax, TEN, y + 2.8, 1.8)
        arrows_up(ax, TEN[3:], y + 7.2, 2)
        say(ax, TEN[1], y + 8.2, "dropped here")
    say(ax, TEN[1] + 1, -1, "new before every layer")
    say(ax, TEN[6], -1, "from the layer below")


STRUCTURES = {  # method: (drawing, width, height, lowest y)
    "Full": (draw_full, 40, 13, -1), "LinearProbe": (draw_linear_probe, 40, 12, -1),
    "BitFit": (draw_bitfit, 40, 13, -1), "Adapter": (draw_adapter, 66, 44, -1),
    "AdapterFusion": (draw_adapter_fusion, 53, 19, -4.5), "PromptTuning": (draw_prompt_tuning, 38, 19, -1),
    "PTuning": (draw_p_tuning, 40, 18, -1), "PrefixTuning": (draw_prefix_tuning, 38, 20, -2.5),
    "PTuningV2": (draw_p_tuning_v2, 38, 19, -2.5), "LoRA": (draw_lora, 51, 15.5, -1),
    "AdaLoRA": (draw_adalora, 51, 15.5, -1), "QLoRA": (draw_qlora, 51, 15.5, -1), "DoRA": (draw_dora, 51, 14, -1),
    "VeRA": (draw_vera, 51, 15.5, -2.5), "PiSSA": (draw_pissa, 50, 12, 1), "IA3": (draw_ia3, 61, 16, -1),
}  # fmt: skip


def structure(method, ax=None):
    """How a method is built: what flows with which shape; grey is frozen, coloured is trained.

    method: a name of STRUCTURES; "Adapter" shows the three of them. Raises ValueError for another.
    """
    if method not in STRUCTURES:
        raise ValueError(f"there is no drawing of {method!r}; there are: {', '.join(STRUCTURES)}")
    draw, width, height, low = STRUCTURES[method]
    ax = sheet(ax or new(0.135 * width, 0.135 * (height - low)), width, height, low)
    draw(ax, hue("Houlsby" if method == "Adapter" else method))
    return ax
