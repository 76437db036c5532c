"""Compute the cells of a run in several processes side by side, each with its share of the cores.

Every worker has a pool of its own from the standard library, so that one which is killed takes its own cells with it
and no others. A worker makes the plan again from the same words, keeps the lock shut, and writes its records itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import cache, clock, lock, machine
from harness.errors import Missing
from harness.plan import Cell, Plan, RunSpec, make_plan
from harness.results import Store
from harness.types import Result

Done = tuple[Cell, list[Result]]
Work = Callable[[Sequence[Cell], Plan, float, Store], Iterable[Done]]  # by its name, so that a worker can import it
Outcome = list[list[Result]] | str  # of a task: the records of each cell, or what ended its worker


@dataclass(frozen=True)
class Task:
    """Cells that share work, computed one after the other by one worker."""

    cells: list[Cell]
    extract_s: float  # what their features took
    begun: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def stored(self, cell: Cell, store: Store) -> list[Result]:
        """The records of a cell that its worker had stored before it ended."""
        found = [store.get(record.key) for record in cell.records]
        return [one for one in found if one and str(one.provenance["started"]) >= self.begun]


def tasks_of(cells: Sequence[Cell], extract_s: float) -> list[Task]:
    """Cells of one data set in groups that share work: all policies of a method, and methods of one family."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.shots, cell.seed, cell.method.name.partition("_")[0]), []).append(cell)
    return [Task(group, extract_s) for group in groups.values()]


# -- the parent --------------------------------------------------------------------------------------


class _Worker:
    """One process that computes one task at a time."""

    def __init__(self, *given: Any) -> None:
        before = {child.pid for child in multiprocessing.active_children()}
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.started = self._pool.submit(_begin, *given)
        self._processes = [child for child in multiprocessing.active_children() if child.pid not in before]

    def submit(self, task: Task) -> Future[Outcome]:
        return self._pool.submit(_compute, [cell.records[0].key for cell in task.cells], task.extract_s)

    def ended(self) -> str:
        """What ended a worker that is no more."""
        for process in self._processes:
            code = _exit_code(process)
            if code and code == -getattr(signal, "SIGKILL", 0):  # Windows has none
                return "its worker process was killed, as a system does that runs out of memory: use fewer --jobs"
            if code:
                return f"its worker process ended with code {code}"
        return "its worker process ended"

    def end(self) -> None:
        """End it, whatever it does: what it has finished is stored."""
        for process in self._processes:
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _exit_code(process: multiprocessing.process.BaseProcess) -> int | None:
    """How a process ended; None if it has not within a second.

    The pool's own thread waits for it too. Whoever comes second is told nothing until the first has put the code down.
    """
    deadline = time.monotonic() + 1
    process.join(1)
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process.exitcode


def side_by_side(tasks: Iterable[Task], spec: RunSpec, jobs: int, work: Work) -> Iterator[tuple[Task, Outcome]]:
    """Compute tasks in `jobs` processes; give each with its outcome as it ends."""
    waiting = deque(tasks)
    given = (replace(spec, jobs=jobs), threads_each(jobs), work, lock.protected(), cache.verified())
    idle = [_Worker(*given) for _ in range(min(jobs, len(waiting)))]
    running: dict[Future[Outcome], tuple[_Worker, Task]] = {}
    try:
        for worker in idle:
            _started(worker)
        while waiting or running:
            while waiting and idle:
                worker, task = idle.pop(), waiting.popleft()
                running[worker.submit(task)] = worker, task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, task = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    outcome = worker.ended()
                    worker.end()
                    worker = _started(_Worker(*given)) if waiting else worker
                idle.append(worker)
                yield task, outcome
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            worker.end()


def _started(worker: _Worker) -> _Worker:
    try:
        worker.started.result()
    except BrokenProcessPool as error:
        raise Missing(f"--jobs: a cell cannot be computed, as {worker.ended()} while it started.") from error
    return worker


def threads_each(jobs: int) -> int:
    """Threads of each of so many workers: its share of the cores, and no more than this process has."""
    import torch

    return max(1, min(machine.cores() // jobs, torch.get_num_threads()))


# -- a worker ----------------------------------------------------------------------------------------

_jobs = 1  # processes that compute side by side, this one included
_cells: dict[str, Cell] = {}
_plan: Plan
_work: Work
_store: Store
_watched = contextlib.ExitStack()


def jobs() -> int:
    """How many processes compute side by side with this one, itself included."""
    return _jobs


def _begin(spec: RunSpec, threads: int, work: Work, protected: list[str], verified: Any) -> None:
    """Make the plan again, and shut the lock for good; between tasks it is shut for everybody."""
    global _jobs, _plan, _work, _store
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.dup2(2, 1)  # what a method prints must not mix with what the command prints
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
    clock.keep_freed_memory()
    cache.take_verified(verified)
    _jobs, _work, _store = spec.jobs, work, Store(spec.results)
    _plan = make_plan(spec, _store)
    _cells.update({cell.records[0].key: cell for cell in _plan.cells})
    for path in protected:
        lock.protect(Path(path))
    _watched.enter_context(lock.on_watch())


def _follow_parent() -> None:
    """End with the parent, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _compute(keys: Sequence[str], extract_s: float) -> Outcome:
    """The records of each cell, which are stored by then."""
    with lock.on_watch():
        if lost := [key for key in keys if key not in _cells]:
            return f"{len(lost)} of its cells are not in the worker's plan: did data change while the run began?"
        done = [results for _, results in _work([_cells[key] for key in keys], _plan, extract_s, _store)]
        clock.share_gpu_memory(_plan.device)
        sys.stdout.flush()
        return done
