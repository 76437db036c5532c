"""The commands on the encoder: train the image adapters of a second feature space, and measure what they change."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, Missing, UsageError
from harness.printing import note, print_json

if TYPE_CHECKING:
    from harness.imo import Epoch
    from harness.types import Entry


def train_imo(options: Namespace) -> int:
    """Train adapters inside the image tower on a labelled image set, and keep them where `run` finds them."""
    from harness import encoder, extract, imo

    settings = imo.Settings(**{name: getattr(options, name) for name in _SETTINGS})
    imo.check(settings)
    name, root, classes, entries = _training_images(options.data)
    model = encoder.load(options.encoder, options.device, "fp32")  # half precision has no room for small gradients
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
