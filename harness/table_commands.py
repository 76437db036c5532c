"""What the commands do that rank and compare."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, NothingSelected, UsageError, unknown
from harness.pick import ALL, load, narrowed, picked
from harness.printing import note, print_grid, print_json

if TYPE_CHECKING:
    from harness.compare import Comparison, Needed, Paired, Report, Side
    from harness.results import Loaded
    from harness.sheet import Sheet
    from harness.types import Result

PUBLISHED = "published:"  # before the name of a method: what others report of it


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.render import FORMATS
    from harness.sheet import AXES, sheet_of
    from harness.table import make_table

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    if options.cost:
        _refuse_beside_cost(options)
    if options.published:
        return _published(options)
    loaded = picked(options)
    ranked = make_table(loaded, policies=ALL in (options.selection or ()))
    if options.cost:
        from harness.cost import cost_sheet, read_benched

        benched, problems = read_benched(options.results)
        for problem in problems:
            note(f"harness: left out: {problem}")
        sheet = cost_sheet(ranked, loaded, benched, rows=options.rows, columns=options.columns)
        _print(sheet, options.format)
        return Exit.CORRUPT if loaded.problems else Exit.OK
    sheet = sheet_of(
        ranked,
        by=options.by or AXES[0],
        baseline=options.baseline,
        rows=options.rows,
        columns=options.columns,
    )
    _print(sheet, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _refuse_beside_cost(options: Namespace) -> None:
    for name in ("published", "by", "baseline"):
        if getattr(options, name):
            raise UsageError(f"--cost and --{name} do not go together: leave one of them out.")


def _published(options: Namespace) -> int:
    """Published figures beside ours. A store without anything comparable shows the published ones alone."""
    from harness import published
    from harness.beside import sheet_of_published
    from harness.results import Loaded, Store
    from harness.sheet import AXES
    from harness.table import make_table

    if options.baseline:
        raise UsageError("--published and --baseline do not go together: leave one of them out.")
    loaded = Store(options.results).load()
    for problem in loaded.problems:
        note(f"harness: left out: {problem}")
    seeds = [r for r in loaded.results if options.seeds is None or r.identity.seed in options.seeds]
    table = make_table(Loaded(seeds))
    asked = published.Asked(
        options.methods, options.datasets, options.encoder, options.shots, options.selection, options.prompts
    )
    known, rows, names = published.chosen(published.figures(), table, asked)
    by = options.by or AXES[0]
    known, told = published.near(known, rows, asked, by)
    found = published.compare(known, rows, names)
    if not any(one.ours for one in found):
        told.append(f"Nothing in {options.results} can be set beside these figures.")
    long = options.format in ("csv", "json")
    sheet = sheet_of_published(found, by=by, rows=options.rows, columns=options.columns, long=long, notes=told)
    _print(sheet, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def print_table(loaded: Loaded, form: str) -> None:
    """The table of these records, whatever they are: a run shows what it was asked for."""
    from harness.sheet import sheet_of
    from harness.table import make_table

    _print(sheet_of(make_table(loaded)), form)


def _print(sheet: Sheet, form: str) -> None:
    import os

    from harness.render import render_sheet

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render_sheet(sheet, form, width=width, color=color))
    if form == "csv":  # which has no room for what must be read with it
        for line in (sheet.caption, *sheet.notes):
            note(line)


# -- compare -----------------------------------------------------------------------------------------


def compare(options: Namespace) -> int:
    """Set two methods, stores, commits or published methods against each other."""
    from harness.compare import compare as set_against

    stores: dict[Path, Loaded] = {}
    first, second = (_side(text, options, stores) for text in (options.first, options.second))
    report = set_against(first, second, power=options.power)
    problems = [problem for loaded in stores.values() for problem in loaded.problems]
    if options.json:
        print_json(_report_json(report))
    else:
        _show_report(report)
    return Exit.CORRUPT if problems else Exit.OK


def _side(text: str, options: Namespace, stores: dict[Path, Loaded]) -> Side:
    """What a word of the command line stands for: published:NAME, a method of the store, a store, or a commit."""
    from harness.compare import Side
    from harness.table import label_of

    def read(folder: Path) -> Loaded:
        if folder not in stores:
            stores[folder] = narrowed(load(folder), options)
        return stores[folder]

    if text.startswith(PUBLISHED):
        return _published_side(text, options)
    is_store = (Path(text) / "cells").is_dir()
    if is_store and not (options.results / "cells").is_dir():
        return Side(text, results=read(Path(text)).results)
    results = read(options.results).results
    labels = {label_of(result) for result in results}
    name = text if text in labels else text.replace("-", "_")
    if name in labels:
        return Side(name, name, [result for result in results if label_of(result) == name])
    if is_store:
        return Side(text, results=read(Path(text)).results)
    commit = text.lower()
    if re.fullmatch(r"[0-9a-f]{4,64}", commit):
        made = [result for result in results if _commit_of(result).startswith(commit)]
        several = sorted({_commit_of(result)[:12] for result in made})
        if len(several) > 1:
            raise UsageError(f"{text} begins several commits: {', '.join(several)}. Give more of one.")
        if made:
            return Side(text, results=made)
    commits = {_commit_of(result)[:10] for result in results} - {""}
    raise UsageError(unknown("method, commit or store", text, labels | commits))


def _commit_of(result: Result) -> str:
    return str((result.provenance.get("git") or {}).get("commit") or "")


def _published_side(text: str, options: Namespace) -> Side:
    from harness import find, published
    from harness.compare import Side

    known = published.figures()
    asked = text.removeprefix(PUBLISHED)
    folded = asked.lower().replace("-", "_")
    names = {one.harness for one in known if folded == one.harness or asked.lower() == one.method.lower()}
    if len(names) != 1:
        raise UsageError(unknown("published method", asked, {one.harness for one in known}))
    (name,) = names
    suites = find.suites()
    sets = {inside for item in options.datasets or () for inside in suites.get(item, (item,))}
    backbones = {published.backbone_of(item) for item in options.encoder or ()}
    kept = [
        one
        for one in known
        if one.harness == name
        and one.dataset not in published.AVERAGES
        and (not sets or one.dataset in sets)
        and (not backbones or (one.backbone, one.pretrained) in backbones)
        and (options.shots is None or one.shots in (0, *options.shots))
    ]
    if not kept:
        raise NothingSelected(f"{text}: the filters of this command exclude all of its figures.")
    return Side(f"{PUBLISHED}{name}", name, figures=kept)


def _show_report(report: Report) -> None:
    from harness.stats import mean_with_interval

    every = [*report.comparisons, *([report.average] if report.average else [])]
    if len(every) == 1:
        (one,) = every
        rows = []
        for name, part in one.datasets.items():
            mean = mean_with_interval(part.differences)
            spread = "" if mean.ci95 is None else f" ±{mean.ci95:.2f}"
            rows.append([name, _mean(part.first), _mean(part.second), f"{mean.mean:+.2f}{spread}", mean.n])
        print_grid(["data set", one.first, one.second, "difference", "pairs"], rows)
    else:
        rows = [[one.first, one.second, one.shots or "", len(one.datasets), f"{one.difference:+.2f}",
                 f"{one.low:+.2f} to {one.high:+.2f}", f"{one.p_adjusted:.2g}"] for one in every]  # fmt: skip
        print_grid(["first", "second", "shots", "data sets", "difference", "95 % interval", "p"], rows)
    print()
    for one in every:
        print(_heading(one) + one.verdict)
    for how in dict.fromkeys(one.how for one in every):
        print(f"By {how}." if not how.startswith("no ") else f"There is {how}.")
    if len(report.comparisons) > 1:
        print(
            f"p values are corrected for {len(report.comparisons)} comparisons after Holm; of means over methods, not."
        )
    for one in every:
        for need in one.power:
            print(_heading(one) + _need(need, list(one.datasets.values())))
    for line in report.notes:
        print(line)


def _heading(one: Comparison) -> str:
    return f"{one.shots} shots: " if one.shots else ""


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}"


def _need(need: Needed, parts: Sequence[Paired]) -> str:
    """What it takes to see a difference, in words."""
    from harness.stats import FEWEST_TO_GENERALISE

    here = f"on {'these' if len(parts) > 1 else 'this'} {len(parts)} data set{'s' if len(parts) > 1 else ''}"
    if need.seeds is not None:
        seeds = f"{need.seeds} seed{'s' if need.seeds != 1 else ''} {here}"
    elif min(len(part.first) for part in parts) == 1:
        seeds = "one seed does not tell how many"
    else:
        why = ", which differ too much" if len(parts) >= FEWEST_TO_GENERALISE else ": too few test images"
        seeds = f"no number of seeds is enough {here}{why}"
    more = "" if need.datasets is None else f"; or {need.datasets} data sets with the seeds of now"
    return f"To see {need.points:.2f} points with 80 % power: {seeds}{more}."


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "comparisons": [_comparison_json(one) for one in report.comparisons],
        "average": None if report.average is None else _comparison_json(report.average),
        "notes": report.notes,
    }


def _comparison_json(one: Comparison) -> dict[str, Any]:
    from harness.stats import mean_with_interval

    return {
        "first": one.first,
        "second": one.second,
        "shots": one.shots or None,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "p": one.p,
        "p_adjusted": one.p_adjusted,
        "separable": one.separable,
        "verdict": one.verdict,
        "how": one.how,
        "power": [vars(need) for need in one.power],
        "datasets": {
            name: {
                "first": sum(part.first) / len(part.first),
                "second": sum(part.second) / len(part.second),
                "difference": vars(mean_with_interval(part.differences)),
            }
            for name, part in one.datasets.items()
        },
    }
