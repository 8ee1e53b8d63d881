"""The toy world: the right answers, what the base may see, and what is asked of it."""

from dataclasses import replace

import pytest
import torch

from minipeft.tasks import (
    EOS,
    HELD_OUT,
    ID,
    IGNORE,
    KNOWN_OPERATIONS,
    KNOWN_TABLES,
    LETTERS,
    OPERATIONS,
    SEP,
    SYNONYMS,
    TABLES,
    UNSEEN,
    VOCABULARY,
    Batch,
    Few,
    Mixture,
    decode,
    encode,
    letters,
    rows_of,
    task,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spelled(name, word):
    return "".join(LETTERS[i] for i in task(name).answer(letters(word)[None])[0])


@pytest.mark.parametrize(
    ("name", "word", "answer"),
    [
        ("copy+plain", "cabbed", "cabbed"),
        ("reverse+plain", "cabbed", "debbac"),
        ("sort+plain", "cabbed", "abbcde"),
        ("descend+plain", "cabbed", "edcbba"),
        ("left+plain", "cabbed", "abbedc"),
        ("right+plain", "cabbed", "dcabbe"),
        ("swap+plain", "cabbed", "acbbde"),
        ("halves+plain", "cabbed", "bedcab"),
        ("riffle+plain", "cabbed", "cbaebd"),
        ("copy+next", "ponmap", "aponba"),
        ("copy+previous", "ponmap", "onmlpo"),
        ("copy+mirror", "abcpon", "ponabc"),
        ("copy+plus5", "abcpon", "fghedc"),
        ("reverse+next", "cabbed", "efccbd"),
        ("sort+mirror", "cabbed", "poonml"),  # the operation first, then the table
    ],
)
def test_answers_made_by_hand(name, word, answer):
    assert spelled(name, word) == answer


def test_tables_are_permutations_and_all_different():
    assert all(sorted(t.tolist()) == list(range(16)) for t in TABLES.values())
    assert len({tuple(t.tolist()) for t in TABLES.values()}) == len(TABLES)


def test_every_word_has_one_token():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 60
    assert set(SYNONYMS) == set(KNOWN_OPERATIONS) | set(KNOWN_TABLES)
    assert not set(UNSEEN) & set(VOCABULARY)


def test_text_goes_to_tokens_and_back():
    line = "reverse next : cabbed = efccbd ."
    assert decode(encode(line)) == line
    assert encode(line).tolist() == encode("  reverse next:c a b b e d=efccbd.").tolist()
    assert decode(torch.cat([torch.zeros(3, dtype=torch.long), encode(": cabbed =")])) == ": cabbed ="


@pytest.mark.parametrize(
    ("text", "piece"), [("turn next : abcdef", "'turn'"), (": cabzed", "'z'"), ("cabbed", "'cabbed'")]
)
def test_words_and_letters_it_does_not_know_are_named(text, piece):
    with pytest.raises(ValueError, match=piece):
        encode(text)


def test_the_mixture_says_what_it_wants_and_answers_it():
    """Read every example as the base would have to: the words alone decide the answer."""
    concept = {ID[w]: c for c in [*KNOWN_OPERATIONS, *KNOWN_TABLES] for w in (c, SYNONYMS[c])}
    seen, bags = set(), set()
    for seed in range(12):
        batch = Mixture().batch(400, generator(seed))
        whole = torch.cat([batch.tokens, torch.full((400, 1), EOS)], dim=1)
        for row in whole.tolist():
            instruction, line = row[:-15], decode(row[-15:])
            said = {concept[t] for t in instruction if t in concept}
            operation = (said & set(KNOWN_OPERATIONS)) or {"copy"}
            table = (said & set(KNOWN_TABLES)) or {"plain"}
            assert len(operation) == len(table) == 1
            name = f"{operation.pop()}+{table.pop()}"
            word, answer = line[2:8], line[11:17]
            assert spelled(name, word) == answer
            seen.add(name)
            bags.add(len(instruction))
    assert bags == {2, 3, 4, 5}
    assert not seen & set(HELD_OUT)
    assert len(seen) == 58


def test_a_mixture_of_some_pairs_has_only_those():
    assert set(Mixture(HELD_OUT).pairs()) == set(HELD_OUT)


def test_asked_are_the_answer_and_the_full_stop():
    for what in (task("reverse+blue"), task("reverse+blue", instructed=True), Mixture()):
        batch = what.batch(5, generator())
        asked = batch.targets != IGNORE
        assert asked.sum(1).tolist() == [7] * 5
        assert (batch.targets[:, -1] == EOS).all()
        assert (batch.tokens[:, -7] == SEP).all()  # the first answer letter is asked at the equals sign
        assert torch.equal(batch.tokens[:, -6:], batch.targets[:, -7:-1])  # the answer follows as input


def test_a_downstream_task_comes_without_instruction():
    batch = task("reverse+violet").batch(2, generator())
    assert decode(batch.tokens[0]).startswith(": ")
    assert decode(task("reverse+blue", instructed=True).batch(1, generator()).tokens[0]).startswith("reverse blue : ")


def test_examples_follow_the_generator():
    a, b, c = (task("sort+red").batch(8, generator(s)).tokens for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_kinds():
    kinds = {
        "reverse+red": "known",
        "reverse+blue": "held-out pair",
        "reverse+violet": "new table",
        "riffle+plain": "new operation",
    }
    assert {name: task(name).kind for name in kinds} == kinds
    assert set(OPERATIONS) - set(KNOWN_OPERATIONS) == {"riffle"}


@pytest.mark.parametrize("name", ["", "reverse", "reverse+purple", "blue+reverse"])
def test_an_unknown_task_error_says_what_there_is(name):
    with pytest.raises(ValueError, match="violet"):
        task(name)


def test_what_has_no_word_cannot_be_instructed():
    with pytest.raises(ValueError, match="no word"):
        task("reverse+violet", instructed=True)


@pytest.mark.parametrize("word", ["cab", "cabbedd", "cabbez", "CABBED"])
def test_words_of_the_wrong_kind(word):
    with pytest.raises(ValueError, match="6 letters from a to p"):
        letters(word)


def test_few_examples_are_always_the_same_ones_each_as_often_as_another():
    few, generator = Few(task("sort+red"), 5, seed=3), torch.Generator().manual_seed(0)
    first, second = few.batch(23, generator), few.batch(23, generator)
    counts = [batch.tokens.unique(dim=0, return_counts=True) for batch in (first, second)]
    assert torch.equal(counts[0][0], counts[1][0])
    assert sorted(counts[0][1].tolist()) == [4, 4, 5, 5, 5]
    assert not torch.equal(first.tokens, second.tokens), "in another order"
    other = Few(task("sort+red"), 5).batch(5, generator)
    assert not {tuple(r) for r in first.tokens.tolist()} & {tuple(r) for r in other.tokens.tolist()}
    whole = task("sort+red").batch(5, torch.Generator().manual_seed(3))
    assert {tuple(r) for r in few.batch(5, generator).tokens.tolist()} == {tuple(r) for r in whole.tokens.tolist()}
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Few(task("sort+red"), 0)


def test_rows_of_a_batch_keep_what_belongs_to_them():
    more = {"captions": torch.zeros(3, 4), "names": "all"}  # as many captions as rows, and none of a row's own
    own = {"answers": torch.arange(6).view(3, 2), "views": ["a", None, "b"]}
    batch = Batch(torch.arange(3)[:, None], torch.arange(3), torch.ones(3, 1, dtype=torch.bool), more, own)
    few = rows_of(batch, torch.tensor([2, 0]))
    assert few.tokens.tolist() == [[2], [0]]
    assert few.mask.shape == (2, 1)
    assert few.beside["answers"].tolist() == [[4, 5], [0, 1]]
    assert few.beside["views"] == ["b", "a"]
    assert rows_of(batch, slice(1, None, 2)).beside["views"] == [None]
    assert few.more is more
    assert not few.whole
    assert rows_of(replace(batch, whole=True).to("cpu"), slice(2)).whole
