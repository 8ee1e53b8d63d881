"""Our Llama computes, generates and trains like that of `transformers` with the same weights; so do methods of peft."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from minipeft.attach import trainable
from minipeft.methods import LoRA, PrefixTuning, PromptTuning
from minipeft.models.llama import rotate
from minipeft.models.transformer import recording
from minipeft.published.llama import from_llama
from tests.models import CONTEXT, DIM, FF, HEADS, LAYERS, VOCAB

KV = HEADS  # of twice as many heads
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what was renamed


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def llama(request, randomised):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=DIM, intermediate_size=FF, num_hidden_layers=LAYERS, rms_norm_eps=1e-3,
        num_attention_heads=2 * HEADS, num_key_value_heads=KV, max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0}, tie_word_embeddings=request.param,
        attn_implementation="eager", pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = randomised(LlamaForCausalLM(config), 0.4)
    return theirs, from_llama(theirs.state_dict(), 2 * HEADS, KV, rope_base=50.0, eps=1e-3, context=CONTEXT)


def forward(theirs, rows, **more):
    return theirs(rows.tokens, attention_mask=rows.real.long(), position_ids=rows.positions, **more)


def test_logits_and_attention_maps_are_equal(llama, rows, close):
    theirs, ours = llama
    with torch.no_grad(), recording(ours) as layers:
        got = ours(rows.tokens, rows.mask)
        expected = forward(theirs, rows, output_attentions=True)
    assert expected.logits.std() > 0.1
    close(got[rows.real], expected.logits[rows.real], 1e-5)
    for layer, weights in zip(layers, expected.attentions, strict=True):
        close(layer.weights.transpose(1, 2)[rows.real], weights.transpose(1, 2)[rows.real], 1e-5)


def test_gradients_are_equal(llama, rows, close):
    theirs, ours = llama
    ours.requires_grad_(True)
    rows.loss(ours(rows.tokens, rows.mask)).backward()
    rows.loss(forward(theirs, rows).logits).backward()
    close(ours.embed.token.weight.grad, theirs.model.embed_tokens.weight.grad, 1e-5)
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        close(block.attn.k.weight.grad, layer.self_attn.k_proj.weight.grad, 1e-5)
        close(block.mlp.gate.weight.grad, layer.mlp.gate_proj.weight.grad, 1e-5)
        close(block.norm2.weight.grad, layer.post_attention_layernorm.weight.grad, 1e-5)


@pytest.mark.parametrize("rows", [None, "left"], indirect=True)
def test_greedy_generation_is_equal(llama, rows):
    theirs, ours = llama
    expected = theirs.generate(
        rows.tokens, attention_mask=rows.real.long(), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[:, rows.tokens.shape[1] :]
    assert len(expected.unique()) > 3
    for cache in (True, False):
        assert torch.equal(ours.generate(rows.tokens, 12, rows.mask, cache=cache), expected)


def test_lora_is_that_of_peft(llama, close):
    theirs, ours = llama
    names = {"q": "q_proj", "v": "v_proj", "gate": "gate_proj", "down": "down_proj"}
    peft = get_peft_model(theirs, LoraConfig(r=3, lora_alpha=5, target_modules=[*names.values()])).eval()
    view = LoRA(rank=3, alpha=5, targets=tuple(names)).attach(ours)
    tokens = torch.randint(VOCAB, (2, 6))
    mine, other = trainable(view), trainable(peft)
    assert sum(p.numel() for p in mine.values()) == sum(p.numel() for p in other.values())
    with torch.no_grad():
        for (name, p), (their_name, q) in zip(mine.items(), other.items(), strict=True):
            assert names[name.split(".")[-2]] in their_name
            assert name[-1] in "AB"
            p.copy_(q.normal_(std=0.5))
        close(view(tokens), peft(tokens).logits, 1e-5)


def test_a_prompt_is_that_of_peft(llama, close):
    theirs, ours = llama
    peft = get_peft_model(theirs, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    view = PromptTuning(length=3).attach(ours)
    tokens = torch.randint(VOCAB, (2, 6))
    with torch.no_grad():
        view.begin.P.copy_(peft.prompt_encoder.default.embedding.weight)
        close(view(tokens), peft(input_ids=tokens).logits[:, 3:], 1e-5)


def test_a_prefix_is_that_of_peft_before_its_keys_are_rotated(llama, close):
    """peft's keys go into a cache of rotated ones; ours are rotated when attention reads them."""
    theirs, ours = llama
    settings = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM", "num_attention_heads": KV, "token_dim": DIM // 2}
    peft = get_peft_model(theirs, PrefixTuningConfig(**settings)).eval()
    view = PrefixTuning(length=3).attach(ours)
    tokens = torch.randint(VOCAB, (2, 6))
    learned = peft.prompt_encoder.default.embedding.weight.detach().view(3, LAYERS, 2, DIM // 2)
    K, V = learned.permute(2, 1, 0, 3)  # (L, n, G·c) twice
    split = ours.blocks[0].attn.split
    unrotated = rotate(split(K), -torch.arange(3)[None, None], 50.0).transpose(1, 2).flatten(2)
    with torch.no_grad():
        view.begin.P_K.copy_(unrotated)
        view.begin.P_V.copy_(V)
        close(view(tokens), peft(input_ids=tokens).logits, 1e-5)


def test_a_model_with_biases_is_refused(llama):
    theirs, _ = llama
    weights = theirs.state_dict() | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(DIM)}
    with pytest.raises(ValueError, match=r"no place for 'model.layers.0.self_attn.q_proj.bias'"):
        from_llama(weights, 2 * HEADS, KV)
