"""Write the file that a method of one's own begins with: complete, short, and sound by the contract."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from harness import find
from harness.errors import Missing, UsageError

TEMPLATE = '''"""{title}: say in one sentence what it does."""

from dataclasses import dataclass

import torch
from harness import Episode, Method


@dataclass
class {title}(Method):
    """Blend each class's text embedding with the mean of its support images.

    logits = scale * x n((1 - weight) * W + weight * M)^T    M (C, D): n(mean of the images of a class)
    Cost grows with B * C * D. Replace this by your method, its paper and its equation.
    """

    weight: float = 0.5  # of the images against the text
    logit_grid = {{"weight": [0.0, 0.25, 0.5, 0.75, 1.0]}}  # searched on validation images; read by `logits` alone

    def fit(self, episode: Episode):
        image, label = episode.support.image, episode.support.label  # (N, D), (N,)
        self.text, self.scale = episode.text.weight, episode.text.scale  # (C, D)
        means = [image[label == c].mean(0) if (label == c).any() else self.text[c] for c in range(len(self.text))]
        self.means = torch.nn.functional.normalize(torch.stack(means), dim=-1)  # (C, D)
        return self

    def logits(self, image: torch.Tensor):  # (B, D) -> (B, C)
        blend = (1 - self.weight) * self.text + self.weight * self.means  # (C, D)
        return self.scale * image @ torch.nn.functional.normalize(blend, dim=-1).T
'''


def write_method(name: str, folder: Path) -> Path:
    """Write `<folder>/<name>.py`; the name is the one in tables. Raises UsageError for a bad or taken name."""
    stem = name.removesuffix(".py").replace("-", "_")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", stem) or keyword.iskeyword(stem.lower()):
        raise UsageError(f"{name!r} is no name for a method: use letters, digits and _, such as my_adapter.")
    stem = stem.lower()
    if stem in find.method_names():
        raise UsageError(f"A method named {stem!r} exists already (harness methods info {stem}); choose another name.")
    path = folder / f"{stem}.py"
    title = "".join(word.capitalize() for word in stem.split("_"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(title=title))
    except FileExistsError:
        raise UsageError(f"{path} exists already; it is left as it is.") from None
    except OSError as error:
        raise Missing(f"Cannot write {path}: {error.strerror}.") from error
    return path
