"""The engine of the playground computes what PyTorch computes, in a browser; and a broken engine is noticed."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch

from minipeft.bases import FOLDER, base
from minipeft.tasks import EOS, FIRST_LETTER, OPERATIONS, TABLES, encode, task
from play import build
from tests.play import cases

ENGINE = (Path(build.__file__).parent / "engine.mjs").read_text(encoding="utf-8")
HARNESS = (Path(__file__).parent / "harness.mjs").read_text(encoding="utf-8")
BASE = base64.b64encode((FOLDER / "letters-d64.safetensors").read_bytes()).decode()
READY = """async ([harness, engine, base, world]) => {
  window.H = await import(URL.createObjectURL(new Blob([harness], { type: "text/javascript" })));
  window.engine = await H.made(engine, base, world);
}"""
TOLERANCE = 1e-4
EDITS = {
    "softmax not scaled by √(d/H)": ("scale = 1 / Math.sqrt(h)", "scale = 1 / h"),
    "attention sees the next token": ("S - T + t + 1)", "Math.min(S, S - T + t + 2))"),
    "the norm's gradient forgets its mean": ("- sum - hat[o + j] * along", "- hat[o + j] * along"),
    "the norm divides by the variance": ("1 / Math.sqrt(variance + eps)", "1 / (variance + eps)"),
    "GELU's tanh approximation": (
        "slope[i] = phi + v * bell / Math.sqrt(2 * Math.PI);",
        "slope[i] = phi + v * bell / Math.sqrt(2 * Math.PI); "
        "y.data[i] = v / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));",
    ),
    "LoRA without its scale": ("tape.linear(tape.linear(x, A), B), scale)", "tape.linear(tape.linear(x, A), B))"),
    "the gradient of a weight is not transposed": ("y.grad.T, x)", "new Matrix(y.grad.data, y.cols, y.rows), x)"),
    "a prompt takes positions": ("+ t] = position;", "+ t] = position + S - T;"),
    "a prefix has the same keys in both layers": ("slice(layer * n, n)", "slice(0, n)"),
    "the loss is a sum": ("(j === targets[i])) / n", "(j === targets[i]))"),
    "values get no gradient": ("if (gv) {", "if (false) {"),
}  # fmt: skip


@pytest.fixture
def engine(open_page):
    """Imports an engine; then `call("repeated", case)` asks the harness."""
    page = open_page("about:blank")

    def ready(text=ENGINE):
        page.evaluate(READY, [HARNESS, text, BASE, build.world()])
        return lambda name, argument: page.evaluate(f"(argument) => H.{name}(engine, argument)", argument)

    return ready


@pytest.fixture(scope="module")
def expected():
    return {name: cases.case(method) for name, method in cases.METHODS.items()}


def worst(found, wanted, scale=1.0):
    """The greatest difference, as a multiple of `scale`."""
    return np.abs(np.asarray(found) - np.asarray(wanted)).max() / scale


def faults(found, wanted):
    """What of a case differs by more than the tolerance."""
    wrong = [name for name in ("logits", "loss") if not worst(found[name], wanted[name]) < TOLERANCE]
    gradients = {name: g["data"] for name, g in wanted["gradients"].items()}
    largest = max((np.abs(g).max() for g in gradients.values()), default=1.0)
    for name, gradient in gradients.items():  # those of k's biases are zero but for rounding
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        wrong += [] if worst(found["gradients"][name], gradient, scale) < TOLERANCE else [name]
    return wrong


@pytest.mark.parametrize("name", cases.METHODS)
def test_logits_loss_and_gradients_are_those_of_pytorch(engine, expected, name):
    assert faults(engine()("repeated", expected[name]), expected[name]) == []


def test_a_whole_training_ends_where_pytorch_ends(engine):
    wanted = cases.run()
    found = engine()("trained", wanted)
    assert worst(found["losses"], wanted["losses"]) < TOLERANCE
    assert worst(found["end"]["begin.P"], wanted["end"]["begin.P"]["data"]) < TOLERANCE
    assert wanted["losses"][-1] < wanted["losses"][0] / 2


@pytest.mark.parametrize("edit", EDITS)
def test_a_broken_engine_is_noticed(engine, expected, edit):
    before, after = EDITS[edit]
    assert before in ENGINE
    call = engine(ENGINE.replace(before, after))
    assert any(faults(call("repeated", case), case) for case in expected.values())


def test_tasks_answer_as_in_python(engine):
    call = engine()
    for operation in OPERATIONS:
        for table in TABLES:
            found = call("drawn", f"{operation}+{table}")
            tokens, targets = torch.tensor(found["tokens"]).view(10, 14), torch.tensor(found["targets"]).view(10, 7)
            right = task(f"{operation}+{table}").answer(tokens[:, 1:7] - FIRST_LETTER) + FIRST_LETTER
            assert torch.equal(tokens[:, 8:], right)
            assert torch.equal(targets[:, :6], right)
            assert (targets[:, 6] == EOS).all()


def test_the_base_answers_as_in_python(engine):
    rows = [encode(text) for text in ("reverse blue : cabbed =", ": ponmab =", "sort green please : abcdef =")]
    model = base()
    wanted = [model.generate(row[None], 7, stop=EOS)[0].tolist() for row in rows]
    found = engine()("answered", [row.tolist() for row in rows])
    assert found == [[token for token in row if token != EOS] for row in wanted]


def test_singular_values_are_those_of_torch(engine):
    draw = torch.Generator().manual_seed(0)
    for out, rank, size in ((6, 3, 4), (10, 4, 7), (64, 4, 64), (5, 1, 8)):
        B, A = torch.randn(out, rank, generator=draw), torch.randn(rank, size, generator=draw)
        found = engine()("decomposed", {"B": B.tolist(), "A": A.tolist()})
        wanted = torch.linalg.svdvals(B @ A)
        assert worst(found["product"], (B @ A).flatten()) < TOLERANCE
        assert worst(found["again"], (B @ A).flatten()) < TOLERANCE
        assert worst(found["small"], wanted[:rank]) < TOLERANCE
        assert worst(found["whole"][: len(wanted)], wanted) < TOLERANCE
