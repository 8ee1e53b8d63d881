"""The bank of every exercise, held to account: what is right passes, each mistake is told from all the others."""

import ast
import itertools

import pytest

from minipeft.classroom.engine import compare, observe, reading, recognise, source
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import Exercise, exercises
from tests.solutions import judged

MANY = {"lora", "adapter", "prompt_tuning", "prefix_tuning", "p_tuning_v2", "adalora", "qlora"}
CACHED = (
    recognise.reference, recognise.expected, recognise.broken, recognise.symptom, recognise.mistakes_of,
    recognise.forms, recognise.places,
    Exercise.reference, Exercise.tree, Exercise.with_edits,
)  # fmt: skip
GROUP = {x: pytest.mark.xdist_group(f"bank of {name}") for name, x in exercises().items()}  # what is seen is kept
EACH = pytest.mark.parametrize("x", [pytest.param(x, marks=GROUP[x]) for x in GROUP], ids=exercises())
MISTAKES = [(x, m) for x in exercises().values() for m in x.mistakes]
RIGHTS = [(x, r) for x in exercises().values() for r in x.rights]
VARIANTS = [(x, h) for x in exercises().values() for h in x.variants]


def named(pairs):
    argvalues = [pytest.param(*pair, marks=GROUP[pair[0]]) for pair in pairs]
    return {"argvalues": argvalues, "ids": [f"{x.name}: {thing.id}" for x, thing in pairs]}


def seen(x, mistake, form=0):
    """What a mistake looks like."""
    return {o.name: recognise.symptom(x, mistake, o.name, None, form) for o in x.observations}


def report(x, text, seed=None):
    return judged(x.name, text, seed)


@EACH
def test_the_card_is_complete_and_the_bank_is_full(x):
    assert x.minutes > 0
    assert x.difficulty in (1, 2, 3)
    assert all([x.title, x.why, x.read])
    few = x.name not in MANY
    assert len(x.observations) >= (10 if few else 14)
    assert len(x.mistakes) >= (8 if few else 12)
    assert len(x.rights) >= (3 if few else 4)
    assert len({m.id for m in x.mistakes}) == len(x.mistakes)
    assert len({o.name for o in x.observations}) == len(x.observations)


@EACH
def test_the_reference_passes_and_no_observation_of_it_fails_to_look(x):
    assert report(x, x.plain()).passed
    for name, value in recognise.expected(x).items():
        assert not (isinstance(value, dict) and "error" in value), (name, value)


@EACH
def test_an_emptied_file_says_not_written_yet_and_has_nothing_of_the_solution(x):
    text = source.emptied(x.plain(), x.stubs, x.hidden)
    said = report(x, text).text()
    assert "not written yet" in said
    assert "✗" not in said
    before, after = (reading.functions(ast.parse(t)) for t in (x.plain(), text))
    assert before.keys() == after.keys()
    for name, (_, node) in after.items():
        if name in x.stubs:
            assert reading.is_empty(node)
            if isinstance(node, ast.FunctionDef):
                assert ast.get_docstring(node) == ast.get_docstring(before[name][1])
                assert ast.dump(node.args) == ast.dump(before[name][1].args)
        elif name in x.hidden:
            assert reading.is_empty(node)
            assert "hidden" in ast.unparse(node)
        elif not isinstance(node, ast.ClassDef):
            assert ast.dump(node) == ast.dump(before[name][1]), f"{name} should be left as it is"
    source.load(ast.parse(text), "emptied", text)


@EACH
def test_one_body_alone_is_judged_alone(x):
    """Written: one; the others are still empty. It is right, and the others do not spoil it."""
    for stub in x.stubs:
        text = source.emptied(x.plain(), [h for h in x.stubs if h != stub], x.hidden)
        found = report(x, text)
        assert found.stubs == {h: "right" if h == stub else "not written yet" for h in x.stubs}
        assert found.passed == (len(x.stubs) == 1)


class Seen:
    """A mistake of the bank as a subject. What is seen of the whole is known already, which halves the time."""

    def __init__(self, x, mistake, form):
        self.x, self.all, self.text = x, seen(x, mistake, form), x.with_edits(mistake.diffs[form])

    def observe(self, take, fill, only=None):
        if len(take) == len(self.x.stubs):
            return self.all
        return observe.Subject(self.x, self.text).observe(take, fill, only)


@pytest.mark.parametrize(("x", "mistake"), **named(MISTAKES))
def test_a_mistake_is_rejected_with_its_own_hint(x, mistake):
    for form, edits in enumerate(mistake.diffs):
        changed = reading.changed(reading.parsed(x.with_edits(edits)), x.tree(), x.stubs)
        found = judge(observe.Work(x, x.stubs, x.stubs, tuple(changed)), Seen(x, mistake, form))
        assert not found.passed
        assert found.finding.mistake is mistake, found.text()
        said = found.text()
        assert all(words in said for words in (mistake.what, mistake.question, mistake.hint))
        assert "Traceback" not in said


@pytest.mark.parametrize(("x", "mistake"), **named(MISTAKES))
def test_a_mistake_is_described(x, mistake):
    assert all(len(words) > 15 for words in (mistake.what, mistake.question, mistake.hint))
    assert mistake.question.endswith("?")
    assert (
        mistake.what[0].islower()
        or mistake.what.split()[0].isupper()
        or not mistake.what[0].isalpha()
        or mistake.what[1] in " _"
    )
    assert not mistake.what.endswith(".")
    assert mistake.hint.endswith(".")
    told = mistake.hint + mistake.question
    lines = [line.partition("  #")[0].strip() for edits in mistake.diffs for hunk in edits for line in hunk.old]
    reveals = [line for line in lines if len(line) > 12 and line in told]
    assert not reveals, "a hint is not the solution"


@pytest.mark.parametrize(("x", "right"), **named(RIGHTS))
def test_a_right_variant_passes(x, right):
    for edits in right.diffs:
        found = report(x, x.with_edits(edits))
        assert found.passed, found.text()


@EACH
def test_no_two_mistakes_look_alike(x):
    forms = [(m, form) for m in x.mistakes for form in range(len(m.diffs))]
    right = recognise.expected(x)
    symptoms = {pair: compare.differing(right, seen(x, *pair)) for pair in forms}
    for (one, i), (other, k) in itertools.combinations(forms, 2):
        if one is other or symptoms[one, i] != symptoms[other, k]:
            continue
        a, b = seen(x, one, i), seen(x, other, k)
        assert any(not compare.same(a[n], b[n]) for n in a), f"{one.id} looks like {other.id}"


@EACH
def test_every_observation_has_something_to_tell(x):
    """Each is disturbed by a mistake of the bank, and says so in a sentence."""
    right = recognise.expected(x)
    disturbed = set()
    for mistake in x.mistakes:
        disturbed |= set(compare.differing(right, seen(x, mistake)))
    assert {o.name for o in x.observations} - disturbed == set()
    assert all(o.says.endswith((".", "?")) for o in x.observations)


@pytest.mark.parametrize(("x", "variant"), **named(VARIANTS))
def test_a_variant_is_another_exercise(x, variant, monkeypatch):
    """Under it the plain solution fails and is recognised; what follows the rule passes; the text tells the rule."""
    monkeypatch.setattr(Exercise, "chosen", lambda self, seed: [] if seed is None else [variant])
    for cached in CACHED:
        cached.cache_clear()
    follows = x.reference(0)
    assert report(x, follows, 0).passed
    found = report(x, x.plain(), 0)
    assert not found.passed
    assert found.finding.mistake.id == "plain rule", found.text()
    assert variant.rule in found.text()
    for name, value in recognise.expected(x, 0).items():
        assert not (isinstance(value, dict) and "error" in value), (name, value)
    plain_file, variant_file = source.emptied(x.plain(), x.stubs, x.hidden), source.emptied(follows, x.stubs, x.hidden)
    assert plain_file != variant_file, "the docstring or a comment that is left has to tell the rule"
    for cached in CACHED:
        cached.cache_clear()
