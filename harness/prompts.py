"""Prompt sets: the sentences that put the classes of a data set into words."""

from __future__ import annotations

import hashlib
import importlib.util
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness import errors, files
from harness.types import Dataset, Remote

if TYPE_CHECKING:
    from torch import Tensor

Fetch = Callable[[Remote, Path], Path]  # a file and the folder where it shall lie -> where it lies

SINGLE = "single"  # the data set's own templates
# The seven that OpenAI found best together (openai/CLIP, notebooks); CoOp and Tip-Adapter use them on ImageNet
SELECTED = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# sha256 of the 80 templates joined by line feeds: equal in openai/CLIP data/prompts.md, order included
EIGHTY_SHA256 = "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"


@dataclass(frozen=True)
class Prompts:
    """The filled sentences of every class, in label order; classes may have different numbers of them."""

    name: str
    sentences: tuple[tuple[str, ...], ...]

    @cached_property
    def digest(self) -> str:
        """What a result records of its prompts."""
        return files.digest_of(self.sentences)

    @property
    def counts(self) -> list[int]:
        """How many sentences each class has."""
        return [len(own) for own in self.sentences]

    @property
    def flat(self) -> list[str]:
        """All sentences, class after class, as a text tower takes them."""
        return [sentence for own in self.sentences for sentence in own]


def known_sets(dataset: Dataset) -> list[str]:
    """Names that `prompts_for` takes for a data set: three that suit any, and those it declares itself."""
    return [SINGLE, "imagenet7", "openai80", *dataset.prompt_sets]


def prompts_for(
    dataset: Dataset,
    classes: Sequence[str],
    set_name: str = SINGLE,
    *,
    fetch: Fetch | None = None,
) -> Prompts:
    """Put class names, `_` read as a space, into the sentences of a prompt set.

    A file of sentences is fetched once into the data folder, by `harness.download` unless `fetch` is another way,
    and verified each time.

    Raises `errors.UsageError` for an unknown set and for templates without one `{}`, `errors.Missing` where the
    file cannot be had, `errors.Corrupt` where it is another one than expected or lacks a class.
    """
    source = _source(dataset, set_name)
    if isinstance(source, Remote):
        return Prompts(set_name, _written(source, classes, dataset.sentence_keys, fetch))
    return Prompts(set_name, tuple(tuple(fill(template, name) for template in source) for name in classes))


def _source(dataset: Dataset, set_name: str) -> tuple[str, ...] | Remote:
    """The templates or the file that a name stands for."""
    declared = dataset.prompt_sets.get(set_name, set_name)
    if isinstance(declared, tuple | Remote):
        return declared
    if declared == "openai80":
        return eighty()
    if found := {SINGLE: dataset.templates, "imagenet7": SELECTED}.get(declared):
        return found
    raise errors.UsageError(f"{dataset.name}: {errors.unknown('prompt set', declared, known_sets(dataset))}")


def fill(template: str, name: str) -> str:
    """One sentence: a class name in its template. Raises `errors.UsageError` unless there is one `{}`."""
    before, gap, after = template.partition("{}")
    if not gap or set("{}") & set(before + after):
        raise errors.UsageError(f"Template {template!r} needs one {{}} for the class name and no other braces.")
    return f"{before}{name.replace('_', ' ')}{after}"


@cache
def eighty() -> tuple[str, ...]:
    """OpenAI's 80 templates for ImageNet, from open_clip, read without importing it, which takes seconds."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise errors.Missing("open_clip is not installed, and the 80 templates come from it.")
    found = runpy.run_path(str(Path(spec.origin).with_name("zero_shot_metadata.py")))["OPENAI_IMAGENET_TEMPLATES"]
    templates = tuple(template("{}") for template in found)
    if hashlib.sha256("\n".join(templates).encode()).hexdigest() != EIGHTY_SHA256:
        raise errors.Corrupt(f"{spec.origin}: this version of open_clip has other templates than the field uses.")
    return templates


# -- sentences written for each class ----------------------------------------------------------------


def _written(
    remote: Remote, classes: Sequence[str], keys: Mapping[int, str], fetch: Fetch | None
) -> tuple[tuple[str, ...], ...]:
    """Sentences of each class out of a JSON object, class name -> list of sentences."""
    path = _obtained(remote, files.data_root() / "prompts", fetch)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path.name}: not an object of lists of sentences: {error}.") from error
    plain = {_plain(key): sentences for key, sentences in found.items()}
    wanted = [_plain(keys.get(label, name)) for label, name in enumerate(classes)]
    if absent := [name for name in wanted if not plain.get(name)]:
        raise errors.Corrupt(
            f"{path.name}: has no sentence for {len(absent)} of {len(wanted)} classes, the first {absent[0]!r}."
        )
    return tuple(tuple(plain[name]) for name in wanted)


def _plain(name: str) -> str:
    """The form in which class names and keys are compared."""
    return " ".join(name.replace("_", " ").casefold().split())


def _obtained(remote: Remote, folder: Path, fetch: Fetch | None) -> Path:
    """The file on disk, verified."""
    if fetch is None:
        from harness import download

        fetch = download.fetch  # has a file that is there already at once
    path = fetch(remote, folder)
    if files.sha256_of(path) != remote.sha256:
        raise errors.Corrupt(f"{path}: its sha256 is not {remote.sha256}; remove it to fetch it again.")
    return path


# -- from sentences to a pack ------------------------------------------------------------------------


def evened(raw: Tensor, counts: Sequence[int]) -> Tensor:
    """Lay embeddings of all sentences, class after class, out as a pack stores them: (S, D) -> (C, P, D).

    Where every count divides the largest, classes with fewer sentences repeat theirs in turn, which leaves every
    mean as it was. Otherwise P is 1 and holds the mean of the normalised sentences: `Text.weight` is exact, and
    `Text.raw_mean` is then the mean of normalised embeddings, because what a sum of raw ones would weigh
    more cannot be told apart in one vector.
    """
    import torch

    most = max(counts)
    own = torch.split(raw, list(counts))  # C of (P_c, D)
    if all(most % count == 0 for count in counts):
        return torch.stack([sentences.repeat(most // len(sentences), 1) for sentences in own])  # (C, P, D)
    units = (sentences / sentences.norm(dim=-1, keepdim=True) for sentences in own)
    return torch.stack([unit.mean(dim=0, keepdim=True) for unit in units])  # (C, 1, D)
