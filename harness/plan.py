"""From names to a plan: which cells there are, what each one reads, and which are done already."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import cache, encoder, files, find, folders, isolate, lock, machine, prepare, splits
from harness.cache import Pack
from harness.episodes import ImageSource, PackSource, Place, Source
from harness.errors import HarnessError, Missing, NothingSelected, UsageError, unknown
from harness.find import MethodSpec
from harness.fits import SEEN
from harness.results import Store, cell_key
from harness.tune import SELECTIONS
from harness.types import Dataset, Identity, Split

DEFAULT_ENCODER = "ViT-B-16-quickgelu:openai"
DEFAULT_METHODS = ("zero_shot", "tip", "linear_probe", "dac")
DEFAULT_SUITE, FIRST_SUITE = "core11", "demo"  # what is prepared of the one, else the other
DEFAULT_SEEDS = (1, 2, 3)
USUAL_SHOTS = (1, 2, 4, 8, 16)
Note = Callable[[str], None]  # tells the user one line


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What to run, in the words of the command line."""

    methods: Sequence[str] = DEFAULT_METHODS
    datasets: Sequence[str] = ()
    shots: Sequence[int] = ()
    seeds: Sequence[int] | None = None  # 1, 2, 3, or the one seed of a pack of fixed shots
    encoder: str | None = None
    selection: str = "val-min4"  # one policy or several, with commas
    prompts: str = "single"
    split_file: Path | None = None  # a published list of shots in place of a draw
    results: Path = Path("results")
    device: str = "auto"
    precision: str = "auto"  # of the encoder; it is part of what features are stored under
    pixels: str = "pil"  # what reads and resizes image files: pil or tensor; part of that as well
    executor: str = "local"
    force: bool = False
    isolate: bool = False  # every cell in a process of its own; results are the same, and so are their keys
    timeout: float | None = None  # seconds that an isolated cell may take
    jobs: int = 1  # processes that compute side by side; 0: as many as there are cores, on a GPU one

    @property
    def policies(self) -> list[str]:
        """Every selection policy asked for, those that see fewer labels first: a fit may serve the next ones."""
        asked = [word.strip() for word in self.selection.split(",")]
        return sorted(dict.fromkeys(filter(None, asked)), key=lambda policy: SEEN.get(policy, 0))


@dataclass(frozen=True)
class Record:
    """One record to be: the data set whose test images are scored, and its key in the store."""

    source: Source
    identity: Identity
    digests: dict[str, str]
    key: str


@dataclass(frozen=True)
class Cell:
    """One fit and tuning, and all the records that come from it: its own test set and shifted ones."""

    source: Source
    method: MethodSpec
    shots: int
    seed: int
    selection: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.source.name} {self.method.name} {self.shots} shots seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Every cell asked for, those still to be computed, and what the user should know."""

    cells: list[Cell]
    missing: list[Cell]
    device: str
    selection: str  # every policy, with commas
    isolate: bool = False
    timeout: float | None = None
    absent: tuple[HarnessError, ...] = ()  # parts of a suite that are not here
    jobs: int = 1

    def by_source(self) -> Iterator[tuple[Source, list[Cell]]]:
        """Missing cells grouped by data set, so that each is prepared once."""
        for source in {id(cell.source): cell.source for cell in self.missing}.values():
            yield source, [cell for cell in self.missing if cell.source is source]

    def records(self) -> list[Record]:
        return [record for cell in self.cells for record in cell.records]


def make_plan(spec: RunSpec, store: Store, note: Note = lambda _: None) -> Plan:
    """Resolve every name, check every request, and find what the store lacks. Extracts nothing."""
    _check_spec(spec)
    methods = _methods(spec)
    if not methods:
        raise NothingSelected("No method selected. Use --methods zero_shot,tip or --methods all.")
    _tell_left_out(spec, methods, note)
    device = encoder.resolve_device(spec.device)
    jobs = _jobs(spec, device)
    sources, absent = _sources(spec, device, note)
    cells, told = [], set[str]()
    for source, shifted in sources:
        here = _with_their_space(spec, methods, (source, *shifted), note, told)
        for shot in dict.fromkeys(spec.shots or (_default_shots(source, note),)):
            for seed in dict.fromkeys(_seeds(source, spec, note)):
                for policy in spec.policies:
                    source.check(shot, seed, policy)
                pairs = itertools.product(here, spec.policies)
                cells += [_cell(source, shifted, method, shot, seed, policy) for method, policy in pairs]
    missing = cells if spec.force else [cell for cell in cells if not _done(cell, store)]
    for cell in missing:
        _refuse_unsupported(cell, spec.isolate)
    return Plan(cells, missing, device, ",".join(spec.policies), spec.isolate, spec.timeout, absent, jobs)


def _methods(spec: RunSpec) -> list[MethodSpec]:
    """Find every method. A file runs when it is read, so that happens behind the lock, or in a process of its own."""
    files_asked = [item for item in spec.methods if _is_file(item)]
    if not files_asked:
        return find.methods(spec.methods)  # ours and installed ones: nothing runs yet, and torch is not needed
    if spec.isolate:
        known = find.methods([item for item in spec.methods if item not in files_asked])
        return [*known, *map(isolate.described, dict.fromkeys(files_asked))]
    with lock.on_watch(), lock.unchanged():
        return find.methods(spec.methods)


def _is_file(asked: str) -> bool:
    return asked.partition("[")[0].strip().endswith(".py")


def _refuse_unsupported(cell: Cell, isolate: bool) -> None:
    """Raise UsageError for a method that needs what this data set, or a process of its own, does not have."""
    if cell.method.trains_encoder and isolate:
        raise UsageError(
            f"{cell.method.name} trains through the encoder, which --isolate cannot hand over; "
            f"leave out --isolate, or {cell.method.name}."
        )
    if cell.method.trains_encoder and cell.source.root is None:
        raise UsageError(
            f"{cell.method.name} trains through the encoder and needs images, but {cell.source.name} is a pack of "
            f"features; leave {cell.method.name} out of --methods."
        )


def _with_their_space(
    spec: RunSpec, methods: Sequence[MethodSpec], sources: Sequence[Source], note: Note, told: set[str]
) -> list[MethodSpec]:
    """Leave out, and tell once, what `all` brought and asks for a second feature space that is not here."""
    named = {Path(item.partition("[")[0]).stem for item in spec.methods if _is_file(item)}
    named |= {find.method(item).name for item in spec.methods if item != "all" and not _is_file(item)}
    kept, left = [], dict[str, list[str]]()
    for method in methods:
        try:
            for source in sources:
                source.space(method.second_space)
            kept.append(method)
        except Missing as error:
            if method.name in named:
                raise
            left.setdefault(str(error), []).append(method.name)
    for reason, names in left.items():
        if reason not in told:
            note(f"'all' leaves out {', '.join(names)}. {reason}")
        told.add(reason)
    return kept


def _tell_left_out(spec: RunSpec, methods: Sequence[MethodSpec], note: Note) -> None:
    """`all` leaves out what takes hours; say so."""
    if "all" not in spec.methods:
        return
    named = {method.name for method in methods}
    left = [name for name in find.method_names() if name not in named and find.method(name).trains_encoder]
    if left:
        note(f"'all' leaves out {', '.join(left)}, which train through the encoder: name them to run them.")


def _check_spec(spec: RunSpec) -> None:
    for policy in spec.policies or [spec.selection]:
        if policy not in SELECTIONS:
            raise UsageError(unknown("selection policy", policy, SELECTIONS))
    if spec.isolate and "oracle" in spec.policies:
        raise UsageError("--selection oracle shows test labels to the method, --isolate keeps them from it; drop one.")
    if spec.isolate and sys.platform == "win32":
        raise UsageError("--isolate needs Linux or macOS.")
    if spec.timeout is not None and (not spec.isolate or not spec.timeout > 0):
        raise UsageError("--timeout takes seconds above 0, and needs --isolate: only a process can be ended.")
    encoder.check_pixels(spec.pixels)
    if spec.executor != "local":
        raise UsageError(f"--executor {spec.executor} is not available in this version; use --executor local.")
    for shots in spec.shots:
        if type(shots) is not int:
            raise UsageError(f"--shots takes whole numbers, not {shots!r}.")
        if shots < 1:
            raise UsageError(f"--shots {shots}: at least 1 image per class is needed. The field uses 1,2,4,8,16.")
    for seed in spec.seeds or ():
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise UsageError(f"--seeds {seed!r}: a seed is a whole number from 0 to {2**32 - 1}.")
    if spec.seeds is not None and not spec.seeds:
        raise NothingSelected("No seed selected. Use --seeds 1,2,3.")


def _jobs(spec: RunSpec, device: str) -> int:
    """How many processes compute side by side; on a GPU only as many as were asked for, as they share its memory."""
    if type(spec.jobs) is not int or spec.jobs < 0:
        raise UsageError(f"--jobs takes the number of processes, or auto, not {spec.jobs!r}.")
    if spec.isolate and spec.jobs != 1:
        raise UsageError("--isolate gives each cell a process of its own already, one by one: leave out --jobs.")
    return spec.jobs or (machine.cores() if device == "cpu" else 1)


# -- data sets ---------------------------------------------------------------------------------------


def known_datasets() -> list[str]:
    """Every name that --datasets takes: built-in sets, own images, imported packs."""
    return sorted({*find.dataset_names(), *folders.own_sets(), *cache.imported_packs()})


def _sources(
    spec: RunSpec, device: str, note: Note
) -> tuple[list[tuple[Source, list[Source]]], tuple[HarnessError, ...]]:
    """Every source with its shifted sets, and what is missing of suites: that is left out, and told in one line.

    Raises Missing for what was asked for by its own name, and where nothing is left.
    """
    names, targets, typed, said = _dataset_names(spec)
    if spec.split_file is not None and len(names) != 1:
        raise UsageError(f"--split-file is a list for one data set, not for {len(names)}: {', '.join(names)}.")
    for line in said:
        note(line)
    found: list[tuple[Source, list[Source]]] = []
    absent: dict[str, Missing] = {}

    def made(name: str, wanted: Sequence[str], *given: Any) -> list[Source]:
        try:
            return [make_source(name, *given)]
        except Missing as error:
            if typed & {name, *wanted}:
                raise
            absent[name] = error
            return []

    for name in names:
        shifted = targets.get(name, [])
        way = (spec.precision, spec.pixels)
        for source in made(name, shifted, spec.encoder, spec.prompts, device, note, spec.split_file, *way):
            given = (source.encoder, "single", device, note, None, *way)
            parts = [made(target, (), *given) for target in shifted]
            found.append((source, [one for part in parts for one in part]))
    if not absent:
        return found, ()
    if not found:
        raise next(iter(absent.values()))
    line = f"left out, as not here: {', '.join(absent)}. The first: {next(iter(absent.values()))}"
    note(line)
    return found, (Missing(line),)


def _dataset_names(spec: RunSpec) -> tuple[list[str], dict[str, list[str]], set[str], list[str]]:
    """Sources to fit on, shifted targets of each, what was asked for by its own name, and lines to say."""
    said = []
    asked = list(spec.datasets)
    suites, known = find.suites(), known_datasets()
    if not asked:
        asked = [name for name in suites[DEFAULT_SUITE] if prepare.status(find.dataset(name)).state == "ready"]
    if not asked:
        asked = [FIRST_SUITE]
        said.append("No data set is prepared here: running the embedded demo suite with its own small encoder.")
    names: list[str] = []
    typed: set[str] = set()
    for item in asked:
        folded = {files.folded(name): name for name in (*suites, *known)}
        exact = item if item in known else folded.get(files.folded(item))
        if exact is None:
            raise UsageError(unknown("data set or suite", item, [*known, *suites]))
        if exact in suites and exact not in known:
            names += suites[exact]
        else:
            names.append(exact)
            typed.add(exact)
    sources: list[str] = []
    targets: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        built_in = name in find.dataset_names() and name not in cache.imported_packs()
        source = find.dataset(name).source if built_in else None
        if source is None:
            sources.append(name)
            continue
        targets.setdefault(source, []).append(name)
        if source not in names:
            said.append(f"{name} is a shifted test set: methods are fitted and tuned on {source}.")
            sources.append(source)
    return list(dict.fromkeys(sources)), targets, typed, said


def make_source(
    name: str,
    encoder_name: str | None,
    prompt_set: str,
    device: str,
    note: Note,
    shots_list: Path | None = None,
    precision: str = "auto",
    pixels: str = "pil",
) -> Source:
    """One data set under one encoder. Builds a generated data set on first use; downloads none."""
    pack = _pack(name, encoder_name, note)
    if pack is not None and shots_list is not None:
        raise UsageError(f"--split-file names images, but {name} is a pack of features.")
    if pack is not None and precision != "auto":
        raise UsageError(f"--precision is of an encoder, but {name} is a pack of features, which needs none.")
    if pack is not None and pixels != "pil":
        raise UsageError(f"--pixels is how images are read, but {name} is a pack of features, which has none.")
    if pack is not None:
        return PackSource(name, pack, device)
    found = place(name, note)
    if shots_list is not None:
        found = found.with_list(shots_list)
    encoder_name = _encoder_for(found.dataset, encoder_name, device, precision, note)
    return ImageSource(found, encoder_name, prompt_set, device, precision, pixels)


def _pack(name: str, encoder_name: str | None, note: Note) -> Pack | None:
    """The imported pack of this name; None if there is none, or if another encoder is asked for and has images."""
    packs, has_images = cache.imported_packs(), name in find.dataset_names()
    if name not in packs:
        return None
    pack = cache.open_pack(packs[name])
    if encoder_name in (None, pack.info.encoder):
        if has_images:
            note(f"{name}: using the imported pack of {pack.info.encoder} features.")
        return pack
    if has_images:
        return None
    raise UsageError(f"{name} is a pack of {pack.info.encoder} features; --encoder {encoder_name} cannot be used.")


def place(name: str, note: Note) -> Place:
    """The images of a data set: the user's own, generated ones, or downloaded ones."""
    if name in folders.own_sets():
        dataset, split, root = folders.load_own(name)
        return Place(dataset, split, root, folders.read_manifest(name).digest, "own")
    dataset = find.dataset(name)
    if dataset.build is not None:
        split, root = _built(dataset, note)
        return Place(dataset, split, root, splits.split_digest(split), "built")
    split, root = prepare.load(dataset, note=note)
    found = (len(split.train), len(split.val), len(split.test))
    notes = (
        (f"{_slashed(found)} of {_slashed(dataset.counts)} train/val/test images",)
        if dataset.counts not in (None, found)
        else ()
    )
    return Place(dataset, split, root, splits.split_digest(split), "coop", notes=notes)


def _slashed(counts: Sequence[int] | None) -> str:
    return "/".join(map(str, counts or ()))


def _built(dataset: Dataset, note: Note) -> tuple[Split, Path]:
    """Split and image folder of a generated data set: built once, then found."""
    from filelock import FileLock

    from harness.machine import versions

    assert dataset.build is not None
    home = files.data_root() / "built" / f"{dataset.name}-{versions()['harness']}"
    with files.disk_errors(home.parent):
        home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.parent / f".{home.name}.lock"):
        if not (home / "split.json").is_file():
            note(f"{dataset.name}: making its images")
            with files.new_folder(home) as folder:
                (folder / "images").mkdir()
                splits.save_split(dataset.build(folder / "images"), folder / "split.json")
    return splits.load_split(home / "split.json"), home / "images"


def _encoder_for(dataset: Dataset, asked: str | None, device: str, precision: str, note: Note) -> str:
    """The encoder asked for, else the data set's own, else the default, else what can be had without a network."""
    shipped = sorted(find.encoders())
    name = asked or dataset.encoder
    if name:
        plain = name.lower().replace("-", "_")
        return plain if plain in shipped else name
    try:
        encoder.identify(DEFAULT_ENCODER, device, precision)
        return DEFAULT_ENCODER
    except Missing as error:
        if not shipped:
            raise
        note(
            f"{dataset.name}: the default encoder {DEFAULT_ENCODER} cannot be had here ({error}). Using the embedded "
            f"{shipped[0]!r}, which knows little of real photographs: name a better one with --encoder."
        )
        return shipped[0]


def _seeds(source: Source, spec: RunSpec, note: Note) -> Sequence[int]:
    """The seeds asked for, else 1, 2, 3, else the one that a pack of fixed shots was drawn with."""
    if spec.seeds is not None:
        return spec.seeds
    if source.fixed is None:
        return DEFAULT_SEEDS
    seed = 1 if source.fixed[1] is None else source.fixed[1]
    note(f"{source.name} has one draw of shots: using --seeds {seed}.")
    return (seed,)


def _default_shots(source: Source, note: Note) -> int:
    """16, or the largest usual number that every class has images for."""
    if source.fixed is not None:
        return source.fixed[0]
    for shots in sorted(USUAL_SHOTS, reverse=True):
        try:
            source.check(shots, 1, "none")
        except UsageError as error:
            if shots == min(USUAL_SHOTS):
                raise
            reason = error
            continue
        if shots != max(USUAL_SHOTS):
            note(f"{source.name}: using --shots {shots}. {reason}")
        return shots
    raise AssertionError("unreachable")


# -- cells -------------------------------------------------------------------------------------------


def _cell(source: Source, shifted: Sequence[Source], method: MethodSpec, shots: int, seed: int, selection: str) -> Cell:
    shots_digest = source.shots_digest(shots, seed)
    records = []
    for scored in (source, *shifted):
        identity = Identity(
            method=method.name,
            method_version=method.version,
            dataset=scored.name,
            encoder=source.encoder,
            shots=shots,
            seed=seed,
            selection=selection,
            prompts=source.prompts,
            split=scored.split_name,
            overrides=dict(sorted(method.overrides.items())),
        )
        digests: dict[str, Any] = {
            **scored.digests,
            "prompts": source.digests["prompts"],
            "shots": shots_digest,
        }
        digests |= scored.images_digests(shots, seed) if scored is source else _held_images(scored)
        if scored is not source:
            digests["source"] = source.digests["split"]
            digests["support"] = source.images_digests(shots, seed).get("support", "")
        digests |= scored.space(method.second_space)
        records.append(Record(scored, identity, digests, cell_key(identity, digests)))
    return Cell(source, method, shots, seed, selection, tuple(records))


def _held_images(target: Source) -> dict[str, str]:
    """A shifted set has no shots of its own."""
    return {name: value for name, value in target.images_digests(0, 0).items() if name == "images"}


def _done(cell: Cell, store: Store) -> bool:
    found = [store.get(record.key) for record in cell.records]
    return all(result is not None and result.status == "ok" for result in found)
