"""Prefix tuning: a learned past, layer by layer and head by head, and the network that may make it."""

import math

import pytest
import torch

from minipeft.attach import attachments, trainable
from minipeft.deltas import fold
from minipeft.methods import PrefixTuning, PromptTuning
from tests.models import BOS, DIM, HEADS, LAYERS, T, apart, close, count, make, rows, stirred


def test_the_equation_head_by_head():
    view = stirred(PrefixTuning(length=4), make(None))
    attn, x, size, mixed = view.blocks[1].attn, torch.randn(2, T, DIM), DIM // HEADS, []
    causal = torch.ones(T, 4 + T, dtype=torch.bool).tril(4)
    got = attn(x, causal, view.new_cache().layers[1])
    q, k, v = (getattr(attn, name)(x) for name in "qkv")
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        K = torch.cat([view.begin.P_K[1, :, own].expand(2, -1, -1), k[..., own]], 1)
        V = torch.cat([view.begin.P_V[1, :, own].expand(2, -1, -1), v[..., own]], 1)
        scores = q[..., own] @ K.transpose(1, 2) / math.sqrt(size)
        scores[:, :, 4:] = scores[:, :, 4:].masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
        mixed.append(scores.softmax(-1) @ V)
    close(got, attn.o(torch.cat(mixed, -1)))


def test_every_layer_has_its_own():
    view = stirred(PrefixTuning(length=4), make())
    assert {tuple(P.shape) for P in trainable(view).values()} == {(LAYERS, 4, DIM)}
    assert len({float(P_l.sum()) for P in trainable(view).values() for P_l in P.detach()}) == 2 * LAYERS


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("words", [(5, 9, 14), (5, 9), (5, 9, 14, 3, 8)])
def test_a_prefix_from_words_is_having_read_them(bos, words):
    base, (_, tokens, _) = make(bos), rows()
    read = torch.tensor([words[i % len(words)] for i in range(3)])
    told = base(torch.cat([read.expand(3, -1), tokens], 1))[:, 3:]
    close(PrefixTuning(length=3, init=words).attach(base)(tokens), told)


@pytest.mark.parametrize("bos", [None, BOS])
def test_words_are_read_before_a_prompt_that_is_there_already(bos):
    base, method = make(bos), PrefixTuning(length=3, init=(5, 9))
    above, alone = method.attach(stirred(PromptTuning(length=2), base)).begin, method.attach(base).begin
    close(above.P_K, alone.P_K)
    close(above.P_V, alone.P_V)


def test_zeros_are_not_the_base():
    base, (_, tokens, _) = make(BOS), rows()
    view = PrefixTuning(length=1).attach(base)
    with torch.no_grad():
        for p in trainable(view).values():
            p.zero_()
    apart(view(tokens), base(tokens), 0.05)  # a key of zero scores 0 and takes its share


@pytest.mark.parametrize(("n", "w"), [(3, 5), (6, 20)])
def test_the_network_makes_the_prefix_and_is_folded_away(n, w):
    view, (_, tokens, _) = stirred(PrefixTuning(length=n, mlp=w), make()), rows()
    assert count(view) == n * DIM + DIM * w + w + LAYERS * (w * 2 * DIM + 2 * DIM)
    begin = view.begin
    hidden = torch.tanh(begin.P @ begin.W.weight.T + begin.W.bias)
    expected = torch.stack([hidden @ W_l.weight.T + W_l.bias for W_l in begin.out])  # (L, n, 2d)
    folded = fold(view)
    assert count(folded) == 2 * LAYERS * n * DIM
    assert attachments(folded)[0].method == PrefixTuning(length=n)
    close(torch.cat([folded.begin.P_K, folded.begin.P_V], -1), expected, 1e-6)
    close(folded(tokens), view(tokens), 1e-6)


def test_words_beyond_the_context_are_told():
    with pytest.raises(ValueError, match="the context has 24"):
        PrefixTuning(length=30, init=(3,)).attach(make(None))


@pytest.mark.parametrize("bos", [None, BOS])
def test_a_prefix_on_a_prefix_is_one_longer_prefix(bos):
    words, (_, tokens, _), base = (5, 9, 14, 3, 8), rows(), make(bos)
    whole, lower = PrefixTuning(length=5, init=words).attach(base), PrefixTuning(length=2).attach(base)
    for name in ("P_K", "P_V"):  # the one below enters first
        getattr(lower.begin, name).data.copy_(getattr(whole.begin, name)[:, :2])
    upper = PrefixTuning(length=3).attach(lower)
    for name in ("P_K", "P_V"):
        getattr(upper.begin, name).data.copy_(getattr(whole.begin, name)[:, 2:])
    close(upper(tokens), whole(tokens))
