"""The command line as a person uses it, on the shipped base, with few steps."""

import contextlib
import csv
import dataclasses
import errno
import inspect
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from typer.testing import CliRunner

import minipeft
from minipeft import cli, deltas
from minipeft.bases import FOLDER, base
from minipeft.lab import comparison
from minipeft.tasks import Mixture, examples, task
from minipeft.training import RECIPE, evaluate

COMMANDS = ("compare", "train", "eval", "generate", "inspect", "tune")


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
    with pytest.raises(FileNotFoundError, match="there are: characters, "):
        base("gpt-7")
    (tmp_path / "letters-d64.json").write_bytes((FOLDER / "letters-d64.json").read_bytes())
    weights = bytearray((FOLDER / "letters-d64.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "letters-d64.safetensors").write_bytes(weights)
    monkeypatch.setattr("minipeft.bases.FOLDER", tmp_path)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        base()


def only(methods, monkeypatch):
    """Let `compare` know no other methods on the letters."""
    letters = cli.lab.WORLDS["letters-d64"]
    monkeypatch.setitem(cli.lab.WORLDS, "letters-d64", dataclasses.replace(letters, methods=tuple(methods)))


def test_compare_prints_the_table_and_writes_table_and_picture(folder, monkeypatch):
    some = (cli.lab.TUNED_METHODS[0], *cli.lab.TUNED_METHODS[3:5])
    only(some, monkeypatch)
    output = run("compare", "reverse+red", "sort+violet", "--steps", "2", "--seeds", "2", "--workers", "1")
    with open(folder / "results" / "compare.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == 2 * [str(c.method) for c in some]
    assert [row["task"] for row in rows] == len(rows) // 2 * ["reverse+red"] + len(rows) // 2 * ["sort+violet"]
    assert all(row["method"] in output for row in rows)
    by = {row["method"]: row for row in rows}
    assert by["LoRA(rank=4)"]["parameters"] == "2048"
    assert float(by["LoRA(rank=4)"]["percent"]) == pytest.approx(100 * 2048 / 109_372)
    assert float(by["Full"]["percent"]) == 100
    assert all(row["restored_min"] == "True" for row in rows)
    assert int(by["LoRA(rank=8, alpha=16)"]["bytes"]) < 4 * 4096 + 2000
    assert (folder / "results" / "compare.png").stat().st_size > 10_000
    assert "known, given without" in output
    assert "new table, given without" in output
    told = " ".join(output.split())
    assert f"the base alone has {100 * evaluate(base(), Mixture()).accuracy:.1f} %" in told
    assert told.count("Detaching gave the base back, bit for bit, in every run.") == 2
    assert "reverse+red after 2 steps, mean and range over 2 seeds" in output


def test_compare_shows_each_method_as_soon_as_its_runs_are_finished_in_aligned_columns(folder, monkeypatch):
    events, compare_, some = [], cli.lab.compare, cli.lab.TUNED_METHODS[3:6]
    only(some, monkeypatch)
    monkeypatch.setattr(cli.tqdm, "write", events.append)

    def noted(*words, **settings):
        events.append("compared begins")
        rows = compare_(*words, **settings)
        events.append("compare ends")
        return rows

    monkeypatch.setattr(cli.lab, "compare", noted)
    run("compare", "--steps", "2", "--workers", "1")
    begun, ended = events.index("compared begins"), events.index("compare ends")
    heads, lines = events[:begun], events[begun + 1 : ended]
    assert [line.split("  ")[0] for line in lines] == [str(c.method) for c in some]
    words, right = examples(task("reverse+blue"))
    places = [heads[1].index(word.strip(": =")) for word in words]
    assert [heads[2][place:].split()[0] for place in places] == list(right)
    assert all(line[place - 1] == " " != line[place] for line in lines for place in places)
    edge = heads[1].index("trained") + len("trained")
    assert all(line[edge - 1].isdigit() and line[edge] == " " for line in lines)


def test_compare_follows_the_recipe_with_one_seed(folder, monkeypatch):
    asked = []

    def noted(goal, tuned_methods, seeds, recipe, few, pool, on_row, base):
        asked.append((seeds, recipe, few, pool.workers))
        raise OSError("enough")

    monkeypatch.setattr(cli.lab, "compare", noted)
    for words in (["--workers", "3"], ["--steps", "7", "--workers", "3"]):
        with pytest.raises(OSError, match="enough"):
            run("compare", *words)
    assert asked == [(1, RECIPE, None, 3), (1, dataclasses.replace(RECIPE, steps=7), None, 3)]


def test_compare_keeps_the_row_of_a_method_that_diverges_and_tells_of_a_base_that_was_changed(folder, monkeypatch):
    some = (comparison.TunedMethod(cli.lab.TUNED_METHODS[3].method, 1e30), cli.lab.TUNED_METHODS[4])
    only(some, monkeypatch)
    output = run("compare", "--steps", "2", "--workers", "1")
    assert "(training diverged)" in output
    cells = row_of(output.partition("after 2 steps, one seed")[2], "LoRA(rank=4)").split()
    assert cells == ["2,048", "–", "0.0", "0.0", "–"]
    found = cli.lab.compare(task("reverse+blue"), some[1:], recipe=dataclasses.replace(RECIPE, steps=1))
    found[0]["restored"] = [False]
    monkeypatch.setattr(cli.lab, "compare", lambda *_, **__: found)
    assert "NOT restored by detaching: LoRA(rank=8, alpha=16)." in " ".join(run("compare").split())


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
    only(cli.lab.TUNED_METHODS[1:2], monkeypatch)
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
        (["train", "reverse+blue", "--method", "magic"], "there are: Full, LinearProbe, BitFit"),
        (["eval", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["inspect", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["generate", "CABBED"], "no 'C'"),
        (["generate", "[/red]"], "no '['"),
        (["inspect", "d[x].safetensors"], "there is no file d[x].safetensors"),
        (["train", "reverse+blue", "--out", "."], "is a folder"),
        (["train", "reverse+blue", "--out", "/dev/full"], "a device or a pipe"),
        (["compare", "--out", "/dev/null"], "/dev/null is not a folder"),
        (["tune", "--out", "/dev/full"], "a device or a pipe"),
        (["tune", "--method", "magic"], "there are: Full, LinearProbe, BitFit"),
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
    for module, name in ((cli, "fit"), (cli, "evaluate"), (cli.lab, "Lab"), (cli.lab, "tune"), (cli.lab, "compare")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the work began before the place was tried"))


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("train", "reverse+blue", "--out", "mine"), "mine"),
        (("compare", "--out", "mine"), "mine/compare.csv"),
        (("compare", "--out", "mine"), "mine/compare.png"),
        (("tune", "--out", "mine"), "mine"),
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


@pytest.mark.parametrize("command", ["train", "compare", "tune"])
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
    only(cli.lab.TUNED_METHODS[1:2], monkeypatch)
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


# -- tuning -----------------------------------------------------------------------------------------------------------


def valley(method, goal, lr, seed, recipe, sources=()):
    """Takes no time, and is best at a learning rate of 0.01, or for one task at 0.1."""
    QUICK.append((lr, seed))
    if lr in STOP:
        raise KeyboardInterrupt
    return {"validation": math.exp(math.log(lr / (0.1 if goal == task("sort+red") else 0.01)) ** 2 / 4)}


QUICK, STOP = [], []


@pytest.fixture
def quick(monkeypatch):
    """Tuning whose runs take no time."""
    monkeypatch.setattr(cli.lab, "trial", valley)
    monkeypatch.setattr(cli.lab, "TUNED_METHODS", cli.lab.TUNED_METHODS[:2])
    monkeypatch.setattr(cli.console, "width", 200)
    yield ("tune", "--workers", "1", "--steps", "3", "--out", "s.jsonl")
    del QUICK[:], STOP[:]


def row_of(output, method):
    (line,) = [line for line in output.splitlines() if line.strip().startswith(f"{method} ")]
    return line.split(method, 1)[1]


def test_tune_shows_for_each_method_what_was_chosen_and_what_was_tried(folder, quick):
    output = run(*quick, "reverse+blue")
    assert "reverse+blue: learning rates for 3 steps" in output
    for method in map(str, (c.method for c in cli.lab.TUNED_METHODS)):
        chosen, *tried, interior, runs = row_of(output, method).split()
        assert (chosen, interior, runs) == ("0.01", "yes", "16")
        assert tried[::2] == ["0.003:", "0.01:", "0.03:"]
        assert float(tried[3]) < float(tried[1])
    assert row_of(run(*quick, "reverse+blue", "sort+red"), "Full").split()[0] == "0.03"
    output = run(*quick, "reverse+blue", "--method", "LoRA(rank=3)", "--method", "AdapterFusion(adapters=2)")
    assert "Full" not in output
    assert row_of(output, "LoRA(rank=3)").split()[0] == row_of(output, "AdapterFusion(adapters=2)").split()[0] == "0.01"


def test_a_learning_rate_at_the_edge_is_pointed_out(folder, quick, monkeypatch):
    monkeypatch.setattr("minipeft.lab.tuning.MOVES", 0)
    monkeypatch.setattr("minipeft.lab.tuning.COARSE", (-8, -6))
    assert " NO " in row_of(run(*quick, "reverse+blue"), "Full")


def test_tune_goes_on_with_the_runs_that_it_finds(folder, quick):
    first = run(*quick, "reverse+blue")
    stored, made = (folder / "s.jsonl").read_bytes(), len(QUICK)
    assert made == stored.count(b"\n") == 2 * 16
    assert run(*quick, "reverse+blue") == first
    assert len(QUICK) == made
    assert (folder / "s.jsonl").read_bytes() == stored
    run(*quick[:3], "--steps", "5", *quick[5:], "reverse+blue")
    assert len(QUICK) == 2 * made, "another number of steps is another run"
    (folder / "s.jsonl").write_bytes(stored[:-30])  # as if the machine had gone down
    run(*quick, "reverse+blue")
    assert len(QUICK) == 2 * made + 1


def test_an_interrupted_tuning_keeps_what_was_finished_and_says_how_to_go_on(folder, quick, monkeypatch, capsys):
    STOP.append(0.03)  # comes after the whole decades
    monkeypatch.setattr("sys.argv", ["minipeft", *quick, "reverse+blue"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    told = capsys.readouterr().err
    assert "Stopped. The runs made so far are in s.jsonl; the same command goes on from there." in told
    assert "Traceback" not in told
    before = (folder / "s.jsonl").read_text().splitlines()
    assert len(before) >= 2 * 5
    made = len(QUICK)
    STOP.clear()
    run(*quick, "reverse+blue")
    assert len(QUICK) == made + 2 * 16 - len(before)


def test_tuning_on_a_full_disk_is_told_in_a_line_and_harms_nothing(folder, quick, monkeypatch, capsys):
    run(*quick, "reverse+blue")
    before = (folder / "s.jsonl").read_bytes()
    monkeypatch.setattr("minipeft.lab.store.Store.write", disk_is_full)
    said = mistake(monkeypatch, capsys, *quick, "reverse+red")
    assert "No space left on device: a run was not added to s.jsonl; those that it holds are safe" in said
    assert (folder / "s.jsonl").read_bytes() == before


def test_with_force_the_file_of_another_gives_way_to_a_store_and_a_store_is_kept(folder, quick):
    (folder / "s.jsonl").write_text("a thesis")
    run(*quick, "reverse+blue", "--force")
    made = len(QUICK)
    run(*quick, "reverse+blue", "--force")
    assert len(QUICK) == made


def family(pid):
    """The processes that a terminal's Ctrl-C goes to: this one, and its workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            found += [int(path.name)] if int(group) == pid and state != "Z" else []
    return found


def until(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("command", ["compare", "tune"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_stops_at_once_without_a_traceback(folder, command):
    words = [sys.executable, "-m", "minipeft", command, "--steps", "100000", "--workers", "2"]
    env = os.environ | {"PYTHONPATH": str(Path(minipeft.__file__).parents[1])}
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # what runs beside a shell is deaf
    settings = {"env": env, "stdout": PIPE, "stderr": PIPE, "text": True, "start_new_session": True} | heard
    with subprocess.Popen(words, **settings) as process:
        try:
            until(lambda: len(family(process.pid)) == 4)  # with two workers, and who cleans up after all
            time.sleep({"compare": 0, "tune": 5}[command])  # workers that begin, and workers at work
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "leaked" not in said
    until(lambda: family(process.pid) == [])


# -- writing, again ---------------------------------------------------------------------------------------------------


def test_a_table_that_cannot_be_saved_is_printed(folder, monkeypatch, capsys):
    only(cli.lab.TUNED_METHODS[1:2], monkeypatch)
    monkeypatch.setattr(cli, "write_atomically", disk_is_full)
    monkeypatch.setattr("sys.argv", ["minipeft", "compare", "--steps", "1", "--seeds", "1", "--workers", "1"])
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr()
    assert "task,method,lr,parameters,percent,bytes,accuracy" in told.out
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
        ("tune", "[bold]reverse+blue[/bold]"),
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


def test_compare_knows_other_worlds(folder, monkeypatch):
    digits = cli.lab.WORLDS["characters"]
    monkeypatch.setitem(cli.lab.WORLDS, "characters", dataclasses.replace(digits, methods=digits.methods[:2]))
    output = run("compare", "--base", "characters", "--steps", "2", "--examples", "1", "--workers", "1")
    told = " ".join(output.split())
    assert "Task handwritten digits on paper (train, all): new pictures." in told
    assert "The base characters solves" in told
    assert "with a fresh head there is none" in told
    assert "after 2 steps on 1 examples of each class" in told
    with open(folder / "results" / "compare.csv") as file:
        probe, full = csv.DictReader(file)
    assert probe["method"] == "LinearProbe(classes=10)"
    assert probe["parameters"] == "650"
    assert float(full["percent"]) == pytest.approx(95.67, abs=0.01), "all but the head that the fresh one replaces"
    assert (folder / "results" / "compare.png").stat().st_size > 5_000
    with pytest.raises(
        ValueError, match="there is no comparison on the base 'letters-d32'; there is one on: letters-d64"
    ):
        run("compare", "--base", "letters-d32")
    with pytest.raises(ValueError, match="there is no task 'reverse' in this world; there are: paper, digits"):
        run("compare", "reverse", "--base", "characters")
