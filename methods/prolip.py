"""ProLIP: the last projection of the image tower, trained again near where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.types import Episode, Method
from methods import _maths
from methods.rla import train_maps

AREA = (0.5, 1.0)  # share of the image that a crop shows


@dataclass
class ProLip(Method):
    """Train the matrix that ends the image tower by cross-entropy with a penalty on leaving its pre-trained value.

    Fahes et al. 2024, arXiv 2410.05270:
        logits = scale * n(z W + b) T^T,  loss = cross-entropy + strength * |W - W0|^2_F     (a sum over all entries)
    with z the feature before the projection, (B, W). Inputs: support pixels (B, 3, H, W) and the model: packs hold no
    features from before the projection, so this one goes through the encoder, which itself stays as it is. Trained
    parameters: W * D (ViT-B: 768 * 512, RN50: 2,048 * 1,024; b, of ResNets alone, is kept). Cost grows with drawn * N
    images through the tower, once, then with epochs * N * D * (W + C); scoring runs the tower once per query and rate.
    Reference settings, kept: full batch, 300 epochs, one view of every image per epoch (crops of half to all of it,
    mirrored half the time), Adam with eps 1e-4, cosine to 0. Without validation: strength 1 / K and rate 1e-5; with
    validation: rates from 1e-5 to 1e-2, the gentlest first.
    Where we differ: `drawn` views of each image in turn, where the reference draws 300; the smaller rates (to 1e-8)
    and other strengths of its search are left out; fp32.
    """

    lr: float = 1e-5  # read by `logits`: one fit trains a matrix for every rate that is searched
    strength: float | None = None  # of the penalty; None: 1 / shots
    epochs: int = 300
    drawn: int = 10  # views of each support image

    title = "ProLIP"
    paper = "Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2410.05270"
    year = 2024
    parameters = "W * D"
    trains_encoder = True
    pixels = True
    quick = {"epochs": 20, "drawn": 2}
    logit_grid = {"lr": (1e-5, 1e-4, 1e-3, 1e-2)}

    def fit(self, episode: Episode) -> Self:
        assert episode.images is not None and episode.encoder is not None, "trains_encoder fills both"
        self.clip, self.text = episode.encoder, episode.text
        self.model = episode.encoder.copy()
        start, self.bias = take_projection(self.model)  # (W, D), (D,)
        rows = list(range(len(episode.support)))
        seen = [
            torch.cat([self._encode(episode.images.augmented(rows[at : at + 64], draw, AREA)) for at in rows[::64]])
            for draw in range(self.drawn)
        ]
        images = torch.stack(seen)  # (V, N, W)
        label, rates = episode.support.label, sorted({self.lr, *self.logit_grid.get("lr", ())})
        strengths = [1 / episode.shots if self.strength is None else self.strength] * len(rates)
        maps = train_maps(images, label, self.text, start, rates, strengths, self.epochs, self.bias)  # (R, W, D)
        self.projections: dict[float, Tensor] = dict(zip(rates, maps.unbind(), strict=True))
        return self

    def _encode(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) -> features before the projection (B, W)."""
        with torch.no_grad():
            found: Tensor = self.model.encode_image(self.clip.normalise(pixels)).float()
        return found

    def logits(self, image: Tensor) -> Tensor:
        projected = self._encode(image) @ self.projections[self.lr] + self.bias  # (B, D)
        return _maths.zero_shot(projected, self.text)  # (B, C)

    def trained_parameters(self) -> int:
        return self.projections[self.lr].numel()


def take_projection(model: Any) -> tuple[Tensor, Tensor]:
    """Take the last projection out of an open_clip model, which then ends before it: weight (W, D), bias (D,)."""
    visual = model.visual
    if isinstance(getattr(visual, "proj", None), nn.Parameter):  # a vision transformer
        weight, visual.proj = visual.proj.detach().clone(), None
        return weight, weight.new_zeros(weight.shape[1])
    last = getattr(getattr(visual, "attnpool", None), "c_proj", None)
    if not isinstance(last, nn.Linear):
        raise HarnessError("This image tower has no projection of CLIP's kind to train; use a ViT or ResNet of CLIP.")
    weight, bias = last.weight.detach().T.clone(), last.bias.detach().clone()  # (W, D), (D,)
    last.weight = nn.Parameter(torch.eye(len(weight)).to(weight), requires_grad=False)
    last.bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
    return weight, bias
