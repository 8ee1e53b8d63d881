"""The command line as a person uses it, on the shipped base, with few steps."""

import csv
import errno
import inspect
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minipeft import cli, comparison, deltas
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


def mistake(monkeypatch, capsys, *words):
    """What is said of a mistake: one line, and nothing is done."""
    monkeypatch.setattr("sys.argv", ["minipeft", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "Error" not in told.out
    assert "Traceback" not in told.out + told.err
    said = told.err.split("\r")[-1]  # what a progress bar wrote is gone
    assert said.endswith("\n")
    assert said.count("\n") == 1
    return said


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
        (["train", "reverse+blue", "--out", "/dev/full"], "a device or a pipe"),
        (["compare", "--out", "/dev/null"], "/dev/null is not a folder"),
        (["sweep", "--out", "/dev/full"], "a device or a pipe"),
        (["train", "reverse+blue", "--steps", "3", "--lr", "1e30"], "try a lower learning rate"),
        (["train", "reverse+blue", "--device", "nonsense"], "nonsense"),
        (["train", "reverse+blue", "--method", "LoRA(8)"], "names of its settings"),
    ],
)
def test_mistakes_are_told_in_a_line(words, says, monkeypatch, capsys):
    assert says in mistake(monkeypatch, capsys, *words)


# -- writing ----------------------------------------------------------------------------------------------------------

SHORT = ("--steps", "2", "--device", "cpu")
ODD = "[bold]d[/bold] :cat: [/red].safetensors"


@pytest.fixture
def working(monkeypatch):
    """Work is not to begin."""
    for module, name in ((cli, "fit"), (comparison, "fit"), (cli.comparison, "sweep"), (cli.comparison, "compare")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the work began before the place was tried"))


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("train", "reverse+blue", "--out", "mine"), "mine"),
        (("compare", "--out", "mine"), "mine/compare.csv"),
        (("compare", "--out", "mine"), "mine/compare.png"),
        (("sweep", "--out", "mine"), "mine"),
    ],
)
def test_the_files_of_others_are_not_overwritten(folder, working, monkeypatch, capsys, words, path):
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(b"task,a thesis")
    before = everything(folder)
    said = mistake(monkeypatch, capsys, *words)
    assert f"{path} exists and is no" in said
    assert "--force" in said
    assert everything(folder) == before


@pytest.mark.parametrize("command", ["train", "compare", "sweep"])
def test_a_place_is_tried_before_the_work(folder, working, monkeypatch, capsys, command):
    (folder / "file").write_bytes(b"")
    os.symlink("nowhere", "link")
    goal = ["reverse+blue"] if command == "train" else []
    assert "file is not a folder" in mistake(monkeypatch, capsys, command, *goal, "--out", "file/below/x")
    assert "link" in mistake(monkeypatch, capsys, command, *goal, "--out", "link", "--force")
    monkeypatch.setattr(os, "fsync", disk_is_full)
    assert "No space left on device" in mistake(monkeypatch, capsys, command, *goal, "--out", "new/x")
    assert everything(folder) == {"file": b"", "link": False}


def disk_is_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_own_files_are_overwritten_and_those_of_others_with_force(folder, monkeypatch):
    monkeypatch.setattr(comparison, "TUNED_METHODS", comparison.TUNED_METHODS[1:2])
    (folder / "d").write_bytes(b"a thesis")
    train = ("train", "reverse+blue", *SHORT, "--out", "d")
    compare = ("compare", "--steps", "1", "--seeds", "1", "--workers", "1")
    run(*train, "--force")
    for words in (train, compare, compare):
        run(*words)
    assert deltas.read("d").notes["task"] == "reverse+blue"
    (folder / "d.png").write_bytes(b"a photograph")
    run("inspect", "d", "--picture", "d.png", "--force")
    run("inspect", "d", "--picture", "d.png")
    assert (folder / "d.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_never_drawn_over_what_is_read(folder, monkeypatch, capsys):
    run("train", "reverse+blue", *SHORT, "--out", "d.png")
    before = (folder / "d.png").read_bytes()
    for more in ((), ("--force",)):
        assert "is the file that is read" in mistake(
            monkeypatch, capsys, "inspect", "d.png", "--picture", "d.png", *more
        )
    assert (folder / "d.png").read_bytes() == before
    assert "written as PNG" in mistake(monkeypatch, capsys, "inspect", "d.png", "--picture", "d.pdf")


def test_a_fusion_does_not_overwrite_its_adapters(folder, monkeypatch, capsys):
    run("train", "reverse+plain", "--method", "Pfeiffer(size=4)", *SHORT, "--out", "a")
    words = (
        "train",
        "reverse+blue",
        "--method",
        "AdapterFusion(adapters=2, size=4)",
        *SHORT,
        "--fuse",
        "a",
        "--fuse",
        "a",
    )
    assert "is the file that is read" in mistake(monkeypatch, capsys, *words, "--out", "a", "--force")


def test_a_trained_delta_that_cannot_be_saved_is_saved_elsewhere(folder, monkeypatch, capsys):
    save, temporary = deltas.save, folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(
        deltas, "save", lambda model, path, *more: disk_is_full() if path.name == "d" else save(model, path, *more)
    )
    run("train", "reverse+blue", *SHORT, "--out", "e")
    said = mistake(monkeypatch, capsys, "train", "reverse+blue", *SHORT, "--out", "d")
    assert "No space left on device" in said
    spare = said.split("saved as ")[1].strip()
    assert deltas.read(spare).tensors.keys() == deltas.read("e").tensors.keys()


def run_of(tuned, goal, steps, seed, examples):
    return {"task": str(goal), "seed": seed, "accuracy": tuned.lr, "loss": 1 - tuned.lr}


@pytest.fixture
def quick_sweep(monkeypatch):
    """A sweep whose runs take no time."""
    monkeypatch.setattr(comparison, "try_learning_rate", run_of)
    monkeypatch.setattr(
        comparison.sweep, "__defaults__", (comparison.TUNED_METHODS[:2], *comparison.sweep.__defaults__[1:])
    )
    return ("sweep", "--workers", "1", "--steps", "3", "--out", "s.json")


def test_a_sweep_goes_on_with_what_it_found(folder, quick_sweep, monkeypatch, capsys):
    run(*quick_sweep, "reverse+blue")
    first = json.loads((folder / "s.json").read_text())
    assert first["steps"] == 3
    assert all(len(by_lr) == 7 for by_lr in first["results"].values())
    monkeypatch.setattr(comparison, "try_learning_rate", lambda *_: pytest.fail("made again"))
    assert "Saved to s.json" in run(*quick_sweep, "reverse+blue")
    assert json.loads((folder / "s.json").read_text()) == first
    said = mistake(monkeypatch, capsys, *quick_sweep[:4], "5", *quick_sweep[5:])
    assert "s.json holds runs of 3 steps, not 5: choose another file" in said


def test_a_disk_that_is_full_for_a_while_costs_a_sweep_nothing(folder, quick_sweep, monkeypatch):
    fsync, calls = os.fsync, []

    def sometimes(fd):
        calls.append(fd)
        if 5 < len(calls) < 10:
            disk_is_full()
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sometimes)
    output = run(*quick_sweep, "reverse+blue")
    assert output.count("Not saved") == 1
    assert "tries again" in output
    found = json.loads((folder / "s.json").read_text())["results"]
    assert sum(len(runs) for by_lr in found.values() for runs in by_lr.values()) == 2 * 7
    assert os.listdir(folder) == ["s.json"]


def test_a_sweep_on_a_full_disk_ends_with_its_results_elsewhere(folder, quick_sweep, monkeypatch, capsys):
    run(*quick_sweep, "reverse+blue")
    before, temporary, write = (folder / "s.json").read_bytes(), folder / "tmp", cli.write_atomically
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(
        cli, "write_atomically", lambda path, data: disk_is_full() if path.name == "s.json" else write(path, data)
    )
    said = mistake(monkeypatch, capsys, *quick_sweep, "reverse+red")
    assert (folder / "s.json").read_bytes() == before
    spare = json.loads(Path(said.split("saved as ")[1].strip()).read_text())
    assert spare["results"]["Full"]["0.01"] == [
        run_of(comparison.TUNED_METHODS[0], t, 3, 100, None) for t in ("reverse+blue", "reverse+red")
    ]


def test_a_sweep_that_can_be_saved_nowhere_is_printed(folder, quick_sweep, monkeypatch, capsys):
    monkeypatch.setattr(cli, "write_atomically", disk_is_full)
    monkeypatch.setattr("sys.argv", ["minipeft", *quick_sweep, "reverse+red"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "the results are printed above" in told.err
    (line,) = [line for line in told.out.splitlines() if line.startswith("{")]
    assert sum(len(runs) for by_lr in json.loads(line)["results"].values() for runs in by_lr.values()) == 2 * 7


def test_an_interrupted_sweep_on_a_full_disk_loses_nothing(folder, quick_sweep, monkeypatch, capsys):
    def interrupted(tuned, *job):
        if tuned.lr == 3e-2:
            raise KeyboardInterrupt
        return run_of(tuned, *job)

    monkeypatch.setattr(comparison, "try_learning_rate", interrupted)
    monkeypatch.setattr(cli, "write_atomically", disk_is_full)
    monkeypatch.setattr("sys.argv", ["minipeft", *quick_sweep, "reverse+red"])
    with pytest.raises(SystemExit):
        cli.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert json.loads(line)["results"]["Full"]["0.01"]


def test_a_table_that_cannot_be_saved_is_printed(folder, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "TUNED_METHODS", comparison.TUNED_METHODS[1:2])
    monkeypatch.setattr(cli, "write_atomically", disk_is_full)
    monkeypatch.setattr("sys.argv", ["minipeft", "compare", "--steps", "1", "--seeds", "1", "--workers", "1"])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr()
    assert "task,method,lr,parameters,accuracy" in told.out
    assert "the results are printed above" in told.err


# -- markup -----------------------------------------------------------------------------------------------------------


def test_markup_in_names_and_notes_is_shown_as_it_is(folder, monkeypatch, capsys):
    monkeypatch.setattr(cli.console, "width", 200)
    out = run("train", "reverse+blue", *SHORT, "--out", ODD, "--method", "LoRA(rank=1, targets=('q', 'o'))")
    assert f"bytes to {ODD}." in out
    notes = {
        "[bold]k[/bold]": "[red]v[/red] :dog:",
        "[/x]": "[link=http://a]b[/link]",
        "esc": "\x1b[31mred\nnext",
        "task": "reverse+blue",
    }
    model = deltas.load(ODD, base())
    deltas.save(model, ODD, notes)
    out = run("inspect", ODD, "--picture", "[bold].png")
    assert ODD in out
    assert "Picture: [bold].png" in out
    for words in (
        "[bold]k[/bold] [red]v[/red] :dog:",
        "[/x]     [link=http://a]b[/link]",
        r"esc      \x1b[31mred\nnext",
    ):
        assert words in out
    assert f"from {ODD}" in run("eval", ODD)
    assert f"{ODD}: LoRA(rank=1" in run("generate", "cabbed", "--delta", ODD)
    assert "\x1b[31m" not in out


@pytest.mark.parametrize(
    "words",
    [
        ("train", "[bold]reverse+blue[/bold]"),
        ("compare", "[bold]reverse+blue[/bold]"),
        ("sweep", "[bold]reverse+blue[/bold]"),
        ("eval", "[bold]reverse+blue[/bold]"),
        ("inspect", "[bold]reverse+blue[/bold]"),
        ("generate", "cabbed", "--delta", "[bold]reverse+blue[/bold]"),
        ("train", "reverse+blue", "--device", "[bold]reverse+blue[/bold]"),
        ("train", "reverse+blue", "--method", "[bold]reverse+blue[/bold]"),
        ("train", "reverse+blue", "--method", "LoRA(targets=('[bold]reverse+blue[/bold]',))"),
        ("inspect", "d", "--picture", "[bold]reverse+blue[/bold]"),
    ],
    ids=" ".join,
)
def test_markup_in_mistakes_is_shown_as_it_is(folder, monkeypatch, capsys, words):
    if words[:2] == ("inspect", "d"):
        run("train", "reverse+blue", *SHORT, "--out", "d")
    assert "[bold]reverse+blue[/bold]" in mistake(monkeypatch, capsys, *words)


def test_markup_in_what_the_command_line_itself_refuses(folder):
    result = CliRunner().invoke(cli.app, ["train", "reverse+blue", "[bold]x[/bold]"])
    assert result.exit_code == 2
    assert "[bold]x[/bold]" in result.output
