import torch

from minipeft.lab.at_once import AtOnce
from minipeft.tasks import encode, task
from minipeft.worlds.languages import Worded


def test_a_batch_has_as_many_examples_of_each_task():
    goal = AtOnce(Worded(task("reverse+plain"), "please"), Worded(task("left+plain"), "then"))
    batch = goal.batch(32, torch.Generator().manual_seed(0))
    words = [int(encode(word)[0]) for word in ("please", "then")]
    assert batch.tokens.shape == batch.targets.shape
    assert [int((batch.tokens == word).any(1).sum()) for word in words] == [16, 16]


def test_the_same_generator_draws_the_same_examples():
    goal = AtOnce(task("reverse+plain"), task("left+plain"))
    one, other = (goal.batch(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.tokens, other.tokens)
