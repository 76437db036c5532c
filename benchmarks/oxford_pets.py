"""Oxford-IIIT Pets: 37 breeds of cats and dogs."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

dataset = Dataset(
    name="oxford_pets",
    title="OxfordPets",
    templates=("a photo of a {}, a type of pet.",),
    archives=(
        Remote(
            file="images.tar.gz",
            urls=("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",),
            bytes=791918971,
            sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
            md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
        ),
    ),
    split_file=split_file(
        "split_zhou_OxfordPets.json",
        bytes=724217,
        sha256="d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
        git_blob="fa821d9f9e7d32fdf3640bf74fa7491ed04f37da",
    ),
    roots=("oxford_pets/images", "oxford-iiit-pet/images"),
    counts=(2944, 736, 3669),
    classes=37,
    prompt_sets={
        "openai": ("a photo of a {}, a type of pet.",),
        "cupl": sentences(
            "CuPL_prompts_oxfordpets.json",
            bytes=119757,
            sha256="f393a01f911ceed70458d1b7fa3b8f2df2148732210b3783488f2efecc672c95",
        ),
    },
    licence="CC BY-SA 4.0",
    citation="O. Parkhi, A. Vedaldi, A. Zisserman, C. Jawahar: Cats and Dogs. CVPR 2012.",
    note="Official test set; CoOp divided the official training images 80/20. Some files named .jpg are CMYK, palette, "
    "PNG or GIF (not counted here). OpenAI lists the same classes in another order.",
)
