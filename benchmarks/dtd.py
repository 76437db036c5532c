"""Describable Textures: 47 adjectives for surfaces."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

OPENAI = (
    "a photo of a {} texture.", "a photo of a {} pattern.", "a photo of a {} thing.", "a photo of a {} object.",
    "a photo of the {} texture.", "a photo of the {} pattern.", "a photo of the {} thing.",
    "a photo of the {} object.",
)  # fmt: skip

dataset = Dataset(
    name="dtd",
    title="DTD",
    templates=("{} texture.",),
    archives=(
        Remote(
            file="dtd-r1.0.1.tar.gz",
            urls=("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
            bytes=625239812,
            sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
        ),
    ),
    split_file=split_file(
        "split_zhou_DescribableTextures.json",
        bytes=563702,
        sha256="f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
        git_blob="8dd197a94b598fa44ee3c9e35c486dd017ab00a7",
    ),
    roots=("dtd/images", "dtd/dtd/images"),
    counts=(2820, 1128, 1692),
    classes=47,
    prompt_sets={
        "openai": OPENAI,
        "cupl": sentences(
            "CuPL_prompts_dtd.json",
            bytes=244279,
            sha256="b5d2ae76c1e8e5ded0df87d70aa60ce78730060ae65d7b36c30034457b8cfbe8",
        ),
    },
    licence="for research",
    citation="M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed, A. Vedaldi: Describing Textures in the Wild. CVPR 2014.",
    note="Not the official parts (1880/1880/1880): CoOp divided all images 50/20/30 per class.",
)
