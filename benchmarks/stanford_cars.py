"""Stanford Cars: 196 makes, models and years."""

from __future__ import annotations

from benchmarks._origins import MIRROR, sentences, split_file
from harness.types import Dataset, Remote

OPENAI = (
    "a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!",
    "a photo of my dirty {}.", "a photo of my clean {}.", "a photo of my new {}.", "a photo of my old {}.",
)  # fmt: skip

dataset = Dataset(
    name="stanford_cars",
    title="StanfordCars",
    templates=("a photo of a {}.",),
    archives=(
        Remote(
            file="stanford_cars.zip",
            urls=(MIRROR + "stanford_cars.zip",),
            by_hand="The authors' host has been dead since 2023 and this mirror is another person's. If you hold the "
            "authors' cars_train.tgz (sha256 512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288) and "
            "cars_test.tgz (sha256 bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243), unpack both "
            "into one folder stanford_cars.",
        ),
    ),
    split_file=split_file(
        "split_zhou_StanfordCars.json",
        bytes=1855652,
        sha256="40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
        git_blob="dcdb8264712e9940e74cfb0f06ddb8f9cc239b81",
    ),
    roots=("stanford_cars",),
    counts=(6509, 1635, 8041),
    classes=196,
    prompt_sets={
        "openai": OPENAI,
        "cupl": sentences(
            "CuPL_prompts_stanfordcars.json",
            bytes=1232735,
            sha256="8b84424728b57442cbe190b0d996fda7a16fbb8ac42617911c61fea8f1496a53",
        ),
    },
    licence="research, non-commercial",
    citation="J. Krause, M. Stark, J. Deng, L. Fei-Fei: 3D Object Representations for Fine-Grained Categorization. "
    "ICCVW 2013.",
    note="Official test set; CoOp divided the official training images 80/20. Class names put the year first, OpenAI's "
    "put it last. Kaggle's copy nests cars_train/cars_train, and its file names are said to disagree with the lists.",
)
