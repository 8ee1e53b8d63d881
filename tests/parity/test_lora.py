"""Where `peft` and `loralib` part company with our LoRA, and what only some of them can; the rest is in
test_weight_methods.py."""

import copy
import math

import loralib
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from minipeft.attach import trainable
from minipeft.methods.lora import LoRA, LoRAConv2d, LoRAEmbedding, LoRALinear
from minipeft.views import merge
from tests.models import DIM, LAYERS, apart, one

PAIRS = pytest.mark.parametrize(("rank", "alpha"), [(3, 5), (4, 1)])
ONE = LoRA(3, 5, ("layer",))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_starts_uniform_in_all_libraries_and_not_gaussian_as_in_the_paper(kind, both):
    layer = nn.Linear(1000, 50) if kind == "linear" else nn.Conv2d(40, 50, 5)  # 40·5·5 = 1000 numbers in
    two = both(one(layer), LoRA(7, 7, ("layer",)), std=None)
    start = [two.ours.layer.A, two.library()["layer.A"]]
    if kind == "linear":
        start.append(loralib.Linear(1000, 50, r=7).lora_A)
    bound = 1 / math.sqrt(1000)
    for A in start:
        assert 0.99 * bound < A.abs().max() <= bound  # a Gaussian of the same width reaches beyond 2·bound
        assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_an_embedding_starts_with_b_from_a_unit_gaussian_in_all_three(both):
    two, library = both(one(nn.Embedding(30, 400)), LoRA(7, 7, ("layer",)), std=None), loralib.Embedding(30, 400, r=7)
    for A, B in [
        (two.ours.layer.A, two.ours.layer.B),
        tuple(two.library()[f"layer.{letter}"] for letter in "AB"),
        (library.lora_A, library.lora_B),
    ]:
        assert not A.any()
        assert B.std().item() == pytest.approx(1, rel=0.05)
        assert B.abs().max() > 2


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(7, 10), (2, 5, 7)), (nn.Conv2d(3, 5, 3), (2, 3, 8, 9))])
def test_dropout_falls_on_the_same_numbers(layer, shape, both, close):
    two, x = both(one(copy.deepcopy(layer)), LoRA(3, 5, ("layer",), dropout=0.5)), torch.randn(shape)
    made = []
    for model in (two.ours.train(), two.theirs.train()):
        torch.manual_seed(1)
        made.append(model(x))
    close(*made)
    close(two.ours.eval()(x), two.theirs.eval()(x))
    apart(made[0], two.ours(x))


@pytest.mark.parametrize("rows", ["left"], indirect=True)
def test_five_steps_with_dropout_are_the_same(base, rows, both, train, close):
    two, curves = both(base, LoRA(3, 5, ("q", "v", "up"), dropout=0.2)), []
    for model in (two.ours, two.theirs):
        model.train()
        torch.manual_seed(1)
        curves.append(
            train(list(trainable(model).values()), lambda model=model: rows.loss(model(rows.tokens, rows.mask)))
        )
    close(*curves)
    two.compare(lambda p: p.detach())


def test_other_paddings_and_dilations_of_a_convolution_are_followed_here_and_lost_in_peft(both, close):
    x = torch.randn(2, 3, 8, 9)
    two = both(one(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")), ONE)
    unmerged = two.theirs(x)
    two.theirs.merge_adapter()
    close(two.ours(x), two.theirs(x), 2e-6)  # what the weights mean
    apart(unmerged, two.theirs(x))  # the library pads the input of A with zeros
    two = both(one(nn.Conv2d(3, 5, 3, dilation=2)), ONE)
    with pytest.raises(RuntimeError, match="size of tensor"):
        two.theirs(x)
    two.theirs.merge_adapter()
    close(two.ours(x), two.theirs(x), 2e-6)


def test_rank_pattern_with_the_scale_of_each_rank(base, rows, both, close):
    method = LoRA(3, 5, ("q", "v", "down"), rank_pattern={"v": 2, "1.mlp.down": 7})
    two = both(base, method, alpha_pattern={"v": 5})  # the same α for every rank, said twice: peft, too, divides it
    ranks = {name: len(p) for name, p in trainable(two.ours).items() if name.endswith("A")}
    wanted = [{"attn.q": 3, "attn.v": 2, "mlp.down": down} for down in (3, 7, 3)]
    assert ranks == {f"blocks.{i}.{name}.A": rank for i, layer in enumerate(wanted) for name, rank in layer.items()}
    close(two.ours(rows.tokens, rows.mask)[rows.real], two.theirs(rows.tokens, rows.mask)[rows.real])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what transformers renamed
@pytest.mark.parametrize("rows", [None], indirect=True)
def test_the_same_lora_on_the_fused_weights_of_gpt2(gpt2, rows, learned, close):
    """peft on `c_attn` gives q, k and v one A; here each of the three then holds a copy of it, and a third of B."""
    theirs, ours = gpt2
    view = LoRA(5, 3, ("q", "k", "v", "o", "up", "down")).attach(ours)
    config = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "init_lora_weights": False}
    theirs = get_peft_model(theirs, LoraConfig(r=5, lora_alpha=3, **config)).eval()
    names = {"attn.c_proj": "attn.o", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
    found, mine = learned(theirs), trainable(view)
    with torch.no_grad():
        for i in range(LAYERS):
            A, B = (found[f"transformer.h.{i}.attn.c_attn.{letter}"] for letter in "AB")
            for name, third in zip("qkv", B.chunk(3), strict=True):
                mine[f"blocks.{i}.attn.{name}.A"].copy_(A)
                mine[f"blocks.{i}.attn.{name}.B"].copy_(third)
            for library, name in names.items():
                for letter in "AB":
                    mine[f"blocks.{i}.{name}.{letter}"].copy_(found[f"transformer.h.{i}.{library}.{letter}"])
        close(view(rows.tokens), theirs(rows.tokens).logits, 1e-5)
        close(merge(view)(rows.tokens), theirs.merge_and_unload()(rows.tokens).logits, 1e-5)


# ---- LoRA+ ------------------------------------------------------------------------------------------------------


def rates(base, targets, both):
    """{name: learning rate} of the library and of ours, with λ = 16 and η = 2e-4."""
    method = LoRA(3, 5, targets, lr_ratio=16.0)
    two = both(base, method)
    library = create_loraplus_optimizer(two.theirs, torch.optim.AdamW, lr=2e-4, loraplus_lr_ratio=16.0).param_groups
    for groups, found in ((library, two.library()), (method.groups(two.ours, 2e-4), trainable(two.ours))):
        names = {p: name for name, p in found.items()}
        yield {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_lora_plus_gives_each_factor_the_same_learning_rate(base, both):
    expected, got = rates(base, ("q", "v", "up"), both)
    assert got == pytest.approx(expected)
    assert set(got) == {
        f"blocks.{i}.{name}.{x}" for i in range(3) for name in ("attn.q", "attn.v", "mlp.up") for x in "AB"
    }
    assert got["blocks.0.attn.q.A"] == 2e-4
    assert got["blocks.0.attn.q.B"] == pytest.approx(32e-4)


def test_lora_plus_in_peft_leaves_an_embedding_nearly_untrained(base, both):
    expected, got = rates(base, ("token",), both)
    assert expected == {"embed.token.A": 1e-6, "embed.token.B": 1e-6}  # its default, whatever lr is
    assert got == pytest.approx({"embed.token.A": 2e-4, "embed.token.B": 32e-4})


# ---- loralib, by the authors of the paper -----------------------------------------------------------------------


@PAIRS
@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_loralib_forward_gradients_merge(kind, rank, alpha, same_gradients, close):
    if kind == "linear":
        library, plain, wrapper = loralib.Linear(7, 10, r=rank, lora_alpha=alpha), nn.Linear(7, 10), LoRALinear
        x = torch.randn(2, 5, 7)
    else:
        library, plain, wrapper = loralib.Embedding(11, 6, r=rank, lora_alpha=alpha), nn.Embedding(11, 6), LoRAEmbedding
        x = torch.tensor([[4, 0, 10, 4], [7, 7, 1, 3]])
    library.load_state_dict(plain.state_dict(), strict=False)
    ours = wrapper(plain.requires_grad_(False), rank, alpha / rank)
    with torch.no_grad():
        for p, own in ((library.lora_A, ours.A), (library.lora_B, ours.B)):
            own.copy_(p.normal_(std=0.5))
    got, expected = ours(x), library(x)
    close(got, expected)
    same_gradients(got / 10, expected / 10)
    close(ours.A.grad, library.lora_A.grad)
    close(ours.B.grad, library.lora_B.grad)
    library.eval()  # here the library merges
    close(ours.merged().weight, library.weight)
    close(ours.merged()(x), library(x))


def test_merged_linear_of_loralib_is_a_lora_on_q_and_one_on_v(close):
    fused = loralib.MergedLinear(DIM, 3 * DIM, r=3, lora_alpha=5, enable_lora=[True, False, True])
    with torch.no_grad():
        for p in (fused.lora_A, fused.lora_B):
            p.normal_(std=0.5)
    model = nn.ModuleDict({name: nn.Linear(DIM, DIM) for name in "qkv"})
    for layer, weight, bias in zip(model.values(), fused.weight.chunk(3), fused.bias.chunk(3), strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    view = LoRA(3, 5, ("q", "v")).attach(model)
    with torch.no_grad():
        for name, A, B in zip("qv", fused.lora_A.chunk(2), fused.lora_B.chunk(2), strict=True):
            view[name].A.copy_(A)
            view[name].B.copy_(B)
    x, merged = torch.randn(2, 5, DIM), merge(view)
    close(torch.cat([view[name](x) for name in "qkv"], dim=-1), fused(x))
    fused.eval()  # here the library merges
    close(torch.cat([merged[name].weight for name in "qkv"]), fused.weight)


def test_factors_of_a_convolution_cannot_be_exchanged_with_loralib():
    library, ours = loralib.Conv2d(3, 8, 3, r=4), LoRAConv2d(nn.Conv2d(3, 8, 3), 4, 1.0)
    assert [p.numel() for p in (ours.A, ours.B)] == [108, 32]
    assert [p.numel() for p in (library.lora_A, library.lora_B)] == [108, 288]


def test_places_are_named_as_in_peft(base):
    """By a regular expression for whole names, or as all linear modules; ours leaves out the head of any model."""
    for targets in (r"blocks\.[02]\.attn\.(q|v)", "all-linear"):
        theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=targets))
        ours = LoRA(2, targets=targets).attach(base)
        wanted = {n.removeprefix("base_model.model.").rpartition(".lora_")[0] for n in trainable(theirs)}
        assert {name.rpartition(".")[0] for name in trainable(ours)} == wanted - {"head"}
