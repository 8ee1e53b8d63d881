"""Where runs are made: what is refused before any work, and that a worker does what this process would."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch

from minipeft.classroom.grading import look as looking
from minipeft.classroom.grading.confine import strength
from minipeft.classroom.grading.grade import grade
from minipeft.classroom.grading.journal import Journal
from minipeft.classroom.grading.reports import Places
from minipeft.lab import Lab, compare, executor_from, executors, pool
from minipeft.lab.comparison import TunedMethod
from minipeft.lab.executors import Checked, Unfit, checked, files_of, here
from minipeft.methods import LoRA, PromptTuning
from minipeft.tasks import task
from minipeft.training import RECIPE
from tests.experiments import counted, impossible, jobs_for
from tests.test_grading import right

METHODS = [TunedMethod(LoRA(rank=1), 1e-2), TunedMethod(PromptTuning(length=2), 1e-2)]
SHORT = replace(RECIPE, steps=4, batch_size=8)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(3) as inner:
        yield Checked(inner, 3)


def rows(lab):
    return compare(task("reverse+blue"), METHODS, 2, SHORT, lab=lab)


@pytest.mark.parametrize("text", ["ray", "dask", "dask://", "dask://host", "processes://", ""])
def test_what_is_no_executor_is_told(text):
    with (
        pytest.raises(ValueError, match=r"processes, loky or dask://HOST:PORT \(usually the port 8786\), got"),
        executor_from(text),
    ):
        pass


def test_processes_are_what_a_lab_has_itself():
    with executor_from("processes", 3) as executor:
        assert executor is None


@pytest.mark.parametrize(("text", "name"), [("loky", "loky"), ("dask://localhost:8786", "distributed")])
def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch, text, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"needs the package {name}: pip install {name}"), executor_from(text):
        pass


def test_what_a_cluster_cannot_be_told_from_here_is_refused_before_it_is_asked(monkeypatch):
    with pytest.raises(ValueError, match="leave --workers out"), executor_from("dask://localhost:1", 4):
        pass
    monkeypatch.setattr(pool, "FIRST", [print])
    with pytest.raises(ValueError, match="with MINIPEFT_USE, leave"), executor_from("dask://localhost:1"):
        pass


def test_checked_workers_find_what_the_lab_finds_alone(threads):
    with Lab(workers=1, progress=False) as own, Lab(executor=threads, progress=False) as lab:
        assert rows(lab) == rows(own)
    with Lab(executor=threads, progress=False) as lab, pytest.raises(FloatingPointError, match="in the worker"):
        lab(impossible, [{"number": 1}])


def test_no_two_jobs_run_in_one_process_at_a_time_and_each_on_one_thread(threads, tmp_path):
    running, most = [], []

    def busy(_):
        running.append(threading.get_ident())
        time.sleep(0.02)
        most.append((len(running), torch.get_num_threads()))
        running.pop()

    futures = [threads.submit(busy, number) for number in range(6)]
    assert [future.result() for future in futures] == [None] * 6
    assert set(most) == {(1, 1)}
    with Lab(executor=threads, progress=False) as lab:
        assert [run["number"] for run in lab(counted, jobs_for(tmp_path, 3, 1, 2))] == [3, 1, 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"torch": "1.0"}, "has torch .*, here it is 1.0: give it the same"),
        ({"python": "2.7"}, "has python .*, here it is 2.7"),
        ({"machine": "abacus"}, "has machine .*, here it is abacus"),
        ({"files": {"minipeft": "f00"}}, "has minipeft [0-9a-f]{12}, here it is f00"),
    ],
)
def test_a_worker_that_is_another_one_does_nothing(change, says):
    done, facts = [], here(("minipeft",))
    assert checked(facts, len, "four") == 4
    with pytest.raises(Unfit, match=says):
        checked(facts | change, done.append, 1)
    assert not done


def test_a_worker_is_known_by_every_file_of_the_packages_that_a_job_is_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "thesis" / "parts").mkdir(parents=True)
    for name in ("__init__.py", "parts/__init__.py", "parts/one.py", "notes.md"):
        (tmp_path / "thesis" / name).write_text("")
    before = files_of("thesis")
    (tmp_path / "thesis" / "notes.md").write_text("no code")
    assert files_of("thesis") == before
    (tmp_path / "thesis" / "parts" / "one.py").write_text("a = 1\n")
    assert files_of("thesis") != before
    asked = []
    monkeypatch.setattr(executors, "here", lambda packages: asked.append(packages) or {})
    with ThreadPoolExecutor(1) as inner:
        monkeypatch.setattr(inner, "submit", lambda *job: None)
        Checked(inner, 1).submit(pool.timed, counted, {})
    assert asked == [("minipeft", "tests")]


# -- grading -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for student, text in {
        "zuleika": right("ia3"),
        "bartholomew": "def broken(",
        "ottoline": right("ia3").replace("self.l * x", "self.l + x"),
    }.items():
        (tmp_path / "s" / student).mkdir(parents=True)
        (tmp_path / "s" / student / "ia3.py").write_text(text)
    return tmp_path / "s"


def test_grading_elsewhere_gives_the_results_of_grading_here_and_sends_no_names(folder, tmp_path, threads, monkeypatch):
    sent, submit = [], threads.submit
    monkeypatch.setattr(threads, "submit", lambda *job: sent.append(job) or submit(*job))
    here_, there = (
        grade(folder, Places(tmp_path / f"{name}.csv"), executor=executor, workers=2)
        for name, executor in (("here", None), ("there", threads))
    )
    assert {job: asdict(result) for job, result in here_.results.items()} == {
        job: asdict(result) for job, result in there.results.items()
    }
    assert here_.results["zuleika", "ia3"].points > here_.results["ottoline", "ia3"].points
    assert len(sent) == 3
    assert not any(name in repr(sent) for name in ("zuleika", "bartholomew", "ottoline", str(tmp_path)))


def test_a_machine_with_fewer_bars_around_a_students_code_grades_nobody(folder, tmp_path, threads, monkeypatch):
    wanted = {layer: 1 + value for layer, value in strength().items()}
    with pytest.raises(Unfit, match=r"cannot confine a student's code as the teacher's machine does \(landlock: "):
        looking.look_elsewhere(wanted, "ia3", "", None, None)
    monkeypatch.setattr(looking, "strength", lambda: dict.fromkeys(wanted, -1))
    places = Places(tmp_path / "grades.csv")
    with pytest.raises(Unfit, match="cannot confine"):
        grade(folder, places, executor=threads)
    assert not Journal(places.journal).suspects, "nobody is to blame for that"
    assert not Journal(places.journal).known


def test_a_worker_that_may_start_no_process_says_so(monkeypatch):
    class Daemon:
        daemon = True

    monkeypatch.setattr(looking.multiprocessing, "current_process", Daemon)
    with pytest.raises(Unfit, match=r"may not start processes.*--no-nanny"):
        looking.look_elsewhere({}, "ia3", "", None, None)


def test_a_worker_that_is_lost_is_no_fault_of_the_students_and_tried_again(folder, tmp_path, threads, monkeypatch):
    def lost(*job):
        raise BrokenPipeError("the worker went away")

    monkeypatch.setattr(threads, "submit", lost)
    done = grade(folder, Places(tmp_path / "grades.csv"), executor=threads)
    assert {result.state for result in done.results.values()} == {"failed"}
    assert "tries again in the next run: BrokenPipeError" in done.results["zuleika", "ia3"].flags[0]
    done = grade(folder, Places(tmp_path / "grades.csv"))
    assert done.results["zuleika", "ia3"].state == "graded"
