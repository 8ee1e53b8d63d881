"""Both forms of our deep prompts compute and train what peft's prefix tuning does.

The hidden form goes there by the prefix that it amounts to, and is also held against the blocks of transformers with
the vectors put in front of each by hand. With a classification head the oracle is peft on models for classification.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification, BertForTokenClassification, GPT2ForSequenceClassification

from minipeft.attach import trainable
from minipeft.methods.p_tuning_v2 import PTuningV2
from tests.models import DIM, LAYERS, VOCAB, T, count

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]
N = 5
FORMS = {"hidden": LAYERS * N * DIM, "key/value": 2 * LAYERS * N * DIM}  # and what they train


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def three(pair, form, library):
    """transformers' model, ours with random deep prompts, and peft's with the prefix that they amount to."""
    theirs, ours = pair
    ours = prompted(ours, form)
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=N)
    with torch.no_grad():
        matrix(peft).copy_(induced(theirs, ours))
    return theirs, peft, ours


def prompted(ours, form, **settings):
    view = PTuningV2(N, form, **settings).attach(ours)
    for p in trainable(view).values():
        p.data.normal_(std=0.7)
    return view


def matrix(peft):
    return peft.prompt_encoder.default.embedding.weight


def induced(theirs, ours):
    """The prefix as peft stores it, (n, 2Ld); for the hidden form with the norms, W and b of transformers' model."""
    parts = []
    for i, layer in enumerate(layers(theirs)):
        if not hasattr(ours.begin, "P"):
            parts += ours.begin.P_K[i], ours.begin.P_V[i]
        elif hasattr(layer, "attn"):  # GPT-2
            parts += layer.attn.c_attn(layer.ln_1(ours.begin.P[i])).chunk(3, dim=-1)[1:]
        else:
            parts += layer.attention.self.key(ours.begin.P[i]), layer.attention.self.value(ours.begin.P[i])
    return torch.cat(parts, dim=1)


def layers(theirs):
    return theirs.transformer.h if hasattr(theirs, "transformer") else theirs.bert.encoder.layer


def of(peft, rows):
    return peft(**rows.theirs, position_ids=rows.positions).logits


def by_hand(theirs, prompts, rows, replace):
    """Logits from transformers' blocks, a prompt in front; the next one replaces it, or it is carried through."""
    causal, positions = hasattr(theirs, "transformer"), N + rows.positions
    if causal:
        x = theirs.transformer.wte(rows.tokens) + theirs.transformer.wpe(positions)
    else:
        x = theirs.bert.embeddings(rows.tokens, position_ids=positions)
    visible = F.pad(rows.real, (N, 0), value=True)[:, None, None].expand(-1, -1, N + T, -1)
    hidden = ~(visible.tril() if causal else visible)
    mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(x.dtype).min)
    for i, layer in enumerate(layers(theirs)):
        if replace or i == 0:
            x = torch.cat([prompts[i].expand(3, -1, -1), x[:, -T:]], dim=1)
        x = layer(x, attention_mask=mask)
    x = x[:, N:]
    return theirs.lm_head(theirs.transformer.ln_f(x)) if causal else theirs.cls(x)


# ---- without a head ---------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_prefix(three, rows, close, apart):
    theirs, peft, ours = three
    for _ in range(2):
        got, expected = ours(rows.tokens, rows.mask), of(peft, rows)
        assert got.shape == expected.shape
        close(got[rows.real], expected[rows.real])
    base = theirs(**rows.theirs, position_ids=N + rows.positions).logits
    apart(got[rows.real], base[rows.real])


@pytest.mark.parametrize("form", ["hidden"], indirect=True)
def test_keys_and_values_of_the_prompts_are_those_of_the_library(three, close):
    theirs, _, ours = three
    pairs = [ours.begin.keys_values(block, P) for block, P in zip(ours.blocks, ours.begin.P, strict=True)]
    close(torch.cat([P for pair in pairs for P in pair], dim=1), induced(theirs, ours))


@pytest.mark.parametrize("form", ["hidden"], indirect=True)
def test_every_layer_drops_what_becomes_of_the_prompts_of_the_one_below(three, rows, close, apart):
    theirs, _, ours = three
    prompts = ours.begin.P
    got = ours(rows.tokens, rows.mask)[rows.real]
    close(got, by_hand(theirs, prompts, rows, replace=True)[rows.real])
    apart(got, by_hand(theirs, prompts, rows, replace=False)[rows.real])  # a prompt at the input alone


def test_the_real_tokens_stand_at_n_and_on_and_the_prompts_have_no_position(three, rows, given):
    _, _, ours = three
    places = given(ours.embed.position, lambda: ours(rows.tokens, rows.mask)).expand(3, -1)
    assert torch.equal(places[rows.real], (N + rows.positions)[rows.real])


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_greedy_generation_is_that_of_the_prefix(three, rows):
    _, peft, ours = three
    expected = peft.generate(**rows.theirs, max_new_tokens=8, do_sample=False, eos_token_id=None)[:, T:]
    assert len(expected.unique()) > 2
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, rows.mask, cache=cache), expected)


def test_gradients_are_equal(three, rows, close):
    theirs, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    weight = torch.randn_like(got)
    prompts = list(trainable(ours).values())
    mine = torch.autograd.grad((got * weight).sum(), prompts)
    (on_prefix,) = torch.autograd.grad((expected * weight).sum(), matrix(peft))
    through = torch.autograd.grad(induced(theirs, ours), prompts, on_prefix)  # and on to what it is made of
    for grad, other in zip(mine, through, strict=True):
        assert grad.any()
        close(grad, other)


@pytest.mark.parametrize("form", ["key/value"], indirect=True)
@pytest.mark.parametrize("rows", ["right"], indirect=True)
def test_five_steps_of_training_are_the_same(three, rows, train, close):
    theirs, peft, ours = three
    expected = train([matrix(peft)], lambda: rows.loss(of(peft, rows)))
    close(train(trainable(ours).values(), lambda: rows.loss(ours(rows.tokens, rows.mask))), expected)
    close(induced(theirs, ours), matrix(peft))


def test_the_hidden_form_trains_half_of_what_the_library_does(three, form):
    _, peft, ours = three
    assert count(ours) == FORMS[form]
    assert peft.get_nb_trainable_parameters()[0] == FORMS["key/value"]


@pytest.mark.parametrize("upper", FORMS)
def test_one_attached_on_another_adds_to_its_prefix(gpt2, form, upper, rows, library, close):
    theirs, ours = gpt2
    lower = prompted(ours, form)
    view, alone = prompted(lower, upper), prompted(ours, upper)
    for p, value in zip(trainable(view).values(), trainable(alone).values(), strict=True):
        p.data.copy_(value)
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=2 * N)
    matrix(peft).data.copy_(torch.cat([induced(theirs, lower), induced(theirs, alone)]))
    close(view(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real])


# ---- with a head ------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(randomised):
    """A model for classification of transformers around the body of another."""

    def around(theirs, kind):
        config = copy.deepcopy(theirs.config)
        config.num_labels = 3
        model = randomised(kind(config))
        model.base_model.load_state_dict(theirs.base_model.state_dict(), strict=False)
        return model

    return around


@pytest.mark.parametrize("rows", [None, "right"], indirect=True)
def test_a_classifier_reads_cls_and_is_trained_with_the_prompts(
    bert, form, rows, classifier, library, train, close, apart
):
    theirs, ours = bert
    model = classifier(theirs, BertForSequenceClassification)
    peft = library(model, PrefixTuningConfig, num_virtual_tokens=N, task_type="SEQ_CLS")
    ours = prompted(ours, form, classes=3)
    assert count(ours) == FORMS[form] + (DIM + 1) * 3
    assert peft.get_nb_trainable_parameters()[0] == FORMS["key/value"] + (DIM + 1) * 3
    with torch.no_grad():
        matrix(peft).copy_(induced(theirs, ours))
        head = ours.head.classify
        for mine, other in zip(
            head.parameters(), peft.base_model.classifier.modules_to_save.default.parameters(), strict=True
        ):
            mine.copy_(other)
    pooler = nn.Sequential(model.bert.pooler.dense, nn.Tanh()).requires_grad_(False)
    bare, labels = ours(rows.tokens, rows.mask), torch.tensor([0, 2, 1])
    assert bare.shape == (3, 3)
    ours.head.classify = nn.Sequential(pooler, head)  # BERT's own, frozen in the library, which ours leaves out
    expected = of(peft, rows)
    close(ours(rows.tokens, rows.mask), expected)
    apart(bare, expected)
    if form == "key/value":
        after = train(trainable(peft).values(), lambda: F.cross_entropy(of(peft, rows), labels))
        got = train(trainable(ours).values(), lambda: F.cross_entropy(ours(rows.tokens, rows.mask), labels))
        close(got, after)
        close(ours(rows.tokens, rows.mask), of(peft, rows))


@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_a_classifier_of_a_causal_model_reads_the_last_token(gpt2, form, rows, classifier, library, close):
    theirs, ours = gpt2
    model = classifier(theirs, GPT2ForSequenceClassification)
    peft = library(model, PrefixTuningConfig, num_virtual_tokens=N, task_type="SEQ_CLS")
    ours = prompted(ours, form, classes=3)
    with torch.no_grad():
        matrix(peft).copy_(induced(theirs, ours))
        ours.head.classify.weight.copy_(model.score.weight)
        ours.head.classify.bias.zero_()  # the library has none here
    rows.tokens[~rows.real] = 0  # it finds the last token by the number of the padding
    expected = of(peft, rows)
    close(ours(rows.tokens, rows.mask), expected)
    on_the_right = pad_sequence([row[row > 0] for row in rows.tokens], batch_first=True)
    close(peft(input_ids=on_the_right, attention_mask=(on_the_right > 0).long()).logits, expected)


@pytest.mark.parametrize("rows", ["right", "left"], indirect=True)
def test_padding_where_the_head_reads_is_refused(pair, form, rows):
    _, ours = pair
    ours = prompted(ours, form, classes=3)
    right = "left" if ours.config.causal else "right"
    if rows.side == right:
        assert ours(rows.tokens, rows.mask).shape == (3, 3)
    else:
        with pytest.raises(ValueError, match=f"pad on the {right}"):
            ours(rows.tokens, rows.mask)


def test_the_library_pools_the_padding_of_a_bert_without_a_word(bert, classifier, library, apart):
    peft = library(
        classifier(bert[0], BertForSequenceClassification),
        PrefixTuningConfig,
        num_virtual_tokens=N,
        task_type="SEQ_CLS",
    )
    tokens, mask = torch.randint(1, VOCAB, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    expected = peft(input_ids=tokens[1:, 2:]).logits
    apart(
        peft(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[1:], expected
    )


def test_what_a_classifier_of_tokens_reads_is_the_same(bert, form, rows, classifier, library, given, close):
    """Ours has no such head, but without the rows of the prompts every token has its state."""
    theirs, ours = bert
    model = classifier(theirs, BertForTokenClassification)
    peft = library(model, PrefixTuningConfig, num_virtual_tokens=N, task_type="TOKEN_CLS")
    ours = prompted(ours, form)
    with torch.no_grad():
        matrix(peft).copy_(induced(theirs, ours))
    states = given(ours.head, lambda: ours(rows.tokens, rows.mask))
    assert states.shape == (3, T, DIM)
    close(model.classifier(states)[rows.real], of(peft, rows)[rows.real])
