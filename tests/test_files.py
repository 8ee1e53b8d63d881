"""Writing: tried before the work, whole or not at all, and only over what is our own."""

import errno
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minipeft import deltas, files
from minipeft.bases import base
from minipeft.files import OURS, place, rescue, write_atomically
from minipeft.lab import Store
from minipeft.methods import LoRA

KINDS = {
    "delta": "d.safetensors",
    "table": "t.csv",
    "picture": "p.png",
    "store": "s.jsonl",
}


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk_full(monkeypatch):
    monkeypatch.setattr(os, "fsync", full)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def test_a_file_is_written_with_its_folders(folder):
    write_atomically(folder / "a" / "b" / "file", b"new")
    assert everything(folder) == {"a": True, "a/b": True, "a/b/file": b"new"}
    write_atomically("a/b/file", b"newer")
    assert everything(folder) == {"a": True, "a/b": True, "a/b/file": b"newer"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
def test_whatever_happens_the_earlier_file_is_whole_and_nothing_is_left(folder, monkeypatch, function, error):
    (folder / "file").write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_atomically("file", b"new")
    with pytest.raises(type(error)):
        write_atomically("another", b"new")
    assert everything(folder) == {"file": b"old"}


def test_a_full_disk_is_told_with_the_path(folder, disk_full):
    (folder / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device: file was not written and is as it was") as error:
        write_atomically("file", b"new")
    assert error.value.errno == errno.ENOSPC


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_writing(folder, monkeypatch):
    (folder / "file").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: io.FileIO("/dev/full", "w"))
        with pytest.raises(OSError, match="No space left"):
            write_atomically("file", b"new")
    assert everything(folder) == {"file": b"old"}


def test_a_killed_writer_leaves_the_earlier_file_whole(folder):
    (folder / "file").write_bytes(b"old")
    code = "import os; from minipeft import files; os.replace = lambda *_: os._exit(9); "
    code += "files.write_atomically('file', b'new')"
    env = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, env=env).returncode == 9
    assert (folder / "file").read_bytes() == b"old"
    assert all(name == "file" or name.startswith(".minipeft-") for name in os.listdir(folder))


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_stay_and_new_files_have_the_usual_ones(folder):
    umask = os.umask(0o027)
    try:
        write_atomically("file", b"new")
        assert stat.S_IMODE(os.stat("file").st_mode) == 0o640
        os.chmod("file", 0o600)
        write_atomically("file", b"newer")
        assert stat.S_IMODE(os.stat("file").st_mode) == 0o600
    finally:
        os.umask(umask)


def test_links_devices_pipes_and_folders_are_left_alone(folder):
    (folder / "target").write_bytes(b"old")
    os.symlink("target", "link")
    os.symlink("nowhere", "dangling")
    os.mkdir("folder")
    os.mkfifo("pipe")
    (folder / "file").write_bytes(b"")
    before = os.lstat("pipe"), os.readlink("link"), os.readlink("dangling")
    for path, says in (
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("folder", "is a folder: name a file"),
        (".", "is a folder"),
        ("pipe", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        ("file/below", "file is not a folder"),
        ("file/far/below", "file is not a folder"),
        ("dangling/below", "dangling is not a folder"),
    ):
        for force in (False, True):
            with pytest.raises(ValueError, match=says):
                place(path, "delta", force)
        with pytest.raises(ValueError, match=says):
            write_atomically(path, b"new")
    assert before == (os.lstat("pipe"), os.readlink("link"), os.readlink("dangling"))
    assert (folder / "target").read_bytes() == b"old"


def test_a_folder_may_be_reached_by_a_link(folder):
    os.mkdir("real")
    os.symlink("real", "link")
    place("link/d.safetensors", "delta")
    write_atomically("link/file", b"new")
    assert (folder / "real" / "file").read_bytes() == b"new"


def test_trying_a_place_leaves_nothing_behind(folder):
    (folder / "file").write_bytes(b"x")
    for path in ("d.safetensors", "a/b/c/d.safetensors"):
        place(path, "delta")
    assert everything(folder) == {"file": b"x"}


def test_a_full_disk_is_found_before_the_work(folder, disk_full):
    with pytest.raises(OSError, match=r"No space left on device: a/b/d\.safetensors"):
        place("a/b/d.safetensors", "delta")
    assert everything(folder) == {}


def test_what_has_to_fit_is_tried(folder):
    resource = pytest.importorskip("resource")
    import signal

    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        place("d.safetensors", "delta", room=40_000)
        with pytest.raises(OSError, match="too large"):
            place("d.safetensors", "delta", room=60_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert everything(folder) == {}


def test_where_one_may_not_write(folder, monkeypatch):
    folder.chmod(0o755)
    os.mkdir("folder", mode=0o555)
    root = os.geteuid() == 0
    try:
        if root:  # who may write everywhere
            os.seteuid(65534)
        with pytest.raises(PermissionError, match=r"folder/d\.safetensors was not written"):
            place("folder/d.safetensors", "delta")
    finally:
        if root:
            os.seteuid(0)
    (folder / "file.png").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="write-protected"):
        place("file.png", "picture", force=True)


def ours(kind, path):
    """A file of this kind, as minipeft writes it."""
    import matplotlib.pyplot as plt

    if kind == "delta":
        deltas.save(LoRA(rank=1).attach(base()), path)
    elif kind == "table":
        path.write_text("task,method,lr,parameters,accuracy,accuracy_min\r\nreverse+blue,Full,0.01,3,1,1\r\n")
    elif kind == "picture":
        figure = plt.figure()
        figure.savefig(path, metadata=files.SIGNED)
        plt.close(figure)
    else:
        Store(path).add(json.dumps({"experiment": "trial", "seed": 0}), {"accuracy": 0.5, "loss": float("inf")}, 1.0)


def test_a_store_whose_last_line_was_cut_short_is_still_ours(folder):
    ours("store", folder / "s.jsonl")
    whole = (folder / "s.jsonl").read_bytes()
    for end in (1, 3, 30, len(whole) - 1):
        (folder / "s.jsonl").write_bytes(whole + whole[:end])
        place("s.jsonl", "store")
    (folder / "s.jsonl").write_bytes(whole + b"my notes")
    with pytest.raises(ValueError, match="exists and is no store"):
        place("s.jsonl", "store")


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_files_are_known_by_their_content(folder, kind):
    path = folder / KINDS[kind]
    ours(kind, path)
    place(path, kind)
    assert [name for name, known in OURS.items() if known(path)] == [kind]


OTHERS = {
    "empty": b"",
    "text": "Diplomarbeit, die einzige Fassung\n".encode("utf-16"),
    "csv": b"student,lora,sum\r\nann,3,3\r\n",
    "task.csv": b"task,method,result\r\n",
    "json": b'{"steps": 300, "results": {}, "mine": 1}',
    "list.json": b"[1, 2]",
    "keys.jsonl": b'{"key": {"C": 1}, "value": "a song"}\n',
    "texts.jsonl": b'{"key": "C", "result": {}, "seconds": 1}\n',
    "lines.jsonl": b'{"key": {}, "result": {}, "seconds": 1}\n\nand more\n',
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100) + b"tEXtSoftware\0Matplotlib version3",
    "python": b"print('minipeft delta 1')  # tEXtSoftware\0minipeft\n",
}


@pytest.mark.parametrize("name", [*OTHERS, "weights", "weights with a format"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_others_are_not_overwritten(folder, kind, name):
    path = folder / KINDS[kind]
    if name in OTHERS:
        path.write_bytes(OTHERS[name])
    else:
        save_file({"w": torch.ones(2)}, path, {"format": "pt"} if "format" in name else None)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"exists and is no {kind} that minipeft wrote: .*--force"):
        place(path, kind)
    place(path, kind, force=True)
    assert everything(folder) == {path.name: before}


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_what_is_read_is_never_what_is_written(folder, link):
    path, other = folder / "d.png", folder / "d.png"  # the extension of a picture, the content of a delta
    ours("delta", path)
    if link:
        other = folder / "other.png"
        link(path, other)
    for force in (False, True):
        with pytest.raises(ValueError, match="symbolic link" if link is os.symlink else "the file that is read"):
            place(other, "picture", force, inputs=(path,))
        with pytest.raises(ValueError, match="symbolic link" if link is os.symlink else "the file that is read"):
            place(other, "delta", force, inputs=(folder / "nowhere", path))


def test_pictures_are_png(folder):
    for name in ("picture.pdf", "picture", "picture.svg"):
        with pytest.raises(ValueError, match=r"written as PNG: name it picture\.png"):
            place(name, "picture", force=True)
    place("picture.PNG", "picture")


def test_what_cannot_be_saved_goes_to_the_folder_for_temporary_files(folder, monkeypatch):
    temporary = folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def write(path):
        if temporary not in path.parents:
            full()
        write_atomically(path, b"work")
        return 4

    assert rescue(write, temporary / "out.json") == 4
    with pytest.raises(OSError, match=r"No space left.*the results are saved as .*out\.json") as error:
        rescue(write, folder / "out.json")
    assert Path(str(error.value).split("saved as ")[1]).read_bytes() == b"work"


def test_what_cannot_be_saved_anywhere_is_said(folder, disk_full):
    said = []
    with pytest.raises(OSError, match=r"No space left.*the results are printed above"):
        rescue(lambda path: write_atomically(path, b"work"), "out.json", say=lambda: said.append("work"))
    with pytest.raises(OSError, match="the results are lost"):
        rescue(lambda path: write_atomically(path, b"work"), "out.json")
    assert said == ["work"]
    assert everything(folder) == {}
