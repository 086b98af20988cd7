"""Work that is done several at once: by processes of this machine, or on a Ray cluster.

Every piece has one thread wherever it is done, so how many are done at once changes no figure, and pieces never ask for
more processors than there are.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch

from unrolled.extras import extra

Backend = Literal["loky", "ray"]

_WATCH = 0.5  # seconds between a worker's looks at whether its parent lives
_ANSWER = 5.0  # seconds in which the head of a cluster must answer
_STORE = 100 * 2**20  # bytes of a local cluster's shared memory: nothing is passed through it but plans


class Planned(Protocol):
    """A piece of work."""

    @property
    def title(self) -> str:
        """Its name, as a person would say it."""


P = TypeVar("P", bound=Planned)


class WorkerDied(RuntimeError):
    """A process that did some of the work ended before it was done.

    Attributes:
        doing: titles of what was lost with it. Where it is not known which process did what (loky), everything that was
            under way, since the others are ended with it.
    """

    def __init__(self, doing: Sequence[str], kept: int | None = None) -> None:
        self.doing = tuple(doing)
        text = (
            f"a worker died while doing: {', '.join(doing) or 'nothing yet'} "
            "(most often memory has run out, and fewer jobs need less)"
        )
        if kept is not None:
            runs = "1 finished run is" if kept == 1 else f"{kept} finished runs are"
            text += f"; {runs} kept; start the same command again to do the rest"
        super().__init__(text)


def check(jobs: int | None, backend: str, address: str | None) -> None:
    """Refuse what at_once() cannot do, before anything is done.

    Raises:
        ValueError: a number of jobs below 1, an unknown backend, or an address that nothing would use.
        ModuleNotFoundError: the backend's package is not installed.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: must be at least 1, given {jobs}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend: unknown backend {backend!r}; expected one of {', '.join(get_args(Backend))}")
    if address is not None and backend != "ray":
        raise ValueError(f"address: given {address!r}, which only the backend ray uses; choose it, or drop the address")
    if backend == "ray":
        extra("ray", "the backend ray", "ray")


def at_once(
    work: Callable[[P], object],
    plans: Sequence[P],
    *,
    jobs: int | None = None,
    backend: Backend = "loky",
    address: str | None = None,
) -> Iterator[P]:
    """Do every piece of work, several at once, begun in order, and give each when it is done.

    Args:
        work: does one; a function that other processes can import, or a partial of one. What it returns is dropped.
        plans: what is to be done.
        jobs: how many at once, at most as many as there are processors, which is what it is by default. On a cluster
            with an address: at most and by default as many as the cluster has.
        backend: "loky" for processes of this machine, "ray" for a Ray cluster.
        address: of the head of a running cluster, as `ray start` prints it ("10.0.0.1:6379"), "auto" for one this
            machine belongs to. Without one, Ray starts a cluster on this machine and ends it with the work. A process
            that is connected to a cluster already uses that one.

    Raises:
        WorkerDied: a process ended before its work was done; the other ones are stopped.
        ConnectionError: nothing answers at the address.
        Exception: what `work` raised.
    """
    if not plans:
        return
    if backend == "ray":
        yield from _on_ray(work, plans, jobs, address)
        return
    workers = 1 if jobs == 1 else min(jobs or processors(), processors(), len(plans))
    if workers == 1:
        for plan in plans:
            work(plan)
            yield plan
    else:
        yield from _on_loky(work, plans, workers)


def processors() -> int:
    """Processors that this process may use, container limits and affinity counted."""
    return int(extra("joblib", "compare", "study").cpu_count())


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for every library of linear algebra; all get theirs back afterwards.

    Sums come out otherwise when threads share them, so a run has one wherever it is done.
    """
    # Loaded now, with the libraries it computes with: one that is loaded later would not be limited.
    extra("sklearn.linear_model", "compare", "study")
    limits = extra("threadpoolctl", "compare", "study")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with limits.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _on_loky(work: Callable[[P], object], plans: Sequence[P], workers: int) -> Iterator[P]:
    joblib = extra("joblib", "compare", "study")
    left = dict(enumerate(plans))
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        # No more are handed out than there are workers, so what is handed out is under way.
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch=workers)
    calls = (joblib.delayed(_in_worker)(work, number, plan, os.getpid()) for number, plan in enumerate(plans))
    try:
        for number in parallel(calls):
            yield left.pop(number)
    except BrokenExecutor as error:
        # Handed out in order; those that were finished meanwhile are sorted out by who asked for the work.
        begun = range(parallel.n_dispatched_tasks)
        raise WorkerDied([left[number].title for number in begun if number in left]) from error


def _in_worker(work: Callable[[P], object], number: int, plan: P, parent: int) -> int:
    """Do one piece in a worker process, which ends with its parent.

    A parent that is killed cannot tell its workers; without this they would go on beside the study's next start.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    # One watch for each worker, however much it does.
    if not any(thread.name == "unrolled-parent-watch" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="unrolled-parent-watch", daemon=True).start()
    work(plan)
    return number


def _on_ray(work: Callable[[P], object], plans: Sequence[P], jobs: int | None, address: str | None) -> Iterator[P]:
    """As tasks of one processor each.

    Not through Ray's backend of joblib: it gives nothing back before everything is done, and hands its work out in
    turn, so that a worker waits with nothing to do while work stands behind a slow one.
    """
    ray = extra("ray", "the backend ray", "ray")
    with _cluster(ray, jobs, address):
        limit = min(jobs or len(plans), int(ray.cluster_resources().get("CPU", 1)), len(plans))
        # Ray would do the work of a dead worker again by itself, without a word and, when memory is short, without end.
        task = ray.remote(num_cpus=1, max_retries=0)(_in_task)
        left = deque(plans)
        waiting: dict[Any, P] = {}
        try:
            while left or waiting:
                while left and len(waiting) < limit:
                    plan = left.popleft()
                    waiting[task.remote(work, plan)] = plan
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                plan = waiting.pop(done)
                _receive(ray, done, plan.title)
                yield plan
        finally:
            for rest in waiting:
                ray.cancel(rest, force=True)


def _in_task(work: Callable[[P], object], plan: P) -> None:
    work(plan)


def _receive(ray: Any, done: Any, title: str) -> None:
    """Raise what ended a task, as the task raised it."""
    errors = ray.exceptions
    try:
        ray.get(done)
    except errors.RayTaskError as error:
        # Ray's own has the whole traceback of the other process in its message.
        raise error.cause from None
    except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError) as error:
        raise WorkerDied([title]) from error
    except errors.RayError as error:
        raise RuntimeError(f"Ray could not do {title}: {str(error).strip().splitlines()[0]}") from error


@contextmanager
def _cluster(ray: Any, jobs: int | None, address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster, ended afterwards unless it was there before."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any]
    if address is None:
        # Not what Ray takes by default: any cluster that happens to run on this machine.
        options = {
            "address": "local",
            "num_cpus": min(jobs or processors(), processors()),
            "include_dashboard": False,
            "object_store_memory": _STORE,
        }
        # What a study of one machine does is not reported to anyone, unless its owner says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    else:
        _ask(address)
        options = {"address": address}
    try:
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        if address is None:
            raise
        raise ConnectionError(
            f"address: no connection to a Ray cluster at {address} ({str(error).strip().splitlines()[0]}); "
            "for one that asks for a token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _ask(address: str) -> None:
    """Raise an error if nothing answers at an address; Ray itself would try for minutes, and then end the process."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"address: given {address!r}, expected a host and a port as in 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise ConnectionError(
            f"address: nothing answers at {address} ({error.strerror or error}); "
            "expected the address that `ray start --head` has printed"
        ) from None
