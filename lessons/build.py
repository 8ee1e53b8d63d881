"""Builds the notebooks: every lessons/NN_name.py becomes NN_name.ipynb, executed, with its figures.

    python run.py lessons            all of them; `python run.py lessons 10` only those whose name begins so

The same source gives the same notebook but for what the clock says: cells have fixed ids, no time stamps are kept.
What a lesson took, in seconds of a processor, is kept in times.json; a test holds it to the minute that is promised.
"""

import base64
import io
import json
import os
import re
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("MPLBACKEND", None)  # the kernel chooses the one that puts figures into the notebook

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

from minipeft.published import smollm2

HERE = Path(__file__).parent
TIMES = HERE / "times.json"
HIDDEN = "hide-input"  # the tag of cells that readers need not see: the fast dial, and checks that keep the lesson true
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def sources():
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def needs_the_real_model(source):
    return "smollm2" in source.read_text(encoding="utf-8")


def notebook(source):
    """The notebook of a lesson, not executed."""
    nb = jupytext.read(source)
    nb.metadata = nbformat.from_dict(KERNEL)  # no pairing: the source is the one truth
    for i, cell in enumerate(nb.cells):
        cell["id"] = f"c{i:02d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if HIDDEN in cell.metadata.get("tags", ()):
            cell.metadata["jupyter"] = {"source_hidden": True}
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


def joined(nb):
    """One output per stream: how often a cell flushes is not part of the lesson."""
    for cell in nb.cells:
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
            else:
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    return nb


def light(nb):
    """Pictures with a palette of 256 colours: a third of the bytes, and nothing that an eye sees is lost."""
    for data in [output.data for cell in nb.cells for output in cell.get("outputs", []) if "data" in output]:
        if "image/png" in data:
            picture, file = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB"), io.BytesIO()
            picture.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
            data["image/png"] = base64.b64encode(file.getvalue()).decode() + "\n"
    return nb


CAPTION = re.compile(r"\*Figure(?: \d)?: (.+?)\*(?!\*)", flags=re.DOTALL)


def described(nb):
    """Every picture gets its caption, `*Figure: ...*`, as alternative text. They come in the same order.

    Raises ValueError if there are more pictures than captions, or fewer.
    """
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    texts = [text for cell in nb.cells if cell.cell_type == "markdown" for text in CAPTION.findall(cell.source)]
    if len(pictures) != len(texts):
        raise ValueError(f"{len(pictures)} pictures, but {len(texts)} captions (*Figure: ...*)")
    for picture, text in zip(pictures, texts, strict=True):
        picture.metadata["image/png"] = {"alt": " ".join(re.sub(r"[$`]", "", text).split())}
    return nb


def execute(nb):
    """Run all cells in a fresh kernel, in the folder of the lessons; an error in a cell is an error here."""
    NotebookClient(
        nb, timeout=3600, kernel_name="python3", record_timing=False, resources={"metadata": {"path": HERE}}
    ).execute()
    nb.metadata.pop("language_info", None)
    return described(light(joined(nb)))


def kernels():
    """Seconds of a processor that the kernels took so far; on Windows, which does not count them, of the clock."""
    used = os.times()
    return time.perf_counter() if os.name == "nt" else used.children_user + used.children_system


def keep(name, seconds):
    times = json.loads(TIMES.read_text()) | {name: round(seconds)}
    TIMES.write_text(json.dumps(dict(sorted(times.items())), indent=1) + "\n")


def main(names):
    for source in sources():
        if names and not source.name.startswith(tuple(names)):
            continue
        if needs_the_real_model(source) and not smollm2.there():
            print(f"{source.name} is left out: it needs the real language model, python run.py real")
            continue
        begun = kernels()
        nb = execute(notebook(source))
        target = source.with_suffix(".ipynb")
        nbformat.write(nb, target)
        seconds, size = kernels() - begun, target.stat().st_size
        keep(source.stem, seconds)
        print(f"{target.name}: {seconds:.0f} s, {size // 1000} KB, {len(nb.cells)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
