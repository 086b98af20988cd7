"""Calls of what the viewer can do: those that answer at once, and those that take long and are asked after.

Quick ones run in two threads. While a page is panned it asks faster than it is answered; what it no longer wants is
dropped before it begins. Slow ones run one at a time, and a page asks how far one is.
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from unrolled.viewer.serving.packing import pack

Tell = Callable[[int, int], None]
Quick = Callable[[dict[str, Any]], Any]
Slow = Callable[[dict[str, Any], Tell], Any]

# What a method raises to tell the user something: a wrong argument, a missing file or package, a model that cannot.
_FORESEEN = (ValueError, TypeError, IndexError, KeyError, OSError, RuntimeError, ImportError)
_REMEMBERED = 256
_MOST_JOBS = 32
_KEPT_SECONDS = 600.0


class Failed(Exception):
    """A call has no answer; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Stopped(BaseException):
    """Raised in a slow method that was told to stop. Not an Exception, so that no `except Exception` holds it up."""


def called(method: Callable[..., Any], *arguments: Any) -> bytes:
    """A method's answer, packed.

    Raises:
        Failed: 400 with the method's own words for an error of its user, 500 for any other, which is printed on stderr.
    """
    try:
        try:
            answer = method(*arguments)
        except _FORESEEN as error:
            raise Failed(400, _words(error)) from error
        return pack(answer)
    except (Failed, Stopped):
        raise
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        raise Failed(500, "something went wrong in the viewer; where it was started, more is printed") from None


class QuickCalls:
    """Two threads, and for each view and method the number of its newest request. Used from one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="unrolled-quick")
        self._newest: OrderedDict[tuple[str, str], tuple[int, weakref.ref[Future[bytes]]]] = OrderedDict()

    def begin(
        self, name: str, method: Quick, arguments: dict[str, Any], asked: tuple[str, int] | None
    ) -> Future[bytes]:
        """The packed answer to come; cancelled when a newer request of the same view and method overtakes it.

        Args:
            asked: the view that asks, and a number that grows with each request of it; None is never overtaken.

        Raises:
            Failed: 409, a newer one came before this one; 503, the viewer is ending.
        """
        if asked is None:
            return _submitted(self._pool, called, method, arguments)
        view, serial = asked
        if (last := self._newest.get((view, name))) is not None:
            newest, waits = last
            if serial < newest:
                raise Failed(409, "a newer request has come")
            if serial > newest and (waiting := waits()) is not None:
                waiting.cancel()  # does nothing to one that has begun
        future = _submitted(self._pool, called, method, arguments)
        # Weakly: an answer that was sent need not stay in memory.
        self._newest[view, name] = serial, weakref.ref(future)
        self._newest.move_to_end((view, name))
        while len(self._newest) > _REMEMBERED:
            self._newest.popitem(last=False)
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Job:
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    done: int = 0
    of: int = 0
    began: float | None = None
    ended: float | None = None
    result: bytes = b""
    error: Failed | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class SlowCalls:
    """One thread for the methods that take long, and what has become of each call.

    At most 32 calls are known. The finished are forgotten after ten minutes, and the oldest of them earlier where
    there are too many.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unrolled-slow")
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._clock = clock

    def begin(self, method: Slow, arguments: dict[str, Any]) -> str:
        """Put a call at the end of the queue; returns its name.

        Raises:
            Failed: 400, too many wait; 503, the viewer is ending.
        """
        with self._lock:
            self._forget(_MOST_JOBS - 1)
            if len(self._jobs) >= _MOST_JOBS:
                raise Failed(400, f"{_MOST_JOBS} calls wait already; cancel one or wait")
            name, job = secrets.token_hex(8), _Job()
            self._jobs[name] = job
        _submitted(self._pool, self._run, job, method, arguments)
        return name

    def progress(self, name: Any) -> dict[str, Any]:
        """{"state": "waiting" | "running" | "done" | "failed", "done", "of", "seconds" since it began}; and "error".

        Raises:
            Failed: 404, there is no such call, or no longer.
        """
        with self._lock:
            job = self._job(name)
            ended = self._clock() if job.ended is None else job.ended
            seconds = 0.0 if job.began is None else ended - job.began
            told: dict[str, Any] = {"state": job.state, "done": job.done, "of": job.of, "seconds": seconds}
            return told if job.error is None else told | {"error": job.error.message}

    def result(self, name: Any) -> bytes:
        """The packed answer of a call that is done.

        Raises:
            Failed: what the method failed with; 404, no such call; 400, it is not done.
        """
        with self._lock:
            job = self._job(name)
            if job.error is not None:
                raise Failed(job.error.status, job.error.message)
            if job.state != "done":
                raise Failed(400, f"the call has no result yet; it is {job.state}")
            return job.result

    def cancel(self, name: Any) -> None:
        """End a call that waits, and one that runs when it next tells how far it is. A finished one stays as it is.

        Raises:
            Failed: 404, no such call.
        """
        with self._lock:
            job = self._job(name)
            job.stop.set()
            if job.state == "waiting":
                self._end(job, Failed(400, "cancelled"))

    def close(self) -> None:
        """Cancel every call."""
        with self._lock:
            for job in self._jobs.values():
                job.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: _Job, method: Slow, arguments: dict[str, Any]) -> None:
        with self._lock:
            if job.state != "waiting":
                return
            job.state, job.began = "running", self._clock()

        def tell(done: int, of: int) -> None:
            if job.stop.is_set():
                raise Stopped
            job.done, job.of = int(done), int(of)

        error: Failed | None = None
        try:
            job.result = called(method, arguments, tell)
        except Failed as failed:
            # Anew: what was raised holds the frames it came from, and their arrays.
            error = Failed(failed.status, failed.message)
        except Stopped:
            error = Failed(400, "cancelled")
        with self._lock:
            self._end(job, error)

    def _end(self, job: _Job, error: Failed | None) -> None:
        job.ended = self._clock()
        job.state, job.error = ("done", None) if error is None else ("failed", error)

    def _job(self, name: Any) -> _Job:
        self._forget(_MOST_JOBS)
        job = self._jobs.get(name) if isinstance(name, str) else None
        if job is None:
            raise Failed(404, f'there is no call {name!r}; "job" names one, and results are kept for some minutes')
        return job

    def _forget(self, most: int) -> None:
        finished = [(job.ended, name) for name, job in self._jobs.items() if job.ended is not None]
        for ended, name in sorted(finished):
            if self._clock() - ended > _KEPT_SECONDS or len(self._jobs) > most:
                del self._jobs[name]


def _submitted(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Work that a pool takes; one that was shut down takes none, while pages still ask."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError:
        raise Failed(503, "the viewer is ending") from None


def _words(error: BaseException) -> str:
    # str() of a KeyError puts quotation marks around its message.
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return words or type(error).__name__
