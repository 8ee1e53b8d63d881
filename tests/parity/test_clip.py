"""Our dual encoder with the weights of `transformers`' CLIP computes what that one does; so does LoRA on both towers,
beside peft's."""

import copy
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPConfig, CLIPModel

from minipeft.attach import trainable
from minipeft.methods import LoRA
from minipeft.models.transformer import recording
from minipeft.published.clip import from_clip
from minipeft.views import merge
from tests.models import CONTEXT, DIM, FF, HEADS, LAYERS, VOCAB, count

END, WIDE = VOCAB - 1, 18  # the token that ends a caption; the width of the picture tower
SHAPE = {"intermediate_size": FF, "num_hidden_layers": LAYERS}
TEXT = {
    **SHAPE, "vocab_size": VOCAB, "hidden_size": DIM, "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END,
}  # fmt: skip
IMAGE = {**SHAPE, "hidden_size": WIDE, "num_attention_heads": 2, "image_size": 12, "patch_size": 4}
OURS = {"q_proj": "q", "v_proj": "v", "vision_model": "image", "text_model": "text"}
RENAMED = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for the old name


@pytest.fixture(params=[{}, {"layer_norm_eps": 1e-2, "hidden_act": "gelu"}], ids=["as OpenAI's", "gelu, a large eps"])
def pair(request, randomised):
    """The library's model and ours, with the same weights, in double precision but for the library's softmax."""
    config = CLIPConfig(
        text_config=TEXT | request.param,
        vision_config=IMAGE | request.param,
        projection_dim=8,
        attn_implementation="eager",
    )
    theirs = randomised(CLIPModel(config), 0.4).double()
    text = theirs.config.text_config
    ours = from_clip(theirs.state_dict(), 2, HEADS, text.hidden_act, text.layer_norm_eps)
    return theirs, ours.double()


def pictures():
    return torch.randn(4, 3, 12, 12).double()


def captions(lengths=(6, 6, 6, 6, 6)):
    """Captions that end with END, as many tokens each as `lengths` says: alone."""
    return [torch.cat([torch.randint(2, END, (n - 1,)), torch.tensor([END])]) for n in lengths]


def test_logits_features_and_attention_maps_are_equal(pair, close, apart):
    theirs, ours = pair
    x, tokens = pictures(), torch.stack(captions())
    with torch.no_grad(), recording(ours) as layers:
        expected = theirs(input_ids=tokens, pixel_values=x, output_attentions=True)
        close(ours(x, tokens), expected.logits_per_image)
        close(ours.image(x), theirs.get_image_features(x).pooler_output)
        close(ours.text(tokens), theirs.get_text_features(tokens).pooler_output)
    apart(expected.logits_per_image[0], expected.logits_per_image[1])
    maps = [*expected.vision_model_output.attentions, *expected.text_model_output.attentions]
    assert len(layers) == len(maps) == 2 * LAYERS
    for layer, weights in zip(layers, maps, strict=True):
        close(layer.weights, weights)


def test_captions_padded_on_the_left_are_what_the_library_makes_of_them_padded_on_the_right(pair, close):
    theirs, ours = pair
    alone, T = captions((6, 3, 5)), 6
    right = torch.stack([torch.cat([row, torch.full((T - len(row),), END)]) for row in alone])  # as its tokenizer does
    left = torch.stack([torch.cat([torch.full((T - len(row),), 5), row]) for row in alone])
    mask = torch.stack([torch.arange(T) >= T - len(row) for row in alone])
    x = pictures()
    with torch.no_grad():
        expected = theirs(input_ids=right, pixel_values=x, attention_mask=mask.flip(1).long()).logits_per_image
        close(ours(x, left, mask), expected)


def test_gradients_are_equal(pair, same_gradients, close):
    theirs, ours = pair
    x, tokens = pictures(), torch.stack(captions())
    same_gradients(ours.requires_grad_(True)(x, tokens), theirs(input_ids=tokens, pixel_values=x).logits_per_image)
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert len(mine) == len(other)
    gradients = from_clip({name: p.grad for name, p in other.items()}, 2, HEADS)  # under our names, in our shapes
    for name, p in gradients.double().named_parameters():
        close(mine[name].grad, p, 1e-5)  # `from_clip` has rounded them


@RENAMED
def test_lora_on_query_and_value_of_both_towers_is_that_of_peft(pair, same_gradients, close, apart):
    theirs, ours = pair
    x, tokens = pictures(), torch.stack(captions())
    plain = ours(x, tokens)
    view = LoRA(3, 5, ("q", "v")).attach(ours)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"])
    library = get_peft_model(copy.deepcopy(theirs), config).double().eval()
    mine, other = trainable(view), {}
    for name, p in trainable(library).items():
        pattern = r".*\.(\w+_model)\.encoder\.layers\.(\d)\.self_attn\.(\w+)\.lora_([AB])\.default\.weight"
        tower, i, place, part = re.fullmatch(pattern, name).groups()
        other[f"{OURS[tower]}.blocks.{i}.attn.{OURS[place]}.{part}"] = p
    assert mine.keys() == other.keys()
    assert count(view) == library.get_nb_trainable_parameters()[0] == LAYERS * 2 * 3 * 2 * (DIM + WIDE)
    with torch.no_grad():
        for name, p in mine.items():
            other[name].copy_(p.normal_(std=0.5))
    got, expected = view(x, tokens), library(input_ids=tokens, pixel_values=x).logits_per_image
    apart(got, plain)
    close(got, expected)
    same_gradients(got, expected)
    for name, p in mine.items():
        close(p.grad, other[name].grad, 1e-5)
    with torch.no_grad():
        merged = library.merge_and_unload()(input_ids=tokens, pixel_values=x).logits_per_image
        close(merge(view)(x, tokens), merged)


def test_other_weights_and_nonlinearities_are_refused(pair):
    theirs, _ = pair
    weights = theirs.state_dict()
    with pytest.raises(ValueError, match=r"no 'text_projection\.weight'"):
        from_clip({name: w for name, w in weights.items() if name != "text_projection.weight"}, 2, HEADS)
    with pytest.raises(ValueError, match="must be 'quick_gelu' or 'gelu', got 'relu'"):
        from_clip(weights, 2, HEADS, "relu")
