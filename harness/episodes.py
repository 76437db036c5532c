"""Build what a method may see (Episode) and what only the runner may (Held), from images or from a pack.

A Source is one data set under one encoder. It knows its digests before any feature exists, so that a plan can
tell what is done already; `prepare` then fills the cache with what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness import cache, encoder, files, imo, lock, prompts, splits
from harness.cache import Pack
from harness.errors import Missing, UsageError, unknown
from harness.pixels import Handle, QueryImages, SupportImages
from harness.types import Dataset, Entry, Episode, Features, Method, Split
from harness.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor

VIEW_SEED = 0  # views are drawn once per image, not per few-shot seed, so that seeds share them
VAL_POLICIES = ("val-min4", "val-full")
BLOCK = 1024  # rows that are drawn and scaled together: 2 MB of them stay in a core's cache


@dataclass(frozen=True)
class Doubled:
    """A pack whose held-out images carry those of a second space behind them, (N, 2D); read like a pack."""

    first: Pack
    second: Callable[[str], Features]  # of a part

    def features(self, part: str) -> Features:
        """Both spaces of val or test, as stored."""
        return _doubled(self.first.features(part), self.second(part))

    def image(self, part: str) -> Tensor:
        """Both spaces of a part's images alone: (N, 2D)."""
        return self.features(part).image

    def label(self, part: str) -> Tensor:
        """The labels of a part alone: (N,)."""
        return self.first.label(part)


@dataclass(frozen=True)
class Held:
    """Held-out data of one cell. Every call reads from disk and nothing is kept, so nothing can be found."""

    val_pack: Pack | Doubled | None
    val_rows: Sequence[int]  # the min(K, 4) validation images per class
    test_pack: Pack | Doubled
    raw: bool
    device: str
    pictures: Callable[[str], QueryImages] | None = None  # of "val" or "test", for a method that asks for pixels
    halves: int = 1  # 2 where rows carry a second space

    def val(self, policy: str) -> Features:
        """Validation features for `val-min4` or `val-full`."""
        lock.guard("validation features")
        assert self.val_pack is not None
        if self.pictures is not None:
            return self._val_pictures(self.pictures("val"), policy)
        features = self.val_pack.features("val")
        if policy == "val-min4":
            features = Features(features.image[list(self.val_rows)], features.label[list(self.val_rows)])
        return Features(_ready(features.image, self.raw, self.device, self.halves), features.label.to(self.device))

    def _val_pictures(self, image: Any, policy: str) -> Features:
        assert self.val_pack is not None
        label = self.val_pack.label("val").to(self.device)
        return (
            Features(image.at(self.val_rows), label[list(self.val_rows)])
            if policy == "val-min4"
            else Features(image, label)
        )

    def test(self) -> Features:
        """Test features with labels: for `oracle` selection alone."""
        return Features(self.test_image(), self.test_label())

    def test_image(self) -> Tensor:
        """Test features (N, D), or pictures, without labels."""
        lock.guard("test features")
        if self.pictures is not None:
            pictures: Any = self.pictures("test")
            return pictures  # type: ignore[no-any-return]
        return _ready(self.test_pack.image("test"), self.raw, self.device, self.halves)

    def test_label(self) -> Tensor:
        """Test labels (N,)."""
        lock.guard("test labels")
        return self.test_pack.label("test").to(self.device)


class Source(Protocol):
    """One data set under one encoder."""

    name: str
    origin: str  # the data set that its features come from, whatever it was imported as
    encoder: str
    classes: int  # how many
    root: Path | None  # the folder of its images
    prompts: str  # name of the prompt set
    split_name: str
    digests: dict[str, str]  # weights, transform, split, prompts: known before any extraction
    columns: tuple[int, ...]  # a shifted set with fewer classes: their labels in the source
    notes: tuple[str, ...]  # what every result on it must say
    fixed: tuple[int, int | None] | None  # the only shots, and perhaps the only seed, that it offers

    def check(self, shots: int, seed: int, selection: str) -> None:
        """Raise UsageError if this episode or this selection cannot be had."""

    def shots_digest(self, shots: int, seed: int) -> str:
        """Digest of the drawn training and validation entries, in drawing order."""

    def space(self, name: str) -> dict[str, str]:
        """Digests of a second feature space; none for "". Raises Missing where it cannot be had."""

    def remarks(self, space: str) -> tuple[str, ...]:
        """What a result that used this second feature space must say."""

    def prepare(self, wanted: Iterable[tuple[int, int]], views: int, watch: Watch, space: str = "") -> float:
        """Make features of all wanted (shots, seed) ready, and those of a second space; return the seconds spent."""

    def episode(self, shots: int, seed: int, method: type[Method]) -> Episode:
        """What a method may see, in the form that it asks for."""

    def held(self, shots: int, seed: int, method: type[Method]) -> Held:
        """What only the runner may see."""

    def images_digests(self, shots: int, seed: int) -> dict[str, str]:
        """Digests of the images behind the held-out parts and the shots, as far as they show from outside."""

    def features_digest(self, shots: int, seed: int, space: str = "") -> str:
        """Digest of the features that this episode reads."""


# -- from an imported pack ---------------------------------------------------------------------------


class PackSource:
    """Episodes from a pack of features that somebody else extracted."""

    prompts = "pack"
    split_name = "pack"
    columns: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    root: Path | None = None

    def __init__(self, name: str, pack: Pack, device: str) -> None:
        self.name, self.pack, self.device = name, pack, device
        self.origin = pack.info.dataset
        self.encoder, self.classes = pack.info.encoder, len(pack.info.classes)
        fewshot = pack.info.fewshot
        self.fixed: tuple[int, int | None] | None = None if fewshot is None else (fewshot.shots, fewshot.seed)
        hashes = {part: entry.sha256 for part, entry in sorted(pack.info.files.items())}
        self.digests = {
            "weights": str(pack.info.fingerprint.get("weights", "")),
            "transform": str(pack.info.fingerprint.get("transform", "")),
            "split": files.digest_of([hashes, pack.info.head()]),
            "prompts": files.digest_of([hashes.get("text.safetensors"), pack.info.classes, pack.info.scale]),
        }

    @cached_property
    def _train_labels(self) -> list[int]:
        return self.pack.label("train").tolist()

    @cached_property
    def _val_labels(self) -> list[int]:
        return self.pack.label("val").tolist() if "val" in self.pack.parts else []

    def check(self, shots: int, seed: int, selection: str) -> None:
        if self.fixed is not None and self.fixed != (shots, seed):
            only, drawn = self.fixed
            raise UsageError(
                f"{self.name} holds exactly {only} shots of seed {drawn}, not {shots} of seed {seed}. "
                f"Use --shots {only} --seeds {drawn}."
            )
        if self.fixed is None:
            splits.check_shots(self._train_labels, shots, self.name, self.pack.info.classes)
        if selection in VAL_POLICIES and not self._val_labels:
            raise UsageError(_no_validation(self.name, selection))

    @lru_cache  # noqa: B019 - a source lives as long as its run
    def _draw(self, shots: int, seed: int) -> tuple[list[int], list[int]]:
        if self.fixed is None:
            return splits.draw(self._train_labels, self._val_labels, shots, seed)
        # the shots are drawn already; so are the validation rows, if the pack was exported from here
        _, val = splits.draw(self._train_labels, self._val_labels, shots, seed)
        return list(range(len(self._train_labels))), self.pack.info.fingerprint.get("val_rows", val)

    @lru_cache  # noqa: B019 - asked for each method of a plan
    def shots_digest(self, shots: int, seed: int) -> str:
        return files.digest_of(self._draw(shots, seed))

    def images_digests(self, shots: int, seed: int) -> dict[str, str]:
        return {}  # the digest of the split holds the files of the pack

    def space(self, name: str) -> dict[str, str]:
        _check_space(name)
        parts = [part for part in self.pack.parts if part != "text"]
        if name and not all(cache.SECOND["image"] in self.pack.fields(part) for part in parts):
            raise Missing(
                f"{self.name} is a pack without the second feature space {name!r}; "
                "write one that has it: harness features export NAME FOLDER --second-space"
            )
        return {field: str(value) for field, value in self.pack.info.fingerprint.get(name, {}).items()}

    def remarks(self, space: str) -> tuple[str, ...]:
        trained_on = self.space(space).get("adapter_trained_on", "").rpartition(" ")[0]  # name and digest
        return (imo.TRAINED_HERE,) if trained_on and trained_on in (self.name, self.origin) else ()

    def prepare(self, wanted: Iterable[tuple[int, int]], views: int, watch: Watch, space: str = "") -> float:
        return 0.0

    def episode(self, shots: int, seed: int, method: type[Method]) -> Episode:
        rows, _ = self._draw(shots, seed)
        train = [self.pack.features("train"), *([self.pack.second("train")] if method.second_space else [])]
        return _episode(self, train, rows, self.pack, (shots, seed), method)

    def held(self, shots: int, seed: int, method: type[Method]) -> Held:
        pack = self._pack(method)
        val, halves = pack if self._val_labels else None, _halves(method)
        return Held(val, self._draw(shots, seed)[1], pack, method.raw, self.device, halves=halves)

    def _pack(self, method: type[Method]) -> Pack | Doubled:
        return Doubled(self.pack, self.pack.second) if method.second_space else self.pack

    def features_digest(self, shots: int, seed: int, space: str = "") -> str:
        return _files_digest(self.pack)


# -- from images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A data set whose images are here: its split, their folder, and a digest of both."""

    dataset: Dataset
    split: Split
    root: Path
    content: str
    split_name: str  # coop, own or built
    listed: tuple[list[int], list[int]] | None = None  # rows of train and val that a published list names
    notes: tuple[str, ...] = ()  # what every result on it must say

    def with_list(self, path: Path) -> Place:
        """The same images with the shots of a published list in place of drawn ones."""
        shots = splits.shots_from_file(path, self.split)
        split, train, val = splits.pinned(self.split, shots)
        return replace(self, split=split, content=splits.split_digest(split), listed=(train, val))


class ImageSource:
    """Episodes from image files: features are extracted once and kept in the cache.

    Three kinds of cache entries: held-out parts and text once per data set, the drawn images once per (shots, seed).
    """

    def __init__(
        self,
        place: Place,
        encoder_name: str,
        prompt_set: str,
        device: str,
        precision: str = "auto",
        pixels: str = "pil",
    ) -> None:
        card = encoder.card(encoder_name, device, precision)
        self.dataset, self.split, self.device, self.pixels = place.dataset, place.split, device, pixels
        self.root: Path | None = place.root
        self._images = place.root
        self.name = self.origin = place.dataset.name
        self.encoder, self.classes = card.name, len(place.split.classes)
        self.split_name, self.prompts = place.split_name, prompt_set
        self.columns, self.notes = place.dataset.columns, place.notes
        self.fingerprint = encoder.with_pixels(card.fingerprint, pixels, device)
        self.words = prompts.prompts_for(place.dataset, place.split.classes, prompt_set)
        self.digests = {**self.fingerprint, "split": place.content, "prompts": self.words.digest}
        self._train_labels = [label for _, label in self.split.train]
        self._val_labels = [label for _, label in self.split.val]
        self.listed = place.listed
        most = max(Counter(self._train_labels).values(), default=0)
        self.fixed: tuple[int, int | None] | None = (most, None) if place.listed else None

    def check(self, shots: int, seed: int, selection: str) -> None:
        if self.fixed is not None and shots != self.fixed[0]:
            raise UsageError(f"The list for {self.name} has {self.fixed[0]} shots, not {shots}.")
        splits.check_shots(self._train_labels, shots, self.name, self.split.classes)
        if selection in VAL_POLICIES and not self.split.val:
            raise UsageError(_no_validation(self.name, selection))

    @lru_cache  # noqa: B019 - a source lives as long as its run
    def _draw(self, shots: int, seed: int) -> tuple[list[int], list[int]]:
        return self.listed or splits.draw(self._train_labels, self._val_labels, shots, seed)

    @lru_cache  # noqa: B019 - asked for each method of a plan
    def shots_digest(self, shots: int, seed: int) -> str:
        train, val = self._draw(shots, seed)
        return files.digest_of([[self.split.train[i] for i in train], [self.split.val[i] for i in val]])

    @lru_cache  # noqa: B019 - asked for each method of a plan, and looks at every image
    def images_digests(self, shots: int, seed: int) -> dict[str, str]:
        held = [(path, size) for path, size, _ in self._held_stamps]
        support = [
            (path, size) for path, size, _ in self._stamps([self.split.train[i] for i in self._draw(shots, seed)[0]])
        ]
        return {"images": files.digest_of(held), "support": files.digest_of(support)}

    @cached_property
    def _held_stamps(self) -> list[tuple[str, int, int]]:
        return self._stamps((*self.split.val, *self.split.test))

    def _stamps(self, entries: Sequence[Entry]) -> list[tuple[str, int, int]]:
        """Path, size and time of images: another picture under the same name must not pass for this one."""
        stamps = []
        for path, _ in entries:
            try:
                stat = (self._images / path).stat()
            except OSError as error:
                raise Missing(f"{self.name}: image {self._images / path}: {error.strerror}.") from error
            stamps.append((path, stat.st_size, stat.st_mtime_ns))
        return stamps

    # cache entries

    def _folder(self, kind: str, content: Any) -> Path:
        key = files.digest_of([self.fingerprint, self.digests["split"], kind, content])[:16]
        return files.cache_root() / "features" / files.slug(f"{self.name}-{self.encoder}-{kind}-{key}")

    @lru_cache  # noqa: B019 - asked for each cell, and the digest of so many names takes time
    def _held_folder(self, space: str = "") -> Path:
        return self._in(space, self._folder("held", self._held_stamps))

    def _text_folder(self) -> Path:
        return self._folder("text", self.digests["prompts"])

    def _in(self, space: str, folder: Path) -> Path:
        """The entry with the same images in a second space: a pack of its own, so that nobody else loads it."""
        return folder.with_name(files.slug(f"{folder.name}-{space}-{self._adapters.digest[:16]}")) if space else folder

    @lru_cache  # noqa: B019 - asked for each cell, and looks at every image
    def _shots_folder(self, shots: int, seed: int, space: str = "") -> Path:
        stamps = self._stamps([self.split.train[i] for i in self._draw(shots, seed)[0]])
        return self._in(space, self._folder(f"shots{shots}-seed{seed}", [self.shots_digest(shots, seed), stamps]))

    # the second space

    @cached_property
    def _adapters(self) -> imo.Found:
        return imo.look_up(self.encoder, self.fingerprint["weights"])

    def space(self, name: str) -> dict[str, str]:
        _check_space(name)
        return self._adapters.fingerprint if name else {}

    def remarks(self, space: str) -> tuple[str, ...]:
        said = self._adapters.card.trained_on.shared_with(self.name, self.split.classes) if space else ""
        return (said,) if said else ()

    def _attached(self, space: str) -> contextlib.AbstractContextManager[None]:
        if not space:
            return contextlib.nullcontext()
        return imo.attached(self._encoder(), imo.load(self._adapters, self._encoder()))

    # filling the cache

    def prepare(self, wanted: Iterable[tuple[int, int]], views: int, watch: Watch, space: str = "") -> float:
        from filelock import FileLock

        started, wanted = time.perf_counter(), list(wanted)
        folder = self._held_folder()
        with files.disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if self.dataset.source is None and not self._usable(self._text_folder(), 0, watch):
                self._extract_text()  # a shifted set is scored with the text of its source
            for one in ("", space) if space else ("",):
                if not self._usable(self._held_folder(one), 0, watch):
                    self._extract_held(watch, one)
                missing = [draw for draw in wanted if not self._usable(self._shots_folder(*draw, one), views, watch)]
                if missing:
                    self._extract_shots(missing, views, watch, one)
        return time.perf_counter() - started

    def _usable(self, folder: Path, views: int, watch: Watch) -> bool:
        """Whether a cache entry is there, whole, and has the views; a damaged one is set aside."""
        pack, damage = cache.intact(folder)
        if damage:
            watch.note(f"{self.name}: a damaged cache entry is built again. {damage}")
        return pack is not None and int(pack.info.fingerprint.get("views", 0)) >= views

    def _encoder(self) -> encoder.Encoder:
        return _loaded(self.encoder, self.device, self.fingerprint["precision"], self.pixels)

    def _features(self, entries: Sequence[Entry], views: int, watch: Watch, space: str) -> tuple[Tensor, Tensor | None]:
        from harness import extract

        paths = [self._images / path for path, _ in entries]
        with self._attached(space):
            return extract.image_features(
                self._encoder(),
                paths,
                [path for path, _ in entries],
                views=views,
                seed=VIEW_SEED,
                on_image=watch.encoded,
            )

    def _extract_text(self) -> None:
        raw = self._encoder().text(self.words.flat).cpu()  # (sentences of all classes, D)
        self._write(self._text_folder(), {"text": {"prompts": prompts.evened(raw, self.words.counts)}})

    def _extract_held(self, watch: Watch, space: str) -> None:
        entries = (*self.split.val, *self.split.test)
        watch.stage(f"{self.name}: encoding validation and test images with {self._named(space)}", len(entries))
        image, _ = self._features(entries, 0, watch, space)  # (N, D)
        cut = len(self.split.val)
        parts = {"test": {"image": image[cut:], "label": _labels(self.split.test)}}
        if cut:
            parts["val"] = {"image": image[:cut], "label": _labels(self.split.val)}
        self._write(self._held_folder(space), parts, space=space)

    def _named(self, space: str) -> str:
        return f"{self.encoder} and its image adapters" if space else self.encoder

    def _extract_shots(self, draws: Sequence[tuple[int, int]], views: int, watch: Watch, space: str) -> None:
        """Encode every image of all draws once, then write each draw."""
        rows = {draw: self._draw(*draw)[0] for draw in draws}
        union = sorted({row for drawn in rows.values() for row in drawn})
        what = f"{self.name}: encoding support images and {views} views of each with {self._named(space)}"
        watch.stage(what, len(union))
        image, augmented = self._features([self.split.train[row] for row in union], views, watch, space)
        place = {row: i for i, row in enumerate(union)}
        for (shots, seed), drawn in rows.items():
            here = [place[row] for row in drawn]
            part = {"image": image[here], "label": _labels([self.split.train[row] for row in drawn])}
            if augmented is not None:
                part["views"] = augmented[:, here]  # (V, N, D)
            self._write(self._shots_folder(shots, seed, space), {"train": part}, (shots, seed), views, space)

    def _write(
        self, folder: Path, parts: Any, draw: tuple[int, int] | None = None, views: int = 0, space: str = ""
    ) -> None:
        if folder.exists():  # an entry with fewer views gives way to one with more
            shutil.rmtree(folder)
        cache.write_pack(
            folder,
            dataset=self.name,
            encoder=self.encoder,
            classes=self.split.classes,
            scale=self._encoder().scale,
            fewshot={"shots": draw[0], "seed": draw[1]} if draw else None,
            fingerprint={**self.fingerprint, "views": views}
            | ({"val_rows": self._draw(*draw)[1]} if draw else {})
            | ({space: self.space(space)} if space else {}),
            parts=parts,
        )

    # reading

    def episode(self, shots: int, seed: int, method: type[Method]) -> Episode:
        spaces = ("", method.second_space) if method.second_space else ("",)
        train = [cache.open_pack(self._shots_folder(shots, seed, space)).features("train") for space in spaces]
        text = cache.open_pack(self._text_folder())
        episode = _episode(self, train, range(len(train[0])), text, (shots, seed), method)
        if not method.trains_encoder:
            return episode
        return replace(episode, images=self._support_images(shots, seed), encoder=self._handle())

    def _support_images(self, shots: int, seed: int) -> SupportImages:
        """The drawn images as pixels; a method may open these files, and no others of the data set."""
        keys = [self.split.train[row][0] for row in self._draw(shots, seed)[0]]
        paths = [self._images / key for key in keys]
        lock.permit(paths)
        return SupportImages(paths, keys, self._encoder(), seed)

    def _handle(self) -> Handle:
        sentences = iter(self.words.flat)
        return Handle(self._encoder(), tuple(tuple(islice(sentences, count)) for count in self.words.counts))

    def held(self, shots: int, seed: int, method: type[Method]) -> Held:
        pack = self._both(method, self._held_folder)
        val = pack if self.split.val else None
        pictures = self._pictures if method.pixels else None
        return Held(val, self._draw(shots, seed)[1], pack, method.raw, self.device, pictures, _halves(method))

    def _both(self, method: type[Method], folder: Callable[[str], Path]) -> Pack | Doubled:
        """The pack of a folder, with that of the second space behind it where a method asks for one."""
        pack = cache.open_pack(folder(""))
        return Doubled(pack, cache.open_pack(folder(method.second_space)).features) if method.second_space else pack

    def _pictures(self, part: str) -> QueryImages:
        entries = self.split.val if part == "val" else self.split.test
        return QueryImages([self._images / path for path, _ in entries], self._encoder())

    def features_digest(self, shots: int, seed: int, space: str = "") -> str:
        packs = [*self.packs(shots, seed), *(self.second_packs(shots, seed, space) if space else ())]
        return files.digest_of([_files_digest(pack) for pack in packs])

    def packs(self, shots: int, seed: int) -> list[Pack]:
        """The cache entries that together make one whole pack, for export."""
        folders = (self._shots_folder(shots, seed), self._held_folder(), self._text_folder())
        return [cache.open_pack(folder) for folder in folders]

    def second_packs(self, shots: int, seed: int, space: str) -> list[Pack]:
        """The cache entries with the same images in a second space."""
        folders = (self._shots_folder(shots, seed, space), self._held_folder(space))
        return [cache.open_pack(folder) for folder in folders]


@lru_cache(maxsize=1)
def _loaded(name: str, device: str, precision: str, pixels: str) -> encoder.Encoder:
    """The encoder, kept for the next data set of the run."""
    return encoder.load(name, device, precision, pixels)


# -- shared ------------------------------------------------------------------------------------------


def _episode(
    source: Any,
    train: Sequence[Features],
    rows: Sequence[int],
    text: Pack,
    draw: tuple[int, int],
    method: type[Method],
) -> Episode:
    """`train`: all that shots are drawn from, in each space that the method asks for."""
    import torch

    lock.permit(())  # what an earlier episode's method might open
    device, picked, raw = source.device, torch.as_tensor(rows), method.raw
    image = _joined([_drawn(space.image[None], picked, raw, device)[0] for space in train])  # (N, D)
    views = [space.views[: method.views] for space in train if space.views is not None] if method.views else []
    augmented = None
    if views and len(views) == len(train):
        many = min(map(len, views))
        augmented = _joined([_drawn(one[:many], picked, raw, device) for one in views])  # (V, N, D)
    words = text.text()
    words = replace(
        words,
        prompts=words.prompts.to(device),
        weight=words.weight.to(device),
        raw_mean=None if words.raw_mean is None else words.raw_mean.to(device),
    )
    support = Features(image, train[0].label[picked].to(device), augmented)
    return Episode(support, words, shots=draw[0], seed=draw[1], dataset=source.origin)


def _drawn(image: Tensor, rows: Tensor, raw: bool, device: str) -> Tensor:
    """Some rows, ready: (V, M, D), (N,) -> (V, N, D). Of views there may be 100 MB: a block is scaled in the cache."""
    import torch

    taken = torch.empty(len(image), len(rows), image.shape[-1], dtype=image.dtype)
    for one, place in zip(image, taken, strict=True):
        for chosen, block in zip(torch.split(rows, BLOCK), torch.split(place, BLOCK), strict=True):
            torch.index_select(one, 0, chosen, out=block)
            if not raw and device == "cpu":
                block.div_(block.norm(dim=-1, keepdim=True))
    return taken if device == "cpu" else _ready(taken, raw, device)


def _joined(spaces: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat([*spaces], -1) if len(spaces) > 1 else spaces[0]


def _no_validation(name: str, selection: str) -> str:
    return f"{name} has no validation images for --selection {selection}. Use --selection none or support-cv."


def _ready(image: Tensor, raw: bool, device: str, halves: int = 1) -> Tensor:
    """Move features to the device, every half at unit norm unless they are wanted raw."""
    image = image.to(device)
    return image if raw else _joined([half / half.norm(dim=-1, keepdim=True) for half in image.chunk(halves, -1)])


def _halves(method: type[Method]) -> int:
    return 2 if method.second_space else 1


def _doubled(first: Features, second: Features) -> Features:
    """The rows of one space, then those of another, side by side."""
    return Features(_joined([first.image, second.image]), first.label)


def _check_space(name: str) -> None:
    if name not in ("", imo.SPACE):
        raise UsageError(unknown("second feature space", name, [imo.SPACE]))


def _labels(entries: Sequence[Entry]) -> Tensor:
    import torch

    return torch.tensor([label for _, label in entries], dtype=torch.int64)


def _files_digest(pack: Pack) -> str:
    return files.digest_of({name: entry.sha256 for name, entry in pack.info.files.items()})
