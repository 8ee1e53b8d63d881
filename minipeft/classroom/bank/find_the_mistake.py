"""Broken code and statements about it: which one is true?

An answer is judged by what it says, not by its letter: the statement is read from the docstring, and tried out on the
code. So letters may be exchanged, and the code too.
"""

import re

import torch
from torch import nn

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers

GROUPS = {
    "weights": ("First", "Second", "Third", "fourth"),
    "vectors and bottlenecks": ("Fifth", "Sixth"),
    "virtual tokens": ("Seventh", "eighth", "ninth"),
    "four bits": ("tenth",),
}

exercise = Exercise(
    "find_the_mistake",
    "classroom/workbook/find_the_mistake.py",
    stubs=tuple(name.upper() for names in GROUPS.values() for name in names),
    title="Find the mistake: ten broken pieces of code",
    minutes=40,
    difficulty=2,
    why="What the usual mistakes look like from outside, and that none of them stops with an error.",
    read="the docstrings of minipeft/methods, which have the right equations",
)

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
        exercise.observe(group, SAYS[name])(asks(name))


# -- tempting answers -------------------------------------------------------------------------------------------------


def tempting(name, right, letter, what, question, hint, seen="classic"):
    exercise.mistake(
        f"{name} {letter}", ((f'\n{name} = "{right}"', f'\n{name} = "{letter}"'),), what, question, hint, seen
    )


tempting(
    "FIRST", "b", "d",
    "a start that is taken for another one than the base's",
    "what does the update add as long as B is zero?",
    "Compare the layer's answer with its base's, before any training.",
)  # fmt: skip
tempting(
    "FIRST", "b", "e",
    "an order of factors that is taken for the wrong one",
    "which shape has x Aᵀ, and with what can it be multiplied?",
    "x is multiplied from the right: first down to r, then up to the output.",
)  # fmt: skip
tempting(
    "SECOND", "c", "b",
    "a scale that is looked for in the wrong place",
    "after `merge`, what does `base` alone compute, compared with the layer before?",
    "Look at what is added to the weight, and then follow x through `forward` once more.",
)  # fmt: skip
tempting(
    "SECOND", "c", "a",
    "a product of factors that is taken for transposed",
    "which shapes have B A and `base.weight`, where in and out differ?",
    "With a base that is not square, adding a transposed matrix would stop with an error.",
    "huggingface/peft#315 and #1588, where it did happen",
)  # fmt: skip
tempting(
    "SECOND", "c", "d",
    "a second merge that is taken for harmless",
    "what has the weight become after two calls?",
    "Nothing in `merge` remembers that it has run; but this is a statement about what would be harmless, not the mistake.",
    "huggingface/peft#1355, where merging twice did harm",
)  # fmt: skip
tempting(
    "THIRD", "a", "c",
    "a gradient that is looked for where it has been cut off",
    "what does `detach` do to ‖V‖?",
    "Only the length has to be a constant; V itself has a gradient, as it should.",
)  # fmt: skip
tempting(
    "THIRD", "a", "b",
    "a start of the magnitudes that would move the model away from the base",
    "with magnitudes of one, how long would the rows of W' be?",
    "The model should start as the base, so its lengths are what to start with.",
)  # fmt: skip
tempting(
    "THIRD", "a", "d",
    "a start that is taken for another one than the base's",
    "what is m/‖V‖ before any training?",
    "Try it with B = 0; the mistake shows only later.",
)  # fmt: skip
tempting(
    "FOURTH", "b", "a",
    "a fear of freezing too much",
    "is there a parameter called lora_A or lora_B whose name does not hold what is searched for?",
    "Searching for a part of a name seldom finds too little.",
)  # fmt: skip
tempting(
    "FOURTH", "b", "d",
    "a list of names that is taken for wrong",
    "how is the list made that the function returns?",
    "It is read from the parameters after they were set.",
)  # fmt: skip
tempting(
    "FIFTH", "d", "e",
    "a gradient that is believed to be zero",
    "y = l ⊙ u: is ∂l made of l or of u?",
    "Unlike a product of two zeros, this one has a factor that is not zero.",
)  # fmt: skip
tempting(
    "FIFTH", "d", "b",
    "an equation without brackets",
    "what stands inside the brackets that l multiplies?",
    "Keys are W x + b, and it is the keys that are rescaled.",
)  # fmt: skip
tempting(
    "SIXTH", "e", "d",
    "a start that is believed to stop all gradients",
    "is either D or U zero here?",
    "Small is not zero: with both drawn from N(0, 0.01²), both get a gradient.",
)  # fmt: skip
tempting(
    "SIXTH", "e", "c",
    "a function that is overlooked",
    "what is done between D and U?",
    "Read `forward` from the inside.",
)  # fmt: skip
tempting(
    "SEVENTH", "b", "d",
    "two lengths that are taken for different",
    "how much longer is the mask after `F.pad`?",
    "Compare the shapes of the two results.",
)  # fmt: skip
tempting(
    "SEVENTH", "b", "a",
    "an order that is taken for the wrong one",
    "which of the two comes first in `torch.cat`?",
    "Compare the first vectors of the result with P.",
)  # fmt: skip
tempting(
    "EIGHTH", "c", "e",
    "an order of heads that is taken for reversed",
    "with one key only, n = 1, what does head 0 get?",
    "Try n = 1 first, then n = 2: the mistake needs more than one key to show.",
)  # fmt: skip
tempting(
    "EIGHTH", "c", "a",
    "a shape that is taken for wrong",
    "what does `.shape` say?",
    "The shape is what makes this mistake hard to see: everything fits.",
)  # fmt: skip
tempting(
    "NINTH", "d", "b",
    "a mask that is looked at from the wrong side",
    "in which half of a matrix are the places with key > query?",
    "Rows are queries, columns are keys; print it for T = S = 3.",
)  # fmt: skip
tempting(
    "NINTH", "d", "e",
    "a first row that is believed to be empty",
    "how many keys does the first query see, with T = 1 and S = 4? And how many should it see?",
    "It is not nothing that it sees.",
)  # fmt: skip
tempting(
    "TENTH", "b", "a",
    "a sign that uint8 does not have",
    "which numbers can a uint8 hold?",
    "In int8 the upper four bits would carry a sign; look at the type here.",
)  # fmt: skip
tempting(
    "TENTH", "b", "d",
    "codes that are believed lost",
    "how many codes come back, and are they all different?",
    "Send sixteen different codes through and count.",
)  # fmt: skip

tempting(
    "FIRST", "b", "a",
    "a scale that is believed to be turned over",
    "which of the two, α or r, is divided by the other?",
    "Compare the line that sets the scale with the docstring.",
)  # fmt: skip
tempting(
    "FIRST", "b", "c",
    "a bias that is believed to be missing",
    "what does `self.base(x)` add?",
    "The base is called as a whole: try it with x = 0.",
)  # fmt: skip
tempting(
    "SECOND", "c", "e",
    "a bias that is believed to change",
    "which tensor does `merge` write to?",
    "Print `base.bias` before and after.",
)  # fmt: skip
tempting(
    "THIRD", "a", "e",
    "a bias that is believed to be scaled along",
    "on which side of the product with m is the bias added?",
    "`F.linear` adds what it is given last, as it is given.",
)  # fmt: skip
tempting(
    "FOURTH", "b", "c",
    "parameters that are believed to be left out of the pass",
    "what does `requires_grad = False` stop: the pass, or the gradient?",
    "A frozen parameter computes as before; it only stays what it is.",
)  # fmt: skip
tempting(
    "FIFTH", "d", "a",
    "a vector that is believed to be as long as the input",
    "how long is l, for a base from 5 to 3?",
    "Make a layer in front of a base that is not square, and print the shape of l.",
)  # fmt: skip
tempting(
    "FIFTH", "d", "c",
    "a frozen weight that is believed to be trained",
    "which parameters of the layer need a gradient?",
    "The base arrives frozen, and nothing here thaws it.",
)  # fmt: skip
tempting(
    "SIXTH", "e", "a",
    "an adapter that is believed to read the sublayer's input",
    "what is handed to `self.D`: x, or what the base made of it?",
    "Read `forward` from top to bottom, name by name.",
)  # fmt: skip
tempting(
    "SIXTH", "e", "b",
    "a bottleneck that is believed to be wide",
    "which of d and m is the output of `D`?",
    "The sizes are the caller's; look at which side of each layer is m.",
)  # fmt: skip
tempting(
    "SEVENTH", "b", "c",
    "prompts that are believed to differ from row to row",
    "how many prompts does `expand` read from?",
    "Compare the first vectors of two rows.",
)  # fmt: skip
tempting(
    "SEVENTH", "b", "e",
    "a prompt that is believed not to be trained",
    "what does `named_parameters()` of this module list?",
    "An `nn.Parameter` that is set on a module is found by the optimizer.",
)  # fmt: skip
tempting(
    "EIGHTH", "c", "b",
    "numbers that are believed to be lost",
    "how many numbers go in, and how many come out?",
    "Sort the numbers of the result and compare them with those of P.",
)  # fmt: skip
tempting(
    "EIGHTH", "c", "d",
    "a gradient that is believed to be cut off",
    "does `reshape` compute something through which no gradient passes?",
    "Send the sum of the result back and look at `P.grad`.",
)  # fmt: skip
tempting(
    "NINTH", "d", "a",
    "a diagonal that is believed to be empty",
    "what stands on the diagonal of `tril()`?",
    "Print it for T = S = 3 and read the first row.",
)  # fmt: skip
tempting(
    "NINTH", "d", "c",
    "a mask that is believed to be transposed",
    "which of T and S comes first in the shape of the result?",
    "Compare the shape with the docstring, for T = 1 and S = 4.",
)  # fmt: skip
tempting(
    "TENTH", "b", "c",
    "large codes that are believed to vanish",
    "what does 15 become?",
    "Four bits and four bits are a byte: there is room for every code.",
)  # fmt: skip
tempting(
    "TENTH", "b", "e",
    "codes that are believed to be added up",
    "do the bits of the two codes overlap in a byte?",
    "One of the two is moved by four places before they are joined.",
)  # fmt: skip

exercise.right(
    "capitals",
    tuple((f'\n{n} = "{a}"', f'\n{n} = "{a.upper()}"') for n, a in (("FIRST", "b"), ("SECOND", "c"), ("NINTH", "d"))),
)
exercise.right(
    "brackets",
    (('\nTHIRD = "a"', '\nTHIRD = "a)"'), ('\nFIFTH = "d"', '\nFIFTH = "(d)"'), ('\nSIXTH = "e"', '\nSIXTH = " e. "')),
)
exercise.right("annotated", (('\nEIGHTH = "c"', '\nEIGHTH: str = "c"'), ('\nTENTH = "b"', "\nTENTH = 'b'")))

exercise.variant(
    "other letters",
    (("    a) The magnitudes belong to the inputs.", "    a) The model does not start as base."),
     ("    d) The model does not start as the base.\n    e) The bias is scaled along.", "    d) The magnitudes belong to the inputs.\n    e) The bias is scaled along."),
     ("    a) The model does not start as base.", "    a) The model does not start as the base."),
     ('\nTHIRD = "a"', '\nTHIRD = "d"'),
     ("    a) It freezes parameters that belong to LoRA.\n    b) It trains parameters that only sound like LoRA's.",
      "    a) It trains parameters that only sound like LoRA's.\n    b) It freezes parameters that belong to LoRA."),
     ('\nFOURTH = "b"', '\nFOURTH = "a"'),
     ("    c) A head gets numbers from other heads' parts.\n    d) P gets no gradient.\n    e) The heads are in reverse order.",
      "    c) P gets no gradient.\n    d) The heads are in reverse order.\n    e) A head gets numbers from other heads' parts."),
     ('\nEIGHTH = "c"', '\nEIGHTH = "e"')),
    "the statements about Third, fourth and eighth stand in an order of their own",
)  # fmt: skip
exercise.variant(
    "other layers",
    (("        self.A = nn.Parameter(torch.zeros(rank, base.in_features))\n        self.B = nn.Parameter(torch.zeros(base.out_features, rank))",
      "        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)\n        self.B = nn.Parameter(torch.randn(base.out_features, rank) / rank**0.5)"),
     ('\nFIRST = "b"', '\nFIRST = "d"'),
     ("        self.base.weight.data += self.scale * self.B.data @ self.A.data", "        self.base.weight.data += self.B.data @ self.A.data\n        self.scale = 0.0"),
     ('\nSECOND = "c"', '\nSECOND = "b"'),
     ("        return self.U(F.gelu(self.D(f)))", "        return f + self.U(self.D(f))"),
     ('\nSIXTH = "e"', '\nSIXTH = "c"')),
    "First, Second and Sixth are broken in a way of their own",
)  # fmt: skip
exercise.variant(
    "other places",
    (("        self.l = nn.Parameter(torch.zeros(base.out_features))\n\n    def forward(self, x):\n        return self.l * self.base(x)",
      "        self.l = nn.Parameter(torch.ones(base.in_features))\n\n    def forward(self, x):\n        return self.base(self.l * x)"),
     ('\nFIFTH = "d"', '\nFIFTH = "a"'),
     ("        return torch.cat([P, x], dim=1), F.pad(mask, (len(self.P), 0), value=False)",
      "        return torch.cat([x, P], dim=1), F.pad(mask, (0, len(self.P)), value=True)"),
     ('\nSEVENTH = "b"', '\nSEVENTH = "a"'),
     ("    return torch.ones(T, S, dtype=torch.bool).tril()", "    return torch.ones(T, S, dtype=torch.bool).tril(S - T + 1)"),
     ('\nNINTH = "d"', '\nNINTH = "b"'),
     ("    codes = codes.to(torch.uint8)", "    codes = codes.to(torch.int8)"),
     ("    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()", "    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()"),
     ('\nTENTH = "b"', '\nTENTH = "a"')),
    "Fifth, Seventh, ninth and tenth are broken in a way of their own",
)  # fmt: skip
