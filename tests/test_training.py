"""The one loop and the one evaluation: what is trained, what is not, and what the numbers mean."""

import copy
import inspect
import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.methods import Full, LoRA
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import BOS, IGNORE, VOCABULARY, Batch, Mixture, task
from minipeft.training import RECIPE, Recipe, evaluate, exact_match, fit, loss_of, pick_device, schedule
from minipeft.views import move
from tests.models import bits, same_bits

TASK = task("reverse+blue")


@pytest.fixture
def model():
    return Transformer(Config(vocab=len(VOCABULARY), dim=16, heads=2, ff=24, context=24, bos=BOS)).eval()


def run(model, method, **settings):
    """A view of the model with the method on it, trained for some steps, and the history."""
    torch.manual_seed(3)
    view = method.attach(model)
    settings = {"steps": 12, "lr": 1e-2, "batch_size": 8, "device": "cpu", "progress": False} | settings
    return view, fit(view, TASK, **settings)


@pytest.mark.parametrize("method", [LoRA(), LoRA(dropout=0.5), Full()], ids=str)
def test_training_moves_the_method_and_not_the_base(model, method):
    before, learns = bits(model), [p.requires_grad for p in model.parameters()]
    view, history = run(model, method)
    assert history.loss[-1] < history.loss[0]
    assert all(p.grad is None for p in view.parameters() if not p.requires_grad)
    assert detach(view) is model
    assert same_bits(model, before)
    assert all(p.grad is None for p in model.parameters())
    assert learns == [p.requires_grad for p in model.parameters()]
    assert not model.training


def test_a_view_and_its_base_are_moved_together(model, monkeypatch):
    moved = []
    monkeypatch.setattr("minipeft.training.move", lambda *args: moved.append(args) or move(*args))
    view, _ = run(model, LoRA(), steps=1)
    assert moved == [(view, torch.device("cpu"))]
    base = {p.data_ptr() for p in model.parameters()}
    assert all((p.data_ptr() in base) != p.requires_grad for p in view.parameters())


def test_the_same_seed_gives_the_same_run(model):
    views, histories = zip(*(run(model, LoRA(), seed=seed) for seed in (1, 1, 2)), strict=True)
    assert histories[0].loss == histories[1].loss != histories[2].loss
    assert all(torch.equal(p, trainable(views[1])[name]) for name, p in trainable(views[0]).items())


def test_the_history_tells_every_step(model):
    steps = []
    view, history = run(model, LoRA(), steps=7, on_step=steps.append)
    assert steps == list(range(7))
    assert len(history.loss) == len(history.accuracy) == len(history.lr) == 7
    assert history.seconds > 0
    assert not view.training


def test_groups_have_their_own_learning_rates(model):
    model = LoRA(lr_ratio=16).attach(model)
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    fit(model, TASK, steps=1, lr=1e-4, warmup=0, device="cpu", progress=False, clip=1e9)
    moved = {name: (p - start[name]).abs().max().item() for name, p in trainable(model).items()}
    assert all(m == pytest.approx(16e-4, rel=0.01) for name, m in moved.items() if name.endswith("B"))
    assert all(m == 0 for name, m in moved.items() if name.endswith("A"))  # no gradient yet


@dataclass(frozen=True)
class Meddling(LoRA):
    """Adds half the sum of squares of A to the loss, and after each step sets B to the number of the step."""

    def regularizer(self, model):
        return 0.5 * sum(p.square().sum() for name, p in trainable(model).items() if name.endswith("A"))

    def after_step(self, model, step, steps):
        assert steps == 3
        for name, p in trainable(model).items():
            if name.endswith("B"):
                assert p.grad is not None
                p.data.fill_(step)


def test_a_method_may_add_to_the_loss_and_act_after_a_step(model):
    view = Meddling().attach(model)
    before = {name: p.detach().clone() for name, p in trainable(view).items()}
    seen = []

    def look(step):
        seen.append({name: (p.detach().clone(), p.grad.clone()) for name, p in trainable(view).items()})

    history = fit(view, TASK, steps=3, lr=1e-3, clip=1e9, device="cpu", progress=False, on_step=look)
    for name, start in before.items():
        if name.endswith("A"):
            torch.testing.assert_close(seen[0][name][1], start)  # B = 0, so all its gradient is the penalty's
        else:
            assert [float(s[name][0].mean()) for s in seen] == [0, 1, 2]
    torch.manual_seed(0)
    assert history.loss[0] == fit(LoRA().attach(model), TASK, steps=1, lr=1e-3, device="cpu", progress=False).loss[0]


def test_the_schedule_warms_up_and_falls_to_two_percent():
    factors = [schedule(s, 100, 10) for s in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1
    assert factors[11:] == sorted(factors[11:], reverse=True)
    assert factors[-1] == pytest.approx(0.02, abs=1e-3)
    assert schedule(55, 100, 10) == pytest.approx(0.51)


@pytest.mark.parametrize(("warmup", "peak"), [(0, 0), (0.2, 2), (1 / 3, 3), (0.99, 10)])
def test_the_warm_up_is_a_share_of_the_steps(model, warmup, peak):
    _, history = run(model, LoRA(), steps=10, lr=0.01, warmup=warmup, batch_size=1)
    assert history.lr == pytest.approx([0.01 * schedule(step, 10, peak) for step in range(10)])


def test_without_settings_the_recipe_is_followed(model):
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    assert RECIPE.settings().items() <= defaults.items()
    assert RECIPE.settings() == {field.name: getattr(RECIPE, field.name) for field in fields(Recipe)}
    _, by_default = run(model, LoRA(), steps=6, batch_size=4)
    short = replace(RECIPE, steps=6, batch_size=4)
    _, by_recipe = run(model, LoRA(), **short.settings())
    assert by_default.loss == by_recipe.loss


def test_only_what_is_asked_counts():
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[IGNORE, 1, 2], [IGNORE, IGNORE, 0]])
    asked = logits.log_softmax(-1)[[0, 0, 1], [1, 2, 2], [1, 2, 0]]
    assert loss_of(logits, targets).item() == pytest.approx(-asked.mean().item())
    best = logits.argmax(-1)
    assert exact_match(logits, best).tolist() == [True, True]
    best[0, 2] = (best[0, 2] + 1) % 5  # one wrong token spoils the example
    assert exact_match(logits, best).tolist() == [False, True]
    best[0, 2] = IGNORE
    assert exact_match(logits, best).tolist() == [True, True]


def test_classes_are_asked_like_tokens():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert exact_match(logits, torch.tensor([1, 1])).tolist() == [True, False]
    assert loss_of(logits, torch.tensor([1, 1])).item() == pytest.approx(
        (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    )


def test_evaluation_is_teacher_forced_exact_match_and_leaves_the_mode(model):
    class Echo(nn.Module):
        """Right on every other example."""

        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, tokens, mask=None):
            good = TASK.batch(10, torch.Generator().manual_seed(5)).targets.clamp(min=0)
            good[::2, -1] = 0
            return nn.functional.one_hot(good, len(VOCABULARY)).float() * 100

    model = Echo().train()
    score = evaluate(model, TASK, size=10, seed=5)
    assert score.accuracy == 0.5
    assert score.token_accuracy == pytest.approx(1 - 5 / 70)
    assert model.training


def test_evaluation_draws_the_same_examples_for_all(model):
    assert evaluate(model, TASK, 50) == evaluate(model, TASK, 50)
    assert evaluate(model, TASK, 50) != evaluate(model, TASK, 50, seed=1)


def test_nothing_to_train_is_an_error(model):
    model.requires_grad_(False)
    LoRA().attach(model)  # and nobody takes what it returns
    with pytest.raises(ValueError, match=r"nothing to train.*train what attach returns"):
        fit(model, TASK, steps=1, lr=1e-3)
    with pytest.raises(ValueError, match="nothing to train"):
        fit(nn.Identity(), TASK, steps=1, lr=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(model):
    with torch.no_grad():
        model.head.bias[0] = math.nan
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        fit(model, TASK, steps=3, lr=1e-3, progress=False, device="cpu")


def test_a_gradient_that_is_no_number_stops_the_run_before_the_step(model):
    class Root(nn.Module):  # finite at 0, but its slope is not
        def __init__(self):
            super().__init__()
            self.model, self.zero = model, nn.Parameter(torch.zeros(()))

        def forward(self, tokens, mask=None):
            return self.model(tokens, mask) + self.zero.sqrt()

    root = Root()
    before = copy.deepcopy(root.state_dict())
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 0.*lower learning rate than 0.001"):
        fit(root, TASK, steps=3, lr=1e-3, progress=False, device="cpu")
    assert all(torch.equal(t, before[name]) for name, t in root.state_dict().items())


def test_a_last_step_that_breaks_the_weights_is_an_error(model):
    def spoil(step):
        with torch.no_grad():
            model.head.bias[0] = math.inf

    with pytest.raises(FloatingPointError, match=r"last step.*lower learning rate"):
        fit(model, TASK, steps=1, lr=1e-3, progress=False, device="cpu", on_step=spoil)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_not_scored(model, broken):
    model.train()
    with torch.no_grad():
        model.head.bias[5] = broken
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        evaluate(model, TASK, 10)
    assert model.training


def test_a_task_that_gives_no_batch_or_asks_nothing_is_an_error(model):
    class Mine:
        def __init__(self, made):
            self.made = made

        def batch(self, size, generator):
            return self.made

    tokens = torch.ones(1, 3, dtype=torch.long)
    for made, error, says in (
        ((tokens, tokens), TypeError, "must return a Batch"),
        (Batch(tokens, torch.full((1, 3), IGNORE)), ValueError, "every target is IGNORE"),
    ):
        with pytest.raises(error, match=says):
            fit(model, Mine(made), steps=3, lr=1e-3, progress=False, device="cpu")
        with pytest.raises(error, match=says):
            evaluate(model, Mine(made))


def test_a_diverging_run_stops_before_the_weights_are_spoiled(model):
    view = LoRA().attach(model)
    with torch.no_grad():
        view.blocks[0].attn.q.B[0, 0] = math.inf
    before = bits(view)
    with pytest.raises(FloatingPointError):
        fit(view, TASK, steps=3, lr=1e-3, progress=False, device="cpu")
    assert same_bits(view, before)


def test_the_loop_is_the_textbook_one(model):
    """The same steps written out, with gradients cut, for a whole run: bit for bit."""
    twin = copy.deepcopy(model)
    settings = {"steps": 6, "lr": 3e-3, "batch_size": 8, "seed": 4, "warmup": 1 / 3, "clip": 0.5}
    history = fit(model, TASK, **settings, device="cpu", progress=False)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(4)
    twin.train()
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 3e-3 * schedule(step, 6, 2)
        batch = TASK.batch(8, generator)
        logits = twin(batch.tokens)
        optimizer.zero_grad()
        loss = loss_of(logits, batch.targets)
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5
        optimizer.step()
        assert history.loss[step] == loss.item()
        assert history.accuracy[step] == exact_match(logits, batch.targets).float().mean()
        assert history.lr[step] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert all(torch.equal(*both) for both in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_mixture_is_scored_on_instructions_of_every_length(model):
    seen = set()
    model.register_forward_pre_hook(lambda model, args: seen.add(args[0].shape[1]))
    evaluate(model, Mixture())
    assert seen == {14 + words for words in (2, 3, 4, 5)}


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
