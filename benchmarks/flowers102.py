"""Oxford Flowers: 102 flowers of the United Kingdom."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="flowers102",
    title="Flowers102",
    templates=("a photo of a {}, a type of flower.",),
    archives=(
        Remote(
            file="102flowers.tgz",
            urls=("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",),
            bytes=344862509,
            sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            md5="52808999861908f626f3c1f4e79d11fa",
        ),
    ),
    split_file=split_file(
        "split_zhou_OxfordFlowers.json",
        bytes=771139,
        sha256="2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
        git_blob="8d10037b0690b6c65e307a354b039efb0f42404c",
    ),
    roots=("oxford_flowers/jpg", "flowers-102/jpg"),
    counts=(4093, 1633, 2463),
    classes=102,
    prompt_sets={
        "openai": ("a photo of a {}, a type of flower.",),
        "cupl": sentences(
            "CuPL_prompts_flowers102.json",
            bytes=281139,
            sha256="904c8850eafeaa1cc60a0f55fab7bdc168af4b2d1e5cb5bd06c5d32cbbc9d676",
        ),
    },
    licence="none stated; images from the web",
    citation="M.-E. Nilsback, A. Zisserman: Automated Flower Classification over a Large Number of Classes. "
    "ICVGIP 2008.",
    note="Not the official parts (1020/1020/6149): CoOp divided all images 50/20/30 per class. Class names differ from "
    "OpenAI's in 3 places.",
)
