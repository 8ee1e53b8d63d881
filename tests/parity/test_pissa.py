"""Our PiSSA starts, computes, trains and is stored like `peft`'s, which overwrites W by the residual."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from minipeft.arithmetic import compress
from minipeft.attach import detach, merge, trainable, unmerge
from minipeft.deltas import delta_of, load
from minipeft.methods.pissa import PiSSA
from minipeft.models.transformer import Config, Transformer

ALL = ("q", "k", "v", "o", "up", "down", "head")


class One(nn.Module):
    """A model of a single layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def factors(theirs):
    """peft's trainable parameters under our names: `base_model.model.blocks.0.attn.q.lora_A.default.weight`."""
    return {
        name.removeprefix("base_model.model.").replace("lora_", "").removesuffix(".default.weight"): p
        for name, p in trainable(theirs).items()
    }


def attach_both(base, rank, targets, alpha=None):
    ours = PiSSA(rank, targets).attach(copy.deepcopy(base))
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(targets), init_lora_weights="pissa")
    return ours, get_peft_model(copy.deepcopy(base), config)


def sync(ours, theirs, std=0.3):
    """The same noise on the factors of both, and the same signs."""
    with torch.no_grad():
        for name, p in factors(theirs).items():
            p += std * torch.randn_like(p)
            trainable(ours)[name].copy_(p)


@pytest.fixture
def base(randomised):
    return randomised(Transformer(Config(vocab=20, dim=12, layers=2, heads=3, ff=21, context=16)))


@pytest.fixture
def tokens():
    return torch.randint(20, (3, 9))


@pytest.mark.parametrize("shape", [(7, 10), (10, 7)], ids=str)
def test_factors_up_to_sign_and_residual_at_the_start(shape, close):
    base = One(nn.Linear(shape[1], shape[0]))
    ours, theirs = attach_both(base, 3, ("layer",))
    close(ours.layer.R, theirs.get_base_model().layer.base_layer.weight)
    A, B = (factors(theirs)[f"layer.{letter}"] for letter in "AB")
    sign = (ours.layer.A * A).sum(1).sign()
    close(sign[:, None] * ours.layer.A, A)
    close(ours.layer.B * sign, B)
    x = torch.randn(4, shape[1])
    close(ours(x), theirs(x))
    close(ours(x), base(x))
    assert torch.equal(ours.layer.base.weight, base.layer.weight)  # here the base is still there
    assert not torch.allclose(theirs.get_base_model().layer.base_layer.weight, base.layer.weight, atol=0.1)


def test_a_scale_in_peft_is_divided_out_at_the_start_and_shared_by_the_factors(close):
    ours, theirs = attach_both(One(nn.Linear(7, 10)), 3, ("layer",), alpha=12)
    close(ours.layer.R, theirs.get_base_model().layer.base_layer.weight)
    close(ours.layer.A.abs(), 2 * factors(theirs)["layer.A"].abs())  # √(α/r) = 2
    close(ours.layer.B.abs(), 2 * factors(theirs)["layer.B"].abs())


def test_layer_forward_gradients_merge(close):
    base, x = One(nn.Linear(7, 10)), torch.randn(2, 5, 7)
    ours, theirs = attach_both(base, 3, ("layer",))
    sync(ours, theirs)
    got, expected = ours(x), theirs(x)
    assert not torch.allclose(expected, base(x), atol=0.1)
    close(got, expected)
    weight = torch.randn_like(expected) / 10
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, p in trainable(ours).items():
        close(p.grad, factors(theirs)[name].grad)
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]
    with torch.no_grad():
        merge(ours)
        theirs.merge_adapter()
        close(ours.layer.weight, theirs.get_base_model().layer.base_layer.weight)
        close(ours(x), expected, 2e-6)
        unmerge(ours)
        assert torch.equal(detach(ours).layer.weight, base.layer.weight)


def test_transformer_logits_merge_and_five_steps_of_training(base, tokens, close):
    ours, theirs = attach_both(base, 3, ALL)
    close(ours(tokens), base(tokens), 1e-5)
    sync(ours.double(), theirs.double(), 0.1)
    with torch.no_grad():  # the library decomposes in single precision
        for name, module in theirs.get_base_model().named_modules():
            if name.endswith(ALL):
                close(ours.get_submodule(name).R, module.base_layer.weight, 3e-6)
                ours.get_submodule(name).R.copy_(module.base_layer.weight)
    close(ours(tokens), theirs(tokens))
    assert not torch.allclose(ours(tokens), base.double()(tokens), atol=0.1)
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for _ in range(5):
            loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert curves[0][-1] < curves[0][0] - 0.1
    for name, p in trainable(ours).items():
        close(p.detach(), factors(theirs)[name].detach())
    with torch.no_grad():
        close(merge(ours)(tokens), theirs.merge_and_unload()(tokens))


@pytest.mark.filterwarnings("ignore")  # peft warns of what is shown here
def test_what_is_stored_is_right_on_the_base_here_and_in_peft_after_it_is_made_a_lora_of_twice_the_rank(
    base, tokens, tmp_path, close
):
    ours, theirs = attach_both(base, 3, ("q", "up"))
    theirs.peft_config["default"].init_lora_weights = True  # as the library asks for before the first save
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    sync(ours, theirs, 0.1)
    y = ours(tokens).detach()
    close(theirs(tokens), y, 1e-5)
    delta = delta_of(ours)
    close(load(delta, copy.deepcopy(base))(tokens), y, 0)
    close(load(compress(detach(ours), delta, 6), copy.deepcopy(base))(tokens), y, 1e-5)

    theirs.save_pretrained(tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    lora = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "lora")
    assert lora.peft_config["default"].r == 6
    close(lora(tokens), y, 1e-5)

    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "plain")
    wrong = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "plain")
    assert not torch.allclose(wrong(tokens), y, atol=0.1)
