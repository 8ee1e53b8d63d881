"""Whether the claims on four bits hold on a real language model: SmolLM2, 135 million parameters.

Its file has five bits a weight already (Q4_1), so whatever is rounded here is rounded a second time.
"""

from dataclasses import dataclass
from statistics import mean

import torch

from claims.ledger import claim
from claims.real import lower, over_seeds, race
from minipeft import merge
from minipeft.attach import detach
from minipeft.bases import base
from minipeft.deltas import updates
from minipeft.lab.real import on_each
from minipeft.methods.qlora import DYNAMIC, GROUP, decode, encode, levels_of
from minipeft.targets import match
from minipeft.tasks import rows_of
from minipeft.worlds.reference import Reference

BLOCK, LEVELS = 64, {name: levels_of(name.lower()) for name in ("NF4", "int4", "NF3", "int3")}
LEVELS["FP4 (E2M1)"] = levels_of("fp4")
LEVELS["FP4 (bitsandbytes)"] = torch.tensor([-12, -8, -6, -4, -3, -2, -0.0625, 0, 0.0625, 2, 3, 4, 6, 8, 12]) / 12
POWERS = 2.0 ** -torch.arange(7)  # 1, ½, ¼, ...
LEVELS["FP4 (E3M0)"] = torch.cat([-POWERS, torch.zeros(1), POWERS.flip(0)])
LEVELS["16 even levels"] = torch.linspace(-1, 1, 16)


def rounded(W, levels):
    """W in blocks of 64 with double quantization, as QLoRA stores it, and made from its codes again."""
    codes, absmax = encode(W, levels, BLOCK)
    centre = absmax.mean()
    again, absmax2 = encode(absmax - centre, DYNAMIC, GROUP)
    absmax = centre + decode(again[: len(absmax)], absmax2, DYNAMIC, GROUP)
    return decode(codes[: W.numel()], absmax, levels, BLOCK).view(W.shape)


def at_random(W, levels, generator):
    """W in blocks of 64, each value rounded down or up with the odds that make it right on average."""
    scale = encode(W, levels, BLOCK)[1].repeat_interleave(BLOCK)
    scaled = W.flatten() / scale
    below = (torch.bucketize(scaled, levels, right=True) - 1).clamp(0, len(levels) - 2)
    odds = (scaled - levels[below]) / levels.diff()[below]
    codes = below + (torch.rand(len(odds), generator=generator) < odds)
    return (levels[codes] * scale).view(W.shape)


def with_weights(weights):
    """SmolLM2 with these weights, {dotted name: tensor}, for its own."""
    model = base("smollm2")
    for name, W in weights.items():
        model.get_parameter(name).data = W
    return model


@dataclass(frozen=True)
class Training:
    """Windows from all over the topics for training, so many. A model that was only rounded has not trained on them."""

    windows: int = 60

    def every(self):
        whole = Reference("training").every()
        step = len(whole.tokens) // self.windows
        return rows_of(whole, slice(0, self.windows * step, step))


UNSEEN = Reference("test"), Reference("validation"), Training()  # 24, 12 and 60 windows


def rounding_real(levels):
    """Every matrix of the 30 blocks is rounded to these levels, one of LEVELS, or stays as it is ("none").

    error: ‖Ŵ − W‖ / ‖W‖ of each of the 210 matrices. windows: the loss on each, in nats; the first 24 are for testing.
    """
    model, errors = base("smollm2"), []
    for _, parent, name in match(model, "all-linear"):
        W = getattr(parent, name).weight
        if levels != "none":
            W.data, old = rounded(W, LEVELS[levels]), W.data
            errors.append(round(((W - old).norm() / old.norm()).item(), 5))
    return {"error": errors, "windows": [loss for task in UNSEEN for loss in on_each(model, task)]}


def merged_and_rounded(view):
    """What a trained QLoRA loses when it is merged and rounded again. Losses on each test window:

    again: Ŵ + ΔW, rounded. at random: the same, not to the nearest level but by lot. onto W: W + ΔW. onto W, rounded.
    And from `codes`, how many of them change.
    """
    model, changes, test = detach(view), updates(view), Reference("test")
    onto = {name: model.get_parameter(name) + change for name, (_, change) in changes.items()}
    nf4, found = LEVELS["NF4"], codes(model, changes)
    found["merged"] = on_each(merge(view), test)
    again = {name: coarse + change for name, (coarse, change) in changes.items()}
    found["again"] = on_each(with_weights({name: rounded(W, nf4) for name, W in again.items()}), test)
    lot = torch.Generator().manual_seed(0)
    found["at random"] = on_each(with_weights({name: at_random(W, nf4, lot) for name, W in again.items()}), test)
    found["onto W"] = on_each(with_weights(onto), test)
    found["onto W, rounded"] = on_each(with_weights({name: rounded(W, nf4) for name, W in onto.items()}), test)
    return found


def codes(model, changes):
    """Of all weights of the 210 matrices: the mean of |ΔW| and of a step between two levels; of |ΔW| in steps, the mean
    and the share above ½; the share of codes that ΔW changes if it is added to Ŵ and to W."""
    sums, n = torch.zeros(6, dtype=torch.float64), 0
    for name, (coarse, change) in changes.items():
        W, size = model.get_parameter(name), change.abs().flatten()
        before, absmax = encode(coarse, LEVELS["NF4"], BLOCK)
        step = steps(before, change, LEVELS["NF4"]) * absmax.repeat_interleave(BLOCK)
        moved = [encode(start + change, LEVELS["NF4"], BLOCK)[0] != encode(start, LEVELS["NF4"], BLOCK)[0]
                 for start in (coarse, W)]  # fmt: skip
        parts = size, step, size / step, size > step / 2, *moved
        sums += torch.tensor([part.sum(dtype=torch.float64) for part in parts])
        n += W.numel()
    names = "size", "step", "in steps", "above half", "moved on Ŵ", "moved on W"
    return dict(zip(names, (sums / n).tolist(), strict=True))


def steps(codes, change, levels):
    """For each code, how far the next level is in the direction of the change, for blocks whose absmax is 1."""
    gaps = levels.diff()
    below, above = torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]])
    return torch.where(change.flatten() > 0, above[codes.long()], below[codes.long()])


def all_roundings(f, *names):
    found = f.run(rounding_real, [{"levels": name} for name in ("none", *names)])
    return dict(zip(("none", *names), found, strict=True))


@claim(
    "On a real model, NF4 loses less than FP4 and int4",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314",
    quote="NF4 improves performance significantly over FP4 and Int4",
    lesson=24,
)
def real_four_bits(f):
    """SmolLM2, read from a file of five bits a weight. The 210 matrices of its blocks are rounded in blocks of 64, with
    double quantization; nothing is trained. The loss on 96 windows of the language reference, compared window by
    window. FP4 is E2M1, the better of the paper's two; that of bitsandbytes is a table of its own. As an aside, 16
    levels that are evenly spaced, because FP4 and int4 have only 15."""
    found = all_roundings(f, *LEVELS)
    loss = {name: run["windows"] for name, run in found.items()}
    for other in ("FP4 (E2M1)", "int4"):
        lower(f, f"the loss with NF4 is lower than with {other}", loss["NF4"], loss[other])
    for other in ("FP4 (bitsandbytes)", "FP4 (E3M0)", "16 even levels"):
        lower(f, f"it is lower than with {other}", loss["NF4"], loss[other], aside=True)
    lower(f, "the loss with NF3 is lower than with int3", loss["NF3"], loss["int3"], aside=True)
    told = ", ".join(f"{mean(loss[name]):.2f} with {name}" for name in ("NF4", "FP4 (E2M1)", "int4", "NF3", "int3"))
    f.result = f"The mean loss is {mean(loss['none']):.2f} nats before rounding, {told}."
    rows = [
        (name, f"{100 * mean(run['error'] or [0]):.1f} %", f"{mean(run['windows']):.3f}",
         f"{mean(run['windows'][:24]):.3f}")
        for name, run in found.items()
    ]  # fmt: skip
    columns = "levels", "relative error of a matrix", "loss on 96 windows", "loss on the 24 test windows"
    f.table("Rounding alone, nats", columns, rows)


@claim(
    "On a real model, QLoRA learns as much as LoRA on the base that is not rounded",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314",
    quote="NF4 with double quantization fully recovers the 16-bit LoRA MMLU performance",
    lesson=24,
)
def real_qlora(f):
    """LoRA of rank 8 on all linear layers, on SmolLM2 and on SmolLM2 in NF4, 30 steps on the language reference, the
    learning rate of each tuned; means over three seeds on 24 test windows. The paper compares with 16 bits, and here
    the base comes from a file of five. As much is learned if the loss ends at most 0.05 nats above LoRA's. As an aside,
    how far it falls from where it starts."""
    plain, coarse = race(f, "LoRA, r 8")["LoRA, r 8"], quantized(f)
    start = all_roundings(f, "NF4")
    x, y = over_seeds(coarse), over_seeds(plain)
    close = [a < b + 0.05 for a, b in zip(x, y, strict=True)]
    f.always("QLoRA's loss is at most 0.05 nats above LoRA's", close, f"{mean(x):.3f} nats, against {mean(y):.3f}",
             of="windows")  # fmt: skip
    falls = [[s - end for s, end in zip(start[name]["windows"], ends, strict=False)]
             for name, ends in (("NF4", x), ("none", y))]  # fmt: skip
    lower(f, "QLoRA's loss falls further from its start than LoRA's", falls[1], falls[0], aside=True)
    f.result = (
        f"LoRA's loss falls by {mean(falls[1]):.2f} nats to {mean(y):.3f}, QLoRA's by {mean(falls[0]):.2f} to "
        f"{mean(x):.3f}. Rounding had raised it by {mean(x) + mean(falls[0]) - mean(y) - mean(falls[1]):.2f}."
    )


@claim(
    "Rounding a merged QLoRA to four bits again undoes most of what it learned",
    source="Xu et al. 2023, QA-LoRA, §3, arXiv:2309.14717, which merges another way for this reason",
    lesson=24,
)
def real_rounded_again(f):
    """The QLoRA runs of `real_qlora`: Ŵ + ΔW is merged in full precision, then rounded to NF4 again. The gain is what
    training takes off the loss of the rounded base, on each of 24 test windows, a mean over three seeds. Most of it is
    undone if less than half is left. As controls, Ŵ + ΔW is rounded at random, with odds that make it right on average;
    and ΔW is added to W, and that is rounded to NF4."""
    entry, start = quantized(f), all_roundings(f, "NF4")["NF4"]["windows"][:24]
    ends = {name: [mean(column) for column in zip(*entry.column(name), strict=True)]
            for name in ("merged", "again", "at random", "onto W", "onto W, rounded")}  # fmt: skip
    gains = [(s - e, s - m) for s, e, m in zip(start, ends["again"], ends["merged"], strict=True)]
    left, gain = (mean(column) for column in zip(*gains, strict=True))
    f.always("less than half of the gain is left", [part < 0.5 * whole for part, whole in gains],
             f"{left:.3f} of {gain:.3f} nats", of="windows")  # fmt: skip
    lower(f, "rounding Ŵ + ΔW at random gives a lower loss", ends["at random"], ends["again"], aside=True)
    lower(f, "so does rounding W + ΔW to the nearest level", ends["onto W, rounded"], ends["again"], aside=True)
    lower(f, "W + ΔW has a lower loss than Ŵ + ΔW", ends["onto W"], ends["merged"], aside=True)
    moved = {name: mean(entry.column(name)) for name in ("in steps", "above half", "moved on Ŵ", "moved on W")}
    f.result = (
        f"The loss of the rounded base is {mean(start):.3f} nats; trained and merged {mean(ends['merged']):.3f}, "
        f"rounded again {mean(ends['again']):.3f}, and at random {mean(ends['at random']):.3f}. With ΔW on W it is "
        f"{mean(ends['onto W']):.3f}, and that rounded {mean(ends['onto W, rounded']):.3f}. On average |ΔW| is "
        f"{100 * moved['in steps']:.1f} % of a step; it changes {100 * moved['moved on Ŵ']:.3f} % of the codes of Ŵ "
        f"and {100 * moved['moved on W']:.1f} % of those of W."
    )


def quantized(f):
    return race(f, "QLoRA, r 8", look=merged_and_rounded)["QLoRA, r 8"]
