"""The demo's classes as pencil drawings: the counterpart of ImageNet-Sketch."""

from __future__ import annotations

from functools import partial

from benchmarks._world import Look
from benchmarks.demo_shapes import TEMPLATES, shapes
from harness.types import Dataset

LOOK = Look(medium="sketch", size=(0.4, 0.75), turn=45, squeeze=0.25, clutter=0, noise=25)

dataset = Dataset(
    name="demo_shapes_sketch",
    title="Demo shapes Sketch",
    templates=TEMPLATES,
    build=partial(shapes, look=LOOK, seed=2028),
    source="demo_shapes",
    encoder="demo",
    licence="CC0-1.0",
    citation="Rendered by this project from a seed.",
    note="Pencil contours on light paper, without colour.",
)
