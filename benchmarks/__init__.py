"""Data sets, one per file; suites are named lists of them."""

from __future__ import annotations

from pathlib import Path

SUITES: dict[str, tuple[str, ...]] = {
    "demo": (
        "demo_shapes",
        "demo_digits",
        "demo_shapes_v2",
        "demo_shapes_sketch",
        "demo_shapes_a",
        "demo_shapes_r",
    ),
    "core11": (
        "imagenet",
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "flowers102",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    ),
    "ood4": ("imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
}

# Encoders that ship with the data sets they were made for: name -> folder that open_clip can load.
ENCODERS: dict[str, Path] = {"demo": Path(__file__).parent / "_demo_clip"}
