"""Published figures and ours laid out as one sheet: who is confirmed, who is not, and why that may be."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from harness import find
from harness.errors import UsageError, unknown
from harness.published import (
    AVERAGE,
    AVERAGES,
    FLOOR,
    NO_FIGURE,
    NOT_RUN,
    PROTOCOL,
    REASONS,
    UNEXPLAINED,
    WITHIN,
    Compared,
)
from harness.sheet import AXES, Cell, Column, Sheet, with_columns
from harness.stats import Mean

PRINTED = REASONS["printed-average"].text
MARKS = {WITHIN: "=", PROTOCOL: "p", UNEXPLAINED: "!"}
CAPTION = (
    "Top-1 accuracy in %. published: as printed by its source; ours: mean over seeds ± half width of its 95 % t "
    "interval; difference: ours - published, = within tolerance, p differs and a difference of protocol is known that "
    f"points that way, ! differs and none is known. Tolerance: the largest of {FLOOR:g} point, the 95 % prediction "
    "interval of the published mean by the spread of our seeds, and 1.96 binomial standard deviations of the test set."
)


def sheet_of_published(
    found: Sequence[Compared],
    *,
    by: str = "dataset",
    rows: int | None = None,
    columns: Sequence[str] | None = None,
    long: bool = False,
    notes: Sequence[str] = (),
) -> Sheet:
    """Lay out what `compare` found: up to three lines per method, or, for machines, one line per comparison (`long`).

    by: a column per data set, or the average per number of shots or per encoder (of one data set: that one).
    rows: the first so many methods of each encoder and number of shots; a note says what is left out.
    """
    if by not in AXES:
        raise UsageError(unknown("--by", by, AXES))
    kept, told = _first(found, rows)
    if by == AXES[0]:
        first = {backbone: i for i, backbone in enumerate(dict.fromkeys(one.backbone for one in kept))}
        kept = sorted(kept, key=lambda one: (first[one.backbone], one.shots))
    sheet = with_columns(_long(kept) if long else _wide(kept, by), columns)
    return replace(
        sheet, caption=CAPTION, notes=[*notes, *told, *sheet.notes, _summary(kept), *_verdicts(kept), *_sources(kept)]
    )


def _first(found: Sequence[Compared], rows: int | None) -> tuple[Sequence[Compared], list[str]]:
    if rows is None:
        return found, []
    if rows < 1:
        raise UsageError(f"--rows takes a number from 1 on, not {rows}.")
    methods: dict[Hashable, dict[Hashable, None]] = {}
    for one in found:
        methods.setdefault((one.backbone, one.shots), {})[one.method, one.selection, one.prompts] = None
    kept = {(*group, *who) for group, of in methods.items() for who in list(of)[:rows]}  # type: ignore[misc]
    left = sum(map(len, methods.values())) - len(kept)
    if not left:
        return found, []
    note = f"{left} of {left + len(kept)} rows are not shown (--rows {rows}): leave --rows out to see all."
    return [c for c in found if (c.backbone, c.shots, c.method, c.selection, c.prompts) in kept], [note]


def _long(found: Sequence[Compared]) -> Sheet:
    texts = ("method", "encoder", "backbone", "shots", "selection", "prompts", "dataset")
    numbers = ("published", "difference", "tolerance")
    columns = [Column(name, name, "text") for name in texts]
    columns += [Column("ours", "ours"), *(Column(name, name, "count") for name in numbers)]
    columns += [Column(name, name, "text") for name in ("verdict", "reasons", "caveats", "source")]
    lines = []
    for one in found:
        line = [Cell(getattr(one, name)) for name in texts] + [Cell(one.ours)]
        line += [Cell(None if (v := getattr(one, name)) is None else round(v, 4)) for name in numbers]
        lines.append([*line, *map(Cell, (one.verdict, "; ".join(one.reasons), "; ".join(one.caveats), one.source))])
    return Sheet(columns, lines, [(one.backbone, one.shots) for one in found], "")


@dataclass
class _Block:
    """Up to three lines of one method."""

    method: str
    encoder: str
    shots: int
    policy: str
    cells: dict[str, Compared] = field(default_factory=dict)


def _wide(found: Sequence[Compared], by: str) -> Sheet:
    sets = [name for name in dict.fromkeys(one.dataset for one in found) if name != AVERAGE]
    order = [name for suite in dict.fromkeys(AVERAGES.values()) for name in find.suites()[suite]]
    sets.sort(key=lambda name: order.index(name) if name in order else len(order))
    only = sets[0] if len(sets) == 1 else AVERAGE
    blocks = _blocks([one for one in found if by == "dataset" or one.dataset == only], by)
    places = {
        "dataset": [AVERAGE, *sets],
        "shots": sorted({str(one.shots) for one in found}, key=int),
        "encoder": list(dict.fromkeys(one.backbone for one in found)),
    }[by]
    places = [place for place in places if any(place in block.cells for block in blocks)]
    return _laid_out(blocks, places, by, only)


def _blocks(found: Sequence[Compared], by: str) -> list[_Block]:
    """The lines of each method; one block per policy of ours, each with all that was published beside it."""

    def whose(one: Compared) -> Hashable:
        return one.method, by == "encoder" or one.backbone, by == "shots" or one.shots

    ours: dict[Hashable, dict[tuple[str, str], str]] = {}
    for one in found:
        if one.encoder:
            ours.setdefault(whose(one), {})[one.selection, one.prompts] = one.encoder
    blocks: dict[Hashable, _Block] = {}
    for one in found:
        place = {"dataset": one.dataset, "shots": str(one.shots), "encoder": one.backbone}[by]
        policies = ours.get(whose(one), {("", ""): one.backbone})
        for policy in [(one.selection, one.prompts)] if one.encoder else policies:
            block = _Block(one.method, policies[policy], one.shots, policy[0])
            blocks.setdefault((whose(one), policy), block).cells[place] = one
    return list(blocks.values())


def _laid_out(blocks: Sequence[_Block], places: Sequence[str], by: str, only: str) -> Sheet:
    columns = [Column("method", "method", "text")]
    columns += [Column("encoder", "encoder", "text")] if by != "encoder" else []
    columns += [Column("shots", "shots", "count")] if by != "shots" else []
    columns.append(Column("figure", "figure", "text"))
    minor = by == "dataset" and len(places) > 1
    columns += [Column(place, _title(place, by), minor=minor and place != AVERAGE) for place in places]
    lines: list[list[Cell]] = []
    groups: list[Hashable] = []
    alone = not any(one.ours for block in blocks for one in block.cells.values())
    for i, block in enumerate(blocks):
        head = [Cell(block.method)]
        head += [Cell(block.encoder)] if by != "encoder" else []
        head += [Cell(block.shots)] if by != "shots" else []
        for figure, cells in _block_lines(block, places):
            lines.append([*head, Cell(figure), *cells])
            groups.append((block.encoder, block.shots) if alone and by == "dataset" else block.encoder if alone else i)
    what = "the average over data sets" if only == AVERAGE else only
    return Sheet(columns, lines, groups, "", [] if by == "dataset" else [f"Values: {what}."])


def _title(place: str, by: str) -> str:
    return place if by != "shots" else f"{place} shot{'' if place == '1' else 's'}"


def _block_lines(block: _Block, places: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """The lines that have something to show: published, ours, difference."""
    found = [block.cells.get(place) for place in places]
    published = [Cell(Mean(one.published, None, 1)) if one and one.published is not None else Cell() for one in found]
    ours = [Cell(one.ours if one else None) for one in found]
    differences = [
        Cell(Mean(one.difference, None, 1), f" {MARKS[one.verdict]}", signed=True)
        if one and one.difference is not None
        else Cell()
        for one in found
    ]
    lines = [("published", published), (f"ours, {block.policy}", ours), ("difference", differences)]
    return [(figure, cells) for figure, cells in lines if any(cell.value is not None for cell in cells)]


def _summary(found: Sequence[Compared]) -> str:
    """Claimed against verified, in one line."""
    claimed = [one for one in found if one.published is not None and one.dataset != AVERAGE]
    counts = [f"{sum(one.verdict == verdict for one in claimed)} {verdict}" for verdict in (*MARKS, NOT_RUN)]
    return f"Claimed: {len(claimed)} figures. Here: {', '.join(counts)}."


def _verdicts(found: Sequence[Compared]) -> list[str]:
    """One line per row of ours: what is confirmed, what is not, and why it may be so."""
    rows: dict[Hashable, list[Compared]] = {}
    for one in found:
        if one.encoder and one.dataset != AVERAGE:
            rows.setdefault((one.method, one.encoder, one.shots, one.selection, one.prompts), []).append(one)
    return [_verdict(of) for of in rows.values()]


def _verdict(of: Sequence[Compared]) -> str:
    one = of[0]
    head = f"{one.method}, {one.encoder}, {one.shots} shots, {one.selection}"
    compared = [each for each in of if each.difference is not None]
    if not compared:
        return f"{head}: {NO_FIGURE}."
    parts = [f"{sum(each.verdict == WITHIN for each in compared)} of {len(compared)} {WITHIN}"]
    for verdict in (PROTOCOL, UNEXPLAINED):
        told = [
            f"{e.dataset} {e.difference:+.2f} (tolerance {e.tolerance:.2f})" for e in compared if e.verdict == verdict
        ]
        if told:
            reasons = dict.fromkeys(r for e in compared if e.verdict == verdict for r in e.reasons)
            why = f" ({'; '.join(reasons)})" if reasons else ""
            parts.append(f"{verdict}{why}: {', '.join(told)}")
    lacking = [each.dataset for each in of if each.verdict == NO_FIGURE]
    parts += [f"{NO_FIGURE}: {', '.join(lacking)}"] if lacking else []
    return f"{head}: {'; '.join(parts)}."


def _sources(found: Sequence[Compared]) -> list[str]:
    """One line per method, backbone and source: where its figures come from, and what sets their protocol apart."""
    rows: dict[tuple[str, str, str], list[Compared]] = {}
    for one in found:
        if one.source and (one.dataset != AVERAGE or PRINTED in one.caveats):
            rows.setdefault((one.method, one.backbone, one.source), []).append(one)
    lines = []
    for (method, backbone, source), of in rows.items():
        common = [text for text in of[0].caveats if all(text in one.caveats for one in of)]
        extra: dict[str, list[str]] = {}
        for one in of:
            for text in one.caveats:
                if text not in common and one.dataset not in extra.setdefault(text, []):
                    extra[text].append(one.dataset)
        also = [f"{text} ({', '.join(sets)})" for text, sets in extra.items()]
        apart = "; ".join([*common, *also]) or "nothing known sets it apart"
        lines.append(f"{method} on {backbone}, from {source}: {apart}.")
    return lines
