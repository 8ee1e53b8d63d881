"""Where `peft` and our IA³ part company, on models of the library's own; the rest is in test_weight_methods.py."""

import copy

import pytest
import torch
from peft import IA3Config, get_peft_model
from torch import nn
from transformers import BertModel, T5Config, T5ForConditionalGeneration

from minipeft.attach import trainable
from minipeft.methods import IA3
from minipeft.views import merge
from tests.models import DIM, FF, HEADS, LAYERS, VOCAB, apart, one

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what was renamed
WITHOUT = pytest.mark.parametrize("rows", [None], indirect=True)


@pytest.mark.filterwarnings("ignore:Unmerge result can be inaccurate")
def test_the_view_is_still_there_and_unmerging_in_peft_loses_what_a_zero_took_away(both):
    base, x = one(nn.Linear(7, 10)), torch.randn(2, 7)
    two = both(base, IA3(("layer",), ()))
    with torch.no_grad():
        for p in (two.ours.layer.l, two.library()["layer.l"]):
            p[3] = 0
    merge(two.ours)
    two.theirs.merge_adapter()
    two.theirs.unmerge_adapter()
    assert torch.equal(two.ours.layer.base.weight, base.layer.weight)
    assert not two.layers()[0][1].base_layer.weight[3].any()
    with two.theirs.disable_adapter():
        apart(two.theirs(x)[:, 3], base(x)[:, 3], 1e-2)


@WITHOUT
def test_on_t5_the_library_chooses_the_places_of_the_paper(randomised, rows, learned, close):
    """And in a gated MLP the authors' place, behind `wi_1`, is the same as in front of `wo`."""
    config = {"d_model": DIM, "d_kv": DIM // HEADS, "d_ff": FF, "num_layers": 2, "num_heads": HEADS, "dropout_rate": 0}
    config |= {"vocab_size": VOCAB, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    t5 = randomised(T5ForConditionalGeneration(T5Config(**config)), std=0.6)
    theirs = get_peft_model(copy.deepcopy(t5), IA3Config()).eval()
    ours = IA3(outputs=("k", "v"), inputs=("wo",)).attach(t5)
    authors = IA3(outputs=("k", "v", "wi_1"), inputs=()).attach(t5)
    places = {"wo": trainable(ours), "wi_1": trainable(authors)}
    assert set(learned(theirs)) == set(places["wo"])
    with torch.no_grad():
        for name, p in learned(theirs).items():
            p.normal_(1, 0.5)
            for place, mine in places.items():
                mine[name.replace(".wo.", f".{place}.")].copy_(p.flatten())
    answers = [model(input_ids=rows.tokens, labels=rows.tokens).logits for model in (ours, authors, theirs, t5)]
    close(answers[0], answers[2], 1e-5)
    close(answers[1], answers[2], 1e-5)
    apart(answers[2], answers[3])


@WITHOUT
def test_on_gpt2_the_library_rescales_the_queries_too(gpt2, rows, learned, close):
    theirs, ours = gpt2
    view = IA3(outputs=("q", "k", "v")).attach(ours)
    theirs = get_peft_model(theirs, IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=True)).eval()
    found, mine = learned(theirs), trainable(view)
    assert sum(p.numel() for p in found.values()) == LAYERS * (3 * DIM + FF)  # the paper's would be L·(2·12 + 20)
    with torch.no_grad():
        for p in found.values():
            p.normal_(1, 0.5)
        for i in range(LAYERS):
            for letter, third in zip("qkv", found[f"transformer.h.{i}.attn.c_attn.l"].flatten().chunk(3), strict=True):
                mine[f"blocks.{i}.attn.{letter}.l"].copy_(third)
            mine[f"blocks.{i}.mlp.down.l"].copy_(found[f"transformer.h.{i}.mlp.c_proj.l"].flatten())
        close(view(rows.tokens), theirs(input_ids=rows.tokens).logits, 1e-5)
        close(merge(view)(rows.tokens), theirs.merge_and_unload()(rows.tokens).logits, 1e-5)


def test_on_bert_the_library_rescales_what_the_attention_gives_too(bert, learned):
    config = bert[0].config
    theirs = get_peft_model(BertModel(config), IA3Config())
    assert theirs.get_nb_trainable_parameters()[0] == LAYERS * (2 * DIM + FF + DIM)  # `output.dense` names two
    ours = IA3(outputs=("key", "value"), inputs=("output.dense",)).attach(BertModel(config))
    assert set(trainable(ours)) == set(learned(theirs))
