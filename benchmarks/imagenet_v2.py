"""ImageNetV2, matched frequency: ImageNet's test set collected once more."""

from __future__ import annotations

from benchmarks import _imagenet
from harness.types import Dataset, Remote

dataset = Dataset(
    name="imagenet_v2",
    title="ImageNet-V2",
    templates=_imagenet.TEMPLATES,
    source="imagenet",
    archives=(
        Remote(
            file="imagenetv2-matched-frequency.tar.gz",
            urls=(
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
            ),
            bytes=1264079360,
            sha256="f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
        ),
    ),
    roots=("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
    counts=(0, 0, 10000),
    classes=_imagenet.CLASSES,
    reader=_imagenet.read_numbered,
    licence="MIT (repository); images from the web",
    citation="B. Recht, R. Roelofs, L. Schmidt, V. Shankar: Do ImageNet Classifiers Generalize to ImageNet? ICML 2019.",
    note="Folders are named by the label and are in order as integers only.",
)
