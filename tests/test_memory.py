"""The world of the recurrent network: right answers, what pretraining tells, and a change of known rank."""

import pytest
import torch

from minipeft.attach import detach
from minipeft.deltas import updates
from minipeft.methods import Full, LoRA
from minipeft.models.torch_nets import Recurrent, RecurrentConfig
from minipeft.tasks import BOS, FIRST_LETTER, ID, IGNORE, KNOWN_TABLES, LETTERS, TABLES, VOCABULARY, Few, letters
from minipeft.training import evaluate, fit
from minipeft.worlds.memory import Sums, SumsOfKnownTables, by_letter, imitate, planted, pretraining, sums
from tests.models import bits, same_bits

HH = "rnn.weight_hh_l0"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(kind="LSTM"):
    """A network with random weights, large enough to have something to say, frozen."""
    torch.manual_seed(0)
    net = Recurrent(RecurrentConfig(len(VOCABULARY), dim=8, hidden=12, kind=kind))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("table", "word", "answer"),
    [
        ("plain", "cabbed", "ccbcfh"),  # c = 2, a = 0: c, c+a, a+b, b+b, b+e, e+d
        ("next", "cabbed", "dedehj"),
        ("plain", "pppaaa", "poopaa"),  # p = 15 = −1: modulo 16
        ("mirror", "abcpon", "pnlnbd"),
    ],
)
def test_answers_made_by_hand(table, word, answer):
    assert "".join(LETTERS[i] for i in sums(letters(word)[None], TABLES[table])[0]) == answer


def test_the_first_token_names_the_table_and_the_targets_stand_at_their_letters():
    seen = set()
    batch = SumsOfKnownTables().batch(400, generator())
    assert batch.tokens.shape == batch.targets.shape == (400, 7)
    for row, targets in zip(batch.tokens, batch.targets, strict=True):
        table = VOCABULARY[row[0]]
        x = row[1:] - FIRST_LETTER
        assert targets[0] == IGNORE
        assert torch.equal(targets[1:] - FIRST_LETTER, sums(x[None], TABLES[table])[0])
        seen.add(table)
    assert seen == set(KNOWN_TABLES)


def test_right_answers_are_counted_at_each_letter():
    def model(tokens):  # adds up under `next` as long as less than three letters have been read, then answers BOS
        y = sums(tokens[:, 1:] - FIRST_LETTER, TABLES["next"]) + FIRST_LETTER
        y[:, 2:] = BOS
        return torch.nn.functional.one_hot(torch.nn.functional.pad(y, (1, 0)), len(VOCABULARY))

    assert by_letter(model, Sums("next"), size=50) == [1, 1, 0, 0, 0, 0]
    assert by_letter(lambda tokens: model(tokens).flip(-1), Sums("next"), size=50) == [0] * 6


def test_a_downstream_task_begins_with_bos_and_asks_the_same_as_an_instructed_one():
    plain, told = Sums("blue").batch(5, generator()), Sums("blue", instructed=True).batch(5, generator())
    assert plain.tokens[:, 0].tolist() == [BOS] * 5
    assert told.tokens[:, 0].tolist() == [ID["blue"]] * 5
    assert torch.equal(plain.tokens[:, 1:], told.tokens[:, 1:])
    assert torch.equal(plain.targets, told.targets)
    assert [Sums(table).kind for table in ("blue", "violet")] == ["known", "new table"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("purple",), "no table the text 'purple'; there are: plain, .*violet"),
        (([],), "no table"),
        (("violet", True), "sums.violet cannot be instructed: the base has no word for it"),
        (("blue", "yes"), "instructed must be True or False, got the text 'yes'"),
    ],
)
def test_a_task_that_does_not_exist_is_told(arguments, says):
    with pytest.raises(ValueError, match=says):
        Sums(*arguments)


@pytest.mark.parametrize("task", [Sums("violet"), pretraining], ids=str)
def test_examples_follow_the_generator(task):
    a, b, c = (task.batch(8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.targets, b.targets)
    assert not torch.equal(a.tokens, c.tokens)


def test_a_few_examples_are_a_finite_task_that_the_network_can_learn_by_heart():
    few, net = Few(Sums("violet"), 4), small()
    assert {tuple(row) for row in few.batch(9, generator()).tokens.tolist()} == {
        tuple(row) for row in few.every().tokens.tolist()
    }
    view = Full().attach(net)
    fit(view, few, lr=1e-2, steps=150, batch_size=8, device="cpu", progress=False)
    assert evaluate(view, few).accuracy == 1
    assert evaluate(view, Sums("violet"), 200).accuracy < 0.1


# ---- a planted change of known rank -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize(("place", "rank"), [(HH, 4), ("rnn.weight_ih_l0", 2)])
def test_the_teacher_differs_from_the_network_by_a_change_of_the_planted_rank_in_one_place(kind, place, rank):
    net = small(kind)
    before, teacher = bits(net), planted(net, rank, seed=1, place=place, size=0.5)
    assert same_bits(net, before)
    changed = [name for name, p in teacher.named_parameters() if not torch.equal(p, net.get_parameter(name))]
    assert changed == [place]
    view = Full(targets=(place,)).attach(net)
    view.load_state_dict(teacher.state_dict())  # what full fine-tuning has changed when it is there
    W, change = updates(view)[place]
    s = torch.linalg.svdvals(change.double())
    assert s[rank - 1] > 0.05 * s[0]
    assert s[rank] < 1e-6 * s[0]
    assert (change.norm() / W.norm()).item() == pytest.approx(0.5, rel=1e-5)
    assert same_bits(teacher, bits(planted(net, rank, seed=1, place=place, size=0.5)))
    assert not same_bits(teacher, bits(planted(net, rank, seed=2, place=place, size=0.5)))


def test_the_error_falls_to_nearly_nothing_at_the_planted_rank_and_not_below():
    net, left = small(), {}
    teacher = planted(net, 2, seed=0, size=1.0)
    before = bits(net), bits(teacher)
    for rank in (1, 2, 3):
        torch.manual_seed(0)
        student = LoRA(rank, 2 * rank, (HH,)).attach(net)
        left[rank] = imitate(student, teacher, lr=3e-2, steps=200)
    assert 0.05 < left[1] < 1
    assert left[2] < 1e-3
    assert left[3] < 1e-3
    assert detach(student) is net
    assert (same_bits(net, before[0]), same_bits(teacher, before[1])) == (True, True)


def test_imitating_again_gives_the_same_and_a_student_in_the_wrong_place_stays_behind():
    net = small()
    teacher = planted(net, 2, seed=0, size=1.0)
    left = []
    for place in (HH, HH, "head"):
        torch.manual_seed(0)
        left.append(imitate(LoRA(2, 4, (place,)).attach(net), teacher, lr=3e-2, steps=60))
    assert left[0] == left[1] < 0.5 * left[2]
