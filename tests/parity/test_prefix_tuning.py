"""Our prefix tuning computes, trains, stores and folds like peft's, directly and through the network.

peft keeps one matrix (n, 2Ld), ours two (L, n, d). It moves the positions that it is given by n, so rows
padded on the left need no third party here. BERT goes through its task type for features, as in
prompt tuning.
"""

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, PrefixTuningConfig, get_peft_model_state_dict
from transformers import DynamicCache

from minipeft import deltas
from minipeft.attach import detach, trainable
from minipeft.methods.prefix_tuning import PrefixTuning
from tests.models import DIM, HEADS, LAYERS, T, count

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]
N, W = 5, 7


@pytest.fixture(params=[None, W], ids=["direct", "mlp"])
def width(request):
    return request.param


@pytest.fixture
def three(pair, width, library):
    """transformers' model, peft's, ours; the last two with the same prefix."""
    theirs, ours = pair
    network = {"prefix_projection": True, "encoder_hidden_size": width} if width else {}
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=N, **network)
    ours = PrefixTuning(N, mlp=width).attach(ours)
    for p in trainable(peft).values():
        p.data.normal_(std=0.7)
    with torch.no_grad():
        for p, expected in pairs(ours, peft):
            p.copy_(expected)
    return theirs, peft, ours


def pairs(ours, peft, of=lambda p: p):
    """Each of our parameters with what corresponds to it in peft: a part of its big matrix, or of its last layer."""
    encoder, begin = peft.prompt_encoder.default, ours.begin
    if hasattr(encoder, "transform"):
        first, _, last = encoder.transform
        yield begin.P, of(encoder.embedding.weight)
        yield begin.W.weight, of(first.weight)
        yield begin.W.bias, of(first.bias)
        for W_l, weight, bias in zip(
            begin.out, of(last.weight).chunk(LAYERS), of(last.bias).chunk(LAYERS), strict=True
        ):
            yield W_l.weight, weight
            yield W_l.bias, bias
    else:
        yield from zip((begin.P_K, begin.P_V), apart_of(of(encoder.embedding.weight)), strict=True)


def apart_of(matrix):
    """P_K and P_V (L, n, d) out of the library's matrix (n, 2Ld)."""
    parts = matrix.chunk(2 * LAYERS, dim=1)
    return torch.stack(parts[::2]), torch.stack(parts[1::2])


def of(peft, rows):
    return peft(**rows.theirs, position_ids=rows.positions).logits


def flat(ours):
    """Our prefix as the library's matrix (n, 2Ld)."""
    return torch.cat([P for both in zip(*ours.begin.keys_values(), strict=True) for P in both], dim=1)


def with_cache(theirs, layers, rows, positions):
    """Logits of transformers' model with keys and values (1, H, n, d/H) for each layer in its cache, by hand."""
    cache = DynamicCache([(k.expand(3, -1, -1, -1), v.expand(3, -1, -1, -1)) for k, v in layers])
    mask = F.pad(rows.real.long(), (layers[0][0].shape[2], 0), value=1)
    return theirs(rows.tokens, attention_mask=mask, position_ids=positions, past_key_values=cache).logits


def in_heads(ours):
    """[(P_K, P_V), ...] of the layers, each (1, H, n, d/H)."""
    split = [P.unflatten(-1, (HEADS, -1)).transpose(1, 2) for P in ours.begin.keys_values()]
    return [(P_K[None], P_V[None]) for P_K, P_V in zip(*split, strict=True)]


# ---- the forward pass -------------------------------------------------------------------------------------------


def test_logits_are_equal(three, rows, close, apart):
    theirs, peft, ours = three
    for _ in range(2):  # no pass may leave a longer prefix behind
        got, expected = ours(rows.tokens, rows.mask), of(peft, rows)
        assert got.shape == expected.shape  # nothing stands in front of the tokens
        close(got[rows.real], expected[rows.real])
    base = theirs(**rows.theirs, position_ids=N + rows.positions).logits
    apart(got[rows.real], base[rows.real])


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_each_head_of_each_layer_gets_the_same_keys_and_values(three, rows, close):
    _, peft, ours = three
    cache = ours.new_cache()
    ours(rows.tokens, rows.mask, cache)
    expected = peft.get_prompt(3)
    for past, layer in zip(cache.layers, expected.layers, strict=True):
        assert past.k.shape == (3, HEADS, N + T, DIM // HEADS)
        close(past.k[:, :, :N], layer.keys)
        close(past.v[:, :, :N], layer.values)


def test_the_library_stores_keys_and_values_layer_by_layer_in_one_matrix(three, close):
    _, peft, ours = three
    matrix = peft.get_prompt_embedding_to_save("default")
    assert matrix.shape == (N, 2 * LAYERS * DIM)
    close(flat(ours), matrix)


def test_the_real_tokens_stand_at_n_and_on(three, rows, given, close, apart):
    theirs, _, ours = three
    places = given(ours.embed.position, lambda: ours(rows.tokens, rows.mask)).expand(3, -1)
    assert torch.equal(places[rows.real], (N + rows.positions)[rows.real])
    got, shifted = ours(rows.tokens, rows.mask), with_cache(theirs, in_heads(ours), rows, N + rows.positions)
    close(got[rows.real], shifted[rows.real])
    apart(got[rows.real], with_cache(theirs, in_heads(ours), rows, rows.positions)[rows.real])


@pytest.mark.parametrize("width", [None], indirect=True)
def test_the_library_counts_padding_on_the_left_if_it_is_told_no_positions(three, rows, close, apart):
    _, peft, ours = three
    got = ours(rows.tokens, rows.mask)[rows.real]
    untold = peft(**rows.theirs).logits[rows.real]
    if rows.side == "left":
        apart(got, untold)
    else:
        close(got, untold)


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_greedy_generation_is_equal(three, rows):
    _, peft, ours = three
    expected = peft.generate(**rows.theirs, max_new_tokens=8, do_sample=False, eos_token_id=None)[:, T:]
    assert len(expected.unique()) > 2
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, rows.mask, cache=cache), expected)


@pytest.mark.parametrize("rows", ["right"], indirect=True)
def test_a_prefix_of_zeros_is_not_the_base_though_the_library_says_so(pair, rows, library, close, apart):
    theirs, ours = pair
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=N, init_weights="zero")
    assert "will be a no-op" in PrefixTuningConfig.__doc__
    ours = PrefixTuning(N).attach(ours)
    for p in trainable(ours).values():
        p.data.zero_()
    got = ours(rows.tokens, rows.mask)[rows.real]
    close(got, of(peft, rows)[rows.real])
    base = theirs(**rows.theirs, position_ids=N + rows.positions).logits
    apart(got, base[rows.real])


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_two_prefixes_one_on_the_other_are_one_longer_prefix(pair, rows, library, close):
    theirs, ours = pair
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=N)
    matrix = peft.prompt_encoder.default.embedding.weight
    for method, part in ((PrefixTuning(2), matrix[:2]), (PrefixTuning(3), matrix[2:])):
        ours = method.attach(ours)
        ours.begin.P_K.data, ours.begin.P_V.data = (P.detach() for P in apart_of(part))
    close(ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real])


# ---- training ---------------------------------------------------------------------------------------------------


def test_gradients_are_equal(three, rows, same_gradients, close):
    _, peft, ours = three
    got, expected = ours(rows.tokens, rows.mask)[rows.real], of(peft, rows)[rows.real]
    same_gradients(got, expected)
    for p, grad in pairs(ours, peft, lambda p: p.grad):
        assert p.grad.any()
        close(p.grad, grad)


@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_five_steps_of_training_are_the_same(three, rows, train, close):
    _, peft, ours = three
    expected = train(trainable(peft).values(), lambda: rows.loss(of(peft, rows)))
    got = train(trainable(ours).values(), lambda: rows.loss(ours(rows.tokens, rows.mask)))
    close(got, expected)
    assert got[-1] < got[0] - 0.01
    for p, other in pairs(ours, peft):
        close(p, other)


def test_there_are_as_many_parameters_as_in_the_library_and_as_the_formula_says(three, width):
    _, peft, ours = three
    number = count(ours)
    assert number == peft.get_nb_trainable_parameters()[0]
    if width:
        assert number == N * DIM + DIM * W + W + LAYERS * (2 * DIM * W + 2 * DIM)
    else:
        assert number == 2 * LAYERS * N * DIM


# ---- storing and folding ----------------------------------------------------------------------------------------


def test_both_store_the_keys_and_values_and_not_the_network(three, tmp_path, close):
    _, peft, ours = three
    deltas.save(ours, tmp_path / "prefix")
    saved, stored = get_peft_model_state_dict(peft), deltas.read(tmp_path / "prefix").tensors
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"prompt_embeddings": (N, 2 * LAYERS * DIM)}
    assert sum(t.numel() for t in stored.values()) == 2 * LAYERS * N * DIM
    for name, P in zip(("P_K", "P_V"), apart_of(saved["prompt_embeddings"]), strict=True):
        close(stored[f"begin.{name}"], P)


@pytest.mark.parametrize("rows", ["right"], indirect=True)
def test_what_is_loaded_has_no_network_and_gives_the_same_logits(three, rows, tmp_path, close):
    theirs, peft, ours = three
    before, expected = ours(rows.tokens, rows.mask), of(peft, rows)
    peft.save_pretrained(tmp_path / "peft")
    deltas.save(ours, tmp_path / "ours")
    again = PeftModel.from_pretrained(theirs, tmp_path / "peft")
    close(of(again, rows), expected, 1e-9)
    folded = deltas.load(tmp_path / "ours", detach(ours))
    assert {name.rsplit(".", 1)[1] for name in trainable(folded)} == {"P_K", "P_V"}
    assert torch.equal(folded(rows.tokens, rows.mask), before)
    close(flat(folded), again.prompt_encoder.default.embedding.weight)


# ---- where the prefix starts ------------------------------------------------------------------------------------


def test_both_start_from_a_unit_gaussian_and_leave_the_network_out(make, library):
    theirs, ours = make("gpt2")
    assert not PrefixTuningConfig().prefix_projection
    assert PrefixTuning().mlp is None
    peft = library(theirs, PrefixTuningConfig, num_virtual_tokens=15)
    ours = PrefixTuning(15).attach(ours)
    for P in (flat(ours), peft.prompt_encoder.default.embedding.weight):
        assert P.std().item() == pytest.approx(1, rel=0.05)
        assert abs(P.mean().item()) < 0.05


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_start_from_words_is_what_the_base_leaves_in_its_cache(pair, length, close):
    theirs, ours = pair
    words = (11, 5, 20)
    repeated = torch.tensor([words[i % 3] for i in range(length)])
    cache = DynamicCache()
    theirs(repeated[None], past_key_values=cache)
    ours = PrefixTuning(length, init=words).attach(ours)
    for (P_K, P_V), layer in zip(in_heads(ours), cache.layers, strict=True):
        close(P_K, layer.keys)
        close(P_V, layer.values)


def test_a_causal_model_then_starts_as_if_it_had_read_them(pair, rows, close):
    theirs, ours = pair
    words = torch.tensor([11, 5, 20])
    ours = PrefixTuning(3, init=(11, 5, 20)).attach(ours)
    read = theirs(
        torch.cat([words.expand(3, -1), rows.tokens], dim=1),
        attention_mask=F.pad(rows.real.long(), (3, 0), value=1),
        position_ids=torch.cat([torch.arange(3).expand(3, -1), 3 + rows.positions], dim=1),
    ).logits[:, 3:][rows.real]
    got = ours(rows.tokens, rows.mask)[rows.real]
    if ours.config.causal:
        close(got, read)
    else:  # there the words would have seen the input too
        assert not torch.allclose(got, read, atol=1e-2)
