"""AdaLoRA: triplets instead of a product, how important they are, and the budget that all matrices share."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers

exercise = Exercise(
    "adalora",
    "methods/adalora.py",
    stubs=(
        "AdaLoRALinear.__init__",
        "AdaLoRALinear.forward",
        "AdaLoRALinear.delta",
        "AdaLoRALinear.update_importance",
        "AdaLoRALinear.scores",
        "AdaLoRA.regularizer",
        "AdaLoRA.budget",
        "allocate",
    ),
    title="AdaLoRA: ranks that find their places",
    minutes=75,
    difficulty=3,
    why="How to tell what a weight is worth while it is trained, and why one budget for all matrices beats a rank for each.",
    read="Zhang et al. 2023, arXiv:2303.10512, sections 3.1 to 3.3",
    lesson="11",
)


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
    """Ī·Ū of each λ as given, nothing for P and Q."""
    zeros = {"P": torch.zeros_like(made.P), "Q": torch.zeros_like(made.Q)}
    made.sensitivity = {"lam": torch.tensor(scores), **zeros}
    made.uncertainty = {"lam": torch.ones(len(scores)), **zeros}
    return made


def allocated(impl, *layers, budget=3):
    """Layers with these scores, after an allocation."""
    made = [scored(layer(impl, len(scores)), scores) for scores in layers]
    with torch.no_grad():
        impl.allocate(made, 7, budget)
    return made


@exercise.observe("start", "The layer should train P (out, r), lam (r,) and Q (r, in), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.AdaLoRALinear(linear(), 2)).items()}


@exercise.observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.AdaLoRALinear(base, 2)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@exercise.observe("start", "P, λ or Q does not start with the expected width; the numbers are in units of 0.02.")
def width_of_the_start(impl):
    made = impl.AdaLoRALinear(linear(100, 60), 16)
    size = {name: float(p.detach().pow(2).mean().sqrt()) for name, p in attach.trainable(made).items()}
    return {name: round(4 * std / 0.02) / 4 for name, std in size.items()}


@exercise.observe("start", "In the first step the loss should have a gradient for λ, and not yet for P and Q.")
def where_the_first_gradient_goes(impl):
    made = impl.AdaLoRALinear(linear(), 2)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@exercise.observe(
    "start", "Before the first step all triplets should be kept, nothing be known of them, and `history` say so."
)
def what_training_starts_from(impl):
    made = impl.AdaLoRALinear(linear(), 2)
    return {
        "kept": made.kept,
        "history": made.history,
        "sensitivity": made.sensitivity,
        "uncertainty": made.uncertainty,
    }


@exercise.observe("forward", "The shape of the output is not right.")
def shape(impl):
    return str(tuple(layer(impl)(numbers("x", (2, 4, 5))).shape))


@exercise.observe("forward", "The update that is added to the base, P Λ Q x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "With four triplets the update is not the expected one.")
def update_of_another_rank(impl):
    made, x = layer(impl, 4), numbers("x", (2, 4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@exercise.observe("forward", "The gradients that reach P, λ and Q are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@exercise.observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("regularizer", "The penalty of two matrices of different width is not the expected one.")
def regularizer(impl):
    net, method = two(impl)
    far = float(method.regularizer(net))
    with torch.no_grad():
        for made in net:
            made.P.copy_(torch.eye(*made.P.shape))
            made.Q.copy_(torch.eye(*made.Q.shape))
    return {"of some directions": far, "of orthonormal directions": float(method.regularizer(net))}


@exercise.observe("regularizer", "The penalty should pull at P and Q, and leave λ alone.")
def gradients_of_the_penalty(impl):
    net, method = two(impl)
    method.regularizer(net).backward()
    return {name: p.grad for name, p in attach.trainable(net).items()}


@exercise.observe("regularizer", "With mean_norm=True the penalty should be γ times the mean of the norms.")
def penalty_of_the_library(impl):
    net, method = two(impl, mean_norm=True)
    return float(method.regularizer(net))


@exercise.observe("importance", "After one step with β₁ = β₂ = 0, Ī should be the sensitivity I of each number.")
def sensitivity(impl):
    made = layer(impl)
    step(made, 1)
    with torch.no_grad():
        made.update_importance(0.0, 0.0)
    return made.sensitivity


@exercise.observe("importance", "After three steps the smoothed sensitivity Ī is not the expected one.")
def smoothed(impl):
    return weighed(impl).sensitivity


@exercise.observe("importance", "After three steps the uncertainty Ū is not the expected one.")
def uncertainty(impl):
    return weighed(impl).uncertainty


def weighed(impl):
    made = layer(impl)
    for t in range(3):
        step(made, t)
        with torch.no_grad():
            made.update_importance(0.8, 0.6)
    return made


@exercise.observe("importance", "The scores S of the triplets do not follow from Ī and Ū as they should.")
def scores(impl):
    made = layer(impl)
    made.sensitivity = {
        name: numbers(f"sensitivity of {name}", getattr(made, name).shape).abs() for name in ("P", "lam", "Q")
    }
    made.uncertainty = {
        name: numbers(f"uncertainty of {name}", getattr(made, name).shape).abs() for name in ("P", "lam", "Q")
    }
    return made.scores()


@exercise.observe("importance", "λ, P or Q does not add to the score of a triplet what it should.")
def what_a_score_is_made_of(impl):
    made, found = layer(impl), {}
    for one in ("lam", "P", "Q"):
        made.sensitivity = {
            name: torch.full_like(getattr(made, name), 2.0 * (name == one)) for name in ("P", "lam", "Q")
        }
        made.uncertainty = {name: torch.full_like(getattr(made, name), 0.5) for name in ("P", "lam", "Q")}
        found[f"{one} alone"] = made.scores()
    return found


@exercise.observe("budget", "During the warm-up and after the final choice the budget is not right.")
def ends_of_the_budget(impl):
    method = impl.AdaLoRA(rank=2, initial_rank=6, warmup=0.1, final=0.3)
    return {f"b({t}) of 100 steps": method.budget(t, 100, 12) for t in (1, 10, 70, 95, 100)}


@exercise.observe("budget", "Between warm-up and final choice the budget does not fall as it should.")
def fall_of_the_budget(impl):
    method = impl.AdaLoRA(rank=2, initial_rank=6, warmup=0.1, final=0.3)
    return {f"b({t}) of 100 steps": method.budget(t, 100, 12) for t in (13, 20, 29, 37, 52)}


@exercise.observe(
    "budget", "The budget does not end where it should when rank·matrices is no whole number or less than one."
)
def small_budgets(impl):
    return {
        f"rank={r} on 5 matrices": impl.AdaLoRA(rank=r, initial_rank=6).budget(100, 100, 5) for r in (1.25, 1.35, 0.01)
    }


@exercise.observe(
    "allocation", "After an allocation, every λ that is not among the best of all matrices should be zero."
)
def masked(impl):
    first, second = allocated(impl, (0.1, 0.9, 0.8), (0.7, 0.95))
    return {"first layer": first.lam, "second layer": second.lam}


@exercise.observe("allocation", "P and Q are never masked: an allocation should leave them as they are.")
def directions_are_left_alone(impl):
    (made,), before = allocated(impl, (0.3, 0.1, 0.2), budget=2), layer(impl, 3)
    return {"P": made.P - before.P, "Q": made.Q - before.Q}


@exercise.observe(
    "allocation", "Each layer should be told what is kept of it, and its history should grow by one entry."
)
def choice_is_told(impl):
    first, second = allocated(impl, (0.1, 0.9, 0.8), (0.7, 0.95))
    return {
        "kept of the first layer": first.kept,
        "kept of the second layer": second.kept,
        "history of the first layer": first.history,
        "history of the second layer": second.history,
    }


@exercise.observe("allocation", "A budget that is enough for all triplets should mask none.")
def budget_for_all(impl):
    (made,) = allocated(impl, (0.3, 0.1, 0.2), budget=3)
    return made.kept


@exercise.observe("allocation", "λ must stay the parameter that the optimizer knows.")
def same_parameter(impl):
    made = scored(layer(impl, 3), (0.3, 0.1, 0.2))
    before = made.lam
    with torch.no_grad():
        impl.allocate([made], 7, 2)
    return made.lam is before


@exercise.observe("allocation", "A masked triplet that has become important should be kept at the next allocation.")
def masked_ones_come_back(impl):
    (made,) = allocated(impl, (0.1, 0.9, 0.8), budget=1)
    with torch.no_grad():
        impl.allocate([scored(made, (0.9, 0.1, 0.3))], 9, 2)
    return made.kept


@exercise.observe("allocation", "The λ that are left while a small model is trained are not the expected ones.")
def ranks_in_training(impl):
    net, method = two(impl, rank=1, initial_rank=3, warmup=0.2, final=0.2, interval=2)
    left = {}
    for t in range(1, 6):  # allocations after steps 2 and 4; then the choice is final
        step(net, t)
        method.after_step(net, t - 1, 5)
        left |= {f"after step {t}, layer {i}": made.lam.detach() != 0 for i, made in enumerate(net)}
    return left


exercise.mistake(
    "begin is forgotten",
    (("(rank, into).normal_(std=0.02))\n        self.begin()", "(rank, into).normal_(std=0.02))"),),
    "`begin` is not called, so the layer has no Ī, no Ū and nothing that is kept",
    "what does `update_importance` find the first time it is called?",
    "The class text says what `begin` makes; it has to be called when a layer is new.",
)
exercise.mistake(
    "λ is no parameter",
    (("self.lam = nn.Parameter(base.weight.new_zeros(rank))", "self.lam = base.weight.new_zeros(rank)"),),
    "λ is a plain tensor, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained, moved and saved.",
)
exercise.mistake(
    "λ starts at one",
    (("nn.Parameter(base.weight.new_zeros(rank))", "nn.Parameter(base.weight.new_ones(rank))"),),
    "λ starts at one, so the model does not start as the base",
    "what is P Λ Q before the first step?",
    "P and Q start random, so one factor has to silence them until it has learned something.",
)
exercise.mistake(
    "all zero",
    (("new_empty(out, rank).normal_(std=0.02)", "new_zeros(out, rank)"),
     ("new_empty(rank, into).normal_(std=0.02)", "new_zeros(rank, into)")),
    "P, λ and Q all start at zero",
    "∂λ has the factors P and Q: what is it when they are zero?",
    "With all three at zero none ever gets a gradient of the loss.",
)  # fmt: skip
exercise.mistake(
    "zero on the wrong factor",
    (("new_empty(out, rank).normal_(std=0.02)", "new_zeros(out, rank)"),
     ("nn.Parameter(base.weight.new_zeros(rank))", "nn.Parameter(base.weight.new_ones(rank))")),
    "P starts at zero and λ at one, as if this were LoRA with its B",
    "which of the three is silent at the start of AdaLoRA, and why that one?",
    "The first step should reach λ; and the penalty wants P orthonormal, from where zero is far.",
)  # fmt: skip
exercise.mistake(
    "too wide",
    (("new_empty(out, rank).normal_(std=0.02)", "new_empty(out, rank).normal_()"),
     ("new_empty(rank, into).normal_(std=0.02)", "new_empty(rank, into).normal_()")),
    "P and Q start with a standard deviation of 1",
    "what does `normal_` draw if it is not told how wide?",
    "The class text gives the variance of the start.",
)  # fmt: skip
exercise.mistake(
    "the start of LoRA",
    (("new_empty(out, rank).normal_(std=0.02)", "new_empty(out, rank).uniform_(-(rank**-0.5), rank**-0.5)"),
     ("new_empty(rank, into).normal_(std=0.02)", "new_empty(rank, into).uniform_(-(into**-0.5), into**-0.5)")),
    "P and Q start as LoRA's A does, uniform and as wide as the number of inputs allows",
    "does the width of the start depend on the shape here?",
    "P and Q come from one Gaussian here, whatever their shapes.",
)  # fmt: skip
exercise.mistake(
    "columns instead of rows",
    (("h = F.linear(x, self.Q)  # (..., r)", "h = (self.Q @ x.T).T"),),
    "x is taken for a matrix of columns, which works for two dimensions only",
    "which shape has x when there are rows of tokens, (B, T, in)?",
    "Let the features stay the last dimension and multiply from the right, whatever comes before.",
)
exercise.mistake(
    "λ is left out",
    (("F.linear(self.lam * h, self.P)", "F.linear(h, self.P)"), ("self.P * self.lam @ self.Q", "self.P @ self.Q")),
    "λ is left out: the update is P Q x",
    "what does masking λ[i] change in your output?",
    "λ is the middle factor; without it there is nothing that could switch a triplet off.",
)
exercise.mistake(
    "λ on one side",
    (("F.linear(self.lam * h, self.P)", "F.linear(h, self.P)"),),
    "λ is in delta but not in forward",
    "is the merged layer the same function as the unmerged one?",
    "Forward and delta have to tell the same update, or the model changes when it is merged.",
)
exercise.mistake(
    "divided by the rank",
    (("F.linear(self.lam * h, self.P)", "F.linear(self.lam / len(self.lam) * h, self.P)"),
     ("self.P * self.lam @ self.Q", "self.P * (self.lam / len(self.lam)) @ self.Q")),
    "the update is divided by r, as in LoRA",
    "which factor of P Λ Q sets the size of the update?",
    "λ learns its scale; the equation has no other.",
    "huggingface/peft divides by r (and multiplies by α)",
)  # fmt: skip
exercise.mistake(
    "only the update",
    (("return self.base(x) + F.linear", "return F.linear"),),
    "the frozen path is missing: only the update comes out",
    "what does your layer answer when λ is zero?",
    "The update is added to what the base computes, it does not replace it.",
)
exercise.mistake(
    "delta transposed",
    (("return self.P * self.lam @ self.Q  # (out, in)", "return (self.P * self.lam @ self.Q).T"),),
    "ΔW is transposed",
    "which shape has `nn.Linear`'s weight: (in, out) or (out, in)?",
    "A square layer hides this; where in and out differ it stops.",
    "huggingface/peft#315 and #1588, axolotl#3095",
)
exercise.mistake(
    "no penalty",
    (("return self.gamma * sum(gap.norm() for gap in gaps) / len(gaps)", "return 0 * sum(gap.norm() for gap in gaps)"),
     ("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return 0 * sum(gap.square().sum() for gap in gaps)")),
    "the penalty is zero, so nothing makes the directions orthonormal",
    "if P doubles and λ halves, which of the two tells how large the triplet is?",
    "Without orthonormal directions λ[i] alone says little about triplet i.",
    "huggingface/peft#432, where the library leaves the penalty out without a word",
)  # fmt: skip
exercise.mistake(
    "without the identity",
    (("gaps = [w @ w.T - torch.eye(len(w)).to(w) for w in sides]", "gaps = [w @ w.T for w in sides]"),),
    "the identity is missing: the penalty shrinks the directions to nothing",
    "which P has the smallest penalty of yours?",
    "The penalty measures how far PᵀP is from something, and that is not zero.",
)
exercise.mistake(
    "only one side",
    (("for w in (layer.P.T, layer.Q)]", "for w in (layer.P.T,)]"),),
    "only P is penalised, Q is not",
    "which two sets of directions does a singular value decomposition have?",
    "The sum has two terms for each matrix.",
)
exercise.mistake(
    "the wrong product",
    (("for w in (layer.P.T, layer.Q)]", "for w in (layer.P, layer.Q.T)]"),),
    "the products PPᵀ and QᵀQ are compared with the identity, instead of PᵀP and QQᵀ",
    "which shape has the matrix of all products of two directions?",
    "There are r directions out; P has one in each column.",
)
exercise.mistake(
    "λ is penalised too",
    (("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return self.gamma * (sum(gap.square().sum() for gap in gaps) + sum(layer.lam.square().sum() for layer in layers(model).values()))"),),
    "the penalty pulls at λ too",
    "what should the penalty do to the size of an update?",
    "Only the directions are to become orthonormal; how large λ is, is for the loss to say.",
)  # fmt: skip
exercise.mistake(
    "norm without its square",
    (("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return self.gamma * sum(gap.norm() for gap in gaps)"),),
    "the penalty adds the norms up, not their squares",
    "what is the exponent over ‖PᵀP − I‖ in the text of the file?",
    "A norm pulls as hard near the goal as far from it; a square lets go.",
    "huggingface/peft, which takes the mean of norms",
)  # fmt: skip
exercise.mistake(
    "mean instead of sum",
    (("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return self.gamma * sum(gap.square().mean() for gap in gaps)"),),
    "the penalty takes the mean over the entries where a Frobenius norm has their sum",
    "what is the Frobenius norm of the 3×3 identity?",
    "Loss functions like `mse_loss` take a mean unless they are told otherwise.",
)  # fmt: skip
exercise.mistake(
    "γ is left out",
    (("return self.gamma * sum(gap.norm() for gap in gaps) / len(gaps)", "return sum(gap.norm() for gap in gaps) / len(gaps)"),
     ("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return sum(gap.square().sum() for gap in gaps)")),
    "γ is left out of the penalty",
    "what does the setting gamma change in your code?",
    "The penalty stands beside the loss of the task; γ says how much it weighs.",
    "huggingface/peft#1798, about a loss that starts too high",
)  # fmt: skip
exercise.mistake(
    "penalty without gradient",
    (("return self.gamma * sum(gap.square().sum() for gap in gaps)", "return self.gamma * sum(gap.square().sum().item() for gap in gaps)"),),
    "the penalty is a plain number, so it has no gradient",
    "what does `regularizer(model).requires_grad` say?",
    "`.item()`, `.data`, `float` and `no_grad` all cut the way back to P and Q.",
)  # fmt: skip
exercise.mistake(
    "without absolute value",
    (("now = (w * w.grad).abs()", "now = w * w.grad"),),
    "the sensitivity has no absolute value, so it cancels from step to step",
    "may a sensitivity be negative?",
    "What the loss would change counts, in whichever direction.",
)
exercise.mistake(
    "only the gradient",
    (("now = (w * w.grad).abs()", "now = w.grad.abs()"),),
    "the sensitivity is the size of the gradient alone",
    "what would the loss lose if a number that is almost zero already became zero?",
    "To first order the loss changes by the slope times the way to zero.",
)
exercise.mistake(
    "squared sensitivity",
    (("now = (w * w.grad).abs()", "now = (w * w.grad).square()"),),
    "the sensitivity is squared",
    "what is the unit of I, if the loss is in nats?",
    "Some pruning methods square this product; AdaLoRA takes its absolute value.",
)
exercise.mistake(
    "no smoothing",
    (("self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now", "self.sensitivity[name] = now"),),
    "Ī is not smoothed, it is the sensitivity of the last step",
    "what does β₁ change in your code?",
    "One batch tells little; Ī remembers the earlier ones.",
)
exercise.mistake(
    "β exchanged with 1 − β",
    (("beta1 * self.sensitivity[name] + (1 - beta1) * now", "(1 - beta1) * self.sensitivity[name] + beta1 * now"),
     ("beta2 * self.uncertainty[name] + (1 - beta2) *", "(1 - beta2) * self.uncertainty[name] + beta2 *")),
    "β and 1 − β are exchanged",
    "with β = 0.85, how much of the past should be left after one step?",
    "A large β means a long memory.",
)  # fmt: skip
exercise.mistake(
    "β₁ for both",
    (("beta2 * self.uncertainty[name] + (1 - beta2) *", "beta1 * self.uncertainty[name] + (1 - beta1) *"),),
    "Ū is smoothed with β₁ instead of β₂",
    "which of the two settings belongs to Ū?",
    "They have the same default, so this only shows when one of them is changed.",
)
exercise.mistake(
    "the old mean",
    (("            self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now\n", ""),
     ("(now - self.sensitivity[name]).abs()", "(now - self.sensitivity[name]).abs()\n            self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now")),
    "Ū compares I with the Ī of the step before",
    "which Ī stands in the equation of Ū, the old one or the new one?",
    "The order of the two updates matters.",
)  # fmt: skip
exercise.mistake(
    "variance",
    (("(now - self.sensitivity[name]).abs()", "(now - self.sensitivity[name]).square()"),),
    "Ū smooths the square of I − Ī, not its size",
    "what stands between the bars in the equation of Ū?",
    "The paper's uncertainty is a mean distance, not a variance.",
)
exercise.mistake(
    "uncertainty lowers the score",
    (("self.sensitivity[name] * self.uncertainty[name]", "self.sensitivity[name] / (self.uncertainty[name] + 1e-8)"),),
    "uncertainty lowers the score",
    "should a triplet go because its importance varies from batch to batch?",
    "What is uncertain gets the benefit of the doubt: it is kept until more is known.",
    "the course datawhale base-llm, which says it the wrong way round",
)
exercise.mistake(
    "no uncertainty",
    (("self.sensitivity[name] * self.uncertainty[name]", "self.sensitivity[name]"),),
    "the score leaves Ū out",
    "what do you keep Ū for?",
    "s has two factors.",
)
exercise.mistake(
    "sum instead of mean",
    (('s["P"].mean(0) + s["Q"].mean(1)', 's["P"].sum(0) + s["Q"].sum(1)'),),
    "the scores of P and Q are added up, not averaged",
    "does a triplet of a wider matrix deserve a higher score for its width?",
    "Matrices of different widths compete for one budget.",
)
exercise.mistake(
    "only λ counts",
    (('return s["lam"] + s["P"].mean(0) + s["Q"].mean(1)', 'return s["lam"]'),),
    "only λ counts for the score; P and Q are left out",
    "how many numbers does a triplet consist of?",
    "The score is that of the whole triplet, so that one with λ near zero may still be worth keeping.",
)
exercise.mistake(
    "the size of λ",
    (('return s["lam"] + s["P"].mean(0) + s["Q"].mean(1)', "return self.lam.abs()"),),
    "the score is the size of λ",
    "what does your score know of the loss?",
    "The paper tries this as a simpler choice; its method, and this exercise, ask for sensitivity.",
    "the paper's own ablation of the score",
)
exercise.mistake(
    "other axis",
    (('s["P"].mean(0) + s["Q"].mean(1)', 's["P"].mean(1) + s["Q"].mean(0)'),),
    "the means of P and Q are taken over the triplets instead of within each",
    "which index of P, and which of Q, numbers the triplets?",
    "P is (out, r) and Q is (r, in): what is left after the mean must be (r,).",
)
exercise.mistake(
    "linear fall",
    (("(full - target) * left**3", "(full - target) * left"),),
    "the budget falls like a straight line",
    "how much of the excess is left when half of the way is gone?",
    "Most triplets should go early, while there is time to make up for them.",
)
exercise.mistake(
    "cubic the other way",
    (("return int((full - target) * left**3 + target)", "return int(full - (full - target) * (1 - left) ** 3)"),),
    "the budget falls slowly at first and fast at the end",
    "what is raised to the third power: the part of the way that is gone, or the part that is left?",
    "Draw b(t): it should be steep at the beginning and flat at the end.",
)
exercise.mistake(
    "no limits",
    (("left = 1 - min(max(t - first, 0) / (last - first), 1)", "left = 1 - (t - first) / (last - first)"),),
    "the budget goes on falling after the final choice, and is too high before the fall begins",
    "what is your b(T), and what is your b(1)?",
    "The cubic holds between two points only; left and right of them b is constant.",
)
exercise.mistake(
    "the fall starts at once",
    (("left = 1 - min(max(t - first, 0) / (last - first), 1)", "left = 1 - min(t / last, 1)"),),
    "the budget falls from the first step on, without a warm-up",
    "what is b(t) in the first steps?",
    "The scores of the first steps say little, so nothing is masked before tᵢ.",
)
exercise.mistake(
    "as printed",
    (("left = 1 - min(max(t - first, 0) / (last - first), 1)", "left = 1 - min(max(t - first - (steps - last), 0) / (last - first), 1)"),),
    "the fall begins t_f steps too late, as in the printed formula, and does not reach its end",
    "at which t should the numerator be zero, and at which should the fraction be one?",
    "Put both ends of the fall into the formula and see whether it meets them; the file's text says more.",
    "the formula of the paper as printed",
)  # fmt: skip
exercise.mistake(
    "one step late",
    (("max(t - first, 0)", "max(t - 1 - first, 0)"),),
    "the fall is one step late",
    "is the first step t = 0 or t = 1?",
    "b(t) belongs to the moment after step t, and the last step is t = steps.",
)
exercise.mistake(
    "one matrix",
    (("full, target = self.initial_rank * matrices, max(1, round(self.rank * matrices))", "full, target = self.initial_rank, max(1, round(self.rank))"),),
    "the budget is that of one matrix",
    "the triplets of how many matrices does b(t) count?",
    "All matrices draw from one pot.",
)  # fmt: skip
exercise.mistake(
    "rounded to nearest",
    (("return int((full - target) * left**3 + target)", "return round((full - target) * left**3 + target)"),),
    "the budget is rounded to the nearest number, not down",
    "how many triplets can you pay with a budget of 24.9?",
    "This is a detail, told in the docstring: here and in the library what is left of a triplet does not count.",
)
exercise.mistake(
    "end rounded down",
    (("max(1, round(self.rank * matrices))", "int(self.rank * matrices)"),),
    "the end of the budget is cut off, not rounded, and may be zero",
    "what becomes of a model whose budget is zero?",
    "The docstring tells how rank·matrices becomes a whole number.",
)
exercise.mistake(
    "each matrix for itself",
    (("    kept = torch.zeros_like(scores, dtype=torch.bool)\n    kept[scores.topk(budget).indices] = True\n",
      "    mine = [layer.scores() for layer in layers]\n    best = [s.argsort(descending=True).argsort() < budget // len(layers) for s in mine]\n    kept = torch.cat(best)\n"),),
    "every matrix keeps the same number of triplets",
    "can one matrix end with rank 0 and another with all it had?",
    "That ranks find their places is the point: all triplets compete with each other.",
)  # fmt: skip
exercise.mistake(
    "the worst are kept",
    (("scores.topk(budget).indices", "scores.topk(budget, largest=False).indices"),),
    "the triplets with the lowest scores are kept",
    "which end of the sorted scores do you keep?",
    "A high score means that the loss would miss the triplet.",
)
exercise.mistake(
    "a threshold that fails",
    (("kept[scores.topk(budget).indices] = True", "kept = scores > scores.kthvalue(len(scores) - budget).values"),),
    "the threshold is the best score that goes, and there is none when everything may stay",
    "what does your code do when the budget is as large as the number of triplets?",
    "Try the warm-up's budget; asking for the 0th smallest is an error.",
    "huggingface/peft, where target_r equal to init_r stops with an error of kthvalue",
)
exercise.mistake(
    "one too many",
    (("kept[scores.topk(budget).indices] = True", "kept = scores >= scores.sort().values[max(len(scores) - budget - 1, 0)]"),),
    "one triplet too many is kept",
    "is the best one that the budget does not pay for masked?",
    "A threshold taken from the scores themselves is the score of one of them: compare with care.",
)  # fmt: skip
exercise.mistake(
    "threshold one too strict",
    (("kept[scores.topk(budget).indices] = True", "kept = scores > scores.topk(budget).values[-1]"),),
    "one triplet too few is kept",
    "is the last one that the budget pays for kept?",
    "The threshold is the score of a triplet that has to stay.",
)
exercise.mistake(
    "directions are masked too",
    (("        layer.lam[~mine] = 0\n        layer.history", "        layer.lam[~mine] = 0\n        layer.P[:, ~mine] = 0\n        layer.Q[~mine] = 0\n        layer.history"),),
    "P and Q are masked along with λ, so a triplet can never come back",
    "what gradient does λ[i] get when P[:, i] and Q[i] are zero?",
    "Only λ is masked; the directions stay, and with them a way back.",
)  # fmt: skip
exercise.mistake(
    "masked for ever",
    (("    kept = torch.zeros_like(scores, dtype=torch.bool)\n", "    kept = torch.zeros_like(scores, dtype=torch.bool)\n    scores = torch.where(torch.cat([layer.kept for layer in layers]), scores, -1.0)\n"),),
    "what was masked once takes no part in later choices",
    "may a triplet that was masked at step 10 be kept at step 20?",
    "Until the final choice every triplet competes again at each allocation.",
)  # fmt: skip
exercise.mistake(
    "choice is not told",
    (("        layer.kept = mine\n", ""),),
    "λ is masked, but `kept` stays as it was, so the last steps undo the choice",
    "what does `after_step` look at once the choice is final?",
    "The optimizer moves λ after every step, so what is masked has to be remembered.",
)
exercise.mistake(
    "nothing is masked",
    (("        layer.lam[~mine] = 0\n        layer.history.append((t, int(mine.sum())))", "        layer.history.append((t, int(mine.sum())))"),),
    "`kept` says what is chosen, but λ is not masked",
    "what is the rank of the update after your allocation?",
    "λ[i] ← 0 unless the triplet is kept, and that at each allocation.",
)  # fmt: skip
exercise.mistake(
    "a new parameter",
    (("        layer.lam[~mine] = 0\n        layer.history", "        layer.lam = nn.Parameter(layer.lam * mine)\n        layer.history"),),
    "λ becomes a new parameter, and the optimizer goes on with the old one",
    "which object does the optimizer hold?",
    "Change the numbers of λ in place; the parameter itself has to stay.",
)  # fmt: skip

exercise.right(
    "the matrix first",
    (("        h = F.linear(x, self.Q)  # (..., r)\n        return self.base(x) + F.linear(self.lam * h, self.P)  # (..., out)",
      "        return self.base(x) + x @ (self.P @ torch.diag(self.lam) @ self.Q).T"),
     ("return self.P * self.lam @ self.Q  # (out, in)", 'return torch.einsum("or,r,ri->oi", self.P, self.lam, self.Q)')),
)  # fmt: skip
exercise.right(
    "plain constructors",
    (("self.P = nn.Parameter(base.weight.new_empty(out, rank).normal_(std=0.02))\n        self.lam = nn.Parameter(base.weight.new_zeros(rank))\n        self.Q = nn.Parameter(base.weight.new_empty(rank, into).normal_(std=0.02))",
      "self.Q = nn.Parameter(0.02 * torch.randn(rank, into))\n        self.lam, self.P = nn.Parameter(torch.zeros(rank)), nn.Parameter(torch.empty(out, rank))\n        nn.init.normal_(self.P, 0.0, 0.02)"),),
)  # fmt: skip
exercise.right(
    "smoothed in place",
    (("            self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now\n            self.uncertainty[name] = beta2 * self.uncertainty[name] + (1 - beta2) * (now - self.sensitivity[name]).abs()",
      "            self.sensitivity[name].mul_(beta1).add_(now, alpha=1 - beta1)\n            self.uncertainty[name].lerp_((now - self.sensitivity[name]).abs(), 1 - beta2)"),),
)  # fmt: skip
exercise.right(
    "penalty in a loop",
    (("        return self.gamma * sum(gap.square().sum() for gap in gaps)",
      "        total = 0.0\n        for gap in gaps:\n            total = total + torch.linalg.matrix_norm(gap) ** 2\n        return total * self.gamma"),),
)  # fmt: skip
exercise.right(
    "budget by cases",
    (("        left = 1 - min(max(t - first, 0) / (last - first), 1)\n        return int((full - target) * left**3 + target)",
      "        if t <= first:\n            return full\n        if t > last:\n            return target\n        return target + int((full - target) * ((last - t) / (last - first)) ** 3)"),),
)  # fmt: skip
exercise.right(
    "scores by a loop",
    (('s = {name: self.sensitivity[name] * self.uncertainty[name] for name in self.sensitivity}\n        return s["lam"] + s["P"].mean(0) + s["Q"].mean(1)',
      "s = {name: self.sensitivity[name] * self.uncertainty[name] for name in self.sensitivity}\n        return torch.stack([s['lam'][i] + s['P'][:, i].mean() + s['Q'][i].mean() for i in range(len(self.lam))])"),),
)  # fmt: skip
exercise.right(
    "a threshold from sorting",
    (("    kept = torch.zeros_like(scores, dtype=torch.bool)\n    kept[scores.topk(budget).indices] = True\n",
      "    kept = scores >= scores.sort(descending=True).values[budget - 1]\n"),
     ("        layer.lam[~mine] = 0\n        layer.history", "        layer.lam.mul_(mine)\n        layer.history")),
)  # fmt: skip

exercise.variant(
    "falls like a square",
    (("(full - target) * left**3", "(full - target) * left**2"),
     ("then falls like a cubic,", "then falls like a square (not a cubic),")),
    "the budget falls like a square, not like a cubic",
)  # fmt: skip
exercise.variant(
    "the largest counts",
    (('s["P"].mean(0) + s["Q"].mean(1)', 's["P"].amax(0) + s["Q"].amax(1)'),
     ("S[i] = s(λ[i]) + mean s(P[:, i]) + mean s(Q[i])", "S[i] = s(λ[i]) + max s(P[:, i]) + max s(Q[i])")),
    "the score of a triplet takes the largest s of P[:, i] and of Q[i], not the mean",
)  # fmt: skip
exercise.variant(
    "divided by r",
    (("F.linear(self.lam * h, self.P)", "F.linear(self.lam * h, self.P) / len(self.lam)"),
     ("return self.P * self.lam @ self.Q", "return self.P * self.lam @ self.Q / len(self.lam)"),
     ("y = W x + b + P Λ Q x             P", "y = W x + b + P Λ Q x / r         P"),
     ("(λ ⊙ x Qᵀ) Pᵀ in front", "(λ ⊙ x Qᵀ) Pᵀ/r in front"),
     ("W + PΛQ: then inference", "W + PΛQ/r: then inference")),
    "the update is divided by r, the number of triplets that the matrix starts with",
)  # fmt: skip
