"""Studies in several processes: what a killed one costs, who may work in a folder, threads, and the Ray cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from unrolled import compare, study
from unrolled.cli import main
from unrolled.locks import FolderInUse
from unrolled.plans import plan
from unrolled.study import Study
from unrolled.workers import WorkerDied, _cluster, at_once, one_thread, processors

SETTING = "recall:lag=3"
# Long enough to be caught at it, and done in a moment.
STEPS = 60
two_processors = pytest.mark.skipif(processors() < 2, reason="one processor does one run at a time")
reads_processes = pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the processes from /proc")


def small(folder: Path, **changes: Any) -> Study:
    options = {"cells": ("rnn", "lstm"), "steps": STEPS, "seeds": 2, "parameters": 300, "jobs": 1} | changes
    return compare(SETTING, **options, folder=folder)


def command(folder: Path, *more: str, steps: int = STEPS, jobs: int = 2) -> list[str]:
    """What small() does, from the command line."""
    options = f"--cells rnn lstm --seeds 2 --parameters 300 --steps {steps} --jobs {jobs}".split()
    return [sys.executable, "-m", "unrolled", "compare", SETTING, *options, "--out", str(folder), *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a study's runs that time does not change."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("runs/*/*"))
        if path.name != "metrics.jsonl"
    }


def until(happened: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"it ended by itself: {process.communicate()}"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def running(folder: Path, *more: str, steps: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A study in a process of its own, when it is training."""
    process = subprocess.Popen(
        command(folder, *more, steps=steps, **options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: list(folder.glob("runs/*/metrics.jsonl")), process)
        yield process
    finally:
        process.kill()
        process.communicate()


def training(folder: Path) -> set[str]:
    """Runs that are under way: those that have begun and are not done."""
    return {home.parent.name for home in folder.glob("runs/*/plan.json") if not (home.parent / "run.json").exists()}


def workers_of(parent: int, mark: str) -> list[int]:
    """Processes below one whose command has a mark in it."""
    lines = [
        line.split(maxsplit=2)
        for line in subprocess.run(
            ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True
        ).stdout.splitlines()
    ]
    below = {str(parent)}
    while more := {pid for pid, ppid, _ in lines if ppid in below} - below:
        below |= more
    return [int(pid) for pid, _, arguments in lines if pid in below and mark in arguments]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small(tmp_path_factory.mktemp("undisturbed"))


# A worker that is killed


@two_processors
@reads_processes
def test_killed_worker_is_reported_and_its_runs_are_done_by_the_next_start(tmp_path: Path, undisturbed: Study) -> None:
    folder = tmp_path
    with running(folder, steps=STEPS) as process:
        until(lambda: list(folder.glob("runs/*/run.json")) and len(training(folder)) == 2, process)
        os.kill(workers_of(process.pid, "popen_loky")[-1], signal.SIGKILL)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in error + output

    finished = [path.parent.name for path in folder.glob("runs/*/run.json")]
    lost = [p for p in undisturbed.plans if p.folder in training(folder)]
    assert lost
    message = error.splitlines()[-1]
    doing, rest = message.removeprefix("unrolled: a worker died while doing: ").split(" (most often")
    assert set(doing.split(", ")) == {p.title for p in lost}
    many = "1 finished run is" if len(finished) == 1 else f"{len(finished)} finished runs are"
    assert rest.endswith(f"; {many} kept; start the same command again to do the rest")

    kept = {name: (folder / "runs" / name / "run.json").stat().st_mtime_ns for name in finished}
    small(folder)
    assert contents(folder) == contents(undisturbed.folder)
    assert kept == {name: (folder / "runs" / name / "run.json").stat().st_mtime_ns for name in finished}


LOKY = """
import os, signal, time
from dataclasses import dataclass
from unrolled.workers import WorkerDied, at_once

@dataclass(frozen=True)
class Piece:
    title: str

def work(piece):
    if piece.title == "bad":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if piece.title == "wrong":
        raise ValueError("as it was raised")
    time.sleep(60 if piece.title == "slow" else 0)

def do(*titles):
    given = []
    try:
        for done in at_once(work, [Piece(title) for title in titles], jobs=2):
            given.append(done.title)
    except WorkerDied as died:
        print(given, sorted(died.doing))
    except ValueError as error:
        print(type(error).__name__, error)
    else:
        print(given)

do("quick", "slow", "bad", "not begun")
do("quick", "quick")
do("wrong", "quick")
"""


@two_processors
def test_what_was_under_way_is_told_from_what_was_not_and_what_comes_after_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", LOKY], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "['quick'] ['bad', 'slow']",
        "['quick', 'quick']",
        "ValueError as it was raised",
    ], done.stderr


@pytest.mark.parametrize(
    ("kept", "words"), [(0, "0 finished runs are"), (1, "1 finished run is"), (2, "2 finished runs are")]
)
def test_message_of_a_dead_worker_says_what_is_kept(kept: int, words: str) -> None:
    error = WorkerDied(["recall:lag=3 LSTM seed 1"], kept=kept)
    assert error.doing == ("recall:lag=3 LSTM seed 1",)
    assert "doing: recall:lag=3 LSTM seed 1 (most often memory has run out" in str(error)
    assert f"; {words} kept; start the same command again" in str(error)


# Two studies in one folder


def test_second_study_in_a_folder_is_refused_until_the_first_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, steps=100_000, jobs=1) as first:
        before = (tmp_path / "plan.json").read_bytes()
        with pytest.raises(FolderInUse, match=f"{tmp_path} is in use by a study, process {first.pid} on .*; wait for"):
            small(tmp_path)
        assert main(command(tmp_path)[3:]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"unrolled: {tmp_path} is in use by a study, process {first.pid} on ")
        assert told.count("\n") == 1
        assert (tmp_path / "plan.json").read_bytes() == before
        assert not (tmp_path / "study.json").exists()
        first.kill()
        first.wait()
        assert len(small(tmp_path).runs) == 4


# Threads


PROBES = """
import json, os, sys, time
from dataclasses import dataclass
from unrolled.workers import at_once, one_thread

@dataclass(frozen=True)
class Piece:
    title: str

def work(piece):
    import torch
    from threadpoolctl import threadpool_info
    with one_thread():
        pools = [pool["num_threads"] for pool in threadpool_info()]
        with open(os.path.join(sys.argv[1] if len(sys.argv) > 1 else FOLDER, piece.title), "w") as file:
            json.dump([os.getpid(), torch.get_num_threads(), pools, os.environ["OMP_NUM_THREADS"]], file)
    time.sleep(0.3)

FOLDER = sys.argv[1]
assert len(list(at_once(work, [Piece(str(n)) for n in range(8)], jobs=5))) == 8
"""


@two_processors
def test_workers_are_no_more_than_processors_and_each_has_one_thread(tmp_path: Path) -> None:
    # As set by someone for everything else that runs here; and a machine where this process may use two processors.
    surroundings = os.environ | {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "LOKY_MAX_CPU_COUNT": "2"}
    done = subprocess.run(
        [sys.executable, "-c", PROBES, str(tmp_path)], env=surroundings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len(found) == 8
    assert len({process for process, *_ in found}) == 2
    for _, torchs, pools, told in found:
        assert torchs == 1
        assert len(pools) >= 2
        assert set(pools) == {1}
        assert told == "1"


def test_one_thread_holds_for_linear_algebra_too_and_ends() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# What cannot be done is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "dask"}, "backend: unknown backend 'dask'; expected one of loky, ray"),
        ({"address": "auto"}, "address: given 'auto', which only the backend ray uses"),
    ],
)
def test_backend_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "study", **changes)
    assert not (tmp_path / "study").exists()


def test_missing_ray_is_told_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"the backend ray needs ray, .*: pip install 'unrolled\[ray\]'"):
        small(tmp_path / "study", backend="ray")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "address: given 'nonsense', expected a host and a port as in 10.0.0.1:6379, or auto"),
        ("10.0.0.1:", "address: given '10.0.0.1:', expected a host and a port"),
        ("127.0.0.1:1", "address: nothing answers at 127.0.0.1:1 (Connection refused); expected the address that"),
        ("[::1]:1", "address: nothing answers at [::1]:1 ("),
        ("ray://127.0.0.1:1", "address: nothing answers at ray://127.0.0.1:1 (Connection refused)"),
    ],
)
def test_address_of_no_cluster_is_named_at_once(address: str, message: str) -> None:
    class Ray:
        """Never asked: it would try for minutes."""

        @staticmethod
        def is_initialized() -> bool:
            return False

    with pytest.raises((ValueError, ConnectionError), match=f"^{re.escape(message)}"), _cluster(Ray, None, address):
        pass


def test_machine_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    (entry,) = plan([SETTING], ["rnn"], 1, steps=3, parameters=300)
    with pytest.raises(ValueError, match=f"folder: {tmp_path} is not there on .*; on a cluster it must be on a file"):
        study._perform_elsewhere(tmp_path, entry)
    assert not list(tmp_path.iterdir())


def test_machine_with_other_versions_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    (entry,) = plan([SETTING], ["rnn"], 1, steps=3, parameters=300)
    other = replace(entry, versions={**entry.versions, "torch": "1.0"})
    with pytest.raises(
        ValueError, match=r"has .*torch 2.*; the study was started with .*torch 1\.0.*; install the sam"
    ):
        study._perform_elsewhere(tmp_path, other)
    assert study._perform_elsewhere(tmp_path, entry) == entry


def test_run_that_does_not_arrive_from_another_machine_is_named(tmp_path: Path, undisturbed: Study) -> None:
    study._await(undisturbed.folder, undisturbed.plans[0], seconds=0)
    with pytest.raises(ValueError, match=r"recall:lag=3 RNN seed 0 was finished on another machine and is not in"):
        study._await(tmp_path, undisturbed.plans[0], seconds=0)


def test_nothing_to_do_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert list(at_once(print, [], backend="ray")) == list(at_once(print, [])) == []


# On a Ray cluster, each in a process of its own: Ray warns a lot, and a warning is an error here


def ray(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    asked = command(folder, "--backend", "ray", **options)
    return subprocess.run(asked, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_runs_of_a_local_ray_cluster_are_the_same_bit_for_bit(tmp_path: Path, undisturbed: Study) -> None:
    pytest.importorskip("ray")
    done = ray(tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(undisturbed.folder)
    told = [line.partition(" ")[0] for line in done.stderr.splitlines() if line.startswith("[")]
    assert told == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


@pytest.mark.slow
@two_processors
@reads_processes
def test_killed_worker_of_ray_is_reported_with_its_run_and_not_done_again_by_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    whole, folder = tmp_path / "whole", tmp_path / "study"
    steps = 300
    small(whole, steps=steps)
    with running(folder, "--backend", "ray", steps=steps) as process:
        until(lambda: len(list(folder.glob("runs/*/metrics.jsonl"))) == 2, process)
        os.kill(workers_of(process.pid, "ray::_in_task")[-1], signal.SIGKILL)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in error + output
    finished = list(folder.glob("runs/*/run.json"))
    lost = [p for p in plan([SETTING], ["rnn", "lstm"], 2, steps=steps, parameters=300) if p.folder in training(folder)]
    doing = error.splitlines()[-1].removeprefix("unrolled: a worker died while doing: ").split(" (most often")[0]
    assert doing in {p.title for p in lost}
    assert len(finished) < 2
    assert error.endswith("kept; start the same command again to do the rest\n")

    assert ray(folder, steps=steps).returncode == 0
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_error_in_a_worker_of_ray_is_told_in_one_line(tmp_path: Path, undisturbed: Study) -> None:
    pytest.importorskip("ray")
    folder = Path(shutil.copytree(undisturbed.folder, tmp_path / "study"))
    home = folder / "runs" / undisturbed.plans[0].folder
    (home / "run.json").unlink()
    (home / "weights.safetensors").write_bytes(b"nothing")
    done = ray(folder)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"unrolled: {home / 'weights.safetensors'} is damaged")
    assert message.endswith("to have it made again")
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_missing_cluster_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    asked = command(tmp_path, "--backend", "ray", "--address", "127.0.0.1:1")
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("unrolled: address: nothing answers at 127.0.0.1:1 (")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@reads_processes
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_of_a_local_ray_cluster_end_with_the_study(tmp_path: Path, how: signal.Signals) -> None:
    pytest.importorskip("ray")
    with running(tmp_path, "--backend", "ray", steps=100_000) as process:
        workers = workers_of(process.pid, "ray::_in_task")
        assert workers
        if how is signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        _, error = process.communicate(timeout=60)
        if how is signal.SIGINT:
            assert process.returncode == 130
            assert error.endswith("interrupted; finished runs are kept, and the same command goes on from there\n")
    deadline = time.monotonic() + 20
    while any(runs(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the study"
        time.sleep(0.2)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CLUSTER = """
import subprocess, sys
import ray
from unrolled import compare

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
compare(sys.argv[2], cells=("rnn", "lstm"), steps=60, seeds=2, parameters=300, folder=sys.argv[1] + "/a", backend="ray")
assert ray.is_initialized()
address = ray.get_runtime_context().gcs_address
command = "--cells rnn lstm --seeds 2 --parameters 300 --steps 60 --backend ray --address".split()
command = [sys.executable, "-m", "unrolled", "compare", sys.argv[2], *command, address, "--out", sys.argv[1] + "/b"]
sys.exit(subprocess.run(command).returncode)
"""


@pytest.mark.slow
def test_cluster_that_is_there_is_used_and_left_running(tmp_path: Path, undisturbed: Study) -> None:
    pytest.importorskip("ray")
    asked = [sys.executable, "-c", CLUSTER, str(tmp_path), SETTING]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(undisturbed.folder)
