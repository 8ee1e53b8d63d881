"""BitFit trains the biases, all of them and nothing else, on models whose names are traps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import attachments, detach, disabled, merge, trainable, unmerge
from minipeft.bases import base
from minipeft.deltas import load, save, updates
from minipeft.methods import BitFit, LoRA
from minipeft.models.transformer import Config, Transformer
from minipeft.tasks import task
from minipeft.training import fit

DIM, FF, LAYERS, VOCAB = 12, 20, 2, 11


@pytest.fixture
def model():
    model = Transformer(Config(vocab=VOCAB, dim=DIM, heads=3, ff=FF, layers=LAYERS, context=16)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) / 2)  # biases that are not zero, γ that is not one
    return model


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (3, 6))


def stirred(model, method):
    method.attach(model)
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()
    return model


def state(model):
    return {name: (p, p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def same(model, before):
    now = state(model)
    return list(now) == list(before) and all(
        now[n][0] is p and torch.equal(now[n][1], value) and now[n][2] == flag for n, (p, value, flag) in before.items()
    )


def test_a_layer_gets_a_new_bias_and_keeps_its_weight():
    net = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
    nn.init.normal_(net[1].weight)
    W, gain = net[0].weight.clone(), net[1].weight.clone()
    stirred(net, BitFit())
    b, shift, x = net[0].bias, net[1].bias, torch.randn(4, 6, 5)
    y = x @ W.T + b
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(net(x), gain * y + shift)


def test_every_bias_of_a_transformer_is_trained_and_nothing_else(model):
    BitFit().attach(model)
    inside = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2"]
    expected = [f"blocks.{i}.{name}.bias" for i in range(LAYERS) for name in inside] + ["norm.bias", "head.bias"]
    assert set(trainable(model)) == set(expected)
    assert sum(p.numel() for p in trainable(model).values()) == LAYERS * (7 * DIM + FF) + DIM + VOCAB


def test_the_half_of_the_paper_is_the_query_and_the_middle_of_the_mlp(model):
    BitFit(targets=("attn.q", "mlp.up")).attach(model)
    assert set(trainable(model)) == {f"blocks.{i}.{name}.bias" for i in range(LAYERS) for name in ("attn.q", "mlp.up")}
    assert sum(p.numel() for p in trainable(model).values()) == LAYERS * (DIM + FF)


def test_targets_name_modules_above_a_bias_or_the_bias_itself(model):
    BitFit(targets=(".blocks.1.attn", ".blocks.0.norm1.bias", "head")).attach(model)
    attention = {f"blocks.1.attn.{name}.bias" for name in "qkvo"}
    assert set(trainable(model)) == attention | {"blocks.0.norm1.bias", "head.bias"}


def test_a_name_is_not_taken_for_a_longer_one_that_begins_alike():
    net = BitFit(targets=("1",)).attach(nn.Sequential(*(nn.Linear(2, 2) for _ in range(11))))
    assert set(trainable(net)) == {"1.bias"}


class Traps(nn.Module):
    """Names with "bias" in them that are none, and biases whose name is another."""

    def __init__(self):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(6, 3)
        self.bias_free = nn.Linear(3, 4, bias=False)
        self.debiased = nn.Linear(3, 4)
        self.unbiased, self.bias_gain = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        self.cell = nn.GRUCell(3, 4)
        self.several = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.conv, self.batch = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
        self.plane = nn.LayerNorm((4, 5))


def test_what_is_a_bias_is_told_by_the_module_and_not_by_a_part_of_the_name():
    net = BitFit().attach(Traps())
    lstm = {f"rnn.bias_{kind}_l{i}{way}" for kind in ("ih", "hh") for i in (0, 1) for way in ("", "_reverse")}
    attention = {"several.in_proj_bias", "several.out_proj.bias"}
    others = {"debiased.bias", "cell.bias_ih", "cell.bias_hh", "conv.bias", "batch.bias", "plane.bias"}
    assert set(trainable(net)) == lstm | attention | others


def test_new_biases_reach_modules_that_read_their_weights_themselves():
    net = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "mix": nn.MultiheadAttention(4, 2)})
    x = torch.randn(5, 2, 3)

    def run():
        h = net["rnn"](x)[0]
        return net["mix"](h, h, h)[0]

    before, y = state(net), run()
    stirred(net, BitFit(targets=("rnn",)))
    assert not torch.allclose(run(), y, atol=1e-3)
    run().square().sum().backward()
    first, second = (p.grad for p in trainable(net).values())
    assert first.abs().sum() > 0
    torch.testing.assert_close(first, second)  # an LSTM adds its two biases
    detach(net)
    stirred(net, BitFit(targets=("mix",)))
    assert not torch.allclose(run(), y, atol=1e-3)
    assert torch.equal((detach(net), run())[1], y)
    assert same(net, before)


@pytest.mark.parametrize("targets", [None, ("attn.q",)])
def test_the_head_is_trained_whole_if_asked_for(model, targets):
    BitFit(targets).attach(model)
    without = set(trainable(model))
    assert "head.weight" not in without
    BitFit(targets, head=True).attach(detach(model))
    assert set(trainable(model)) == without | {"head.weight", "head.bias"}


def test_a_head_of_several_modules_is_trained_whole(model):
    model.head = nn.Sequential(nn.Linear(DIM, 5), nn.Linear(5, VOCAB, bias=False))
    BitFit(targets=("attn.q",), head=True).attach(model)
    assert {n for n in trainable(model) if "head" in n} == {"head.0.weight", "head.0.bias", "head.1.weight"}


def test_a_tied_head_is_trained_and_the_embedding_is_not(model, tokens):
    model.head.weight = model.embed.token.weight
    E = model.embed.token.weight.detach().clone()
    stirred(model, BitFit(head=True))
    assert torch.equal(model.embed.token.weight, E)
    assert not torch.equal(model.head.weight, E)
    assert detach(model).head.weight is model.embed.token.weight


def test_a_bias_that_two_modules_share_stays_one():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].bias = net[0].bias
    stirred(net, BitFit())
    assert net[1].bias is net[0].bias
    assert len(trainable(net)) == 1


def test_the_start_is_the_base_exactly(model, tokens):
    y = model(tokens)
    assert torch.equal(BitFit(head=True).attach(model)(tokens), y)


def test_detach_gives_the_base_back_bit_for_bit(model, tokens):
    model.blocks[0].attn.q.requires_grad_(False)
    before, y = state(model), model(tokens)
    stirred(model, BitFit(head=True))
    assert not torch.allclose(model(tokens), y, atol=1e-2)
    with disabled(model):
        assert torch.equal(model(tokens), y)
    assert same(detach(model), before)


def test_it_is_the_model_so_merging_changes_nothing(model, tokens):
    y = stirred(model, BitFit())(tokens)
    biases = trainable(model)
    assert torch.equal(merge(model)(tokens), y)
    assert torch.equal(unmerge(model)(tokens), y)
    assert all(trainable(model)[name] is p for name, p in biases.items())


@pytest.mark.parametrize(
    "method",
    [
        BitFit(),
        BitFit(head=True),
        BitFit(targets=("attn.q", "mlp.up")),
        BitFit(targets=lambda path, module: path.endswith("norm1"), head=True),
    ],
    ids=["all", "head", "half", "predicate"],
)
def test_there_and_back(model, tokens, tmp_path, method):
    other = copy.deepcopy(model)
    y = stirred(model, method)(tokens)
    size = save(model, tmp_path / "d")
    assert size < 4 * sum(p.numel() for p in trainable(model).values()) + 4000
    assert torch.equal(load(tmp_path / "d", other)(tokens), y)
    assert set(trainable(other)) == set(trainable(model))
    assert attachments(other)[0].method == attachments(model)[0].method


def test_which_biases_moved_is_told_after_training():
    model = base()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    BitFit().attach(model)
    history = fit(model, task("reverse+blue"), steps=30, lr=3e-2, batch_size=16, device="cpu", progress=False)
    assert sum(history.loss[-5:]) < 0.7 * sum(history.loss[:5])
    moved = updates(model)
    assert set(moved) == set(trainable(model))
    for name, (old, change) in moved.items():
        assert torch.equal(old, before[name])
        assert torch.equal(change, trainable(model)[name] - before[name])
    assert all(change.abs().sum() > 0 for name, (_, change) in moved.items() if "attn.k" not in name)
    now = dict(detach(model).named_parameters())
    assert all(torch.equal(now[name], old) for name, old in before.items())


def test_the_bias_of_a_key_moves_no_attention(model, tokens):
    """q·b_k is the same for every key, and a softmax does not see what is added to all: this bias cannot learn."""
    BitFit(targets=("attn.k", "attn.q")).attach(model)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    size = {name: p.grad.abs().max() for name, p in trainable(model).items()}
    assert all(size[name] < 1e-6 for name in size if "attn.k" in name)
    assert all(size[name] > 1e-4 for name in size if "attn.q" in name)


def test_weight_decay_spares_the_biases(model):
    method = BitFit(head=True)
    method.attach(model)
    groups = method.groups(model, 0.02)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0}
    assert {g["lr"] for g in optimizer.param_groups} == {0.02}
    assert {p for g in groups for p in g["params"]} == set(trainable(model).values())


def test_generation_with_the_cache_and_without_gives_the_same(model):
    tokens, mask = torch.randint(VOCAB, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]).bool()
    plain = model.generate(tokens, 8, mask)
    stirred(model, BitFit())
    assert torch.equal(model.generate(tokens, 8, mask), model.generate(tokens, 8, mask, cache=False))
    assert not torch.equal(model.generate(tokens, 8, mask), plain)


def test_it_stands_on_lora_and_merges_with_it(model, tokens):
    before = state(model)
    stirred(model, LoRA())
    BitFit().attach(model, stack=True)
    assert {name.split(".")[-1] for name in trainable(model)} == {"bias"}
    with torch.no_grad():
        for p in trainable(model).values():
            p.normal_()
    y = model(tokens)
    torch.testing.assert_close(merge(model)(tokens), y, atol=1e-4, rtol=1e-4)
    assert same(detach(unmerge(model)), before)


@pytest.mark.parametrize(
    ("net", "method", "says"),
    [
        (nn.Sequential(nn.Linear(3, 4, bias=False)), BitFit(), "no bias in the model"),
        (nn.ModuleDict({"head": nn.Linear(3, 4, bias=False)}), BitFit(head=True), "no bias in the model"),
        (nn.Sequential(nn.Linear(3, 4), nn.Embedding(3, 4)), BitFit(("0", "1")), "no bias in '1'"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit(("0.weight",)), "no bias in '0.weight'"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit(("q",)), "'q'; there are: 0"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit(head=True), "'.head'; there are: 0"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit("0"), "tuple of names"),
    ],
)
def test_a_model_without_what_it_needs_is_told_and_left_as_it_was(net, method, says):
    before = state(net)
    with pytest.raises(ValueError, match=says):
        method.attach(net)
    assert same(net, before)


def test_a_bad_setting_is_told():
    with pytest.raises(ValueError, match="True or False, got 'classifier'"):
        BitFit(head="classifier")
