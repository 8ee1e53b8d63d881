"""Prefix tuning: a learned past, layer by layer and head by head, and the network that may make it."""

import math

import pytest
import torch

from minipeft.attach import attachments, trainable
from minipeft.deltas import fold
from minipeft.methods import PrefixTuning
from minipeft.models.transformer import Past
from tests.models import BOS, DIM, HEADS, LAYERS, VOCAB, T, close, count, make, rows, stirred


def test_the_equation_head_by_head():
    model = stirred(PrefixTuning(length=4), make(None))
    attn, x = model.blocks[1].attn, torch.randn(2, T, DIM)
    got = attn(x, None, Past())
    q, k, v = (getattr(attn, name)(x) for name in "qkv")
    mixed, size = [], DIM // HEADS
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        K = torch.cat([attn.P_K[:, own].expand(2, -1, -1), k[..., own]], 1)
        V = torch.cat([attn.P_V[:, own].expand(2, -1, -1), v[..., own]], 1)
        scores = q[..., own] @ K.transpose(1, 2) / math.sqrt(size)
        hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
        scores[:, :, 4:] = scores[:, :, 4:].masked_fill(hidden, -math.inf)
        mixed.append(scores.softmax(-1) @ V)
    close(got, attn.o(torch.cat(mixed, -1)))


def test_every_layer_has_its_own_and_nothing_else_is_trained():
    model = stirred(PrefixTuning(length=4), make())
    names = [f"blocks.{i}.attn.{P}" for i in range(LAYERS) for P in ("P_K", "P_V")]
    assert list(trainable(model)) == names
    assert count(model) == 2 * LAYERS * 4 * DIM
    assert len({float(p.detach().sum()) for p in trainable(model).values()}) == 2 * LAYERS


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("words", [(5, 9, 14), (5, 9), (5, 9, 14, 3, 8)])
def test_a_prefix_from_words_is_having_read_them(bos, words):
    model, (_, tokens, _) = make(bos), rows()
    read = torch.tensor([words[i % len(words)] for i in range(3)])
    told = model(torch.cat([read.expand(3, -1), tokens], 1))[:, 3:]
    PrefixTuning(length=3, init=words).attach(model)
    close(model(tokens), told)


def test_zeros_are_not_the_base():
    model, (_, tokens, _) = make(BOS), rows()
    plain = model(tokens)
    PrefixTuning(length=1).attach(model)
    with torch.no_grad():
        for p in trainable(model).values():
            p.zero_()
    assert (model(tokens) - plain).abs().max() > 0.05  # a key of zero scores 0 and takes its share


def test_a_forward_pass_leaves_the_prefix_as_it_was():
    model, (_, tokens, _) = stirred(PrefixTuning(length=2), make()), rows()
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    first = model(tokens)
    model.generate(tokens, 3)
    assert torch.equal(model(tokens), first)
    assert all(torch.equal(p, before[name]) for name, p in trainable(model).items())


@pytest.mark.parametrize(("n", "w"), [(3, 5), (6, 20)])
def test_the_network_makes_the_prefix_and_is_folded_away(n, w):
    model, (_, tokens, _) = stirred(PrefixTuning(length=n, mlp=w), make()), rows()
    assert count(model) == n * DIM + DIM * w + w + LAYERS * (w * 2 * DIM + 2 * DIM)
    trunk = model.blocks[0].attn.trunk
    assert all(block.attn.trunk is trunk for block in model.blocks)
    P = trunk.P.detach()
    hidden = torch.tanh(P @ trunk.W.weight.T + trunk.W.bias)
    expected = [hidden @ b.attn.out.weight.T + b.attn.out.bias for b in model.blocks]  # (n, 2d) each
    logits = model(tokens)
    fold(model)
    assert count(model) == 2 * LAYERS * n * DIM
    assert attachments(model)[0].method == PrefixTuning(length=n)
    for block, both in zip(model.blocks, expected, strict=True):
        close(torch.cat([block.attn.P_K, block.attn.P_V], 1), both.detach(), 1e-6)
    close(model(tokens), logits, 1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "at least 1, got 0"),
        ({"length": "4"}, "whole number"),
        ({"mlp": 0}, "mlp must be the width"),
        ({"mlp": True}, "mlp must be the width"),
        ({"init": "zero"}, "normal or a tuple of tokens, got 'zero'"),
        ({"init": (3,), "mlp": 8}, "leave out init or mlp"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        PrefixTuning(**settings)


def test_a_word_that_does_not_exist_is_told_and_leaves_no_trace():
    model = make()
    with pytest.raises(ValueError, match=f"the token {VOCAB}, but the vocabulary has the tokens 0 to {VOCAB - 1}"):
        PrefixTuning(init=(3, VOCAB)).attach(model)
    with pytest.raises(ValueError, match="the context has 24"):
        PrefixTuning(length=30, init=(3,)).attach(make(None))
    assert not attachments(model)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("bos", [None, BOS])
def test_a_prefix_on_a_prefix_is_one_longer_prefix(bos):
    words, (_, tokens, _) = (5, 9, 14, 3, 8), rows()
    model, whole = make(bos), PrefixTuning(length=5, init=words).attach(make(bos))
    for length in (2, 3):
        PrefixTuning(length=length).attach(model, stack=True)
    with torch.no_grad():
        for mine, theirs in zip(model.blocks, whole.blocks, strict=True):
            for name in ("P_K", "P_V"):  # the outer one enters first
                P = getattr(theirs.attn, name)
                getattr(mine.attn, name).copy_(P[:3])
                getattr(mine.attn.base, name).copy_(P[3:])
    close(model(tokens), whole(tokens))
