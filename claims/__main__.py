"""python run.py claims [name ...]: run what is not stored, write lessons/claims.md. See --help."""

import argparse

import torch

from claims import costs, data, lora, methods, prompts, tasks  # noqa: F401
from claims.lab import Lab
from claims.ledger import CLAIMS, findings


def main():
    parser = argparse.ArgumentParser(prog="python run.py claims", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these claims; the page is not written then")
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    parser.add_argument("--list", action="store_true", help="the claims and their names")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.list:
        print(*(f"{c.name:20} {c.says}" for c in CLAIMS), sep="\n")
        return
    chosen = [c for c in CLAIMS if c.name in words.names or not words.names]
    lab = Lab(workers=words.workers)
    for claim, finding in findings(chosen, lab).items():
        print(f"\n{claim.name}: {claim.says}\n  {finding.verdict.upper()}")
        for text, decision, numbers in finding.statements:
            print(f"  {'?' if decision is None else 'ny'[decision]}  {text}: {numbers}")
    lab.close()


if __name__ == "__main__":
    main()
