"""WiSE-FT: the straight line between the zero-shot weights and tuned ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from harness.types import Episode
from methods.clip_lora import ClipLora


@dataclass
class WiseFt(ClipLora):
    """Blend the weights of CLIP with those that CLIP-LoRA tuned, by one scalar.

    Wortsman et al. 2022, arXiv 2109.01903, eq. 1, over all weights that the tuned model changes:
        theta(blend) = (1 - blend) * theta_zero_shot + blend * theta_tuned
    As CLIP-LoRA's change of a weight is B A, the blended model is the tuned one with its additions scaled by
    `blend`; 0 is zero-shot CLIP, 1 is CLIP-LoRA. Inputs and trained parameters as CLIP-LoRA. Cost: one fit,
    then one pass of the validation images through the image tower for each of the eleven blends.
    Reference settings, kept: blend from 0 to 1 in steps of 0.1, 0.5 where nothing is searched.
    Where we differ: the reference blends a whole model fine-tuned on all of ImageNet; no 16-shot table of it is
    known, and low-rank tuning stands in for its base.
    """

    blend: float = 0.5

    title = "WiSE-FT on CLIP-LoRA"
    paper = "Wortsman et al., Robust fine-tuning of zero-shot models, 2109.01903"
    year = 2022
    logit_grid = {"blend": [i / 10 for i in range(11)]}

    def fit(self, episode: Episode) -> Self:
        super().fit(episode)
        blends = sorted({self.blend, *self.logit_grid.get("blend", ())})
        self.weights = {blend: self.at({"blend": blend})._blended_text() for blend in blends}  # each (C, D)
        return self

    def _blended_text(self) -> Tensor:
        self._set_blend()
        return self._text_weight()

    def _set_blend(self) -> None:
        for layer in self.layers:
            layer.scale = self.blend * self.lora_alpha / self.rank

    def class_vectors(self) -> Tensor:
        return self.weights[self.blend]

    def logits(self, image: Tensor) -> Tensor:
        self._set_blend()  # each time: copies made by `at` share the model
        return super().logits(image)

    def at(self, values: Mapping[str, Any]) -> Self:
        other = super().at(values)
        if "weights" in vars(other) and other.blend not in other.weights:
            other.weights = {**other.weights, other.blend: other._blended_text()}
        return other
