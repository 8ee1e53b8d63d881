"""A student's code in a child process: what it is refused, and that the parent gets an answer or a reason."""

import os
import time
from pathlib import Path

import pytest

from minipeft.classroom.engine import diagnose, observe
from minipeft.classroom.engine.exercise import PACKAGE, edited, get_exercise
from minipeft.classroom.grading import confine, sandbox
from minipeft.classroom.grading.sandbox import Child, Limits, Stopped

LORA = get_exercise("lora")
LINE = "        h = F.linear(self.dropout(x), self.A)  # (..., r)\n"
METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits on memory need Linux")


def doing(code):
    """LoRA's file with some code in LoRALinear.forward."""
    return edited(LORA.plain(), [(LINE, "".join(f"        {line}\n" for line in code.splitlines()) + LINE)])


def looked_at(text, method="fork", **limits):
    with Child("lora", text, limits=Limits(**limits), method=method) as child:
        report = diagnose.judge(LORA, text, child)
    return report, child


@METHODS
def test_what_comes_back_is_what_is_observed_here(method):
    for text in (LORA.plain(), edited(LORA.plain(), LORA.mistakes[0].edits)):
        report, _ = looked_at(text, method)
        here = diagnose.judge(LORA, text, observe.Subject(LORA, text))
        assert (report.text(), report.right, report.stubs) == (here.text(), here.right, here.stubs)


def test_time_is_limited():
    with pytest.raises(Stopped, match="seconds; does a loop never end"):
        looked_at(doing("while True: pass"), seconds=1)
    began = time.monotonic()
    with pytest.raises(Stopped, match="no answer after 5 seconds"):
        looked_at(doing("import time; time.sleep(1000)"), seconds=1)
    assert time.monotonic() - began < 20


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


def kernel_helps():
    """Asked in a child, because there is no way back."""
    pid = os.fork()
    if not pid:
        os._exit(0 if confine.landlock("/tmp") else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


landlocked = pytest.mark.skipif(not hasattr(os, "fork") or not kernel_helps(), reason="a kernel without Landlock")


@landlocked
@pytest.mark.parametrize(
    "code",
    [
        "import torch; torch.save({{}}, {path!r})",  # written by C++, which no audit hook hears
        "open({path!r}).read()",
        "open({reference!r}).read()",
    ],
)
def test_the_kernel_refuses_what_python_does_not_hear_and_reading_what_would_tell(code, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("kept")
    reference = str(Path(PACKAGE) / LORA.of)
    report, _ = looked_at(doing(code.format(path=str(path), reference=reference)))
    assert "ermission denied" in report.finding.symptom
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
        diagnose.judge(LORA, text, child)
    started = [int(pid) for pid in child.output.split()]
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
