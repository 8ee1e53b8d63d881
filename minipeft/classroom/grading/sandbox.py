"""A child process for a student's code, with limits on time, memory, files, processes and output.

The child only observes; what it tells, plain numbers as JSON, is judged by the parent (`diagnose.judge`). Around the
student's code stand, from the outside in:

  the parent       gives so much time, then has everything ended; believes only messages that carry its secret
  a supervisor     adopts whatever the code leaves running, and kills it when the code is done
  the kernel       limits memory, processor time and file size; on Linux (Landlock) it also refuses to write outside a
                   temporary home, to read other submissions, to run programs, to connect, to signal other processes
  Python           an audit hook refuses the same with a message that the student can read, on every system

This is meant for the accidents and pranks of a class. It is no prison: for strangers' code use a container as well.
"""

import contextlib
import ctypes
import faulthandler
import json
import math
import multiprocessing
import os
import secrets
import shutil
import signal
import site
import struct
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from minipeft.classroom.engine import observe
from minipeft.classroom.engine.exercise import get_exercise

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """For one exercise of one student.

    seconds: of the processor, and five times as many by the clock, so that a busy machine is nobody's loss.
    memory: megabytes beyond what Python and torch take. files: megabytes for what is written.
    """

    seconds: float = 5.0
    memory: int = 1000
    files: int = 10


class Stopped(Exception):
    """No observations came back; the message says why, to the student."""


class Child:
    """A `observe.Subject` that lives in a process of its own: `with Child("lora", text) as subject: ...`

    Raises Stopped when it runs out of time or memory, ends by itself or sends what it should not.
    """

    def __init__(self, name, text, seed=None, limits=None, method="fork"):
        self.limits, self.secret, self.output = limits or Limits(), secrets.token_hex(16), ""
        self.context = multiprocessing.get_context(
            method if method in multiprocessing.get_all_start_methods() else "spawn"
        )
        if self.context.get_start_method() == "forkserver":
            self.context.set_forkserver_preload(
                ["minipeft.classroom.grading.sandbox", "minipeft.exercises.lora.observations"]
            )
        self.job = name, text, seed

    def __enter__(self):
        self.place = Path(tempfile.mkdtemp(prefix=f"minipeft-{os.getpid()}-"))
        (self.place / "home").mkdir()
        self.heard = (self.place / "output.txt").open("w+b")
        self.line, theirs = self.context.Pipe()
        self.process = self.context.Process(
            target=serve, args=(theirs, self.secret, self.place, self.limits, *self.job), daemon=True
        )
        with quiet_start():
            self.process.start()
        theirs.close()
        self.end = None
        return self

    def observe(self, take, fill, only=None):
        if self.end is None:  # time counts from the first answer that the child is ready, not while Python starts
            self.wait(60.0, "ready")
            self.end = time.monotonic() + 5 * self.limits.seconds
        try:
            self.line.send_bytes(json.dumps([list(take), fill, only]).encode())
        except OSError:
            raise Stopped(self.why()) from None
        values = self.wait(self.end - time.monotonic(), "values")
        if not isinstance(values, dict):
            raise Stopped("it sent something of its own instead of observations")
        return values

    def wait(self, seconds, what):
        if not self.line.poll(max(seconds, 0)):
            raise Stopped(f"no answer after {5 * self.limits.seconds:g} seconds; does a loop never end?")
        try:
            message = json.loads(self.line.recv_bytes(64 * MEGABYTE))
            if message["secret"] != self.secret:
                raise ValueError
            return message[what]
        except EOFError:
            raise Stopped(self.why()) from None
        except Exception:
            raise Stopped("it sent something of its own instead of observations") from None

    def why(self):
        """Why a child ended without an answer."""
        self.process.join(5)
        code = self.process.exitcode or 0
        if code > 192:  # the supervisor's word for a signal
            code -= 256
        if code in (OUT_OF_MEMORY, -9):
            return f"it needs more than {self.limits.memory} megabytes of memory"
        if code == -24:
            return f"it takes longer than {self.limits.seconds:g} seconds; does a loop never end?"
        how = f" (signal {-code})" if code < 0 else f" (exit code {code})" if code else ""
        return "it ended the process before it could be looked at" + how

    def __exit__(self, *_):
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


# -- in the child ------------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = 66


def serve(line, secret, place, limits, name, text, seed):
    """Fork the student's process and stay beside it until it ends or time is up; then end what it has left running."""
    if not hasattr(os, "fork"):
        return work(line, secret, place, limits, name, text, seed)
    with contextlib.suppress(OSError, ValueError):
        os.setsid()
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become this process's children
    child = os.fork()
    if not child:
        code = 1
        try:
            work(line, secret, place, limits, name, text, seed)
            code = 0
        except MemoryError:
            code = OUT_OF_MEMORY
        finally:
            os._exit(code)
    line.close()

    def stop(*_):
        finish(child)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    _, status = os.waitpid(child, 0)
    finish(None)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


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


def work(line, secret, place, limits, name, text, seed):
    """Answer the parent's requests about a student's text."""
    torch.set_num_threads(1)
    exercise = get_exercise(name)
    home = place / "home"
    os.environ.update(HOME=str(home), TMPDIR=str(home), USERPROFILE=str(home))
    for known in [k for k in os.environ if k.upper().endswith(("_TOKEN", "_KEY", "_SECRET", "PASSWORD"))]:
        del os.environ[known]
    tempfile.tempdir = str(home)
    os.chdir(home)
    faulthandler.disable()
    os.closerange(3, line.fileno())  # what was open in the parent
    os.closerange(line.fileno() + 1, 1024)
    out = os.open(place / "output.txt", os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin, sys.stdout, sys.stderr = (open(0), *(open(n, "w", buffering=1, errors="replace") for n in (1, 2)))  # noqa: SIM115
    sys.dont_write_bytecode = True
    subject = observe.Subject(exercise, text, seed)
    confine(home, limits)
    send = line.send_bytes

    def tell(what, value):
        send(json.dumps({"secret": secret, what: value}).encode())

    tell("ready", True)
    while True:
        try:
            request = line.recv_bytes()
        except EOFError:
            return
        tell("values", subject.observe(*json.loads(request)))


def confine(home, limits):
    """From here on this process may compute, and write into its home."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, [size + limits.memory * MEGABYTE] * 2)
        used = resource.getrusage(resource.RUSAGE_SELF)
        enough = math.ceil(used.ru_utime + used.ru_stime + limits.seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (enough, enough + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, [limits.files * MEGABYTE] * 2)
        resource.setrlimit(resource.RLIMIT_CORE, [0, 0])
    landlock(home)
    sys.addaudithook(hook(os.path.realpath(home)))


FORBIDDEN = {
    "os.system": "start programs", "os.exec": "start programs", "os.posix_spawn": "start programs",
    "os.spawn": "start programs", "subprocess.Popen": "start programs", "pty.spawn": "start programs",
    "os.fork": "start processes", "os.forkpty": "start processes", "_posixsubprocess.fork_exec": "start processes",
    "os.kill": "stop other processes", "os.killpg": "stop other processes",
    "socket.__new__": "use the network", "socket.connect": "use the network", "socket.bind": "use the network",
    "ctypes.dlopen": "call the system", "ctypes.dlsym": "call the system", "ctypes.call_function": "call the system",
    "gc.get_objects": "look around in the checker", "gc.get_referrers": "look around in the checker",
    "sys._current_frames": "look around in the checker", "sys.addaudithook": "listen to the checker",
    "os.setxattr": "change files", "os.removexattr": "change files",
}  # fmt: skip
PATHS = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree", "shutil.chown",
    "shutil.copymode", "shutil.copystat",
}  # fmt: skip


def hook(home):
    """An audit hook that refuses, in words, what a solution has no need of. All it knows is local to it."""
    forbidden, paths, inside = dict(FORBIDDEN), set(PATHS), home + os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    real, text_of, join, cwd = os.path.realpath, os.fsdecode, os.path.join, os.getcwd
    allowed = {os.devnull}

    def outside(path):
        if isinstance(path, int) or path is None:
            return False
        whole = real(join(cwd(), text_of(path)))
        return whole not in allowed and not (whole + os.sep).startswith(inside)

    def refuse(event, args):
        if event in forbidden:
            raise PermissionError(f"a solution may not {forbidden[event]} ({event})")
        if event == "open" and isinstance(args[2], int) and args[2] & writing and outside(args[0]):
            raise PermissionError(f"a solution may not write outside its temporary home ({args[0]})")
        if event in paths and any(outside(a) for a in args if isinstance(a, str | bytes | os.PathLike)):
            raise PermissionError(f"a solution may not change files outside its temporary home ({event})")

    return refuse


# -- Landlock: the kernel's own refusal, on Linux 5.13 and later -------------------------------------------------------

READ, EXECUTE = 0b1100, 0b1  # files and folders may be read; programs run
CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # system calls


def prctl(*args):
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None, use_errno=True).prctl(*args, *[0] * (5 - len(args)))


def landlock(home):
    """Let this process read what Python needs, write below `home`, and run, connect and signal nothing else.

    Returns whether the kernel can. Neither the project's own files nor other submissions can be read.
    """
    if not sys.platform.startswith("linux"):
        return False
    system = ctypes.CDLL(None, use_errno=True).syscall
    version = system(CREATE, None, 0, 1)
    if version < 1:
        return False
    every = (1 << (13 if version == 1 else 14 if version == 2 else 15)) - 1  # refer since 2, truncate since 3
    network, scope = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)  # TCP; sockets and signals
    rules = struct.pack("QQQ", every, network, scope)
    rules = rules[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = system(CREATE, rules, len(rules), 0)
    if ruleset < 0:
        return False

    def allow(path, rights):
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights &= every if os.path.isdir(path) else every & ~0b1000
            system(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
            os.close(place)

    allow(home, every & ~EXECUTE)
    allow(os.devnull, READ | 0b10)
    for path in readable():
        allow(path, READ)
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    done = system(RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return done


def readable():
    """What Python and torch may still want to read: themselves and the system, without minipeft."""
    yield from ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev")
    own = Path(__file__).resolve().parents[1]
    for folder in {Path(p).resolve() for p in (*site.getsitepackages(), os.path.dirname(os.__file__))}:
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():
                if not own.is_relative_to(entry.resolve()):
                    yield entry
