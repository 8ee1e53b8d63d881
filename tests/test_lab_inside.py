"""Looking inside a view: what is undone is the base's again, what is silenced adds nothing, nothing else changes."""

import torch
from torch import nn

from minipeft import deltas
from minipeft.lab.counting import multiplications
from minipeft.lab.inside import (
    bottlenecks,
    output_change,
    put_back,
    silenced,
    with_affine_adapters,
    with_fewer_directions,
)
from minipeft.methods import BitFit, Houlsby, Pfeiffer
from minipeft.plots import adapter_activations, explained_variance
from minipeft.tasks import Batch
from tests.models import DIM, LAYERS, T, close, make, rows, stirred


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


def test_an_affine_adapter_is_met_exactly_and_another_as_nearly_as_least_squares_can():
    torch.manual_seed(0)
    tokens = torch.randint(2, 20, (20, T))
    view = stirred(Pfeiffer(size=3), make())
    for adapter in bottlenecks(view).values():
        adapter.act = nn.Identity()
    close(with_affine_adapters(view, Batch(tokens, tokens))(tokens), view(tokens))
    bent = stirred(Pfeiffer(size=3), make())
    before = bent(tokens)
    straight = with_affine_adapters(bent, Batch(tokens, tokens))
    assert not bottlenecks(straight)
    assert (straight(tokens) - before).abs().max() > 1e-3
    assert torch.equal(bent(tokens), before)


def test_multiplications_are_those_of_the_matrix_products():
    base, tokens = make(), rows()[1][:1]
    m = 3
    more = multiplications(Pfeiffer(size=m).attach(base), tokens) - multiplications(base, tokens)
    assert more == LAYERS * T * 2 * DIM * m


def test_with_all_directions_a_view_stays_and_with_fewer_its_first_adapter_varies_in_no_more():
    torch.manual_seed(0)
    tokens = torch.randint(2, 20, (20, T))
    view, batch = stirred(Pfeiffer(size=3), make()), Batch(tokens, tokens)
    close(with_fewer_directions(view, batch, 3)(tokens), view(tokens))
    (_, _, before), *_ = adapter_activations(view, batch).values()
    (_, _, after), *_ = adapter_activations(with_fewer_directions(view, batch, 1), batch).values()
    assert [(explained_variance(X) > 1e-9).sum() for X in (before, after)] == [3, 1]
    close(after.mean(0), before.mean(0))
