"""The Llama kind of decoder. What holds for every method on it is in test_methods (kind "rotary")."""

import pytest
import torch
from torch import nn

from minipeft.attach import trainable
from minipeft.methods import Houlsby, LoRA, PrefixTuning, PTuningV2
from minipeft.models.llama import Llama, LlamaConfig, RotaryAttention, key_positions, rotate
from minipeft.models.transformer import attention_mask, recording
from minipeft.views import merge
from tests.models import CONTEXT, DIM, HEADS, LAYERS, VOCAB, T, close, make, rows, stirred

KEYS = DIM // 2  # the width of keys and values: half as many heads


def test_rotation_keeps_lengths_and_turns_by_the_position_alone():
    x = torch.randn(2, 3, 5, 8)
    turned = rotate(x, torch.arange(5)[None, None], 100.0)
    close(turned.norm(dim=-1), x.norm(dim=-1))
    close(turned[:, :, 0], x[:, :, 0])  # position 0
    i, t = 1, 3
    angle = torch.tensor(t * 100.0 ** (-2 * i / 8))
    a, b = x[..., t, i], x[..., t, i + 4]
    close(turned[..., t, i], a * angle.cos() - b * angle.sin())
    close(turned[..., t, i + 4], b * angle.cos() + a * angle.sin())


def test_a_score_depends_on_the_difference_of_two_positions_alone():
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(i, j):
        return (rotate(q, torch.tensor([[[i]]]), 100.0) * rotate(k, torch.tensor([[[j]]]), 100.0)).sum()

    close(score(3, 1), score(9, 7))
    assert (score(3, 1) - score(3, 2)).abs() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_no_position(side):
    _, _, mask = rows(side)
    visible = attention_mask(T, T, causal=True, mask=mask)
    found = key_positions(visible, T, T)
    for row, real in zip(found[:, 0], mask, strict=True):
        assert row[real].tolist() == list(range(int(real.sum())))
    assert key_positions("causal", T, T).flatten().tolist() == list(range(T))


def test_the_fused_kernel_computes_what_is_written_out_with_and_without_padding():
    model = make("rotary")
    for side in ("left", "right"):
        _, tokens, mask = rows(side)
        with torch.no_grad():
            fused = model(tokens, mask)
            with recording(model) as layers:
                close(model(tokens, mask)[mask], fused[mask])
    assert len(layers) == LAYERS
    assert layers[0].weights.shape == (3, 2 * HEADS, T, T)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_what_is_not_finite_is_never_hidden(which):
    attention = RotaryAttention(DIM, 2 * HEADS, HEADS, 100.0)
    with torch.no_grad():
        getattr(attention, which).weight[0] = torch.nan
    x = torch.randn(2, T, DIM)
    assert attention(x, "causal").isnan().any()
    assert attention(x, attention_mask(T, T, True, torch.ones(2, T, dtype=torch.bool))).isnan().any()


@pytest.mark.parametrize(("dim", "heads", "kv_heads"), [(12, 5, 5), (12, 6, 4), (12, 4, 2)])
def test_widths_that_do_not_fit_are_refused(dim, heads, kv_heads):
    with pytest.raises(ValueError, match="even multiple of the number of heads"):
        RotaryAttention(dim, heads, kv_heads, 100.0)


def test_a_prefix_is_as_wide_as_keys_and_values_and_a_deep_prompt_as_the_stream():
    model = make("rotary")
    shapes = {
        PrefixTuning(length=2): {(LAYERS, 2, KEYS)},
        PrefixTuning(length=2, init=(5, 9)): {(LAYERS, 2, KEYS)},
        PTuningV2(length=2, form="key/value"): {(LAYERS, 2, KEYS)},
        PTuningV2(length=2): {(LAYERS, 2, DIM)},
    }
    for method, wanted in shapes.items():
        assert {tuple(p.shape) for p in trainable(method.attach(model)).values()} == wanted
    assert PrefixTuning(length=2, mlp=5).attach(model).begin.keys_values()[0].shape == (LAYERS, 2, KEYS)


def test_a_prefix_read_from_words_is_what_reading_them_leaves():
    """Keys are stored unrotated, so what stands in front is turned by the positions at which it stands."""
    model, words = make("rotary"), (5, 9, 7)
    tokens = torch.tensor([[3, 8, 4, 6]])
    view = PrefixTuning(length=3, init=words).attach(model)
    with torch.no_grad():
        expected = model(torch.cat([torch.tensor([words]), tokens], dim=1))[:, 3:]
        close(view(tokens), expected)


def test_deep_prompts_stand_at_the_first_positions():
    """They are computed as if they stood in front of the hidden states of every layer."""
    model = make("rotary")
    view = stirred(PTuningV2(length=2), model)
    tokens = torch.tensor([[3, 8, 4, 6]])
    x = model.embed(tokens)
    for block, P in zip(model.blocks, view.begin.P, strict=True):
        x = block(torch.cat([P[None], x], dim=1), "causal")[:, 2:]
    close(view(tokens), model.head(model.norm(x)))


def test_norms_that_are_no_layer_norms_learn_with_houlsby():
    view = Houlsby(size=2).attach(make("rotary"))
    norms = [name for name in trainable(view) if "norm" in name]
    assert len(norms) == 2 * LAYERS + 1
    assert all(isinstance(m, nn.RMSNorm) for name, m in view.named_modules() if name.endswith("norm1"))


def test_a_tied_head_follows_the_embedding_and_merging_one_of_them_warns():
    model = make("rotary", tied=True)
    assert model.head.weight is model.embed.token.weight
    with pytest.warns(UserWarning, match=r"embed.token.weight and head.weight were one weight"):
        plain = merge(stirred(LoRA(rank=1, targets=("token",)), model))
    assert plain.head.weight is not plain.embed.token.weight


def test_a_sequence_may_not_outgrow_the_context():
    with pytest.raises(ValueError, match=f"needs {CONTEXT + 1} positions but the context has {CONTEXT}"):
        make("rotary")(torch.ones(1, CONTEXT + 1, dtype=torch.long))


def test_a_new_model_starts_at_the_scale_of_the_transformer():
    torch.manual_seed(0)
    model = Llama(LlamaConfig(VOCAB, dim=64, layers=8, ff=96))
    assert model.blocks[0].attn.q.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.blocks[0].mlp.down.weight.std().item() == pytest.approx(128**-0.5 / 4, rel=0.05)
