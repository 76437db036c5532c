"""Feature packs: embeddings, labels and class texts on disk, checked whenever they are read.

A pack is a folder (`harness-features/1`) with `pack.json` and up to four safetensors files; `PackInfo` and
`_FIELDS` say what they hold. Nothing in it can run code. Imports lie under `data_root()/packs/<name>`, what
was computed here under `cache_root()/features/<slug>`, where a folder may hold only some of the parts.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import errors, files
from harness.types import Features, Text

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "harness-features/1"
MANIFEST = "pack.json"
TRUSTED = "trusted"  # a file beside the manifest of an import whose labels its owner vouches for
PARTS = ("train", "val", "test", "text")
SECOND = {"image": "imo", "views": "imo_views"}  # names of the same images' features in a second space
_FIELDS: dict[str, tuple[str, ...]] = {  # what a file may hold
    "train": ("image", "label", "views", *SECOND.values()),
    "val": ("image", "label", SECOND["image"]),
    "test": ("image", "label", SECOND["image"]),
    "text": ("prompts", "weight"),
}


# -- the manifest ------------------------------------------------------------------------------------


class FileInfo(msgspec.Struct, frozen=True):
    """What a file must be, to the byte."""

    sha256: str
    bytes: int


class Fewshot(msgspec.Struct, frozen=True):
    """The train part is exactly the shots of this draw, not a pool to draw from; a small class may have fewer."""

    shots: int
    seed: int


class PackInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `pack.json`."""

    format: str = FORMAT
    dataset: str
    encoder: str
    classes: list[str]  # C names; two may be equal, as in ImageNet
    dim: int  # D
    scale: float  # what the model multiplies a cosine with
    fewshot: Fewshot | None = None
    fingerprint: dict[str, Any] = {}  # what the features are a function of
    files: dict[str, FileInfo] = {}

    def head(self) -> str:
        """Digest of all but `files`; our files carry it, so that an altered pack.json is noticed."""
        fields = msgspec.to_builtins(self)
        del fields["files"]
        return files.digest_of(fields)


def _read_manifest(folder: Path) -> PackInfo:
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise errors.Missing(f"{folder} is not a feature pack: it has no {MANIFEST}.") from error
    except OSError as error:
        raise errors.Missing(f"{path}: cannot be read: {error.strerror or error}.") from error
    try:
        told = msgspec.json.decode(data, type=dict[str, Any])
        if told.get("format") != FORMAT:
            raise _other_format(told.get("format"))
        info = msgspec.convert(_known_fields(told), PackInfo)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{MANIFEST}: {error}.") from error
    _check_manifest(info)
    return info


def _known_fields(told: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is somebody's own remark; a field that is nearly one of ours is a slip, not a remark."""
    ours = [field.name for field in msgspec.structs.fields(PackInfo)]
    for name in told.keys() - set(ours):
        if near := difflib.get_close_matches(name.lower(), ours, n=1, cutoff=0.75):
            raise errors.Corrupt(f"{MANIFEST}: unknown field {name!r}; did you mean {near[0]}?")
    return {name: value for name, value in told.items() if name in ours}


def _other_format(told: Any) -> errors.HarnessError:
    name, _, version = str(told).partition("/")
    if name == FORMAT.partition("/")[0] and version.isdigit():
        return errors.UsageError(
            f"{MANIFEST}: format {told} is newer than {FORMAT}, the newest that this version reads; upgrade:"
            " pip install -U clip-adapter-harness."
        )
    return errors.Corrupt(f"{MANIFEST}: format is {told!r}, expected {FORMAT!r}.")


def _check_manifest(info: PackInfo) -> None:
    names = {f"{part}.safetensors" for part in PARTS}
    faults = {
        "classes is empty": not info.classes,
        f"dim is {info.dim}, expected 1 or more": info.dim < 1,
        f"scale is {info.scale}, expected a finite number above 0": not _positive(info.scale),
        f"fewshot is {info.fewshot}, expected shots of 1 or more": bool(info.fewshot and info.fewshot.shots < 1),
        f"files names {sorted(set(info.files) - names)}, expected {sorted(names)}": not set(info.files) <= names,
    }
    for fault, true in faults.items():
        if true:
            raise errors.Corrupt(f"{MANIFEST}: {fault}.")


def _positive(number: float) -> bool:
    return math.isfinite(number) and number > 0


# -- reading -----------------------------------------------------------------------------------------

# files that this process has verified: path, size, mtime, inode, and what the manifest said of pack and file
_sound: set[tuple[str, int, int, int, str, FileInfo]] = set()


@dataclass(frozen=True)
class Pack:
    """A feature pack on disk. Every read of a part verifies its file first, once per process.

    Reading raises `errors.Missing` for a part that the pack does not have, and `errors.Corrupt` with one line
    naming file and field for one that is damaged.
    """

    folder: Path
    info: PackInfo

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of train, val, test and text it has."""
        return tuple(part for part in PARTS if f"{part}.safetensors" in self.info.files)

    def features(self, part: str) -> Features:
        """Return train, val or test as stored, norms included, as float32."""
        return self._features(part, "image", "views")

    def second(self, part: str) -> Features:
        """Return the same images in the second space, in the form of `features`; Missing where there is none."""
        if SECOND["image"] not in self.fields(part):
            raise errors.Missing(f"{self.folder} has no second feature space ({SECOND['image']}) in {part}.")
        return self._features(part, SECOND["image"], SECOND["views"])

    def _features(self, part: str, image: str, views: str) -> Features:
        found = self.tensors(part, (image, "label", views))
        return Features(found[image].float(), found["label"], found[views].float() if views in found else None)

    def image(self, part: str) -> Tensor:
        """Return the images of a part alone, as stored: (N, D) float32."""
        return self._one(part, "image").float()

    def fields(self, part: str) -> tuple[str, ...]:
        """The names of the tensors in a part's file, read from its head alone."""
        if part not in self.parts:
            return ()
        with _opened(self.folder / f"{part}.safetensors") as file:
            return tuple(file.keys())

    def label(self, part: str) -> Tensor:
        """Return the labels of a part alone: (N,) int64."""
        return self._one(part, "label")

    def text(self) -> Text:
        """Return the class texts; where only `weight` is stored, it stands for one prompt per class."""
        found = self.tensors("text")
        prompts = found["prompts"] if "prompts" in found else found["weight"][:, None]  # (C, P, D)
        return Text.from_prompts(self.info.classes, prompts.float(), self.info.scale)

    def tensors(self, part: str, only: Collection[str] = ()) -> dict[str, Tensor]:
        """Return everything in a part's file, or only some of it, in the precision it is stored in."""
        self.check(part)
        with _opened(self.folder / f"{part}.safetensors") as file:
            return {name: file.get_tensor(name) for name in file.keys() if not only or name in only}  # noqa: SIM118

    def _one(self, part: str, field: str) -> Tensor:
        self.check(part)
        with _opened(self.folder / f"{part}.safetensors") as file:
            tensor: Tensor = file.get_tensor(field)
            return tensor

    def check(self, part: str) -> None:
        """Verify a part's file: size, hash, fields. Done once per process, and again after a change."""
        name = f"{part}.safetensors"
        if name not in self.info.files:
            raise errors.Missing(f"{self.folder} has no {part} part; it has {', '.join(self.parts) or 'none'}.")
        path, promised = self.folder / name, self.info.files[name]
        try:
            stat = path.stat()
        except OSError as error:
            raise errors.Corrupt(f"{name}: pack.json lists it, but: {error.strerror or error}.") from error
        token = (
            str(path.absolute()),
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ino,
            self.info.head(),
            promised,
        )
        if token in _sound:
            return
        if stat.st_size != promised.bytes:
            raise errors.Corrupt(f"{name}: has {stat.st_size} bytes but pack.json says {promised.bytes}.")
        if _sha256(path) != promised.sha256:
            raise errors.Corrupt(f"{name}: its sha256 is not the one in pack.json.")
        with _opened(path) as file:
            if (file.metadata() or {}).get("pack", self.info.head()) != self.info.head():
                raise errors.Corrupt(f"pack.json: altered after {name} was written for it.")
            tensors = {field: file.get_tensor(field) for field in file.keys()}  # noqa: SIM118
        check_part(name, part, tensors, self.info)
        _sound.add(token)


def verified() -> frozenset[Any]:
    """What this process has verified: for another process of the same run, see `take_verified`."""
    return frozenset(_sound)


def take_verified(files_of_parent: frozenset[Any]) -> None:
    """Take over what the parent process has verified: files that changed since are verified again."""
    _sound.update(files_of_parent)


def _sha256(path: Path) -> str:
    try:
        return files.sha256_of(path)
    except OSError as error:
        raise errors.Missing(f"{path}: cannot be read: {error.strerror or error}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise errors.Corrupt(f"{path.name}: not a safetensors file: {error}.") from error


def open_pack(folder: Path) -> Pack:
    """Open a pack and check its manifest; the parts are checked when they are read.

    Raises `errors.Missing` where there is no pack, `errors.Corrupt` for a damaged manifest,
    `errors.UsageError` for a pack of a newer format.
    """
    folder = Path(folder)
    info = _read_manifest(folder)
    for part in PARTS:
        name = f"{part}.safetensors"
        if name not in info.files and (folder / name).exists():
            raise errors.Corrupt(f"{MANIFEST}: files does not list {name}, which is there.")
    return Pack(folder, info)


# -- checking ----------------------------------------------------------------------------------------


def check_part(where: str, part: str, tensors: Mapping[str, Tensor], info: PackInfo) -> None:
    """Check one part's tensors against the manifest; raise `errors.Corrupt` naming `where` and the field."""
    known = _FIELDS[part]
    if unknown := sorted(set(tensors) - set(known)):
        raise errors.Corrupt(f"{where}: unknown field {unknown[0]!r}; {part} may hold {', '.join(known)}.")
    if part == "text":
        _check_text(where, tensors, info)
        return
    for field in ("image", "label"):
        if field not in tensors:
            raise errors.Corrupt(f"{where}: {field} is missing.")
    rows = len(tensors["label"]) if tensors["label"].dim() else 0
    _check_labels(where, tensors["label"], info, shots=part == "train")
    _check_vectors(where, "image", tensors["image"], ("N", "D"), info.dim)
    if len(tensors["image"]) != rows:
        raise errors.Corrupt(f"{where}: image has {len(tensors['image'])} rows but label has {rows}.")
    if (views := tensors.get("views")) is not None:
        _check_vectors(where, "views", views, ("V", "N", "D"), info.dim)
        if views.shape[1] != rows:
            raise errors.Corrupt(f"{where}: views is {tuple(views.shape)} but label has {rows} rows.")
    _check_second(where, tensors, info)


def _check_second(where: str, tensors: Mapping[str, Tensor], info: PackInfo) -> None:
    """Refuse a second space that does not hold just the rows of the first."""
    if not any(field in tensors for field in SECOND.values()):
        return
    for field, second in SECOND.items():
        first = tensors.get(field)
        if (first is None) != (second not in tensors):
            raise errors.Corrupt(f"{where}: of {field} and {second} it has one only.")
        if first is not None:
            axes = ("N", "D") if field == "image" else ("V", "N", "D")
            _check_vectors(where, second, tensors[second], axes, info.dim)
            if tensors[second].shape != first.shape:
                shape = tuple(tensors[second].shape)
                raise errors.Corrupt(f"{where}: {second} is {shape} but {field} is {tuple(first.shape)}.")


def _check_text(where: str, tensors: Mapping[str, Tensor], info: PackInfo) -> None:
    if not tensors:
        raise errors.Corrupt(f"{where}: prompts or weight is missing.")
    for field, tensor in tensors.items():
        _check_vectors(where, field, tensor, ("C", "P", "D") if field == "prompts" else ("C", "D"), info.dim)
        if len(tensor) != len(info.classes):
            raise errors.Corrupt(
                f"{where}: {field} has {len(tensor)} rows but pack.json has {len(info.classes)} classes."
            )
    if tensors.keys() >= {"prompts", "weight"}:
        _check_weight(where, tensors["prompts"].float(), tensors["weight"].float())


def _check_weight(where: str, prompts: Tensor, weight: Tensor) -> None:
    """Refuse a weight (C, D) of other texts, or of another order, than its prompts (C, P, D)."""
    mean = Text.from_prompts((), prompts, 1.0).weight  # (C, D)
    cosine = (mean * weight).sum(dim=-1) / weight.norm(dim=-1)  # (C,) NaN where prompts cancel out
    if not bool((cosine >= 0.999).all()):
        row = int((~(cosine >= 0.999)).nonzero()[0])
        raise errors.Corrupt(
            f"{where}: weight is not the mean of prompts in row {row}: their cosine is {float(cosine[row]):.3f},"
            " expected 0.999 or more."
        )


def _check_labels(where: str, label: Tensor, info: PackInfo, shots: bool) -> None:
    import torch

    if label.dtype != torch.int64 or label.dim() != 1 or not len(label):
        raise errors.Corrupt(
            f"{where}: label is {_name(label.dtype)} {tuple(label.shape)}, expected int64 (N,), N above 0."
        )
    low, high, count = int(label.min()), int(label.max()), len(info.classes)
    if low < 0 or high >= count:
        worst = low if low < 0 else high
        raise errors.Corrupt(f"{where}: label holds {worst}, but {count} classes have labels 0..{count - 1}.")
    if shots and info.fewshot:
        _check_shots(where, label.bincount(minlength=count), info.fewshot.shots)


def _check_shots(where: str, rows: Tensor, shots: int) -> None:
    """Refuse rows per class (C,) that cannot be a draw of so many shots; smaller classes may give all they have."""
    most, least = int(rows.max()), int(rows.min())
    if most > shots:
        fault = f"{most} rows of class {int(rows.argmax())}"
    elif least == 0:
        fault = f"no row of class {int(rows.argmin())}"
    elif most < shots:
        fault = f"at most {most} rows of a class"
    else:
        return
    raise errors.Corrupt(f"{where}: label has {fault}, but fewshot says {shots} shots of every class.")


def _check_vectors(where: str, field: str, tensor: Tensor, axes: tuple[str, ...], dim: int) -> None:
    """Check shape, type, width, finiteness and that no row is zero."""
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point() or len(shape) != len(axes) or 0 in shape:
        raise errors.Corrupt(f"{where}: {field} is {_name(tensor.dtype)} {shape}, expected floats ({', '.join(axes)}).")
    if shape[-1] != dim:
        raise errors.Corrupt(f"{where}: {field} is {shape} but pack.json says dim {dim}.")
    norm = tensor.float().norm(dim=-1).flatten()  # not finite where any number of the row is not
    if not bool(norm.isfinite().all()):
        row = int((~norm.isfinite()).nonzero()[0])
        raise errors.Corrupt(f"{where}: {field} holds NaN or infinity in row {row}.")
    if bool((norm == 0).any()):
        raise errors.Corrupt(f"{where}: {field} is all zero in row {int((norm == 0).nonzero()[0])}.")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def check_complete(pack: Pack) -> None:
    """Refuse a pack that cannot be run by itself: train, test and text are needed, val is optional."""
    if missing := [part for part in ("train", "test", "text") if part not in pack.parts]:
        raise errors.Missing(
            f"{pack.folder}: {missing[0]}.safetensors is missing; a pack to run needs train, test and text."
        )


def verify(pack: Pack) -> list[str]:
    """Check every part, and the labels against the text; return the problems, one line each."""
    return damage(pack) or ([] if trusted(pack) else mislabelled(pack))


def damage(pack: Pack) -> list[str]:
    """Check every part for itself; return the problems, one line each."""
    problems = []
    for part in pack.parts:
        try:
            pack.tensors(part)
        except errors.HarnessError as error:
            problems.append(str(error))
    return problems


def trusted(pack: Pack) -> bool:
    """Whether its labels were imported on their owner's word."""
    return pack.info.fingerprint.get("labels") == TRUSTED or (pack.folder / TRUSTED).exists()


def mislabelled(pack: Pack) -> list[str]:
    """Check the labels of a sound pack against its text; return the problems, one line each."""
    if "text" not in pack.parts:
        return []
    held = {part: pack.features(part) for part in pack.parts if part != "text"}
    return out_of_step(pack.text(), {f"{part}.safetensors": features for part, features in held.items()})


def out_of_step(text: Text, parts: Mapping[str, Features]) -> list[str]:
    """Name the parts whose labels do not go with the text rows; zero-shot classification gives them away.

    Either a part is nearer to chance than to the best part: its labels were shuffled or count otherwise. Or
    none is good, but renaming the classes would make them so: two orders of the same class names met, or
    texts and images of two encoders. Parts with too few rows to tell are left in peace.
    """
    guess = {name: (features.image @ text.weight.T).argmax(dim=1) for name, features in parts.items()}  # (N,)
    right = {name: (int((guess[name] == parts[name].label).sum()), len(guess[name])) for name in parts}
    best = max((_bounds(*counts)[0] for counts in right.values()), default=0.0)
    chance = 1 / len(text.classes)
    line = (chance + best) / 2 if best > chance else 0.0
    wrong = [
        f"{name}: labels out of step with text rows: zero-shot is right for {hits} of {rows} rows,"
        f" but for more than {100 * best:.0f} % in the best part."
        for name, (hits, rows) in right.items()
        if _bounds(hits, rows)[1] < line
    ]
    return wrong or [
        f"{name}: labels out of step with text rows: zero-shot is right for {right[name][0]} of {right[name][1]}"
        f" rows, but for {100 * renamed:.0f} % if classes are renamed; are text and labels in one order?"
        for name, features in parts.items()
        if (renamed := _better_renamed(guess[name], features.label, len(text.classes)))
    ]


def _better_renamed(guess: Tensor, label: Tensor, classes: int) -> float:
    """Mean recall (0-1) once every guess is renamed, if that is far beyond what names as they are give, or 0.

    The names are learnt on the even rows of each class and tried on the odd ones, so that noise gains nothing;
    classes count alike, so that guessing a frequent one gains nothing.
    """
    import torch

    order = label.argsort(stable=True)
    (learn, learnt), (tried, truth) = ((guess[rows], label[rows]) for rows in (order[::2], order[1::2]))
    votes = torch.zeros(classes, classes).index_put_((learn, learnt), torch.ones(len(learn)), accumulate=True)
    name = (votes / votes.sum(dim=0).clamp(min=1)).argmax(dim=1)  # (C,) what each guess is best called
    count = truth.bincount(minlength=classes)

    def recall(called: Tensor) -> float:
        hits = truth[called == truth].bincount(minlength=classes)
        return float((hits[count > 0] / count[count > 0]).mean())

    if len(truth) < 5 * classes or classes < 5:
        return 0.0
    renamed = recall(name[tried])
    return renamed if renamed > max(4 * recall(tried), 3 / classes, 0.1) else 0.0


def _bounds(hits: int, rows: int, sigmas: float = 3.0) -> tuple[float, float]:
    """Give the interval of a proportion, after Wilson (1927): sound for few rows, and near 0 and 1."""
    weight = sigmas**2 / rows
    middle = hits / rows + weight / 2
    spread = sigmas * math.sqrt(hits / rows * (1 - hits / rows) / rows + weight / (4 * rows))
    return (middle - spread) / (1 + weight), (middle + spread) / (1 + weight)


def intact(folder: Path) -> tuple[Pack | None, str]:
    """Open a cache entry and check all of it: `(pack, "")`; `(None, "")` where there is none.

    A damaged entry is set aside, so that it can be built again: `(None, what was wrong)`.
    """
    if not folder.exists():
        return None, ""
    try:
        pack = open_pack(folder)
        for part in pack.parts:
            pack.check(part)
    except (errors.Corrupt, errors.Missing) as error:
        aside = files.set_aside(folder)
        return None, f"{folder.name}: {error} Set aside as {aside.name}."
    return pack, ""


# -- writing -----------------------------------------------------------------------------------------


def write_pack(
    folder: Path,
    *,
    dataset: str,
    encoder: str,
    classes: Sequence[str],
    scale: float,
    fewshot: Fewshot | Mapping[str, int] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    parts: Mapping[str, Mapping[str, Tensor]],
) -> Pack:
    """Write a pack, whole or not at all: built in a hidden folder beside it, then moved into place.

    The same input gives the same bytes. If another process was first, its pack is the one returned. Raises
    `errors.Corrupt` for tensors that no reader would accept, `errors.Missing` where the disk refuses.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise errors.UsageError(errors.unknown("part of a pack", unknown[0], PARTS))
    info = PackInfo(
        dataset=dataset,
        encoder=encoder,
        classes=list(classes),
        dim=_width(parts),
        scale=float(scale),
        fewshot=msgspec.convert(fewshot, Fewshot | None, from_attributes=True),
        fingerprint=msgspec.to_builtins(dict(fingerprint or {})),
    )
    _check_manifest(info)
    for part, tensors in parts.items():
        check_part(f"{part}.safetensors", part, tensors, info)
    with files.new_folder(folder) as temporary:
        written = {f"{part}.safetensors": _write(temporary, part, parts[part], info) for part in parts}
        info = msgspec.structs.replace(info, files=written)
        with files.disk_errors(folder):
            files.write_synced(temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(info)) + b"\n")
    return open_pack(folder)


def _width(parts: Mapping[str, Mapping[str, Tensor]]) -> int:
    """D, by the first file that has vectors; the others are checked against it."""
    for tensors in parts.values():
        for field in ("image", "prompts", "weight"):
            if field in tensors and tensors[field].dim():
                return int(tensors[field].shape[-1])
    raise errors.UsageError("a pack needs at least one part with image, prompts or weight.")


def _write(folder: Path, part: str, tensors: Mapping[str, Tensor], info: PackInfo) -> FileInfo:
    import hashlib

    from safetensors.torch import save

    # one metadata entry only: the order of several is not the same in every run
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"pack": info.head()})
    with files.disk_errors(folder):
        files.write_synced(folder / f"{part}.safetensors", data)
    return FileInfo(hashlib.sha256(data).hexdigest(), len(data))


def export_pack(packs: Pack | Sequence[Pack], folder: Path, second: Sequence[Pack] = ()) -> Pack:
    """Write one pack from one, or from several that hold different parts of the same features.

    The image features of the packs `second` go in as the second space of the same rows.
    Raises `errors.UsageError` if the folder exists, two packs hold the same part or do not belong together.
    """
    packs = [packs] if isinstance(packs, Pack) else list(packs)
    if folder.exists():
        raise errors.UsageError(f"{folder} exists; give a new folder.")
    if not packs:
        raise errors.UsageError("nothing to export: no pack was given.")
    first = packs[0].info
    owner: dict[str, Pack] = {}
    for pack in packs:
        for field in ("dataset", "encoder", "classes", "dim", "scale"):
            if getattr(pack.info, field) != getattr(first, field):
                raise errors.UsageError(f"{pack.folder.name} and {packs[0].folder.name} differ in {field}.")
        for part in pack.parts:
            if part in owner:
                raise errors.UsageError(f"{pack.folder.name} and {owner[part].folder.name} both hold {part}.")
            owner[part] = pack
    prints = {part: owner[part].info.fingerprint for part in PARTS if part in owner}
    same = all(one == first.fingerprint for one in prints.values())
    fingerprint = dict(first.fingerprint) if same else {"parts": prints}
    for one in prints.values():
        if "val_rows" in one:  # which validation images go with the shots: a draw that a pack cannot repeat
            fingerprint["val_rows"] = one["val_rows"]
    parts = {part: owner[part].tensors(part) for part in PARTS if part in owner}
    for pack in second:
        fingerprint |= {SECOND["image"]: pack.info.fingerprint.get(SECOND["image"], {})}
        for part in pack.parts:
            parts[part] = _joined(parts[part], pack.tensors(part))
    return write_pack(
        folder,
        dataset=first.dataset,
        encoder=first.encoder,
        classes=first.classes,
        scale=first.scale,
        fewshot=owner["train"].info.fewshot if "train" in owner else None,
        fingerprint=fingerprint,
        parts=parts,
    )


def _joined(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One part with both spaces, and as many views as both have."""
    joined = dict(first)
    for field, name in SECOND.items():
        if field in first:
            many = min(len(first[field]), len(second[field]))
            joined |= {field: first[field][:many], name: second[field][:many]}
    return joined


# -- what is there -----------------------------------------------------------------------------------


def packs_root() -> Path:
    """The folder of imported packs."""
    return files.data_root() / "packs"


def features_root() -> Path:
    """The folder of packs computed here."""
    return files.cache_root() / "features"


def imported_packs() -> dict[str, Path]:
    """Return the folder of every imported pack by name, damaged ones included: `open_pack` tells."""
    return {path.name: path for path in files.folders_in(packs_root())}


def cached_packs() -> list[Path]:
    """Return the folder of every cache entry, damaged ones included: `open_pack` tells."""
    return files.folders_in(features_root())
