"""The doctor on models of transformers, peft and loralib: silence where all is well, a finding for what goes wrong
without a word. Each failure is a real one: the test shows that training or loading does not do what was meant."""

import copy
import json
import warnings

import loralib
import pytest
import torch
from peft import (
    AdaLoraConfig,
    AdaptionPromptConfig,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from minipeft.doctor import doctor
from tests.models import bits, same_bits
from tests.test_doctor import Net, Reading, found, loss_on, silent

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]

WIDTHS = {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "hidden_size": 12}
GPT2 = {"n_positions": 32, "n_embd": 12, "n_layer": 2, "n_head": 3, "bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=1, pad_token_id=0, **WIDTHS)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, **GPT2)),
    "gpt2 classifier": lambda: GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, pad_token_id=0, num_labels=3, **GPT2)
    ),
    "bert classifier": lambda: BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **WIDTHS)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3, decoder_start_token_id=0)
    ),
    "vit": lambda: ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **WIDTHS)),
}
TARGETS = {
    "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "gpt2 classifier": ["c_attn"],
    "bert classifier": ["query", "value"], "t5": ["q", "v"], "vit": ["q_proj", "v_proj"],
}  # fmt: skip
TYPES = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "vit": None}


def configs(kind):
    """Configurations of peft as one would write them."""
    said = {"target_modules": TARGETS[kind], "task_type": TYPES.get(kind, "SEQ_CLS")}
    said |= {"modules_to_save": ["classifier"]} if kind == "vit" else {}
    yield LoraConfig(r=4, **said)
    yield LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, bias="all", **said | {"target_modules": "all-linear"})
    yield LoraConfig(r=4, use_dora=True, **said)
    yield LoraConfig(r=4, use_rslora=True, init_lora_weights="pissa", **said)
    yield AdaLoraConfig(init_r=4, target_r=2, total_step=30, **said)
    yield IA3Config(feedforward_modules=[], **said)
    if "gpt2" not in kind:
        yield VeraConfig(r=4, **said)
    if kind == "llama":
        yield LoraConfig(r=4, trainable_token_indices=[1, 2], **said)
        yield LoraConfig(r=4, **said | {"modules_to_save": ["embed_tokens", "lm_head"]})
        yield LoHaConfig(r=4, **said)
        yield LoKrConfig(r=4, **said)
        yield OFTConfig(r=0, oft_block_size=4, **said)
        yield BOFTConfig(boft_block_size=4, **said)
        yield HRAConfig(r=4, **said)
        yield FourierFTConfig(n_frequency=10, **said)
        yield VBLoRAConfig(num_vectors=8, vector_length=4, topk=2, **said)
        yield AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM")
        yield LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"])
    if kind != "vit":
        yield PromptTuningConfig(num_virtual_tokens=4, task_type=said["task_type"])
        yield PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=12, task_type=said["task_type"])
    if kind not in ("vit", "t5"):
        yield PrefixTuningConfig(num_virtual_tokens=4, task_type=said["task_type"])


def labelled(model, kind):
    """Its loss on a batch of 4, each time another one."""
    generator = torch.Generator().manual_seed(0)

    def loss():
        if kind == "vit":
            pictures = torch.randn(4, 3, 8, 8, generator=generator)
            return model(pixel_values=pictures, labels=(pictures[:, 0, 0, 0] > 0).long()).loss
        tokens = torch.randint(1, 50, (4, 8), generator=generator)
        labels = tokens[:, 0] % 3 if "classifier" in kind else tokens
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss

    return loss


def adam(model, lr=1e-3):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def steps(model, loss, optimizer, number=3):
    for _ in range(number):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def lora(kind="llama", **settings):
    """A healthy LoRA of peft on a model of transformers."""
    return get_peft_model(MODELS[kind](), LoraConfig(**{"r": 4, "target_modules": TARGETS[kind]} | settings))


# ---- healthy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_transformers_is_healthy_alone_and_trained_in_full(kind):
    model = MODELS[kind]()
    silent(doctor(model, adam(model), labelled(model, kind)))
    silent(doctor(model.requires_grad_(False).eval()))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of peft, about its own settings
@pytest.mark.parametrize(
    ("kind", "config"),
    [pytest.param(kind, config, id=f"{kind} {type(config).__name__}") for kind in MODELS for config in configs(kind)],
)
def test_what_peft_attaches_trains_saves_and_loads_is_healthy(kind, config, tmp_path):
    start = MODELS[kind]()
    model = get_peft_model(copy.deepcopy(start), copy.deepcopy(config)).train()
    optimizer, loss = adam(model), labelled(model, kind)
    assert not doctor(model, optimizer, loss)
    before = bits(model)
    assert not doctor(model, loss=loss)
    assert same_bits(model, before)
    steps(model, loss, optimizer)
    assert not doctor(model, optimizer, loss)
    model.save_pretrained(tmp_path / "adapter")
    assert not doctor(tmp_path / "adapter")
    if not isinstance(config, AdaptionPromptConfig):
        silent(doctor(PeftModel.from_pretrained(start, tmp_path / "adapter")))


# ---- planted ----------------------------------------------------------------------------------------------------


def test_the_optimizer_was_made_before_peft():
    model = MODELS["llama"]()
    optimizer = adam(model)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    before, loss = bits(model), labelled(model, "llama")
    found(doctor(model, optimizer, loss), "error", "The optimizer holds none of the 4 trained tensors")
    steps(model, loss, optimizer)
    assert same_bits(model, before)


def test_an_adapter_loaded_for_inference_is_trained_on(tmp_path):
    model = lora()
    steps(model, labelled(model, "llama"), adam(model))
    model.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(MODELS["llama"](), tmp_path)
    silent(checkup := doctor(model))
    assert "is_trainable=True" in found(checkup, "note", "Nothing is trained").cure
    found(doctor(model, loss=labelled(model, "llama")), "error", "Nothing is trained")
    silent(doctor(PeftModel.from_pretrained(MODELS["llama"](), tmp_path, is_trainable=True)))


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (lambda n: n.removeprefix("base_model.model."), "4 names lack the prefix"),
        (lambda n: n.replace("model.layers", "_orig_mod.model.layers"), "4 names hold what a wrapper put there"),
        (lambda n: "base_model.model." + n, "4 names have the prefix base_model.model. twice"),
    ],
)
def test_names_under_which_peft_loads_nothing(rename, says, tmp_path):
    start = MODELS["llama"]()
    model = get_peft_model(copy.deepcopy(start), LoraConfig(r=4, target_modules=["q_proj"]))
    steps(model, labelled(model, "llama"), adam(model, 1e-2))
    model.save_pretrained(tmp_path)
    assert not doctor(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    save_file({rename(name): t for name, t in stored.items()}, tmp_path / "adapter_model.safetensors")
    found(doctor(tmp_path), "error", says)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(copy.deepcopy(start), tmp_path)
    found(doctor(loaded), "error", "The adapter has no effect: BA = 0 in all 2 layers")
    tokens = torch.arange(8)[None]
    assert torch.equal(loaded(tokens).logits, start.eval()(tokens).logits)


def test_a_folder_whose_configuration_and_weights_part(tmp_path):
    model = lora(target_modules=["q_proj", "v_proj"])
    steps(model, labelled(model, "llama"), adam(model, 1e-2))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found(doctor(tmp_path), "error", "2 modules in the file are not named in target_modules")
    loaded = PeftModel.from_pretrained(MODELS["llama"](), tmp_path)  # not a word
    assert not any("v_proj.lora" in name for name, _ in loaded.named_parameters())


def test_an_untrained_adapter_on_disk(tmp_path):
    lora().save_pretrained(tmp_path)
    found(doctor(tmp_path), "error", "The adapter has no effect")


def test_disabled_adapters():
    model = lora()
    model.disable_adapter_layers()
    checkup = doctor(model, loss=labelled(model, "llama"))
    assert len(found(checkup, "error", "The adapters of 4 layers are disabled").where) == 4
    model.enable_adapter_layers()
    silent(doctor(model))
    with model.disable_adapter():
        found(doctor(model), "warning", "The adapters of 4 layers are disabled")


def test_merged_adapters_are_trained():
    model = lora(init_lora_weights=False).eval()
    model.merge_adapter()
    silent(checkup := doctor(model))
    found(checkup, "note", "4 adapter layers are merged into the base weights")
    checkup = doctor(model, adam(model), labelled(model, "llama"))
    found(checkup, "error", "4 adapter layers are merged")
    found(checkup, "error", "The loss does not depend on anything that is trained")
    model.unmerge_adapter()
    silent(doctor(model, adam(model), labelled(model, "llama")))
    model.base_model.model.model.layers[0].self_attn.q_proj.merged_adapters = ["default", "default"]
    found(doctor(model), "error", "An adapter is merged twice in 1 layer")


def test_several_adapters_and_which_of_them_is_active():
    model = lora()
    model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj"]))
    silent(checkup := doctor(model, adam(model), labelled(model, "llama")))
    found(checkup, "note", "1 adapter is loaded but not active: other")
    for name, p in model.named_parameters():
        if ".other." in name:
            p.requires_grad_()
    checkup = doctor(model, adam(model), labelled(model, "llama"))
    found(checkup, "warning", "The adapter 'other' is trained but not active")
    found(checkup, "warning", "4 of 12 trained tensors got no gradient")
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module._active_adapter = []
    found(doctor(model), "error", "No adapter is active: the model has default, other")


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # newer versions of peft say it of the patterns, too
def test_names_that_match_nothing():
    model = lora(target_modules=["q_proj", "k_prj"], rank_pattern={"v_prj": 2}, alpha_pattern={"^q_proj": 2})
    checkup = doctor(model)
    found(checkup, "warning", "target_modules of 'default': k_prj matches nothing")
    found(checkup, "warning", "rank_pattern: v_prj matches nothing")
    found(checkup, "warning", "alpha_pattern: ^q_proj matches nothing")
    silent(doctor(lora(rank_pattern={"q_proj": 2}, alpha_pattern={r"^model\.layers\.0\.self_attn\.q_proj": 2})))


@pytest.mark.parametrize(("kind", "head"), [("bert classifier", "classifier"), ("gpt2 classifier", "score")])
def test_a_classifier_without_task_type_keeps_its_random_head(kind, head, tmp_path):
    model = lora(kind)
    finding = found(
        doctor(model, adam(model), labelled(model, kind)), "warning", f"The head base_model.model.{head} is"
    )
    assert f"modules_to_save=['{head}']" in finding.cure
    model.get_base_model().get_submodule(head).requires_grad_()  # the wrong cure
    found(doctor(model), "error", "will not be saved")
    model.save_pretrained(tmp_path)
    assert not any(head in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"task_type": "SEQ_CLS"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found(doctor(tmp_path), "error", "The file holds no head")
    silent(doctor(lora(kind, task_type="SEQ_CLS")))


def test_the_base_was_unfrozen_after_attaching():
    model = lora().requires_grad_()
    checkup = doctor(model)
    found(checkup, "error", "The base is not frozen")
    found(checkup, "error", "will not be saved")


@pytest.mark.parametrize("attach_first", [True, False])
def test_checkpoints_that_kill_gradients(attach_first):
    """Where checkpointing is switched on by hand on the model inside, nothing asks the embedding for gradients."""
    model = lora()
    inner, loss = model.base_model.model, labelled(model, "llama")
    inner._hf_peft_config_loaded = False
    inner.gradient_checkpointing_enable({"use_reentrant": True})
    inner.disable_input_require_grads()
    if attach_first:
        inner.enable_input_require_grads()
        silent(doctor(model.train(), adam(model), loss))
        return
    checkup = doctor(model.train(), adam(model), loss)
    found(checkup, "error", "modules are checkpointed re-entrantly, behind a frozen embedding")
    found(checkup, "error", "A checkpointed block got no input that requires a gradient")
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    silent(doctor(model, adam(model), loss))


def test_adapters_in_half_precision_that_do_not_move():
    start = MODELS["llama"]().to(torch.bfloat16)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(start), config, autocast_adapter_dtype=False)
    found(doctor(model, adam(model, 1e-6), labelled(model, "llama")), "error", "4 trained tensors in bfloat16")
    model = get_peft_model(start, config)  # float32 by default
    silent(doctor(model, adam(model, 1e-6), labelled(model, "llama")))
    found(doctor(lora().half()), "warning", "8 trained tensors are in float16")


def test_alpha_and_rank():
    found(doctor(lora(r=8, lora_alpha=1, target_modules=["q_proj"])), "warning", "α is 1 with rank 8")
    found(doctor(lora(r=1, lora_alpha=64)), "warning", "The scale is 64")
    assert not doctor(lora(r=1, lora_alpha=64, use_rslora=True, alpha_pattern={"q_proj": 8, "v_proj": 8}))
    found(doctor(lora(r=8)), "warning", "The rank is larger than the weight in 2 adapters: 8 > 4")


def test_an_adapter_added_to_a_model_in_eval_mode_has_active_dropout():
    model = MODELS["llama"]().eval()
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5))
    tokens = torch.arange(8)[None]
    for module in model.modules():
        if hasattr(module, "lora_B"):
            nn.init.normal_(module.lora_B["default"].weight)
    if any(m.training for m in model.modules()):
        assert not torch.equal(model(tokens).logits, model(tokens).logits)
        found(doctor(model), "warning", "in eval mode, but 2 dropouts in it are active")
    silent(doctor(model.eval()))


@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_only_one_place_of_a_tied_weight_is_adapted():
    model = get_peft_model(MODELS["gpt2"](), LoraConfig(r=4, target_modules=["wte"]))
    found(doctor(model), "warning", "are one weight, but only one of its places is adapted")


def test_a_module_whose_weight_is_read_instead_of_called():
    model = get_peft_model(Reading(), LoraConfig(r=2, target_modules=["one", "two"]))
    checkup = doctor(model, adam(model), loss_on(model))
    finding = found(checkup, "warning", "2 of 4 trained tensors got no gradient")
    assert all(".two." in name for name in finding.where)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_adapters_for_the_experts_of_a_layer_are_healthy(tmp_path):
    widths = WIDTHS | {"num_key_value_heads": 3}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=50, num_local_experts=4, **widths))
    said = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}
    model = get_peft_model(model, LoraConfig(r=4, **said))
    silent(doctor(model, adam(model), labelled(model, "mixtral")))
    steps(model, labelled(model, "mixtral"), adam(model))
    model.save_pretrained(tmp_path)
    silent(doctor(tmp_path))


def test_loralib_trains_everything_until_it_is_told_not_to_and_merges_in_eval_mode():
    net = Net()
    net.one, net.two = loralib.Linear(12, 16, r=4, lora_alpha=8), loralib.Linear(16, 16, r=4, lora_alpha=8)
    net.requires_grad_()
    found(doctor(net), "error", "The base is not frozen: 3 weights of it are trained")
    loralib.mark_only_lora_as_trainable(net)
    silent(doctor(net, adam(net), loss_on(net)))
    net.eval()
    checkup = doctor(net, adam(net), loss_on(net))
    found(checkup, "error", "2 adapter layers are merged into the base weights")
    found(checkup, "error", "The loss does not depend on anything that is trained")
    net.one.lora_alpha = 1
    net.one = loralib.Linear(12, 16, r=8)  # whose α is 1 unless it is given
    found(doctor(net), "warning", "α is 1 with rank 8")
