"""One self-contained HTML page about a store: tables, figures, protocol, provenance, what failed, how to repeat it."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, NotComparable
from harness.figure import image
from harness.plot import KINDS, Point, make_plot
from harness.results import Loaded
from harness.sheet import Sheet, printable, sheet_of
from harness.table import Row, Table, label_of, make_table

if TYPE_CHECKING:
    from markupsafe import Markup

    from harness.types import Result

MOST_NOTES = 200  # a page of a store in which everything failed must stay a page
LEADERBOARD = ("rank", "places", "average", "p_adjusted", "shift_mean", "drop", "labels", "tried")
TITLES = {
    "accuracy": "Accuracy over shots",
    "pareto": "Accuracy against cost",
    "shift": "Shifted test sets",
    "critical-difference": "Mean ranks",
}


@dataclass(frozen=True)
class Report:
    """The page, and what stands in it that a reader of the terminal should know."""

    html: str
    notes: list[str]


@dataclass(frozen=True)
class Drawing:
    """A figure in the page; `svg` is None where there is none, and `text` says why."""

    title: str
    text: str
    svg: Markup | None = None
    data: Sequence[Point] = ()


@dataclass(frozen=True)
class Section:
    """All about one encoder, selection policy and prompt set."""

    name: str
    encoder: str
    selection: str
    prompts: str
    verdicts: list[str]
    ties: str
    caption: str
    leaderboards: list[tuple[str, Sheet]]
    datasets: list[tuple[str, Sheet]]
    drawings: list[Drawing]
    notes: list[str]
    digests: list[tuple[str, str, str]]
    command: str


def make_report(loaded: Loaded, *, known: Iterable[str] = ()) -> Report:
    """The page of these records; `known` are methods that keep their colours though they are not among them.

    What must not be ranked together stands in sections of its own. The same records give the same page. Cost: a
    table for each data set and up to four figures for each section, some seconds.
    """
    import jinja2
    from markupsafe import Markup

    known = [*known, *(label_of(result) for result in loaded.results)]
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in loaded.results:
        groups[result.identity.encoder, result.identity.selection, result.identity.prompts].append(result)
    sections = [_section(f"s{i}", found, known) for i, (_, found) in enumerate(sorted(groups.items()), start=1)]
    here = Path(__file__).parent
    script = (here / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        sections=sections,
        problems=loaded.problems,
        summary=_summary(loaded),
        machines=_counted(_machine(result) for result in loaded.results),
        versions=_versions(loaded.results),
        most=MOST_NOTES,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    missing = [f"{drawing.title}: {drawing.text}" for s in sections for drawing in s.drawings if drawing.svg is None]
    return Report(html, missing)


def _section(name: str, results: list[Result], known: Sequence[str]) -> Section:
    loaded = Loaded(results)
    table = make_table(loaded)
    who = results[0].identity
    shots = sorted({row.shots for row in table.rows}, reverse=True)
    boards = [(_shots(k), replace(table, rows=[row for row in table.rows if row.shots == k])) for k in shots]
    datasets = []
    for dataset in (*table.datasets, *table.shifted):
        alone = Loaded([result for result in results if result.identity.dataset == dataset])
        title = dataset + (" (shifted)" if dataset in table.shifted else "")
        datasets.append((title, sheet_of(make_table(alone), by="shots").shown()))
    return Section(
        name,
        who.encoder,
        who.selection,
        who.prompts,
        [_verdict(shots, board.rows) for shots, board in boards],
        table.ties,
        table.caption,
        [(shots, _board(board)) for shots, board in boards],
        datasets,
        _drawings(name, loaded, known),
        table.notes,
        sorted(_digests(results)),
        _command(results),
    )


def _shots(k: int) -> str:
    return f"{k} shot" if k == 1 else f"{k} shots"


def _board(table: Table) -> Sheet:
    """The leaderboard of one number of shots: ranks and averages; data sets have tables of their own."""
    shifted = ("shift_mean", "drop")
    return sheet_of(table, columns=[name for name in LEADERBOARD if table.shifted or name not in shifted])


def _verdict(shots: str, rows: Sequence[Row]) -> str:
    """The best method in words, and those that cannot be told apart from it."""
    ranked = [row for row in rows if row.rank is not None and row.mean is not None]
    if not ranked:
        return f"{shots}: no method has a complete, ranked average."
    best = ranked[0]
    assert best.mean is not None
    tied = [row.method for row in ranked[1:] if row.tied_with_best]
    said = f"{shots}: {best.method} has the highest average, {best.mean.mean:.2f} %"
    return f"{said}; not separable from it: {', '.join(tied)}." if tied else f"{said}, and no other ties with it."


# -- figures -----------------------------------------------------------------------------------------


def _drawings(section: str, loaded: Loaded, known: Sequence[str]) -> list[Drawing]:
    """Every figure that these records give; where times of several machines meet, parameters take their place."""
    found = []
    for kind in KINDS:
        try:
            found.append(_drawing(section, kind, loaded, known))
        except NotComparable as error:
            found.append(Drawing(TITLES[kind], str(error)))
            found.append(_drawing(section, kind, loaded, known, cost="parameters"))
        except HarnessError as error:
            found.append(Drawing(TITLES[kind], str(error)))
    return found


def _drawing(section: str, kind: str, loaded: Loaded, known: Sequence[str], **options: str) -> Drawing:
    plot = make_plot(kind, loaded, known=known, **options)
    text = "The numbers are in the tables of the data sets." if kind == "accuracy" else ""
    data = () if kind == "accuracy" else plot.data
    return Drawing(
        TITLES[kind], text, inline(image(plot.figure, "svg").decode(), f"{section}-{kind}", TITLES[kind]), data
    )


def inline(svg: str, prefix: str, title: str) -> Markup:
    """An SVG file as an element of a page: ids that are unique there, a title for readers, no fixed size."""
    from markupsafe import Markup, escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r'<svg\b([^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', _sized, body, count=1)
    head, _, rest = body.partition(">")
    return Markup(
        f'{head} role="img" aria-labelledby="{prefix}-title"><title id="{prefix}-title">{escape(title)}</title>{rest}'
    )


def _sized(found: re.Match[str]) -> str:
    return f'<svg{found[1]} style="width: {float(found[2]) * 4 / 3:.0f}px"'


# -- protocol and provenance -------------------------------------------------------------------------


def _summary(loaded: Loaded) -> list[tuple[str, str]]:
    who = [result.identity for result in loaded.results]
    failed = sum(result.status != "ok" for result in loaded.results)
    started = sorted(str(found) for result in loaded.results if (found := result.provenance.get("started")))

    def several(values: Iterable[Any]) -> str:
        return ", ".join(map(str, sorted(set(values))))

    return [
        ("records", f"{len(who)}, of which {failed} failed; {len(loaded.problems)} damaged ones left out"),
        ("methods", several(label_of(result) for result in loaded.results)),
        ("data sets", several(w.dataset for w in who)),
        ("shots per class", several(w.shots for w in who)),
        ("seeds", several(w.seed for w in who)),
        ("computed", f"{started[0]} to {started[-1]}" if started else "at a time that no record tells"),
    ]


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    count: dict[str, int] = defaultdict(int)
    for value in values:
        count[value] += 1
    return sorted(count.items())


def _machine(result: Result) -> str:
    made = result.provenance.get("machine") or {}
    return ", ".join(f"{name} {value}" for name, value in made.items() if value is not None) or "not recorded"


def _versions(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Each package with all versions that made a record, and the commits of the harness."""
    found: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for name, value in result.provenance.items():
            if isinstance(value, str) and name not in ("started", "ended"):
                found[name].add(value)
        if git := result.provenance.get("git"):
            found["commit"].add(f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}")
    return [(name, ", ".join(sorted(values))) for name, values in sorted(found.items())]


def _digests(results: Sequence[Result]) -> set[tuple[str, str, str]]:
    """(data set, part, digest) of all that the results are made from, but for what differs from cell to cell."""
    cell = ("shots", "support", "features")
    return {
        (r.identity.dataset, part, digest) for r in results for part, digest in r.digests.items() if part not in cell
    }


def _command(results: Sequence[Result]) -> str:
    """The command that computes these records where the data sets and weights are at hand."""
    who = [result.identity for result in results]
    flags: dict[str, list[Any]] = {
        "--methods": [label_of(result) for result in results],
        "--datasets": [w.dataset for w in who],
        "--shots": [w.shots for w in who],
        "--seeds": [w.seed for w in who],
    }
    words = ["harness", "run"]
    for flag, values in flags.items():
        words += [flag, ",".join(map(str, sorted(set(values))))]
    words += ["--encoder", who[0].encoder, "--selection", who[0].selection, "--prompts", who[0].prompts]
    return printable(shlex.join(words))
