"""A child process for a student's code, with limits on time, memory, files, processes and output.

The child only observes; what it tells, plain numbers as JSON, is judged by the parent (`diagnose.judge`). Around the
student's code stand, from the outside in:

  the parent       gives so much time, then has everything ended; believes only answers to what it asked
  a supervisor     adopts whatever the code leaves running and kills it when the code is done, or the parent is dead
  `confine`        what the process may do: limits, Landlock and a filter of the kernel, an audit hook of Python

There are two such processes. The first earns the points: the project's bodies are not in it, nor the rules by which a
variant is made. The second has them, to fill what is not written yet, and to find out which body is wrong; it is asked
only afterwards, and what it says earns nothing.

This is meant for the accidents and pranks of a class. It is no prison: for strangers' code use a container as well.
"""

import contextlib
import faulthandler
import gc
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from minipeft.classroom.engine import observe, source
from minipeft.classroom.engine.exercise import exercises, get_exercise
from minipeft.classroom.engine.observe import Stopped
from minipeft.classroom.grading import flags
from minipeft.classroom.grading.confine import MEGABYTE, confine, prctl

LONGEST = 16 * MEGABYTE  # of an answer
STARTING = threading.Lock()
TRIES = 3  # to start a process


@dataclass(frozen=True)
class Limits:
    """For one exercise of one student.

    seconds: of the processor, and five times as many by the clock, so that a busy machine is nobody's loss.
    memory: megabytes beyond what Python and torch take. files: megabytes for all that is written.
    """

    seconds: float = 5.0
    memory: int = 1000
    files: int = 10


class Child:
    """A `observe.Subject` that lives in processes of its own: `with Child("lora", text) as subject: ...`

    flags: sentences for the teacher about what looks like an attempt on the checker. output: what the code printed.

    Raises Stopped when it runs out of time or memory, ends by itself or sends what it should not.
    """

    def __init__(self, name, text, seed=None, limits=None, method="fork"):
        context = multiprocessing.get_context(method if method in multiprocessing.get_all_start_methods() else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(
                ["minipeft.classroom.grading.sandbox", "minipeft.exercises.lora.observations"]
            )
        exercise = get_exercise(name)
        whole = exercise.reference(seed)
        bare = source.emptied(whole, exercise.stubs, exercise.hidden)
        self.forks = context.get_start_method() == "fork"
        self.first, self.second = (
            Process(context, limits or Limits(), (name, text, around)) for around in (bare, whole)
        )
        self.text_flags = flags.of_text(text)

    def __enter__(self):
        remove_stale_folders()
        self.first.start()
        if self.forks:  # now: a process that is forked after autograd has run here would hang in its backward pass
            self.second.start()
        return self

    def observe(self, take, fill, only=None):
        """As a `Subject`; with `fill` it is the second process that is asked."""
        process = self.second if fill else self.first
        if process.place is None:
            process.start()
        return process.observe(take, fill, only)

    def __exit__(self, *_):
        self.first.stop()
        self.second.stop()

    @property
    def output(self):
        return self.first.output

    @property
    def flags(self):
        return [*self.text_flags, *self.first.flags]


class Process:
    """One process with a student's code, and the line to it."""

    def __init__(self, context, limits, job):
        self.context, self.limits, self.job = context, limits, job
        self.secret, self.place, self.output, self.flags, self.end = secrets.token_hex(16), None, "", [], None

    def start(self):
        self.place = Path(tempfile.mkdtemp(prefix=f"minipeft-{os.getpid()}-"))
        (self.place / "home").mkdir()
        self.heard = (self.place / "output.txt").open("w+b")
        self.line, theirs = self.context.Pipe()
        self.process = self.context.Process(
            target=serve, args=(theirs, self.secret, self.place, self.limits, *self.job), daemon=True
        )
        with STARTING, quiet_start():
            self.process.start()
        theirs.close()

    def observe(self, take, fill, only):
        if self.end is None:  # time counts from the first answer that the child is ready, not while Python starts
            self.begin()
            self.end = time.monotonic() + 5 * self.limits.seconds
        with contextlib.suppress(OSError):
            if self.line.poll(0):
                self.flag("It sent an answer before it was asked.")
                raise Stopped("it sent something of its own instead of observations")
        self.secret = secrets.token_hex(16)  # a new one each time: an answer cannot be written before the question
        try:
            self.line.send_bytes(json.dumps([self.secret, list(take), fill, only]).encode())
        except OSError:
            raise Stopped(self.why()) from None
        try:
            values, changed = self.wait(self.end - time.monotonic(), "values")
            values = {str(name): cleaned(value) for name, value in values.items()}
            changed = [str(name)[:60] for name in changed]
        except (AttributeError, TypeError, ValueError, RecursionError):
            raise Stopped("it sent something of its own instead of observations") from None
        if changed:
            self.flag(f"While it ran, these were exchanged for something else: {', '.join(changed[:5])}.")
        return values

    def begin(self):
        """Wait until the child is ready. Nothing of the student's has run by then: if it ends, that is not theirs."""
        for _ in range(TRIES):
            try:
                return self.wait(60.0, "ready")
            except Stopped:
                self.stop()
                self.start()
        raise RuntimeError(f"the grader could not start a process, {TRIES} times: {self.output or 'it says nothing'}")

    def flag(self, sentence):
        if sentence not in self.flags:
            self.flags.append(sentence)

    def wait(self, seconds, what):
        """What the child says. It may also begin to speak and then stop: a timer ends it."""
        late = f"no answer after {5 * self.limits.seconds:g} seconds; does a loop never end?"
        deadline = time.monotonic() + max(seconds, 0) + 1
        if not self.line.poll(max(seconds, 0)):
            raise Stopped(late)
        timer = threading.Timer(deadline - time.monotonic(), self.process.terminate)
        timer.start()
        try:
            message = json.loads(self.line.recv_bytes(LONGEST))
            if message["secret"] != self.secret:
                raise ValueError
            return message[what]
        except Exception as error:
            if time.monotonic() >= deadline:
                raise Stopped(late) from None
            if isinstance(error, EOFError):
                raise Stopped(self.why()) from None
            self.flag("It sent a message that is no answer to what it was asked.")
            raise Stopped("it sent something of its own instead of observations") from None
        finally:
            timer.cancel()

    def why(self):
        """Why a child ended without an answer."""
        self.process.join(5)
        code = self.process.exitcode or 0
        if code > 192:  # the supervisor's word for a signal
            code -= 256
        if code in (OUT_OF_MEMORY, -9):
            return f"it needs more than {self.limits.memory} megabytes of memory"
        if code == TOO_MUCH_WRITTEN:
            return f"it writes more than {self.limits.files} megabytes into files"
        if code == OUT_OF_TIME:
            return f"it takes longer than {self.limits.seconds:g} seconds; does a loop never end?"
        how = f" (signal {-code})" if code < 0 else f" (exit code {code})" if code else ""
        return "it ended the process before it could be looked at" + how

    def stop(self):
        if self.place is None:
            return
        self.line.close()
        self.process.terminate()  # the supervisor then ends whatever is left
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.heard.seek(0)
        self.output = self.heard.read(4000).decode(errors="replace")
        self.heard.close()
        shutil.rmtree(self.place, ignore_errors=True)


REFUSED = re.compile(r"\[Errno (1|13)\]|Operation not permitted|Permission denied|not allowed to raise")


def cleaned(value, depth=0):
    """What a child sent, if it looks as `observe.plain` would have left it; ValueError if not. Text becomes printable.

    A refusal by the kernel gets a sentence.
    """
    if depth > 40:
        raise ValueError("too deep")
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else math.inf if value > 0 else -math.inf
    if isinstance(value, list):
        return [cleaned(v, depth + 1) for v in value]
    keys = set(value)
    if keys == {"items"}:
        return {"items": {cleaned(k): cleaned(v, depth + 1) for k, v in value["items"].items()}}
    if keys == {"error", "line", "code"} and isinstance(value["error"], str):
        said, line, code = (cleaned(value[key]) for key in ("error", "line", "code"))
        if REFUSED.search(said) and "a solution may not" not in said:
            said += " (the grader refuses it: a solution computes, and touches no files, processes or settings)"
        line = line if isinstance(line, int | None) else str(line)[:60]  # in a notebook: "2 of code cell 3"
        return {"error": said, "line": line, "code": code and str(code)}
    shape, data = value["shape"], value["data"]
    if keys != {"shape", "data"} or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 64:
        raise ValueError("not what was asked for")
    if math.prod(shape) != len(data) or not all(type(x) is float or (type(x) is int and abs(x) < 2**63) for x in data):
        raise ValueError("not as many numbers as the shape says")
    return value


def remove_stale_folders():
    """Remove the temporary folders of graders that died. Only where a process can be asked for without harm."""
    if os.name != "posix":
        return
    for folder in Path(tempfile.gettempdir()).glob("minipeft-*-*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if folder.stat().st_uid == os.getuid() and not is_running(int(folder.name.split("-")[1])):
                shutil.rmtree(folder, ignore_errors=True)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def quiet_start():
    """Children that are not forked start without the program that started them."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        for name in kept:
            setattr(main, name, None) if name == "__spec__" else delattr(main, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: no lock of theirs is needed
            yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


# -- the supervisor ----------------------------------------------------------------------------------------------------

OUT_OF_MEMORY, TOO_MUCH_WRITTEN, OUT_OF_TIME = 66, 67, -24  # how it tells the parent why the code has ended


def serve(line, secret, place, limits, *job):
    """Fork the student's process and stay beside it until it ends or time is up; then end what it has left running."""
    if not hasattr(os, "fork"):
        return work(line, secret, place, limits, *job)
    with contextlib.suppress(OSError, ValueError):
        os.setsid()
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become this process's children
    child = 0

    def stop(*_):
        finish(child)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    child = os.fork()
    if not child:
        be_the_child(line, secret, place, limits, *job)
    line.close()
    code = stay_beside(child, place, limits)
    finish(0)
    os._exit(code & 0xFF)


def be_the_child(*args):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive its supervisor
    gc.freeze()  # the grader's garbage stays: collected here, it would close files by numbers that are new ones' by now
    code = 1
    try:
        work(*args)
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def stay_beside(child, place, limits):
    """Wait for the child's end and return why it ended. Ends everything if the parent dies, or the disk fills."""
    parent, full = multiprocessing.parent_process().sentinel, False
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if multiprocessing.connection.wait([parent], 0.05):
            finish(child)
            shutil.rmtree(place, ignore_errors=True)
            os._exit(0)
        if not full and holds_more_than(place / "home", limits.files * MEGABYTE):
            full = True
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if full:
        return TOO_MUCH_WRITTEN
    return OUT_OF_TIME if code == -9 and used.ru_utime + used.ru_stime >= limits.seconds else code


def holds_more_than(folder, limit):
    """Do the files below a folder take more than so many bytes? Each counts at least as a page."""
    size = 0
    for path, folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                size += max(os.lstat(os.path.join(path, name)).st_blocks * 512, 4096)
        size += 4096 * len(folders)
        if size > limit:
            return True
    return False


def finish(child):
    """Kill the child and everything that it started, also what has left its group."""
    if child:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    for _ in range(200):
        for pid in children(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def children(pid):
    """Process numbers of the children, on Linux; elsewhere a session's processes end with its group."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# -- the child ---------------------------------------------------------------------------------------------------------

KEPT = {"PATH", "LANG", "LANGUAGE", "TZ", "SYSTEMROOT", "WINDIR"}  # of the environment


def work(line, secret, place, limits, name, text, around):
    """Answer the parent's requests about a student's text. around: the reference's text, in which its bodies go."""
    torch.set_num_threads(1)
    exercise = get_exercise(name)
    settle(line, place)
    subject = observe.Subject(exercise, text, around=around)
    forget()
    del around
    changed = flags.watch(exercise)
    send, receive, dumps, loads, look = line.send_bytes, line.recv_bytes, json.dumps, json.loads, subject.observe
    confine(place / "home", limits)
    send(dumps({"secret": secret, "ready": True}).encode())
    while True:
        try:
            secret, *request = loads(receive())
        except EOFError:
            return
        values = look(*request)
        send(dumps({"secret": secret, "values": [values, changed()]}).encode())


def settle(line, place):
    """A home and an output of its own; nothing of the parent's stays open, and little of its environment."""
    home = place / "home"
    for known in [k for k in os.environ if k.upper() not in KEPT and not k.startswith("LC_")]:
        del os.environ[known]
    os.environ.update(HOME=str(home), TMPDIR=str(home), USERPROFILE=str(home))
    tempfile.tempdir = str(home)
    os.chdir(home)
    faulthandler.disable()
    os.closerange(3, line.fileno())  # what was open in the parent
    os.closerange(line.fileno() + 1, 65536)
    out = os.open(place / "output.txt", os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin, sys.stdout, sys.stderr = (open(0), *(open(n, "w", buffering=1, errors="replace") for n in (1, 2)))  # noqa: SIM115
    sys.dont_write_bytecode = True


def forget():
    """Forget what would tell: the edits that make variants and mistakes, and every text and module made of them."""
    for exercise in exercises().values():
        for edits in ("variants", "mistakes", "rights"):
            object.__setattr__(exercise, edits, ())
    for name, module in list(sys.modules.items()):
        if name.startswith("minipeft.classroom."):
            owners = [module, *(c for c in vars(module).values() if isinstance(c, type))]
            for thing in [thing for owner in owners for thing in vars(owner).values()]:
                if hasattr(thing, "cache_clear"):
                    thing.cache_clear()
