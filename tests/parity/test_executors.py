"""Runs in loky's processes and on a Dask cluster come out as they do here."""

from dataclasses import asdict

import dask
import distributed
import pytest

from minipeft.classroom.grading.grade import grade
from minipeft.classroom.grading.reports import Places
from minipeft.lab import Lab, executor_from, executors
from minipeft.lab.executors import Unfit
from tests.experiments import counted, impossible, jobs_for, made
from tests.test_executors import rows
from tests.test_grading import right


def cluster(**settings):
    usual = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "host": "127.0.0.1"}
    return distributed.LocalCluster(**usual | settings)


def address(one):
    return one.scheduler_address.replace("tcp://", "dask://")


@pytest.fixture(scope="module")
def dask_address():
    """Two workers without nannies' limits: processes that may start processes."""
    with dask.config.set({"distributed.worker.daemon": False}), cluster() as one:
        yield address(one)


@pytest.fixture
def where(request):
    return request.getfixturevalue("dask_address") if request.param == "dask" else request.param


@pytest.mark.parametrize("where", ["loky", "dask"], indirect=True)
def test_a_comparison_comes_out_as_it_does_here(where):
    with executor_from(where, 2 if where == "loky" else None) as executor:
        assert executor.workers == 2
        with Lab(workers=1, progress=False) as own, Lab(executor=executor, progress=False) as lab:
            assert rows(lab) == rows(own)


@pytest.mark.parametrize("where", ["loky", "dask"], indirect=True)
def test_errors_come_here_and_what_is_asked_for_again_is_made_again(where, tmp_path):
    with executor_from(where) as executor:
        for _ in range(2):
            with Lab(tmp_path / "runs.jsonl", executor=executor, again=True, progress=False) as lab:
                lab(counted, jobs_for(tmp_path, 1))
        with Lab(executor=executor, progress=False) as lab, pytest.raises(FloatingPointError, match="in the worker"):
            lab(impossible, [{"number": 1}])
    assert made(tmp_path) == ["1", "1"]


@pytest.mark.parametrize("where", ["loky", "dask"], indirect=True)
def test_a_class_gets_the_results_that_it_gets_here(where, tmp_path):
    for student, text in {"ann": right("ia3"), "eve": right("ia3").replace("self.l * x", "self.l + x")}.items():
        (tmp_path / "s" / student).mkdir(parents=True)
        (tmp_path / "s" / student / "ia3.py").write_text(text)
    own = grade(tmp_path / "s", Places(tmp_path / "own.csv"))
    with executor_from(where) as executor:
        found = grade(tmp_path / "s", Places(tmp_path / "found.csv"), executor=executor, workers=executor.workers)
    assert {job: asdict(r) for job, r in own.results.items()} == {job: asdict(r) for job, r in found.results.items()}
    assert (tmp_path / "own.csv").read_text() == (tmp_path / "found.csv").read_text()


def test_a_worker_with_a_nanny_may_not_grade(tmp_path):
    (tmp_path / "s" / "ann").mkdir(parents=True)
    (tmp_path / "s" / "ann" / "ia3.py").write_text(right("ia3"))
    with (
        dask.config.set({"distributed.worker.daemon": True}),  # the default
        cluster(n_workers=1) as one,
        executor_from(address(one)) as executor,
        pytest.raises(Unfit, match="--no-nanny"),
    ):
        grade(tmp_path / "s", Places(tmp_path / "grades.csv"), executor=executor)


def test_a_scheduler_that_is_not_there_has_no_workers_or_workers_of_several_threads_is_told(monkeypatch):
    monkeypatch.setattr(executors, "SECONDS", 1)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at 127\.0\.0\.1:1 within 1 seconds"):
        executor_from("dask://127.0.0.1:1").__enter__()
    with cluster(n_workers=0) as one, pytest.raises(OSError, match=r"has no workers.*--nthreads 1 --no-nanny"):
        executor_from(address(one)).__enter__()
    with (
        cluster(n_workers=1, threads_per_worker=2) as one,
        pytest.raises(ValueError, match=r"in one thread, but .* has 2"),
    ):
        executor_from(address(one)).__enter__()


def test_a_worker_with_other_files_is_refused_before_any_run(dask_address, monkeypatch):
    monkeypatch.setattr(executors, "MADE_WITH", executors.MADE_WITH | {"torch": "9.9"})
    monkeypatch.setattr(executors.here, "cache_clear", executors.here.cache_clear)
    executors.here.cache_clear()
    with pytest.raises(Unfit, match=r"has torch .*, here it is 9\.9"):
        executor_from(dask_address).__enter__()
