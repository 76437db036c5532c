"""The one encoder: any model of open_clip, from its name or file to raw embeddings of pixels and strings."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import logging
import re
import socket
import sys
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import decode, files, packed
from harness.errors import Corrupt, Missing, UsageError, unknown
from harness.images import pixels_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "fp16")
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin")
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
TRANSFORM = ("mean", "std", "interpolation", "resize_mode")  # what a tag of open_clip says of it
BATCH = {"cpu": 32, "cuda": 256}  # the most images in one forward pass; halved when memory runs out
IN_CACHE = 10 << 20  # bytes of the largest tensor inside the image tower on a CPU; above, memory bounds the products
PROBED = 4  # pictures of noise that a model embeds when it is loaded
ALIKE = 0.999  # the least cosine between bf16 and fp32 embeddings that lets bf16 run on a CPU


# -- the encoder -------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Encoder:
    """A CLIP model in eval mode: strings and pixels in, raw float32 embeddings of width `dim` out."""

    name: str  # as resolved: what to type to get this model again
    dim: int  # D
    size: int  # pixels are (3, size, size)
    scale: float  # what the model multiplies a cosine with
    device: str
    fingerprint: dict[str, str]  # digests of weights, architecture and transform; precision; pixels, where not by PIL
    batch: int  # the most rows in one forward pass
    model: Any = field(repr=False)  # for methods that train it
    tokenizer: Callable[[list[str]], Tensor] = field(repr=False)
    transform: Callable[[Image.Image], Image.Image] = field(repr=False)  # resize and crop
    resize: decode.Resize = field(repr=False)  # the same in words, for tensors
    mean: Sequence[float] = field(repr=False)
    std: Sequence[float] = field(repr=False)
    dtype: Any = field(repr=False)  # of the pixels that the model takes
    pixels: str = "pil"  # or tensor: what reads and resizes image files
    _told: bool = field(default=False, repr=False)
    _packed: packed.Packed | None = field(default=None, repr=False)

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        """Resize and crop an RGB picture, of PIL or (3, H, W) uint8, as open_clip does: (3, size, size) uint8.

        A picture of `size` x `size`, such as an augmented view, keeps its pixels.
        """
        import torch

        if isinstance(image, torch.Tensor):
            return decode.cropped(image[None], self.resize)[0]  # (3, size, size)
        return torch.from_numpy(pixels_of(self.transform(image)))  # (3, size, size)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels (B, 3, H, W) into what the model takes, on its device and in its precision."""
        import torch

        assert pixels.dtype == torch.uint8, "pixels are uint8; the encoder normalises"
        mean, std = self._moments
        x = pixels.to(self.device, non_blocking=True).float().div_(255)  # (B, 3, H, W)
        return x.sub_(mean).div_(std).to(self.dtype)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and std of the pixels, (3, 1, 1) each, on the device: to send them again would wait for a GPU."""
        import torch

        with torch.inference_mode(False):  # a method may compute with them outside of it
            mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (self.mean, self.std))
        return mean, std

    def image(self, pixels: Tensor) -> Tensor:
        """Embed uint8 pixels: (B, 3, H, W) -> (B, D) float32, not normalised, on the encoder's device.

        Larger inputs run in several passes of at most `batch` rows. When memory runs out, `batch` is halved
        for good, which is logged once. Raises Missing if not even one image fits.
        """
        with self._faster():
            return self._in_batches(pixels, lambda part: self.model.encode_image(self.normalise(part), normalize=False))

    def text(self, strings: Sequence[str]) -> Tensor:
        """Embed strings: (len, D) float32, not normalised, on the encoder's device; batches as in `image`."""
        tokens = self.tokenizer(list(strings))  # (len, context)
        return self._in_batches(tokens, lambda part: self.model.encode_text(part.to(self.device), normalize=False))

    def _faster(self) -> contextlib.AbstractContextManager[None]:
        """Lend the image tower the products that are faster on a CPU: the same numbers to rounding."""
        if self.device != "cpu":
            return contextlib.nullcontext()
        if self._packed is None or not self._packed.is_of(self.model.visual):
            self._packed = None  # never two layouts at a time
            self._packed = packed.pack(self.model.visual)
        return packed.in_use(self._packed)

    def _in_batches(self, rows: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        import torch

        done: list[Tensor] = []
        start = 0
        while start < len(rows):
            part = rows[start : start + self.batch]
            try:
                with torch.inference_mode(), _true_fp32(self.device, self.fingerprint["precision"]):
                    done.append(forward(part).float())
                start += len(part)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._shrink(len(part))
        # cat copies outside of inference mode, so that a method can train on the result
        return torch.cat(done) if done else torch.empty(0, self.dim, device=self.device)

    def _shrink(self, failed: int) -> None:
        if failed == 1:
            raise Missing(
                f"Not enough memory on {self.device} for {self.name} with one image at a time: "
                "use a smaller --encoder, or another --device."
            )
        self.batch = failed // 2
        if not self._told:
            log.warning("memory ran out on %s: going on with batches of %d", self.device, self.batch)
            self._told = True


def out_of_memory(error: Exception) -> bool:
    """Whether a failure is a lack of memory, on whatever device."""
    import torch

    # The last is oneDNN's, where no page is left for the code that it writes.
    texts = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(t in str(error) for t in texts)


def _true_fp32(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Keep TF32 out of convolutions, where torch allows it by default, so that fp32 on a GPU means fp32."""
    import torch

    if precision != "fp32" or not device.startswith("cuda"):
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def load(name: str, device: str = "cpu", precision: str = "auto", pixels: str = "pil") -> Encoder:
    """Load an encoder, ready to embed.

    name: an encoder that ships with the data sets (`demo`); a model of open_clip with the tag of its weights
    (`ViT-B-32:laion2b_s34b_b79k`), without a tag its `openai` weights or else the first known ones;
    `NAME:PATH` to a checkpoint; a folder with `open_clip_config.json`, or a checkpoint in such a folder;
    `hf-hub:ORG/REPO`. device: `auto`, `cpu`, `cuda`, `cuda:1`. precision: `auto` (fp16 on a GPU, else fp32),
    `fp32`, `bf16`, `fp16`. pixels: `pil`, or `tensor` for image files read and resized by torchvision. Raises
    UsageError for an unknown name, weights that do not fit, or the wrong activation; Missing for weights that are
    not here and cannot be fetched; Corrupt for a damaged checkpoint.
    """
    device = resolve_device(device)
    check_pixels(pixels)
    encoder = _load(name, device, resolve_precision(precision, device))[0]
    encoder.pixels, encoder.fingerprint = pixels, with_pixels(encoder.fingerprint, pixels, device)
    if pixels != "pil":
        decode.available("cpu")  # tells once if not, before many threads ask
    return encoder


def _load(name: str, device: str, precision: str) -> tuple[Encoder, Card]:
    with _quiet():
        source = _find(name)
        encoder = _build(source, device, precision)
        if precision == "bf16" and not device.startswith("cuda"):
            _require_alike(encoder, _build(source, device, "fp32"))
    known = _card_of(encoder, source)
    with contextlib.suppress(OSError, Missing):  # a card only saves time
        files.write_atomic(_card_path(name, device, precision), msgspec.json.encode(known))
    return encoder, known


def _build(source: Source, device: str, precision: str) -> Encoder:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    digest = files.sha256_of(source.weights)
    config = _config(source)
    _check_activation(source, config, digest)
    model = _create(source, device, precision)
    _fill(model, source, published=digest in _published())
    model.eval()  # open_clip hands models over in train mode; with BatchNorm that costs ten points silently
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    *resize, last = image_transform_v2(cfg, is_train=False).transforms
    assert type(last).__name__ == "Normalize", "open_clip's transform has changed"
    encoder = Encoder(
        name=source.name,
        dim=0,
        size=_square(cfg.size, source.name),
        scale=float(model.logit_scale.detach().float().exp()),
        device=device,
        fingerprint={
            "weights": digest,
            "architecture": files.digest_of(config),
            "transform": files.digest_of(model.visual.preprocess_cfg),
            "precision": precision,
        },
        batch=BATCH["cuda" if device.startswith("cuda") else "cpu"],
        model=model,
        tokenizer=_tokenizer(open_clip, source),
        transform=_chain([step for step in resize if type(step).__name__ != "MaybeToTensor"]),
        resize=decode.Resize(
            _square(cfg.size, source.name),
            cfg.resize_mode or "shortest",
            "bilinear" if cfg.interpolation == "bilinear" else "bicubic",  # random is for training
            cfg.fill_color,
        ),
        mean=cfg.mean,
        std=cfg.std,
        dtype=_dtype(precision),
    )
    with _sizes(model.visual) as sizes:
        encoder.dim = _probe(encoder).shape[1]
    if device == "cpu":
        encoder.batch = max(1, min(encoder.batch, PROBED * IN_CACHE // max(sizes, default=1)))
    return encoder


@contextlib.contextmanager
def _sizes(module: Any) -> Iterator[list[int]]:
    """Collect the bytes of every tensor that a module and its parts give out."""
    import torch

    sizes: list[int] = []

    def given(_module: Any, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.nbytes)

    handles = [part.register_forward_hook(given) for part in module.modules()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _create(source: Source, device: str, precision: str) -> Any:
    import open_clip

    try:
        return open_clip.create_model(
            source.model,
            load_weights=False,  # `_fill` does, from the file whose digest was taken
            pretrained_text=False,
            precision=precision,
            device=device,
            force_preprocess_cfg=dict(source.preprocess),
        )
    except Exception as error:  # a configuration can be wrong in any way
        if out_of_memory(error):
            raise _too_large(source, device) from error
        raise UsageError(f"open_clip cannot build encoder {source.name}: {_one_line(error)}") from error


def _too_large(source: Source, device: str) -> Missing:
    """Not even the weights fit: while they are read, they are held twice."""
    size = source.weights.stat().st_size
    return Missing(
        f"Not enough memory on {device} for encoder {source.name}: its weights have {size:,} bytes, and are held twice "
        "while they are read. Use a smaller --encoder, or a machine with more memory."
    )


def _fill(model: Any, source: Source, published: bool) -> None:
    """Load the checkpoint, never running code from it."""
    from open_clip.factory import load_checkpoint
    from safetensors import SafetensorError

    path = source.weights
    try:
        if published and path.suffix == ".pt":
            _fill_from_archive(model, path)
        else:
            load_checkpoint(model, str(path), weights_only=True)
    except SafetensorError as error:
        raise Corrupt(f"{path} is no whole safetensors file ({_one_line(error)}): fetch it again.") from error
    except Exception as error:
        if out_of_memory(error):
            raise _too_large(source, "cpu") from error
        text = _one_line(error)
        if "loading state_dict" in text or "size mismatch" in text:
            raise UsageError(f"{path} holds other weights than {source.model} has: {text}") from error
        raise UsageError(
            f"{path} cannot be read as plain weights ({text}): it is damaged, or wants to run code. "
            "Convert it to .safetensors."
        ) from error


def _fill_from_archive(model: Any, path: Path) -> None:
    """Load OpenAI's own TorchScript archive, known by its digest; weights-only loading refuses those."""
    import torch

    state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    wanted = model.state_dict()  # an archive also holds what the model computes by itself
    model.load_state_dict({key: value for key, value in state.items() if key in wanted})


def _tokenizer(open_clip: Any, source: Source) -> Callable[[list[str]], Tensor]:
    try:
        # `open_clip.tokenize` would cut at 77 tokens whatever the model has
        tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(source.model)
    except Exception as error:
        raise Missing(f"The tokenizer of encoder {source.name} is not here: {_one_line(error)}") from error
    return tokenizer


def _probe(encoder: Encoder) -> Tensor:
    """Embed pictures of noise: (PROBED, D). Raises Corrupt if that gives no finite numbers."""
    import torch

    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (PROBED, 3, encoder.size, encoder.size), generator=noise, dtype=torch.uint8)
    image = encoder.image(pixels)  # (PROBED, D)
    if not image.isfinite().all():
        precision = encoder.fingerprint["precision"]
        raise Corrupt(
            f"Encoder {encoder.name} gives numbers that are not finite in {precision}: its weights are "
            "damaged, or need fp32."
        )
    return image


def _require_alike(encoder: Encoder, exact: Encoder) -> None:
    import torch

    cosine = float(torch.cosine_similarity(_probe(encoder), _probe(exact), dim=1).min())
    if cosine < ALIKE:
        raise UsageError(
            f"In bf16 encoder {encoder.name} differs from fp32 (cosine {cosine:.4f}, at least {ALIKE} is "
            "needed on a CPU): use fp32."
        )


def _square(size: int | Sequence[int], name: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(f"Encoder {name} takes images of {height} x {width} pixels; only square ones work here.")
    return int(height)


def _chain(steps: list[Callable[[Any], Any]]) -> Callable[[Image.Image], Image.Image]:
    def transform(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return transform


def _dtype(precision: str) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


# -- from names to files -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a name leads: what open_clip builds, and the file that fills it."""

    name: str
    model: str  # of open_clip: a name, `local-dir:FOLDER` or `hf-hub:REPO`
    weights: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # what comes with a tag
    quick_gelu: bool | None = None  # the activation that the tag was trained with


def _shipped() -> dict[str, Path]:
    from harness import find

    return find.encoders()


def _find(name: str) -> Source:
    if folder := _shipped().get(files.folded(name)):
        return _folder(files.folded(name), folder)
    if name.startswith("hf-hub:"):
        cfg = {"hf_hub": name.removeprefix("hf-hub:") + "/"}
        return Source(name, name, _download(name, name, cfg))
    path = Path(name.removeprefix("local-dir:"))
    if path.is_dir() or name.startswith("local-dir:"):
        return _folder(name, path)
    if path.suffix in CHECKPOINTS and ":" not in name:
        _require_file(name, path)
        _require_file(name, path.parent / "open_clip_config.json")
        return Source(name, f"local-dir:{path.absolute().parent}", path.absolute())
    return _built_in(name)


def _folder(name: str, folder: Path) -> Source:
    _require_file(name, folder / "open_clip_config.json")
    found = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINTS)
    best = [path for wanted in PREFERRED for path in found if path.name == wanted] or found
    if not best:
        raise Missing(f"Encoder {name}: no checkpoint ({', '.join(CHECKPOINTS)}) in {folder}.")
    if len(found) > 1 and best[0].name not in PREFERRED:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"Encoder {name}: {folder} holds several checkpoints ({names}); name one by its path.")
    return Source(name, f"local-dir:{folder.absolute()}", best[0].absolute())


def _require_file(name: str, path: Path) -> None:
    if not path.is_file():
        raise Missing(f"Encoder {name}: there is no file {path}.")


def _built_in(name: str) -> Source:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    model, _, which = name.partition(":")
    model = model.replace("/", "-")  # ViT-B/16, as OpenAI writes it
    if model not in open_clip.list_models():
        raise UsageError(_unknown_encoder(name, model, open_clip.list_models()))
    if Path(which).suffix in CHECKPOINTS:
        _require_file(name, Path(which))
        path = Path(which).absolute()
        return Source(f"{model}:{which}", model, path, _transform_of(model, path))
    tags = list_pretrained_tags_by_model(model)
    if not tags:
        raise UsageError(f"open_clip has no weights for {model}: type {model}:PATH with a checkpoint of yours.")
    if not which:
        which = "openai" if "openai" in tags else tags[0]
        quick = bool(get_pretrained_cfg(model, which).get("quick_gelu", False))
        model = _twin(model, quick) or model
    cfg = get_pretrained_cfg(model, which)
    if not cfg:
        raise UsageError(unknown(f"weights of {model}", which, tags))
    preprocess = {key: cfg[key] for key in TRANSFORM}
    source = Source(f"{model}:{which}", model, Path(), preprocess, bool(cfg.get("quick_gelu", False)))
    _check_activation(source, _config(source), digest="")  # before the download
    return Source(source.name, model, _download(source.name, model, cfg), preprocess, source.quick_gelu)


def _transform_of(model: str, path: Path) -> dict[str, Any]:
    """Give what the tag of a checkpoint says of its transform; a file of no known tag gets the first tag's.

    Only ViT-L-14:laion2b_s32b_b82k and ViT-H-14:dfn5b differ from the first: name their folder instead.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(model)
    cfg = _published_as(path, digest="") or (get_pretrained_cfg(model, tags[0]) if tags else {})
    return {key: cfg[key] for key in TRANSFORM if key in cfg}


def _unknown_encoder(name: str, model: str, models: list[str]) -> str:
    known = {each.lower(): each for each in [*_shipped(), *models]}
    near = [known[match] for match in difflib.get_close_matches(model.lower(), known, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"No encoder named {name!r}.{hint} Known: {', '.join(_shipped())}, a folder or checkpoint, "
        f"and NAME[:PRETRAINED] for the {len(models)} models of open_clip."
    )


def _config(source: Source) -> dict[str, Any]:
    """Read the architecture that open_clip will build."""
    import open_clip

    try:
        config = open_clip.get_model_config(source.model)
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"Encoder {source.name}: cannot read its configuration ({_one_line(error)}).") from error
    if not isinstance(config, dict) or "vision_cfg" not in config:
        raise UsageError(f"Encoder {source.name}: its configuration has no field model_cfg.vision_cfg.")
    return config


def _download(name: str, model: str, cfg: Mapping[str, Any]) -> Path:
    """Fetch weights the way open_clip does, but answer within seconds where there is no network."""
    from open_clip.pretrained import download_pretrained

    try:
        cached = _cached(cfg)
        if cached is not None:
            return cached
        _require_network(cfg)
        return Path(download_pretrained(dict(cfg)))
    except Exception as error:  # hubs and proxies raise anything
        if cfg.get("hf_hub"):
            repository = cfg["hf_hub"].rpartition("/")[0]
            bring = f"the folder https://huggingface.co/{repository} and type --encoder FOLDER"
        else:
            bring = f"the file {cfg['url']} and type --encoder {model}:FILE"
        raise Missing(
            f"Cannot fetch the weights of encoder {name} ({_one_line(error)}). Without a network: bring {bring}, "
            f"or use --encoder {next(iter(_shipped()))}."
        ) from error


def _cached(cfg: Mapping[str, Any]) -> Path | None:
    """Find weights that were fetched before. The hub's client would ask the network about them first."""
    import huggingface_hub
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repo, _, file = cfg.get("hf_hub", "").rpartition("/")
    names = [str(Path(file).with_suffix(".safetensors")), file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    for each in names if repo else []:
        path = huggingface_hub.try_to_load_from_cache(repo, each)
        if isinstance(path, str):
            return Path(path)
    return None


def _require_network(cfg: Mapping[str, Any]) -> None:
    """Fail at once where the host cannot be reached; the hub's client would retry for most of a minute."""
    import huggingface_hub.constants

    url = huggingface_hub.constants.ENDPOINT if cfg.get("hf_hub") else str(cfg.get("url"))
    parts = urllib.parse.urlsplit(url)
    fetched = Path("~/.cache/clip").expanduser() / Path(parts.path).name  # where open_clip keeps files of URLs
    if urllib.request.getproxies().get(parts.scheme) or not parts.hostname or fetched.is_file():
        return
    port = parts.port or (80 if parts.scheme == "http" else 443)
    socket.create_connection((parts.hostname, port), timeout=5).close()


# -- the QuickGELU trap ------------------------------------------------------------------------------


def _check_activation(source: Source, config: Mapping[str, Any], digest: str) -> None:
    """Refuse weights trained with QuickGELU in a model that computes GELU, and the reverse.

    open_clip builds `ViT-B-16:openai` with GELU and only warns; accuracy drops without an error. A tag tells
    the activation. A file tells it by its digest (OpenAI's and open_clip's own releases), by `quick_gelu` in
    its safetensors metadata, by the hub repository it lies in, or by `openai` or `quickgelu` in its name. Any
    other file cannot be judged: the shapes of the weights are the same.
    """
    built = bool(config.get("quick_gelu", False))
    trained = source.quick_gelu if source.quick_gelu is not None else _trained_with(source.weights, digest)
    if trained is None or trained == built:
        return
    which = source.name.partition(":")[2]
    if source.model.startswith(("local-dir:", "hf-hub:")):
        advice = f'Set "quick_gelu": {str(trained).lower()} in its open_clip_config.json.'
    elif twin := _twin(source.model, trained):
        advice = f"Type {twin}:{which}."
    elif built:
        return  # roberta-ViT-B-32 has QuickGELU, no twin, and a tag that does not say so
    else:
        advice = "open_clip has no such model with QuickGELU."
    have, need = ("QuickGELU", "GELU") if built else ("GELU", "QuickGELU")
    raise UsageError(
        f"Encoder {source.name} computes {have}, but these weights were trained with {need}: "
        f"accuracy would drop silently. {advice}"
    )


def _trained_with(path: Path, digest: str) -> bool | None:
    """Tell whether a checkpoint was trained with QuickGELU, or None where nothing says so."""
    if cfg := _published_as(path, digest):
        return bool(cfg.get("quick_gelu", False))
    if (said := _metadata(path).get("quick_gelu")) is not None:
        return said.lower() in ("true", "1")
    names = f"{path.parent.name}/{path.name}".lower()
    return True if re.search(r"openai|quick_?-?gelu", names) else None


def _published_as(path: Path, digest: str) -> Mapping[str, Any] | None:
    """Find the entry of open_clip's table for a checkpoint: by its digest, or by the repository it lies in."""
    published = _published()
    clues = [digest, digest[:8], *(part.rpartition("--")[2] for part in path.parts[-5:])]
    return next((published[clue] for clue in clues if clue in published), None)


def _published() -> dict[str, Mapping[str, Any]]:
    """Key open_clip's table of weights by digest, first 8 digits of a digest, and name of the hub repository."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    known: dict[str, Mapping[str, Any]] = {}
    for model, tag in list_pretrained():
        cfg = get_pretrained_cfg(model, tag)
        for pattern in (r"/([0-9a-f]{64})/", r"-([0-9a-f]{8})\.pt$"):
            known |= dict.fromkeys(re.findall(pattern, cfg["url"]), cfg)
        if cfg["hf_hub"].endswith("/"):
            known[cfg["hf_hub"].split("/")[-2]] = cfg
    return known


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError:  # reading the tensors will tell it better
        return {}


def _twin(model: str, quick: bool) -> str | None:
    """Name the same architecture with the given activation, if open_clip has it."""
    import open_clip

    plain = model.removesuffix("-quickgelu")
    twin = f"{plain}-quickgelu" if quick else plain
    config = open_clip.get_model_config(twin)
    return twin if config and bool(config.get("quick_gelu", False)) == quick else None


# -- devices -----------------------------------------------------------------------------------------


def resolve_device(device: str) -> str:
    """Turn `auto` into `cuda` or `cpu`, and check that a named device is here.

    Imports torch only where there may be a GPU.
    """
    if device == "auto":
        return "cuda" if _gpus() else "cpu"
    if device == "cpu":
        return device
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not match:
        raise UsageError(f"No device named {device!r}. Known: auto, cpu, cuda, cuda:0, cuda:1, …")
    count = _gpus()
    if not count:
        raise Missing(f"Asked for --device {device}, but torch finds no GPU here. Type --device cpu or auto.")
    if int(match[1] or 0) >= count:
        raise Missing(f"Asked for --device {device}, but there are only {count} GPUs: cuda:0 to cuda:{count - 1}.")
    return device


def _gpus() -> int:
    nodes = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' Linux
    if sys.platform == "linux" and not any(Path(node).exists() for node in nodes):
        return 0  # without importing torch, which takes seconds
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_precision(precision: str, device: str) -> str:
    """Turn `auto` into fp16 on a GPU and fp32 elsewhere."""
    if precision == "auto":
        return "fp16" if device.startswith("cuda") else "fp32"
    if precision not in PRECISIONS:
        raise UsageError(unknown("precision", precision, ("auto", *PRECISIONS)))
    return precision


def check_pixels(pixels: str) -> None:
    """Raise UsageError for an unknown way from files to pixels."""
    if pixels not in decode.PIXELS:
        raise UsageError(unknown("way to read pixels", pixels, decode.PIXELS))


def with_pixels(fingerprint: Mapping[str, str], pixels: str, device: str) -> dict[str, str]:
    """Tell in a fingerprint that pixels are not PIL's, so that these features are other features, and rank apart.

    The decoder of a GPU, where torchvision has it, is another one than that of a CPU. Of PIL nothing is said: so were
    all earlier features made.
    """
    if pixels == "pil":
        return dict(fingerprint)
    way = f"{pixels}-cuda" if device.startswith("cuda") and decode.available(device) else pixels
    return {**fingerprint, "transform": files.digest_of([fingerprint["transform"], way]), "pixels": way}


# -- cards: what an encoder is, without loading it ---------------------------------------------------


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What was true of an encoder when it was last loaded, and the files that must be unchanged for that."""

    name: str
    dim: int
    size: int
    scale: float
    fingerprint: dict[str, str]
    files: list[tuple[str, int, int]]  # path, bytes, mtime in ns
    open_clip: str


def identify(name: str, device: str = "cpu", precision: str = "auto") -> dict[str, str]:
    """Give the fingerprint of an encoder: from its card, or by loading it where there is no valid card."""
    return card(name, device, precision).fingerprint


def card(name: str, device: str = "cpu", precision: str = "auto") -> Card:
    """Tell name, width, size, scale and fingerprint of an encoder; fast if it was ever loaded here."""
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    path = _card_path(name, device, precision)
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(path.read_bytes(), type=Card)
        if known.open_clip == _version() and all(tuple(_stat(Path(f[0]))) == f for f in known.files):
            return known
    return _load(name, device, precision)[1]


def _card_of(encoder: Encoder, source: Source) -> Card:
    used = [source.weights]
    if source.model.startswith("local-dir:"):
        used.append(Path(source.model.removeprefix("local-dir:")) / "open_clip_config.json")
    return Card(
        name=encoder.name,
        dim=encoder.dim,
        size=encoder.size,
        scale=encoder.scale,
        fingerprint=encoder.fingerprint,
        files=[_stat(path) for path in used],
        open_clip=_version(),
    )


def _card_path(name: str, device: str, precision: str) -> Path:
    # what a name means may depend on the installation or the working folder
    folder = _shipped().get(files.folded(name))
    local = any(Path(part).exists() for part in (name, name.partition(":")[2]) if part)
    anchor = str(folder or (Path.cwd() if local else ""))
    digest = files.digest_of([name, anchor, device.partition(":")[0], precision])[:12]
    return files.cache_root() / "encoders" / f"{files.slug(name)}-{precision}-{digest}.json"


def _stat(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _version() -> str:
    return importlib.metadata.version("open_clip_torch")


# -- small helpers -----------------------------------------------------------------------------------


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " …"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from installing a log handler, and the hub from telling each retry."""
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # with a handler present, logging.warning() installs none
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)
