"""Our encoder-decoder with BART's weights computes what `transformers` computes; methods do what `peft` does.

BART is built from a configuration, small and with random weights; the same numbers go into both. peft puts a prompt in
front of the encoder, and a prefix in front of the decoder's self-attention and nowhere else.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import BartConfig, BartForConditionalGeneration

from minipeft.attach import trainable
from minipeft.methods import LoRA, PrefixTuning, PromptTuning
from minipeft.models.transformer import recording
from minipeft.published.bart import from_bart, places_of_block
from minipeft.views import merge
from tests.models import CONTEXT, DIM, FF, HEADS, VOCAB, count

START, U, N, READS, WRITES = 2, 5, 4, 2, 3  # READS, WRITES: layers of the encoder and of the decoder
TASK = {"task_type": "SEQ_2_SEQ_LM"}
EQUAL = {"d_model": DIM, "max_position_embeddings": CONTEXT, "encoder_layers": READS, "decoder_layers": WRITES}
EQUAL |= {f"{part}_attention_heads": HEADS for part in ("encoder", "decoder")}
EQUAL |= {f"{part}_ffn_dim": FF for part in ("encoder", "decoder")}
EQUAL |= {f"{kind}dropout": 0 for kind in ("", "attention_", "activation_")}
PLACES = {}  # {our name: theirs} of the modules in all blocks
for i in range(READS):
    PLACES |= places_of_block(f"encoder.blocks.{i}", f"model.encoder.layers.{i}", decoder=False)
for i in range(WRITES):
    PLACES |= places_of_block(f"decoder.blocks.{i}", f"model.decoder.layers.{i}", decoder=True)
ATTENTIONS = [name.removesuffix(".q") for name in PLACES if name.endswith(".q")]

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
]


@pytest.fixture
def bart(randomised):
    """`bart()`: the library's model and ours, with the same random weights. Settings are those of the configuration."""

    def pair(**settings):
        numbers = {
            "vocab_size": VOCAB,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "forced_eos_token_id": None,
        }
        settings = {"attn_implementation": "eager", "decoder_start_token_id": START, **numbers, **EQUAL, **settings}
        theirs = randomised(BartForConditionalGeneration(BartConfig(**settings)), 0.4)
        theirs.final_logits_bias.normal_()
        return theirs, from_bart(theirs.state_dict(), heads=HEADS)

    return pair


@pytest.fixture
def pair(bart):
    return bart()


@pytest.fixture
def answers():
    answers = torch.randint(3, VOCAB, (3, U), generator=torch.Generator().manual_seed(6))
    answers[:, 0] = START
    return answers


def asked(theirs, rows, answers, **more):
    return theirs(**rows.theirs, decoder_input_ids=answers, **more)


def loss(logits, answers):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), answers[:, 1:].flatten())


def their_name(ours):
    path, _, kind = ours.rpartition(".")
    for part in ("encoder", "decoder"):
        ours = ours.replace(f"{part}.embed.norm", f"model.{part}.layernorm_embedding")
        ours = ours.replace(f"{part}.embed.position", f"model.{part}.embed_positions")
    return f"{PLACES[path]}.{kind}" if path in PLACES else ours.replace("encoder.embed.token", "model.shared")


# the model


NOT_LEFT = pytest.mark.parametrize("rows", [None, "right"], indirect=True)


@NOT_LEFT
def test_logits_and_attention_maps_are_equal(pair, rows, answers, close):
    theirs, ours = pair
    with recording(ours):
        got = ours(rows.tokens, answers, rows.mask)
    expected = asked(theirs, rows, answers, output_attentions=True)
    assert expected.logits.std() > 0.1  # else equality would say little
    close(got, expected.logits, 1e-9)
    for block, weights in zip(ours.decoder.blocks, expected.cross_attentions, strict=True):
        close(block.cross.weights, weights, 1e-9)


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_padding_on_the_left_takes_positions_in_the_library_and_none_here(pair, rows, answers, close, apart):
    theirs, ours = pair
    got, expected = ours(rows.tokens, answers, rows.mask), asked(theirs, rows, answers).logits
    close(got[0], expected[0], 1e-9)  # the row without padding
    apart(got[1], expected[1])
    for i, (row, real) in enumerate(zip(rows.tokens, rows.real, strict=True)):
        alone = theirs(input_ids=row[None, real], decoder_input_ids=answers[i : i + 1]).logits
        close(got[i], alone[0], 1e-9)


@NOT_LEFT
def test_gradients_are_equal(pair, rows, answers, close):
    theirs, ours = pair
    ours.requires_grad_(True)
    loss(ours(rows.tokens, answers, rows.mask), answers).backward()
    loss(asked(theirs, rows, answers).logits, answers).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        if name != "head.bias":  # a buffer there
            grad = expected.pop(their_name(name))
            close(p.grad, grad[2:] if "position" in name else grad, 1e-9)
    assert not expected


@NOT_LEFT
def test_greedy_generation_is_equal(pair, rows, answers):
    theirs, ours = pair
    given = {"max_new_tokens": 8, "do_sample": False, "num_beams": 1}
    expected = theirs.generate(**rows.theirs, **given, eos_token_id=None)[:, 1:]
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 8, rows.mask, cache=cache), expected)


@pytest.mark.parametrize("rows", [None], indirect=True)
def test_a_head_may_have_its_own_weight_and_an_embedding_may_not(bart, rows, answers, close):
    theirs, _ = bart()
    weights = theirs.state_dict() | {"lm_head.weight": torch.randn(VOCAB, DIM)}
    ours = from_bart(weights, heads=HEADS)
    theirs.lm_head.weight = torch.nn.Parameter(weights["lm_head.weight"])
    close(ours(rows.tokens, answers), asked(theirs, rows, answers).logits, 1e-9)
    weights["model.decoder.embed_tokens.weight"] = torch.randn(VOCAB, DIM)
    with pytest.raises(ValueError, match="decoder does not share the embedding of tokens"):
        from_bart(weights, heads=HEADS)


# LoRA


@pytest.fixture
def lora(pair):
    """peft's LoRA on q_proj and v_proj of all three attentions, and ours on q and v, with the same random numbers."""
    theirs, ours = pair
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], **TASK)
    peft, view = get_peft_model(copy.deepcopy(theirs), config).eval(), LoRA(3, 5).attach(ours)
    factors = {}
    for name, p in trainable(view).items():
        path, _, letter = name.rpartition(".")
        factors[name] = peft.get_parameter(f"base_model.model.{PLACES[path]}.lora_{letter}.default.weight")
        with torch.no_grad():
            p.copy_(factors[name].normal_(std=0.5))
    return peft, view, factors


@NOT_LEFT
def test_lora_is_equal_in_logits_gradients_merged_and_in_size(lora, pair, rows, answers, close, apart):
    peft, view, factors = lora
    got, expected = view(rows.tokens, answers, rows.mask), asked(peft, rows, answers).logits
    apart(got, asked(pair[0], rows, answers).logits)
    close(got, expected, 1e-9)
    loss(got, answers).backward()
    loss(expected, answers).backward()
    for name, p in trainable(view).items():
        close(p.grad, factors[name].grad, 1e-9)
    assert len(factors) == 2 * 2 * len(ATTENTIONS)
    assert count(view) == peft.get_nb_trainable_parameters()[0]
    plain = merge(view)
    merged = dict(peft.merge_and_unload().named_parameters())
    for ours, theirs in PLACES.items():
        close(plain.get_parameter(f"{ours}.weight"), merged[f"{theirs}.weight"], 1e-9)
    close(plain(rows.tokens, answers, rows.mask), got, 1e-9)


# prompts and prefixes


@NOT_LEFT
@pytest.mark.parametrize("halves", [1, 2], ids=["one half", "two halves, the default"])
def test_a_prompt_in_front_of_the_encoder_is_equal(pair, rows, answers, halves, close, apart):
    """By default peft makes twice as many vectors, and never uses the second half."""
    theirs, ours = pair
    more = {"num_transformer_submodules": 1} if halves == 1 else {}
    peft = get_peft_model(copy.deepcopy(theirs), PromptTuningConfig(num_virtual_tokens=N, **more, **TASK)).eval()
    view = PromptTuning(N, places=("encoder",)).attach(ours)
    vectors, P = peft.prompt_encoder.default.embedding.weight, view.encoder.begin.P
    with torch.no_grad():
        P.copy_(vectors.normal_(std=0.5)[:N])
    got, expected = view(rows.tokens, answers, rows.mask), asked(peft, rows, answers).logits
    close(got, expected, 1e-9)
    apart(got, asked(theirs, rows, answers).logits)
    loss(got, answers).backward()
    loss(expected, answers).backward()
    close(P.grad, vectors.grad[:N], 1e-9)
    assert not vectors.grad[N:].any()
    assert halves * count(view) == peft.get_nb_trainable_parameters()[0]


@NOT_LEFT
@pytest.mark.parametrize(("layers", "used"), [(3, (0, 2, 1)), (2, (0, 0))])
def test_a_prefix_is_one_before_the_decoder_with_its_layers_in_another_order(bart, rows, answers, layers, used, close):
    """peft lays keys and values out for two attentions and keeps every second pair: layer l gets number 2l, modulo L.

    Of an even number of layers, half share theirs with another, and half of the numbers are never used.
    """
    theirs, ours = bart(encoder_layers=layers, decoder_layers=layers)
    peft = get_peft_model(theirs, PrefixTuningConfig(num_virtual_tokens=N, **TASK)).eval()
    numbers = peft.prompt_encoder.default.embedding.weight
    view = PrefixTuning(N, places=("decoder",)).attach(ours)
    with torch.no_grad():
        parts = numbers.normal_(std=0.5).view(N, layers, 2, DIM).permute(2, 1, 0, 3)  # keys and values, (L, n, d)
        for P, part in zip((view.decoder.begin.P_K, view.decoder.begin.P_V), parts, strict=True):
            P.copy_(part[list(used)])
    logits = asked(peft, rows, answers).logits
    close(view(rows.tokens, answers, rows.mask), logits, 1e-9)
    loss(logits, answers).backward()
    reached = numbers.grad.view(N, layers, 2, DIM).abs().amax((0, 2, 3)) > 0
    assert reached.tolist() == [layer in used for layer in range(layers)]
