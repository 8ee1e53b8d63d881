"""Our AdaLoRA computes, weighs and masks like `peft`; where paper and library part company, a test shows both.

The library multiplies by α/(r + 1e-5). Here its r is set to 1e-5 less, and α to r, so that the factor is 1 exactly as
in the paper; one test is about the factor itself. In double precision: a mask hangs on which score is larger.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import AdaLoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from minipeft.attach import merge, trainable, unmerge
from minipeft.methods.adalora import AdaLoRA, layers, ranks
from minipeft.models.transformer import Config, Transformer

ALL = ("q", "k", "v", "o", "up", "down")
LETTERS = {"lora_B": "P", "lora_E": "lam", "lora_A": "Q"}


class Lossy(nn.Module):
    """A model whose output has a `.loss`, which is what the library adds its penalty to."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens, mask=None):
        logits = self.net(tokens, mask)
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        real = real[:, 1:] & real[:, :-1]
        loss = F.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])
        return SimpleNamespace(loss=loss, logits=logits)


def config(start, rank, targets=ALL, steps=48, **more):
    return AdaLoraConfig(
        init_r=start, target_r=rank, lora_alpha=start, target_modules=list(targets), total_step=steps, **more
    )


def attach_both(base, method, alike=True, std=0.3, **more):
    """Our AdaLoRA and peft's on copies of one model, with the same random P, λ and Q."""
    ours = method.attach(copy.deepcopy(base))
    theirs = get_peft_model(copy.deepcopy(base), config(method.start, method.rank, method.targets, **more)).eval()
    for module in theirs.modules():
        if hasattr(module, "ranknum"):
            module.ranknum.requires_grad_(False)  # see the test of this
            if alike:
                module.ranknum["default"].data = torch.tensor([method.start - 1e-5], dtype=torch.float64)
    with torch.no_grad():
        for name, p in factors(theirs).items():
            p.normal_(std=std)
            trainable(ours)[name].copy_(p.view_as(trainable(ours)[name]))
    return ours, theirs


def ours_for(name):
    """peft's `base_model.model.net.blocks.0.attn.q.lora_A.default` under our name."""
    path, letter, _ = name.removeprefix("base_model.model.").rsplit(".", 2)
    return f"{path}.{LETTERS[letter]}"


def factors(theirs):
    """peft's trainable parameters under our names."""
    return {ours_for(name): p for name, p in trainable(theirs).items()}


def compare(ours, theirs, close, what, tol=1e-10):
    """Every P, λ and Q, or what `what` takes of it."""
    expected = factors(theirs)
    assert trainable(ours).keys() == expected.keys()
    for name, p in trainable(ours).items():
        close(what(p), what(expected[name]).view_as(p), tol)


@pytest.fixture
def base(randomised):
    return Lossy(randomised(Transformer(Config(vocab=20, dim=12, layers=2, heads=3, ff=21, context=16)))).double()


@pytest.fixture
def tokens():
    return torch.randint(20, (3, 9))


@pytest.fixture
def mask():
    """The second row is padded on the right, the third on the left."""
    return torch.stack([torch.ones(9), torch.arange(9) < 6, torch.arange(9) > 2]).bool()


# ---- the layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [("q", "v"), ALL], ids=["q v", "all"])
@pytest.mark.parametrize("start", [3, 5])
def test_logits_gradients_merge_and_count(base, tokens, mask, targets, start, close):
    ours, theirs = attach_both(base, AdaLoRA(2, start, targets))
    got, expected = ours(tokens, mask), theirs(tokens, mask)
    assert not torch.allclose(expected.logits[mask], base(tokens, mask).logits[mask], atol=0.1)
    close(got.logits[mask], expected.logits[mask], 1e-10)
    got.loss.backward()
    expected.loss.backward()
    compare(ours, theirs, close, lambda p: p.grad)
    assert sum(p.numel() for p in trainable(ours).values()) == theirs.get_nb_trainable_parameters()[0]
    merge(ours)
    theirs.merge_adapter()
    for path, module in theirs.base_model.model.named_modules():
        if hasattr(module, "lora_E"):
            close(ours.get_submodule(path).weight, module.base_layer.weight, 1e-10)
    close(ours(tokens, mask).logits[mask], got.logits[mask], 1e-10)
    close(theirs(tokens, mask).logits[mask], got.logits[mask], 1e-10)
    assert torch.equal(unmerge(ours)(tokens, mask).logits, got.logits)


def test_a_single_precision_layer_agrees_to_1e_6(close):
    method = AdaLoRA(2, 4, ("0",))
    ours, theirs = attach_both(nn.Sequential(nn.Linear(7, 10)), method, alike=False, std=0.5)
    x = torch.randn(2, 5, 7)
    close(ours(x), theirs(x), 2e-6)  # the library's factor is 4/4.00001
    close(ours[0].delta(), theirs.base_model.model[0].get_delta_weight("default"), 5e-6)


def test_a_fresh_layer_is_the_base_in_both_and_starts_alike():
    base, x = nn.Sequential(nn.Linear(400, 300)), torch.randn(5, 400)
    theirs = get_peft_model(copy.deepcopy(base), config(8, 4, ("0",)))
    ours = AdaLoRA(4, 8, ("0",)).attach(copy.deepcopy(base))
    assert torch.equal(ours(x), base(x))
    assert torch.equal(theirs(x), base(x))
    for name, p in factors(theirs).items():
        assert trainable(ours)[name].std().item() == pytest.approx(p.std().item(), rel=0.1)
        assert trainable(ours)[name].any() == p.any() == (name != "0.lam")


@pytest.mark.parametrize("alpha", [1, 8, 32])
def test_the_paper_has_no_scale_and_the_library_has_alpha_over_the_rank_of_the_start(base, tokens, alpha, close):
    """The two differ by a factor on λ: ours with λ·α/(r + 1e-5) is the library's, and its factor never changes."""
    method = AdaLoRA(2, 5, ALL)
    ours, theirs = attach_both(base, method, alike=False)
    for module in theirs.modules():
        if hasattr(module, "lora_E"):
            module.scaling["default"] = alpha
            assert module.ranknum["default"].item() == 5
    with torch.no_grad():
        for layer in layers(ours).values():
            layer.lam *= alpha / (5 + 1e-5)
    close(ours(tokens).logits, theirs(tokens).logits, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_divisor_of_the_library_is_trained_if_the_base_is_not_in_single_precision(dtype):
    """Casting it to the type of the base makes a new parameter, and that one is not frozen. Here there is none."""
    net = nn.Sequential(nn.Linear(7, 10)).to(dtype)
    theirs = get_peft_model(copy.deepcopy(net), config(4, 2, ("0",)))
    more = {name.removeprefix("base_model.model.") for name in trainable(theirs) if "lora_" not in name}
    assert more == (set() if dtype == torch.float32 else {"0.ranknum.default"})
    assert set(trainable(AdaLoRA(2, 4, ("0",)).attach(net))) == {"0.P", "0.lam", "0.Q"}


# ---- the penalty ------------------------------------------------------------------------------------------------


def test_the_penalty_of_the_library_is_the_mean_norm_and_that_of_the_paper_the_sum_of_squares(base, tokens, close):
    """‖PᵀP − I‖ over all P and Q of 12 matrices; the library's alone depends on neither their number nor is squared."""
    library, paper = AdaLoRA(2, 5, gamma=0.3, mean_norm=True), AdaLoRA(2, 5, gamma=0.3)
    ours, theirs = attach_both(base, library, orth_reg_weight=0.3)
    bare = theirs.get_base_model()(tokens).loss
    added = theirs.base_model(tokens).loss - bare  # AdaLoraModel.forward
    close(library.regularizer(ours), added, 1e-10)
    norms = [
        torch.linalg.norm((p.T @ p if name.endswith("P") else p @ p.T) - torch.eye(5))
        for name, p in factors(theirs).items()
        if not name.endswith("lam")
    ]
    assert len(norms) == 24
    close(added, 0.3 * sum(norms) / 24, 1e-10)
    close(paper.regularizer(ours), 0.3 * sum(n**2 for n in norms), 1e-10)
    library.regularizer(ours).backward()
    added.backward()
    for name, p in factors(theirs).items():
        if name.endswith("lam"):
            assert trainable(ours)[name].grad is None
        else:
            close(trainable(ours)[name].grad, p.grad, 1e-10)


def test_without_a_task_type_the_library_says_nothing_and_leaves_the_penalty_out(base, tokens):
    _, theirs = attach_both(base, AdaLoRA(2, 5), orth_reg_weight=100.0)
    assert theirs(tokens).loss == theirs.get_base_model()(tokens).loss
    assert theirs.base_model(tokens).loss > theirs(tokens).loss + 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks what transformers renamed
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_model_of_transformers_has_the_penalty_only_with_a_task_type(randomised, tokens, task_type):
    gpt2 = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    settings = config(4, 2, ["c_attn"], task_type=task_type, fan_in_fan_out=True)
    theirs = get_peft_model(randomised(GPT2LMHeadModel(gpt2)), settings).eval()
    with_penalty = theirs(input_ids=tokens, labels=tokens).loss
    without = theirs.get_base_model()(input_ids=tokens, labels=tokens).loss
    assert (with_penalty > without + 0.5) == (task_type is not None)


# ---- the budget -------------------------------------------------------------------------------------------------


def shares(first, final, steps):
    """Settings for which `phases` gives exactly these steps; half a step on top keeps off the rounding."""
    return {"warmup": (first + 0.5 * bool(first)) / steps, "final": (final + 0.5 * bool(final)) / steps}


@pytest.mark.parametrize(("first", "final"), [(0, 0), (5, 8), (10, 0), (0, 30)])
def test_the_budget_is_the_librarys_at_every_step(base, first, final):
    steps = 48
    method = AdaLoRA(2, 5, **shares(first, final, steps))
    assert method.phases(steps) == (first, steps - final)
    theirs = get_peft_model(copy.deepcopy(base), config(5, 2, tinit=first, tfinal=final, steps=steps))
    allocator = theirs.base_model.rankallocator
    for t in range(1, steps + 1):
        assert method.budget(t, steps, 12) == allocator.budget_schedule(t)[0]


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


def train_both(base, method, steps, close, **more):
    """Step by step side by side, with a different batch each time. Yields t when losses and weights were compared."""
    ours, theirs = attach_both(base, method, steps=steps, orth_reg_weight=method.gamma, **more)
    optimizers = [torch.optim.AdamW([*trainable(m).values()], lr=3e-2) for m in (ours, theirs)]
    generator = torch.Generator().manual_seed(1)
    for t in range(1, steps + 1):
        tokens = torch.randint(20, (2, 9), generator=generator)
        losses = ours(tokens).loss + method.regularizer(ours), theirs.base_model(tokens).loss
        close(losses[0], losses[1], 1e-8)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.after_step(ours, t - 1, steps)
        theirs.base_model.update_and_allocate(t)
        mine, other = together(trainable(ours)), together(factors(theirs))
        close(mine, other, 1e-7)
        assert torch.equal(mine == 0, other == 0)  # what is masked
        yield t, ours, theirs


@pytest.mark.parametrize(
    ("first", "final", "every", "betas"),
    [(5, 8, 1, (0.85, 0.85)), (4, 12, 5, (0.9, 0.6)), (0, 0, 3, (0.5, 0.8))],
    ids=str,
)
def test_forty_eight_steps_have_the_same_importances_masks_and_weights(base, close, first, final, every, betas):
    steps, came_back, before = 48, 0, None
    method = AdaLoRA(2, 5, ALL, 0.4, True, *betas, **shares(first, final, steps), every=every)
    library = {"tinit": first, "tfinal": final, "deltaT": every, "beta1": betas[0], "beta2": betas[1]}
    base.net.blocks = base.net.blocks[:1]
    for t, ours, theirs in train_both(base, method, steps, close, **library):
        allocator, found = theirs.base_model.rankallocator, layers(ours)
        if t < steps - final:
            for mine, other in (("mean", allocator.exp_avg_ipt), ("spread", allocator.exp_avg_unc)):
                state = {f"{path}.{name}": w for path, m in found.items() for name, w in getattr(m, mine).items()}
                close(together(state), together({ours_for(name): w for name, w in other.items()}), 1e-8)
        if t == steps - final or (first < t < steps - final and t % every == 0):
            kept = {f"{path}.lam": layer.kept for path, layer in found.items()}
            pattern = theirs.peft_config["default"].rank_pattern
            assert {ours_for(name): mine for name, mine in pattern.items()} == {n: k.tolist() for n, k in kept.items()}
            came_back += 0 if before is None else int((together(kept) & ~before).sum())
            before = together(kept)
        if t >= steps - final or (t > first and t % every == 0):
            assert sum(ranks(ours).values()) == method.budget(t, steps, 6)
        else:
            assert sum(ranks(ours).values()) == 30  # in the warm-up, or what was masked has been trained since
    if every == 5:
        assert came_back > 0  # triplets that were masked at one allocation and kept at the next
    assert sum(ranks(ours).values()) == 12
    assert len(set(ranks(ours).values())) > 1


def test_a_budget_for_all_triplets_crashes_the_library_and_masks_nothing_here(base, tokens):
    method = AdaLoRA(5, 5, warmup=0, final=0, interval=1)
    ours, theirs = attach_both(base, method)
    for model in (ours, theirs):
        model(tokens).loss.backward()
    method.after_step(ours, 0, 48)
    assert set(ranks(ours).values()) == {5}
    with pytest.raises(RuntimeError, match="k"):
        theirs.base_model.update_and_allocate(1)


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # it takes a matrix of rank 0 for a shard that was not gathered
def test_the_library_stores_the_kept_triplets_and_here_the_masked_ones_are_stored_too(base, close):
    method = AdaLoRA(2, 5, ALL, mean_norm=True, warmup=0, final=0.5, interval=1)
    base.net.blocks = base.net.blocks[:1]
    *_, (_, ours, theirs) = train_both(base, method, 8, close, tfinal=4)
    stored = get_peft_model_state_dict(theirs)
    for path, layer in layers(ours).items():
        assert stored[f"base_model.model.{path}.lora_A"].shape[0] == ranks(ours)[path]
        assert layer.stored()["Q"].shape[0] == 5
        assert set(layer.stored()) == {"P", "lam", "Q"}
