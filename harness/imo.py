"""Adapters inside the frozen image tower, for comparing images with images: their form, training and file.

Kravets and Namboodiri, CLIP Adaptation by Intra-modal Overlap Reduction, BMVC 2024, arXiv 2409.11338. Beside the MLP
of every visual block of width W stands a bottleneck of width w:
    x = x + Attn(LN1(x));   x = x + MLP(LN2(x)) + s * Up(dropout(ReLU(Down(x))))
Down is (w, W), Up (W, w), both with a bias; Up and the biases start at zero, so training starts from CLIP itself.
They are trained once, on a generic labelled image set, and serve image-image affinities only. Nothing of the model is
changed: while `attached`, hooks add what the adapters give; afterwards the model is as it was, to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import files, find
from harness.encoder import Encoder, out_of_memory
from harness.errors import Corrupt, HarnessError, Missing, UsageError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "harness-imo/1"
SPACE = "imo"  # what methods call the second feature space
FILE = "imo.safetensors"
NORMALISATION = ("none", "clip")  # of the pixels in training; the released code trains without and evaluates with
LEAST_WIDTH = 8
TRAINED_HERE = "the image adapters were trained on this data set"  # what its results must say


# -- what the file says ------------------------------------------------------------------------------


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How adapters are trained; the defaults are those of the released code (supervised_train.py)."""

    epochs: int = 1
    batch: int = 128
    lr: float = 8e-3  # AdamW, constant
    weight_decay: float = 0.01
    dropout: float = 0.1
    scale: float = 0.03  # s
    seed: int = 0
    input_normalisation: str = "none"


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What they were trained on."""

    name: str
    digest: str  # of its split and images
    images: int
    classes: list[str]

    def shared_with(self, dataset: str, classes: Iterable[str]) -> str:
        """What a result on a data set must say of this one: empty where they have nothing in common."""
        if dataset == self.name:
            return TRAINED_HERE
        ours = {name.casefold() for name in self.classes}
        theirs = [name.casefold() in ours for name in classes]
        told = f"the image adapters were trained on classes of the same names: {sum(theirs)} of {len(theirs)}"
        return told if any(theirs) else ""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself, in its metadata."""

    format: str = FORMAT
    encoder: str
    weights: str  # digest of the encoder's weights
    blocks: int
    width: int  # W, of the tower
    bottleneck: int  # w
    settings: Settings
    trained_on: TrainingSet


@dataclass(frozen=True)
class Found:
    """The adapters that belong to an encoder, not yet read."""

    path: Path
    digest: str  # of the file
    card: Card

    @property
    def fingerprint(self) -> dict[str, str]:
        """What adapted features depend on besides the encoder."""
        trained = self.card.trained_on
        return {"adapter": self.digest, "adapter_trained_on": f"{trained.name} {trained.digest[:16]}"}


# -- the adapters ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Adapters:
    """One bottleneck for every visual block. Weights by name: `0.down.weight` (w, W), `0.up.bias` (W,), …"""

    weights: Mapping[str, Tensor]  # float32
    scale: float

    @property
    def blocks(self) -> int:
        return len(self.weights) // 4

    def count(self) -> int:
        """How many numbers there are to train."""
        return sum(tensor.numel() for tensor in self.weights.values())

    def added(self, block: int, x: Tensor, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What a block's output gains: x (..., W), the input of its LN2 -> (..., W)."""
        from torch.nn import functional

        weight = self.weights
        hidden = functional.linear(x.float(), weight[f"{block}.down.weight"], weight[f"{block}.down.bias"]).relu()
        if drop is not None:
            hidden = drop(hidden)  # (..., w)
        up = functional.linear(hidden, weight[f"{block}.up.weight"], weight[f"{block}.up.bias"])
        return (self.scale * up).to(x.dtype)

    def to(self, device: str) -> Adapters:
        """The same adapters on another device."""
        return Adapters({name: tensor.to(device) for name, tensor in self.weights.items()}, self.scale)


def bottleneck(width: int) -> int:
    """w for a tower of width W: 64 of 768, in proportion elsewhere, at least 8."""
    return max(LEAST_WIDTH, round(width * 64 / 768))


def shapes(blocks: int, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights: blocks * (2 w W + w + W) numbers."""
    small = bottleneck(width)
    of_block = {
        "down.weight": (small, width),
        "down.bias": (small,),
        "up.weight": (width, small),
        "up.bias": (width,),
    }
    return {f"{block}.{name}": shape for block in range(blocks) for name, shape in of_block.items()}


def start(encoder: Encoder, settings: Settings) -> Adapters:
    """Untrained adapters: Down uniform in +-1/sqrt(W) (Kaiming, a = sqrt 5), all else zero."""
    import torch

    blocks, width = tower(encoder)
    generator = torch.Generator().manual_seed(settings.seed)
    weights = {
        name: _uniform(shape, width, generator) if name.endswith("down.weight") else torch.zeros(shape)
        for name, shape in shapes(len(blocks), width).items()
    }
    return Adapters(weights, settings.scale).to(encoder.device)


def _uniform(shape: tuple[int, ...], inputs: int, generator: Any) -> Tensor:
    import torch

    return torch.empty(shape).uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)


def tower(encoder: Encoder) -> tuple[Sequence[Any], int]:
    """The visual blocks of an encoder and their width; raises UsageError where it has no such blocks."""
    from open_clip.transformer import VisionTransformer

    visual = encoder.model.visual
    blocks = list(visual.transformer.resblocks) if isinstance(visual, VisionTransformer) else []
    if not blocks or not all(hasattr(block, "ln_2") and hasattr(block, "mlp") for block in blocks):
        raise UsageError(
            f"Encoder {encoder.name}: adapters stand in the blocks of open_clip's VisionTransformer, but its image "
            f"tower is a {type(visual).__name__}. Use a ViT such as --encoder ViT-B-16:openai."
        )
    return blocks, int(blocks[0].ln_2.normalized_shape[0])


@contextmanager
def attached(encoder: Encoder, adapters: Adapters, drop: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Inside, `encoder.image` gives adapted features; outside, the original ones. `drop` acts in training alone."""
    blocks, _ = tower(encoder)
    assert len(blocks) == adapters.blocks, "adapters are for a tower of another depth"
    handles = []
    try:
        for number, block in enumerate(blocks):
            handles += _hooked(block, number, adapters, drop)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(block: Any, number: int, adapters: Adapters, drop: Callable[[Tensor], Tensor] | None) -> list[Any]:
    seen: list[Tensor] = []

    def before_ln_2(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    def at_the_end(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return output + adapters.added(number, seen.pop(), drop)

    return [block.ln_2.register_forward_pre_hook(before_ln_2), block.register_forward_hook(at_the_end)]


# -- training ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """How an epoch went; accuracy is that of the linear head on the batches it learnt from, in %."""

    number: int
    loss: float
    accuracy: float
    seconds: float


def train(
    encoder: Encoder,
    label: Sequence[int],
    read: Callable[[Sequence[int], int], Iterable[Tensor]],
    settings: Settings,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Adapters:
    """Train adapters and a linear head by cross-entropy on the adapted embeddings, not normalised; drop the head.

    label: a class 0..C-1 for each image. read(rows, batch): the pixels of these rows in this order, in tensors
    (batch, 3, H, W) uint8. Images are shuffled in each epoch, and an incomplete last batch is left out. The model's
    own weights stay as they are. Everything random comes from `settings.seed`. Raises HarnessError if the loss
    stops being a number. Cost: forward and backward of the image tower for every image and epoch.
    """
    import torch

    check(settings)
    adapters, generator = start(encoder, settings), torch.Generator().manual_seed(settings.seed)
    classes = max(label) + 1
    head = [
        _uniform(shape, encoder.dim, generator).to(encoder.device) for shape in ((classes, encoder.dim), (classes,))
    ]
    parameters = [tensor.requires_grad_() for tensor in [*adapters.weights.values(), *head]]
    optimiser = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    batch = min(settings.batch, len(label))
    target = torch.tensor(label, device=encoder.device)  # (N,)
    with _frozen(encoder), torch.enable_grad(), attached(encoder, adapters, _dropout(encoder.device, settings)):
        for number in range(1, settings.epochs + 1):
            rows = torch.randperm(len(label), generator=generator)[: len(label) // batch * batch]  # (N,)
            with _memory_told(encoder, batch):
                epoch = _epoch(number, encoder, rows, batch, read, target, head, optimiser, settings)
            on_epoch(epoch)
    return Adapters({name: tensor.detach() for name, tensor in adapters.weights.items()}, settings.scale)


def check(settings: Settings) -> None:
    """Raise UsageError for settings that nothing can be trained with."""
    if settings.input_normalisation not in NORMALISATION:
        raise UsageError(
            f"--input-normalisation {settings.input_normalisation!r}: use none, as the released code trains, or clip, "
            "as every encoder is used afterwards."
        )
    for name in ("epochs", "batch", "lr", "scale"):
        if not getattr(settings, name) > 0:
            raise UsageError(f"--{name} {getattr(settings, name)}: a number above 0 is needed.")
    if not settings.weight_decay >= 0:
        raise UsageError(f"--weight-decay {settings.weight_decay}: a number from 0 on is needed.")


def _epoch(
    number: int,
    encoder: Encoder,
    rows: Tensor,
    batch: int,
    read: Callable[[Sequence[int], int], Iterable[Tensor]],
    target: Tensor,
    head: Sequence[Tensor],
    optimiser: Any,
    settings: Settings,
) -> Epoch:
    """Learn from every row once."""
    from torch.nn import functional

    begun, total, right = time.perf_counter(), 0.0, 0
    for step, (pixels, here) in enumerate(
        zip(read(rows.tolist(), batch), rows.chunk(len(rows) // batch), strict=True), start=1
    ):
        feature = encoder.model.encode_image(_input(encoder, pixels, settings), normalize=False).float()  # (B, D)
        logits = functional.linear(feature, *head)  # (B, C)
        loss = functional.cross_entropy(logits, target[here])
        value = loss.item()
        if not math.isfinite(value):
            raise HarnessError(f"Training broke down: the loss was {value} in epoch {number}, step {step}; lower --lr.")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += value * len(here)
        right += int((logits.argmax(1) == target[here]).sum())
    return Epoch(number, total / len(rows), 100 * right / len(rows), time.perf_counter() - begun)


@contextmanager
def _memory_told(encoder: Encoder, batch: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise Missing(f"Not enough memory on {encoder.device} for batches of {batch}; lower --batch.") from error


def _input(encoder: Encoder, pixels: Tensor, settings: Settings) -> Tensor:
    if settings.input_normalisation == "clip":
        return encoder.normalise(pixels)
    return (pixels.to(encoder.device).float() / 255).to(encoder.dtype)  # (B, 3, H, W)


def _dropout(device: str, settings: Settings) -> Callable[[Tensor], Tensor]:
    """Dropout with random numbers of its own: the process's generator stays untouched."""
    import torch

    generator = torch.Generator(device).manual_seed(settings.seed)
    keep = 1 - settings.dropout

    def drop(x: Tensor) -> Tensor:
        return x * torch.empty_like(x).bernoulli_(keep, generator=generator) / keep

    return drop


@contextmanager
def _frozen(encoder: Encoder) -> Iterator[None]:
    """Spare the gradients of the model's own weights."""
    wanted = {parameter: parameter.requires_grad for parameter in encoder.model.parameters()}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)


# -- the file ----------------------------------------------------------------------------------------


def place(encoder_name: str) -> Path:
    """Where adapters for an encoder are kept when they were trained here."""
    return files.data_root() / "adapters" / files.slug(encoder_name) / FILE


def save(path: Path, adapters: Adapters, card: Card) -> None:
    """Write a checkpoint, whole or not at all; the same adapters give the same bytes."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in adapters.weights.items()}
    # one metadata entry only: the order of several is not the same in every run
    files.write_atomic(path, save(weights, {SPACE: msgspec.json.encode(card).decode()}))


def look_up(encoder_name: str, weights: str) -> Found:
    """Find the adapters of an encoder, trained here or shipped with it. Reads no tensor and imports no torch.

    weights: digest of the encoder's weights. Raises Missing where there are none, or only some for other weights.
    """
    shipped = {name: folder / FILE for name, folder in find.encoders().items()}
    places = [path for path in (place(encoder_name), shipped.get(encoder_name)) if path is not None]
    advice = f"train them once: harness encoder train-imo --data NAME_OR_FOLDER --encoder {encoder_name}"
    for path in places:
        if not path.is_file():
            continue
        card = read_card(path)
        if card.weights != weights:
            raise Missing(f"The image adapters {path} are for other weights than {encoder_name} has; {advice}")
        return Found(path, files.sha256_of(path), card)
    raise Missing(f"No image adapters for encoder {encoder_name}; {advice}")


def read_card(path: Path) -> Card:
    """What a checkpoint says of itself. Raises Corrupt."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return msgspec.json.decode((file.metadata() or {})[SPACE], type=Card)
    except (SafetensorError, OSError, KeyError, msgspec.MsgspecError) as error:
        raise Corrupt(
            f"{path} is no checkpoint of image adapters ({error}); train them again, or remove it."
        ) from error


def load(found: Found, encoder: Encoder) -> Adapters:
    """Read adapters for an encoder, onto its device. Raises Corrupt, or UsageError for a tower of another shape."""
    import torch
    from safetensors.torch import load_file

    blocks, width = tower(encoder)
    try:
        weights = load_file(found.path)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise Corrupt(f"{found.path}: cannot be read ({error}); train the adapters again.") from error
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if given != shapes(len(blocks), width):
        raise UsageError(f"{found.path} holds adapters for another tower than {encoder.name} has.")
    if not all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise Corrupt(f"{found.path}: a weight is not a finite float32 number; train the adapters again.")
    return Adapters(weights, found.card.settings.scale).to(encoder.device)


def card_of(encoder: Encoder, settings: Settings, trained_on: TrainingSet) -> Card:
    """The card for adapters of this encoder."""
    blocks, width = tower(encoder)
    return Card(
        encoder=encoder.name,
        weights=encoder.fingerprint["weights"],
        blocks=len(blocks),
        width=width,
        bottleneck=bottleneck(width),
        settings=settings,
        trained_on=trained_on,
    )
