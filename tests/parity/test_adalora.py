"""Our AdaLoRA weighs and masks like `peft`; where paper and library part company, a test shows both.

The library multiplies by α/(r + 1e-5). Here its r is set to 1e-5 less, and α to r, so that the factor is 1 exactly as
in the paper; one test is about the factor itself. In double precision: a mask hangs on which score is larger.
What is computed, merged and counted is in test_weight_methods.py.
"""

from types import SimpleNamespace

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from minipeft.attach import trainable
from minipeft.methods.adalora import AdaLoRA, layers, ranks
from tests.models import LAYERS, VOCAB, T, one

MATRICES = 6 * LAYERS
PARTS = {"lora_B": "P", "lora_E": "lam", "lora_A": "Q"}
ONE = AdaLoRA(2, 4, ("layer",))


class Lossy(nn.Module):
    """A model whose output has a `.loss`, which is what the library adds its penalty to."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens):
        logits = self.net(tokens)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


@pytest.fixture
def base(base):
    return Lossy(base)


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (3, T))


def under_our_name(name):
    """peft's `base_model.model.net.blocks.0.attn.q.lora_A.default` under our name."""
    path, letter, _ = name.removeprefix("base_model.model.").rsplit(".", 2)
    return f"{path}.{PARTS[letter]}"


# ---- the layer --------------------------------------------------------------------------------------------------


def test_a_single_precision_layer_agrees_to_1e_6(both, close):
    two, x = both(one(nn.Linear(7, 10)), ONE), torch.randn(2, 5, 7)
    close(two.ours(x), two.theirs(x), 2e-6)
    close(two.ours.layer.delta(), two.layers()[0][1].get_delta_weight("default"), 2e-6)


def test_a_fresh_layer_starts_alike_in_both(both):
    two = both(one(nn.Linear(400, 300)), AdaLoRA(4, 8, ("layer",)), std=None)
    for name, p in two.library().items():
        assert trainable(two.ours)[name].std().item() == pytest.approx(p.std().item(), rel=0.1)


@pytest.mark.parametrize("alpha", [1, 8, 32])
def test_the_paper_has_no_scale_and_the_library_has_alpha_over_the_rank_of_the_start(base, tokens, alpha, both, close):
    """The two differ by a factor on λ: ours with λ·α/(r + 1e-5) is the library's, and its factor never changes."""
    two = both(base, AdaLoRA(2, 5))
    for _, module in two.layers():
        module.scaling["default"] = alpha
        module.ranknum["default"].data.fill_(5)
    with torch.no_grad():
        for layer in layers(two.ours).values():
            layer.lam *= alpha / (5 + 1e-5)
    close(two.ours(tokens).logits, two.theirs(tokens).logits, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_divisor_of_the_library_is_trained_if_the_base_is_not_in_single_precision(dtype):
    """Casting it to the type of the base makes a new parameter, and that one is not frozen. Here there is none."""
    net = one(nn.Linear(7, 10)).to(dtype)
    assert set(trainable(ONE.attach(net))) == {"layer.P", "layer.lam", "layer.Q"}
    theirs = get_peft_model(net, AdaLoraConfig(init_r=4, target_r=2, target_modules=["layer"], total_step=48))
    more = {name.removeprefix("base_model.model.") for name in trainable(theirs) if "lora_" not in name}
    assert more == (set() if dtype == torch.float32 else {"layer.ranknum.default"})


# ---- the penalty ------------------------------------------------------------------------------------------------


def test_the_penalty_of_the_library_is_the_mean_norm_and_that_of_the_paper_the_sum_of_squares(
    base, tokens, both, close
):
    """‖PᵀP − I‖ over all P and Q; the library's alone depends on neither their number nor is squared."""
    library, paper = AdaLoRA(2, 5, gamma=0.3, mean_norm=True), AdaLoRA(2, 5, gamma=0.3)
    two = both(base, library, orth_reg_weight=0.3)
    added = two.theirs.base_model(tokens).loss - two.theirs.get_base_model()(tokens).loss  # AdaLoraModel.forward
    close(library.regularizer(two.ours), added, 1e-10)
    norms = [
        torch.linalg.norm((p.T @ p if name.endswith("P") else p @ p.T) - torch.eye(5))
        for name, p in two.library().items()
        if not name.endswith("lam")
    ]
    assert len(norms) == 2 * MATRICES
    close(added, 0.3 * sum(norms) / len(norms), 1e-10)
    close(paper.regularizer(two.ours), 0.3 * sum(n**2 for n in norms), 1e-10)
    library.regularizer(two.ours).backward()
    added.backward()
    for name, p in two.library().items():
        if name.endswith("lam"):
            assert trainable(two.ours)[name].grad is None
        else:
            close(trainable(two.ours)[name].grad, p.grad, 1e-10)


def test_without_a_task_type_the_library_says_nothing_and_leaves_the_penalty_out(base, tokens, both):
    theirs = both(base, AdaLoRA(2, 5), orth_reg_weight=100.0).theirs
    assert theirs(tokens).loss == theirs.get_base_model()(tokens).loss
    assert theirs.base_model(tokens).loss > theirs(tokens).loss + 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what transformers renamed
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_model_of_transformers_has_the_penalty_only_with_a_task_type(gpt2, tokens, task_type):
    settings = {"init_r": 4, "target_r": 2, "target_modules": ["c_attn"], "total_step": 48, "fan_in_fan_out": True}
    theirs = get_peft_model(gpt2[0], AdaLoraConfig(task_type=task_type, **settings)).eval()
    with_penalty = theirs(input_ids=tokens, labels=tokens).loss
    without = theirs.get_base_model()(input_ids=tokens, labels=tokens).loss
    assert (with_penalty > without + 0.5) == (task_type is not None)


# ---- the budget -------------------------------------------------------------------------------------------------


def shares(first, final, steps):
    """Settings for which `phases` gives exactly these steps; half a step on top keeps off the rounding."""
    return {"warmup": (first + 0.5 * bool(first)) / steps, "final": (final + 0.5 * bool(final)) / steps}


@pytest.mark.parametrize(("first", "final"), [(0, 0), (5, 8), (10, 0), (0, 30)])
def test_the_budget_is_the_librarys_at_every_step(base, first, final, both):
    method = AdaLoRA(2, 5, **shares(first, final, 48))
    assert method.phases(48) == (first, 48 - final)
    allocator = both(base, method, tinit=first, tfinal=final).theirs.base_model.rankallocator
    for t in range(1, 49):
        assert method.budget(t, 48, MATRICES) == allocator.budget_schedule(t)[0]


def test_the_formula_as_printed_in_the_paper_meets_neither_end():
    """b(T) + (b(0) − b(T))·(1 − (t − tᵢ − t_f)/(T − tᵢ − t_f))³ for tᵢ ≤ t < T − t_f."""
    method = AdaLoRA(10, 90, warmup=0.1, final=0.3)
    first, final, full, target = 10, 30, 180, 20

    def printed(t):
        return target + (full - target) * (1 - (t - first - final) / (100 - first - final)) ** 3

    assert printed(10) > 2 * full
    assert printed(69) > 2 * target
    assert method.budget(10, 100, 2) == full
    assert method.budget(70, 100, 2) == target


# ---- a whole training -------------------------------------------------------------------------------------------


def together(tensors):
    """One vector of all numbers, in the order of their names."""
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])


def train_both(two, method, steps, close):
    """Step by step side by side, with a different batch each time. Yields t when losses and weights were compared."""
    optimizers = [torch.optim.AdamW([*trainable(m).values()], lr=1e-1) for m in (two.ours, two.theirs)]
    generator = torch.Generator().manual_seed(1)
    for t in range(1, steps + 1):
        tokens = torch.randint(VOCAB, (2, T), generator=generator)
        losses = two.ours(tokens).loss + method.regularizer(two.ours), two.theirs.base_model(tokens).loss
        close(losses[0], losses[1], 1e-8)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.after_step(two.ours, t - 1, steps)
        two.theirs.base_model.update_and_allocate(t)
        mine, other = together(trainable(two.ours)), together(two.library())
        close(mine, other, 1e-7)
        assert torch.equal(mine == 0, other == 0)  # what is masked
        yield t


@pytest.mark.parametrize(
    ("first", "final", "interval", "betas"),
    [(5, 8, 1, (0.85, 0.85)), (4, 12, 5, (0.9, 0.6)), (0, 0, 3, (0.5, 0.8))],
    ids=str,
)
def test_forty_eight_steps_have_the_same_importances_masks_and_weights(
    base, both, close, first, final, interval, betas
):
    steps, came_back, before, (beta1, beta2) = 48, 0, None, betas
    more = {"beta1": beta1, "beta2": beta2, "interval": interval} | shares(first, final, steps)
    method = AdaLoRA(2, 5, gamma=0.4, mean_norm=True, **more)
    library = {"tinit": first, "tfinal": final, "deltaT": interval, "beta1": beta1, "beta2": beta2}
    base.net.blocks = base.net.blocks[:1]
    two = both(base, method, std=0.3, orth_reg_weight=0.4, **library)
    allocator, found = two.theirs.base_model.rankallocator, layers(two.ours)
    for t in train_both(two, method, steps, close):
        if t < steps - final:
            for mine, other in (("sensitivity", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
                state = {f"{path}.{name}": w for path, m in found.items() for name, w in getattr(m, mine).items()}
                close(together(state), together({under_our_name(name): w for name, w in other.items()}), 1e-8)
        if t == steps - final or (first < t < steps - final and t % interval == 0):
            kept = {f"{path}.lam": layer.kept for path, layer in found.items()}
            pattern = two.theirs.peft_config["default"].rank_pattern
            assert {under_our_name(n): mine for n, mine in pattern.items()} == {n: k.tolist() for n, k in kept.items()}
            came_back += 0 if before is None else int((together(kept) & ~before).sum())
            before = together(kept)
        if t >= steps - final or (t > first and t % interval == 0):
            assert sum(ranks(two.ours).values()) == method.budget(t, steps, 6)
        else:
            assert sum(ranks(two.ours).values()) == 30  # in the warm-up, or what was masked has been trained since
    if interval == 5:
        assert came_back > 0  # triplets that were masked at one allocation and kept at the next
    assert sum(ranks(two.ours).values()) == 12
    assert len(set(ranks(two.ours).values())) > 1


def test_a_budget_for_all_triplets_crashes_the_library_and_masks_nothing_here(base, tokens, both):
    method = AdaLoRA(5, 5, warmup=0, final=0, interval=1)
    two = both(base, method)
    for model in (two.ours, two.theirs):
        model(tokens).loss.backward()
    method.after_step(two.ours, 0, 48)
    assert set(ranks(two.ours).values()) == {5}
    with pytest.raises(RuntimeError, match="k"):
        two.theirs.base_model.update_and_allocate(1)


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # it takes a matrix of rank 0 for a shard that was not gathered
def test_the_library_stores_the_kept_triplets_and_here_the_masked_ones_are_stored_too(base, both, close):
    method = AdaLoRA(2, 5, mean_norm=True, warmup=0, final=0.5, interval=1)
    base.net.blocks = base.net.blocks[:1]
    two = both(base, method, std=0.3, orth_reg_weight=method.gamma, tfinal=4, total_step=8)
    assert list(train_both(two, method, 8, close))[-1] == 8
    stored = get_peft_model_state_dict(two.theirs)
    for path, layer in layers(two.ours).items():
        assert stored[f"base_model.model.{path}.lora_A"].shape[0] == ranks(two.ours)[path]
        assert layer.stored()["Q"].shape[0] == 5
        assert set(layer.stored()) == {"P", "lam", "Q"}
