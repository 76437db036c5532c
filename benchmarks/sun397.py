"""SUN397: 397 scenes."""

from __future__ import annotations

from benchmarks._origins import MIRROR, sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="sun397",
    title="SUN397",
    templates=("a photo of a {}.",),
    archives=(
        Remote(
            file="sun397.zip",
            urls=(MIRROR + "sun397.zip",),
            by_hand="The authors' host has been dead since 2025 and this mirror is another person's. If you hold the "
            "authors' SUN397.tar.gz (39077296924 bytes, sha256 "
            "f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec), unpack it into a folder sun397.",
        ),
    ),
    # the bytes of this file were never seen here; its git blob id is that of five repositories
    split_file=split_file("split_zhou_SUN397.json", git_blob="8d5725db8f70bcf02245665304f863e68f96a24c"),
    roots=("sun397/SUN397", "SUN397"),
    counts=(15880, 3970, 19850),
    classes=397,
    prompt_sets={
        "openai": ("a photo of a {}.", "a photo of the {}."),
        "cupl": sentences(
            "CuPL_prompts_sun397.json",
            bytes=1160182,
            sha256="b6e2c68f1cfaad78a725de1aea337cea8f5481402708225bcecbe8ce8b436967",
        ),
    },
    licence="none stated; for research",
    citation="J. Xiao, J. Hays, K. Ehinger, A. Oliva, A. Torralba: SUN Database: Large-scale Scene Recognition from "
    "Abbey to Zoo. CVPR 2010.",
    note="Official test list Testing_01; CoOp divided Training_01 80/20. Class folders are two or three levels deep "
    "(a/abbey); Kaggle copies with train and test folders lose them. Class names differ from OpenAI's in word order.",
)
