"""BitFit trains the biases, all of them and nothing else, on models whose names are traps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minipeft.attach import detach, trainable
from minipeft.deltas import load, save, updates
from minipeft.methods import BitFit
from minipeft.views import merge
from tests.models import DIM, FF, LAYERS, VOCAB, apart, close, count, make, rows, stirred


def test_a_layer_gets_a_new_bias_and_keeps_its_weight():
    base, x = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7)), torch.randn(4, 6, 5)
    nn.init.normal_(base[1].weight)
    net = stirred(BitFit(), base)
    b, shift = net[0].bias, net[1].bias
    assert not torch.equal(b, base[0].bias)
    y = x @ base[0].weight.T + b
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    close(net(x), base[1].weight * y + shift)


def test_every_bias_of_a_transformer_is_trained_and_nothing_else():
    view = BitFit().attach(make())
    inside = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down", "norm1", "norm2"]
    expected = [f"blocks.{i}.{name}.bias" for i in range(LAYERS) for name in inside] + ["norm.bias", "head.bias"]
    assert set(trainable(view)) == set(expected)
    assert count(view) == LAYERS * (7 * DIM + FF) + DIM + VOCAB


def test_targets_name_modules_above_a_bias_or_the_bias_itself():
    view = BitFit(targets=(".blocks.1.attn", ".blocks.0.norm1.bias", "head")).attach(make())
    attention = {f"blocks.1.attn.{name}.bias" for name in "qkvo"}
    assert set(trainable(view)) == attention | {"blocks.0.norm1.bias", "head.bias"}


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
    base, x = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "mix": nn.MultiheadAttention(4, 2)}), torch.randn(5, 2, 3)

    def run(net):
        h = net["rnn"](x)[0]
        return net["mix"](h, h, h)[0]

    y = run(base)
    for targets in (("rnn",), ("mix",)):
        net = stirred(BitFit(targets=targets), base)
        apart(run(net), y, 1e-3)
        run(net).square().sum().backward()
        grads = [p.grad for p in trainable(net).values()]
        assert len(grads) == 2
        assert all(g.any() for g in grads)
        if targets == ("rnn",):
            close(*grads)  # an LSTM adds its two biases
    assert torch.equal(run(base), y)


@pytest.mark.parametrize("targets", [None, ("attn.q",)])
def test_the_head_is_trained_whole_if_asked_for(targets):
    without = set(trainable(BitFit(targets).attach(make())))
    assert "head.weight" not in without
    assert set(trainable(BitFit(targets, head=True).attach(make()))) == without | {"head.weight", "head.bias"}


def test_a_head_of_several_modules_is_trained_whole():
    model = make()
    model.head = nn.Sequential(nn.Linear(DIM, 5), nn.Linear(5, VOCAB, bias=False))
    view = BitFit(targets=("attn.q",), head=True).attach(model)
    assert {n for n in trainable(view) if "head" in n} == {"head.0.weight", "head.0.bias", "head.1.weight"}


def test_a_tied_head_is_trained_and_the_embedding_is_not():
    model = make()
    model.head.weight = model.embed.token.weight
    E = model.embed.token.weight.detach().clone()
    view = stirred(BitFit(head=True), model)
    assert torch.equal(view.embed.token.weight, E)
    assert not torch.equal(view.head.weight, E)
    assert detach(view).head.weight is model.embed.token.weight
    with pytest.warns(UserWarning, match=r"embed\.token\.weight and head\.weight were one weight and now differ"):
        merge(view)


def test_a_bias_that_two_modules_share_stays_one():
    base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    base[1].bias = base[0].bias
    net = stirred(BitFit(), base)
    assert net[1].bias is net[0].bias
    assert len(trainable(net)) == 1


def test_the_biases_are_in_the_model_so_merging_changes_nothing():
    view, tokens = stirred(BitFit(), make()), rows()[1]
    assert torch.equal(merge(view)(tokens), view(tokens))


@pytest.mark.parametrize(
    "method",
    [BitFit(head=True), BitFit(targets=lambda path, module: path.endswith("norm1"), head=True)],
    ids=["head", "predicate"],
)
def test_there_and_back(method, tmp_path):
    view, tokens = stirred(method, make()), rows()[1]
    save(view, tmp_path / "d")
    again = load(tmp_path / "d", make())
    assert torch.equal(again(tokens), view(tokens))
    assert set(trainable(again)) == set(trainable(view))


def test_which_biases_moved_is_told():
    base = make()
    view = stirred(BitFit(), base)
    moved = updates(view)
    assert set(moved) == set(trainable(view))
    for name, (old, change) in moved.items():
        assert torch.equal(old, base.get_parameter(name))
        assert torch.equal(change, trainable(view)[name] - old)


def test_the_bias_of_a_key_moves_no_attention():
    """q·b_k is the same for every key, and a softmax does not see what is added to all: this bias cannot learn."""
    view, tokens = BitFit(targets=("attn.k", "attn.q")).attach(make()), rows()[1]
    F.cross_entropy(view(tokens).flatten(0, 1), tokens.flatten()).backward()
    size = {name: p.grad.abs().max() for name, p in trainable(view).items()}
    assert all(size[name] < 1e-6 for name in size if "attn.k" in name)
    assert all(size[name] > 1e-4 for name in size if "attn.q" in name)


def test_weight_decay_spares_the_biases():
    method = BitFit(head=True)
    view = method.attach(make())
    groups = method.groups(view, 0.02)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    assert [(group["weight_decay"], group["lr"]) for group in optimizer.param_groups] == [(0.0, 0.02)]
    assert {p for g in groups for p in g["params"]} == set(trainable(view).values())


@pytest.mark.parametrize(
    ("net", "method", "says"),
    [
        (nn.Sequential(nn.Linear(3, 4, bias=False)), BitFit(), "no bias in the model"),
        (nn.ModuleDict({"head": nn.Linear(3, 4, bias=False)}), BitFit(head=True), "no bias in the model"),
        (nn.Sequential(nn.Linear(3, 4), nn.Embedding(3, 4)), BitFit(("0", "1")), "no bias in '1'"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit(("0.weight",)), "no bias in '0.weight'"),
        (nn.Sequential(nn.Linear(3, 4)), BitFit(head=True), "'.head'; there are: 0"),
    ],
)
def test_a_model_without_what_it_needs_is_told(net, method, says):
    with pytest.raises(ValueError, match=says):
        method.attach(net)
