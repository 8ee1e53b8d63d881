"""Small models and rows that test files share. Every parameter is random: nothing hides behind a zero or a one."""

import torch
import torch.nn.functional as F

from minipeft.attach import trainable
from minipeft.methods.adapter_fusion import AdapterFusion, fusions
from minipeft.models.transformer import Config, Transformer

VOCAB, BOS, DIM, LAYERS, HEADS, T = 23, 1, 12, 3, 3, 7


def make(bos=BOS, causal=True, context=24, **settings):
    """Positions from BOS, or absolute with bos=None; pre-norm if causal, else post-norm. settings: more of a Config."""
    torch.manual_seed(0)
    settings = {"layers": LAYERS, "heads": HEADS, "ff": 20, "pre_norm": causal} | settings
    model = Transformer(Config(VOCAB, DIM, context=context, causal=causal, bos=bos, **settings))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def stirred(method, model, seed=1):
    """A view of the model with the method on it, whose parameters are far from their start."""
    torch.manual_seed(seed)
    view = method.attach(model)
    with torch.no_grad():
        for p in trainable(view).values():
            p.add_(0.4 * torch.randn_like(p))
        if isinstance(method, AdapterFusion):
            for adapters in fusions(view).values():  # trained ones, say
                for b in adapters.buffers():
                    b.normal_(std=0.4)
    return view


def rows(side=None):
    """Three rows that begin with BOS, of 7, 4 and 6 tokens: alone, as one padded batch, and its mask."""
    torch.manual_seed(2)
    alone = [F.pad(torch.randint(2, VOCAB, (n - 1,)), (1, 0), value=BOS) for n in (T, 4, 6)]
    pads = [(T - len(r), 0) if side == "left" else (0, T - len(r)) for r in alone]
    tokens = torch.stack([F.pad(r, p) for r, p in zip(alone, pads, strict=True)])
    mask = torch.stack([F.pad(torch.ones(len(r), dtype=torch.bool), p) for r, p in zip(alone, pads, strict=True)])
    return alone, tokens, mask


def bits(model):
    """A copy of all numbers of a model, to compare with later: {name: tensor}."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same_bits(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], t) for name, t in before.items())


def close(a, b, tol=1e-5):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


def count(model):
    return sum(p.numel() for p in trainable(model).values())
