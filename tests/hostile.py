"""Forty-six submissions that do what no solution should: as data, and a class of sixty in which they sit.

Each is LoRA's right file with one thing changed. All are bounded: where nothing refused them they would do little harm.

python -m tests.hostile FOLDER    grades the class in FOLDER/submissions and writes what became of the grader itself
"""

import json
import os
import sys
from pathlib import Path

from minipeft.classroom.engine import source
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.grading.grade import grade
from minipeft.classroom.grading.reports import Places
from minipeft.classroom.grading.sandbox import Limits
from tests.solutions import replaced

LORA = get_exercise("lora")
OTHERS = ("ia3", "bitfit", "vera")
LINE = "        h = F.linear(self.dropout(x), self.A)  # (..., r)\n"
LIMITS = Limits(seconds=1, memory=500, files=5)
GRADER = "import os; grader = int(os.getcwd().split('minipeft-')[1].split('-')[0])\n"

# {what is tried: (code in the body of LoRALinear.forward, words of the report, or None where it is of no use)}
IN_THE_BODY = {
    # time
    "hangs": ("while True: pass", "does a loop never end"),
    "sleeps": ("import time; time.sleep(1000)", "does a loop never end"),
    "outlives its time": (
        "import signal; signal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass", "does a loop never end"),
    "threads without end": (
        "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(600,)).start()",
        "can't start new thread"),
    # ends
    "exits": ("import os; os._exit(0)", "ended the process"),
    "SystemExit": ("raise SystemExit(0)", "SystemExit"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "ended the process"),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
    "MemoryError": ("raise MemoryError", "MemoryError"),
    "crashes": ("import faulthandler; faulthandler._sigsegv()", "signal 11"),
    "a late crash": (
        "import faulthandler, time\nfaulthandler.dump_traceback_later(0.05, exit=True); time.sleep(1)", "exit code 1"),
    "calls itself": ("return self.forward(x)", "calls itself without end"),
    # other processes
    "kills the grader": (GRADER + "os.kill(grader, 9)", "may not stop other processes"),
    "kills its group": ("import os; os.killpg(os.getpgid(os.getppid()), 9)", "may not stop other processes"),
    "kills in many ways": (GRADER + """import fcntl, signal
ways = [lambda: os.kill(grader, 15), lambda: os.kill(os.getppid(), 9), lambda: os.killpg(0, 9),
        lambda: signal.pidfd_send_signal(os.pidfd_open(grader), 9), lambda: os.system(f'kill -9 {grader}'),
        lambda: os.execvp('kill', ['kill', '-9', str(grader)]), lambda: os.posix_spawnp('kill', ['kill'], {}),
        lambda: fcntl.fcntl(1, fcntl.F_SETOWN, grader), lambda: __import__('ctypes').CDLL(None).kill(grader, 9),
        lambda: open(f'/proc/{grader}/oom_score_adj', 'w').write('1000')]
for way in ways:
    try: way()
    except OSError: continue
    print('got through')""", None),
    "limits the grader": (
        GRADER + "import resource; resource.prlimit(grader, resource.RLIMIT_CPU, (1, 1))", "may not change limits"),
    "raises its limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (600, 600))", "may not change limits"),
    "slows the grader": (GRADER + "os.setpriority(os.PRIO_PROCESS, grader, 19)", "may not change priorities"),
    "moves the grader": (GRADER + "os.sched_setaffinity(grader, {0})", "may not change priorities"),
    "goes first": ("import os; os.nice(-5)", "may not change priorities"),
    "reads the environment": (GRADER + "print(open(f'/proc/{grader}/environ').read())", "may not read outside"),
    "reads its memory": (GRADER + "print(open(f'/proc/{grader}/mem', 'rb').read(1))", "may not read outside"),
    "traces": (GRADER + "import ctypes; ctypes.CDLL(None).ptrace(16, grader, 0, 0)", "may not call the system"),
    "forks": ("import os, time\nif not os.fork():\n    time.sleep(20)\n    os._exit(0)", "may not start processes"),
    "starts programs": (
        "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)", "may not start programs"),
    # space
    "prints without end": ("while True: print('x' * 10**6)", "does a loop never end|OSError"),
    "fills the disk": (
        "for i in range(400): open(f'file {i}', 'wb').write(bytes(2**20))\nimport time; time.sleep(3)",
        "writes more than 5 megabytes"),
    "takes memory": (
        "import numpy, torch\nz = bytearray(2 * 10**9), numpy.ones(10**9), torch.ones(10**9)", "emory"),
    "returns gigabytes": ("y = self.base(x)\nreturn y.expand(10**8, *y.shape)", "emory|loop"),
    # files
    "deletes": (
        "import os, shutil; shutil.rmtree(os.path.dirname(os.getcwd()))", "may not change files"),
    "links": ("import os; os.symlink('/etc/passwd', 'mine'); print(open('mine').read())", "may not change files"),
    # the line to the grader
    "forges": ("""import os, pickle
for fd in range(3, 60):
    for message in (b'{"secret": "", "values": [{}, []]}', pickle.dumps(print)):
        try: os.write(fd, len(message).to_bytes(4, 'big') + message)
        except OSError: pass""", "of its own"),
    "begins to speak": ("""import os, time
for fd in range(3, 60):
    try: os.write(fd, (10**6).to_bytes(4, 'big') + b'{')
    except OSError: pass
time.sleep(600)""", "does a loop never end"),
    "closes the line": ("import os, time; os.closerange(3, 200); time.sleep(0.2)", "ended the process"),
    "turns the line": ("""import os
for fd in range(3, 60):
    try: os.dup2(1, fd)
    except OSError: pass""", "ended the process|may not|loop"),
    "answers in place of the checker": ("""import sys
frame = sys._getframe()
while 'secret' not in frame.f_locals: frame = frame.f_back
message = {'secret': frame.f_locals['secret'], 'values': [{'update': {'shape': [3], 'data': [[{}]]}}, []]}
import json
frame.f_locals['send'](json.dumps(message).encode())""", "of its own"),
    # values
    "NaN": ("return self.base(x) * float('nan')", "not right yet"),
    "lies about its shape": ("""import torch
class Liar(torch.Tensor):
    shape = property(lambda self: torch.Size([4, 3]))
    def flatten(self, *_): return torch.zeros(10**6)
return torch.zeros(2).as_subclass(Liar)""", "not right|of its own"),
    "another class": ("""import torch
class Sly:
    __class__ = property(lambda self: torch.Tensor)
    def __getattr__(self, name): return Sly()
    def __call__(self, *a, **k): return Sly()
    __sub__ = __call__
return Sly()""", "stops with|Expected|does a loop"),
    "deep": ("z = []\nfor _ in range(10**5): z = [z]\nraise ValueError(z)", "stops with|does a loop never end"),
    "surrogates": ("print('\\ud800' * 9); raise ValueError('\\ud83d \\udfff \\x00 \\x1b[2J')", "ValueError"),
    "an error without words": ("class E(Exception):\n    def __str__(self): raise E\nraise E", "stops with E"),
    # the checker in its process
    "patches": ("""import torch, json, minipeft.classroom.engine.diagnose as c, minipeft.classroom.engine.observe as o
c.same = c.close = lambda *_: True
torch.equal = torch.allclose = lambda *_, **__: True
o.plain = lambda value: None
json.dumps = lambda value: '{}'
1 / 0""", "."),
    "waits for the end": ("""import atexit, os, sys
class Last:
    def __del__(self): os.kill(os.getppid(), 9)
atexit.register(os.kill, os.getppid(), 9)
self.last = Last()
sys.settrace(lambda *_: None)""", None),
}  # fmt: skip

# {what is tried: (code behind the classes of the file, which is run when it is loaded, words of the report)}
AT_LOAD = {
    "a metaclass": ("""
class Made(metaclass=lambda *_: __import__("os").kill(__import__("os").getppid(), 9)):
    pass
""", "may not stop other processes"),
    "a default value": ("""
def helper(end=__import__("os")._exit(3)):
    pass
""", "exit code 3"),
}  # fmt: skip
NAMES = [*IN_THE_BODY, *AT_LOAD]


def text_of(name):
    """The submission that tries this."""
    if name in AT_LOAD:
        return LORA.plain() + AT_LOAD[name][0]
    lines = "".join(f"        {line}\n" for line in IN_THE_BODY[name][0].splitlines())
    return replaced(LORA.plain(), (LINE, lines + LINE))


def words_of(name):
    """Words of which the report on it has one; None where it is of no use to its author, and costs nothing."""
    words = (IN_THE_BODY | AT_LOAD)[name][1]
    return words and words.split("|")


def honest():
    """Fourteen who do their work: {student: {exercise: text}}"""
    right = {name: get_exercise(name).plain() for name in ("lora", *OTHERS)}
    found = {f"right {i}": {"lora": right["lora"], OTHERS[i % 3]: right[OTHERS[i % 3]]} for i in range(8)}
    for i, mistake in enumerate(LORA.mistakes[:3]):
        found[f"wrong {i}"] = {"lora": LORA.with_edits(mistake.diffs[0]), "ia3": right["ia3"]}
    for i in (2, 4):
        found[f"unfinished {i}"] = {"lora": source.emptied(right["lora"], LORA.stubs[i:]), "vera": right["vera"]}
    found["empty"] = {"lora": source.emptied(right["lora"], LORA.stubs), "bitfit": right["bitfit"]}
    return found


def a_class():
    """Sixty students; each of the hostile ones has done another exercise honestly."""
    others = {name: get_exercise(name).plain() for name in OTHERS}
    hostile = {f"hostile {i:02}": {"lora": text_of(name)} for i, name in enumerate(NAMES)}
    for i, mine in enumerate(hostile.values()):
        mine[OTHERS[i % 3]] = others[OTHERS[i % 3]]
    return honest() | hostile


def hand_in(students, folder):
    for student, mine in students.items():
        (folder / student).mkdir(parents=True)
        for name, text in mine.items():
            (folder / student / f"{name}.py").write_text(text, encoding="utf-8")


def of_this_process():
    """What a student might want to change of the grader."""
    import resource

    limits = [resource.getrlimit(getattr(resource, name)) for name in sorted(vars(resource)) if "RLIMIT_" in name]
    return [limits, os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    before = of_this_process()
    grade(place / "submissions", Places(place / "grades.csv", place / "feedback"), limits=LIMITS, workers=2)
    (place / "grader.json").write_text(json.dumps([before, of_this_process()]))
