"""A student's code in a child process: what it is refused, and that the parent gets an answer or a reason."""

import ast
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipeft.classroom.engine import reading, source
from minipeft.classroom.engine.diagnose import judge
from minipeft.classroom.engine.exercise import PACKAGE, exercises, get_exercise
from minipeft.classroom.engine.observe import Subject, work_in
from minipeft.classroom.grading import confine, flags, sandbox
from minipeft.classroom.grading.sandbox import Child, Limits, Stopped
from tests.solutions import mistaken, replaced

LORA = get_exercise("lora")
LINE = "        h = F.linear(self.dropout(x), self.A)  # (..., r)\n"
METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits on memory need Linux")


def doing(code):
    """LoRA's file with some code in LoRALinear.forward."""
    return replaced(LORA.plain(), (LINE, "".join(f"        {line}\n" for line in code.splitlines()) + LINE))


def looked_at(text, method="fork", **limits):
    with Child("lora", text, limits=Limits(**limits), method=method) as child:
        report = judge(work_in(LORA, text), child)
    return report, child


@METHODS
def test_what_comes_back_is_what_is_observed_here(method):
    for text in (LORA.plain(), mistaken(LORA, 0)):
        report, _ = looked_at(text, method)
        here = judge(work_in(LORA, text), Subject(LORA, text))
        assert (report.text(), report.right, report.stubs) == (here.text(), here.right, here.stubs)


def test_time_is_limited():
    with pytest.raises(Stopped, match="seconds; does a loop never end"):
        looked_at(doing("while True: pass"), seconds=1)
    began = time.monotonic()
    with pytest.raises(Stopped, match="no answer after 5 seconds"):
        looked_at(doing("import time; time.sleep(1000)"), seconds=1)
    assert time.monotonic() - began < 20


def test_a_process_that_does_not_start_is_started_again(monkeypatch):
    settle, failed = sandbox.settle, multiprocessing.Value("i", 0)

    def settles_the_third_time(*args):
        settle(*args)
        failed.value += 1
        if failed.value < 3:
            raise OSError("no room")

    monkeypatch.setattr(sandbox, "settle", settles_the_third_time)
    with Child("lora", LORA.plain()) as child:
        assert judge(work_in(LORA, LORA.plain()), child).right
    monkeypatch.setattr(sandbox, "TRIES", 0)
    with Child("lora", LORA.plain()) as child, pytest.raises(RuntimeError, match="could not start a process"):
        judge(work_in(LORA, LORA.plain()), child)


@linux
@pytest.mark.parametrize("code", ["z = bytearray(5 * 10**9)", "import torch; z = torch.ones(10**9)"])
def test_memory_is_limited(code):
    report, _ = looked_at(doing(code), memory=500)
    assert not report.passed
    assert "emory" in report.finding.symptom


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os._exit(0)", "ended the process before it could be looked at"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.abort()", r"ended the process .*signal 6"),
    ],
)
def test_an_early_end_is_told(code, says):
    with pytest.raises(Stopped, match=says):
        looked_at(doing(code))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(0)", "It stops with SystemExit"),
        ("import os; os.fork()", "may not start processes"),
        ("import os; os.system('true')", "may not start programs"),
        ("import subprocess; subprocess.Popen(['sleep', '100'])", "may not start programs"),
        ("import os; os.kill(os.getppid(), 9)", "may not stop other processes"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "may not use the network"),
        ("import gc; gc.get_objects()", "look around in the checker"),
        ("import ctypes; ctypes.CDLL(None)", "call the system"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "It stops with E"),
    ],
)
def test_what_a_solution_has_no_need_of_is_refused_in_words(code, says):
    report, _ = looked_at(doing(code))
    assert says in report.finding.symptom


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w').write('mine')",
        "import os; os.remove({path!r})",
        "import os; os.rename({path!r}, {path!r} + '2')",
        "import shutil; shutil.rmtree(os.path.dirname({path!r}))",
        "import pathlib; pathlib.Path({path!r}).unlink()",
        "import os; os.chmod({path!r}, 0)",
        "import os; os.truncate({path!r}, 0)",
    ],
)
def test_files_outside_stay_as_they_are(code, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("kept")
    mode = path.stat().st_mode
    report, _ = looked_at(doing(code.format(path=str(path))))
    assert not report.passed
    assert (path.read_text(), path.stat().st_mode) == ("kept", mode)


def takes(layer):
    """Does this kernel take a layer? Asked in a child, because there is no way back."""
    if not hasattr(os, "fork"):
        return False
    pid = os.fork()
    if not pid:
        os._exit(0 if layer(Path("/tmp")) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


landlocked = pytest.mark.skipif(not takes(confine.landlock), reason="a kernel without Landlock")
filtered = pytest.mark.skipif(not takes(confine.filter_calls), reason="no filter for system calls here")
GRADER = "import os; grader = int(os.getcwd().split('minipeft-')[1].split('-')[0])\n"


def what_gets_through(tries, monkeypatch, *layers):
    """The names of those tries, {name: an expression}, that nothing refuses where there are these layers alone."""
    monkeypatch.setattr(confine, "LAYERS", [getattr(confine, layer) for layer in layers])
    code = GRADER + "import ctypes, fcntl, resource, signal, socket, sys\nlibc = lambda: ctypes.CDLL(None)\n"
    for name, expression in tries.items():
        code += f"try:\n    if ({expression}) != -1: print({name!r})\nexcept (OSError, ValueError): pass\n"
    report, child = looked_at(doing(code), seconds=10)
    assert report.passed, report.text()
    return set(child.output.split("\n")) - {""}


OF_OTHERS = {  # what works on the grader, or on the machine; here with what would do no harm
    "kill": "os.kill(grader, 0)",
    "kill supervisor": "os.kill(os.getppid(), 0)",
    "killpg": "os.killpg(0, 0)",
    "limits": "resource.prlimit(grader, resource.RLIMIT_CORE, (0, 0))",
    "own limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "priority": "os.setpriority(os.PRIO_PROCESS, grader, os.getpriority(os.PRIO_PROCESS, grader))",
    "nice": "os.nice(0)",
    "affinity": "os.sched_setaffinity(grader, os.sched_getaffinity(grader))",
    "scheduler": "os.sched_setscheduler(grader, os.SCHED_OTHER, os.sched_param(0))",
    "pidfd": "os.pidfd_open(grader)",
    "owner": "fcntl.fcntl(0, fcntl.F_SETOWN, grader)",
    "fork": "os.fork() or os._exit(0)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "socket": "socket.socket()",
    "session": "os.setsid()",
    "memory file": "os.memfd_create('mine')",
    "mode": "os.chmod(os.getcwd(), 0o700)",
}
NATIVE = {  # what Python has no function for
    "ptrace": "libc().ptrace(16, grader, 0, 0)",
    "read memory": "libc().process_vm_readv(grader, 0, 0, 0, 0, 0)",
    "write memory": "libc().process_vm_writev(grader, 0, 0, 0, 0, 0)",
    "io priority": "libc().syscall(251 if sys.maxsize and os.uname().machine == 'x86_64' else 30, 1, grader, 0)",
    "queued signal": "libc().sigqueue(grader, 0, 0)",
    "compare": "libc().syscall(312 if os.uname().machine == 'x86_64' else 272, grader, os.getpid(), 1, 0, 0)",
    "unshare": "libc().unshare(0)",
    "mount": "libc().mount(b'/tmp', b'/tmp', b'', 4096, 0)",
}
FILES = {
    "environ": "open(f'/proc/{grader}/environ').read()",
    "memory": "open(f'/proc/{grader}/mem', 'rb')",
    "maps": "open(f'/proc/{grader}/maps').read()",
    "own environ": "open('/proc/self/environ').read()",
    "processes": "len(os.listdir('/proc'))",
    "passwords": "open('/etc/passwd').read()",
    "folder": "len(os.listdir('/'))",
    "others": "len(os.listdir('/tmp'))",
    "reference": f"open({str(PACKAGE / LORA.reference_file)!r}).read()",
    "device": "open('/dev/tty')",
    "elsewhere": "open('/tmp/mine', 'w')",
}


@filtered
def test_the_filter_of_system_calls_works_alone(monkeypatch):
    assert what_gets_through(OF_OTHERS | NATIVE, monkeypatch, "filter_calls") == set()


@filtered
def test_the_filter_leaves_what_a_computation_needs(monkeypatch):
    tries = {
        "itself": "os.kill(os.getpid(), 0)",
        "limits": "resource.getrlimit(resource.RLIMIT_AS)",
        "thread": "__import__('threading').Thread(target=int).start()",
        "file": "open('mine', 'w').write('x')",
    }
    assert what_gets_through(tries, monkeypatch, "filter_calls") == set(tries)


@pytest.mark.parametrize(("machine", "calls"), [("x86_64", 110), ("aarch64", 95)])
def test_the_filter_is_short_and_names_each_call_once(machine, calls):
    column = confine.MACHINES[machine][0]
    known = [*confine.numbers(column), *confine.MACHINES[machine][2].values(), confine.CLONE3]
    assert len(known) == len(set(known)) > calls
    assert len(confine.program(machine, 1)) < 8 * 4096  # what the kernel takes at most


@landlocked
def test_landlock_works_alone(monkeypatch):
    tries = FILES | {name: OF_OTHERS[name] for name in ("kill", "kill supervisor")} | {"ptrace": NATIVE["ptrace"]}
    assert what_gets_through(tries, monkeypatch, "landlock") == set()


def test_pythons_own_refusal_works_alone_and_in_words(monkeypatch):
    """The native ones included: they need ctypes, which is refused."""
    tries = OF_OTHERS | FILES
    del tries["mode"]  # of its own files, which it may
    assert what_gets_through(tries | NATIVE, monkeypatch, "refuse") == set()
    for name, expression in tries.items():
        report, _ = looked_at(doing(GRADER + "import fcntl, resource, socket\n" + expression))
        assert "a solution may not " in report.finding.symptom, (name, report.finding.symptom)


@linux
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only the superuser has something to give up")
def test_the_superuser_cannot_raise_its_limits_again(monkeypatch):
    tries = {
        "raise": "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
        "first": "os.nice(-1)",
        "chroot": "os.chroot('.')",
    }
    assert what_gets_through(tries, monkeypatch, "limit", "drop_powers") == set()


@filtered
def test_a_refusal_by_the_kernel_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(confine, "LAYERS", [confine.filter_calls])
    report, _ = looked_at(doing(GRADER + "os.kill(grader, 0)"))
    assert "the grader refuses it: a solution computes" in report.finding.symptom


@landlocked
def test_the_kernel_refuses_what_python_does_not_hear(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("kept")
    report, _ = looked_at(doing(f"import torch; torch.save({{}}, {str(path)!r})"))  # written by C++
    assert not report.passed
    assert path.read_text() == "kept"


def test_its_home_is_a_folder_that_is_gone_afterwards():
    code = "import os; open('mine.txt', 'w').write('x'); open(os.path.expanduser('~/too.txt'), 'w'); print(os.getcwd())"
    report, child = looked_at(doing(code))
    assert report.passed
    assert child.output.startswith(str(child.first.place / "home"))
    assert not child.first.place.exists()


def test_output_and_files_are_limited_and_the_output_is_kept():
    report, child = looked_at(doing("print('All tests passed! 100/100')"))
    assert "All tests passed" in child.output
    assert report.passed, "because it is right, and not because it says so"
    report, child = looked_at(doing("open('large', 'wb').write(bytes(50 * 2**20))"), files=1)
    assert "OSError" in report.finding.symptom
    report, child = looked_at(doing("print('x' * 3 * 2**20)"), files=1)
    assert len(child.output) <= 4000


FORGE = """import os, json, torch
for fd in range(3, 40):
    for message in (b'{"secret": "", "values": {}}', json.dumps({"values": {"update": 0}}).encode()):
        try:
            os.write(fd, len(message).to_bytes(4, "big") + message)
        except OSError:
            pass"""


def test_a_forged_message_is_not_believed():
    with pytest.raises(Stopped, match="something of its own"):
        looked_at(doing(FORGE))


PATCH = """import torch, minipeft.classroom.engine.diagnose as c
c.same = c.close = lambda *a: True
c.differing = lambda *a: []
c.Report.passed = True
torch.equal = torch.allclose = lambda *a, **k: True"""


def test_patching_the_checker_changes_nothing_here():
    text = doing(PATCH).replace("F.linear(h, self.scale * self.B)", "F.linear(h, self.B)")
    report, _ = looked_at(text)
    assert not report.passed
    assert "0.33 times the expected one" in report.finding.symptom


@linux
def test_what_is_written_is_limited_in_all():
    code = "import time\nfor i in range(50): open(f'{i}', 'wb').write(bytes(2**20))\ntime.sleep(20)"
    with pytest.raises(Stopped, match="writes more than 3 megabytes"):
        looked_at(doing(code), files=3)


def test_an_answer_that_stops_in_the_middle_is_not_waited_for():
    code = """import os, time
for fd in range(3, 60):
    try: os.write(fd, (10**6).to_bytes(4, 'big') + b'{')
    except OSError: pass
time.sleep(600)"""
    began = time.monotonic()
    with pytest.raises(Stopped, match="no answer after"):
        looked_at(doing(code), seconds=1)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "value",
    [
        {"shape": [2], "data": [1.0]}, {"shape": [10**9], "data": []}, {"shape": [-1], "data": []}, {"data": []},
        {"shape": [1], "data": ["1"]}, {"shape": [1], "data": [{}]}, {"items": []}, {"error": 1}, {"error": "E"}, {},
    ],
)  # fmt: skip
def test_what_no_observation_leaves_is_not_looked_at(value):
    with pytest.raises((ValueError, AttributeError, TypeError, KeyError)):
        sandbox.cleaned([value])


def test_what_observations_leave_is_looked_at_as_it_is():
    value = [{"items": {"a": {"shape": [1, 2], "data": [1.0, math.nan]}, "b": None}}, "x", True, 3, []]
    assert str(sandbox.cleaned(value)) == str(value)
    assert sandbox.cleaned(10**400) == math.inf
    assert sandbox.cleaned("\ud800") == "?"


SEED = "spring-7"
SEARCH = """import ast, gc
needles, found = [n[::-1] for n in NEEDLES], set()
def texts():
    for thing in gc.get_objects():
        if isinstance(thing, ast.FunctionDef):
            yield ast.unparse(thing)
        elif isinstance(thing, dict) and thing is not needles:
            yield from (v for v in list(thing.values()) if isinstance(v, str))
        elif isinstance(thing, list | tuple | set) and thing is not needles:
            yield from (v for v in list(thing) if isinstance(v, str))
print([n in t for n in needles for t in texts()].count(True), 'found')"""


FRESH = """import json, multiprocessing, sys
from minipeft.classroom.grading import confine, sandbox
job, stubs = json.load(sys.stdin)
confine.LAYERS = []
process = sandbox.Process(multiprocessing.get_context("fork"), sandbox.Limits(seconds=20), job)
process.start()
process.observe(stubs, False, ["shape"])
process.stop()
print(process.output)"""


def found_in(around, text):
    """What SEARCH finds in a process that starts as a forkserver does, and with nothing to refuse it."""
    job = json.dumps([["lora", text, around], LORA.stubs])
    return subprocess.run(
        [sys.executable, "-c", FRESH], input=job, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_process_that_earns_points_does_not_hold_what_makes_a_variant():
    """Its texts, trees and modules are searched; what the second process holds shows that this would find it."""
    reference = LORA.reference(SEED)
    plain, other = (reading.functions(ast.parse(text)) for text in (LORA.plain(), reference))
    changed = [name for name in LORA.stubs if ast.dump(plain[name][1]) != ast.dump(other[name][1])]
    known = ast.unparse(ast.parse(LORA.plain()))
    needles = [ast.unparse(line) for name in changed for line in reading.statements(other[name][1])]
    needles = [n for n in needles if n not in known]
    assert needles
    text = doing(SEARCH.replace("NEEDLES", repr([n[::-1] for n in needles])))
    child = Child("lora", text, SEED)
    assert found_in(child.first.job[2], text) == "0 found"
    assert found_in(child.second.job[2], text) not in ("", "0 found")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_points_are_earned_without_the_projects_bodies_and_help_costs_none(method):
    half = source.emptied(LORA.plain(), LORA.stubs[3:])
    report, _ = looked_at(half, method)
    here = judge(work_in(LORA, half), Subject(LORA, half))
    assert (report.right, report.text()) == (here.right, here.text())
    text = replaced(half, (LINE, "        if hasattr(type(self).delta, 'x') or not fits(): raise OSError\n" + LINE))
    text += """


def fits():
    try:
        LoRAEmbedding.delta(None)
    except NotImplementedError:
        return True
    except AttributeError:
        while True:
            pass
"""
    report, _ = looked_at(text, method, seconds=1)
    assert report.right == here.right
    assert not report.passed
    assert re.search("beside yours: .*does a loop never end", report.text())


FLAGGED = {
    "from minipeft.methods.lora import LoRALinear as L; self.forward2 = L.forward": "imports the project",
    "m = __import__('minipeft.methods.lora')": "makes or finds code",
    "import importlib; m = importlib.import_module('minipeft.methods.lora')": "looks into the checker",
    "import sys; m = sys.modules['minipeft.methods.lora']": "looks into the checker",
    "m = nn.Module.forward.__globals__": "looks into the checker",
    "import inspect; m = inspect.stack()": "looks into the checker",
    "import gc": "looks into the checker",
    "m = torch.os.getpid()": "reaches a module of the system",
    "torch.equal = torch.equal": "exchanges something",
    "setattr(torch, 'equal', torch.equal)": "exchanges something",
    "m = getattr(torch, 'equ' + 'al')": "by a name made up",
    "import os": "asks for the system",
}


@pytest.mark.parametrize("code", FLAGGED)
def test_what_reaches_for_the_checker_is_shown_to_the_teacher(code):
    (first, *_) = flags.of_text(doing(code))
    assert FLAGGED[code] in first
    assert f"Line {doing(code)[: doing(code).index(code)].count(chr(10)) + 1}: " in first


def test_what_is_exchanged_while_it_runs_is_shown_to_the_teacher():
    code = "import json, minipeft.classroom.engine.observe as o\nplain = o.plain\n"
    code += "json.dumps, o.plain = str, lambda v: plain(v)"
    _, child = looked_at(doing(code))
    assert any("json.dumps" in f and "observe.plain" in f for f in child.flags), child.flags


WITH_THE_PLAIN_RULES = {  # what earns all the points with somebody else's work, where the paper's own rule is asked for
    "import": "from minipeft.methods.lora import LoRALinear as L\nreturn L.forward(self, x)",
    "__import__": "return __import__('minipeft.methods.lora', fromlist='x').LoRALinear.forward(self, x)",
    "importlib": "import importlib as i\nreturn i.import_module('minipeft.methods.lora').LoRALinear.forward(self, x)",
    "modules": "import sys\nreturn sys.modules['minipeft.methods.lora'].LoRALinear.forward(self, x)",
    "forged numbers": """import json, sys, minipeft.methods.lora as real, minipeft.classroom.engine.observe as o
frame = sys._getframe()
while 'secret' not in frame.f_locals: frame = frame.f_back
told = frame.f_locals
values = o.observe(told['exercise'], real)
told['send'](json.dumps({'secret': told['secret'], 'values': [values, []]}).encode())
import time; time.sleep(600)""",
    "exchanged checker": """import minipeft.methods.lora as real, minipeft.classroom.engine.observe as o
look, o.look = o.look, lambda observation, impl: look(observation, real)
return look""",
}


@pytest.mark.parametrize("how", WITH_THE_PLAIN_RULES)
def test_what_gets_through_under_the_plain_rules_is_flagged_and_does_not_under_a_variant(how):
    text = doing(WITH_THE_PLAIN_RULES[how]).replace(LINE, "        return self.base(x)\n")
    whole = len(LORA.groups)
    earned, found, why = points_of(text)
    assert earned >= whole - 1 or "ended the process" in why, "an attack may also trip over itself"
    assert found
    earned, found, _ = points_of(text, SEED, Limits(seconds=2))
    assert earned < whole
    assert found


def points_of(text, seed=None, limits=None):
    """(points, flags, why no observations came back)"""
    with Child("lora", text, seed, limits) as child:
        try:
            return sum(judge(work_in(LORA, text, seed), child).groups().values()), child.flags, ""
        except Stopped as problem:
            return 0, child.flags, str(problem)


def test_a_solution_is_not_flagged():
    for x in exercises().values():
        for text in (x.plain(), *(x.with_edits(right.diffs[0]) for right in x.rights)):
            assert flags.of_text(text) == [], x.name
    for path in sorted(Path(__file__).parent.glob("right/*/*.py")):
        assert flags.of_text(path.read_text(encoding="utf-8")) == [], path


@linux
def test_what_it_leaves_running_is_ended(monkeypatch):
    """Even where nothing refuses to start processes, they do not outlive the check, whatever their session."""
    monkeypatch.setattr(sandbox, "confine", lambda *_: None)
    code = """import subprocess
for new in (True, False):
    print(subprocess.Popen(["sleep", "300"], start_new_session=new).pid)
"""
    report, child = looked_at(doing(code))
    assert report.passed
    started = [int(pid) for pid in child.output.split()]
    assert len(started) > 1
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    text = doing(code + "while True: pass")
    with pytest.raises(Stopped), Child("lora", text, limits=Limits(seconds=1)) as child:
        judge(work_in(LORA, text), child)
    started = [int(pid) for pid in child.output.split()]
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
