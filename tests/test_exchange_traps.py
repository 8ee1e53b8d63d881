"""What peft only warns of, or does not notice, is an error when its folders are read here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minipeft.bases import base
from minipeft.deltas import DeltaError, load
from minipeft.exchange import from_peft, to_peft
from minipeft.exchange.names import exceptions, family_of, targeted, targets_of, their_names, value_for
from minipeft.methods import IA3, AdaLoRA, LoRA, PrefixTuning, PromptTuning, VeRA
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from tests.exchange import FAMILIES, built_like
from tests.models import DIM, LAYERS, close, make, rows, stirred

TOKENS = rows(None)[1]
BLOCK = "base_model.model.model.layers.1"
Q = f"{BLOCK}.self_attn.q_proj"
DEFAULTS = {  # what peft 0.21.2 writes besides, for a LoRA
    "alora_invocation_tokens": None, "arrow_config": None, "auto_mapping": None, "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "init_lora_weights": True,
    "kasa_config": None, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_bias": False, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None, "peft_version": "0.21.2",
    "qalora_group_size": 16, "revision": None, "target_parameters": None, "trainable_token_indices": None,
    "use_bdlora": None, "use_qalora": False, "velora_config": None,
}  # fmt: skip


@pytest.fixture
def llama():
    return built_like("llama")


@pytest.fixture
def folder(llama, tmp_path):
    """`folder(method, change)`: what to_peft writes of it on the Llama, after change(configuration, tensors)."""

    def write(method, change):
        to_peft(stirred(method, llama), tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        change(config, tensors)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return write


def renamed(tensors, change):
    for name in list(tensors):
        tensors[change(name)] = tensors.pop(name)


def test_every_field_that_peft_writes_by_default_is_accepted(folder, llama):
    there = folder(LoRA(), lambda config, tensors: config.update(DEFAULTS))
    delta = from_peft(there, llama)
    assert delta.notes["peft"] == "0.21.2"
    close(load(delta, llama)(TOKENS), stirred(LoRA(), llama)(TOKENS))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"lora_bias": True}, "lora_bias=True cannot be read: its layers add a bias"),
        ({"bias": "all"}, "bias='all' cannot be read: biases were trained"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices=.* single tokens"),
        ({"target_parameters": ["a"]}, "target_parameters="),
        ({"layer_replication": [[0, 2]]}, "layers twice"),
        ({"use_qalora": True}, "use_qalora=True cannot be read: minipeft does not know"),
        ({"something_new": 3}, "something_new=3"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'.* changes the base's weights"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save names 'embed_tokens'"),
        ({"modules_to_save": ["score"]}, "names score, and the file holds none of them"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA' is not read here; there are LORA,"),
        ({"r": 5}, "has rank 4 in the file and 5 in the configuration"),
        ({"rank_pattern": {"v_proj": 7}}, "v_proj has rank 4 in the file and 7"),
        ({"lora_alpha": 0}, "alpha must be a number above 0"),
        ({"lora_alpha": "8"}, "damaged or was changed by hand"),
        ({"target_modules": "("}, "damaged or was changed by hand"),
        ({"target_modules": ["q_proj"]}, "tensors for 'model.layers.0.self_attn.v_proj', which the configuration does"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "names 'model.layers.0.self_attn.o_proj', for which the"),
        ({"layers_to_transform": [1]}, "which the configuration does not name"),
        ({"exclude_modules": ["v_proj"]}, "which the configuration does not name"),
        ({"use_dora": True}, "DoRA in front of model.layers.0.self_attn.q_proj lacks lora_magnitude_vector"),
    ],
)
def test_a_field_that_would_make_another_model_is_named(fields, says, folder, llama):
    with pytest.raises(DeltaError, match=says):
        from_peft(folder(LoRA(), lambda config, tensors: config.update(fields)), llama)


def test_a_scale_that_is_not_told_is_not_guessed(folder, llama):
    with pytest.raises(DeltaError, match="lora_alpha is missing, and without it peft takes 8"):
        from_peft(folder(LoRA(), lambda config, tensors: config.pop("lora_alpha")), llama)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: renamed(t, lambda n: n.removeprefix("base_model.model.")),
            "begins with 'base_model.model.' in peft",
        ),
        (lambda t: renamed(t, lambda n: n.replace("lora_A.", "lora_A.default.")), "tensors that are known end in"),
        (lambda t: renamed(t, lambda n: n.replace("model.layers", "layers")), "'layers.0.*is no module of this Llama"),
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "lacks lora_A.weight; the file holds lora_B.weight"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(DIM)}), "no place for lora_magnitude_vector"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, DIM + 1)}), r"shape \(4, 13\), expected \(4, 12\)"),
        (lambda t: t[f"{Q}.lora_A.weight"].fill_(torch.nan), "lora_A.weight holds numbers that are not finite"),
        (lambda t: [t.pop(name) for name in list(t) if "layers.1" in name], "for which the file holds no tensors"),
        (lambda t: t.clear(), "for which the file holds no tensors"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, says, folder, llama):
    with pytest.raises(DeltaError, match=says):
        from_peft(folder(LoRA(), lambda config, tensors: change(tensors)), llama)


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        (PromptTuning(), lambda c, t: c.pop("num_virtual_tokens"), "damaged or was changed by hand"),
        (PromptTuning(), lambda c, t: c.update(num_virtual_tokens=5), r"shape \(4, 12\), this model wants \(5, 12\)"),
        (PromptTuning(), lambda c, t: t.update(x=torch.ones(1)), "'x' that is left or lacks"),
        (PrefixTuning(), lambda c, t: c.update(num_attention_heads=6), "have 3 heads: the prefix has another base"),
        (VeRA(rank=5), lambda c, t: c.update(projection_prng_key=1), "vera_A is not what its seed"),
        (AdaLoRA(), lambda c, t: t.pop(f"{Q}.lora_E"), "AdaLoRA in front of .* lacks lora_E"),
        (IA3(), lambda c, t: t.pop(f"{BLOCK}.mlp.down_proj.ia3_l"), "for which the file holds no tensors"),
    ],
)
def test_so_are_those_of_the_other_methods(method, change, says, folder, llama):
    with pytest.raises(DeltaError, match=says):
        from_peft(folder(method, change), llama)


def test_files_that_are_not_there_or_not_whole_are_told(folder, llama, tmp_path):
    with pytest.raises(DeltaError, match=r"there is no .*adapter_config.json"):
        from_peft(tmp_path / "nowhere", llama)
    there = folder(LoRA(), lambda config, tensors: None)
    data = (there / "adapter_model.safetensors").read_bytes()
    (there / "adapter_model.safetensors").write_bytes(data[:-10])
    with pytest.raises(DeltaError, match="not a whole safetensors file"):
        from_peft(there, llama)
    (there / "adapter_model.safetensors").write_bytes(data)
    (there / "adapter_config.json").write_text("[")
    with pytest.raises(DeltaError, match="no configuration of peft"):
        from_peft(there, llama)
    (there / "adapter_config.json").write_text("[]")
    with pytest.raises(DeltaError, match="no configuration of peft"):
        from_peft(there, llama)
    (there / "adapter_model.safetensors").rename(there / "adapter_model.bin")
    with pytest.raises(DeltaError, match="may run code when it is opened"):
        from_peft(there, llama)


def test_an_embedding_that_peft_stores_beside_its_lora_must_be_that_of_the_base(folder, llama):
    name, method = "base_model.model.model.embed_tokens.base_layer.weight", LoRA(targets=("embed.token",))
    table = llama.embed.token.weight
    there = folder(method, lambda config, tensors: tensors.update({name: table.detach().clone()}))
    close(load(from_peft(there, llama), llama)(TOKENS), stirred(method, llama)(TOKENS))
    there = folder(method, lambda config, tensors: tensors.update({name: table + 1}))
    with pytest.raises(DeltaError, match="belongs to another base"):
        from_peft(there, llama)


def test_sixteen_bits_become_thirty_two_and_rounding_is_told(folder, llama):
    def halved(config, tensors):
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()

    there = folder(LoRA(), halved)
    delta = from_peft(there, llama)
    assert delta.notes["stored as"] == "bfloat16"
    assert {t.dtype for t in delta.tensors.values()} == {torch.float32}
    there = folder(LoRA(), lambda config, tensors: None)
    with pytest.warns(UserWarning, match=r"stored in float32 and is rounded to the model's torch.bfloat16"):
        from_peft(there, llama.bfloat16())


def test_alphas_that_differ_by_module_go_into_b(folder, llama):
    there = folder(LoRA(), lambda config, tensors: config.update(alpha_pattern={"v_proj": 2}))
    delta, view = from_peft(there, llama), stirred(LoRA(), llama)
    assert delta.method.alpha == 8
    close(delta.tensors["blocks.1.attn.v.B"], view.blocks[1].attn.v.B / 4)
    assert torch.equal(delta.tensors["blocks.1.attn.q.B"], view.blocks[1].attn.q.B)


def test_triplets_that_peft_has_left_out_come_back_as_zeros(folder, llama):
    def masked(config, tensors):
        for name in ("lora_A", "lora_E"):
            tensors[f"{Q}.{name}"] = tensors[f"{Q}.{name}"][:2]
        tensors[f"{Q}.lora_B"] = tensors[f"{Q}.lora_B"][:, :2]
        config["lora_alpha"] = 3

    delta = from_peft(folder(AdaLoRA(rank=2, initial_rank=5), masked), llama)
    assert (delta.method.rank, delta.method.initial_rank) == (2, 5)
    assert delta.tensors["blocks.1.attn.q.lam"][2:].count_nonzero() == 0
    before = stirred(AdaLoRA(rank=2, initial_rank=5), llama).blocks[1].attn.q.lam
    close(delta.tensors["blocks.1.attn.q.lam"][:2], before[:2] * 3 / (5 + 1e-5))


def test_a_bert_for_whole_sequences_has_a_pooler_that_is_not_here(tmp_path):
    model = built_like("bert")
    to_peft(stirred(LoRA(classes=3), model), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"task_type": "SEQ_CLS"}))
    with pytest.raises(DeltaError, match="a BERT has a pooler"):
        from_peft(tmp_path, model)


def test_vera_of_a_fused_matrix_and_a_prompt_for_another_model_are_refused(folder, llama, tmp_path):
    there = folder(PromptTuning(), lambda config, tensors: None)
    with pytest.raises(DeltaError, match="Transformer is not built like one"):
        from_peft(there, base())
    gpt2 = built_like("gpt2")
    to_peft(stirred(VeRA(rank=5, targets=("up",)), gpt2), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    renamed(tensors, lambda name: name.replace("mlp.c_fc", "attn.c_attn"))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    with pytest.raises(DeltaError, match="three matrices here, for which VeRA draws others"):
        from_peft(tmp_path, gpt2)


# ---- names ------------------------------------------------------------------------------------------------------


def test_a_family_is_seen_from_how_a_model_is_built():
    assert [family_of(built_like(name)).name for name in FAMILIES] == list(FAMILIES)
    assert family_of(LoRA().attach(built_like("bert"))).name == "bert"
    others = base(), make(), make(None), make(None, causal=False), nn.Linear(2, 2)
    assert [family_of(model) for model in others] == [None] * 5
    assert family_of(EncoderDecoder(EncoderDecoderConfig(9, 2))) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_every_module_with_weights_has_a_name_there(name):
    model = built_like(name, tied=False)
    weighted = {path.rpartition(".")[0] for path, _ in model.named_parameters()}
    assert set(their_names(model)) == weighted
    assert len(weighted) > 8 * LAYERS


def test_targets_are_as_short_as_they_can_be():
    every = ["a.0.q", "a.0.v", "a.1.q", "a.1.v", "b.q", "q"]
    assert targets_of(["a.0.v", "a.1.v"], every) == ["v"]
    assert targets_of(["a.0.q", "a.1.q"], every) == ["a.0.q", "a.1.q"]
    assert targets_of(["q"], every) == "q"  # a list would mean all that end so
    assert targets_of(["a.0.q", "q"], ["a.0.q", "b.a.0.q", "q"]) == r"a\.0\.q|q"


def test_patterns_are_read_as_peft_reads_them():
    ranks = {"a.0.q": 2, "a.1.q": 2, "a.0.v": 4, "a.1.v": 8}
    pattern = exceptions(ranks, 4)
    assert pattern == {"q": 2, r"^a\.1\.v": 8}
    assert {path: value_for(path, pattern, 4) for path in ranks} == ranks
    assert value_for("a.1.v", {"v": 3, "a.1.v": 5}, 4) == 3  # the first that fits


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": ["q"]}, {"m.h.0.q", "m.h.1.q", "m.x.q"}),
        ({"target_modules": r".*\.[01]\.q"}, {"m.h.0.q", "m.h.1.q"}),
        ({"target_modules": ["q"], "layers_to_transform": 1}, {"m.h.1.q"}),
        ({"target_modules": ["q"], "layers_to_transform": [0, 1], "layers_pattern": "h"}, {"m.h.0.q", "m.h.1.q"}),
        ({"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": ["blocks"]}, set()),
        ({"target_modules": ["m.x.q", "v"], "layers_to_transform": [0]}, {"m.x.q", "m.h.0.v"}),
        ({"target_modules": ["q"], "exclude_modules": ["x.q"]}, {"m.h.0.q", "m.h.1.q"}),
        ({"target_modules": ["q"], "exclude_modules": r".*0.*"}, {"m.h.1.q", "m.x.q"}),
    ],
)
def test_modules_are_chosen_by_the_rules_of_peft(config, expected):
    assert targeted(config, ["m.h.0.q", "m.h.1.q", "m.h.0.v", "m.x.q"]) == expected
