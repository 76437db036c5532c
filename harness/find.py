"""Turn a name into a method or a data set: walks `methods/` and `benchmarks/`, entry points and plug-in files.

Listing names imports nothing; a module is imported when its name is asked for. A broken file is loud.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import files, types
from harness.errors import Missing, UsageError, unknown
from harness.types import Dataset, Method

ENTRY_POINTS = "harness.methods"
KINDS = (bool, int, float, str)  # of values fixed on the command line
FACTS = (  # of a class, that plans and lists must know
    "version",
    "title",
    "paper",
    "year",
    "parameters",
    "views",
    "second_space",
    "trains_encoder",
    "pixels",
    "transductive",
    "deterministic",
)


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A method as the command line asked for it: its name in tables, its version, and fixed values."""

    name: str
    version: str
    load: Callable[[], type[Method]]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its class, see FACTS
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def cls(self) -> type[Method]:
        """Its class; a built-in one is imported, and torch with it, when this is first asked for."""
        return self.load()

    @property
    def trains_encoder(self) -> bool:
        return bool(self.facts.get("trains_encoder"))

    @property
    def second_space(self) -> str:
        return str(self.facts.get("second_space", ""))


# -- methods -----------------------------------------------------------------------------------------


def method_names() -> list[str]:
    """Names of every built-in method and every entry point."""
    return sorted({*_module_names("methods"), *(_canonical(point.name) for point in _entry_points())})


def method(asked: str) -> MethodSpec:
    """Find `tip`, `Tip-F`, `tip[alpha=1.0,beta=5.5]`, `./mine.py` or `./mine.py[tau=0.1]`."""
    name, overrides = _parse(asked)
    spec = _plugin(Path(name)) if name.endswith(".py") else _named(_canonical(name))
    return dataclasses.replace(spec, overrides=_checked(spec, overrides)) if overrides else spec


def methods(asked: Iterable[str]) -> list[MethodSpec]:
    """Find every method of a list. Repeated requests count once.

    `all` stands for every known one but those that train through the encoder: they take hours where the others
    take seconds, and are run when named.
    """
    specs: dict[str, MethodSpec] = {}
    holders: dict[str, tuple[str, str]] = {}  # name in tables -> version, and who took the name first
    for item in asked:
        for name in method_names() if item == "all" else [item]:
            spec = method(name)
            if item == "all" and spec.trains_encoder:
                continue
            version, holder = holders.setdefault(spec.name, (spec.version, name))
            if version != spec.version:
                raise UsageError(f"{holder} and {name} would both be {spec.name!r} in tables; rename one of the files.")
            specs.setdefault(f"{spec.name}{sorted(spec.overrides.items())}", spec)
    return list(specs.values())


def _named(name: str) -> MethodSpec:
    if name in _module_names("methods"):
        facts = _remembered(name)
        return MethodSpec(name, facts["version"], partial(_built_in, name), facts)
    for point in _entry_points():
        if _canonical(point.name) == name:
            return _from_entry_point(point)
    raise UsageError(f"{unknown('method', name, method_names())} A file of your own: --methods ./{name}.py")


@cache
def _built_in(name: str) -> type[Method]:
    return _only_method(_import("methods", name), f"methods/{name}.py")


def facts_of(cls: type[Method]) -> dict[str, Any]:
    """What a class says of itself, and how many configurations its grids have."""
    sizes = [len(values) for grid in (cls.fit_grid, cls.logit_grid) for values in grid.values()]
    return {fact: getattr(cls, fact) for fact in FACTS} | {"configurations": math.prod(sizes)}


def _remembered(name: str) -> dict[str, Any]:
    """What plans and lists must know of a built-in method. It is remembered while no file of the folder changes,
    because a run that finds all its cells done needs no more, and importing a method imports torch."""
    folder = _package("methods")
    stats = [(path.name, path.stat()) for path in sorted([*folder.glob("*.py"), Path(types.__file__)])]
    stamp = files.digest_of([str(folder), FACTS, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]])
    card = files.cache_root() / "methods.json"
    remembered: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(card.read_text())
        if known["stamp"] == stamp:
            remembered = {name: dict(facts) for name, facts in known["methods"].items()}
    if name not in remembered:
        remembered[name] = facts_of(_built_in(name))
        with contextlib.suppress(Missing):  # a cache that cannot be written costs time alone
            files.write_atomic(card, json.dumps({"stamp": stamp, "methods": remembered}).encode())
    return remembered[name]


def _plugin(path: Path) -> MethodSpec:
    """Load a method from a file. Its version holds a digest of the file: an edit means new results."""
    if not path.is_file():
        raise UsageError(f"No method file {path}. Write one with `harness methods list` as a guide, or check the path.")
    if _canonical(path.stem) in method_names():
        raise UsageError(f"{path}: a method named {path.stem!r} exists already; give the file another name.")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:12]
    module_name = f"harness_plugin_{path.stem}_{digest}"
    if module_name in sys.modules:
        module = sys.modules[module_name]
    else:
        found = importlib.util.spec_from_file_location(module_name, path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module  # dataclasses look their module up
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the command's own
                found.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            raise _import_failed(f"{path}{_line_of(error, path)}", error) from error
    cls = _only_method(module, str(path))
    return MethodSpec(path.stem, f"{cls.version}+{digest}", lambda: cls, facts_of(cls))


def _from_entry_point(point: EntryPoint) -> MethodSpec:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            cls = point.load()
    except BaseException as error:
        raise _import_failed(f"method {point.name!r} of {point.value}", error) from error
    if not (inspect.isclass(cls) and issubclass(cls, Method)):
        raise UsageError(f"method {point.name!r}: {point.value} is not a subclass of harness.Method.")
    _check_contract(cls, point.value)
    release = point.dist.version if point.dist else ""
    name = _canonical(point.name)
    return MethodSpec(name, f"{cls.version}+{release}", lambda: cls, facts_of(cls))


def _only_method(module: ModuleType, place: str) -> type[Method]:
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise UsageError(f"{place}: expected one subclass of harness.Method, found {names}. One method per file.")
    cls: type[Method] = found[0]
    _check_contract(cls, place)
    return cls


def _check_contract(cls: type[Method], place: str) -> None:
    """Check what can be seen without fitting; `harness methods test` checks the rest."""
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise UsageError(f"{place}: {cls.__name__} must define {' and '.join(missing)}.")
    if "__dataclass_fields__" not in vars(cls):
        dataclasses.dataclass(eq=False)(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{place}: field {field.name!r} of {cls.__name__} needs a default value.")
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for grid_name in ("fit_grid", "logit_grid"):
        grid = getattr(cls, grid_name)
        if not isinstance(grid, Mapping):
            raise UsageError(f"{place}: {grid_name} must be a dict of field name to values, not {type(grid).__name__}.")
        for name, values in grid.items():
            if name not in known:
                raise UsageError(f"{place}: {grid_name} names {name!r}, which is no field of {cls.__name__}.")
            if isinstance(values, str) or not len(list(values)):
                raise UsageError(f"{place}: {grid_name}[{name!r}] must list at least one value.")


def _line_of(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f":{lines[-1]}" if lines else ""


# -- overrides: `tip[alpha=1.0,beta=5.5]` ------------------------------------------------------------


def _parse(asked: str) -> tuple[str, dict[str, str]]:
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", asked.strip())
    if not match:
        raise UsageError(f"Cannot read the method {asked!r}. Write NAME or NAME[field=value,field=value].")
    pairs = {}
    for pair in filter(None, (match[2] or "").split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"Cannot read {pair!r} in {asked!r}. Write NAME[field=value,field=value].")
        pairs[name.strip()] = value.strip()
    return match[1].strip(), pairs


def _checked(spec: MethodSpec, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Give each fixed value the type of its field's default."""
    defaults = vars(spec.cls())
    fields = {field.name: defaults.get(field.name) for field in dataclasses.fields(spec.cls)}  # type: ignore[arg-type]
    values = {}
    for name, text in overrides.items():
        if name not in fields:
            raise UsageError(unknown(f"hyperparameter of {spec.name}", name, fields))
        values[name] = _typed(spec.name, name, text, _kind(spec.cls, name, fields[name]))
    return values


def _kind(cls: type[Method], name: str, default: Any) -> type:
    """The type of a field: its default's, or, where that is None, the first that its annotation names."""
    if type(default) in KINDS:
        return type(default)
    with contextlib.suppress(Exception):  # an annotation may name anything
        hint = typing.get_type_hints(cls)[name]
        return next(kind for kind in KINDS if kind in (hint, *typing.get_args(hint)))
    return float


def _typed(method_name: str, name: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        value = kind(text)
    except (KeyError, ValueError):
        raise UsageError(f"{method_name}[{name}={text}]: {name} takes a {kind.__name__}, not {text!r}.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{method_name}[{name}={text}]: {name} takes a finite number, not {text!r}.")
    return value


# -- data sets ---------------------------------------------------------------------------------------


def dataset_names() -> list[str]:
    """Names of every built-in data set."""
    return _module_names("benchmarks")


def dataset(name: str) -> Dataset:
    """The built-in data set of that name."""
    if name not in dataset_names():
        raise UsageError(unknown("data set", name, dataset_names()))
    found = getattr(_import("benchmarks", name), "dataset", None)
    if not isinstance(found, Dataset) or found.name != name:
        raise UsageError(f"benchmarks/{name}.py must define `dataset = Dataset(name={name!r}, …)`.")
    return found


def suites() -> dict[str, tuple[str, ...]]:
    """Named lists of data sets."""
    _package("benchmarks")
    import benchmarks

    return benchmarks.SUITES


def encoders() -> dict[str, Path]:
    """Encoders that ship with the data sets: name -> folder."""
    _package("benchmarks")
    import benchmarks

    return benchmarks.ENCODERS


# -- the two folders ---------------------------------------------------------------------------------


def _canonical(name: str) -> str:
    return name.strip().lower().replace("-", "_")


@cache
def _package(package: str) -> Path:
    """The folder of `methods` or `benchmarks`, which must lie beside `harness`."""
    beside = Path(__file__).parents[1] / package
    found = importlib.util.find_spec(package)
    origin = Path(found.origin).parent if found and found.origin else None
    if origin is None or origin.resolve() != beside.resolve():
        place = origin or next(iter((found and found.submodule_search_locations) or []), "nowhere")
        raise UsageError(
            f"Another package named {package!r} hides ours: found {place}, expected {beside}. "
            "Remove it from the Python path, or start harness from another folder."
        )
    return beside


@cache
def _module_names(package: str) -> list[str]:
    return sorted(path.stem for path in _package(package).glob("*.py") if not path.stem.startswith("_"))


def _import(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except BaseException as error:
        raise _import_failed(f"{package}/{name}.py", error) from error


def _import_failed(place: str, error: BaseException) -> UsageError:
    """One line for whatever an import raised, `sys.exit()` included; only the user's own interrupt goes on."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    return UsageError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}")


def _entry_points() -> list[EntryPoint]:
    ours = _module_names("methods")
    return [point for point in entry_points(group=ENTRY_POINTS) if _canonical(point.name) not in ours]
