"""CoOp: learned context words before each class name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method
from methods import _maths, _towers, _training


@dataclass
class Coop(Method):
    """Learn the vectors of a few words that stand before every class name; both towers stay frozen.

    Zhou et al. 2022, arXiv 2109.01134, eq. 2-3 with a context shared by all classes, the class name at the end:
        t_c = text([v_1] ... [v_M] [class name] .),   logits = scale * n(x) n(t_c)^T
    by cross-entropy. Inputs: views (V, N, D) or image (N, D) of the support set; the text tower, through which
    gradients flow for all C prompts at every step. Trained parameters: M * W, W the width of a token.
    Cost grows with steps * C * (cost of a prompt, forward and back); scoring as zero-shot.
    Reference settings, kept: M = 16 vectors drawn with deviation 0.02, SGD with momentum 0.9 and decay 5e-4,
    learning rate 0.002 along a cosine per epoch after one epoch at 1e-5, batch 32; 200 epochs from 8 shots on,
    100 at 2 and 4, 50 at 1 shot and always on ImageNet; the last step counts; no validation.
    Where we differ: an epoch uses the next stored view of each image, in turn, for a fresh crop; fewer vectors
    where the model's context is too short for 16 and the longest class name; fp32.
    """

    words: int = 16  # M
    epochs: int | None = None  # None: as the reference, by shots
    lr: float = 2e-3
    batch: int = 32

    title = "CoOp"
    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, 2109.01134"
    year = 2022
    parameters = "M * W"
    views = 10
    trains_encoder = True
    deterministic = False
    quick = {"epochs": 1, "words": 4}

    def fit(self, episode: Episode) -> Self:
        assert episode.encoder is not None, "trains_encoder fills it"
        self.text, self.clip = episode.text, episode.encoder
        self.model = self.clip.copy()
        self._lay_out(episode)
        self.context = self._train(episode)  # (M, W)
        with torch.no_grad():
            self.weight = self._class_vectors(self.context)  # (C, D)
        del self.model  # scoring needs the class vectors alone
        return self

    def _lay_out(self, episode: Episode) -> None:
        """Tokens and embeddings of "X X ... X name.", where each X holds the place of a learned vector."""
        names = [f"{name.replace('_', ' ')}." for name in episode.text.classes]
        alone = self.clip.tokens(names)  # (C, L)
        empty = self.clip.tokens(["x"])[0, -1]  # what stands behind the end of a short text
        room = alone.shape[1] - int((alone != empty).sum(1).max())  # beside start, the longest name and end
        self.count = max(1, min(self.words, room))
        places = " ".join(["X"] * self.count)  # each is one token
        self.tokens = self.clip.tokens([f"{places} {name}" for name in names])  # (C, L)
        with torch.no_grad():
            self.embedded = _towers.word_vectors(self.model, self.tokens)  # (C, L, W)

    def _class_vectors(self, context: Tensor) -> Tensor:
        """Context (M, W) -> unit class vectors (C, D)."""
        spread = context.expand(len(self.tokens), -1, -1)  # (C, M, W)
        words = torch.cat([self.embedded[:, :1], spread, self.embedded[:, 1 + self.count :]], 1)  # (C, L, W)
        with _towers.words_replaced(self.model, words):
            return functional.normalize(self.model.encode_text(self.tokens).float(), dim=-1)

    def _train(self, episode: Episode) -> Tensor:
        images, label = _training.unit_views(episode.support), episode.support.label  # (V, N, D), (N,)
        draws = torch.Generator().manual_seed(episode.seed)
        start = 0.02 * torch.randn(self.count, self.embedded.shape[-1], generator=draws)  # (M, W)
        rows = _training.shuffled(len(label), self._epochs(episode), self.batch, episode.seed)

        def loss(step: int, context: Tensor) -> Tensor:
            epoch, batch = rows[step]
            batch = batch.to(label.device)
            image = images[epoch % len(images), batch]  # (B, D)
            logits = self.text.scale * image @ self._class_vectors(context).T  # (B, C)
            return functional.cross_entropy(logits, label[batch])

        rates = _training.dassl_cosine(self.lr, [epoch for epoch, _ in rows])
        sgd = _training.Sgd(momentum=0.9, l2=5e-4)
        return _training.descend(loss, start.to(images.device), rates=rates, optimiser=sgd)[0]

    def _epochs(self, episode: Episode) -> int:
        if self.epochs is not None:
            return self.epochs
        if episode.dataset == "imagenet" or episode.shots == 1:
            return 50
        return 100 if episode.shots <= 4 else 200

    def logits(self, image: Tensor) -> Tensor:
        return self.text.scale * _maths.unit(image) @ self.weight.T  # (B, C)

    def trained_parameters(self) -> int:
        return self.context.numel()

    def facts(self) -> dict[str, Any]:
        return {"words": self.count}
