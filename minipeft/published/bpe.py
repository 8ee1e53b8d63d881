"""The byte-pair tokenizer of SmolLM2 and its relatives, from the metadata of a GGUF file.

A text is cut into pieces (words with the space before them, single digits, punctuation); each piece into bytes; and
then the pair of neighbours that was the most frequent one when the tokenizer was made is joined, again and again.

Source: byte-pair encoding on bytes: GPT-2, Radford et al. 2019.
"""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import groupby, pairwise

import torch

SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CONTROL = 3  # the type of a token that is no text, such as <|im_end|>


@cache
def characters(category):
    """All characters of a Unicode category ("L": letters, "N": numbers), as they stand in the [] of a pattern."""
    found = [i for i in range(0x110000) if unicodedata.category(chr(i))[0] == category]
    runs = [list(run) for _, run in groupby(enumerate(found), lambda pair: pair[1] - pair[0])]
    return "".join(f"{re.escape(chr(run[0][1]))}-{re.escape(chr(run[-1][1]))}" for run in runs)


@cache
def pieces():
    """Two regular expressions: digits or all else, and the pieces of all else."""
    L, N = characters("L"), characters("N")
    words = f"'(?:[stmd]|re|ve|ll)| ?[{L}]+| ?[^{SPACE}{L}{N}]+|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"
    return re.compile(f"[{N}]|[^{N}]+"), re.compile(words)


def letters_of_bytes():
    """A visible character for each byte, {byte: character}: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {byte: chr(byte) if byte in plain else chr(next(others)) for byte in range(256)}


class BPE:
    """Text to tokens and back. `words[token]` is how a token is written in the vocabulary.

    Args:
        meta: the metadata of a GGUF file.

    Raises ValueError for a file with a tokenizer of another kind.
    """

    def __init__(self, meta):
        kind = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre")
        if kind != ("gpt2", "smollm"):
            raise ValueError(f"the file has a tokenizer of the kind {kind}; read here is ('gpt2', 'smollm')")
        self.words = meta["tokenizer.ggml.tokens"]
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(meta["tokenizer.ggml.merges"])}
        self.letters = letters_of_bytes()
        self.bytes = {letter: byte for byte, letter in self.letters.items()}
        types = zip(self.words, meta["tokenizer.ggml.token_type"], strict=True)
        self.special = {word for word, kind in types if kind == CONTROL}
        self.marks = re.compile(f"({'|'.join(map(re.escape, sorted(self.special, key=len, reverse=True)))})")
        self.end = meta["tokenizer.ggml.eos_token_id"]  # the token that ends an answer

    def encode(self, text):
        """The tokens of a text, a list of whole numbers. Words such as <|im_end|> become the token of that name.

        A few rare bytes (control characters) have no token in SmolLM2; they are left out, as by other libraries.
        """
        digits, words = pieces()
        tokens = []
        for part in self.marks.split(text):
            if part in self.special:
                tokens.append(self.ids[part])
                continue
            for run in digits.findall(part):
                for piece in words.findall(run) or [run]:
                    tokens += self.tokens_of(piece)
        return tokens

    @lru_cache(maxsize=100_000)  # noqa: B019 - a tokenizer lives as long as the program
    def tokens_of(self, piece):
        """The tokens of one piece: its bytes, joined until no two neighbours can be."""
        parts = [self.letters[byte] for byte in piece.encode("utf8", "replace")]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if pair not in self.ranks:
                break
            parts = joined(parts, pair)
        return tuple(self.ids[part] for part in parts if part in self.ids)

    def decode(self, tokens, special=False):
        """The text of tokens, a list or a tensor (T,). special: write <|im_end|> and the like as well.

        A character of which only some bytes are there is written as a question mark in a box.
        """
        tokens = tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens
        text = bytearray()
        for word in (self.words[token] for token in tokens):
            if word not in self.special:
                text += bytes(self.bytes[letter] for letter in word)
            elif special:
                text += word.encode()
        return text.decode("utf8", "replace")


def joined(parts, pair):
    """The parts, with these two made one wherever they are neighbours."""
    found, i = [], 0
    while i < len(parts):
        both = tuple(parts[i : i + 2]) == pair
        found.append("".join(pair) if both else parts[i])
        i += 2 if both else 1
    return found
