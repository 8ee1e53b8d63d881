"""Our prompt tuning computes, trains and stores like peft's; where the two part company, a test shows it.

peft knows no task type for a masked language model: BERT goes through its type for features, which hands everything to
the model and its head. It cannot be told positions: rows padded on the left are held against a third party, which puts
the vectors by hand before the embedded tokens of transformers' model.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig, get_peft_model_state_dict
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from minipeft import deltas
from minipeft.attach import trainable
from minipeft.methods.prompt_tuning import PromptTuning
from tests.models import DIM, VOCAB, T

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]
N = 4


@pytest.fixture
def three(pair, library):
    """transformers' model, peft's, ours; the last two with the same random prompt."""
    theirs, ours = pair
    peft = library(theirs, PromptTuningConfig, num_virtual_tokens=N)
    ours = PromptTuning(N).attach(ours)
    with torch.no_grad():
        ours.begin.P.copy_(vectors(peft).normal_(std=0.5))
    return theirs, peft, ours


def vectors(peft):
    return peft.prompt_encoder.default.embedding.weight


def by_hand(theirs, P, rows, positions, front=1):
    """Logits of the real tokens with P before their embeddings, at 0 … n−1."""
    P = P.expand(len(rows.tokens), -1, -1)
    return theirs(
        inputs_embeds=torch.cat([P, theirs.get_input_embeddings()(rows.tokens)], dim=1),
        attention_mask=F.pad(rows.real.long(), (N, 0), value=front),
        position_ids=torch.cat([torch.arange(N).expand(len(P), -1), positions], dim=1),
    ).logits[:, N:]


def of(peft, rows):
    """peft's logits of the real tokens; where they need positions, with its vectors by hand."""
    if rows.side == "left":
        return by_hand(peft.base_model, vectors(peft), rows, N + rows.positions)
    return peft(**rows.theirs).logits[:, N:]


# ---- the forward pass -------------------------------------------------------------------------------------------


def test_logits_are_equal(three, rows, close, apart):
    theirs, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    close(got, expected)
    close(got, by_hand(theirs, ours.begin.P, rows, N + rows.positions)[rows.real])
    apart(expected, theirs(**rows.theirs).logits[rows.real])


def test_the_library_gives_logits_for_the_virtual_tokens_too(three, rows):
    _, peft, ours = three
    assert ours(rows.tokens, rows.mask).shape == (3, T, VOCAB)
    assert peft(**rows.theirs).logits.shape == (3, N + T, VOCAB)


@pytest.mark.parametrize("rows", ["left"], indirect=True)
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_padding_on_the_left_takes_positions_in_the_library_and_none_here(three, rows, close, apart):
    theirs, peft, ours = three
    real = rows.real
    got = ours(rows.tokens, rows.mask)
    expected = peft(**rows.theirs).logits[:, N:]
    counted = by_hand(theirs, ours.begin.P, rows, torch.arange(N, N + T).expand(3, -1))
    close(expected[real], counted[real])  # that is the whole difference
    apart(got[1][real[1]], expected[1][real[1]])
    ignored = peft(**rows.theirs, position_ids=N + rows.positions).logits[:, N:]
    assert torch.equal(ignored, expected)
    for i in range(3):  # what a row gets alone
        alone = peft(input_ids=rows.tokens[i : i + 1, real[i]]).logits[0, N:]
        close(got[i][real[i]], alone)


def test_the_mask_is_widened_by_ones(three, rows, close, apart):
    theirs, peft, ours = three
    expected = F.pad(rows.real, (N, 0), value=True)
    mask = rows.real.long()
    seen = []
    hook = peft.base_model.register_forward_pre_hook(
        lambda m, args, settings: seen.append(settings["attention_mask"]), with_kwargs=True
    )
    peft(input_ids=rows.tokens, attention_mask=mask)
    hook.remove()
    assert torch.equal(seen[0].bool(), expected)
    hook = ours.blocks[-1].register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    ours(rows.tokens, rows.real)
    hook.remove()
    itself = torch.eye(N + T, dtype=torch.bool)
    visible = expected[:, None, None] | itself  # padding sees itself
    assert torch.equal(seen[1], (visible.tril() if ours.config.causal else visible))
    positions = N + rows.positions
    widened_by_zeros = by_hand(theirs, ours.begin.P, rows, positions, front=0)
    base = theirs(rows.tokens, attention_mask=mask, position_ids=positions).logits
    close(widened_by_zeros[rows.real], base[rows.real])  # then P is never seen
    apart(widened_by_zeros[rows.real], ours(rows.tokens, rows.mask)[rows.real])


def test_the_real_tokens_stand_at_n_and_on(three, rows, given, apart):
    theirs, peft, ours = three
    places = given(ours.embed.position, lambda: ours(rows.tokens, rows.mask)).expand(3, -1)
    assert torch.equal(places[:, :N], torch.arange(N).expand(3, -1))
    assert torch.equal(places[:, N:][rows.real], (N + rows.positions)[rows.real])
    if rows.side != "left":
        table = next(m for name, m in peft.base_model.named_modules() if name.endswith(("wpe", "position_embeddings")))
        others = given(table, lambda: peft(**rows.theirs)).expand(3, -1)
        assert torch.equal(places[:, N:][rows.real], others[:, N:][rows.real])
    not_shifted = by_hand(theirs, ours.begin.P, rows, rows.positions)
    apart(not_shifted[rows.real], ours(rows.tokens, rows.mask)[rows.real])


@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_greedy_generation_of_a_row_is_equal_alone_and_in_a_padded_batch_here(three, rows):
    _, peft, ours = three
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    made = []
    for row, real in zip(rows.tokens, rows.real, strict=True):
        alone = row[real][None]
        made.append(
            peft.generate(input_ids=alone, attention_mask=torch.ones_like(alone), **greedy)[0, alone.shape[1] :]
        )
    made = torch.stack(made)
    assert len(made.unique()) > 2
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, rows.mask, cache=cache), made)
    batch = peft.generate(**rows.theirs, **greedy)[:, T:]
    assert torch.equal(batch, made) == (rows.side is None)  # the library counts padding


@pytest.mark.parametrize("rows", [None], indirect=True)
@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
def test_the_library_scores_the_first_token_too_which_the_last_virtual_token_predicts(three, rows, close):
    _, peft, ours = three
    tokens = rows.tokens
    result = peft(input_ids=tokens, labels=tokens)
    terms = F.cross_entropy(result.logits[:, N - 1 : -1].transpose(1, 2), tokens, reduction="none")
    assert terms.shape == (3, T)
    close(result.loss.double(), terms.mean())  # transformers takes it in single precision
    mine = F.cross_entropy(ours(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert mine.shape == (3, T - 1)  # as without a prompt
    close(mine, terms[:, 1:])
    close((terms[:, 0].sum() + mine.sum()) / terms.numel(), result.loss.double())


# ---- training ---------------------------------------------------------------------------------------------------


def test_gradients_of_the_prompt_are_equal(three, rows, same_gradients, close):
    _, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    same_gradients(got, expected)
    assert ours.begin.P.grad.abs().amin(dim=1).min() > 1e-3  # every virtual token is reached
    close(ours.begin.P.grad, vectors(peft).grad)


def test_five_steps_move_the_prompt_to_the_same_place(three, rows, train, close):
    _, peft, ours = three
    start = ours.begin.P.detach().clone()
    expected = train([vectors(peft)], lambda: rows.loss(of(peft, rows)))
    got = train(trainable(ours).values(), lambda: rows.loss(ours(rows.tokens, rows.mask)))
    close(got, expected)
    assert got[-1] < got[0] - 0.01
    close(ours.begin.P, vectors(peft))
    assert (ours.begin.P - start).abs().median() > 0.01


def test_the_trained_numbers_are_n_times_d_in_both(three):
    _, peft, ours = three
    assert {name: tuple(p.shape) for name, p in trainable(ours).items()} == {"begin.P": (N, DIM)}
    assert [tuple(p.shape) for p in trainable(peft).values()] == [(N, DIM)]
    assert peft.get_nb_trainable_parameters()[0] == N * DIM


def test_what_is_stored_is_the_same_and_can_be_exchanged(three, tmp_path):
    _, peft, ours = three
    deltas.save(ours, tmp_path / "prompt")
    saved = get_peft_model_state_dict(peft)
    stored = deltas.read(tmp_path / "prompt").tensors
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"prompt_embeddings": (N, DIM)}
    assert stored.keys() == {"begin.P"}
    assert torch.equal(stored["begin.P"], saved["prompt_embeddings"])


# ---- where the vectors start ------------------------------------------------------------------------------------


def test_the_library_starts_fifty_times_wider_than_the_embeddings_of_gpt2(make, library):
    theirs, ours = make("gpt2", n_embd=96)
    with torch.no_grad():
        for table in (theirs.transformer.wte.weight, ours.embed.token.weight):
            table.normal_(std=theirs.config.initializer_range)  # 0.02, as GPT-2 is made
    peft = library(theirs, PromptTuningConfig, num_virtual_tokens=100)
    P = PromptTuning(100).attach(ours).begin.P
    assert (vectors(peft).std() / theirs.transformer.wte.weight.std()).item() == pytest.approx(50, rel=0.05)
    assert (P.std() / ours.embed.token.weight.std()).item() == pytest.approx(1, rel=0.05)


def test_the_paper_starts_uniformly(make):
    P = PromptTuning(100, "uniform").attach(make("gpt2")[1]).begin.P
    assert 0.49 < P.abs().max() <= 0.5
    assert P.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)


def test_a_start_from_the_vocabulary_takes_embeddings_in_both(pair, library):
    theirs, ours = pair
    table = theirs.get_input_embeddings().weight
    peft = library(theirs, PromptTuningConfig, num_virtual_tokens=9, prompt_tuning_init="SAMPLE_VOCAB")
    for P in (vectors(peft).double(), PromptTuning(9, "vocabulary").attach(ours).begin.P):
        distance = torch.cdist(P, table)
        assert distance.min(dim=1).values.max() < 1e-5  # the library keeps single precision
        assert len(distance.argmin(dim=1).unique()) > 3


@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_text_is_repeated_or_cut_to_the_length_in_both(pair, length, library, tmp_path, close):
    theirs, ours = pair
    words = {"classify": 11, "the": 5, "sentence": 20, "?": 0}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(tmp_path)
    peft = library(
        theirs,
        PromptTuningConfig,
        num_virtual_tokens=length,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="classify the sentence",
        tokenizer_name_or_path=str(tmp_path),
    )
    P = PromptTuning(length, (11, 5, 20)).attach(ours).begin.P
    close(P, vectors(peft).double())
    close(P[-1], theirs.get_input_embeddings().weight[(11, 5, 20)[(length - 1) % 3]])


# ---- a classifier -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, "right"], indirect=True)
@pytest.mark.parametrize("pair", ["bert"], indirect=True)
def test_the_library_pools_the_first_virtual_token_which_never_leaves_the_blocks_here(
    three, rows, library, randomised, given, close, apart
):
    theirs, _, ours = three
    classifier = randomised(BertForSequenceClassification(theirs.config), std=0.5)
    classifier.bert.load_state_dict(theirs.bert.state_dict(), strict=False)
    peft = library(classifier, PromptTuningConfig, num_virtual_tokens=N, task_type="SEQ_CLS")
    with torch.no_grad():
        vectors(peft).copy_(ours.begin.P)
    mask = rows.real.long()
    logits = peft(input_ids=rows.tokens, attention_mask=mask).logits
    states = classifier.bert(
        inputs_embeds=torch.cat(
            [ours.begin.P.expand(3, -1, -1), classifier.bert.embeddings.word_embeddings(rows.tokens)], 1
        ),
        attention_mask=F.pad(mask, (N, 0), value=1),
    ).last_hidden_state  # (3, n+T, d)
    pool = nn.Sequential(classifier.bert.pooler.dense, nn.Tanh(), classifier.classifier)
    close(logits, pool(states[:, 0]))
    apart(logits, pool(states[:, N]))  # [CLS]
    close(given(ours.head, lambda: ours(rows.tokens, rows.mask))[rows.real], states[:, N:][rows.real])
