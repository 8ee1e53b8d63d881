"""The Transformer against its equations, written out a second time here, and against itself: padded, cached, extended.

Every parameter is random, biases and norms too; a fresh zero or one would hide what is wrong.
"""

import copy
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from minipeft.attach import Wrapper
from minipeft.methods import LoRA, PrefixTuning, PTuningV2
from minipeft.models import transformer
from minipeft.models.transformer import (
    MLP,
    Attention,
    Block,
    Cache,
    Config,
    Embed,
    EmbedFromBOS,
    KVCache,
    Transformer,
    attend,
    attention_mask,
    recording,
)
from minipeft.tasks import encode
from minipeft.training import loss_of
from tests.models import BOS, DIM, HEADS, LAYERS, VOCAB, T, bits, close, make, rows, same_bits, stirred

SIZE = DIM // HEADS
KINDS = pytest.mark.parametrize("bos", [None, BOS], ids=["absolute", "from BOS"])
SIDES = pytest.mark.parametrize("side", [None, "left", "right"])
CAUSAL = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def random(module, std=0.3):
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(std=std)
            if "norm" in name and name.endswith("weight"):
                p += 1
    return module.eval()


def lively(bos):
    """A model whose greedy answers are of many tokens: no bias at its end prefers some."""
    model = random(make(bos, context=32), 0.6)
    nn.init.zeros_(model.norm.bias)
    nn.init.zeros_(model.head.bias)
    return model


def draw(count=3, length=T):
    """Rows of tokens with one BOS in each, at another place in each, but never near the end."""
    tokens = torch.randint(4, VOCAB, (count, length))
    tokens[torch.arange(count), torch.arange(count) % 3] = BOS
    return tokens


def padded(side):
    """Rows alone, the same rows as one batch, the mask or None, and booleans for the real tokens in any case."""
    if side is None:
        tokens = draw()
        return list(tokens), tokens, None, torch.ones_like(tokens, dtype=torch.bool)
    alone, tokens, mask = rows(side)
    return alone, tokens, mask, mask


def heads(length, count=3):
    return torch.randn(count, HEADS, length, SIZE)


def remembering(cache, *new):
    """The cache of a layer, after it was extended."""
    cache.extend(*new)
    return cache


# who sees whom


def by_definition(queries, keys, causal, mask, count):
    """Booleans (B, T, S), one after the other."""
    seen = torch.zeros(count, queries, keys, dtype=torch.bool)
    for b, t, s in torch.cartesian_prod(*map(torch.arange, seen.shape)).tolist():
        itself = s == keys - queries + t
        past = s <= keys - queries + t
        real = mask is None or bool(mask[b, s])
        seen[b, t, s] = itself or (real and (past or not causal))
    return seen


def as_booleans(mask, queries, keys, count):
    if mask is None:
        return torch.ones(count, queries, keys, dtype=torch.bool)
    if mask == "causal" if isinstance(mask, str) else False:
        return torch.ones(count, queries, keys, dtype=torch.bool).tril()
    return mask.expand(count, 1, queries, keys)[:, 0]


def masks(keys):
    """Masks (B, S) of all sorts: None, padding on the left and on the right, all real, none real."""
    real = torch.tensor([keys, keys // 2, 0])[:, None]
    left, right = torch.arange(keys) >= keys - real, torch.arange(keys) < real
    return [None, left, right, torch.ones_like(left), torch.zeros_like(left)]


@CAUSAL
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (4, 4), (3, 7), (6, 7)])
def test_who_sees_whom_is_what_the_definition_says(causal, queries, keys):
    for mask in masks(keys):
        got = attention_mask(queries, keys, causal, mask)
        assert torch.equal(as_booleans(got, queries, keys, 3), by_definition(queries, keys, causal, mask, 3))
        if mask is not None:
            assert got.shape == (3, 1, queries, keys)
            own = got[:, 0].diagonal(keys - queries, 1, 2)
            assert own.all(), "padding sees itself"
        elif not causal or queries == 1:
            assert got is None
        elif queries == keys:
            assert got == "causal"
        else:
            assert got.shape == (1, 1, queries, keys)
        assert got is None or got == "causal" or got.dtype == torch.bool


# attention


def by_loops(attn, x, seen, cache=None):
    """softmax(qᵀk/√d) v for every row, head and query on its own: mixed values, before o, and the weights."""
    q, k, v = (proj(x).view(len(x), -1, HEADS, SIZE) for proj in (attn.q, attn.k, attn.v))
    if cache is not None:
        k, v = (torch.cat([old.transpose(1, 2), new], dim=1) for old, new in ((cache.k, k), (cache.v, v)))
    y, weights = torch.zeros(*x.shape), torch.zeros(len(x), HEADS, x.shape[1], k.shape[1])
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in (len(x), HEADS, x.shape[1]))).tolist():
        keys = seen[b, t].nonzero()[:, 0].tolist()
        w = torch.stack([q[b, t, h] @ k[b, s, h] / math.sqrt(SIZE) for s in keys]).softmax(0)
        weights[b, h, t, keys] = w
        y[b, t, h * SIZE : (h + 1) * SIZE] = sum(w[i] * v[b, s, h] for i, s in enumerate(keys))
    return y, weights


@CAUSAL
@SIDES
@pytest.mark.parametrize("length", [1, T])
@pytest.mark.parametrize("cached", [0, 3], ids=["alone", "after 3 cached"])
def test_attention_is_its_equation_fused_and_written_out(causal, side, length, cached):
    attn, x = random(Attention(DIM, HEADS)), torch.randn(3, length, DIM)
    real = F.pad(rows(side)[2][:, :length], (cached, 0), value=True) if side else None
    mask = attention_mask(length, cached + length, causal, real)
    cache = remembering(KVCache(), heads(cached), heads(cached)) if cached else None
    seen = by_definition(length, cached + length, causal, real, 3)
    with torch.no_grad():
        mixed, weights = by_loops(attn, x, seen, cache)
        fused = attn(x, mask, copy.copy(cache))
        with recording(attn) as (layer,):
            written_out = attn(x, mask, copy.copy(cache))
        close(fused, attn.o(mixed))
        close(written_out, attn.o(mixed))
        close(layer.weights, weights)
    assert torch.equal(layer.weights > 0, seen[:, None].expand_as(weights))
    close(layer.weights.sum(-1), torch.ones(3, HEADS, length))
    assert fused.isfinite().all()  # padding too: a NaN would spread


def test_attend_takes_every_kind_of_mask():
    q, k, v = heads(4), heads(4), heads(4)
    triangle = torch.ones(4, 4, dtype=torch.bool).tril()
    for mask, seen in ((None, torch.ones_like(triangle)), ("causal", triangle), (triangle[None, None], triangle)):
        y, weights = attend(q, k, v, mask)
        scores = (q @ k.mT / math.sqrt(SIZE)).exp() * seen
        close(weights, scores / scores.sum(-1, keepdim=True))
        close(y, weights @ v)


def test_the_fused_kernel_needs_no_tensor_where_nothing_stands_before_and_nothing_is_padded(monkeypatch):
    calls, fused = [], F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, is_causal=False):
        calls.append("causal" if is_causal else None if attn_mask is None else "booleans")
        return fused(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    def asked(model, *args):
        calls.clear()
        model(*args)
        assert len(set(calls)) == 1
        assert len(calls) == LAYERS
        return calls[0]

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model, (_, tokens, mask) = make(), rows("left")
    assert asked(model, tokens) == "causal"
    assert asked(model, tokens, mask) == "booleans"
    assert asked(make(causal=False), tokens) is None
    assert asked(make(causal=False), tokens, mask) == "booleans"
    cache = model.new_cache()
    assert asked(model, tokens, None, cache) == "causal", "a cache that is still empty"
    assert asked(model, tokens[:, :1], None, cache) is None, "a last token sees all"
    assert asked(model, tokens[:, :2], None, cache) == "booleans"
    assert asked(begins_with(make(), "vectors"), tokens) == "causal", "vectors in front are read like tokens"
    assert asked(begins_with(make(), "keys"), tokens) == "booleans"

    seen = []
    monkeypatch.setattr(transformer, "attend", lambda q, k, v, mask: seen.append(mask) or attend(q, k, v, mask))
    calls.clear()
    with recording(model):
        model(tokens)
    assert seen == ["causal"] * LAYERS
    assert not calls


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="12 must be a multiple of the number of heads, got 5"):
        Attention(DIM, 5)


def test_recording_changes_nothing_and_ends():
    model, tokens = make(), draw()
    plain = model(tokens)
    with recording(model) as layers:
        close(model(tokens), plain)
    assert [tuple(layer.weights.shape) for layer in layers] == [(3, HEADS, T, T)] * LAYERS
    kept = layers[0].weights
    model(draw())
    assert layers[0].weights is kept, "outside, nothing is recorded"
    with pytest.raises(KeyError), recording(model):
        raise KeyError
    assert not any(layer.recording for layer in layers)


def test_recording_nests_and_leaves_a_model_that_can_be_copied():
    model = make().requires_grad_(True)
    with recording(model):
        with recording(model):
            pass
        model(draw())
    weights = model.blocks[0].attn.weights
    assert not weights.requires_grad
    copy.deepcopy(model)


# what a layer, and what a model, remembers


def test_a_cache_grows_at_its_end_and_old_tensors_stay_as_they_were():
    k, v, more = heads(3), heads(3), heads(1)
    cache = KVCache()
    assert all(a is b for a, b in zip(cache.extend(k, v), (k, v), strict=True))
    before = cache.k
    got = cache.extend(more, 2 * more)
    assert torch.equal(got[0], torch.cat([k, more], 2))
    assert torch.equal(got[1], torch.cat([v, 2 * more], 2))
    assert (cache.k, cache.v) == got
    assert before.shape[2] == 3


@pytest.mark.parametrize("count", [1, 2, 5])
def test_keys_that_all_rows_share_serve_any_number_of_rows(count):
    K, V = torch.randn(2, HEADS, 4, SIZE)
    cache, k, v = remembering(KVCache(), K, V), heads(2, count), heads(2, count)
    got = cache.extend(k, v)
    for old, new, whole in zip((K, V), (k, v), got, strict=True):
        assert whole.shape == (count, HEADS, 6, SIZE)
        assert all(torch.equal(row[:, :4], old) for row in whole)
        assert torch.equal(whole[:, :, 4:], new)
    assert (cache.k, cache.v) == got
    two = remembering(KVCache(), K, V)
    two.extend(V, K)  # what another method puts in front
    assert torch.equal(two.k, torch.cat([K, V], 1))


@pytest.mark.parametrize("learned", [False, True])
def test_a_fixed_cache_is_read_and_never_written(learned):
    K, V = torch.randn(2, HEADS, 4, SIZE) if learned else (None, None)
    cache = KVCache()
    cache.k, cache.v, cache.fixed = K, V, True
    for _ in range(2):
        k, v = heads(2), heads(2)
        got = cache.extend(k, v)
        assert got[0].shape[2] == 2 + 4 * learned
        assert torch.equal(got[0][:, :, -2:], k)
        assert torch.equal(got[1][:, :, -2:], v)
        assert cache.k is K
        assert cache.v is V


def test_a_cache_notes_padding_from_the_piece_that_first_has_some():
    tokens, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[False, True, True], [True, True, False]])
    cache = Cache(2)
    cache.extend(tokens)
    assert cache.mask is None
    for layer in cache.layers:
        layer.extend(heads(4, 2), heads(4, 2))
    cache.front = [torch.randn(2, DIM), torch.randn(2, 1, DIM)]
    assert cache.length == 4
    cache.extend(tokens, mask)
    assert torch.equal(cache.mask, F.pad(mask, (4 + 2 + 1, 0), value=True))
    cache.extend(tokens)
    assert torch.equal(cache.mask, F.pad(mask, (4 + 2 + 1, 3), value=True))
    cache.extend(tokens, mask.long())
    assert cache.mask.dtype == torch.bool
    assert torch.equal(cache.mask[:, -3:], mask)


# blocks


def test_mlp_is_its_equation():
    x = torch.randn(2, 3, DIM)
    for gelu, bend in (
        ("none", lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2),
        ("tanh", lambda h: h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2),
    ):
        mlp = random(MLP(DIM, 40, gelu))
        h = x @ mlp.up.weight.T + mlp.up.bias
        close(mlp(x), bend(h) @ mlp.down.weight.T + mlp.down.bias, 1e-5)


def test_the_norm_comes_before_or_after_the_sublayer():
    x, out = torch.randn(2, T, DIM), {}
    for pre_norm in (True, False):
        torch.manual_seed(1)
        block = random(Block(Config(VOCAB, DIM, heads=HEADS, ff=40, pre_norm=pre_norm)))
        n1, n2, attn, mlp = block.norm1, block.norm2, block.attn, block.mlp
        if pre_norm:
            expected = x + attn(n1(x))
            expected = expected + mlp(n2(expected))
        else:
            expected = n1(x + attn(x))
            expected = n2(expected + mlp(expected))
        out[pre_norm] = block(x)
        close(out[pre_norm], expected)
    assert not torch.allclose(out[True], out[False], atol=0.1), "the same weights, another place of the norm"


@CAUSAL
def test_a_block_hands_mask_and_cache_to_its_attention(causal):
    block, x, seen = make(causal=causal).blocks[0], torch.randn(3, T, DIM), []
    block.attn.register_forward_pre_hook(lambda module, args: seen.append(args[1:]))
    mask, cache = torch.ones(1, 1, T, T, dtype=torch.bool).tril(), KVCache()
    block(x, mask, cache)
    assert seen[0][0] is mask
    assert seen[0][1] is cache


def test_only_a_pre_norm_model_has_a_norm_before_its_head():
    assert isinstance(make().norm, nn.LayerNorm)
    assert isinstance(make(pre_norm=False).norm, nn.Identity)


def test_eps_reaches_every_norm():
    norms = [m for m in make(eps=0.5).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 7
    assert all(m.eps == 0.5 for m in norms)


def test_a_new_model_starts_with_zero_biases_and_smaller_weights_where_it_adds():
    model = Transformer(Config(VOCAB, 64, layers=3, heads=4, ff=128))
    state = dict(model.named_parameters())
    assert all((p == 0).all() for name, p in state.items() if name.endswith("bias"))
    for add, other in (("attn.o", "attn.q"), ("mlp.down", "mlp.up")):
        ratio = state[f"blocks.1.{other}.weight"].std() / state[f"blocks.1.{add}.weight"].std()
        assert math.sqrt(6) * 0.9 < ratio < math.sqrt(6) * 1.1  # √(2 layers)


# positions


def after(length=0, mask=None, offset=0):
    """A cache that holds so many keys, and has been told of the next tokens."""
    cache = Cache(2)
    for layer in cache.layers:
        layer.k = layer.v = torch.zeros(HEADS, length, SIZE) if length else None
    cache.mask, cache.offset = mask, offset
    return cache


def test_absolute_positions():
    embed = random(Embed(VOCAB, DIM, 16))
    tokens, mask = torch.tensor([[5, 6, 7], [4, 4, 8]]), torch.tensor([[True] * 3, [False, False, True]])

    def at(n, cached, with_mask=mask):
        whole = None if with_mask is None else F.pad(with_mask, (n + cached, 0), value=True)
        return embed.positions(tokens, n, after(cached, whole)).tolist()

    assert at(0, 0) == [[0, 1, 2], [0, 0, 0]], "padding takes no position"
    assert at(2, 0) == [[0, 1, 2, 3, 4], [0, 1, 1, 1, 2]], "n virtual come first"
    assert at(1, 2) == [[2, 3, 4, 5], [2, 2, 2, 3]], "and what is only a key before those"
    assert at(2, 1, None) == [[1, 2, 3, 4, 5]], "the same for all rows"
    early = torch.tensor([[False, True] + [True] * 3, [True, True, False, False, True]])
    assert embed.positions(tokens, 0, after(2, early)).tolist() == [[1, 2, 3], [1, 1, 2]], "padding that was read"
    x = embed(tokens, after(2, early))
    close(x[0], embed.token.weight[[5, 6, 7]] + embed.position.weight[1:4])
    close(embed(tokens)[1], embed.token.weight[[4, 4, 8]] + embed.position.weight[:3])


def test_front_stands_before_the_tokens_the_same_or_another_for_each_row():
    embed = random(Embed(VOCAB, DIM, 16, norm=nn.LayerNorm(DIM)))
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for front in (torch.randn(2, DIM), torch.randn(2, 2, DIM)):
        cache = Cache(2)
        cache.front = [front, front[..., :1, :]]
        x = embed(tokens, cache)
        parts = front.expand(2, 2, DIM), front.expand(2, 2, DIM)[:, :1], embed.token(tokens)
        close(x, embed.norm(torch.cat(parts, dim=1) + embed.position.weight[:6]))
        assert cache.front == [], "they stand there once"


def test_positions_from_bos():
    embed = EmbedFromBOS(VOCAB, DIM, 16, BOS)

    def at(row, offset=0, mask=None, n=0):
        tokens = torch.tensor([row])
        cache = after(n, None if mask is None else F.pad(torch.tensor([mask]).bool(), (3, 0), value=True), offset)
        positions = embed.positions(tokens, n, cache)  # what is only a key takes no position
        return positions[0].tolist(), int(cache.offset)

    assert at([7, 8, BOS, 5, 6]) == ([0, 0, 1, 2, 3], 3)
    assert at([BOS, 5, 6]) == ([1, 2, 3], 3)
    assert at([7, 8]) == ([0, 0], 0), "the preamble goes on"
    assert at([9, BOS], offset=0) == ([0, 1], 1)
    assert at([5, 6], offset=3) == ([4, 5], 5), "it began before"
    assert at([0, 0, 7, BOS, 5], mask=[0, 0, 1, 1, 1]) == ([0, 0, 0, 1, 2], 2)
    assert at([BOS, 5, 0, 0], mask=[1, 1, 0, 0])[0][:2] == [1, 2]
    assert at([BOS, 5, 0, 6], mask=[1, 1, 0, 1])[0][3] == 3, "padding takes no position"
    assert at([7, BOS, 5], n=2) == ([0, 0, 0, 1, 2], 2), "virtual tokens are preamble"
    assert at([BOS, 0, BOS, 5], mask=[0, 1, 1, 1]) == ([0, 0, 1, 2], 2), "padding that looks like BOS begins nothing"


def test_positions_do_not_tell_the_order_of_the_preamble():
    row, swapped = torch.tensor([[7, 8, 9, BOS, 5, 6, 4]]), [2, 0, 1, 3, 4, 5, 6]
    # in a deeper causal model the words have read each other before, and so the triangle tells it
    for settings in ({"layers": 1}, {"layers": 3, "causal": False}):
        for bos, same in ((BOS, True), (None, False)):
            model = make(bos, **settings)
            before = model(row)[:, 3:]
            assert torch.allclose(before, model(row[:, swapped])[:, 3:], atol=1e-4) == same
            for other in ([0, 1, 2, 3, 5, 4, 6], [3, 0, 1, 2, 4, 5, 6]):
                assert not torch.allclose(before[:, -1], model(row[:, other])[:, -1], atol=1e-2), "after BOS it counts"


# what sees what


@KINDS
@SIDES
def test_future_tokens_change_nothing(bos, side):
    model, (_, tokens, mask, _) = make(bos), padded(side)
    other = tokens.clone()
    other[:, 5:] = (tokens[:, 5:] + 1).clamp(min=4) % VOCAB
    before, changed = model(tokens, mask), model(other, mask)
    assert torch.equal(before[:, :5], changed[:, :5])
    assert not torch.isclose(before[0, 5:], changed[0, 5:], atol=1e-3).all(-1).any(), "but from there on"


def test_a_bidirectional_model_sees_all():
    model, tokens = make(causal=False), draw()
    other = tokens.clone()
    other[:, -1] = 4 + (tokens[:, -1] - 3) % (VOCAB - 4)
    assert not torch.isclose(model(tokens), model(other), atol=1e-3).all(-1).any()
    with recording(model) as layers:
        model(tokens)
    assert all((layer.weights > 0).all() for layer in layers)


@KINDS
@CAUSAL
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gets_what_it_would_get_alone(bos, causal, side):
    model, (alone, tokens, mask, _) = make(bos, causal), padded(side)
    logits = model(tokens, mask)
    assert logits.shape == (3, T, VOCAB)
    for i, row in enumerate(alone):
        close(logits[i][mask[i]], model(row[None])[0])


def test_a_mask_of_ones_is_no_mask_and_one_of_integers_is_one_of_booleans():
    model, tokens = make(), draw()
    close(model(tokens, torch.ones_like(tokens, dtype=torch.bool)), model(tokens))
    _, tokens, mask = rows("left")
    for kind in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(model(tokens, mask.to(kind)), model(tokens, mask))
        assert torch.equal(model.generate(tokens, 4, mask.to(kind)), model.generate(tokens, 4, mask))
        made = model.generate(tokens, 4, mask.to(kind), cache=False)
        assert torch.equal(made, model.generate(tokens, 4, mask))


def test_padding_that_looks_like_bos_does_not_start_the_count():
    model, row = make(BOS), draw()[:1]
    padded_row, mask = F.pad(row, (3, 0), value=BOS), F.pad(torch.ones_like(row), (3, 0)).bool()
    close(model(padded_row, mask)[:, 3:], model(row))


@CAUSAL
def test_a_row_of_padding_alone_spoils_nothing(causal):
    model, tokens = make(causal=causal), draw()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0] = False
    fused = model(tokens, mask)
    with recording(model):
        written_out = model(tokens, mask)
    assert fused.isfinite().all()
    close(fused, written_out)
    close(fused[1:], model(tokens[1:]))


# the cache


@KINDS
@SIDES
def test_pieces_of_any_size_give_the_logits_of_the_whole(bos, side):
    model, (_, tokens, mask, real) = make(bos).double(), padded(side)
    whole = model(tokens, mask)[real]
    for count in range(T):
        for cuts in combinations(range(1, T), count):
            cache, parts = model.new_cache(), []
            for a, b in pairwise((0, *cuts, T)):
                parts.append(model(tokens[:, a:b], None if mask is None else mask[:, a:b], cache))
                assert cache.length == b
            close(torch.cat(parts, 1)[real], whole, 1e-9)
    assert [tuple(layer.k.shape) for layer in cache.layers] == [(3, HEADS, T, SIZE)] * LAYERS


@KINDS
@pytest.mark.parametrize("how", ["vectors", "keys", "both"])
def test_pieces_whose_padding_begins_late_or_ends_early_give_the_logits_of_the_whole(bos, how):
    model, tokens = begins_with(make(bos).double(), how), draw(length=9)
    hole = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    whole = F.pad(hole, (3, 3), value=True)
    expected, cache = model(tokens, whole), model.new_cache()
    parts = [model(piece, mask, cache) for piece, mask in zip(tokens.split(3, 1), (None, hole, None), strict=True)]
    close(torch.cat(parts, 1)[whole], expected[whole], 1e-9)


@KINDS
def test_after_a_padded_beginning_no_mask_means_all_real(bos):
    model, (alone, tokens, mask, _) = make(bos), padded("left")
    cache, more = model.new_cache(), torch.randint(4, VOCAB, (3, 2))
    model(tokens, mask, cache)
    logits = model(more, cache=cache)
    for i, row in enumerate(alone):
        close(logits[i], model(torch.cat([row, more[i]])[None])[0, -2:])


def insides(model):
    """What every module holds, by name and identity."""
    return [
        (module, {key: id(value) for key, value in {**vars(module), **module._parameters, **module._buffers}.items()})
        for module in model.modules()
    ]


@KINDS
@SIDES
@pytest.mark.parametrize("how", [None, "vectors", "keys", "both"])
def test_a_pass_without_a_cache_of_the_users_changes_nothing(bos, side, how):
    model, (_, tokens, mask, _) = make(bos), padded(side)
    begins_with(model, how)
    before, numbers = insides(model), bits(model)
    first = model(tokens, mask)
    assert insides(model) == before
    assert same_bits(model, numbers)
    assert torch.equal(model(tokens, mask), first)
    cache = model.new_cache(fixed=True)
    inside = [(layer.k, layer.v) for layer in cache.layers]
    assert torch.equal(model(tokens, mask, cache), first)
    assert all(layer.k is k and layer.v is v for layer, (k, v) in zip(cache.layers, inside, strict=True))


class Checkpointed(nn.Module):
    def __init__(self, block, reentrant):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, x, mask, cache):
        return checkpoint(self.block, x, mask, cache, use_reentrant=self.reentrant)


@SIDES
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("how", [None, "vectors", "keys", "both"])
def test_checkpointed_blocks_give_the_same_gradients(side, reentrant, how):
    (_, tokens, mask, _), gradients = padded(side), []
    for checkpointed in (False, True):
        torch.manual_seed(5)
        model = begins_with(make().requires_grad_(True), how)
        if checkpointed:
            model.blocks, plain = nn.ModuleList(Checkpointed(b, reentrant) for b in model.blocks), model.blocks
        loss_of(model(tokens, mask)[:, :-1], tokens[:, 1:]).backward()
        if checkpointed:
            model.blocks = plain
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(g is not None for g in gradients[0].values())
    for name, g in gradients[0].items():
        close(gradients[1][name], g, 1e-6)


# generation


def in_both_ways(model, tokens, new, **options):
    """Generated with the cache, after a check that without it the answer is the same."""
    torch.manual_seed(3)
    cached = model.generate(tokens, new, **options)
    torch.manual_seed(3)
    assert torch.equal(cached, model.generate(tokens, new, cache=False, **options))
    return cached


@KINDS
def test_greedy_generation(bos):
    model, tokens = lively(bos), draw()
    made = in_both_ways(model, tokens, 8)
    assert len(made.unique()) > 3, "else a model that ignores its past would pass"
    logits = model(torch.cat([tokens, made], 1))
    assert torch.equal(logits[:, T - 1 : -1].argmax(-1), made)


@KINDS
def test_greedy_generation_of_rows_padded_on_the_left(bos):
    model, (alone, tokens, mask, _) = lively(bos), padded("left")
    made = in_both_ways(model, tokens, 8, mask=mask)
    for i, row in enumerate(alone):
        assert torch.equal(made[i], model.generate(row[None], 8)[0]), "as it would be alone"


@KINDS
@pytest.mark.parametrize("side", [None, "left"])
def test_sampling_is_the_same_with_and_without_cache(bos, side):
    model, (_, tokens, mask, _) = make(bos), padded(side)
    seeds = (torch.Generator().manual_seed(5) for _ in range(3))
    options = {"mask": mask, "temperature": 3.0}
    cached = model.generate(tokens, 8, generator=next(seeds), **options)
    assert torch.equal(cached, model.generate(tokens, 8, generator=next(seeds), cache=False, **options))
    assert not torch.equal(cached, model.generate(tokens, 8, generator=torch.Generator().manual_seed(6), **options))
    torch.rand(7)  # the global random numbers do not matter
    assert torch.equal(cached, model.generate(tokens, 8, generator=next(seeds), **options))


def test_sampling_follows_the_softmax_of_logits_over_temperature():
    model, row = make(), draw(1)
    made = model.generate(row.expand(4000, -1), 1, temperature=4.0, generator=torch.Generator().manual_seed(0))
    share = made[:, 0].bincount(minlength=VOCAB) / 4000
    close(share, (model(row)[0, -1] / 4).softmax(-1), 0.03)
    cold = model.generate(row, 8, temperature=1e-4)
    assert torch.equal(cold, model.generate(row, 8))


@KINDS
def test_a_row_ends_at_its_stop_and_is_filled_with_it(bos):
    model, (_, tokens, mask, _) = make(bos), padded("left")
    free = model.generate(tokens, 12, mask)
    stop = int(free[0, 2])
    made = in_both_ways(model, tokens, 12, mask=mask, stop=stop)
    ends = []
    for got, wanted in zip(made, free, strict=True):
        hits = (wanted == stop).nonzero()[:, 0].tolist()
        ends.append(hits[0] if hits else 12)
        assert torch.equal(got[: ends[-1] + 1], wanted[: made.shape[1]][: ends[-1] + 1])
        assert (got[ends[-1] :] == stop).all()
    assert made.shape[1] == min(12, max(ends) + 1), "when all rows have ended, so does the loop"
    assert ends[0] <= 2
    again = [0, 0]  # rows that end at the same step
    assert in_both_ways(model, tokens[again], 12, mask=mask[again], stop=stop).shape == (2, ends[0] + 1)


def test_with_the_cache_each_step_computes_one_token():
    model, lengths = make(), []
    model.blocks[0].register_forward_pre_hook(lambda block, args: lengths.append(args[0].shape[1]))
    model.generate(draw(), 4)
    model.generate(draw(), 4, cache=False)
    assert lengths == [T, 1, 1, 1, T, T + 1, T + 2, T + 3]


def test_what_was_generated_can_be_trained_on():
    model = make().requires_grad_(True)
    made = model.generate(draw(), 5)
    assert not made.is_inference()
    loss_of(model(made[:, :-1]), made[:, 1:]).backward()
    assert model.embed.token.weight.grad.any()


# numbers that are not finite


def spoiled(model, name, value=math.nan):
    """A copy of the model with one number, one that is read, that is not finite."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        read = {"embed.token.weight": (BOS,), "embed.position.weight": slice(0, 2)}.get(name, 0)
        model.get_parameter(name)[read] = value
    return model


@CAUSAL
@pytest.mark.parametrize("length", [1, T, 20])
def test_a_nan_in_any_weight_is_seen_in_the_logits_of_every_row(causal, length):
    tokens, model = F.pad(torch.randint(4, VOCAB, (3, length - 1)), (1, 0), value=BOS), make(causal=causal, layers=1)
    ones = torch.ones_like(tokens, dtype=torch.bool)
    padding = ones.clone()
    padding[1, 1:] = False
    for name, _ in model.named_parameters():
        broken = spoiled(model, name)
        for mask in (None, ones, padding):
            assert broken(tokens, mask).isnan().any((1, 2)).all(), name
            with recording(broken):
                assert broken(tokens, mask).isnan().any((1, 2)).all(), name
        if causal:
            cache = broken.new_cache()
            assert torch.cat([broken(t, cache=cache) for t in tokens.split(1, 1)], 1).isnan().any((1, 2)).all(), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("length", [1, T, 20])
@pytest.mark.parametrize("name", ["q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias"])
def test_attention_hides_no_number_that_is_not_finite(name, length, value):
    """PyTorch's fused kernel answers 0 on CPUs where all scores of a query are NaN and there are less than 16 keys."""
    attn, x = spoiled(random(Attention(DIM, HEADS)), name, value), torch.randn(3, length, DIM)
    for mask in (None, "causal", torch.ones(1, 1, length, length, dtype=torch.bool).tril()):
        assert not attn(x, mask).isfinite().any()
        with recording(attn):
            assert not attn(x, mask).isfinite().any()


@pytest.mark.parametrize("length", [T, 20])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_broken_token_is_seen_by_all_that_see_it_and_by_no_other_row(length, value):
    attn, x = random(Attention(DIM, HEADS)), torch.randn(3, length, DIM)
    x[1, 2] = value
    for mask in (None, "causal", torch.ones(1, 1, length, length, dtype=torch.bool).tril()):
        y = attn(x, mask)
        assert y[[0, 2]].isfinite().all()
        assert not y[1, 2:].isfinite().any()


def test_a_broken_method_is_seen_too():
    base = make()
    for method, names in (
        (LoRA(rank=2, targets=("q", "k")), ("q.A", "q.B", "k.A", "k.B")),
        (PrefixTuning(), ("P_K", "P_V")),
    ):
        for ending in names:
            view = stirred(method, base)
            with torch.no_grad():
                for name, p in view.named_parameters():
                    if name.endswith(ending):
                        p[0, 0] = math.nan
            for length in (1, T):
                assert view(draw(length=max(3, length))[:, :length]).isnan().any(), ending


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_generation_stops_at_logits_that_are_not_finite(cache, temperature):
    model, tokens = make(), draw()
    for name, _ in model.named_parameters():
        with pytest.raises(FloatingPointError, match="the largest logit is nan: a weight is not finite"):
            spoiled(model, name).generate(tokens, 3, temperature=temperature, cache=cache)
    with pytest.raises(FloatingPointError, match="the largest logit is inf"):
        spoiled(model, "head.bias", math.inf).generate(tokens, 3, temperature=temperature, cache=cache)
    banned = spoiled(model, "head.bias", -math.inf).generate(tokens, 8, temperature=temperature, cache=cache)
    assert (banned > 0).all(), "a logit of -inf only says never"


# errors


@KINDS
def test_a_sequence_that_is_too_long(bos):
    model, first = make(bos, context=12), 0 if bos is None else 1  # BOS has position 1
    row = torch.tensor([[BOS, *range(4, 16)]])
    fits = row[:, : 12 - first]
    assert model(fits).shape == (1, 12 - first, VOCAB)
    message = (
        "needs 13 positions but the context has 12: {} tokens and what stands before them, read or learned; shorten"
    )
    with pytest.raises(ValueError, match=message.format(13 - first)):
        model(row[:, : 13 - first])
    cache = model.new_cache()
    model(fits, cache=cache)
    with pytest.raises(ValueError, match=message.format(1)):
        model(fits[:, -1:], cache=cache)


@KINDS
@pytest.mark.parametrize("cache", [True, False])
def test_generate_refuses_before_any_work_what_would_outgrow_the_context(bos, cache):
    model, first, work = make(bos, context=12), 0 if bos is None else 1, []
    tokens = torch.tensor([[0, 0, BOS, 5, 6], [BOS, 4, 5, 6, 7]])
    mask = tokens > 0
    new = 12 - first - 5 + 1  # the last one made is not read again
    assert model.generate(tokens, new, mask, cache=cache).shape == (2, new)
    assert model.generate(tokens[:1], new + 2, mask[:1], cache=cache).shape == (1, new + 2), "padding takes no room"
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    for chosen, more in ((slice(0, 2), new + 1), (slice(0, 1), new + 3)):
        with pytest.raises(ValueError, match="needs 13 positions but the context has 12"):
            model.generate(tokens[chosen], more, mask[chosen], cache=cache)
    assert not work


TOKENS, MASK = rows("left")[1:]
PASSES = {
    "one text": ((encode(": cabbed ="),), r"integers \(B, T\), got a tensor \(8,\) of torch.int64; .* tokens\[None\]"),
    "floats": (
        (TOKENS.float(),),
        r"got a tensor \(3, 7\) of torch.float32; if these are numbers of tokens: tokens.long",
    ),
    "small integers": ((TOKENS.to(torch.uint8),), r"got a tensor \(3, 7\) of torch.uint8; .* tokens.long\(\)"),
    "booleans": ((MASK,), r"got a tensor \(3, 7\) of torch.bool; the mask is the second argument"),
    "a list": (([[1, 5]],), r"got \[\[1, 5\]\]; make it one: torch.as_tensor\(tokens\)"),
    "an array": ((np.ones((1, 2), int),), r"got array\(\[\[1, 1\]\]\); make it one: torch.as_tensor\(tokens\)"),
    "a text": ((": cabbed =",), r"got ': cabbed ='; turn the text into tokens first"),
    "three dimensions": ((TOKENS[None],), r"got a tensor \(1, 3, 7\) of torch.int64; B rows of T tokens each"),
    "no tokens": ((TOKENS[:, :0],), r"there are no tokens: the input has shape \(3, 0\); give at least one"),
    "no rows": ((TOKENS[:0],), r"there are no tokens: the input has shape \(0, 7\)"),
    "too large": ((TOKENS.clamp(min=VOCAB),), "the vocabulary has the tokens 0 to 22, the input holds 23"),
    "negative": ((TOKENS - 1,), "the vocabulary has the tokens 0 to 22, the input holds -1"),
    "a short mask": ((TOKENS, MASK[:, 1:]), r"the tokens' shape \(3, 7\) .* got a tensor \(3, 6\) of torch.bool"),
    "a mask of another batch": (
        (TOKENS, MASK[:2]),
        r"mask must have the tokens' shape \(3, 7\) .* got a tensor \(2, 7\)",
    ),
    "a mask to be added": ((TOKENS, MASK.float().log()), "hold True and False, or 1 and 0, .* of torch.float32"),
    "tokens for a mask": ((TOKENS, TOKENS), "hold True and False, or 1 and 0, False at padding; .* of torch.int64"),
    "a list for a mask": ((TOKENS, MASK.tolist()), r"mask must have .* got \[\[True, True, True"),
    "a number for a mask": ((TOKENS, 0.7), "mask must have .* got 0.7"),
}


@KINDS
@pytest.mark.parametrize("slip", PASSES)
def test_what_a_pass_refuses_before_any_work(bos, slip):
    args, message = PASSES[slip]
    model, work = make(bos), []
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match=message):
        model(*args)
    with pytest.raises(ValueError, match=message):
        model.generate(args[0], 3, *args[1:])
    assert not work
    assert model(TOKENS.int(), MASK).shape == (3, T, VOCAB)


def test_what_a_pass_refuses_for_a_cache():
    model, cache = make(), make().new_cache()
    with pytest.raises(ValueError, match=r"cache must be what model.new_cache\(\) gave, or None; got True"):
        model(TOKENS, cache=True)
    model(TOKENS, MASK, cache)
    for count in (1, 2):
        with pytest.raises(ValueError, match=f"the cache holds 3 rows, but there are {count} rows of tokens: continue"):
            model(TOKENS[:count], MASK[:count], cache)
    assert cache.length == cache.mask.shape[1] == T
    assert model(TOKENS, MASK, cache).shape == (3, T, VOCAB)


GENERATIONS = {
    "new must be a whole number of at least 1 token, got": [{"new": n} for n in (0, -1, 2.5, True, "3", None)],
    r"temperature must be 0 \(the likeliest token\) or a number above, got": [
        {"temperature": t} for t in (math.nan, math.inf, -1, -0.5, True, "1", None)
    ],
    "stop must be a token, 0 to 22, or None; got": [{"stop": s} for s in (VOCAB, -1, 2.0, True, "=")],
    "cache must be True or False, as generate makes its own; got": [{"cache": c} for c in (Cache(3), None, 1)],
    "a row ends in padding, .* pad on the left to generate": [{"mask": rows("right")[2]}],
}


@pytest.mark.parametrize(
    ("message", "options"), [(m, options) for m, slips in GENERATIONS.items() for options in slips]
)
def test_what_generation_refuses_before_any_work(message, options):
    model, work = make(), []
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match=message):
        model.generate(TOKENS, **{"new": 3, **options})
    assert not work


def test_generation_takes_the_numbers_of_numpy_and_refuses_a_bidirectional_model():
    model = make()
    plain = model.generate(TOKENS, 3, MASK, stop=5)
    assert torch.equal(model.generate(TOKENS, np.int64(3), MASK, temperature=np.float32(0), stop=np.int64(5)), plain)
    with pytest.raises(ValueError, match="bidirectional model cannot generate"):
        make(causal=False).generate(TOKENS, 3)


# the third door: what a sequence begins with


class Beginning(Wrapper):
    """In front of `begin`: vectors that come before the tokens, keys and values that were learned, or both."""

    def __init__(self, base, how):
        super().__init__(base)
        self.vectors = nn.Parameter(torch.randn(4, DIM)) if how in ("vectors", "both") else None
        self.keys = nn.Parameter(torch.randn(2, LAYERS, HEADS, 5, SIZE)) if how in ("keys", "both") else None

    def forward(self, blocks):
        cache = self.base(blocks)
        if self.vectors is not None:
            cache.front.append(self.vectors)
        if self.keys is not None:
            for layer, K, V in zip(cache.layers, *self.keys, strict=True):
                layer.extend(K, V)
        return cache


def begins_with(model, how):
    if how is not None:
        kind = next(model.parameters()).dtype
        model.begin = Beginning(model.begin, how).to(kind)
    return model


HOW = pytest.mark.parametrize("how", ["vectors", "keys", "both"])


@HOW
@KINDS
@SIDES
def test_what_stands_in_front_is_seen_by_all_and_keeps_the_shape(how, bos, side):
    (alone, tokens, mask, real), model = padded(side), begins_with(make(bos), how)
    logits, without = model(tokens, mask), make(bos)(tokens, mask)
    assert logits.shape == (3, T, VOCAB)
    assert not torch.isclose(logits, without, atol=1e-3).all(-1)[real].any(), "every token sees it"
    for i, row in enumerate(alone):
        close(logits[i][real[i]], model(row[None])[0])  # the mask was widened on the left


@HOW
@KINDS
@pytest.mark.parametrize("side", [None, "left"])
def test_with_something_in_front_generation_is_the_same_with_and_without_cache(how, bos, side):
    (alone, tokens, mask, _), model = padded(side), begins_with(lively(bos), how)
    made = in_both_ways(model, tokens, 12, mask=mask)
    in_both_ways(model, tokens, 12, mask=mask, temperature=2.0)
    in_both_ways(model, tokens, 12, mask=mask, stop=int(made[0, 3]))
    assert len(made.unique()) > 3
    for i, row in enumerate(alone):
        assert torch.equal(made[i], model.generate(row[None], 12)[0])


def test_vectors_in_front_take_the_first_absolute_positions():
    model, tokens = begins_with(make(None), "vectors"), draw()
    vectors = model.begin.vectors.expand(3, -1, -1)
    x = torch.cat([vectors, model.embed.token(tokens)], dim=1) + model.embed.position.weight[: 4 + T]
    for block in model.blocks:
        x = block(x, "causal")
    close(model(tokens), model.head(model.norm(x))[:, 4:])


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_vectors_in_front_stand_where_the_instruction_would_stand(side):
    model, (_, tokens, mask, real) = make(BOS), padded(side)
    words = torch.tensor([7, 11])
    told = model(torch.cat([words.expand(3, -1), tokens], 1), F.pad(mask, (2, 0), value=True) if side else None)
    begins_with(model, "vectors").begin.vectors = nn.Parameter(model.embed.token.weight[words].clone())
    close(model(tokens, mask)[real], told[:, 2:][real])


@KINDS
def test_a_prefix_is_a_cache(bos):
    """The keys and values of words that were really read, learned by heart, give what reading the words gives."""
    model, words, tokens = make(bos), torch.tensor([[7, 11, 4, 9, 13]]), draw()
    tokens[:, 0] = BOS
    cache = model.new_cache()
    model(words, cache=cache)
    told = model(torch.cat([words.expand(3, -1), tokens], 1))[:, 5:]
    keys = torch.stack([torch.cat([getattr(layer, name) for layer in cache.layers]) for name in "kv"])
    begins_with(model, "keys").begin.keys = nn.Parameter(keys)
    close(model(tokens), told)


def test_vectors_in_front_need_room_too():
    model, work = begins_with(make(None, context=10), "vectors"), []
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match="needs 11 positions but the context has 10: 7 tokens and what stands before"):
        model(draw())
    with pytest.raises(ValueError, match="needs 11 positions but the context has 10: 7 tokens and what stands before"):
        model.generate(draw(length=6), 2)
    assert not work
    assert model.generate(draw(length=6), 1).shape == (3, 1)
    counted = begins_with(make(BOS, context=10), "vectors")
    assert counted(draw()).shape == (3, T, VOCAB), "counted from BOS they take none"


@HOW
def test_something_in_front_of_a_bidirectional_model(how):
    (alone, tokens, mask, _), model = padded("right"), begins_with(make(None, causal=False), how)
    logits = model(tokens, mask)
    for i, row in enumerate(alone):
        close(logits[i][mask[i]], model(row[None])[0])


def test_a_model_that_classifies_cannot_generate():
    with pytest.raises(ValueError, match="a model that classifies cannot generate"):
        PTuningV2(classes=3).attach(make()).generate(rows()[1], 2)


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("side", [None, "left"])
def test_a_refused_pass_leaves_the_cache_as_it_was(bos, side):
    model, (_, tokens, mask) = make(bos, context=12).double(), rows(side)
    mask = mask if side else None
    caches = [model.new_cache() for _ in range(2)]
    for cache in caches:
        model(tokens, mask, cache)
    with pytest.raises(ValueError, match="the context has 12"):
        model(tokens, mask, caches[1])
    with pytest.raises(ValueError, match="the vocabulary has"):
        model(tokens[:, :2] + VOCAB, None, caches[1])
    with pytest.raises(ValueError, match="mask must"):
        model(tokens[:, :2], tokens, caches[1])
    assert torch.equal(model(tokens[:, :2], None, caches[0]), model(tokens[:, :2], None, caches[1]))
