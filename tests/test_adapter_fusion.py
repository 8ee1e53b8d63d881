"""AdapterFusion against its equation, and the way of three adapters from their own deltas into one that needs none.

Pre-norm and post-norm blocks, three heads, a padded row, all weights away from their start.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from minipeft.attach import detach, trainable
from minipeft.deltas import DeltaError, delta_of, load, read, save
from minipeft.methods import AdapterFusion, Houlsby, LoRA, Pfeiffer
from minipeft.methods.adapter_fusion import Fusion, fusions
from minipeft.models.transformer import Cache, Config, Transformer, attention_mask
from minipeft.tasks import Batch
from minipeft.training import evaluate, fit
from tests.models import DIM, LAYERS, VOCAB, T, apart, bits, close, count, make, moved, rows, same_bits, stirred

SIZE, N = 5, 3
FUSION = AdapterFusion(N, SIZE)


@pytest.fixture(params=["pre-norm", "post-norm"])
def base(request):
    return make(None, causal=request.param == "pre-norm")


@pytest.fixture
def paths(base, tmp_path):
    """Deltas of three Pfeiffer adapters, far from their start."""
    found = [tmp_path / f"task{n}.safetensors" for n in range(N)]
    for n, path in enumerate(found):
        save(stirred(Pfeiffer(SIZE), base, seed=n), path)
    return found


def fused(base, paths, size=SIZE):
    """A view with the fusion of these adapters, at its start."""
    method = AdapterFusion(len(paths), size)
    view = method.attach(base)
    method.fill(view, [read(path, base) for path in paths])
    return view


def by_hand(base, adapters, learned, tokens, mask):
    """Logits and the attention of each layer; adapters: the tensors of their deltas, learned: of the fusion."""

    def o(where, h):
        z = []
        for t in adapters:
            D, b_D, U, b_U = (t[f"{where}.adapter.{name}"] for name in ("D.weight", "D.bias", "U.weight", "U.bias"))
            z.append(F.relu(h @ D.T + b_D) @ U.T + b_U)
        W = {name: learned[f"{where}.fusion.{name}.weight"] for name in ("query", "key", "value")}
        q = h @ W["query"].T + learned[f"{where}.fusion.query.bias"]
        scores = [(q * (z_t @ W["key"].T + learned[f"{where}.fusion.key.bias"])).sum(-1) for z_t in z]
        most = torch.stack(scores).amax(0)
        whole = sum((s - most).exp() for s in scores)
        α = [(s - most).exp() / whole for s in scores]
        maps.append(torch.stack(α, dim=-1))
        return sum(α_t[..., None] * (z_t @ W["value"].T) for α_t, z_t in zip(α, z, strict=True))

    maps, cache = [], Cache(LAYERS)
    cache.extend(tokens, mask)
    x, visible = base.embed(tokens, cache), attention_mask(T, T, base.config.causal, mask)
    for i, block in enumerate(base.blocks):
        if base.config.pre_norm:
            x = block(x, visible)
            x = x + o(f"blocks.{i}", x)
        else:
            x = block.norm1(x + block.attn(x, visible))
            s = x + block.mlp(x)
            x = block.norm2(s + o(f"blocks.{i}.norm2", block.norm2(s)))
    return base.head(base.norm(x)), maps


def test_logits_gradients_and_attention_are_the_equation(base, paths):
    view, (_, tokens, mask) = fused(base, paths), rows("left")
    moved(view, trainable(view).values(), 0.06)
    y = view(tokens, mask)
    learned = {name: p.detach().clone().requires_grad_() for name, p in trainable(view).items()}
    expected, maps = by_hand(base, [read(path).tensors for path in paths], learned, tokens, mask)
    close(y, expected)
    for fusion, α in zip(fusions(view).values(), maps, strict=True):
        assert fusion.weights.shape == (3, T, N)
        assert not fusion.weights.requires_grad
        close(fusion.weights, α)
        assert α.std(dim=1).mean() > 0.005, "each token asks for itself"
    for logits in (y, expected):
        logits[mask].square().mean().backward()
    for name, p in trainable(view).items():
        close(p.grad, learned[name].grad, 1e-4)


def test_the_fusion_of_one_adapter_starts_as_that_adapter(base, paths):
    tokens = rows()[1]
    close(fused(base, paths[1:2])(tokens), load(paths[1], base)(tokens))


def test_the_order_of_the_adapters_does_not_matter_at_the_start(base, paths):
    found = []
    for order in (paths, paths[::-1]):
        torch.manual_seed(5)
        found.append(fused(base, order)(rows()[1]))
    close(*found)


def test_the_start_asks_all_alike_and_leaves_what_they_say():
    fusion = Fusion(torch.ones(200), N, SIZE)
    assert torch.equal(fusion.value.weight, torch.eye(200))
    for layer in (fusion.query, fusion.key):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not layer.bias.any()
    assert fusion.value.bias is None


def test_without_adapters_it_is_the_base_and_training_is_refused(base, paths):
    view, tokens = FUSION.attach(base), rows()[1]
    assert torch.equal(view(tokens), base(tokens))
    with pytest.raises(RuntimeError, match=r"AdapterFusion\(adapters=3, size=5\) has empty places.*fill"):
        fit(view, Shift(1), steps=1, lr=1e-3, device="cpu", progress=False)
    FUSION.fill(view, [read(path, base) for path in paths])
    with torch.no_grad():
        fusions(view)[next(iter(fusions(view)))].U[1] = 0  # one place in one layer
    with pytest.raises(RuntimeError, match="empty places"):
        FUSION.groups(view, 1e-3)


def test_training_leaves_base_and_adapters_bit_for_bit(base, paths):
    before, view, tokens = bits(base), fused(base, paths).train(), rows()[1]
    adapters = {name: t.clone() for name, t in view.named_buffers()}
    started = {name: p.detach().clone() for name, p in trainable(view).items()}
    optimizer = torch.optim.AdamW(trainable(view).values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(view(tokens).flatten(0, 1), tokens.flatten()).backward()
        assert all(p.grad.any() for p in trainable(view).values())
        optimizer.step()
    assert all(not torch.equal(p, started[name]) for name, p in trainable(view).items())
    assert len(adapters) == 4 * LAYERS
    assert all(torch.equal(t, adapters[name]) for name, t in view.named_buffers())
    assert same_bits(base, before)


def test_the_regularizer_is_the_distance_of_the_values_from_the_identity(base, paths):
    method, view = AdapterFusion(N, SIZE, regularization=0.3), fused(base, paths)
    assert method.regularizer(view) == 0
    values = [fusion.value.weight for fusion in fusions(view).values()]
    moved(view, trainable(view).values(), 0.3)
    penalty = method.regularizer(view)
    close(penalty, 0.3 * sum((W - torch.eye(DIM)).norm() ** 2 for W in values))
    penalty.backward()
    for W in values:
        close(W.grad, 0.6 * (W - torch.eye(DIM)).detach())
    assert AdapterFusion(N, SIZE, regularization=0).regularizer(view) == 0


class Shift:
    """The answer to each token is the one `by` further on."""

    def __init__(self, by):
        self.by = by

    def batch(self, size, generator):
        x = torch.randint(VOCAB, (size, 6), generator=generator)
        return Batch(x, (x + self.by) % VOCAB)


def test_two_adapters_learned_apart_are_fused(tmp_path):
    base = Transformer(Config(VOCAB, DIM, 2, heads=3, ff=20, context=16))
    settings = {"lr": 3e-2, "batch_size": 32, "device": "cpu", "progress": False}
    paths = [tmp_path / "1", tmp_path / "2"]
    for by, path in enumerate(paths, start=1):
        view = Pfeiffer(4).attach(base)
        fit(view, Shift(by), steps=60, **settings)
        save(view, path)
    view = fused(base, paths, size=4)
    before = evaluate(view, Shift(1), 200).loss
    fit(view, Shift(1), steps=20, **settings)
    assert evaluate(view, Shift(1), 200).loss < 0.85 * min(before, evaluate(base, Shift(1), 200).loss)


def test_the_delta_of_a_fusion_needs_no_other(base, paths, tmp_path):
    view, tokens = fused(base, paths), rows()[1]
    moved(view, trainable(view).values(), 0.3)
    save(view, tmp_path / "fusion")
    for path in paths:
        path.unlink()
    again = load(tmp_path / "fusion", base)
    assert torch.equal(again(tokens), view(tokens))
    stored = sum(t.numel() for t in load_file(tmp_path / "fusion").values())
    assert stored == count(view) + LAYERS * N * (2 * DIM * SIZE + SIZE + DIM)
    FUSION.groups(again, 1e-3)  # it may go on learning


def test_fill_copies(base, paths):
    view, deltas, tokens = FUSION.attach(base), [read(path, base) for path in paths], rows()[1]
    FUSION.fill(view, deltas)
    y = view(tokens)
    for delta in deltas:
        for t in delta.tensors.values():
            t.zero_()
    assert torch.equal(view(tokens), y)


def test_what_cannot_be_fused_is_told_and_nothing_is_filled(base, paths):
    deeper, wider = copy.deepcopy(base), Transformer(Config(VOCAB, 15, LAYERS, pre_norm=base.config.pre_norm, heads=3))
    deeper.blocks.append(copy.deepcopy(deeper.blocks[0]))

    def delta(method, base=base):
        return delta_of(method.attach(base))

    deltas, view = [read(path, base) for path in paths], FUSION.attach(base)
    for method, target in ((FUSION, base), (AdapterFusion(N + 1, SIZE), view)):
        with pytest.raises(RuntimeError, match="not attached"):
            method.fill(target, deltas)
    for bad, says in [
        (deltas[:2], "has places for 3 adapters, got 2"),
        ([*deltas, deltas[0]], "has places for 3 adapters, got 4"),
        ([*deltas[:2], delta(LoRA())], r"deltas of Pfeiffer\(size=5\); number 2 is LoRA\(rank=4\)"),
        ([*deltas[:2], delta(Houlsby(SIZE))], r"number 2 is Houlsby\(size=5\)"),
        ([delta(Pfeiffer(4)), *deltas[:2]], r"number 0 is Pfeiffer\(size=4\)"),
        ([*deltas[:2], delta(Pfeiffer(SIZE), deeper)], "number 2 is of another base"),
        ([*deltas[:2], delta(Pfeiffer(SIZE), wider)], "number 2 is of another base"),
    ]:
        with pytest.raises(ValueError, match=says):
            FUSION.fill(view, bad)
        assert not any(t.any() for _, t in view.named_buffers())


def test_an_adapter_of_a_base_of_the_same_shape_is_told_when_it_is_read(base, paths):
    with torch.no_grad():
        base.blocks[0].mlp.up.bias[0] += 1e-6
    with pytest.raises(DeltaError, match="belongs to another base"):
        read(paths[0], base)
    assert read(paths[0]).method == Pfeiffer(SIZE)


def test_between_other_methods_it_is_found_and_filled(base, paths):
    deltas, lower = [read(path, base) for path in paths], stirred(LoRA(targets=("up", "v")), base)
    view = FUSION.attach(lower)
    FUSION.fill(view, deltas)
    upper, tokens = LoRA(targets=("up",)).attach(view), rows()[1]
    assert list(fusions(upper)) == [name.partition(".fusion")[0] for name in list(trainable(view))[::5]]
    close(upper(tokens), view(tokens))
    for fusion, same in zip(fusions(upper).values(), fusions(view).values(), strict=True):
        assert fusion is not same
        close(fusion.weights, same.weights)
    apart(view(tokens), lower(tokens))
    assert detach(upper) is base
