"""Our BitFit trains what `peft` trains beside a LoRA with `bias="all"`, and alike; where they part, a test shows it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from minipeft.attach import disabled, trainable
from minipeft.methods import BitFit
from minipeft.models.transformer import Config, Transformer


@pytest.fixture
def base(randomised):
    return randomised(Transformer(Config(vocab=20, dim=12, layers=2, heads=3, ff=21, context=16))).double()


@pytest.fixture
def tokens():
    return torch.randint(20, (3, 9))


def biases_alone(base):
    """peft's LoRA with all biases; the LoRA itself, which is zero at the start, is frozen: what is left is BitFit."""
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=1, target_modules=["q"], bias="all")).double().eval()
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            p.requires_grad_(False)
    return theirs


def names(theirs):
    """peft's trainable parameters under our names."""
    return {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in trainable(theirs).items()}


def loss_of(logits, tokens):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def test_the_same_parameters_get_the_same_gradients(base, tokens, close):
    ours, theirs = BitFit().attach(copy.deepcopy(base)), biases_alone(base)
    mine, other = trainable(ours), names(theirs)
    assert set(mine) == set(other)
    with torch.no_grad():
        for name, p in mine.items():
            other[name].copy_(p.normal_())
    close(ours(tokens), theirs(tokens))
    assert not torch.allclose(ours(tokens), base(tokens), atol=0.1)
    for model in (ours, theirs):
        loss_of(model(tokens), tokens).backward()
    for name, p in mine.items():
        close(p.grad, other[name].grad)


def test_five_steps_of_training_are_the_same(base, tokens, close):
    ours, theirs = BitFit().attach(copy.deepcopy(base)), biases_alone(base)
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        # not Adam: it would blow the rounding noise up that is the gradient of a key's bias
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        for _ in range(5):
            loss = loss_of(model(tokens), tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.1
    for name, p in trainable(ours).items():
        close(p, names(theirs)[name])


def test_disabled_brings_the_old_biases_back_and_peft_leaves_the_new_ones(base, tokens):
    ours, theirs = BitFit().attach(copy.deepcopy(base)), biases_alone(base)
    with torch.no_grad():
        for p in [*trainable(ours).values(), *trainable(theirs).values()]:
            p += 1
    with disabled(ours):
        assert torch.equal(ours(tokens), base(tokens))
    with pytest.warns(UserWarning, match="disabling"), theirs.disable_adapter():
        assert not torch.allclose(theirs(tokens), base(tokens), atol=0.1)


def test_a_bert_of_the_library_has_the_number_of_biases_that_the_paper_counts():
    d, L = 12, 3
    config = BertConfig(
        vocab_size=20, hidden_size=d, num_hidden_layers=L, num_attention_heads=3, intermediate_size=4 * d
    )
    model = BertModel(config)
    expected = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    BitFit().attach(model)
    assert set(trainable(model)) == expected
    assert sum(p.numel() for p in trainable(model).values()) == 11 * d * L + 2 * d
    with torch.device("meta"):
        large = BitFit().attach(BertModel(BertConfig()))
    assert sum(p.numel() for p in trainable(large).values()) == 102_912  # 0.09 % of 109 million


def test_the_half_of_the_paper_on_a_bert_of_the_library():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    BitFit(targets=("self.query", "intermediate.dense")).attach(model)
    assert sum(p.numel() for p in trainable(model).values()) == 5 * 768 * 12


def test_t5_has_a_table_called_bias_and_no_bias():
    config = T5Config(vocab_size=20, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3)
    model = T5ForConditionalGeneration(config)
    assert any("bias" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="no bias in the model"):
        BitFit().attach(model)


def test_biases_of_another_name_are_trained_here_and_not_in_peft():
    net = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "mix": nn.MultiheadAttention(4, 2), "q": nn.Linear(4, 4)})
    theirs = names(get_peft_model(copy.deepcopy(net), LoraConfig(r=1, target_modules=["q"], bias="all")))
    ours = trainable(BitFit().attach(net))
    assert {n for n in theirs if "lora_" not in n} == {"mix.out_proj.bias", "q.bias"}
    assert set(ours) == {"mix.out_proj.bias", "q.bias", "mix.in_proj_bias", "rnn.bias_ih_l0", "rnn.bias_hh_l0"}
