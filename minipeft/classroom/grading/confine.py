"""What a process with a student's code in it may do: compute, write a little into its own folder, and end.

Five layers, each of which works where the others are missing:

  limit         the kernel's limits on memory, processor time, open files and the size of a file (Linux, macOS)
  drop_powers   a process of the superuser's gives up what only the superuser may do (Linux)
  landlock      the kernel refuses to read and write other files, to connect and to signal (Linux 5.13 and later)
  filter_calls  the kernel refuses system calls that no computation needs (Linux, seccomp, on x86-64 and 64-bit ARM)
  refuse        Python itself refuses the same in a sentence that the student can read (every system)

There is no way back from any of them. Sources: landlock(7), seccomp(2), bpf(4) of the Linux manual, PEP 578.
"""

import contextlib
import ctypes
import math
import os
import platform
import site
import struct
import sys
from functools import cache
from pathlib import Path

from minipeft.classroom.engine.exercise import PACKAGE

MEGABYTE = 2**20


def confine(home, limits):
    """From here on this process may compute, and write into its home."""
    for layer in LAYERS:
        layer(home, limits)


def strength():
    """How much of this machine's system stands around a student's code: {layer: more is better}."""
    return {"landlock": landlock_version(), "filter_calls": int(on_linux() and platform.machine() in MACHINES)}


def on_linux():
    return sys.platform.startswith("linux")


def prctl(*args):
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None, use_errno=True).prctl(*args, *[0] * (5 - len(args)))


# -- limits ------------------------------------------------------------------------------------------------------------


def limit(home, limits):
    """Memory is counted from what the process has already, processor time from now."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        set_limit("RLIMIT_AS", size + limits.memory * MEGABYTE)
    enough = math.ceil(sum(os.times()[:2]) + limits.seconds)
    set_limit("RLIMIT_CPU", enough, enough + 1)
    set_limit("RLIMIT_FSIZE", limits.files * MEGABYTE)
    set_limit("RLIMIT_NOFILE", 128)
    set_limit("RLIMIT_CORE", 0)


def set_limit(name, soft, hard=None):
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        resource.setrlimit(getattr(resource, name), (soft, soft if hard is None else hard))


def drop_powers(home, limits):
    """The superuser could raise its limits again, trace every process and change every file."""
    if on_linux():
        ours = struct.pack("=Ii", 0x20080522, 0)  # version 3 of the call; this process
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).capset(ours, bytes(24))


# -- Landlock: files, connections, signals -----------------------------------------------------------------------------

READ, LIST, WRITE, EXECUTE = 0b0100, 0b1000, 0b0010, 0b0001
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls


def landlock(home, limits=None):
    """Let this process read what Python needs, write below `home`, and run, connect and signal nothing else.

    Returns whether the kernel can. Neither the project's own files nor other submissions can be read, and nothing of
    /proc: not the grader's environment, not its memory.
    """
    version = landlock_version()
    if version < 1:
        return False
    system = ctypes.CDLL(None, use_errno=True).syscall
    every = (1 << (13 if version == 1 else 14 if version == 2 else 15)) - 1  # refer since 2, truncate since 3
    network, scope = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)  # TCP; sockets and signals
    rules = struct.pack("QQQ", every, network, scope)
    rules = rules[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = system(CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return False

    def allow(path, rights):
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights &= every if os.path.isdir(path) else every & ~LIST
            system(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
            os.close(place)

    allow(home, every & ~EXECUTE)
    allow(os.devnull, READ | WRITE)
    for path in readable():
        allow(path, READ | LIST)
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    done = system(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def landlock_version():
    """What this kernel can: the version of Landlock, 0 if it has none."""
    if not on_linux():
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, 0, 1))


@cache
def readable():
    """What Python and torch may still want to read: themselves and the system's libraries, without minipeft.

    Found once: after Landlock these folders can no longer be listed.
    """
    python = (*site.getsitepackages(), os.path.dirname(os.__file__), Path(sys.base_prefix) / "lib")
    system = ("/usr", "/lib", "/lib64", "/System/Library", "/Library/Frameworks")
    single = ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/null", "/sys/devices/system/cpu")
    found = []
    for folder in dict.fromkeys(Path(path).resolve() for path in (*python, *system)):
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():
                found += without(entry, PACKAGE)
    return (*found, *map(Path, single))


def without(path, own):
    """A folder, or, where the project lies in it, everything in it but the project."""
    if not own.is_relative_to(path.resolve()):
        yield path
    elif own != path.resolve():
        for entry in path.iterdir():
            yield from without(entry, own)


# -- seccomp: system calls ---------------------------------------------------------------------------------------------

# what no solution needs: name of the call, its number on x86-64, on 64-bit ARM (- where there is none)
CALLS = """
stop other processes:
    tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, pidfd_open 434 434, pidfd_send_signal 424 424,
    pidfd_getfd 438 438
look into other processes:
    ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440,
    process_mrelease 448 448, kcmp 312 272, migrate_pages 256 238, move_pages 279 239, perf_event_open 298 241,
    userfaultfd 323 282, bpf 321 280
change limits and priorities:
    setrlimit 160 164, setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122, sched_setscheduler 144 119,
    sched_setparam 142 118, sched_setattr 314 274
start processes:
    fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, setsid 112 157, setpgid 109 154, unshare 272 97,
    setns 308 268
use the network, or the kernel behind this filter:
    socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
    sendto 44 206, sendmsg 46 211, sendmmsg 307 269, recvmsg 47 212, recvmmsg 299 243, io_uring_setup 425 425,
    io_uring_enter 426 426, io_uring_register 427 427
keep memory that no limit counts:
    memfd_create 319 279, memfd_secret 447 447, shmget 29 194, shmat 30 196, semget 64 190, msgget 68 186,
    mq_open 240 180
change what is told of a file, which Landlock leaves open:
    chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -,
    fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6,
    fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, mknod 133 -, mknodat 259 33,
    name_to_handle_at 303 264, open_by_handle_at 304 265
change the system or who one is:
    mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, move_mount 429 429, open_tree 428 428,
    fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, quotactl 179 60,
    quotactl_fd 443 443, swapon 167 224, swapoff 168 225, sync 162 81, syncfs 306 267, syslog 103 116, reboot 169 142,
    kexec_load 246 104, kexec_file_load 320 294, init_module 175 105, finit_module 313 273, delete_module 176 106,
    acct 163 89, settimeofday 164 170, clock_settime 227 112, clock_adjtime 305 266, adjtimex 159 171,
    sethostname 170 161, setdomainname 171 162, iopl 172 -, ioperm 173 -, personality 135 92, vhangup 153 58,
    add_key 248 217, request_key 249 218, keyctl 250 219, fanotify_init 300 262, setuid 105 146, setgid 106 144,
    setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149, setfsuid 122 151, setfsgid 123 152,
    setgroups 116 159, capset 126 91
"""
MACHINES = {  # which column of CALLS, the kernel's name for the machine, and calls that depend on their arguments
    "x86_64": (0, 0xC000003E, {"kill": 62, "tgkill": 234, "prlimit": 302, "clone": 56, "fcntl": 72, "ioctl": 16}),
    "aarch64": (1, 0xC00000B7, {"kill": 129, "tgkill": 131, "prlimit": 261, "clone": 220, "fcntl": 25, "ioctl": 29}),
}
SECCOMP = {"x86_64": 317, "aarch64": 277}
CLONE3, NEWEST = 435, 462  # what is newer than this list is refused, the C library then does without
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of the kernel's filters
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # go on; error EPERM; error ENOSYS
NUMBER, MACHINE = 0, 4  # where a filter finds the number of the call, and the machine


def filter_calls(home=None, limits=None):
    """Install a filter for system calls. Returns whether the kernel took it."""
    machine = platform.machine()
    if not on_linux() or machine not in MACHINES or struct.calcsize("P") != 8:
        return False
    code = program(machine, os.getpid())
    kept = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(kept))
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    return ctypes.CDLL(None).syscall(SECCOMP[machine], 1, 0, pointer) == 0


def numbers(column):
    """The numbers in one column of CALLS."""
    calls = [entry.split() for line in CALLS.splitlines() if not line.endswith(":") for entry in line.split(",")]
    return [int(call[1 + column]) for call in calls if call and call[1 + column] != "-"]


def program(machine, pid):
    """The filter as bytes: what is refused always, then what depends on the arguments; all else may go on."""
    column, name, asked = MACHINES[machine]
    lines = [step(LOAD, MACHINE), step(EQUAL, name, yes=1), step(RETURN, REFUSE), step(LOAD, NUMBER)]
    for number in numbers(column):
        lines += when(number, [step(RETURN, REFUSE)])
    lines += when(CLONE3, [step(RETURN, UNKNOWN)])  # its arguments lie out of sight; `clone` does the same
    lines += [step(AT_LEAST, NEWEST + 1, no=1), step(RETURN, UNKNOWN)]
    only_itself = [step(LOAD, argument(0)), step(EQUAL, pid, no=1), step(RETURN, ALLOW), step(RETURN, REFUSE)]
    lines += when(asked["kill"], only_itself) + when(asked["tgkill"], only_itself)
    reads_its_own = [  # no new limits (a pointer, in two halves), and this process: 0, or its number
        step(LOAD, argument(2)), step(EQUAL, 0, no=6), step(LOAD, argument(2) + 4), step(EQUAL, 0, no=4),
        step(LOAD, argument(0)), step(EQUAL, 0, yes=1), step(EQUAL, pid, no=1), step(RETURN, ALLOW),
        step(RETURN, REFUSE),
    ]  # fmt: skip
    lines += when(asked["prlimit"], reads_its_own)
    a_thread = [step(LOAD, argument(0)), step(ANY_BIT, 0x10000, no=1), step(RETURN, ALLOW), step(RETURN, REFUSE)]
    lines += when(asked["clone"], a_thread)
    lines += when(asked["fcntl"], unless(8, 10, 15))  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to other processes
    lines += when(asked["ioctl"], unless(0x8901, 0x8902, 0x5412))  # FIOSETOWN, SIOCSPGRP; TIOCSTI types for the user
    return b"".join([*lines, step(RETURN, ALLOW)])


def step(instruction, value, yes=0, no=0):
    """One instruction; yes, no: how many to leave out after a comparison."""
    return struct.pack("HBBI", instruction, yes, no, value)


def when(number, then):
    """Instructions for one call only; they end with an answer."""
    return [step(EQUAL, number, no=len(then)), *then]


def unless(*values):
    """Go on, unless the second argument is one of these."""
    tests = [step(EQUAL, value, yes=len(values) - i) for i, value in enumerate(values)]
    return [step(LOAD, argument(1)), *tests, step(RETURN, ALLOW), step(RETURN, REFUSE)]


def argument(i):
    """Where a filter finds an argument, its lower half."""
    return 16 + 8 * i


# -- Python's own refusal, in words ------------------------------------------------------------------------------------

FORBIDDEN = {
    "os.system": "start programs", "os.exec": "start programs", "os.posix_spawn": "start programs",
    "os.spawn": "start programs", "subprocess.Popen": "start programs", "pty.spawn": "start programs",
    "os.fork": "start processes", "os.forkpty": "start processes", "_posixsubprocess.fork_exec": "start processes",
    "os.kill": "stop other processes", "os.killpg": "stop other processes",
    "resource.setrlimit": "change limits", "resource.prlimit": "change limits",
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
UNHEARD = {  # functions of `os` that no audit hook hears of
    "nice": "change priorities", "setpriority": "change priorities", "sched_setaffinity": "change priorities",
    "sched_setscheduler": "change priorities", "sched_setparam": "change priorities",
    "pidfd_open": "stop other processes", "setsid": "leave its group", "setpgid": "leave its group",
    "setpgrp": "leave its group", "setuid": "be somebody else", "setgid": "be somebody else",
    "setreuid": "be somebody else", "setresuid": "be somebody else", "setgroups": "be somebody else",
    "chroot": "change the system", "unshare": "change the system", "setns": "change the system",
    "memfd_create": "keep memory that no limit counts", "mkfifo": "make devices", "mknod": "make devices",
    "sync": "keep the disk busy",
}  # fmt: skip


def refuse(home, limits=None):
    """Refuse in words, by an audit hook and in place of what no hook hears of, what a solution has no need of."""
    sys.addaudithook(hook(os.path.realpath(home)))
    for name, what in UNHEARD.items():
        if hasattr(os, name):
            for module in {os, sys.modules[os.name]}:
                setattr(module, name, refusing(name, what))


def refusing(name, what):
    def refused(*_, **__):
        raise PermissionError(f"a solution may not {what} (os.{name})")

    return refused


def hook(home):
    """An audit hook. All it knows is local to it."""
    forbidden, paths, inside = dict(FORBIDDEN), set(PATHS), home + os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    real, text_of, join, cwd = os.path.realpath, os.fsdecode, os.path.join, os.getcwd
    allowed = {os.path.realpath(os.devnull)}
    may_read = (inside, *(os.path.realpath(path) + os.sep for path in readable()))

    def whole(path):
        return real(join(cwd(), text_of(path))) + os.sep

    def outside(path, places=(inside,)):
        if isinstance(path, int) or path is None:
            return False
        full = whole(path)
        return full[:-1] not in allowed and not full.startswith(places)

    def listen(event, args):
        if event in forbidden:
            raise PermissionError(f"a solution may not {forbidden[event]} ({event})")
        if event == "open":
            if isinstance(args[2], int) and args[2] & writing and outside(args[0]):
                raise PermissionError(f"a solution may not write outside its temporary home ({args[0]})")
            if outside(args[0], may_read):
                raise PermissionError(f"a solution may not read outside its temporary home ({args[0]})")
        elif event in ("os.listdir", "os.scandir"):
            if outside("." if args[0] is None else args[0], may_read):
                raise PermissionError(f"a solution may not look around outside its temporary home ({event})")
        elif event in paths and any(outside(a) for a in args if isinstance(a, str | bytes | os.PathLike)):
            raise PermissionError(f"a solution may not change files outside its temporary home ({event})")
        elif event in ("fcntl.fcntl", "fcntl.ioctl") and args[1] in (8, 10, 15, 0x8901, 0x8902, 0x5412):
            raise PermissionError(f"a solution may not stop other processes ({event})")

    return listen


LAYERS = [limit, drop_powers, landlock, filter_calls, refuse]
