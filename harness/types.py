"""The nouns: what a method sees, what it must do, what a data set declares, what a result records.

Shape letters, used in every comment of the project:
    N images   V augmented views   C classes   P prompts per class   D embedding   K shots   B batch
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import msgspec

if TYPE_CHECKING:
    from torch import Tensor


# -- what a method sees ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """Embeddings of labelled images: unit norm, or as the encoder gave them for a method with `raw = True`."""

    image: Tensor  # (N, D) float32
    label: Tensor  # (N,) int64
    views: Tensor | None = None  # (V, N, D) augmented views of the same images

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Text:
    """The class names as the text tower sees them."""

    classes: tuple[str, ...]
    prompts: Tensor  # (C, P, D) unit norm
    weight: Tensor  # (C, D) unit norm: normalised mean of normalised prompts
    scale: float  # what the model multiplies a cosine with; 100 for OpenAI's weights
    raw_mean: Tensor | None = None  # (C, D) mean of prompts before any normalisation

    @classmethod
    def from_prompts(cls, classes: Sequence[str], prompts: Tensor, scale: float) -> Text:
        """Build from raw prompt embeddings (C, P, D): normalise, average, normalise again."""
        unit = prompts / prompts.norm(dim=-1, keepdim=True)  # (C, P, D)
        mean = unit.mean(dim=1)  # (C, D)
        weight = mean / mean.norm(dim=-1, keepdim=True)  # (C, D)
        return cls(tuple(classes), unit, weight, float(scale), prompts.mean(dim=1))


class Images(Protocol):
    """Support images as pixels, for a method that trains through the encoder."""

    def __len__(self) -> int: ...

    def plain(self, rows: Sequence[int]) -> Tensor:
        """Under the test transform: (B, 3, H, W) uint8."""

    def augmented(self, rows: Sequence[int], draw: int, area: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        """Random resized crops, mirrored half the time: (B, 3, H, W) uint8.

        A function of the image, `draw` and the episode's seed alone; `area` is the share of the image shown.
        """


class Memory(Protocol):
    """What cells of one draw hand on to each other while methods fit."""

    def once(self, key: str, make: Callable[[], Tensor]) -> Tensor: ...


class Clip(Protocol):
    """The encoder, for a method that trains it: copies to change, and what belongs to them."""

    @property
    def scale(self) -> float: ...

    @property
    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """The prompts of each class."""

    def copy(self) -> Any:
        """A fresh open_clip model in float32 and eval mode, no gradients on; changing it changes nothing else."""

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) -> what the model takes."""

    def tokens(self, strings: Sequence[str]) -> Tensor:
        """Token numbers for `encode_text`: (len, L)."""


@dataclass(frozen=True)
class Episode:
    """One few-shot problem, and all that a method may see of it: no validation and no test data."""

    support: Features  # N = about C * K labelled images
    text: Text
    shots: int
    seed: int
    dataset: str = ""  # its name, for methods whose reference settings differ by data set
    images: Images | None = None  # only with `trains_encoder`: the support images, row i that of `support`
    encoder: Clip | None = None  # only with `trains_encoder`
    memory: Memory | None = field(default=None, repr=False, compare=False)  # `once` asks it

    def once(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of `make()`, made once where several fits to this episode need the same one, to the last bit.

        `make` depends on the episode and on what `key` says alone: a name that no other method uses for another thing,
        with every setting that counts. Times of a fit that found it include what making it took.
        """
        return make() if self.memory is None else self.memory.once(key, make)


# -- what a method does ------------------------------------------------------------------------------

Grid = Mapping[str, Sequence[Any]]


class Method(ABC):
    """One way to adapt CLIP from a few labelled images. Subclass it as a `@dataclass` in a file of its own.

    Hyperparameters are dataclass fields with defaults. Grids name fields and list their values, the gentler
    value first, because ties keep the earlier one. The runner fits, tunes and scores; a method does neither.
    `fit` may replace `self.logit_grid` where a reference searches another range for a data set.
    """

    version: ClassVar[str] = "1"  # raise it when results change
    title: ClassVar[str] = ""  # the name in papers
    paper: ClassVar[str] = ""  # authors, venue, identifier
    year: ClassVar[int | None] = None
    parameters: ClassVar[str] = "0"  # how many numbers `fit` trains, as a formula in N, K, C, D and the like
    fit_grid: Grid = {}  # values that need a new fit
    logit_grid: Grid = {}  # values read by `logits` alone
    views: ClassVar[int] = 0  # augmented views of each support image that `fit` would like
    raw: ClassVar[bool] = False  # True: image features come as the encoder gave them, not unit norm
    # "imo": image rows are twice as wide, (…, 2D): the original features, then those of the encoder with its image
    # adapters, each half of unit norm (or raw, as `raw` says), in the support set, its views and the queries alike.
    # `methods._maths.halves` parts them; text stays D wide and belongs to the original half
    second_space: ClassVar[str] = ""
    trains_encoder: ClassVar[bool] = False  # True: `episode.images` and `episode.encoder` are filled
    pixels: ClassVar[bool] = False  # True, with `trains_encoder`: queries are pixels (B, 3, H, W) uint8
    quick: ClassVar[Mapping[str, Any]] = {}  # field values that make a fit short, for the contract's many fits
    transductive: ClassVar[bool] = False  # True: `logits` of a row may depend on the other rows
    deterministic: ClassVar[bool] = True  # False: `fit` draws random numbers, from the episode's seed

    @abstractmethod
    def fit(self, episode: Episode) -> Self:
        """Learn from `episode.support` and `episode.text`. Fitting twice equals fitting once."""

    @classmethod
    def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Self]:
        """Fitted methods for all `settings`, field values by name, in their order.

        Each equals `fit` with its settings alone, as closely as the method solves its problem.
        One after the other, when asked for, so that memory holds one at a time. Override it where fits share work:
        with `yield`, outside of any `with` that changes the process, such as torch's gradient mode. The runner fits
        with it. A subclass that replaces `fit` alone is fitted with that `fit`, one setting at a time.
        """
        for values in settings:
            yield cls(**values).fit(episode)

    @abstractmethod
    def logits(self, image: Tensor) -> Tensor:
        """Score queries: (B, D) -> (B, C). Pure, and each row by itself unless `transductive`."""

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        """Count right answers for every point of `logit_grid`, first axis slowest, in one tensor of its shape.

        image (B, D), label (B,) -> int64 counts. Cost: one `logits` per point. Override it with an exact
        shortcut where the grid has structure. It is called with validation data only.
        """
        import torch

        grid = self.logit_grid
        counts = [
            int((self.at(dict(zip(grid, point, strict=True))).logits(image).argmax(1) == label).sum())
            for point in itertools.product(*grid.values())
        ]
        return torch.tensor(counts).reshape([len(values) for values in grid.values()])

    def at(self, values: Mapping[str, Any]) -> Self:
        """The same fitted method with other values of `logit_grid` fields; shares what was learnt."""
        other = copy.copy(self)
        for name, value in values.items():
            setattr(other, name, value)
        return other

    def trained_parameters(self) -> int:
        """How many numbers `fit` learnt by gradient steps or a solver; 0 for training-free methods."""
        return 0

    def facts(self) -> dict[str, float | int | str]:
        """What the fit wants on record, such as the iterations of its solver."""
        return {}


# -- what a data set declares ------------------------------------------------------------------------

Entry = tuple[str, int]  # path relative to the image folder, label


@dataclass(frozen=True)
class Split:
    """Which image is in which part. The order of entries is part of the split: shots are drawn by it."""

    classes: tuple[str, ...]
    train: tuple[Entry, ...] = ()
    val: tuple[Entry, ...] = ()
    test: tuple[Entry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file to be had from elsewhere, and how to know that it is the right one."""

    file: str  # its name on disk
    urls: tuple[str, ...] = ()  # the origin first, then mirrors; none where only the user can get it
    bytes: int | None = None
    sha256: str = ""
    md5: str = ""
    git_blob: str = ""  # sha1 of "blob <length>\0" + content, where only that is known
    by_hand: str = ""  # why a person must fetch it and from where: an account, an agreement, a dead host


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as data: where its images come from and how its classes are put into words."""

    name: str  # = file name = command-line name = name in tables
    title: str
    templates: tuple[str, ...]  # each with one {} for the class name
    build: Callable[[Path], Split] | None = None  # writes the images below an empty folder, returns the split
    source: str | None = None  # a shifted test set: the data set whose shots and settings it is scored with
    encoder: str | None = None  # the encoder that its figures are meant for
    licence: str = ""
    citation: str = ""
    note: str = ""
    # only for data sets that are downloaded
    archives: tuple[Remote, ...] = ()
    split_file: Remote | None = None  # a split in the JSON form of CoOp: {"train": [[path, label, class], …], …}
    roots: tuple[str, ...] = ()  # where its images lie below a data folder: the CoOp layout, the torchvision layout
    counts: tuple[int, int, int] | None = None  # images in train, val, test
    classes: int | None = None
    reader: Callable[[Path], Split] | None = None  # reads the split from the image folder where there is no file
    columns: tuple[int, ...] = ()  # a shifted set with fewer classes: their labels in the source
    # other prompt sets: templates, a file of sentences per class, or the name of a set that suits any data set
    prompt_sets: Mapping[str, tuple[str, ...] | Remote | str] = field(default_factory=dict)
    sentence_keys: Mapping[int, str] = field(default_factory=dict)  # labels whose sentences stand under another name


# -- what a result records ---------------------------------------------------------------------------

SCHEMA = "harness-result/1"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Identity(_Record, frozen=True, kw_only=True):
    """What makes a cell this cell and no other."""

    method: str
    method_version: str
    dataset: str
    encoder: str
    shots: int
    seed: int
    selection: str
    prompts: str  # name of the prompt set
    split: str  # name of the split
    overrides: dict[str, Any] = {}  # hyperparameters fixed on the command line


class Score(_Record, frozen=True, kw_only=True):
    """Counts, and the percentages computed from them."""

    correct: int
    total: int
    accuracy: float  # 0-100
    per_class_accuracy: list[float | None] | None = None  # None where a class has no image


class Timing(_Record, frozen=True, kw_only=True):
    """Seconds of wall time per stage; `synchronised` tells that the device was waited for.

    What a cell shares with cells before it counts as long as it took there, so that no cell looks cheap for its place.
    """

    extract_s: float | None = None
    fit_s: float | None = None
    select_s: float | None = None
    predict_s: float | None = None
    images_per_s: float | None = None
    device: str = "cpu"
    synchronised: bool = True
    warmup: int = 0
    repeats: int = 1
    # for comparing runs: processor seconds on a CPU, wall time on a GPU
    cost_s: float | None = None  # of fit, selection and scoring; of a shifted set, of scoring alone
    reference_s: float | None = None  # of a fixed piece of work before and after: the pace of the machine just then
    # of the wall time of the same stages: standing ready while other programs had the processor
    queued_s: float | None = None


class Result(_Record, frozen=True, kw_only=True):
    """One cell of the leaderboard: how it was made and what came out."""

    schema: str = SCHEMA
    key: str  # digest of identity and digests; also the file name
    status: str  # ok | failed | skipped
    error: str | None = None
    identity: Identity
    digests: dict[str, str]  # weights, transform, split, prompts, features, shots
    hyperparameters: dict[str, Any] = {}
    labels_for_selection: int = 0
    configurations_tried: int = 0
    test: Score | None = None
    val: Score | None = None
    timing: Timing = Timing()
    trained_parameters: int = 0
    peak_memory_bytes: int | None = None
    deterministic: bool | None = None  # whether the method draws no random numbers; None in early records
    facts: dict[str, Any] = {}  # what the method reported of its fit
    notes: list[str] = []  # what a reader of the table must know
    provenance: dict[str, Any] = {}
    checksum: str = ""  # sha256 of the record without this field
