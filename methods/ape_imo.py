"""APE++: APE whose images are compared in the space of an encoder with image adapters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods import _maths
from methods.ape import Ape
from methods.tip_imo import TipImo


@dataclass
class ApeImo(Ape, TipImo):
    """APE with the cache's affinities from the adapted encoder g, on the channels that the original f chooses.

    Kravets and Namboodiri 2024, CLIP Adaptation by Intra-modal Overlap Reduction, arXiv 2409.11338, names APE++; its
    code is not released. A re-interpretation: channels, key weights and zero-shot come from f as in APE, and only
        logits = scale * n(f(x)) W^T + alpha * exp(-beta * (1 - n(g(x)') G'^T)) diag(exp(gamma * D)) L
    compares in g, restricted to the same channels and normalised again. Inputs: rows of the second space "imo",
    (.., 2D), as Tip-Adapter++. Trains nothing here. Cost as APE's. With untrained adapters it is APE.
    Reference settings: APE's, the search included. [ours; IMO's own are not known]
    """

    title = "APE++ (IMO, re-interpreted)"
    paper = TipImo.paper
    year = 2024

    def affinity(self, image: Tensor) -> Tensor:
        return super().affinity(_maths.halves(image)[1])
