"""The prompt family: scale, initialisation, length, encoders, prefixes, depth."""

from itertools import pairwise

from claims.lab import HELD_OUT, KNOWN, NEW, train
from claims.ledger import beats, claim, column, several
from minipeft import plots
from minipeft.methods import Full, PrefixTuning, PromptTuning, PTuning, PTuningV2
from minipeft.tasks import ID, LETTERS, task

SHORT = {"steps": 150, "batch": 32}
HOT = (3e-2, 1e-1, 3e-1)
WIDTHS = (32, 48, 64, 96)
FIVE = range(5)


def bases(width):
    return [f"letters-d{width}{more}" for more in ("", "-1", "-2")]


@claim(
    "The gap between prompt tuning and full fine-tuning closes as the model grows",
    "Lester et al. 2021, figure 1",
    "Twelve bases of four widths, three each, which all know the mixture; 300 steps of 32 examples of two tasks; "
    "learning rates swept for each width and method on the first base",
    6,
)
def scale(f):
    methods = [Full(), PromptTuning(length=1), PromptTuning(length=4)]
    goals, learning_rates = (KNOWN, task("left+green")), (1e-2, *HOT)
    found = {}
    for width in WIDTHS:
        first, job = bases(width)[0], {"steps": 300, "batch": 32}
        jobs = [job | {"method": r, "goal": goals[0], "base": first} for r in methods]
        swept = f.tuned(train, jobs, learning_rates, seeds=())
        for method, (lr, _) in zip(methods, swept, strict=True):
            jobs = [
                job | {"method": method, "goal": goal, "base": b, "lr": lr, "seed": seed}
                for seed, b in enumerate(bases(width))
                for goal in goals
            ]
            runs = f.run(train, jobs)
            pairs = [runs[i : i + 2] for i in range(0, len(runs), 2)]
            found[width, method] = [sum(column(pair)) / 2 for pair in pairs], lr
    rows = []
    for method in methods[1:]:
        gaps = {w: [a - b for a, b in zip(found[w, Full()][0], found[w, method][0], strict=True)] for w in WIDTHS}
        f.state(
            f"{method}: the gap at width 96 is smaller than at width 32, for every base",
            beats(gaps[32], gaps[96]),
            f"{several(gaps[32])} and {several(gaps[96])}",
        )
        means = [sum(gaps[w]) / 3 for w in WIDTHS]
        f.measured += f"{method}: gap " + ", ".join(f"width {w} {several(gaps[w])}" for w in WIDTHS) + ". "
        f.state(
            f"{method}: it shrinks from each width to the next",
            all(a >= b for a, b in pairwise(means)) if max(means) > 0.02 else None,
            " ".join(f"{m:.2f}" for m in means),
        )
    series = {str(r): {w: found[w, r][0] for w in WIDTHS} for r in methods}
    f.picture(
        "scale",
        "Accuracy on two known tasks against the width of the model, 32 to 96, for full fine-tuning and "
        "prompts of one and of four vectors, with the range over three bases; the numbers are those of the table above",
        lambda: plots.accuracy_by_size(series, xlabel="width of the model", ylabel="accuracy"),
    )
    for method in methods:
        rows.append(
            (method, *(f"{several(found[w, method][0])}, learning rate {found[w, method][1]:g}" for w in WIDTHS))
        )
    f.table("Accuracy, mean of two tasks; mean and range over three bases", ("", *(f"width {w}" for w in WIDTHS)), rows)


def words(*names):
    return tuple(ID[name] for name in names)


@claim(
    "A prompt's initialisation matters",
    "Lester et al. 2021, figure 3",
    "A prompt of four vectors from five starts, 40 steps of 32 examples of left+green, four learning rates for "
    "each, five seeds",
    6,
)
def prompt_start(f):
    starts = {
        "the task's words": words("left", "green", "leftwards", "emerald"),
        "letters": words(*LETTERS[:4]),
        "random words": "vocabulary",
        "normal, as wide as embeddings": "normal",
        "uniform in ±½": "uniform",
    }
    job = {"goal": task("left+green"), "steps": 40, "batch": 32}
    jobs = [job | {"method": PromptTuning(length=4, init=i)} for i in starts.values()]
    found = dict(zip(starts, f.tuned(train, jobs, (1e-2, *HOT), seeds=FIVE), strict=True))
    scores = {name: column(runs) for name, (_, runs) in found.items()}
    reached = {name: [run["reached"] or 41 for run in runs] for name, (_, runs) in found.items()}
    best = "the task's words"
    f.measured = "steps to .9: " + ", ".join(f"{name} {several(steps, 0)}" for name, steps in reached.items())
    for name in list(starts)[1:]:
        f.state(
            f"the task's words end above {name}",
            beats(scores[best], scores[name]),
            f"{several(scores[best])}; {several(scores[name])}",
        )
    others = [max(reached[best]) < min(reached[name]) for name in list(starts)[1:]]
    f.state(
        "they learn faster than every other start",
        all(others),
        f"steps to .9: {several(reached[best], 0)}; others "
        + ", ".join(several(reached[n], 0) for n in list(starts)[1:]),
    )
    f.table(
        "Five starts",
        ("", "learning rate", "accuracy", "steps to .9 (41: not reached)"),
        [(n, f"{lr:g}", several(scores[n]), several(reached[n], 0)) for n, (lr, _) in found.items()],
    )


@claim(
    "A prompt's length matters",
    "Lester et al. 2021, figure 3",
    "Prompts of 1 to 16 vectors, 150 steps of 32 examples of a held-out pair, 300 of a new table, five learning "
    "rates for each",
    6,
)
def prompt_length(f):
    lengths, rows, scores = (1, 2, 4, 8, 16), [], {}
    for goal, steps in ((HELD_OUT, 150), (NEW, 300)):
        jobs = [{"method": PromptTuning(length=n), "goal": goal, "steps": steps, "batch": 32} for n in lengths]
        scores[goal] = [column(runs) for _, runs in f.tuned(train, jobs, (1e-2, *HOT, 1.0))]
        rows.append((goal, *(several(s) for s in scores[goal])))
    one, _, four, _, sixteen = scores[HELD_OUT]
    for goal, values in scores.items():
        f.measured += (
            f"{goal}: " + ", ".join(f"n = {n} {several(v)}" for n, v in zip(lengths, values, strict=True)) + ". "
        )
    f.state("four vectors select a pair that one cannot", beats(four, one), f"{several(four)}; one {several(one)}")
    f.state(
        "beyond four, more length brings little",
        min(four) >= max(sixteen) - 0.05,
        f"{several(four)}; sixteen {several(sixteen)}",
    )
    f.state("sixteen teach the new table, too: accuracy above 0.9", min(scores[NEW][4]) > 0.9, several(scores[NEW][4]))
    f.table("Accuracy by length", ("", *lengths), rows)


@claim(
    "An encoder makes P-tuning stabler than free vectors",
    "Liu et al. 2021 (P-tuning)",
    "Four virtual tokens by an LSTM, free from the same wide start, free from a narrow start; 40 steps of 32 "
    "examples, five learning rates for each, five seeds",
    7,
)
def encoder(f):
    methods = {
        "LSTM": PTuning(length=4),
        "free, wide": PTuning(length=4, encoder=None),
        "free, narrow": PromptTuning(length=4),
    }
    rows = []
    for goal in (HELD_OUT, task("left+green")):
        jobs = [{"method": r, "goal": goal, "steps": 40, "batch": 32} for r in methods.values()]
        found = dict(zip(methods, f.tuned(train, jobs, (3e-3, 1e-2, *HOT), seeds=FIVE), strict=True))
        scores = {name: column(runs) for name, (_, runs) in found.items()}
        f.measured += f"{goal}: " + ", ".join(f"{n} {several(v)}" for n, v in scores.items()) + ". "
        for other in ("free, wide", "free, narrow"):
            worst = min(scores["LSTM"]), min(scores[other])
            f.state(
                f"{goal}: its worst seed is better than that of vectors {other}",
                None if abs(worst[0] - worst[1]) <= 0.02 else worst[0] > worst[1],
                f"{worst[0]:.2f}; {worst[1]:.2f}",
            )
        rows += [(goal, n, f"{lr:g}", " ".join(f"{a:.2f}" for a in scores[n])) for n, (lr, _) in found.items()]
    f.table("Accuracy, five seeds", ("", "", "learning rate", "by seed"), rows)


@claim(
    "Prefix tuning is unstable without its network and sensitive to its start",
    "Li & Liang 2021, §4.3 and §7.4",
    "A prefix of 8 directly and by an MLP, six learning rates for each, 150 steps of 32 examples, five seeds; starts "
    "from words or noise with 16 examples",
    8,
)
def prefix(f):
    learning_rates = (1e-3, 3e-3, 1e-2, *HOT)
    direct, network = PrefixTuning(length=8), PrefixTuning(length=8, mlp=64)
    rows = []
    for goal in (HELD_OUT, NEW):
        jobs = [SHORT | {"method": r, "goal": goal} for r in (direct, network)]
        found = f.tuned(train, jobs, learning_rates, seeds=FIVE)
        scores = [column(runs) for _, runs in found]
        calmer = max(scores[0]) - min(scores[0]) > max(scores[1]) - min(scores[1]) + 0.02
        same = max(scores[0] + scores[1]) - min(scores[0] + scores[1]) < 0.05
        f.measured += f"{goal}: network {several(scores[1])}, direct {several(scores[0])}. "
        f.state(
            f"{goal}: the seeds lie closer together with the network",
            None if same else calmer,
            f"network {several(scores[1])}; direct {several(scores[0])}",
        )
        rows += [
            (goal, r, f"{lr:g}", " ".join(f"{a:.2f}" for a in s))
            for r, (lr, _), s in zip((direct, network), found, scores, strict=True)
        ]
    starts = [
        PrefixTuning(length=8),
        PrefixTuning(length=8, init=words("reverse", "blue", "backwards", "azure")),
        PrefixTuning(length=8, init=words(*LETTERS[:4])),
    ]
    job = SHORT | {"goal": HELD_OUT, "examples": 16}
    tuned = f.tuned(train, [job | {"method": r} for r in starts], learning_rates, seeds=FIVE)
    noise, right, wrong = (column(runs) for _, runs in tuned)
    f.measured += f"16 examples: from words {several(right)}, noise {several(noise)}, letters {several(wrong)}"
    f.state(
        "16 examples: the activations of the task's words are a better start than noise",
        beats(right, noise),
        f"{several(right)}; noise {several(noise)}",
    )
    f.state(
        "16 examples: and a better one than those of letters",
        beats(right, wrong),
        f"{several(right)}; letters {several(wrong)}",
    )
    f.table("Accuracy, five seeds", ("", "", "learning rate", "by seed"), rows)


@claim(
    "Deep prompts beat shallow ones",
    "Liu et al. 2022 (P-tuning v2)",
    "Prompts in every layer against as many numbers below the first, and against as many tokens; three learning "
    "rates for each, 300 steps of 32 examples; and 150 steps on 8 examples",
    9,
)
def deep(f):
    methods = {
        "deep, 4 tokens": PTuningV2(length=4),
        "shallow, 8 tokens": PromptTuning(length=8),
        "shallow, 4 tokens": PromptTuning(length=4),
    }
    jobs = {"8 examples": SHORT | {"goal": HELD_OUT, "examples": 8}, str(NEW): {"goal": NEW, "steps": 300, "batch": 32}}
    jobs[str(HELD_OUT)] = SHORT | {"goal": HELD_OUT}
    rows = []
    for name, job in jobs.items():
        found = f.tuned(train, [job | {"method": r} for r in methods.values()], HOT, seeds=FIVE)
        scores = dict(zip(methods, (column(runs) for _, runs in found), strict=True))
        f.measured += f"{name}: " + ", ".join(f"{n} {several(v)}" for n, v in scores.items()) + ". "
        for other in ("shallow, 8 tokens", "shallow, 4 tokens"):
            f.state(
                f"{name}: above {other}",
                beats(scores["deep, 4 tokens"], scores[other]),
                f"{several(scores['deep, 4 tokens'])}; {several(scores[other])}",
            )
        rows += [(name, n, f"{lr:g}", several(scores[n])) for n, (lr, _) in zip(methods, found, strict=True)]
    f.table("Accuracy", ("", "", "learning rate", "five seeds"), rows)
