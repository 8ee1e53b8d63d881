"""Our Transformer with the weights of GPT-2 and BERT computes what `transformers` computes with them."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from minipeft import bases
from minipeft.transformer import recording

VOCAB, T = 40, 9
LENGTHS = torch.tensor([9, 4, 7])  # of the rows


def make_gpt2(randomised):
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=24,
        n_embd=24,
        n_layer=3,
        n_head=4,
        n_inner=40,  # not 4·d
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        attn_implementation="eager",
    )
    theirs = randomised(GPT2LMHeadModel(config))
    return theirs, bases.from_gpt2(theirs.state_dict(), heads=4)


def make_bert(randomised, eps):
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        layer_norm_eps=eps,
        attn_implementation="eager",
    )
    theirs = randomised(BertForMaskedLM(config))
    return theirs, bases.from_bert(theirs.state_dict(), heads=4, eps=eps)


@pytest.fixture
def gpt2(randomised):
    return make_gpt2(randomised)


@pytest.fixture(params=["gpt2", "bert", "bert with a large eps"])
def pair(request, randomised):
    """The library's model and ours, with the same weights."""
    if request.param == "gpt2":
        return make_gpt2(randomised)
    return make_bert(randomised, eps=1e-2 if "large" in request.param else 1e-12)


def masked(side):
    """Which of the (3, T) tokens are real."""
    place = torch.arange(T) if side == "right" else torch.arange(T).flip(0)
    return place < LENGTHS[:, None] if side else torch.ones(3, T, dtype=torch.bool)


def positions(mask):
    """As `generate` of `transformers` counts them: padding takes none."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def forward(theirs, tokens, mask, **more):
    return theirs(tokens, attention_mask=mask.long(), position_ids=positions(mask), **more)


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_logits_are_equal(pair, side, close):
    theirs, ours = pair
    tokens, mask = torch.randint(VOCAB, (3, T)), masked(side)
    with torch.no_grad():
        expected = forward(theirs, tokens, mask).logits
        got = ours(tokens, mask if side else None)
    assert expected.std() > 0.1  # else equality would say little
    close(got[mask], expected[mask], 1e-5)


def test_positions_need_not_be_given_without_padding_or_with_it_on_the_right(pair, close):
    theirs, ours = pair
    tokens, mask = torch.randint(VOCAB, (3, T)), masked("right")
    with torch.no_grad():
        close(ours(tokens), theirs(tokens).logits, 1e-5)
        close(ours(tokens, mask)[mask], theirs(tokens, attention_mask=mask.long()).logits[mask], 1e-5)


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_attention_maps_are_equal(pair, side, close):
    theirs, ours = pair
    tokens, mask = torch.randint(VOCAB, (3, T)), masked(side)
    with torch.no_grad(), recording(ours) as layers:
        ours(tokens, mask if side else None)
        expected = forward(theirs, tokens, mask, output_attentions=True).attentions
    assert len(layers) == len(expected) == 3
    for layer, weights in zip(layers, expected, strict=True):
        close(layer.weights.transpose(1, 2)[mask], weights.transpose(1, 2)[mask])  # the queries that are real


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_fused_attention_equals_the_one_written_out(pair, side, close):
    _, ours = pair
    tokens, mask = torch.randint(VOCAB, (3, T)), masked(side)
    with torch.no_grad():
        fused = ours(tokens, mask if side else None)
        with recording(ours):
            by_hand = ours(tokens, mask if side else None)
    close(fused[mask], by_hand[mask], 1e-5)


@pytest.mark.parametrize("side", [None, "left"])
def test_greedy_generation_is_equal(gpt2, side):
    theirs, ours = gpt2
    tokens, mask = torch.randint(1, VOCAB, (3, T)), masked(side)
    expected = theirs.generate(
        tokens, attention_mask=mask.long(), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, T:]
    assert len(expected.unique()) > 3  # else a model that ignores its past would pass
    for cache in (True, False):
        assert torch.equal(ours.generate(tokens, 12, mask if side else None, cache=cache), expected)


def test_generation_stops_at_the_same_token(gpt2):
    theirs, ours = gpt2
    tokens, mask = torch.randint(1, VOCAB, (3, T)), masked("left")
    free = ours.generate(tokens, 12, mask)
    stop = int(free[0, 4])
    expected = theirs.generate(
        tokens, attention_mask=mask.long(), max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=stop
    )[:, T:]
    got = ours.generate(tokens, 12, mask, stop=stop)
    assert torch.equal(got, expected)
    assert not torch.equal(got, free[:, : got.shape[1]])


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_head_that_is_not_tied_keeps_its_own_weights(kind, randomised, close):
    small = {"vocab_size": VOCAB, "tie_word_embeddings": False}
    if kind == "gpt2":
        theirs = GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0, **small))
    else:
        theirs = BertForMaskedLM(
            BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40, **small)
        )
    load = bases.from_gpt2 if kind == "gpt2" else bases.from_bert
    ours, tokens = load(randomised(theirs).state_dict(), heads=4), torch.randint(VOCAB, (3, T))
    with torch.no_grad():
        close(ours(tokens), theirs(tokens).logits, 1e-5)
