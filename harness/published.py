"""Figures that others published, set beside ours with a verdict: claimed against verified.

The figures stand in results/published.csv, each with its source and with what set its protocol apart; how they were
chosen is told in results/published.md. The file names our methods in its column `harness`, so nothing is named here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from harness import find
from harness.errors import Corrupt, Missing, NothingSelected, unknown
from harness.sheet import over_sets
from harness.stats import Mean, count_variance
from harness.table import UNRANKED, Row, Table

COLUMNS = (
    "harness", "method", "backbone", "pretrained", "dataset", "shots", "metric", "value", "protocol", "protocol_note",
    "source",
)  # fmt: skip
METRIC = "top1"
AVERAGES = {"avg11": "core11", "avg_ood4": "ood4"}  # printed averages, and the suites that they are over
AVERAGE = "average"

FLOOR = 1.0  # points; 96 % of 165 cells that one paper quotes from another lie within it (published.md of the sources)
SEEDS = 3  # that a published figure is taken to average, where its source does not say "one"

WITHIN = "within tolerance"
PROTOCOL = "differs: protocol"
UNEXPLAINED = "differs: unexplained"
NO_FIGURE = "no published figure"
NOT_RUN = "not run here"
MARKS = {WITHIN: "=", PROTOCOL: "p", UNEXPLAINED: "!"}


@dataclass(frozen=True)
class Reason:
    """What one word of the column `protocol` says, and which differences it may explain."""

    text: str
    budget: float | None = None  # labels used to choose settings: more of them lift a figure
    lifts: bool = False  # lifts the published figure, whatever ours was chosen by
    prompts: str = ""  # the prompt set of ours that would be the same
    either: bool = False  # may move a figure either way


REASONS = {
    "no-val": Reason("fixed settings, no validation images", budget=0),
    "val-k": Reason("as many validation images per class as shots", budget=1.5),
    "whole-val": Reason("settings searched on the whole validation set", budget=2),
    "test-settings": Reason("settings searched on test images", budget=3),
    "test-epoch": Reason("epoch chosen on the test images", lifts=True),
    "test-head": Reason("best of several heads, as scored on the test images", lifts=True),
    "set-constants": Reason("constants per data set of undocumented origin", lifts=True),
    "settings-unstated": Reason("how settings were chosen is not stated", lifts=True),
    "cupl": Reason("CuPL sentences as prompts", prompts="cupl"),
    "templates7": Reason("seven ImageNet templates", prompts="imagenet7"),
    "other-templates": Reason("other templates", prompts="?"),
    "other-split": Reason("another split of the data set", either=True),
    "one-seed": Reason("one seed"),
    "second-hand": Reason("quoted by a third party"),
    "rerun": Reason("re-run by the authors of another paper"),
    "plot-reading": Reason("partly read off a plot"),
    "printed-average": Reason("average as printed, its parts are not known"),
    "backbone-inferred": Reason("backbone inferred, not stated by the source"),
    "weights-assumed": Reason("weights assumed to be these"),
}
BUDGETS = {"none": 0.0, "support-cv": 0.0, "val-min4": 1.0, "val-full": 2.0, UNRANKED: 3.0}  # of our policies
PLAIN = "single"  # the prompt set that a figure has where nothing else is said


@dataclass(frozen=True)
class Figure:
    """One published accuracy in percent."""

    harness: str  # our name of the method
    method: str
    backbone: str
    pretrained: str
    dataset: str
    shots: int
    value: float
    protocol: tuple[str, ...]  # keys of REASONS
    note: str
    source: str


@dataclass(frozen=True)
class Compared:
    """One published figure, our measurement, or both."""

    method: str
    backbone: str
    shots: int
    dataset: str
    encoder: str = ""  # of ours
    selection: str = ""
    prompts: str = ""
    ours: Mean | None = None
    published: float | None = None
    tolerance: float | None = None
    verdict: str = NOT_RUN
    reasons: tuple[str, ...] = ()  # what may explain the difference
    caveats: tuple[str, ...] = ()  # what else is known of the figure
    source: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else self.ours.mean - self.published


# -- the file ----------------------------------------------------------------------------------------


def path() -> Path:
    """The file that ships with the package; in a checkout the one in results/."""
    packed = Path(str(files("harness"))) / "published.csv"
    return packed if packed.is_file() else Path(__file__).parents[1] / "results" / "published.csv"


def figures(file: Path | None = None) -> list[Figure]:
    """Read and check the published figures; the first bad row is told with its line."""
    file = file or path()
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            return _checked(file, reader)
    except FileNotFoundError as error:
        raise Missing(f"There are no published figures at {file}. Install the package again.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise Corrupt(f"{file}: not a CSV file in UTF-8: {error}") from error


def _checked(file: Path, reader: Iterable[list[str]]) -> list[Figure]:
    found: list[Figure] = []
    seen: dict[Hashable, int] = {}
    for line, row in enumerate(reader, start=1):
        where = f"{file}, row {line}"
        if line == 1:
            if tuple(row) != COLUMNS:
                raise Corrupt(f"{where}: the columns are {','.join(row)}, expected {','.join(COLUMNS)}.")
            continue
        try:
            figure = _figure(row)
        except ValueError as error:
            raise Corrupt(f"{where}: {error}") from error
        key = (figure.harness, figure.backbone, figure.pretrained, figure.dataset, figure.shots)
        if key in seen:
            raise Corrupt(f"{where}: the same method, backbone, data set and shots as row {seen[key]}.")
        seen[key] = line
        found.append(figure)
    return found


def _figure(row: Sequence[str]) -> Figure:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} fields, expected {len(COLUMNS)}.")
    said = dict(zip(COLUMNS, row, strict=True))
    for name in ("method", "backbone", "pretrained", "dataset", "source"):
        if not said[name].strip():
            raise ValueError(f"{name} is empty.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", said["harness"]):
        raise ValueError(f"harness: {said['harness']!r} is not a name of ours.")
    if not re.fullmatch(r"\d{1,4}", said["shots"]):
        raise ValueError(f"shots: {said['shots']!r} is not a whole number.")
    if said["metric"] != METRIC:
        raise ValueError(f"metric: {said['metric']!r} is not {METRIC}.")
    if not re.fullmatch(r"\d{1,3}(\.\d+)?", said["value"]) or not 0 <= float(said["value"]) <= 100:
        raise ValueError(f"value: {said['value']!r} is not a percentage from 0 to 100.")
    words = tuple(word for word in said["protocol"].split(";") if word)
    for word in words:
        if word not in REASONS:
            raise ValueError(f"protocol: {unknown('reason', word, REASONS)}")
    return Figure(
        said["harness"], said["method"], said["backbone"], said["pretrained"], said["dataset"], int(said["shots"]),
        float(said["value"]), words, said["protocol_note"], said["source"],
    )  # fmt: skip


def backbone_of(encoder: str) -> tuple[str, str]:
    """Backbone and weights of one of our encoders, as published figures name them.

    OpenAI's weights are one model under the plain and the -quickgelu name. No tag means OpenAI's, as in --encoder.
    """
    model, _, pretrained = encoder.partition(":")
    model, pretrained = model.replace("/", "-"), pretrained or "openai"
    return (model.removesuffix("-quickgelu") if pretrained == "openai" else model), pretrained


# -- which figures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What the filter flags of a command ask for; None: everything."""

    methods: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    encoder: Sequence[str] | None = None
    shots: Sequence[int] | None = None
    selection: Sequence[str] | None = None
    prompts: Sequence[str] | None = None


def chosen(known: Sequence[Figure], table: Table, asked: Asked) -> tuple[list[Figure], list[Row], list[str]]:
    """The published figures that the filters leave, those rows of ours whose backbone figures are known of, and the
    data sets of the average. A name that neither side knows is an error.

    A figure at 0 shots stands beside ours at any number of shots: its method learns nothing from them.
    """
    rows = table.rows
    methods = _names("method", asked.methods, {f.harness for f in known} | {row.method for row in rows})
    sets = _names("data set", asked.datasets, {f.dataset for f in known} | {n for row in rows for n in row.datasets})
    if sets is not None:
        sets |= {name for name, suite in AVERAGES.items() if set(find.suites()[suite]) <= sets}
    published = {(f.backbone, f.pretrained) for f in known}
    backbones = _encoders(asked.encoder, {backbone_of(row.encoder) for row in rows} | published)
    kept = [
        f for f in known
        if (methods is None or f.harness in methods)
        and (sets is None or f.dataset in sets)
        and (backbones is None or (f.backbone, f.pretrained) in backbones)
        and (asked.shots is None or f.shots in (0, *asked.shots))
    ]  # fmt: skip
    ours = [
        replace(row, datasets={name: mean for name, mean in row.datasets.items() if sets is None or name in sets})
        for row in rows
        if (methods is None or row.method in methods)
        and backbone_of(row.encoder) in (published if backbones is None else published & backbones)
        and (asked.shots is None or row.shots in asked.shots)
        and (asked.selection is None or {row.selection, "all"} & set(asked.selection))
        and (asked.prompts is None or row.prompts in asked.prompts)
    ]  # fmt: skip
    if not kept and not ours:
        backbones_known = ", ".join(sorted({f.backbone for f in known}))
        raise NothingSelected(f"No published figure is left by these filters. There are figures of {backbones_known}.")
    return kept, ours, _averaged(sets)


def near(known: Sequence[Figure], rows: Sequence[Row], asked: Asked, by: str) -> tuple[list[Figure], list[str]]:
    """Where rows of ours can be compared and nothing else was asked for: the figures of their backbones and shots.

    by: what columns stand for; of that, everything is shown.
    """
    backbones = {backbone_of(row.encoder) for row in rows}
    shots = {0, *(row.shots for row in rows)}
    if not rows:
        return list(known), []
    kept = [
        f for f in known
        if (asked.encoder is not None or by == "encoder" or (f.backbone, f.pretrained) in backbones)
        and (asked.shots is not None or by == "shots" or f.shots in shots)
    ]  # fmt: skip
    left = len(known) - len(kept)
    note = (
        f"{left} published figures of other encoders or shots are not shown: ask for them with --encoder and --shots."
    )
    return kept, [note] if left else []


def _names(kind: str, asked: Sequence[str] | None, known: set[str]) -> set[str] | None:
    if asked is None:
        return None
    found: set[str] = set()
    for item in asked:
        name = item if item in known else item.lower().replace("-", "_")
        inside = set(find.suites().get(name, ())) & known
        if name not in known and not inside:
            raise NothingSelected(unknown(f"{kind} with published figures or results", item, known))
        found |= inside or {name}
    return found


def _encoders(asked: Sequence[str] | None, known: set[tuple[str, str]]) -> set[tuple[str, str]] | None:
    if asked is None:
        return None
    found = set()
    for item in asked:
        if backbone_of(item) not in known:
            names = {":".join(pair) for pair in known}
            raise NothingSelected(unknown("encoder with published figures or results", item, names))
        found.add(backbone_of(item))
    return found


# -- ours beside theirs ------------------------------------------------------------------------------


def compare(known: Sequence[Figure], rows: Sequence[Row], names: Sequence[str]) -> list[Compared]:
    """Every published figure with our measurement of it where there is one, and our rows that nobody published.

    names: the data sets of the average, which only rows have that lack none. Cost grows with figures plus cells.
    """
    cells: dict[tuple[str, str, str, int], dict[str, Figure]] = {}
    for figure in known:
        key = (figure.harness, figure.backbone, figure.pretrained, figure.shots)
        cells.setdefault(key, {})[figure.dataset] = figure
    matched: set[Hashable] = set()
    found: list[Compared] = []
    for row in rows:
        keys = [(row.method, *backbone_of(row.encoder), shots) for shots in (row.shots, 0)]
        key = next((key for key in keys if key in cells), keys[0])
        matched.add(key)
        found += _row_compared(row, cells.get(key, {}), names)
    for key, of in cells.items():
        if key not in matched:
            found += _row_compared(None, of, names)
    order = {key: i for i, key in enumerate(dict.fromkeys((f.backbone, f.harness) for f in known))}
    first = {backbone: i for i, (backbone, _) in enumerate(order)}
    found.sort(
        key=lambda c: (
            first.get(c.backbone, len(first)),
            order.get((c.backbone, c.method), len(order)),
            c.method,
            c.shots,
        )
    )
    return found


def _averaged(sets: set[str] | None) -> list[str]:
    """The data sets of the average: the eleven, or those of them that were asked for, or the shifted ones."""
    suites = [find.suites()[suite] for suite in AVERAGES.values()]
    return next((found for suite in suites if (found := [n for n in suite if sets is None or n in sets])), [])


def _row_compared(row: Row | None, of: dict[str, Figure], names: Sequence[str]) -> list[Compared]:
    ours = row.datasets if row else {}
    sets = list(dict.fromkeys([*ours, *(name for name in of if name not in AVERAGES)]))
    found = [_compared(row, name, ours.get(name), of.get(name), _noise(row, [name])) for name in sets]
    mean = over_sets(row.accuracy, names) if row and set(names) <= set(ours) else None
    average = _average(of, names)
    if len(names) > 1 and (mean or average):
        found.append(_compared(row, AVERAGE, mean, average, _noise(row, names)))
    return found


def _average(of: dict[str, Figure], names: Sequence[str]) -> Figure | None:
    """The mean of the figures, with what their protocols share; where one is not known, the average that is printed."""
    parts = [of[name] for name in names if name in of]
    if parts and len(parts) == len(names):
        words = tuple(word for word in parts[0].protocol if all(word in part.protocol for part in parts))
        value = sum(part.value for part in parts) / len(parts)
        sources = " + ".join(dict.fromkeys(part.source for part in parts))
        one = parts[0]
        return Figure(
            one.harness, one.method, one.backbone, one.pretrained, AVERAGE, one.shots, value, words, "", sources
        )
    suites = find.suites()
    return next((of[name] for name, suite in AVERAGES.items() if name in of and set(names) == set(suites[suite])), None)


def _compared(row: Row | None, name: str, ours: Mean | None, figure: Figure | None, noise: float) -> Compared:
    method = row.method if row else figure.harness if figure else ""
    backbone = backbone_of(row.encoder)[0] if row else figure.backbone if figure else ""
    base = Compared(method, backbone, row.shots if row else figure.shots if figure else 0, name)
    if row:
        base = replace(base, encoder=row.encoder, selection=row.selection, prompts=row.prompts)
    if figure is None:
        return replace(base, ours=ours, verdict=NO_FIGURE)
    caveats = tuple(REASONS[word].text for word in figure.protocol)
    base = replace(base, published=figure.value, source=figure.source, caveats=caveats)
    if row is None or ours is None:
        return base
    allowed = tolerance(ours, noise, 1 if "one-seed" in figure.protocol else SEEDS)
    difference = ours.mean - figure.value
    if abs(difference) <= allowed:
        return replace(base, ours=ours, tolerance=allowed, verdict=WITHIN)
    reasons = explained(figure, row, difference)
    verdict = PROTOCOL if reasons else UNEXPLAINED
    return replace(base, ours=ours, tolerance=allowed, verdict=verdict, reasons=reasons)


def _noise(row: Row | None, names: Sequence[str]) -> float:
    """Standard deviation that the number of test images gives a mean over data sets, in points (binomial)."""
    if row is None or not set(names) <= set(row.datasets):
        return 0.0
    images = {name: total for (name, _), total in row.images.items()}
    return math.sqrt(sum(count_variance(row.datasets[name].mean, images[name]) for name in names)) / len(names)


def tolerance(ours: Mean, noise: float, seeds: int) -> float:
    """How far ours may lie from a published figure and still confirm it, in points. The largest of

    - FLOOR, by which re-quoted figures of one method drift from paper to paper;
    - the half width of the 95 % prediction interval of a mean of `seeds` new draws, from the spread of our own seeds;
    - 1.96 times `noise`, the binomial standard deviation of the test set. Both sides score the same images, so this
      is more than chance would give; it stands for images that precision, resizing or a library's version decide.
    """
    drawn = 0.0 if ours.ci95 is None else ours.ci95 * math.sqrt(1 + ours.n / seeds)
    return max(FLOOR, drawn, 1.96 * noise)


def explained(figure: Figure, row: Row, difference: float) -> tuple[str, ...]:
    """Known differences of protocol that point the way of this difference (ours - published)."""
    said = [REASONS[word] for word in figure.protocol]
    found = [reason.text for reason in said if reason.either or (reason.lifts and difference < 0)]
    prompts = next((reason for reason in said if reason.prompts), None)
    if (prompts.prompts if prompts else PLAIN) != row.prompts:
        theirs = prompts.text if prompts else "one template"
        found.append(f"{theirs}, ours {row.prompts}")
    if figure.shots:  # at 0 shots nothing is chosen
        ours = BUDGETS.get(row.selection, 1.0)
        known = [
            reason for reason in said if reason.budget is not None and not (reason.budget == 1.5 and row.shots <= 4)
        ]
        theirs_most = max((reason.budget or 0.0 for reason in known), default=1.0)
        if theirs_most > ours and difference < 0:
            found += [reason.text for reason in known if (reason.budget or 0.0) > ours]
        elif theirs_most < ours and difference > 0:
            found.append(f"ours chosen by {row.selection}" + "".join(f", theirs: {reason.text}" for reason in known))
    return tuple(dict.fromkeys(found))
