"""The command line: parse, call, turn every ending into an exit code.

Importing this file imports nothing heavy; each command imports what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import Exit, HarnessError, UsageError, unknown


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one line, and whose defaults may come from outside."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


class _Collect(argparse.Action):
    """A list flag: takes commas, repetition, or both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given: set[str] = getattr(namespace, "_given", set())
        before = getattr(namespace, self.dest) or [] if self.dest in given else []
        setattr(namespace, self.dest, [*before, *values])
        namespace._given = {*given, self.dest}


def _words(text: str) -> list[str]:
    return [word.strip() for word in re.split(r",(?![^\[]*\])", text) if word.strip()]  # not inside [a=1,b=2]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,2,4") from None


def _jobs(text: str) -> int:
    if text.strip().lower() == "auto":
        return 0
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of processes nor auto") from None


def _path(text: str) -> Path:
    if not text:  # an unset variable of a shell, which would mean this folder
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def _paths(text: str) -> list[Path]:
    return [_path(word) for word in _words(text)] or [_path("")]


# -- the commands and their flags --------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags. `command` names a file of harness/ and a function in it."""
    from harness import __version__

    parser = _Parser(prog="harness", description="Compare few-shot CLIP adapters under one fair protocol.")
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_run(commands)
    _add_table(commands)
    _add_compare(commands)
    _add_plot(commands)
    _add_report(commands)
    _add_bench(commands)
    _add_check(commands)
    _add_methods(commands)
    _add_data(commands)
    _add_features(commands)
    _add_encoder(commands)
    _add_analyse(commands)
    _add_results(commands)
    doctor = _command(commands, "doctor", "commands:doctor", "look at versions, devices, folders, caches and the store")
    doctor.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    return parser


def _command(group: Any, name: str, function: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON, and only JSON, on standard output")
    return parser


def _group(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return parser.add_subparsers(metavar="ACTION", required=True, parser_class=_Parser)


def _list_flag(parser: argparse.ArgumentParser, name: str, kind: Callable[[str], Any], text: str, default: Any) -> None:
    parser.add_argument(name, type=kind, action=_Collect, default=default, help=text, metavar="LIST")


_PRECISION = "of the encoder: auto (default: fp16 on a GPU, else fp32), fp32, bf16 or fp16"
_PIXELS = "what reads and resizes images: pil (default), or tensor: torchvision, faster, on a CPU to 1 or 2 grey levels"


def _add_run(commands: Any) -> None:
    run = _command(commands, "run", "commands:run", "fit, tune and score methods, then show the table")
    _list_flag(run, "--methods", _words, "names, NAME[field=value], ./file.py, or all (default: %(default)s)",
               "zero_shot,tip,linear_probe,dac")  # fmt: skip
    _list_flag(run, "--datasets", _words, "names or suites (default: what is prepared, else demo)", None)
    _list_flag(run, "--shots", _numbers, "images per class (default: 16, or what the data set allows)", None)
    _list_flag(run, "--seeds", _numbers, "few-shot draws (default: 1,2,3)", None)
    run.add_argument("--encoder", metavar="NAME[:PRETRAINED]", help="an open_clip model, a checkpoint, or demo")
    run.add_argument("--selection", default="val-min4", metavar="LIST",
                     help="val-min4 (default), val-full, none, support-cv, oracle, or several with commas")  # fmt: skip
    run.add_argument(
        "--prompts",
        default="single",
        metavar="SET",
        help="single (default), imagenet7, openai80, or a set that the data set has: openai, cupl",
    )
    run.add_argument("--split-file", type=Path, metavar="FILE", help="a published list of shots instead of draws")
    run.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="the store (default: results)"
    )
    run.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:0")
    run.add_argument("--precision", default="auto", help=_PRECISION)
    run.add_argument("--pixels", default="pil", help=_PIXELS)
    run.add_argument("--executor", default="local", help="local (default)")
    run.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes that compute cells side by side: a "
                     "number, or auto, one per core and on a GPU one (default: %(default)s)")  # fmt: skip
    run.add_argument("--isolate", action="store_true", help="fit and score each cell in a process without test data")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="with --isolate: end a cell that takes longer")
    run.add_argument("--config", type=Path, metavar="FILE.toml", help="flags of this command from the table [run]")
    run.add_argument("--force", action="store_true", help="compute again what is done already")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def _add_table(commands: Any) -> None:
    table = _command(commands, "table", "table_commands:table", "rank the methods in a store", json=False)
    table.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="the store (default: results)"
    )
    table.add_argument("--format", default="term", metavar="FORMAT", help="term (default), md, latex, csv, json, html")
    table.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    _add_filters(table)
    table.add_argument("--allow-mixed", action="store_true", help="show what cannot be ranked together, ranked apart")
    table.add_argument("--cost", action="store_true", help="show times, memory and parameters, each machine by itself")
    table.add_argument("--published", action="store_true", help="set published figures beside ours, with a verdict")
    table.add_argument("--by", metavar="AXIS", help="columns by dataset (default), shots or encoder")
    table.add_argument("--baseline", metavar="METHOD", help="show differences from this method")
    table.add_argument(
        "--rows", type=int, metavar="N", help="show the first N rows of each ranking, and say what is not shown"
    )
    _list_flag(table, "--columns", _words, "show these columns only", None)


def _add_plot(commands: Any) -> None:
    plot = _command(commands, "plot", "plot_commands:plot", "draw a figure, with its numbers in a file beside it")
    plot.add_argument("kind", metavar="KIND", help="accuracy, pareto, shift or critical-difference")
    plot.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="the store")
    plot.add_argument(
        "--output", type=_path, action="append", metavar="FILE", help="a file to write: .png, .svg or .pdf"
    )
    _list_flag(plot, "--format", _words, "png, svg, pdf (default: all three, in DIR/plots)", None)
    plot.add_argument("--x", default="fit", help="pareto: fit (seconds, default), select (seconds) or parameters")
    plot.add_argument("--allow-mixed", action="store_true", help="leave out records of older data, do not refuse")
    _add_filters(plot)


def _add_report(commands: Any) -> None:
    report = _command(commands, "report", "plot_commands:report", "write one page with tables and figures")
    report.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="the store")
    report.add_argument("--output", type=_path, metavar="FILE", help="the page (default: DIR/report.html)")
    report.add_argument("--allow-mixed", action="store_true", help="leave out records of older data, do not refuse")
    _add_filters(report)


def _add_compare(commands: Any) -> None:
    text = "set two methods, stores, commits or published:NAME against each other"
    compare = _command(commands, "compare", "table_commands:compare", text)
    compare.add_argument("first", metavar="A", help="a method, a store, a commit that made records, or published:NAME")
    compare.add_argument("second", metavar="B", help="the same; A minus B is shown")
    compare.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="the store of methods (default: results)"
    )
    _add_filters(compare)
    compare.add_argument("--power", action="store_true", help="say how many seeds or data sets would be needed")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Flags that pick records."""
    for name in ("--methods", "--datasets", "--encoder", "--prompts"):
        _list_flag(parser, name, _words, "these only", None)
    _list_flag(parser, "--selection", _words, "these policies only; all sets them side by side", None)
    for name in ("--shots", "--seeds"):
        _list_flag(parser, name, _numbers, "these only", None)


def _add_bench(commands: Any) -> None:
    bench = _command(commands, "bench", "bench_commands:bench",
                     "time extract, fit, select and predict, with repeats")  # fmt: skip
    _list_flag(bench, "--methods", _words, "names, NAME[field=value], ./file.py, or all (default: %(default)s)",
               "zero_shot,tip,linear_probe,dac")  # fmt: skip
    _list_flag(bench, "--datasets", _words, "names or suites whose features are here (default: as in run)", None)
    _list_flag(bench, "--shots", _numbers, "images per class (default: 16, or what the data set allows)", None)
    _list_flag(bench, "--seeds", _numbers, "few-shot draws (default: 1)", [1])
    bench.add_argument("--repeats", type=int, default=10, help="counted calls of each stage (default: %(default)s)")
    bench.add_argument("--selection", metavar="POLICY",
                       help="how the timed search chooses; none: no search (default: val-min4)")  # fmt: skip
    bench.add_argument("--images", type=int, default=64, metavar="N",
                       help="images whose extraction is timed; 0: none (default: %(default)s)")  # fmt: skip
    bench.add_argument("--encoder", metavar="NAME[:PRETRAINED]", help="an open_clip model, a checkpoint, or demo")
    bench.add_argument("--prompts", default="single", metavar="SET", help="as in run (default: %(default)s)")
    bench.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:0")
    bench.add_argument("--precision", default="auto", help=_PRECISION)
    bench.add_argument("--pixels", default="pil", help=_PIXELS)
    bench.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                       help="the store; records go to DIR/bench (default: results)")  # fmt: skip


def _add_check(commands: Any) -> None:
    check = _command(commands, "check", "check_commands:check", "compare a store with a baseline; 4 means worse",
                     json=False)  # fmt: skip
    check.add_argument("--baseline", type=_path, default=Path("results/baseline.json"), metavar="FILE",
                       help="what was committed (default: results/baseline.json)")  # fmt: skip
    _list_flag(check, "--results", _paths, "the store; of several, costs are averaged (default: results)",
               [Path("results")])  # fmt: skip
    check.add_argument("--run", action="store_true", help="first compute what the store lacks of the baseline")
    check.add_argument("--accuracy-tolerance", type=float, default=0.0, metavar="P",
                       help="points let pass (default: 0)")  # fmt: skip
    check.add_argument("--time-factor", type=float, metavar="F", help="slow-down let pass (default: what runs "
                       "differ by, 1.07 or less); if given, another machine is an error")  # fmt: skip
    check.add_argument("--alpha", type=float, default=0.01, metavar="A", help="chance of a false alarm (default: 0.01)")
    check.add_argument("--format", default="term", metavar="FORMAT", help="term (default), json, github or junit")
    check.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    check.add_argument("--update", action="store_true", help="write the store as the new baseline; say what changes")


def _add_methods(commands: Any) -> None:
    group = _group(commands, "methods", "list the methods, explain one, or test your own")
    _command(group, "list", "method_commands:methods_list", "list every method")
    info = _command(
        group, "info", "method_commands:methods_info", "explain a method: its source, its fields, its search space"
    )
    info.add_argument("name")
    new = _command(group, "new", "method_commands:methods_new", "write a file that a method of your own begins with")
    new.add_argument("name", help="the name that it will have in tables")
    new.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where to write it (default: here)")
    test = _command(
        group, "test", "method_commands:methods_test", "check a method, by name or file, against the contract"
    )
    test.add_argument("name", metavar="NAME|FILE.py")


def _add_data(commands: Any) -> None:
    group = _group(commands, "data", "list data sets, get them, add your own images, print drawn shots")
    _command(group, "list", "data_commands:list_sets", "list every data set and what it lacks")
    get = _command(group, "prepare", "data_commands:get", "find, download, verify and unpack data sets")
    get.add_argument("names", nargs="+", metavar="NAME", help="names or suites such as core11 and ood4")
    get.add_argument("--from", dest="from_path", type=_path, metavar="PATH", help="a folder or archive that you have")
    get.add_argument("--jobs", type=int, default=4, help="downloads at a time (default: %(default)s)")
    verify = _command(group, "verify", "data_commands:verify", "count the images of data sets again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="names or suites (default: all that are here)")
    verify.add_argument("--hashes", action="store_true", help="read every image, and compare with the last time")
    add = _command(group, "add", "data_commands:add", "take a folder of images, or a CSV, as a data set")
    add.add_argument("path", type=Path)
    add.add_argument("--name", required=True, help="the name to run it by")
    add.add_argument("--templates", action="append", metavar="TEXT", help='such as "a photo of a {}."; may be repeated')
    add.add_argument("--seed", type=int, default=1, help="seed of the split, where it is drawn (default: %(default)s)")
    add.add_argument("--force", action="store_true", help="replace a data set of this name")
    shots = _command(group, "shots", "data_commands:shots", "print the images that a seed draws")
    shots.add_argument("name")
    shots.add_argument("--shots", type=int, default=16)
    shots.add_argument("--seed", type=int, default=1)
    shots.add_argument("--split-file", type=Path, metavar="FILE", help="a published list instead of a draw")


def _add_features(commands: Any) -> None:
    group = _group(commands, "features", "list, bring in, hand out and verify packs of features")
    _command(group, "list", "feature_commands:list_packs", "list imported packs and cache entries")
    text = "take a pack, or a caches folder of the Tip-Adapter family"
    bring = _command(group, "import", "feature_commands:bring", text)
    bring.add_argument("path", type=Path)
    bring.add_argument("--from", dest="kind", default="pack", help="pack (default) or tip-adapter")
    bring.add_argument("--name", help="the name to run it by (default: the pack's own, or the folder's)")
    bring.add_argument("--encoder", help="tip-adapter: the encoder that made the features")
    bring.add_argument("--classes", type=Path, metavar="FILE", help="tip-adapter: class names, one per line")
    bring.add_argument("--shots", type=int, help="tip-adapter: which keys_Kshots.pt, where there are several")
    bring.add_argument("--text", metavar="FILE", help="tip-adapter: which text_weights*.pt, where there are several")
    bring.add_argument("--scale", type=float, help="tip-adapter: logit scale (default: 100)")
    bring.add_argument("--trust-labels", action="store_true", help="skip the check of labels against the text")
    bring.add_argument("--force", action="store_true", help="replace a pack of this name")
    export = _command(group, "export", "feature_commands:export", "write the features of a data set as one pack")
    export.add_argument("name")
    export.add_argument("folder", type=Path)
    export.add_argument("--shots", type=int, default=16)
    export.add_argument("--seed", type=int, default=1)
    export.add_argument("--encoder", metavar="NAME[:PRETRAINED]")
    export.add_argument("--prompts", default="single", metavar="SET")
    export.add_argument("--device", default="auto")
    export.add_argument("--precision", default="auto", help=_PRECISION)
    export.add_argument("--pixels", default="pil", help=_PIXELS)
    export.add_argument("--second-space", action="store_true", help="also the features of the image adapters (imo)")
    verify = _command(group, "verify", "feature_commands:verify", "check packs and cache entries to the last byte")
    verify.add_argument("name", nargs="?", help="a pack or a folder (default: all)")


def _add_analyse(commands: Any) -> None:
    group = _group(commands, "analyse", "look into a feature space")
    text = "measure the overlap of paired and unpaired images with the image adapters and without, accuracy beside it"
    overlap = _command(group, "overlap", "encoder_commands:analyse_overlap", text)
    _list_flag(overlap, "--datasets", _words, "names or suites (default: %(default)s)", ["demo_shapes", "demo_digits"])
    overlap.add_argument("--encoder", metavar="NAME[:PRETRAINED]", help="a ViT of open_clip, or demo")
    overlap.add_argument("--part", default="val", help="val (default), support (the drawn shots) or test")
    overlap.add_argument("--shots", type=int, default=16, help="with --part support (default: %(default)s)")
    overlap.add_argument("--seed", type=int, default=1, help="with --part support (default: %(default)s)")
    overlap.add_argument("--format", default="term", metavar="FORMAT", help="term (default), md, csv or json")
    overlap.add_argument("--output", type=_path, metavar="FILE", help="also a figure: .png, .svg or .pdf")
    overlap.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:0")


def _add_encoder(commands: Any) -> None:
    group = _group(commands, "encoder", "train what goes into an encoder")
    train = _command(
        group, "train-imo", "encoder_commands:train_imo", "train image adapters once, on a generic labelled image set"
    )
    train.add_argument("--data", required=True, metavar="NAME|FOLDER", help="a data set, or a folder of class folders")
    train.add_argument("--encoder", required=True, metavar="NAME[:PRETRAINED]", help="a ViT of open_clip, or demo")
    train.add_argument("--epochs", type=int, default=1, help="times that every image is seen (default: %(default)s)")
    train.add_argument("--batch", type=int, default=128, help="images per step (default: %(default)s)")
    train.add_argument("--lr", type=float, default=8e-3, help="learning rate of AdamW (default: %(default)s)")
    train.add_argument("--weight-decay", type=float, default=0.01, help="of AdamW (default: %(default)s)")
    train.add_argument("--seed", type=int, default=0, help="of order, start and dropout (default: %(default)s)")
    train.add_argument(
        "--input-normalisation",
        default="none",
        metavar="HOW",
        help="none (default), as the released code trains, or clip, as the encoder is used afterwards",
    )
    train.add_argument("--output", type=Path, metavar="FILE", help="another place than the one where run looks")
    train.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:0")


def _add_results(commands: Any) -> None:
    group = _group(commands, "results", "look into a store, export it, bring stores together")
    for name, text in (
        ("list", "list every record"),
        ("show", "print one record"),
        ("schema", "print the schema"),
    ):
        parser = _command(group, name, f"result_commands:results_{name}", text)
        parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
        if name == "show":
            parser.add_argument("key", help="a key, or its first characters")
    export = _command(group, "export", "result_commands:results_export", "write records for other tools")
    export.add_argument("target", type=_path, metavar="FILE|DIR", help="a file; for eee a folder")
    export.add_argument("--format", default="csv", metavar="FORMAT", help="csv (default), parquet or eee")
    export.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    _add_filters(export)
    merge = _command(group, "merge", "result_commands:results_merge", "bring stores together in one")
    merge.add_argument("stores", nargs="+", type=_path, metavar="STORE")
    merge.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where to (default: results)"
    )
    recover = _command(
        group, "recover", "result_commands:results_recover", "set damaged records aside, clear leftovers"
    )
    recover.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")


# -- defaults from the environment and from a file ---------------------------------------------------


def _leaves(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its path: ("run",), ("data", "add")."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield path, parser
    for action in nested:
        for name, child in action.choices.items():
            yield from _leaves(child, (*path, name))


def _leaf(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[tuple[str, ...], argparse.ArgumentParser]:
    """The command that these words ask for."""
    leaves = dict(_leaves(parser))
    asked = tuple(words[:2])
    for path in (asked, asked[:1]):
        if path in leaves:
            return path, leaves[path]
    groups = sorted({path[0] for path in leaves})
    if asked and asked[0] in groups:
        actions = [path[1] for path in leaves if path[0] == asked[0]]
        if len(asked) == 1 or asked[1].startswith("-"):
            raise UsageError(f"harness {asked[0]}: say what to do: {', '.join(actions)}.")
        raise UsageError(unknown(f"action of harness {asked[0]}", asked[1], actions))
    raise UsageError(unknown("command", asked[0] if asked else "", groups))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read flags over environment over configuration file over defaults."""
    parser = build_parser()
    if not arguments or arguments[0].startswith("-"):
        return parser.parse_args(arguments or ["--help"])
    if "--help" in arguments or "-h" in arguments:
        return parser.parse_args(arguments)
    path, leaf = _leaf(parser, arguments)
    flags = {_flag_name(action): action for action in leaf._actions if action.option_strings and action.dest != "help"}
    prefix = "HARNESS_" + "_".join(path).upper().replace("-", "_") + "_"
    environment = {name: os.environ[prefix + name.upper()] for name in flags if prefix + name.upper() in os.environ}
    if "config" in flags:
        config = parser.parse_args(arguments).config or environment.get("config")
        config = None if config is None else Path(config)
    else:
        config = None
    if config is not None:
        _set_defaults(leaf, flags, _read_config(config, path[0], flags), str(config))
    _set_defaults(leaf, flags, environment, "the environment")
    return parser.parse_args(arguments)


def _flag_name(action: argparse.Action) -> str:
    """`--dry-run` -> `dry_run`, as files and environment variables call it."""
    return max(action.option_strings, key=len).lstrip("-").replace("-", "_")


def _read_config(path: Path, section: str, flags: dict[str, argparse.Action]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}.") from error
    table = document.get(section)
    if not isinstance(table, dict):
        raise UsageError(f"--config {path}: needs a table [{section}], such as [{section}] methods = ['tip'].")
    values = {name.replace("-", "_"): value for name, value in table.items()}
    for name in values:
        if name not in flags:
            raise UsageError(f"--config {path}: {unknown('flag', name, flags)}")
    return values


def _set_defaults(
    leaf: argparse.ArgumentParser, flags: dict[str, argparse.Action], values: dict[str, Any], place: str
) -> None:
    """Make values from outside the defaults of a command, checked as flags are."""
    for name, value in values.items():
        action = flags[name]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if isinstance(action, argparse._StoreTrueAction):
            if text.lower() not in ("true", "false", "1", "0"):
                raise UsageError(f"{name} in {place} takes true or false, not {text!r}.")
            leaf.set_defaults(**{action.dest: text.lower() in ("true", "1")})
            continue
        try:
            kind = action.type if callable(action.type) else str
            found = kind(text)
            leaf.set_defaults(**{action.dest: [found] if isinstance(action, argparse._AppendAction) else found})
            action.required = False
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise UsageError(f"{name} in {place}: {error}.") from error


# -- the end of every command ------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every mistake is one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads double the cost of small operations
    try:
        options = parse(words)
        file, _, function = options.command.partition(":")
        return int(getattr(importlib.import_module(f"harness.{file}"), function)(options))
    except HarnessError as error:
        return _tell(error, str(error), words, error.code)
    except KeyboardInterrupt as error:
        return _tell(error, "interrupted; what is done is stored, and the same command goes on from there", words,
                     Exit.INTERRUPTED)  # fmt: skip
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `harness table | head`
        return Exit.OK
    except Exception as error:
        return _tell(
            error,
            f"internal error: {type(error).__name__}: {error} (--debug shows more)",
            words,
            Exit.INTERNAL,
        )


def _tell(error: BaseException, line: str, words: Sequence[str], code: Exit) -> int:
    if "--debug" in words:
        import traceback

        traceback.print_exception(error)
    print(f"harness: {' '.join(line.split())}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
