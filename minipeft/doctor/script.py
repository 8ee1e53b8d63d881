"""A Python file that defines what is to be examined: it is run, as `python file.py` would, but not as __main__."""

import runpy
import sys
import traceback
from pathlib import Path

from torch import nn


def run(path):
    """{"patient": model, "optimizer": …, "loss": …, "targets": …}: what the file defines. The file is run.

    What stands below `if __name__ == "__main__":` is not. Raises RuntimeError, with the line, if the file stops with an
    error; ValueError if it defines no `model`.
    """
    path, beside, words = Path(path), sys.path[:], sys.argv[:]
    sys.path.insert(0, str(path.resolve().parent))  # what it imports may lie next to it
    sys.argv = [str(path)]
    try:
        defined = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise RuntimeError(f"{path} stopped in line {line} with {type(error).__name__}: {error}") from error
    finally:
        sys.path[:], sys.argv[:] = beside, words
    if not isinstance(defined.get("model"), nn.Module):
        others = [name for name, value in defined.items() if isinstance(value, nn.Module)]
        there = f"it defines {', '.join(others)}: name that model" if others else "it defines no model at all"
        raise ValueError(
            f"{path} must define `model`, a torch.nn.Module, and may define `optimizer` and `loss`; {there}"
        )
    given = {name: defined[name] for name in ("optimizer", "loss", "targets") if name in defined}
    return {"patient": defined["model"], **given}
