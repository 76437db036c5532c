"""ImageNet-Sketch: black and white drawings of ImageNet's classes."""

from __future__ import annotations

from benchmarks import _imagenet
from harness.types import Dataset, Remote

dataset = Dataset(
    name="imagenet_sketch",
    title="ImageNet-Sketch",
    templates=_imagenet.TEMPLATES,
    source="imagenet",
    archives=(
        Remote(
            file="ImageNet-Sketch.zip",
            urls=("https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",),
            bytes=7593573012,
            sha256="4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
            by_hand="If this mirror fails, a browser can fetch the authors' own file from "
            "https://drive.google.com/file/d/1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA/view.",
        ),
    ),
    roots=("imagenet-sketch/images", "imagenet-sketch/sketch", "sketch"),
    # as in the catalogue of tensorflow-datasets; the authors' README says 50,000, their list of paths has 50,874
    counts=(0, 0, 50889),
    classes=_imagenet.CLASSES,
    reader=_imagenet.read_shifted,
    licence="MIT (repository); images from the web",
    citation="H. Wang, S. Ge, Z. Lipton, E. Xing: Learning Robust Global Representations by Penalizing Local "
    "Predictive Power. NeurIPS 2019.",
    note="The number of images was not counted in an archive that was seen here.",
)
