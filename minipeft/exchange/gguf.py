"""A LoRA for llama.cpp: an adapter as a GGUF file, for the model in another GGUF file.

    to_gguf_lora(adapted, "pirate.gguf")
    llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --lora pirate.gguf

Metadata say that it is a LoRA, for which architecture, and α; two tensors for each matrix are A (r, in) and B (out, r).
llama.cpp adds α/r·BA, with the r of each matrix. The rows of q and k, and so those of B, stand in another order there:
see `published.llama.neighbours`. The format is told in `published.gguf`, which reads it.

Source: llama.cpp's own converter, convert_lora_to_gguf.py in the repository ggml-org/llama.cpp.
"""

import struct
from pathlib import Path

from minipeft.attach import attachments, detach
from minipeft.deltas import Delta, DeltaError, delta_of, fingerprint, put
from minipeft.exchange.configs import METHODS, most_frequent, short
from minipeft.exchange.names import LLAMA_FAMILY, family_of
from minipeft.exchange.reading import in_type_of
from minipeft.exchange.updates import Update, rescaled, updates_of
from minipeft.files import write_atomically
from minipeft.methods import LoRA
from minipeft.published.gguf import GGUF, NUMBERS, TEXT, TYPES
from minipeft.published.llama import FROM_GGUF, TRANSFORMERS, halves, names, neighbours

ALIGNMENT = 32  # every tensor begins at a multiple of so many bytes
CODES = {kind: code for code, kind in (NUMBERS | TYPES).items()}  # "f": 6, "F32": 0
A, B = ".weight.lora_a", ".weight.lora_b"


def to_gguf_lora(adapted, path):
    """Write a LoRA on a Llama as an adapter for llama.cpp. Returns the size of the file in bytes.

    Raises DeltaError, before anything is written, for another method or model, or a LoRA of the embeddings or the head.
    """
    attached = [a.method for a in attachments(adapted)]
    if len(attached) != 1 or not isinstance(attached[0], LoRA) or family_of(adapted) is not LLAMA_FAMILY:
        raise DeltaError(
            f"llama.cpp takes one LoRA on a Llama; here {', '.join(map(str, attached)) or 'nothing'} is attached to a "
            f"{type(detach(adapted)).__name__}: arithmetic.compress makes a LoRA of what changes weights"
        )
    if attached[0].classes:
        raise DeltaError("llama.cpp has no place for a fresh head: it continues texts")
    c, delta = adapted.config, delta_of(adapted)
    updates = updates_of(adapted, delta, LoRA)
    alpha = most_frequent({theirs: short(update.scale * update.rank) for theirs, update in updates.items()})
    sides = (names(c.layers, side).values() for side in (TRANSFORMERS, FROM_GGUF))
    tensors, in_file = {}, dict(zip(*sides, strict=True))  # {name in transformers: name in a GGUF file}
    for theirs, update in updates.items():
        name = in_file[theirs]
        if not name.startswith("blk."):
            raise DeltaError(f"{theirs} is not in a block, and only LoRAs of the matrices in blocks are written here")
        part = rescaled(update.tensors, update.scale * update.rank / alpha)
        tensors[name + A], tensors[name + B] = part["A"], part["B"]
        if heads := heads_of(name, c):
            tensors[name + B] = neighbours(part["B"], heads)
    meta = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    meta["general.description"] = "a LoRA, written by minipeft"
    return write_atomically(Path(path), packed(meta | {"adapter.lora.alpha": float(alpha)}, tensors))


def heads_of(name, c):
    """How many heads have their rows in llama.cpp's order in this matrix; None if it is neither q nor k."""
    return {"attn_q": c.heads, "attn_k": c.kv_heads}.get(name.rpartition(".")[2])


def packed(meta, tensors):
    """The bytes of a GGUF file. meta: texts and floats. tensors: {name: tensor}, stored in 32 bits."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    for key, value in meta.items():
        is_text = isinstance(value, str)
        head += text(key) + struct.pack("<I", TEXT if is_text else CODES["f"])
        head += text(value) if is_text else struct.pack("<f", value)
    data = b""
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]  # the last first
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, CODES["F32"], len(data))
        data += filled_up(tensor.float().contiguous().numpy().tobytes())
    return filled_up(head) + data


def text(words):
    return struct.pack("<Q", len(words.encode())) + words.encode()


def filled_up(data):
    """With zeros, to where the next tensor may begin."""
    return data + bytes(-len(data) % ALIGNMENT)


def from_gguf_lora(path, model):
    """The LoRA in a GGUF file, as a Delta for this Llama.

    Raises DeltaError if the file holds something else or does not fit the model; ValueError if it is no GGUF file.
    """
    if family_of(model) is not LLAMA_FAMILY:
        raise DeltaError(f"an adapter of llama.cpp is read for a Llama, and this is a {type(detach(model)).__name__}")
    file, c = GGUF(path), detach(model).config
    kind = [file.meta.get(key) for key in ("general.type", "adapter.type", "general.architecture")]
    if kind != ["adapter", "lora", "llama"]:
        raise DeltaError(f"{path} holds {kind}, and what is read here is an adapter, a lora, for a llama")
    ours = {theirs: path for path, theirs in names(c.layers, FROM_GGUF).items()}
    places = {name.removesuffix(A).removesuffix(B) for name in file.tensors}
    if not places:
        raise DeltaError(f"{path} holds no LoRA: there are no tensors in it")
    lacking = [name + end for name in places for end in (A, B) if name + end not in file.tensors]
    if strange := sorted(places - ours.keys()) or lacking:
        raise DeltaError(f"{path}: {strange[0]} is no matrix of this model, or one of its two factors is missing")
    updates, alpha = {}, file.meta.get("adapter.lora.alpha", 0.0)
    for name in (name for name in ours if name in places):
        part, heads = {"A": file.read(name + A), "B": file.read(name + B)}, heads_of(name, c)
        if heads:
            part["B"] = halves(part["B"], heads)
        updates[ours[name]] = Update(None, part, alpha / len(part["A"]) if alpha else 1.0)  # 0 stands for r
    notes = {"from": "llama.cpp"}
    method, made = METHODS[LoRA]({}, updates)
    made = {name: t.contiguous() for name, t in in_type_of(model, made, notes).items()}
    delta = Delta(method, made, fingerprint(model), notes)
    put(method, model, delta.tensors, path)  # whatever does not fit is told now
    return delta
