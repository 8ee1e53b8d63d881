"""GGUF files and the tokenizer in them, read by hand: on files that are written here, byte by byte."""

import struct

import numpy as np
import pytest
import torch

from minipeft.models.llama import Llama, LlamaConfig
from minipeft.published.bpe import BPE, letters_of_bytes
from minipeft.published.gguf import GGUF
from minipeft.published.llama import from_gguf, from_llama, halves, names, neighbours
from tests.models import close

CONFIG = LlamaConfig(vocab=11, dim=32, layers=2, heads=4, kv_heads=2, ff=64, context=16, eps=1e-5, rope_base=100.0)
META = {
    "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 16,
    "llama.embedding_length": 32, "llama.feed_forward_length": 64, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "llama.rope.freq_base": 100.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokens": ["a", "é"],
}  # fmt: skip


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(v):
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    if isinstance(v, list):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
    return struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v)


def written(path, tensors, meta=META, version=3, magic=b"GGUF"):
    """A GGUF file. tensors: {name: (shape as in PyTorch, number of the type, bytes)}."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(meta))
    head += b"".join(text(key) + value(v) for key, v in meta.items())
    body = b""
    for name, (shape, kind, data) in tensors.items():
        body += -len(body) % 32 * b"\0"
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(body))
        body += data
    path.write_bytes(head + -len(head) % 32 * b"\0" + body)
    return path


def plain(tensor):
    return tuple(tensor.shape), 0, tensor.numpy().astype("<f4").tobytes()


def test_metadata_and_plain_tensors_are_read(tmp_path):
    W = torch.arange(6.0).view(2, 3)
    file = GGUF(written(tmp_path / "x", {"a": plain(W), "b": ((4,), 1, np.arange(4, dtype="<f2").tobytes())}))
    assert file.meta["tokens"] == ["a", "é"]
    assert file.meta["llama.rope.freq_base"] == 100.0
    assert torch.equal(file.read("a"), W)
    assert torch.equal(file.read("b"), torch.arange(4.0))


def test_a_block_of_q4_1_is_32_codes_of_4_bits_with_scale_and_least_value(tmp_path):
    codes = np.arange(32) % 16
    packed = (codes[:16] | codes[16:] << 4).astype("u1")
    block = np.array([0.5, -3], dtype="<f2").tobytes() + packed.tobytes()
    file = GGUF(written(tmp_path / "x", {"a": ((1, 32), 3, block)}))
    assert len(block) == 20
    assert torch.equal(file.read("a"), torch.tensor(0.5 * codes - 3).float()[None])


def test_a_block_of_q8_0_is_32_signed_codes_with_a_scale(tmp_path):
    codes = np.arange(-16, 16, dtype="i1")
    file = GGUF(written(tmp_path / "x", {"a": ((32,), 8, np.array([0.25], "<f2").tobytes() + codes.tobytes())}))
    assert torch.equal(file.read("a"), torch.tensor(0.25 * codes).float())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"magic": b"PK\3\4"}, "is no GGUF file"),
        ({"version": 9}, "of version 9"),
        ({"tensors": {"a": ((64,), 0, b"short")}}, "was cut short: it has .* bytes and needs"),
    ],
)
def test_what_is_no_whole_gguf_file_is_told(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        GGUF(written(tmp_path / "x", **{"tensors": {"a": plain(torch.zeros(2))}} | change))


def test_a_header_that_ends_in_the_middle_is_told(tmp_path):
    path = written(tmp_path / "x", {"a": plain(torch.zeros(2))})
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ValueError, match="is damaged"):
        GGUF(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        GGUF(tmp_path / "nothing")


def test_a_tensor_that_is_not_there_or_stored_in_another_way_is_told(tmp_path):
    file = GGUF(written(tmp_path / "x", {"a": ((256,), 12, bytes(144))}))
    with pytest.raises(KeyError, match="has no tensor 'b'; it has a"):
        file.read("b")
    with pytest.raises(ValueError, match="a is stored as type 12; read here are F32, F16, Q4_1, Q8_0"):
        file.read("a")


def a_model():
    torch.manual_seed(0)
    return Llama(CONFIG).requires_grad_(False).eval()


def as_gguf(model):
    tensors = {}
    for ours, theirs in names(CONFIG.layers, 1).items():
        weight = model.get_submodule(ours).weight.data
        if ours.endswith(("attn.q", "attn.k")):
            weight = neighbours(weight, CONFIG.heads if ours.endswith("q") else CONFIG.kv_heads)
        if ours != "head":  # tied
            tensors[f"{theirs}.weight"] = plain(weight)
    return tensors


def test_a_model_comes_back_from_a_file_with_its_rows_in_the_order_of_rotation(tmp_path):
    model, tokens = a_model(), torch.arange(10)[None]
    read = from_gguf(GGUF(written(tmp_path / "x", as_gguf(model))))
    assert read.config == CONFIG or read.config.eps == pytest.approx(CONFIG.eps)  # in 32 bits there
    assert read.head.weight is read.embed.token.weight
    close(read(tokens), model(tokens))
    assert not any(p.requires_grad for p in read.parameters())


def test_the_two_orders_of_rows_undo_each_other():
    W = torch.randn(8, 3)
    assert torch.equal(neighbours(halves(W, 2), 2), W)
    assert halves(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"general.architecture": "gpt2"}, "of the kind 'gpt2'; only 'llama'"),
        ({"llama.rope.scaling.type": "linear"}, "scales its positions"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, meta, says):
    with pytest.raises(ValueError, match=says):
        from_gguf(GGUF(written(tmp_path / "x", as_gguf(a_model()), META | meta)))


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="takes the weights of a LlamaForCausalLM"):
        from_llama({"wte.weight": torch.zeros(2, 2)}, 2, 2)


WORDS = ["<|end|>", *letters_of_bytes().values(), "th", "the", "Ġthe", "Ġt"]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.merges": ["t h", "Ġ t", "th e", "Ġ the"], "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.token_type": [3] + [1] * (len(WORDS) - 1),
}  # fmt: skip


def pieces(said, meta=TOKENIZER):
    words = BPE(meta)
    return [words.words[token] for token in words.encode(said)]


def test_pairs_are_joined_in_the_order_of_their_ranks():
    assert pieces("the") == ["the"]
    assert pieces(" the") == ["Ġthe"]  # t and h come first, so the space is joined last
    assert pieces("teth") == ["t", "e", "th"]


def test_digits_stand_alone_and_the_last_space_goes_with_the_word():
    assert pieces("a12  th") == ["a", "1", "2", "Ġ", "Ġ", "th"]  # the vocabulary has no "Ġth"
    assert pieces("²") == [*map(letters_of_bytes().get, "²".encode())]


def test_a_special_word_is_one_token_and_is_left_out_of_the_text():
    words = BPE(TOKENIZER)
    tokens = words.encode("the<|end|> é")
    assert tokens[1] == words.end == 0
    assert words.decode(tokens) == "the é"
    assert words.decode(torch.tensor(tokens), special=True) == "the<|end|> é"
    assert words.encode("") == []


def test_half_a_character_is_shown_as_such():
    words = BPE(TOKENIZER)
    assert words.decode(words.encode("é")[:1]) == "\ufffd"


def test_another_kind_of_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"of the kind \('llama', None\)"):
        BPE({"tokenizer.ggml.model": "llama"})
