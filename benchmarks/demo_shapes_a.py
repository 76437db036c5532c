"""The demo's classes half hidden on misleading grounds: the counterpart of ImageNet-A."""

from __future__ import annotations

from functools import partial

from benchmarks._world import Look
from benchmarks.demo_shapes import TEMPLATES, shapes
from harness.types import Dataset

LOOK = Look(size=(0.4, 0.8), turn=45, squeeze=0.2, clutter=1.5, cover=0.6, busy=0.5)

dataset = Dataset(
    name="demo_shapes_a",
    title="Demo shapes A",
    templates=TEMPLATES,
    build=partial(shapes, look=LOOK, seed=2029),
    source="demo_shapes",
    encoder="demo",
    licence="CC0-1.0",
    citation="Rendered by this project from a seed.",
    note="Covered objects, textured grounds, weak contrast.",
)
