"""What is noted in a student's folder, `work/.progress.json`: results of checks, and answers to the questions.

    {"lora.py": {...}, "notebook": {"lora": ["LoRALinear.forward"]}, "questions": {"10_lora": "bacd-"}}

Files are noted by their name (see `desk`), bodies that were right in a notebook by their exercise, and answers by their
lesson.
"""

import json
from pathlib import Path

from minipeft.files import write_atomically

FOLDER = Path("work")
BOOK = ".progress.json"


def nearest():
    """The folder of the student's work, as a notebook sees it: here, or above it if `run.py` is there."""
    here = Path.cwd()
    return (here.parent if (here.parent / "run.py").is_file() else here) / FOLDER


def book_of(folder):
    try:
        book = json.loads((Path(folder) / BOOK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: noted for name, noted in book.items() if isinstance(noted, dict)} if isinstance(book, dict) else {}


def note(folder, name, **what):
    book = book_of(folder)
    book[name] = book.get(name, {}) | what
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / BOOK, json.dumps(book, indent=1).encode())
    except OSError:
        return  # a folder that cannot be written to: nothing is lost but a tick in a list


def answers(folder):
    """{lesson: letters} of the questions that were answered, as `quiz` noted them."""
    noted = book_of(folder).get("questions", {})
    return {lesson: noted[lesson] for lesson in sorted(noted) if isinstance(noted[lesson], str)}


def right_in_a_notebook(folder, exercise):
    """The bodies of an exercise that a notebook's check found right."""
    return book_of(folder).get("notebook", {}).get(exercise, [])
