"""What a method costs when it is used: time, and bits."""

import torch

from claims.lab import HELD_OUT, NEW, train
from claims.ledger import claim, column, several
from minipeft.bases import base
from minipeft.costs import latency
from minipeft.methods import Houlsby, LoRA, ParallelAdapter, Pfeiffer, PrefixTuning, QLoRA
from minipeft.methods.qlora import rounding_error
from minipeft.tasks import Mixture
from minipeft.training import evaluate
from minipeft.views import merge

MATRICES = ("q", "k", "v", "o", "up", "down")


def times(seed):
    """Median time of a forward pass of 32 examples, as a multiple of the base's; all take turns."""
    torch.manual_seed(seed)
    models = {"the base": base(), "the base, again": base()}
    methods = [
        LoRA(rank=4),
        LoRA(rank=4, targets=MATRICES),
        Houlsby(size=8),
        Pfeiffer(size=16),
        ParallelAdapter(size=16),
    ]
    for method in [*methods, *(PrefixTuning(length=n) for n in (4, 16, 64))]:
        models[str(method)] = method.attach(base())
    models["merged"] = merge(LoRA(rank=4, targets=MATRICES).attach(base()))
    batch = HELD_OUT.batch(32, torch.Generator().manual_seed(seed))
    found = latency(models, batch, repeats=150)
    return {name: median / found["the base"][1] for name, (_, median, _) in found.items()}


@claim(
    "Adapters add latency, merged LoRA adds none, a prefix costs length",
    "Hu et al. 2022, §3 and table 1; Li & Liang 2021",
    "A forward pass of 32 examples on one thread, medians of 150 in turn, three repeats, as a multiple of the base's",
    4,
    alone=True,
)
def inference(f):
    (runs,) = f.seeds(times, [{}])
    for name in ("Houlsby(size=8)", "Pfeiffer(size=16)", "ParallelAdapter(size=16)"):
        f.state(f"{name} takes at least 5 % longer", min(column(runs, name)) > 1.05, several(column(runs, name)))
    f.state("merged LoRA takes at most 5 % longer", max(column(runs, "merged")) < 1.05, several(column(runs, "merged")))
    short, long = (column(runs, str(PrefixTuning(length=n))) for n in (4, 64))
    names = ["Pfeiffer(size=16)", "merged", str(PrefixTuning(length=4)), str(PrefixTuning(length=64))]
    f.measured = "times the base: " + ", ".join(f"{n} {several(column(runs, n))}" for n in names)
    f.state("a prefix of 64 takes longer than one of 4", min(long) > max(short), f"{several(long)}; {several(short)}")
    f.table(
        "Time, as a multiple of the base's", ("", "three repeats"), [(n, several(column(runs, n))) for n in runs[0]]
    )


def rounding(base_name, quant_type):
    """Relative squared error of all matrices of a base, in blocks of 64; and accuracy on the mixture."""
    model = base(base_name)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.split(".")[-2] in MATRICES]
    lost = sum(rounding_error(W, quant_type, 64, False) ** 2 * W.square().sum() for W in matrices)
    retention = evaluate(QLoRA(rank=1, quant_type=quant_type).attach(model), Mixture()).accuracy
    return {"error": float(lost / sum(W.square().sum() for W in matrices)), "retention": retention}


@claim(
    "NF4 loses less than FP4 and int4, and a LoRA makes up for what is lost",
    "Dettmers et al. 2023",
    "Every matrix of three bases in blocks of 64; then LoRA of rank 4 on the quantized base, 300 steps of 32 examples "
    "of a new table, three learning rates for each",
    12,
)
def four_bits(f):
    codes, names = ("nf4", "fp4", "int4", "nf3", "int3", "nf2"), ("letters-d64", "letters-d64-1", "letters-d64-2")
    runs = iter(f.run(rounding, [{"base_name": b, "quant_type": c} for c in codes for b in names]))
    found = {code: [next(runs) for _ in names] for code in codes}
    error = {code: column(found[code], "error") for code in codes}
    for code in ("fp4", "int4"):
        f.state(
            f"NF4's error is below that of {code}, for every base",
            max(error["nf4"]) < min(error[code]),
            f"{several(error['nf4'], 4)}; {several(error[code], 4)}",
        )
    retention = {code: column(found[code], "retention") for code in codes}
    differs = min(retention["nf4"]) - max(retention["fp4"] + retention["int4"])
    f.state(
        "retention is higher with NF4 than with either",
        True if differs > 0.002 else None,
        f"{several(retention['nf4'], 3)}; FP4 {several(retention['fp4'], 3)}, int4 {several(retention['int4'], 3)}",
    )
    job = {"goal": NEW, "steps": 300, "batch": 32}
    methods = [
        LoRA(rank=4, targets=MATRICES),
        QLoRA(rank=4),
        QLoRA(rank=4, quant_type="nf3"),
        QLoRA(rank=4, quant_type="nf2"),
    ]
    tuned = f.tuned(train, [job | {"method": r} for r in methods], (3e-3, 1e-2, 3e-2))
    scores = [column(runs) for _, runs in tuned]
    f.state(
        "a LoRA on the base in NF4 learns as well as on the base itself (within two points)",
        min(scores[1]) >= min(scores[0]) - 0.02,
        f"{several(scores[1])}; {several(scores[0])}",
    )
    again = f.tuned(
        train,
        [{"method": QLoRA(rank=4, quant_type="nf2"), "goal": Mixture(), "steps": 300, "batch": 64}],
        (3e-3, 1e-2, 3e-2),
    )
    (_, runs), lost = again[0], retention["nf2"][0]
    f.state(
        "with 2 bits, where most is lost, a LoRA brings nine tenths of the mixture back",
        min(column(runs)) > 0.9,
        f"from {lost:.2f} to {several(column(runs))}",
    )
    f.measured = (
        f"error NF4 {several(error['nf4'], 4)}, FP4 {several(error['fp4'], 4)}, int4 {several(error['int4'], 4)}; "
    )
    f.measured += f"{NEW} on NF4 {several(scores[1])}, unquantized {several(scores[0])}; "
    f.measured += f"the mixture with NF2 from {lost:.2f} to {several(column(runs))}"
    f.table(
        "Rounding alone",
        ("", "relative squared error", "retention"),
        [(c, several(error[c], 4), several(retention[c], 3)) for c in codes],
    )
    f.table(
        f"LoRA on it, {NEW}",
        ("", "learning rate", "accuracy"),
        [(r, f"{lr:g}", several(s)) for r, (lr, _), s in zip(methods, tuned, scores, strict=True)],
    )
