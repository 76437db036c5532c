"""EuroSAT: 10 kinds of land as seen by the Sentinel-2 satellite, in RGB."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="eurosat",
    title="EuroSAT",
    templates=("a centered satellite photo of {}.",),
    archives=(
        Remote(
            file="EuroSAT.zip",
            urls=(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "http://madm.dfki.de/files/sentinel/EuroSAT.zip",  # the origin; its certificate expired in 2023
            ),
            bytes=94280567,
            sha256="8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
            md5="c8fa014336c82ac7804f0398fcb19387",
        ),
    ),
    split_file=split_file(
        "split_zhou_EuroSAT.json",
        bytes=3006492,
        sha256="541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
        git_blob="6bdc847a5d5c49dcc78e8cb8707b87198cbfa5a4",
    ),
    roots=("eurosat/2750",),
    counts=(13500, 5400, 8100),
    classes=10,
    prompt_sets={
        "openai": (
            "a centered satellite photo of {}.",
            "a centered satellite photo of a {}.",
            "a centered satellite photo of the {}.",
        ),
        "cupl": sentences(
            "CuPL_prompts_eurosat.json",
            bytes=23206,
            sha256="c1831f13dff8f8f2b6e3121b122b4e40582ccc1274537c3f9023641d35d07234",
        ),
    },
    licence="MIT; images are Copernicus open data",
    citation="P. Helber, B. Bischke, A. Dengel, D. Borth: EuroSAT: A Novel Dataset and Deep Learning Benchmark for "
    "Land Use and Land Cover Classification. IEEE JSTARS 2019.",
    note="No official parts: CoOp divided all images 50/20/30 per class. Class names differ from OpenAI's in wording "
    "and order. The JPEG images, not the 13-band ones. CoOp and torchvision have the same layout.",
)
