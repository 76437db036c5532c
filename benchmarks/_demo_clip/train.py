"""Train the demo encoder: contrastively, on rendered pictures and their captions.

    python -m benchmarks._demo_clip.train

TODO recipe, times, outcome.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from benchmarks._demo_clip.pairs import pool

HERE = Path(__file__).parent
DIM, SIDE, CONTEXT = 128, 64, 20
MEAN, STD = 0.5, 0.25
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
RESNET = {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": SIDE}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one training run."""

    steps: int
    rate: float
    batch: int = 128
    warmup: int = 150
    decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """A few pairs: rows of the pool, pictures ready for the encoder, and which of them are mirrored."""

    rows: Tensor  # (B,)
    image: Tensor  # (B, 3, H, W)
    flip: Tensor  # (B,)


class Pool:
    """Pictures with tokenised captions, served in shuffled batches."""

    def __init__(self, pixels: np.ndarray, captions: list[str], mirror: np.ndarray) -> None:
        distinct = sorted(set(captions))
        place = {caption: i for i, caption in enumerate(distinct)}
        self.pixels = torch.from_numpy(pixels)  # (N, H, W, 3)
        self.mirror = torch.from_numpy(mirror)  # (N,)
        self.caption = torch.tensor([place[caption] for caption in captions])  # (N,)
        self.tokens = open_clip.get_tokenizer("RN50", context_length=CONTEXT)(distinct)

    def image(self, rows: Tensor, flip: Tensor) -> Tensor:
        image = self.pixels[rows].permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
        image[flip] = image[flip].flip(-1)
        return (image - MEAN) / STD

    def batches(self, recipe: Recipe) -> Iterator[Batch]:
        """One batch per step; every picture once before any twice, half of those that allow it mirrored."""
        generator = torch.Generator().manual_seed(recipe.seed)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(recipe.steps):
            if len(order) < recipe.batch:
                order = torch.randperm(len(self.pixels), generator=generator)
            rows, order = order[: recipe.batch], order[recipe.batch :]
            flip = self.mirror[rows] & (torch.rand(len(rows), generator=generator) < 0.5)
            yield Batch(rows, self.image(rows, flip), flip)


def contrast(image: Tensor, text: Tensor, scale: Tensor, caption: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch; equal captions are all right answers."""
    logits = scale * image @ text.T  # (B, B)
    same = (caption[:, None] == caption).float()
    target = same / same.sum(1, keepdim=True)
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    return -((target * rows).sum(1).mean() + (target * columns.T).sum(1).mean()) / 2


def see(model: Any, image: Tensor) -> Tensor:
    """Unit image embeddings, computed in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        feature = model.visual(image)
    return normalize(feature.float(), dim=-1)  # (B, D)


def learn(parameters: list[Tensor], data: Pool, recipe: Recipe, loss_of: Callable[[Batch], Tensor]) -> None:
    """AdamW over one pass of batches, the rate rising and then falling along a cosine."""
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.98))
    plan = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        recipe.rate,
        total_steps=recipe.steps,
        pct_start=recipe.warmup / recipe.steps,
        cycle_momentum=False,
    )
    start, recent = time.time(), 0.0
    for step, batch in enumerate(data.batches(recipe), start=1):
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
        recent += loss.item() / 50
        if step % 50 == 0:
            print(f"step {step} of {recipe.steps}, loss {recent:.3f}, {time.time() - start:.0f} s", flush=True)
            recent = 0.0


def train(model: Any, data: Pool, recipe: Recipe) -> None:
    """Fit both towers to the pairs."""

    def loss_of(batch: Batch) -> Tensor:
        caption = data.caption[batch.rows]
        distinct, back = caption.unique(return_inverse=True)
        text = model.encode_text(data.tokens[distinct], normalize=True)[back]  # (B, D)
        return contrast(see(model, batch.image), text, model.logit_scale.exp(), caption)

    model.train()
    learn(list(model.parameters()), data, recipe, loss_of)
    model.eval()


def save(model: Any, vision: dict[str, Any], data: Pool, folder: Path) -> None:
    """Write what open_clip's `local-dir:` loads: half precision, the rows of tokens never seen set to zero."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    unseen = torch.ones(TEXT["vocab_size"], dtype=torch.bool)
    unseen[data.tokens.unique()] = False
    state["token_embedding.weight"][unseen] = 0
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in half.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config(vision), indent=2) + "\n")


def config(vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_cfg": {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": TEXT},
        "preprocess_cfg": {
            "size": vision["image_size"],
            "mode": "RGB",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def main() -> None:
    torch.set_num_threads(1)  # two threads are no faster where anything else runs
    torch.manual_seed(0)
    data = Pool(*pool(160_000, seed=0))
    model = open_clip.CLIP(DIM, RESNET, TEXT)
    train(model, data, Recipe(steps=1500, rate=2e-3))
    save(model, RESNET, data, HERE)


if __name__ == "__main__":
    main()
