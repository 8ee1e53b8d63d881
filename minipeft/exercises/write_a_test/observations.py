"""Writing a test for LoRALinear: it is run on right layers and on wrong ones, of the bank of `lora` and `layers.md`."""

import ast
import re
from functools import cache
from pathlib import Path

from minipeft.classroom.engine import bank, diffs, source
from minipeft.classroom.engine.exercise import load
from minipeft.classroom.engine.observation import Observations

observe = Observations()


# -- the layers that are tested ---------------------------------------------------------------------------------------

lora, ours = load("lora"), bank.read(Path(__file__).with_name("layers.md"))
TEXT = lora.plain()  # read now: a child process may not, once it runs what a student wrote

BEYOND = {
    "type of its own", "seed in the layer", "computed in 32 bits", "bottom of the base", "bias taken for granted",
    "delta cut off", "flattened with view",
}  # fmt: skip  # mistakes of `lora` of which the sheet says nothing: other types, a seed, stacked layers, no bias ...
STRANGE = bank.Mistake(
    "another description", (),
    "a layer that is right by another description: its matrices have other names, and its third argument means "
    "something else", "", "",
)  # fmt: skip


def concerning():
    """(mistake or right solution, the first method of LoRALinear that it changes), of those that change one."""
    methods = [name for name in diffs.spans(TEXT) if name.startswith("LoRALinear.")]
    right = [*lora.rights, *ours["Right solutions"]]
    for thing in [*right, *ours["Mistakes"], *(m for m in lora.mistakes if m.id not in BEYOND)]:
        touched = diffs.touched(TEXT, thing.diffs[0], methods)
        if first := next((name for name in methods if name in touched), None):
            yield thing, first.partition(".")[2]


PLAIN = ("A", "B"), "scale"  # the names of the two matrices and of the third argument
OTHER = ("down", "up"), "alpha"


@cache
def layers(thing, factors, scale):
    """The module of `lora` with a mistake or variant in it, None for neither, as the sheet describes it."""
    text = diffs.edited(TEXT, thing.diffs[0] if thing else ())
    if scale == "alpha":
        begin = "super().__init__(base)\n"  # the first is that of LoRALinear
        text = text.replace(begin, f"{begin}        scale = scale / rank\n", 1)
    for old, new in zip("AB", factors, strict=True):
        text = re.sub(rf"\bself\.{old}\b", f"self.{new}", text)
    return source.load(ast.parse(text), thing.id if thing else "the right layer", text)


def of(impl, thing):
    described = tuple(impl.FACTORS), impl.SCALE
    if thing is STRANGE:
        return layers(None, *(OTHER if described == PLAIN else PLAIN))
    return layers(thing, *described)


# -- running a test on them -------------------------------------------------------------------------------------------


def outcome(impl, thing):
    """What `impl.test` says of these layers: "passed", the AssertionError, or whatever else stopped it; run only once.

    An AssertionError keeps the place where it failed, and no text: that is the same for all who fail there.
    """
    known = vars(impl).setdefault("_outcomes", {})
    if thing not in known:
        try:
            answer = impl.test(of(impl, thing))
            known[thing] = "passed" if answer is None else "let through: it returned something, only `assert` counts"
        except Exception as error:
            if isinstance(error, AssertionError):
                error.args = ()
            known[thing] = error
    return known[thing]


def passes(thing):
    def look(impl):
        found = outcome(impl, thing)
        if isinstance(found, Exception):
            raise found
        return "passed"

    look.__name__ = f"passes {thing.id}" if thing else "passes the reference"
    return look


def catches(thing):
    def look(impl):
        found, of_the_right = outcome(impl, thing), outcome(impl, None)
        if not isinstance(found, Exception):
            return "let through" if found == "passed" else found
        if isinstance(of_the_right, AssertionError):
            return "rejected, but so is the right layer"
        if isinstance(of_the_right, Exception) and not isinstance(found, AssertionError):
            raise found  # it is the test that stops, and not the layer
        return "caught"

    look.__name__ = f"catches {thing.id}"
    return look


observe("right layers", "Your test rejects the project's own layer, which is right.")(passes(None))
for thing, _ in concerning():
    if isinstance(thing, bank.Right):
        says = f"Your test rejects a right layer, one that is only written in another way ({thing.id})."
        observe("right layers", says)(passes(thing))
GROUP = {"__init__": "layers made wrongly", "forward": "layers that answer wrongly", "delta": "wrong ΔW"}
OF_DROPOUT = {"probability to keep", "not made larger", "one mask"}


def group_of(thing, method):
    if "dropout" in thing.id or thing.id in OF_DROPOUT:
        return "wrong dropout"
    return "wrong gradients" if thing.id.endswith("cut off") else GROUP[method]


for thing, method in concerning():
    if not isinstance(thing, bank.Right):
        observe(group_of(thing, method), f"Your test lets this pass: {thing.what}.")(catches(thing))
observe("layers made wrongly", f"Your test lets this pass: {STRANGE.what}.")(catches(STRANGE))
