"""A convolutional and a recurrent network: which methods work on them, and which have no meaning there."""

import pytest
import torch

from minipeft.attach import detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LinearProbe,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.models.torch_nets import ConvConfig, ConvNet, Recurrent, RecurrentConfig
from minipeft.views import merge
from minipeft.worlds import convolutions, memory
from tests.models import VOCAB, apart, bits, close, count, moved, same_bits, stirred

CONVOLUTIONS = ("conv1", "conv2", "conv3")
MATRICES = ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
BIASES = ["rnn.bias_ih_l0", "rnn.bias_hh_l0", "head.bias"]


def conv():
    net = ConvNet(ConvConfig(classes=11, channels=4, side=17))
    return moved(net, net.parameters(), 0.1).eval()


def lstm(kind="LSTM"):
    net = Recurrent(RecurrentConfig(VOCAB, dim=5, hidden=6, kind=kind))
    return moved(net, net.parameters(), 0.3).eval()


def gru():
    return lstm("GRU")


def inputs(make):
    """Something that the network reads, the same every time."""
    generator = torch.Generator().manual_seed(3)
    if make is conv:
        return torch.rand(3, 17, 17, generator=generator)
    return torch.randint(VOCAB, (3, 5), generator=generator)


def ab(*paths):
    return [f"{path}.{letter}" for path in paths for letter in "AB"]


def weighted(*paths):
    """What LoRA trains of weights of `rnn`, as it is named there."""
    return [f"rnn.layers.{path.removeprefix('rnn.')}.{letter}" for path in paths for letter in "AB"]


HEAD = ["head.weight", "head.bias"]
ALL = {
    conv: [f"{name}.{kind}" for name in (*CONVOLUTIONS, "norm", "head") for kind in ("weight", "bias")],
    lstm: ["embed.weight", *MATRICES, *BIASES[:2], *HEAD],
}
WORKS = [
    (conv, Full(), ALL[conv]),
    (conv, LinearProbe(), HEAD),
    (conv, BitFit(), [f"{name}.bias" for name in (*CONVOLUTIONS, "norm", "head")]),
    (conv, LoRA(3, 5, CONVOLUTIONS), ab(*CONVOLUTIONS)),
    (conv, LoRA(2, 5, ("conv2.weight",)), ["conv2.layers.weight.A", "conv2.layers.weight.B"]),
    (conv, AdaLoRA(2, 3, ("head",)), ["head.P", "head.lam", "head.Q"]),
    (conv, QLoRA(3, targets=("head",), block_size=8), ab("head")),
    (conv, DoRA(3, targets=("head",)), [*ab("head"), "head.m"]),
    (conv, VeRA(5, ("head",)), ["head.d", "head.b"]),
    (conv, PiSSA(3, ("head",)), ab("head")),
    (conv, IA3(("head",), ()), ["head.l"]),
    (lstm, Full(), ALL[lstm]),
    (gru, Full(), ALL[lstm]),
    (lstm, Full(targets=("rnn",)), [*MATRICES, *BIASES[:2]]),
    (lstm, LinearProbe(), HEAD),
    (lstm, BitFit(), BIASES),
    (gru, BitFit(), BIASES),
    (lstm, LoRA(3, 5, MATRICES), weighted(*MATRICES)),
    (gru, LoRA(3, 5, MATRICES), weighted(*MATRICES)),
    (lstm, LoRA(2, 5, MATRICES[1:]), weighted(MATRICES[1])),
    (lstm, LoRA(2, 5, ("embed", "head")), ab("embed", "head")),
    (lstm, AdaLoRA(2, 3, ("head",)), ["head.P", "head.lam", "head.Q"]),
    (lstm, QLoRA(3, targets=("head",), block_size=8), ab("head")),
    (lstm, DoRA(3, targets=("head",)), [*ab("head"), "head.m"]),
    (lstm, VeRA(5, ("head",)), ["head.d", "head.b"]),
    (lstm, PiSSA(3, ("head",)), ab("head")),
    (lstm, IA3(("head",), ()), ["head.l"]),
]
WORKING = pytest.mark.parametrize(
    ("make", "method", "names"), [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in WORKS]
)
BLOCKS = Houlsby(), Pfeiffer(), ParallelAdapter(), AdapterFusion()
FRONTS = PromptTuning(), PTuning(), PrefixTuning(), PTuningV2()
LINEAR_ONLY = AdaLoRA, QLoRA, DoRA, VeRA, PiSSA


def test_the_networks_give_logits_and_those_of_the_worlds_have_their_size():
    assert conv()(inputs(conv)).shape == (3, 11)
    assert lstm()(inputs(lstm)).shape == gru()(inputs(gru)).shape == (3, 5, VOCAB)
    sizes = [
        sum(p.numel() for p in net.parameters()) for net in (ConvNet(convolutions.CONFIG), Recurrent(memory.CONFIG))
    ]
    assert sizes == [91_510, 57_660]


@pytest.mark.parametrize("make", [lstm, gru])
def test_a_recurrent_network_reads_from_left_to_right_so_padding_on_the_right_changes_nothing(make):
    net, tokens = make(), inputs(make)
    changed = tokens.clone()
    changed[:, 3] = (tokens[:, 3] + 1) % VOCAB
    close(net(changed)[:, :3], net(tokens)[:, :3], 1e-6)
    apart(net(changed)[:, 3], net(tokens)[:, 3], 0.01)
    apart(net(changed)[:, 4], net(tokens)[:, 4], 0.001)  # it is remembered


@pytest.mark.parametrize(
    ("make", "wrong", "says"),
    [
        (conv, torch.rand(3, 1, 17, 17), r"pictures must be .*\(B, 17, 17\), got a tensor \(3, 1, 17, 17\)"),
        (conv, torch.rand(17, 17), r"\(B, 17, 17\), got a tensor \(17, 17\)"),
        (conv, torch.rand(3, 28, 28), r"\(B, 17, 17\), got a tensor \(3, 28, 28\)"),
        (conv, torch.zeros(3, 17, 17, dtype=torch.uint8), r"floating-point numbers .* of torch.uint8"),
        (conv, [[0.0]], r"floating-point numbers .* got \[\[0.0\]\]"),
        (lstm, torch.rand(3, 5), r"integers \(B, T\), got a tensor \(3, 5\) of torch.float32"),
        (lstm, torch.tensor([1, 2]), r"a single row needs a batch dimension"),
        (lstm, torch.tensor([[1, VOCAB]]), f"tokens 0 to {VOCAB - 1}, the input holds {VOCAB}"),
        (lstm, torch.tensor([[1, -100]]), "the input holds -100"),
        (lstm, torch.zeros(3, 0, dtype=torch.long), "there are no tokens"),
    ],
)
def test_a_wrong_input_is_told_before_any_work(make, wrong, says):
    net, work = make(), []
    (net.conv1 if make is conv else net.embed).register_forward_pre_hook(lambda *_: work.append(1))
    with pytest.raises(ValueError, match=says):
        net(wrong)
    assert not work


def test_a_kind_that_is_neither_is_told():
    with pytest.raises(ValueError, match="kind must be 'LSTM' or 'GRU', got 'lstm'"):
        Recurrent(RecurrentConfig(VOCAB, kind="lstm"))


# ---- methods that work ------------------------------------------------------------------------------------------


@WORKING
def test_a_fresh_method_is_the_base_and_trains_exactly_this(make, method, names):
    base = make()
    view, x = method.attach(base), inputs(make)
    assert [name.replace("base.", "") for name in trainable(view)] == names
    if isinstance(method, QLoRA):  # the start is the quantized base
        apart(view(x), base(x), 1e-4)
        close(view(x), base(x), 1)
    elif isinstance(method, PiSSA):
        close(view(x), base(x), 1e-5)
    elif make is gru:  # torch takes another kernel, which rounds differently, where no weight of it needs a gradient
        close(view(x), base(x), 1e-6)
    else:
        assert torch.equal(view(x), base(x))


@WORKING
def test_training_reaches_all_of_it_and_leaves_the_base_alone(make, method, names):
    base, x = make(), inputs(make)
    before, view = bits(base), stirred(method, base)
    apart(view(x), base(x), 1e-3)
    optimizer = torch.optim.SGD(trainable(view).values(), lr=0.1)
    view(x).square().mean().backward()
    for name, p in trainable(view).items():
        assert p.grad.any(), name
    optimizer.step()
    assert detach(view) is base
    assert same_bits(base, before)
    assert all(p.grad is None for p in base.parameters())


@WORKING
def test_the_merged_network_is_plain_and_computes_the_same(make, method, names):
    base, x = make(), inputs(make)
    view = stirred(method, base)
    merged = merge(view)
    assert [type(module) for module in merged.modules()] == [type(module) for module in base.modules()]
    assert merged.state_dict().keys() == base.state_dict().keys()
    close(merged(x), view(x), 1e-4 if make is conv else 1e-5)
    fresh = make()
    fresh.load_state_dict(merged.state_dict())
    close(fresh(x), merged(x), 1e-6)


@WORKING
def test_a_saved_delta_gives_the_same_answers_on_another_copy_of_the_base(make, method, names, tmp_path):
    base, x = make(), inputs(make)
    view = stirred(method, base)
    save(view, tmp_path / "delta.safetensors")
    fresh = make()
    fresh.load_state_dict(base.state_dict())
    close(load(tmp_path / "delta.safetensors", fresh)(x), view(x), 1e-6)


@pytest.mark.parametrize(("make", "shape"), [(conv, (3, 4)), (lstm, (3, 5, 4))])
def test_a_fresh_head_for_other_classes_is_trained_and_stored_with_the_method(make, shape, tmp_path):
    targets = CONVOLUTIONS if make is conv else MATRICES
    base, x = make(), inputs(make)
    view = stirred(LoRA(3, 5, targets, classes=4), base)
    assert view(x).shape == shape
    assert {"head.weight", "head.bias"} < set(trainable(view))
    assert count(view) - count(LoRA(3, 5, targets).attach(base)) == 4 * (base.head.in_features + 1)
    save(view, tmp_path / "delta.safetensors")
    close(load(tmp_path / "delta.safetensors", base)(x), view(x), 1e-6)
    close(merge(view)(x), view(x), 1e-4)


# ---- methods without a meaning there ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [conv, lstm])
@pytest.mark.parametrize("method", BLOCKS, ids=str)
def test_adapters_look_for_sublayers_of_a_transformer_and_say_what_is_there(make, method):
    there = "conv1 .Conv2d." if make is conv else "rnn .LSTM."
    with pytest.raises(ValueError, match=f"'mlp'; there are: .*{there}"):
        method.attach(make())


@pytest.mark.parametrize("make", [conv, lstm])
@pytest.mark.parametrize("method", FRONTS, ids=str)
def test_prompts_and_prefixes_need_a_beginning_and_recommend_a_method_for_weights(make, method):
    name = type(make()).__name__
    with pytest.raises(TypeError, match=f"before the tokens of a sequence.*{name}.*LoRA"):
        method.attach(make())


@pytest.mark.parametrize("make", [conv, lstm])
@pytest.mark.parametrize("method", [LoRA(), *(method() for method in LINEAR_ONLY), IA3()], ids=str)
def test_default_targets_are_those_of_a_transformer_and_the_error_lists_what_is_there(make, method):
    there = "conv1 .Conv2d." if make is conv else "weight_hh_l0 .Parameter."
    with pytest.raises(ValueError, match=f"named .*'v'.*; there are: .*{there}"):
        method.attach(make())


@pytest.mark.parametrize(("make", "target", "kind"), [(conv, "conv2", "Conv2d"), (lstm, "rnn.weight_hh_l0", "Param")])
@pytest.mark.parametrize("method", [*LINEAR_ONLY, IA3])
def test_variants_written_for_linear_layers_refuse_a_convolution_and_a_weight(make, target, kind, method):
    method = IA3((target,), ()) if method is IA3 else method(targets=(target,))
    with pytest.raises(TypeError, match=f"{type(method).__name__} goes in front of Linear; '{target}' is an? {kind}"):
        method.attach(make())


def test_a_whole_recurrent_layer_is_no_target_of_lora():
    with pytest.raises(TypeError, match=r"in front of Linear, Embedding, Conv2d, a named weight; 'rnn' is an? LSTM"):
        LoRA(targets=("rnn",)).attach(lstm())


def test_every_method_was_asked():
    asked = {type(method) for _, method, _ in WORKS} | {type(method) for method in (*BLOCKS, *FRONTS)}
    assert asked == set(METHODS.values())
