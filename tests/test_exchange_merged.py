"""Merged models as folders of transformers, written without the library. That it opens them is tested in parity."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minipeft.bases import base
from minipeft.exchange import from_transformers, to_transformers
from minipeft.methods import IA3, BitFit, DoRA, Full, LoRA, QLoRA
from minipeft.models.sentences import MeanPooled
from minipeft.models.vision import VisionConfig, ViT
from minipeft.views import merge
from tests.exchange import FAMILIES, built_like
from tests.models import DIM, close, rows, stirred

TOKENS = rows(None)[1]
METHODS = [LoRA(targets=("q", "v", "down")), QLoRA(rank=2, targets=("q",)), DoRA(), IA3(), Full(), BitFit()]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def say(folder, **fields):
    (folder / "config.json").write_text(json.dumps(config_of(folder) | fields))
    return folder


@pytest.mark.parametrize(
    ("family", "method"),
    [(f, m) for f in FAMILIES for m in METHODS if (f, m) != ("llama", BitFit())],
    ids=lambda value: str(value),
)
def test_a_merged_model_goes_out_and_comes_back(family, method, tmp_path):
    view = stirred(method, built_like(family))
    size = to_transformers(merge(view), tmp_path)
    assert size == (tmp_path / "model.safetensors").stat().st_size
    close(from_transformers(tmp_path)(TOKENS), view(TOKENS), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once(family, tied, tmp_path):
    model = built_like(family, tied)
    to_transformers(model, tmp_path)
    assert config_of(tmp_path)["tie_word_embeddings"] == tied
    names = load_file(tmp_path / "model.safetensors").keys()
    head = "cls.predictions.decoder.weight" if family == "bert" else "lm_head.weight"
    assert (head in names) == (not tied)
    close(from_transformers(tmp_path)(TOKENS), model(TOKENS))


def test_a_lora_of_the_embeddings_unties_them(tmp_path):
    view = stirred(LoRA(targets=("embed.token",)), built_like("gpt2"))
    with pytest.warns(UserWarning, match="now differ"):
        plain = merge(view)
    to_transformers(plain, tmp_path)
    assert not config_of(tmp_path)["tie_word_embeddings"]
    close(from_transformers(tmp_path)(TOKENS), view(TOKENS), 1e-4)


def test_the_configuration_says_what_the_model_is_and_what_one_adds(tmp_path):
    model = built_like("llama")
    to_transformers(model, tmp_path, more={"eos_token_id": 2})
    config, c = config_of(tmp_path), model.config
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert (config["num_key_value_heads"], config["rms_norm_eps"]) == (c.kv_heads, c.eps)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == c.rope_base
    assert (config["eos_token_id"], config["bos_token_id"]) == (2, None)


def test_gpt2_stores_its_fused_matrix_the_other_way_round(tmp_path):
    model = built_like("gpt2")
    to_transformers(model, tmp_path)
    W = load_file(tmp_path / "model.safetensors")["transformer.h.1.attn.c_attn.weight"]
    assert W.shape == (DIM, 3 * DIM)
    assert torch.equal(W[:, DIM : 2 * DIM], model.blocks[1].attn.k.weight.T)


def test_published_files_have_shorter_or_older_names(tmp_path):
    for family, change in (
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("bert", lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta")),
    ):
        model, folder = built_like(family), tmp_path / family
        to_transformers(model, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({change(name): t for name, t in weights.items()}, folder / "model.safetensors")
        close(from_transformers(folder)(TOKENS), model(TOKENS))


def test_a_model_in_two_files_of_sixteen_bits_is_read_in_thirty_two(tmp_path):
    model = built_like("llama").bfloat16()
    to_transformers(model, tmp_path)
    assert config_of(tmp_path)["dtype"] == "bfloat16"
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    for i, names in enumerate((list(weights)[::2], list(weights)[1::2])):
        part = {name: weights[name] for name in names}
        save_file(part, tmp_path / f"model-0000{i + 1}-of-00002.safetensors")
    again = from_transformers(tmp_path)
    assert again.embed.token.weight.dtype == torch.float32
    close(again(TOKENS), model.float()(TOKENS))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: LoRA().attach(built_like("gpt2")), r"LoRA\(.*\) is attached: write what merge\(adapted\) gives"),
        (base, "no model like this Transformer"),
        (lambda: ViT(VisionConfig(8, 4, 2)), "no model like this ViT"),
    ],
)
def test_what_transformers_has_no_model_for_is_refused_and_nothing_is_written(model, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        to_transformers(model(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_model_that_is_not_finite_is_refused(tmp_path):
    model = built_like("gpt2")
    model.blocks[1].attn.q.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.q\.weight"):
        to_transformers(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("family", "fields", "says"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function='relu'; only 'gelu_new'"),
        ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True; only False"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, r"scales its positions \(llama3\)"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling="),
        ("llama", {"head_dim": 5}, "head_dim=5"),
        ("llama", {"model_type": "mistral"}, "of the kind 'mistral'; read here are gpt2, bert, llama"),
    ],
)
def test_what_is_not_built_here_is_named(family, fields, says, tmp_path):
    to_transformers(built_like(family), tmp_path)
    with pytest.raises(ValueError, match=says):
        from_transformers(say(tmp_path, **fields))


def test_a_bert_without_a_head_for_words_is_read_as_an_encoder_and_goes_out_as_one(tmp_path):
    model = built_like("encoder")
    to_transformers(model, tmp_path)
    assert config_of(tmp_path)["architectures"] == ["BertModel"]
    again = from_transformers(tmp_path)
    assert type(again) is MeanPooled
    close(again(TOKENS), model(TOKENS))


def test_weights_that_lack_are_told(tmp_path):
    to_transformers(built_like("gpt2"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "h.1.attn" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 'h\.1\.attn\.c_attn\.weight', which a gpt2 has"):
        from_transformers(tmp_path)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(ValueError, match="no folder of transformers"):
        from_transformers(tmp_path)
