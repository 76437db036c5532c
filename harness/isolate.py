"""Run a method in a process of its own, which never holds test labels and has test images only to score them.

The parent sends the support set, and validation data once the method asks for it; it gets back plain JSON and plain
numbers (safetensors), never pickle, and takes nothing for granted: a child that dies, hangs or talks nonsense fails its
cell. The child's environment says nothing of where data lies, its folder is empty and its own, and where the kernel has
Landlock (Linux 5.13) it can neither read below the folders that the lock protects nor write outside its own, nor look
into its parent. Times, the configurations tried and the validation score are what the child says; the test score is
counted by the parent. A method's file is read by children alone: `described` asks one what the method declares.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from harness import clock, find, lock
from harness.errors import HarnessError, UsageError
from harness.find import MethodSpec
from harness.tune import Choice, logits_of, tune
from harness.types import Episode, Features, Method, Score, Text

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_MESSAGE = 1 << 24  # bytes of JSON
_DECLARED = (
    "version", "views", "raw", "second_space", "trains_encoder", "pixels", "transductive", "deterministic"
)  # fmt: skip
LENGTHS = struct.Struct("<QQ")  # of JSON and of tensors, before each message
LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from harness.isolate import serve; serve()"


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    """What a child says of its choice."""

    values: dict[str, Any]
    tried: int
    val: Score | None
    fit_s: float
    select_s: float
    notes: list[str]
    trained_parameters: int
    facts: dict[str, Any]
    peak_memory_bytes: int | None


class _Card(msgspec.Struct, forbid_unknown_fields=True):
    """What a child says of a file's method."""

    name: str
    version: str
    overrides: dict[str, Any]
    facts: dict[str, Any]
    fields: list[str]
    views: int
    raw: bool
    second_space: str
    trains_encoder: bool
    pixels: bool
    transductive: bool
    deterministic: bool


class _Message(msgspec.Struct):
    kind: str  # ready | labels | choice | logits | card | error
    text: str = ""
    choice: _Told | None = None
    card: _Card | None = None


# -- the parent --------------------------------------------------------------------------------------


class Worker:
    """A child process for one cell of a method, given by name or file, and the conversation with it."""

    def __init__(self, asked: str, timeout: float | None = None) -> None:
        self.asked, self.timeout, self.walled = asked, timeout, False
        self.peak_memory_bytes: int | None = None

    def __enter__(self) -> Worker:
        self._end = None if self.timeout is None else time.monotonic() + self.timeout
        self._folder = folder = Path(tempfile.mkdtemp(prefix="harness-")).resolve()
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", LAUNCH, str(Path(__file__).parents[1])],
                stdin=theirs.fileno(),
                stdout=2,  # what a method prints must not mix with what we print
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
        self._socket = ours
        return self

    def tune(
        self,
        cls: type[Method],
        overrides: Mapping[str, Any],
        episode: Episode,
        selection: str,
        labelled: Callable[[], Features],
        device: str,
    ) -> Choice:
        """`tune.tune`, over there. `Choice.method` scores queries over there, too."""
        import torch

        job = {
            **self._start(),
            "overrides": dict(overrides),
            "selection": selection,
            "device": device,
            "threads": torch.get_num_threads(),
            "episode": [list(episode.text.classes), episode.text.scale, episode.shots, episode.seed, episode.dataset],
        }
        self._send(job, _tensors(episode))
        labels = 0
        while (message := self._receive()).kind != "choice":
            if message.kind == "ready":
                self.walled = message.text == "walled"
            elif message.kind == "labels" and selection.startswith("val"):
                held = labelled()
                labels = len(held)
                self._send({}, {"image": held.image, "label": held.label})
            else:
                self._garbled()
        told = message.choice
        if told is None or {*told.values} != {*_fields(cls)}:
            self._garbled()
        self.peak_memory_bytes = told.peak_memory_bytes
        method = _Remote(self, cls, told, len(episode.text.classes))
        return Choice(method, told.values, told.tried, labels, told.val, told.fit_s, told.select_s, tuple(told.notes))

    def _start(self) -> dict[str, Any]:
        path = [str(Path(entry).absolute()) for entry in sys.path]
        return {"method": self.asked, "path": path, "roots": lock.protected(), "folder": str(self._folder)}

    def card(self) -> _Card:
        self._send(self._start(), {})
        message = self._receive()
        if message.kind == "ready":
            message = self._receive()
        if message.card is None:
            self._garbled()
        return message.card

    def provenance(self) -> dict[str, Any]:
        return {"isolated": {"files": "Landlock" if self.walled else "not walled off: no Landlock here"}}

    def logits(self, image: Tensor, classes: int) -> Tensor:
        from safetensors.torch import load

        self._send({}, {"image": image})
        message, payload = self._message(limit=8 * len(image) * classes + (1 << 16))
        if message.kind != "logits":
            self._garbled()
        try:
            return load(payload)["logits"].to(image.device)
        except Exception:  # whatever a parser says of bytes from over there
            self._garbled()

    def _send(self, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        view = memoryview(_packed(told, tensors))
        while view:
            self._wait()
            with contextlib.suppress(TimeoutError):
                try:
                    view = view[self._socket.send(view) :]
                except OSError as error:
                    if isinstance(error, TimeoutError):
                        raise
                    self._ended()

    def _receive(self) -> _Message:
        return self._message(limit=0)[0]

    def _message(self, limit: int) -> tuple[_Message, bytes]:
        size, extra = LENGTHS.unpack(self._bytes(LENGTHS.size))
        if size > LONGEST_MESSAGE or extra > limit:
            self._garbled()
        text, payload = self._bytes(size), self._bytes(extra)
        try:
            message = msgspec.json.decode(text, type=_Message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._garbled()
        if message.kind == "error":
            raise HarnessError(message.text)
        return message, payload

    def _bytes(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait()
            try:
                part = self._socket.recv(min(size - len(found), 1 << 20))
            except TimeoutError:
                if self.process.poll() is not None:
                    self._ended()
                continue
            except OSError:
                self._ended()
            if not part:
                self._ended()
            found += part
        return bytes(found)

    def _wait(self) -> None:
        """Let the next operation take a second at most, or what is left of the time."""
        left = 1.0 if self._end is None else min(1.0, self._end - time.monotonic())
        if left <= 0:
            raise HarnessError(f"the isolated process took longer than --timeout {self.timeout:g} seconds")
        self._socket.settimeout(left)

    def _garbled(self) -> NoReturn:
        raise HarnessError("the isolated process sent what is no message of ours")

    def _ended(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        raise HarnessError(
            f"the isolated process {how if code is None or code >= 0 else f'was ended by signal {-code}'}"
        )

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def described(asked: str) -> MethodSpec:
    """What `find.method` finds for a file, with a class that declares what the method declares, and does nothing."""
    try:
        with Worker(str(Path(asked).absolute())) as child:
            card = child.card()
    except HarnessError as error:
        raise UsageError(str(error)) from error
    declared = {name: getattr(card, name) for name in _DECLARED}
    own = {"isolated_fields": card.fields, "isolated_file": child.asked.partition("[")[0]}
    calls = {"fit": _Remote.fit, "logits": _Remote.logits}
    cls = type(card.name, (Method,), {**declared, **own, **calls, "__module__": f"isolated {asked}"})
    return MethodSpec(card.name, card.version, lambda: cls, card.facts, card.overrides)


def asked_as(cls: type[Method], name: str) -> str:
    """What a child finds a method by: its file, or its name."""
    return str(getattr(cls, "isolated_file", name))


class _Remote(Method):
    """A fitted method that scores over there."""

    def __init__(self, child: Worker, cls: type[Method], told: _Told, classes: int) -> None:
        self._child, self._told, self._classes = child, told, classes
        vars(self).update(transductive=cls.transductive, pixels=cls.pixels)

    def fit(self, episode: Episode) -> _Remote:
        raise NotImplementedError("fitted over there")

    def logits(self, image: Tensor) -> Tensor:
        return self._child.logits(image, self._classes)

    def trained_parameters(self) -> int:
        return self._told.trained_parameters

    def facts(self) -> dict[str, Any]:
        return self._told.facts


def _environment(folder: Path) -> dict[str, str]:
    """Ours without what says where data lies; caches of compilers go into the child's own folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "PYTHON"))}
    places = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HARNESS_CACHE", "PWD")
    return {**kept, **dict.fromkeys(places, str(folder))}


# -- the child ---------------------------------------------------------------------------------------


def serve() -> None:
    """Be the child: fit and choose, then score what comes, until the connection ends."""
    channel = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        job, tensors = _heard(channel)
        sys.path[:] = job["path"]
        walled = raise_walls(job["roots"], Path(job["folder"]))
        _say(channel, {"kind": "ready", "text": "walled" if walled else ""})
        if "episode" not in job:
            return _say(channel, {"kind": "card", "card": _card(job["method"])})
        method, choice = _chosen(channel, job, tensors())
        _say(channel, {"kind": "choice", "choice": choice})
        while True:
            _, query = _heard(channel)
            image = query()["image"].to(job["device"])
            _say(channel, {"kind": "logits"}, {"logits": logits_of(method, image)})
    except EOFError:
        return
    except HarnessError as error:
        _say(channel, {"kind": "error", "text": str(error)})
    except BaseException as error:
        _say(channel, {"kind": "error", "text": f"{type(error).__name__}: {error}"})


def _card(asked: str) -> dict[str, Any]:
    spec = find.method(asked)
    told: dict[str, Any] = {name: getattr(spec, name) for name in ("name", "overrides", "facts")}
    told |= {name: getattr(spec.cls, name) for name in _DECLARED}
    return {**msgspec.to_builtins(told), "version": spec.version, "fields": _fields(spec.cls)}


def _chosen(channel: socket.socket, job: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Method, Any]:
    import torch

    device = job["device"]
    torch.set_num_threads(job["threads"])
    clock.reset_peak_memory(device)
    cls = find.method(job["method"]).cls
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    classes, scale, shots, seed, dataset = job["episode"]
    support = Features(tensors["image"], tensors["label"], tensors.get("views"))
    text = Text(tuple(classes), tensors["prompts"], tensors["weight"], scale, tensors.get("raw_mean"))
    episode = Episode(support, text, shots=shots, seed=seed, dataset=dataset)

    def labelled() -> Features:
        _say(channel, {"kind": "labels"})
        held = _heard(channel)[1]()
        return Features(held["image"].to(device), held["label"].to(device))

    choice = tune(cls, job["overrides"], episode, job["selection"], labelled, device)
    with lock.closed():
        trained, facts = choice.method.trained_parameters(), choice.method.facts()
    told = {name: getattr(choice, name) for name in ("values", "tried", "val", "fit_s", "select_s", "notes")}
    told |= {"trained_parameters": trained, "facts": facts, "peak_memory_bytes": clock.peak_memory_bytes(device)}
    return choice.method, json.loads(json.dumps(msgspec.to_builtins(told), allow_nan=False))


def _heard(channel: socket.socket) -> tuple[dict[str, Any], Callable[[], dict[str, Tensor]]]:
    """A message of the parent: its JSON, and a reader of its tensors, which imports torch."""
    size, extra = LENGTHS.unpack(_exactly(channel, LENGTHS.size))
    told, payload = json.loads(_exactly(channel, size)), _exactly(channel, extra)

    def tensors() -> dict[str, Tensor]:
        from safetensors.torch import load

        found: dict[str, Tensor] = load(payload)
        return found

    return told, tensors


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = channel.recv(min(size - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def _say(channel: socket.socket, told: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
    channel.sendall(_packed(told, tensors or {}))


# -- both --------------------------------------------------------------------------------------------


def _packed(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    text, payload = json.dumps(told).encode(), b""
    if tensors:
        from safetensors.torch import save

        payload = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def _tensors(episode: Episode) -> dict[str, Tensor]:
    support, text = episode.support, episode.text
    found = {
        "image": support.image,
        "label": support.label,
        "views": support.views,
        "prompts": text.prompts,
        "weight": text.weight,
        "raw_mean": text.raw_mean,
    }
    return {name: tensor.clone() for name, tensor in found.items() if tensor is not None}


def _fields(cls: type[Method]) -> list[str]:
    """The names of a method's hyperparameters."""
    told: list[str] | None = getattr(cls, "isolated_fields", None)
    return [field.name for field in dataclasses.fields(cls) if field.init] if told is None else told  # type: ignore[arg-type]


# -- Landlock ----------------------------------------------------------------------------------------

CREATE, ADD, RESTRICT = 444, 445, 446  # system calls, the same on every processor
NO_NEW_PRIVILEGES = 38
READ = 1 << 2 | 1 << 3  # files, folders
WRITE = 1 << 1 | sum(1 << bit for bit in range(4, 13))  # write, remove, make
REFER, TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
FILE = 1 << 1 | 1 << 2 | TRUNCATE  # the rights that a single file can have
OWN = ("/dev", "/proc")  # written to besides the child's own folder


def raise_walls(roots: Sequence[str], folder: Path) -> bool:
    """From here on this process reads nothing below `roots`, and writes below `folder` alone.

    False where the kernel has no Landlock; then nothing is walled off. Cost: milliseconds.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    version = library.syscall(CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = READ | WRITE | (REFER if version > 1 else 0) | (TRUNCATE if version > 2 else 0)
    scopes = 3 if version > 5 else 0  # signals and abstract sockets stay inside
    attributes = struct.pack("<QQQ", rights, 0, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = library.syscall(CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in _openings(Path("/"), roots):
        _allow(library, rules, path, rights & (READ | REFER))
    for path in (folder, *map(Path, OWN)):
        _allow(library, rules, path, rights)
    library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(library.syscall(RESTRICT, rules, 0) == 0)


def _openings(path: Path, roots: Sequence[str]) -> Iterator[Path]:
    """The highest files and folders that hold none of `roots`, and are below none."""
    below = [root for root in roots if Path(root).is_relative_to(path)]
    if not below:
        yield path
    elif str(path) not in below:
        with contextlib.suppress(OSError):
            for entry in [*path.iterdir()]:
                if not entry.is_symlink():
                    yield from _openings(entry, roots)


def _allow(library: Any, rules: int, path: Path, rights: int) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("<Qi", rights if path.is_dir() else rights & FILE, handle)
            library.syscall(ADD, rules, 1, rule, 0)
        finally:
            os.close(handle)
