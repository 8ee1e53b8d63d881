"""Every setting of every method, given values of every kind, is right or told by name; what is right is plain data."""

import json
import math
from collections import UserDict
from dataclasses import asdict, fields
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from minipeft.attach import attachments
from minipeft.methods import METHODS, AdaLoRA, LoRA, PrefixTuning, PTuning, QLoRA, parse
from minipeft.methods.qlora import TYPES
from tests.models import make

VALUES = {  # how it is made, and what it is kept as where it is right
    "6": (lambda: 6, 6),
    "6 of NumPy": (lambda: np.int64(6), 6),
    "6 of torch": (lambda: torch.tensor(6), 6),
    "0.5": (lambda: 0.5, 0.5),
    "0.5 of NumPy": (lambda: np.float32(0.5), 0.5),
    "0.5 of torch": (lambda: torch.tensor(0.5), 0.5),
    "6.0": (lambda: 6.0, 6.0),
    "2": (lambda: 2, 2),
    "1": (lambda: 1, 1),
    "0": (lambda: 0, 0),
    "True": (lambda: True, True),
    "False of NumPy": (lambda: np.bool_(False), False),
    "True of torch": (lambda: torch.tensor(True), True),
    "None": (lambda: None, None),
    "empty": (list, ()),
    "names in a tuple": (lambda: ("q", "v"), ("q", "v")),
    "names in a list": (lambda: ["q", "v"], ("q", "v")),
    "names in a set": (lambda: {"v", "q"}, ("q", "v")),
    "names as keys": (lambda: {"q": 1, "v": 2}.keys(), ("q", "v")),
    "names by a generator": (lambda: (name for name in "qv"), ("q", "v")),
    "names of NumPy": (lambda: np.array(["q", "v"]), ("q", "v")),
    "numbers in a tuple": (lambda: (2, 1, 2), (2, 1, 2)),
    "numbers in a set": (lambda: {2, 1}, (1, 2)),
    "numbers in a range": (lambda: range(1, 3), (1, 2)),
    "numbers of torch": (lambda: torch.tensor([2, 1]), (2, 1)),
    "ranks": (lambda: {"q": 2}, {"q": 2}),
    "ranks of NumPy": (lambda: UserDict({"q": np.int64(2)}), {"q": 2}),
    "no ranks": (dict, {}),
    "text of NumPy": (lambda: np.str_("nf4"), "nf4"),
} | {text: (lambda text=text: text, text) for text in ("nf4", "lstm", "hidden", "normal", "uniform", "False", "")}
ALWAYS_WRONG = [
    -1, -0.5, math.nan, math.inf, -math.inf, np.float64("nan"), 1 + 2j, Fraction(1, 2), Decimal("0.5"),
    np.longdouble(0.5), b"q", ..., LoRA, object(), (1.5, 2.0), (True, False), (-2, 3), ("q", 3), {"q", 3}, (("q",),),
    {"q": 0}, {"q": 2.5}, {"q": True}, {3: 2}, [None], torch.tensor([0.5, 1.5]), np.zeros((2, 2)),
]  # fmt: skip

WHOLE = {"6", "6 of NumPy", "6 of torch", "2"}
SHARE = {"0.5", "0.5 of NumPy", "0.5 of torch"}
NUMBER = WHOLE | SHARE | {"1", "6.0"}
YES_NO = {"True", "False of NumPy", "True of torch"}
NAMES = {name for name in VALUES if name.startswith("names")} | {"empty"}
NUMBERS = {name for name in VALUES if name.startswith("numbers")} | {"empty"}
TEXT = {"nf4", "text of NumPy", "lstm", "hidden", "normal", "uniform", "False", ""}
RANKS = {"ranks", "ranks of NumPy", "no ranks"}
NAMED, LISTED = 'a tuple of names like ("q", "v")', "a tuple of whole numbers like (2, 5)"
TABLE = [  # settings, what a message says of them, and which of the values are right
    ("rank initial_rank interval length width size adapters", "a whole number of at least 1", WHOLE | {"1"}),
    ("mlp", "a whole number of at least 1 or None", WHOLE | {"1", "None"}),
    ("seed", "a whole number of at least 0", WHOLE | {"0", "1"}),
    ("block_size", "a whole number of at least 2 and below 4097", WHOLE),
    ("classes", "a whole number of at least 2 or 'own' or None", WHOLE | {"None"}),
    ("head_lr", "a number above 0 or None", NUMBER | {"None"}),
    ("AdaLoRA.rank alpha lr_ratio d_initial scale", "a number above 0", NUMBER),
    ("gamma regularization", "a number of at least 0", NUMBER | {"0"}),
    ("dropout beta1 beta2 warmup final", "a number of at least 0 and below 1", SHARE | {"0"}),
    ("rslora norms head mean_norm double_quant", "True or False", YES_NO),
    ("quant_type", "'nf4' or 'nf3' or 'nf2' or 'int4' or 'int3' or 'int2' or 'fp4'", {"nf4", "text of NumPy"}),
    ("encoder", "'lstm' or 'mlp' or None", {"lstm", "None"}),
    ("form", "'hidden' or 'key/value'", {"hidden"}),
    ("PromptTuning.init", f"'normal' or 'uniform' or 'vocabulary' or {LISTED}", NUMBERS | {"normal", "uniform"}),
    ("PrefixTuning.init", f"'normal' or {LISTED}", NUMBERS | {"normal"}),
    ("layers template", f"{LISTED} or None", NUMBERS | {"None"}),
    ("outputs inputs places", NAMED, NAMES),
    ("targets", f"{NAMED} or a text or a function", NAMES | TEXT),
    ("Full.targets BitFit.targets", f"{NAMED} or a text or a function or None", NAMES | TEXT | {"None"}),
    ("rank_pattern", 'a dictionary of names and whole numbers of at least 1 like {"v": 8}', RANKS),
]
KNOWN = {name: (words, right) for names, words, right in TABLE for name in names.split()}
SETTINGS = [(method, name) for method in METHODS.values() for name in method.__dataclass_fields__]
BESIDE = {("AdaLoRA", "initial_rank"): {"rank": 0.5}}  # what the default would not go together with
ALONE = {("PTuning", "template"): NUMBERS}  # see below


@pytest.mark.parametrize(("method", "name"), SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_a_setting_is_right_and_plain_data_or_told(method, name):
    words, right = KNOWN.get(f"{method.__name__}.{name}") or KNOWN[name]
    more = BESIDE.get((method.__name__, name), {})
    for value in right - ALONE.get((method.__name__, name), set()):
        given, kept = VALUES[value]
        made = method(**{name: given()}, **more)
        assert getattr(made, name) == kept, value
        assert type(getattr(made, name)) is type(kept), value
        assert method(**json.loads(json.dumps(asdict(made)))) == made, value
        assert parse(repr(made)) == made, value
    for given in [VALUES[value][0]() for value in VALUES.keys() - right] + ALWAYS_WRONG:
        with pytest.raises(ValueError, match="must be") as caught:
            method(**{name: given}, **more)
        assert str(caught.value) == f"{method.__name__}: {name} must be {words}, got {given!r}"


@pytest.mark.parametrize("method", [m for m in METHODS.values() if isinstance(getattr(m(), "targets", 0), tuple)])
def test_a_function_is_a_setting_until_the_method_is_attached(method):
    def first(path, module):
        return path.endswith("0.attn.q")

    for chooses in (first, lambda path, module: first(path, module)):
        assert method(targets=chooses).targets is chooses
        kept = attachments(method(targets=chooses).attach(make()))[0].method
        assert kept == method(targets=(".blocks.0.attn.q",))
        assert method(**json.loads(json.dumps(asdict(kept)))) == kept


@pytest.mark.parametrize(
    ("make_method", "says"),
    [
        (lambda: AdaLoRA(rank=7), "rank, 7, must be at most initial_rank, 6: raise it"),
        (lambda: AdaLoRA(warmup=0.5, final=0.5), "warmup and final together must be below 1, got 0.5 and 0.5"),
        (lambda: QLoRA(block_size=63), "block_size must be an even whole number, got 63; 64 is usual"),
        (lambda: PTuning(length=2, template=(-1, 5, -1, -1)), r"3 virtual tokens \(-1\), length is 2: make them equal"),
        (lambda: PTuning(template=(5, 9)), r"0 virtual tokens \(-1\), length is 4"),
        (lambda: PTuning(template=(-2, 5)), r"PTuning: template must be a tuple of whole numbers .* got \(-2, 5\)"),
        (lambda: PrefixTuning(init=(3,), mlp=8), "leave out init or mlp"),
    ],
)
def test_settings_that_do_not_go_together_are_told(make_method, says):
    with pytest.raises(ValueError, match=says):
        make_method()


def test_settings_that_go_together():
    assert PTuning(length=2, template=[np.int64(-1), 5, -1]).template == (-1, 5, -1)
    assert {QLoRA(quant_type=name).quant_type for name in TYPES} == set(TYPES)
    assert AdaLoRA(rank=6, initial_rank=6, warmup=0, final=0).rank == 6


def test_a_method_is_data_that_nobody_changes_afterwards():
    names, ranks = ["q", "v"], {"q": 2}
    method = LoRA(targets=names, rank_pattern=ranks)
    names.append("k")
    ranks["q"] = 9
    assert method == LoRA(targets=("q", "v"), rank_pattern={"q": 2}) != LoRA(rank_pattern={"q": 9})
    with pytest.raises(AttributeError):
        method.rank = 8


@pytest.mark.parametrize("method", METHODS.values())
def test_a_label_is_the_first_setting_and_those_that_differ(method):
    first = next((field.name for field in fields(method) if not field.kw_only), None)
    default = first and getattr(method(), first)
    assert str(method()) == method.__name__ + (f"({first}={default!r})" if default is not None else "")
    assert str(method(classes=3)) == str(method())[:-1] + ", classes=3)" * (default is not None) or default is None
    assert parse(str(method())) == method() == parse(method.__name__.lower())
