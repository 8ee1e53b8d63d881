"""P-tuning v2: prompts that are replaced at every layer, the prefix that they amount to, and the head."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from minipeft.attach import attachments, detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import PrefixTuning, PromptTuning, PTuningV2
from minipeft.models.heads import ClassHead
from minipeft.tasks import Batch
from minipeft.training import evaluate, fit
from minipeft.views import merge
from tests.models import BOS, DIM, LAYERS, VOCAB, T, apart, close, count, make, rows, stirred

KINDS = pytest.mark.parametrize(
    ("bos", "causal"), [(None, True), (BOS, True), (None, False)], ids=["absolute", "from BOS", "bidirectional"]
)


def test_the_equation():
    view, (_, tokens, _) = stirred(PTuningV2(length=4), make(None)), rows()
    h = view.embed.token(tokens) + view.embed.position.weight[4 : 4 + T]
    for block, P in zip(view.blocks, view.begin.P, strict=True):
        h = block(torch.cat([P.expand(3, -1, -1), h], 1), "causal")[:, 4:]
    close(view(tokens), view.head(view.norm(h)))


@KINDS
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_deep_prompts_are_a_prefix_with_tied_keys_and_values(bos, causal, side):
    base, (_, tokens, mask) = make(bos, causal), rows(side)
    mask = mask if side else torch.ones_like(mask)
    view = stirred(PTuningV2(length=4), base)
    tied = [view.begin.keys_values(block, P) for block, P in zip(view.blocks, view.begin.P, strict=True)]
    for method in (PrefixTuning(length=4), PTuningV2(length=4, form="key/value")):
        twin = method.attach(base)
        twin.begin.P_K.data, twin.begin.P_V.data = (torch.stack(parts).detach() for parts in zip(*tied, strict=True))
        close(twin(tokens, mask)[mask], view(tokens, mask)[mask])


@KINDS
def test_prompts_that_are_replaced_differ_from_prompts_that_propagate(bos, causal):
    base, (_, tokens, _) = make(bos, causal), rows()
    deep, shallow = stirred(PTuningV2(length=4), base), PromptTuning(length=4).attach(base)
    shallow.begin.P.data.copy_(deep.begin.P[0])
    apart(deep(tokens), shallow(tokens))


def test_the_start_has_the_scale_of_the_embeddings_or_is_a_unit_gaussian():
    base = make()
    scale = base.embed.token.weight.std().item()
    assert PTuningV2(length=200).attach(base).begin.P.std().item() == pytest.approx(scale, rel=0.05)
    assert PTuningV2(length=200, form="key/value").attach(base).begin.P_K.std().item() == pytest.approx(1, rel=0.05)


@dataclass(frozen=True)
class Early:
    """Rows of random letters: is the second of them an early one?"""

    size: int = T

    def batch(self, size, generator):
        tokens = torch.randint(2, 8, (size, self.size), generator=generator)
        tokens[:, 0] = BOS
        return Batch(tokens, (tokens[:, 1] < 5).long())


FORM = pytest.mark.parametrize("form", ["hidden", "key/value"])


@pytest.mark.parametrize(("causal", "place"), [(True, -1), (False, 0)])
@pytest.mark.parametrize("pre_norm", [True, False])
@FORM
def test_with_a_head_it_classifies(causal, place, pre_norm, form, tmp_path):
    base = make(None, causal, pre_norm=pre_norm)
    view, (_, tokens, _) = stirred(PTuningV2(length=3, form=form, classes=5), base), rows()
    vectors = []
    view.norm.register_forward_hook(lambda module, args, out: vectors.append(out))
    logits, head = view(tokens), view.head.classify
    assert logits.shape == (3, 5)
    close(logits, vectors[0][:, place] @ head.weight.T + head.bias)
    assert type(view.head) is ClassHead, "nothing is left of the head for tokens"
    assert list(attachments(view)[0].layers) == ["head", "begin"]
    assert {"head.classify.weight", "head.classify.bias"} < set(trainable(view))
    assert count(view) == LAYERS * 3 * DIM * (1 if form == "hidden" else 2) + (DIM + 1) * 5
    save(view, tmp_path / "d.safetensors")
    assert torch.equal(load(tmp_path / "d.safetensors", base)(tokens), logits)
    assert isinstance(detach(view).head, nn.Linear)
    assert detach(view)(tokens).shape == (3, T, VOCAB)


@FORM
def test_a_head_makes_prompts_no_easier_to_merge(form):
    view = PTuningV2(length=3, form=form, classes=5).attach(make())
    with pytest.raises(TypeError, match=r"Deep.* cannot be merged: it is not a change of the frozen weights alone"):
        merge(view)


def test_a_classifier_learns():
    view = PTuningV2(length=4, form="key/value", classes=2).attach(make(None, causal=False))
    before = evaluate(view, Early(), 300).accuracy
    fit(view, Early(), steps=150, lr=0.05, batch_size=64, device="cpu", progress=False)
    assert evaluate(view, Early(), 300).accuracy > max(before + 0.1, 0.9)


@pytest.mark.parametrize(("causal", "good", "bad"), [(True, "left", "right"), (False, "right", "left")])
def test_a_head_never_reads_padding(causal, good, bad):
    view = stirred(PTuningV2(length=3, classes=5), make(None, causal))
    alone, tokens, mask = rows(good)
    for i, row in enumerate(alone):
        close(view(tokens, mask)[i], view(row[None])[0])
    _, tokens, mask = rows(bad)
    with pytest.raises(ValueError, match=f"a row has padding there: pad on the {good}"):
        view(tokens, mask)


@pytest.mark.parametrize(("causal", "place"), [(True, -1), (False, 0)])
def test_one_real_token_is_enough_where_the_head_reads(causal, place):
    view, (_, tokens, _) = stirred(PTuningV2(length=3, classes=5), make(None, causal)), rows()
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, place] = True
    close(view(tokens, mask), view(tokens[:, place][:, None]))


def test_only_padding_among_the_new_tokens_concerns_the_head():
    """The first piece ends with padding, the second does not; the mask of the cache begins with the prompts."""
    base, (_, tokens, _) = make(None), rows()
    view, cache = stirred(PTuningV2(length=3, classes=5), base), base.new_cache()
    stirred(PTuningV2(length=3), base)(tokens, torch.arange(T).expand(3, -1) < T - 2, cache)
    assert view(tokens[:, :2], torch.tensor([[False, True]] * 3), cache).shape == (3, 5)
    with pytest.raises(ValueError, match="a row has padding there: pad on the left"):
        view(tokens[:, :2], torch.tensor([[True, False], [True, True], [True, True]]), cache)
