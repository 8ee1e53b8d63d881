"""Reading a comparison: `beats`, `front`, luck by counting, and prices."""

from itertools import combinations

import pytest

from minipeft import task
from minipeft.lab import TUNED_METHODS, stored, verdicts
from minipeft.methods import IA3, LoRA, Pfeiffer, PromptTuning

FOUND = {"a": ([0.9, 1.0], 4000), "b": ([0.9, 1.0], 1000), "c": ([0.2, 0.8], 900), "d": ([0.0, 0.1], 900)}


def test_beats_needs_every_seed():
    assert verdicts.beats([0.9, 1.0], [0.2, 0.8])
    assert not verdicts.beats([0.9, 1.0], [0.2, 0.9])
    assert not verdicts.beats([0.2, 0.8], [0.9, 1.0])


def test_the_front_leaves_out_what_another_does_as_well_with_fewer_numbers_or_better_with_as_many():
    assert verdicts.front(FOUND) == ["b", "c"]
    assert verdicts.front({"a": ([0.5], 7), "b": ([0.5], 7)}) == ["a", "b"]


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_luck_is_what_counting_all_orders_gives(seeds):
    orders = list(combinations(range(2 * seeds), seeds))
    others = [[i for i in range(2 * seeds) if i not in x] for x in orders]
    apart = sum(verdicts.beats(x, y) or verdicts.beats(y, x) for x, y in zip(orders, others, strict=True))
    assert verdicts.by_luck(seeds) == pytest.approx(apart / len(orders))


def test_tunings_are_those_of_the_stored_runs():
    chosen = [c for c in TUNED_METHODS if type(c.method) in (LoRA, IA3)]
    result = verdicts.tunings(chosen, (task("reverse+blue"), task("reverse+violet")), stored())
    assert {name: tuning.lr for name, tuning in result.items()} == {str(c.method): c.lr for c in chosen}


def test_rows_of_a_comparison_are_read():
    rows = [
        {"method": "Full", "parameters": 1000, "accuracy": [1.0], "reached": [30, 20, None]},
        {"method": "IA3", "parameters": 10, "accuracy": [0.5], "reached": [None, 20, None]},
    ]
    assert verdicts.found(rows) == {"Full": ([1.0], 1000), "IA3": ([0.5], 10)}
    assert list(verdicts.by_size(rows).items()) == [("IA3  10", [0.5]), ("Full  1,000", [1.0])]
    assert verdicts.steps(rows) == {"Full": 30, "IA3": None}


def test_pairs_and_seeds_are_counted():
    assert verdicts.decided(FOUND) == (5, 6)
    assert verdicts.wins([0.1, 0.5], [0.2, 0.3]) == 2


def test_the_table_says_who_beats_whom():
    lines = verdicts.table_of({name: FOUND[name] for name in "abc"}).splitlines()
    assert [line.split() for line in lines] == [
        ["beats", "a", "b", "c"], ["a", "open", "yes"], ["b", "open", "yes"], ["c", "no", "no"],
    ]  # fmt: skip


def test_a_function_is_tried_on_every_case():
    def unwritten(x, y):
        raise NotImplementedError

    def at_least(x, y):
        return min(x) >= max(y)

    cases = ([2], [1]), ([1], [1])
    assert verdicts.tried(unwritten, verdicts.beats, *cases) == "unwritten: not written yet"
    assert verdicts.tried(at_least, verdicts.beats, *cases) == "at_least([1], [1]) is True, and should be False"
    assert verdicts.tried(at_least, verdicts.beats, cases[0]) == "at_least: right in all 1 cases"


def test_prices_tell_numbers_bytes_time_and_what_merges_and_shares():
    methods = (LoRA(rank=4), IA3(), Pfeiffer(size=16), PromptTuning(length=4))
    found = verdicts.prices(methods, task("reverse+blue"), repeats=5)
    assert list(found) == [str(method) for method in methods]
    lora, ia3, adapter, prompt = found.values()
    assert [row["trained numbers"] for row in found.values()] == [2048, 768, 4256, 256]
    assert lora["checkpoint, bytes"] == 4 * 2048
    assert lora["memory,\nkB"] > adapter["memory,\nkB"] > 4 * (109_372 + 4256) / 1000
    assert [row["merges"] for row in found.values()] == [True, True, False, False]
    assert [row["shares a batch"] for row in found.values()] == [True, True, False, True]
    assert ia3["time,\n× base"] > 0 < prompt["time,\n× base"]
