"""Our Transformer with the weights of GPT-2 and BERT computes what `transformers` computes with them."""

import pytest
import torch
from transformers import BertConfig, BertModel

from minipeft import bases
from minipeft.methods import LinearProbe
from minipeft.models.transformer import recording
from tests.models import HEADS, VOCAB
from tests.parity.conftest import SMALL


@pytest.fixture(params=["gpt2", "bert", "bert with a large eps"])
def pair(request, make):
    """The library's model and ours, with the same weights."""
    if request.param == "bert with a large eps":
        return make("bert", layer_norm_eps=1e-2)
    return make(request.param)


def forward(theirs, rows, **more):
    return theirs(rows.tokens, attention_mask=rows.real.long(), position_ids=rows.positions, **more)


def test_logits_are_equal(pair, rows, close):
    theirs, ours = pair
    with torch.no_grad():
        expected = forward(theirs, rows).logits
        got = ours(rows.tokens, rows.mask)
    assert expected.std() > 0.1  # else equality would say little
    close(got[rows.real], expected[rows.real], 1e-5)


@pytest.mark.parametrize("rows", [None, "right"], indirect=True)
def test_positions_need_not_be_given_without_padding_or_with_it_on_the_right(pair, rows, close):
    theirs, ours = pair
    with torch.no_grad():
        expected = theirs(rows.tokens, attention_mask=rows.real.long()).logits
        close(ours(rows.tokens, rows.mask)[rows.real], expected[rows.real], 1e-5)


def test_attention_maps_are_equal(pair, rows, close):
    theirs, ours = pair
    with torch.no_grad(), recording(ours) as layers:
        ours(rows.tokens, rows.mask)
        expected = forward(theirs, rows, output_attentions=True).attentions
    assert len(layers) == len(expected) == 3
    for layer, weights in zip(layers, expected, strict=True):
        close(layer.weights.transpose(1, 2)[rows.real], weights.transpose(1, 2)[rows.real])  # the queries that are real


def test_fused_attention_equals_the_one_written_out(pair, rows, close):
    _, ours = pair
    with torch.no_grad():
        fused = ours(rows.tokens, rows.mask)
        with recording(ours):
            by_hand = ours(rows.tokens, rows.mask)
    close(fused[rows.real], by_hand[rows.real], 1e-5)


@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_greedy_generation_is_equal(gpt2, rows):
    theirs, ours = gpt2
    expected = theirs.generate(
        rows.tokens, attention_mask=rows.real.long(), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[:, rows.tokens.shape[1] :]
    assert len(expected.unique()) > 3  # else a model that ignores its past would pass
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 12, rows.mask, cache=cache), expected)


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_generation_stops_at_the_same_token(gpt2, rows):
    theirs, ours = gpt2
    free = ours.generate(rows.tokens, 12, rows.mask)
    stop = int(free[0, 4])
    expected = theirs.generate(
        rows.tokens,
        attention_mask=rows.real.long(),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )[:, rows.tokens.shape[1] :]
    got = ours.generate(rows.tokens, 12, rows.mask, stop=stop)
    assert torch.equal(got, expected)
    assert not torch.equal(got, free[:, : got.shape[1]])


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("rows", [None], indirect=True)
def test_a_head_that_is_not_tied_keeps_its_own_weights(kind, rows, make, close):
    theirs, ours = make(kind, tie_word_embeddings=False)
    with torch.no_grad():
        close(ours(rows.tokens), theirs(rows.tokens).logits, 1e-5)


def test_a_bert_without_a_head_for_words_encodes_sentences(rows, randomised, close):
    """As sentence-transformers takes the mean of the last hidden states; with a classifier on top."""
    settings = {"vocab_size": VOCAB, "pad_token_id": 0, "attn_implementation": "eager", **SMALL["bert"]}
    theirs = randomised(BertModel(BertConfig(**settings)), 0.4)
    ours = bases.from_bert(theirs.state_dict(), heads=HEADS)
    with torch.no_grad():
        states = theirs(rows.tokens, attention_mask=rows.real.long(), position_ids=rows.positions).last_hidden_state
        weights = rows.real[..., None] / rows.real.sum(1)[:, None, None]
        mean = (states * weights).sum(1)
        close(ours(rows.tokens, rows.mask), mean, 1e-5)
        view = LinearProbe(classes=3).attach(ours)
        close(view(rows.tokens, rows.mask), mean @ view.head.weight.T + view.head.bias, 1e-5)
