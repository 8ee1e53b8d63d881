"""The Transformer against its equations, written out a second time here, and against itself: padded, cached, extended.

Every parameter is random, biases and norms too; a fresh zero or one would hide what is wrong.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import Wrapper
from minipeft.models.transformer import (
    MLP,
    Attention,
    Block,
    Cache,
    Config,
    Embed,
    EmbedFromBOS,
    Past,
    Transformer,
    recording,
)

VOCAB, DIM, HEADS, BOS, T = 23, 24, 4, 2, 9
LENGTHS = torch.tensor([9, 4, 7])  # of the rows, where they are padded
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


def make(bos=None, context=32, **settings):
    settings = {"layers": 3, "heads": HEADS, "ff": 40, "context": context, "bos": bos} | settings
    return random(Transformer(Config(VOCAB, DIM, **settings)))


def draw(rows=3, length=T):
    """Tokens with one BOS in each row, at another place in each, but never near the end."""
    tokens = torch.randint(4, VOCAB, (rows, length))
    tokens[torch.arange(rows), torch.arange(rows) % 3] = BOS
    return tokens


def padded(side):
    """Rows alone, the same rows padded into one batch (B, T), and the mask."""
    rows = [draw(1, int(n))[0] for n in LENGTHS]
    tokens, mask = torch.randint(4, VOCAB, (3, T)), torch.zeros(3, T, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(T - len(row), T) if side == "left" else slice(len(row))
        tokens[i, place], mask[i, place] = row, True
    return rows, tokens, mask


def close(a, b, tol=1e-4):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


# attention


def by_loops(attn, x, mask=None, past=None):
    """softmax(qᵀk/√d) v for every row, head and query on its own: mixed values, before o, and the weights."""
    size = DIM // HEADS
    q, k, v = (proj(x).view(len(x), -1, HEADS, size) for proj in (attn.q, attn.k, attn.v))
    if past is not None:
        k, v = (torch.cat([old.transpose(1, 2), new], dim=1) for old, new in ((past.k, k), (past.v, v)))
    gone = k.shape[1] - x.shape[1]
    y, weights = torch.zeros(*x.shape), torch.zeros(len(x), HEADS, x.shape[1], k.shape[1])
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in (len(x), HEADS, x.shape[1]))).tolist():
        seen = [s for s in range(k.shape[1]) if (s <= gone + t or not attn.causal) and (mask is None or mask[b, s])]
        w = torch.stack([q[b, t, h] @ k[b, s, h] / math.sqrt(size) for s in seen]).softmax(0) if seen else torch.ones(0)
        weights[b, h, t, seen] = w
        y[b, t, h * size : (h + 1) * size] = sum((w[i] * v[b, s, h] for i, s in enumerate(seen)), torch.zeros(size))
    return y, weights


@CAUSAL
@SIDES
@pytest.mark.parametrize("cached", [0, 3], ids=["alone", "after 3 cached"])
def test_attention_is_its_equation_fused_and_by_hand(causal, side, cached):
    attn, x = random(Attention(DIM, HEADS, causal)), torch.randn(3, T, DIM)
    mask = padded(side)[2] if side else None
    past = Past(torch.randn(3, HEADS, cached, 6), torch.randn(3, HEADS, cached, 6)) if cached else None
    whole = None if mask is None else F.pad(mask, (cached, 0), value=True)
    mixed, weights = by_loops(attn, x, whole, past)

    def copy():
        return Past(past.k, past.v) if cached else None

    with torch.no_grad():
        fused = attn(x, whole, copy())
        with recording(attn) as (layer,):
            written_out = attn(x, whole, copy())
        real = torch.ones(3, T, dtype=torch.bool) if mask is None else mask
        close(fused[real], attn.o(mixed)[real])
        close(written_out[real], attn.o(mixed)[real])
        close(layer.weights.transpose(1, 2)[real], weights.transpose(1, 2)[real])
    close(layer.weights.sum(-1), torch.ones(3, HEADS, T))
    assert fused.isfinite().all()  # padding too: a NaN would spread


def test_a_mask_shorter_than_the_keys_leaves_the_first_keys_visible():
    attn, x, mask = random(Attention(DIM, HEADS, causal=True)), torch.randn(3, T, DIM), padded("left")[2]
    past = Past(torch.randn(3, HEADS, 2, 6), torch.randn(3, HEADS, 2, 6))
    expected = by_loops(attn, x, F.pad(mask, (2, 0), value=True), past)[0]
    close(attn(x, mask, past)[mask], attn.o(expected)[mask])


def test_the_past_grows_at_its_end_and_old_tensors_stay_as_they_were():
    k, v, more = torch.randn(2, HEADS, 3, 6), torch.randn(2, HEADS, 3, 6), torch.randn(2, HEADS, 1, 6)
    past = Past()
    past.extend(k, v)
    before = past.k
    got = past.extend(more, 2 * more)
    assert torch.equal(got[0], torch.cat([k, more], 2))
    assert torch.equal(got[1], torch.cat([v, 2 * more], 2))
    assert (past.k, past.v) == got
    assert before.shape[2] == 3


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="24 must be a multiple of the number of heads, got 5"):
        Attention(DIM, 5, causal=True)


def test_recording_changes_nothing_and_ends():
    model, tokens = make(), draw()
    plain = model(tokens)
    with recording(model) as layers:
        close(model(tokens), plain)
    assert [tuple(layer.weights.shape) for layer in layers] == [(3, HEADS, T, T)] * 3
    kept = layers[0].weights
    model(draw())
    assert layers[0].weights is kept, "outside, nothing is recorded"
    with pytest.raises(KeyError), recording(model):
        raise KeyError
    assert not any(layer.recording for layer in layers)


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


def test_absolute_positions():
    embed = random(Embed(VOCAB, DIM, 16))
    tokens, mask = torch.tensor([[5, 6, 7], [0, 0, 8]]), torch.tensor([[True] * 3, [False, False, True]])
    assert embed.positions(tokens, 0, mask, 0)[0].tolist() == [[0, 1, 2], [0, 0, 0]], "padding takes no position"
    assert embed.positions(tokens, 0, mask, 2)[0].tolist() == [[0, 1, 2, 3, 4], [0, 1, 1, 1, 2]], "n virtual come first"
    assert embed.positions(tokens, 0, mask, 1, 2)[0].tolist() == [[2, 3, 4, 5], [2, 2, 2, 3]], "skipped before those"
    x, taken = embed(tokens, mask=mask)
    assert taken.tolist() == [[3], [1]]
    close(x[0], embed.token.weight[[5, 6, 7]] + embed.position.weight[:3])
    x, again = embed(tokens, taken)
    assert again.tolist() == [[6], [4]]
    close(x[1], embed.token.weight[[0, 0, 8]] + embed.position.weight[1:4])


def test_front_stands_before_the_tokens_the_same_or_another_for_each_row():
    embed = random(Embed(VOCAB, DIM, 16, norm=nn.LayerNorm(DIM)))
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for front in (torch.randn(2, DIM), torch.randn(2, 2, DIM)):
        x, taken = embed(tokens, front=front)
        vectors = torch.cat([front.expand(2, 2, DIM), embed.token(tokens)], dim=1) + embed.position.weight[:5]
        close(x, embed.norm(vectors))
        assert taken.tolist() == [[5]]


def test_positions_from_bos():
    embed = EmbedFromBOS(VOCAB, DIM, 16, BOS)

    def at(row, start=0, mask=None, n=0):
        tokens = torch.tensor([row])
        visible = torch.ones_like(tokens, dtype=torch.bool) if mask is None else torch.tensor([mask]).bool()
        positions, taken = embed.positions(tokens, start, visible, n, skip=7)  # what has no vector has no place
        return positions[0].tolist(), taken.item()

    assert at([7, 8, BOS, 5, 6]) == ([0, 0, 1, 2, 3], 3)
    assert at([BOS, 5, 6]) == ([1, 2, 3], 3)
    assert at([7, 8]) == ([0, 0], 0), "the preamble goes on"
    assert at([9, BOS], start=0) == ([0, 1], 1)
    assert at([5, 6], start=3) == ([4, 5], 5), "it began before"
    assert at([0, 0, 7, BOS, 5], mask=[0, 0, 1, 1, 1]) == ([0, 0, 0, 1, 2], 2)
    assert at([BOS, 5, 0, 0], mask=[1, 1, 0, 0])[0][:2] == [1, 2]
    assert at([BOS, 5, 0, 6], mask=[1, 1, 0, 1])[0][3] == 3, "padding takes no position"
    assert at([7, BOS, 5], n=2) == ([0, 0, 0, 1, 2], 2), "virtual tokens are preamble"


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
    model, (_, tokens, mask) = make(bos), padded(side)
    other = tokens.clone()
    other[:, 5:] = (tokens[:, 5:] + 1).clamp(min=4) % VOCAB
    mask = mask if side else None
    before, after = model(tokens, mask), model(other, mask)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[0, 5:], after[0, 5:], atol=1e-3).all(-1).any(), "but from there on"


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
    model, (rows, tokens, mask) = make(bos, causal=causal, pre_norm=causal), padded(side)
    logits = model(tokens, mask)
    assert logits.shape == (3, T, VOCAB)
    for i, row in enumerate(rows):
        close(logits[i][mask[i]], model(row[None])[0])


def test_a_mask_of_ones_is_no_mask():
    model, tokens = make(), draw()
    close(model(tokens, torch.ones_like(tokens, dtype=torch.bool)), model(tokens))


# the cache


@KINDS
@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("cuts", [(4, 5), (1, 1, 7), (6, 1, 2)])
def test_pieces_with_a_cache_give_the_logits_of_the_whole(bos, side, cuts):
    model, (_, tokens, mask) = make(bos), padded(side)
    cache = Cache(3)
    masks = mask.split(cuts, 1) if side else [None] * len(cuts)
    parts = [model(piece, m, cache) for piece, m in zip(tokens.split(cuts, 1), masks, strict=True)]
    real = mask if side else torch.ones_like(mask)
    close(torch.cat(parts, 1)[real], model(tokens, mask if side else None)[real])
    assert [tuple(past.k.shape) for past in cache.layers] == [(3, HEADS, T, DIM // HEADS)] * 3


@KINDS
def test_after_a_padded_beginning_no_mask_means_all_real(bos):
    model, (rows, tokens, mask) = make(bos), padded("left")
    cache, more = Cache(3), torch.randint(4, VOCAB, (3, 2))
    model(tokens, mask, cache)
    logits = model(more, cache=cache)
    for i, row in enumerate(rows):
        close(logits[i], model(torch.cat([row, more[i]])[None])[0, -2:])


def in_both_ways(model, tokens, new, **options):
    """Generated with the cache, after a check that without it the answer is the same."""
    torch.manual_seed(3)
    cached = model.generate(tokens, new, **options)
    torch.manual_seed(3)
    assert torch.equal(cached, model.generate(tokens, new, cache=False, **options))
    return cached


@KINDS
def test_greedy_generation(bos):
    model, tokens = make(bos), draw()
    made = in_both_ways(model, tokens, 8)
    assert len(made.unique()) > 3, "else a model that ignores its past would pass"
    logits = model(torch.cat([tokens, made], 1))
    assert torch.equal(logits[:, T - 1 : -1].argmax(-1), made)


@KINDS
def test_greedy_generation_of_rows_padded_on_the_left(bos):
    model, (rows, tokens, mask) = make(bos), padded("left")
    made = in_both_ways(model, tokens, 8, mask=mask)
    for i, row in enumerate(rows):
        assert torch.equal(made[i], model.generate(row[None], 8)[0]), "as it would be alone"


@KINDS
@pytest.mark.parametrize("side", [None, "left"])
def test_sampling_is_the_same_with_and_without_cache(bos, side):
    model, (_, tokens, mask) = make(bos), padded(side)
    seeds = (torch.Generator().manual_seed(5) for _ in range(3))
    options = {"mask": mask if side else None, "temperature": 3.0}
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
    model, (_, tokens, mask) = make(bos), padded("left")
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
    model, rows = make(), []
    model.blocks[0].register_forward_pre_hook(lambda block, args: rows.append(args[0].shape[1]))
    model.generate(draw(), 4)
    model.generate(draw(), 4, cache=False)
    assert rows == [T, 1, 1, 1, T, T + 1, T + 2, T + 3]


# errors


@KINDS
def test_a_sequence_that_is_too_long(bos):
    model, first = make(bos, context=12), 0 if bos is None else 1  # BOS has position 1
    row = torch.tensor([[BOS, *range(4, 16)]])
    fits = row[:, : 12 - first]
    assert model(fits).shape == (1, 12 - first, VOCAB)
    message = "needs 13 positions but the context has 12: .* tokens were given; shorten"
    with pytest.raises(ValueError, match=message):
        model(row[:, : 13 - first])
    cache = Cache(3)
    model(fits, cache=cache)
    with pytest.raises(ValueError, match=message):
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
    for rows, more in ((slice(0, 2), new + 1), (slice(0, 1), new + 3)):
        with pytest.raises(ValueError, match="needs 13 positions but the context has 12"):
            model.generate(tokens[rows], more, mask[rows], cache=cache)
    assert not work


def test_what_generate_refuses():
    tokens = draw()
    with pytest.raises(ValueError, match="bidirectional model cannot generate"):
        make(causal=False).generate(tokens, 3)
    with pytest.raises(ValueError, match=r"temperature must be 0 .* got -0.5"):
        make().generate(tokens, 3, temperature=-0.5)
    with pytest.raises(ValueError, match="there are no tokens"):
        make().generate(tokens[:, :0], 3)
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        make().generate(tokens, 0)


# the third door: vectors in front of the tokens, and a past that was learned


class Prompt(Wrapper):
    """Stands in front of `embed`: its vectors come before the tokens, at the beginning of a sequence only."""

    def __init__(self, base, vectors):
        super().__init__(base)
        self.vectors = nn.Parameter(vectors)

    def forward(self, tokens, start=None, mask=None):
        return self.base(tokens, start, mask, front=self.vectors if start is None else None)


class Prefix(Wrapper):
    """Stands in front of `attn`: keys and values that were learned, not computed, are the beginning of the past."""

    def __init__(self, base, n):
        super().__init__(base)
        self.keys, self.values = (nn.Parameter(torch.randn(1, HEADS, n, DIM // HEADS)) for _ in range(2))

    def forward(self, x, mask=None, past=None):
        past = Past() if past is None else past
        if past.k is None:
            past.k, past.v = (t.expand(len(x), -1, -1, -1) for t in (self.keys, self.values))
        return self.base(x, mask, past)


def extended(how, bos, context=32, causal=True):
    model = make(bos, context, causal=causal)
    if how == "prompt":
        model.embed = Prompt(model.embed, torch.randn(4, DIM))
    else:
        for block in model.blocks:
            block.attn = Prefix(block.attn, 5)
    return model


HOW = pytest.mark.parametrize("how", ["prompt", "prefix"])


@HOW
@KINDS
@SIDES
def test_a_front_or_a_prefix_is_seen_by_all_and_keeps_the_shape(how, bos, side):
    torch.manual_seed(0)
    plain = make(bos)
    torch.manual_seed(0)
    model, (rows, tokens, mask) = extended(how, bos), padded(side)
    real = mask if side else torch.ones_like(mask)
    logits = model(tokens, mask if side else None)
    assert logits.shape == (3, T, VOCAB)
    without = plain(tokens, mask if side else None)
    assert not torch.isclose(logits, without, atol=1e-3).all(-1)[real].any(), "every token sees it"
    if side:
        for i, row in enumerate(rows):
            close(logits[i][mask[i]], model(row[None])[0])  # the mask was widened on the left


@HOW
@KINDS
@pytest.mark.parametrize("side", [None, "left"])
def test_with_a_front_or_a_prefix_generation_is_the_same_with_and_without_cache(how, bos, side):
    model, (rows, tokens, mask) = extended(how, bos), padded(side)
    made = in_both_ways(model, tokens, 8, mask=mask if side else None)
    in_both_ways(model, tokens, 8, mask=mask if side else None, temperature=2.0)
    in_both_ways(model, tokens, 8, mask=mask if side else None, stop=int(made[0, 3]))
    assert len(made.unique()) > 3
    if side:
        for i, row in enumerate(rows):
            assert torch.equal(made[i], model.generate(row[None], 8)[0])


def test_virtual_tokens_with_absolute_positions_take_the_first_ones():
    model, tokens = extended("prompt", None), draw()
    embed, vectors = model.embed.base, model.embed.vectors.expand(3, -1, -1)
    x = torch.cat([vectors, embed.token(tokens)], dim=1) + embed.position.weight[: 4 + T]
    for block in model.blocks:
        x = block(x)
    close(model(tokens), model.head(model.norm(x))[:, 4:])


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_virtual_tokens_stand_where_the_instruction_would_stand(side):
    model, (_, tokens, mask) = make(BOS), padded(side)
    words = torch.tensor([7, 11])
    told = model(torch.cat([words.expand(3, -1), tokens], 1), F.pad(mask, (2, 0), value=True) if side else None)
    embed = model.embed
    model.embed = Prompt(embed, embed.token.weight[words].clone())
    real = mask if side else torch.ones_like(mask)
    close(model(tokens, mask if side else None)[real], told[:, 2:][real])


def test_a_prefix_is_a_past():
    """The keys and values of words that were really read, learned by heart, give what reading the words gives."""
    model, words, tokens = make(BOS), torch.tensor([[7, 11, 4, 9, 13]]), draw()
    tokens[:, 0] = BOS
    cache = Cache(3)
    model(words, cache=cache)
    told = model(torch.cat([words.expand(3, -1), tokens], 1))[:, 5:]
    for block, past in zip(model.blocks, cache.layers, strict=True):
        block.attn = Prefix(block.attn, 5)
        block.attn.keys, block.attn.values = nn.Parameter(past.k), nn.Parameter(past.v)
    close(model(tokens), told)


def test_virtual_tokens_need_room_too():
    model, work = extended("prompt", None, context=12), []
    model.blocks[0].register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match="needs 13 positions but the context has 12: 4 virtual and 9 tokens"):
        model(draw())
    with pytest.raises(ValueError, match="4 virtual and 9 tokens were given"):
        model.generate(draw(length=8), 2)
    assert not work
    assert model.generate(draw(length=8), 1).shape == (3, 1)
    assert extended("prompt", BOS, context=12)(draw()).shape == (3, T, VOCAB), "counted from BOS they take none"


def test_a_prompt_in_front_of_a_bidirectional_model():
    model, (rows, tokens, mask) = extended("prompt", None, causal=False), padded("right")
    logits = model(tokens, mask)
    for i, row in enumerate(rows):
        close(logits[i][mask[i]], model(row[None])[0])


def test_padding_that_looks_like_bos_does_not_start_the_count():
    model = make(bos=True)
    row = draw()[:1]
    padded_row, mask = F.pad(row, (3, 0), value=BOS), F.pad(torch.ones_like(row), (3, 0)).bool()
    close(model(padded_row, mask)[:, 3:], model(row))
    close(model(padded_row, mask.long()), model(padded_row, mask))  # a mask of ones and zeros will do


def test_generation_refuses_padding_on_the_right():
    tokens = draw()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, -1] = False
    with pytest.raises(ValueError, match="pad on the left"):
        make().generate(tokens, 3, mask)


def test_recording_nests_and_leaves_a_model_that_can_be_copied():
    model = make().requires_grad_(True)
    with recording(model):
        with recording(model):
            pass
        model(draw())
    weights = model.blocks[0].attn.weights
    assert not weights.requires_grad
    copy.deepcopy(model)


@pytest.mark.parametrize("causal", [True, False])
def test_a_row_of_padding_alone_spoils_nothing(causal):
    model, tokens = make(causal=causal), draw()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0] = False
    fused = model(tokens, mask)
    with recording(model):
        by_hand = model(tokens, mask)
    assert fused.isfinite().all()
    close(fused, by_hand)
