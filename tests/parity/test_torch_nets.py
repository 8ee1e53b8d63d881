"""LoRA on a convolutional and on a recurrent network: `peft` computes, trains, merges and counts as we do.

Both take a convolution by its name. A weight of an LSTM is one of `target_parameters` in peft, where two weights of one
module make two wrappers, one around the other.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from minipeft.attach import trainable
from minipeft.methods import LoRA
from minipeft.models.torch_nets import ConvConfig, ConvNet, Recurrent, RecurrentConfig
from minipeft.views import merge
from tests.models import VOCAB, count

CONVOLUTIONS = ("conv1", "conv2", "conv3")
IH, HH = MATRICES = ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
METHODS = [LoRA(3, 5, CONVOLUTIONS), LoRA(4, 1, (*CONVOLUTIONS, "head")), LoRA(5, 3, ("conv2",), rslora=True)]
CONV = pytest.mark.parametrize("method", METHODS, ids=str)
KIND = pytest.mark.parametrize("kind", ["LSTM", "GRU"])
WEIGHTS = pytest.mark.parametrize("targets", [(IH,), (HH,), MATRICES], ids=["ih", "hh", "both"])


@pytest.fixture
def pictures(randomised, double):
    return randomised(ConvNet(ConvConfig(11, channels=4, side=17)), 0.3).requires_grad_(False), torch.rand(3, 17, 17)


@CONV
def test_logits_gradients_and_the_merged_network_of_convolutions(method, pictures, both, same_gradients, close, apart):
    net, x = pictures
    two = both(net, method)
    got, expected = two.ours(x), two.theirs(x)
    apart(expected, net(x))
    close(got, expected, 1e-9)
    same_gradients(got, expected)
    two.compare(lambda p: p.grad, 1e-8)
    two.count()
    close(merge(two.ours)(x), two.theirs.merge_and_unload()(x), 1e-9)


@CONV
def test_five_steps_of_training_convolutions_are_the_same(method, pictures, both, train, close):
    net, x = pictures
    two, labels = both(net, method, std=0.3), torch.tensor([4, 0, 10])
    curves = [
        train(list(trainable(model).values()), lambda model=model: F.cross_entropy(model(x), labels))
        for model in (two.ours, two.theirs)
    ]
    close(*curves)
    assert curves[0][-1] < curves[0][0]
    two.compare(lambda p: p.detach(), 1e-6)


class Weights:
    """LoRA on weights of a recurrent network, ours and peft's, on the same random numbers."""

    def __init__(self, net, method, targets):
        self.ours = method.attach(net)
        said = LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=[], target_parameters=[*targets])
        self.theirs = get_peft_model(copy.deepcopy(net), said).double().eval()
        found = sorted(trainable(self.theirs).items(), key=lambda item: -item[0].count("base_layer"))  # ih is inside
        self.pairs = list(zip(trainable(self.ours).values(), (p for _, p in found), strict=True))

    def draw(self, std):
        with torch.no_grad():
            for mine, other in self.pairs:
                mine.copy_(other.normal_(std=std))


@pytest.fixture
def sequences(randomised, double):
    def make(kind):
        net = randomised(Recurrent(RecurrentConfig(VOCAB, dim=5, hidden=7, kind=kind)), 0.4)
        return net.requires_grad_(False), torch.randint(VOCAB, (3, 6))

    return make


@KIND
@WEIGHTS
def test_logits_gradients_and_the_merged_network_of_recurrent_weights(
    kind, targets, sequences, same_gradients, close, apart
):
    net, tokens = sequences(kind)
    two = Weights(net, LoRA(3, 5, targets), targets)
    close(two.theirs(tokens), net(tokens), 1e-12)
    two.draw(1.0)
    got, expected = two.ours(tokens), two.theirs(tokens)
    apart(expected, net(tokens))
    close(got, expected, 1e-9)
    same_gradients(got, expected)
    for mine, other in two.pairs:
        close(mine.grad, other.grad, 1e-9)
    assert count(two.ours) == two.theirs.get_nb_trainable_parameters()[0]
    merged = two.theirs.merge_and_unload()
    close(merge(two.ours)(tokens), merged(tokens), 1e-9)
    for name in targets:
        close(merge(two.ours).get_parameter(name), merged.get_parameter(name), 1e-9)


@KIND
@WEIGHTS
def test_five_steps_of_training_recurrent_weights_are_the_same(kind, targets, sequences, train, close):
    net, tokens = sequences(kind)
    two = Weights(net, LoRA(3, 5, targets), targets)
    two.draw(0.3)

    def loss(model):
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    curves = [
        train([pair[i] for pair in two.pairs], lambda model=model: loss(model))
        for i, model in enumerate((two.ours, two.theirs))
    ]
    close(*curves)
    assert curves[0][-1] < curves[0][0]
    for mine, other in two.pairs:
        close(mine.detach(), other.detach(), 1e-6)


def test_a_whole_recurrent_layer_is_a_target_of_neither(sequences):
    net, _ = sequences("LSTM")
    with pytest.raises(ValueError, match=r"LSTM.*is not supported"):
        get_peft_model(copy.deepcopy(net), LoraConfig(target_modules=["rnn"]))
    with pytest.raises(TypeError, match="LSTM"):
        LoRA(targets=("rnn",)).attach(net)
