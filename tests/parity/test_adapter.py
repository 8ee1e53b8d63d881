"""Our adapters compute what those of the `adapters` library compute; where the two part company, a test shows it.

Its numbers are read from fixtures/, in double precision, on a tiny BERT (post-norm) and a tiny GPT-2 (pre-norm) whose
weights are all random, adapters, norms and biases too; one row is whole, two are padded.
"""

import pytest
import torch

from minipeft.attach import trainable
from minipeft.methods import Houlsby, ParallelAdapter, Pfeiffer

LETTERS = {"D": "adapter_down.0", "U": "adapter_up"}


def theirs(said, case, name, what):
    """The library's weight or gradient for a parameter of ours, "blocks.0.mlp.adapter.D.weight"."""
    if ".adapter." not in name:  # a LayerNorm
        place, _, kind = name.rpartition(".")
        return said.tensors[f"{case}.{what}.{said.place(place)}.{kind}"]
    place, _, rest = name.partition(".adapter.")
    if case == "pfeiffer":  # ours stands where the equation has its LayerNorm, or behind the block
        place = ".".join([*place.split(".")[:2], "mlp"])
    letter, kind = rest.split(".")
    return said.tensors[f"{case}.{what}.{said.place(place)}.adapters.{case}.{LETTERS[letter]}.{kind}"]


def attached(said, case):
    method = {
        "houlsby": Houlsby(said.size),
        "pfeiffer": Pfeiffer(said.size),
        "parallel": ParallelAdapter(said.size, said.scale),
    }[case]
    said.model = method.attach(said.base)
    with torch.no_grad():
        for name, p in trainable(said.model).items():
            if ".adapter." in name:
                p.copy_(theirs(said, case, name, "weight"))


def agree(said, case, close):
    """Logits, and the gradient of everything trainable."""
    close(said.logits(), said.tensors[f"{case}.logits"], 1e-10)
    said.backward()
    for name, p in trainable(said.model).items():
        close(p.grad, theirs(said, case, name, "grad"), 1e-10)


def test_the_bases_agree(said, close):
    close(said.logits(), said.tensors["base logits"] * said.mask[..., None], 1e-10)


@pytest.mark.parametrize(
    ("said", "case"),
    [("bert", "houlsby"), ("bert", "pfeiffer"), ("bert", "parallel"), ("gpt2", "houlsby"), ("gpt2", "pfeiffer")],
    indirect=["said"],
)
def test_logits_and_gradients_agree(said, case, close):
    attached(said, case)
    assert (said.tensors[f"{case}.logits"] - said.tensors["base logits"])[said.mask].abs().max() > 0.5
    agree(said, case, close)


@pytest.mark.parametrize("case", ["houlsby", "pfeiffer", "parallel"])
def test_parameters_are_as_many(said, case):
    attached(said, case)
    adapters = {name: p for name, p in trainable(said.model).items() if ".adapter." in name}
    assert sum(p.numel() for p in adapters.values()) == said.about[case]["trainable"]


def test_the_norms_learn_here_and_not_in_the_library(said):
    attached(said, "houlsby")
    norms = {name.rpartition(".")[0] for name in trainable(said.model) if ".adapter." not in name}
    assert {f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)} < norms
    assert not said.about["houlsby"]["norms trainable"]


@pytest.mark.parametrize("said", ["gpt2"], indirect=True)
def test_beside_the_mlp_of_a_pre_norm_block_the_library_reads_the_stream_and_we_what_the_mlp_reads(said, close):
    attached(said, "parallel")
    assert (said.logits() - said.tensors["parallel.logits"])[said.mask].abs().max() > 0.5
    for block in said.model.blocks:  # with x for n = LN(x) under our adapter, the two agree
        stream = []
        block.norm2.register_forward_pre_hook(lambda norm, args, stream=stream: stream.append(args[0]))
        block.mlp.adapter.register_forward_pre_hook(lambda adapter, args, stream=stream: (stream.pop(),))
    agree(said, "parallel", close)


@pytest.mark.parametrize("case", ["houlsby", "pfeiffer", "parallel"])
def test_both_start_near_the_base_and_the_parallel_one_at_it(said, case):
    method = {"houlsby": Houlsby, "pfeiffer": Pfeiffer, "parallel": ParallelAdapter}[case](said.size)
    base = said.logits()
    said.model = method.attach(said.base)
    moved = (said.logits() - base).abs().max().item()
    assert moved < 0.02
    assert said.about[case]["moved at the start"] < 0.02
    assert (moved == 0) == (said.about[case]["moved at the start"] == 0) == (case == "parallel")
