"""Adapter folders of peft: what is written comes back, names and numbers are those of peft.

That peft itself computes the same is tested in parity/test_exchange.py.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from minipeft.arithmetic import compress
from minipeft.attach import attachments
from minipeft.bases import base
from minipeft.deltas import DeltaError, delta_of, load
from minipeft.exchange import from_peft, to_peft
from minipeft.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    DoRA,
    Full,
    LoRA,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    QLoRA,
    VeRA,
)
from minipeft.methods.vera import Shared
from minipeft.models.llama import rotate
from minipeft.models.torch_nets import ConvConfig, ConvNet
from tests.exchange import FAMILIES, PROMPTS, WEIGHTS, built_like
from tests.models import DIM, HEADS, LAYERS, close, rows, stirred

TOKENS = rows(None)[1]
BLOCK = "base_model.model.model.layers.1"


@pytest.fixture
def llama():
    return built_like("llama")


def written(folder):
    """Configuration and tensors of a folder."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


# ---- both ways --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [*WEIGHTS, *PROMPTS], ids=str)
def test_what_was_written_comes_back_and_computes_the_same(method, family, tmp_path):
    model = built_like(family)
    view = stirred(method, model)
    to_peft(view, tmp_path, base="some/name")
    delta = from_peft(tmp_path, model)
    assert delta.notes == {"from": "peft", "base": "some/name", "peft": None}
    close(load(delta, model)(TOKENS), view(TOKENS), 1e-4)
    assert (view(TOKENS) - model(TOKENS)).abs().max() > 0.1


@pytest.mark.parametrize("method", [LoRA(), PromptTuning(3), LoRA(targets=("down",), classes=4)], ids=str)
def test_an_encoder_of_sentences_has_the_names_of_a_bertmodel_or_with_a_classifier_of_a_bert(method, tmp_path):
    model = built_like("encoder")
    view = stirred(method, model)
    to_peft(view, tmp_path)
    first = "base_model.model.bert.encoder." if method.classes else "base_model.model.encoder."
    names = [name for name in written(tmp_path)[1] if "lora" in name]
    assert all(name.startswith(first) for name in names)
    close(load(from_peft(tmp_path, model), model)(TOKENS), view(TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [LoRA(classes=4), IA3(("k",), (), classes=4), PromptTuning(3, classes=4)], ids=str)
def test_a_fresh_head_goes_along(method, family, tmp_path):
    model = built_like(family)
    view = stirred(method, model)
    to_peft(view, tmp_path)
    config, tensors = written(tmp_path)
    name = "score" if family == "llama" else "classifier"
    assert (config["modules_to_save"], config["task_type"]) == ([name], "TOKEN_CLS")
    assert len([key for key in tensors if key.endswith((f".{name}.weight", f".{name}.bias"))]) == 2
    close(load(from_peft(tmp_path, model), model)(TOKENS), view(TOKENS))


@pytest.mark.parametrize("method", [LoRA(), LoRA(rank=3, alpha=5, rslora=True, targets=("q", "k", "up")), DoRA(3, 5)])
def test_settings_and_numbers_come_back_even_out_of_a_fused_matrix(method, tmp_path):
    model = built_like("gpt2")
    view = stirred(method, model)
    to_peft(view, tmp_path)
    before, after = delta_of(view), from_peft(tmp_path, model)
    assert (after.method.rank, after.method.alpha) == (method.rank, method.alpha)
    assert after.method.targets == tuple("." + path for path in attachments(view)[0].layers)
    assert after.tensors.keys() == before.tensors.keys()
    for name, tensor in before.tensors.items():
        close(after.tensors[name], tensor, 1e-6)


def test_an_untrained_lora_comes_back_too(tmp_path):
    model = built_like("gpt2")
    to_peft(LoRA().attach(model), tmp_path)
    view = load(from_peft(tmp_path, model), model)
    close(view(TOKENS), model(TOKENS))
    assert set(attachments(view)[0].layers) == {f"blocks.{i}.attn.{name}" for i in range(LAYERS) for name in "qkv"}


def test_a_network_of_ones_own_keeps_its_names(tmp_path):
    model = base()
    view = stirred(LoRA(), model)
    to_peft(view, tmp_path)
    assert "base_model.model.blocks.0.attn.q.lora_A.weight" in written(tmp_path)[1]
    tokens = torch.randint(20, (2, 6))
    close(load(from_peft(tmp_path, model), model)(tokens), view(tokens))


def test_a_lora_of_convolutions_goes_there_and_back(tmp_path):
    model = ConvNet(ConvConfig(side=8, classes=3)).requires_grad_(False).eval()
    method = LoRA(targets=lambda path, module: isinstance(module, nn.Conv2d))
    view = stirred(method, model)
    to_peft(view, tmp_path)
    B = next(t for name, t in written(tmp_path)[1].items() if name.endswith("lora_B.weight"))
    assert B.shape[2:] == (1, 1)
    pictures = torch.rand(2, 8, 8)
    close(load(from_peft(tmp_path, model), model)(pictures), view(pictures))


# ---- what is written --------------------------------------------------------------------------------------------


def test_a_lora_on_a_llama_has_the_names_of_transformers(llama, tmp_path):
    view = stirred(LoRA(rank=3, alpha=6, dropout=0.1), llama)
    assert to_peft(view, tmp_path) == (tmp_path / "adapter_model.safetensors").stat().st_size
    config, tensors = written(tmp_path)
    assert config == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False,
        "use_dora": False, "fan_in_fan_out": False, "base_model_name_or_path": None, "inference_mode": True,
    }  # fmt: skip
    assert len(tensors) == 4 * LAYERS
    assert torch.equal(tensors[f"{BLOCK}.self_attn.q_proj.lora_A.weight"], view.blocks[1].attn.q.A)
    assert torch.equal(tensors[f"{BLOCK}.self_attn.v_proj.lora_B.weight"], view.blocks[1].attn.v.B)


def test_q_and_v_of_gpt2_become_one_lora_of_twice_the_rank_with_blocks(tmp_path):
    view = stirred(LoRA(rank=3, alpha=5), built_like("gpt2"))
    to_peft(view, tmp_path)
    config, tensors = written(tmp_path)
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (6, 10, True)
    assert config["target_modules"] == ["c_attn"]
    q, v, name = view.blocks[1].attn.q, view.blocks[1].attn.v, "base_model.model.transformer.h.1.attn.c_attn.lora_"
    A, B = tensors[f"{name}A.weight"], tensors[f"{name}B.weight"]
    assert torch.equal(A, torch.cat([q.A, v.A]))
    assert torch.equal(B[:DIM, :3], q.B)
    assert torch.equal(B[2 * DIM :, 3:], v.B)
    assert B.count_nonzero() == q.B.numel() + v.B.numel()  # k is not touched


def test_ranks_and_alphas_that_differ_are_said_by_the_end_of_a_name_or_the_whole(tmp_path):
    method = LoRA(rank=4, alpha=8, targets=("q", "v", "up", "down"), rank_pattern={".blocks.1.mlp.up": 2})
    to_peft(stirred(method, built_like("gpt2")), tmp_path)
    config, _ = written(tmp_path)
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    whole = r"^transformer\.h\.1\.mlp\.c_fc"
    assert config["rank_pattern"] == {"c_attn": 8, whole: 2}
    assert config["alpha_pattern"] == {"c_attn": 16}


def test_adalora_divides_by_what_peft_adds_to_the_rank(llama, tmp_path):
    to_peft(stirred(AdaLoRA(rank=2, initial_rank=3), llama), tmp_path)
    config, tensors = written(tmp_path)
    assert (config["init_r"], config["lora_alpha"], config["target_r"]) == (3, 3 + 1e-5, 2)
    assert tensors[f"{BLOCK}.self_attn.q_proj.lora_E"].shape == (3, 1)


def test_vera_stores_its_frozen_pair_too(llama, tmp_path):
    to_peft(stirred(VeRA(rank=5, seed=3), llama), tmp_path)
    config, tensors = written(tmp_path)
    assert (config["projection_prng_key"], config["save_projection"]) == (3, True)
    assert torch.equal(tensors["base_model.vera_A"], Shared(5, DIM, DIM, 3).A)


def test_ia3_says_which_side_is_rescaled(llama, tmp_path):
    to_peft(stirred(IA3(), llama), tmp_path)
    config, tensors = written(tmp_path)
    assert config["target_modules"] == ["down_proj", "k_proj", "v_proj"]
    assert config["feedforward_modules"] == ["down_proj"]
    assert tensors[f"{BLOCK}.mlp.down_proj.ia3_l"].shape[0] == 1
    assert tensors[f"{BLOCK}.self_attn.k_proj.ia3_l"].shape[1] == 1


def test_where_feedforward_names_could_be_misread_a_regular_expression_is_written(tmp_path):
    model = nn.Sequential()
    model.proj, model.k_proj = nn.Linear(3, 3), nn.Linear(3, 3)
    model.requires_grad_(False)
    to_peft(stirred(IA3(outputs=("k_proj",), inputs=(".proj",)), model), tmp_path)
    config, _ = written(tmp_path)
    assert config["feedforward_modules"] == "proj"  # a text, which must fit the whole name


def test_a_prefix_holds_keys_then_values_layer_by_layer_for_the_heads_of_keys(tmp_path):
    view = stirred(PrefixTuning(length=4), built_like("gpt2"))
    to_peft(view, tmp_path)
    config, tensors = written(tmp_path)
    assert (config["num_attention_heads"], config["token_dim"], config["num_layers"]) == (HEADS, DIM, LAYERS)
    parts = tensors["prompt_embeddings"].chunk(2 * LAYERS, dim=1)
    assert torch.equal(parts[2], view.begin.P_K[1])
    assert torch.equal(parts[3], view.begin.P_V[1])


def test_the_keys_of_a_prefix_for_a_llama_are_rotated_since_the_cache_of_transformers_holds_rotated_ones(
    llama, tmp_path
):
    view = stirred(PrefixTuning(length=4), llama)
    to_peft(view, tmp_path)
    config, tensors = written(tmp_path)
    assert (config["num_attention_heads"], config["token_dim"]) == (HEADS, DIM // 2)
    key, value = tensors["prompt_embeddings"].chunk(2 * LAYERS, dim=1)[:2]
    heads = view.begin.P_K[0].unflatten(-1, (HEADS, -1)).transpose(0, 1)  # (G, n, c)
    close(key, rotate(heads, torch.arange(4), llama.config.rope_base).transpose(0, 1).flatten(1))
    assert torch.equal(value, view.begin.P_V[0])


def test_ptuning_is_folded_to_its_template(llama, tmp_path):
    view = stirred(PTuning(length=2, template=(-1, 5, -1)), llama)
    to_peft(view, tmp_path)
    config, tensors = written(tmp_path)
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", 3)
    assert torch.equal(tensors["prompt_embeddings"][1], llama.embed.token.weight[5])


# ---- what is not written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (BitFit(), "no place for BitFit: write the merged model"),
        (Full(), "no place for Full: write the merged model.* or the nearest LoRA"),
        (PiSSA(rank=2), "twice the rank"),
        (Pfeiffer(size=3), "cannot be merged either"),
        (VeRA(rank=5), "VeRA of q, k and v cannot be told of 'transformer.h.0.attn.c_attn'"),
        (IA3(outputs=(), inputs=("q",)), "IA3 of q, k and v"),
    ],
)
def test_what_peft_has_no_place_for_is_refused_with_a_way_out_and_nothing_is_written(method, says, tmp_path):
    with pytest.raises(DeltaError, match=says):
        to_peft(stirred(method, built_like("gpt2")), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_two_methods_or_none_are_refused(llama, tmp_path):
    with pytest.raises(DeltaError, match="here are 0"):
        to_peft(llama, tmp_path)
    with pytest.raises(DeltaError, match="here are 2"):
        to_peft(LoRA().attach(LoRA().attach(llama)), tmp_path)


def test_a_prompt_for_a_model_that_transformers_lacks_is_refused(tmp_path):
    with pytest.raises(DeltaError, match="Transformer is not built like one"):
        to_peft(PromptTuning().attach(base()), tmp_path)


def test_a_lora_on_weights_of_an_lstm_is_refused(tmp_path):
    model = nn.Sequential(nn.LSTM(3, 4)).requires_grad_(False)
    with pytest.raises(DeltaError, match="no place for a LoRA on 'weight_ih_l0' of '0', a LSTM"):
        to_peft(LoRA(targets=("weight_ih_l0",)).attach(model), tmp_path)


def test_statistics_that_moved_are_not_left_behind_silently(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    view = LoRA(targets=(".0",)).attach(model)
    view.train()(torch.randn(8, 3))
    with pytest.raises(DeltaError, match=r"1\.(running_mean|running_var|num_batches).* moved while training"):
        to_peft(view, tmp_path)


def test_qlora_warns_that_the_base_differs_and_its_change_compressed_does_not(llama, tmp_path):
    view = stirred(QLoRA(rank=2, targets=("q", "v")), llama)
    with pytest.warns(UserWarning, match="on the base in full precision that is another model"):
        to_peft(view, tmp_path)
    other = load(from_peft(tmp_path, llama), llama)
    assert (other(TOKENS) - view(TOKENS)).abs().max() > 1e-3
    whole = compress(llama, delta_of(view), rank=DIM)
    assert max(whole.notes["error"].values()) < 1e-5
    to_peft(load(whole, llama), tmp_path)
    close(load(from_peft(tmp_path, llama), llama)(TOKENS), view(TOKENS), 1e-4)


@pytest.mark.parametrize("method", [PiSSA(rank=2), DoRA(targets=("up",)), Full(("q",))], ids=str)
def test_whatever_changes_matrices_leaves_as_a_lora_with_the_error_told(method, llama, tmp_path):
    view = stirred(method, llama)
    lora = compress(llama, delta_of(view), rank=DIM)
    assert max(lora.notes["error"].values()) < 1e-4
    to_peft(load(lora, llama), tmp_path)
    close(load(from_peft(tmp_path, llama), llama)(TOKENS), view(TOKENS), 1e-3)
