"""The sheets: gradients by hand are those of autograd, predictions are what is measured, each piece has one mistake."""

import numpy as np
import pytest
import torch
from torch import nn

from minipeft.attach import attachments, trainable
from minipeft.bases import base
from minipeft.classroom.engine import reading, source
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.engine.recognise import expected
from minipeft.costs import delta_bytes, measure
from minipeft.exercises import measuring
from minipeft.exercises.find_the_mistake import observations as pieces
from minipeft.exercises.find_the_mistake import sheet as find_the_mistake
from minipeft.exercises.lora_gradients import sheet as lora_gradients
from minipeft.exercises.predict_memory import sheet as predict_memory
from minipeft.exercises.predict_parameters import sheet as predict_parameters
from minipeft.exercises.write_a_test import observations as write_a_test
from minipeft.methods import LoRA
from minipeft.methods.qlora import QuantizedLinear, measured_bits
from minipeft.tasks import task
from minipeft.views import merge
from tests import solutions
from tests.solutions import judged as report_on

n, into, out, r, alpha = 7, 5, 3, 2, 3.0


@pytest.fixture
def letters():
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (n, into), "W": (out, into), "b": (out,), "A": (r, into), "B": (out, r)}
    made = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
    return {k: t.requires_grad_() for k, t in made.items()}


def y_of(letters, s):
    x, W, b, A, B = letters.values()
    return nn.functional.linear(x, W, b) + s * x @ A.T @ B.T


def plain(letters, *names):
    return [letters[name].detach().numpy() for name in names]


def test_gradients_by_hand_are_those_of_autograd(letters):
    scale = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    y = y_of(letters, scale / r)
    dy = torch.randn_like(y)
    y.backward(dy)
    s, g = alpha / r, lora_gradients
    np.testing.assert_allclose(g.forward(*plain(letters, "x", "W", "b", "A", "B"), s), y.detach().numpy())
    by_hand = {
        "W": g.gradient_of_W(dy.numpy(), *plain(letters, "x")),
        "B": g.gradient_of_B(dy.numpy(), *plain(letters, "x", "A"), s),
        "A": g.gradient_of_A(dy.numpy(), *plain(letters, "x", "B"), s),
        "x": g.gradient_of_x(dy.numpy(), *plain(letters, "W", "A", "B"), s),
    }
    for name, found in by_hand.items():
        np.testing.assert_allclose(found, letters[name].grad.numpy(), err_msg=name)
    np.testing.assert_allclose(g.gradient_of_alpha(dy.numpy(), *plain(letters, "x", "A", "B")), scale.grad.item())
    np.testing.assert_allclose(by_hand["A"], s * plain(letters, "B")[0].T @ by_hand["W"])  # shadows of dW
    np.testing.assert_allclose(by_hand["B"], s * by_hand["W"] @ plain(letters, "A")[0].T)


def test_a_step_by_hand_is_that_of_the_optimizer_and_leaves_A_at_first(letters):
    target = torch.randn(n, out, dtype=torch.float64)
    with torch.no_grad():
        letters["B"].zero_()
    optimizer = torch.optim.SGD([letters["A"], letters["B"]], lr=0.1)
    A, B = plain(letters, "A", "B")
    x, W, b = plain(letters, "x", "W", "b")
    before = A.copy()
    for number in (1, 2):
        A, B = lora_gradients.step(x, target.numpy(), W, b, A.copy(), B.copy(), alpha / r, 0.1)
        optimizer.zero_grad()
        (0.5 * (y_of(letters, alpha / r) - target).pow(2).sum() / n).backward()
        optimizer.step()
        np.testing.assert_allclose(A, plain(letters, "A")[0])
        np.testing.assert_allclose(B, plain(letters, "B")[0])
        assert (number == 1) == np.array_equal(A, before)
        assert B.any()


def test_the_large_models_have_the_known_numbers():
    assert predict_parameters.GPT3_LORA == 37_748_736  # "37.7M" in table 4 of the paper
    assert 96 * 2 * measuring.factors(1, 12288, 12288) == 4_718_592
    assert predict_parameters.T5_PROMPT == 20_480
    assert predict_parameters.BERT_BITFIT * 12 + 2 * 768 == 102_912  # with the norm of the embeddings, and the pooler
    bert = {"vocab": 1, "dim": 12, "layers": 12, "heads": 1, "ff": 48, "context": 1, "pre_norm": False}
    assert measuring.measured("LoRA(rank=8)", **bert) * 64 == 294_912
    assert measuring.measured("IA3()", **bert) * 64 == 55_296


def test_measuring_leaves_no_trace_on_the_model_that_is_shared():
    shape = predict_parameters.SHAPE
    first = [measuring.measured(method, **shape) for method in ("Houlsby(size=8)", "LoRA()", "Full()")]
    measuring.counted.cache_clear()
    assert [measuring.measured(method, **shape) for method in ("Full()", "LoRA()", "Houlsby(size=8)")] == first[::-1]
    model = measuring.transformer(tuple(shape.items()))
    assert not attachments(model)
    assert trainable(model).keys() == dict(model.named_parameters()).keys()


def test_measuring_draws_no_random_numbers():
    before = torch.get_rng_state()
    measuring.counted.cache_clear()
    measuring.measured("LoRA()", **predict_parameters.SHAPE)
    measuring.factors(2, 3, 4)
    measuring.kept(False, 2, 10, 6, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_memory_is_that_of_the_shipped_base_and_of_a_real_step():
    model = base()
    assert sum(p.numel() for p in model.parameters()) == predict_memory.BASE
    adapted = LoRA(rank=4).attach(model)
    assert sum(p.numel() for p in trainable(adapted).values()) == predict_memory.LEARNED
    real = measure(adapted, task("reverse+blue").batch(2, torch.Generator().manual_seed(0)))
    assert real.weights == predict_memory.LORA_WEIGHTS
    assert real.gradients == predict_memory.LORA_GRADIENTS
    assert real.optimizer == predict_memory.LORA_OPTIMIZER
    assert delta_bytes(adapted) == predict_memory.DELTA
    assert sum(4 * p.numel() for p in merge(adapted).parameters()) == predict_memory.MERGED


def test_bits_are_what_a_large_layer_stores():
    layer = nn.Linear(512, 512)
    assert measured_bits(QuantizedLinear(layer, double_quant=False)) == predict_memory.NF4_BITS
    assert measured_bits(QuantizedLinear(layer)) == pytest.approx(predict_memory.DOUBLE_BITS, abs=2e-4)  # and the mean


def test_kept_activations():
    assert measuring.kept(True, None, 10, 6, 4) == 4 * 10 * 6
    assert measuring.kept(False, None, 10, 6, 4) == 0
    assert measuring.kept(False, 2, 10, 6, 4) == 4 * 10 * (6 + 2)


@pytest.fixture
def double():
    """As while observing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("variant", [None, "other letters", "other layers", "other places"])
def test_each_piece_has_one_true_statement_and_it_is_the_answer(variant, double):
    x = get_exercise("find_the_mistake")
    text = x.with_edits(next((v.diffs[0] for v in x.variants if v.id == variant), ()))
    impl = source.load(source.ast.parse(text), "sheet", text)
    for name in [name for names in pieces.GROUPS.values() for name in names]:
        there = pieces.statements(getattr(impl, name))
        assert len(there) in (4, 5, 6)
        assert [letter for letter, said in there.items() if pieces.holds(said, name, impl)] == [
            getattr(impl, name.upper())
        ]


def test_every_trial_is_of_a_statement_that_is_there():
    there = [getattr(find_the_mistake, name) for names in pieces.GROUPS.values() for name in names]
    said = {statement for piece in there for statement in pieces.statements(piece).values()}
    assert set(pieces.TRIALS) <= said


def test_a_wrong_letter_does_not_tell_the_right_one():
    x = get_exercise("find_the_mistake")
    text = source.emptied(x.plain(), x.stubs).replace("FIRST = ...", 'FIRST = "c"')
    said = report_on(x.name, text).text()
    assert "FIRST has another answer" in said
    assert "does not hold" in said
    assert "can never learn" not in said
    text = text.replace('FIRST = "c"', "FIRST = 3")
    assert "one of the letters a, b, c, d, e is expected" in report_on(x.name, text).text()


def judged(body):
    x = get_exercise("write_a_test")
    text = f"import torch\nfrom torch import nn\n\n\ndef test(impl):\n{body}"
    return solutions.judged(x.name, text)


def test_a_test_that_rejects_everything_catches_nothing():
    said = judged("    assert False\n").text()
    assert "(0 of 6 points)" in said
    assert "rejects the project's own layer" in said


def test_every_mistake_in_the_linear_layer_is_used():
    x, lora = get_exercise("write_a_test"), get_exercise("lora")
    names = {o.name for o in x.observations}
    elsewhere = ("LoRAEmbedding", "LoRA.")
    for mistake in lora.mistakes:
        changed = reading.functions(source.ast.parse(lora.with_edits(mistake.diffs[0])))
        same = reading.functions(source.ast.parse(lora.plain()))
        moved = {k for k in same if source.ast.dump(changed[k][1]) != source.ast.dump(same[k][1]) and "." in k}
        layers = any(k.startswith("LoRALinear.") for k in moved) and mistake.id not in write_a_test.BEYOND
        assert (f"catches {mistake.id}" in names) == layers
        assert all(k.startswith(("LoRALinear.", *elsewhere)) for k in moved)


def test_the_projects_own_test_tells_right_from_wrong():
    assert not write_a_test.BEYOND - {mistake.id for mistake in get_exercise("lora").mistakes}
    for name, value in expected(get_exercise("write_a_test")).items():
        assert value == ("caught" if name.startswith("catches") else "passed"), name


def test_a_test_that_stops_with_an_error_is_told_from_a_layer_that_does():
    found = judged(
        "    layer = impl.LoRALinear(nn.Linear(4, 2), 2, 1.0)\n    assert layer(torch.ones(4)).shap == (2,)\n"
    )
    assert "AttributeError" in found.text()
    assert "in line 7" in found.text()
    assert not found.right  # an error of the test's own is no catch
    layer_stops = judged("    impl.LoRALinear(nn.Linear(4, 2), 2, 1.0)(torch.ones(3, 2, 4))\n")
    assert "catches columns instead of rows" in layer_stops.right
    assert "catches no scale" not in layer_stops.right


def test_a_test_that_rejects_what_is_right_is_told_where():
    found = judged("    layer = impl.LoRALinear(nn.Linear(4, 2), 2, 1.0)\n    assert layer.A.sum() == 0\n")
    assert "rejects the project's own layer" in found.text()
    assert "`assert layer.A.sum() == 0`" in found.text()
