"""CLAP: ZS-LP whose class prototypes are held near the text, each class as firmly as its text is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.types import Episode
from methods import _maths
from methods.zs_lp import ZsLp


@dataclass
class Clap(ZsLp):
    """Add to ZS-LP's loss a penalty on leaving the text embeddings, with one fixed multiplier per class.

    Silva-Rodríguez et al. 2024, CVPR, arXiv 2312.12730, the released "l2" constraint:
        loss = cross-entropy + mean_c lambda_c * |w_c - t_c|^2
        lambda_c = mean, over the support rows of class c, of the zero-shot probability of c
    Inputs, trained parameters (C * D), cost and settings: as ZS-LP. lambda (C,) comes from all V * N rows at the
    model's scale and stays fixed. w and t are raw text embeddings, so the penalty depends on their length: it is
    firm at the length of several units that CLIP's text has, and weak where a pack holds unit rows.
    Where we differ: as ZS-LP; of the released variants only "l2".
    """

    title = "CLAP"

    def prepare(self, images: Tensor, label: Tensor, episode: Episode) -> None:
        text = self.scale * _maths.unit(self.start)  # (C, D)
        right = torch.zeros_like(images[0, :, 0])  # (N,)
        for view in images:  # all V * N * C scores at once would be mapped anew and written three times
            right += (view @ text.T).softmax(1).gather(1, label[:, None]).squeeze(1) / len(images)
        sums = torch.zeros_like(self.start[:, 0]).index_add(0, label, right)  # (C,)
        self.multiplier = sums / label.bincount(minlength=len(sums))  # (C,)

    def penalty(self, weight: Tensor, slope: Tensor) -> Tensor:
        left, share = weight - self.start, 2 * self.multiplier / len(weight)  # (C, D), (C,)
        slope.addcmul_(left, share[:, None])
        value: Tensor = (share * torch.linalg.vector_norm(left, dim=1).square()).sum() / 2
        return value
