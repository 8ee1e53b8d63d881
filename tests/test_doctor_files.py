"""The doctor on files: folders as peft writes them, deltas of ours, and Python files, with the command."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from minipeft import LoRA, Pfeiffer, base, cli, save
from minipeft.doctor import doctor
from tests.test_doctor import Net, found, ours, stirred

PREFIX = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["one", "two"], "task_type": None}


def tensors():
    return {
        f"{PREFIX}{layer}.lora_{letter}.weight": torch.randn(shape)
        for layer, into in (("one", 12), ("two", 16))
        for letter, shape in (("A", (2, into)), ("B", (16, 2)))
    }


@pytest.fixture
def folder(tmp_path):
    """Writes an adapter as peft does. config, change: of settings and names; a setting that is ... is left out."""

    def write(stored=None, name=lambda n: n, **settings):
        path = tmp_path / "adapter"
        path.mkdir(exist_ok=True)
        config = {key: value for key, value in (CONFIG | settings).items() if value is not ...}
        (path / "adapter_config.json").write_text(json.dumps(config))
        stored = tensors() if stored is None else stored
        save_file({name(n): t.contiguous() for n, t in stored.items()}, path / "adapter_model.safetensors")
        return path

    return write


def test_a_healthy_folder_and_a_healthy_delta(folder, tmp_path):
    assert not doctor(folder())
    assert not doctor(folder() / "adapter_model.safetensors")
    assert not doctor(str(folder(target_modules=r".*(one|two)", rank_pattern={"two": 2}, use_rslora=True)))
    assert not doctor(folder(target_modules="all-linear"))
    save(stirred(ours()), tmp_path / "ours.safetensors")
    checkup = doctor(tmp_path / "ours.safetensors")
    assert not checkup
    assert "LoRA, 4 tensors with 120 numbers" in checkup.about
    save(Pfeiffer().attach(base()), tmp_path / "other.safetensors")
    assert not doctor(tmp_path / "other.safetensors")


def zeroed(stored, what=".lora_B"):
    return {name: t * 0 if what in name else t for name, t in stored.items()}


@pytest.mark.parametrize(
    ("change", "severity", "says"),
    [
        ({"name": lambda n: n.removeprefix(PREFIX)}, "error", "4 names lack the prefix base_model.model."),
        ({"name": lambda n: n.replace(PREFIX, PREFIX + "_orig_mod.")}, "error", "a wrapper put there: _orig_mod.one"),
        ({"name": lambda n: n.replace(PREFIX, PREFIX + "module.")}, "error", "a wrapper put there: module.one"),
        ({"name": lambda n: PREFIX + n}, "error", "4 names have the prefix base_model.model. twice"),
        ({"name": lambda n: n.replace(".weight", ".default.weight")}, "note", "the adapter's own name, default"),
        ({"stored": zeroed(tensors())}, "error", "The adapter has no effect: BA = 0 in all 2 layers"),
        ({"stored": zeroed(tensors(), "two.lora_B")}, "warning", "BA = 0 in 1 of 2 adapters"),
        ({"stored": zeroed(tensors(), "lora_")}, "error", "2 adapters are dead"),
        ({"stored": {n: t / 0 for n, t in tensors().items()}}, "error", "4 tensors hold NaN or infinity"),
        ({"stored": {n: t[:0] for n, t in tensors().items()}}, "error", "4 tensors are empty"),
        ({"stored": {n: t for n, t in tensors().items() if "two.lora_A" not in n}}, "error", "1 factor lacks"),
        ({"stored": {n: t.half() for n, t in tensors().items()}}, "note", "4 tensors are in float16"),
        ({"r": 8}, "error", "says r = 8, but 2 adapters have rank 2"),
        ({"rank_pattern": {"two": 3}}, "error", "says r = 3, but 1 adapter has rank 2"),
        ({"lora_alpha": ...}, "warning", "lacks lora_alpha"),
        ({"lora_alpha": None, "r": ...}, "warning", "lacks r, lora_alpha"),
        ({"peft_type": ...}, "error", "lacks peft_type"),
        ({"lora_alpha": 100}, "warning", "The scale is 50"),
        ({"alpha_pattern": {"one": 0}}, "error", "The scale is 0 in 1 adapter"),
        ({"target_modules": ["one", "two", "tree"]}, "warning", "target_modules: tree matches nothing"),
        ({"target_modules": ["one"]}, "error", "1 module in the file is not named in target_modules"),
        ({"alpha_pattern": {"^wo": 4, "tree": 2, "^two": 4}}, "warning", "alpha_pattern: ^wo, tree match nothing"),
        ({"modules_to_save": ["score"]}, "error", "The file holds no head"),
        ({"task_type": "SEQ_CLS"}, "error", "The file holds no head"),
    ],
)
def test_a_folder_that_will_not_load_as_it_should(folder, change, severity, says):
    assert len([f for f in doctor(folder(**change)) if f.severity == severity and says in f.what]) == 1, doctor(
        folder(**change)
    )


def test_alpha_one_with_a_large_rank_in_a_folder(folder):
    wide = {name: torch.randn(8, t.shape[1]) if "_A" in name else torch.randn(16, 8) for name, t in tensors().items()}
    found(doctor(folder(wide, r=8, lora_alpha=1)), "warning", "α is 1 with rank 8")
    wide = {name: torch.randn(20, t.shape[1]) if "_A" in name else torch.randn(16, 20) for name, t in tensors().items()}
    found(doctor(folder(wide, r=20, lora_alpha=20)), "warning", "The rank is larger than the weight in 2 adapters")


def test_a_head_that_was_saved_is_healthy(folder):
    head = {f"{PREFIX}score.weight": torch.randn(3, 16)}
    assert not doctor(folder(tensors() | head, task_type="SEQ_CLS", modules_to_save=["classifier", "score"]))


def test_prompts_have_no_prefix_and_are_healthy(folder):
    assert not doctor(folder({"prompt_embeddings": torch.randn(4, 12)}, peft_type="PROMPT_TUNING", target_modules=...))


def test_deltas_without_effect_or_damaged(tmp_path):
    path = tmp_path / "a.safetensors"
    save(ours(), path)
    found(doctor(path), "error", "The adapter has no effect: BA = 0 in all 2 layers")
    save(stirred(ours(LoRA(8, 1, ("one", "two")))), path)
    found(doctor(path), "warning", "α is 1 with rank 8")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found(doctor(path), "error", "SHA-256 differs")
    path.write_bytes(content[:-9])
    found(doctor(path), "error", "not a whole safetensors file")


def test_folders_that_are_not_whole(folder):
    path = folder()
    (path / "adapter_config.json").write_text("{")
    found(doctor(path), "error", "adapter_config.json is damaged")
    (path / "adapter_config.json").unlink()
    found(doctor(path), "error", "adapter_config.json is missing")
    path = folder()
    (path / "adapter_model.safetensors").unlink()
    found(doctor(path), "error", "adapter_model.safetensors is missing")
    torch.save(tensors(), path / "adapter_model.bin")
    assert not doctor(path)
    torch.save({"net": Net()}, path / "adapter_model.bin")
    found(doctor(path), "error", "adapter_model.bin holds more than tensors")


def test_paths_at_which_there_is_no_adapter(tmp_path):
    for path, says in [(tmp_path / "no", "does not exist"), (tmp_path, "holds no adapter"), (__file__ + "c", "exist")]:
        with pytest.raises(ValueError, match=says):
            doctor(path)
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="holds no adapter: it is a safetensors file"):
        doctor(tmp_path / "w.safetensors")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"cannot be examined\. What can be examined: a Python file"):
        doctor(tmp_path / "a.txt")


def test_pairs_of_other_tools_in_a_file(tmp_path):
    factors = {"unet.q.lora_down.weight": torch.randn(4, 8), "unet.q.lora_up.weight": torch.zeros(8, 4)}
    save_file(factors, tmp_path / "a.safetensors")
    found(doctor(tmp_path / "a.safetensors"), "error", "BA = 0 in its only layer")


# ---- the command ------------------------------------------------------------------------------------------------

SCRIPT = """
import torch
from torch import nn
import layers  # beside this file

torch.manual_seed(0)
model = layers.make()
{attach}
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
print()


def loss():
    x = torch.randn(8, 5)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


if __name__ == "__main__":
    raise SystemExit("this is not run")
"""
LAYERS = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)).requires_grad_(False)
"""
LORA = "from minipeft import LoRA\nmodel = LoRA(2, 4, ('0',)).attach(model)"


@pytest.fixture
def script(tmp_path):
    (tmp_path / "layers.py").write_text(LAYERS)

    def write(attach=LORA, after="", whole=None):
        path = tmp_path / "train.py"
        path.write_text(whole if whole is not None else SCRIPT.format(attach=attach) + after)
        return str(path)

    yield write
    sys.modules.pop("layers", None)


def run(path, code):
    result = CliRunner().invoke(cli.app, ["doctor", str(path)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_command_on_a_file_that_trains_well(script):
    before = sys.path[:], sys.argv[:]
    said = run(script(), 0)
    assert "Sequential: 22 of 65 parameters are trained (33.85 %), 1 low-rank pair" in said
    assert "ok Every trained tensor gets a gradient." in said
    assert "0 errors, 0 warnings, 0 notes; 25 checks passed" in said
    assert "not run" not in said
    assert (sys.path, sys.argv) == before


def test_the_command_on_a_file_whose_optimizer_came_first(script):
    late = "model.requires_grad_(False)\n" + LORA
    said = run(script(whole=SCRIPT.format(attach="model.requires_grad_()").replace("print()", late)), 1)
    assert "error The optimizer holds none of the 2 trained tensors." in said
    assert "cure: Make the optimizer after attaching" in said
    assert "it was made before the method was attached" in said


def test_the_command_on_a_file_with_a_model_alone_and_on_an_adapter(script, folder):
    said = run(script(whole="import torch\nmodel = torch.nn.Linear(2, 3)\ntargets = ('weigth',)"), 0)
    assert "skipped 4 checks: no optimizer was given" in said
    assert "skipped 6 checks: no loss was given" in said
    assert "warning targets: weigth matches nothing." in said
    assert "LORA, 4 tensors with 120 numbers" in run(folder(), 0)
    assert "error 4 names lack the prefix" in run(folder(name=lambda n: n.removeprefix(PREFIX)), 1)


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ("net = 1", "must define `model`.*it defines no model at all"),
        ("import torch\nnet = torch.nn.Linear(2, 2)", "it defines net: name that model"),
        ("a = 1\nb = a.c\n", "stopped in line 2 with AttributeError: 'int' object has no attribute 'c'"),
        ("a = 1\nb = (\n", "stopped in line 2 with SyntaxError"),
        ("import sys\nsys.exit(3)", "stopped in line 2 with SystemExit: 3"),
        ("import torch\nmodel = torch.nn.Linear(2, 2)\nloss = 3", "loss is a function of no arguments"),
    ],
)
def test_the_command_on_files_that_cannot_be_examined(whole, says, script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["minipeft", "doctor", script(whole=whole)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert re.search(says, capsys.readouterr().err)


def test_the_help_says_that_a_file_is_run():
    said = CliRunner().invoke(cli.app, ["doctor", "--help"]).output
    assert "IS RUN" in said
    assert "no arguments" in said or "without" in said
