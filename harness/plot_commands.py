"""What the commands do that draw figures and write the report."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Exit, Missing, UsageError, unknown
from harness.pick import load, narrowed, refuse_outdated
from harness.printing import note, print_json

if TYPE_CHECKING:
    from harness.results import Loaded


def plot(options: Namespace) -> int:
    """Draw one figure into files, with its numbers beside them."""
    from harness.figure import FORMATS
    from harness.plot import KINDS, make_plot, save, write_data

    kind = options.kind.replace("_", "-")
    if kind not in KINDS:
        raise UsageError(unknown("kind of plot", options.kind, KINDS))
    paths = _outputs(options, kind, FORMATS)
    _need("matplotlib", "plot")
    everything, loaded = _records(options)
    drawn = make_plot(kind, loaded, cost=options.x, known=everything)
    data = list(dict.fromkeys(path.with_suffix(".csv") for path in paths))
    for path in paths:
        save(drawn, path)
    for path in data:
        write_data(drawn, path)
    for line in drawn.notes:
        note(f"harness: {line}")
    if options.json:
        print_json({"kind": kind, "files": [str(p) for p in paths], "data": [str(p) for p in data],
                    "notes": drawn.notes})  # fmt: skip
    else:
        print("\n".join(str(path) for path in (*paths, *data)))
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _records(options: Namespace) -> tuple[list[str], Loaded]:
    """The names of all methods of a store, which fix their colours, and the records that the flags leave."""
    from harness.table import label_of

    everything = load(options.results)
    loaded = narrowed(everything, options)
    if not options.allow_mixed:
        refuse_outdated(loaded.results, options.results)
    return [label_of(result) for result in everything.results], loaded


def report(options: Namespace) -> int:
    """Write one page about a store."""
    _need("matplotlib", "report")
    _need("jinja2", "report")
    from harness.plot import write
    from harness.report import make_report

    everything, loaded = _records(options)
    made = make_report(loaded, known=everything)
    path = options.output or options.results / "report.html"
    write(path, made.html.encode())
    for line in made.notes:
        note(f"harness: {line}")
    if options.json:
        print_json({"file": str(path), "bytes": len(made.html.encode()), "notes": made.notes})
    else:
        print(path)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _need(package: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise Missing(f'{package} is not installed: pip install "clip-adapter-harness[{extra}]"')


def _outputs(options: Namespace, kind: str, known: tuple[str, ...]) -> list[Path]:
    """The files to write: --output with its suffix, or in every --format; by default plots/KIND.* in the store."""
    for form in options.format or ():
        if form not in known:
            raise UsageError(unknown("figure format", form, known))
    stems = options.output or [options.results / "plots" / kind]
    if options.format or not options.output:
        bare = [path.with_suffix("") if path.suffix[1:].lower() in known else path for path in stems]
        return [path.with_name(f"{path.name}.{form}") for path in bare for form in options.format or known]
    for path in stems:
        if path.suffix[1:].lower() not in known:
            raise UsageError(f"--output {path}: {unknown('figure format', path.suffix[1:], known)}")
    return list(stems)
