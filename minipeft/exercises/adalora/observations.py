"""AdaLoRA: triplets instead of a product, how important they are, and the budget that all matrices share."""

import torch
from torch import nn

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers

observe = Observations()


def layer(impl, rank=2):
    """An AdaLoRALinear far from its start, with in ≠ out ≠ r and a bias."""
    return fill(impl.AdaLoRALinear(linear(), rank), "trainable")


def two(impl, **settings):
    """Two layers of different width, with P, λ and Q far from their start, and their method."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    method = impl.AdaLoRA(**{"rank": 1, "initial_rank": 3, "gamma": 0.7, "targets": ("0", "1"), **settings})
    return fill(method.attach(net), "trainable"), method


def step(module, t):
    """Fresh numbers and fresh gradients, as after a step of an optimizer."""
    for name, p in attach.trainable(module).items():
        both = numbers(f"{name} {t}", (2, *p.shape))
        p.data, p.grad = both[0], both[1]


def scored(made, scores):
    """Scores as given, whoever computes them: Ī·Ū of each λ, nothing for P and Q."""
    zeros = {"P": torch.zeros_like(made.P), "Q": torch.zeros_like(made.Q)}
    made.sensitivity = {"lam": torch.tensor(scores), **zeros}
    made.uncertainty = {"lam": torch.ones(len(scores)), **zeros}
    made.scores = lambda: torch.tensor(scores)
    return made


def allocated(impl, *layers, budget=3):
    """Layers with these scores, after an allocation."""
    made = [scored(layer(impl, len(scores)), scores) for scores in layers]
    with torch.no_grad():
        impl.allocate(made, 7, budget)
    return made


@observe("start", "The layer should train P (out, r), lam (r,) and Q (r, in), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.AdaLoRALinear(linear(), 2)).items()}


@observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.AdaLoRALinear(base, 2)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@observe("start", "P, λ or Q does not start with the expected width; the numbers are in units of 0.02.")
def width_of_the_start(impl):
    made = impl.AdaLoRALinear(linear(200, 150), 16)
    size = {name: float(p.detach().pow(2).mean().sqrt()) for name, p in attach.trainable(made).items()}
    return {name: float(f"{std / 0.02:.0e}") for name, std in size.items()}


@observe("start", "P and Q should start as draws from a Gaussian with mean zero.")
def draws_of_the_start(impl):
    made, found = impl.AdaLoRALinear(linear(200, 150), 16), {}
    for name, w in (("P", made.P.detach().T), ("Q", made.Q.detach())):
        mean, std = float(w.mean()), float(w.std())
        found[name] = {
            "has both signs": bool(w.min() < 0 < w.max()),
            "has the mean zero": abs(mean) <= std / 4,
            "is Gaussian": bool((w - mean).pow(4).mean() > 2.4 * std**4),  # 3 there, 1.8 where it is uniform
            "is orthonormal": bool((w @ w.T - torch.eye(len(w))).norm() < 0.1),
        }
    return found


@observe("start", "Two layers should not start alike, and making one should not set the random numbers back.")
def dice(impl):
    one, other = (impl.AdaLoRALinear(linear(), 2) for _ in range(2))
    states = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.AdaLoRALinear(linear(), 2)
        states.append(torch.get_rng_state())
    found = {f"{name} starts alike": bool((getattr(one, name) == getattr(other, name)).all()) for name in "PQ"}
    return found | {"random numbers are set back": torch.equal(*states)}


@observe("start", "P, λ and Q should have the type of the base's weight, whatever torch's default type is.")
def type_of_what_is_trained(impl):
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        made = impl.AdaLoRALinear(linear().to(dtype), 2)
        found |= {
            f"{name} on {models.short(dtype)}": models.short(p.dtype) for name, p in attach.trainable(made).items()
        }
    return found


@observe("start", "In the first step the loss should have a gradient for λ, and not yet for P and Q.")
def where_the_first_gradient_goes(impl):
    made = impl.AdaLoRALinear(linear(), 2)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@observe("start", "Before the first step all triplets should be kept, nothing be known of them, and `history` say so.")
def what_training_starts_from(impl):
    made = impl.AdaLoRALinear(linear(), 2)
    return {
        "kept": made.kept,
        "history": made.history,
        "sensitivity": made.sensitivity,
        "uncertainty": made.uncertainty,
    }


@observe("forward", "x may have any number of dimensions, (in), (B, in) or (B, T, in): the features come last.")
def dimensions_of_the_input(impl):
    made, found = layer(impl), {"(4, 5)": str(tuple(layer(impl)(numbers("x", (4, 5))).shape))}
    for some in ((5,), (2, 4, 5)):
        try:
            found[str(some)] = str(tuple(made(numbers("x", some)).shape))
        except Exception:
            found[str(some)] = "stops"
    return found


@observe("forward", "The update that is added to the base, P Λ Q x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "With four triplets the update is not the expected one.")
def update_of_another_rank(impl):
    made, x = layer(impl, 4), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@observe("forward", "The gradients that reach P, λ and Q are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@observe(
    "forward", "The gradient that goes on to the input, through the frozen path and through the update, is not right."
)
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@observe("forward", "Everything that is trained should receive a gradient when the loss of a model is sent back.")
def arrivals_in_a_model(impl):
    net, _ = two(impl)
    return models.arrivals(net, net(numbers("x", (4, 5))))


@observe("forward", "On a base in float64, float32 or bfloat16, P, λ, Q and the output should have its type.")
def bases_of_other_types(impl):
    return models.types(
        lambda dtype: impl.AdaLoRALinear(linear().to(dtype), 2),
        lambda made: made(numbers("x", (4, 5)).to(made.base.weight.dtype)),
    )


@observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "Where in, out and r are equal, λ should still scale triplets: columns of P, or rows of Q.")
def delta_of_a_square_layer(impl):
    return fill(impl.AdaLoRALinear(linear(3, 3), 3), "trainable").delta()


@observe("merge", "What reads the layer's `weight`, W + ΔW, sends P, λ and Q other gradients than it should, or none.")
def gradients_through_the_weight(impl):
    return models.through_weight(layer(impl))


@observe("forward", "An x whose rows do not lie in memory one behind the other should be answered as any other.")
def scattered_input(impl):
    return models.scattered(layer(impl))


@observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "After P, λ and Q have changed, forward pass and merge should use the new numbers.")
def after_a_step(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x), made.delta(), made.merged()
    with torch.no_grad():
        for name, p in attach.trainable(made).items():
            p.copy_(numbers(f"{name} after a step", p.shape))
    return {"forward": made(x) - linear()(x), "delta": made.delta(), "merged": made.merged()(x) - linear()(x)}


@observe("regularizer", "The penalty of two matrices of different width is not the expected one.")
def regularizer(impl):
    net, method = two(impl)
    far = float(method.regularizer(net))
    with torch.no_grad():
        for made in net:
            made.P.copy_(torch.eye(*made.P.shape))
            made.Q.copy_(torch.eye(*made.Q.shape))
    return {"of some directions": far, "of orthonormal directions": float(method.regularizer(net))}


@observe("regularizer", "The penalty should pull at P and Q, and leave λ alone.")
def gradients_of_the_penalty(impl):
    net, method = two(impl)
    method.regularizer(net).backward()
    return {name: p.grad for name, p in attach.trainable(net).items()}


@observe("regularizer", "With mean_norm=True the penalty should be γ times the mean of the norms.")
def penalty_of_the_library(impl):
    net, method = two(impl, mean_norm=True)
    return float(method.regularizer(net))


@observe("importance", "After one step with β₁ = β₂ = 0, Ī should be the sensitivity I of each number.")
def sensitivity(impl):
    made = layer(impl)
    step(made, 1)
    with torch.no_grad():
        made.update_importance(0.0, 0.0)
    return made.sensitivity


@observe("importance", "After three steps the smoothed sensitivity Ī is not the expected one.")
def smoothed(impl):
    return weighed(impl).sensitivity


@observe("importance", "After three steps the uncertainty Ū is not the expected one.")
def uncertainty(impl):
    return weighed(impl).uncertainty


def weighed(impl):
    made = layer(impl)
    for t in range(3):
        step(made, t)
        with torch.no_grad():
            made.update_importance(0.8, 0.6)
    return made


@observe("importance", "`update_importance` should leave the weights and their gradients as they are.")
def what_an_update_leaves_alone(impl):
    made = layer(impl)
    step(made, 1)
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in attach.trainable(made).items()}
    with torch.no_grad():
        made.update_importance(0.8, 0.6)
    now = attach.trainable(made)
    return {
        name: {"the weight": torch.equal(w, now[name]), "the gradient": torch.equal(g, now[name].grad)}
        for name, (w, g) in before.items()
    }


@observe("importance", "The scores S of the triplets do not follow from Ī and Ū as they should.")
def scores(impl):
    made = layer(impl)
    made.sensitivity = {
        name: numbers(f"sensitivity of {name}", getattr(made, name).shape).abs() for name in ("P", "lam", "Q")
    }
    made.uncertainty = {
        name: numbers(f"uncertainty of {name}", getattr(made, name).shape).abs() for name in ("P", "lam", "Q")
    }
    return made.scores()


@observe("importance", "λ, P or Q does not add to the score of a triplet what it should.")
def what_a_score_is_made_of(impl):
    made, found = layer(impl), {}
    for one in ("lam", "P", "Q"):
        made.sensitivity = {
            name: torch.full_like(getattr(made, name), 2.0 * (name == one)) for name in ("P", "lam", "Q")
        }
        made.uncertainty = {name: torch.full_like(getattr(made, name), 0.5) for name in ("P", "lam", "Q")}
        found[f"{one} alone"] = made.scores()
    return found


@observe("budget", "During the warm-up and after the final choice the budget is not right.")
def ends_of_the_budget(impl):
    method = impl.AdaLoRA(rank=2, initial_rank=6, warmup=0.1, final=0.3)
    return {f"b({t}) of 100 steps": method.budget(t, 100, 12) for t in (1, 10, 70, 95, 100)}


@observe("budget", "Between warm-up and final choice the budget does not fall as it should.")
def fall_of_the_budget(impl):
    method = impl.AdaLoRA(rank=2, initial_rank=6, warmup=0.1, final=0.3)
    return {f"b({t}) of 100 steps": method.budget(t, 100, 12) for t in (13, 20, 29, 37, 52)}


@observe("budget", "The budget does not end where it should when rank·matrices is no whole number or less than one.")
def small_budgets(impl):
    return {
        f"rank={r} on 5 matrices": impl.AdaLoRA(rank=r, initial_rank=6).budget(100, 100, 5) for r in (1.25, 1.35, 0.01)
    }


@observe("allocation", "After an allocation, every λ that is not among the best of all matrices should be zero.")
def masked(impl):
    first, second = allocated(impl, (0.1, 0.9, 0.8), (0.7, 0.95))
    return {"first layer": first.lam, "second layer": second.lam}


@observe("allocation", "P and Q are never masked: an allocation should leave them as they are.")
def directions_are_left_alone(impl):
    (made,), before = allocated(impl, (0.3, 0.1, 0.2), budget=2), layer(impl, 3)
    return {"P": made.P - before.P, "Q": made.Q - before.Q}


@observe("allocation", "Each layer should be told what is kept of it, and its history should grow by one entry.")
def choice_is_told(impl):
    first, second = allocated(impl, (0.1, 0.9, 0.8), (0.7, 0.95))
    return {
        "kept of the first layer": first.kept,
        "kept of the second layer": second.kept,
        "history of the first layer": first.history,
        "history of the second layer": second.history,
    }


@observe("allocation", "A budget that is enough for all triplets should mask none.")
def budget_for_all(impl):
    (made,) = allocated(impl, (0.3, 0.1, 0.2), budget=3)
    return made.kept


@observe("allocation", "λ must stay the parameter that the optimizer knows.")
def same_parameter(impl):
    made = scored(layer(impl, 3), (0.3, 0.1, 0.2))
    before = made.lam
    with torch.no_grad():
        impl.allocate([made], 7, 2)
    return made.lam is before


@observe("allocation", "A masked triplet that has become important should be kept at the next allocation.")
def masked_ones_come_back(impl):
    (made,) = allocated(impl, (0.1, 0.9, 0.8), budget=1)
    with torch.no_grad():
        impl.allocate([scored(made, (0.9, 0.1, 0.3))], 9, 2)
    return made.kept


@observe("allocation", "A masked λ should still be trained and used, so that its triplet can come back.")
def masked_ones_are_trained(impl):
    first, second = allocated(impl, (0.1, 0.9, 0.8, 0.7), (0.05, 0.03))  # nothing is kept of the second
    found = {}
    for name, made in (("first layer", first), ("second layer", second)):
        made(numbers("x", (4, 5))).pow(2).sum().backward()
        found[f"gradients of λ, {name}"] = made.lam.grad
        with torch.no_grad():
            made.lam.copy_(numbers("trained further", made.lam.shape))
        found[f"ΔW with λ trained further, {name}"] = made.delta()
    return found


@observe("allocation", "An allocation reads Ī and Ū and should leave them as they are.")
def importance_is_left_alone(impl):
    (made,) = allocated(impl, (0.3, 0.1, 0.2), budget=2)
    return {"Ī": made.sensitivity, "Ū": made.uncertainty}


@observe(
    "allocation",
    "The budget is a number: of equal scores any may be kept, but in all as many as it says.",
)
def kept_where_scores_are_equal(impl):
    first, second = allocated(impl, (0.5, 0.9, 0.5), (0.5, 0.2), budget=2)
    return {
        "kept": int(first.kept.sum() + second.kept.sum()),
        "λ that are left": int(first.lam.count_nonzero() + second.lam.count_nonzero()),
    }


@observe("allocation", "Scores may be very small, as products of small gradients are: the same triplets are kept.")
def choice_by_small_scores(impl):
    first, second = allocated(impl, (1e-9, 9e-9, 8e-9), (7e-9, 9.5e-9))
    return {"first layer": first.lam != 0, "second layer": second.lam != 0}


@observe("allocation", "The λ that are left while a small model is trained are not the expected ones.")
def ranks_in_training(impl):
    net, method = two(impl, rank=1, initial_rank=3, warmup=0.2, final=0.2, interval=2)
    left = {}
    for t in range(1, 6):  # allocations after steps 2 and 4; then the choice is final
        step(net, t)
        method.after_step(net, t - 1, 5)
        left |= {f"after step {t}, layer {i}": made.lam.detach() != 0 for i, made in enumerate(net)}
    return left
