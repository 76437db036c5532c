"""What each command does: call the engine, print what it gives, say how it ended."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Corrupt, Exit, NothingSelected, UsageError, unknown

if TYPE_CHECKING:
    from harness.find import MethodSpec
    from harness.plan import Cell, Plan, RunSpec
    from harness.results import Loaded
    from harness.runner import Report
    from harness.types import Result
    from harness.watch import Watch


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_grid(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from tabulate import tabulate

    print(tabulate(list(rows), headers, tablefmt="simple", disable_numparse=True))


# -- run ---------------------------------------------------------------------------------------------


def run(options: Namespace) -> int:
    """Compute what a plan lacks, then show its table."""
    from harness.plan import RunSpec, make_plan
    from harness.results import Store
    from harness.runner import run as run_spec

    names = (
        "methods",
        "datasets",
        "shots",
        "seeds",
        "encoder",
        "selection",
        "results",
        "device",
        "executor",
        "force",
    )
    given = {name: getattr(options, name) for name in names}
    spec = RunSpec(**{name: value for name, value in given.items() if value is not None})
    if options.dry_run:
        return _dry_run(make_plan(spec, Store(spec.results), _note), options.json)
    report = run_spec(spec, _watch(options.json))
    if options.json:
        _print_json(_report_json(report, spec))
    else:
        _show_run(report, spec)
    if report.obstacles:
        return report.obstacles[0].code
    return Exit.SOME_FAILED if report.failed else Exit.OK


def _watch(quiet_output: bool) -> Watch:
    from harness.watch import Bar, Plain

    return Bar() if sys.stderr.isatty() and not quiet_output else Plain()


def _records_of(plan: Plan, spec: RunSpec) -> Loaded:
    """The stored records of a plan, and nothing else that the store may hold."""
    from harness.results import Loaded, Store

    store = Store(spec.results)
    found = [store.get(record.key) for record in plan.records()]
    return Loaded([result for result in found if result is not None])


def _show_run(report: Report, spec: RunSpec) -> None:
    loaded = _records_of(report.plan, spec)
    if not report.plan.missing:
        _note(f"Nothing to compute: all {len(report.plan.cells)} cells are in {spec.results}. --force computes again.")
    if loaded.results:
        _print_table(loaded, "term")


def _report_json(report: Report, spec: RunSpec) -> dict[str, Any]:
    computed = {result.key for result in report.computed}
    return {
        "results": str(spec.results),
        "cells": len(report.plan.cells),
        "computed": len(report.computed),
        "failed": len(report.failed),
        "obstacles": [str(error) for error in report.obstacles],
        "records": [
            {**_short(result), "computed": result.key in computed} for result in _records_of(report.plan, spec).results
        ],
    }


def _short(result: Result) -> dict[str, Any]:
    who = result.identity
    return {
        "key": result.key,
        "status": result.status,
        "error": result.error,
        "method": who.method,
        "dataset": who.dataset,
        "encoder": who.encoder,
        "shots": who.shots,
        "seed": who.seed,
        "selection": who.selection,
        "accuracy": result.test.accuracy if result.test else None,
    }


def _dry_run(plan: Plan, as_json: bool) -> int:
    missing = {id(cell) for cell in plan.missing}
    if as_json:
        _print_json([{**_cell_json(cell), "done": id(cell) not in missing} for cell in plan.cells])
        return Exit.OK
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        groups[cell.source.name, cell.source.encoder, cell.method.name, cell.shots].append(cell)
    rows = [
        [*group, ",".join(str(cell.seed) for cell in cells), sum(id(cell) in missing for cell in cells)]
        for group, cells in groups.items()
    ]
    _print_grid(["data set", "encoder", "method", "shots", "seeds", "to compute"], rows)
    print(f"{len(plan.cells)} cells, {len(plan.missing)} to compute on {plan.device}; selection {plan.selection}.")
    return Exit.OK


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "dataset": cell.source.name,
        "encoder": cell.source.encoder,
        "method": cell.method.name,
        "shots": cell.shots,
        "seed": cell.seed,
        "selection": cell.selection,
        "keys": [record.key for record in cell.records],
    }


# -- table and results -------------------------------------------------------------------------------


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.results import Loaded
    from harness.table import FORMATS

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    loaded = _load(options.results)
    names = ("methods", "datasets", "encoder", "selection", "shots", "seeds")
    fields = ("method", "dataset", "encoder", "selection", "shots", "seed")
    kept = loaded.results
    for name, field in zip(names, fields, strict=True):
        asked = getattr(options, name)
        if asked is not None:
            kept = _filtered(kept, field, asked)
    _print_table(Loaded(kept, loaded.problems), options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _load(folder: Path) -> Loaded:
    """Read a store; say so if it is empty. Damaged records are told, and the rest is shown."""
    from harness.results import Store

    loaded = Store(folder).load()
    for problem in loaded.problems:
        _note(f"harness: left out: {problem}")
    if not loaded.results:
        if loaded.problems:
            raise Corrupt(f"No sound record in {folder}: {len(loaded.problems)} damaged ones.")
        raise NothingSelected(f"No results in {folder} yet. Compute some: harness run --methods zero_shot,tip")
    return loaded


def _filtered(results: list[Result], field: str, asked: Sequence[Any]) -> list[Result]:
    known = {getattr(result.identity, field) for result in results}
    wanted = set()
    for item in asked:
        value = item if item in known or not isinstance(item, str) else item.lower().replace("-", "_")
        if value not in known and item in _suites():
            wanted |= set(_suites()[item]) & known
        elif value not in known:
            raise NothingSelected(unknown(f"{field} with results", str(item), map(str, known)))
        wanted.add(value)
    return [result for result in results if getattr(result.identity, field) in wanted]


def _suites() -> dict[str, tuple[str, ...]]:
    from harness import find

    return find.suites()


def _print_table(loaded: Loaded, form: str) -> None:
    import os

    from harness.table import make_table, render

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render(make_table(loaded), form, width=width, color=color))


def results_list(options: Namespace) -> int:
    """One line per record."""
    loaded = _load(options.results)
    rows = [_short(result) for result in loaded.results]
    if options.json:
        _print_json(rows)
    else:
        _print_grid(
            ["key", "status", "method", "data set", "shots", "seed", "selection", "accuracy"],
            [[row["key"][:12], row["status"], row["method"], row["dataset"], row["shots"], row["seed"],
              row["selection"], "–" if row["accuracy"] is None else f"{row['accuracy']:.2f}"] for row in rows],
        )  # fmt: skip
    return Exit.CORRUPT if loaded.problems else Exit.OK


def results_show(options: Namespace) -> int:
    """One record, whole."""
    import msgspec

    results = _load(options.results).results
    found = [result for result in results if result.key.startswith(options.key)]
    if len(found) != 1:
        keys = ", ".join(result.key[:12] for result in (found or results)[:8])
        raise UsageError(f"{len(found)} records have a key that begins with {options.key!r}. Some keys: {keys}.")
    _print_json(msgspec.to_builtins(found[0]))
    return Exit.OK


def results_schema(options: Namespace) -> int:
    """The JSON Schema of a record."""
    from harness.results import schema

    _print_json(schema())
    return Exit.OK


# -- methods -----------------------------------------------------------------------------------------


def methods_list(options: Namespace) -> int:
    """Every method in one line each. A broken one is told and does not hide the others."""
    from harness import find

    rows, broken = [], 0
    for name in find.method_names():
        try:
            rows.append(_about(find.method(name)))
        except UsageError as error:
            broken += 1
            _note(f"harness: {error}")
    if options.json:
        _print_json(rows)
    else:
        headers = ("name", "title", "paper", "year", "trains", "views", "configurations")
        _print_grid(headers, [[row[header] for header in headers] for row in rows])
    return Exit.SOME_FAILED if broken else Exit.OK


def _about(spec: MethodSpec) -> dict[str, Any]:
    """What a method says of itself."""
    from harness.types import Method

    cls, default = spec.cls, spec.cls()
    sizes = [len(values) for grid in (default.fit_grid, default.logit_grid) for values in grid.values()]
    configurations = 1
    for size in sizes:
        configurations *= size
    return {
        "name": spec.name,
        "title": cls.title or spec.name,
        "paper": cls.paper,
        "year": cls.year,
        "version": spec.version,
        "trains": cls.trained_parameters is not Method.trained_parameters,
        "views": cls.views,
        "transductive": cls.transductive,
        "trains_encoder": cls.trains_encoder,
        "configurations": configurations,
    }


def methods_info(options: Namespace) -> int:
    """A method's own words, its fields and its search space."""
    import inspect

    from harness import find
    from harness.tune import values_of

    spec = find.method(options.name)
    default = spec.cls()
    grids = {name: [list(values) for values in getattr(default, name).values()] for name in ("fit_grid", "logit_grid")}
    about = {
        **_about(spec),
        "fields": values_of(default),
        "fit_grid": dict(zip(default.fit_grid, grids["fit_grid"], strict=True)),
        "logit_grid": dict(zip(default.logit_grid, grids["logit_grid"], strict=True)),
        "doc": inspect.getdoc(spec.cls) or "",
    }
    if options.json:
        _print_json(about)
        return Exit.OK
    print(f"{about['name']}: {about['title']}\n{about['paper']}\n\n{about['doc']}\n")
    for name, value in about["fields"].items():
        print(f"  {name} = {value!r}{_searched(about, name)}")
    print(f"\n{about['configurations']} configurations are tried where validation labels may be used.")
    return Exit.OK


def _searched(about: dict[str, Any], name: str) -> str:
    for grid in ("fit_grid", "logit_grid"):
        values = about[grid].get(name)
        if values:
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values[:6])
            return f"   searched: {shown}" + (f", … {values[-1]:g} ({len(values)} values)" if len(values) > 6 else "")
    return ""


def methods_test(options: Namespace) -> int:
    """Run the contract over one method and say what to mend."""
    from harness import contract, find

    findings = contract.check(find.method(options.name).cls)
    if options.json:
        _print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}" + ("" if finding.ok else f": {finding.message}"))
    failed = sum(not finding.ok for finding in findings)
    _note(f"{len(findings) - failed} of {len(findings)} checks passed.")
    return Exit.SOME_FAILED if failed else Exit.OK


# -- data --------------------------------------------------------------------------------------------


def data_list(options: Namespace) -> int:
    """Every data set that can be run, and where it comes from."""
    from harness import cache, find, folders

    rows: list[dict[str, Any]] = []
    for name in find.dataset_names():
        dataset = find.dataset(name)
        rows.append({"name": name, "kind": "built in", "title": dataset.title, "licence": dataset.licence})
    for name, folder in folders.own_sets().items():
        rows.append({"name": name, "kind": "own images", "title": str(folder), "licence": ""})
    for name, folder in cache.imported_packs().items():
        rows.append({"name": name, "kind": "imported pack", "title": str(folder), "licence": ""})
    if options.json:
        _print_json(rows)
    else:
        _print_grid(["name", "kind", "what it is"], [[row["name"], row["kind"], row["title"]] for row in rows])
    return Exit.OK


def data_add(options: Namespace) -> int:
    """Take the user's own images as a data set; nothing is copied or moved."""
    from harness import cache, find, folders
    from harness.watch import counted

    taken = [*find.dataset_names(), *find.suites(), *cache.imported_packs()]
    with counted("looking at images") as progress:
        manifest, notes = folders.add(
            options.path,
            options.name,
            templates=tuple(options.templates or ("a photo of a {}.",)),
            seed=options.seed,
            taken=taken,
            force=options.force,
            progress=progress,
        )
    for line in notes:
        _note(line)
    split = manifest.split
    counts = {part: len(getattr(split, part)) for part in ("train", "val", "test")}
    if options.json:
        _print_json({"name": options.name, "classes": len(split.classes), **counts, "notes": notes})
    else:
        print(
            f"{options.name}: {len(split.classes)} classes, {counts['train']} training, {counts['val']} validation and "
            f"{counts['test']} test images. Run it: harness run --datasets {options.name}"
        )
    return Exit.OK


def data_shots(options: Namespace) -> int:
    """The training and validation images that a seed draws, in drawing order."""
    from harness import files, splits

    split = _split_of(options.name)
    splits.check_shots(split, options.shots, options.name)
    train, val = splits.draw([y for _, y in split.train], [y for _, y in split.val], options.shots, options.seed)
    drawn = {"train": [split.train[i] for i in train], "val": [split.val[i] for i in val]}
    digest = files.digest_of([drawn["train"], drawn["val"]])
    if options.json:
        as_json = {part: [{"path": path, "label": label} for path, label in found] for part, found in drawn.items()}
        _print_json({**as_json, "sha256": digest})
    else:
        for part, found in drawn.items():
            for path, label in found:
                print(f"{part}\t{path}\t{split.classes[label]}")
        _note(f"sha256 {digest}")
    return Exit.OK


def _split_of(name: str) -> Any:
    from harness import find, folders, plan

    if name in folders.own_sets():
        return folders.load_own(name)[1]
    return plan.built(find.dataset(name), _note)[0]


# -- features ----------------------------------------------------------------------------------------


def features_list(options: Namespace) -> int:
    """Imported packs, then cache entries."""
    from harness import cache

    rows = [_pack_row(name, folder, "imported") for name, folder in cache.imported_packs().items()]
    rows += [_pack_row(folder.name, folder, "cache") for folder in cache.cached_packs()]
    if options.json:
        _print_json(rows)
    else:
        headers = ("name", "kind", "dataset", "encoder", "parts", "shots", "megabytes", "problem")
        _print_grid(headers, [[row[header] for header in headers] for row in rows])
    return Exit.OK


def _pack_row(name: str, folder: Path, kind: str) -> dict[str, Any]:
    from harness import cache

    row: dict[str, Any] = {"name": name, "kind": kind, "folder": str(folder), "dataset": "", "encoder": ""}
    row |= {"parts": "", "shots": "", "megabytes": "", "problem": ""}
    try:
        pack = cache.open_pack(folder)
    except Exception as error:  # a listing never fails for one bad entry
        return {**row, "problem": str(error)}
    info = pack.info
    megabytes = sum(entry.bytes for entry in info.files.values()) / 1e6
    shots = f"{info.fewshot.shots} (seed {info.fewshot.seed})" if info.fewshot else ""
    row |= {"dataset": info.dataset, "encoder": info.encoder, "parts": ",".join(pack.parts)}
    return row | {"shots": shots, "megabytes": round(megabytes, 2)}


def features_import(options: Namespace) -> int:
    """Take features that somebody else extracted."""
    from harness import find, folders, importers

    if options.kind not in ("pack", "tip-adapter"):
        raise UsageError(unknown("kind of import", options.kind, ("pack", "tip-adapter")))
    taken = [*find.dataset_names(), *find.suites(), *folders.own_sets()]
    if options.kind == "pack":
        pack = importers.import_pack(options.path, options.name, force=options.force, taken=taken)
    else:
        for flag in ("encoder", "classes"):
            if getattr(options, flag) is None:
                raise UsageError(f"--from tip-adapter needs --{flag}: the .pt files do not say it.")
        pack = importers.import_tip_adapter(
            options.path,
            encoder=options.encoder,
            classes=options.classes,
            name=options.name or options.path.resolve().name,
            shots=options.shots,
            scale=options.scale,
            text=options.text,
            force=options.force,
            taken=taken,
        )
    name = pack.folder.name
    if options.json:
        _print_json(_pack_row(name, pack.folder, "imported"))
    else:
        print(
            f"{name}: {len(pack.info.classes)} classes, {', '.join(pack.parts)}. Run it: harness run --datasets {name}"
        )
    return Exit.OK


def features_export(options: Namespace) -> int:
    """Write what an episode and its test read as one pack, extracting what is missing."""
    from harness import cache, encoder
    from harness.episodes import ImageSource, PackSource
    from harness.plan import make_source

    device = encoder.resolve_device(options.device)
    source = make_source(options.name, options.encoder, device, _note)
    if isinstance(source, PackSource):
        pack = cache.export_pack(source.pack, options.folder)
    else:
        assert isinstance(source, ImageSource)
        source.check(options.shots, options.seed, "none")
        source.prepare([(options.shots, options.seed)], 0, _watch(options.json))
        pack = cache.export_pack(source.packs(options.shots, options.seed), options.folder)
    if options.json:
        _print_json(_pack_row(options.name, pack.folder, "exported"))
    else:
        print(f"{pack.folder}: {', '.join(pack.parts)} of {options.name}, {pack.info.encoder}.")
    return Exit.OK


def features_verify(options: Namespace) -> int:
    """Check every byte and every number; damaged cache entries are set aside, imports are left to their owner."""
    from harness import cache

    imported = cache.imported_packs()
    folders = [*imported.values(), *cache.cached_packs()]
    if options.name is not None:
        folder = imported.get(options.name, Path(options.name))
        if not folder.is_dir():
            raise UsageError(unknown("pack", options.name, imported))
        folders = [folder]
    rows = [{"folder": str(folder), "problems": _verified(cache.verify, folder)} for folder in folders]
    if options.json:
        _print_json(rows)
    for row in rows:
        for problem in row["problems"]:
            _note(f"harness: {row['folder']}: {problem}")
    damaged = sum(bool(row["problems"]) for row in rows)
    _note(f"{len(rows) - damaged} of {len(rows)} packs are sound.")
    return Exit.CORRUPT if damaged else Exit.OK


def _verified(verify: Callable[[Any], list[str]], folder: Path) -> list[str]:
    from harness import cache
    from harness.errors import HarnessError

    try:
        return verify(cache.open_pack(folder))
    except HarnessError as error:
        return [str(error)]


# -- doctor ------------------------------------------------------------------------------------------


def doctor(options: Namespace) -> int:
    """What works here and what does not, one line each; never fails for one bad thing."""
    from harness.doctor import examine

    findings = examine(options.results)
    if options.json:
        _print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'LOOK'} {finding.name}: {finding.message}")
    return Exit.OK if all(finding.ok for finding in findings) else Exit.SOME_FAILED
