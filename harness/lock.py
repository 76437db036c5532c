"""Keep held-out data out of reach of methods, and notice a method that prepares to reach for it later.

Validation and test data, other data sets and the store lie on disk only. While a run goes on, nobody but the engine
opens a file below their folders: an audit hook, and wrappers around compiled readers that raise no audit event
(safetensors, torch), look at the stack, and refuse where anything but the engine stands on it: a method, what it left
behind (a finalizer, a callback, a thread, an import hook, an exit handler), or exec. Test labels are read once, after
every test image of the cell was predicted; before that, `quiet` makes sure that nothing of the method can run again
until they are gone: no thread, no trace, no signal handler, no torch mode, no function that it replaced. What is
found fails the cell with a named reason, is put right where it can be, and ends the method for this process.

What one Python process cannot prevent, so that `--isolate` exists, where the method has a process of its own:
- compiled code: readers that raise no audit event other than those two packages', memory read through pointers,
  torch.library kernels, anything that a library builds or starts on the method's behalf;
- code in disguise: exec in the namespace of one of our modules or of a library, functions of this module rewritten
  in place, a folder opened before the run and used as the start of a relative path;
- copies of the data in other places, such as the folder that a pack was imported from;
- what a method left in this process, once the run is over: a notebook that goes on has it in its memory;
- the validation labels that `sweep` is given, and the test images, without labels, that `logits` is given: a method
  can keep both, and use them in a later fit. Both are for choosing and scoring alone;
- the test labels that `sweep` is given under the policy `oracle`: a method can keep them outside of itself and use them
  in later cells of the run, so run `oracle` by itself for methods that you don't trust.
Don't run methods that you don't trust where test data lies.
"""

from __future__ import annotations

import atexit
import builtins
import functools
import gc
import importlib
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

from harness.errors import LeakError

_FILES = {  # audit events about paths
    "open", "os.listdir", "os.scandir", "os.rename", "os.link", "os.symlink", "os.remove", "os.truncate", "os.rmdir",
    "os.chmod", "shutil.copyfile", "shutil.move", "shutil.rmtree", "sqlite3.connect",
}  # fmt: skip
_PAIRS = {"os.rename", "os.link", "os.symlink", "shutil.copyfile", "shutil.move"}  # of those, the ones about two
_DOORS = {  # audit events of ways out of this process, or past this module
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn",
    "ctypes.dlopen", "ctypes.dlsym", "sys.addaudithook", "sys.settrace", "sys.setprofile",
    "sys.monitoring.register_callback",
}  # fmt: skip
_BUILDERS = {"numpy.ctypeslib", "torch.utils.cpp_extension"}  # load whatever code a method names
_ENGINE = {"harness", "torch", "safetensors", "numpy", "PIL", "msgspec", "filelock", "rich"} | sys.stdlib_module_names
_KEEPERS = {"concurrent", "multiprocessing", "torch", "joblib", "tqdm", "rich"}  # whose idle threads are no method's

_WRAPPED = (staticmethod, classmethod, property)
_BODY = operator.attrgetter("__code__")
_CHILD = getattr(signal, "SIGCHLD", None)
_BEGIN = threading.Thread._bootstrap_inner.__code__  # type: ignore[attr-defined]

_roots: list[str] = []
_permitted: set[str] = set()
_depth = 0  # calls into a method
_watch = 0  # runs under way
_home: FrameType | None = None  # the frame of the run: below it, every frame on the stack is looked at
_attempts: list[str] = []  # by the method that runs now
_caught: dict[str, str] = {}  # module of a method -> what it did
_running = ""  # module of the method whose cell this is
_seen: set[str] = set()  # modules of all methods so far
_installed = False
_thread_hooks: tuple[Any, Any] = (None, None)  # trace and profile function of all threads, when the run began


def protect(folder: Path) -> None:
    """Put a folder, and all below it, behind the lock."""
    root = os.path.realpath(folder)
    if root not in _roots:
        _roots.append(root)


def protected() -> list[str]:
    """Every protected folder."""
    return [*_roots]


def permit(files: Iterable[Path]) -> None:
    """Let a method open these files and no others below protected folders: its own support images."""
    _permitted.clear()
    _permitted.update(os.path.realpath(path) for path in files)


# -- the four states, from the outside inwards -------------------------------------------------------


@contextmanager
def on_watch() -> Iterator[None]:
    """From here on, and in exit handlers of the process, the engine alone reaches what is protected."""
    global _watch, _home, _thread_hooks
    _install()
    if not _watch:
        _thread_hooks = threading.gettrace(), threading.getprofile()
    before, ours = _home, gc.get_freeze_count() == 0
    _watch, _home = _watch + 1, sys._getframe(2)
    if ours:
        gc.freeze()  # so that the collection at the end looks at what came since alone
    try:
        yield
    finally:
        gc.collect()  # finalizers of methods run now, not when nobody watches
        if ours:
            gc.unfreeze()
        _watch, _home = _watch - 1, before
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)  # the last to come is the first to run: before all that methods registered


@contextmanager
def cell(module: str) -> Iterator[Callable[[], str]]:
    """Around all that is done with a method of this module; gives the check that `quiet` wants. See `unchanged`.

    Raises LeakError for a method that was caught before.
    """
    global _running, _depth
    if module in _caught:
        raise LeakError(f"caught before, so not run again in this process: {_caught[module]}")
    if found := _open_files():
        raise LeakError(f"a file of held-out data was open before the method ran: {found}")
    _running, depth = module, _depth
    _seen.add(module)
    try:
        with unchanged() as verify:
            yield verify
        if module in _caught:
            raise LeakError(_caught[module])
    except LeakError as error:
        _caught.setdefault(module, str(error))
        raise
    finally:
        _depth = depth
        permit(())


@contextmanager
def unchanged() -> Iterator[Callable[[], str]]:
    """Raise LeakError at the end if the process is not as it was, and put it right. Gives the check itself."""
    verify, restore = _baseline()
    sound = False
    try:
        yield verify
        if found := verify():  # a variable of this frame: what was put in its place elsewhere isn't asked
            raise LeakError(found)
        sound = True
    except Exception as error:
        if not isinstance(error, LeakError) and (found := verify()):
            raise LeakError(found) from error
        raise
    finally:
        restore(sound)


@contextmanager
def closed() -> Iterator[None]:
    """Around every call into a method. Raises LeakError at the end if the method tried the lock."""
    global _depth, _watch, _home
    _install()
    if _depth == 0:
        _attempts.clear()
    hooks, depth, watch, home = _hooks(), _depth, _watch, _home
    kept = (depth + 1, watch, home, tuple(_roots), frozenset(_permitted))
    _depth += 1
    try:
        yield
    finally:
        if (_depth, _watch, _home, tuple(_roots), frozenset(_permitted)) != kept:
            _attempts.append("the method opened the lock")
            _roots[:] = kept[3]
            permit(map(Path, kept[4]))
        _depth, _watch, _home = depth, watch, home
        if found := _hooks_left(hooks):
            _attempts.append(found)
        if _depth == 0 and _attempts:
            raise LeakError(_attempts[0])


@contextmanager
def quiet(verify: Callable[[], str]) -> Iterator[None]:
    """Around reading test labels: raises LeakError if anything of a method could run before this ends."""
    if found := verify():
        raise LeakError(found)
    collecting = gc.isenabled()
    gc.disable()  # so that no finalizer and no callback of the collector runs
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def guard(what: str) -> None:
    """Called by every reader of held-out data: refuses all but the engine."""
    if _depth or _stranger():
        _refuse(what)


# -- who is it, and what for -------------------------------------------------------------------------


def _stranger() -> str:
    """The module nearest on the stack, below the run's own frame, that is not the engine's; empty where none is."""
    if not _watch:
        return ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not _home:
        name = str(frame.f_globals.get("__name__", "?"))
        if name.partition(".")[0] not in _ENGINE or not _is_module(name, frame):
            return name
        frame = frame.f_back
    return ""


def _is_module(name: str, frame: FrameType) -> bool:
    """Whether a frame runs in that module, and not in a namespace that only bears its name."""
    return getattr(sys.modules.get(name), "__dict__", None) is frame.f_globals


def _refuse(what: str) -> None:
    reason, culprit = f"the method reached for held-out data: {what}", _stranger()
    if _depth and (culprit == _running or culprit not in _seen):
        _attempts.append(reason)
    else:  # what an earlier method left behind: not the fault of the one that runs
        _caught.setdefault(culprit, reason)
    raise LeakError(reason)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not (_depth or _watch):
        return
    if event in _FILES:
        for path in arguments[:2] if event in _PAIRS else arguments[:1]:
            _check_path(path, event in _PAIRS or event in ("open", "shutil.rmtree"))
    elif event in _DOORS and (_depth or _stranger()) and not (_is_a_thread_begun() or _asked_by_library()):
        _refuse(f"by {event}")


def _check_path(path: Any, from_above: bool = True) -> None:
    """Refuse a path below a protected folder, or above one where what is above opens a way to it."""
    if isinstance(path, int):
        path = f"/proc/self/fd/{path}"
    if not isinstance(path, str | bytes | os.PathLike):
        return
    try:
        real = os.path.realpath(os.fsdecode(path))
    except (ValueError, OSError):
        return
    if real in _permitted:
        return
    stem = real.rstrip(os.sep) + os.sep
    inside = any(real == root or real.startswith(root + os.sep) for root in _roots)
    above = from_above and any(root.startswith(stem) for root in _roots)
    memory = real.startswith("/proc/") and real.endswith("/mem")
    if ((inside or memory) and _depth) or ((inside or above or memory) and _stranger()):
        _refuse(f"opened {real}")


def _is_a_thread_begun() -> bool:
    """Whether a new thread takes over what this process, under coverage or a debugger, had traced all threads with.

    A refusal there would end the thread before its work, and whoever waits for that would wait forever.
    """
    asked_by = sys._getframe(2).f_code
    return asked_by is _BEGIN and (threading.gettrace(), threading.getprofile()) == _thread_hooks


def _asked_by_library() -> bool:
    """Whether the nearest code on the stack, the standard library aside, is an installed package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "?"))
        top = name.partition(".")[0]
        if not _is_module(name, frame):
            return False
        if top not in sys.stdlib_module_names:
            place = Path(str(getattr(sys.modules[name], "__file__", ""))).parts
            own = top == _running.partition(".")[0]
            return bool({"site-packages", "dist-packages"} & {*place}) and not own and name not in _BUILDERS
        frame = frame.f_back
    return False


def _install() -> None:
    """Install the audit hook and wrap compiled readers, once; hooks cannot be removed, so they test the state."""
    global _installed
    if _installed:
        return
    _installed = True
    import torch

    sys.addaudithook(_audit)
    for name in ("", ".numpy", ".torch", "._safetensors_rust"):
        reader: Any = importlib.import_module(f"safetensors{name}")
        reader.safe_open = _guarded(reader.safe_open)
    torch.from_file = _guarded(torch.from_file)
    storage: Any = torch.UntypedStorage
    storage.from_file = staticmethod(_guarded(storage.from_file))


def _guarded(opener: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(opener, updated=())
    def open_unless_refused(path: Any, *args: Any, **kwargs: Any) -> Any:
        if _depth or _watch:
            _check_path(path)
        return opener(path, *args, **kwargs)

    del open_unless_refused.__wrapped__
    return open_unless_refused


# -- what a method leaves behind ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A module or a class as it was: all its names, those that hold code, the code, and the body of functions."""

    owner: Any
    known: frozenset[str]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    functions: tuple[Any, ...]
    bodies: tuple[Any, ...]

    @classmethod
    def of(cls, owner: Any, names: Iterable[str] | None = None) -> _Place:
        held = vars(owner)
        if names is None:
            names = [name for name, value in held.items() if callable(value) or type(value) in _WRAPPED]
        values = [held[name] for name in names]
        inner = [value.fget if type(value) is property else getattr(value, "__func__", value) for value in values]
        functions = tuple(value for value in inner if type(value) is FunctionType)
        bodies = tuple(map(_BODY, functions))
        return cls(owner, frozenset(held), tuple(names), tuple(values), functions, bodies)

    def changed(self) -> list[str]:
        """Names that hold something else now, or are new and stand before what was meant."""
        held = vars(self.owner)
        found = []
        if held.keys() != self.known:
            found += [name for name in held.keys() - self.known if _hides(self.owner, name)]
        if not all(map(operator.is_, map(held.get, self.names), self.values)):
            found += [name for name, value in zip(self.names, self.values, strict=True) if held.get(name) is not value]
        if not all(map(operator.is_, map(_BODY, self.functions), self.bodies)):
            pairs = zip(self.functions, self.bodies, strict=True)
            found += [function.__name__ for function, body in pairs if function.__code__ is not body]
        return found

    def restore(self) -> None:
        for name in self.changed():
            if name not in self.known:
                delattr(self.owner, name)
        for name, value in zip(self.names, self.values, strict=True):
            if vars(self.owner).get(name) is not value:
                setattr(self.owner, name, value)
        for function, body in zip(self.functions, self.bodies, strict=True):
            function.__code__ = body


def _baseline() -> tuple[Callable[[], str], Callable[[bool], None]]:
    """How the process is now: one function that says what has changed, and one that puts it back."""
    places, threads, handlers, hooks = _places(), set(sys._current_frames()), _handlers(), _hooks()
    owners = {place.owner.__name__: place.owner for place in places}
    modules = {name: owner for name, owner in owners.items() if sys.modules.get(name) is owner}
    folder, settings, callbacks = Path.cwd(), _settings(), [*gc.callbacks]

    def verify() -> str:
        for place in places:
            if changed := place.changed():
                return f"the method replaced {place.owner.__name__}.{changed[0]}"
        for name, module in modules.items():
            if sys.modules.get(name) is not module:
                return f"the method replaced the module {name}"
        if (now := _settings()) != settings:
            return f"the method changed {min(dict(now.items() ^ settings.items()))} in the environment"
        return _hooks_left(hooks) or _handler_left(handlers) or _thread_left(threads)

    def restore(sound: bool) -> None:
        gc.callbacks[:] = callbacks
        os.chdir(folder)
        if sound:
            return
        for place in places:
            place.restore()
        sys.modules.update(modules)
        if (now := _settings()) != settings:
            for name in now:
                del os.environ[name]
            os.environ.update(settings)
        _restore_handlers(handlers)

    return verify, restore


def _places() -> list[_Place]:
    """Where the code is kept that results go through."""
    import msgspec
    import safetensors.torch
    import torch

    engine = [module for name, module in sys.modules.items() if name.partition(".")[0] == "harness"]
    classes = {
        value
        for module in engine
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    others = [os, gc, time, signal, Path, msgspec, msgspec.json, safetensors, safetensors.torch]
    return [
        *map(_Place.of, [*engine, *classes, *others]),
        _Place.of(torch.Tensor, [*vars(torch.Tensor)]),
        _Place.of(torch, ("Tensor", "argmax", "isfinite", "cat", "tensor", "from_file", "inference_mode")),
        _Place.of(sys, ("audit", "addaudithook", "settrace", "setprofile", "_getframe", "_current_frames")),
        _Place.of(builtins, ("open", "len", "sum", "int", "float", "isinstance", "zip", "all", "any", "vars", "map")),
    ]


def _hides(owner: Any, name: str) -> bool:
    """Whether a new name stands before one that was meant: a builtin in a module, a base's method in a class."""
    if isinstance(owner, ModuleType):
        return owner is not builtins and hasattr(builtins, name)
    return any(name in vars(base) for base in owner.__mro__[1:])


def _settings() -> dict[str, str]:
    """Our variables of the environment, which say where data lies."""
    return {name: value for name, value in os.environ.items() if name.startswith("HARNESS_")}


def _hooks() -> tuple[Any, ...]:
    """What sees other functions run: trace and profile functions, and how many torch modes are on."""
    import torch

    modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    return sys.gettrace(), sys.getprofile(), *modes


def _hooks_left(before: tuple[Any, ...]) -> str:
    """Take such hooks away; say what they were."""
    if _hooks() == before:
        return ""
    import torch

    trace, profile, functions, dispatches = before
    found = "" if (sys.gettrace(), sys.getprofile()) == (trace, profile) else "a function that traces others"
    sys.settrace(trace)
    sys.setprofile(profile)
    while (on := torch._C._len_torch_function_stack()) > functions:
        mode = type(torch._C._get_function_stack_at(on - 1))
        if mode is getattr(sys.modules.get("torch.utils._device"), "DeviceContext", None):
            torch.set_default_device(None)  # rude, and no more
        if torch._C._len_torch_function_stack() == on:
            torch._C._pop_torch_function_stack()
            found = f"the torch mode {mode.__name__} on"
    while torch._C._len_torch_dispatch_stack() > dispatches:
        found = f"the torch mode {type(torch._C._pop_torch_dispatch_stack(None)).__name__} on"
    return found and f"the method left {found}"


def _handlers() -> dict[Any, Any]:
    """Signal handlers, and whether a timer runs; SIGCHLD aside, which torch's data loader takes."""
    timers = {timer: bool(signal.getitimer(timer)[0]) for timer in _timers()}
    kept = {number: signal.getsignal(number) for number in signal.valid_signals() if number != _CHILD}
    return {"timers": timers, **kept}


def _timers() -> list[Any]:
    return [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]


def _handler_left(before: dict[Any, Any]) -> str:
    now = _handlers()
    if now["timers"] != before["timers"]:
        return "the method left a timer running"
    changed = [number for number in before if number != "timers" and now[number] is not before[number]]
    return f"the method left a handler for signal {int(changed[0])}" if changed else ""


def _restore_handlers(before: dict[Any, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread can have set one
    now = _handlers()
    for timer, running in before["timers"].items():
        if now["timers"][timer] and not running:
            signal.setitimer(timer, 0)
    for number, handler in before.items():
        if number != "timers" and now[number] is not handler:
            signal.signal(number, handler)


def _thread_left(before: set[int]) -> str:
    """Name a thread that came since and is neither over nor a library's idle worker."""
    for _ in range(20):  # one that is about to end may do so
        frames = {ident: frame for ident, frame in sys._current_frames().items() if ident not in before}
        left = [ident for ident, frame in frames.items() if not _is_idle_worker(frame)]
        if not left:
            return ""
        time.sleep(0.01)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return f"the method left a thread running: {names.get(left[0], left[0])}"


def _is_idle_worker(frame: FrameType | None) -> bool:
    """Whether all that a thread runs is a library that keeps threads, on top of the standard library's start."""
    tops = []
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "?"))
        if not _is_module(name, frame):
            return False
        tops.append(name.partition(".")[0])
        frame = frame.f_back
    return bool(_KEEPERS & {*tops}) and {*tops} <= _KEEPERS | sys.stdlib_module_names


def _open_files() -> str:
    """A file below a protected folder that this process holds open; empty where none is, or none can be seen."""
    try:
        handles = [*Path("/proc/self/fd").iterdir()]
    except OSError:
        return ""
    for handle in handles:
        with suppress(OSError):  # the one that listed the others is closed by now
            if any(str(handle.readlink()).startswith(root + os.sep) for root in _roots):
                return str(handle.readlink())
    return ""


def _at_exit() -> None:
    """Exit handlers of methods run after this: they find the lock shut."""
    global _watch, _home
    _watch, _home = _watch + 1, None
