"""The frozen models to start from: the tiny ones that are shipped, and GPT-2 or BERT from their published weights.

More published models can be read by the functions in `published`: ViT, BART, CLIP.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import nn

from minipeft.models.dual_encoder import DualConfig, DualEncoder
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minipeft.models.torch_nets import ConvConfig, ConvNet, Recurrent, RecurrentConfig
from minipeft.models.transformer import Config, Embed, Transformer
from minipeft.models.vision import VisionConfig, ViT
from minipeft.published import smollm2

FOLDER = Path(__file__).parents[1] / "tiny_models"
MODELS = {  # a card names the kind of its model
    "Transformer": (Transformer, Config),
    "ViT": (ViT, VisionConfig),
    "EncoderDecoder": (EncoderDecoder, EncoderDecoderConfig),
    "DualEncoder": (DualEncoder, DualConfig),
    "ConvNet": (ConvNet, ConvConfig),
    "Recurrent": (Recurrent, RecurrentConfig),
}


def base(name="letters-d64"):
    """A shipped base, frozen and in eval mode: `base()` knows the toy world of `tasks`, the others one of `worlds`.

    "smollm2" is a real language model, which is not shipped: ModuleNotFoundError tells how to install it.

    Raises FileNotFoundError, with the names there are, for another name; ValueError if the file is not the one that its
    card describes.
    """
    if name == "smollm2":
        return smollm2.smollm2()[0]
    card, path = card_of(name), FOLDER / f"{name}.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != card["sha256"]:
        raise ValueError(
            f"{path} is not the file its card describes (SHA-256 differs): restore it, or python run.py pretrain {name}"
        )
    model, config = MODELS[card.get("model", "Transformer")]
    model = model(config(**card["config"]))
    load_model(model, path)
    return model.requires_grad_(False).eval()


def card_of(name):
    """How a shipped base was made and what it scores, as a dictionary."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json"))) or "none (install with: pip install -e .)"
        raise FileNotFoundError(f"there is no base {name!r} in {FOLDER}; there are: {names}")
    return json.loads(path.read_text())


def from_gpt2(weights, heads):
    """GPT-2 from the state dict of a `transformers` GPT2LMHeadModel. Its fused q k v are taken apart."""
    w = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    vocab, dim = w["wte.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))
    ff, context = w["h.0.mlp.c_fc.bias"].numel(), len(w["wpe.weight"])
    model = Transformer(Config(vocab, dim, layers, heads, ff, context, gelu="tanh"))
    model.head = nn.Linear(dim, vocab, bias=False)
    mine = {"embed.token.weight": w["wte.weight"], "embed.position.weight": w["wpe.weight"]}
    mine |= {"norm.weight": w["ln_f.weight"], "norm.bias": w["ln_f.bias"], "head.weight": w["lm_head.weight"]}
    for i in range(layers):
        theirs, ours = f"h.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            q, k, v = w[f"{theirs}attn.c_attn.{kind}"].chunk(3, dim=-1)
            names = {"attn.q": q, "attn.k": k, "attn.v": v, "attn.o": w[f"{theirs}attn.c_proj.{kind}"]}
            names |= {"mlp.up": w[f"{theirs}mlp.c_fc.{kind}"], "mlp.down": w[f"{theirs}mlp.c_proj.{kind}"]}
            mine |= {f"{ours}{name}.{kind}": t.t() for name, t in names.items()}  # it stores (in, out)
            mine |= {f"{ours}norm{j}.{kind}": w[f"{theirs}ln_{j}.{kind}"] for j in (1, 2)}
    model.load_state_dict(mine)
    if torch.equal(model.head.weight, model.embed.token.weight):
        model.head.weight = model.embed.token.weight  # tied, as in GPT-2
    return model.requires_grad_(False).eval()


def from_bert(weights, heads, eps=1e-12):
    """BERT from the state dict of a `transformers` BertForMaskedLM, for text of one segment.

    The vector of segment 0, which stands at every token, is added to the positions.
    """
    w = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    vocab, dim = w["embeddings.word_embeddings.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("encoder.layer."))
    ff, context = w["encoder.layer.0.intermediate.dense.bias"].numel(), len(w["embeddings.position_embeddings.weight"])
    model = Transformer(Config(vocab, dim, layers, heads, ff, context, causal=False, pre_norm=False, eps=eps))
    model.embed = Embed(vocab, dim, context, norm=nn.LayerNorm(dim, eps=eps))
    model.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=eps), nn.Linear(dim, vocab))
    segment = w["embeddings.token_type_embeddings.weight"][0]
    mine = {"embed.token.weight": w["embeddings.word_embeddings.weight"]}
    mine |= {"embed.position.weight": w["embeddings.position_embeddings.weight"] + segment}
    places = {"embed.norm": "embeddings.LayerNorm", "head.0": "cls.predictions.transform.dense"}
    places |= {"head.2": "cls.predictions.transform.LayerNorm", "head.3": "cls.predictions.decoder"}
    for i in range(layers):
        theirs, ours = f"encoder.layer.{i}.", f"blocks.{i}."
        places |= {f"{ours}attn.{n[0]}": f"{theirs}attention.self.{n}" for n in ("query", "key", "value")}
        places |= {f"{ours}attn.o": f"{theirs}attention.output.dense"}
        places |= {f"{ours}norm1": f"{theirs}attention.output.LayerNorm", f"{ours}norm2": f"{theirs}output.LayerNorm"}
        places |= {f"{ours}mlp.up": f"{theirs}intermediate.dense", f"{ours}mlp.down": f"{theirs}output.dense"}
    mine |= {f"{ours}.{kind}": w[f"{theirs}.{kind}"] for ours, theirs in places.items() for kind in ("weight", "bias")}
    model.load_state_dict(mine)
    if torch.equal(model.head[3].weight, model.embed.token.weight):
        model.head[3].weight = model.embed.token.weight  # tied, as in BERT
    return model.requires_grad_(False).eval()
