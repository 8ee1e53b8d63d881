"""A result against a number: the size of the model, of the data, of the method."""

from statistics import mean

from minipeft.plots.style import bare, dash, mark, new, shades


def against(found, ax=None, xlabel="", ylabel="lines right (share)"):
    """A line for each method over a number, with the range over seeds: {method: {number: [one value per seed]}}.

    The numbers are placed as ratios (a logarithmic axis), with a tick at each.
    """
    ax = bare(ax or new(6.5, 3.4))
    ticks = sorted({number for by_number in found.values() for number in by_number})
    for i, (label, colour) in enumerate(zip(found, shades(list(found)), strict=True)):
        numbers = list(found[label])
        x = [n * 1.02 ** (i - len(found) / 2) for n in numbers]  # beside each other, so that no range hides another
        values = list(found[label].values())
        middle = [mean(v) for v in values]
        ranges = [
            [m - min(v) for m, v in zip(middle, values, strict=True)],
            [max(v) - m for m, v in zip(middle, values, strict=True)],
        ]
        ax.errorbar(x, middle, ranges, color=colour, capsize=2, lw=1.5, ls=dash(label), label=label, **mark(label))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
