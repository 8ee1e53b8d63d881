"""The command line as a person uses it, on the shipped base, with few steps."""

import csv
import inspect

import pytest
from typer.testing import CliRunner

from minipeft import cli, comparison
from minipeft.bases import FOLDER, base
from minipeft.tasks import Mixture
from minipeft.training import evaluate

COMMANDS = ("compare", "train", "eval", "generate", "inspect", "sweep")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_another_base_or_a_changed_file_is_told(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there are: letters-d32, "):
        base("gpt-7")
    (tmp_path / "letters-d64.json").write_bytes((FOLDER / "letters-d64.json").read_bytes())
    weights = bytearray((FOLDER / "letters-d64.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "letters-d64.safetensors").write_bytes(weights)
    monkeypatch.setattr("minipeft.bases.FOLDER", tmp_path)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        base()


def test_compare_prints_the_table_and_writes_table_and_picture(folder, monkeypatch):
    some = (comparison.TUNED_METHODS[0], *comparison.TUNED_METHODS[3:5])
    monkeypatch.setattr(comparison, "TUNED_METHODS", some)
    output = run("compare", "reverse+red", "sort+violet", "--steps", "2", "--seeds", "2", "--workers", "1")
    with open(folder / "results" / "compare.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == 2 * [str(c.method) for c in comparison.TUNED_METHODS]
    assert [row["task"] for row in rows] == len(rows) // 2 * ["reverse+red"] + len(rows) // 2 * ["sort+violet"]
    assert all(row["method"] in output for row in rows)
    by = {row["method"]: row for row in rows}
    assert by["LoRA(rank=4)"]["parameters"] == "2048"
    assert float(by["LoRA(rank=4)"]["percent"]) == pytest.approx(100 * 2048 / 109_372)
    assert float(by["Full"]["percent"]) == 100
    known = evaluate(base(), Mixture()).accuracy
    assert all(float(row["retention_detached_min"]) == float(row["retention_detached_max"]) == known for row in rows)
    assert int(by["LoRA(rank=8)"]["bytes"]) < 4 * 4096 + 2000
    assert (folder / "results" / "compare.png").stat().st_size > 10_000
    assert "known, given without" in output
    assert "new table, given without" in output
    assert output.count("now answers") == len(rows)


def test_train_then_eval_generate_and_inspect(folder):
    output = run(
        "train",
        "reverse+blue",
        "--out",
        "d.safetensors",
        "--steps",
        "12",
        "--lr",
        "0.1",
        "--method",
        "LoRA(rank=2)",
        "--device",
        "cpu",
    )
    assert "trainable: 1,024 of 109,372 (0.94 %)" in output
    base_alone = [line.split() for line in run("eval", "d.safetensors").splitlines() if "pretraining mixture" in line]
    assert float(base_alone[0][-1]) > 99  # detached
    assert float(base_alone[0][-2]) < 50  # attached
    assert "sort+red" in run("eval", "d.safetensors", "--task", "sort+red")
    output = run("generate", "cabbed", "--delta", "d.safetensors")
    assert "base      : cabbed =" in output
    assert "adapted   : cabbed =" in output
    assert "d.safetensors: LoRA(rank=2)" in output
    base_line, adapted_line = output.splitlines()[:2]
    assert base_line.split()[-1] == "cabbed"  # without an instruction, the base copies
    assert adapted_line.split()[4] != "cabbed"
    output = run("inspect", "d.safetensors", "--picture", "d.png")
    for word in ("LoRA(rank=2", "reverse+blue", "blocks.0.attn.q.A", "2 × 64", "‖ΔW‖"):
        assert word in output
    assert (folder / "d.png").stat().st_size > 10_000


def test_deltas_answer_in_one_batch(folder):
    for name, method in (("p", "PromptTuning(length=2)"), ("q", "PrefixTuning(length=2)")):
        words = ("--steps", "2", "--method", method, "--out", f"{name}.safetensors", "--device", "cpu")
        output = run("train", "reverse+blue", *words, "--examples", "5")
    assert "accuracy on the 5 training examples: " in output
    assert "examples 5" in run("inspect", "q.safetensors")
    output = run("inspect", "p.safetensors")
    assert "Nearest words" in output
    assert "changes no matrix" in output


@pytest.mark.parametrize(
    "method", ["BitFit()", "Houlsby(size=2)", "Pfeiffer(size=2)", "PrefixTuning(length=2)", "IA3()"]
)
def test_every_kind_of_delta_can_be_inspected_and_drawn(folder, method):
    run("train", "reverse+blue", "--steps", "2", "--method", method, "--out", "d.safetensors", "--device", "cpu")
    assert method.partition("(")[0] in run("inspect", "d.safetensors", "--picture", "d.png")
    assert (folder / "d.png").stat().st_size > 5_000


def test_deltas_answer_in_the_order_they_were_given(folder):
    for name, method in (("p", "PromptTuning(length=2)"), ("q", "PrefixTuning(length=2)")):
        words = ("--steps", "2", "--method", method, "--out", f"{name}.safetensors", "--device", "cpu")
        run("train", "reverse+blue", *words)
    output = run("generate", "cabbed", "--delta", "q.safetensors", "--delta", "p.safetensors")
    assert [line.split()[0] for line in output.splitlines()] == ["base", "adapted", "adapted"]
    assert "q.safetensors: PrefixTuning(length=2)" in output.splitlines()[1]
    alone = run("generate", "cabbed", "--delta", "p.safetensors")
    assert output.splitlines()[2] == alone.splitlines()[1]


def test_a_fusion_is_trained_from_saved_adapters(folder):
    for name in ("reverse+plain", "copy+blue"):
        run("train", name, "--method", "Pfeiffer(size=4)", "--steps", "2", "--out", name, "--device", "cpu")
    words = (
        "train",
        "reverse+blue",
        "--method",
        "AdapterFusion(adapters=2, size=4)",
        "--steps",
        "2",
        "--device",
        "cpu",
    )
    run(*words, "--fuse", "reverse+plain", "--fuse", "copy+blue", "--out", "fusion")
    assert "AdapterFusion(adapters=2, size=4" in run("inspect", "fusion")
    with pytest.raises(ValueError, match="has places for 2 adapters, got 0"):
        run(*words)
    with pytest.raises(ValueError, match="--fuse is for AdapterFusion"):
        run("train", "reverse+blue", "--fuse", "copy+blue")


def test_compare_with_few_examples_shows_the_training_accuracy(folder, monkeypatch):
    monkeypatch.setattr(comparison, "TUNED_METHODS", comparison.TUNED_METHODS[1:2])
    output = run("compare", "--examples", "4", "--steps", "2", "--seeds", "1", "--workers", "1")
    assert "training accuracy" in output
    assert "after 2 steps on 4 examples" in " ".join(output.split())


def test_generate_follows_instructions():
    assert "base      reverse next : cabbed = efccbd" in run("generate", "reverse next : cabbed")
    assert "base      reverse next : cabbed = efccbd" in run("generate", "reverse next: cabbed =")
    assert "expect nonsense" in run("generate", "copy plain : cab")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_for_and_explains_every_option(command):
    output = run(command, "--help")
    function = {c.callback.__name__.rstrip("_"): c.callback for c in cli.app.registered_commands}
    function = function.get(command, function.get("evaluate"))
    assert " ".join(function.__doc__.split())[:60] in " ".join(output.split())
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        assert parameter.annotation.__metadata__[0].help, parameter.name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "reverse+purple"], "no task reverse+purple"),
        (["train", "reverse"], "no task reverse:"),
        (["generate", "reverse next cabbed"], "a colon parts"),
        (["train", "reverse+blue", "--method", "LoRA(rank=0)"], "rank must be"),
        (["train", "reverse+blue", "--method", "magic"], "there are: Full, BitFit"),
        (["eval", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["inspect", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["generate", "CABBED"], "no 'C'"),
        (["generate", "[/red]"], "no '['"),
        (["inspect", "d[x].safetensors"], "there is no file d[x].safetensors"),
        (["train", "reverse+blue", "--out", "."], "is a folder"),
        (["train", "reverse+blue", "--steps", "3", "--lr", "1e30"], "try a lower learning rate"),
        (["train", "reverse+blue", "--device", "nonsense"], "nonsense"),
        (["train", "reverse+blue", "--method", "LoRA(8)"], "names of its settings"),
    ],
)
def test_mistakes_are_told_in_a_line(words, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["minipeft", *words])
    monkeypatch.setattr(cli.complaints, "width", 300)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert says in told.err
    assert "Error" not in told.out
    assert "Traceback" not in told.out + told.err
