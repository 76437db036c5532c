"""Where several data sets come from alike: split files, mirrors, sentences.

Sizes and sha256 of image archives are those that tensorflow-datasets 4.9.10 checks, md5 those of torchvision 0.29.2;
hashes of split and sentence files were computed from the pinned commits. Whether an address still answers was
not tried for any of the fifteen data sets.
"""

from __future__ import annotations

from harness.types import Remote

# The split files of CoOp (Zhou et al., IJCV 2022) were published on Google Drive; these repositories hold the
# same files, byte for byte (same git blob id), under the MIT licence.
SPLITS = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/ac9077ee4e422f768c9b9109551468605e33ec9a/splits/",
    "https://raw.githubusercontent.com/YBZh/DMN/c6c218c70ebbc701b31cc3d7f7b9597117daad8e/data/data_splits/",
    "https://raw.githubusercontent.com/MarcLafon/gallop/f75999e1601cc66e44bc6ff6faa8612021055ff3/gallop/datasets/files/",
)

# One zip per data set in the layout of CoOp, made by the authors of PromptKD. It is not the authors' archive and
# no hash of it was published, so that only the number of images per class tells whether it is complete.
# File names and revision are as other projects quote them; not tried against the live host.
MIRROR = "https://huggingface.co/zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/"

# Sentences of a language model about each class (CuPL, Pratt et al., ICCV 2023; arXiv 2209.03320) as SuS-X made
# them. Nobody gave them a licence: they are fetched by the user and never shipped.
SENTENCES = "https://raw.githubusercontent.com/vishaal27/SuS-X/d7d4d37881408884999fe276faacdd61b511067f/gpt3_prompts/"


def split_file(name: str, *, git_blob: str, bytes: int | None = None, sha256: str = "") -> Remote:
    """A split file of CoOp."""
    urls = tuple(folder + name for folder in SPLITS)
    return Remote(file=name, urls=urls, bytes=bytes, sha256=sha256, git_blob=git_blob)


def sentences(name: str, *, bytes: int, sha256: str) -> Remote:
    """A CuPL file: a JSON object, class name -> list of sentences."""
    return Remote(file=name, urls=(SENTENCES + name,), bytes=bytes, sha256=sha256)
