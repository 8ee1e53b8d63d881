"""Small bodies that no exercise asks for: what yours gives is printed beside what ours gives."""

import math

import torch


def beside(yours, ours, cases, measures=None):
    """Print what two functions give for each {name: arguments}. Returns yours if all numbers are alike, else ours.

    measures: {name: a function that makes a number of what they give}, where they do not give numbers themselves.
    """
    right, measures = True, measures or {"": float}
    for case, arguments in cases.items():
        try:
            given = yours(*arguments)
        except NotImplementedError:
            print(f"{yours.__name__}: not written yet")
            right = False
            break
        wanted = ours(*arguments)
        for what, measure in measures.items():
            pair = math.nan if given is None else measure(given), measure(wanted)
            right = right and math.isclose(*pair, rel_tol=1e-3, abs_tol=1e-5)
            name = f"{case}, {what}" if what else case
            print("{:30} yours {:>8}    ours {:>8}".format(name, *map(shown, pair)))
    whose = f"your {ours.__name__}" if right else f"our {ours.__name__}, until yours is right"
    print(f"What follows runs on {whose}.")
    return yours if right else ours


def shown(number):
    return f"{number:,}" if isinstance(number, int) else f"{number:.4f}"


def tensors_beside(yours, ours, *arguments):
    """Print how many of the {name: tensor} that a function gives are those of ours. Returns its own if all are."""
    wanted = ours(*arguments)
    try:
        given = yours(*arguments) or {}
    except NotImplementedError:
        print(f"{yours.__name__}: not written yet")
        given = {}
    known = [name for name in wanted if name in given]
    right = [name for name in known if torch.equal(given[name], wanted[name])]
    print(f"names {len(given)}, expected ones {len(known)} of {len(wanted)}, with the right numbers {len(right)}")
    for name in [name for name in given if name not in wanted][:1]:
        print(f"not expected: {name}")
    whose = "yours" if len(right) == len(wanted) == len(given) else "ours, until yours is right"
    print(f"What follows runs on {whose}.")
    return given if whose == "yours" else wanted
