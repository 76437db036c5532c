"""Hostile and broken archives are refused with one line, and honest ones come out whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import archives, errors
from harness.archives import Caps, unpack

Make = Callable[[Path], Path]  # writes an archive into a folder


def tar_bytes(*members: Any, kind: str = "") -> bytes:
    """A tar of (name, bytes), ("folder/", None) or ready-made TarInfo with or without bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=f"w:{kind}") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_bytes(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def zip_special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new) and old in data
    return data.replace(old, new)


def encrypted_zip() -> bytes:
    data = bytearray(zip_bytes(("a.jpg", b"secret")))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1  # bit 0 of the flags
    return bytes(data)


def overlapping_zip() -> bytes:
    """Two names in the directory for the bytes of one member: the way of the best bombs."""
    data = zip_bytes(("a.jpg", b"x" * 50), method=zipfile.ZIP_STORED)
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", 2, 2)
    tail[12:16] = struct.pack("<I", 2 * len(entry))
    return data[:start] + entry + patched(entry, b"a.jpg", b"b.jpg") + bytes(tail)


def bad_method_zip() -> bytes:
    data = bytearray(zip_bytes(("a.jpg", b"x" * 50), method=zipfile.ZIP_STORED))
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(magic) + at] = 9  # deflate64
    return bytes(data)


def two_names_zip() -> bytes:
    """A name before the bytes that is not the one in the directory."""
    data = zip_bytes(("a.jpg", b"x"))
    return data.replace(b"a.jpg", b"b.jpg", 1)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def huge_header() -> bytes:
    info = special("x", tarfile.XHDTYPE)
    info.size = 3 << 30
    return info.tobuf() + bytes(4096)


def lying_size() -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size = 3_000_000
    return info.tobuf() + bytes(1024)


def old_holes() -> bytes:
    info = special("holes.jpg", tarfile.GNUTYPE_SPARSE)
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def new_holes(version: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("holes.jpg")
        major, minor = version.split(".")
        info.pax_headers = {"GNU.sparse.major": major, "GNU.sparse.minor": minor, "GNU.sparse.map": "0,1"}
        if version == "0.1":
            info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000"}
        tar.addfile(info)
    return sink.getvalue()


IMAGE = b"\xff\xd8" + bytes(range(256)) * 40  # 10 kB that pack badly enough
GOOD = tar_bytes(("good/a.jpg", IMAGE), ("good/b.jpg", IMAGE))
FIRST = 512 + 21 * 512  # where the first member of GOOD ends: a header, and 10242 bytes in blocks of 512
NOISE = os.urandom(20_000)
LIMITS = Caps(members=50, size=5_000_000, ratio=100, slack=200_000, depth=2)

# name of the case, name of the archive, its bytes, words of the refusal
HOSTILE: list[tuple[str, str, bytes, str]] = [
    ("tar: a path above the folder", "x.tar", tar_bytes(("ok.jpg", b"1"), ("../evil.jpg", b"2")), "'../evil.jpg': a path that leaves"),
    ("tar: .. further in", "x.tar", tar_bytes(("a/b/../../../evil.jpg", b"2")), "a path that leaves"),
    ("tar: an absolute path", "x.tar", tar_bytes(("/etc/evil", b"2")), "an absolute path"),
    ("tar.gz: a path above the folder", "x.tar.gz", tar_bytes(("../evil.jpg", b"2"), kind="gz"), "a path that leaves"),
    ("zip: a path above the folder", "x.zip", zip_bytes(("ok.jpg", b"1"), ("../../evil.jpg", b"2")), "a path that leaves"),
    ("zip: an absolute path", "x.zip", zip_bytes(("/evil.jpg", b"2")), "an absolute path"),
    ("zip: a drive letter", "x.zip", zip_bytes(("C:/evil.jpg", b"2")), "an absolute path"),
    ("zip: a backslash path", "x.zip", zip_bytes(("..\\evil.jpg", b"2")), "control, undecodable or backslash"),
    ("zip: a network path", "x.zip", zip_bytes(("//host/share/evil.jpg", b"2")), "an absolute path"),
    ("tar: a symbolic link", "x.tar", tar_bytes(special("l", tarfile.SYMTYPE, "/etc/passwd")), "'l': a link"),
    ("tar: a link inside the folder", "x.tar", tar_bytes(("a.jpg", b"1"), special("b.jpg", tarfile.SYMTYPE, "a.jpg")), "a link"),
    ("tar: a hard link", "x.tar", tar_bytes(("a.jpg", b"1"), special("b.jpg", tarfile.LNKTYPE, "a.jpg")), "a link"),
    ("tar: writing through a link", "x.tar", tar_bytes(special("d", tarfile.SYMTYPE, "/tmp"), ("d/evil.jpg", b"1")), "a link"),
    ("zip: a symbolic link", "x.zip", zip_bytes((zip_special("l", stat.S_IFLNK | 0o777), b"/etc/passwd")), "a link"),
    ("tar: a device", "x.tar", tar_bytes(special("sda", tarfile.BLKTYPE)), "a device or pipe"),
    ("tar: a character device", "x.tar", tar_bytes(special("tty", tarfile.CHRTYPE)), "a device or pipe"),
    ("tar: a pipe", "x.tar", tar_bytes(special("pipe", tarfile.FIFOTYPE)), "a device or pipe"),
    ("zip: a pipe", "x.zip", zip_bytes((zip_special("pipe", stat.S_IFIFO | 0o666), b"")), "a device or pipe"),
    ("tar: a name twice", "x.tar", tar_bytes(("a.jpg", b"1"), ("./a.jpg", b"2")), "the name occurs twice"),
    ("zip: names equal but for case", "x.zip", zip_bytes(("a/B.jpg", b"1"), ("a/b.JPG", b"2")), "'a/B.jpg' but for case"),
    ("tar: folders equal but for case", "x.tar", tar_bytes(("Cat/1.jpg", b"1"), ("cat/2.jpg", b"2")), "'Cat/' but for case"),
    ("tar: names equal but for the form of é", "x.tar", tar_bytes(("caf\u00e9.jpg", b"1"), ("cafe\u0301.jpg", b"2")), "but for case"),
    ("tar: a file that is a folder too", "x.tar", tar_bytes(("a", b"1"), ("a/b.jpg", b"2")), "a file and a folder"),
    ("tar: a folder that is a file later", "x.tar", tar_bytes(("a/b.jpg", b"2"), ("a", b"1")), "a file and a folder"),
    ("zip: NUL in a name", "x.zip", patched(zip_bytes(("a_.jpg", b"1")), b"a_.jpg", b"a\0.jpg"), "control, undecodable"),
    ("tar: a line break in a name", "x.tar", tar_bytes(("a\nb.jpg", b"1")), "control, undecodable"),
    ("tar: bytes that are no text", "x.tar", tar_bytes(("a\udcff.jpg", b"1")), "control, undecodable"),
    ("tar: a name that reads backwards", "x.tar", tar_bytes(("a\u202egpj.exe", b"1")), "control, undecodable"),
    ("tar: a name of 300 bytes", "x.tar", tar_bytes(("n" * 300, b"1")), "more than 255 bytes"),
    ("tar: 40 folders deep", "x.tar", tar_bytes(("a/" * 40 + "b.jpg", b"1")), "or 32 folders"),
    ("tar: a file without a name", "x.tar", tar_bytes(("./", b"1")), "a file without a name"),
    ("tar: too many members", "x.tar", tar_bytes(*((f"{i}.jpg", b"") for i in range(51))), "more than 50 members"),
    ("tar: too many bytes", "x.tar", tar_bytes(("a", bytes(3_000_000)), ("b", bytes(3_000_000))), "more than 5000000 bytes"),
    ("tar: a size of 3 MB and no bytes", "x.tar", lying_size(), "cut off or damaged"),
    ("zip: a bomb", "x.zip", zip_bytes(("zeros", bytes(2_000_000))), "more than 100 times its size"),
    ("tar.gz: a bomb", "x.tar.gz", tar_bytes(("zeros", bytes(4_000_000)), kind="gz"), "more than 100 times its size"),
    ("tar.xz: a bomb", "x.tar.xz", tar_bytes(("zeros", bytes(4_000_000)), kind="xz"), "more than 100 times its size"),
    ("tar.gz: a bomb behind the end mark", "x.tar.gz", gzip.compress(GOOD + bytes(4_000_000)), "more than 100 times"),
    ("zip: two members, the same bytes", "x.zip", overlapping_zip(), "those of another member"),
    ("zip: encrypted", "x.zip", encrypted_zip(), "it is encrypted"),
    ("zip: packed as nobody packs", "x.zip", bad_method_zip(), "not supported here"),
    ("zip: two names for one member", "x.zip", two_names_zip(), "differ"),
    ("zip: a flipped byte", "x.zip", flipped(zip_bytes(("a.jpg", NOISE), method=zipfile.ZIP_STORED), 900), "Bad CRC-32"),
    ("zip: cut off", "x.zip", zip_bytes(("a.jpg", NOISE))[:-30], "cut off or damaged"),
    ("tar: cut off in a file", "x.tar", tar_bytes(("a.jpg", NOISE))[:5_000], "cut off or damaged"),
    ("tar: cut off between two files", "x.tar", GOOD[:FIRST], "no end mark"),
    ("tar: a damaged header", "x.tar", flipped(GOOD, FIRST + 3), "bad checksum"),
    ("tar.gz: cut off", "x.tar.gz", tar_bytes(("a.jpg", NOISE), kind="gz")[:9_000], "cut off or damaged"),
    ("tar.gz: a flipped byte", "x.tar.gz", flipped(gzip.compress(tar_bytes(("a.jpg", NOISE)), 0), 5_000), "CRC check failed"),
    ("tar.xz: cut off", "x.tar.xz", lzma.compress(tar_bytes(("a.jpg", NOISE)))[:9_000], "ends before its last block"),
    ("tar: a header of 3 GB", "x.tar", huge_header(), "a header of 3221225472 bytes"),
    ("tar: a file with holes, old", "x.tar", old_holes(), "a file with holes"),
    ("tar: a file with holes, 0.1", "x.tar", new_holes("0.1"), "a file with holes"),
    ("tar: a file with holes, 1.0", "x.tar", new_holes("1.0"), "a file with holes"),
    ("an archive in an archive in an archive in an archive", "x.tar", tar_bytes(("c.tar", tar_bytes(("b.tar", tar_bytes(("a.tar", GOOD)))))), "more than 2 deep"),
    ("an inner archive that is hostile", "x.zip", zip_bytes(("in.tar.gz", tar_bytes(("../evil.jpg", b"1"), kind="gz"))), "x.zip > in.tar.gz: member '../evil.jpg'"),
    ("an inner archive on top of a folder", "x.tar", tar_bytes(("in/a.jpg", b"1"), ("in.tar", GOOD)), "a file and a folder"),
    ("an inner archive that is none", "x.tar", tar_bytes(("in.zip", b"hello")), "x.tar > in.zip: not an archive"),
    ("no file at all", "x.tar", tar_bytes(("a", None), ("a/b", None)), "without a file"),
    ("zeros", "x.tar", bytes(5000), "or one of zeros"),
    ("an empty file", "x.zip", b"", "an empty file"),
    ("a web page", "x.zip", b"<!DOCTYPE html><title>Quota exceeded</title>", "a web page"),
    ("noise", "x.tar", b"\x07" * 5000, "not an archive"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "rule"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_archive_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, data: bytes, rule: str
) -> None:
    place = tmp_path / "images"
    (place / "earlier").mkdir(parents=True)
    (place / "earlier" / "a.jpg").write_bytes(b"earlier")
    archive = tmp_path / name
    archive.write_bytes(data)
    with pytest.raises(errors.Corrupt) as refusal:
        unpack(archive, place / "new", caps=LIMITS)
    line = str(refusal.value)
    assert rule in line and line.startswith(name) and "\n" not in line and len(line) < 300
    assert sorted(tmp_path.iterdir()) == [place, archive]
    assert [path.relative_to(place).as_posix() for path in sorted(place.rglob("*"))] == ["earlier", "earlier/a.jpg"]
    assert (place / "earlier" / "a.jpg").read_bytes() == b"earlier"


HONEST = [
    ("x.tar", GOOD),
    ("x.tar.gz", gzip.compress(GOOD)),
    ("x.tgz", gzip.compress(GOOD)),
    ("x.tar.xz", lzma.compress(GOOD)),
    ("x.tar.bz2", bz2.compress(GOOD)),
    ("x.zip", zip_bytes(("good/a.jpg", IMAGE), ("good/b.jpg", IMAGE))),
    ("zip-named.tar", zip_bytes(("good/a.jpg", IMAGE), ("good/b.jpg", IMAGE))),
    ("x.tar", tar_bytes(("./", None), ("./good/", None), ("./good/a.jpg", IMAGE), ("./good/b.jpg", IMAGE))),
    ("x.zip", zip_bytes(("good/", b""), ("good/a.jpg", IMAGE), ("good/b.jpg", IMAGE), ("__MACOSX/good/._a.jpg", b"x"), ("good/.DS_Store", b"x"))),
    ("x.tar", tar_bytes(("good.tar", GOOD))),
    ("x.tar", tar_bytes(("good.tar", tar_bytes(("a.jpg", IMAGE), ("b.jpg", IMAGE))))),
    ("x.zip", zip_bytes(("good.tar.gz", gzip.compress(GOOD)))),
    ("x.tar.gz", tar_bytes(("good.zip", zip_bytes(("a.jpg", IMAGE), ("b.jpg", IMAGE))), kind="gz")),
    ("x.tar", tar_bytes(("good.tar", tar_bytes(("good.tar", GOOD))))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), HONEST, ids=range(len(HONEST)))
def test_an_honest_archive_comes_out_whole_also_from_within_another(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    told: list[tuple[str, int]] = []
    count = unpack(
        tmp_path / name, tmp_path / "out", on_member=lambda path, size: told.append((path, size)), caps=LIMITS
    )
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")
    }
    assert found == {"good/a.jpg": IMAGE, "good/b.jpg": IMAGE}
    assert count == 2 and sorted(told) == [("good/a.jpg", len(IMAGE)), ("good/b.jpg", len(IMAGE))]


def test_hundreds_of_inner_archives_become_folders_of_their_names(tmp_path: Path) -> None:
    inner = [(f"n{i:08}.tar", tar_bytes((f"n{i:08}_1.JPEG", b"%d" % i), (f"n{i:08}_2.JPEG", b"x"))) for i in range(300)]
    (tmp_path / "train.tar").write_bytes(tar_bytes(*inner))
    assert unpack(tmp_path / "train.tar", tmp_path / "out") == 600
    assert len(list((tmp_path / "out").iterdir())) == 300
    assert (tmp_path / "out" / "n00000123" / "n00000123_1.JPEG").read_bytes() == b"123"


def test_files_and_folders_have_usual_rights_whatever_the_archive_says(tmp_path: Path) -> None:
    info = tarfile.TarInfo("run.sh")
    info.mode, info.uid, info.size = 0o6777, 12345, 0
    (tmp_path / "x.tar").write_bytes(tar_bytes(info))
    unpack(tmp_path / "x.tar", tmp_path / "out")
    made = (tmp_path / "out" / "run.sh").stat()
    assert stat.S_IMODE(made.st_mode) & 0o7111 == 0 and made.st_uid == os.getuid()


def test_an_existing_folder_and_an_unreadable_archive_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD)
    (tmp_path / "out").mkdir()
    with pytest.raises(errors.UsageError, match="into a new folder only"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    with pytest.raises(errors.Missing, match="No such file"):
        unpack(tmp_path / "none.tar", tmp_path / "new")


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 20_000}))
    with pytest.raises(errors.Missing, match=r"needs 20484 bytes when unpacked, and .* has 20000 left"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.tar"]


def test_a_disk_that_fills_up_on_the_way_is_our_fault_and_not_the_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD)
    genuine = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return genuine(Path("/dev/full"), "r+b") if mode == "xb" else genuine(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(errors.Missing, match="No space left on device; make room"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.tar"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD)

    def interrupt(path: str, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "x.tar", tmp_path / "out", on_member=interrupt)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.tar"]


def test_what_our_rules_let_through_must_pass_pythons_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        raise tarfile.OutsideDestinationError(member, path)

    monkeypatch.setattr(tarfile, "data_filter", refuse)
    (tmp_path / "x.tar").write_bytes(GOOD)
    with pytest.raises(errors.Corrupt, match="Python's data filter"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize("data", [gzip.compress(GOOD), GOOD, zip_bytes(("a.jpg", NOISE))], ids=["tar.gz", "tar", "zip"])
def test_every_way_of_cutting_an_archive_off_is_noticed(tmp_path: Path, data: bytes) -> None:
    end = len(GOOD.rstrip(b"\0")) if data is GOOD else len(data) - 1  # what follows in a tar is padding
    for cut in range(1, end, 397):
        (tmp_path / "x").write_bytes(data[:cut])
        with pytest.raises(errors.Corrupt):
            unpack(tmp_path / "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_byte_of_a_packed_archive_can_be_altered_unnoticed(tmp_path: Path) -> None:
    data = gzip.compress(tar_bytes(("a.jpg", b"hello"), ("b.jpg", b"world")))
    for at in range(10, len(data)):  # the first ten are gzip's own time and flags
        (tmp_path / "x").write_bytes(flipped(data, at))
        with pytest.raises(errors.Corrupt):
            unpack(tmp_path / "x", tmp_path / "out")


def test_altered_archives_are_refused_or_unpacked_and_nothing_else_ever_happens(tmp_path: Path) -> None:
    small = tar_bytes(("g/a.jpg", b"hello"), ("g/b.jpg", b"w" * 600), ("n" * 150 + "/é.jpg", b"x"))
    zipped = zip_bytes(("g/a.jpg", b"hello"), ("in.tar.gz", gzip.compress(small)))
    whole = [small, gzip.compress(small), lzma.compress(small), bz2.compress(small), zipped, new_holes("1.0")]
    draw = random.Random(1)
    refused = 0
    for _ in range(400):
        data = bytearray(draw.choice(whole))
        for _ in range(draw.choice((1, 2, 5, 20))):
            at = draw.randrange(len(data))
            data[at : at + draw.choice((1, 1, 4))] = draw.randbytes(draw.choice((1, 1, 4)))
        (tmp_path / "x").write_bytes(data)
        try:
            unpack(tmp_path / "x", tmp_path / "out", caps=LIMITS)
            shutil.rmtree(tmp_path / "out")
        except errors.Corrupt as error:
            refused += 1
            assert "\n" not in str(error)
        assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert refused > 200


def collide(names: list[str]) -> bool:
    """Whether files of these names cannot lie side by side everywhere: the slow and obvious way."""
    files, folders = [], set()
    for name in names:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or not parts:
            return True
        files.append("/".join(parts))
        folders |= {"/".join(parts[:n]) for n in range(1, len(parts))}
    spelt = {*files, *folders}
    return len({*files}) < len(files) or bool(folders & {*files}) or len({path.lower() for path in spelt}) < len(spelt)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.text("aAb/.", min_size=1, max_size=6).filter(lambda name: not name.endswith("/")), min_size=1, max_size=5
    )
)
def test_names_are_refused_exactly_where_some_system_could_not_keep_them_apart(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "x.tar").write_bytes(tar_bytes(*((name, b"1") for name in names)))
        try:
            count = unpack(Path(place) / "x.tar", Path(place) / "out")
        except errors.Corrupt:
            count = 0
        assert count == (0 if collide(names) else len(names))


def test_names_of_archives_are_known_by_their_endings() -> None:
    assert archives.is_archive(Path("A.TAR.GZ")) and not archives.is_archive(Path("a.jpg"))
    assert [archives.stem(name) for name in ("a.tar.gz", "a.b.tgz", "n01.tar", "x.ZIP")] == ["a", "a.b", "n01", "x"]
