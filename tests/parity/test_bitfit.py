"""Our BitFit trains what `peft` trains beside a LoRA with `bias="all"`, and alike; where they part, a test shows it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from minipeft.attach import detach, trainable
from minipeft.methods import BitFit
from tests.models import apart, count


@pytest.fixture
def two(base):
    """Ours, and peft's LoRA with all biases; the LoRA, zero at the start, is frozen: what is left is BitFit."""
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=1, target_modules=["q"], bias="all")).double().eval()
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            p.requires_grad_(False)
    return BitFit().attach(base), theirs


def names(theirs):
    """peft's trainable parameters under our names."""
    return {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in trainable(theirs).items()}


def test_the_same_parameters_get_the_same_gradients(two, base, rows, same_gradients, close):
    ours, theirs = two
    mine, other = trainable(ours), names(theirs)
    assert set(mine) == set(other)
    with torch.no_grad():
        for name, p in mine.items():
            other[name].copy_(p.normal_())
    got, expected = (model(rows.tokens, rows.mask)[rows.real] for model in two)
    close(got, expected)
    apart(got, base(rows.tokens, rows.mask)[rows.real])
    same_gradients(got, expected)
    for name, p in mine.items():
        close(p.grad, other[name].grad)


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_five_steps_of_training_are_the_same(two, rows):
    curves = [], []
    for model, curve in zip(two, curves, strict=True):
        # not Adam: it would blow the rounding noise up that is the gradient of a key's bias
        optimizer = torch.optim.SGD(trainable(model).values(), lr=0.1, momentum=0.9)
        for _ in range(5):
            loss = rows.loss(model(rows.tokens, rows.mask))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.1
    for name, p in trainable(two[0]).items():
        torch.testing.assert_close(p, names(two[1])[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rows", [None], indirect=True)
def test_the_base_keeps_its_biases_and_where_peft_is_disabled_the_new_ones_stay(two, base, rows):
    ours, theirs = two
    before = copy.deepcopy(base)(rows.tokens)
    with torch.no_grad():
        for p in [*trainable(ours).values(), *trainable(theirs).values()]:
            p += 1
    assert torch.equal(detach(ours)(rows.tokens), before)
    with pytest.warns(UserWarning, match="disabling"), theirs.disable_adapter():
        apart(theirs(rows.tokens), before)


def test_a_bert_of_the_library_has_the_number_of_biases_that_the_paper_counts():
    d, L = 12, 3
    config = BertConfig(
        vocab_size=20, hidden_size=d, num_hidden_layers=L, num_attention_heads=3, intermediate_size=4 * d
    )
    model = BertModel(config)
    view = BitFit().attach(model)
    assert set(trainable(view)) == {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert count(view) == 11 * d * L + 2 * d
    with torch.device("meta"):
        large = BertModel(BertConfig())
    assert count(BitFit().attach(large)) == 102_912  # 0.09 % of 109 million
    assert count(BitFit(targets=("self.query", "intermediate.dense")).attach(large)) == 5 * 768 * 12  # its half


def test_t5_has_a_table_called_bias_and_no_bias():
    config = T5Config(vocab_size=20, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3)
    model = T5ForConditionalGeneration(config)
    assert any("bias" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="no bias in the model"):
        BitFit().attach(model)


def test_biases_of_another_name_are_trained_here_and_not_in_peft():
    net = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "mix": nn.MultiheadAttention(4, 2), "q": nn.Linear(4, 4)})
    ours = trainable(BitFit().attach(net))
    theirs = names(get_peft_model(net, LoraConfig(r=1, target_modules=["q"], bias="all")))
    assert {n for n in theirs if "lora_" not in n} == {"mix.out_proj.bias", "q.bias"}
    assert set(ours) == {"mix.out_proj.bias", "q.bias", "mix.in_proj_bias", "rnn.bias_ih_l0", "rnn.bias_hh_l0"}
