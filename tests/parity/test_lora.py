"""Our LoRA computes, trains and merges like `peft` and `loralib`; where the three part company, a test shows it.

Everywhere B is not zero, the rank does not divide the width, α differs from the rank, biases are not zero, and no
layer is square: on a fresh LoRA nearly any mistake passes, because BA = 0.
"""

import copy
import math

import loralib
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from minipeft import bases
from minipeft.attach import detach, merge, trainable, unmerge
from minipeft.methods.lora import LoRA, LoRAConv2d, LoRAEmbedding, LoRALinear
from minipeft.models.transformer import Config, Transformer

ALL = ("q", "k", "v", "o", "up", "down", "token")  # in a Transformer: 13 matrices in two layers
PAIRS = [(3, 5), (4, 1)]  # (r, α)


class One(nn.Module):
    """A model of a single layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def numbers():
    return torch.randn(2, 5, 7)


def words():
    return torch.tensor([[4, 0, 10, 4], [7, 7, 1, 3]])


def images():
    return torch.randn(2, 3, 8, 9)


CASES = {
    "linear": (lambda: nn.Linear(7, 10), numbers),
    "linear without bias": (lambda: nn.Linear(7, 10, bias=False), numbers),
    "embedding": (lambda: nn.Embedding(11, 6), words),
    "embedding with padding": (lambda: nn.Embedding(11, 6, padding_idx=4), words),
    "conv": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2)), images),
    "conv 1x1": (lambda: nn.Conv2d(3, 5, 1, stride=2), images),
    "conv same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), images),
}


def attach_both(base, rank, alpha, targets, dropout=0.0, rslora=False, **more):
    """Our LoRA and peft's on copies of one model, with the same random A and B."""
    ours = LoRA(rank, alpha, targets, dropout, rslora=rslora, **more.pop("ours", {})).attach(copy.deepcopy(base))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        lora_dropout=dropout,
        use_rslora=rslora,
        init_lora_weights=False,
        **more,
    )
    theirs = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for name, p in factors(theirs).items():
            p.normal_(std=0.5)
            trainable(ours)[name].copy_(p.view_as(trainable(ours)[name]))
    return ours, theirs


def factors(theirs):
    """peft's trainable parameters under our names: `base_model.model.blocks.0.attn.q.lora_A.default.weight`."""
    short = {}
    for name, p in trainable(theirs).items():
        path, letter = name.removeprefix("base_model.model.").split(".lora_")
        short[f"{path}.{letter.removeprefix('embedding_')[0]}"] = p
    return short


def compare(ours, theirs, close, what):
    """Every A and B, or what `what` takes of it."""
    expected = factors(theirs)
    assert trainable(ours).keys() == expected.keys()
    for name, p in trainable(ours).items():
        close(what(p), what(expected[name]).view_as(p))


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


# ---- one layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_layer_forward_and_gradients(case, rank, alpha, rslora, close):
    layer, inputs = CASES[case]
    ours, theirs = attach_both(One(layer()), rank, alpha, ("layer",), rslora=rslora)
    x = inputs()
    mine, other = (x.clone().requires_grad_(x.is_floating_point()) for _ in range(2))
    got, expected = ours(mine), theirs(other)
    assert not torch.allclose(expected, theirs.get_base_model().layer.base_layer(x), atol=0.1)  # LoRA does something
    close(got, expected)
    weight = torch.randn_like(expected) / 10
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    compare(ours, theirs, close, lambda p: p.grad)
    if x.is_floating_point():
        close(mine.grad, other.grad)


@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_layer_merge_and_unmerge(case, rank, alpha, close):
    layer, inputs = CASES[case]
    ours, theirs = attach_both(One(layer()), rank, alpha, ("layer",))
    x, fresh = inputs(), theirs.get_base_model().layer.base_layer.weight.clone()
    before = ours(x)
    merge(ours)
    theirs.merge_adapter()
    close(ours.layer.weight, theirs.get_base_model().layer.base_layer.weight)
    close(ours(x), theirs(x))
    close(ours(x), before, 2e-6)
    unmerge(ours)
    theirs.unmerge_adapter()
    assert torch.equal(ours(x), before)
    assert torch.equal(ours.layer.weight, fresh)  # exact; the library adds and subtracts
    close(theirs.get_base_model().layer.base_layer.weight, fresh)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_layer_is_the_base_in_both_and_has_as_many_parameters(case):
    layer, inputs = CASES[case]
    base, x = One(layer()), inputs()
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=3, lora_alpha=5, target_modules=["layer"]))
    ours = LoRA(3, 5, ("layer",)).attach(copy.deepcopy(base))
    assert torch.equal(theirs(x), base(x))
    assert torch.equal(ours(x), base(x))
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]
    zero = {name: not p.any() for name, p in trainable(ours).items()}
    assert zero == {name: not p.any() for name, p in factors(theirs).items()}
    assert sorted(zero.values()) == [False, True]  # one of the two, and the same one


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_starts_uniform_in_all_libraries_and_not_gaussian_as_in_the_paper(kind):
    layer = nn.Linear(1000, 50) if kind == "linear" else nn.Conv2d(40, 50, 5)  # 40·5·5 = 1000 numbers in
    theirs = get_peft_model(One(copy.deepcopy(layer)), LoraConfig(r=7, target_modules=["layer"]))
    ours = LoRA(7, 7, ("layer",)).attach(One(layer))
    start = [trainable(ours)["layer.A"], factors(theirs)["layer.A"]]
    if kind == "linear":
        start.append(loralib.Linear(1000, 50, r=7).lora_A)
    bound = 1 / math.sqrt(1000)
    for A in start:
        assert 0.99 * bound < A.abs().max() <= bound  # a Gaussian of the same width reaches beyond 2·bound
        assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_an_embedding_starts_with_b_from_a_unit_gaussian_in_all_three():
    theirs = get_peft_model(One(nn.Embedding(30, 400)), LoraConfig(r=7, target_modules=["layer"]))
    ours = LoRA(7, 7, ("layer",)).attach(One(nn.Embedding(30, 400)))
    library = loralib.Embedding(30, 400, r=7)
    for A, B in [
        (ours.layer.A, ours.layer.B),
        tuple(factors(theirs)[f"layer.{letter}"] for letter in "AB"),
        (library.lora_A, library.lora_B),
    ]:
        assert not A.any()
        assert B.std().item() == pytest.approx(1, rel=0.05)
        assert B.abs().max() > 2


@pytest.mark.parametrize("case", ["linear", "conv"])
def test_dropout_falls_on_the_same_numbers(case, close):
    layer, inputs = CASES[case]
    ours, theirs = attach_both(One(layer()), 3, 5, ("layer",), dropout=0.5)
    x = inputs()
    torch.manual_seed(1)
    got = ours.train()(x)
    torch.manual_seed(1)
    close(got, theirs.train()(x))
    close(ours.eval()(x), theirs.eval()(x))
    assert not torch.allclose(got, ours(x))


def test_other_paddings_and_dilations_of_a_convolution_are_followed_here_and_lost_in_peft(close):
    ours, theirs = attach_both(One(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")), 2, 3, ("layer",))
    x = images()
    unmerged = theirs(x)
    theirs.merge_adapter()
    close(ours(x), theirs(x), 2e-6)  # what the weights mean
    assert not torch.allclose(unmerged, theirs(x), atol=0.1)  # the library pads the input of A with zeros
    ours, theirs = attach_both(One(nn.Conv2d(3, 5, 3, dilation=2)), 2, 3, ("layer",))
    with pytest.raises(RuntimeError, match="size of tensor"):
        theirs(x)
    theirs.merge_adapter()
    close(ours(x), theirs(x), 2e-6)


# ---- a whole model ----------------------------------------------------------------------------------------------


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
        close(detach(ours)(tokens, mask)[mask], base(tokens, mask)[mask], 0)


def test_rank_pattern_with_the_scale_of_each_rank(base, tokens, mask, close):
    ours, theirs = attach_both(
        base,
        rank=3,
        alpha=5,
        targets=("q", "v", "down"),
        ours={"rank_pattern": {"v": 2, "1.mlp.down": 7}},
        rank_pattern={"v": 2, "1.mlp.down": 7},
        alpha_pattern={"v": 5},  # the same α for every rank, said twice: peft, too, divides it by the rank of the place
    )
    assert {name: len(p) for name, p in trainable(ours).items() if name.endswith("A")} == {
        "blocks.0.attn.q.A": 3,
        "blocks.0.attn.v.A": 2,
        "blocks.0.mlp.down.A": 3,
        "blocks.1.attn.q.A": 3,
        "blocks.1.attn.v.A": 2,
        "blocks.1.mlp.down.A": 7,
    }
    close(ours(tokens, mask)[mask], theirs(tokens, mask)[mask])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what transformers renamed
def test_the_same_lora_on_the_fused_weights_of_gpt2(randomised, tokens, close):
    """peft on `c_attn` gives q, k and v one A; here each of the three then holds a copy of it, and a third of B."""
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    gpt2 = randomised(GPT2LMHeadModel(config))
    ours = LoRA(5, 3, ("q", "k", "v", "o", "up", "down")).attach(bases.from_gpt2(gpt2.state_dict(), heads=3))
    targets = ["c_attn", "c_proj", "c_fc"]
    theirs = get_peft_model(
        gpt2,
        LoraConfig(r=5, lora_alpha=3, target_modules=targets, fan_in_fan_out=True, init_lora_weights=False),
    ).eval()
    names = {"attn.c_proj": "attn.o", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
    found, mine = factors(theirs), trainable(ours)
    with torch.no_grad():
        for i in range(2):
            for letter in "AB":
                for library, name in names.items():
                    mine[f"blocks.{i}.{name}.{letter}"].copy_(found[f"transformer.h.{i}.{library}.{letter}"])
            A, B = (found[f"transformer.h.{i}.attn.c_attn.{letter}"] for letter in "AB")
            for name, third in zip("qkv", B.chunk(3), strict=True):
                mine[f"blocks.{i}.attn.{name}.A"].copy_(A)
                mine[f"blocks.{i}.attn.{name}.B"].copy_(third)
        close(ours(tokens), theirs(tokens).logits, 1e-5)
        close(merge(ours)(tokens), theirs.merge_and_unload()(tokens).logits, 1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_five_steps_of_training_are_the_same(base, tokens, mask, dropout, close):
    ours, theirs = attach_both(base, 3, 5, ALL, dropout=dropout)
    curves = [], []
    for model, curve in zip((ours, theirs), curves, strict=True):
        model.train()
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
        for _ in range(5):
            loss = loss_of(model(tokens, mask), tokens, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    assert dropout or curves[0][-1] < curves[0][0] - 0.01
    compare(ours, theirs, close, lambda p: p.detach())


# ---- LoRA+ ------------------------------------------------------------------------------------------------------


def rates(groups, names):
    return {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_lora_plus_gives_each_factor_the_same_learning_rate(base):
    ours, theirs = attach_both(base, 3, 5, ALL[:-1], ours={"lr_ratio": 16.0})
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=2e-4, loraplus_lr_ratio=16.0)
    expected = rates(optimizer.param_groups, {p: name for name, p in factors(theirs).items()})
    got = rates(ours.attachments[0].method.groups(ours, 2e-4), {p: name for name, p in trainable(ours).items()})
    assert got == pytest.approx(expected)
    assert got["blocks.0.attn.q.A"] == 2e-4
    assert got["blocks.0.attn.q.B"] == pytest.approx(32e-4)


def test_lora_plus_in_peft_leaves_an_embedding_nearly_untrained(base):
    ours, theirs = attach_both(base, 3, 5, ("token",), ours={"lr_ratio": 16.0})
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=2e-4, loraplus_lr_ratio=16.0)
    expected = rates(optimizer.param_groups, {p: name for name, p in factors(theirs).items()})
    got = rates(ours.attachments[0].method.groups(ours, 2e-4), {p: name for name, p in trainable(ours).items()})
    assert expected == {"embed.token.A": 1e-6, "embed.token.B": 1e-6}  # its default, whatever lr is
    assert got == pytest.approx({"embed.token.A": 2e-4, "embed.token.B": 32e-4})


# ---- loralib, by the authors of the paper -----------------------------------------------------------------------


def like(library, plain, wrapper, rank, alpha):
    """Our wrapper of `plain`, and the library's layer, with the same weights; its B is not zero."""
    library.load_state_dict(plain.state_dict(), strict=False)
    ours = wrapper(plain.requires_grad_(False), rank, alpha / rank)
    with torch.no_grad():
        for p, own in ((library.lora_A, ours.A), (library.lora_B, ours.B)):
            own.copy_(p.normal_(std=0.5))
    return ours, library


@pytest.mark.parametrize(("rank", "alpha"), PAIRS)
@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_loralib_forward_gradients_merge(kind, rank, alpha, close):
    if kind == "linear":
        library = loralib.Linear(7, 10, r=rank, lora_alpha=alpha)
        ours, theirs = like(library, nn.Linear(7, 10), LoRALinear, rank, alpha)
        x = numbers()
    else:
        library = loralib.Embedding(11, 6, r=rank, lora_alpha=alpha)
        ours, theirs = like(library, nn.Embedding(11, 6), LoRAEmbedding, rank, alpha)
        x = words()
    got, expected = ours(x), theirs(x)
    close(got, expected)
    weight = torch.randn_like(expected) / 10
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    close(ours.A.grad, theirs.lora_A.grad)
    close(ours.B.grad, theirs.lora_B.grad)
    theirs.eval()  # here the library merges
    close(ours.merged().weight, theirs.weight)
    close(ours.merged()(x), theirs(x))


def test_merged_linear_of_loralib_is_a_lora_on_q_and_one_on_v(close):
    rank, alpha, width = 3, 5, 7
    fused = loralib.MergedLinear(width, 3 * width, r=rank, lora_alpha=alpha, enable_lora=[True, False, True])
    with torch.no_grad():
        for p in (fused.lora_A, fused.lora_B):
            p.normal_(std=0.5)
    qkv = []
    for weight, bias in zip(fused.weight.chunk(3), fused.bias.chunk(3), strict=True):
        qkv.append(nn.Linear(width, width))
        qkv[-1].load_state_dict({"weight": weight, "bias": bias})
    model = nn.ModuleDict(zip("qkv", qkv, strict=True))
    LoRA(rank, alpha, ("q", "v")).attach(model)
    with torch.no_grad():
        for name, A, B in zip("qv", fused.lora_A.chunk(2), fused.lora_B.chunk(2), strict=True):
            model[name].A.copy_(A)
            model[name].B.copy_(B)
    x = numbers()
    close(torch.cat([model[name](x) for name in "qkv"], dim=-1), fused(x))
    merge(model)
    fused.eval()  # here the library merges
    close(torch.cat([model[name].weight for name in "qkv"]), fused.weight)


def test_factors_of_a_convolution_cannot_be_exchanged_with_loralib():
    plain = nn.Conv2d(3, 8, 3)
    library = loralib.Conv2d(3, 8, 3, r=4)
    ours = LoRAConv2d(plain, 4, 1.0)
    assert [p.numel() for p in (ours.A, ours.B)] == [108, 32]
    assert [p.numel() for p in (library.lora_A, library.lora_B)] == [108, 288]
