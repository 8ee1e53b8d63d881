"""What a training step costs in the playground, beside the same step in PyTorch.

    python -m benchmarks.playground            (Linux; needs requirements-play.txt and a Chromium; half a minute)

LoRA of rank 4 on q and v, and a prompt of four vectors, learn from 16 new examples a step: in a worker of headless
Chromium and in PyTorch on one thread. The two take turns. Time is that of the CPU; for the browser, that of all its
processes. It prints the median and the quartiles over rounds.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from minipeft.bases import base
from minipeft.methods import LoRA, PromptTuning
from minipeft.tasks import task
from minipeft.training import fit
from play import build

STEPS, ROWS, GOAL = 20, 16, "reverse+violet"
METHODS = {
    "LoRA": (LoRA(rank=4, alpha=8), 'E.lora(model, { rank: 4, alpha: 8, targets: ["q", "v"] }, draw)'),
    "prompt": (PromptTuning(length=4), "E.promptTuning(model, 4, draw)"),
}
WORKER = """
let model, world, learned = {};
const E = { lora, promptTuning };
onmessage = ({ data }) => {
  if (data.model) {
    world = data.world;
    model = new Transformer(readSafetensors(data.model).tensors, world);
    return;
  }
  const draw = random(1), goal = task(world, data.goal);
  const made = learned[data.name] ??= new Function("E", "model", "draw", `return ${data.make}`)(E, model, draw);
  const optimizer = new AdamW(made.tensors), tape = made.tape ??= new Tape();
  for (let i = 0; i < data.steps; i++) trainStep(model, made, optimizer, tape, goal.batch(data.rows, draw), 0.01);
  postMessage("done");
};
"""
READY = """([source, base, world]) => {
  window.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.postMessage({ model: Uint8Array.from(atob(base), (c) => c.charCodeAt(0)).buffer, world });
}"""
TRAIN = """(job) => new Promise((done) => {
  worker.onmessage = () => done();
  worker.postMessage(job);
})"""


def cpu_of_children():
    """Seconds of CPU that all processes below this one have used."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        parents[pid], used[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    total, own = 0, os.getpid()
    for pid, ticks in used.items():
        above = parents[pid]
        while above not in (own, 0) and above in parents:
            above = parents[above]
        total += ticks if above == own else 0
    return total / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    views = {name: method.attach(base()) for name, (method, _) in METHODS.items()}
    spent = {(name, where): [] for name in METHODS for where in ("playground", "PyTorch")}
    data = build.data()
    with sync_playwright() as driver:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=quiet)
        page = browser.new_page()
        page.evaluate(READY, [build.script("engine.mjs") + WORKER, data["base"], data["world"]])
        for _ in range(rounds + 2):  # the first two warm up
            for name, (_, make) in METHODS.items():
                job = {"name": name, "make": make, "goal": GOAL, "steps": STEPS, "rows": ROWS}
                begun = cpu_of_children()
                page.evaluate(TRAIN, job)
                spent[name, "playground"].append(cpu_of_children() - begun)
                begun = time.process_time()
                fit(views[name], task(GOAL), lr=0.01, steps=STEPS, batch_size=ROWS, progress=False, device="cpu")
                spent[name, "PyTorch"].append(time.process_time() - begun)
        browser.close()
    table = Table("", "playground, ms", "PyTorch, ms", "ratio", title=f"CPU of one training step on {ROWS} examples")
    for name in METHODS:
        here, there = (1000 * np.array(spent[name, where][2:]) / STEPS for where in ("playground", "PyTorch"))
        table.add_row(name, *map(quartiles, (here, there)), quartiles(here / there))
    Console().print(table)


def quartiles(values):
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
