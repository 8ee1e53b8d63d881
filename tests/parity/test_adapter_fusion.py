"""Our AdapterFusion computes what that of the `adapters` library computes, over the same three adapters.

Its numbers are read from fixtures/ (see test_adapter.py). All weights are random, those of the values too.
"""

import pytest
import torch

from minipeft.attach import trainable
from minipeft.deltas import Delta
from minipeft.methods import AdapterFusion, Pfeiffer
from minipeft.methods.adapter_fusion import fusions

NAMES = ("one", "two", "three")
LETTERS = {"D": "adapter_down.0", "U": "adapter_up"}


def mlp(path):
    """The MLP of the block that a fusion belongs to: "blocks.1.norm2" or "blocks.1" gives "blocks.1.mlp"."""
    return ".".join([*path.split(".")[:2], "mlp"])


def theirs(said, name, what):
    """The library's weight or gradient for a parameter of ours, "blocks.0.fusion.query.weight"."""
    place, _, rest = name.partition(".fusion.")
    return said.tensors[f"fusion.{what}.{said.place(mlp(place))}.adapter_fusion_layer.{','.join(NAMES)}.{rest}"]


def stored(said, adapter):
    """One of the library's adapters as a delta of Pfeiffer."""
    ends = [f"blocks.{i}" if said.kind == "gpt2" else f"blocks.{i}.norm2" for i in range(2)]
    tensors = {
        f"{end}.adapter.{letter}.{kind}": said.tensors[
            f"fusion.weight.{said.place(mlp(end))}.adapters.{adapter}.{LETTERS[letter]}.{kind}"
        ]
        for end in ends
        for letter in "DU"
        for kind in ("weight", "bias")
    }
    return Delta(Pfeiffer(said.size), tensors, "", {})


@pytest.fixture
def fused(said):
    method = AdapterFusion(len(NAMES), said.size)
    said.model = method.attach(said.base)
    method.fill(said.model, [stored(said, name) for name in NAMES])
    with torch.no_grad():
        for name, p in trainable(said.model).items():
            p.copy_(theirs(said, name, "weight"))
    return said


def test_logits_gradients_and_attention_agree(fused, close):
    assert (fused.tensors["fusion.logits"] - fused.tensors["base logits"])[fused.mask].abs().max() > 0.5
    close(fused.logits(), fused.tensors["fusion.logits"], 1e-10)
    for i, fusion in enumerate(fusions(fused.model).values()):
        expected = fused.tensors[f"fusion.weights.{i}"]
        assert expected.std(dim=-1).mean() > 0.1  # they do prefer some to others
        close(fusion.weights[fused.mask], expected[fused.mask], 1e-10)
    fused.backward()
    for name, p in trainable(fused.model).items():
        close(p.grad, theirs(fused, name, "grad"), 1e-10)


def test_the_regularizer_and_the_parameters_agree(fused, close):
    facts = fused.about["fusion"]
    close(AdapterFusion().regularizer(fused.model).item(), facts["regularization"], 1e-10)
    assert sum(p.numel() for p in trainable(fused.model).values()) == facts["trainable"] == 2 * (3 * 12**2 + 2 * 12)
