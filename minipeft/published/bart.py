"""BART from its published weights: an encoder-decoder whose norms come after the sublayers.

Source: Lewis et al. 2019, arXiv:1910.13461.
"""

import torch
from torch import nn

from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

FIRST = 2  # positions are stored from this row on


def from_bart(weights, heads, start=2):
    """BART from the state dict of a `transformers` BartForConditionalGeneration without `scale_embedding`.

    `final_logits_bias`, a buffer there, is the bias of the head here. The head's weight is tied to the embedding if the
    two are equal.

    Args:
        heads: how many, in every attention.
        start: the token that answers begin with, `decoder_start_token_id` there.
    """
    w = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    vocab, dim = w["shared.weight"].shape
    mine = {"head.weight": w["lm_head.weight"], "head.bias": w["final_logits_bias"][0]}
    places, layers = {}, {}
    for part in ("encoder", "decoder"):
        mine[f"{part}.embed.token.weight"] = w["shared.weight"]
        if not torch.equal(w.get(f"{part}.embed_tokens.weight", w["shared.weight"]), w["shared.weight"]):
            raise ValueError(f"the {part} does not share the embedding of tokens, as it does in BART and here")
        mine[f"{part}.embed.position.weight"] = w[f"{part}.embed_positions.weight"][FIRST:]
        places[f"{part}.embed.norm"] = f"{part}.layernorm_embedding"
        layers[part] = 1 + max(int(name.split(".")[2]) for name in w if name.startswith(f"{part}.layers."))
        for i in range(layers[part]):
            places |= places_of_block(f"{part}.blocks.{i}", f"{part}.layers.{i}", part == "decoder")
    mine |= {f"{ours}.{kind}": w[f"{theirs}.{kind}"] for ours, theirs in places.items() for kind in ("weight", "bias")}
    ff, context = w["encoder.layers.0.fc1.bias"].numel(), len(mine["encoder.embed.position.weight"])
    sizes = vocab, start, dim, layers["encoder"], layers["decoder"], heads, ff, context
    model = EncoderDecoder(EncoderDecoderConfig(*sizes, pre_norm=False))
    for stack in (model.encoder, model.decoder):
        stack.embed.norm = nn.LayerNorm(dim)
    model.load_state_dict(mine)
    if torch.equal(model.head.weight, model.encoder.embed.token.weight):
        model.head.weight = model.encoder.embed.token.weight  # tied, as in BART
    return model.requires_grad_(False).eval()


def places_of_block(ours, theirs, decoder):
    """{our name: their name} of the modules in a block."""
    places = {f"{ours}.mlp.up": f"{theirs}.fc1", f"{ours}.mlp.down": f"{theirs}.fc2"}
    places |= {f"{ours}.norm2": f"{theirs}.final_layer_norm"}
    attentions = [("attn", "norm1", "self_attn"), ("cross", "norm_cross", "encoder_attn")]
    for name, norm, library in attentions if decoder else attentions[:1]:
        places |= {f"{ours}.{norm}": f"{theirs}.{library}_layer_norm"}
        places |= {f"{ours}.{name}.{proj[0]}": f"{theirs}.{library}.{proj}_proj" for proj in ("q", "k", "v", "out")}
    return places
