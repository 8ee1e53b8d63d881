"""The ledger: its statistics are right, its verdicts follow from statements, and its page tells what is stored."""

import ast
import inspect
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import claims.__main__
from claims import demo, page, statistics
from claims.ledger import (
    CLAIMS,
    CONSTRUCTION,
    CONTRADICTED,
    MEASURES,
    SETS,
    SUPPORTED,
    UNDECIDED,
    VARIATIONS,
    Claim,
    Entry,
    Finding,
    findings,
    measure,
    settled,
    told,
    twice,
)
from minipeft.lab import SEEDS, Lab, NotStored, Tuning, stored
from minipeft.lab.pool import SHIPPED
from minipeft.training import RECIPE

ROOT = Path(__file__).parents[1]
TEN = range(10)


# -- statistics --------------------------------------------------------------------------------------------------------


def dealt(a, b):
    """Mann and Whitney's two-sided p by dealing the values anew in every way."""
    values, places = [*a, *b], set(range(len(a) + len(b)))

    def u(first):
        return sum((values[i] > values[j]) + (values[i] == values[j]) / 2 for i in first for j in places - set(first))

    seen = u(range(len(a)))
    every = [u(first) for first in combinations(sorted(places), len(a))]
    less, more = (sum(test) / len(every) for test in ([v <= seen for v in every], [v >= seen for v in every]))
    return min(1.0, 2 * min(less, more))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 5), (6, 4), (5, 5)])
def test_the_rank_test_is_exact_with_and_without_ties(n, m, ties):
    random = np.random.default_rng(n + m)
    for shift in (0, 1, 3):
        a, b = random.normal(size=n) + shift, random.normal(size=m)
        if ties:
            a, b = a.round(), b.round()
        assert statistics.rank_test(a, b) == pytest.approx(dealt(a, b))
        if not ties:
            assert statistics.rank_test(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)


def test_the_rank_test_of_ten_against_ten():
    assert statistics.rank_test(np.arange(10.0) + 10, np.arange(10.0)) == pytest.approx(2 / math.comb(20, 10))
    assert statistics.rank_test(np.ones(10), np.zeros(10)) == pytest.approx(2 / math.comb(20, 10))
    assert statistics.rank_test(np.ones(10), np.ones(10)) == 1
    five = np.array([1.0] * 5 + [0.0] * 5)  # of zeros and ones, it is the one-sided Fisher test, twice
    assert statistics.rank_test(np.ones(10), five) == pytest.approx(
        min(1, 2 * stats.fisher_exact([[10, 0], [5, 5]], "greater").pvalue)
    )


def test_the_difference_of_means_and_its_interval():
    random = np.random.default_rng(0)
    a, b = random.normal(size=10) + 1, random.normal(size=10)
    effect = statistics.difference(a, b)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert effect.size == pytest.approx(a.mean() - b.mean())
    assert (effect.low, effect.high) == pytest.approx((welch.low, welch.high))
    assert statistics.difference(a, b) == effect, "the same again"
    other = statistics.difference(b, a)
    assert (other.size, other.p, other.seen) == pytest.approx((-effect.size, effect.p, effect.seen))


DRAWS = {
    "normal": lambda random: random.normal(size=10),
    "skewed": lambda random: random.exponential(size=10),
    "two heaps": lambda random: (random.random(10) < 0.8) + 0.02 * random.normal(size=10),
    "near a ceiling": lambda random: 1 - 0.01 * random.exponential(size=10) ** 3,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_interval_holds_the_truth_as_often_as_it_says(draw):
    random = np.random.default_rng(1)
    intervals = [statistics.interval(draw(random), draw(random)) for _ in range(1000)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) >= 0.94


def test_the_interval_of_values_that_do_not_vary():
    effect = statistics.difference([1.0] * 10, [0.25] * 10)
    assert (effect.size, effect.low, effect.high, effect.seen) == (0.75, 0.75, 0.75, 0)
    low, high = statistics.interval(np.array([1.0] * 9 + [0.0]), np.array([0.0] * 10))
    assert 0.6 < low < 0.9 < high < 1.2


@pytest.mark.parametrize(("n", "m"), [(10, 10), (10, 5)])
def test_the_shift_that_would_be_seen_is_seen_in_four_of_five_cases(n, m):
    random = np.random.default_rng(2)
    scale = lambda x: (x - x.mean()) / x.std(ddof=1)  # noqa: E731
    shift = statistics.visible(2 * scale(random.normal(size=n)), 2 * scale(random.normal(size=m)))
    draws = [(2 * random.normal(size=n) + shift, 2 * random.normal(size=m)) for _ in range(2000)]
    power = np.mean([stats.mannwhitneyu(a, b, method="exact").pvalue < statistics.LEVEL for a, b in draws])
    assert power == pytest.approx(0.8, abs=0.03)


def test_the_shift_that_would_be_seen_is_more_than_the_normal_approximation_says():
    approximate = (1.96 + 0.84) * math.sqrt(2 / 10 * math.pi / 3)
    assert 1.05 < statistics.visible_shift(10, 10) / approximate < 1.15
    a, b = statistics.samples(4, 3, 7)
    assert stats.mannwhitneyu(a, b).statistic == 7


@pytest.mark.parametrize("base", [0.0, 0.2, 0.4, 0.9, 1.0])
def test_the_difference_of_shares_that_would_be_seen_is_seen_in_four_of_five_cases(base):
    random, d = np.random.default_rng(3), statistics.visible_share(base, 10, 10)

    def power(d):
        share = base + d if base + d <= 1 else base - d
        x, y = random.binomial(10, share, 4000), random.binomial(10, base, 4000)
        return np.mean(
            [stats.fisher_exact([[i, 10 - i], [j, 10 - j]]).pvalue < 0.05 for i, j in zip(x, y, strict=True)]
        )

    assert power(d) >= 0.77
    assert power(d - 0.05) < 0.8


def test_what_so_few_seeds_can_never_see():
    assert math.isnan(statistics.visible_share(0.0, 3, 3))
    assert math.isnan(statistics.one_share([True] * 5).seen)
    assert math.isnan(statistics.visible_share(0.5, 10, 10)), "not even ten of ten against five of ten"
    assert math.isnan(statistics.visible_shift(3, 3))


def test_shares():
    effect = statistics.shares([True] * 10, [True] * 5 + [False] * 5)
    assert effect.size == 0.5
    assert effect.p == pytest.approx(0.0325, abs=1e-4)
    assert statistics.shares([1, 1, 0], [0, 0, 0]).p == pytest.approx(2 * 3 / 15)
    assert statistics.shares([True] * 4, [True] * 7).p == 1


@pytest.mark.parametrize(
    ("x", "n", "y", "m", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
    ],
)
def test_the_interval_of_a_difference_of_shares_is_newcombes(x, n, y, m, low, high):
    """Newcombe 1998, Statistics in Medicine 17, 873, table II, method 10."""
    effect = statistics.shares([1] * x + [0] * (n - x), [1] * y + [0] * (m - y))
    assert (effect.low, effect.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("x", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_wilsons(x, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3."""
    assert statistics.wilson(x, n) == pytest.approx((low, high), abs=5e-5)


def test_one_share_is_tested_against_a_half():
    assert statistics.one_share([True] * 10).p == pytest.approx(2 / 2**10)
    assert statistics.one_share([True] * 9 + [False]).p == pytest.approx(22 / 2**10)
    assert statistics.one_share([True, False]).p == 1
    effect = statistics.one_share([True] * 10)
    random = np.random.default_rng(4)
    power = lambda share: np.mean([stats.binomtest(int(k), 10).pvalue < 0.05 for k in random.binomial(10, share, 4000)])  # noqa: E731
    assert power(effect.seen) >= 0.78
    assert power(effect.seen - 0.04) < 0.8


def test_rank_correlation():
    effect = statistics.correlation([1, 2, 3, 4, 5, 6], [1, 3, 2, 5, 4, 6])
    assert effect.size == pytest.approx(11 / 15)
    assert effect.p == pytest.approx(stats.kendalltau([1, 2, 3, 4, 5, 6], [1, 3, 2, 5, 4, 6]).pvalue)
    assert effect.low < effect.size < effect.high
    x = list(range(20))
    assert statistics.correlation(x, x).size == 1
    assert statistics.correlation(x, x[::-1]).size == -1
    constant = statistics.correlation(x, [1] * 20)
    assert (constant.size, constant.low, constant.high, constant.p) == (0, -1, 1, 1)


def test_the_correlation_that_would_be_seen_is_seen_in_about_four_of_five_cases():
    random, n = np.random.default_rng(5), 20
    tau = statistics.correlation(range(n), [*range(n - 2), n - 1, n - 2]).seen
    r = math.sin(math.pi / 2 * tau)  # of normal values that have this rank correlation
    pairs = [random.multivariate_normal([0, 0], [[1, r], [r, 1]], n).T for _ in range(1000)]
    assert np.mean([stats.kendalltau(x, y).pvalue < 0.05 for x, y in pairs]) == pytest.approx(0.8, abs=0.07)


def test_holms_correction():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([0.02]) == [0.02]
    assert statistics.holm([]) == []


# -- verdicts ----------------------------------------------------------------------------------------------------------


def runs(*values, name="accuracy"):
    return [{name: value} for value in values]


def spread(middle, width=0.02):
    """Ten different values around the middle."""
    return runs(*(middle + width * (i - 4.5) / 9 for i in TEN))


HIGH, LOW, WIDE = spread(0.9), spread(0.4), spread(0.5, 0.9)


def finding(*statements):
    """A Finding with these statements, each the name of a method and its arguments."""
    made = Finding(None)
    for kind, *words in statements:
        getattr(made, kind)("a statement", *words)
    return made


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        (("ahead", HIGH, LOW), SUPPORTED),
        (("ahead", LOW, HIGH), CONTRADICTED),
        (("ahead", WIDE, WIDE[1:]), UNDECIDED),
        (("ahead", spread(0.5), spread(0.5)), CONTRADICTED),  # a difference that matters is excluded
        (("ahead", LOW, HIGH, "-accuracy"), SUPPORTED),
        (("ahead", runs(*[0.99] * 9 + [0.0]), spread(0.9)), UNDECIDED),  # better in ranks, worse in the mean
        (("ahead", spread(0.9), runs(*[0.99] * 9 + [0.0])), UNDECIDED),
        (("near", spread(0.5), spread(0.51)), SUPPORTED),
        (("near", HIGH, LOW), CONTRADICTED),
        (("near", LOW, HIGH), CONTRADICTED),
        (("near", WIDE, WIDE[1:]), UNDECIDED),
        (("near", HIGH, LOW, "accuracy", 0.6), SUPPORTED),
        (("not_behind", HIGH, LOW), SUPPORTED),
        (("not_behind", spread(0.5), spread(0.51)), SUPPORTED),
        (("not_behind", LOW, HIGH), CONTRADICTED),
        (("not_behind", WIDE, WIDE[1:]), UNDECIDED),
        (("oftener", HIGH[:6] + runs(*[1.0] * 4), LOW), SUPPORTED),
        (("oftener", LOW, runs(*[1.0] * 10)), CONTRADICTED),
        (("oftener", LOW, LOW), UNDECIDED),
        (("oftener", runs(*[1.0] * 4 + [0.0] * 6), LOW), UNDECIDED),
        (("always", [True] * 10), SUPPORTED),
        (("always", [True] * 9 + [False]), SUPPORTED),
        (("always", [True] * 8 + [False] * 2), UNDECIDED),
        (("always", [False] * 10), CONTRADICTED),
        (("follows", list(TEN), list(TEN)), SUPPORTED),
        (("follows", list(TEN), list(TEN)[::-1]), CONTRADICTED),
        (("follows", list(TEN), list(TEN)[::-1], -1), SUPPORTED),
        (("follows", list(TEN), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]), UNDECIDED),
        (("follows", list(TEN), [1] * 10), UNDECIDED),
        (("exact", True, "1 = 1"), CONSTRUCTION),
        (("exact", False, "1 ≠ 2"), CONTRADICTED),
    ],
    ids=str,
)
def test_a_verdict_follows_from_the_numbers(statement, verdict):
    assert finding(statement).verdict == verdict


def test_the_verdict_of_several_statements():
    yes, no, unknown = ("ahead", HIGH, LOW), ("ahead", LOW, HIGH), ("ahead", WIDE, WIDE[1:])
    sure, wrong = ("exact", True, ""), ("exact", False, "")
    assert finding(yes, yes, sure).verdict == SUPPORTED
    assert finding(yes, unknown).verdict == UNDECIDED
    assert finding(yes, unknown, no).verdict == CONTRADICTED
    assert finding(yes, wrong).verdict == CONTRADICTED
    assert finding(sure, sure).verdict == CONSTRUCTION


def test_what_is_said_aside_has_no_part_in_the_verdict():
    made = finding(("ahead", HIGH, LOW))
    made.ahead("aside", LOW, HIGH, aside=True)
    made.exact("aside", False, "", aside=True)
    assert made.verdict == SUPPORTED
    assert [s.decision for s in made.statements] == [True, False, False]


def test_several_tested_statements_are_corrected_and_those_that_rest_on_an_interval_are_not():
    some = ("ahead", runs(*(0.1 * i + 0.37 for i in TEN)), runs(*(0.1 * i for i in TEN)))
    alike, sure = ("near", HIGH, HIGH[::-1]), ("exact", True, "")
    alone = finding(some).statements[0].p
    assert 0.025 < alone < 0.05
    assert finding(some).verdict == finding(some, alike, sure).verdict == SUPPORTED
    two = finding(some, some, alike, sure)
    assert two.verdict == two.verdict == UNDECIDED, "corrected once, however often it is asked"
    assert [s.p for s in two.statements[:2]] == [2 * alone] * 2
    assert [s.decision for s in two.statements] == [None, None, True, True]


def entry(values, interior=True, tuned=True):
    tuning = Tuning(0.1, interior, {0.1: 1.0}, 16) if tuned else None
    return Entry("this one", None, {}, 0.1, tuning, list(values))


@pytest.mark.parametrize("kind", ["ahead", "near", "not_behind", "oftener"])
def test_a_learning_rate_at_the_edge_gives_no_verdict(kind):
    def said(a, b):
        made, more = Finding(None), {} if kind == "oftener" else {"vary": False}
        getattr(made, kind)("a statement", a, b, **more)
        return made.verdict, made.statements[0].reason

    assert said(entry(HIGH), entry(LOW))[0] != UNDECIDED
    assert said(entry(HIGH, tuned=False), entry(LOW))[0] != UNDECIDED
    for a, b in ((entry(HIGH, interior=False), entry(LOW)), (entry(HIGH), entry(LOW, interior=False))):
        assert said(a, b) == (UNDECIDED, "the learning rate of this one, 0.1, lies at the edge of those tried")


@pytest.mark.parametrize("kind", ["ahead", "near", "not_behind"])
@pytest.mark.parametrize(
    ("a", "b", "by"),
    [
        (runs(*[1.0] * 10), runs(*[1.0] * 10), "accuracy"),
        (runs(*[1.0] * 10), runs(*[0.99] * 10), "accuracy"),
        (runs(*[0.0] * 10), runs(*[0.01] * 5, *[0.0] * 5), "accuracy"),
        (runs(*[0.0] * 10, name="retention"), runs(*[0.01] * 10, name="retention"), "retention"),
        (runs(*[0.5] * 10, name="number"), runs(*[0.5] * 10, name="number"), "number"),
    ],
)
def test_where_all_are_at_the_same_end_there_is_no_verdict(kind, a, b, by):
    made = finding((kind, a, b, by))
    assert made.verdict == UNDECIDED
    assert made.statements[0].reason.endswith("so the test could not tell")


def test_ends_of_other_measures_are_no_saturation():
    a, b = (runs(*(v + i / 100 for i in TEN), name="loss") for v in (0.001, 0.5))
    assert finding(("ahead", a, b, "loss")).verdict == SUPPORTED


def test_measures():
    assert MEASURES["steps"].of({"reached": 256}) == 8
    assert MEASURES["steps"].of({"reached": None, "steps": 1023}) == 10
    assert MEASURES["steps"].of({"reached": None}) == math.log2(RECIPE.steps + 1)
    assert MEASURES["loss"].of({"loss": 0.01}) == -2
    assert MEASURES["loss"].of({"loss": None}) == 2
    assert MEASURES["loss"].of({"loss": 0.0}) == -4
    assert MEASURES["area"].of({"area": None}) == 100
    assert (measure("rank").better, measure("-rank").better, measure("-rank").of({"rank": 3})) == (1, -1, 3)
    assert measure("loss") is MEASURES["loss"]
    assert measure(MEASURES["loss"]) is MEASURES["loss"]


def test_a_spread_is_told_with_its_range():
    assert told([0.5, 1.0, 0.9]) == "0.80 (0.50 to 1.00)"
    assert told([1.0, 1.0]) == "1.00"


# -- asking ------------------------------------------------------------------------------------------------------------


def pretended(size, lr, seed, recipe=RECIPE):
    """Best at a learning rate of 0.03; larger is better."""
    off = abs(math.log10(lr / 0.03))
    noise = ((seed * 7) % 10) / 100
    return {"validation": 0.01 * math.exp(3 * off), "accuracy": 0.8 - 0.3 / size - 0.1 * off + noise * recipe.warmup,
            "reached": None}  # fmt: skip


@pytest.fixture
def own(tmp_path):
    with Lab(tmp_path / "runs.jsonl", workers=1, progress=False) as lab:
        yield lab


def larger(f):
    """How it was done."""
    made = f.race({"large": {"size": 3}, "small": {"size": 1}}, experiment=pretended)
    f.ahead("large is better", made["large"], made["small"])
    f.result = "Large is better by 0.2."
    f.table("Sizes", ("size", "accuracy"), [(1, "a | b")])


def test_a_race_tunes_all_alike_and_runs_ten_seeds(own):
    f = Finding(own)
    larger(f)
    assert [e.lr for e in f.entries] == [0.03, 0.03]
    assert [e.tuning.interior for e in f.entries] == [True, True]
    assert [len(e.runs) for e in f.entries] == [10, 10]
    assert f.entries[0].column("steps") == [RECIPE.steps] * 10
    assert f.verdict == SUPPORTED
    varied = len(VARIATIONS) * 4 * 2
    tuned = sum(e.tuning.runs for e in f.entries)
    assert len(f.keys) == tuned + 2 * 10 + varied == len(own.store.lines)
    ((_, effects, _),) = f.variations
    assert list(effects) == ["the recipe itself", *(name for name, _, _ in VARIATIONS)]
    assert effects["warm-up .5"].size == pytest.approx(0.2)
    second = Finding(own, SETS["second"])
    larger(second)
    assert len(second.keys & f.keys) == tuned, "the same tuning, other seeds"


def test_two_numbers_of_the_same_runs_are_compared_each_by_its_own_measure(own):
    f = Finding(own)
    entry = f.race({"large": {"size": 3}}, experiment=pretended, lr=0.03)["large"]
    f.ahead("accuracy is above validation", entry, entry, by=("accuracy", "validation"))
    effect = f.statements[-1].effect
    assert effect.size == pytest.approx(np.mean([r["accuracy"] - r["validation"] for r in entry.runs]))
    assert len(f.keys) == 10 + len(VARIATIONS) * 4, "the runs of one entry serve both sides"
    wrong, right = ({"good": loss, "bad": 1.0} for loss in (10.0, 0.1))
    assert measure("loss", "good").of(wrong) == 1
    assert measure("loss", "good").of(right) == -1
    assert measure("steps", "late").of({"late": 64, "reached": 8}) == 6


def test_the_head_table_shows_the_effect_that_decides():
    f = Finding(None)
    f.always("it holds", [True] * 10)
    assert page.main_effect(f).startswith("+1.00")
    f.always("it does not", [False] * 10)
    assert f.verdict == CONTRADICTED
    assert page.main_effect(f).startswith("+0.00")
    f.always("nobody asks", [True] * 5 + [False] * 5, aside=True)
    assert page.main_effect(f).startswith("+0.00")


def test_a_race_with_other_numbers_of_seeds_and_learning_rates_that_are_set(own):
    f = Finding(own)
    made = f.race({"a": {"size": 1}, "b": {"size": 2, "lr": 0.5}}, experiment=pretended, seeds=15)
    assert [len(e.runs) for e in made.values()] == [15, 15]
    assert (made["a"].tuning.lr, made["b"].tuning, made["b"].lr) == (0.03, None, 0.5)
    second = Finding(own, SETS["second"])
    second.race({"b": {"size": 2, "lr": 0.5}}, experiment=pretended, seeds=15)
    assert not second.keys & f.keys
    f.race({"c": {"size": 2}}, experiment=pretended, lr=0.7, recipe=replace(RECIPE, steps=9))
    assert f.entries[-1].lr == 0.7
    assert f.entries[-1].column("steps") == [9] * 10


def test_seeds_of_the_sets_and_of_tuning_are_different_ones():
    assert [len(seeds) for seeds in SETS.values()] == [10, 10]
    assert not set(SETS["first"]) & set(SETS["second"])
    more = {seed + 200 for seeds in SETS.values() for seed in seeds}
    assert not set(SEEDS) & (more | set().union(*SETS.values()))


def entered(function, name=None, lesson=1, alone=False):
    return Claim(
        name or function.__name__, "large beats small", "Somebody 2020", "bigger is better", lesson, function, alone
    )


def test_what_is_asked_by_several_claims_is_run_once_and_what_is_not_stored_waits(own):
    both = findings([entered(larger, "one"), entered(larger, "two", alone=True)], own, SETS["first"])
    assert [f.verdict for f in both.values()] == [SUPPORTED] * 2
    assert len(own.store.lines) == len(next(iter(both.values())).keys)
    with stored(own.store.path) as lab:
        again = findings([entered(larger, "one"), entered(unstored)], lab, SETS["first"])
        assert [claim.name for claim in again] == ["one"]
        assert again[entered(larger, "one")].verdict == SUPPORTED
        with pytest.raises(NotStored):
            unstored(Finding(lab))


def unstored(f):
    """It was not made."""
    f.race({"huge": {"size": 9}}, experiment=pretended)


def test_an_error_in_a_claim_is_an_error(own):
    def broken(f):
        raise ZeroDivisionError("in the claim")

    with pytest.raises(ZeroDivisionError, match="in the claim"):
        findings([entered(larger), entered(broken)], own, SETS["first"])


def test_the_page_has_a_row_and_a_section_for_each_claim(own):
    done, waits = entered(larger), entered(unstored)
    found = {done: tuple(findings([done], own, seeds)[done] for seeds in SETS.values())}
    text = page.page(found, own, [waits])
    assert "The verdicts on 1 claims are 1 times *supported*. Of 1 claims that ten seeds support or" in text
    assert f"The whole ledger is {len(own.store.lines)} runs" in text
    row = next(line for line in text.splitlines() if line.startswith("| [large beats small](#larger) |"))
    assert "| Somebody 2020 | ✓ **supported** | Large is better by 0.2. | +0.2" in row
    assert row.endswith("| [01](01_transformer.ipynb) |")
    section = text.partition('<a id="larger"></a>')[2]
    assert "## large beats small: supported\n" in section
    assert "*Somebody 2020.* “bigger is better”\n" in section
    assert "How it was done.\n" in section
    assert "**Supported** (with both sets of seeds). Large is better by 0.2." in section
    assert "| ✓ | large is better | 0.7" in section
    assert r"| 1 | a \| b |" in section
    assert "| large | 0.03 | 0.003: " in section
    assert "![The effect under other recipes" in section
    assert "`python run.py claims larger`: " in section
    assert '- <a id="unstored"></a>large beats small (*Somebody 2020*; `unstored`)' in text
    with stored(own.store.path) as lab:
        again = {done: tuple(findings([done], lab, seeds)[done] for seeds in SETS.values())}
        assert page.page(again, lab, [waits]) == text, "the same from what is stored"


def test_a_verdict_that_other_seeds_do_not_repeat_does_not_stand():
    def unstable(f):
        """Depends on the seeds."""
        f.always("the seed is small", [seed < 10 for seed in f.seeds])
        f.result = "It depends."

    def stable(f):
        """Does not."""
        f.always("the seed is small", [seed < 20 for seed in f.seeds])
        f.result = "It does not."

    found = {}
    for function in (stable, unstable):
        both = [Finding(None, seeds) for seeds in SETS.values()]
        for one in both:
            function(one)
        found[entered(function)] = both
    firm, loose = found.values()
    assert settled(*firm) == SUPPORTED
    assert loose[0].verdict == SUPPORTED
    assert settled(*loose) == settled(*loose[::-1]) == UNDECIDED
    claim = entered(unstable)
    assert page.repeated({claim: loose}).endswith("ten others confirm 0. They do not confirm: large beats small.")
    section = page.section(claim, *loose, stored(SHIPPED))
    assert "## large beats small: undecided\n" in section
    assert "**Undecided** (supported with the first seeds, contradicted with the others). It depends." in section
    assert "| ✗ +0.00" in section


def test_a_page_that_is_asked_for_by_name_is_printed_and_not_written(tmp_path):
    words = [sys.executable, "-m", "claims"]
    listed = subprocess.run([*words, "--list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [claim.name for claim in CLAIMS]
    strange = subprocess.run([*words, "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert strange.returncode == 2
    assert "there is no claim nothing; --list shows what there is" in strange.stderr


# -- the claims --------------------------------------------------------------------------------------------------------


def lines_of(function):
    node = ast.parse(inspect.getsource(function)).body[0]
    return node.end_lineno - node.body[0].lineno + 2  # from `def`


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_has_its_place_its_source_and_is_short(claim):
    assert claim.says
    assert claim.says[0].isupper()
    assert not claim.says.endswith(".")
    assert claim.source
    assert claim.function.__doc__, "how it was done"
    assert page.path_of(claim.lesson)
    assert len(inspect.signature(claim.function).parameters) == 1
    assert lines_of(claim.function) <= 40


def test_every_claim_has_a_name_of_its_own():
    assert [name for name, number in Counter(claim.name for claim in CLAIMS).items() if number > 1] == []
    assert len(CLAIMS) >= 24


def test_no_two_experiments_share_a_name():
    """What a run is stored under has the experiment's name, and not that of its file."""
    names = Counter({"trial": 1})
    for path in sorted((ROOT / "claims").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and "seed" in {a.arg for a in node.args.args}:
                names[node.name] += 1
    assert [name for name, number in names.items() if number > 1] == []


@pytest.fixture(scope="module")
def shipped():
    """What the shipped runs say, and nothing is run."""
    with stored(SHIPPED) as lab:
        yield twice(CLAIMS, lab), lab


@pytest.fixture(scope="module")
def found(shipped):
    """[(claim, what was found with the first seeds, and if that is firm, with the second)] of all that do not wait."""
    return [(claim, *filter(None, both)) for claim, both in shipped[0].items()]


def test_a_firm_verdict_is_tested_again_with_other_seeds_and_no_other():
    asked = []

    def always(holds, seeded=True):
        def test(f):
            """It is counted."""
            asked.append((holds, f.seeds))
            f.keys.add(f"a run with {f.seeds if seeded else 'no'} seeds")
            f.always("it holds", [holds(seed) for seed in f.seeds])
            f.result = "It was counted."

        return entered(test)

    firm, open_ = always(lambda seed: True), always(lambda seed: seed % 2)
    fixed = always(lambda seed: True, seeded=False)
    found = twice([firm, open_, fixed], None)
    assert [settled(*both) for both in found.values()] == [SUPPORTED, UNDECIDED, SUPPORTED]
    assert found[firm][1].seeds == SETS["second"]
    assert found[open_][1] is None
    assert found[fixed][1] is None, "the same runs are no confirmation"
    assert len(asked) == 5


def test_the_page_is_what_the_stored_runs_say(shipped):
    found, lab = shipped
    text = page.page(found, lab, [claim for claim in CLAIMS if claim not in found])
    assert (page.LESSONS / "claims.md").read_text(encoding="utf-8") == text, "run: python run.py claims"


def test_the_tables_of_the_readme_are_what_the_stored_runs_say(shipped):
    shown, found = demo.README.read_text(encoding="utf-8"), demo.rows_of(shipped[1])
    for begin, end, lines in ((demo.BEGIN, demo.END, demo.text), (demo.BEGIN_SIX, demo.END_SIX, demo.six)):
        assert shown.partition(begin)[2].partition(end)[0] == lines(found) + "\n", "run: python run.py claims"


WITHOUT_SEEDS = {"four_bits", "four_bits_used", "double_quantization", "pissa_quantized"}  # these round twelve bases
WITHOUT_SEEDS |= {"real_four_bits", "real_learning_rate"}  # one rounds a real base, one reads what tuning has tried


def test_every_claim_was_tested_with_ten_seeds_and_ten_others_and_on_the_real_model_with_three(found, shipped):
    for claim, *both in found:
        for one, seeds in zip(both, SETS.values(), strict=False):
            used = {shipped[1].store.lines[key]["key"].get("seed") for key in one.keys} - {None}
            drawn = any(s.effect and not s.aside for s in one.statements)
            wanted = set(seeds[:3] if claim.name.startswith("real_") else seeds)
            assert used >= wanted or not drawn or claim.name in WITHOUT_SEEDS, claim.name


def test_every_claim_has_statements_and_a_result_with_a_full_stop(found):
    for claim, *both in found:
        for one in both:
            assert [s for s in one.statements if not s.aside], claim.name
            assert one.result.endswith("."), claim.name


def test_no_chosen_learning_rate_lies_at_an_edge(found):
    edges = [(c.name, e.name, e.lr) for c, one, *_ in found for e in one.entries if e.tuning and not e.tuning.interior]
    edges += [(c.name, s.text) for c, *both in found for one in both for s in one.statements
              if "no lowest loss is at the lowest or the highest" in s.text and not s.exact]  # fmt: skip
    assert edges == []


def test_what_is_supported_or_contradicted_says_what_it_would_have_seen(found):
    for claim, *both in found:
        for one in both:
            if one.verdict in (SUPPORTED, CONTRADICTED):
                tested = [s for s in one.statements if s.effect and not s.aside]
                assert all(page.could_see(s) for s in tested), claim.name
                assert [s.text for s in tested if page.could_see(s) == "none" and s.kind != "oftener"] == [], claim.name


def test_every_picture_is_there_under_a_name_of_its_own(found):
    folder, names = claims.__main__.PICTURES, {claim.name for claim in CLAIMS}
    assert [n for _, one, *_ in found for n, _, _ in one.pictures if n in names] == [], "the curve of that claim"
    assert [n for _, one, *_ in found for n, _, _ in one.pictures if not (folder / f"{n}.png").exists()] == []


def test_what_is_stored_is_asked_for(shipped):
    """Once no claim waits for its runs; until then, some of theirs are there already, and others are not."""
    found, lab = shipped
    demo.tunings(lab)
    demo.rows_of(lab)
    assert set(lab.store.lines) == lab.asked or len(found) < len(CLAIMS), "run: python run.py claims"
