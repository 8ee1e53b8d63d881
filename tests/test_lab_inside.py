"""Looking inside a view: what is undone is the base's again, what is silenced adds nothing, and nothing else changes."""

import torch

from minipeft import deltas
from minipeft.lab.inside import output_change, put_back, silenced
from minipeft.methods import BitFit, Houlsby
from tests.models import close, make, rows, stirred


def test_put_back_undoes_the_modules_of_that_name_and_no_others():
    base = make()
    view = stirred(BitFit(), base)
    before = deltas.checksum(deltas.trained(view))
    undone = put_back(view, "norm")  # the last norm; not norm1, not norm2
    changed = {name for name, (_, change) in deltas.updates(undone).items() if not change.any()}
    assert changed == {"norm.bias"}
    q = {name for name, (_, change) in deltas.updates(put_back(view, "attn.q")).items() if not change.any()}
    assert q == {f"blocks.{i}.attn.q.bias" for i in range(3)}
    assert deltas.checksum(deltas.trained(view)) == before


def test_a_silenced_adapter_adds_nothing_and_all_of_them_leave_the_base():
    base, (_, tokens, mask) = make(), rows("right")
    view = stirred(Houlsby(size=3, norms=False), base)
    before = view(tokens, mask)
    close(silenced(view, "blocks.0", "blocks.1", "blocks.2")(tokens, mask), base(tokens, mask))
    some = silenced(view, "blocks.1.mlp")
    assert [name for name, m in some.named_modules() if hasattr(m, "U") and not m.U.weight.any()] == [
        "blocks.1.mlp.adapter"
    ]
    assert torch.equal(view(tokens, mask), before)


def test_the_change_of_an_output_is_what_a_bias_adds():
    base, (_, tokens, _) = make(), rows()
    view = BitFit(targets=("blocks.0.attn.q",)).attach(base)
    with torch.no_grad():
        view.blocks[0].attn.q.bias += 2
    change = output_change(view, "blocks.0.attn.q", tokens[:1])
    close(change, torch.full_like(change, 2.0))
    assert not any(module._forward_hooks for model in (view, base) for module in model.modules())
