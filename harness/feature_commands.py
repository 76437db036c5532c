"""The commands on packs of features: list them, bring them in, hand them out, verify them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.commands import watch
from harness.errors import Exit, UsageError, unknown
from harness.printing import note, print_grid, print_json

VIEWS = 10  # augmented views in an exported pack: what Tip-Adapter's family asks for


def list_packs(options: Namespace) -> int:
    """Imported packs, then cache entries."""
    from harness import cache

    rows = [_pack_row(name, folder, "imported") for name, folder in cache.imported_packs().items()]
    rows += [_pack_row(folder.name, folder, "cache") for folder in cache.cached_packs()]
    if options.json:
        print_json(rows)
    else:
        headers = ("name", "kind", "dataset", "encoder", "parts", "shots", "megabytes", "problem")
        print_grid(headers, [[row[header] for header in headers] for row in rows])
    return Exit.OK


def _pack_row(name: str, folder: Path, kind: str) -> dict[str, Any]:
    from harness import cache

    row: dict[str, Any] = {"name": name, "kind": kind, "folder": str(folder), "dataset": "", "encoder": ""}
    row |= {"parts": "", "shots": "", "megabytes": "", "problem": ""}
    try:
        pack = cache.open_pack(folder)
    except Exception as error:  # a listing never fails for one bad entry
        return {**row, "problem": str(error)}
    info = pack.info
    megabytes = sum(entry.bytes for entry in info.files.values()) / 1e6
    shots = f"{info.fewshot.shots} (seed {info.fewshot.seed})" if info.fewshot else ""
    row |= {"dataset": info.dataset, "encoder": info.encoder, "parts": ",".join(pack.parts)}
    return row | {"shots": shots, "megabytes": round(megabytes, 2)}


def bring(options: Namespace) -> int:
    """Take features that somebody else extracted."""
    from harness import find, folders, importers

    if options.kind not in ("pack", "tip-adapter"):
        raise UsageError(unknown("kind of import", options.kind, ("pack", "tip-adapter")))
    taken = [*find.suites(), *folders.own_sets()]  # a pack may stand in for the images of a built-in data set
    if options.kind == "pack":
        for flag in ("encoder", "classes", "shots", "text", "scale"):
            if getattr(options, flag) is not None:
                raise UsageError(f"--{flag} is for --from tip-adapter; a pack says it itself.")
        pack = importers.import_pack(
            options.path, options.name, force=options.force, taken=taken, trust_labels=options.trust_labels
        )
    else:
        for flag in ("encoder", "classes"):
            if getattr(options, flag) is None:
                raise UsageError(f"--from tip-adapter needs --{flag}: the .pt files do not say it.")
        pack = importers.import_tip_adapter(
            options.path,
            encoder=options.encoder,
            classes=options.classes,
            name=options.name or options.path.resolve().name,
            shots=options.shots,
            scale=100.0 if options.scale is None else options.scale,
            trust_labels=options.trust_labels,
            text=options.text,
            force=options.force,
            taken=taken,
        )
    name = pack.folder.name
    if options.json:
        print_json(_pack_row(name, pack.folder, "imported"))
    else:
        print(
            f"{name}: {len(pack.info.classes)} classes, {', '.join(pack.parts)}. Run it: harness run --datasets {name}"
        )
    return Exit.OK


def export(options: Namespace) -> int:
    """Write what an episode and its test read as one pack, extracting what is missing."""
    from harness import cache, encoder, imo
    from harness.episodes import ImageSource, PackSource
    from harness.plan import make_source

    device = encoder.resolve_device(options.device)
    encoder.check_pixels(options.pixels)
    way = (options.precision, options.pixels)
    source = make_source(options.name, options.encoder, options.prompts, device, note, None, *way)
    if isinstance(source, PackSource):
        pack = cache.export_pack(source.pack, options.folder)
    else:
        assert isinstance(source, ImageSource)
        source.check(options.shots, options.seed, "none")
        draw, space = (options.shots, options.seed), imo.SPACE if options.second_space else ""
        source.space(space)
        source.prepare([draw], VIEWS, watch(options.json), space)
        second = source.second_packs(*draw, space) if space else []
        pack = cache.export_pack(source.packs(*draw), options.folder, second)
    if options.json:
        print_json(_pack_row(options.name, pack.folder, "exported"))
    else:
        print(f"{pack.folder}: {', '.join(pack.parts)} of {options.name}, {pack.info.encoder}.")
    return Exit.OK


def verify(options: Namespace) -> int:
    """Check every byte and every number; damaged cache entries are set aside, imports are left to their owner."""
    from harness import cache

    imported = cache.imported_packs()
    folders = [*imported.values(), *cache.cached_packs()]
    if options.name is not None:
        folder = imported.get(options.name, Path(options.name))
        if not folder.is_dir():
            raise UsageError(unknown("pack", options.name, imported))
        folders = [folder]
    rows = [{"folder": str(folder), "problems": _verified(cache.verify, folder)} for folder in folders]
    if options.json:
        print_json(rows)
    for row in rows:
        for problem in row["problems"]:
            note(f"harness: {row['folder']}: {problem}")
    damaged = sum(bool(row["problems"]) for row in rows)
    note(f"{len(rows) - damaged} of {len(rows)} packs are sound.")
    return Exit.CORRUPT if damaged else Exit.OK


def _verified(verify: Callable[[Any], list[str]], folder: Path) -> list[str]:
    from harness import cache
    from harness.errors import HarnessError

    try:
        return verify(cache.open_pack(folder))
    except HarnessError as error:
        return [str(error)]
