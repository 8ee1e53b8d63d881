"""The prompt family: what prompts can teach, scale, length, where they start, encoders, prefixes, depth."""

from statistics import mean, median

import torch

from claims.ledger import HELD_OUT, KNOWN, NEW, Measure, claim, log_loss, log_steps, told
from minipeft import plots
from minipeft.lab import learning_rate_of, trial
from minipeft.methods import Full, LoRA, PrefixTuning, PromptTuning, PTuning, PTuningV2
from minipeft.models.transformer import recording
from minipeft.tasks import FIRST_LETTER, ID, LETTERS, task
from minipeft.training import RECIPE, TEST

NEW_OPERATION = task("riffle+plain")
EQUAL = {"LoRA": LoRA(rank=2, alpha=4), "prompt": PromptTuning(length=16), "prefix": PrefixTuning(length=4)}  # 1,024
WIDTHS = (32, 48, 64, 96)
BASES = ("", "-1", "-2")  # of each width


def rung(method, width, lr, seed, recipe=RECIPE):
    """A trial on a task that the base knows, on one of the three bases of this width; the seed says which."""
    return trial(method, KNOWN, lr, seed, recipe, base=f"letters-d{width}{BASES[seed % 3]}")


def from_labels(length, lr, seed, recipe=RECIPE):
    """A trial of a prompt that starts at the embeddings of random letters, of which the answers are made."""
    chosen = torch.randperm(len(LETTERS), generator=torch.Generator().manual_seed(seed))[:length]
    return trial(PromptTuning(length, tuple((FIRST_LETTER + chosen).tolist())), HELD_OUT, lr, seed, recipe)


def content_moved(view, base, goal):
    """How far each layer's attention over the content moved, once the share of what stands before it is divided out.

    The distance is the total variation, from 0 to 1: its mean over rows, heads and tokens, and the greatest.
    """
    tokens, maps = goal.batch(200, torch.Generator().manual_seed(TEST)).tokens, []
    for model in (base, view):
        with recording(model) as layers, torch.no_grad():
            model(tokens)
            maps.append([layer.weights[..., -tokens.shape[1] :, -tokens.shape[1] :] for layer in layers])
    found = {}
    for layer, (before, after) in enumerate(zip(*maps, strict=True), 1):
        moved = (after / after.sum(-1, keepdim=True) - before).abs().sum(-1) / 2
        found |= {f"moved in layer {layer}": moved.mean().item(), f"greatest in layer {layer}": moved.max().item()}
    return found


def words(*names):
    return tuple(ID[name] for name in names)


def scores(entries):
    """The accuracy of each entry, in words."""
    return "; ".join(f"{name}: {told(entry.column('accuracy'))}" for name, entry in entries.items())


@claim(
    "Prompts and prefixes combine skills from pretraining, but do not learn a task that those skills cannot solve",
    source="Petrov et al. 2024, When Do Prompting and Prefix-Tuning Work?, §5, arXiv:2310.19698",
    lesson=6,
)
def selects_and_teaches(f):
    """A prompt of 16 vectors and a prefix of length 4 on a pair of an operation and a table that the base knows apart,
    then on a table that it has never seen. LoRA of rank 2 trains as many numbers, 1,024."""
    old = f.race({f"{name}, old skills": EQUAL[name] for name in ("prompt", "prefix")}, goal=HELD_OUT)
    new = f.race({f"{name}, new table": method for name, method in EQUAL.items()}, goal=NEW)
    lora = new["LoRA, new table"]
    for name in ("prompt", "prefix"):
        solved = [accuracy >= 0.9 for accuracy in old[f"{name}, old skills"].column("accuracy")]
        f.always(f"the {name} solves the held-out pair (90 %)", solved)
        other = new[f"{name}, new table"]
        failed = [accuracy < 0.9 for accuracy in other.column("accuracy")]
        f.always(f"the {name} stays below 90 % on the new table", failed)
        text = f"new table: LoRA has a lower loss than the {name}"
        f.ahead(text, lora, other, by="loss", aside=True, vary=name == "prompt")
        f.oftener(f"new table: LoRA reaches 90 % with more seeds than the {name}", lora, other, aside=True)
    f.result = f"The accuracy is: {scores(old | new)}."


@claim(
    "A prompt or a prefix cannot learn a new operation, which needs new attention patterns",
    source="Petrov et al. 2024, When Do Prompting and Prefix-Tuning Work?, §5, arXiv:2310.19698",
    lesson=8,
)
def new_attention(f):
    """A new operation, riffle: it puts the fourth letter second and the third letter fifth, which no rearrangement that
    the base knows does. A prompt of 16 vectors, a prefix of 4 and LoRA of rank 2 train 1,024 numbers each."""
    runs = f.race(EQUAL, goal=NEW_OPERATION)
    for name in ("prompt", "prefix"):
        failed = [accuracy < 0.9 for accuracy in runs[name].column("accuracy")]
        f.always(f"the {name} stays below 90 % on the new operation", failed)
        text = f"LoRA reaches 90 % in fewer steps than the {name}"
        f.ahead(text, runs["LoRA"], runs[name], by="steps", aside=True)
    f.note(
        "The theorem holds for one layer: there the attention over the content keeps its proportions (see "
        "[relative_attention](#relative_attention)). In the next layer the content itself has changed."
    )
    f.result = f"The accuracy on the new operation is: {scores(runs)}."


@claim(
    "A prefix cannot change the relative attention over the content within a layer",
    source="Petrov et al. 2024, When Do Prompting and Prefix-Tuning Work?, §4, arXiv:2310.19698",
    quote="context-based fine-tuning cannot change the relative attention pattern over the content and can only "
    "bias the outputs of an attention layer in a fixed direction",
    lesson=8,
)
def relative_attention(f):
    """A prefix, a prompt and a LoRA are trained on a held-out pair. The attention maps of 200 unseen examples, without
    what goes to virtual tokens and scaled to sum to one again, are compared with those of the base. The learning rates
    are those of the main comparison."""
    methods = {"prefix": PrefixTuning(length=4), "prompt": PromptTuning(length=4), "LoRA": LoRA(rank=4)}
    entries = {name: {"method": method, "lr": learning_rate_of(method)} for name, method in methods.items()}
    runs = f.race(entries, goal=HELD_OUT, look=content_moved)
    for name in ("prefix", "prompt"):
        greatest = max(runs[name].column("greatest in layer 1"))
        text = f"In layer 1 the {name} leaves the proportions as they were, within 1e-4"
        f.exact(text, greatest < 1e-4, f"the greatest distance is {greatest:.0e}")
    layer = {name: told(entry.column("moved in layer 1"), 3) for name, entry in runs.items()}
    f.exact("LoRA changes them", min(runs["LoRA"].column("moved in layer 1")) > 1e-3, layer["LoRA"], aside=True)
    columns = ("moved in layer 1", "greatest in layer 1", "moved in layer 2", "greatest in layer 2")
    rows = [(name, *(told(entry.column(c), 6 if "1" in c else 2) for c in columns)) for name, entry in runs.items()]
    f.table("Total variation between the maps, mean and greatest over tokens", ("", *columns), rows)
    f.result = (
        f"In layer 1 the attention over the content moves by {layer['prefix']} under a prefix, by {layer['prompt']} "
        f"under a prompt and by {layer['LoRA']} under LoRA (total variation, 0 to 1)."
    )


@claim(
    "Prompt tuning becomes competitive with full fine-tuning as the model grows",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §3.1, arXiv:2104.08691",
    quote="as models exceed billions of parameters, our method 'closes the gap' and matches the strong "
    "performance of model tuning",
    lesson=6,
)
def scale(f):
    """A prompt of one vector and full fine-tuning on a task that all bases know, at widths from 32 to 96, on three
    bases of each width; the seed says which. The gap in accuracy is that of the means for each base."""
    methods = {"full": Full(), "prompt": PromptTuning(length=1)}
    entries = {f"{n}, width {w}": {"method": m, "width": w} for w in WIDTHS for n, m in methods.items()}
    runs = f.race(entries, experiment=rung)

    def by_base(name, width):
        accuracy = list(zip(f.seeds, runs[f"{name}, width {width}"].column("accuracy"), strict=True))
        return [mean(a for seed, a in accuracy if seed % 3 == which) for which in range(3)]

    found = {name: {width: by_base(name, width) for width in WIDTHS} for name in methods}
    gaps = {w: [a - b for a, b in zip(found["full"][w], found["prompt"][w], strict=True)] for w in WIDTHS}
    widths = [w for w in WIDTHS for _ in BASES]
    f.follows("the gap to full fine-tuning falls with the width", widths, [g for w in WIDTHS for g in gaps[w]], sign=-1)
    wide = [runs[f"{name}, width 96"] for name in methods]
    f.near("at width 96 the prompt is as accurate as full fine-tuning", *wide, vary=False, aside=True)
    f.table("Accuracy of three bases", ("", *(f"width {w}" for w in WIDTHS)),
            [(m, *(told(found[n][w]) for w in WIDTHS)) for n, m in methods.items()])  # fmt: skip
    f.picture(
        "gap_by_width",
        "Accuracy on a known task against the width of the model, 32 to 96, for full fine-tuning and a prompt of one "
        "vector, with the range over three bases; the numbers are in the table above",
        lambda: plots.accuracy_by_size({str(methods[n]): found[n] for n in methods}, xlabel="width of the model"),
    )
    f.note("The bases differ in more than their width: each was pretrained for as long as it took to know the mixture.")
    f.result = f"The gap in accuracy is {'; '.join(f'{told(gaps[w])} at width {w}' for w in WIDTHS)}."


@claim(
    "A prompt needs more than one vector, and beyond some length more vectors bring little",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §3.2, arXiv:2104.08691",
    lesson=6,
)
def prompt_length(f):
    """Prompts of 1 to 16 vectors on a held-out pair, and of 8 and 16 vectors on a new table. The paper found little
    beyond 20 vectors; here the final accuracy saturates earlier, so the mean loss while training tells."""
    lengths = (1, 2, 4, 8, 16)
    runs = f.race({f"{n} on the pair": PromptTuning(length=n) for n in lengths}, goal=HELD_OUT)
    new = f.race({f"{n} on the table": PromptTuning(length=n) for n in (8, 16)}, goal=NEW)
    accuracy, area = ([runs[f"{n} on the pair"].column(name) for n in lengths] for name in ("accuracy", "area"))

    def gains(a, b):
        return [{"gain": x - y} for x, y in zip(area[a], area[b], strict=True)]

    one, four = runs["1 on the pair"], runs["4 on the pair"]
    f.ahead("four vectors are more accurate than one", four, one, vary=False)
    gain = Measure("fall of the mean loss while training", lambda run: run["gain"], 1, 0.05, "nats")
    f.ahead("going from one vector to two brings more than from eight to sixteen", gains(0, 1), gains(3, 4), by=gain)
    text = "on a new table sixteen vectors have a lower loss than eight"
    f.ahead(text, new["16 on the table"], new["8 on the table"], by="loss", aside=True)
    rows = [(n, told(a), told(b)) for n, a, b in zip(lengths, accuracy, area, strict=True)]
    f.table(f"By length, on {HELD_OUT}", ("vectors", "accuracy", "mean loss while training"), rows)
    f.result = (
        f"One vector reaches an accuracy of {told(accuracy[0])} and four reach {told(accuracy[2])}. The mean loss "
        f"while training is {', '.join(f'{mean(a):.2f}' for a in area)} nats for 1, 2, 4, 8 and 16 vectors."
    )


@claim(
    "A prompt that starts from words, best from the labels, does better than one that starts from random numbers",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §3.2, arXiv:2104.08691",
    lesson=6,
)
def prompt_start(f):
    """Prompts of four vectors on a held-out pair, from the paper's three starts: uniform in ±½, random words, and the
    labels, which are letters here. The final accuracy saturates, so the steps to 90 % tell."""
    starts = {"uniform": "uniform", "normal": "normal", "random words": "vocabulary"}
    starts["the task's words"] = words("reverse", "blue", "backwards", "azure")
    runs = f.race({name: PromptTuning(length=4, init=init) for name, init in starts.items()}, goal=HELD_OUT)
    runs |= f.race({"labels": {"length": 4}}, experiment=from_labels)
    for name in ("random words", "labels"):
        text = f"a start from {name} reaches 90 % in fewer steps than a uniform one"
        f.ahead(text, runs[name], runs["uniform"], by="steps", vary=name == "labels")
    text = "a start from labels reaches 90 % in fewer steps than one from random words"
    f.ahead(text, runs["labels"], runs["random words"], by="steps", aside=True)
    text = "random words are faster than a normal start with the standard deviation of the embeddings"
    f.ahead(text, runs["random words"], runs["normal"], by="steps", aside=True)
    text = "the task's words are faster than labels"
    f.ahead(text, runs["the task's words"], runs["labels"], by="steps", aside=True)
    f.note("The task's words are an instruction that the base understands, so that start hardly needs training.")
    steps = {name: 2 ** mean(map(log_steps, entry.runs)) for name, entry in runs.items()}
    each = ", ".join(f"{number:.0f} from {name}" for name, number in steps.items())
    f.result = f"The geometric mean of the steps to 90 % is {each}."


@claim(
    "The difference between the starts of a prompt disappears as the model grows",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §3.2, arXiv:2104.08691",
    lesson=6,
)
def start_and_scale(f):
    """Prompts of four vectors on a task that the bases know, from random words and uniform in ±½, at widths 32 and 96,
    on three bases of each width. If the paper is right, the steps to 90 % differ at width 32 and not at width 96."""
    starts = {"words": "vocabulary", "uniform": "uniform"}
    entries = {
        f"{name}, width {width}": {"method": PromptTuning(length=4, init=init), "width": width}
        for width in (32, 96)
        for name, init in starts.items()
    }
    runs = f.race(entries, experiment=rung)
    small, large = ([runs[f"{name}, width {width}"] for name in starts] for width in (32, 96))
    f.ahead("width 32: random words reach 90 % in fewer steps than a uniform start", *small, by="steps")
    f.near("width 96: they take as many steps, within a quarter more or fewer", *large, by="steps", margin=0.3)
    steps = [f"{2 ** mean(map(log_steps, entry.runs)):.0f}" for entry in runs.values()]
    f.result = (
        "The geometric mean of the steps to 90 % is {} from words and {} from a uniform start at width 32, {} and {} "
        "at width 96."
    ).format(*steps)


@claim(
    "Free prompt vectors are unstable and can do much worse than those that an encoder makes",
    source="Liu et al. 2021, GPT Understands, Too (P-tuning, as revised in 2023), arXiv:2103.10385",
    lesson=7,
)
def encoder(f):
    """One virtual token on a held-out pair, with twenty seeds: made by the LSTM, by the MLP, or free from the same
    wide start, N(0, 1). One vector may be too few for 90 %, so a run counts as a success from an accuracy of .5."""
    entries = {name: PTuning(length=1, encoder=e) for name, e in {"LSTM": "lstm", "MLP": "mlp", "free": None}.items()}
    entries["free, narrow"] = PromptTuning(length=1)
    runs = f.race(entries, goal=HELD_OUT, seeds=20)

    def success(run):
        return run["accuracy"] >= 0.5

    for name in ("LSTM", "MLP"):
        f.oftener(f"the {name} succeeds with more seeds than free vectors", runs[name], runs["free"], success)
        text = f"the {name} has a lower mean loss while training than free vectors"
        f.ahead(text, runs[name], runs["free"], by="area", aside=True)
    text = "the LSTM succeeds with more seeds than free vectors with the standard deviation of the embeddings"
    f.oftener(text, runs["LSTM"], runs["free, narrow"], success, aside=True)
    counts = {name: sum(map(success, entry.runs)) for name, entry in runs.items()}
    each = ", ".join(f"{count} for {name}" for name, count in counts.items())
    f.result = f"Of twenty seeds, these succeed: {each}."


@claim(
    "To train a prefix directly, without a network, is unstable and costs some performance",
    source="Li and Liang 2021, Prefix-Tuning, §4.3, arXiv:2101.00190",
    lesson=8,
)
def prefix_network(f):
    """A prefix trained directly and one made by an MLP of width 64: of length 1 on a held-out pair, where the steps to
    90 % tell how alike the seeds are, and of length 4 on a new table, where the loss tells the performance. Beside it
    stand prefixes of length 4 on eight examples of the pair."""
    old = f.race({"direct": PrefixTuning(length=1), "network": PrefixTuning(length=1, mlp=64)}, goal=HELD_OUT)
    methods = {"direct, new table": PrefixTuning(length=4), "network, new table": PrefixTuning(length=4, mlp=64)}
    new = f.race(methods, goal=NEW)
    few = f.race({f"{n.split(',')[0]}, 8": method for n, method in methods.items()}, goal=HELD_OUT, examples=8)

    def scatter(entry):
        steps = [log_steps(run) for run in entry.runs]
        return [{"scatter": abs(value - median(steps))} for value in steps]

    apart = Measure("distance of log2 of the steps from their median", lambda r: r["scatter"], -1, 0.15, "doublings")
    text = "held-out pair: the seeds lie closer together with the network"
    f.ahead(text, scatter(old["network"]), scatter(old["direct"]), by=apart)
    text = "new table: the network has a lower loss"
    f.ahead(text, new["network, new table"], new["direct, new table"], by="loss")
    text = "held-out pair: the network reaches 90 % in fewer steps"
    f.ahead(text, old["network"], old["direct"], by="steps", aside=True)
    f.ahead("held-out pair: the network has a lower loss", old["network"], old["direct"], by="loss", aside=True)
    text = "8 examples: the network is more accurate on unseen ones"
    f.ahead(text, few["network, 8"], few["direct, 8"], aside=True)
    steps = {name: [run["reached"] or run["steps"] + 1 for run in entry.runs] for name, entry in old.items()}
    loss = {name.split(",")[0]: told([10 ** log_loss(run) for run in entry.runs]) for name, entry in new.items()}
    f.result = (
        f"On the held-out pair the network takes {told(steps['network'], 0)} steps to 90 % and the direct prefix "
        f"{told(steps['direct'], 0)}; on the new table the loss is {loss['network']} and {loss['direct']} nats."
    )


@claim(
    "With few examples, a prefix that starts from the activations of real words does better than a random one",
    source="Li and Liang 2021, Prefix-Tuning, §7.4, arXiv:2101.00190",
    lesson=8,
)
def prefix_start(f):
    """Eight examples of a held-out pair, a prefix of length 4. It starts from N(0, 1), from the activations of four
    words that mean nothing to the task (`please now then the`), or from those of words for the task."""
    starts = {"noise": "normal", "other words": words("please", "now", "then", "the")}
    starts["the task's words"] = words("reverse", "blue", "backwards", "azure")
    entries = {name: PrefixTuning(length=4, init=init) for name, init in starts.items()}
    runs = f.race(entries, goal=HELD_OUT, examples=8)
    f.ahead("other words are more accurate on unseen examples than noise", runs["other words"], runs["noise"])
    text = "the task's words are more accurate than other words"
    f.ahead(text, runs["the task's words"], runs["other words"], aside=True)
    f.note("The task's words are an instruction that the base understands, so that start hardly needs training.")
    f.result = f"From eight examples, the accuracy on unseen ones is, by start: {scores(runs)}."


@claim(
    "Prompts in every layer do better than prompts below the first layer alone",
    source="Liu et al. 2022, P-Tuning v2, arXiv:2110.07602",
    quote="properly optimized prompt tuning can be universally effective across a wide range of model scales "
    "and NLU tasks",
    lesson=9,
)
def deep(f):
    """Prompts of one and two virtual tokens on a held-out pair, where length is tight. Deep prompts come in two forms:
    keys and values for each layer, as in the authors' code, and vectors in front of each layer's input."""
    entries = {f"shallow {n}": PromptTuning(length=n) for n in (1, 2, 4)}
    entries |= {f"deep {n}": PTuningV2(length=n) for n in (1, 2)}
    entries["keys and values 1"] = PTuningV2(length=1, form="key/value")
    runs = f.race(entries, goal=HELD_OUT)
    text = "one token: keys and values in each layer are more accurate than a shallow prompt"
    f.ahead(text, runs["keys and values 1"], runs["shallow 1"], vary=False)
    f.ahead("one token: deep vectors are more accurate than a shallow prompt", runs["deep 1"], runs["shallow 1"])
    text = "one or two tokens: deep vectors reach 90 % with more seeds than a shallow prompt"
    f.oftener(text, *(runs[f"{name} 1"].runs + runs[f"{name} 2"].runs for name in ("deep", "shallow")), aside=True)
    text = "two tokens: deep vectors reach 90 % in fewer steps than a shallow prompt"
    f.ahead(text, runs["deep 2"], runs["shallow 2"], by="steps", aside=True)
    text = "128 numbers: one deep vector for each layer is more accurate than two shallow ones"
    f.ahead(text, runs["deep 1"], runs["shallow 2"], aside=True)
    text = "256 numbers: two deep vectors for each layer reach 90 % in fewer steps than four shallow ones"
    f.ahead(text, runs["deep 2"], runs["shallow 4"], by="steps", aside=True)
    f.result = f"The accuracy is, by form and length: {scores(runs)}."
