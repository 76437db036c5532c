"""The commands on the encoder: train the image adapters of a second feature space, and measure what they change."""

from __future__ import annotations

import csv
import io
import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, Missing, NothingSelected, UsageError, unknown
from harness.printing import note, print_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.episodes import Source
    from harness.imo import Epoch
    from harness.overlap import Measured
    from harness.types import Entry, Features


# -- train-imo ---------------------------------------------------------------------------------------


def train_imo(options: Namespace) -> int:
    """Train adapters inside the image tower on a labelled image set, and keep them where `run` finds them."""
    from harness import encoder, extract, imo

    settings = imo.Settings(**{name: getattr(options, name) for name in _SETTINGS})
    imo.check(settings)
    name, root, classes, entries = _training_images(options.data)
    model = encoder.load(options.encoder, options.device, "fp32")  # half precision has no room for small gradients
    imo.tower(model)  # refuses others before any image is read
    path = options.output or imo.place(model.name)
    epochs: list[dict[str, Any]] = []
    note(f"{name}: {len(entries)} images of {len(classes)} classes; reading them for the fingerprint")
    trained_on = imo.TrainingSet(name=name, digest=_digest(root, entries), images=len(entries), classes=list(classes))
    card = imo.card_of(model, settings, trained_on)

    def told(epoch: Epoch) -> None:
        epochs.append(vars(epoch))
        note(
            f"[{epoch.number}/{settings.epochs}] loss {epoch.loss:.3f}, head {epoch.accuracy:.1f} % right, "
            f"{epoch.seconds:.0f} s"
        )

    adapters = imo.train(
        model,
        [label for _, label in entries],
        lambda rows, batch: extract.pixels(model, [root / entries[row][0] for row in rows], batch),
        settings,
        told,
    )
    imo.save(path, adapters, card)
    if options.json:
        print_json({"path": str(path), "encoder": model.name, "parameters": adapters.count(), "epochs": epochs})
    else:
        print(f"{path}: {adapters.count():,} parameters for {model.name}. Use them: harness run --methods tip_imo")
    return Exit.OK


_SETTINGS = ("epochs", "batch", "lr", "weight_decay", "seed", "input_normalisation")


def _training_images(data: str) -> tuple[str, Path, tuple[str, ...], list[Entry]]:
    """Name, image folder, classes and labelled images: a data set's training part, or a folder with one per class."""
    from harness import plan

    if Path(data).is_dir():
        return _folder(Path(data))
    place = plan.place(data, note)
    entries = list(place.split.train)
    if not entries:
        raise UsageError(f"{data} has no training images; give another --data, a data set or a folder.")
    return place.dataset.name, place.root, place.split.classes, entries


def _folder(path: Path) -> tuple[str, Path, tuple[str, ...], list[Entry]]:
    """A folder with a sub-folder of images per class; where it has a folder `train`, that one."""
    from harness.folders import SUFFIXES

    path = path.resolve()
    root = path / "train" if (path / "train").is_dir() else path
    classes = sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    entries = [
        (image.relative_to(root).as_posix(), label)
        for label, name in enumerate(classes)
        for image in sorted((root / name).rglob("*"))
        if image.suffix.lower() in SUFFIXES
    ]
    if len({label for _, label in entries}) < 2:
        raise UsageError(f"{root} holds no images of two classes; a sub-folder of images per class is expected.")
    return path.name, root, tuple(classes), entries


def _digest(root: Path, entries: list[Entry]) -> str:
    """Digest of labels and image contents, wherever the folder lies."""
    from harness import files

    try:
        return files.digest_of([(path, label, files.sha256_of(root / path)) for path, label in entries])
    except OSError as error:
        raise Missing(f"{error.filename}: {error.strerror}.") from error


# -- analyse overlap ---------------------------------------------------------------------------------

FORMATS = ("term", "md", "csv", "json")
PARTS = ("val", "support", "test")
SPACES = ("original", "adapted")
_HEADERS = {
    "overlap": "overlap", "auroc": "AUROC", "d_prime": "d'", "gap": "gap", "variance": "variance",
    "between_within": "between/within", "nearest_mean": "nearest mean %", "nearest_image": "nearest image %",
}  # fmt: skip


def analyse_overlap(options: Namespace) -> int:
    """Measure how far paired and unpaired images lie apart with the image adapters and without, accuracy beside it."""
    from harness import encoder, overlap, plan

    form = "json" if options.json else options.format
    for kind, asked, known in (("format", form, FORMATS), ("part", options.part, PARTS)):
        if asked not in known:
            raise UsageError(unknown(kind, asked, known))
    _check_picture(options.output)
    device = encoder.resolve_device(options.device)
    found: dict[str, dict[str, Measured]] = {}
    for name in _data_sets(options.datasets):
        source = plan.make_source(name, options.encoder, "single", device, note)
        features = _both_spaces(source, options)
        if features is None:
            note(f"{name}: left out, it has no {options.part} images.")
            continue
        halves = zip(SPACES, features.image.cpu().chunk(2, -1), strict=True)
        found[name] = {space: overlap.measure(half, features.label.cpu()) for space, half in halves}
    if not found:
        raise NothingSelected(f"No data set has {options.part} images; try another --part: {', '.join(PARTS)}.")
    rows = [
        {"dataset": name, "part": options.part, "features": space, **_recordable(measured.figures.as_dict())}
        for name, of_space in found.items()
        for space, measured in of_space.items()
    ]
    _print(rows, form)
    _picture(found, options)
    return Exit.OK


def _recordable(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: None where there is no spread to divide by."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _data_sets(asked: Sequence[str]) -> list[str]:
    from harness import files, find

    suites = find.suites()
    return list(dict.fromkeys(name for item in asked for name in suites.get(files.folded(item), (item,))))


def _both_spaces(source: Source, options: Namespace) -> Features | None:
    """Unit features of a part in both spaces, (N, 2D); None where there is no such part."""
    from harness.imo import SPACE
    from harness.types import Method
    from harness.watch import Plain

    reader: Any = type("Reader", (Method,), {"second_space": SPACE})  # says what is wanted; nothing is fitted
    source.space(SPACE)
    shots, seed = source.fixed or (options.shots if options.part == "support" else 1, options.seed)
    draw = (shots, 1 if seed is None else seed)
    try:
        source.check(*draw, "val-full" if options.part == "val" else "none")
    except UsageError:
        if options.part == "val":
            return None
        if options.part == "support":
            raise
    source.prepare([draw] if options.part == "support" else (), 0, Plain(), SPACE)
    if options.part == "support":
        return source.episode(*draw, reader).support
    held = source.held(*draw, reader)
    return held.test() if options.part == "test" else held.val("val-full")


def _print(rows: Sequence[dict[str, Any]], form: str) -> None:
    from tabulate import tabulate

    if form == "json":
        print_json(rows)
        return
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print(out.getvalue(), end="")
        return
    cells = [[row["dataset"], row["features"], *(_shown(name, row[name]) for name in _HEADERS)] for row in rows]
    headers = ["data set", "features", *_HEADERS.values()]
    print(tabulate(cells, headers, tablefmt="github" if form == "md" else "simple", disable_numparse=True))
    pairs = "; ".join(dict.fromkeys(f"{r['dataset']} {r['paired']:,} and {r['unpaired']:,}" for r in rows))
    print(f"\nFrom the {rows[0]['part']} images; paired and unpaired pairs: {pairs}. Lower overlap alone is no gain.")


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "no spread"
    return f"{value:.1f}" if name.startswith("nearest") else f"{value:.3f}"


def _check_picture(path: Path | None) -> None:
    from harness.figure import FORMATS as PICTURES

    if path is not None and path.suffix[1:].lower() not in PICTURES:
        raise UsageError(f"--output {path}: {unknown('kind of picture', path.suffix[1:], PICTURES)}")


def _picture(found: dict[str, dict[str, Measured]], options: Namespace) -> None:
    """Write the figure, where one is asked for and matplotlib is here."""
    import importlib.util

    from harness import figure, files

    if options.output is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        note("No figure: it needs matplotlib: pip install 'clip-adapter-harness[plot]'")
        return
    with figure.settings():
        drawn = _drawn(found, options.part)
    files.write_atomic(options.output, figure.image(drawn, options.output.suffix[1:].lower()))
    note(f"{options.output}: densities of paired and unpaired similarities")


def _drawn(found: dict[str, dict[str, Measured]], part: str) -> Figure:
    """A row of two panels for each data set: similarities of paired and unpaired images in either space."""
    from matplotlib.figure import Figure

    from harness.overlap import densities

    bins = 80
    picture = Figure(figsize=(6.5, 2.2 * len(found)), layout="constrained")
    axes = picture.subplots(len(found), 2, squeeze=False, sharex=True, sharey="row")
    edges = [-1 + 2 * i / bins for i in range(bins + 1)]
    for row, (name, of_space) in zip(axes, found.items(), strict=True):
        for panel, (space, measured) in zip(row, of_space.items(), strict=True):
            for kind, colour in (("paired", "#0072B2"), ("unpaired", "#D55E00")):
                share = densities(getattr(measured, kind), bins) * bins / 2
                panel.stairs(share.tolist(), edges, fill=True, alpha=0.45, color=colour, label=kind)
            figures = measured.figures
            panel.set_title(
                f"{name}, {space} features\noverlap {figures.overlap:.3f}, AUROC {figures.auroc:.3f}, "
                f"nearest mean {figures.nearest_mean:.1f} %"
            )
    least = min(float(m.unpaired.min()) for of_space in found.values() for m in of_space.values())
    axes[0][0].set_xlim(max(-1.0, least - 0.05), 1.0)
    for panel in axes[-1]:
        panel.set_xlabel(f"cosine of two {part} images")
    for row in axes:
        row[0].set_ylabel("density")
    axes[0][0].legend()
    return picture
