"""What holds for every method, on models with both kinds of positions and rows of different length."""

import copy

import pytest
import torch
import torch.nn.functional as F

from minipeft.attach import detach, disabled, merge, trainable, unmerge
from minipeft.deltas import fingerprint, fold, load, read, save, trained
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.training import loss_of
from tests.models import BOS, VOCAB, T, close, make, rows, stirred

EVERY = [
    Full(),
    LoRA(rank=3, targets=("q", "down", "token")),
    PromptTuning(length=3),
    PTuning(length=3, width=5),
    PTuning(length=3, template=(-1, 9, -1, 4, -1), encoder="mlp", width=5),
    PrefixTuning(length=3),
    PrefixTuning(length=3, init=(5, 9)),
    PrefixTuning(length=3, mlp=5),
    PTuningV2(length=3),
    PTuningV2(length=3, form="key/value"),
    BitFit(),
    AdapterFusion(adapters=3, size=5),
    IA3(),
    Houlsby(size=5),
    Pfeiffer(size=5),
    ParallelAdapter(size=5),
    AdaLoRA(rank=2, initial_rank=3),
    QLoRA(rank=3, block_size=8),
    DoRA(rank=3),
    VeRA(rank=6),
    PiSSA(rank=3),
]
METHOD = pytest.mark.parametrize("method", EVERY, ids=str)
KIND = pytest.mark.parametrize("bos", [None, BOS], ids=["absolute", "from BOS"])


def test_every_registered_method_is_put_to_these_tests():
    assert {type(method) for method in EVERY} == set(METHODS.values())


@METHOD
@KIND
def test_the_method_changes_the_answer_and_keeps_its_shape(method, bos):
    model, (_, tokens, _) = make(bos), rows(None)
    plain = model(tokens)
    logits = stirred(method, model)(tokens)
    assert logits.shape == plain.shape == (3, T, VOCAB)
    assert not torch.isclose(logits, plain, atol=1e-4).all(-1).any(), "every token notices"


@METHOD
@KIND
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gets_what_it_gets_alone(method, bos, side):
    model, (alone, tokens, mask) = stirred(method, make(bos)), rows(side)
    logits = model(tokens, mask)
    for i, row in enumerate(alone):
        close(logits[i][mask[i]], model(row[None])[0])


@METHOD
def test_a_bidirectional_model_takes_it_too(method):
    model, (alone, tokens, mask) = make(None, causal=False), rows("right")
    plain = model(tokens, mask)
    logits = stirred(method, model)(tokens, mask)
    assert not torch.isclose(logits, plain, atol=1e-4).all(-1)[mask].any()
    for i, row in enumerate(alone):
        close(logits[i][mask[i]], model(row[None])[0])


@METHOD
@KIND
def test_generation_is_the_same_with_and_without_the_cache(method, bos):
    model, (alone, tokens, mask) = stirred(method, make(bos)), rows("left")
    for temperature in (0.0, 1.5):
        made, again = (
            model.generate(tokens, 8, mask, temperature, cache=cache, generator=torch.Generator().manual_seed(3))
            for cache in (True, False)
        )
        assert torch.equal(made, again)
    assert len(made.unique()) > 8, "else a model that ignores its past would pass"
    made = model.generate(tokens, 8, mask)
    for i, row in enumerate(alone):
        assert torch.equal(made[i], model.generate(row[None], 8)[0])


@METHOD
def test_training_reaches_all_of_the_method_and_none_of_the_base(method):
    model, (_, tokens, _) = make(), rows(None)
    mark, before = fingerprint(model), {name: p.clone() for name, p in model.named_parameters()}
    stirred(method, model)
    learned = list(trainable(model).values())
    assert learned
    optimizer, start = torch.optim.SGD(learned, lr=0.1), [p.detach().clone() for p in learned]
    loss_of(model(tokens[:, :-1]), tokens[:, 1:]).backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    for (name, p), old in zip(trainable(model).items(), start, strict=True):
        if not name.endswith(("attn.k.bias", "key.bias")):  # the softmax does not see them
            assert not torch.equal(p, old), name
    assert fingerprint(model) == mark
    detach(model)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


@METHOD
def test_the_same_seed_starts_the_same_and_costs_the_base_nothing(method):
    models = [make(), make()]
    for model in models:
        torch.manual_seed(5)
        method.attach(model)
    first, second = (trainable(model) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with disabled(models[0]):
        assert torch.equal(models[0](rows(None)[1]), make()(rows(None)[1]))


@METHOD
def test_a_saved_delta_gives_the_same_answers_on_a_fresh_base(method, tmp_path):
    model, (_, tokens, mask) = stirred(method, make()), rows("left")
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    logits = model(tokens, mask)
    size = save(model, tmp_path / "d.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in trainable(model).items()), "saving changes nothing"
    loaded = load(tmp_path / "d.safetensors", make())
    close(loaded(tokens, mask), logits, 1e-6)
    delta = read(tmp_path / "d.safetensors")
    assert delta.method == method.folded()
    assert size < 4 * sum(t.numel() for t in delta.tensors.values()) + 6000, "tensors, names, method, fingerprint"
    save(loaded, tmp_path / "again.safetensors")
    again = read(tmp_path / "again.safetensors")
    assert again.method == delta.method
    assert all(torch.equal(again.tensors[name], t) for name, t in delta.tensors.items())


@METHOD
def test_folding_is_saving_and_loading_in_place(method, tmp_path):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    logits = model(tokens)
    save(model, tmp_path / "d.safetensors")
    close(fold(model)(tokens), logits, 1e-6)
    stored = read(tmp_path / "d.safetensors").tensors
    assert all(torch.equal(t, stored[name]) for name, t in trained(model).items())
    assert fingerprint(detach(model)) == fingerprint(make())


@METHOD
def test_what_can_be_merged_is_equal_and_what_cannot_is_told(method):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    logits = model(tokens)
    if isinstance(method, Full | BitFit | IA3 | LoRA | AdaLoRA | DoRA | VeRA | PiSSA):
        close(merge(model)(tokens), logits)
        assert torch.equal(unmerge(model)(tokens), logits)
    else:
        with pytest.raises(TypeError, match="cannot be merged"):
            merge(model)
        assert torch.equal(model(tokens), logits)


@METHOD
def test_a_copy_of_an_adapted_model_is_a_model_of_its_own(method):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    logits, twin = model(tokens), copy.deepcopy(model)
    with torch.no_grad():
        for p in trainable(twin).values():
            p.zero_()
    assert torch.equal(model(tokens), logits)
    assert torch.equal(detach(twin)(tokens), make()(tokens))


VIRTUAL = [r for r in EVERY if isinstance(r, PromptTuning | PTuning | PrefixTuning | PTuningV2)]


@pytest.mark.parametrize("method", VIRTUAL, ids=str)
def test_virtual_tokens_beyond_the_context_are_told_before_any_work(method):
    model, work = stirred(method, make(None, context=10)), []
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    tokens = rows(None)[1]
    template = getattr(method, "template", None) or (-1,) * 3
    room = 10 - len(template)
    with pytest.raises(ValueError, match=f"needs {room + 1 + len(template)} positions but the context has 10"):
        model(F.pad(tokens, (0, room + 1 - T), value=3)[:, : room + 1])
    with pytest.raises(ValueError, match="the context has 10"):
        model.generate(tokens[:, :room], 2)
    assert not work
    assert model(F.pad(tokens, (0, room - T), value=3)[:, :room]).shape == (3, room, VOCAB)
    assert model.generate(tokens[:, :room], 1).shape == (3, 1)


@pytest.mark.parametrize("method", VIRTUAL, ids=str)
def test_virtual_tokens_take_the_first_absolute_positions_and_none_before_bos(method):
    for bos in (None, BOS):
        model, seen = make(bos), []
        stirred(method, model)
        model.embed.position.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        model(rows(None)[1])
        template = getattr(method, "template", None) or (-1,) * 3
        first = len(template) if bos is None else 1
        assert seen[0][0, -T:].tolist() == list(range(first, first + T))
