"""What the command `check` does: bring store and baseline together, and say the verdict to people and to CI."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.check import (
    ALPHA,
    Baseline,
    Kind,
    Report,
    Rules,
    changes,
    choose,
    compare,
    encode,
    pooled,
    read_baseline,
    slot,
    snapshot,
)
from harness.errors import Exit, HarnessError, NothingSelected, UsageError, unknown
from harness.files import write_atomic
from harness.printing import note, print_json
from harness.results import Store

if TYPE_CHECKING:
    from harness.check import Cell
    from harness.plan import RunSpec
    from harness.results import Loaded

FORMATS = ("term", "json", "github", "junit")
SHOWN = 8  # findings of one kind that a person is shown; what is worse is shown whole


def check(options: Namespace) -> int:
    """Compare a store with a baseline; 4 means that something is worse, and nothing else does."""
    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    rules = _rules(options)
    if options.update:
        return _update(options)
    baseline = read_baseline(options.baseline)
    obstacles = _compute(baseline, options.results[0]) if options.run else []
    loaded = _load(options.results)
    report = compare(baseline, loaded.results, loaded.problems, rules)
    _print(report, options)
    if report.code in (Exit.MISSING, Exit.NOTHING) and obstacles:
        return obstacles[0].code
    return report.code


def _load(folders: Sequence[Path]) -> Loaded:
    """What several stores hold together; a record of one cell may come from each."""
    from harness.results import Loaded

    found = [Store(folder).load() for folder in folders]
    return Loaded([r for loaded in found for r in loaded.results], [p for loaded in found for p in loaded.problems])


def _named(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _rules(options: Namespace) -> Rules:
    tolerance, factor, alpha = options.accuracy_tolerance, options.time_factor, options.alpha
    if not 0 <= tolerance <= 100:
        raise UsageError(f"--accuracy-tolerance {tolerance}: points from 0 to 100, such as 0.3.")
    if factor is not None and not 1 <= factor < float("inf"):
        raise UsageError(f"--time-factor {factor}: 1 or more; 1.1 lets 10 % pass.")
    if not 0 < alpha < 0.5:
        raise UsageError(f"--alpha {alpha}: a chance of a false alarm above 0 and below 0.5, such as {ALPHA}.")
    return Rules(tolerance, factor, alpha)


# -- --update ----------------------------------------------------------------------------------------


def _update(options: Namespace) -> int:
    """Write what the store holds as the new baseline, and say what that changes, cell by cell."""
    old = _old_baseline(options.baseline)
    obstacles = _compute(old, options.results[0]) if options.run and old else []
    loaded = _load(options.results)
    for problem in loaded.problems:
        note(f"harness: left out: {problem}")
    chosen = choose(pooled(loaded.results))
    failed = [result for result in chosen.values() if result.status != "ok"]
    new = snapshot(chosen.values())
    if not new.cells:
        raise NothingSelected(
            f"No results in {_named(options.results)} to make a baseline from: harness run --results …"
        )
    said = changes(old, new)
    write_atomic(options.baseline, encode(new))
    for result in failed:
        note(f"harness: left out: {result.identity.method} on {result.identity.dataset}: {result.error}")
    if options.format == "json":
        print_json({"baseline": str(options.baseline), "cells": len(new.cells), "changes": said})
    else:
        for line in said:
            print(line)
        print(f"{options.baseline}: {len(new.cells)} cells, {len(said) or 'no'} changes.")
    if obstacles:
        return obstacles[0].code
    return Exit.CORRUPT if loaded.problems else Exit.SOME_FAILED if failed else Exit.OK


def _old_baseline(path: Path) -> Baseline | None:
    """What the new one replaces, if it can be read."""
    if not path.exists():
        return None
    try:
        return read_baseline(path)
    except HarnessError as error:
        note(f"harness: replaced: {error}")
        return None


# -- --run -------------------------------------------------------------------------------------------


def _compute(baseline: Baseline, results: Path) -> list[HarnessError]:
    """Run what the store lacks of a baseline; return what stood in the way."""
    loaded = Store(results).load()
    done = {slot(cell): cell.inputs for cell in snapshot(choose(loaded.results, baseline).values()).cells}
    missing = [cell for cell in baseline.cells if done.get(slot(cell)) != cell.inputs]
    if not missing:
        return []
    from harness.runner import run
    from harness.watch import Plain

    obstacles: list[HarnessError] = []
    with contextlib.redirect_stdout(sys.stderr):  # what a method prints must not mix with what we print
        for spec in specs_of(missing, results):
            try:
                obstacles += run(spec, Plain()).obstacles
            except HarnessError as error:  # one data set or method that is not here; the others still run
                note(f"harness: not run: {' '.join(str(error).split())}")
                obstacles.append(error)
    return obstacles


def specs_of(cells: Iterable[Cell], results: Path) -> Iterator[RunSpec]:
    """The runs that compute these cells and no others: cells that form a full grid become one run."""
    from harness.plan import RunSpec

    datasets: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for cell in cells:
        datasets[cell.encoder, cell.selection, cell.prompts, cell.shots, cell.seed, cell.method].add(cell.dataset)
    methods: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (*where, method), names in sorted(datasets.items()):
        methods[(*where, tuple(sorted(names)))].append(method)
    seeds: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for (*where, seed, names), found in methods.items():
        seeds[(*where, names, tuple(found))].append(seed)
    for (encoder, selection, prompts, shots, names, found), drawn in seeds.items():
        yield RunSpec(
            methods=found,
            datasets=names,
            shots=(shots,),
            seeds=tuple(drawn),
            encoder=encoder,
            selection=selection,
            prompts=prompts,
            results=results,
        )


# -- the verdict in four languages -------------------------------------------------------------------


def _print(report: Report, options: Namespace) -> None:
    form, results = options.format, _named(options.results)
    if form == "json":
        print_json(as_json(report, options.baseline, results))
        return
    if form == "junit":
        print(as_junit(report, read_baseline(options.baseline)))
        return
    for kind in Kind:
        alike = [found for found in report.findings if found.kind is kind]
        shown = alike if kind is Kind.WORSE or len(alike) <= SHOWN else alike[: SHOWN - 1]
        for found in shown:
            print(annotation(kind, found.where, found.text) if form == "github" else found.line)
        if len(shown) < len(alike):
            rest = f"{len(alike) - len(shown)} more cells, such as the last one; --format json lists all"
            print(annotation(kind, rest, alike[-1].text) if form == "github" else f"{kind.word}: {rest}")
    print(summary(report, options.baseline, results))
    if form == "github" and (target := os.environ.get("GITHUB_STEP_SUMMARY")):
        with contextlib.suppress(OSError), Path(target).open("a", encoding="utf-8") as file:
            file.write(as_markdown(report, options.baseline, results))


def summary(report: Report, baseline: Path, results: str) -> str:
    """The verdict in one line."""
    verdict = {
        Exit.OK: "nothing is worse",
        Exit.REGRESSION: "WORSE",
        Exit.NOTHING: "nothing could be compared",
    }.get(report.code, "no regression seen, but the comparison is not whole")
    counts: dict[Kind, int] = defaultdict(int)
    for found in report.findings:
        counts[found.kind] += 1
    said = [f"{count} {kind.word}" for kind, count in counts.items() if kind is not Kind.TOLD]
    told = next((cost for cost in report.costs if cost.worse), next(iter(report.costs), None))
    time = f"; {told.what} of {told.who} x {told.ratio:.2f} over {told.fits} fits" if told else ""
    update = " Better cells: take them over with --update." if counts[Kind.BETTER] else ""
    return (
        f"{verdict}: {results} against {baseline}: of {report.cells} cells {report.exact} compared by count, "
        f"{report.tested} by test{''.join(', ' + text for text in said)}{time}.{update}"
    )


def as_json(report: Report, baseline: Path, results: str) -> dict[str, Any]:
    return {
        "baseline": str(baseline),
        "results": results,
        "code": int(report.code),
        "cells": report.cells,
        "exact": report.exact,
        "tested": report.tested,
        "findings": [{"kind": f.kind.word, "where": f.where, "text": f.text} for f in report.findings],
        "costs": [vars(cost) for cost in report.costs],
    }


def annotation(kind: Kind, where: str, text: str) -> str:
    """A workflow command of GitHub Actions; line ends and the marks of its syntax are escaped."""
    level = "notice" if kind.code == Exit.OK else "error" if kind is Kind.WORSE else "warning"
    title = f"{kind.word}: {where}"
    for mark, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, text = title.replace(mark, code), text.replace(mark, code)
    return f"::{level} title={title.replace(':', '%3A').replace(',', '%2C')}::{text}"


def as_markdown(report: Report, baseline: Path, results: str) -> str:
    """A summary for the page of a workflow run."""
    lines = [f"### harness check\n\n{_cell(summary(report, baseline, results))}\n"]
    if report.findings:
        lines += ["| verdict | where | what |", "|---|---|---|"]
        lines += [f"| {f.kind.word} | {_cell(f.where)} | {_cell(f.text)} |" for f in report.findings]
    if report.costs:
        lines += ["", "| of | fits | new / old | at least |", "|---|---|---|---|"]
        lines += [f"| {c.what} of {_cell(c.who)} | {c.fits} | {c.ratio:.3f} | {c.bound:.3f} |" for c in report.costs]
    return "\n".join([*lines, "", ""])


def _cell(text: str) -> str:
    import html

    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def as_junit(report: Report, baseline: Baseline) -> str:
    """JUnit's XML: a test case for every cell of the baseline, and one for each other finding and cost."""
    from xml.etree import ElementTree as tree

    suite = tree.Element("testsuite", name="harness check")
    cells = {cell.name: f"{cell.dataset}.{cell.shots}" for cell in baseline.cells}
    others = {found.where: "harness" for found in report.findings if found.where not in cells}
    times = {f"{cost.what} of {cost.who}": "time" for cost in report.costs}
    counts: dict[str, int] = defaultdict(int)
    for name, group in {**cells, **times, **others}.items():
        case = tree.SubElement(suite, "testcase", classname=_xml(group), name=_xml(name))
        counts["tests"] += 1
        for found in report.names.get(name, ()):
            tag, tally = _JUNIT.get(found.kind, ("error", "errors"))
            if tag is None:
                tree.SubElement(case, "system-out").text = _xml(found.line)
                continue
            counts[tally] += 1
            tree.SubElement(case, tag, message=_xml(found.text))
    for tally in ("tests", "failures", "errors", "skipped"):
        suite.set(tally, str(counts[tally]))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tree.tostring(suite, encoding="unicode")


_JUNIT: dict[Kind, tuple[str | None, str]] = {
    Kind.WORSE: ("failure", "failures"),
    Kind.MISSING: ("skipped", "skipped"),
    Kind.BETTER: (None, ""),
    Kind.TOLD: (None, ""),
}


def _xml(text: str) -> str:
    """Text without the characters that XML 1.0 has no way to write."""
    return "".join(
        c if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "�"
        for c in text
    )
