"""AdaLoRA against LoRA in short runs, for lesson 11: learning rates, and the natural task over three seeds.

    python benchmarks/adalora_short.py       some minutes; runs that are stored are not made again

planted: as in adalora_planted.py, but 150 steps of 16 examples from a pool of 1,200; the error on 300 others, a
teacher that the lesson does not report. natural: 150 steps of 32 examples of reverse+violet; learning rates are chosen
by the loss on the validation examples, seed 100; then three seeds at the best one, and a LoRA that gets the ranks that
AdaLoRA found.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from adalora_planted import ALL, PLANTED, plant

from minipeft import AdaLoRA, LoRA, Mixture, base, evaluate, fit, task, trainable
from minipeft.methods.adalora import ranks
from minipeft.training import TEST, VALIDATION, schedule

OUT = Path(__file__).with_suffix(".json")
LEARNING_RATES, CHOOSING, SEEDS = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 100, range(3)
STEPS = 150
IN_PLANTED = {
    "LoRA, spread": LoRA(rank=1, targets=ALL, rank_pattern={"q": 2, "v": 2}),
    "LoRA, told": LoRA(rank=4, targets=tuple(PLANTED), rank_pattern={"blocks.1.attn.v": 8}),
    "AdaLoRA": AdaLoRA(rank=4 / 3, initial_rank=8, targets=ALL),
}
NATURAL = {
    "LoRA, spread": LoRA(rank=1, targets=ALL),
    "LoRA, rank 2": LoRA(rank=2, targets=ALL),  # as many numbers as AdaLoRA begins with
    "AdaLoRA, initial_rank=1": AdaLoRA(rank=1, initial_rank=1, targets=ALL),  # nothing to allocate
    "AdaLoRA, initial_rank=2": AdaLoRA(rank=1, initial_rank=2, targets=ALL),
    "AdaLoRA, initial_rank=8": AdaLoRA(rank=1, initial_rank=8, targets=ALL),
}


def planted(method, lr, seed):
    teacher, student = plant(seed), base()
    pool = Mixture().batch(1500, torch.Generator().manual_seed(1000 + seed)).tokens
    with torch.no_grad():
        wanted = torch.cat([teacher(some) for some in pool.split(100)])
        whole = F.mse_loss(student(pool[:300]), wanted[:300])
    torch.manual_seed(seed)
    student = method.attach(student)
    parameters, generator = list(trainable(student).values()), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, STEPS, STEPS // 10))
    for step in range(STEPS):
        some = torch.randint(300, len(pool), (16,), generator=generator)
        loss = F.mse_loss(student(pool[some]), wanted[some]) / whole
        optimizer.zero_grad()
        (loss + method.regularizer(student)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        method.after_step(student, step, STEPS)
        scheduler.step()
    with torch.no_grad():
        return {"error": round((F.mse_loss(student(pool[:300]), wanted[:300]) / whole).item(), 5)}


def natural(method, lr, seed, sample=VALIDATION):
    torch.manual_seed(seed)
    model, goal = method.attach(base()), task("reverse+violet")
    try:
        fit(model, goal, steps=STEPS, lr=lr, batch_size=32, seed=seed, device="cpu", progress=False)
    except FloatingPointError:
        return {"accuracy": 0.0, "loss": float("inf"), "ranks": {}}
    score = evaluate(model, goal, seed=sample)
    return {"accuracy": round(score.accuracy, 4), "loss": round(score.loss, 5), "ranks": ranks(model)}


def best(by_lr):
    return float(min(by_lr, key=lambda lr: by_lr[lr].get("error", by_lr[lr].get("loss"))))


def main(parts):
    def stored():
        found = json.loads(OUT.read_text()) if OUT.exists() else {}
        return {part: found.get(part, {}) for part in ("planted", "natural", "runs")}

    def keep(part, name, key, function, *settings):
        if key not in stored()[part].get(name, {}):
            run = function(*settings)
            found = stored()  # another process may have written
            found[part].setdefault(name, {})[key] = run
            OUT.write_text(json.dumps(found, indent=1) + "\n")
        print(part, name, key, {k: v for k, v in stored()[part][name][key].items() if k != "ranks"}, flush=True)

    for part, function, tuned_methods in (("planted", planted, IN_PLANTED), ("natural", natural, NATURAL)):
        for name, method in tuned_methods.items() if part in parts else ():
            for lr in LEARNING_RATES:
                keep(part, name, f"{lr:g}", function, method, lr, CHOOSING)
    for seed in SEEDS if "natural" in parts else ():
        for name, method in NATURAL.items():
            keep("runs", name, str(seed), natural, method, best(stored()["natural"][name]), seed, TEST)
            if isinstance(method, AdaLoRA) and method.initial_rank > method.rank:
                places = {path: rank for path, rank in stored()["runs"][name][str(seed)]["ranks"].items() if rank}
                handed = LoRA(rank=1, targets=tuple(places), rank_pattern=places)
                lr = best(stored()["natural"]["LoRA, spread"])
                keep("runs", f"LoRA, ranks of {name}", str(seed), natural, handed, lr, seed, TEST)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or ("planted", "natural"))
