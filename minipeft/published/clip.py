"""CLIP as OpenAI published it, from the weights of a `transformers` CLIPModel."""

import torch
from torch import Tensor, nn

from minipeft.models.dual_encoder import DualConfig, DualEncoder
from minipeft.models.transformer import Config
from minipeft.models.vision import VisionConfig

LAYER = {  # ours in "image.blocks.0.", theirs in "vision_model.encoder.layers.0."
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.out_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
}
PLACES = {
    "image.embed.norm": "vision_model.pre_layrnorm",
    "image.norm": "vision_model.post_layernorm",
    "text.norm": "text_model.final_layer_norm",
}
WEIGHTS = {
    "scale": "logit_scale",
    "image.embed.position.weight": "vision_model.embeddings.position_embedding.weight",
    "image.head.classify.weight": "visual_projection.weight",
    "text.embed.token.weight": "text_model.embeddings.token_embedding.weight",
    "text.embed.position.weight": "text_model.embeddings.position_embedding.weight",
    "text.head.classify.weight": "text_projection.weight",
}


class QuickGELU(nn.Module):
    """x σ(1.702 x), which OpenAI's models have where others have GELU."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def from_clip(weights: dict[str, Tensor], image_heads, text_heads, hidden_act="quick_gelu", eps=1e-5):
    """A dual encoder from the state dict of a `transformers` CLIPModel.

    Its text tower reads the last token, where CLIP reads the first end-of-text token, wherever that stands. So a
    caption must end with this token; shorter captions are padded on the left, with a mask.

    Args:
        weights: the state dict. What the library's configuration tells besides: the numbers of attention heads,
        hidden_act: "quick_gelu" (OpenAI's models) or "gelu" (most others),
        eps: of the norms.

    Raises ValueError if the weights are not those of such a model, or for another nonlinearity.
    """
    if missing := [name for name in (*WEIGHTS.values(), "vision_model.pre_layrnorm.weight") if name not in weights]:
        raise ValueError(
            f"from_clip takes the weights of a CLIPModel, and these have no {missing[0]!r}: give it model.state_dict()"
        )
    if hidden_act not in ("quick_gelu", "gelu"):
        raise ValueError(f"from_clip: hidden_act must be 'quick_gelu' or 'gelu', got {hidden_act!r}")
    w, towers = weights, {"image": "vision_model", "text": "text_model"}
    layers = {ours: count(w, f"{theirs}.encoder.layers.") for ours, theirs in towers.items()}
    ff = {ours: len(w[f"{theirs}.encoder.layers.0.mlp.fc1.bias"]) for ours, theirs in towers.items()}
    kernel = w["vision_model.embeddings.patch_embedding.weight"]  # a convolution that steps from patch to patch
    positions, width = w[WEIGHTS["image.embed.position.weight"]], len(w["visual_projection.weight"])
    dim, channels, patch, _ = kernel.shape
    side = patch * round((len(positions) - 1) ** 0.5)
    image = VisionConfig(
        side, patch, width, channels, dim, layers["image"], image_heads, ff["image"], eps=eps, embed_norm=True
    )
    vocab, text_dim = w[WEIGHTS["text.embed.token.weight"]].shape
    context = len(w[WEIGHTS["text.embed.position.weight"]])
    text = Config(vocab, text_dim, layers["text"], text_heads, ff["text"], context, eps=eps)
    model = DualEncoder(DualConfig(image, text, width))
    model.image.embed.patch = nn.Linear(channels * patch**2, dim, bias=False)
    if hidden_act == "quick_gelu":
        for block in (*model.image.blocks, *model.text.blocks):
            block.mlp.act = QuickGELU()
    places = PLACES | {
        f"{ours}.blocks.{i}.{our}": f"{theirs}.encoder.layers.{i}.{their}"
        for ours, theirs in towers.items()
        for i in range(layers[ours])
        for our, their in LAYER.items()
    }
    mine = {ours: w[theirs] for ours, theirs in WEIGHTS.items()}
    mine |= {f"{ours}.{kind}": w[f"{theirs}.{kind}"] for ours, theirs in places.items() for kind in ("weight", "bias")}
    mine["image.embed.class_token"] = w["vision_model.embeddings.class_embedding"][None]
    mine["image.embed.patch.weight"] = kernel.flatten(1)
    model.load_state_dict(mine)
    return model.requires_grad_(False).eval()


def count(weights, prefix):
    """How many numbered layers there are below this name."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
