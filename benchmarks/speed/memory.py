"""How much memory an evaluation takes beyond its features: `python -m benchmarks.speed.memory` prints a table.

Over test images and over classes. Every point is a process of its own: it makes an episode, restarts its high-water
mark, searches under val-min4, scores all test images, and says how far the mark (VmHWM) rose above what it held before.
Fits are cut short by a method's own `quick` values, which change how many steps it takes and not what it holds.
Features lie in that baseline, as made here; a run has them mapped from files, with a copy at unit norm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

METHODS = ("tip", "tip_x", "ape", "gda", "proker", "linear_probe", "dac", "clip_adapter", "transclip")
TESTS, CLASSES, SHOTS = (1_000, 10_000, 50_000), (10, 100, 397), 16
USUAL_TEST, USUAL_CLASSES = 10_000, 100  # the one held still while the other grows
EXTRA_LIMIT, WHOLE_LIMIT = 1_000_000_000, 4_000_000_000  # bytes
FLAT = 1.1  # times as much at the largest test set as at the one before it
PRELOADED = ["torch", "harness.runner", "benchmarks.speed.problems"]
MB = 1_000_000


@dataclass(frozen=True)
class Peak:
    """Bytes of one evaluation."""

    extra: int  # above what the process held before it
    whole: int  # of the process


def main(words: Sequence[str] | None = None) -> int:
    """Measure every point and print the table; 1 where a point failed or a limit is broken."""
    asked = _options(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    over_test = [(USUAL_CLASSES, test) for test in asked.tests]
    over_classes = [(classes, USUAL_TEST) for classes in asked.classes]
    points = list(dict.fromkeys([*over_test, *over_classes]))
    found: dict[str, dict[tuple[int, int], Peak | str]] = {}
    for method in asked.methods:
        found[method] = {}
        for point in points:
            found[method][point] = _apart(context, method, point, asked.limit)
            print(f"{method}, {point[0]} classes, {point[1]} test images: {found[method][point]}", file=sys.stderr)
    print(table(found, over_test, over_classes))
    said = [line for method, peaks in found.items() for line in broken(method, peaks, over_test)]
    print("\n".join(["", *said]) if said else "\nEvery limit is kept.")
    return int(bool(said))


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("methods", nargs="*", default=list(METHODS), help="methods on cached features")
    parser.add_argument("--tests", type=numbers, default=list(TESTS), help=f"test images, at {USUAL_CLASSES} classes")
    parser.add_argument("--classes", type=numbers, default=list(CLASSES), help=f"classes, at {USUAL_TEST} test images")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of a point (default: %(default)s)")
    return parser.parse_args(words)


# -- one point ---------------------------------------------------------------------------------------


def _apart(context: Any, method: str, point: tuple[int, int], limit: float) -> Peak | str:
    """Measure in a fresh process; why not, where that fails."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, method, *point))
    process.start()
    there.close()
    try:
        told: Peak | str = here.recv() if here.poll(limit) else f"over {limit:.0f} s"
    except EOFError:
        told = "the process was ended"
    process.kill()
    process.join()
    return told


def _tell(there: Connection, method: str, classes: int, test: int) -> None:
    try:
        there.send(measure(method, classes, test))
    except Exception as error:
        there.send(f"{type(error).__name__}: {str(error)[:200]}")


def measure(method: str, classes: int, test: int) -> Peak:
    """Search and score one method in this process. Raises OSError where the high-water mark cannot restart."""
    import torch

    from harness import clock, find, timer
    from harness.runner import predict
    from harness.tune import tune

    torch.set_num_threads(1)
    cls = find.method(method).cls
    clock.keep_freed_memory()  # as a run does
    episode, labelled, image = _problem(cls, classes, test)
    clock.reset_peak_memory("cpu")
    before, mark = timer.resident_bytes(), clock.peak_memory_bytes("cpu")
    if before is None or mark is None or mark > before + timer.SLACK:
        raise OSError("this system does not restart the high-water mark of a process")
    choice = tune(cls, dict(cls.quick), episode, "val-min4", lambda: labelled, "cpu")
    predict(choice.method, image, classes)
    peak = clock.peak_memory_bytes("cpu") or 0
    return Peak(max(0, peak - before), peak)


def _problem(cls: Any, classes: int, test: int) -> tuple[Any, Any, Any]:
    """An episode, four labelled images per class, and the test images; with a second space, both are alike."""
    from dataclasses import replace

    import torch

    from benchmarks.speed.problems import problem
    from harness.types import Features

    episode, query, answer = problem(classes, SHOTS, test + 4 * classes, views=cls.views)
    if cls.second_space:
        twice = partial(torch.cat, dim=-1)
        support = episode.support
        views = None if support.views is None else twice([support.views, support.views])
        episode = replace(episode, support=Features(twice([support.image] * 2), support.label, views))
        query = twice([query, query])
    return episode, Features(query[test:], answer[test:]), query[:test]


# -- the table ---------------------------------------------------------------------------------------


def table(
    found: dict[str, dict[tuple[int, int], Peak | str]],
    over_test: Sequence[tuple[int, int]],
    over_classes: Sequence[tuple[int, int]],
) -> str:
    """Markdown: MB above the baseline over test images, over classes, and the most of the whole process."""
    heads = [f"{test:,} test" for _, test in over_test] + [f"{classes} classes" for classes, _ in over_classes]
    lines = [["method", *heads, "most in all"], ["---", *["--:"] * (len(heads) + 1)]]
    for method, peaks in found.items():
        shown = [_shown(peaks[point]) for point in (*over_test, *over_classes)]
        known = [peak.whole for peak in peaks.values() if isinstance(peak, Peak)]
        lines.append([method, *shown, f"{max(known) / MB:,.0f}" if known else "–"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(peak: Peak | str) -> str:
    return peak if isinstance(peak, str) else f"{peak.extra / MB:,.0f}"


def broken(method: str, peaks: dict[tuple[int, int], Peak | str], over_test: Sequence[tuple[int, int]]) -> list[str]:
    """What a method does against the limits, a sentence each."""
    from harness import find, timer
    from harness.runner import ROWS  # a smaller test set is scored in one block

    said = [f"{method}, {classes} classes, {test:,} test images: {peak}."
            for (classes, test), peak in peaks.items() if isinstance(peak, str)]  # fmt: skip
    known = {point: peak for point, peak in peaks.items() if isinstance(peak, Peak)}
    for (classes, test), peak in known.items():
        if peak.extra > EXTRA_LIMIT or peak.whole > WHOLE_LIMIT:
            said.append(f"{method} takes {peak.extra / MB:,.0f} MB more at {classes} classes, {test:,} test images.")
    last = [known[point].extra for point in sorted(over_test) if point in known and point[1] > ROWS][-2:]
    if len(last) == 2 and last[1] > FLAT * last[0] + timer.SLACK and not find.method(method).cls.transductive:
        said.append(f"{method} grows with the test set: {last[0] / MB:,.0f} to {last[1] / MB:,.0f} MB.")
    return said


if __name__ == "__main__":
    sys.exit(main())
