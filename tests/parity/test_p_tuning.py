"""Our P-tuning computes, trains, stores and folds like peft's, with either encoder.

What it can that peft cannot, virtual tokens among real ones, is held against transformers' models with the vectors put
in place by hand.
"""

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, PromptEncoderConfig, get_peft_model_state_dict
from peft.tuners.p_tuning import PromptEncoder

from minipeft import deltas
from minipeft.attach import detach, trainable
from minipeft.methods.p_tuning import ENCODERS, PTuning

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]
N, D, W = 4, 24, 7
# [h₁] [h₂] 7 [h₃] 0 in front; the fourth stands inside the input
MIXED = (-1, -1, 7, -1, 0)


@pytest.fixture(params=["lstm", "mlp"])
def encoder(request):
    return request.param


@pytest.fixture
def three(pair, encoder, library):
    """transformers' model, peft's, ours; the last two with the same weights in the encoder."""
    theirs, ours = pair
    kind = {"encoder_reparameterization_type": encoder.upper(), "encoder_hidden_size": W}
    peft = library(theirs, PromptEncoderConfig, num_virtual_tokens=N, **kind)
    PTuning(N, encoder=encoder, width=W).attach(ours)
    for p in trainable(peft).values():
        p.data.normal_(std=0.5)
    copy(peft, ours)
    return theirs, peft, ours


def copy(peft, ours):
    with torch.no_grad():
        for name, p in parameters(peft).items():
            inside(ours)[name].copy_(p)


def inside(ours):
    """The encoder's parameters, {name: parameter}."""
    return dict(ours.embed.token.encoder.named_parameters())


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
    return peft(input_ids=rows.tokens, attention_mask=rows.real.long()).logits[:, N:]


# ---- the encoder ------------------------------------------------------------------------------------------------


def test_all_parameters_of_the_encoder_correspond(three):
    _, peft, ours = three
    shapes = {name: tuple(p.shape) for name, p in inside(ours).items()}
    assert shapes == {name: tuple(p.shape) for name, p in parameters(peft).items()}
    assert trainable(ours).keys() == {f"embed.base.token.encoder.{name}" for name in shapes}  # and no others


def test_the_encoder_makes_the_same_vectors(three, close):
    _, peft, ours = three
    h = ours.embed.token.encoder()
    assert h.shape == (N, D)
    assert h.std() > 0.1
    close(h, made(peft))
    close(h.expand(3, -1, -1), peft.get_prompt(3))


def test_an_lstm_mixes_the_virtual_tokens_and_an_mlp_sees_each_alone(three, encoder):
    _, peft, ours = three
    pseudo = peft.prompt_encoder.default.embedding.weight, ours.embed.token.encoder.E
    for E, h in zip(pseudo, (lambda: made(peft), ours.embed.token.encoder), strict=True):
        for i in range(N):
            (reach,) = torch.autograd.grad(h()[i].sum(), E)
            reached = reach.abs().sum(dim=1) > 1e-9
            assert reached.tolist() == [encoder == "lstm" or j == i for j in range(N)]


def test_the_mlp_is_the_default_of_the_library_and_the_lstm_of_the_paper_is_ours():
    assert PromptEncoderConfig().encoder_reparameterization_type == "MLP"
    assert PTuning().encoder == "lstm"


@pytest.mark.parametrize(("n", "d", "w"), [(N, D, W), (20, 16, 24), (20, 3072, 3072)])
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
    apart(expected, theirs(rows.tokens, attention_mask=rows.real.long()).logits[rows.real])


def test_virtual_tokens_may_stand_among_anchors_and_inside_the_input(pair, rows, encoder, close, apart):
    theirs, ours = pair
    PTuning(N, template=MIXED, encoder=encoder, width=W).attach(ours)
    for p in inside(ours).values():
        p.data.normal_(std=0.5)
    tokens = rows.tokens.clone()
    middle = torch.tensor([3, 2, 7]) if rows.side != "left" else torch.tensor([3, 6, 4])  # all are real
    tokens[torch.arange(3), middle] = -1
    whole = torch.cat([torch.tensor(MIXED).expand(3, -1), tokens], dim=1)
    mask = F.pad(rows.real, (len(MIXED), 0), value=True)
    h = ours.embed.token.encoder()
    got = ours(tokens, rows.mask)
    expected = by_hand(theirs, h, whole, mask)[:, len(MIXED) :]
    close(got[rows.real], expected[rows.real])
    apart(by_hand(theirs, h.flip(0), whole, mask)[:, len(MIXED) :][rows.real], got[rows.real])
    weight = torch.randn_like(got[rows.real])
    parameters = list(trainable(ours).values())
    mine = torch.autograd.grad((got[rows.real] * weight).sum(), parameters, retain_graph=True)
    for ours_, theirs_ in zip(mine, torch.autograd.grad((expected[rows.real] * weight).sum(), parameters), strict=True):
        close(ours_, theirs_)


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
@pytest.mark.parametrize("rows", [None], indirect=True)
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_greedy_generation_is_equal(three, rows):
    _, peft, ours = three
    expected = peft.generate(
        input_ids=rows.tokens, attention_mask=rows.real.long(), max_new_tokens=8, do_sample=False, eos_token_id=None
    )[:, 9:]
    assert len(expected.unique()) > 2
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, cache=cache), expected)


# ---- training and storing ---------------------------------------------------------------------------------------


def test_gradients_of_the_encoder_are_equal(three, rows, close):
    _, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    weight = torch.randn_like(got)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, p in parameters(peft).items():
        assert p.grad.any()
        close(inside(ours)[name].grad, p.grad)


@pytest.mark.parametrize("rows", ["right"], indirect=True)
def test_five_steps_of_training_are_the_same(three, rows, train, close):
    _, peft, ours = three
    tokens, real = rows.tokens, rows.real
    expected = train(trainable(peft).values(), lambda: F.cross_entropy(of(peft, rows)[real], tokens[real]))
    got = train(trainable(ours).values(), lambda: F.cross_entropy(ours(tokens, rows.mask)[real], tokens[real]))
    close(got, expected)
    assert got[-1] < got[0] - 0.01
    for name, p in parameters(peft).items():
        close(inside(ours)[name], p)


def test_both_store_the_vectors_and_not_the_encoder(three, tmp_path, close, apart):
    _, peft, ours = three
    deltas.save(ours, tmp_path / "prompt")
    saved, stored = get_peft_model_state_dict(peft), deltas.read(tmp_path / "prompt").tensors
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"prompt_embeddings": (N, D)}
    assert stored.keys() == {"embed.token.encoder.h"}
    close(stored["embed.token.encoder.h"], saved["prompt_embeddings"])
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
    close(folded.embed.token.encoder.h, again.prompt_encoder.default.embedding.weight)
