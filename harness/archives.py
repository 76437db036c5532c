"""Unpack archives that strangers made: looked through first, built beside, moved into place last."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from harness import errors, files

SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar", ".zip")
BLOCK = 1 << 20
LONGEST_HEADER = 1 << 20  # bytes of a long name or an extended header; tarfile reads it in one piece
XZ_MEMORY = 256 << 20  # the dictionary that an .xz may ask for; `xz -9` asks for 64 MiB
DEEPEST = 32  # folders within folders
ODD = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
JUNK = re.compile(r"(^|/)(__MACOSX(/|$)|\._[^/]*$|\.DS_Store$)")  # what macOS adds; `._x.jpg` is no image

OnMember = Callable[[str, int], None]  # path and bytes of a file that was written


@dataclass(frozen=True)
class Caps:
    """What no honest data set needs more of."""

    members: int = 500_000  # of one archive; the largest known has 109 thousand
    size: int = 400 * 10**9  # of everything that is unpacked
    ratio: int = 200  # unpacked against packed; photographs stay below 2, text below 20
    slack: int = 64 << 20  # bytes for which nobody asks about the ratio
    depth: int = 2  # archives within archives


def unpack(archive: Path, folder: Path, *, on_member: OnMember | None = None, caps: Caps | None = None) -> int:
    """Unpack a zip, tar, tar.gz, tar.xz or tar.bz2, archives within it included, as the new folder `folder`.

    The whole archive is looked through before a byte of it is written: links, devices, paths that leave the
    folder, doubled, case-colliding and odd names, encryption, too many members, bytes or too high a ratio are
    refused, and so is what is cut off or damaged. An archive within it is looked through in the same way when
    its turn comes, and becomes the folder of its name. `folder` appears whole or not at all. Returns the
    number of files.

    Raises `errors.Corrupt` naming archive, member and rule, `errors.Missing` when the archive cannot be read
    or the disk is full, `errors.UsageError` when `folder` exists.
    """
    if folder.exists():
        raise errors.UsageError(f"{folder} exists; {archive.name} is unpacked into a new folder only.")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise errors.Missing(f"{archive}: cannot be read: {error.strerror or error}.") from error
    with file, files.new_folder(folder) as inside:
        job = _Job(inside, caps or Caps(), on_member)
        job.unpack(file, archive.name, inside, 0)
    return job.files


def is_archive(path: Path) -> bool:
    """Whether a file goes by the name of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without the ending that makes it an archive."""
    ending = next((ending for ending in SUFFIXES if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


# -- the work ----------------------------------------------------------------------------------------


@dataclass
class _Job:
    root: Path
    caps: Caps
    on_member: OnMember | None
    files: int = 0
    size: int = 0
    made: set[Path] = field(default_factory=set)  # folders that exist

    def unpack(self, file: IO[bytes], where: str, target: Path, depth: int) -> None:
        """Look through an archive, then write it below `target`."""
        with _damage_named(where):
            kind = _kind(file, where)
            names = self._scan(file, kind, where, depth)
            # an archive x.tar that holds a folder x, and nothing beside it, shall not become x/x
            strip = depth > 0 and names.tops == {target.name}
            for member in _members(file, kind, where, self.caps):
                path = target.parent / member.name if strip else target / member.name
                if member.folder:
                    self._make(path)
                elif is_archive(path):
                    self._nested(member, path, f"{where} > {member.name}", depth + 1, seekable=kind == "tar")
                else:
                    self._write(member, path, where)
                    self.files += 1
                    if self.on_member:
                        self.on_member(path.relative_to(self.root).as_posix(), member.size)

    def _scan(self, file: IO[bytes], kind: str, where: str, depth: int) -> _Names:
        names, total, holds = _Names(where), 0, False
        for count, member in enumerate(_members(file, kind, where, self.caps), 1):
            if count > self.caps.members:
                raise _refusal(where, member.name, f"more than {self.caps.members} members")
            nested = not member.folder and is_archive(Path(member.name))
            if nested and depth == self.caps.depth:
                raise _refusal(where, member.name, f"archives within archives, more than {depth} deep")
            # an archive within becomes a folder of its own, so it claims the name of that folder
            names.claim(stem(member.name) if nested else member.name, folder=member.folder)
            total += member.size
            holds |= not member.folder
            if self.size + total > self.caps.size:
                raise _refusal(where, member.name, f"more than {self.caps.size} bytes when unpacked")
        if not holds:
            raise errors.Corrupt(f"{where}: an archive without a file; nothing was unpacked.")
        self.size += total
        free = shutil.disk_usage(self.root).free
        if total > free:
            raise errors.Missing(f"{where}: needs {total} bytes when unpacked, and {self.root.parent} has {free} left.")
        return names

    def _nested(self, member: _Member, path: Path, where: str, depth: int, *, seekable: bool) -> None:
        """Unpack an archive within an archive: in place where that can be sought, else by way of a file."""
        target = path.with_name(stem(path.name))
        if seekable:
            with member.open() as inner:
                self.unpack(inner, where, target, depth)
            return
        self._write(member, path, where)
        with path.open("rb") as inner:
            self.unpack(inner, where, target, depth)
        path.unlink()

    def _write(self, member: _Member, path: Path, where: str) -> None:
        self._make(path.parent)
        left = member.size
        with member.open() as source, _writing(path, where), path.open("xb") as sink:
            while block := source.read(BLOCK):
                left -= len(block)
                try:
                    sink.write(block)
                except OSError as error:
                    raise _DiskError(error) from error
        if left:
            raise _refusal(where, member.name, f"{left} bytes less than it says")

    def _make(self, folder: Path) -> None:
        if folder not in self.made:
            with _writing(folder, folder.name):
                folder.mkdir(parents=True, exist_ok=True)
            self.made.add(folder)


class _DiskError(Exception):
    """A fault of the disk that we write to, not of the archive that we read."""


@contextlib.contextmanager
def _writing(path: Path, where: str) -> Iterator[None]:
    """Tell a fault of our disk from a fault of the archive: both are OSErrors."""
    try:
        yield
    except FileExistsError as error:
        raise _refusal(where, path.name, "the name occurs twice") from error
    except _DiskError as error:
        cause = cast(OSError, error.__cause__)
        raise errors.Missing(
            f"{where}: cannot unpack {path.name}: {cause.strerror or cause}; make room, or set HARNESS_DATA to another"
            " disk, and run the same command again."
        ) from error


@contextlib.contextmanager
def _damage_named(where: str) -> Iterator[None]:
    """Whatever the readers of formats raise over bad bytes becomes one line."""
    try:
        yield
    except errors.HarnessError:
        raise
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error) as error:
        raise errors.Corrupt(f"{where}: cut off or damaged: {error}; nothing was unpacked.") from error
    except NotImplementedError as error:
        raise errors.Corrupt(f"{where}: packed in a way that is not supported here: {error}.") from error
    except (OSError, ValueError, LookupError, RuntimeError, OverflowError) as error:
        raise errors.Corrupt(f"{where}: damaged: {error}; nothing was unpacked.") from error


def _refusal(where: str, member: str, rule: str) -> errors.Corrupt:
    shown = repr(member) if len(member) <= 80 else f"{member[:60]!r}…"
    return errors.Corrupt(f"{where}: member {shown}: {rule}; nothing was unpacked.")


# -- names -------------------------------------------------------------------------------------------


def _clean(raw: str, where: str) -> str:
    """The path of a member below its folder, in one spelling; "" for the folder itself."""
    if ODD.search(raw):
        raise _refusal(where, raw, "control, undecodable or backslash characters in the name")
    if raw.startswith("/") or PureWindowsPath(raw).drive:
        raise _refusal(where, raw, "an absolute path")
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refusal(where, raw, "a path that leaves the folder")
    if len(parts) > DEEPEST or any(len(part.encode()) > 255 for part in parts):
        raise _refusal(where, raw, f"a name of more than 255 bytes or {DEEPEST} folders")
    return "/".join(parts)


@dataclass
class _Names:
    """The names an archive has used, in the form in which Windows and macOS compare them."""

    where: str
    seen: dict[str, str] = field(default_factory=dict)  # folded: as spelt, a folder with / at the end
    tops: set[str] = field(default_factory=set)

    def claim(self, path: str, *, folder: bool) -> None:
        """Refuse a name that was used, by itself or but for case, and a file that is a folder as well."""
        parent, slash, _ = path.rpartition("/")
        if slash:
            if self.seen.get(_fold(parent)) != f"{parent}/":
                self.claim(parent, folder=True)
        else:
            self.tops.add(path)
        spelt = f"{path}/" if folder else path
        known = self.seen.setdefault(_fold(path), spelt)
        if known is spelt or (known == spelt and folder):
            return
        if known.rstrip("/") != path:
            raise _refusal(self.where, path, f"the same name as {known!r} but for case")
        rule = "the name occurs twice" if known == spelt else "the name is used for a file and a folder"
        raise _refusal(self.where, path, rule)


def _fold(path: str) -> str:
    return path if path.isascii() and path.islower() else unicodedata.normalize("NFC", path).casefold()


# -- members -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    folder: bool
    open: Callable[[], IO[bytes]]


MAGIC = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}


def _kind(file: IO[bytes], where: str) -> str:
    """What an archive is by its first bytes; names lie."""
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    with contextlib.suppress(tarfile.TarError):
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return "tar"
    if not head.strip(b"\0"):
        raise errors.Corrupt(f"{where}: an empty file{', or one of zeros' if head else ''}.")
    what = "a web page" if head.lstrip()[:1] == b"<" else "no zip, tar, tar.gz, tar.xz or tar.bz2"
    raise errors.Corrupt(f"{where}: not an archive but {what}.")


def _members(file: IO[bytes], kind: str, where: str, caps: Caps) -> Iterator[_Member]:
    """Every member that is a plain file or a folder, its name cleaned; any other is refused."""
    file.seek(0)
    found = _zip_members(file, where, caps) if kind == "zip" else _tar_members(file, kind, where, caps)
    for raw, member in found:
        name = _clean(raw, where)
        if not name and not member.folder:
            raise _refusal(where, raw, "a file without a name")
        if name and not JUNK.search(name):
            yield _Member(name, member.size, member.folder, member.open)


def _zip_members(file: IO[bytes], where: str, caps: Caps) -> Iterator[tuple[str, _Member]]:
    with zipfile.ZipFile(file) as archive:
        end = 0
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            raw = info.orig_filename  # `filename` ends at a NUL
            if info.header_offset < end:
                raise _refusal(where, raw, "its bytes are those of another member")
            end = info.header_offset + 30 + info.compress_size  # 30: the least that a header takes
            if info.flag_bits & 0x2041:
                raise _refusal(where, raw, "it is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(where, raw, "a link" if kind == stat.S_IFLNK else "a device or pipe")
            if info.file_size > max(caps.slack, caps.ratio * info.compress_size):
                raise _refusal(where, raw, f"unpacks to more than {caps.ratio} times its size")
            folder = info.is_dir() or kind == stat.S_IFDIR
            yield raw, _Member(raw, 0 if folder else info.file_size, folder, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(file: IO[bytes], kind: str, where: str, caps: Caps) -> Iterator[tuple[str, _Member]]:
    stream = file if kind == "tar" else cast(IO[bytes], _Guarded(file, kind, where, caps))
    mode = "r:" if kind == "tar" else "r|"
    # a small buffer, because tarfile copies what is left of it for every header
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Header, bufsize=1 << 14) as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            tar.members.clear()  # or it keeps every header for as long as it is open
            if info.issym() or info.islnk():
                raise _refusal(where, info.name, "a link")
            if info.issparse():
                raise _refusal(where, info.name, "a file with holes")
            if not info.isreg() and not info.isdir():
                raise _refusal(where, info.name, "a device or pipe")
            if info.size < 0:
                raise _refusal(where, info.name, "a size below 0")
            size = 0 if info.isdir() else info.size
            yield info.name, _Member(info.name, size, info.isdir(), lambda info=info: _opened(tar, info, where))  # type: ignore[misc]
        while kind != "tar" and stream.read(BLOCK):
            pass  # the checksum comes last


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo, where: str) -> IO[bytes]:
    """The bytes of a member that passed our rules and passes Python's own for data archives too."""
    if hasattr(tarfile, "data_filter"):  # not before Python 3.11.4
        try:
            tarfile.data_filter(info, "/nowhere")
        except tarfile.FilterError as error:
            raise _refusal(where, info.name, f"Python's data filter: {error}") from error
    return cast(IO[bytes], tar.extractfile(info))


class _Header(tarfile.TarInfo):
    """A header that is loud where tarfile takes bad bytes for the end, and small where it would read gigabytes."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # a block of zeros: the proper end
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.SubsequentHeaderError("it has no end mark") from error  # type: ignore[attr-defined]
        except tarfile.HeaderError as error:
            raise tarfile.SubsequentHeaderError(str(error)) from error  # type: ignore[attr-defined]

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        found = super().frombuf(buf, encoding, errors)
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if found.type in (*extended, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if not 0 <= found.size <= LONGEST_HEADER:
                raise tarfile.HeaderError(f"a header of {found.size} bytes")
        elif found.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.HeaderError("a file with holes")
        return found

    def _no_holes(self, *_: Any) -> None:
        raise tarfile.HeaderError("a file with holes")

    # tarfile loops for ever over some broken maps of holes
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _no_holes


class _Guarded:
    """The bytes of a compressed file, as long as they keep to the ratio."""

    def __init__(self, file: IO[bytes], kind: str, where: str, caps: Caps) -> None:
        opened: dict[str, Callable[[], IO[bytes]]] = {
            "gz": lambda: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
            "bz2": lambda: cast(IO[bytes], bz2.BZ2File(file)),
            "xz": lambda: cast(IO[bytes], io.BufferedReader(_Xz(file), BLOCK)),
        }
        self._file, self._stream, self._where, self._caps = file, opened[kind](), where, caps
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._given += len(data)
        if self._given > max(self._caps.slack, self._caps.ratio * self._file.tell()):
            raise errors.Corrupt(
                f"{self._where}: unpacks to more than {self._caps.ratio} times its size; nothing was unpacked."
            )
        return data


class _Xz(io.RawIOBase):
    """One .xz stream with a bound on memory, which lzma.LZMAFile does not offer."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder = file, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decoder.eof:
            packed = self._file.read(BLOCK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise EOFError("the file ends before its last block")
            if data := self._decoder.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0
