"""Several deltas in one batch: every row gets what its delta gives alone."""

import random

import pytest
import torch
import torch.nn.functional as F

from minipeft.attach import attachments, detach, merge, trainable
from minipeft.bases import base
from minipeft.deltas import DeltaError, fingerprint, save
from minipeft.methods import Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning, PTuning, PTuningV2, QLoRA
from minipeft.mixing import MultiTask
from minipeft.models.transformer import Attention
from minipeft.tasks import EOS, FIRST_LETTER, encode, task
from minipeft.training import fit
from tests.models import BOS, T, close, make, rows, stirred

METHODS = {
    "full": Full(),
    "LoRA of rank 2": LoRA(rank=2, alpha=3),
    "LoRA of rank 5, elsewhere": LoRA(rank=5, targets=("v", "down", "head")),
    "LoRA of the embedding": LoRA(rank=2, targets=("token",)),
    "LoRA on a quantized weight": QLoRA(rank=2, quant_type="nf3"),
    "prompt of 4": PromptTuning(length=4),
    "another of 4": PromptTuning(length=4),
    "prompt of 2": PromptTuning(length=2),
    "P-tuning": PTuning(length=3, width=5),
    "prefix": PrefixTuning(length=3),
    "prefix of an MLP": PrefixTuning(length=2, mlp=5),
    "deep": PTuningV2(length=3),
}


def library(model, methods=METHODS):
    several = MultiTask(model)
    for i, (name, method) in enumerate(methods.items()):
        stirred(method, model)
        with torch.no_grad():
            for p in trainable(model).values():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        several.keep(name)
    return several


def shuffled(names):
    names = [*names, None] * 2
    random.Random(1).shuffle(names)
    return names


def alone(several, name, compute):
    """What `compute(model)` gives with one delta on the model, put there by hand."""
    entry = several.deltas.get(name)
    for s in entry.swaps if entry else []:
        s.put(s.replacement)
    try:
        return compute(several.model)
    finally:
        for s in reversed(entry.swaps if entry else []):
            s.put(s.original)


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_every_row_gets_what_its_delta_gives_alone(bos, side):
    model = make(bos).double()
    several, names = library(model), shuffled(METHODS)
    _, tokens, mask = rows(side)
    which = torch.arange(len(names)) % 3
    tokens, mask = tokens[which], mask[which] if side else None
    real = mask if side else torch.ones_like(tokens, dtype=torch.bool)
    mark, got = fingerprint(model), several(tokens, names, mask)
    seen = []
    for name in {*names}:
        expected = alone(several, name, lambda model: model(tokens, mask))
        mine = [i for i, n in enumerate(names) if n == name]
        for i in mine:
            close(got[i][real[i]], expected[i][real[i]], 1e-9)
        seen.append(expected[0][real[0]])
    for i, one in enumerate(seen):
        assert all((one - other).abs().max() > 1e-2 for other in seen[:i]), "no two deltas answer alike"
    assert fingerprint(model) == mark
    assert not attachments(model)


@pytest.mark.parametrize("stop", [None, 17])
def test_generation_too(stop):
    several, names = library(make()), shuffled(METHODS)
    _, tokens, mask = rows("left")
    which = torch.arange(len(names)) % 3
    tokens, mask = tokens[which], mask[which]
    got = several.generate(tokens, names, 6, mask, stop=stop)
    for i, name in enumerate(names):
        one = slice(i, i + 1)
        expected = alone(several, name, lambda m, one=one: m.generate(tokens[one], 6, mask[one], stop=stop))[0]
        if stop is not None:
            expected = F.pad(expected, (0, 6 - len(expected)), value=stop)[: got.shape[1]]
        assert torch.equal(got[i], expected), name
    assert len({tuple(row.tolist()) for row in got}) > 3


def test_generation_ends_when_all_rows_have_ended():
    several, tokens = library(make(), {"LoRA": LoRA(), "prefix": PrefixTuning()}), rows()[1]
    made = several.generate(tokens, ["LoRA", "prefix", None], 6)
    for stop in made[:, 0].unique():
        got = several.generate(tokens, ["LoRA", "prefix", None], 6, stop=int(stop))
        lengths = [(row == stop).nonzero()[0].item() + 1 if (row == stop).any() else 6 for row in made]
        assert got.shape[1] == max(lengths)


def test_rows_of_lora_and_of_the_base_share_one_pass_and_so_do_prompts_of_one_length(monkeypatch):
    several, sizes = library(make()), []
    several.model.blocks[0].register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[:2]))
    tokens = rows()[1][:1].expand(6, -1)
    several(tokens, ["LoRA of rank 2", None, "LoRA of rank 5, elsewhere", "LoRA of rank 2", None, None])
    assert sizes == [(6, T)]
    sizes.clear()
    several(tokens, ["prompt of 4", "another of 4", "prompt of 2", "prompt of 4", "full", "full"])
    assert sizes == [(3, T + 4), (1, T + 2), (2, T)]


def test_gradients_reach_the_deltas_of_their_rows_and_no_other():
    several, tokens = library(make()), rows()[1]
    several(tokens, ["LoRA of rank 2", "LoRA of rank 5, elsewhere", "prompt of 4"]).square().sum().backward()
    reached = {
        name: any(p.grad is not None and p.grad.any() for s in entry.swaps for p in parameters(s.replacement))
        for name, entry in several.deltas.items()
    }
    assert {name for name, yes in reached.items() if yes} == {
        "LoRA of rank 2", "LoRA of rank 5, elsewhere", "prompt of 4"
    }  # fmt: skip


def parameters(thing):
    named = {"": thing} if isinstance(thing, torch.nn.Parameter) else dict(thing.named_parameters())
    return [p for name, p in named.items() if not name.startswith("base.")]


def test_deltas_come_from_disk_too(tmp_path):
    paths, expected = {}, {}
    tokens = rows()[1]
    for name in ("full", "LoRA of rank 2", "P-tuning", "prefix of an MLP"):
        model = stirred(METHODS[name], make())
        paths[name], expected[name] = tmp_path / f"{name}.safetensors", model(tokens)
        save(model, paths[name])
    several = MultiTask(make(), paths)
    names = ["P-tuning", "full", "prefix of an MLP"]
    got = several(tokens, names)
    for i, name in enumerate(names):
        close(got[i], expected[name][i])
    with pytest.raises(DeltaError, match="another base"):
        MultiTask(make(None, context=30), paths)


def test_on_the_shipped_base_the_row_decides_which_task_it_is():
    several = MultiTask(base())
    for words in ("reverse blue", "sort red", "swap next"):
        PrefixTuning(length=2, init=tuple(encode(words).tolist())).attach(several.model)
        several.keep(words)
    names = ["sort red", None, "reverse blue", "swap next", "sort red"]
    tokens = encode(": cabbed =").expand(5, -1)
    got = several.generate(tokens, names, 6)
    for row, name in zip(got, names, strict=True):
        told = encode(f"{name or ''} : cabbed =")[None]
        assert torch.equal(row, several.model.generate(told, 6)[0])


def test_six_tasks_learned_by_six_methods_in_one_batch():
    """On the shipped base, after real training: row by row what each gives alone, and mostly the right answers."""
    learned = {
        "reverse+blue": (PromptTuning(length=4), 3e-2),
        "sort+red": (PTuningV2(length=4), 3e-2),
        "swap+next": (LoRA(rank=4), 3e-2),
        "left+plus5": (Full(), 3e-3),
        "copy+mirror": (PTuning(length=4), 3e-3),
        "right+green": (Pfeiffer(size=16), 1e-2),
    }
    several, expected, answers = MultiTask(base()), {}, {}
    lines = task("copy+plain").batch(5, torch.Generator().manual_seed(0)).tokens[:, :8]
    for name, (method, lr) in learned.items():
        method.attach(several.model)
        fit(several.model, task(name), steps=45, lr=lr, warmup=4, device="cpu", progress=False)
        expected[name], answers[name] = several.model(lines), several.model.generate(lines, 7, stop=EOS)
        several.keep(name)
    names = [name for name in learned for _ in lines]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))
    rows, names = lines.repeat(6, 1)[order], [names[i] for i in order]
    got = several(rows, names)
    scale = float(got.detach().abs().max())
    close(got / scale, torch.cat(list(expected.values()))[order] / scale, 1e-6)
    made = several.generate(rows, names, 7, stop=EOS)
    assert torch.equal(made, torch.cat([F.pad(a, (0, 7 - a.shape[1]), value=EOS) for a in answers.values()])[order])
    right = [task(name).answer(row[None, 1:7] - FIRST_LETTER) for name, row in zip(names, rows, strict=True)]
    hits = [torch.equal(m[:6], r[0] + FIRST_LETTER) for m, r in zip(made, right, strict=True)]
    assert sum(hits) > 0.6 * len(hits)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["LoRA", "Lora", "prefix"], "there is no delta Lora; there are LoRA, prefix, and None"),
        (["LoRA", None], "there are 2 names for 3 rows"),
        ([1, "LoRA", None], "there is no delta 1"),
    ],
)
def test_wrong_names_are_told(names, says):
    several, tokens = library(make(), {"LoRA": LoRA(), "prefix": PrefixTuning()}), rows()[1]
    with pytest.raises(ValueError, match=says):
        several(tokens, names)
    with pytest.raises(ValueError, match=says):
        several.generate(tokens, names, 2)


def test_what_is_on_the_model_itself_is_told():
    several, tokens = library(make(), {"LoRA": LoRA()}), rows()[1]
    LoRA(rank=2).attach(several.model)
    with pytest.raises(RuntimeError, match=r"LoRA\(rank=2\) is attached to the model itself: keep"):
        several(tokens, ["LoRA"] * 3)
    merge(several.model)
    with pytest.raises(RuntimeError, match="is merged into the model itself"):
        several(tokens, ["LoRA"] * 3)
    with pytest.raises(RuntimeError, match="merged already; call unmerge"):
        several.keep("merged")
    detach(several.model)
    with pytest.raises(RuntimeError, match="there are 0"):
        several.keep("nothing")
    for name in ("LoRA", None):
        with pytest.raises(ValueError, match="needs a name"):
            several.keep(name)
    several.model.train()
    with pytest.raises(RuntimeError, match=r"call model\.eval"):
        several(tokens, ["LoRA"] * 3)


def test_an_error_inside_leaves_the_base_bare():
    several, tokens = library(make(None, context=9)), rows()[1]
    mark = fingerprint(several.model)
    with pytest.raises(ValueError, match="the context has 9"):
        several(tokens, ["full", "prompt of 4", "LoRA of rank 2"])
    assert fingerprint(several.model) == mark
    assert not attachments(several.model)
    assert all(type(block.attn) is Attention for block in several.model.blocks)


def test_outputs_of_different_shape_are_told():
    several, tokens = library(make(), {"tokens": LoRA(), "classes": PTuningV2(classes=3)}), rows()[1]
    assert several(tokens, ["classes"] * 3).shape == (3, 3)
    with pytest.raises(ValueError, match=r"'tokens': \(7, 23\), 'classes': \(3,\)"):
        several(tokens, ["tokens", "classes", "tokens"])
