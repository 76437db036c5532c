"""CLIP-LoRA: low-rank changes of the attention of both towers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method
from methods import _towers, _training


@dataclass
class ClipLora(Method):
    """Train low-rank additions to the query, key and value maps of every attention layer, in both towers.

    Zanella and Ben Ayed 2024, arXiv 2405.18541; the additions are those of Hu et al., arXiv 2106.09685, eq. 3:
        W x -> W x + (lora_alpha / rank) * B A x          A (R, W), B (W, R), for q, k and v of each layer
        logits = scale * n(v'(x)) n(t'(prompts))^T        v', t' the changed towers
    by cross-entropy on the support images. Inputs: support pixels (B, 3, H, W), class prompts, the model.
    Trained parameters: 6 * R * W per layer, over the layers of both towers. Cost grows with steps * (batch
    images + C prompts) through both towers, forward and back; scoring runs the image tower once per query.
    Reference settings, the same for every data set, kept: rank 2, alpha 1, dropout 0.25 on the additions'
    input, AdamW with learning rate 2e-4 and decay 1e-2, cosine to 1e-6, batch 32, 500 steps per shot, random
    crops of 8 to 100 % of the image, mirrored half the time; no validation.
    Where we differ: fp32 in place of fp16 with a gradient scaler; the run's own prompts, also where there are
    several (the reference takes one template).
    """

    rank: int = 2
    lora_alpha: float = 1.0
    dropout: float = 0.25
    lr: float = 2e-4
    weight_decay: float = 1e-2
    batch: int = 32
    steps: int | None = None  # None: 500 for each shot

    title = "CLIP-LoRA"
    paper = "Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, 2405.18541"
    year = 2024
    parameters = "6 * R * W * L"
    trains_encoder = True
    pixels = True
    deterministic = False
    quick = {"steps": 2, "batch": 8}

    def fit(self, episode: Episode) -> Self:
        assert episode.images is not None and episode.encoder is not None, "trains_encoder fills both"
        self.clip, self.scale = episode.encoder, episode.encoder.scale
        self.model = episode.encoder.copy()
        self.layers = _towers.add_low_rank(
            self.model, self.rank, self.lora_alpha / self.rank, self.dropout, episode.seed
        )
        self.tokens = self.clip.tokens(list(itertools.chain(*self.clip.sentences)))  # (all prompts, L)
        with torch.random.fork_rng():  # dropout draws from the global state
            torch.manual_seed(episode.seed)
            self._train(episode)
        self.model.eval()
        self.weight = self._text_weight()
        return self

    def _train(self, episode: Episode) -> None:
        steps = 500 * episode.shots if self.steps is None else self.steps
        epochs = math.ceil(steps / math.ceil(len(episode.support) / self.batch))
        rows = _training.shuffled(len(episode.support), epochs, self.batch, episode.seed)[:steps]
        images, label = episode.images, episode.support.label
        assert images is not None

        def loss(step: int, *parameters: Tensor) -> Tensor:
            for layer, down, up in zip(self.layers, parameters[::2], parameters[1::2], strict=True):
                layer.down, layer.up = down, up
            _, batch = rows[step]
            image = self._encode(images.augmented(batch.tolist(), step))  # (B, D)
            text = _towers.unit_text(self.model, self.tokens, self._prompts())  # (C, D)
            return functional.cross_entropy(self.scale * image @ text.T, label[batch.to(label.device)])

        self.model.train()  # dropout on the additions' input; the towers have none
        start = [tensor for layer in self.layers for tensor in (layer.down, layer.up)]
        rates = [1e-6 + rate for rate in _training.cosine(self.lr - 1e-6, steps)]
        trained = _training.descend(loss, *start, rates=rates, optimiser=_training.Adam(self.weight_decay))
        for layer, down, up in zip(self.layers, trained[::2], trained[1::2], strict=True):
            layer.down, layer.up = down, up

    def _encode(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) -> unit features of the changed tower (B, D)."""
        return functional.normalize(self.model.encode_image(self.clip.normalise(pixels)).float(), dim=-1)

    def _prompts(self) -> list[int]:
        return [len(found) for found in self.clip.sentences]

    def _text_weight(self) -> Tensor:
        with torch.no_grad():
            return _towers.unit_text(self.model, self.tokens, self._prompts())  # (C, D)

    def class_vectors(self) -> Tensor:
        """What images are compared with: (C, D)."""
        return self.weight

    def logits(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.scale * self._encode(image) @ self.class_vectors().T  # (B, C)

    def trained_parameters(self) -> int:
        return sum(layer.down.numel() + layer.up.numel() for layer in self.layers)

    def facts(self) -> dict[str, Any]:
        return {"layers": len(self.layers)}
