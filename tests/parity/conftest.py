"""What the parity tests share: the reference libraries run offline, on one thread, from one seed; pairs of models with
the same weights, the library's and ours; rows of tokens; a few helpers.

They are the oracle: nothing else in the project imports them. Install requirements-parity.txt, then
`pytest tests/parity`. The `adapters` library cannot be installed beside the others; what it computes is in fixtures/.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries are imported: no test may load anything

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from minipeft import bases

VOCAB, LENGTHS = 40, (9, 4, 7)
SMALL = {
    "gpt2": {"n_positions": 24, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40,
             "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0},
    "bert": {"max_position_embeddings": 16, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
             "intermediate_size": 40, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0},
}  # fmt: skip


@dataclass
class Rows:
    """Three rows of tokens: all of 9, or of 9, 4 and 7, filled up to 9 on one side."""

    side: str | None

    def __post_init__(self):
        place = torch.arange(LENGTHS[0]) if self.side == "right" else torch.arange(LENGTHS[0]).flip(0)
        full = torch.ones(len(LENGTHS), LENGTHS[0], dtype=torch.bool)
        self.tokens = torch.randint(1, VOCAB, full.shape)
        self.real = place < torch.tensor(LENGTHS)[:, None] if self.side else full
        self.mask = self.real if self.side else None  # for our models: nothing to say if nothing is padded
        self.positions = (self.real.long().cumsum(-1) - 1).clamp(
            min=0
        )  # padding takes none: `generate` in transformers


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def double():
    """Whatever is made in the test is in double precision: a difference is then a mistake and not rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def close():
    """Equal up to `tol`, absolute and relative; the message says by how much it failed."""

    def check(ours, theirs, tol=1e-6):
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol)

    return check


@pytest.fixture
def apart():
    """Visibly different: by more than 0.1 somewhere."""

    def check(ours, theirs):
        assert (ours - theirs).abs().max() > 0.1

    return check


@pytest.fixture
def randomised():
    """A model whose every parameter is random, norms and biases too: a fresh zero or one hides whatever is wrong."""

    def fill(model, std=0.2):
        with torch.no_grad():
            for module in model.modules():
                for name, p in module.named_parameters(recurse=False):
                    p.normal_(std=std)
                    if isinstance(module, nn.LayerNorm) and name == "weight":
                        p += 1
        return model.eval()

    return fill


@pytest.fixture
def make(randomised):
    """`make("gpt2")` and `make("bert")`: the library's model, 3 layers of 4 heads and width 24, and ours, with the same
    random weights. Other settings are those of the library's configuration."""

    def pair(kind, **settings):
        settings = {"vocab_size": VOCAB, "pad_token_id": 0, "attn_implementation": "eager", **SMALL[kind], **settings}
        if kind == "gpt2":
            theirs = randomised(GPT2LMHeadModel(GPT2Config(**settings)))
            return theirs, bases.from_gpt2(theirs.state_dict(), heads=4)
        theirs = randomised(BertForMaskedLM(BertConfig(**settings)))
        return theirs, bases.from_bert(theirs.state_dict(), heads=4, eps=theirs.config.layer_norm_eps)

    return pair


@pytest.fixture(params=["gpt2", "bert"])
def pair(request, make):
    return make(request.param)


@pytest.fixture
def gpt2(make):
    return make("gpt2")


@pytest.fixture
def bert(make):
    return make("bert")


@pytest.fixture(params=[None, "right", "left"], ids=["no padding", "right", "left"])
def rows(request):
    return Rows(request.param)


@pytest.fixture
def library():
    """peft's method on a copy of a model of transformers.

    For a masked language model peft has no task type, and without one it refuses a prompt; the one for features hands
    everything through to the model and its head.
    """

    def attach(theirs, config, **settings):
        task = "CAUSAL_LM" if isinstance(theirs, GPT2LMHeadModel) else "FEATURE_EXTRACTION"
        return get_peft_model(copy.deepcopy(theirs), config(**{"task_type": task, **settings})).eval()

    return attach


@pytest.fixture
def given():
    """`given(module, run)`: what `module` gets as its first argument while `run()` runs, the first time."""

    def listen(module, run):
        found = []
        hook = module.register_forward_pre_hook(lambda module, args: found.append(args[0]))
        run()
        hook.remove()
        return found[0]

    return listen


@pytest.fixture
def train():
    """Five steps of AdamW on `parameters` with `loss()`; gives the losses."""

    def five(parameters, loss):
        optimizer, curve = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1), []
        for _ in range(5):
            optimizer.zero_grad()
            curve.append(loss())
            curve[-1].backward()
            optimizer.step()
        return torch.stack(curve).detach()

    return five


class Said:
    """What the `adapters` library computed on one tiny model (see make_adapter_fixtures.py), and that model as ours.

    tensors: by name; about: settings and counts of the cases; model: our base with the library's weights, in double
    precision.
    """

    PLACES = {  # ours, in block i, and the library's
        "bert": {
            "blocks.{i}.attn": "bert.encoder.layer.{i}.attention.output",
            "blocks.{i}.mlp": "bert.encoder.layer.{i}.output",
            "blocks.{i}.norm1": "bert.encoder.layer.{i}.attention.output.LayerNorm",
            "blocks.{i}.norm2": "bert.encoder.layer.{i}.output.LayerNorm",
            "embed.norm": "bert.embeddings.LayerNorm",
            "head.2": "cls.predictions.transform.LayerNorm",
        },
        "gpt2": {
            "blocks.{i}.attn": "transformer.h.{i}.attention_adapters",
            "blocks.{i}.mlp": "transformer.h.{i}.output_adapters",
            "blocks.{i}.norm1": "transformer.h.{i}.ln_1",
            "blocks.{i}.norm2": "transformer.h.{i}.ln_2",
            "norm": "transformer.ln_f",
        },
    }

    def __init__(self, kind):
        folder = Path(__file__).parent / "fixtures"
        self.kind, self.tensors = kind, load_file(folder / f"adapters_{kind}.safetensors")
        about = json.loads((folder / "adapters.json").read_text())
        self.about, self.size, self.scale = about[kind], about["size"], about["scale"]
        weights = {n.removeprefix("base."): t for n, t in self.tensors.items() if n.startswith("base.")}
        if kind == "bert":
            weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
        self.model = getattr(bases, f"from_{kind}")(weights, heads=about["heads"]).double()
        if kind == "bert":  # the sum of positions and segment was rounded to single precision on its way
            sums = [weights[f"bert.embeddings.{name}_embeddings.weight"] for name in ("position", "token_type")]
            self.model.embed.position.weight.data = sums[0] + sums[1][0]
        self.tokens, self.mask = self.tensors["tokens"], self.tensors["mask"]

    def place(self, ours):
        """The library's name for a place of ours: "blocks.1.mlp" is "bert.encoder.layer.1.output"."""
        i = next((part for part in ours.split(".") if part.isdigit() and ours.startswith("blocks")), "")
        return next(t.format(i=i) for o, t in self.PLACES[self.kind].items() if o.format(i=i) == ours)

    def logits(self):
        """Ours, with zeros at padding, as the library's are stored."""
        return self.model(self.tokens, self.mask) * self.mask[..., None]

    def backward(self):
        (self.logits() * self.tensors["direction"]).sum().backward()


@pytest.fixture(params=["bert", "gpt2"])
def said(request):
    return Said(request.param)
