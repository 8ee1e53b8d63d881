"""The doctor: every failure planted in a plain model of PyTorch and, where it applies, in a view of ours is found, with
its own sentence; on healthy models there is silence; and the patient is afterwards what it was."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from minipeft import BitFit, DoRA, Full, LoRA, Pfeiffer, base, fit, save, task
from minipeft.attach import trainable
from minipeft.bases import FOLDER
from minipeft.deltas import delta_of
from minipeft.doctor import Checkup, Finding, doctor
from minipeft.methods import METHODS, AdapterFusion
from minipeft.training import draw, loss_of
from tests.models import bits, same_bits

GOAL = task("reverse+blue")
ON_LETTERS = [method for method in METHODS.values() if method.__name__ != "LinearProbe"]  # letters are no classes


class LowRank(nn.Module):
    """A LoRA as it is often written by hand."""

    def __init__(self, linear, rank=2, alpha=4):
        super().__init__()
        self.base_layer, self.scaling = linear.requires_grad_(False), alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.base_layer(x) + self.scaling * x @ self.lora_A.T @ self.lora_B.T


class Net(nn.Module):
    """Two layers and a head that looks trained; plain PyTorch."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.classifier = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        nn.init.normal_(self.classifier.weight)
        self.requires_grad_(False)

    def forward(self, x):
        return self.classifier(torch.tanh(self.two(torch.tanh(self.one(x)))))


def plain(**settings):
    """A healthy plain model with a LoRA on both layers."""
    net = Net()
    net.one, net.two = LowRank(net.one, **settings), LowRank(net.two, **settings)
    return net


def ours(method=None, net=None):
    """A healthy view of ours, of the same net."""
    return (method or LoRA(2, 4, ("one", "two"))).attach(net or Net())


BOTH = pytest.mark.parametrize("make", [plain, ours])


def loss_on(model):
    """Of a batch of 8, each time another one."""
    generator = torch.Generator().manual_seed(5)

    def loss():
        x = torch.randn(8, 12, generator=generator)
        return F.cross_entropy(model(x), (x[:, :3].argmax(1)))

    return loss


def adam(model, lr=1e-2):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def found(checkup, severity, sentence):
    """The finding of this severity whose first sentence has these words; there is exactly one."""
    hits = [finding for finding in checkup if finding.severity == severity and sentence in finding.what]
    assert len(hits) == 1, str(checkup)
    return hits[0]


def silent(checkup):
    assert not [finding for finding in checkup if finding.severity != "note"], str(checkup)
    assert checkup.healthy


def stirred(model):
    for p in trainable(model).values():
        p.data.normal_(std=0.3)
    return model


# ---- healthy models ---------------------------------------------------------------------------------------------


def letters(method):
    """The method on the toy base; AdapterFusion with two adapters in it."""
    start = base()
    view = method.attach(start)
    if isinstance(method, AdapterFusion):
        method.fill(view, [delta_of(stirred(Pfeiffer().attach(start))) for _ in range(2)])
    return view


def loss_of_letters(model):
    generator = torch.Generator().manual_seed(0)

    def loss():
        batch = draw(GOAL, 4, generator, "cpu")
        return loss_of(batch.logits(model), batch.targets)

    return loss


@pytest.mark.parametrize("method", ON_LETTERS, ids=lambda m: m.__name__)
def test_every_method_is_healthy_freshly_attached_and_after_training(method):
    view = letters(method())
    for _ in ("fresh", "trained"):
        optimizer, loss = adam(view, 1e-3), loss_of_letters(view)
        silent(doctor(view))
        silent(doctor(view, optimizer))
        silent(doctor(view, loss=loss, steps=2))
        before = bits(view)
        silent(doctor(view, optimizer, loss))
        assert same_bits(view, before)
        fit(view, GOAL, lr=1e-3, steps=2, batch_size=4, progress=False)


def test_a_fresh_head_that_is_trained_is_healthy():
    silent(doctor(view := LoRA(classes=3).attach(base()), adam(view)))
    silent(doctor(METHODS["LinearProbe"](classes=3).attach(base())))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_the_shipped_bases_are_healthy_alone_and_trained_in_full(name):
    model = base(name)
    silent(doctor(model))
    silent(doctor(view := Full().attach(model), adam(view)))
    everywhere = LoRA(2, 4, lambda path, module: isinstance(module, nn.Linear | nn.Conv2d))
    silent(doctor(view := everywhere.attach(model), adam(view)))


def test_stacked_methods_are_judged_each_by_itself():
    lower = stirred(ours(LoRA(2, 4, ("one",))))
    silent(doctor(LoRA(2, 4, ("two",)).attach(lower)))
    silent(doctor(LoRA(2, 4, ("one",)).attach(lower)))


@BOTH
def test_the_small_models_of_these_tests_are_healthy(make):
    silent(doctor(make()))
    silent(doctor(model := make(), adam(model), loss_on(model), targets=("one", "two")))
    silent(doctor(stirred(model), adam(model), loss_on(model)))


def test_a_model_that_is_only_used_is_healthy_though_nothing_is_trained():
    model = stirred(plain()).requires_grad_(False).eval()
    checkup = doctor(model)
    silent(checkup)
    found(checkup, "note", "Nothing is trained")


def test_a_warm_up_that_begins_at_zero_is_healthy():
    model = plain()
    optimizer = adam(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 100)
    assert optimizer.param_groups[0]["lr"] == 0
    silent(doctor(model, optimizer, loss_on(model)))


def test_bfloat16_at_a_usual_learning_rate_is_healthy():
    model = plain().to(torch.bfloat16)
    silent(doctor(model, adam(model, 1e-2), loss_on(lambda x: model(x.bfloat16()).float())))


# ---- what is trained --------------------------------------------------------------------------------------------


@BOTH
def test_nothing_is_trained(make):
    model = make().requires_grad_(False)
    assert "frozen" in found(doctor(model.train()), "error", "Nothing is trained").why
    found(doctor(model.eval(), torch.optim.SGD(model.parameters(), 0.1)), "error", "Nothing is trained")


@BOTH
def test_the_base_is_not_frozen(make):
    model = make().requires_grad_()
    finding = found(doctor(model), "error", "The base is not frozen: 3 weights")
    assert "classifier.weight" in finding.where
    assert not any("lora" in name or name.endswith((".A", ".B")) for name in finding.where)
    model = make()
    dict(model.named_parameters())[next(n for n in finding.where if "one" in n)].requires_grad_()
    found(doctor(model), "error", "The base is not frozen: 1 weight of it is trained")


def test_full_fine_tuning_is_only_noted():
    model = Net().requires_grad_()
    checkup = doctor(model, adam(model), loss_on(model))
    silent(checkup)
    found(checkup, "note", "Every parameter is trained, all 531")


def test_a_head_that_was_unfrozen_by_hand_is_not_in_the_delta(tmp_path):
    view = ours()
    view.classifier.requires_grad_()
    finding = found(doctor(view), "error", "2 trained parameters will not be saved")
    assert finding.where == ("classifier.weight", "classifier.bias")
    save(stirred(view), tmp_path / "a.safetensors")
    assert not any("classifier" in name for name in delta_of(view).tensors)  # so it is


@BOTH
@pytest.mark.parametrize("start", ["pytorch", "zeros", "transformers"])
def test_a_fresh_head_that_is_frozen(make, start):
    model = make() if make is plain else ours(net=Net())
    head = nn.Linear(16, 3)
    if start == "zeros":
        nn.init.zeros_(head.weight)
    elif start == "transformers":
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        model.config = type("Config", (), {"initializer_range": 0.02})()
    model.classifier = head.requires_grad_(False)
    finding = found(doctor(model), "warning", "The head classifier is frozen and looks freshly initialised")
    assert finding.where == ("classifier",)
    with torch.no_grad():
        head.weight.normal_()  # as training would leave it
        head.bias.normal_()
    silent(doctor(model))


def test_a_fresh_head_of_ours_that_was_frozen_by_hand():
    view = LoRA(classes=3).attach(base())
    view.head.requires_grad_(False)
    found(doctor(view), "warning", "The head head.classify is frozen")


# ---- the optimizer ----------------------------------------------------------------------------------------------


def test_the_optimizer_was_made_before_attaching():
    net = Net().requires_grad_()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.requires_grad_(False)
    net.one, net.two = LowRank(net.one), LowRank(net.two)
    finding = found(doctor(net, optimizer), "error", "The optimizer holds none of the 4 trained tensors")
    assert finding.where == ("one.lora_A", "one.lora_B", "two.lora_A", "two.lora_B")
    model = Net()
    view = ours(net=model)
    checkup = doctor(view, torch.optim.AdamW(model.parameters(), lr=1e-2), loss_on(view))
    finding = found(checkup, "error", "none of the 4 trained")
    assert len(checkup.of("error")) == len(checkup.of("warning")) + 1 == 1  # one cause, one finding
    assert "holds 6 parameters that the model does not have: it was made before" in finding.why


@BOTH
def test_the_optimizer_lacks_some(make):
    model = make()
    finding = found(
        doctor(model, torch.optim.SGD([*trainable(model).values()][:3], 0.1)), "warning", "all but 1 of the 4"
    )
    assert len(finding.where) == 1


@BOTH
def test_the_optimizer_holds_strangers_or_what_is_frozen(make):
    model = make()
    optimizer = torch.optim.AdamW([*trainable(model).values(), nn.Parameter(torch.ones(2))], lr=0.1)
    found(doctor(model, optimizer), "note", "holds 1 parameter that the model does not have")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    checkup = doctor(model, optimizer, loss_on(model))
    silent(checkup)
    found(checkup, "note", "The optimizer holds 6 frozen parameters")


def test_an_old_gradient_moves_what_is_frozen():
    model = plain()
    weight = model.two.base_layer.weight.requires_grad_()
    loss_on(model)().backward()
    weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    optimizer.zero_grad(set_to_none=False)
    finding = found(doctor(model, optimizer), "error", "The next step of the optimizer moves 1 frozen parameter")
    assert finding.where == ("two.base_layer.weight",)
    assert "weight decay (0.1)" in finding.why
    before = weight.clone()
    optimizer.step()
    assert not torch.equal(weight, before)  # as it says


@BOTH
def test_a_learning_rate_of_zero(make):
    model = make()
    found(doctor(model, adam(model, 0.0)), "warning", "The learning rate of 4 trained tensors is 0")


@BOTH
@pytest.mark.parametrize("tried", [True, False])
def test_updates_that_rounding_loses(make, tried):
    model = stirred(make()).to(torch.bfloat16)
    loss = loss_on(lambda x: model(x.bfloat16()).float()) if tried else None
    checkup = doctor(model, adam(model, 1e-6), loss)
    finding = found(checkup, "error", "4 trained tensors in bfloat16, at most")
    assert ("although they have gradients" in finding.what) == tried
    model.float()
    silent(doctor(model, adam(model, 1e-6), loss_on(model) if tried else None))
    found(doctor(model, adam(model, 1e-9), loss_on(model) if tried else None), "error", "4 trained tensors in float32")


def test_uncommon_optimizers_and_parameters_do_not_stop_the_examination():
    model = plain()
    silent(doctor(model, torch.optim.LBFGS(trainable(model).values()), loss_on(model)))  # wants a closure
    optimizer = adam(model)
    optimizer.param_groups[0]["lr"] = None  # chooses its own, as Adafactor may
    silent(doctor(model, optimizer, loss_on(model)))
    sparse = nn.Embedding(9, 4, sparse=True)
    silent(doctor(sparse, loss=lambda: sparse(torch.arange(3)).square().sum()))
    silent(doctor(sparse, torch.optim.SparseAdam(sparse.parameters()), lambda: sparse(torch.arange(3)).square().sum()))
    phase = nn.ParameterList([nn.Parameter(torch.randn(3, dtype=torch.complex64))])
    silent(doctor(phase, adam(phase), lambda: (phase[0] - 1).abs().square().sum()))


# ---- B never moves ----------------------------------------------------------------------------------------------


@BOTH
def test_a_dead_adapter(make):
    model = make()
    for p in trainable(model).values():
        p.data.zero_()
    checkup = doctor(model, adam(model), loss_on(model))
    assert found(checkup, "error", "2 adapters are dead: A = 0 and B = 0").where == ("one", "two")
    found(checkup, "error", "4 of 4 trained tensors got only zeros")


@BOTH
def test_b_is_still_zero_after_steps_of_the_optimizer(make):
    model = make()
    optimizer = adam(model)
    for _ in range(3):
        for p in trainable(model).values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    finding = found(doctor(model, optimizer), "error", "The optimizer has taken 3 steps, but BA = 0 in all 2 layers")
    assert finding.where == ("one", "two")


@BOTH
def test_an_adapter_that_was_loaded_without_effect(make):
    model = make().requires_grad_(False).eval()
    assert "base_model.model." in found(doctor(model), "error", "The adapter has no effect: BA = 0 in all 2").why


@BOTH
def test_b_moved_only_in_some_layers(make):
    model = make()
    name = next(name for name in trainable(model) if name in ("one.lora_B", "one.B"))
    dict(model.named_parameters())[name].data.fill_(0.1)
    finding = found(doctor(model), "warning", "B moved only in some layers: BA = 0 in 1 of 2 adapters")
    assert finding.where == ("two",)


class Detached(Net):
    def forward(self, x):
        return self.classifier(torch.tanh(self.two(torch.tanh(self.one(x)).detach())))


class Reading(Net):
    """Reads the weight of the second layer instead of calling it."""

    def forward(self, x):
        two = getattr(self.two, "base_layer", self.two)
        return self.classifier(torch.tanh(F.linear(torch.tanh(self.one(x)), two.weight, two.bias)))


class Skipping(Net):
    def forward(self, x):
        return self.classifier(F.pad(torch.tanh(self.one(x)), (0, 0)))


@pytest.mark.parametrize(("kind", "dead"), [(Detached, "one"), (Skipping, "two"), (Reading, "two")])
def test_some_layers_get_no_gradient(kind, dead):
    model = kind()
    model.one, model.two = LowRank(model.one), LowRank(model.two)
    finding = found(doctor(model, adam(model), loss_on(model)), "warning", "2 of 4 trained tensors got no gradient")
    assert finding.where == (f"{dead}.lora_A", f"{dead}.lora_B")
    view = ours(net=kind())
    checkup = doctor(view, adam(view), loss_on(view))
    if kind is Reading:
        silent(checkup)  # the weight of our wrapper is W + ΔW: what reads it is adapted
    else:
        found(checkup, "warning", "2 of 4 trained tensors got no gradient in 3 batches")


def test_layers_that_full_fine_tuning_does_not_reach_are_only_noted():
    model = Skipping().requires_grad_()
    checkup = doctor(model, adam(model), loss_on(model))
    silent(checkup)
    assert found(checkup, "note", "2 of 6 trained tensors got no gradient").where == ("two.weight", "two.bias")


@BOTH
def test_what_follows_multiplies_by_zero(make):
    model = make()
    model.classifier.weight.data.zero_()
    checkup = doctor(model, adam(model), loss_on(model))
    found(checkup, "error", "4 of 4 trained tensors got only zeros as gradient")
    found(checkup, "warning", "The head classifier is frozen")


@BOTH
def test_the_loss_depends_on_nothing_that_is_trained(make):
    model = make()
    loss = loss_on(model)
    found(doctor(model, loss=torch.no_grad()(loss)), "error", "The loss does not depend on anything that is trained")
    found(doctor(model, loss=lambda: loss().detach()), "error", "The loss does not depend on anything")
    other = Net()  # the base instead of the view, say
    checkup = doctor(model, adam(model), loss_on(other))
    assert "another model" in found(checkup, "error", "The loss does not depend on anything").why
    assert "Every trained tensor gets a gradient." in checkup.skipped["the steps on trial stopped early"]
    assert "Every trained tensor gets a gradient." not in checkup.passed


def test_gradients_are_switched_off():
    model = plain()
    with torch.no_grad():
        finding = found(doctor(model, loss=loss_on(model)), "error", "The loss does not depend on anything")
    assert "set_grad_enabled(False)" in finding.why


@BOTH
def test_the_loss_is_none_or_cannot_be_computed(make):
    model = make()
    finding = found(doctor(model, loss=lambda: model(torch.ones(2, 5))), "error", "No step could be taken")
    assert "RuntimeError: mat1 and mat2" in finding.why
    found(doctor(model, loss=lambda: model(torch.ones(2, 12))), "error", "a tensor of shape (2, 3), not a loss")
    found(doctor(model, loss=lambda: 0.5), "error", "loss() returned a float, not a loss")
    labels = torch.full((8,), -100)
    nothing = lambda: F.cross_entropy(model(torch.ones(8, 12)), labels)  # noqa: E731
    assert "labels" in found(doctor(model, loss=nothing), "error", "The loss is nan at step 1").cure


@BOTH
def test_a_loss_of_exactly_zero(make):
    model = make()
    checkup = doctor(model, loss=lambda: 0 * loss_on(model)())
    found(checkup, "warning", "The loss is exactly 0 in 3 batches")
    found(checkup, "error", "4 of 4 trained tensors got only zeros")


@BOTH
def test_training_that_diverges_in_three_steps(make):
    model = stirred(make())
    sgd = torch.optim.SGD(trainable(model).values(), lr=1e20)
    grows = lambda: model.two(model.one(torch.ones(8, 12))).square().mean()  # noqa: E731
    found(doctor(model, sgd, grows), "error", "at step 2")
    root = lambda: sum(p.square().sum().sqrt() for p in trainable(model).values())  # noqa: E731
    for p in trainable(model).values():
        p.data.zero_()
    found(doctor(model, adam(model), root), "error", "4 tensors are not finite after 1 step")


# ---- scale, rank, names -----------------------------------------------------------------------------------------


def adapted(rank, alpha):
    yield plain(rank=rank, alpha=alpha)
    yield ours(LoRA(rank, alpha, ("one", "two")))
    yield ours(DoRA(rank, alpha, ("one", "two")))


def test_alpha_was_left_at_one():
    for model in adapted(8, 1):
        finding = found(doctor(model), "warning", "α is 1 with rank 8, so the scale is 0.125")
        assert finding.where == ("one", "two")


def test_a_huge_scale_and_a_small_one():
    for model in adapted(2, 200):
        found(doctor(model), "warning", "The scale is 100 (α = 200, r = 2)")
    for model in adapted(8, 0.5):
        silent(checkup := doctor(model))
        found(checkup, "note", "The scale is small: 0.0625")
    for model in adapted(4, 8):
        assert not doctor(model)


def test_a_scale_of_zero():
    model = plain(alpha=0)
    found(doctor(model), "error", "The scale is 0 in 2 adapters")


def test_a_rank_larger_than_the_weight():
    for model in adapted(14, 28):
        assert found(doctor(model), "warning", "The rank is larger than the weight in 1 adapter: 14 > 12").where == (
            "one",
        )


@BOTH
def test_targets_that_match_nothing_or_are_not_adapted(make):
    checkup = doctor(make(), targets=("one", "tow", "classifier"))
    finding = found(checkup, "warning", "targets: tow matches nothing")
    assert "classifier" in finding.cure
    found(checkup, "warning", "1 of the targets has no adapter: classifier")


# ---- numbers and types ------------------------------------------------------------------------------------------


@BOTH
def test_numbers_that_are_not_finite(make):
    model = make()
    model.classifier.weight.data[0, 0] = float("inf")
    assert found(doctor(model), "error", "1 weight holds NaN or infinity").where == ("classifier.weight",)
    model = make()
    p = next(iter(trainable(model).values()))
    p.grad = torch.full_like(p, float("nan"))
    found(doctor(model), "error", "1 gradient holds NaN or infinity")


@BOTH
def test_types_in_which_training_goes_wrong(make):
    found(doctor(make().half()), "warning", "4 trained tensors are in float16")
    silent(checkup := doctor(make().bfloat16()))
    found(checkup, "note", "4 trained tensors are in bfloat16")
    model = make()
    p = next(iter(trainable(model).values()))
    p.data = p.data.to(torch.float8_e4m3fn)
    checkup = doctor(model, adam(model), lambda: loss_on(Net())() + trainable(model).popitem()[1].sum())
    found(checkup, "error", "1 trained tensor is in torch.float8_e4m3fn")


# ---- modes, statistics, ties, checkpoints -----------------------------------------------------------------------


def test_dropout_that_is_on_in_eval_mode_and_off_in_training():
    model = plain().eval()
    model.one = nn.Sequential(nn.Dropout(0.1), model.one)
    assert found(doctor(model), "warning", "in eval mode, but 1 dropout in it is active").where == ("one.0",)
    silent(doctor(model.eval()))
    found(doctor(model, adam(model), loss_on(model)), "warning", "computed in eval mode: 1 dropout with p > 0")
    silent(doctor(model.train(), adam(model), loss_on(model)))
    view = ours(LoRA(2, 4, ("one", "two"), dropout=0.1)).eval()
    view.one.train()
    found(doctor(view), "warning", "in eval mode, but 1 dropout in it is active")
    found(doctor(view.eval(), adam(view), loss_on(view)), "warning", "computed in eval mode: 2 dropouts")


def test_statistics_that_move_in_a_frozen_base():
    net = nn.Sequential(LowRank(nn.Linear(12, 16)), nn.BatchNorm1d(16).requires_grad_(False))
    assert found(doctor(net.train()), "warning", "The running statistics of 1 frozen normalisation layer").where == (
        "1",
    )
    net[1].eval()
    silent(doctor(net))
    view = LoRA(2, 4, ("0",)).attach(nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16)))
    silent(doctor(view.train()))  # our delta holds them
    silent(doctor(BitFit().attach(nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16))).train()))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, i):
        return self.out(self.embed(i))


def test_one_place_of_a_tied_weight_is_adapted():
    model = Tied().requires_grad_(False)
    model.out = LowRank(model.out)
    found(doctor(model), "warning", "embed.weight and out.base_layer.weight are one weight")
    found(doctor(LoRA(2, 4, ("embed",)).attach(Tied())), "warning", "embed.base.weight and out.weight are one weight")
    silent(doctor(Full().attach(Tied())))
    silent(doctor(LoRA(2, 4, ("embed", "out")).attach(Tied())))


class Checkpointed(Net):
    reentrant = True

    def forward(self, x):
        inner = lambda h: torch.tanh(self.two(torch.tanh(self.one(h))))  # noqa: E731
        return self.classifier(checkpoint(inner, x, use_reentrant=self.reentrant))


@BOTH
def test_reentrant_checkpoints_kill_gradients(make):
    net = Checkpointed()
    if make is plain:
        net.one, net.two = LowRank(net.one), LowRank(net.two)
    model = ours(net=net) if make is ours else net
    checkup = doctor(model, adam(model), loss_on(model))
    found(checkup, "error", "A checkpointed block got no input that requires a gradient")
    assert len(checkup.of("error")) == 1  # and nothing else for the same reason
    model.reentrant = False
    silent(doctor(model, adam(model), loss_on(model)))


@BOTH
def test_a_frozen_weight_that_writes_itself(make):
    embed = nn.Embedding(9, 12, max_norm=0.1).requires_grad_(False)
    net = nn.ModuleDict({"embed": embed, "net": make()})

    def loss():
        return net["net"](embed(torch.arange(9))).square().mean()

    before = bits(net)
    assert found(doctor(net, loss=loss), "warning", "Computing the loss changed 1 frozen weight").where == (
        "embed.weight",
    )
    assert same_bits(net, before)


@BOTH
def test_loralib_merges_in_eval_mode(make):
    """A layer that says so is merged: its A and B are not used."""
    model = plain()
    model.one.merged = True
    found(doctor(model, adam(model)), "error", "1 adapter layer is merged into the base weights")
    silent(doctor(model))


# ---- the patient afterwards -------------------------------------------------------------------------------------


def test_everything_is_put_back():
    model = plain()
    model.one = nn.Sequential(model.one, nn.BatchNorm1d(16), nn.Dropout(0.2))
    optimizer = adam(model)
    loss = loss_on(model)
    loss().backward()
    optimizer.step()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    numbers = {name: g.clone() for name, g in gradients.items() if g is not None}
    before, state, group = bits(model), copy.deepcopy(optimizer.state_dict()), optimizer.param_groups[0]
    model.train()
    model.one[2].eval()

    def careless():
        model.eval()
        random.random()
        np.random.rand()  # noqa: NPY002
        return loss()

    dice = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    doctor(model, optimizer, careless)
    assert same_bits(model, before)
    assert {name: p.grad for name, p in model.named_parameters()} == gradients  # the same objects
    assert all(torch.equal(gradients[name], g) for name, g in numbers.items())
    assert optimizer.param_groups[0] is group
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for key, entry in state["state"].items():
        assert all(torch.equal(now["state"][key][what], value) for what, value in entry.items())
    assert model.training
    assert model.two.training
    assert not model.one[2].training
    assert torch.equal(torch.get_rng_state(), dice[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == dice[1:]  # noqa: NPY002
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_everything_is_put_back_when_the_loss_fails_half_way():
    model, calls = plain(), []

    def loss():
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("no such column")
        return loss_on(model)()

    before = bits(model)
    assert "KeyError: 'no such column'" in found(doctor(model, adam(model), loss), "error", "No step could").why
    assert same_bits(model, before)
    assert not any(p.grad is not None for p in model.parameters())


def test_other_warnings_of_the_loss_are_handed_on():
    model = plain()

    def loss():
        warnings.warn("the tokenizer is slow", UserWarning, stacklevel=2)
        return loss_on(model)()

    with pytest.warns(UserWarning, match="the tokenizer is slow"):
        doctor(model, loss=loss)


# ---- the report -------------------------------------------------------------------------------------------------


def test_the_check_up_prints_what_was_found_and_what_was_looked_at():
    model = plain(rank=8, alpha=1)
    checkup = doctor(model, adam(model))
    text = str(checkup)
    assert isinstance(checkup, Checkup)
    assert isinstance(checkup[0], Finding)
    assert "Net: 480 of 1,011 parameters are trained (47.48 %), 2 low-rank pairs" in text
    assert "WARNING  α is 1 with rank 8" in text
    assert "where: one, two." in text
    assert "cure:  Set α to r or 2r" in text
    assert "ok       The base is frozen beside its adapters." in text
    assert "skipped  6 checks: no loss was given" in text
    assert text.endswith(f"0 errors, 1 warning, 0 notes; {len(checkup.passed)} checks passed")


def test_errors_come_first_and_long_lists_are_cut():
    finding = Finding("note", "Much.", "Why.", "Cure.", tuple("abcdefg"))
    assert "a, b, c, d and 3 more." in str(finding)
    model = plain(rank=8, alpha=1).requires_grad_()
    assert [f.severity for f in doctor(model)] == ["error", "warning"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((7,), "a model is wanted"),
        ((Net(), 0.1), "the second argument is the optimizer"),
        ((Net(), None, torch.ones(())), "loss is a function of no arguments"),
        (("adapter", None, print), "a path is examined alone"),
    ],
)
def test_arguments_that_cannot_be_right(arguments, says):
    with pytest.raises(TypeError, match=says):
        doctor(*arguments)
    with pytest.raises(TypeError, match="names in a tuple"):
        doctor(Net(), targets="q")
    with pytest.raises(ValueError, match="steps must be a whole number of at least 2"):
        doctor(Net(), loss=print, steps=1)
