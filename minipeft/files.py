"""Writing without doing harm: a place is tried before the work, a file is written whole or not at all.

`place` is for commands: before the work begins, it finds out whether a file can be written there and whether another
would be lost by that. What minipeft wrote itself it knows by its content, and overwrites; all else needs --force.
Devices, pipes and symbolic links are left alone.
"""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open

SIGNED = {"Software": "minipeft"}  # the metadata of our pictures


def write_atomically(path, data):
    """Write bytes to a file: whatever happens, the earlier file or the new one is there, whole. Returns their number.

    Raises ValueError if there is a folder, a link or a device; OSError, with the path, if it cannot be written.
    """
    path = plain(path)
    temporary = beside(path, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is safe from a crash only when the folder is
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    return len(data)


def place(path, kind, force=False, inputs=(), room=100_000):
    """Try, before the work, whether a file of this kind (a key of OURS) can be written here; nothing stays behind.

    force: overwrite also what minipeft did not write. inputs: files that are read, which are never overwritten.
    room: bytes that have to fit.

    Raises ValueError, with what to do, for a place that must not be written to; OSError for one that cannot.
    """
    path = plain(path)
    if kind == "picture" and path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG: name it {path.with_suffix('.png')} instead of {path}")
    if path.exists():
        if any(Path(other).exists() and path.samefile(other) for other in inputs):
            raise ValueError(f"{path} is the file that is read: give what is written another name")
        if not force and not OURS[kind](path):
            raise ValueError(
                f"{path} exists and is no {kind} that minipeft wrote: choose another name, or overwrite it with --force"
            )
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        beside(path, bytes(room)).unlink()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def rescue(write, path, say=None):
    """write(path), after long work. If it fails, write(another path, for temporary files); if that fails too, say().

    Raises OSError that tells where the results are, if not at `path`.
    """
    try:
        return write(path)
    except (OSError, ValueError) as error:
        try:
            spare = Path(tempfile.gettempdir(), f"minipeft-{uuid4().hex[:8]}-{Path(path).name}")
            write(spare)
            where = f"saved as {spare}"
        except OSError:
            where = "printed above" if say else "lost"
            if say:
                say()
        raise OSError(f"{error}; the results are {where}") from None


def plain(path):
    """The path, if it is that of a plain file or of none yet. Raises ValueError, with what is there."""
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"{path} is a symbolic link, which is left alone: name the file itself")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, which is left alone: name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} is write-protected: choose another name")
    for folder in path.parents:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder, so there can be no {path}")
    return path


def beside(path, data):
    """A new file with these bytes in the folder of `path`, safely on the disk. If it fails there is none."""
    temporary = path.with_name(f".minipeft-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{error.strerror}: {path} was not written and is as it was") from None
        raise
    return temporary


def is_delta(path):
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("minipeft delta")
    except SafetensorError:
        return False


def is_table(path):
    with path.open("rb") as file:
        return file.read(100).startswith(b"task,method,lr,parameters,")


def is_picture(path):
    with path.open("rb") as file:
        head = file.read(4000)
    return head.startswith(b"\x89PNG\r\n") and b"tEXtSoftware\0minipeft" in head


def is_store(path):
    """A lab's runs, one on each line: {"key": {...}, "result": {...}, "seconds": ...}."""
    lines = path.read_bytes().splitlines()
    return bool(lines) and all(b'{"key": {'.startswith(line[:9]) and is_run(line) for line in lines)


def is_run(line):
    """Is this a run, or the beginning of one that was cut short?"""
    try:
        return json.loads(line).keys() == {"key", "result", "seconds"}
    except ValueError:
        return True


def is_export(path):
    """A file for another library, or the configuration beside one."""
    if path.suffix == ".json":
        return any(map(is_export, path.parent.glob("*.safetensors")))
    with path.open("rb") as file:
        head = file.read(1000)
    return b'"software":"minipeft"' in head or (head.startswith(b"GGUF") and b"minipeft" in head)


OURS = {"delta": is_delta, "table": is_table, "picture": is_picture, "store": is_store, "export": is_export}
