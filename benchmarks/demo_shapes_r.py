"""The demo's classes as cartoons, mosaics and posters: the counterpart of ImageNet-R."""

from __future__ import annotations

from functools import partial

from benchmarks._world import Look
from benchmarks.demo_shapes import TEMPLATES, shapes
from harness.types import Dataset

LOOK = Look(medium="rendition", size=(0.5, 0.85), turn=35, squeeze=0.2, clutter=1)

dataset = Dataset(
    name="demo_shapes_r",
    title="Demo shapes R",
    templates=TEMPLATES,
    build=partial(shapes, look=LOOK, seed=2030),
    source="demo_shapes",
    encoder="demo",
    licence="CC0-1.0",
    citation="Rendered by this project from a seed.",
    note="Cartoons, mosaics and posters in any colour.",
)
