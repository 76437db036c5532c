"""Features that somebody else extracted become packs under our own roof."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cache, errors, files
from harness.types import Features, Text

if TYPE_CHECKING:
    from torch import Tensor


def import_pack(
    folder: Path,
    name: str | None = None,
    *,
    force: bool = False,
    taken: Collection[str] = (),
    trust_labels: bool = False,
) -> cache.Pack:
    """Copy a feature pack to `data_root()/packs/<name>`, after checking all of it; the original is only read.

    The name is the pack's data set where none is given; `taken` are names of other data sets. `trust_labels`
    is for a pack whose text says little of its classes: labels are not compared with it, now or later.
    Raises `errors.Missing` for absent parts, `errors.Corrupt` for damage, `errors.UsageError` for a name
    that is taken.
    """
    folder = Path(folder)
    pack = cache.open_pack(folder)
    final = _place(name or pack.info.dataset, force, taken)
    if folder.resolve() == final.resolve():
        raise errors.UsageError(f"{folder} is the imported pack itself; there is nothing to import.")
    cache.check_complete(pack)
    _several(pack.info.classes, f"{folder.name}/{cache.MANIFEST}")
    _refuse(cache.damage(pack))
    if not trust_labels:  # whatever the pack says of itself: trust is the importer's to give
        _refuse(cache.mislabelled(pack), TRUST)
    with files.making_room(final), files.new_folder(final) as temporary:
        for part in (cache.MANIFEST, *pack.info.files):
            with files.disk_errors(final):
                shutil.copyfile(folder / part, temporary / part)
        if trust_labels:
            with files.disk_errors(final):
                (temporary / cache.TRUSTED).touch()
        for part in pack.parts:
            cache.open_pack(temporary).check(part)
    return cache.open_pack(final)


def import_tip_adapter(
    folder: Path,
    encoder: str,
    classes: Path,
    name: str,
    shots: int | None = None,
    scale: float = 100.0,
    *,
    text: str | Path | None = None,
    force: bool = False,
    taken: Collection[str] = (),
    trust_labels: bool = False,
) -> cache.Pack:
    """Turn a `caches/<dataset>/` folder of Tip-Adapter (Zhang et al., ECCV 2022) into a pack.

    Reads `keys_<K>shots.pt` (D, N), `values_<K>shots.pt` (N, C), `val_f.pt` and `test_f.pt` (M, D),
    `val_l.pt` and `test_l.pt` (M,), and `text_weights*.pt` (D, C), as plain tensors only: nothing in them can
    run code. `classes` is a file of C names, one per line or a JSON list. Those authors draw with seed 1.
    `trust_labels`: as for `import_pack`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise errors.Missing(f"{folder} is not a folder.")
    final = _place(name, force, taken)
    sources, shots = _sources(folder, shots, text)
    names = read_classes(Path(classes))
    _several(names, Path(classes).name)
    parts = _parts(sources, names, Path(classes).name)
    info = cache.PackInfo(
        dataset=folder.resolve().name,  # as that family names it: methods look up its reference settings
        encoder=encoder,
        classes=names,
        dim=parts["train"]["image"].shape[1],
        scale=scale,
        fewshot=cache.Fewshot(shots, 1),
        fingerprint={"imported": {path.name: files.sha256_of(path) for path in sources.values()}}
        | ({"labels": cache.TRUSTED} if trust_labels else {}),
    )
    _check(parts, sources, info)
    if not trust_labels:
        _check_labels(parts, sources, info)
    return _write(final, info, parts)


def _write(final: Path, info: cache.PackInfo, parts: Mapping[str, Mapping[str, Tensor]]) -> cache.Pack:
    """The pack of this description and these tensors, in place of one that may stand there."""
    with files.making_room(final):
        return cache.write_pack(
            final,
            dataset=info.dataset,
            encoder=info.encoder,
            classes=info.classes,
            scale=info.scale,
            fewshot=info.fewshot,
            fingerprint=info.fingerprint,
            parts=parts,
        )


def _place(name: str, force: bool, taken: Collection[str]) -> Path:
    """Where an import of this name goes; only an import of the very same name can be replaced."""
    ours = cache.imported_packs()
    final = cache.packs_root() / files.fresh_name(name, [*taken, *(ours.keys() - {name})])
    if name in ours and not force:
        raise errors.UsageError(f"{name!r} is imported already; replace it with --force, or give another --name.")
    return final


def _several(classes: list[str], where: str) -> None:
    if len(classes) < 2:
        raise errors.UsageError(f"{where}: names {len(classes)} class; to tell classes apart takes 2 or more.")


TRUST = " (import with --trust-labels if they are right)"


def _refuse(problems: list[str], advice: str = "") -> None:
    if problems:
        more = f" ({len(problems) - 1} more: harness features verify)" if len(problems) > 1 else ""
        raise errors.Corrupt(problems[0] + more + advice)


def read_classes(path: Path) -> list[str]:
    """Read class names: a JSON list, or a text file with one per line; blank lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Missing(f"{path}: cannot read class names: {error}.") from error
    if not text.lstrip().startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except ValueError as error:
        raise errors.UsageError(f"{path.name}: not a JSON list of class names: {error}.") from error
    if not all(isinstance(name, str) and name for name in names):
        raise errors.UsageError(f"{path.name}: not a JSON list of class names, each a string.")
    return [str(name) for name in names]


# -- the Tip-Adapter family --------------------------------------------------------------------------


def _sources(folder: Path, shots: int | None, text: str | Path | None) -> tuple[dict[str, Path], int]:
    """Which file gives what, and the number of shots; complains about what is missing."""
    found = {path.name: path for path in sorted(folder.glob("*.pt"))}
    counts = sorted(int(hit[1]) for name in found if (hit := re.fullmatch(r"keys_(\d+)shots\.pt", name)))
    if not counts:
        raise errors.Missing(f"{folder} has no keys_<K>shots.pt; expected a caches/<dataset> folder of Tip-Adapter.")
    if shots is None and len(counts) > 1:
        raise errors.UsageError(f"{folder.name} has keys of {counts} shots; choose with --shots.")
    shots = counts[0] if shots is None else shots
    if shots not in counts:
        raise errors.UsageError(f"{folder.name} has no keys of {shots} shots; it has {counts}.")
    sources = {
        "keys": folder / f"keys_{shots}shots.pt",
        "values": folder / f"values_{shots}shots.pt",
        "test_f": folder / "test_f.pt",
        "test_l": folder / "test_l.pt",
    }
    if {"val_f.pt", "val_l.pt"} & set(found):
        sources |= {"val_f": folder / "val_f.pt", "val_l": folder / "val_l.pt"}
    sources["text"] = _text_source(folder, sorted(found), text)
    for path in sources.values():
        if not path.is_file():
            raise errors.Missing(f"{path.parent} has no {path.name}, which an import needs.")
    return sources, shots


def _text_source(folder: Path, names: list[str], text: str | Path | None) -> Path:
    if text is not None:
        return Path(text) if Path(text).is_file() else folder / text
    candidates = [name for name in names if re.fullmatch(r"text_weights.*\.pt", name)]
    if not candidates:
        raise errors.Missing(
            f"{folder} has no text_weights*.pt; give a (D, C) tensor of class embeddings with --text FILE."
        )
    if len(candidates) > 1 and "text_weights.pt" not in candidates:
        raise errors.UsageError(f"{folder.name} has {', '.join(candidates)}; choose with --text FILE.")
    return folder / ("text_weights.pt" if "text_weights.pt" in candidates else candidates[0])


def _parts(sources: Mapping[str, Path], names: list[str], where: str) -> dict[str, dict[str, Tensor]]:
    """Turn the files' tensors into the parts of a pack: one row per image or class, labels as numbers."""
    raw = {field: _load(path) for field, path in sources.items()}
    _check_shapes(raw, sources, len(names), where)
    label = _from_one_hot(raw["values"], sources["values"].name)
    parts = {"train": {"image": raw["keys"].T, "label": label}}
    for part in ("val", "test"):
        if f"{part}_f" in raw:
            label = _whole(raw[f"{part}_l"], sources[f"{part}_l"].name)
            parts[part] = {"image": raw[f"{part}_f"], "label": label}
    return parts | {"text": {"weight": raw["text"].T}}


def _check_shapes(raw: Mapping[str, Tensor], sources: Mapping[str, Path], count: int, where: str) -> None:
    """Refuse tensors that do not fit each other: one width D, one N of shots, one C of classes."""

    def told(field: str) -> str:
        return f"{sources[field].name}: is {tuple(raw[field].shape)}"

    axes = {"keys": "(D, N)", "values": "(N, C)", "test_f": "(M, D)", "val_f": "(M, D)", "text": "(D, C)"}
    for field in axes.keys() & raw.keys():
        if raw[field].dim() != 2:
            raise errors.Corrupt(f"{told(field)}, expected {axes[field]}.")
    width, rows = raw["keys"].shape
    keys = f"{sources['keys'].name} is {(width, rows)}"
    if len(raw["values"]) != rows:
        raise errors.Corrupt(f"{told('values')} but {keys}, expected (N, C) and (D, N).")
    if raw["values"].shape[1] != count:
        raise errors.UsageError(f"{where}: has {count} class names, but {told('values')}, expected (N, C).")
    for field, side in {"test_f": 1, "val_f": 1, "text": 0}.items():
        if field in raw and raw[field].shape[side] != width:
            raise errors.Corrupt(f"{told(field)} but {keys}, expected {axes[field]} and (D, N), all from one encoder.")
    if raw["text"].shape[1] != count:
        raise errors.Corrupt(f"{told('text')} but there are {count} classes, expected (D, C).")


def _load(path: Path) -> Tensor:
    """Read one tensor from a file of torch's, and nothing else."""
    import torch

    try:
        flipped = _damaged_member(path)
        with warnings.catch_warnings(action="ignore"):  # such as on sparse tensors, refused below
            found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise errors.UsageError(
                f"{path.name}: holds pickled objects, which could run code; only a plain tensor is read."
            ) from error
        raise errors.Corrupt(f"{path.name}: damaged, or not a file of torch.save.") from error
    except Exception as error:  # the reader's many ways to stumble over damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise errors.Corrupt(f"{path.name}: damaged, or not a file of torch.save: {reason}") from error
    if flipped:
        raise errors.Corrupt(f"{path.name}: damaged: the checksum of its member {flipped!r} is wrong.")
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        raise errors.UsageError(f"{path.name}: holds a {type(found).__name__}, expected one dense tensor.")
    return found.detach()


def _damaged_member(path: Path) -> str | None:
    """Name a member with a wrong checksum: torch writes them, but does not look at them when it loads."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        written = any(member.CRC for member in archive.infolist())  # all 0 where torch was told not to
        return archive.testzip() if written else None


def _from_one_hot(values: Tensor, where: str) -> Tensor:
    """(N, C) one-hot rows -> (N,) labels."""
    if bool(((values != 0).sum(dim=1) != 1).any()):
        row = int(((values != 0).sum(dim=1) != 1).nonzero()[0])
        raise errors.Corrupt(f"{where}: row {row} is not one-hot.")
    return values.float().argmax(dim=1)


def _whole(label: Tensor, where: str) -> Tensor:
    """Labels as int64, whatever numbers they were saved as, if nothing is lost."""
    if label.dim() != 1 or bool((label != label.long()).any()):
        raise errors.Corrupt(f"{where}: is {tuple(label.shape)} {label.dtype}, expected whole numbers (M,).")
    return label.long()


ORIGIN = {"train": "keys", "val": "val_f", "test": "test_f", "text": "text"}  # part -> the file of its vectors


def _check(parts: Mapping[str, Mapping[str, Tensor]], sources: Mapping[str, Path], info: cache.PackInfo) -> None:
    """Check the parts as a pack's would be, with messages that name the files they come from."""
    for part, tensors in parts.items():
        cache.check_part(sources[ORIGIN[part]].name, part, tensors, info)


def _check_labels(parts: Mapping[str, Mapping[str, Tensor]], sources: Mapping[str, Path], info: cache.PackInfo) -> None:
    """Check the labels against the text, as a pack's would be."""
    text = Text.from_prompts(info.classes, parts["text"]["weight"][:, None].float(), info.scale)
    labelled = {
        sources[ORIGIN[part]].name: Features(tensors["image"].float(), tensors["label"])
        for part, tensors in parts.items()
        if part != "text"
    }
    _refuse(cache.out_of_step(text, labelled), TRUST)
