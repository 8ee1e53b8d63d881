"""Our IA³ computes, trains and merges like `peft`; where the two part company, a test shows it.

Biases are not zero and the scales are far from one: on a fresh IA³ nearly any mistake passes, because l = 1.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from minipeft import bases
from minipeft.attach import merge, trainable, unmerge
from minipeft.methods import IA3
from minipeft.models.transformer import Config, Transformer


class One(nn.Module):
    """A model of a single layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def scales(theirs):
    """peft's vectors under our names: `base_model.model.blocks.0.attn.k.ia3_l.default`."""
    return {n.removeprefix("base_model.model.").replace("ia3_l.default", "l"): p for n, p in trainable(theirs).items()}


def attach_both(base, outputs, inputs):
    """Our IA³ and peft's on copies of one model, with the same random vectors."""
    ours = IA3(outputs, inputs).attach(copy.deepcopy(base))
    config = IA3Config(target_modules=[*outputs, *inputs], feedforward_modules=list(inputs))
    theirs = get_peft_model(copy.deepcopy(base), config).to(next(base.parameters()).dtype)
    mine, other = trainable(ours), scales(theirs)
    assert set(mine) == set(other)
    with torch.no_grad():
        for name, p in other.items():
            mine[name].copy_(p.normal_(1, 0.5).flatten())
    return ours, theirs


@pytest.fixture
def base(randomised):
    """In double precision: through a whole model rounding adds up, and here a difference is to be a mistake."""
    return randomised(Transformer(Config(vocab=20, dim=12, layers=2, heads=3, ff=21, context=16))).double()


@pytest.fixture
def tokens():
    return torch.randint(20, (3, 9))


@pytest.fixture
def mask():
    """The second row is padded on the right, the third on the left."""
    return torch.stack([torch.ones(9), torch.arange(9) < 6, torch.arange(9) > 2]).bool()


def loss_of(logits, tokens, mask):
    real = mask[:, 1:] & mask[:, :-1]
    return F.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["output", "input"])
def test_layer_forward_gradients_merge_and_unmerge(side, bias, close):
    names = (("layer",), ()) if side == "output" else ((), ("layer",))
    ours, theirs = attach_both(One(nn.Linear(7, 10, bias=bias)), *names)
    x, weight = torch.randn(2, 5, 7), torch.randn(2, 5, 10) / 10
    before = ours(x)
    close(before, theirs(x))
    for model in (ours, theirs):
        (model(x) * weight).sum().backward()
    close(trainable(ours)["layer.l"].grad, scales(theirs)["layer.l"].grad.flatten())
    fresh = ours.layer.weight.clone()
    merge(ours)
    theirs.merge_adapter()
    library = theirs.get_base_model().layer.base_layer
    close(ours.layer.weight, library.weight)
    if bias:
        close(ours.layer.bias, library.bias)  # an output's is scaled, in both
    close(ours(x), before)
    unmerge(ours)
    assert torch.equal(ours.layer.weight, fresh)
    assert torch.equal(ours(x), before)


@pytest.mark.filterwarnings("ignore:Unmerge result can be inaccurate")
def test_unmerging_is_exact_here_and_in_peft_loses_what_a_zero_took_away():
    base = One(nn.Linear(7, 10))
    ours, theirs = attach_both(base, ("layer",), ())
    x = torch.randn(2, 7)
    with torch.no_grad():
        for p in (trainable(ours)["layer.l"], scales(theirs)["layer.l"]):
            p[3] = 0
    merge(ours)
    unmerge(ours)
    theirs.merge_adapter()
    theirs.unmerge_adapter()
    assert torch.equal(ours.layer.weight, base.layer.weight)
    assert not theirs.get_base_model().layer.base_layer.weight[3].any()
    with theirs.disable_adapter():
        assert not torch.allclose(theirs(x)[:, 3], base(x)[:, 3], atol=1e-2)


def test_transformer_logits_gradients_merge_and_count(base, tokens, mask, close):
    ours, theirs = attach_both(base, ("k", "v"), ("down",))
    got, expected = ours(tokens, mask), theirs(tokens, mask)
    assert not torch.allclose(expected[mask], base(tokens, mask)[mask], atol=0.1)
    close(got[mask], expected[mask])
    for logits in (got, expected):
        loss_of(logits, tokens, mask).backward()
    for name, p in trainable(ours).items():
        close(p.grad, scales(theirs)[name].grad.flatten())
    count = sum(p.numel() for p in trainable(ours).values())
    assert count == theirs.get_nb_trainable_parameters()[0] == 2 * (2 * 12 + 21)
    with torch.no_grad():
        close(merge(ours)(tokens, mask)[mask], theirs.merge_and_unload()(tokens, mask)[mask])


def test_a_fresh_one_is_the_base_exactly_in_both(base, tokens):
    theirs = get_peft_model(
        copy.deepcopy(base), IA3Config(target_modules=["k", "v", "down"], feedforward_modules=["down"])
    )
    y = base(tokens)
    assert torch.equal(theirs.double()(tokens), y)
    assert torch.equal(IA3().attach(base)(tokens), y)


def test_five_steps_of_training_are_the_same(base, tokens, mask, close):
    ours, theirs = attach_both(base, ("k", "v"), ("down",))
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(5):
            loss = loss_of(model(tokens, mask), tokens, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.01
    for name, p in trainable(ours).items():
        close(p, scales(theirs)[name].flatten())


# ---- the library's own models and its own choice of places ------------------------------------------------------

RENAMED = "ignore:.is_gradient_checkpointing:FutureWarning"  # peft asks what transformers renamed


@pytest.mark.filterwarnings(RENAMED)
def test_on_t5_the_library_chooses_the_places_of_the_paper(randomised, tokens, close):
    """And in a gated MLP the authors' place, behind `wi_1`, is the same as in front of `wo`."""
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=20, d_model=12, d_kv=4, d_ff=21, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
            decoder_start_token_id=0, dropout_rate=0,
        )
    )  # fmt: skip
    t5 = randomised(t5, std=0.6)
    theirs = get_peft_model(copy.deepcopy(t5), IA3Config()).eval()
    ours = IA3(outputs=("k", "v"), inputs=("wo",)).attach(copy.deepcopy(t5))
    authors = IA3(outputs=("k", "v", "wi_1"), inputs=()).attach(copy.deepcopy(t5))
    places = {"wo": trainable(ours), "wi_1": trainable(authors)}
    assert set(scales(theirs)) == set(places["wo"])
    with torch.no_grad():
        for name, p in scales(theirs).items():
            p.normal_(1, 0.5)
            for place, mine in places.items():
                mine[name.replace(".wo.", f".{place}.")].copy_(p.flatten())
    answers = [model(input_ids=tokens, labels=tokens).logits for model in (ours, authors, theirs, t5)]
    close(answers[0], answers[2], 1e-5)
    close(answers[1], answers[2], 1e-5)
    assert not torch.allclose(answers[2], answers[3], atol=0.1)


@pytest.mark.filterwarnings(RENAMED)
def test_on_gpt2_the_library_rescales_the_queries_too(randomised, tokens, close):
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    gpt2 = randomised(GPT2LMHeadModel(config))
    ours = IA3(outputs=("q", "k", "v")).attach(bases.from_gpt2(gpt2.state_dict(), heads=3))
    mine = trainable(ours)
    theirs = get_peft_model(gpt2, IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=True)).eval()
    found = scales(theirs)
    assert sum(p.numel() for p in found.values()) == 2 * (3 * 12 + 48)  # the paper's would be 2·(2·12 + 48)
    with torch.no_grad():
        for p in found.values():
            p.normal_(1, 0.5)
        for i in range(2):
            for letter, third in zip("qkv", found[f"transformer.h.{i}.attn.c_attn.l"].flatten().chunk(3), strict=True):
                mine[f"blocks.{i}.attn.{letter}.l"].copy_(third)
            mine[f"blocks.{i}.mlp.down.l"].copy_(found[f"transformer.h.{i}.mlp.c_proj.l"].flatten())
        close(ours(tokens), theirs(input_ids=tokens).logits, 1e-5)
        close(merge(ours)(tokens), theirs.merge_and_unload()(tokens).logits, 1e-5)


@pytest.mark.filterwarnings(RENAMED)
def test_on_bert_the_library_rescales_what_the_attention_gives_too():
    config = BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=21)
    theirs = get_peft_model(BertModel(config), IA3Config())
    assert theirs.get_nb_trainable_parameters()[0] == 2 * (2 * 12 + 21 + 12)  # `output.dense` is the name of two
    ours = IA3(outputs=("key", "value"), inputs=("output.dense",))
    assert set(trainable(ours.attach(BertModel(config)))) == set(scales(theirs))
