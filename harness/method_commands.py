"""What the commands do that list methods, explain one and test one."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, UsageError
from harness.printing import note, print_grid, print_json

if TYPE_CHECKING:
    from harness.find import MethodSpec


def methods_list(options: Namespace) -> int:
    """Every method in one line each. A broken one is told and does not hide the others."""
    from harness import find

    rows, broken = [], 0
    for name in find.method_names():
        try:
            rows.append(_about(find.method(name)))
        except UsageError as error:
            broken += 1
            note(f"harness: {error}")
    if options.json:
        print_json(rows)
    else:
        headers = ("name", "title", "year", "trained parameters", "needs", "configurations", "paper")
        print_grid(headers, [_line(row) for row in rows])
    return Exit.SOME_FAILED if broken else Exit.OK


def _line(row: Mapping[str, Any]) -> list[Any]:
    parameters = row["parameters"] if row["trains"] else "none"
    paper = textwrap.shorten(row["paper"], 70, placeholder=" …")
    return [
        row["name"], row["title"], row["year"] or "", parameters, ", ".join(row["needs"]), row["configurations"], paper
    ]  # fmt: skip


def _about(spec: MethodSpec) -> dict[str, Any]:
    """What a method says of itself, without importing it where that can be helped."""
    facts = spec.facts
    return {
        "name": spec.name,
        "title": facts["title"] or spec.name,
        "paper": facts["paper"],
        "year": facts["year"],
        "version": spec.version,
        "trains": facts["parameters"] != "0",
        "parameters": facts["parameters"],
        "needs": _needs(facts),
        "views": facts["views"],
        "transductive": facts["transductive"],
        "trains_encoder": facts["trains_encoder"],
        "deterministic": facts["deterministic"],
        "configurations": facts["configurations"],
    }


def _needs(facts: Mapping[str, Any]) -> list[str]:
    """What a method asks for beside support features and text."""
    wanted = {
        f"{facts['views']} views": facts["views"],
        "second space": facts["second_space"],
        "encoder": facts["trains_encoder"],
        "images": facts["pixels"],
        "all queries at once": facts["transductive"],
        "validation": facts["configurations"] > 1,
    }
    return [need for need, asked in wanted.items() if asked]


def methods_info(options: Namespace) -> int:
    """A method's own words, its fields and its search space."""
    import inspect

    from harness import find
    from harness.tune import values_of

    spec = find.method(options.name)
    default = spec.cls()
    grids = {name: [list(values) for values in getattr(default, name).values()] for name in ("fit_grid", "logit_grid")}
    about = {
        **_about(spec),
        "fields": values_of(default),
        "fit_grid": dict(zip(default.fit_grid, grids["fit_grid"], strict=True)),
        "logit_grid": dict(zip(default.logit_grid, grids["logit_grid"], strict=True)),
        "doc": inspect.getdoc(spec.cls) or "",
    }
    if options.json:
        print_json(about)
        return Exit.OK
    print(f"{about['name']}: {about['title']}\n{about['paper'] or 'no paper'} ({about['year'] or 'no year'})\n")
    needs = ", ".join(about["needs"]) or "nothing more"
    print(f"{about['doc']}\n\nTrained parameters: {about['parameters']}. Needs: {needs}.\n")
    for name, value in about["fields"].items():
        print(f"  {name} = {value!r}{_searched(about, name)}")
    print(f"\n{about['configurations']} configurations are tried where validation labels may be used.")
    return Exit.OK


def _searched(about: dict[str, Any], name: str) -> str:
    for grid in ("fit_grid", "logit_grid"):
        values = about[grid].get(name)
        if values:
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values[:6])
            return f"   searched: {shown}" + (f", … {values[-1]:g} ({len(values)} values)" if len(values) > 6 else "")
    return ""


def methods_new(options: Namespace) -> int:
    """Write a method to begin with."""
    from harness.scaffold import write_method

    path = write_method(options.name, options.folder)
    if options.json:
        print_json({"path": str(path)})
    else:
        print(f"Wrote {path}. Check it: harness methods test {path}   Run it: harness run --methods zero_shot,{path}")
    return Exit.OK


def methods_test(options: Namespace) -> int:
    """Run the contract over one method and say what to mend."""
    from harness import contract, find

    spec = find.method(options.name)
    with contextlib.redirect_stdout(sys.stderr):
        findings = contract.check(spec.cls)
    if options.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}" + ("" if finding.ok else f": {finding.message}"))
    failed = sum(not finding.ok for finding in findings)
    note(f"{len(findings) - failed} of {len(findings)} checks passed.")
    return Exit.SOME_FAILED if failed else Exit.OK
