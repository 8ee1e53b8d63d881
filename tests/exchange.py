"""Small models that are built like published ones, and the methods that other libraries have a place for."""

from torch import nn

from minipeft.methods import (
    IA3,
    AdaLoRA,
    DoRA,
    LoRA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    VeRA,
)
from minipeft.models.sentences import MeanPooled
from minipeft.models.transformer import Config, Embed
from tests.models import CONTEXT, DIM, FF, HEADS, LAYERS, VOCAB, make, moved

FAMILIES = ("gpt2", "bert", "llama")
WEIGHTS = [  # methods in front of modules that all families have
    LoRA(rank=3, alpha=5),
    LoRA(rank=3, alpha=7, targets=("q", "k", "v", "o", "up", "down")),
    LoRA(rank=3, alpha=5, targets=("k", "o", "up"), rank_pattern={"k": 2, "up": 4}, rslora=True),
    LoRA(targets=("q", "v", "up"), rank_pattern={"v": 2, "up": 7}, layers=(0, 2)),
    LoRA(targets=("embed.token", "q")),
    DoRA(rank=3, alpha=5, targets=("q", "v", "down")),
    AdaLoRA(rank=2, initial_rank=3, targets=("q", "v", "up")),
    IA3(),
    IA3(outputs=("q", "up"), inputs=("o", "down")),
    VeRA(rank=5, targets=("up", "down"), seed=3, d_initial=0.5),
]
PROMPTS = [  # methods that stand before a sequence
    PromptTuning(length=3),
    PTuning(length=3, width=5),
    PTuning(length=2, template=(-1, 5, -1, 7), encoder="mlp", width=5),
    PrefixTuning(length=3),
    PrefixTuning(length=3, mlp=5),
    PTuningV2(length=3),
    PTuningV2(length=3, form="key/value"),
]


def built_like(family, tied=True):
    """A frozen model that is built like a GPT-2, BERT or Llama, or an "encoder" of sentences, with random numbers.

    tied: the head's last weight is the table of embeddings.
    """
    if family == "encoder":
        model = MeanPooled(Config(VOCAB, DIM, LAYERS, HEADS, FF, CONTEXT, causal=False, pre_norm=False))
        model.embed, model.head = Embed(VOCAB, DIM, CONTEXT, norm=nn.LayerNorm(DIM)), nn.Identity()
        return moved(model, model.parameters(), 0.3).requires_grad_(False).eval()
    model = make("rotary") if family == "llama" else make(None, causal=family == "gpt2")
    last = model.head
    if family == "gpt2":
        model.config.gelu, last = "tanh", nn.Linear(DIM, VOCAB, bias=False)
        for block in model.blocks:
            block.mlp.act = nn.GELU(approximate="tanh")
        model.head = last
    if family == "bert":
        last, eps = nn.Linear(DIM, VOCAB), model.config.eps
        model.embed = Embed(VOCAB, DIM, CONTEXT, norm=nn.LayerNorm(DIM, eps=eps))
        model.head = nn.Sequential(nn.Linear(DIM, DIM), nn.GELU(), nn.LayerNorm(DIM, eps=eps), last)
        moved(model, [*model.embed.parameters(), *model.head.parameters()], 0.3)
    if tied:
        last.weight = model.embed.token.weight
    return model.requires_grad_(False).eval()
