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
from minipeft.models.sentences import MeanPooled
from minipeft.models.torch_nets import ConvConfig, ConvNet, Recurrent, RecurrentConfig
from minipeft.models.transformer import Config, Embed, Transformer
from minipeft.models.vision import VisionConfig, ViT
from minipeft.published import smollm2

BESIDE, INSIDE = Path(__file__).parents[1] / "tiny_models", Path(__file__).parent / "tiny_models"
FOLDER = INSIDE if INSIDE.is_dir() else BESIDE  # inside where the package was installed without a clone
GPT2 = {  # modules here and in transformers' GPT2LMHeadModel; {i} counts the layers. There q, k and v are one matrix
    "embed.token": "transformer.wte",
    "embed.position": "transformer.wpe",
    "blocks.{i}.attn.q": "transformer.h.{i}.attn.c_attn",
    "blocks.{i}.attn.k": "transformer.h.{i}.attn.c_attn",
    "blocks.{i}.attn.v": "transformer.h.{i}.attn.c_attn",
    "blocks.{i}.attn.o": "transformer.h.{i}.attn.c_proj",
    "blocks.{i}.mlp.up": "transformer.h.{i}.mlp.c_fc",
    "blocks.{i}.mlp.down": "transformer.h.{i}.mlp.c_proj",
    "blocks.{i}.norm1": "transformer.h.{i}.ln_1",
    "blocks.{i}.norm2": "transformer.h.{i}.ln_2",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
BERT = {  # the same of BertForMaskedLM
    "embed.token": "bert.embeddings.word_embeddings",
    "embed.position": "bert.embeddings.position_embeddings",
    "embed.norm": "bert.embeddings.LayerNorm",
    "blocks.{i}.attn.q": "bert.encoder.layer.{i}.attention.self.query",
    "blocks.{i}.attn.k": "bert.encoder.layer.{i}.attention.self.key",
    "blocks.{i}.attn.v": "bert.encoder.layer.{i}.attention.self.value",
    "blocks.{i}.attn.o": "bert.encoder.layer.{i}.attention.output.dense",
    "blocks.{i}.norm1": "bert.encoder.layer.{i}.attention.output.LayerNorm",
    "blocks.{i}.mlp.up": "bert.encoder.layer.{i}.intermediate.dense",
    "blocks.{i}.mlp.down": "bert.encoder.layer.{i}.output.dense",
    "blocks.{i}.norm2": "bert.encoder.layer.{i}.output.LayerNorm",
    "head.0": "cls.predictions.transform.dense",
    "head.2": "cls.predictions.transform.LayerNorm",
    "head.3": "cls.predictions.decoder",
}
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


def places(table, layers):
    """{our name: theirs} of all modules of a model with so many layers. table: GPT2, BERT."""
    found = {}
    for i in range(layers):
        found |= {ours.format(i=i): theirs.format(i=i) for ours, theirs in table.items()}
    return found


def is_turned(theirs):
    """Does this module of GPT-2 store its weight as (in, out), where a Linear has (out, in)?"""
    return ".c_" in theirs


def from_gpt2(weights, heads):
    """GPT-2 from the state dict of a `transformers` GPT2LMHeadModel. Its fused q k v are taken apart."""
    w = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    vocab, dim = w["wte.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))
    ff, context = w["h.0.mlp.c_fc.bias"].numel(), len(w["wpe.weight"])
    model = Transformer(Config(vocab, dim, layers, heads, ff, context, gelu="tanh"))
    model.head = nn.Linear(dim, vocab, bias=False)
    names, mine = places(GPT2, layers), {}
    for name in model.state_dict():
        ours, _, kind = name.rpartition(".")
        theirs = names[ours]
        tensor = w[f"{theirs.removeprefix('transformer.')}.{kind}"]
        if theirs.endswith("c_attn"):
            tensor = tensor.chunk(3, dim=-1)["qkv".index(ours[-1])]
        mine[name] = tensor.t() if is_turned(theirs) else tensor
    model.load_state_dict(mine)
    if torch.equal(model.head.weight, model.embed.token.weight):
        model.head.weight = model.embed.token.weight  # tied, as in GPT-2
    return model.requires_grad_(False).eval()


def from_bert(weights, heads, eps=1e-12):
    """BERT from the state dict of a `transformers` BertForMaskedLM, for text of one segment.

    Of a BertModel, which has no head for words, it is an encoder of sentences: `models.sentences.MeanPooled`, for
    models such as MiniLM. The vector of segment 0, which stands at every token, is added to the positions.
    """
    w = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    vocab, dim = w["embeddings.word_embeddings.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("encoder.layer."))
    ff, context = w["encoder.layer.0.intermediate.dense.bias"].numel(), len(w["embeddings.position_embeddings.weight"])
    words = "cls.predictions.transform.dense.weight" in w
    config = Config(vocab, dim, layers, heads, ff, context, causal=False, pre_norm=False, eps=eps)
    model = Transformer(config) if words else MeanPooled(config)
    model.embed = Embed(vocab, dim, context, norm=nn.LayerNorm(dim, eps=eps))
    head = nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, eps=eps), nn.Linear(dim, vocab)
    model.head = nn.Sequential(*head) if words else nn.Identity()
    names, mine = places(BERT, layers), {}
    for name in model.state_dict():
        ours, _, kind = name.rpartition(".")
        mine[name] = w[f"{names[ours].removeprefix('bert.')}.{kind}"]
    mine["embed.position.weight"] = mine["embed.position.weight"] + w["embeddings.token_type_embeddings.weight"][0]
    model.load_state_dict(mine)
    if words and torch.equal(model.head[3].weight, model.embed.token.weight):
        model.head[3].weight = model.embed.token.weight  # tied, as in BERT
    return model.requires_grad_(False).eval()
