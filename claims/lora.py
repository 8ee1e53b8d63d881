"""LoRA and its family: how low the rank is, where to put it, how fast it learns, what it weighs."""

import torch

from benchmarks import adalora_planted
from claims.lab import HELD_OUT, NEW, train
from claims.ledger import beats, claim, column, several
from minipeft.bases import base
from minipeft.comparison import LEARNING_RATES
from minipeft.costs import measure
from minipeft.methods import AdaLoRA, Full, LoRA
from minipeft.tasks import Mixture
from minipeft.training import VALIDATION, evaluate, fit

MATRICES = ("q", "k", "v", "o", "up", "down")
THREE = (1e-2, 3e-2, 1e-1)


def truncate(goal, lr, seed, steps=300):
    """Full fine-tuning of all matrices; then of every ΔW only the largest singular values are kept.

    energy: {k: share of ‖ΔW‖² in the first k, mean over matrices}; by_rank: {k: accuracy with those alone}.
    """
    model = base()
    torch.manual_seed(seed)
    full = Full(targets=MATRICES).attach(model)
    fit(full, goal, steps=steps, lr=lr, batch_size=32, seed=seed, device="cpu", progress=False)
    found = {"accuracy": evaluate(full, goal).accuracy, "validation": evaluate(full, goal, seed=VALIDATION).loss}
    tuned = {name: p.detach() for name, p in full.named_parameters()}
    moves = {name: tuned[name] - p for name, p in model.named_parameters()}
    matrices = {name: torch.linalg.svd(move) for name, move in moves.items() if move.ndim == 2 and move.any()}
    ranks = (1, 2, 4, 8, 16, 32)
    shares = [(S**2).cumsum(0) / (S**2).sum() for _, S, _ in matrices.values()]
    found["energy"] = {str(k): torch.stack([s[k - 1] for s in shares]).mean().item() for k in ranks}
    found["by_rank"] = {}
    for k in ranks:
        cut = base()
        with torch.no_grad():
            for name, p in cut.named_parameters():
                p += moves[name]
                if name in matrices:
                    U, S, Vt = matrices[name]
                    p += U[:, :k] * S[:k] @ Vt[:k] - moves[name]
        found["by_rank"][str(k)] = evaluate(cut, goal).accuracy
    return found


@claim(
    "The ΔW of full fine-tuning is of low rank",
    "Aghajanyan et al. 2021; Hu et al. 2022, §7",
    "All twelve matrices fine-tuned in full, 300 steps of 32 examples, three learning rates; then only the k "
    "largest singular values of each ΔW are kept",
    10,
)
def low_rank_change(f):
    goals = (HELD_OUT, NEW)
    found = f.tuned(truncate, [{"goal": goal} for goal in goals], (3e-4, 1e-3, 3e-3))
    rows = []
    for goal, (lr, runs) in zip(goals, found, strict=True):
        eight = [run["by_rank"]["8"] for run in runs]
        f.state(
            f"{goal}: 8 of 64 singular values keep the accuracy within two points",
            min(eight) >= min(column(runs)) - 0.02,
            f"{several(eight)}; all {several(column(runs))}",
        )
        energy = [run["energy"]["8"] for run in runs]
        f.state(f"{goal}: they hold 90 % of ‖ΔW‖²", min(energy) > 0.9, several(energy))
        f.measured += f"{goal}: with 8 of 64 {several(eight)}, {several(energy)} of ‖ΔW‖². "
        rows += [
            (
                f"{goal}, learning rate {lr:g}, {what}",
                *(several([run[key][k] for run in runs]) for k in run_ranks(runs)),
            )
            for key, what in (("by_rank", "accuracy"), ("energy", "share of ‖ΔW‖²"))
        ]
    f.table("With the k largest singular values of each ΔW", ("", *(f"k = {k}" for k in run_ranks(found[0][1]))), rows)


def run_ranks(runs):
    return list(runs[0]["energy"])


def imitate(method, planted, lr, seed):
    """A student imitates the base with a change of known rank planted in one matrix: the share of the error left."""
    run = adalora_planted.train(method, lr, seed, 300, {place: rest for place, *rest in planted})
    return {"error": run["error"], "validation": run["error"], "ranks": run["ranks"]}


@claim(
    "The error drops where LoRA's rank reaches the rank that was planted",
    "Hu et al. 2022, §7; our own experiment",
    "A change of rank 2 or 4 planted in the last layer's v; LoRA on that matrix imitates the logits, 300 steps of 32 "
    "examples, three learning rates for each rank",
    10,
)
def elbow(f):
    place, size = "blocks.1.attn.v", 0.7
    rows = []
    for true in (2, 4):
        ranks = (true - 1, true, true + 1, 2 * true)
        jobs = [{"method": LoRA(rank=r, targets=(place,)), "planted": ((place, true, size),)} for r in ranks]
        below, at, *beyond = [column(runs, "error") for _, runs in f.tuned(imitate, jobs, THREE)]
        drop = [b / a for b, a in zip(below, at, strict=True)]
        f.state(
            f"rank {true} planted: the error falls tenfold from rank {true - 1} to rank {true}",
            min(drop) > 10,
            f"by a factor of {several(drop, 0)}",
        )
        further = [a / b for a, b in zip(at, beyond[-1], strict=True)]
        f.state(
            f"rank {true} planted: it does not fall tenfold again up to rank {2 * true}",
            max(further) < 10,
            f"by a factor of {several(further, 1)}",
        )
        f.measured += f"rank {true}: error left {several(below, 3)} below it, {several(at, 5)} at it. "
        rows += [(true, r, several(e, 5)) for r, e in zip(ranks, (below, at, *beyond), strict=True)]
    f.table("Error left, as a share of the bare base's", ("planted", "LoRA's rank", "error left"), rows)


@claim(
    "q and v together beat one matrix at an equal budget",
    "Hu et al. 2022, table 5",
    "2,048 numbers in different places; 300 steps of 32 examples of a new table, three learning rates, five seeds",
    10,
)
def where(f):
    places = [("q",), ("k",), ("v",), ("o",), ("q", "k"), ("q", "v"), ("q", "k", "v", "o")]
    methods = [LoRA(rank=8 // len(p), targets=p) for p in places]
    job = {"goal": NEW, "steps": 300, "batch": 32}
    found = f.tuned(train, [job | {"method": r} for r in methods], THREE, seeds=range(5))
    scores = {"+".join(p): column(runs) for p, (_, runs) in zip(places, found, strict=True)}
    f.measured = ", ".join(f"{name} {several(values)}" for name, values in scores.items())
    f.note("One matrix is slower, not unable: after 1,000 steps 512 numbers in o alone are enough (see prompting).")
    for other in ("q", "k", "v", "o"):
        f.state(
            f"q and v beat {other} alone",
            beats(scores["q+v"], scores[other]),
            f"{several(scores['q+v'])}; {other} {several(scores[other])}",
        )
    f.table(
        "Rank 8 in one matrix, 4 in two, 2 in four",
        ("", "learning rate", "accuracy, five seeds"),
        [(name, f"{lr:g}", several(scores[name])) for name, (lr, _) in zip(scores, found, strict=True)],
    )


@claim(
    "LoRA+ learns faster than LoRA",
    "Hayou et al. 2024",
    "LoRA of rank 4 with one learning rate, and with B's 16 times A's: seven learning rates each, 120 steps of 32 "
    "examples, five seeds",
    13,
)
def lora_plus(f):
    methods = [LoRA(rank=4), LoRA(rank=4, lr_ratio=16.0)]
    rows = []
    for goal in (HELD_OUT, NEW):
        jobs = [{"method": r, "goal": goal, "steps": 120, "batch": 32} for r in methods]
        found = f.tuned(train, jobs, LEARNING_RATES, seeds=range(5))
        steps = [[run["reached"] or 121 for run in runs] for _, runs in found]
        faster = max(steps[1]) < min(steps[0])
        slower = min(steps[1]) >= max(steps[0])
        f.measured += f"{goal}: .9 after {several(steps[1], 0)} steps, LoRA {several(steps[0], 0)}. "
        f.state(
            f"{goal}: an accuracy of 0.9 after fewer steps",
            True if faster else False if slower else None,
            f"LoRA+ {several(steps[1], 0)}, LoRA {several(steps[0], 0)} steps",
        )
        rows += [
            (goal, r, f"{lr:g}", several(s, 0), several(column(runs)))
            for r, (lr, runs), s in zip(methods, found, steps, strict=True)
        ]
    f.table(
        "121 stands for not within 120 steps", ("", "", "learning rate", "steps to .9", "accuracy at the end"), rows
    )


@claim(
    "AdaLoRA beats LoRA at an equal budget",
    "Zhang et al. 2023",
    "Ranks 8, 4 and 4 planted in three of twelve matrices, budget 12, three learning rates; and a new table, 150 "
    "steps of 32 examples, seven learning rates, five seeds",
    11,
)
def adalora(f):
    plant = (("blocks.1.attn.v", 8, 0.7), ("blocks.1.attn.q", 4, 1.5), ("blocks.0.mlp.down", 4, 0.3))
    methods = [LoRA(rank=1, targets=MATRICES), AdaLoRA(rank=1, initial_rank=8)]
    found = f.tuned(imitate, [{"method": r, "planted": plant} for r in methods], THREE)
    lora, ada = (column(runs, "error") for _, runs in found)
    f.measured = f"planted: error left {several(ada, 3)}, LoRA {several(lora, 3)}; "
    f.state(
        "planted ranks: less error than LoRA spread evenly",
        max(ada) < min(lora),
        f"{several(ada, 3)}; LoRA {several(lora, 3)}",
    )
    f.table(
        "Planted 8, 4 and 4, nothing elsewhere",
        ("seed", "triplets of v1, q1, down0, elsewhere"),
        [
            (
                seed,
                " ".join(str(run["ranks"].get(p, 0)) for p, *_ in plant)
                + f" {sum(run['ranks'].values()) - sum(run['ranks'].get(p, 0) for p, *_ in plant)}",
            )
            for seed, run in enumerate(found[1][1])
        ],
    )
    methods = [LoRA(rank=1, targets=MATRICES), AdaLoRA(rank=1, initial_rank=2)]
    jobs = [{"method": r, "goal": NEW, "steps": 150, "batch": 32} for r in methods]
    natural = f.tuned(train, jobs, LEARNING_RATES, seeds=range(5))
    lora, ada = (column(runs) for _, runs in natural)
    f.measured += f"{NEW}: {several(ada)}, LoRA {several(lora)}"
    f.state(
        f"a natural task, {NEW}: more accurate than LoRA spread evenly",
        beats(ada, lora),
        f"{several(ada)}; LoRA {several(lora)}",
    )
    f.note(
        "AdaLoRA begins with more than its budget, 8 or 2 triplets for each matrix: at first it trains more numbers."
    )


def memory(method, seed):
    """Bytes of one step of Adam on 64 examples."""
    model = base()
    torch.manual_seed(seed)
    found = measure(method.attach(model), Mixture().batch(64, torch.Generator().manual_seed(seed)))
    return {
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations": found.activations,
        "weights": found.weights,
        "total": found.total,
    }


@claim(
    "LoRA uses less memory to train",
    "Hu et al. 2022, §4.2",
    "One step of Adam on 64 examples, every tensor weighed; LoRA of rank 4 on q and v against full fine-tuning",
    10,
)
def training_memory(f):
    full, lora = f.seeds(memory, [{"method": Full()}, {"method": LoRA(rank=4)}])

    def share(*parts):
        return [sum(a[p] for p in parts) / sum(b[p] for p in parts) for a, b in zip(lora, full, strict=True)]

    state = share("gradients", "optimizer")
    f.state("gradients and optimizer: less than a tenth", max(state) < 0.1, f"{several(state, 3)} of full's")
    f.state("activations: less than nine tenths", max(share("activations")) < 0.9, several(share("activations")))
    total = share("gradients", "optimizer", "activations", "weights")
    f.measured = f"{several(state, 3)} of full's gradients and optimizer, {several(total)} of the whole step"
    f.state("all in all: less than half", max(total) < 0.5, f"{several(total)} of full's")
    kinds = ("weights", "gradients", "optimizer", "activations")
    f.table(
        "Kilobytes of one step",
        ("", *kinds),
        [(n, *(f"{r[0][k] / 1000:,.0f}" for k in kinds)) for n, r in (("Full", full), ("LoRA(rank=4)", lora))],
    )
    f.note("In a model this small the activations of a batch outweigh all else; in a large one the weights do.")
