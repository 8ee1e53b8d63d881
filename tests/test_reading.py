"""Text classification on the letters."""

import pytest
import torch

from minipeft.bases import base
from minipeft.lab import trial
from minipeft.methods import LinearProbe, LoRA
from minipeft.tasks import ID, KNOWN_OPERATIONS, KNOWN_TABLES, SYNONYMS, decode
from minipeft.training import Recipe
from minipeft.worlds.reading import InstructionClass

NUMBERS = {ID[word]: i for names in (KNOWN_OPERATIONS, KNOWN_TABLES) for i, name in enumerate(names)
           for word in (name, SYNONYMS[name])}  # fmt: skip


def test_the_class_is_the_sum_of_what_the_words_mean():
    batch = InstructionClass().batch(200, torch.Generator().manual_seed(0))
    assert len(batch.targets.unique()) == 8
    for tokens, wanted in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        meanings = {NUMBERS[token]: token for token in set(tokens[:-8]) if token in NUMBERS}
        assert sum({i for i in meanings}) % 8 == wanted or len(meanings) < 2, "one number twice, or `copy` left unsaid"
    assert decode(batch.tokens[0]).endswith("=")


def test_few_examples_are_the_same_for_a_seed():
    few = InstructionClass(each=3, seed=1)
    batch = few.batch(48, torch.Generator().manual_seed(5))
    assert len({tuple(row.tolist()) for row in batch.tokens}) == 24
    other = InstructionClass(each=3, seed=2).batch(48, torch.Generator().manual_seed(5))
    assert batch.tokens.shape != other.tokens.shape or not torch.equal(batch.tokens, other.tokens)


def test_the_lab_trains_on_few_and_reports_others():
    for method, inside in ((LinearProbe(classes=8), 0), (LoRA(rank=2, classes=8), 1024)):
        run = trial(method, InstructionClass(), 1e-2, 0, Recipe(steps=60), examples=16)
        assert run["retention"] is None
        assert run["restored"]
        assert run["training_accuracy"] > 0.2, method
        assert run["parameters"] == inside + 8 * 65


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="InstructionClass: each must be a whole number of at least 1, got 0"):
        InstructionClass(each=0)
    tokens = InstructionClass(each=1).batch(8, torch.Generator()).tokens
    assert LinearProbe(classes=8).attach(base())(tokens).shape == (8, 8)
