"""Which mistake explains what was observed: the reference with each known mistake in it, looked at in the same way."""

import ast
import itertools
from functools import cache

from minipeft.classroom.engine import diffs, source
from minipeft.classroom.engine.bank import Mistake
from minipeft.classroom.engine.compare import difference, differing, drawable, same
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.observe import observe
from minipeft.classroom.engine.report import Finding

PLAIN = "plain rule"
SHARE = 0.5  # of what differs, a mistake has to explain at least so much
PAIRS = 150  # of mistakes that are tried together, at most


@cache
def reference(exercise, seed=None):
    """The reference as a fresh module."""
    return source.load(exercise.tree(seed), f"the reference of {exercise.name}", exercise.reference(seed))


@cache
def expected(exercise, seed=None):
    return observe(exercise, reference(exercise, seed))


def with_mistake(name, mistake):
    """The module of an exercise with a known mistake in it, by the mistake's name in the bank."""
    exercise = get_exercise(name)
    known = {m.id: m for m in exercise.mistakes}
    if mistake not in known:
        raise ValueError(f"the bank of {name!r} has no mistake {mistake!r}; it has: {', '.join(known)}")
    return broken(exercise, known[mistake])


@cache
def broken(exercise, mistake, seed=None, form=0):
    """The reference with a mistake of the bank in it, or None where a variant leaves no place for it."""
    if mistake.id == PLAIN:  # the plain bodies in the file that tells another rule, as a student would hand them in
        tree = source.splice(exercise.tree(seed), exercise.tree(), exercise.stubs, exercise.stubs, True)
        return source.load(tree, PLAIN)
    text = exercise.with_edits(mistake.diffs[form], seed)
    return text and source.load(ast.parse(text), mistake.id, text)


@cache
def symptom(exercise, mistake, name, seed=None, form=0):
    """What one observation sees of a mistake."""
    return observe(exercise, broken(exercise, mistake, seed, form), [name])[name]


@cache
def mistakes_of(exercise, seed=None):
    """The known mistakes; under a variant the plain rule is one, and the first."""
    variants = exercise.chosen(seed)
    plain_rule = Mistake(
        PLAIN, ((),), "the rule of the paper, where your teacher asks for another",
        "what does the text of this exercise ask for?", f"Here {'; '.join(v.rule for v in variants)}.",
    )  # fmt: skip
    return [plain_rule, *exercise.mistakes] if variants else list(exercise.mistakes)


@cache
def forms(exercise, seed=None):
    """Every known mistake in each of its forms that has a place: [(mistake, number of the form)]"""
    found = [(mistake, form) for mistake in mistakes_of(exercise, seed) for form in range(len(mistake.diffs))]
    return [one for one in found if broken(exercise, one[0], seed, one[1])]


@cache
def places(exercise, mistake, seed, form):
    """The bodies in which a form of a mistake lies."""
    return diffs.touched(exercise.reference(seed), mistake.diffs[form], exercise.stubs)


def explain(exercise, got, seed=None, name=None, stubs=(), whole=None):
    """The finding for observations that are not all right: the first, or the first that a known mistake explains.

    name: the body that is wrong by itself, None if no single one is. stubs: the bodies that `got` was observed of.
    whole: what is observed of the whole solution, if that is not `got`.
    """
    right = expected(exercise, seed)
    mistake, names = recognise(exercise, got, seed, stubs, whole)
    names = names or differing(right, got)
    first, explains = names[0], len(names) if mistake else 0
    says = next(o.says for o in exercise.observations if o.name == first)
    pair = next(filter(None, (drawable(right[name], got.get(name)) for name in names)), None)
    return Finding(first, f"{says} {difference(right[first], got.get(first))}", mistake, explains, name, pair)


def recognise(exercise, got, seed=None, stubs=(), whole=None):
    """(the mistake that these observations look like, the names of those that it explains), or (None, []).

    First one in these bodies that explains half of what differs; then one anywhere that explains all of it; then one
    anywhere that explains everything that differs in the whole solution: bodies may be wrong only together. Last two
    that were made at once in these bodies.
    """
    if exercise.chosen(seed):  # whoever follows the paper in everything is told so, whatever else it looks like
        wrong = differing(expected(exercise, seed), got)
        if explained(exercise, mistakes_of(exercise, seed)[0], 0, got, wrong, seed) == wrong:
            return mistakes_of(exercise, seed)[0], wrong
    known = forms(exercise, seed)
    inside = [(m, form) for m, form in known if stubs and places(exercise, m, seed, form) <= set(stubs)]
    for some, seen, share in ((inside, got, SHARE), (known, got, 1.0 if stubs else SHARE), (known, whole or got, 1.0)):
        if (found := best(exercise, some, seen, seed, share))[0]:
            return found
    return both(exercise, got, seed, stubs)


def best(exercise, some, got, seed, share):
    """The mistake among some, by (mistake, form), that explains most of what differs, if there is one such.

    share: of what differs, it has to explain at least so much.
    """
    wrong, found = differing(expected(exercise, seed), got), {}
    for mistake, form in some:
        names = explained(exercise, mistake, form, got, wrong, seed)
        if names and len(names) >= max(share * len(wrong), len(found.get(mistake, ()))):
            found[mistake] = names
    most = max(map(len, found.values()), default=0)
    first, *others = [(m, names) for m, names in found.items() if len(names) == most] or [(None, [])]
    return (None, []) if others else first


def both(exercise, got, seed, stubs):
    """Two known mistakes that, made at once in these bodies, show all that differs; as one. (None, []) if no such pair,
    or more than one, is found. By itself, neither of them may show what is not there."""
    right = expected(exercise, seed)
    wrong, able, found = differing(right, got), {}, {}
    for mistake, form in forms(exercise, seed):
        hunks = tuple(hunk for hunk in mistake.diffs[form] if hunk.scope in stubs)
        if hunks and len(shows := differing(right, with_hunks(exercise, hunks, seed))) > 0 and {*shows} <= {*wrong}:
            able.setdefault(hunks, mistake)
    for one, other in itertools.islice(itertools.combinations(able, 2), PAIRS):
        a, b = able[one], able[other]
        seen = with_hunks(exercise, (*one, *other), seed) if a is not b else None
        if seen and not differing(seen, got):
            what, hint = f"two things at once: {a.what}; and {b.what}", f"{a.hint} {b.hint}"
            found[a.id, b.id] = Mistake(f"{a.id} + {b.id}", ((*one, *other),), what, a.question, hint)
    return (next(iter(found.values())), wrong) if len(found) == 1 else (None, [])


@cache
def with_hunks(exercise, hunks, seed):
    """What is observed of the reference with these edits; None where they exclude each other."""
    try:
        text = exercise.with_edits(hunks, seed)
    except ValueError:
        return None
    return text and observe(exercise, source.load(ast.parse(text), "edited", text))


def explained(exercise, mistake, form, got, wrong, seed=None):
    """Which of the wrong observations a mistake explains; none as soon as it has a symptom that is not there.

    An error hides what would be seen otherwise: it speaks neither for the mistake nor against it, unless there are more
    errors than symptoms.
    """
    right, names, unseen = expected(exercise, seed), [], 0
    for name in [*wrong, *(n for n in right if n not in wrong)]:
        if name not in wrong and not names:
            return []
        value = symptom(exercise, mistake, name, seed, form)
        if same(value, right[name]):
            continue
        if same(value, got.get(name)) or (name in mistake.any_value and name in wrong and not fails(got[name])):
            names.append(name)
        elif fails(got.get(name)):
            unseen += 1
        else:
            return []
    return names if len(names) >= unseen else []


def fails(value):
    """Did an observation end in an error?"""
    return isinstance(value, dict) and "error" in value
