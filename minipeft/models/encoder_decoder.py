"""An encoder-decoder: one stack of blocks reads the source, another writes the answer. Built from transformer.py.

    encoder    reads the source in both directions and gives a vector for each of its tokens
    memory     makes keys and values of these vectors, other ones for each block of the decoder
    decoder    writes the answer: its blocks attend to the answer so far (`attn`) and to the memory (`cross`)

Cross-attention is attention over a cache that another sequence has filled. So three sequences begin in this model, and
each has a `begin`, where a method can put vectors, or keys and values, in front.
Letters in shape comments: B rows, T tokens of the source, U of the answer, n vectors in front, S keys, d width.

Sources: 1) Vaswani et al. 2017, arXiv:1706.03762. 2) BART: Lewis et al. 2019, arXiv:1910.13461.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from minipeft.models.inputs import check_pairs, check_writing
from minipeft.models.transformer import (
    Attention,
    Begin,
    Block,
    Embed,
    EmbedFromBOS,
    Transformer,
    attend,
    attention_mask,
    choose,
)


@dataclass
class EncoderDecoderConfig:
    """The shape of an EncoderDecoder, with the names of `Config`. BART is `pre_norm=False`."""

    vocab: int
    start: int  # the token that an answer begins with
    dim: int = 64
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 4
    ff: int = 256
    context: int = 32
    pre_norm: bool = True
    gelu: str = "none"
    eps: float = 1e-5
    bos: int | None = None  # count positions from this token, in answers from `start`; None for absolute positions


class CrossAttention(Attention):
    """softmax(QKᵀ/√(d/H)) V: queries from the decoder; keys and values of the memory, which are in the cache."""

    def remember(self, x, cache):  # (B, S, d)
        """Put the keys and values of what the encoder gave into the cache, (B, H, S, d/H)."""
        cache.extend(self.split(self.k(x)), self.split(self.v(x)))

    def forward(self, x, mask=None, cache=None):  # (B, U, d)
        y, weights = attend(self.split(self.q(x)), cache.k, cache.v, mask)
        if self.recording:
            self.weights = weights.detach()
        return self.o(y.transpose(1, 2).flatten(2))  # (B, U, d)


class DecoderBlock(Block):
    """A Block with a third sublayer, `cross`, between attention and MLP, and with a norm for it, `norm_cross`.

    mask, cache: for attention; seen, memory: the same for cross-attention.
    """

    def __init__(self, config):
        super().__init__(config)
        self.cross = CrossAttention(config.dim, config.heads)
        self.norm_cross = nn.LayerNorm(config.dim, eps=config.eps)

    def forward(self, x, mask, cache, seen, memory):  # (B, U, d)
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), mask, cache)
            x = x + self.cross(self.norm_cross(x), seen, memory)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x, mask, cache))
        x = self.norm_cross(x + self.cross(x, seen, memory))
        return self.norm2(x + self.mlp(x))


class Stack(nn.Module):
    """begin → embed → blocks → norm: a Transformer without a head. first: the token that positions count from."""

    def __init__(self, config, block, layers, first):
        super().__init__()
        sizes = config.vocab, config.dim, config.context
        self.begin = Begin()
        self.embed = Embed(*sizes) if config.bos is None else EmbedFromBOS(*sizes, first)
        self.blocks = nn.ModuleList(block(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.eps) if config.pre_norm else nn.Identity()


class Encoder(Stack):
    """Reads a source (B, T): a vector for each token, and for each that `embed` puts in front, (B, n+T, d)."""

    new_cache = Transformer.new_cache  # the decoder has none: it reads nothing without a memory

    def forward(self, tokens, mask=None, cache=None):
        cache = self.new_cache(fixed=True) if cache is None else cache
        cache.extend(tokens, mask)
        x = self.embed(tokens, cache)
        T = x.shape[1]
        mask = attention_mask(T, cache.length + T, causal=False, mask=cache.mask, device=x.device)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, mask, layer)
        return self.norm(x)


class Memory(nn.Module):
    """Makes a Cache of what the encoder gave (B, S, d): keys and values for the cross-attention of each block.

    mask: (B, S) booleans, False at padding, which cross-attention never sees; None if there is none.
    `blocks` and `embed` are the decoder's, as a method has to see them here: what attends is `cross`, and its keys have
    no norm in front. The decoder stands in the model beside this, so it is not registered a second time.
    """

    def __init__(self, decoder):
        super().__init__()
        self.begin = Begin()
        self.__dict__["decoder"] = decoder

    @property
    def blocks(self):
        return [SimpleNamespace(attn=block.cross, pre_norm=False) for block in self.decoder.blocks]

    @property
    def embed(self):
        return self.decoder.embed

    def forward(self, x, mask=None):
        blocks = self.blocks
        cache = self.begin(blocks)
        cache.extend(x[..., 0], mask)
        x = torch.cat([*(P.expand(len(x), -1, -1) for P in cache.front), x], dim=1)
        cache.front = []
        for block, layer in zip(blocks, cache.layers, strict=True):
            block.attn.remember(x, layer)
        return cache


class Decoder(Stack):
    """Writes: reads the embedded answer (B, n+U, d) after what is in the cache, and attends to the memory."""

    def forward(self, x, cache, memory):
        T = x.shape[1]
        mask = attention_mask(T, cache.length + T, causal=True, device=x.device)
        seen = None if memory.mask is None else memory.mask[:, None, None]  # (B, 1, 1, S)
        for block, layer, source in zip(self.blocks, cache.layers, memory.layers, strict=True):
            x = block(x, mask, layer, seen, source)
        return self.norm(x)


class EncoderDecoder(nn.Module):
    """Reads a source and writes an answer. Encoder and decoder share the embedding of tokens.

    Args of forward:
        tokens: (B, T) integers, the source.
        answers: (B, U) integers, `config.start` and the answer so far; shorter ones are padded on the right.
        mask: (B, T) booleans, False at padding in the source; None if there is none. Either side may be padded.

    Returns logits (B, U, V), what comes next at each place of the answer. Raises ValueError, before any work, if an
    argument has another shape or type, a row of the source is padding alone, or a sequence outgrows the context.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        decoder = Decoder(c, DecoderBlock, c.decoder_layers, c.start)
        self.encoder, self.memory, self.decoder = Encoder(c, Block, c.encoder_layers, c.bos), Memory(decoder), decoder
        decoder.embed.token = self.encoder.embed.token
        self.head = nn.Linear(c.dim, c.vocab)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, std=self.std(name))

    def std(self, name):
        """As in Transformer: 1/√(2d), divided by √N for the last weight of each of a stack's N sublayers."""
        N = 2 * self.config.encoder_layers if name.startswith("encoder") else 3 * self.config.decoder_layers
        adds = name.endswith(("attn.o.weight", "cross.o.weight", "mlp.down.weight"))
        return (2 * self.config.dim) ** -0.5 * (N**-0.5 if adds else 1)

    def forward(self, tokens, answers, mask=None):
        check_pairs(tokens, answers, mask)
        cache = Transformer.new_cache(self.decoder, fixed=True)
        x = self.decoder.embed(answers, cache)  # (B, n+U, d); first, as it may refuse them
        x = self.decoder(x, cache, self.read(tokens, mask))
        return self.head(x[:, -answers.shape[1] :])  # (B, U, V)

    def read(self, tokens, mask=None):
        """The memory of a source, a Cache."""
        cache = self.encoder.new_cache(fixed=True)
        x = self.encoder(tokens, mask, cache)  # (B, n+T, d)
        return self.memory(x, None if cache.mask is None else cache.mask[:, -x.shape[1] :])

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None, start=None):
        """Answer each row with up to `new` tokens and return only those, (B, ≤ new).

        start: the token that answers begin with; None for `config.start`. cache: False computes everything again at
        every step, the memory too. The other arguments are those of forward and of `Transformer.generate`, and so are
        the errors.
        """
        start = self.config.start if start is None else start
        check_writing(self, tokens, new, mask, temperature, stop, cache, start)
        past, memory = (self.decoder.begin(self.decoder.blocks), self.read(tokens, mask)) if cache else (None, None)
        answers = tokens.new_full((len(tokens), 1), start)
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(new):
            if cache:
                logits = self.head(self.decoder(self.decoder.embed(answers[:, -1:], past), past, memory))
            else:
                logits = self(tokens, answers, mask)
            next_token = choose(logits[:, -1], temperature, generator)  # (B, 1)
            if stop is not None:
                next_token[ended] = stop
                ended |= next_token[:, 0] == stop
            answers = torch.cat([answers, next_token], dim=1)
            if ended.all():
                break
        return answers[:, 1:]
