"""What leaves for peft and transformers computes there what it computed here, and what comes from there likewise.

All in double precision: a difference is then a mistake. Models of transformers are small and have random weights; ours
have the same.
"""

import copy
import warnings

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertForTokenClassification,
    BertModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from minipeft.arithmetic import compress
from minipeft.attach import trainable
from minipeft.bases import base, from_bert
from minipeft.deltas import delta_of, load
from minipeft.exchange import from_peft, from_transformers, to_peft, to_transformers
from minipeft.methods import IA3, AdaLoRA, BitFit, DoRA, Full, LoRA, PiSSA, PrefixTuning, PromptTuning, QLoRA, VeRA
from minipeft.published.llama import from_llama
from minipeft.views import merge
from tests import models
from tests.exchange import FAMILIES, PROMPTS, WEIGHTS
from tests.models import CONTEXT, DIM, FF, HEADS, LAYERS, VOCAB, stirred

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks what was renamed
    pytest.mark.filterwarnings("ignore:.*embedding layers found in .target_modules"),  # it stores the base's too
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape"),  # of a module that kept no triplet
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings"),  # LoRA goes in front of the embeddings alone
]
TOKENS = models.rows(None)[1].clamp(min=1)  # 0 is padding there
T = TOKENS.shape[1]
TOL = {"gpt2": 1e-8, "bert": 1e-8, "llama": 2e-5}  # the norms and angles of a Llama are in single precision there


@pytest.fixture
def couple(make, randomised):
    """`couple("llama")`: a model of transformers, and ours with the same weights."""

    def pair(family):
        if family != "llama":
            return make(family)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=DIM, intermediate_size=FF, num_hidden_layers=LAYERS, rms_norm_eps=1e-5,
            num_attention_heads=2 * HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT,
            tie_word_embeddings=True, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        theirs = randomised(LlamaForCausalLM(config), 0.4)
        return theirs, from_llama(theirs.state_dict(), 2 * HEADS, HEADS, context=CONTEXT)

    return pair


@torch.no_grad()
def logits(model):
    """Of the tokens themselves; a prompt of peft has logits of its own, before them."""
    made = model(TOKENS)
    return made if isinstance(made, torch.Tensor) else made.logits[:, -T:]


def opened(theirs, folder):
    """peft's model; it changes the one that it is given."""
    return PeftModel.from_pretrained(copy.deepcopy(theirs), folder).eval()


# ---- to peft ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [*WEIGHTS, *PROMPTS], ids=str)
def test_peft_computes_what_was_exported(method, family, couple, tmp_path, close, apart):
    theirs, ours = couple(family)
    view = stirred(method, ours)
    to_peft(view, tmp_path)
    close(logits(opened(theirs, tmp_path)), logits(view), TOL[family])
    apart(logits(view), logits(theirs), 0.05)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_vera_of_queries_too_where_they_are_a_matrix_of_their_own(family, couple, tmp_path, close):
    theirs, ours = couple(family)
    view = stirred(VeRA(rank=5), ours)
    to_peft(view, tmp_path)
    close(logits(opened(theirs, tmp_path)), logits(view), TOL[family])


CHANGES = [PiSSA(rank=2), QLoRA(rank=2), Full(("q.weight", "down.weight")), DoRA(), VeRA(rank=5)]
PAIRS = [(family, method) for family in FAMILIES for method in CHANGES] + [
    ("llama", IA3())
]  # elsewhere it moves biases


@pytest.mark.parametrize(("family", "method"), PAIRS, ids=str)
@pytest.mark.filterwarnings("ignore:embed")
def test_any_change_of_matrices_becomes_a_lora_that_peft_runs(family, method, couple, tmp_path, close):
    theirs, ours = couple(family)
    view = stirred(method, ours)
    lora = compress(ours, delta_of(view), rank=DIM)
    assert max(lora.notes["error"].values()) < 1e-8
    to_peft(load(lora, ours), tmp_path)
    close(logits(opened(theirs, tmp_path)), logits(view), TOL[family])


ON_THEIRS = [
    ("gpt2", LoRA(targets=("attn.c_attn.weight",))),
    ("gpt2", LoRA(rank=3, alpha=5, targets=("c_attn.weight", "mlp.c_proj.weight", "wte"), rank_pattern={"wte": 2})),
    ("bert", LoRA(targets="all-linear")),
    ("bert", DoRA(targets=("query",))),
    ("bert", IA3(("key", "value"), ("intermediate.dense",))),
    ("bert", VeRA(5, ("query",))),
    ("bert", AdaLoRA(targets=("query", "output.dense"))),
    ("llama", LoRA(targets="all-linear", rslora=True)),
    ("llama", LoRA(targets=("embed_tokens", "v_proj"))),
    ("llama", DoRA(targets=("q_proj", "k_proj"))),
    ("llama", IA3(("k_proj", "v_proj"), ("down_proj",))),
    ("llama", VeRA(5, ("q_proj", "k_proj"))),
    ("llama", AdaLoRA(targets=("q_proj",))),
]


@pytest.mark.parametrize(("family", "method"), ON_THEIRS, ids=str)
def test_a_method_on_a_model_of_transformers_goes_to_peft_and_back(family, method, couple, tmp_path, close):
    theirs, _ = couple(family)
    theirs.requires_grad_(False)
    view = stirred(method, theirs)
    to_peft(view, tmp_path)
    close(logits(opened(theirs, tmp_path)), logits(view), TOL[family])
    close(logits(load(from_peft(tmp_path, theirs), theirs)), logits(view), TOL[family])


CLASSIFIERS = {
    "gpt2": GPT2ForTokenClassification,
    "bert": BertForTokenClassification,
    "llama": LlamaForTokenClassification,
}


def classifying(theirs, kind):
    """A model of this kind with a head for four classes, on the same weights."""
    config = copy.deepcopy(theirs.config)
    config.num_labels = 4
    model = kind(config)
    shared = {name: t for name, t in theirs.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(shared, strict=False)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [LoRA(classes=4), PrefixTuning(3, classes=4), PromptTuning(3, classes=4)], ids=str)
def test_a_fresh_head_is_one_of_the_answers_of_a_model_for_token_classification(
    method, family, couple, tmp_path, close
):
    theirs, ours = couple(family)
    view = stirred(method, ours)
    to_peft(view, tmp_path)
    answers = logits(opened(classifying(theirs, CLASSIFIERS[family]), tmp_path))  # (B, T, classes)
    close(answers[:, 0 if family == "bert" else -1], logits(view), TOL[family])


@pytest.mark.parametrize("method", [LoRA(targets="all-linear"), IA3(), LoRA(classes=4)], ids=str)
def test_an_encoder_of_sentences_goes_to_peft_and_comes_back(method, couple, randomised, tmp_path, close):
    like, _ = couple("bert")
    theirs = randomised(BertModel(like.config), 0.4)
    model = from_bert(theirs.state_dict(), HEADS)
    view = stirred(method, model)
    to_peft(view, tmp_path)
    if method.classes:
        whole = classifying(like, BertForTokenClassification)
        whole.bert.load_state_dict(theirs.state_dict(), strict=False)  # there it has no pooler
        theirs = whole
    with torch.no_grad():
        answers = opened(theirs, tmp_path)(TOKENS)
    answers = answers.logits if method.classes else answers.last_hidden_state
    close(answers.mean(1), logits(view), 1e-8)
    close(logits(load(from_peft(tmp_path, model), model)), logits(view), 1e-8)


@pytest.mark.parametrize("method", [LoRA(), DoRA(), IA3(), AdaLoRA(), VeRA(rank=5), LoRA(targets=("head",))], ids=str)
def test_peft_opens_an_adapter_on_a_shipped_base_too(method, tmp_path, close):
    model = base().double()
    view, tokens = stirred(method, model), torch.randint(20, (2, 6))
    to_peft(view, tmp_path)
    with torch.no_grad():
        close(opened(model, tmp_path)(tokens), view(tokens), 1e-8)


# ---- from peft --------------------------------------------------------------------------------------------------


MODULES = {"gpt2": ("c_attn", "c_fc"), "bert": ("query", "value"), "llama": ("q_proj", "v_proj")}
EMBEDDINGS = {"gpt2": "wte", "bert": "word_embeddings", "llama": "embed_tokens"}
INSIDE = {"gpt2": "mlp.c_proj", "bert": "output.dense", "llama": "down_proj"}
CONFIGS = {
    "lora": lambda f: LoraConfig(r=4, lora_alpha=6, target_modules=MODULES[f]),
    "all": lambda f: LoraConfig(
        r=4, target_modules="all-linear", rank_pattern={MODULES[f][0]: 2}, alpha_pattern={MODULES[f][1]: 5}
    ),
    "rslora": lambda f: LoraConfig(use_rslora=True, target_modules=MODULES[f], layers_to_transform=[1]),
    "embedding": lambda f: LoraConfig(r=4, target_modules=[EMBEDDINGS[f], MODULES[f][0]]),
    "pattern": lambda f: LoraConfig(r=4, target_modules=rf".*\.[02]\..*{MODULES[f][0]}"),
    "dora": lambda f: LoraConfig(r=4, use_dora=True, target_modules=MODULES[f], rank_pattern={MODULES[f][0]: 2}),
    "ia3": lambda f: IA3Config(target_modules=[MODULES[f][0], INSIDE[f]], feedforward_modules=[INSIDE[f]]),
    "adalora": lambda f: AdaLoraConfig(init_r=5, target_r=3, total_step=9, lora_alpha=9, target_modules=MODULES[f]),
    "prompt": lambda f: PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda f: PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=5),
    "prefix": lambda f: PrefixTuningConfig(num_virtual_tokens=3),
    "prefix mlp": lambda f: PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=5),
}


def saved(theirs, config, folder):
    """Logits of a method of peft, far from its start, which is saved in the folder."""
    if config.task_type is None and config.is_prompt_learning:
        config.task_type = "FEATURE_EXTRACTION"  # hands everything through, also of a model for masked words
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it corrects its fan_in_fan_out, and says so
        view = get_peft_model(copy.deepcopy(theirs), config).eval()
        models.moved(view, trainable(view).values(), 0.4)
        view.save_pretrained(folder)
    return logits(view)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_peft_saved_computes_the_same_here(name, family, couple, tmp_path, close, apart):
    theirs, ours = couple(family)
    expected = saved(theirs, CONFIGS[name](family), tmp_path)
    view = load(from_peft(tmp_path, ours), ours)
    close(logits(view), expected, TOL[family])
    apart(expected, logits(theirs), 0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_does_vera_whose_frozen_matrices_are_drawn_in_single_precision(family, couple, tmp_path, close, apart):
    torch.set_default_dtype(torch.float32)  # otherwise peft draws others
    theirs, ours = couple(family)
    expected = saved(theirs, VeraConfig(r=5, target_modules=[MODULES[family][1]]), tmp_path)
    close(logits(load(from_peft(tmp_path, ours), ours)), expected, 1e-4)
    apart(expected, logits(theirs), 0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("p")])
def test_and_on_the_models_of_transformers_themselves(name, family, couple, tmp_path, close):
    theirs, _ = couple(family)
    theirs.requires_grad_(False)
    expected = saved(theirs, CONFIGS[name](family), tmp_path)
    if family == "gpt2" and name in ("dora", "ia3", "adalora"):
        with pytest.raises(ValueError, match=r"Conv1D of transformers, .* only LoRA can stand: .*from_gpt2"):
            from_peft(tmp_path, theirs)
    else:
        close(logits(load(from_peft(tmp_path, theirs), theirs)), expected, TOL[family])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_triplets_that_were_masked_in_training_are_left_out_and_nothing_is_lost(family, couple, tmp_path, close):
    theirs, ours = couple(family)
    config = AdaLoraConfig(
        init_r=5, target_r=2, total_step=12, tinit=1, tfinal=2, lora_alpha=9, target_modules=MODULES[family],
        task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    view = get_peft_model(copy.deepcopy(theirs), config)
    optimizer = torch.optim.Adam(trainable(view).values(), lr=0.05)
    for step in range(11):
        optimizer.zero_grad()
        view(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        view.base_model.update_and_allocate(step)
    view.eval().save_pretrained(tmp_path)
    delta = from_peft(tmp_path, ours)
    kept = [int(t.count_nonzero()) for name, t in delta.tensors.items() if name.endswith("lam")]
    assert min(kept) < max(kept) == 5
    close(logits(load(delta, ours)), logits(view), TOL[family])


@pytest.mark.parametrize("kind", [GPT2ForSequenceClassification, LlamaForSequenceClassification])
@pytest.mark.parametrize("config", [LoraConfig, PrefixTuningConfig])
def test_a_classifier_of_sequences_is_a_fresh_head_here(kind, config, couple, tmp_path, close):
    family = "gpt2" if kind is GPT2ForSequenceClassification else "llama"
    theirs, ours = couple(family)
    settings = {"r": 4} if config is LoraConfig else {"num_virtual_tokens": 3}
    expected = saved(classifying(theirs, kind), config(task_type="SEQ_CLS", **settings), tmp_path)
    view = load(from_peft(tmp_path, ours), ours)
    close(logits(view), expected, TOL[family])
    assert view(TOKENS).shape == (3, 4)


# ---- whole models -----------------------------------------------------------------------------------------------


MERGED = [LoRA(targets="all-linear"), LoRA(targets=("embed.token",)), QLoRA(rank=2), DoRA(), IA3(), Full()]
BIASES = [("gpt2", BitFit()), ("bert", BitFit())]  # a Llama has none


@pytest.mark.parametrize(("family", "method"), [(f, m) for f in FAMILIES for m in MERGED] + BIASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*were one weight and now differ")
def test_transformers_opens_a_merged_model(family, method, couple, tmp_path, close):
    theirs, ours = couple(family)
    view = stirred(method, ours)
    to_transformers(merge(view), tmp_path)
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    opened, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert type(opened) is type(theirs)
    assert not any(report.values()), report  # nothing is missing, left over or of another shape
    assert opened.dtype == torch.float64
    close(logits(opened), logits(view), TOL[family])


def test_transformers_opens_an_encoder_whose_pooler_alone_is_new(couple, randomised, tmp_path, close):
    theirs = randomised(BertModel(couple("bert")[0].config), 0.4)
    view = stirred(LoRA(), from_bert(theirs.state_dict(), HEADS))
    to_transformers(merge(view), tmp_path)
    opened, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"pooler.dense.weight", "pooler.dense.bias"}
    with torch.no_grad():
        close(opened(TOKENS).last_hidden_state.mean(1), logits(view), 1e-8)
    theirs.save_pretrained(tmp_path)
    close(logits(from_transformers(tmp_path)).float(), logits(from_bert(theirs.state_dict(), HEADS)).float(), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_is_read(family, couple, tmp_path, close):
    theirs, _ = couple(family)
    theirs.save_pretrained(tmp_path)
    close(logits(from_transformers(tmp_path)).float(), logits(theirs).float(), 1e-4)  # it is read into 32 bits


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_merged_on_a_model_of_transformers_is_saved_by_itself(family, couple, tmp_path, close):
    theirs, _ = couple(family)
    theirs.requires_grad_(False)
    targets = ("c_attn.weight",) if family == "gpt2" else MODULES[family]
    view = stirred(LoRA(targets=targets), theirs)
    plain = merge(view)
    with pytest.raises(ValueError, match=r"write model\.save_pretrained"):
        to_transformers(plain, tmp_path)
    plain.save_pretrained(tmp_path)
    close(logits(type(theirs).from_pretrained(tmp_path)), logits(view), TOL[family])
