"""Compare few-shot CLIP adapters under one fair protocol.

Python does what the command does: `harness.run(methods=["tip"], datasets=["demo"])`, `harness.load("results")`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.types import Dataset, Episode, Features, Method, Split, Text

if TYPE_CHECKING:
    from harness.results import Loaded
    from harness.runner import Report

__version__ = "0.1.0"
__all__ = ["Dataset", "Episode", "Features", "Method", "Split", "Text", "__version__", "load", "run"]


def run(**spec: Any) -> Report:
    """Run a plan; arguments are the fields of `harness.plan.RunSpec`: methods, datasets, shots, seeds, …

    A single method, data set, number of shots or seed may stand by itself."""
    from harness.plan import RunSpec
    from harness.runner import run as run_spec

    lists = ("methods", "datasets", "shots", "seeds")
    one = {name: [spec[name]] for name in lists if isinstance(spec.get(name), str | int)}
    return run_spec(RunSpec(**{**spec, **one, "results": Path(spec.get("results", "results"))}))


def load(folder: str | Path = "results") -> Loaded:
    """Read a store; `.to_frame()` gives a pandas frame with one row per record."""
    from harness.results import Store

    return Store(Path(folder)).load()
