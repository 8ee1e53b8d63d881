"""Text classification: a fresh head behind the decoder of letters."""

from claims.ledger import claim, told
from minipeft.methods import BitFit, Full, Houlsby, LinearProbe, LoRA, PromptTuning
from minipeft.training import Recipe
from minipeft.worlds.reading import InstructionClass

EACH = 32
METHODS = {
    "full fine-tuning": Full(classes=8), "adapters": Houlsby(size=4, classes=8), "LoRA": LoRA(rank=4, classes=8),
    "BitFit": BitFit(classes=8), "a prompt": PromptTuning(length=4, classes=8),
    "the head alone": LinearProbe(classes=8),
}  # fmt: skip


@claim(
    "Classifying text, adapters with few parameters come close to full fine-tuning",
    source="Houlsby et al. 2019, abstract, arXiv:1902.00751",
    quote="On GLUE, we attain within 0.4% of the performance of full fine-tuning, adding only 3.6% parameters "
    "per task.",
    lesson=4,
)
def text_classification(f):
    """To which of eight classes does an instruction belong? No single word tells. Each method trains a fresh head as
    well, on 32 examples of each class, for 400 steps. Close is less than five points behind; the head alone shows that
    the task could have told methods apart."""
    settings = {"goal": InstructionClass(), "examples": EACH, "recipe": Recipe(steps=400)}
    runs = f.race(METHODS, **settings)
    full = runs["full fine-tuning"]
    f.not_behind("adapters are close to full fine-tuning", runs["adapters"], full, vary=False)
    for name in ("LoRA", "BitFit", "a prompt"):
        text = f"{name} is close to full fine-tuning"
        f.not_behind(text[0].upper() + text[1:], runs[name], full, aside=True, vary=False)
    text = "full fine-tuning is more accurate than the head alone"
    f.ahead(text, full, runs["the head alone"], aside=True, vary=False)
    rows = [(name, entry.runs[0]["parameters"], told(entry.column("accuracy"))) for name, entry in runs.items()]
    f.table("Accuracy on unseen examples", ("", "trained, head included", "accuracy"), rows)
    found = {name: entry.column("accuracy") for name, entry in runs.items()}
    f.result = f"The accuracy is: {', '.join(f'{name} {told(values)}' for name, values in found.items())}."
