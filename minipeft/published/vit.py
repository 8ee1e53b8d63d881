"""ViT as Google published it, from the weights of a `transformers` ViTForImageClassification."""

from torch import Tensor

from minipeft.models.vision import VisionConfig, ViT

BLOCK = {  # ours in "blocks.0.", theirs in "vit.layers.0."
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.o": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
FILE = {  # in a published file, and in a model that transformers 5 has read from it
    "vit.encoder.layer.": "vit.layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",  # before the one below, which would fit as well
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def from_vit(weights: dict[str, Tensor], heads, eps=1e-12):
    """A ViT from the state dict of a `transformers` ViTForImageClassification, or what its model.safetensors holds.

    It reads pictures as the library's does: what that one's image processor gives, mostly numbers from -1 to 1.

    Raises ValueError if the weights are not those of such a model.
    """
    w = {now(name): tensor for name, tensor in weights.items()}
    if missing := [name for name in ("vit.embeddings.cls_token", "classifier.weight") if name not in w]:
        raise ValueError(
            f"from_vit takes the weights of a ViTForImageClassification, and these have no {missing[0]!r}: "
            "give it model.state_dict()"
        )
    projection, positions = (
        w["vit.embeddings.patch_embeddings.projection.weight"],
        w["vit.embeddings.position_embeddings"],
    )
    dim, channels, patch, _ = projection.shape
    side = patch * round((positions.shape[1] - 1) ** 0.5)
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("vit.layers."))
    classes, ff = len(w["classifier.weight"]), len(w["vit.layers.0.mlp.fc1.weight"])
    model = ViT(VisionConfig(side, patch, classes, channels, dim, layers, heads, ff, eps=eps))
    mine = {"embed.class_token": w["vit.embeddings.cls_token"][0], "embed.position.weight": positions[0]}
    mine["embed.patch.weight"] = projection.flatten(1)  # a convolution (d, C, p, p) that steps from patch to patch
    mine["embed.patch.bias"] = w["vit.embeddings.patch_embeddings.projection.bias"]
    places = {"norm": "vit.layernorm", "head.classify": "classifier"}
    places |= {f"blocks.{i}.{o}": f"vit.layers.{i}.{t}" for i in range(layers) for o, t in BLOCK.items()}
    mine |= {f"{ours}.{kind}": w[f"{theirs}.{kind}"] for ours, theirs in places.items() for kind in ("weight", "bias")}
    model.load_state_dict(mine)
    return model.requires_grad_(False).eval()


def now(name):
    """The name that transformers 5 has for a weight of a published file."""
    for before, after in FILE.items():
        name = name.replace(before, after)
    return name
