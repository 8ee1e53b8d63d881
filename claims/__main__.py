"""python run.py claims [name ...]: makes the runs that are not stored; writes lessons/claims.md and README's table."""

import argparse
import importlib
import io
import pkgutil
from contextlib import ExitStack

import matplotlib.pyplot as plt
import torch
from PIL import Image

import claims
from claims import demo
from claims.ledger import CLAIMS, SETS, twice
from claims.page import LESSONS, MARKS, page, shown
from minipeft import plots
from minipeft.lab import Lab, executor_from, stored
from minipeft.lab.executors import Unfit
from minipeft.lab.pool import SHIPPED as RUNS

PICTURES = LESSONS.parent / "docs" / "claims"
TOOLS = {"__main__", "demo", "ledger", "page", "planted", "statistics"}
for module in pkgutil.iter_modules(claims.__path__):  # every other file of the folder holds claims
    if module.name not in TOOLS:
        importlib.import_module(f"claims.{module.name}")


def main():
    parser = argparse.ArgumentParser(prog="python run.py claims", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these claims, printed and not written; without: all")
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    parser.add_argument("--executor", default="processes", help="processes (here), loky, or dask://HOST:PORT")
    parser.add_argument("--again", action="store_true", help="forget what is stored of these claims and run it again")
    parser.add_argument("--stored", action="store_true", help="run nothing: write what is stored; the rest waits")
    parser.add_argument("--list", action="store_true", help="the claims and their names")
    words = parser.parse_args()
    if strange := set(words.names) - {c.name for c in CLAIMS}:
        parser.error(f"there is no claim {', '.join(sorted(strange))}; --list shows what there is")
    if words.list:
        print(*(f"{c.name:24} {c.says}" for c in CLAIMS), sep="\n")
        return
    torch.set_num_threads(1)
    chosen = [c for c in CLAIMS if c.name in words.names or not words.names]
    with ExitStack() as stack:
        if words.stored:
            lab = stack.enter_context(stored())
        else:
            try:
                executor = stack.enter_context(executor_from(words.executor, words.workers))
            except (ValueError, OSError, ModuleNotFoundError, Unfit) as error:
                parser.error(str(error))
            lab = stack.enter_context(Lab(RUNS, words.workers, executor, again=words.again))
        found = twice(chosen, lab)
        for claim, both in found.items():
            for name, finding in zip(SETS, both, strict=True):
                tell(claim, name, finding)
        if not words.names:
            write(found, lab)


def tell(claim, name, finding):
    if finding:
        print(f"\n{claim.says}: {finding.verdict.upper()}  ({claim.name}, {name} seeds)\n  {finding.result}")
        for s in finding.statements:
            effect = f"  [{shown(s.effect, s.unit)}, p {s.p:.3g}]" if s.effect else ""
            print(f"  {MARKS[s.decision]}  {s.text}: {s.numbers}{effect} {s.reason}")


def write(found, lab):
    demo.write(lab)
    waiting = [c for c in CLAIMS if c not in found]
    if not waiting:
        lab.store.prune(lab.asked)
    PICTURES.mkdir(exist_ok=True)
    for claim, (finding, _) in found.items():
        if finding.variations:
            draw = plots.effects({text: effects for text, effects, _ in finding.variations}, finding.variations[0][2])
            keep(draw.figure, claim.name, dpi=90, colours=8)
        for name, _, picture in finding.pictures:
            keep(picture().figure, name, dpi=110, colours=32)
    (LESSONS / "claims.md").write_text(page(found, lab, waiting), encoding="utf-8")
    print(f"\nwritten: {LESSONS / 'claims.md'}")


def keep(figure, name, dpi, colours):
    """As a PNG of few colours, a quarter of the size or less: the page on the site holds all pictures."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    few = Image.open(drawn).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(PICTURES / f"{name}.png", optimize=True)
    plt.close(figure)


if __name__ == "__main__":
    main()
