"""Tip-X++: TIP-X whose images are compared in the space of an encoder with image adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import _maths
from methods.tip_imo import TipImo
from methods.tip_x import TipX


@dataclass
class TipXImo(TipX, TipImo):
    """TIP-X with the cache's affinities from the adapted encoder g; signatures and zero-shot keep the original f.

    Kravets and Namboodiri 2024, CLIP Adaptation by Intra-modal Overlap Reduction, arXiv 2409.11338, with the released
    code (akres001/CLIP_fewshot_imo, run.py and utils.py):
        logits = scale * n(f(x)) W^T + gamma * phi L + alpha * exp(-beta * (1 - n(g(x)) G^T)) L
    where phi maps TIP-X's divergences, of f(x) and its keys, to the range of the affinities of g. Inputs: rows of the
    second space "imo", (.., 2D), as Tip-Adapter++. Trains nothing here. Cost as TIP-X's. With untrained adapters it is
    TIP-X.
    Reference settings: 200 alphas and 20 betas from 0 to 20, 50 gammas from 0 to 30, ends included, alpha outer, on the
    whole validation split. Without a search TIP-X's defaults.
    Where we differ: as TIP-X and Tip-Adapter++, `rescale` and `tail_block` included.
    """

    title = "Tip-X++ (IMO)"
    paper = TipImo.paper
    year = 2024
    logit_grid = {**TipImo.logit_grid, "gamma": [30 * k / 49 for k in range(50)]}

    def key_rows(self) -> Tensor:
        return torch.cat([_maths.cache_keys(self.support), self.keys], 1)  # (N, 2D)

    def full_grid(self, dataset: str) -> dict[str, Sequence[float]]:
        return {name: list(values) for name, values in TipXImo.logit_grid.items()}

    def _log_signature(self, image: Tensor) -> Tensor:
        return super()._log_signature(_maths.halves(image)[0])
