"""A delta goes to disk and back without loss, and whatever is wrong with a file leaves model and files as they were."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from minipeft.attach import attachments, detach, merge, trainable, unmerge
from minipeft.deltas import DeltaError, delta_of, fingerprint, load, read, save, updates, write
from minipeft.methods import Full, LoRA
from minipeft.models.transformer import Config, Transformer


@pytest.fixture
def model():
    return Transformer(Config(vocab=11, dim=12, heads=3, ff=20, context=9)).eval()


@pytest.fixture
def tokens():
    return torch.randint(11, (2, 5))


def stirred(model, method):
    method.attach(model)
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_(std=0.3)
    return model


RECIPES = [
    LoRA(rank=3, alpha=5, targets=("q", "token", "up"), rank_pattern={"up": 2}, rslora=True, lr_ratio=4.0),
    LoRA(targets=lambda name, module: name.endswith("attn.v")),
    Full(),
    Full(targets=("mlp",)),
]


@pytest.mark.parametrize("method", RECIPES, ids=["lora", "predicate", "full", "part"])
def test_there_and_back(model, tokens, tmp_path, method):
    base = copy.deepcopy(model)
    y = stirred(model, method)(tokens)
    size = save(model, tmp_path / "new" / "d.safetensors", {"task": "reverse+blue"})
    assert size == (tmp_path / "new" / "d.safetensors").stat().st_size
    load(tmp_path / "new" / "d.safetensors", base)
    assert torch.equal(base(tokens), y)
    assert attachments(base)[0].method == attachments(model)[0].method
    assert set(trainable(base)) == set(trainable(model))
    assert read(tmp_path / "new" / "d.safetensors").notes == {"task": "reverse+blue"}


def test_a_weight_without_a_module_goes_there_and_back(tmp_path):
    net, x = nn.ModuleDict({"rnn": nn.LSTM(3, 4)}), torch.randn(2, 1, 3)
    base = copy.deepcopy(net)
    stirred(net, LoRA(targets=("weight_hh_l0",)))
    save(net, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", base)["rnn"](x)[0], net["rnn"](x)[0])


def test_only_what_was_trained_is_stored(model, tmp_path):
    stirred(model, LoRA(rank=1))
    size = save(model, tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == set(trainable(model))
    assert size < 4 * sum(p.numel() for p in trainable(model).values()) + 2000


def test_saving_while_merged_is_the_same_delta(model, tmp_path):
    stirred(model, LoRA())
    save(model, tmp_path / "a")
    save(merge(model), tmp_path / "b")
    a, b = load_file(tmp_path / "a"), load_file(tmp_path / "b")
    assert list(a) == list(b)
    assert all(torch.equal(a[n], b[n]) for n in a)
    unmerge(model)


def test_tied_weights_are_stored_once(tmp_path):
    def tied():
        model = Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10))
        model.head = nn.Linear(8, 9, bias=False)
        model.head.weight = model.embed.token.weight
        return model

    model = tied()
    base = copy.deepcopy(model)
    x = torch.randint(9, (1, 4))
    y = stirred(model, Full())(x)
    save(model, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", base)(x), y)
    assert base.head.weight is base.embed.token.weight


def test_the_fingerprint_is_of_the_base_alone(model):
    mark = fingerprint(model)
    stirred(model, LoRA())
    assert fingerprint(model) == mark
    stirred(detach(model), Full())
    assert fingerprint(model) == mark
    detach(model).blocks[0].mlp.up.bias.data[0] += 1e-6
    assert fingerprint(model) != mark


def rewritten(path, tensors=None, **changes):
    """The same delta with other tensors or metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) if tensors is None else tensors, path, metadata | changes)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def noise(path):
    path.write_bytes(bytes(range(256)) * 4)


def lacking(path):
    tensors = load_file(path)
    tensors.pop("blocks.0.attn.q.B")
    rewritten(path, tensors)


def extra(path):
    rewritten(path, load_file(path) | {"blocks.0.attn.k.A": torch.ones(1)})


def reshaped(path):
    tensors = load_file(path)
    rewritten(path, tensors | {"blocks.0.attn.q.B": tensors["blocks.0.attn.q.B"].T.contiguous()})


def method(**changes):
    def spoil(path):
        rewritten(path, method=json.dumps({"method": "LoRA", "rank": 4, "targets": ["q", "v"]} | changes))

    return spoil


SPOILED = {
    "whole safetensors": cut,
    "something else": noise,
    "no delta": lambda path: save_file({"x": torch.ones(2)}, path),
    "another base": lambda path: rewritten(path, base="0" * 64),
    "lacks blocks.0.attn.q.B": lacking,
    "holds blocks.0.attn.k.A": extra,
    r"blocks.0.attn.q.B has shape \(4, 12\), expected \(12, 4\)": reshaped,
    "'Sorcery', which is not here": method(method="Sorcery"),
    "LoRA has no setting spell": method(spell=3),
    "metadata is damaged": lambda path: rewritten(path, method="{"),
    "its metadata is": lambda path: rewritten(path, method="[]"),
    "metadata": method(dropout="x"),
    "float64, expected torch.float32": lambda path: rewritten(
        path, {n: t.double() for n, t in load_file(path).items()}
    ),
    "rank must be": method(rank=0),
    "no module or weight is named 'wand'": method(targets=["wand"]),
    "there is no file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("says", SPOILED)
def test_a_file_that_does_not_fit_is_told_and_changes_nothing(model, tmp_path, says):
    base, path = copy.deepcopy(model), tmp_path / "d.safetensors"
    base.head.requires_grad_(False)
    save(stirred(model, LoRA()), path)
    SPOILED[says](path)
    before, dice = fingerprint(base), torch.get_rng_state()
    with pytest.raises(DeltaError, match=says):
        load(path, base)
    assert fingerprint(base) == before
    assert attachments(base) == []
    assert not base.head.weight.requires_grad
    assert base.norm.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), dice)


def test_loading_costs_no_random_numbers(model, tmp_path):
    base = copy.deepcopy(model)
    save(stirred(model, LoRA()), tmp_path / "d")
    dice = torch.get_rng_state()
    load(tmp_path / "d", base)
    assert torch.equal(torch.get_rng_state(), dice)


def test_loading_onto_an_adapted_model_is_an_error(model, tokens, tmp_path):
    save(stirred(model, LoRA()), tmp_path / "d")
    y = model(tokens)
    with pytest.raises(RuntimeError, match="attached already"):
        load(tmp_path / "d", model)
    assert torch.equal(model(tokens), y)


def test_a_crash_while_writing_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "d"
    save(stirred(model, LoRA()), path)
    old = path.read_bytes()

    def crash(*args):
        raise OSError("disk full")

    for name in ("serialize", "os.replace"):
        monkeypatch.setattr(f"minipeft.deltas.{name}", crash)
        with pytest.raises(OSError, match="disk full"):
            save(model, path)
        monkeypatch.undo()
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_saving_needs_one_method(model, tmp_path):
    with pytest.raises(DeltaError, match="there are 0"):
        save(model, tmp_path / "d")
    LoRA().attach(model)
    LoRA().attach(model, stack=True)
    with pytest.raises(DeltaError, match="there are 2"):
        save(model, tmp_path / "d")


@pytest.mark.parametrize("method", [LoRA(targets=("q", "token")), Full(targets=("q.weight", "token"))], ids=str)
def test_updates_are_new_minus_old(model, method):
    old = {n: p.detach().clone() for n, p in model.named_parameters()}
    merge(stirred(model, method))
    new = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = updates(unmerge(model))
    assert set(moved) == {n for n in old if not torch.equal(old[n], new[n])}
    for name, (W, change) in moved.items():
        assert torch.equal(W, old[name])
        torch.testing.assert_close(change, new[name] - old[name])


def test_what_was_read_does_not_hang_on_the_file(model, tmp_path):
    save(stirred(model, LoRA()), tmp_path / "d")
    delta = read(tmp_path / "d")
    before = {name: t.clone() for name, t in delta.tensors.items()}
    (tmp_path / "d").write_bytes(bytes((tmp_path / "d").stat().st_size))
    assert all(torch.equal(t, before[name]) for name, t in delta.tensors.items())


def test_others_may_read_what_was_saved(model, tmp_path):
    (tmp_path / "plain").write_text("")
    save(stirred(model, LoRA()), tmp_path / "d")
    assert (tmp_path / "d").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_delta_can_be_taken_along_without_a_file(model, tokens, tmp_path):
    y = stirred(model, LoRA())(tokens)
    delta = delta_of(model, {"task": "sort"})
    with torch.no_grad():
        for p in trainable(model).values():
            p += 1  # training goes on
    assert torch.equal(load(delta, detach(model))(tokens), y)
    assert write(delta, tmp_path / "taken") == save(model, tmp_path / "saved", {"task": "sort"})
    taken, saved = read(tmp_path / "taken"), read(tmp_path / "saved")
    assert (taken.method, taken.base, taken.notes) == (saved.method, saved.base, saved.notes)
    assert all(torch.equal(t, saved.tensors[name]) for name, t in taken.tensors.items())


def test_a_delta_of_another_base_is_refused_by_its_recipe(model):
    delta = delta_of(stirred(model, LoRA(rank=3)))
    detach(model).head.bias.data += 1
    with pytest.raises(DeltaError, match=r"the delta of LoRA\(rank=3\) belongs to another base"):
        load(delta, model)
