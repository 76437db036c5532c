"""Food-101: 101 dishes."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="food101",
    title="Food101",
    templates=("a photo of {}, a type of food.",),
    archives=(
        Remote(
            file="food-101.tar.gz",
            urls=("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
            bytes=4996278331,
            sha256="d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
            md5="85eeb15f3717b99a5da872d97d918f87",
        ),
    ),
    # the bytes of this file were never seen here; its git blob id is that of five repositories
    split_file=split_file("split_zhou_Food101.json", git_blob="39557040ee6501bd32aa8b5dfd75f7941a32f0a7"),
    roots=("food-101/images",),
    counts=(50500, 20200, 30300),
    classes=101,
    prompt_sets={
        "openai": ("a photo of {}, a type of food.",),
        "cupl": sentences(
            "CuPL_prompts_food101.json",
            bytes=321255,
            sha256="0aed280ca518c37abec6b1c85a6093b8f9993988df1581bda59805b541694735",
        ),
    },
    licence="none stated; images from Foodspotting, for research",
    citation="L. Bossard, M. Guillaumin, L. Van Gool: Food-101 - Mining Discriminative Components with Random Forests. "
    "ECCV 2014.",
    note="Not the official parts (75750/25250): CoOp divided all images 50/20/30 per class.",
)
