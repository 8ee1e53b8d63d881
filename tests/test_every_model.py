"""Every method on every kind of model: what attaches is put to the same tests, what does not must say why.

python -m tests.test_every_model        writes the table into the README
"""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from minipeft.attach import Wrapper, detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import IA3, METHODS, AdaLoRA, AdapterFusion, DoRA, LoRA, PiSSA, QLoRA, VeRA
from minipeft.methods.adapter_fusion import fusions
from minipeft.models.dual_encoder import DualConfig, DualEncoder
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minipeft.models.torch_nets import ConvConfig, ConvNet, Recurrent, RecurrentConfig
from minipeft.models.transformer import Config
from minipeft.models.vision import VisionConfig, ViT
from minipeft.views import merge
from tests.models import bits, close, make, moved, same_bits, stirred

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by `python -m tests.test_every_model` -->\n", "<!-- end of the table -->"
SMALL = {"dim": 12, "heads": 3, "ff": 20}
TOKENS = torch.arange(24).view(3, 8) % 17 + 3
PICTURES = torch.linspace(0, 1, 3 * 16 * 16).view(3, 16, 16)


def towers():
    image = VisionConfig(side=16, patch=4, classes=6, layers=2, **SMALL)
    return DualEncoder(DualConfig(image, Config(vocab=23, layers=2, context=12, **SMALL), width=6))


MODELS = {  # kind: what makes it, and what it reads
    "decoder": (lambda: make(None), (TOKENS,)),
    "encoder": (lambda: make(None, causal=False), (TOKENS,)),
    "Llama": (lambda: make("rotary"), (TOKENS,)),
    "ViT": (lambda: ViT(VisionConfig(side=16, patch=4, classes=5, layers=2, **SMALL)), (PICTURES,)),
    "encoder-decoder": (lambda: EncoderDecoder(EncoderDecoderConfig(23, start=1, **SMALL)), (TOKENS, TOKENS[:, :4])),
    "dual encoder": (towers, (PICTURES, TOKENS)),
    "CNN": (lambda: ConvNet(ConvConfig(classes=5, channels=4, side=16)), (PICTURES,)),
    "LSTM": (lambda: Recurrent(RecurrentConfig(vocab=23, dim=6, hidden=8)), (TOKENS,)),
}
MATRICES = LoRA, AdaLoRA, DoRA, VeRA, PiSSA, QLoRA, IA3
NAMES = {"CNN": ("conv2",), "LSTM": ("rnn.weight_hh_l0",)}  # where there are no q and v
PLACES = {"encoder-decoder": ("encoder", "memory", "decoder"), "dual encoder": ("image", "text")}
BEGINNING = {"PromptTuning", "PTuning", "PrefixTuning", "PTuningV2"}
NEAR = {"PromptTuning", "PTuning", "PrefixTuning", "PTuningV2", "Houlsby", "Pfeiffer", "AdapterFusion", "QLoRA"}
CALLED = {  # the names that papers gave to a method on a model
    ("PromptTuning", "ViT"): "VPT-shallow",
    ("PTuningV2", "ViT"): "VPT-deep",
    ("PromptTuning", "dual encoder"): "CoOp on the text, VPT-shallow on the pictures",
    ("PTuningV2", "dual encoder"): "VPT-deep on the pictures",
}
ANSWERS = {"✓": "attaches", "✓ merges": "attaches and merges into plain weights", "–": "has no meaning there"}


def model_of(kind):
    torch.manual_seed(0)
    made = MODELS[kind][0]()
    return moved(made, made.parameters(), 0.2).requires_grad_(False).eval()


def method_of(name, kind):
    method = METHODS[name]
    settings = {"places": PLACES[kind]} if name in BEGINNING and kind in PLACES else {}
    if issubclass(method, MATRICES) and kind in NAMES:
        settings |= {"outputs": NAMES[kind], "inputs": ()} if method is IA3 else {"targets": NAMES[kind]}
    if method is QLoRA:
        settings["block_size"] = 4
    return method(**settings)


def read(model, kind):
    return model(*MODELS[kind][1])


def cell(name, kind):
    """What the table says of this method on this model: it is tried."""
    model, method = model_of(kind), method_of(name, kind)
    try:
        view = stirred(method, model)
    except (TypeError, ValueError):
        return "–"
    try:
        merge(view)
    except TypeError:
        return "✓"
    return "✓ merges"


def table():
    lines = ["| " + " | ".join(["", *MODELS]) + " |", "| --- |" + " :---: |" * len(MODELS)]
    lines += ["| " + " | ".join([f"`{name}`", *(cell(name, kind) for kind in MODELS)]) + " |" for name in METHODS]
    return "\n".join(lines) + "\n"


EVERY_CELL = pytest.mark.parametrize(("name", "kind"), [(name, kind) for kind in MODELS for name in METHODS])


@EVERY_CELL
def test_the_method_goes_on_the_model_or_says_why_not(name, kind, tmp_path):
    model, method = model_of(kind), method_of(name, kind)
    before, plain = bits(model), read(model, kind)
    if cell(name, kind) == "–":
        why = "lacks them: take|goes in front of .*: leave it out|there are: |stand in Transformer blocks|found no bias"
        with pytest.raises((TypeError, ValueError), match=why):
            method.attach(model)
        assert same_bits(model, before)
        return
    torch.manual_seed(1)
    fresh = method.attach(model)
    if name not in NEAR:
        close(read(fresh, kind), plain)
    view = stirred(method, model)
    for fusion in fusions(view).values():
        fusion.query.weight.data *= 0.1  # else it chooses one adapter for good
    logits = read(view, kind)
    assert logits.shape == plain.shape
    assert (logits - plain).abs().max() > 1e-3
    learned = trainable(view)
    logits.square().sum().backward()
    unseen = [n for n, p in learned.items() if p.grad is None or not p.grad.any()]
    assert all(idle(n) for n in unseen), unseen
    assert all(p.grad is None for p in view.parameters() if not p.requires_grad)
    save(view, tmp_path / "delta")
    close(read(load(tmp_path / "delta", model), kind), logits)
    assert detach(view) is model
    assert same_bits(model, before)
    assert torch.equal(read(model, kind), plain)


def idle(name):
    """Weights that no gradient can reach: the bias of keys, and norms or positions that this input does not use."""
    return name.endswith(("k.bias", "scale")) or "position" in name or "token" in name


@EVERY_CELL
def test_what_merges_computes_the_same_with_plain_modules(name, kind):
    if cell(name, kind) != "✓ merges":
        return
    view = stirred(method_of(name, kind), model_of(kind))
    plain = merge(view)
    close(read(plain, kind), read(view, kind), 1e-4)
    assert not any(isinstance(module, Wrapper) for module in plain.modules())


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", sorted(BEGINNING))
def test_what_stands_before_a_sequence_asks_which_of_several(name, kind):
    with pytest.raises(ValueError, match=f"several sequences .*{', '.join(PLACES[kind])}; say which, places="):
        METHODS[name]().attach(model_of(kind))
    model = model_of(kind)
    for place in PLACES[kind]:
        view = stirred(METHODS[name](places=(place,)), model)
        assert all(path.startswith(place) for path in view._attachment.layers)
        assert (read(view, kind) - read(model, kind)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["decoder", "encoder", "Llama", "ViT", "CNN"])
@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_head_goes_with_it_wherever_a_model_has_a_head(name, kind, tmp_path):
    if cell(name, kind) == "–":
        return
    method = method_of(name, kind)
    with_head = type(method)(**{k: v for k, v in vars(method).items() if k != "classes"}, classes=4)
    model = model_of(kind)
    view = stirred(with_head, model)
    assert read(view, kind).shape == (3, 4)
    save(view, tmp_path / "delta")
    close(read(load(tmp_path / "delta", model), kind), read(view, kind))


@pytest.mark.parametrize(("name", "kind"), CALLED)
def test_the_names_of_the_papers_are_in_the_docstrings_of_the_models(name, kind):
    text = inspect.getsource(inspect.getmodule(type(model_of(kind))))
    assert all(word in text for word in re.findall(r"CoOp|VPT-shallow|VPT-deep", CALLED[name, kind]))


def test_no_cell_of_the_table_is_untested_and_the_readme_shows_it():
    shown = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == table(), "write it again: python -m tests.test_every_model"


def test_a_fusion_counts_as_attached_only_with_adapters_in_it():
    view = AdapterFusion().attach(model_of("ViT"))
    with pytest.raises(RuntimeError, match="put adapters in with fill"):
        AdapterFusion().groups(view, 1e-3)


def test_a_module_with_two_names_is_merged_once_and_stays_one():
    """Encoder and decoder share the embedding of tokens."""
    view = stirred(LoRA(rank=2, targets=("token",)), model_of("encoder-decoder"))
    plain = merge(view)
    assert plain.encoder.embed.token is plain.decoder.embed.token
    close(read(plain, "encoder-decoder"), read(view, "encoder-decoder"))


def test_a_model_that_is_no_transformer_keeps_its_modules():
    view = LoRA(targets=("conv1",)).attach(model_of("CNN"))
    assert type(view.conv2) is nn.Conv2d


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
