"""Broken code and statements about it: which one is true?

An answer is judged by what it says, not by its letter: the statement is read from the docstring, and tried out on the
code. So letters may be exchanged, and the code too.
"""

import re

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers

GROUPS = {
    "weights": ("First", "Second", "Third", "fourth"),
    "vectors and bottlenecks": ("Fifth", "Sixth"),
    "virtual tokens": ("Seventh", "eighth", "ninth"),
    "four bits": ("tenth",),
}

observe = Observations()

SAYS = {
    "First": "FIRST has another answer: make a fresh layer, look at its answer and at the gradients that arrive.",
    "Second": "SECOND has another answer: give B numbers, then compare the layer's answers before and after `merge`.",
    "Third": "THIRD has another answer: take a base that is not square, and look at the shape of everything.",
    "fourth": "FOURTH has another answer: try it on models with all kinds of names.",
    "Fifth": "FIFTH has another answer: look at its answer before any training, and at the shape of what it trains.",
    "Sixth": "SIXTH has another answer: compare its answer with that of its base, at the start and far from it.",
    "Seventh": "SEVENTH has another answer: print both results for two short rows.",
    "eighth": "EIGHTH has another answer: let P be 0, 1, 2, … and look where the numbers go.",
    "ninth": "NINTH has another answer: print it, once with T = S and once with a cache.",
    "tenth": "TENTH has another answer: send 0, 1, 2, … 15 through.",
}


# -- trying statements out --------------------------------------------------------------------------------------------


def first(impl, fresh=False):
    made = impl.First(linear(), 2, 6.0)
    return made if fresh else fill(made, "trainable")


def stuck(impl):
    made = first(impl, fresh=True)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return not (made.A.grad.any() or made.B.grad.any())


def starts_elsewhere(made):
    x = numbers("x", (4, 5))
    return not torch.allclose(made(x), made.base(x))


def merging(impl):
    """The layer's update before and after, in terms of B A x."""
    made, x = fill(impl.Second(linear(), 2, 6.0), "trainable"), numbers("x", (4, 5))
    base, before = linear()(x), made(x)
    made.merge()
    return before - base, made(x) - base, made.base(x) - base, x @ made.A.T @ made.B.T


def merged_twice(impl):
    update, after, *_ = merging(impl)
    return torch.allclose(after, 2 * update)


def merged_without_scale(impl):
    _, _, inside, product = merging(impl)
    return torch.allclose(inside, product)


class Names(nn.Module):
    def __init__(self):
        super().__init__()
        self.lora_A, self.explora_head = nn.Parameter(torch.zeros(1)), nn.Linear(1, 1)


def only_sounds(impl):
    return any("explora_head" in name for name in impl.fourth(Names()))


def sixth(impl):
    return impl.Sixth(linear(5, 5), 5, 2)


def cut_off(impl):
    x = numbers("x", (4, 5))
    return bool(sixth(impl)(x).norm() < 0.1 * linear(5, 5)(x).norm())


def is_linear(impl):
    made, x = fill(sixth(impl), "trainable"), numbers("x", (4, 5))
    added = made(x) - made.base(x)
    other = made(3 * x) - made.base(3 * x)
    zero = made(0 * x) - made.base(0 * x)
    return torch.allclose(other - zero, 3 * (added - zero))


def seventh(impl):
    made, x = fill(impl.Seventh(2, 3)), numbers("x", (2, 4, 3))
    vectors, mask = impl.Seventh.forward(made, x, torch.ones(2, 4, dtype=torch.bool))
    place = next(i for i in range(5) if torch.equal(vectors[0, i : i + 2], made.P))
    return place, mask[:, place : place + 2]


def mixes_heads(impl):
    P = torch.arange(12.0).view(2, 6)
    return not torch.equal(impl.eighth(P, 3), P.view(2, 3, 2).transpose(0, 1))


def sent_through(impl):
    codes = torch.arange(16)
    return codes, impl.tenth(codes).long()


def exchanged(impl):
    codes, back = sent_through(impl)
    return torch.equal(back.view(-1, 2).flip(1).flatten(), codes)


TRIALS = {  # what is true of the code as it stands, or under a variant
    "A can never learn: B is zero, and will stay so.": stuck,
    "The model does not start as the base.": {
        "First": lambda impl: starts_elsewhere(first(impl, fresh=True)),
        "Third": lambda impl: starts_elsewhere(impl.Third(linear(), 2, 3.0)),
        "Fifth": lambda impl: starts_elsewhere(impl.Fifth(linear())),
    },
    "After merging the update acts twice.": merged_twice,
    "Merging forgets the scale.": merged_without_scale,
    "The magnitudes belong to the inputs.": lambda impl: len(impl.Third(linear(), 2, 3.0).m) == 5,
    "It trains parameters that only sound like LoRA's.": only_sounds,
    "l has the length of the input.": lambda impl: len(impl.Fifth(linear()).l) == 5,
    "What the sublayer computes no longer gets past the bottleneck.": cut_off,
    "The function φ is missing.": is_linear,
    "Nobody can attend to the prompt.": lambda impl: not seventh(impl)[1].any(),
    "The prompt stands behind the tokens.": lambda impl: seventh(impl)[0] > 0,
    "A head gets numbers from other heads' parts.": mixes_heads,
    "With a cache the queries are taken for the first tokens instead of the last.": lambda impl: (
        not impl.ninth(1, 4)[0, 1:].any()
    ),
    "Without a cache it lets tokens see the future.": lambda impl: bool(impl.ninth(3, 3).triu(1).any()),
    "Neighbours come back exchanged.": exchanged,
    "Codes above 7 come back negative.": lambda impl: bool((sent_through(impl)[1] < 0).any()),
}


def statements(piece):
    """{letter: statement} from a docstring."""
    return dict(re.findall(r"^\s*([a-f])\) (.*)$", piece.__doc__, re.MULTILINE))


def letter_of(answer, there):
    """The letter of an answer: "b", "B)", "b) A can never learn …", or the statement itself; None for anything else."""
    if not isinstance(answer, str):
        return None
    said = {statement.rstrip("."): letter for letter, statement in there.items()}
    found = re.match(r"\W*([a-f])(\W*$|[).:]\s)", answer.lower())
    return found[1] if found else said.get(answer.strip().rstrip("."))


def holds(statement, name, impl):
    trial = TRIALS.get(statement, lambda impl: False)
    trial = trial[name] if isinstance(trial, dict) else trial
    return trial(impl)


def asks(name):
    def look(impl):
        there, answer = statements(getattr(impl, name)), getattr(impl, name.upper())
        letter = letter_of(answer, there)
        if letter not in there:
            raise ValueError(f"{name.upper()} is {answer!r}, one of the letters {', '.join(there)} is expected")
        true = holds(there[letter], name, impl)
        return {"Your statement": "holds" if true else "does not hold", "statement": there[letter]}

    look.__name__ = name.upper()
    return look


for group, names in GROUPS.items():
    for name in names:
        observe(group, SAYS[name])(asks(name))
