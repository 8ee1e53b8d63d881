"""Writing a test for LoRALinear: it is run on the right layers and on the mistakes of the bank of `lora`."""

import itertools
import re
from functools import cache

from minipeft.classroom.bank.lora import DELTA, OUTER
from minipeft.classroom.bank.lora import exercise as lora
from minipeft.classroom.engine import source
from minipeft.classroom.engine.exercise import Exercise, Mistake, Right, edited

exercise = Exercise(
    "write_a_test",
    "classroom/workbook/write_a_test.py",
    stubs=("test",),
    title="Write the test: tell a right LoRA layer from a wrong one",
    minutes=60,
    difficulty=3,
    why="Which inputs, sizes and starts tell right from wrong, and why most tests of a LoRA layer pass almost anything.",
    read="tests/test_lora.py, when you are done",
)


# -- the layers that are tested ---------------------------------------------------------------------------------------


TEXT = lora.plain()  # read now: a child process may not, once it runs what a student wrote

OTHER_NUMBERS = Right(
    "A drawn by columns",
    (("nn.Parameter(base.weight.new_empty(rank, into))\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))",
      "nn.Parameter(base.weight.new_empty(into, rank).uniform_(-(into**-0.5), into**-0.5).T.contiguous())\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        "),),
)  # fmt: skip
SUBTRACTED = Mistake(
    "update subtracted",
    ((OUTER, "return self.base(x) - F.linear(h, self.scale * self.B)"), (DELTA, "return -self.scale * self.B @ self.A")),
    "the update is subtracted instead of added", "", "",
)  # fmt: skip
NOISE = Mistake(
    "noise",
    ((OUTER, "return self.base(x) + 1000 * h.new_empty(*h.shape[:-1], len(self.B)).normal_()"), (DELTA, "return self.base.weight.new_empty(self.base.weight.shape).normal_()")),
    "every answer of the layer is noise", "", "",
)  # fmt: skip
STOPS = Mistake(
    "an error", ((OUTER, 'raise RuntimeError("this layer always stops")'), (DELTA, 'raise RuntimeError("this layer always stops")')),
    "the layer always stops with an error", "", "",
)  # fmt: skip
A_LITTLE = Mistake(
    "a little too much", ((OUTER, OUTER.replace("return ", "return 0.05 + ")),),
    "every answer of the layer is a little too large", "", "",
)  # fmt: skip
STRANGE = Mistake(
    "another description", (),
    "a layer that is right by another description: its matrices have other names, and its third argument means something else",
    "", "",
)  # fmt: skip


BEYOND = {
    "type of its own", "seed in the layer", "computed in 32 bits", "bottom of the base", "bias taken for granted",
}  # fmt: skip  # mistakes of `lora` of which the sheet says nothing: other types, a seed, stacked layers, no bias


def methods_of_the_layer():
    """{method of LoRALinear: (first, last character)} in the text of the reference."""
    layer = next(node for node in source.ast.parse(TEXT).body if getattr(node, "name", None) == "LoRALinear")
    starts = [0, *itertools.accumulate(len(line) for line in TEXT.splitlines(True))]
    found = [node for node in layer.body if isinstance(node, source.ast.FunctionDef)]
    return {node.name: (starts[node.lineno - 1], starts[node.end_lineno]) for node in found}


def concerning():
    """(mistake or right variant, the first method of LoRALinear that it changes), of those that change one."""
    methods = methods_of_the_layer()
    for thing in [
        *lora.rights,
        OTHER_NUMBERS,
        NOISE,
        STOPS,
        A_LITTLE,
        *(m for m in lora.mistakes if m.id not in BEYOND),
        SUBTRACTED,
    ]:
        places = [TEXT.index(find) for find, _ in thing.edits]
        if touched := [name for name, (first, last) in methods.items() if any(first <= p < last for p in places)]:
            yield thing, touched[0]


PLAIN = ("A", "B"), "scale"  # the names of the two matrices and of the third argument
OTHER = ("down", "up"), "alpha"


@cache
def layers(thing, factors, scale):
    """The module of `lora` with a mistake or variant in it, None for neither, as the sheet describes it."""
    text = edited(TEXT, thing.edits if thing else ())
    if scale == "alpha":
        text = text.replace("self.scale, self.dropout = scale,", "self.scale, self.dropout = scale / rank,", 1)
    for old, new in zip("AB", factors, strict=True):
        text = re.sub(rf"\bself\.{old}\b", f"self.{new}", text)
    return source.load(source.ast.parse(text), thing.id if thing else "the right layer", text)


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
        found = outcome(impl, thing)
        if isinstance(found, AssertionError):
            return "caught"
        if isinstance(found, Exception):
            of_the_right = outcome(impl, None)
            if isinstance(of_the_right, Exception) and not isinstance(of_the_right, AssertionError):
                raise found  # it is the test that stops, and not the layer
            return "caught"
        return "let through" if found == "passed" else found

    look.__name__ = f"catches {thing.id}"
    return look


exercise.observe("right layers", "Your test rejects the project's own layer, which is right.")(passes(None))
for thing, _ in concerning():
    if isinstance(thing, Right):
        says = f"Your test rejects a right layer, one that is only written in another way ({thing.id})."
        exercise.observe("right layers", says)(passes(thing))
GROUP = {"__init__": "layers made wrongly", "forward": "layers that answer wrongly", "delta": "wrong ΔW"}
OF_DROPOUT = {"probability to keep", "not made larger", "one mask"}


def group_of(thing, method):
    if "dropout" in thing.id or thing.id in OF_DROPOUT:
        return "wrong dropout"
    return "wrong gradients" if thing.id.endswith("cut off") else GROUP[method]


for thing, method in concerning():
    if not isinstance(thing, Right):
        exercise.observe(group_of(thing, method), f"Your test lets this pass: {thing.what}.")(catches(thing))
exercise.observe("layers made wrongly", f"Your test lets this pass: {STRANGE.what}.")(catches(STRANGE))


# -- poor tests -------------------------------------------------------------------------------------------------------

BODY = exercise.plain()[exercise.plain().index("    close, base, x") :]
START = BODY[BODY.index("    trained = {") : BODY.index("    # away from it")]
AWAY = BODY[BODY.index("    fill(layer)\n") : BODY.index("    # gradients")]
GRADIENTS = BODY[BODY.index("    # gradients") : BODY.index("    # dropout")]
DROPOUT = BODY[BODY.index("    # dropout") :]
PLACE = DROPOUT[DROPOUT.index("\n    # what it leaves") :]
WIDTH = START[START.index("    assert 0.1") : START.index("    assert not layer.B")]
NOTHING_ELSE = (GRADIENTS, ""), (DROPOUT, "")


def poor(id, edits, *words, forms=(), alone=True):
    """A poor test. alone: also where it looks at neither gradients nor dropout, as most first tests do."""
    exercise.mistake(id, edits, *words, forms=(*forms, *([(*edits, *NOTHING_ELSE)] if alone else [])))


poor(
    "nothing is asserted",
    ((START, "    layer(x)\n\n"), (AWAY, "    layer.delta()\n\n"), *NOTHING_ELSE),
    "a test that asserts nothing about the layer's answers",
    "which answer of the layer would make your test fail?",
    "Compare what comes out with what the equation says should come out. A printed answer is no assertion, and `assert` of a pair in brackets, a condition and a text, is always true.",
    forms=tuple(
        ((START, "    layer(x)\n\n"), (AWAY, f"    fill(layer)\n    layer(x), expected(layer)\n{more}"), *NOTHING_ELSE)
        for more in ("    layer.delta()\n", "    layer.merged()(before)\n", "    layer.delta(), layer.merged()(before)\n", "")
    ),
    alone=False,
)  # fmt: skip
poor(
    "errors are swallowed",
    ((START, "    try:\n        layer(x)\n"), (AWAY, "        assert layer.delta().shape == base.weight.shape\n"), (GRADIENTS, ""), (DROPOUT, "    except Exception:\n        return\n")),
    "a test that swallows every error, its own assertions too",
    "what becomes of an AssertionError inside of `try`?",
    "An assertion that fails is an exception: let it through.",
    alone=False,
)  # fmt: skip
poor(
    "returned instead of asserted",
    ((START, "    good = close(layer(x), y)\n\n"), (AWAY, "    fill(layer)\n    return good and close(layer(x), expected(layer))\n"), *NOTHING_ELSE),
    "a test that returns whether all is well, where it should assert",
    "what becomes of a value that your test returns?",
    "A test runner listens for an AssertionError and for nothing else.",
    alone=False,
)  # fmt: skip
poor(
    "shapes alone",
    ((START, "    assert layer(x).shape == (2, 4, 3)\n\n"), (AWAY, "    assert layer.delta().shape == base.weight.shape\n\n"), (GRADIENTS, ""), (DROPOUT, "    assert make(dropout=0.5)(x).shape == (2, 4, 3)\n")),
    "a test of shapes alone",
    "how many wrong layers have an output of the right shape?",
    "Shapes are a beginning; the mistakes that hurt are in the numbers.",
    alone=False,
)  # fmt: skip
LOSSES = """    optimizer = torch.optim.KIND([p for p in layer.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = layer(x).pow(2).mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()

"""
poor(
    "loss alone",
    ((START, LOSSES.replace("KIND", "SGD").replace("STEPS", "3")), (AWAY, "    assert losses[-1] < losses[0]\n\n"), *NOTHING_ELSE),
    "a test that trains the layer and is content if the loss goes down; it never computes the right answer",
    "does the loss of a layer without its scale go down, too?",
    "Most wrong layers learn something. Write down what the layer should answer, and compare.",
    forms=tuple(
        (("impl.LoRALinear(base, 4, 0.5, dropout)", f"impl.LoRALinear(base, 4, {scale}, dropout)"), (START, LOSSES.replace("KIND", "Adam").replace("STEPS", "30")), (AWAY, "    assert losses[-1] < losses[0]\n\n"), *NOTHING_ELSE)
        for scale in ("0.50", "2.0")
    ),
    alone=False,
)  # fmt: skip
poor(
    "fresh layer alone",
    (("    # away from it\n    fill(layer)\n", ""), (GRADIENTS, ""), (DROPOUT, "    assert close(make(dropout=0.25).train()(x), y)\n")),
    "a test of a layer that is still at its start, where B is zero",
    "what is s·B A x when B is zero, whatever s and A are?",
    "Give B numbers before you look at the update: at the start almost any layer looks right.",
    forms=((("    # away from it\n    fill(layer)\n", ""), *NOTHING_ELSE),),
    alone=False,
)  # fmt: skip
poor(
    "start left out",
    ((START, "\n"), ("    assert close(layer(x), y)\n    fill", "    fill")),
    "a test that gives A and B numbers, and never looks at those they start with",
    "what must be true of a layer before its first step?",
    "Where A and B start decides whether the model starts as the base, and whether it can learn.",
    forms=(((START, "\n"), *NOTHING_ELSE),),
    alone=False,
)  # fmt: skip
poor(
    "start by its answer alone",
    ((WIDTH, ""), ("    assert not layer.B.any()\n", "")),
    "a test that asks of the start only that the layer answers as its base",
    "in how many ways can B A be zero?",
    "The product hides its factors: look at A and at B, each by itself.",
)  # fmt: skip
poor(
    "width of A not seen",
    ((WIDTH, "    assert layer.A.any()\n"),),
    "a test that asks of A only that it is not zero",
    "how large may A's numbers be at the start, for your in?",
    "Between far too wide and far too narrow there is 1/√in; take a layer with in much larger than r.",
)  # fmt: skip
poor(
    "one end of A",
    (("    assert layer.A.min() < -0.05 < 0.05 < layer.A.max()\n", ""),),
    "a test that looks only at how large A's numbers are, and not at their signs",
    "what is the mean of A at the start?",
    "A uniform start in ±1/√in has two ends: look at both.",
)  # fmt: skip
poor(
    "scale of one",
    (("impl.LoRALinear(base, 4, 0.5, dropout)", "impl.LoRALinear(base, 4, 1.0, dropout)"), ("+ 0.5 * x @", "+ 1.0 * x @")),
    "a test with s = 1, as α = r gives",
    "what is changed by a multiplication with 1?",
    "Take a scale that shows when it is missing, and when it is there twice. It was seen in huggingface/lerobot#3573, where a scale of 1/16 went unnoticed.",
)  # fmt: skip
AGAINST_ITSELF = (
    ("    assert close(layer(x), expected(layer))\n    assert close(layer.merged()(before), expected(layer))\n", "    assert close(layer.merged()(before), layer(x))\n"),
    (GRADIENTS, ""),
)  # fmt: skip
BY_ITS_DELTA = (
    ("    assert close(layer(x), expected(layer))\n", "    assert close(layer(x), base(x) + before @ layer.delta().T)\n"), ("layer.merged()(before), expected(layer)", "layer.merged()(before), layer(x)"),
    (GRADIENTS, ""),
)  # fmt: skip
poor(
    "layer against itself",
    (*AGAINST_ITSELF, ("layer.eval()(x), expected(layer)", "layer.eval()(x), layer.merged()(before)"), ("expected(layer, one)", "layer.merged()(one)")),
    "a test that compares the layer with itself: merged, or by its own delta, and never with the equation",
    "if forward and delta are wrong in the same way, what does your test see?",
    "Write the right answer down on your own, from A, B, s and the base.",
    forms=((*AGAINST_ITSELF, (DROPOUT, "")), (*BY_ITS_DELTA, (DROPOUT, ""))),
    alone=False,
)  # fmt: skip
poor(
    "rows alone",
    (("torch.randn(2, 4, 20)", "torch.randn(8, 20)"),),
    "a test with x (n, in) alone",
    "which shape has x inside a Transformer?",
    "There are rows of tokens, (B, T, in), and the layer has to take them.",
)  # fmt: skip
poor(
    "zeros as input",
    (("torch.randn(2, 4, 20)", "torch.zeros(2, 4, 20)"), *NOTHING_ELSE),
    "a test whose x is zeros, or so simple that much of the update is zero",
    "what is A x, if x is zero?",
    "Random numbers hide the least: no two of them are equal, and none is 0 or 1.",
    forms=((("torch.randn(2, 4, 20)", "torch.zeros(2, 4, 20)"), (GRADIENTS, ""), (DROPOUT, "    layer = make(dropout=0.25).train()\n    fill(layer)\n    assert close(layer(x), expected(layer))\n")),),
    alone=False,
)  # fmt: skip
poor(
    "wide tolerance",
    (("    close, base, x = torch.allclose, nn", "    close, base, x = lambda a, b: torch.allclose(a, b, atol=10.0), nn"), *NOTHING_ELSE),
    "a test with a tolerance as large as the numbers that it compares",
    "how far may two numbers be apart for your test to call them equal?",
    "Rounding in double precision is near 1e-15; the defaults of `torch.allclose` are wide enough.",
    forms=((("    close, base, x = torch.allclose, nn", "    close, base, x = lambda a, b: torch.allclose(a, b, atol=0.1), nn"), *NOTHING_ELSE),),
    alone=False,
)  # fmt: skip
poor(
    "no gradients",
    ((GRADIENTS, ""),),
    "a test that never looks at gradients",
    "can a layer answer right, and learn nothing?",
    "Send something back through the layer's answer, and compare what arrives at A, at B and at x.",
    alone=False,
)  # fmt: skip
poor(
    "no dropout",
    ((DROPOUT, ""),),
    "a test without dropout",
    "which of the layer's four arguments has your test never used?",
    "Dropout can act in the wrong place, in the wrong mode, or not at all.",
    forms=(NOTHING_ELSE,),
    alone=False,
)  # fmt: skip
poor(
    "place of dropout not seen",
    ((PLACE, "    assert not close(layer.train()(x), expected(layer))\n"),),
    "a test that asks of dropout only that something changes",
    "dropout in front of A, behind A or on the whole update: what differs in the answer?",
    "Let one number of x through at a time: then the update is either there, made larger, or gone, in all outputs together.",
    alone=False,
)  # fmt: skip
poor(
    "dropout of one half",
    (("layer = make(dropout=0.25)", "layer = make(dropout=0.5)"), ("torch.tensor(4 / 3)", "torch.tensor(2.0)"), ("0.05 < share.min() <= share.max() < 0.5", "0.3 < share.min() <= share.max() < 0.7")),
    "a test of dropout with a probability of one half",
    "what is the probability to keep a number, if one half are dropped?",
    "At one half what is kept and what is dropped look alike. Take another probability.",
    alone=False,
)  # fmt: skip
poor(
    "dropout in evaluation alone",
    ((DROPOUT, "    layer = make(dropout=0.25)\n    fill(layer)\n    assert close(layer.eval()(x), expected(layer))\n"),),
    "a test that looks at dropout in evaluation alone",
    "what should dropout change while training, and what should it leave alone?",
    "With B at zero, training mode shows the frozen path by itself.",
    alone=False,
)  # fmt: skip
poor(
    "dropout in training alone",
    (("    assert close(layer.eval()(x), expected(layer))\n", ""),),
    "a test that looks at dropout in training alone",
    "what should dropout do after `.eval()`?",
    "Two modes, two expectations.",
    alone=False,
)  # fmt: skip
poor(
    "merge not tested",
    (("    assert close(layer.merged()(before), expected(layer))\n    assert layer.delta().shape == base.weight.shape\n", ""),),
    "a test that never asks for `delta` or `merged`",
    "which methods of the layer has your test never called?",
    "A merged layer has to answer as the layer did before. In huggingface/peft#315 and #1588 merging added the update transposed.",
)  # fmt: skip
poor(
    "input not looked at again",
    (("        return impl.LoRALinear(base, 4, 0.5, dropout)\n", "        layer = impl.LoRALinear(base, 4, 0.5, dropout)\n        layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0].clone(),))\n        return layer\n"),
     ("    assert torch.equal(x, before)\n", "")),
    "a test that never looks at x again after the layer has had it",
    "which other layers read x?",
    "Keep a copy of the input, and compare afterwards.",
)  # fmt: skip
poor(
    "parameters not listed",
    (("    trained = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}\n    assert trained == {\"A\": (4, 20), \"B\": (3, 4)}\n", ""),),
    "a test that never asks which parameters the layer trains",
    "what will an optimizer find in this layer?",
    "`named_parameters()` tells; compare all of it, so that what is missing shows as well as what is too much.",
)  # fmt: skip
poor(
    "equal to the last bit",
    (("    close, base, x = torch.allclose, nn", "    close, base, x = lambda a, b, **_: torch.equal(a, b), nn"),),
    "a test that compares floating-point numbers to the last bit",
    "is (a·b)·c the same as a·(b·c) on a computer?",
    "Another order of operations rounds in another way. Allow for rounding: `torch.allclose`.",
    alone=False,
)  # fmt: skip
EXACT = "    torch.manual_seed(0)\n    again = nn.init.kaiming_uniform_(torch.empty(4, 20), a=5**0.5)\n    torch.manual_seed(0)\n    assert close(make().A, again)\n"
poor(
    "exact random start",
    ((WIDTH, EXACT),),
    "a test that expects the very random numbers that one way of writing draws",
    "what does the description promise about A: its numbers, or how they are distributed?",
    "There are many ways to draw from the same distribution; test what all of them have in common.",
    forms=(((WIDTH, EXACT), ("    assert close(layer.merged()(before), expected(layer))\n    assert layer.delta().shape == base.weight.shape\n    assert torch.equal(x, before)\n", ""), *NOTHING_ELSE),),
)  # fmt: skip
poor(
    "expected without scale",
    (("+ 0.5 * x @", "+ x @"),),
    "a mistake in the test: its own equation lacks the scale",
    "what does your test compute for the right layer, by hand?",
    "First let the test pass with the layer that you know to be right.",
)  # fmt: skip
poor(
    "exact numbers under dropout",
    ((DROPOUT, "    layer = make(dropout=0.25).train()\n    fill(layer)\n    assert close(layer(x), expected(layer))\n"),),
    "a test that expects the update without dropout while training",
    "is anything dropped in training mode, and do you know what?",
    "What dropout does is random: compare in evaluation, or ask for something that holds whatever is dropped.",
    alone=False,
)  # fmt: skip

exercise.right(
    "with assert_close",
    (("    close, base, x = torch.allclose, nn", "    def close(a, b, **more):\n        try:\n            torch.testing.assert_close(a, b.expand_as(a), rtol=1e-5, atol=1e-6)\n        except AssertionError:\n            return False\n        return True\n\n    base, x = nn"),),
)  # fmt: skip
exercise.right(
    "other sizes and numbers",
    (("nn.Linear(20, 3).requires_grad_(False), torch.randn(2, 4, 20)", "nn.Linear(64, 9).requires_grad_(False), torch.rand(3, 1, 64) + 1"),
     ("impl.LoRALinear(base, 4, 0.5, dropout)", "impl.LoRALinear(base, 3, 7.0, dropout=dropout)"), ("+ 0.5 * x @", "+ 7 * x @"),
     ("torch.randn(4, 20), torch.randn(3, 4)", "torch.rand(3, 64), torch.rand(9, 3)"),
     ('{"A": (4, 20), "B": (3, 4)}', '{"A": (3, 64), "B": (9, 3)}'), ("0.1 < layer.A.abs().max() <= 20**-0.5", "0.05 < layer.A.std() < 1 / 8"),
     ("torch.eye(20)", "torch.eye(64)"), ("expand(-1, 3)", "expand(-1, 9)"), ("view(200, 20)", "view(200, 64)")),
)  # fmt: skip
exercise.right(
    "the equation through ΔW",
    (("        return nn.functional.linear(x, W, b) + 0.5 * x @ layer.A.T @ layer.B.T\n", "        return nn.functional.linear(x, W + 0.5 * torch.einsum(\"or,ri->oi\", layer.B, layer.A), b)\n"),
     ("    assert close(layer.merged()(before), expected(layer))\n    assert layer.delta().shape == base.weight.shape\n", "    assert close(layer.delta(), 0.5 * layer.B @ layer.A)\n")),
)  # fmt: skip

exercise.variant(
    "other names",
    (('FACTORS = "A", "B"', 'FACTORS = "down", "up"'),
     ("layer.A (r, in) and layer.B (out, r), and nothing else; A starts uniform in ±1/√in, B at zero", "layer.down (r, in), A, and layer.up (out, r), B, and nothing else; A starts uniform in ±1/√in, B at zero"),
     ('{"A": (4, 20), "B": (3, 4)}', '{"down": (4, 20), "up": (3, 4)}'),
     ("@ layer.A.T @ layer.B.T", "@ layer.down.T @ layer.up.T"),
     ("layer.A.data, layer.B.data =", "layer.down.data, layer.up.data ="),
     ("0.1 < layer.A.abs()", "0.1 < layer.down.abs()"),
     ("layer.A.min() < -0.05 < 0.05 < layer.A.max()", "layer.down.min() < -0.05 < 0.05 < layer.down.max()"),
     ("assert not layer.B.any()", "assert not layer.up.any()"),
     ("of = layer.A, layer.B,", "of = layer.down, layer.up,")),
    "the factors A and B of a layer are called `down` and `up`",
)  # fmt: skip
exercise.variant(
    "alpha",
    (('SCALE = "scale"', 'SCALE = "alpha"'), ("impl.LoRALinear(base, rank, scale, dropout=0.0)", "impl.LoRALinear(base, rank, alpha, dropout=0.0)"),
     ("s = scale, for x", "s = alpha/rank, for x"), ("impl.LoRALinear(base, 4, 0.5, dropout)", "impl.LoRALinear(base, 4, 2, dropout)")),
    "LoRALinear is given α instead of the scale",
)  # fmt: skip
