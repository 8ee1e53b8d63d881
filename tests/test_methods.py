"""What holds for every method, on models with both kinds of positions and rows of different length."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from minipeft.attach import Wrapper, attachments, detach, trainable
from minipeft.bases import base as shipped
from minipeft.deltas import DeltaError, fold, load, read, save, trained, updates
from minipeft.lab import learning_rate_of
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LinearProbe,
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
from minipeft.models.transformer import Block
from minipeft.tasks import task
from minipeft.training import fit, loss_of
from minipeft.views import merge, move, summary
from tests.models import BOS, DIM, FF, LAYERS, VOCAB, T, bits, close, count, make, rows, same_bits, stirred

EVERY = [
    Full(),
    LinearProbe(),
    LoRA(rank=3, targets=("q", "down", "token")),
    LoRA(rank=2, targets=("k.weight", "up.weight")),
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
KINDS = {"absolute": None, "from BOS": BOS, "rotary": "rotary"}
PAIRS = [(m, kind) for m in EVERY for kind in KINDS if not (isinstance(m, BitFit) and kind == "rotary")]  # no biases
ON_EACH_KIND = pytest.mark.parametrize(
    ("method", "bos"), [(m, KINDS[kind]) for m, kind in PAIRS], ids=[f"{kind}-{m}" for m, kind in PAIRS]
)
MERGEABLE = Full | LinearProbe | BitFit | IA3 | LoRA | AdaLoRA | DoRA | VeRA | PiSSA
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "average": lambda model: AveragedModel(model).module,
}


def test_every_registered_method_is_put_to_these_tests():
    assert {type(method) for method in EVERY} == set(METHODS.values())


@ON_EACH_KIND
def test_the_method_changes_the_answer_keeps_its_shape_and_leaves_the_base_alone(method, bos):
    base, (_, tokens, _) = make(bos), rows(None)
    base.requires_grad_(True)
    plain, before = base(tokens), bits(base)
    logits = stirred(method, base)(tokens)
    assert logits.shape == plain.shape == (3, T, VOCAB)
    assert not torch.isclose(logits, plain, atol=1e-4).all(-1).any(), "every token notices"
    assert same_bits(base, before)
    assert torch.equal(base(tokens), plain)
    assert all(p.requires_grad for p in base.parameters())
    assert not any(isinstance(module, Wrapper) for module in base.modules())


@ON_EACH_KIND
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
        close(logits[i][mask[i]], stirred(method, model)(row[None])[0])


@ON_EACH_KIND
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


@ON_EACH_KIND
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_pieces_read_one_after_the_other_give_what_the_whole_gives(method, bos, side):
    model, (_, tokens, mask) = stirred(method, make(bos).double()), rows(side)
    mask = mask if side else None
    whole, cache, parts = model(tokens, mask), model.new_cache(), []
    for piece in (slice(0, 3), slice(3, 4), slice(4, T)):
        parts.append(model(tokens[:, piece], None if mask is None else mask[:, piece], cache))
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    close(torch.cat(parts, dim=1)[real], whole[real])


@ON_EACH_KIND
def test_training_reaches_all_of_the_method_and_none_of_the_base(method, bos):
    base, (_, tokens, _) = make(bos), rows(None)
    before = bits(base)
    model = stirred(method, base)
    learned = list(trainable(model).values())
    assert learned
    optimizer = torch.optim.SGD(learned, lr=0.1)
    loss_of(model(tokens[:, :-1]), tokens[:, 1:]).backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    for name, p in trainable(model).items():
        if not name.endswith(("attn.k.bias", "key.bias")):  # the softmax does not see them
            assert p.grad.any(), name
    assert detach(model) is base
    assert same_bits(base, before)
    assert all(p.grad is None for p in base.parameters())


@METHOD
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_gives_the_same_gradients(method, reentrant, monkeypatch):
    model, (_, tokens, mask) = stirred(method, make()), rows("left")
    plain = Block.forward

    def gradients():
        model.zero_grad()
        loss_of(model(tokens[:, :-1], mask[:, :-1]), tokens[:, 1:]).backward()
        return {name: p.grad.clone() for name, p in trainable(model).items() if p.grad is not None}

    wanted, blocks = gradients(), []

    def forward(self, x, mask=None, cache=None):
        blocks.append(self)
        x = x if x.requires_grad else x.detach().requires_grad_()  # reentrant checkpoints need an input that has one
        return checkpoint(plain, self, x, mask, cache, use_reentrant=reentrant)

    monkeypatch.setattr(Block, "forward", forward)
    if reentrant and getattr(method, "mlp", None):
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            gradients()  # the layers share a network, which such a checkpoint cannot pass twice; torch says so
        return
    found = gradients()
    assert len(blocks) == 3
    assert found.keys() == wanted.keys()
    for name in found:
        close(found[name], wanted[name], 1e-6)


@METHOD
def test_the_same_seed_starts_the_same(method):
    views = []
    for _ in range(2):
        torch.manual_seed(5)
        views.append(method.attach(make()))
    first, second = (trainable(view) for view in views)
    assert all(torch.equal(first[name], second[name]) for name in first)


@ON_EACH_KIND
def test_a_saved_delta_gives_the_same_answers_on_a_fresh_base(method, bos, tmp_path):
    model, (_, tokens, mask) = stirred(method, make(bos)), rows("left")
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    logits = model(tokens, mask)
    size = save(model, tmp_path / "d.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in trainable(model).items()), "saving changes nothing"
    loaded = load(tmp_path / "d.safetensors", make(bos))
    close(loaded(tokens, mask), logits, 1e-6)
    delta = read(tmp_path / "d.safetensors")
    assert delta.method == method.folded()
    assert size < 4 * sum(t.numel() for t in delta.tensors.values()) + 6000, "tensors, names, method, fingerprint"
    save(loaded, tmp_path / "again.safetensors")
    again = read(tmp_path / "again.safetensors")
    assert again.method == delta.method
    assert all(torch.equal(again.tensors[name], t) for name, t in delta.tensors.items())


@METHOD
def test_folding_is_saving_and_loading(method, tmp_path):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    logits = model(tokens)
    save(model, tmp_path / "d.safetensors")
    folded = fold(model)
    close(folded(tokens), logits, 1e-6)
    assert detach(folded) is detach(model)
    stored = read(tmp_path / "d.safetensors").tensors
    assert all(torch.equal(t, stored[name]) for name, t in trained(folded).items())


@ON_EACH_KIND
def test_what_can_be_merged_is_equal_and_what_cannot_is_told(method, bos):
    model, (_, tokens, mask) = stirred(method, make(bos)), rows("left")
    logits, fresh = model(tokens, mask), make(bos)
    if isinstance(method, MERGEABLE):
        merged = merge(model)
        close(merged(tokens, mask), logits)
        assert {type(m) for m in merged.modules()} == {type(m) for m in fresh.modules()}
        assert merged.state_dict().keys() == fresh.state_dict().keys()
        assert not attachments(merged)
        with torch.no_grad():
            for p in trainable(model).values():
                p.zero_()
        close(merged(tokens, mask), logits)
        fresh.load_state_dict(merged.state_dict())
        close(fresh(tokens, mask), logits)
    else:
        with pytest.raises(TypeError, match="cannot be merged"):
            merge(model)
    assert same_bits(detach(model), bits(make(bos)))


@METHOD
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_view_is_a_model_of_its_own(method, how, tmp_path):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    loss_of(model(tokens[:, :-1]), tokens[:, 1:]).backward()  # a copy while training: it keeps the best so far
    logits, twin = model(tokens), COPIES[how](model)
    assert torch.equal(twin(tokens), logits)
    save(twin, tmp_path / "twin.safetensors")
    with torch.no_grad():
        for p in trainable(twin).values():
            p.zero_()
    assert torch.equal(model(tokens), logits)
    close(load(tmp_path / "twin.safetensors", make())(tokens), logits, 1e-6)
    assert torch.equal(detach(twin)(tokens), make()(tokens))


@METHOD
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_view_is_the_same_model(method, tmp_path):
    model, (_, tokens, mask) = stirred(method, make(layers=1)), rows("left")
    logits, compiled = model(tokens, mask), torch.compile(model, backend="eager")
    close(compiled(tokens, mask), logits, 1e-6)
    save(compiled, tmp_path / "d.safetensors")
    assert read(tmp_path / "d.safetensors").tensors.keys() == trained(model).keys()
    assert detach(compiled) is detach(model)
    view = method.attach(torch.compile(make(layers=1), backend="eager"))
    assert trainable(view).keys() == trainable(model).keys()


@METHOD
def test_moving_a_view_keeps_what_it_shares_and_casting_it_alone_is_refused_at_saving(method, tmp_path):
    model, (_, tokens, _) = stirred(method, make()), rows(None)
    logits = model(tokens)
    move(model, torch.float64)
    close(model(tokens), logits.double(), 1e-2)
    base = detach(model)
    assert all(p.dtype == torch.float64 for p in [*base.parameters(), *trainable(model).values()])
    shared = {p.data_ptr() for p in base.parameters()}
    assert shared & {p.data_ptr() for p in model.parameters() if not p.requires_grad} or isinstance(method, Full)
    alone = stirred(method, make())
    alone.to(torch.float64)
    with pytest.raises(DeltaError, match=r"was cast to torch\.float64 and its base was not"):
        save(alone, tmp_path / "d.safetensors")


@METHOD
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_the_method_follows_the_type_of_its_base(method, kind):
    model, (_, tokens, _) = method.attach(make().to(kind)), rows(None)
    assert {p.dtype for p in trainable(model).values()} == {kind}
    logits = model(tokens)
    assert logits.dtype == kind
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in trainable(model).values() if p.grad is not None)


@METHOD
def test_autocast_trains_the_method_too(method):
    model, (_, tokens, mask) = stirred(method, make()), rows("left")
    exact = model(tokens, mask)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, mask)
        loss = loss_of(logits.float(), tokens)
    assert (logits - exact).abs()[mask].max() < 0.3 * exact[mask].std() * exact.abs().max()
    loss.backward()
    for name, p in trainable(model).items():
        if not name.endswith(("attn.k.bias", "key.bias")):
            assert p.grad.isfinite().all(), name
            assert p.grad.any(), name


@METHOD
def test_twenty_views_hold_the_numbers_of_their_base_once(method):
    base = make()
    views = [method.attach(base) for _ in range(20)]
    frozen = {name: p.data_ptr() for name, p in base.named_parameters()}
    for view in views:
        for name, p in view.named_parameters():
            plain = name.replace("base.", "")
            if not p.requires_grad and plain in frozen:
                assert p.data_ptr() == frozen[plain], name
    own = sum(p.numel() for view in views for p in trainable(view).values())
    assert own == 20 * sum(p.numel() for p in trainable(views[0]).values())
    tokens = rows(None)[1]
    changed = views[3]
    with torch.no_grad():
        for p in trainable(changed).values():
            p.add_(torch.randn_like(p))
    if not isinstance(method, AdapterFusion):
        assert torch.equal(base(tokens), make()(tokens))


FRONT = [r for r in EVERY if isinstance(r, PromptTuning | PTuning | PrefixTuning | PTuningV2)]


@pytest.mark.parametrize("method", FRONT, ids=str)
def test_what_stands_in_front_beyond_the_context_is_told_before_any_work(method):
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


@pytest.mark.parametrize("method", FRONT, ids=str)
def test_what_stands_in_front_takes_the_first_absolute_positions_and_none_before_bos(method):
    for bos in (None, BOS):
        model, seen = stirred(method, make(bos)), []
        model.embed.position.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        model(rows(None)[1])
        template = getattr(method, "template", None) or (-1,) * 3
        first = len(template) if bos is None else 1
        assert seen[0][0, -T:].tolist() == list(range(first, first + T))


@pytest.mark.parametrize("method", FRONT, ids=str)
def test_a_pass_without_a_cache_of_the_users_changes_nothing(method):
    model, (_, tokens, mask) = stirred(method, make()), rows("left")
    first, second = model(tokens, mask), model(tokens, mask)
    assert torch.equal(first, second)
    cache, fixed = model.new_cache(), model.new_cache(fixed=True)
    begun = fixed.length
    model(tokens, mask, cache)
    model(tokens, mask, fixed)
    assert fixed.length == begun
    assert cache.length >= begun + T


Q, UP, DOWN = DIM + DIM, DIM + FF, FF + DIM  # both sides of a matrix
SIX = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
LINEAR, MIXES = ("D.weight", "D.bias", "U.weight", "U.bias"), ("query.weight", "query.bias", "key.weight", "key.bias")
TRAINED = [  # the places of each layer, what is trained there, and how many numbers that are in a layer
    (LoRA(rank=3, targets=("q", "up")), SIX[::4], "AB", 3 * (Q + UP)),
    (QLoRA(rank=3), SIX, "AB", 3 * (4 * Q + UP + DOWN)),
    (AdaLoRA(initial_rank=5), SIX, ("P", "lam", "Q"), 5 * (4 * (Q + 1) + UP + DOWN + 2)),
    (DoRA(rank=3, targets=("q", "up")), SIX[::4], "ABm", 3 * (Q + UP) + DIM + FF),
    (VeRA(rank=7, targets=("q", "up", "down")), (*SIX[::4], SIX[5]), "bd", 3 * 7 + DIM + FF + DIM),
    (PiSSA(rank=3, targets=("q", "up")), SIX[::4], "AB", 3 * (Q + UP)),
    (IA3(), (SIX[1], SIX[2], SIX[5]), "l", 2 * DIM + FF),
    (BitFit(targets=("q", "up")), SIX[::4], ("bias",), DIM + FF),
    (Full(targets=("q",)), SIX[:1], ("weight", "bias"), DIM * DIM + DIM),
    (Houlsby(5, norms=False), ("attn.adapter", "mlp.adapter"), LINEAR, 2 * (2 * DIM * 5 + 5 + DIM)),
    (Pfeiffer(5), ("adapter",), LINEAR, 2 * DIM * 5 + 5 + DIM),
    (ParallelAdapter(5), ("mlp.adapter",), LINEAR, 2 * DIM * 5 + 5 + DIM),
    (AdapterFusion(2, 5), ("fusion",), (*MIXES, "value.weight"), 3 * DIM**2 + 2 * DIM),
]
IN_FRONT = [(PromptTuning(4), ["P"], 4 * DIM), (PTuning(4, encoder=None), ["encoder.h"], 4 * DIM)]
IN_FRONT += [(PrefixTuning(4), ["P_K", "P_V"], 2 * LAYERS * 4 * DIM), (PTuningV2(4), ["P"], LAYERS * 4 * DIM)]
IN_FRONT += [(PTuningV2(4, form="key/value"), ["P_K", "P_V"], 2 * LAYERS * 4 * DIM)]


@pytest.mark.parametrize(("method", "places", "names", "each"), TRAINED, ids=lambda value: str(value)[:20])
def test_exactly_this_is_trained_and_counted_by_the_formula(method, places, names, each):
    view = method.attach(make())
    assert set(trainable(view)) == {f"blocks.{i}.{at}.{name}" for i in range(LAYERS) for at in places for name in names}
    assert count(view) == LAYERS * each
    assert summary(view).startswith(
        f"trainable: {LAYERS * each:,} of {sum(p.numel() for p in make().parameters()):,} ("
    )


@pytest.mark.parametrize(("method", "names", "number"), IN_FRONT, ids=lambda value: str(value)[:20])
def test_in_front_of_a_sequence_exactly_this_is_trained(method, names, number):
    view = method.attach(make())
    assert list(trainable(view)) == [f"begin.{name}" for name in names]
    assert count(view) == number


STARTS = [  # what has no gradient at the first step, because it is multiplied by a zero
    (Full(), ()),
    (LoRA(rank=3, targets=("q", "down")), ".A"),
    (LoRA(rank=3, targets=("k.weight",)), ".A"),
    (LoRA(rank=3, targets=("token",)), ".B"),
    (AdaLoRA(), (".P", ".Q")),
    (DoRA(rank=3, targets=("q", "v", "down", "head")), ".A"),
    (VeRA(rank=6), ".d"),
    (IA3(), ()),
    (ParallelAdapter(size=5), ".D.weight"),
    (BitFit(targets=("q", "norm1", "down"), head=True), ()),
]


@pytest.mark.parametrize(("method", "idle"), STARTS, ids=str)
def test_the_start_is_the_base_bit_for_bit(method, idle):
    base, (_, tokens, _) = make(), rows()
    view = method.attach(base)
    assert torch.equal(view(tokens), base(tokens))
    view(tokens).square().sum().backward()
    for name, p in trainable(view).items():
        if not name.endswith(("attn.k.bias", "D.bias")):
            assert p.grad.any() != name.endswith(idle), name


@METHOD
def test_it_learns(method):
    view = method.attach(shipped("letters-d32"))
    if isinstance(method, AdapterFusion):
        view = stirred(method, detach(view))
    settings = {"steps": 30, "batch_size": 16, "warmup": 0.1, "lr": learning_rate_of(method)}
    history = fit(view, task("reverse+blue"), **settings, device="cpu", progress=False)
    assert sum(history.loss[-5:]) < 0.8 * sum(history.loss[:5])


@METHOD
def test_on_another_method_it_does_what_it_does_on_that_one_merged(method):
    lower, (_, tokens, _) = stirred(LoRA(rank=2, targets=("q", "up")), make().double()), rows()
    before = bits(lower)
    upper = stirred(method, lower, seed=3)
    close(upper(tokens), stirred(method, merge(lower), seed=3)(tokens), 1e-9)
    assert detach(upper, 1) is lower
    assert detach(upper) is detach(lower)
    assert [type(a.method) for a in attachments(upper)] == [LoRA, type(method)]
    upper(tokens).square().sum().backward()
    assert same_bits(lower, before)
    assert all(p.grad is None for p in lower.parameters())


@METHOD
@pytest.mark.parametrize("another", [LoRA(rank=2, targets=("q", "up")), None], ids=["LoRA", "itself"])
def test_another_method_on_it_is_merged_stored_and_taken_off_by_itself(method, another, tmp_path):
    base, (_, tokens, _) = make(), rows()
    lower = stirred(method, base)
    logits = lower(tokens)
    upper = stirred(another or method, lower, seed=3)
    stacked = upper(tokens)
    assert not torch.isclose(stacked, logits, atol=1e-4).all()
    assert torch.equal(lower(tokens), logits)
    assert len(attachments(upper)) == 2
    if isinstance(method, MERGEABLE):
        close(merge(upper)(tokens), stacked, 1e-4)
    else:
        with pytest.raises(TypeError, match="cannot be merged"):
            merge(upper)
    save(lower, tmp_path / "lower")
    save(upper, tmp_path / "upper")
    close(load(tmp_path / "upper", load(tmp_path / "lower", make()))(tokens), stacked, 1e-6)


@METHOD
def test_what_moved_is_what_merging_changes(method):
    base = make()
    view, old = stirred(method, base), bits(base)
    moved = updates(view)
    if not isinstance(method, MERGEABLE):
        assert set(moved) <= {name for name, p in base.named_parameters() if "norm" in name}
        return
    new = bits(merge(view))
    if not isinstance(method, QLoRA):  # whose W is the rounded one
        assert set(moved) == {name for name in old if not torch.equal(old[name], new[name])}
        assert all(torch.equal(W, old[name]) for name, (W, _) in moved.items())
    assert moved
    for name, (W, change) in moved.items():
        close(W + change, new[name], 1e-6)


@METHOD
def test_no_module_changes_what_it_is_given(method):
    view, (_, tokens, mask) = stirred(method, make()), rows("left")
    given = {}

    def before(module, args):
        given[module] = [(x, x.clone()) for x in args if torch.is_tensor(x)]

    def after(module, args, out):
        assert all(torch.equal(x, was) for x, was in given[module]), type(module).__name__

    for module in view.modules():
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    view(tokens, mask)
    assert len(given) > 20
