"""One run on two processes (gloo, CPU): equal to one process with the same batches, and nobody waits for ever.

What the processes do is in tests/pair.py. All here is in double precision but the command: in single precision Adam
makes steps of full size out of rounding, where a gradient is zero in theory (the biases of the keys).
"""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.checks import check_whole
from minipeft.costs import predict
from minipeft.methods import METHODS, LoRA
from minipeft.tasks import task
from minipeft.training import fit

SPECIAL = (
    "fewer rows than processes", "nothing asked of process 0", "DDP around LoRA+", "DDP around AdaLoRA",
    "several tasks", "encoder and decoder",
)  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def told(scenario, path):
    run = subprocess.run([*TORCHRUN, "tests.pair", scenario, path], env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    return told("equal", tmp_path_factory.mktemp("equal") / "found.json")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return told("wrong", tmp_path_factory.mktemp("wrong") / "found.json")


@pytest.mark.parametrize("name", [*METHODS, *SPECIAL])
def test_two_processes_train_as_one_does_on_padded_rows_with_uneven_numbers_of_asked_tokens(equal, name):
    found = equal[name]
    assert found["gradients"] < 1e-12
    assert found["parameters"] < 1e-9
    assert found["loss"] < 1e-12
    assert found["accuracy"] < 1e-7  # a float of single precision
    assert found["alike"], "all processes end with the same numbers, bit for bit"


@pytest.mark.parametrize("name", METHODS)
def test_what_travels_is_the_gradients_and_a_number_for_each_tensor(equal, name):
    found = equal[name]
    assert found["alone"] == 0
    assert found["sent"] == found["predicted"] + 8 * (4 + found["tensors"])


def test_one_process_alone_may_evaluate(equal):
    assert equal["evaluate"] > 0


def test_running_statistics_are_the_mean_over_the_rows_of_all_processes(equal):
    assert equal["statistics"]["gap"] < 1e-12
    assert equal["statistics"]["alike"]


WRONG = {
    "other parameters": (r"ValueError: the processes do not start alike: blocks\.0\.attn\.q\.A is .*manual_seed",) * 2,
    "other settings": ("ValueError: .* steps is 4 in process 0 and 5 in process 1",) * 2,
    "other batches": ("ValueError: the processes draw different batches",) * 2,
    "rows that need each other": ("ValueError: the rows of this task are asked about each other.*train it in one",) * 2,
    "an error in one": (
        "RuntimeError: process 1 stopped, and so do all: KeyError: 'no such row'",
        "KeyError: 'no such",
    ),
    "not finite in one": ("FloatingPointError: the loss is nan at step 1",) * 2,
    "FSDP: fit": ("TypeError: fit needs whole tensors, and embed.token.weight is a DTensor",) * 2,
    "FSDP: save": ("TypeError: .* needs whole tensors, and blocks.0.attn.q.A is a DTensor",) * 2,
    "FSDP: delta_of": ("TypeError: .* needs whole tensors",) * 2,
    "FSDP: fingerprint": ("TypeError: .* needs whole tensors",) * 2,
    "FSDP: merge": ("TypeError: .* needs whole tensors",) * 2,
    "FSDP: attach": ("TypeError: .* needs whole tensors",) * 2,
    "all goes on": ("5 steps",) * 2,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_stops_all_processes_with_a_sentence_and_hangs_none(wrong, name):
    for said, expected in zip(wrong[name], WRONG[name], strict=True):
        assert re.match(expected, said), said


def test_a_process_that_ends_in_the_middle_is_told_to_the_others(tmp_path):
    """Without torchrun, which would end them all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ENVIRONMENT | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.pair", "gone", tmp_path / "said.json"]
    both = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(2)]
    assert [one.wait() for one in both] == [0, 3]
    assert "another process has ended, so this one stops" in json.loads((tmp_path / "said.json").read_text())


def test_torchrun_trains_and_saves_once_what_one_process_would(tmp_path):
    path = tmp_path / "blue.safetensors"
    words = ["minipeft", "train", "reverse+blue", "--method", "LoRA(rank=2)", "--steps", "12", "--out", path]
    run = subprocess.run([*TORCHRUN, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    torch.manual_seed(0)
    view = LoRA(rank=2).attach(base())
    fit(view, task("reverse+blue"), steps=12, lr=3e-2, device="cpu", progress=False)
    saved, live = load_file(path), trainable(view)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, live[name].detach(), atol=1e-4, rtol=1e-3)
    said = run.stdout
    assert [said.count(word) for word in ("trainable:", "accuracy on unseen", "Saved")] == [1, 1, 1], said
    sent = predict(view).gradients + 4 * (4 + len(live))
    assert f"2 processes; each step sent {sent:,} bytes to the others" in said
    assert [file.name for file in tmp_path.iterdir()] == ["blue.safetensors"]


def test_torchrun_is_for_training(tmp_path):
    shared = ENVIRONMENT | {"WORLD_SIZE": "2", "RANK": "0"}
    run = subprocess.run([sys.executable, "-m", "minipeft", "compare"], env=shared, capture_output=True, text=True)
    assert run.returncode == 2
    assert "start compare without it" in run.stderr


def test_a_shard_is_known_by_its_type():
    class FlatParameter(torch.nn.Parameter):
        pass

    check_whole("saving", {"whole": torch.ones(2)})
    with pytest.raises(TypeError, match=r"saving needs whole tensors, and layer\.w is a FlatParameter.*full_tensor"):
        check_whole("saving", {"layer.w": FlatParameter(torch.ones(2))})
