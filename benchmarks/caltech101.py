"""Caltech101: 100 kinds of objects, without the two doubtful classes that CoOp leaves out."""

from __future__ import annotations

from benchmarks._origins import sentences, split_file
from harness.types import Dataset, Remote

OPENAI = (
    "a photo of a {}.", "a painting of a {}.", "a plastic {}.", "a sculpture of a {}.", "a sketch of a {}.",
    "a tattoo of a {}.", "a toy {}.", "a rendition of a {}.", "a embroidered {}.", "a cartoon {}.",
    "a {} in a video game.", "a plushie {}.", "a origami {}.", "art of a {}.", "graffiti of a {}.",
    "a drawing of a {}.", "a doodle of a {}.", "a photo of the {}.", "a painting of the {}.", "the plastic {}.",
    "a sculpture of the {}.", "a sketch of the {}.", "a tattoo of the {}.", "the toy {}.", "a rendition of the {}.",
    "the embroidered {}.", "the cartoon {}.", "the {} in a video game.", "the plushie {}.", "the origami {}.",
    "art of the {}.", "graffiti of the {}.", "a drawing of the {}.", "a doodle of the {}.",
)  # fmt: skip

dataset = Dataset(
    name="caltech101",
    title="Caltech101",
    templates=("a photo of a {}.",),
    archives=(
        Remote(
            file="caltech-101.zip",
            urls=("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
            bytes=137414764,
            sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
            md5="3138e1922a9193bfa496528edbbc45d0",
        ),
    ),
    split_file=split_file(
        "split_zhou_Caltech101.json",
        bytes=809184,
        sha256="52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
        git_blob="8be694a80de04a39fb159c462bea9696aa47ccf1",
    ),
    roots=("caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories"),
    counts=(4128, 1649, 2465),
    classes=100,
    prompt_sets={
        "openai": OPENAI,
        "cupl": sentences(
            "CuPL_prompts_caltech101.json",
            bytes=314962,
            sha256="b5c3f52be95a1e450c4ebbac1fd0d2644a5d2efc2bac15e1a82cad587fdd09f6",
        ),
    },
    licence="CC BY 4.0",
    citation="L. Fei-Fei, R. Fergus, P. Perona: Learning Generative Visual Models from Few Training Examples. "
    "CVPRW 2004.",
    note="No official test set: CoOp divided all images 50/20/30 per class. BACKGROUND_Google and Faces_easy are left "
    "out. Labels follow the original folder names, capitals first. A class has exactly 16 training images. The zip "
    "holds a tar.gz. Some images are grey.",
)
