"""P-tuning v2: prompts that are replaced at every layer, the prefix that they amount to, and the head."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import PrefixTuning, PromptTuning, PTuningV2
from minipeft.methods.p_tuning_v2 import prefix_of
from minipeft.tasks import Batch
from minipeft.training import evaluate, fit
from tests.models import BOS, DIM, LAYERS, VOCAB, T, close, count, make, rows, stirred

KINDS = pytest.mark.parametrize(
    ("bos", "causal"), [(None, True), (BOS, True), (None, False)], ids=["absolute", "from BOS", "bidirectional"]
)


def test_the_equation():
    model, (_, tokens, _) = stirred(PTuningV2(length=4), make(None)), rows()
    embed = model.embed.base
    h = embed.token(tokens) + embed.position.weight[4 : 4 + T]
    for wrapper in model.blocks:
        h = wrapper.base(torch.cat([wrapper.P.expand(3, -1, -1), h], 1))[:, 4:]
    close(model(tokens), model.head(model.norm(h)))


@pytest.mark.parametrize(("form", "each"), [("hidden", 1), ("key/value", 2)])
def test_exactly_the_prompts_are_trained(form, each):
    model = PTuningV2(length=4, form=form).attach(make())
    assert count(model) == each * 4 * DIM * LAYERS
    assert len(trainable(model)) == each * LAYERS


@KINDS
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_deep_prompts_are_a_prefix_with_tied_keys_and_values(bos, causal, side):
    model, (_, tokens, mask) = stirred(PTuningV2(length=4), make(bos, causal)), rows(side)
    mask = mask if side else torch.ones_like(mask)
    prefix, logits = prefix_of(model), model(tokens, mask)
    for method in (PrefixTuning(length=4), PTuningV2(length=4, form="key/value")):
        twin = method.attach(make(bos, causal))
        with torch.no_grad():
            for path, pair in prefix.items():
                for name, P in zip(("P_K", "P_V"), pair, strict=True):
                    trainable(twin)[f"{path}.{name}"].copy_(P)
        close(twin(tokens, mask)[mask], logits[mask])
    assert len(prefix) == LAYERS


@KINDS
def test_prompts_that_are_replaced_differ_from_prompts_that_propagate(bos, causal):
    _, tokens, _ = rows()
    deep = stirred(PTuningV2(length=4), make(bos, causal))
    shallow = PromptTuning(length=4).attach(make(bos, causal))
    with torch.no_grad():
        shallow.embed.P.copy_(deep.blocks[0].P)
    assert (deep(tokens) - shallow(tokens)).abs().max() > 0.1


def test_only_deep_hidden_prompts_have_such_a_prefix():
    for model in (make(), PTuningV2(form="key/value").attach(make())):
        with pytest.raises(ValueError, match="attach PTuningV2"):
            prefix_of(model)


@dataclass(frozen=True)
class Early:
    """Rows of random letters: is the second of them an early one?"""

    size: int = T

    def batch(self, size, generator):
        tokens = torch.randint(2, 8, (size, self.size), generator=generator)
        tokens[:, 0] = BOS
        return Batch(tokens, (tokens[:, 1] < 5).long())


@pytest.mark.parametrize(("causal", "place"), [(True, -1), (False, 0)])
@pytest.mark.parametrize("form", ["hidden", "key/value"])
def test_with_a_head_it_classifies(causal, place, form, tmp_path):
    method, (_, tokens, _) = PTuningV2(length=3, form=form, classes=5), rows()
    model = stirred(method, make(None, causal))
    vectors = []
    model.norm.register_forward_hook(lambda module, args, out: vectors.append(out))
    logits = model(tokens)
    assert logits.shape == (3, 5)
    head = model.head.classify
    close(logits, vectors[0][:, place] @ head.weight.T + head.bias)
    assert {"head.classify.weight", "head.classify.bias"} < set(trainable(model))
    assert count(model) == LAYERS * 3 * DIM * (1 if form == "hidden" else 2) + (DIM + 1) * 5
    save(model, tmp_path / "d.safetensors")
    assert torch.equal(load(tmp_path / "d.safetensors", make(None, causal))(tokens), logits)
    assert isinstance(detach(model).head, nn.Linear)
    assert model(tokens).shape == (3, T, VOCAB)


def test_a_classifier_learns():
    model = PTuningV2(length=4, form="key/value", classes=2).attach(make(None, causal=False))
    before = evaluate(model, Early(), 300).accuracy
    fit(model, Early(), steps=150, lr=0.05, batch_size=64, device="cpu", progress=False)
    assert evaluate(model, Early(), 300).accuracy > max(before + 0.1, 0.9)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "at least 1 prompt per layer, got 0"),
        ({"form": "deep"}, "hidden or key/value, got 'deep'"),
        ({"classes": 1}, "at least 2"),
        ({"classes": True}, "at least 2"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        PTuningV2(**settings)


@pytest.mark.parametrize(("causal", "good", "bad"), [(True, "left", "right"), (False, "right", "left")])
def test_a_head_never_reads_padding(causal, good, bad):
    model = stirred(PTuningV2(length=3, classes=5), make(None, causal))
    alone, tokens, mask = rows(good)
    for i, row in enumerate(alone):
        close(model(tokens, mask)[i], model(row[None])[0])
    _, tokens, mask = rows(bad)
    with pytest.raises(ValueError, match=f"a row has padding there: pad on the {good}"):
        model(tokens, mask)
