"""What the parity tests share: the reference libraries run offline, on one thread, from one seed; pairs of models with
the same weights, the library's and ours; our method beside peft's, with the same numbers; rows of tokens.

They are the oracle: nothing else in the project imports them but exchange/witnesses.py, when it is asked. Install
requirements-parity.txt, then `pytest tests/parity`. The `adapters` library cannot be installed beside the others;
what it computes is in fixtures/.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries are imported: no test may load anything

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import AdaLoraConfig, IA3Config, LoraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from minipeft import bases
from minipeft.attach import trainable
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, PiSSA, VeRA
from minipeft.views import move
from tests import models
from tests.models import CONTEXT, DIM, FF, HEADS, LAYERS, VOCAB

SMALL = {
    "gpt2": {"n_positions": CONTEXT, "n_embd": DIM, "n_layer": LAYERS, "n_head": HEADS, "n_inner": FF,
             "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0},
    "bert": {"max_position_embeddings": CONTEXT, "hidden_size": DIM, "num_hidden_layers": LAYERS,
             "num_attention_heads": HEADS, "intermediate_size": FF,
             "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0},
}  # fmt: skip


class Rows:
    """Three rows of tokens: all of 7, or of 7, 4 and 6, filled up to 7 on one side with a token like any other."""

    def __init__(self, side):
        _, tokens, mask = models.rows(side)
        self.side, self.real = side, mask if side else torch.ones_like(mask)
        self.tokens = tokens.masked_fill(~mask, 5)
        self.mask = self.real if side else None  # for our models: nothing to say if nothing is padded
        self.positions = (self.real.long().cumsum(-1) - 1).clamp(min=0)  # none for padding, as in `generate` there
        self.theirs = {"input_ids": self.tokens, "attention_mask": self.real.long()}

    def loss(self, logits):
        return F.cross_entropy(logits[self.real], self.tokens[self.real])


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
        models.close(ours, theirs, tol)

    return check


@pytest.fixture
def apart():
    return models.apart


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
    """`make("gpt2")` and `make("bert")`: the library's model, as large as those of `models`, and ours, with the same
    random weights. Other settings are those of the library's configuration."""

    def pair(kind, **settings):
        settings = {"vocab_size": VOCAB, "pad_token_id": 0, "attn_implementation": "eager", **SMALL[kind], **settings}
        if kind == "gpt2":
            theirs = randomised(GPT2LMHeadModel(GPT2Config(**settings)), 0.4)
            return theirs, bases.from_gpt2(theirs.state_dict(), heads=HEADS)
        theirs = randomised(BertForMaskedLM(BertConfig(**settings)), 0.4)
        return theirs, bases.from_bert(theirs.state_dict(), heads=HEADS, eps=theirs.config.layer_norm_eps)

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
def base():
    """A model of ours, in double precision: a difference is then a mistake and not rounding."""
    return models.make(None).double().requires_grad_(False)


PARTS = {"lora_embedding_A": "A", "lora_embedding_B": "B", "lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "m"}
PARTS |= {"ia3_l": "l", "vera_lambda_b": "b", "vera_lambda_d": "d"}  # peft's names and ours
TRIPLETS = {"lora_A": "Q", "lora_B": "P", "lora_E": "lam"}  # of AdaLoRA


def config_of(method, **more):
    """peft's configuration for what a method of ours says."""
    if isinstance(method, IA3):
        return IA3Config(target_modules=[*method.outputs, *method.inputs], feedforward_modules=[*method.inputs], **more)
    said = {"target_modules": [*method.targets]} | more
    if isinstance(method, VeRA):
        return VeraConfig(r=method.rank, projection_prng_key=method.seed, **said)
    if isinstance(method, AdaLoRA):
        r = method.initial_rank
        return AdaLoraConfig(**{"init_r": r, "target_r": method.rank, "lora_alpha": r, "total_step": 48} | said)
    said = {"r": method.rank, "lora_alpha": getattr(method, "alpha", method.rank)} | said
    if isinstance(method, LoRA):
        said |= {"lora_dropout": method.dropout, "use_rslora": method.rslora, "rank_pattern": dict(method.rank_pattern)}
    if isinstance(method, PiSSA):
        said |= {"init_lora_weights": "pissa"}
    return LoraConfig(use_dora=isinstance(method, DoRA), **said)


def trained_by(theirs, parts=PARTS):
    """What peft trains, under our names: `base_model.model.blocks.0.attn.q.lora_A.default.weight` is the A of q."""
    found = {}
    for name, p in trainable(theirs).items():
        path, part = re.fullmatch(r"base_model\.model\.(.+)\.(\w+)\.default(?:\.weight)?", name).groups()
        found[f"{path}.{parts[part]}"] = p
    return found


class Both:
    """Our method on a view of `base`, `ours`, and peft's on a copy of it, `theirs`.

    std: of random numbers that both then train on; None leaves both at their own start.
    """

    def __init__(self, base, method, std=0.5, **more):
        self.method, kind = method, next(base.parameters()).dtype
        start = base.float() if isinstance(method, PiSSA) else base  # in which alone peft decomposes
        self.theirs = get_peft_model(copy.deepcopy(start), config_of(method, **more)).to(kind).eval()
        self.ours = move(method.attach(start), kind)
        for _, module in self.layers():  # which do not answer for what they stand in front of
            module.num_embeddings = getattr(module.base_layer, "num_embeddings", None)
        if isinstance(method, AdaLoRA):
            self.without_factor()
        with torch.no_grad():
            for name, p in self.library().items() if std is not None else ():
                p.normal_(float(name.endswith((".m", ".l"))), std)
                mine = trainable(self.ours)[name]
                mine.copy_(p.view_as(mine))
        if isinstance(method, PiSSA) and kind == torch.float64:
            for name, module in self.layers():
                models.close(self.ours.get_submodule(name).R, module.base_layer.weight, 3e-6)
                self.ours.get_submodule(name).R.copy_(module.base_layer.weight)

    def without_factor(self):
        """AdaLoRA of peft divides by r + 1e-5, and trains that; so let r be less by as much, and stay."""
        for name, p in self.theirs.named_parameters():
            if "ranknum" in name:
                p.requires_grad_(False)
                p.fill_(self.method.initial_rank - 1e-5)

    def library(self):
        return trained_by(self.theirs, TRIPLETS if isinstance(self.method, AdaLoRA) else PARTS)

    def layers(self):
        """(our name, module) of all that peft's method has changed."""
        return [(n, m) for n, m in self.theirs.get_base_model().named_modules() if hasattr(m, "base_layer")]

    def compare(self, what, tol=1e-9):
        """Every number that is trained, or what `what` takes of it."""
        mine, other = trainable(self.ours), self.library()
        assert mine.keys() == other.keys()
        for name, p in mine.items():
            models.close(what(p), what(other[name]).view_as(p), tol)

    def count(self):
        assert models.count(self.ours) == self.theirs.get_nb_trainable_parameters()[0]


@pytest.fixture
def both():
    return Both


@pytest.fixture
def learned():
    return trained_by


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

    def five(parameters, loss, lr=1e-2):
        optimizer, curve = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1), []
        for _ in range(5):
            optimizer.zero_grad()
            curve.append(loss())
            curve[-1].backward()
            optimizer.step()
        return torch.stack(curve).detach()

    return five


@pytest.fixture
def same_gradients():
    """Send the same random gradients back through both outputs; gives nothing, the parameters have them then."""

    def backward(*outputs):
        weight = torch.randn_like(outputs[0])
        for out in outputs:
            (out * weight).sum().backward()

    return backward


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
        self.base = self.model = getattr(bases, f"from_{kind}")(weights, heads=about["heads"]).double()
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
