"""LoRAs for llama.cpp. That the gguf package reads them and llama.cpp runs them is tested in parity."""

import pytest
import torch

from minipeft.arithmetic import compress
from minipeft.deltas import DeltaError, delta_of, load
from minipeft.exchange import from_gguf_lora, to_gguf_lora
from minipeft.exchange.gguf import packed
from minipeft.methods import DoRA, LoRA, PromptTuning, QLoRA
from minipeft.published.gguf import GGUF
from tests.exchange import built_like
from tests.models import DIM, HEADS, LAYERS, close, rows, stirred

TOKENS = rows(None)[1]
META = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}


@pytest.fixture
def llama():
    return built_like("llama")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lora.gguf"


@pytest.mark.parametrize(
    "method",
    [
        LoRA(rank=3, alpha=5),
        LoRA(rank=3, alpha=5, targets="all-linear", rank_pattern={"v": 2}),
        LoRA(rank=3, alpha=5, targets=("k", "gate"), rank_pattern={"k": 2}, rslora=True),
        LoRA(targets=(".blocks.1.attn.q.weight",)),
    ],
    ids=str,
)
def test_what_was_written_comes_back_and_computes_the_same(method, llama, path):
    view = stirred(method, llama)
    assert to_gguf_lora(view, path) == path.stat().st_size
    delta = from_gguf_lora(path, llama)
    assert delta.notes == {"from": "llama.cpp"}
    close(load(delta, llama)(TOKENS), view(TOKENS), 1e-5)


def test_the_file_says_what_it_is_and_scales_by_alpha_over_each_rank(llama, path):
    view = stirred(LoRA(rank=3, alpha=6, targets=("v", "up"), rank_pattern={"v": 2}, rslora=True), llama)
    to_gguf_lora(view, path)
    file = GGUF(path)
    assert {key: file.meta[key] for key in META} == META
    assert len(file.tensors) == 4 * LAYERS
    alpha, up, v = file.meta["adapter.lora.alpha"], view.blocks[1].mlp.up, view.blocks[1].attn.v
    for name, layer in (("blk.1.ffn_up", up), ("blk.1.attn_v", v)):
        A, B = file.read(f"{name}.weight.lora_a"), file.read(f"{name}.weight.lora_b")
        assert torch.equal(A, layer.A)
        close(alpha / len(A) * B @ A, layer.delta(), 1e-6)


def test_the_rows_of_q_and_k_stand_as_llama_cpp_rotates_them(llama, path):
    view = stirred(LoRA(rank=3, targets=("q", "k", "v")), llama)
    to_gguf_lora(view, path)
    file, c = GGUF(path), llama.config
    size = DIM // c.heads
    for name, layer, heads in (("attn_q", view.blocks[1].attn.q, c.heads), ("attn_k", view.blocks[1].attn.k, HEADS)):
        B = file.read(f"blk.1.{name}.weight.lora_b")
        for row in range(len(B)):
            head, i = divmod(row, size)
            assert torch.equal(B[row], layer.B[head * size + i // 2 + (i % 2) * size // 2])
        assert len(B) == heads * size
    assert torch.equal(file.read("blk.1.attn_v.weight.lora_b"), view.blocks[1].attn.v.B)


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (lambda: built_like("llama"), "here nothing is attached to a Llama"),
        (lambda: PromptTuning().attach(built_like("llama")), "PromptTuning.* is attached to a Llama: .*compress"),
        (lambda: DoRA().attach(built_like("llama")), "takes one LoRA on a Llama"),
        (lambda: LoRA().attach(built_like("gpt2")), "attached to a Transformer"),
        (lambda: LoRA(targets=("embed.token",)).attach(built_like("llama")), "model.embed_tokens is not in a block"),
        (lambda: LoRA(classes=3).attach(built_like("llama")), "a fresh head"),
    ],
)
def test_what_llama_cpp_has_no_place_for_is_refused_and_nothing_is_written(view, says, path):
    with pytest.raises(DeltaError, match=says):
        to_gguf_lora(view(), path)
    assert not path.exists()


def test_another_method_is_compressed_first_and_qlora_warns(llama, path):
    view = stirred(DoRA(targets=("up",)), llama)
    to_gguf_lora(load(compress(llama, delta_of(view), rank=DIM), llama), path)
    close(load(from_gguf_lora(path, llama), llama)(TOKENS), view(TOKENS), 1e-4)
    with pytest.warns(UserWarning, match="rounded weights"):
        to_gguf_lora(stirred(QLoRA(rank=2, targets=("q",)), llama), path)


@pytest.mark.parametrize(
    ("meta", "tensors", "says"),
    [
        ({"general.type": "model"}, {}, r"\['model', 'lora', 'llama'\]"),
        ({"general.architecture": "qwen2"}, {}, "'qwen2'"),
        ({}, {"blk.9.attn_q.weight.lora_a": (2, DIM)}, "blk.9.attn_q is no matrix of this model"),
        ({}, {"token_embd.weight.lora_a": (2, DIM)}, "token_embd.weight.lora_b .* missing"),
        ({}, {"blk.0.attn_q.weight.lora_a": (2, DIM)}, "blk.0.attn_q.weight.lora_b"),
        ({}, {"blk.0.attn_q.weight": (2, DIM)}, "blk.0.attn_q.weight is no matrix"),
        (
            {},
            {"blk.0.ffn_up.weight.lora_a": (2, 5), "blk.0.ffn_up.weight.lora_b": (20, 2)},
            r"shape \(2, 5\), expected",
        ),
        ({}, {}, "holds no LoRA"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(meta, tensors, says, llama, path):
    path.write_bytes(packed(META | meta, {name: torch.ones(shape) for name, shape in tensors.items()}))
    with pytest.raises(DeltaError, match=says):
        from_gguf_lora(path, llama)


def test_without_an_alpha_nothing_is_scaled(llama, path):
    parts = {"blk.0.attn_v.weight.lora_a": torch.ones(2, DIM), "blk.0.attn_v.weight.lora_b": torch.ones(DIM // 2, 2)}
    path.write_bytes(packed(META, parts))
    view = load(from_gguf_lora(path, llama), llama)
    close(view.blocks[0].attn.v.delta(), torch.full((DIM // 2, DIM), 2.0))


def test_it_is_read_for_a_llama_only(path):
    with pytest.raises(DeltaError, match="this is a Transformer"):
        from_gguf_lora(path, built_like("gpt2"))
