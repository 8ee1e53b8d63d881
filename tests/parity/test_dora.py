"""Our DoRA computes, trains and merges like `peft`, with A, B and m away from their start."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn

from minipeft.attach import merge, trainable, unmerge
from minipeft.methods.dora import DoRA
from minipeft.models.transformer import Config, Transformer

ALL = ("q", "k", "v", "o", "up", "down", "head")
PAIRS = [(3, 5), (4, 1)]  # (r, α)


class One(nn.Module):
    """A model of a single layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def parts(theirs):
    """peft's trainable parameters under our names: `...attn.q.lora_magnitude_vector.default.weight` is m."""
    short = {}
    for name, p in trainable(theirs).items():
        path, letter = name.removeprefix("base_model.model.").split(".lora_")
        short[f"{path}.{letter[0]}"] = p
    return short


def attach_both(base, rank, alpha, targets):
    """Our DoRA and peft's on copies of one model, with the same random A, B and m."""
    ours = DoRA(rank, alpha, targets).attach(copy.deepcopy(base))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), use_dora=True)
    theirs = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for name, p in parts(theirs).items():
            p.copy_(torch.rand_like(p) + 0.5 if name.endswith(".m") else torch.randn_like(p) / 2)
            trainable(ours)[name].copy_(p)
    return ours, theirs


def compare(ours, theirs, close, what):
    expected = parts(theirs)
    assert trainable(ours).keys() == expected.keys()
    for name, p in trainable(ours).items():
        close(what(p), what(expected[name]))


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
@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
def test_layer_forward_gradients_merge(rank, alpha, bias, close):
    ours, theirs = attach_both(One(nn.Linear(7, 10, bias=bias)), rank, alpha, ("layer",))
    x = torch.randn(2, 5, 7)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = ours(mine), theirs(other)
    assert not torch.allclose(expected, theirs.get_base_model().layer.base_layer(x), atol=0.1)  # DoRA does something
    close(got, expected, 2e-6)
    weight = torch.randn_like(expected) / 10
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    compare(ours, theirs, close, lambda p: p.grad)
    close(mine.grad, other.grad)
    with torch.no_grad():
        fresh = theirs.get_base_model().layer.base_layer.weight.clone()
        merge(ours)
        theirs.merge_adapter()
        close(ours.layer.weight, theirs.get_base_model().layer.base_layer.weight)
        close(ours(x), expected, 2e-6)
        unmerge(ours)
        theirs.unmerge_adapter()
        assert torch.equal(ours.layer.base.weight, fresh)  # exact; the library divides and subtracts
        close(theirs.get_base_model().layer.base_layer.weight, fresh, 1e-5)


def test_a_fresh_layer_is_the_base_in_both_and_has_as_many_parameters(close):
    base, x = One(nn.Linear(7, 10)), torch.randn(2, 5, 7)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["layer"], use_dora=True)
    theirs = get_peft_model(copy.deepcopy(base), config)
    ours = DoRA(3, 5, ("layer",)).attach(copy.deepcopy(base))
    assert torch.equal(ours(x), base(x))
    close(theirs(x), base(x))
    close(ours.layer.m, parts(theirs)["layer.m"], 0)
    assert ours.layer.m.shape == (10,)  # one for each output, whatever the paper's "column"
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]


def test_were_the_norm_not_constant_the_gradient_would_be_another(close):
    base, x = One(nn.Linear(7, 10)), torch.randn(4, 7)
    ours, theirs = attach_both(base, 3, 5, ("layer",))
    theirs(x).square().sum().backward()
    A, B, m, s = ours.layer.A, ours.layer.B, ours.layer.m, 5 / 3
    V = base.layer.weight.detach() + s * B @ A
    F.linear(x, (m / V.norm(dim=1))[:, None] * V, base.layer.bias).square().sum().backward()
    through, constant = A.grad, parts(theirs)["layer.A"].grad
    assert (through - constant).norm() / constant.norm() > 0.3
    ours.zero_grad()
    ours(x).square().sum().backward()
    close(A.grad, constant, 1e-5)


@pytest.mark.parametrize("targets", [("q", "v"), ALL], ids=["q v", "all"])
@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
def test_transformer_logits_gradients_merge(base, tokens, mask, targets, rank, alpha, close):
    ours, theirs = attach_both(base, rank, alpha, targets)
    got, expected = ours(tokens, mask), theirs(tokens, mask)
    assert not torch.allclose(expected[mask], base(tokens, mask)[mask], atol=0.1)
    close(got[mask], expected[mask])
    loss_of(got, tokens, mask).backward()
    loss_of(expected, tokens, mask).backward()
    compare(ours, theirs, close, lambda p: p.grad)
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]
    with torch.no_grad():
        merge(ours)
        close(ours(tokens, mask)[mask], theirs.merge_and_unload()(tokens, mask)[mask])


def test_five_steps_of_training_are_the_same(base, tokens, mask, close):
    ours, theirs = attach_both(base, 3, 5, ALL)
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for _ in range(5):
            loss = loss_of(model(tokens, mask), tokens, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.1
    compare(ours, theirs, close, lambda p: p.detach())
