"""The pictures that the demo encoder's image adapters are trained on: shape-texture pairs that no demo class shows.

    python -m benchmarks._demo_clip.generic demo_generic      60 folders of 300 pictures
    harness encoder train-imo --data demo_generic --encoder demo --input-normalisation clip --output imo.safetensors

One epoch of 140 batches of 128, all other settings as released; 11,820 parameters, 50 kB. On one core of an AMD EPYC
shared with other work 86 s, and 33 s of processor time for the pictures; a second training gave the same bytes. The
encoder saw these pairs in its pretraining, so nothing new comes in: adapters only weigh anew what it knows.

Outcome, original -> adapted. Overlap, AUROC and d' of validation images, with nearest-mean accuracy, leaving one out:

                overlap          AUROC            d'               nearest mean %
    demo_shapes 0.372 -> 0.276   0.892 -> 0.932   1.810 -> 2.239   72.8 -> 79.1
    demo_digits 0.337 -> 0.355   0.909 -> 0.899   1.687 -> 1.583   81.5 -> 82.0

Test accuracy in %, seeds 1, 2, 3, min(K, 4) validation images per class; the middle row is `tip_imo` with untrained
adapters, that is Tip-Adapter with the search range of `tip_imo`:

                                     1 shot   2      4      8      16 shots
    demo_shapes  tip                 60.87  62.87  67.43  68.83  70.63
                 tip, range of imo   59.90  61.97  66.83  69.10  70.63
                 tip_imo             65.23  68.83  72.83  73.33  74.83
    demo_digits  tip                 58.17  62.99  71.68  76.30  75.83
                 tip, range of imo   60.05  66.23  73.32  77.63  77.50
                 tip_imo             58.17  70.48  73.85  79.51  78.20

On the digits, which have nothing in common with these pictures, overlap rises. Trained on pixels that are not
normalised, as the released code does, adapters are worse than none: overlap 0.375 and 0.386, tip_imo with 16 shots
71.57 and 68.54. So the shipped ones are trained on normalised pixels; validation images say the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks._demo_clip.pairs import SEEN
from benchmarks.demo_shapes import LOOK, scene

SEED = 5150
EACH = 300


def write(folder: Path, each: int = EACH, seed: int = SEED) -> None:
    """Render `each` pictures of every pair of shape and texture, a function of seed and place alone."""
    for number, (shape, texture) in enumerate(SEEN):
        home = folder / f"{texture} {shape}"
        home.mkdir(parents=True)
        for i in range(each):
            rng = np.random.default_rng([seed, number, i])
            scene(shape, texture, LOOK, rng).save(home / f"{i:03}.png", compress_level=0)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
