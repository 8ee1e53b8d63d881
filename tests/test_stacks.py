"""Every method on every other: the upper one is trained, the lower one frozen, and what holds for one holds for two."""

import pytest
import torch

from minipeft.attach import attachments, detach, trainable
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LinearProbe,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.training import loss_of
from minipeft.views import merge
from tests.models import BOS, bits, close, make, rows, same_bits, stirred

SOME = [
    Full(targets=("mlp",)), LoRA(rank=2, targets=("q", "k", "token")), LoRA(rank=2, targets=("up.weight", "k.weight")),
    PromptTuning(length=2), PTuning(length=2, width=4), PTuning(length=2, template=(-1, 9, -1), width=4),
    PrefixTuning(length=3), PrefixTuning(length=2, mlp=4), PTuningV2(length=2), PTuningV2(length=2, form="key/value"),
    BitFit(), IA3(), Houlsby(size=3), Pfeiffer(size=3), ParallelAdapter(size=3), AdapterFusion(adapters=2, size=3),
    AdaLoRA(rank=2, initial_rank=3), QLoRA(rank=2, block_size=8), DoRA(rank=2), VeRA(rank=4), PiSSA(rank=2),
    LinearProbe(),
]  # fmt: skip
CODES = {  # what a model stored in 4 bits has no weights for
    str(SOME[0]): r"'blocks\.0\.mlp\.up\.packed' holds torch\.uint8, in which Full cannot train",
    str(SOME[2]): r"no module or weight is named 'up\.weight' or 'k\.weight'",
}
MERGEABLE = Full | LinearProbe | BitFit | IA3 | LoRA | AdaLoRA | DoRA | VeRA | PiSSA


def test_every_method_is_here():
    assert {type(method) for method in SOME} == set(METHODS.values())


@pytest.mark.parametrize("upper", SOME, ids=str)
@pytest.mark.parametrize("lower", SOME, ids=str)
def test_two_methods_on_one_model(lower, upper):
    absolute = (SOME.index(lower) + SOME.index(upper)) % 2  # so each method meets both kinds of positions
    base, (alone, tokens, mask) = make(None if absolute else BOS).double(), rows("left")
    before = bits(base)
    below = stirred(lower, base, 1)
    if isinstance(lower, QLoRA) and str(upper) in CODES:
        with pytest.raises((TypeError, ValueError), match=CODES[str(upper)]):
            upper.attach(below)
        return
    frozen, view = bits(below), stirred(upper, below, 2)
    y = view(tokens, mask)
    assert y.isfinite().all()
    close(y[1][mask[1]], view(alone[1][None])[0], 1e-8)  # the row with most padding
    made, again = (view.generate(tokens, 2, mask, cache=cache) for cache in (True, False))
    assert torch.equal(made, again)
    assert (detach(view), detach(view, 1)) == (base, below)
    assert [a.method for a in attachments(view)] == [attachments(below)[0].method, attachments(view)[-1].method]
    mine = trainable(view)
    assert mine
    assert not {id(p) for p in mine.values()} & {id(p) for p in below.parameters()}
    loss_of(view(tokens[:, :-1], mask[:, :-1]), tokens[:, 1:]).backward()
    assert all(p.grad is not None for p in mine.values())
    assert all(p.grad is None for model in (below, base) for p in model.parameters())
    if isinstance(lower, MERGEABLE) and isinstance(upper, MERGEABLE):
        close(merge(view)(tokens, mask), y, 1e-8)
    else:
        with pytest.raises(TypeError, match="cannot be merged"):
            merge(view)
    assert same_bits(base, before)
    assert same_bits(below, frozen)
