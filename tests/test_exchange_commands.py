"""python -m minipeft export and import, as a person uses them."""

import inspect
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from minipeft import cli, deltas
from minipeft.bases import base
from minipeft.deltas import load, read, save
from minipeft.exchange import from_transformers, to_transformers
from minipeft.methods import DoRA, LoRA, PromptTuning
from tests.exchange import built_like
from tests.models import close, rows, stirred
from tests.test_cli import mistake

TOKENS = rows(None)[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def llama():
    """A Llama whose weights lie in the folder "model", and a LoRA for it in "lora.safetensors": the view."""
    model = built_like("llama")
    to_transformers(model, "model")
    view = stirred(LoRA(), model)
    save(view, "lora.safetensors")
    return view


def run(*words):
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_delta_of_a_shipped_base_is_known_by_its_fingerprint_and_comes_back():
    view = stirred(LoRA(), base("letters-d32"))
    save(view, "a.safetensors")
    said = run("export", "a.safetensors", "--out", "peft")
    assert "Wrote" in said
    assert "PeftModel.from_pretrained(model, 'peft'), model: minipeft's own base" in said
    assert run("export", "a.safetensors", "--out", "peft") == said  # what minipeft wrote it may overwrite
    said = run("import", "peft", "--base", "letters-d32", "--out", "b.safetensors")
    assert "LoRA from peft" in said
    close(load("b.safetensors", base("letters-d32"))(TOKENS), view(TOKENS))


def test_a_delta_of_a_model_in_a_folder_goes_to_every_format(llama):
    said = run("export", "lora.safetensors", "--base", "model", "--out", "peft")
    assert "the same base in transformers" in said
    assert json.loads(Path("peft/adapter_config.json").read_text())["base_model_name_or_path"] == "model"
    assert "'merged'" in run("export", "lora.safetensors", "--base", "model", "--to", "transformers", "--out", "merged")
    close(from_transformers("merged")(TOKENS), llama(TOKENS))
    assert "--lora x.gguf" in run("export", "lora.safetensors", "--base", "model", "--to", "gguf", "--out", "x.gguf")
    for source in ("peft", "x.gguf"):
        said = run("import", source, "--base", "model", "--out", "again.safetensors")
        assert ("it says that its base is model" in said) == (source == "peft")
        close(load("again.safetensors", from_transformers("model"))(TOKENS), llama(TOKENS))


def test_any_change_of_weights_becomes_a_lora_of_the_rank_one_asks_for_and_the_error_is_told(llama):
    save(stirred(DoRA(rank=2, targets=("up",)), from_transformers("model")), "dora.safetensors")
    said = run("export", "dora.safetensors", "--base", "model", "--out", "peft", "--rank", "3")
    assert "The LoRA of rank 3 misses at most" in said
    assert "% of a ΔW, that of blocks." in said
    B = next(t for name, t in load_file("peft/adapter_model.safetensors").items() if "lora_B" in name)
    assert B.shape[1] == 3


def test_mistakes_are_told_in_a_line_and_nothing_is_written(llama, folder, monkeypatch, capsys):
    save(PromptTuning().attach(base()), "prompt.safetensors")
    (folder / "theirs").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "theirs" / name).write_text("{}")
    before = sorted(folder.rglob("*"))
    for words, says in (
        (("export", "lora.safetensors", "--out", "x"), "belongs to no shipped base"),
        (("export", "lora.safetensors", "--out", "x", "--base", "letters-d64"), "belongs to another base"),
        (("export", "lora.safetensors", "--out", "x", "--base", "nothing"), "there is no base 'nothing'"),
        (("export", "prompt.safetensors", "--out", "x"), "is not built like one"),
        (("export", "prompt.safetensors", "--out", "x", "--to", "transformers"), "cannot be merged"),
        (("export", "prompt.safetensors", "--out", "x", "--to", "gguf"), "takes one LoRA on a Llama"),
        (("export", "prompt.safetensors", "--out", "x", "--rank", "2"), "has no ΔW"),
        (("export", "lora.safetensors", "--out", "theirs", "--base", "model"), "no export that minipeft wrote"),
        (
            ("export", "lora.safetensors", "--out", "lora.safetensors", "--base", "model", "--to", "gguf"),
            "that is read",
        ),
        (("import", "model", "--base", "model", "--out", "y"), "there is no model/adapter_config.json"),
        (("import", "theirs", "--base", "model", "--out", "y"), "theirs"),
    ):
        assert says in mistake(monkeypatch, capsys, *words)
    assert sorted(folder.rglob("*")) == before


def test_another_delta_is_not_overwritten_by_an_export_but_by_force(llama, monkeypatch, capsys):
    save(llama, "other.safetensors")
    words = ("export", "lora.safetensors", "--base", "model", "--to", "gguf", "--out", "other.safetensors")
    assert "--force" in mistake(monkeypatch, capsys, *words)
    assert read("other.safetensors").method == LoRA()
    run(*words, "--force")
    with pytest.raises(deltas.DeltaError):
        read("other.safetensors")


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_tells_what_for_and_explains_every_option(command):
    output = run(command, "--help")
    functions = {c.callback.__name__.rstrip("_"): c.callback for c in cli.app.registered_commands}
    assert functions[command].__doc__[:40] in output
    for parameter in inspect.signature(functions[command], eval_str=True).parameters.values():
        assert parameter.annotation.__metadata__[0].help, parameter.name
