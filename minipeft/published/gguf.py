"""GGUF, the file format of llama.cpp, read by hand: metadata, then a list of tensors, then their bytes.

    file = GGUF(path)
    file.meta["llama.block_count"]                  what the metadata says: numbers, texts, lists
    file.tensors["blk.0.attn_q.weight"]             shape, type and offset
    file.stored("blk.0.attn_q.weight")              as it is stored: blocks of codes and scales, for example
    file.read("blk.0.attn_q.weight")                as float32

Two of its types store 32 weights in a block with scales of their own:
    Q4_1     W = d·code + m      code: 4 bits; d and m: 16 bits     20 bytes, 5 bits a weight
    Q8_0     W = d·code          code: 8 bits with a sign; d: 16    34 bytes, 8.5 bits a weight

Source: the specification, docs/gguf.md in the repository ggml-org/ggml.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
BLOCK = 32  # weights in a block
STORED = {  # what one element, or one block, is in the file
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("codes", "u1", BLOCK // 2)]),
    "Q8_0": np.dtype([("d", "<f2"), ("codes", "i1", BLOCK)]),
}
TYPES = {0: "F32", 1: "F16", 3: "Q4_1", 8: "Q8_0"}


@dataclass
class Place:
    """Where a tensor stands in the file. shape: as in PyTorch, (out, in). start: its first byte."""

    shape: tuple[int, ...]
    type: str
    start: int


class GGUF:
    """A GGUF file. Its tensors are read one by one, when they are asked for.

    Raises FileNotFoundError; ValueError if the file is something else or was cut short.
    """

    def __init__(self, path):
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{path} is no GGUF file: it does not begin with these four letters")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.path, self.at = path, 4
        try:
            self.read_header()
        except (struct.error, UnicodeDecodeError, KeyError):
            raise ValueError(f"{path} is damaged: its header cannot be read; get the file again") from None
        last = max((p.start + self.bytes_of(p) for p in self.tensors.values() if p.type in STORED), default=0)
        if last > len(self.data):
            raise ValueError(f"{path} was cut short: it has {len(self.data):,} bytes and needs {last:,}")

    def read_header(self):
        version, tensors, entries = self.number("I"), self.number("Q"), self.number("Q")
        if version not in (2, 3):
            raise ValueError(f"{self.path} is of version {version} of GGUF; 2 and 3 are read here")
        self.meta = {self.text(): self.value(self.number("I")) for _ in range(entries)}
        self.tensors = {}
        for _ in range(tensors):
            name, sizes = self.text(), [self.number("Q") for _ in range(self.number("I"))]
            kind, offset = self.number("I"), self.number("Q")
            self.tensors[name] = Place(tuple(sizes[::-1]), TYPES.get(kind, f"type {kind}"), offset)
        first = self.at + -self.at % self.meta.get("general.alignment", 32)
        for place in self.tensors.values():
            place.start += first

    def number(self, kind):
        (value,) = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize("<" + kind)
        return value

    def text(self):
        size = self.number("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf8")

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            inner, size = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(size)]
        return self.number(NUMBERS[kind])

    @staticmethod
    def bytes_of(place):
        """The size of a tensor in the file."""
        return prod(place.shape) // (BLOCK if place.type[0] == "Q" else 1) * STORED[place.type].itemsize

    def stored(self, name):
        """The tensor as it is stored, a NumPy array of numbers or of blocks with the fields d, m and codes.

        Raises KeyError if there is none of this name; ValueError if it is of a type that is not read here.
        """
        if name not in self.tensors:
            raise KeyError(f"{self.path} has no tensor {name!r}; it has {', '.join(self.tensors)}")
        place = self.tensors[name]
        if place.type not in STORED:
            raise ValueError(f"{name} is stored as {place.type}; read here are {', '.join(STORED)}")
        dtype = STORED[place.type]
        return np.frombuffer(self.data, dtype, self.bytes_of(place) // dtype.itemsize, place.start)

    def read(self, name):
        """The tensor in 32 bits."""
        return torch.from_numpy(dequantized(self.stored(name)).reshape(self.tensors[name].shape))


def dequantized(stored):
    """Numbers, or blocks of codes and scales, as a new array of float32."""
    if not stored.dtype.names:
        return stored.astype("f4")
    d, codes = stored["d"].astype("f4")[:, None], stored["codes"]
    if "m" in stored.dtype.names:  # Q4_1: the first 16 codes are the lower halves of the bytes
        return d * np.concatenate([codes & 15, codes >> 4], axis=1) + stored["m"].astype("f4")[:, None]
    return d * codes
