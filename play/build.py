"""Puts the playground into one file that opens from a disk, site/play.html:  python run.py play

A page that was opened from a disk may not load other files. So the engine, the worker and the page stand in it as they
are, without `import` and `export`; vocabulary, tables, base and adapters are written in by Python.
"""

import base64
import json
import re
import sys
import webbrowser
from pathlib import Path

from minipeft.bases import FOLDER, base
from minipeft.deltas import FORMAT, fingerprint
from minipeft.tasks import BOS, EOS, FIRST_LETTER, LENGTH, LETTERS, SEP, TABLES, VOCABULARY

HERE = Path(__file__).parent
OUT = HERE.parent / "site" / "play.html"
IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
EXPORT = re.compile(r"^export ", re.MULTILINE)


def world():
    """What the engine has to know of the toy world and of the base."""
    model = base()
    return {
        "vocabulary": VOCABULARY,
        "tables": {name: table.tolist() for name, table in TABLES.items()},
        "first": FIRST_LETTER,
        "letters": len(LETTERS),
        "length": LENGTH,
        "bos": BOS,
        "sep": SEP,
        "eos": EOS,
        "heads": model.config.heads,
        "format": FORMAT,
        "base": fingerprint(model),
    }


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def data():
    return {
        "world": world(),
        "base": encoded(FOLDER / "letters-d64.safetensors"),
        "adapters": {path.stem: encoded(path) for path in sorted((HERE / "shipped").glob("*.safetensors"))},
    }


def script(name):
    """A module as a plain script."""
    return EXPORT.sub("", IMPORT.sub("", (HERE / name).read_text(encoding="utf-8")))


def page():
    """The whole page."""
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for name in ("engine.mjs", "worker.mjs", "page.mjs"):
        text = text.replace(f"/* {name} */", script(name))
    return text.replace("/* data */", json.dumps(data()).replace("<", "\\u003c"))


def main(out=OUT):
    out.parent.mkdir(exist_ok=True)
    out.write_text(page(), encoding="utf-8")
    print(f"The playground, {out.stat().st_size / 1e3:,.0f} kB: open {out}")
    return out


if __name__ == "__main__":
    made = main()
    if "--no-browser" not in sys.argv:
        webbrowser.open(made.as_uri())
