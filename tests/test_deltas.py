"""A delta goes to disk and back without loss, and whatever is wrong with a file leaves model and files as they were."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from minipeft.attach import attachments, detach, trainable
from minipeft.deltas import DeltaError, checksum, delta_of, fingerprint, load, read, save, trained, updates, write
from minipeft.methods import (
    AdaLoRA,
    AdapterFusion,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.models.transformer import Config, Transformer
from minipeft.views import merge
from tests.models import bits, close, same_bits, stirred


@pytest.fixture
def model():
    return Transformer(Config(vocab=11, dim=12, heads=3, ff=20, context=9)).eval()


@pytest.fixture
def tokens():
    return torch.randint(11, (2, 5))


METHODS = [
    LoRA(rank=3, alpha=5, targets=("q", "token", "up"), rank_pattern={"up": 2}, rslora=True, lr_ratio=4.0),
    LoRA(targets=lambda name, module: name.endswith("attn.v")),
    Full(),
    Full(targets=("mlp",)),
]


@pytest.mark.parametrize("method", METHODS, ids=["lora", "predicate", "full", "part"])
def test_there_and_back(model, tokens, tmp_path, method):
    view, before = stirred(method, model), bits(model)
    size = save(view, tmp_path / "new" / "d.safetensors", {"task": "reverse+blue"})
    assert size == (tmp_path / "new" / "d.safetensors").stat().st_size
    loaded = load(tmp_path / "new" / "d.safetensors", model)
    assert torch.equal(loaded(tokens), view(tokens))
    assert attachments(loaded)[0].method == attachments(view)[0].method
    assert set(trainable(loaded)) == set(trainable(view))
    assert same_bits(model, before)
    assert read(tmp_path / "new" / "d.safetensors").notes == {"task": "reverse+blue"}


def test_a_weight_without_a_module_goes_there_and_back(tmp_path):
    net, x = nn.ModuleDict({"rnn": nn.LSTM(3, 4)}), torch.randn(2, 1, 3)
    view = stirred(LoRA(targets=("weight_hh_l0",)), net)
    save(view, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", net)["rnn"](x)[0], view["rnn"](x)[0])


def test_only_what_was_trained_is_stored(model, tmp_path):
    view = stirred(LoRA(rank=1), model)
    size = save(view, tmp_path / "d")
    assert set(load_file(tmp_path / "d")) == set(trainable(view))
    assert size < 4 * sum(p.numel() for p in trainable(view).values()) + 2000


def test_a_merged_model_has_nothing_to_save(model, tmp_path):
    with pytest.raises(DeltaError, match="a delta needs an attached method, and there is none"):
        save(merge(stirred(LoRA(), model)), tmp_path / "d")


def test_tied_weights_are_stored_once(tmp_path):
    def tied():
        model = Transformer(Config(vocab=9, dim=8, heads=2, ff=12, context=10))
        model.head = nn.Linear(8, 9, bias=False)
        model.head.weight = model.embed.token.weight
        return model

    model = tied()
    x = torch.randint(9, (1, 4))
    view = stirred(Full(), model)
    save(view, tmp_path / "d")
    loaded = load(tmp_path / "d", model)
    assert torch.equal(loaded(x), view(x))
    assert loaded.head.weight is loaded.embed.token.weight
    assert len(read(tmp_path / "d").tensors) == len(list(model.parameters()))


def test_a_fingerprint_is_of_numbers_and_of_the_methods_on_them(model):
    mark = fingerprint(model)
    views = [stirred(LoRA(), model), VeRA(seed=0).attach(model), VeRA(seed=1).attach(model)]
    assert len({mark, *map(fingerprint, views)}) == 4
    assert all(fingerprint(detach(view)) == mark for view in views)
    assert fingerprint(nn.DataParallel(model)) == mark
    model.blocks[0].mlp.up.bias.data[0] += 1e-6
    assert fingerprint(model) != mark


def test_a_stack_is_saved_one_by_one_and_loaded_from_below(model, tokens, tmp_path):
    first = stirred(PrefixTuning(length=2), model)
    second = stirred(LoRA(rank=2), first)
    save(detach(second, 1), tmp_path / "first")
    save(second, tmp_path / "second")
    assert set(load_file(tmp_path / "second")) == {
        f"blocks.{i}.attn.{n}.{m}" for i in (0, 1) for n in "qv" for m in "AB"
    }
    assert torch.equal(load(tmp_path / "second", load(tmp_path / "first", model))(tokens), second(tokens))
    with pytest.raises(DeltaError, match="belongs to another base"):
        load(tmp_path / "second", model)
    with pytest.raises(DeltaError, match=r"with LoRA\(rank=4\) on it"):
        load(tmp_path / "second", LoRA().attach(model))
    close(updates(stirred(LoRA(rank=1), second))["blocks.0.attn.q.weight"][0], model.blocks[0].attn.q.weight)


@pytest.mark.parametrize("method", [LoRA(rank=2, targets=("0", "3")), Full(), Full(targets=("0",))], ids=str)
def test_statistics_that_training_moved_are_part_of_the_delta(method, tmp_path):
    def make():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).eval()

    net, x = make(), 2 + torch.randn(64, 5)
    before = bits(net)
    view = method.attach(net).train()
    optimizer = torch.optim.Adam(trainable(view).values(), 0.02)
    for _ in range(20):
        view(x).square().sum().backward()
        optimizer.step()
    view.eval()
    save(view, tmp_path / "d")
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(load_file(tmp_path / "d"))
    loaded = load(tmp_path / "d", make())
    close(loaded(x), view(x))
    assert loaded[1].num_batches_tracked == 20
    assert (view(x) - net(x)).abs().max() > 0.1
    assert same_bits(net, before)
    save(loaded, tmp_path / "again")
    assert checksum(load_file(tmp_path / "again")) == checksum(load_file(tmp_path / "d"))
    assert not [name for name in trained(method.attach(net)) if "running" in name]


def rewritten(path, tensors=None, **changes):
    """The same delta with other tensors or metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path) if tensors is None else tensors
    save_file(tensors, path, metadata | {"sha256": checksum(tensors)} | changes)


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


def bit(path):
    """One bit of the numbers flips."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def settings(method="LoRA", **changes):
    configuration = json.dumps({"rank": 4, "targets": ["q", "v"]} | changes)
    return lambda path: rewritten(path, method=method, configuration=configuration)


SPOILED = {
    "whole safetensors": cut,
    "something else": noise,
    "no delta": lambda path: save_file({"x": torch.ones(2)}, path),
    "saved by an older minipeft": lambda path: rewritten(path, format="minipeft delta 1"),
    "is damaged: its numbers are not those that were saved": bit,
    "another base": lambda path: rewritten(path, base="0" * 64),
    r"lacks blocks\.0\.attn\.q\.B": lacking,
    r"holds blocks\.0\.attn\.k\.A": extra,
    r"blocks\.0\.attn\.q\.B has shape \(4, 12\), expected \(12, 4\)": reshaped,
    "'Sorcery', which is not here": settings("Sorcery"),
    "LoRA has no setting spell": settings(spell=3),
    "metadata is damaged": lambda path: rewritten(path, configuration="{"),
    "its metadata is": lambda path: rewritten(path, configuration="[]"),
    "metadata is .*dictionaries": lambda path: rewritten(path, notes="[1]"),
    "dropout must be": settings(dropout="x"),
    r"float64, expected torch\.float32": lambda path: rewritten(
        path, {n: t.double() for n, t in load_file(path).items()}
    ),
    "rank must be": settings(rank=0),
    "no module or weight is named 'wand'": settings(targets=["wand"]),
    "rank=1000000, but no tensor in it is longer than 12": settings(rank=10**6),
    "rank_pattern=1000000, but no tensor": settings(rank_pattern={"q": 10**6}),
    r"blocks\.0\.attn\.q\.A holds numbers that are not finite": lambda path: rewritten(
        path, load_file(path) | {"blocks.0.attn.q.A": torch.full((4, 12), torch.nan)}
    ),
    "there is no file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("says", SPOILED)
def test_a_file_that_does_not_fit_is_told_and_changes_nothing(model, tmp_path, says):
    path = tmp_path / "d.safetensors"
    save(stirred(LoRA(), model), path)
    SPOILED[says](path)
    before, dice = bits(model), torch.get_rng_state()
    with pytest.raises(DeltaError, match=says):
        load(path, model)
    assert same_bits(model, before)
    assert torch.equal(torch.get_rng_state(), dice)


HUGE = [
    (LoRA(), "rank"), (AdaLoRA(rank=1, initial_rank=2), "initial_rank"), (QLoRA(rank=2, block_size=4), "rank"),
    (DoRA(), "rank"), (VeRA(rank=8), "rank"), (PromptTuning(), "length"), (PTuning(), "length"),
    (PrefixTuning(), "length"),
    (PTuningV2(), "length"), (PTuningV2(form="key/value"), "length"), (PTuningV2(classes=3), "classes"),
    (Houlsby(size=4), "size"), (AdapterFusion(size=4), "adapters"), (AdapterFusion(size=4), "size"), (PiSSA(), "rank"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "setting"), HUGE, ids=lambda value: str(value))
def test_a_small_file_cannot_make_large_tensors(model, tmp_path, method, setting, monkeypatch):
    path = tmp_path / "d"
    save(method.attach(model), path)
    with safe_open(path, "pt") as file:
        configuration = json.loads(file.metadata()["configuration"]) | {setting: 10**6}
    rewritten(path, configuration=json.dumps(configuration))
    monkeypatch.setattr(type(method), "attach", lambda *args: pytest.fail("something was made"))
    with pytest.raises(DeltaError, match=f"has {setting}=1000000, but no tensor in it is longer than"):
        load(path, model)


def test_loading_costs_no_random_numbers(model, tmp_path):
    save(stirred(LoRA(), model), tmp_path / "d")
    dice = torch.get_rng_state()
    load(tmp_path / "d", model)
    assert torch.equal(torch.get_rng_state(), dice)


def test_a_crash_while_writing_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "d"
    view = stirred(LoRA(), model)
    save(view, path)
    old = path.read_bytes()

    def crash(*args):
        raise OSError("disk full")

    for name in ("deltas.serialize", "files.os.replace"):
        monkeypatch.setattr(f"minipeft.{name}", crash)
        with pytest.raises(OSError, match="disk full"):
            save(view, path)
        monkeypatch.undo()
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_saving_needs_a_method(model, tmp_path):
    with pytest.raises(DeltaError, match="a delta needs an attached method, and there is none"):
        save(model, tmp_path / "d")
    LoRA().attach(model)
    with pytest.raises(DeltaError, match="take what attach returns"):
        save(model, tmp_path / "d")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_not_saved(model, tmp_path, value):
    view = stirred(LoRA(), model)
    with torch.no_grad():
        trainable(view)["blocks.1.attn.v.B"][0, 0] = value
    with pytest.raises(DeltaError, match=r"blocks\.1\.attn\.v\.B holds numbers that are not finite"):
        save(view, tmp_path / "d")
    assert not (tmp_path / "d").exists()


NOTES = [
    {}, {"task": "reverse+blue"}, {"list": [1, 2], "nested": {"a": None}, "b": True, "x": 1.5},
    {"[red]markup[/red]": "Ω \n \x00"}, {1: "a key that is no text"},
]  # fmt: skip


@pytest.mark.parametrize("notes", NOTES, ids=str)
def test_notes_come_back(model, tmp_path, notes):
    view = stirred(LoRA(rank=1), model)
    save(view, tmp_path / "d", notes)
    assert read(tmp_path / "d").notes == {str(k): v for k, v in notes.items()}
    save(view, tmp_path / "d", {"path": tmp_path, "tensor": torch.ones(1)})
    assert read(tmp_path / "d").notes == {"path": str(tmp_path), "tensor": "tensor([1.])"}
    for wrong in ("text", ["list"], 3):
        with pytest.raises(DeltaError, match="notes are a dictionary"):
            save(view, tmp_path / "d", wrong)


@pytest.mark.parametrize("method", [LoRA(targets=("q", "token")), Full(targets=("q.weight", "token"))], ids=str)
def test_updates_are_new_minus_old(model, method):
    view, old = stirred(method, model), bits(model)
    new, moved = bits(merge(view)), updates(view)
    assert set(moved) == {n for n in old if not torch.equal(old[n], new[n])}
    for name, (W, change) in moved.items():
        assert torch.equal(W, old[name])
        torch.testing.assert_close(change, new[name] - old[name])


def test_updates_of_a_stack_add_up(model):
    view = stirred(LoRA(rank=2, targets=("q", "up")), stirred(LoRA(rank=1, targets=("q",)), model))
    old, new = bits(model), bits(merge(view))
    for name, (W, change) in updates(view).items():
        assert torch.equal(W, old[name])
        close(change, new[name] - old[name])


def test_what_was_read_does_not_hang_on_the_file(model, tmp_path):
    save(stirred(LoRA(), model), tmp_path / "d")
    delta = read(tmp_path / "d")
    before = {name: t.clone() for name, t in delta.tensors.items()}
    (tmp_path / "d").write_bytes(bytes((tmp_path / "d").stat().st_size))
    assert all(torch.equal(t, before[name]) for name, t in delta.tensors.items())


def test_others_may_read_what_was_saved(model, tmp_path):
    (tmp_path / "plain").write_text("")
    save(stirred(LoRA(), model), tmp_path / "d")
    assert (tmp_path / "d").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_delta_can_be_taken_along_without_a_file(model, tokens, tmp_path):
    view = stirred(LoRA(), model)
    y, delta = view(tokens), delta_of(view, {"task": "sort"})
    saved = save(view, tmp_path / "saved", {"task": "sort"})
    with torch.no_grad():
        for p in trainable(view).values():
            p += 1  # training goes on
    assert torch.equal(load(delta, model)(tokens), y)
    assert write(delta, tmp_path / "taken") == saved
    one, two = read(tmp_path / "taken"), read(tmp_path / "saved")
    assert (one.method, one.base, one.notes) == (two.method, two.base, two.notes)
    assert checksum(one.tensors) == checksum(two.tensors)


def test_a_delta_of_another_base_is_refused_by_its_method(model):
    delta = delta_of(stirred(LoRA(rank=3), model))
    model.head.bias.data += 1
    with pytest.raises(DeltaError, match=r"the delta of LoRA\(rank=3\) belongs to another base"):
        load(delta, model)
