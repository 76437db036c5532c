"""ImageNet, ILSVRC 2012: 1,000 classes, the source of the four shifted test sets."""

from __future__ import annotations

from benchmarks import _imagenet
from benchmarks._origins import sentences
from harness.types import Dataset, Remote

BY_HAND = (
    "ImageNet asks for an account and its terms: log in at https://image-net.org/download-images and take the training "
    "images (tasks 1 and 2), the validation images and the development kit of ILSVRC 2012."
)

dataset = Dataset(
    name="imagenet",
    title="ImageNet",
    templates=_imagenet.TEMPLATES,
    archives=(
        Remote(
            file="ILSVRC2012_img_train.tar",
            bytes=147897477120,
            sha256="b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
            md5="1d675b47d978889d74fa0da5fadfb00e",
            by_hand=BY_HAND,
        ),
        Remote(
            file="ILSVRC2012_img_val.tar",
            bytes=6744924160,
            sha256="c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
            md5="29b22e2961454d5413ddabcf34fc5622",
            by_hand=BY_HAND,
        ),
        Remote(file="ILSVRC2012_devkit_t12.tar.gz", md5="fa75699e90414af021442c21a62c3abf", by_hand=BY_HAND),
    ),
    roots=("imagenet/images", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
    counts=(1271167, 10000, 50000),
    classes=_imagenet.CLASSES,
    reader=_imagenet.read,
    prompt_sets={
        "openai": "openai80",
        "cupl": sentences(
            "CuPL_prompts_imagenet.json",
            bytes=2185813,
            sha256="ab8edaa47cb8050ee48c673e38022cbc5522f404bd16a74debb5c7e260869e77",
        ),
    },
    # where two classes have one name, the sentences of one of them stand under another key: by label
    sentence_keys={744: "projectile", 836: "sunglass"},
    licence="research terms, account; no redistribution",
    citation="O. Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge. IJCV 2015.",
    note="Labels are ranks of the wnid. The official validation images are the test part; 10 validation images per "
    "class come out of the 1281167 training images by a seeded rule. Shots are drawn from sorted lists: CoOp's own "
    "follow a file system's order and are not portable, so published lists are given with --split-file. Two pairs of "
    "classes share a name (missile, sunglasses).",
)
