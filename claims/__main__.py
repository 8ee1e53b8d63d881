"""python run.py claims [name ...]: makes the runs that are not stored and writes lessons/claims.md."""

import argparse

import torch

from claims import costs, data, lora, methods, prompts, tasks  # noqa: F401
from claims.lab import Lab
from claims.ledger import CLAIMS, findings
from claims.page import LESSONS, MARKS, page


def main():
    parser = argparse.ArgumentParser(prog="python run.py claims", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these claims, printed and not written; without: all")
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    parser.add_argument("--again", action="store_true", help="forget what is stored of these claims and run it again")
    parser.add_argument("--list", action="store_true", help="the claims and their names")
    words = parser.parse_args()
    if strange := set(words.names) - {c.name for c in CLAIMS}:
        parser.error(f"there is no claim {', '.join(sorted(strange))}; --list shows what there is")
    if words.list:
        print(*(f"{c.name:20} {c.says}" for c in CLAIMS), sep="\n")
        return
    torch.set_num_threads(1)
    chosen = [c for c in CLAIMS if c.name in words.names or not words.names]
    lab = Lab(workers=words.workers, again=words.again)
    found = findings(chosen, lab)
    lab.close(prune=not words.names)
    for claim, finding in found.items():
        print(f"\n{claim.says}: {finding.verdict.upper()}  ({claim.name})")
        for text, decision, numbers in finding.statements:
            print(f"  {MARKS[decision]}  {text}: {numbers}")
    if not words.names:
        for name, _, draw in [picture for finding in found.values() for picture in finding.pictures]:
            draw().figure.savefig(LESSONS.parent / "docs" / f"{name}.png", dpi=110)
        (LESSONS / "claims.md").write_text(page(found, lab), encoding="utf-8")
        print(f"\nwritten: {LESSONS / 'claims.md'}")


if __name__ == "__main__":
    main()
