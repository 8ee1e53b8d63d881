"""What the parity tests share: the reference libraries run offline, on one thread, from one seed, and two helpers.

They are the oracle: nothing else in the project imports them. Install requirements-parity.txt, then
`pytest tests/parity`. The `adapters` library cannot be installed beside the others; what it computes is in fixtures/.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries are imported: no test may load anything

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from minipeft import bases


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def close():
    """Equal up to `tol`, absolute and relative; the message says by how much it failed."""

    def check(ours, theirs, tol=1e-6):
        torch.testing.assert_close(ours, theirs, atol=tol, rtol=tol)

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
