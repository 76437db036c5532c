"""The demo's classes drawn again, a little harder: the counterpart of ImageNet-V2."""

from __future__ import annotations

from functools import partial

from benchmarks._world import Look
from benchmarks.demo_shapes import TEMPLATES, shapes
from harness.types import Dataset

LOOK = Look(size=(0.48, 0.85), turn=39, squeeze=0.2, clutter=1.5)

dataset = Dataset(
    name="demo_shapes_v2",
    title="Demo shapes V2",
    templates=TEMPLATES,
    build=partial(shapes, look=LOOK, seed=2027),
    source="demo_shapes",
    encoder="demo",
    licence="CC0-1.0",
    citation="Rendered by this project from a seed.",
    note="Smaller, further turned, noisier.",
)
