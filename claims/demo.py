"""The table of the README: every method on two tasks, ten seeds, from the store like every claim."""

from claims.ledger import HELD_OUT, NEW, SETS
from claims.page import LESSONS, table
from minipeft import plots
from minipeft.lab import TUNED_METHODS, compare, trial, tune

README, PICTURE = LESSONS.parent / "README.md", LESSONS.parent / "docs" / "compare.png"
BEGIN, END = "<!-- made by `python run.py claims` -->\n", "<!-- end -->"


def tunings(lab):
    """How the learning rates of TUNED_METHODS were found: a Tuning for each, for both tasks together."""
    jobs = [{"method": c.method, "sources": c.sources} for c in TUNED_METHODS]
    return tune(lab, trial, jobs, over=({"goal": HELD_OUT}, {"goal": NEW}))


def rows_of(lab):
    """{task: rows of `compare`}."""
    return {goal: compare(goal, seeds=len(SETS["first"]), lab=lab) for goal in (HELD_OUT, NEW)}


def percent(values):
    """Mean over seeds, and the range if there is one."""
    low, mean, high = 100 * min(values), 100 * sum(values) / len(values), 100 * max(values)
    return f"{mean:.1f}" + (f" ({low:.0f}–{high:.0f})" if round(low) < round(high) else "")


def text(found):
    heads = ("", "trained", "% of base", f"`{HELD_OUT}`, accuracy, %", "retention, attached, %",
             f"`{NEW}`, accuracy, %", "delta, bytes")  # fmt: skip
    lines = [
        (a["method"], f"{a['parameters']:,}", f"{a['percent']:.2f}", percent(a["accuracy"]), percent(a["retention"]),
         percent(b["accuracy"]), f"{a['bytes']:,}")
        for a, b in zip(*found.values(), strict=True)
    ]  # fmt: skip
    return table(heads, lines).replace("---", "---:").replace("| ---:", "| ---", 1)


def write(lab):
    tunings(lab)
    found = rows_of(lab)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + text(found) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
    axes = plots.new(7.5, 9.2, rows=2)
    for ax, (goal, rows) in zip(axes, found.items(), strict=True):
        plots.pareto(rows, ax).set_title(f"{goal} ({goal.kind}), ten seeds", fontsize=10)
    axes[0].figure.savefig(PICTURE, dpi=120)
