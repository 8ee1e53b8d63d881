"""Our P-tuning computes, trains, stores and folds like peft's, with either encoder.

What it can that peft cannot, a template with real tokens in it, is held against transformers' models with the vectors
put in place by hand.
"""

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, PromptEncoderConfig, get_peft_model_state_dict
from peft.tuners.p_tuning import PromptEncoder

from minipeft import deltas
from minipeft.attach import detach, trainable
from minipeft.methods.p_tuning import ENCODERS, PTuning
from tests.models import DIM, T

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]
N, W = 4, 11
MIXED = (-1, -1, 7, -1, 0, -1)  # [h₁] [h₂] 7 [h₃] 0 [h₄]


@pytest.fixture(params=["lstm", "mlp"])
def encoder(request):
    return request.param


@pytest.fixture
def three(pair, encoder, library):
    """transformers' model, peft's, ours; the last two with the same weights in the encoder."""
    theirs, ours = pair
    kind = {"encoder_reparameterization_type": encoder.upper(), "encoder_hidden_size": W}
    peft = library(theirs, PromptEncoderConfig, num_virtual_tokens=N, **kind)
    ours = PTuning(N, encoder=encoder, width=W).attach(ours)
    for p in trainable(peft).values():
        p.data.normal_(std=0.5)
    with torch.no_grad():
        for name, p in parameters(peft).items():
            inside(ours)[name].copy_(p)
    return theirs, peft, ours


def inside(ours):
    """The encoder's parameters, {name: parameter}."""
    return dict(ours.begin.encoder.named_parameters())


def parameters(peft):
    """The same of peft's, under our names."""
    found = {}
    for name, p in peft.prompt_encoder.default.named_parameters():
        place, rest = name.split(".", 1)
        found["E" if place == "embedding" else f"{place.removesuffix('_head')}.{rest}"] = p
    return found


def made(peft):
    """h of peft's encoder."""
    return peft.prompt_encoder.default(torch.arange(N)[None])[0]


def by_hand(theirs, h, tokens, mask):
    """Logits with the vectors h, in their order, where a token is −1; mask and positions are those of all tokens."""
    virtual = tokens == -1
    x = theirs.get_input_embeddings()(tokens.masked_fill(virtual, 0))
    x = x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return theirs(inputs_embeds=x, attention_mask=mask.long(), position_ids=positions).logits


def of(peft, rows):
    """peft's logits of the real tokens; it cannot be told positions, so rows padded on the left go by hand."""
    if rows.side == "left":
        tokens, mask = F.pad(rows.tokens, (N, 0), value=-1), F.pad(rows.real, (N, 0), value=True)
        return by_hand(peft.base_model, made(peft), tokens, mask)[:, N:]
    return peft(**rows.theirs).logits[:, N:]


# ---- the encoder ------------------------------------------------------------------------------------------------


def test_all_parameters_of_the_encoder_correspond(three):
    _, peft, ours = three
    shapes = {name: tuple(p.shape) for name, p in inside(ours).items()}
    assert shapes == {name: tuple(p.shape) for name, p in parameters(peft).items()}
    assert trainable(ours).keys() == {f"begin.encoder.{name}" for name in shapes}  # and no others


def test_the_encoder_makes_the_same_vectors(three, close):
    _, peft, ours = three
    h = ours.begin.encoder()
    assert h.shape == (N, DIM)
    assert h.std() > 0.1
    close(h, made(peft))
    close(h.expand(3, -1, -1), peft.get_prompt(3))


def test_an_lstm_mixes_the_virtual_tokens_and_an_mlp_sees_each_alone(three, encoder):
    _, peft, ours = three
    pseudo = peft.prompt_encoder.default.embedding.weight, ours.begin.encoder.E
    for E, h in zip(pseudo, (lambda: made(peft), ours.begin.encoder), strict=True):
        for i in range(N):
            (reach,) = torch.autograd.grad(h()[i].sum(), E)
            reached = reach.abs().sum(dim=1) > 1e-9
            assert reached.tolist() == [encoder == "lstm" or j == i for j in range(N)]


def test_the_mlp_is_the_default_of_the_library_and_the_lstm_of_the_paper_is_ours():
    assert PromptEncoderConfig().encoder_reparameterization_type == "MLP"
    assert PTuning().encoder == "lstm"


@pytest.mark.parametrize(("n", "d", "w"), [(N, DIM, W), (20, 16, 24), (20, 3072, 3072)])
def test_there_are_as_many_parameters_as_in_the_library_and_as_the_formula_says(encoder, n, d, w):
    config = PromptEncoderConfig(
        num_virtual_tokens=n,
        token_dim=d,
        encoder_hidden_size=w,
        encoder_reparameterization_type=encoder.upper(),
        num_transformer_submodules=1,
    )
    with torch.device("meta"):  # shapes alone
        theirs, ours = PromptEncoder(config), ENCODERS[encoder](n, d, w)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    if encoder == "lstm":
        assert count == n * d + 8 * w * (d + w + 2) + 8 * w * (3 * w + 2) + (4 * w * w + 2 * w) + (2 * w * d + d)
    else:
        assert count == n * d + (d * w + w) + (w * w + w) + (w * d + d)
    if (encoder, d) == ("mlp", 3072):
        assert count == 28_382_208  # as the library reports it for a Llama of 3B


# ---- the forward pass -------------------------------------------------------------------------------------------


def test_logits_are_equal(three, rows, close, apart):
    theirs, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    close(got, expected)
    apart(expected, theirs(**rows.theirs).logits[rows.real])


def test_virtual_tokens_may_stand_among_anchors(pair, rows, encoder, close, apart):
    theirs, ours = pair
    ours = PTuning(N, template=MIXED, encoder=encoder, width=W).attach(ours)
    parameters = list(trainable(ours).values())
    for p in parameters:
        p.data.normal_(std=0.5)
    whole = torch.cat([torch.tensor(MIXED).expand(3, -1), rows.tokens], dim=1)
    mask, h = F.pad(rows.real, (len(MIXED), 0), value=True), ours.begin.encoder()
    got = ours(rows.tokens, rows.mask)[rows.real]
    expected = by_hand(theirs, h, whole, mask)[:, len(MIXED) :][rows.real]
    close(got, expected)
    apart(by_hand(theirs, h.flip(0), whole, mask)[:, len(MIXED) :][rows.real], got)
    weight = torch.randn_like(got)
    mine, other = (torch.autograd.grad((y * weight).sum(), parameters, retain_graph=True) for y in (got, expected))
    for grad, wanted in zip(mine, other, strict=True):
        close(grad, wanted)


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
@pytest.mark.parametrize("rows", [None], indirect=True)
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_greedy_generation_is_equal(three, rows):
    _, peft, ours = three
    expected = peft.generate(**rows.theirs, max_new_tokens=8, do_sample=False, eos_token_id=None)[:, T:]
    assert len(expected.unique()) > 2
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, cache=cache), expected)


# ---- training and storing ---------------------------------------------------------------------------------------


def test_gradients_of_the_encoder_are_equal(three, rows, same_gradients, close):
    _, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    same_gradients(got, expected)
    for name, p in parameters(peft).items():
        assert p.grad.any()
        close(inside(ours)[name].grad, p.grad)


@pytest.mark.parametrize("rows", ["right"], indirect=True)
def test_five_steps_of_training_are_the_same(three, rows, train, close):
    _, peft, ours = three
    expected = train(trainable(peft).values(), lambda: rows.loss(of(peft, rows)))
    got = train(trainable(ours).values(), lambda: rows.loss(ours(rows.tokens, rows.mask)))
    close(got, expected)
    assert got[-1] < got[0] - 0.01
    for name, p in parameters(peft).items():
        close(inside(ours)[name], p)


def test_both_store_the_vectors_and_not_the_encoder(three, tmp_path, close, apart):
    _, peft, ours = three
    deltas.save(ours, tmp_path / "prompt")
    saved, stored = get_peft_model_state_dict(peft), deltas.read(tmp_path / "prompt").tensors
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"prompt_embeddings": (N, DIM)}
    assert stored.keys() == {"begin.encoder.h"}
    close(stored["begin.encoder.h"], saved["prompt_embeddings"])
    apart(saved["prompt_embeddings"], peft.prompt_encoder.default.embedding.weight)


def test_what_is_loaded_has_no_encoder_and_gives_the_same_logits(three, rows, tmp_path, close):
    theirs, peft, ours = three
    before, expected = ours(rows.tokens, rows.mask), of(peft, rows)
    peft.save_pretrained(tmp_path / "peft")
    deltas.save(ours, tmp_path / "ours")
    again = PeftModel.from_pretrained(theirs, tmp_path / "peft")
    assert [name for name, _ in again.prompt_encoder.default.named_parameters()] == ["embedding.weight"]
    folded = deltas.load(tmp_path / "ours", detach(ours))
    assert inside(folded).keys() == {"h"}
    assert torch.equal(folded(rows.tokens, rows.mask), before)
    if rows.side != "left":
        close(again(input_ids=rows.tokens, attention_mask=rows.real.long()).logits[:, N:], expected, 1e-9)
    close(folded.begin.encoder.h, again.prompt_encoder.default.embedding.weight)
