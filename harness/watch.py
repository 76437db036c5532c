"""Follow a run: not at all, as plain lines, or as a bar with the time left. All on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from harness.plan import Cell, Plan
    from harness.types import Result


class Watch:
    """Follows nothing; the base of those that do."""

    def note(self, line: str) -> None:
        """Something that the user should know."""

    def begin(self, plan: Plan) -> None:
        """The plan is made, and work begins."""

    def stage(self, what: str, images: int) -> None:
        """So many images are about to be encoded."""

    def encoded(self, images: int) -> None:
        """So many more images are encoded."""

    def cell(self, cell: Cell, results: Sequence[Result]) -> None:
        """A cell is done and stored."""

    def end(self) -> None:
        """Work is over, whichever way it ended."""


class Plain(Watch):
    """One line per event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._done, self._total, self._several = 0, 0, False
        self._begun = time.perf_counter()

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def begin(self, plan: Plan) -> None:
        self._total, self._several = len(plan.missing), "," in plan.selection
        self.note(summary(plan))

    def stage(self, what: str, images: int) -> None:
        self.note(f"{what}: {images} images")

    def cell(self, cell: Cell, results: Sequence[Result]) -> None:
        self._done += 1
        self.note(f"[{self._done}/{self._total}] {named(cell, self._several)}: {outcome(results)}")


class Bar(Watch):
    """Two progress bars, images and cells, with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._images: Any = None
        self._cells: Any = None

    def note(self, line: str) -> None:
        self._console.print(line, markup=False)

    def begin(self, plan: Plan) -> None:
        self.note(summary(plan))
        self._progress.start()
        self._cells = self._progress.add_task("cells", total=len(plan.missing))

    def stage(self, what: str, images: int) -> None:
        if self._images is not None:
            self._progress.remove_task(self._images)
        self._images = self._progress.add_task(what, total=images)

    def encoded(self, images: int) -> None:
        self._progress.update(self._images, advance=images)

    def cell(self, cell: Cell, results: Sequence[Result]) -> None:
        self._progress.update(self._cells, advance=1, description=cell.name)
        if any(result.status == "failed" for result in results):
            self.note(f"{named(cell, True)}: {outcome(results)}")

    def end(self) -> None:
        self._progress.stop()


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for one long piece of work, told `(done, total)`; None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def summary(plan: Plan) -> str:
    """How many cells there are, and how many of them are done already."""
    done = len(plan.cells) - len(plan.missing)
    return f"{len(plan.cells)} cells: {done} done already, {len(plan.missing)} to compute on {plan.device}."


def named(cell: Cell, several: bool) -> str:
    """The name of a cell, with its selection policy where a plan has several."""
    return f"{cell.name} {cell.selection}" if several else cell.name


def outcome(results: Sequence[Result]) -> str:
    """What came of a cell: its accuracy, or why it failed."""
    first = results[0]
    if first.status != "ok" or first.test is None:
        return f"failed: {first.error}"
    shifts = "".join(f", {r.identity.dataset} {r.test.accuracy:.2f}" for r in results[1:] if r.test)
    seconds = (first.timing.fit_s or 0) + (first.timing.select_s or 0) + (first.timing.predict_s or 0)
    return f"{first.test.accuracy:.2f} %{shifts} ({seconds:.2f} s)"
