"""Several views in one batch: every row gets what its view gives alone."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.bases import base
from minipeft.deltas import load, save
from minipeft.methods import (
    IA3,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LoRA,
    Pfeiffer,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
)
from minipeft.mixing import MultiTask
from minipeft.models.vision import VisionConfig, ViT
from minipeft.tasks import EOS, FIRST_LETTER, Together, encode, task
from minipeft.training import evaluate, fit
from minipeft.views import move, summary
from minipeft.worlds.pictures import Digits
from tests.models import BOS, T, bits, close, make, rows, same_bits, stirred

METHODS = {
    "full": Full(),
    "LoRA of rank 2": LoRA(rank=2, alpha=3),
    "LoRA of rank 5, elsewhere": LoRA(rank=5, targets=("v", "down", "head")),
    "LoRA of the embedding": LoRA(rank=2, targets=("token",)),
    "LoRA of positions": LoRA(rank=2, targets=("position",)),
    "named weight": LoRA(rank=2, targets=("up.weight",)),
    "LoRA on a quantized weight": QLoRA(rank=2, quant_type="nf3"),
    "prompt of 4": PromptTuning(length=4),
    "another of 4": PromptTuning(length=4),
    "prompt of 2": PromptTuning(length=2),
    "P-tuning": PTuning(length=3, width=5),
    "template": PTuning(length=3, template=(-1, 9, -1, 4, -1), width=5),
    "prefix": PrefixTuning(length=3),
    "prefix of an MLP": PrefixTuning(length=2, mlp=5),
    "deep": PTuningV2(length=3),
    "key/value": PTuningV2(length=4, form="key/value"),
    "IA3": IA3(),
    "IA3 of outputs": IA3(outputs=("q", "up"), inputs=()),
    "Houlsby": Houlsby(size=5),
    "BitFit": BitFit(),
    "DoRA": DoRA(rank=2),
}
STACKS = {
    "LoRA on a prompt on a prefix": (PrefixTuning(length=3), PromptTuning(length=2), LoRA(rank=2)),
    "prefix on Houlsby": (Houlsby(size=3), PrefixTuning(length=2)),
    "LoRA on LoRA": (LoRA(rank=1), LoRA(rank=2)),
}


def library(model, methods=METHODS, stacks=()):
    views = {name: stirred(method, model, seed) for seed, (name, method) in enumerate(methods.items())}
    for seed, name in enumerate(stacks):
        view = model
        for level, method in enumerate(STACKS[name]):
            view = stirred(method, view, 50 + 5 * seed + level)
        views[name] = view
    return MultiTask(views)


def alone(several, name):
    return several.views[name] if name is not None else several.base


def shuffled(names):
    names = [*names, None] * 2
    random.Random(1).shuffle(names)
    return names


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_every_row_gets_what_its_view_gives_alone(bos, side):
    model = make(bos).double()
    several, before = library(model, stacks=STACKS), bits(model)
    names = shuffled(several.views)
    _, tokens, mask = rows(side)
    which = torch.arange(len(names)) % 3
    tokens, mask = tokens[which], mask[which] if side else None
    real = mask if side else torch.ones_like(tokens, dtype=torch.bool)
    got, seen = several(tokens, names, mask), []
    for name in dict.fromkeys(names):
        expected = alone(several, name)(tokens, mask)
        for i in [i for i, n in enumerate(names) if n == name]:
            close(got[i][real[i]], expected[i][real[i]], 1e-9)
        seen.append(expected[0][real[0]])
    for i, one in enumerate(seen):
        assert all((one - other).abs().max() > 1e-2 for other in seen[:i]), "no two views answer alike"
    assert same_bits(model, before)


@pytest.mark.parametrize("stop", [None, 17])
def test_generation_too(stop):
    several = library(make().double(), stacks=STACKS)
    names = shuffled(several.views)
    _, tokens, mask = rows("left")
    which = torch.arange(len(names)) % 3
    tokens, mask = tokens[which], mask[which]
    got = several.generate(tokens, names, 6, mask, stop=stop)
    for i, name in enumerate(names):
        expected = alone(several, name).generate(tokens[i : i + 1], 6, mask[i : i + 1], stop=stop)[0]
        if stop is not None:
            expected = F.pad(expected, (0, 6 - len(expected)), value=stop)[: got.shape[1]]
        assert torch.equal(got[i], expected), name
    assert len({tuple(row.tolist()) for row in got}) > 3


def test_generation_ends_when_all_rows_have_ended():
    several, tokens = library(make(), {"LoRA": LoRA(), "full": Full()}), rows()[1]
    made = several.generate(tokens, ["LoRA", "full", None], 6)
    for stop in made[:, 0].unique():
        got = several.generate(tokens, ["LoRA", "full", None], 6, stop=int(stop))
        lengths = [(row == stop).nonzero()[0].item() + 1 if (row == stop).any() else 6 for row in made]
        assert got.shape[1] == max(lengths)


def test_rows_under_lora_ia3_prompts_and_prefixes_share_a_pass_and_the_others_have_their_own():
    several = library(make(), stacks=STACKS)
    sharing = [name for name in several.views if several.shares(name)]
    assert sharing == [
        "LoRA of rank 2", "LoRA of rank 5, elsewhere", "prompt of 4", "another of 4", "prompt of 2", "P-tuning",
        "template", "prefix", "prefix of an MLP", "deep", "key/value", "IA3", "IA3 of outputs",
        "LoRA on a prompt on a prefix",
    ]  # fmt: skip
    tokens, sizes = rows()[1][:1].expand(9, -1), []
    names = ["LoRA of rank 2", None, "prompt of 4", "prefix", "IA3", "deep", "full", "full", "BitFit"]
    several(tokens, names)
    hear = [model.blocks[0].register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[:2])))
            for model in (several.batch.model, several.views["full"], several.views["BitFit"])]  # fmt: skip
    several(tokens, names)
    assert sizes == [(6, T + 4), (2, T), (1, T)]
    assert len(hear) == 3


def test_gradients_reach_the_views_of_their_rows_and_no_other():
    several, tokens = library(make()), rows()[1]
    wanted = ["LoRA of rank 2", "IA3", "prompt of 4"]
    several(tokens, wanted).square().sum().backward()
    reached = [
        name
        for name, view in several.views.items()
        if any(p.grad is not None and p.grad.any() for p in trainable(view).values())
    ]
    assert sorted(reached) == sorted(wanted)
    assert all(p.grad is None for p in several.base.parameters())


def test_what_is_trained_in_a_view_is_seen_in_the_batch():
    several, tokens = library(make(), {"a": LoRA(), "b": PromptTuning()}), rows()[1]
    before = several(tokens, ["a", "b", "a"])
    with torch.no_grad():
        for p in trainable(several.views["a"]).values():
            p.add_(0.5)
    after = several(tokens, ["a", "b", "a"])
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_views_come_and_go():
    several, tokens = library(make(), {"a": LoRA(), "b": PromptTuning()}), rows()[1]
    c = stirred(PrefixTuning(), several.base, 7)
    several.add("c", c)
    close(several(tokens, ["c", "a", "b"])[0], c(tokens)[0])
    assert several.remove("c") is c
    with pytest.raises(ValueError, match="there is no view c; there are a, b, and None"):
        several(tokens, ["c", "a", "b"])
    with pytest.raises(ValueError, match="there is no view c"):
        several.remove("c")
    close(several(tokens, ["b", "a", "b"])[1], several.views["a"](tokens)[1])


def test_views_come_from_disk_too(tmp_path):
    model, tokens, views, expected = make(), rows()[1], {}, {}
    for name in ("full", "LoRA of rank 2", "P-tuning", "prefix of an MLP"):
        view = stirred(METHODS[name], make())
        expected[name] = view(tokens)
        save(view, tmp_path / name)
        views[name] = load(tmp_path / name, model)
    got, names = (
        MultiTask(views)(tokens, ["P-tuning", "full", "prefix of an MLP"]),
        ["P-tuning", "full", "prefix of an MLP"],
    )
    for i, name in enumerate(names):
        close(got[i], expected[name][i])


class Net(nn.Module):
    """Layers see rows, tokens and heads in another order each: what stands first is the batch for the model alone."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.embed, self.fc, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens, scale=None, *, shift=0.0):
        h = self.embed(tokens)  # (B, T, d)
        if self.how == "flat":
            h = self.fc(h.flatten(0, 1)).view_as(h)
        elif self.how == "pooled":
            h = self.fc(h.mean(1))[:, None]
        elif self.how == "heads":
            h = self.fc(h[:, None].expand(-1, 2, -1, -1)).mean(1)  # (B, 2, T, d)
        elif self.how == "tokens first":
            h = self.fc(h.transpose(0, 1)).transpose(0, 1)  # (T, B, d)
        else:
            h = self.fc(h)
        return self.head(torch.tanh(h if scale is None else h * scale[:, None, None])) + shift


@pytest.mark.parametrize("how", ["plain", "flat", "pooled", "heads", "tokens first"])
@pytest.mark.parametrize("size", [2, 5])
def test_other_models_with_layers_of_any_shape_and_any_arguments(how, size):
    torch.manual_seed(0)
    net, tokens = Net(how).eval(), torch.randint(9, (size, 2 if how == "tokens first" else 5))
    methods = {"a": LoRA(rank=2, targets=("fc",)), "b": IA3(outputs=("fc",), inputs=("head",)), "c": Full()}
    several = MultiTask({name: stirred(method, net, seed) for seed, (name, method) in enumerate(methods.items())})
    names = (["b", "a"] if size == 2 else ["b", None, "a", "c", "b"])[:size]
    scale = torch.arange(1.0, size + 1)
    got = several(tokens, names, scale, shift=2.0)
    for i, name in enumerate(names):
        close(got[i], alone(several, name)(tokens[i : i + 1], scale[i : i + 1], shift=2.0)[0])


def test_on_the_shipped_base_the_row_decides_which_task_it_is():
    model = base()
    told = {words: PrefixTuning(length=2, init=tuple(encode(words).tolist())).attach(model)
            for words in ("reverse blue", "sort red", "swap next")}  # fmt: skip
    several, names = MultiTask(told), ["sort red", None, "reverse blue", "swap next", "sort red"]
    tokens = encode(": cabbed =").expand(5, -1)
    for row, name in zip(several.generate(tokens, names, 6), names, strict=True):
        assert torch.equal(row, model.generate(encode(f"{name or ''} : cabbed =")[None], 6)[0])


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
    model, views = base(), {}
    words = task("copy+plain").batch(5, torch.Generator().manual_seed(0)).tokens[:, :8]
    for name, (method, lr) in learned.items():
        views[name] = method.attach(model)
        fit(views[name], task(name), steps=45, batch_size=64, lr=lr, warmup=0.1, device="cpu", progress=False)
    several = MultiTask(views)
    names = [name for name in learned for _ in words]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))
    inputs, names = words.repeat(6, 1)[order], [names[i] for i in order]
    got = several(inputs, names)
    expected = torch.cat([view(words) for view in views.values()])[order]
    scale = float(got.detach().abs().max())
    close(got / scale, expected / scale, 1e-6)
    made = several.generate(inputs, names, 7, stop=EOS)
    answers = [view.generate(words, 7, stop=EOS) for view in views.values()]
    assert torch.equal(made, torch.cat([F.pad(a, (0, 7 - a.shape[1]), value=EOS) for a in answers])[order])
    right = [task(name).answer(row[None, 1:7] - FIRST_LETTER) for name, row in zip(names, inputs, strict=True)]
    hits = [torch.equal(m[:6], r[0] + FIRST_LETTER) for m, r in zip(made, right, strict=True)]
    assert sum(hits) > 0.6 * len(hits)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["LoRA", "Lora", "prefix"], "there is no view Lora; there are LoRA, prefix, and None"),
        (["LoRA", None], "there are 2 names for 3 rows"),
        ([1, "LoRA", None], "there is no view 1"),
    ],
)
def test_wrong_names_are_told(names, says):
    several, tokens = library(make(), {"LoRA": LoRA(), "prefix": PrefixTuning()}), rows()[1]
    with pytest.raises(ValueError, match=says):
        several(tokens, names)
    with pytest.raises(ValueError, match=says):
        several.generate(tokens, names, 2)


def test_what_is_no_view_of_the_base_is_told():
    several, other = library(make(), {"LoRA": LoRA()}), make()
    for name in ("LoRA", None, 3):
        with pytest.raises(ValueError, match="needs a name, a text that is not taken"):
            several.add(name, LoRA().attach(several.base))
    with pytest.raises(ValueError, match="'bare' is a Transformer and no view"):
        several.add("bare", several.base)
    with pytest.raises(ValueError, match="'path' is a str and no view"):
        several.add("path", "delta.safetensors")
    with pytest.raises(ValueError, match="'other' is a view of another model"):
        several.add("other", LoRA().attach(other))
    for wrong in ({}, [several.views["LoRA"]], several.base, several.views["LoRA"]):
        with pytest.raises(ValueError, match="MultiTask takes named views"):
            MultiTask(wrong)


def test_a_view_that_drops_out_has_a_pass_of_its_own():
    methods = {"plain": LoRA(), "dropping": LoRA(rank=3, dropout=0.5)}
    several, tokens = library(make(), methods), rows()[1]
    names = ["plain", "dropping", "plain"]
    calm = several(tokens, names)
    several.train()
    torch.manual_seed(3)
    first, second = several(tokens, names), several(tokens, names)
    assert several.shares("plain")
    assert not several.shares("dropping")
    assert not torch.equal(first[1], second[1]), "dropout is drawn anew"
    close(first[[0, 2]], calm[[0, 2]])
    several.eval()
    close(several(tokens, names), calm)


SHARED = {
    "LoRA": (LoRA(rank=3), LoRA(rank=2)),
    "LoRA under prompts": (LoRA(rank=3), PromptTuning(length=2)),
    "prompt under LoRA": (PromptTuning(length=3), LoRA(rank=2)),
    "prefix under IA3": (PrefixTuning(length=2), IA3()),
    "adapter under IA3": (Houlsby(size=3), IA3()),
}


def family(kind, model):
    """Three views that stand on one, all of them trained together."""
    below, above = SHARED[kind]
    shared = stirred(below, model)
    views = {}
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        views[name] = above.attach(shared, together=True)
    return shared, MultiTask(views)


@pytest.mark.parametrize("kind", SHARED)
def test_views_on_one_view_learn_what_they_share_together(kind):
    model, (_, tokens, _) = make().double(), rows()
    before = bits(model)
    shared, several = family(kind, model)
    assert several.base is shared
    names = ["a", "c", None]
    close(several(tokens, names)[2], shared(tokens)[2], 1e-9)
    alone = {name: view(tokens) for name, view in several.views.items()}
    got = several(tokens, names)
    close(got[0], alone["a"][0], 1e-9)
    close(got[1], alone["c"][1], 1e-9)
    got.square().sum().backward()
    wanted = {id(p) for view in (shared, *several.views.values()) for p in trainable(view).values()}
    found = trainable(several)
    assert {id(p) for p in found.values()} == wanted
    common = {id(p) for p in trainable(shared).values()}
    assert all({id(p) for p in trainable(view).values()} > common for view in several.views.values())
    assert all(p.grad is not None and p.grad.any() for p in trainable(shared).values() if p.numel() > 12)
    assert same_bits(model, before)


def test_the_gradient_of_a_mixed_batch_is_the_sum_of_those_of_its_rows():
    shared, several = family("LoRA", make().double())
    tokens, names = rows()[1], ["a", "c", "a"]

    def gradients(run):
        for p in trainable(several).values():
            p.grad = None
        run()
        return [None if p.grad is None else p.grad.clone() for p in trainable(several).values()]

    def one_by_one():
        for row, name in zip(tokens, names, strict=True):
            several.views[name](row[None]).square().sum().backward()

    for mine, theirs in zip(
        gradients(lambda: several(tokens, names).square().sum().backward()), gradients(one_by_one), strict=True
    ):
        if theirs is not None:
            close(mine, theirs, 1e-8)
    assert trainable(shared)


def test_fit_trains_what_is_shared_and_what_is_private():
    names = ["reverse+blue", "copy+red", "sort+next"]
    torch.manual_seed(0)
    shared = LoRA(rank=2).attach(base())
    several = MultiTask({name: LoRA(rank=1).attach(shared, together=True) for name in names})
    start = {name: p.detach().clone() for name, p in trainable(several).items()}
    goal = Together({name: task(name) for name in names})
    history = fit(several, goal, steps=40, batch_size=31, lr=3e-2, device="cpu", progress=False)
    assert all(not torch.equal(p, start[name]) for name, p in trainable(several).items())
    assert history.loss[-1] < 0.7 * history.loss[0]
    for name, view in several.views.items():
        assert evaluate(view, task(name), 100).loss < evaluate(detach(shared), task(name), 100).loss
    assert evaluate(several, goal, 90).loss == pytest.approx(
        sum(evaluate(view, task(name), 90).loss for name, view in several.views.items()) / 3, rel=0.3
    )


def test_what_is_shared_is_saved_once_and_the_private_parts_on_top_of_it(tmp_path):
    model = base()
    shared = LoRA(rank=2).attach(model)
    several = MultiTask({name: LoRA(rank=1).attach(shared, together=True) for name in ("reverse+blue", "copy+red")})
    goal = Together({name: task(name) for name in several.views})
    fit(several, goal, steps=5, lr=3e-2, device="cpu", progress=False)
    save(shared, tmp_path / "shared")
    for name, view in several.views.items():
        save(view, tmp_path / name)
    again = load(tmp_path / "shared", model)
    tokens = task("copy+plain").batch(4, torch.Generator()).tokens
    for name, view in several.views.items():
        close(load(tmp_path / name, again)(tokens), view(tokens))


def test_a_sequence_beyond_the_context_is_told():
    several, tokens = library(make(None, context=9)), rows()[1]
    with pytest.raises(ValueError, match="the context has 9"):
        several(tokens, ["full", "prompt of 4", "LoRA of rank 2"])


def test_outputs_of_different_shape_are_told():
    several, tokens = library(make(), {"tokens": LoRA(), "classes": PTuningV2(classes=3)}), rows()[1]
    assert several(tokens, ["classes"] * 3).shape == (3, 3)
    with pytest.raises(ValueError, match=r"'tokens': \(7, 23\), 'classes': \(3,\)"):
        several(tokens, ["tokens", "classes", "tokens"])


def test_pictures_get_what_their_view_gives_whatever_stands_in_front_and_whatever_head_it_has():
    model = ViT(VisionConfig(side=8, patch=4, classes=3, dim=12, heads=3, ff=20, layers=2)).eval()
    pictures = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    methods = {"short": PromptTuning(length=1), "long": PromptTuning(length=5), "LoRA": LoRA(rank=2)}
    for classes in (None, 4):
        headed = {name: replace(method, classes=classes) for name, method in methods.items()}
        several = library(model, headed)
        names = ["long", "short", "LoRA", "long"]
        got = several(pictures, names)
        assert got.shape == (4, classes or 3)
        for i, name in enumerate(names):
            close(got[i], several.views[name](pictures[i : i + 1])[0])
    with pytest.raises(ValueError, match="rows give outputs of different shape"):
        several(pictures, ["long", None, "LoRA", "long"])


def test_tasks_of_classes_are_trained_together():
    model = ViT(VisionConfig(side=28, patch=7, classes=3, dim=12, heads=3, ff=20, layers=1)).eval()
    torch.manual_seed(0)
    views = {name: LoRA(rank=2, classes=10).attach(model) for name in ("clean", "paper")}
    several = MultiTask(views)
    goal = Together({"clean": Digits(each=3), "paper": Digits(each=3, paper=True)})
    history = fit(several, goal, steps=60, lr=1e-2, device="cpu", progress=False)
    assert history.loss[-1] < 0.8 * history.loss[0]
    alone = [evaluate(view, task).accuracy for (_, task), view in zip(goal.goals, views.values(), strict=True)]
    assert min(alone) > 0.2


def test_a_base_that_was_moved_is_followed():
    several, tokens = library(make(), {"a": LoRA(), "b": PromptTuning()}), rows()[1]
    before = several(tokens, ["a", "b", None])
    assert detach(several.views["a"]) is several.base
    for view in several.views.values():
        move(view, torch.float64)
    close(several(tokens, ["a", "b", None]), before.double(), 1e-4)


def test_the_base_counts_once_however_many_views_stand_on_it():
    model = make()
    several = MultiTask({name: LoRA(rank=1).attach(model) for name in "abc"})
    size = sum(p.numel() for p in model.parameters())
    new = sum(p.numel() for p in trainable(several).values())
    assert summary(several) == f"trainable: {new:,} of {size:,} ({100 * new / size:.2f} %)"
