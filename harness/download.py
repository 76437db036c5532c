"""Fetch files from elsewhere: resumed after a cut, from mirrors in turn, and verified before they get their name."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import http.client
import http.cookiejar
import os
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness import errors, files
from harness.types import Remote

# Why not a library: pooch neither resumes nor tries mirrors, and huggingface_hub resumes without asking whether
# the file is still the same. What is ours is the order of attempts; sockets, TLS, proxies and redirects are Python's.

BLOCK = 1 << 18
SILENCE = 30.0  # seconds without a byte after which a server is given up
SLOWEST = 2_000  # bytes per second, on the average of the last SILENCE seconds
TRIES = 4  # of one address without getting ahead
AHEAD = 1 << 20  # bytes that count as getting ahead
WAITS = (1.0, 60.0)  # seconds before the second try, and the longest wait that anybody may ask for
DRIVE = {"drive.google.com", "drive.usercontent.google.com"}  # answers with a form where files are large
LONGEST_FORM = 1 << 20
AGENT = "clip-adapter-harness"

OnBytes = Callable[[int, int], None]  # bytes on disk, bytes in all or 0 where nobody knows
T = TypeVar("T")


def fetch(
    remote: Remote, folder: Path, on_bytes: OnBytes | None = None, *, stop: threading.Event | None = None
) -> Path:
    """Have a file in `folder` and return its path; one that is there and verified is not even read.

    Bytes gather in `<file>.part`, from which later calls go on if the server says that the file is the same.
    Size and hashes are checked before the file gets its name; a wrong one is removed, and the next address is
    tried. `stop` ends the work from another thread as Ctrl-C does: what came so far is kept.

    Raises `errors.Missing` when no address gives the file, a person must fetch it, or the disk is full, and
    `errors.Corrupt` when an address gives a wrong file and no other gives the right one.
    """
    from filelock import FileLock

    path = folder / remote.file
    if _stamped(remote, path):
        return path
    lock = FileLock(folder / f".{remote.file}.lock")
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        if path.is_file() and not _stamped(remote, path):
            _take_in(remote, path)
        if not path.is_file():
            _Fetch(remote, path, on_bytes, stop or threading.Event()).run()
    finally:
        lock.release()
    return path


def _take_in(remote: Remote, path: Path) -> None:
    """Verify a file that somebody put there: stamp it, or set it aside and complain where we cannot do better."""
    wrong, sha256 = _examined(remote, path)
    if not wrong:
        _stamp(remote, path, sha256)
        return
    aside = files.set_aside(path)
    if not remote.urls:
        raise errors.Corrupt(f"{path}: {wrong}; it is now {aside.name}. {remote.by_hand}".strip())


def present(remote: Remote, folder: Path) -> bool:
    """Whether `fetch` has had this file there before and it is unchanged; reads a stamp, not the file."""
    return _stamped(remote, folder / remote.file)


def check(remote: Remote, path: Path, on_bytes: OnBytes | None = None) -> str:
    """Read a file and say what is wrong with it, expected and found; "" if nothing is."""
    return _examined(remote, path, on_bytes)[0]


def size_text(count: int) -> str:
    """Bytes for people: `137.4 MB`."""
    size, unit = float(count), 0
    while size >= 1000 and unit < 4:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}" if unit else f"{count} B"


# -- the right file ----------------------------------------------------------------------------------


def _examined(remote: Remote, path: Path, on_bytes: OnBytes | None = None) -> tuple[str, str]:
    """What is wrong with a file, and its sha256; all digests in one reading."""
    size = path.stat().st_size
    if remote.bytes is not None and size != remote.bytes:
        return f"expected {remote.bytes} bytes, found {size}", ""
    digests = {"sha256": hashlib.sha256()}
    if remote.md5 and not remote.sha256:
        digests["md5"] = hashlib.md5(usedforsecurity=False)
    if remote.git_blob and not remote.sha256:
        digests["git_blob"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
            if on_bytes:
                on_bytes(file.tell(), size)
    found = {kind: digest.hexdigest() for kind, digest in digests.items()}
    for kind, value in found.items():
        expected = getattr(remote, kind).lower()
        if expected and expected != value:
            return f"expected {kind} {expected}, found {value}", ""
    return "", found["sha256"]


class _Stamp(msgspec.Struct, frozen=True):
    """What a file was when it was verified."""

    bytes: int
    mtime_ns: int
    wanted: str  # digest of what it was verified against
    sha256: str


def _stamp(remote: Remote, path: Path, sha256: str) -> None:
    stat = path.stat()
    made = _Stamp(stat.st_size, stat.st_mtime_ns, _wanted(remote), sha256)
    files.write_atomic(_stamp_of(path), msgspec.json.encode(made))


def _stamped(remote: Remote, path: Path) -> bool:
    found = _read(_stamp_of(path), _Stamp)
    try:
        stat = path.stat()
    except OSError:
        return False
    return found is not None and (found.bytes, found.mtime_ns, found.wanted) == (
        stat.st_size,
        stat.st_mtime_ns,
        _wanted(remote),
    )


def _stamp_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _wanted(remote: Remote) -> str:
    return files.digest_of([remote.bytes, remote.sha256, remote.md5, remote.git_blob])


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


# -- attempts ----------------------------------------------------------------------------------------


class _Part(msgspec.Struct, frozen=True):
    """Where the bytes of a `.part` come from."""

    url: str
    etag: str = ""
    modified: str = ""


class _Fault(Exception):
    """Why an attempt did not give the file, and what may be tried next."""

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None, wrong: bool = False) -> None:
        super().__init__(reason)
        self.again, self.wait, self.wrong = again, wait, wrong


@dataclass
class _Fetch:
    remote: Remote
    path: Path
    on_bytes: OnBytes | None
    stop: threading.Event

    def __post_init__(self) -> None:
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.origin = self.path.with_name(f"{self.path.name}.part.json")
        self.hashed = bool(self.remote.sha256 or self.remote.md5 or self.remote.git_blob)

    def run(self) -> None:
        """Try every address in turn."""
        faults: dict[str, _Fault] = {}
        for url in self.remote.urls:
            try:
                self._from(url)
                return
            except _Fault as fault:
                faults[url] = fault
        raise self._failure(faults)

    def _failure(self, faults: dict[str, _Fault]) -> errors.HarnessError:
        if not faults:
            advice = self.remote.by_hand or "no address of it is known"
            return errors.Missing(f"{self.remote.file} must be fetched by hand: {advice.rstrip('.')}.")
        hosts = [url.partition("//")[2].partition("/")[0] or url for url in faults]
        reasons = [f"{host}: {fault}" for host, fault in zip(hosts, faults.values(), strict=True)]
        told = "; ".join(dict.fromkeys(reasons))
        advice = self.remote.by_hand or f"Try again later, or put it into {self.path.parent} yourself"
        if kept := self._kept():
            advice = f"{size_text(kept)} are kept, and the same command goes on from there. {advice}"
        kind = errors.Corrupt if any(fault.wrong for fault in faults.values()) else errors.Missing
        return kind(f"{self.remote.file} cannot be had: {told}. {advice.rstrip('.')}.")

    def _from(self, url: str) -> None:
        """Try one address until it gives the file or is given up, with growing waits in between."""
        tries, doubted = 0, False
        while True:
            before = self._kept()
            try:
                resumed = self._attempt(url)
                wrong = self._finish()
                if not wrong:
                    return
                if not resumed or doubted:
                    raise _Fault(wrong, wrong=True)
                doubted = True  # two halves of different files, perhaps: once more from the start
            except _Fault as fault:
                tries = 0 if self._kept() - before >= AHEAD else tries + 1
                if not fault.again or tries >= TRIES:
                    raise
                wait = fault.wait if fault.wait is not None else WAITS[0] * 2 ** max(tries - 1, 0)
                if fault.wait is not None and wait > WAITS[1]:
                    raise _Fault(f"{fault} and wants us to wait {wait:.0f} s") from fault
                self.stop.wait(min(wait, WAITS[1]))
                self._check_stop()

    def _attempt(self, url: str) -> bool:
        """Bring `.part` up to the end of the file. True: some of it was there before."""
        offset, headers = self._start(url)
        if offset and offset == self.remote.bytes:
            return True
        try:
            response = _open(url, headers)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and offset:
                if _total(error.headers) == offset:
                    return True
                self._drop()
                raise _Fault("the file there has become shorter", again=True, wait=0) from error
            raise _http_fault(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _network_fault(error) from error
        with response:
            offset = self._agree(url, offset, response)
            self._receive(response, offset)
        return offset > 0

    def _start(self, url: str) -> tuple[int, dict[str, str]]:
        """How much of the file is there, and what to ask for."""
        offset, known = self._kept(), _read(self.origin, _Part)
        if offset > (self.remote.bytes or offset):
            self._drop()
            offset = 0
        same = known is not None and known.url == url
        validator = known.etag or known.modified if known and same else ""
        if not offset or not (validator or self.hashed):
            return 0, {}
        # without a validator the hash will tell; so a part goes on from a mirror too
        return offset, {"Range": f"bytes={offset}-", **({"If-Range": validator} if validator else {})}

    def _agree(self, url: str, offset: int, response: Any) -> int:
        """Compare what the server offers with what we have and want; return where its bytes begin."""
        total = _total(response.headers)
        if self.remote.bytes and total and total != self.remote.bytes:
            raise _Fault(f"expected {self.remote.bytes} bytes, the server has {total}", wrong=True)
        etag, known = response.headers.get("ETag", ""), _read(self.origin, _Part)
        if response.status == 206:
            begins = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0].strip()
            changed = known and known.url == url and known.etag and etag and known.etag != etag
            if begins != str(offset) or changed:
                self._drop()
                raise _Fault("the file there has changed since the last attempt", again=True, wait=0)
        elif response.status == 200:
            offset = 0
        else:
            raise _Fault(f"HTTP {response.status}")
        room = shutil.disk_usage(self.path.parent).free
        missing = (self.remote.bytes or total) - offset
        if missing > room:
            raise errors.Missing(
                f"{self.remote.file} needs {size_text(missing)} more, and {self.path.parent} has {size_text(room)};"
                " make room there, or set HARNESS_DATA to another disk."
            )
        strong = "" if etag.startswith("W/") else etag  # a weak one does not promise equal bytes
        origin = _Part(url, strong, response.headers.get("Last-Modified", ""))
        files.write_atomic(self.origin, msgspec.json.encode(origin))
        return offset

    def _receive(self, response: Any, offset: int) -> None:
        """Write what comes, until the end or a fault."""
        total = self.remote.bytes or (_total(response.headers) or 0)
        done, mark, since = offset, offset, time.monotonic()
        try:
            with self.part.open("ab" if offset else "wb") as sink:
                while block := _block(response):
                    sink.write(block)
                    done += len(block)
                    if self.on_bytes:
                        self.on_bytes(done, total)
                    self._check_stop()
                    if total and done > total:
                        raise _Fault(f"expected {total} bytes, more came", wrong=True)
                    now = time.monotonic()
                    if now - since >= SILENCE:
                        if done - mark < SLOWEST * (now - since):
                            raise _Fault(f"slower than {SLOWEST} bytes per second", again=True)
                        mark, since = done, now
        except OSError as error:
            raise errors.Missing(
                f"{self.part}: {error.strerror or error} after {size_text(done)}; make room there, or set HARNESS_DATA"
                " to another disk, and run the same command again: it goes on from there."
            ) from error
        if total and done < total:
            raise _Fault(f"cut off after {done} of {total} bytes", again=True)

    def _finish(self) -> str:
        """Verify `.part` and give it its name; or remove it and say what is wrong."""
        wrong, sha256 = _examined(self.remote, self.part)
        if wrong:
            self._drop()
            return wrong
        with files.disk_errors(self.path):
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
            self.part.replace(self.path)
        self.origin.unlink(missing_ok=True)
        _stamp(self.remote, self.path, sha256)
        return ""

    def _kept(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt


# -- the network -------------------------------------------------------------------------------------


def _open(url: str, headers: dict[str, str]) -> Any:
    """Open an address over HTTP or HTTPS alone, through the page that Drive puts before large files."""
    opener = urllib.request.OpenerDirector()  # not build_opener: it would open file:// and ftp:// as well
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
    ):
        opener.add_handler(handler)
    sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
    drive = urllib.parse.urlsplit(url).netloc in DRIVE
    if drive and "export=" not in url:
        url += "&export=download"
    for _ in range(2):
        response = opener.open(urllib.request.Request(url, headers=sent), timeout=SILENCE)
        if response is None or response.headers.get_content_type() != "text/html":
            return response
        with response:
            if not drive:
                raise _Fault("answers with a web page in place of the file")
            url = _form_address(response.read(LONGEST_FORM).decode("utf-8", "replace"), url)
    raise _Fault("Drive asks again and again for confirmation")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address, but not from a safe line to an open one."""

    def redirect_request(self, request: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        target = rest[-1]
        if request.type == "https" and not target.startswith("https:"):
            raise _Fault(f"leads from https to {target.partition(':')[0]}")
        return super().redirect_request(request, *rest)


def _block(response: Any) -> bytes:
    try:
        return bytes(response.read1(BLOCK))
    except (OSError, http.client.HTTPException) as error:
        raise _network_fault(error) from error


def _total(headers: Any) -> int:
    """The size of the whole file as the server tells it, or 0."""
    whole = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return int(whole) if whole.isdecimal() else 0


def _http_fault(error: urllib.error.HTTPError) -> _Fault:
    again = error.code in (408, 425, 429) or error.code >= 500
    return _Fault(f"HTTP {error.code}", again=again, wait=_retry_after(error.headers.get("Retry-After", "")))


def _retry_after(text: str) -> float | None:
    """Seconds to wait, which a server gives as a number or as a date."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _network_fault(error: Exception) -> _Fault:
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror):
        return _Fault("its name cannot be resolved (no network?)")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Fault(f"its certificate is not valid ({reason.verify_message})")
    if isinstance(reason, TimeoutError):
        return _Fault(f"silent for {SILENCE:.0f} s", again=True)
    if isinstance(reason, (ConnectionRefusedError, ValueError, http.client.InvalidURL, str)):
        return _Fault(f"{reason}")
    if getattr(reason, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return _Fault("cannot be reached (no network?)")
    return _Fault(f"connection lost ({str(reason) or type(reason).__name__})", again=True)


# -- Drive -------------------------------------------------------------------------------------------


class _Form(HTMLParser):
    """The download form of a confirmation page, or the link that older pages have."""

    def __init__(self) -> None:
        super().__init__()
        self.action, self.link, self.fields = "", "", {}  # type: str, str, dict[str, str]
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("id") == "download-form":
            self.action = given.get("action", "")
        elif tag == "input" and given.get("type") == "hidden":
            self.fields[given.get("name", "")] = given.get("value", "")
        elif tag == "a" and given.get("id") == "uc-download-link":
            self.link = given.get("href", "")

    def handle_data(self, data: str) -> None:
        self.text += data


def _form_address(page: str, url: str) -> str:
    """Where a confirmation page leads, which must be Drive again."""
    form = _Form()
    form.feed(page)
    if "quota" in form.text.lower() or "too many users" in form.text.lower():
        raise _Fault("Drive says that too many people fetched the file; it opens again within a day")
    target = f"{form.action}?{urllib.parse.urlencode(form.fields)}" if form.action else form.link
    target = urllib.parse.urljoin(url, target)
    if not (form.action or form.link) or urllib.parse.urlsplit(target).netloc not in DRIVE:
        raise _Fault("Drive answers with a web page in place of the file")
    return target
