"""Writing files so that nothing is lost."""

import os
from pathlib import Path


def write_atomically(path, data):
    """Write bytes to `path`: a crash leaves the old file or the new one. Returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(data)
