"""The commands on data sets: list, get and verify them, add the user's own, print what a seed draws."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, HarnessError, UsageError, unknown
from harness.printing import note, print_grid, print_json

if TYPE_CHECKING:
    from harness.types import Dataset


def list_sets(options: Namespace) -> int:
    """Every data set that can be run: what is here, what is missing, and what takes the user's hand."""
    from harness import cache, find, folders

    rows = [_row(find.dataset(name)) for name in find.dataset_names()]
    rows += [_own_row(name, "own images", str(folder)) for name, folder in folders.own_sets().items()]
    rows += [_own_row(name, "imported pack", str(folder)) for name, folder in cache.imported_packs().items()]
    if options.json:
        print_json(rows)
        return Exit.OK
    headers = ["name", "kind", "state", "to download", "disk", "what is missing"]
    print_grid(headers, [[row["name"], row["kind"], row["state"], _size(row["download_bytes"]),
                          _size(row["disk_bytes"]), _missing(row)] for row in rows])  # fmt: skip
    if any(row["by_hand"] for row in rows):
        note("* by hand: harness data prepare NAME tells what to do, or see --json. --from takes what you have.")
    return Exit.OK


def _row(dataset: Dataset) -> dict[str, Any]:
    from harness import prepare

    found = prepare.status(dataset)
    return {
        "name": dataset.name,
        "kind": "built in",
        "title": dataset.title,
        "state": found.state,
        "root": str(found.root) if found.root else None,
        "missing": found.missing,
        "by_hand": found.by_hand,
        "download_bytes": found.download_bytes,
        "disk_bytes": found.disk_bytes,
        "licence": dataset.licence,
        "notes": found.notes,
    }


def _own_row(name: str, kind: str, folder: str) -> dict[str, Any]:
    row = {"name": name, "kind": kind, "title": name, "state": "ready", "root": folder, "missing": [], "by_hand": []}
    return row | {"download_bytes": 0, "disk_bytes": 0, "licence": "", "notes": []}


def _size(count: int) -> str:
    from harness import download

    return download.size_text(count) if count else ""


def _missing(row: dict[str, Any]) -> str:
    shown = ", ".join(row["missing"][:2]) + (f", … ({len(row['missing'])})" if len(row["missing"]) > 2 else "")
    return shown + (" *" if row["by_hand"] else "")


def get(options: Namespace) -> int:
    """Find, download, verify and unpack data sets; what one lacks does not stop the others."""
    from harness import prepare

    wanted = _built_in(options.names)
    if options.from_path is not None and len(wanted) > 1:
        raise UsageError(f"--from takes one data set at a time, not {len(wanted)}.")
    with _bars() as progress:
        if len(wanted) == 1:
            one = prepare.prepare(wanted[0], options.from_path, jobs=options.jobs, progress=progress)
            ended: dict[str, prepare.Prepared | HarnessError] = {wanted[0].name: one}
        else:
            ended = prepare.prepare_all(wanted, jobs=options.jobs, progress=progress)
    rows = [_prepared_row(name, end) for name, end in ended.items()]
    if options.json:
        print_json(rows)
    for row in rows:
        for line in row["notes"]:
            note(line)
        told = f"ready in {row['root']}" if row["error"] is None else f"not ready: {row['error']}"
        if not options.json:
            print(f"{row['name']}: {told}")
    failed = [end for end in ended.values() if isinstance(end, HarnessError)]
    return failed[0].code if failed else Exit.OK


def _prepared_row(name: str, end: Any) -> dict[str, Any]:
    if isinstance(end, HarnessError):
        return {"name": name, "root": None, "counts": None, "notes": [], "error": str(end)}
    counts = [len(getattr(end.split, part)) for part in ("train", "val", "test")]
    return {"name": name, "root": str(end.root), "counts": counts, "notes": end.notes, "error": None}


def verify(options: Namespace) -> int:
    """List every image again, per class; with --hashes, read them all."""
    from harness import find, prepare

    names = options.names or [name for name in find.dataset_names() if prepare.locate(find.dataset(name))]
    rows = []
    with _bars() as progress:
        for dataset in _built_in(names):
            problems = prepare.verify(dataset, options.hashes, progress=progress, note=note)
            rows.append({"name": dataset.name, "problems": problems})
    if options.json:
        print_json(rows)
    for row in rows:
        for problem in row["problems"]:
            note(f"harness: {problem}")
    damaged = sum(bool(row["problems"]) for row in rows)
    note(f"{len(rows) - damaged} of {len(rows)} data sets are sound.")
    return Exit.CORRUPT if damaged else Exit.OK


def _built_in(names: Sequence[str]) -> list[Dataset]:
    """The downloaded data sets of these names and suites."""
    from harness import find

    found: dict[str, Dataset] = {}
    for asked in names:
        name = asked.lower().replace("-", "_")
        for one in find.suites().get(name, (name,)):
            if one not in find.dataset_names():
                raise UsageError(unknown("data set or suite", asked, [*find.dataset_names(), *find.suites()]))
            if find.dataset(one).build is None:
                found[one] = find.dataset(one)
            elif name == one:
                note(f"{one}: made on first use; there is nothing to get.")
    return list(found.values())


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar for each piece of work that reports itself; None where nobody looks."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total or None)
            progress.update(tasks[what], completed=done, total=total or None)

        yield tell


def add(options: Namespace) -> int:
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
        note(line)
    split = manifest.split
    counts = {part: len(getattr(split, part)) for part in ("train", "val", "test")}
    if options.json:
        print_json({"name": options.name, "classes": len(split.classes), **counts, "notes": notes})
    else:
        print(
            f"{options.name}: {len(split.classes)} classes, {counts['train']} training, {counts['val']} validation and "
            f"{counts['test']} test images. Run it: harness run --datasets {options.name}"
        )
    return Exit.OK


def shots(options: Namespace) -> int:
    """The training and validation images that a seed draws, or that a published list names, in order."""
    from harness import cache, find, plan, splits

    if options.name in cache.imported_packs() and options.name not in find.dataset_names():
        raise UsageError(f"{options.name} is a pack of features: it has rows, and no images to print.")
    if options.name not in plan.known_datasets():
        raise UsageError(unknown("data set", options.name, plan.known_datasets()))
    split = plan.place(options.name, note).split
    if options.split_file is not None:
        drawn = splits.shots_from_file(options.split_file, split, options.seed)
    else:
        splits.check_shots(split, options.shots, options.name)
        drawn = splits.draw_shots(split, options.shots, options.seed)
    parts = {"train": drawn.train, "val": drawn.val}
    if options.json:
        as_json = {part: [{"path": path, "label": label} for path, label in found] for part, found in parts.items()}
        print_json({**as_json, "sha256": drawn.digest})
        return Exit.OK
    for part, found in parts.items():
        for path, label in found:
            print(f"{part}\t{path}\t{split.classes[label]}")
    note(f"sha256 {drawn.digest}")
    return Exit.OK
