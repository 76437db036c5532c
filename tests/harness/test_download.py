"""Downloads survive cuts, wrong files, busy, slow and dead servers, full disks and interrupts."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import download, errors
from harness.download import fetch
from harness.types import Remote

DATA = bytes(range(256)) * 2000  # 512 kB
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """A host on 127.0.0.1 whose manners are functions, one per path, told how often they were asked."""

    def __init__(self) -> None:
        self.manners: dict[str, Callable[[BaseHTTPRequestHandler, int], None]] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                before = sum(path == earlier for earlier, _, _ in outer.asked)
                outer.asked.append((path, self.headers.get("Range"), self.headers.get("If-Range")))
                outer.manners[path](self, before)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.host = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def at(self, path: str, manner: Callable[[BaseHTTPRequestHandler, int], None]) -> str:
        self.manners[path] = manner
        return f"http://{self.host}{path}"


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: Any) -> None:
    handler.send_response(status)
    headers.setdefault("Content_Length", len(body))
    for name, value in headers.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def whole(data: bytes = DATA, **headers: Any) -> Callable[[BaseHTTPRequestHandler, int], None]:
    return lambda handler, _: answer(handler, 200, data, **headers)


def status(code: int, **headers: Any) -> Callable[[BaseHTTPRequestHandler, int], None]:
    return lambda handler, _: answer(handler, code, **headers)


def polite(handler: BaseHTTPRequestHandler, data: bytes = DATA, etag: str = '"v1"', give: int | None = None) -> None:
    """Serve with ranges as RFC 9110 says, and stop after `give` bytes."""
    asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    if asked and condition in (None, etag):
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            answer(handler, 416, Content_Range=f"bytes */{len(data)}")
            return
        head = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        answer(handler, 206, data[start:][:give], ETag=etag, Content_Length=len(data) - start, **head)
    else:
        answer(handler, 200, data[:give], ETag=etag, Content_Length=len(data))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(download, "WAITS", (0.02, 2.0))
    monkeypatch.setattr(download, "SILENCE", 0.5)


def remote(*urls: str, **known: Any) -> Remote:
    return Remote(file="a.zip", urls=urls, **(known or {"bytes": len(DATA), "sha256": SHA}))


def left(folder: Path) -> list[str]:
    """What lies in a folder, locks aside."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# -- the right file ----------------------------------------------------------------------------------


def test_a_file_arrives_and_is_neither_asked_for_nor_read_again(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    wanted = remote(server.at("/a", whole()))
    assert not download.present(wanted, tmp_path / "new")
    path = fetch(wanted, tmp_path / "new", lambda done, total: told.append((done, total)))
    assert path == tmp_path / "new" / "a.zip" and path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA)) and told == sorted(told)
    assert left(path.parent) == ["a.zip", "a.zip.verified"]
    monkeypatch.setattr(download, "_examined", lambda *_: pytest.fail("hashed again"))
    assert fetch(wanted, tmp_path / "new") == path and download.present(wanted, tmp_path / "new")
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["sha256", "md5", "git_blob", "bytes", "nothing"])
def test_every_kind_of_check_passes_the_right_file(tmp_path: Path, server: Server, kind: str) -> None:
    (tmp_path / "plain").write_bytes(DATA)
    git = subprocess.run(["git", "hash-object", "plain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    known = {
        "sha256": SHA.upper(),
        "md5": hashlib.md5(DATA).hexdigest(),
        "git_blob": git.stdout.strip(),
        "bytes": len(DATA),
    }
    wanted = remote(server.at("/a", whole()), **({kind: known[kind]} if kind in known else {"by_hand": "-"}))
    assert fetch(wanted, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("kind", ["sha256", "md5", "git_blob"])
def test_a_wrong_file_is_removed_and_the_mirror_is_asked(tmp_path: Path, server: Server, kind: str) -> None:
    other = b"\1" + DATA[1:]
    blob = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    right = {"sha256": SHA, "md5": hashlib.md5(DATA).hexdigest(), "git_blob": blob}[kind]
    wanted = remote(server.at("/bad", whole(other)), server.at("/good", whole()), **{kind: right})
    assert fetch(wanted, tmp_path).read_bytes() == DATA
    assert [path for path, _, _ in server.asked] == ["/bad", "/good"]


def test_wrong_files_everywhere_name_what_was_expected_and_found(tmp_path: Path, server: Server) -> None:
    other = b"\1" + DATA[1:]
    with pytest.raises(errors.Corrupt) as error:
        fetch(remote(server.at("/bad", whole(other)), server.at("/gone", status(404))), tmp_path)
    line = str(error.value)
    assert SHA in line and hashlib.sha256(other).hexdigest() in line and "HTTP 404" in line and "\n" not in line
    assert left(tmp_path) == []


def test_a_file_of_another_size_is_not_even_fetched(tmp_path: Path, server: Server) -> None:
    def tell(handler: BaseHTTPRequestHandler, _: int) -> None:
        answer(handler, 200, b"", Content_Length=10**12)

    with pytest.raises(errors.Corrupt, match=f"expected {len(DATA)} bytes, the server has 1000000000000"):
        fetch(remote(server.at("/a", tell)), tmp_path)


def test_a_server_that_never_ends_is_cut_off(tmp_path: Path, server: Server) -> None:
    def pour(handler: BaseHTTPRequestHandler, _: int) -> None:
        answer(handler, 200, Content_Length=None)
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    with pytest.raises(errors.Corrupt, match=f"expected {len(DATA)} bytes, more came"):
        fetch(remote(server.at("/a", pour)), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) < len(DATA) + 2 * download.BLOCK


def test_a_file_that_was_changed_later_is_set_aside_and_fetched_anew(tmp_path: Path, server: Server) -> None:
    wanted = remote(server.at("/a", whole()))
    path = fetch(wanted, tmp_path)
    path.write_bytes(b"spoilt")
    assert fetch(wanted, tmp_path).read_bytes() == DATA
    assert (tmp_path / "a.zip.damaged-1").read_bytes() == b"spoilt"


def test_another_expectation_is_another_check(tmp_path: Path, server: Server) -> None:
    path = fetch(remote(server.at("/a", whole()), bytes=len(DATA)), tmp_path)
    assert download.check(remote(sha256="0" * 64), path) == f"expected sha256 {'0' * 64}, found {SHA}"
    with pytest.raises(errors.Corrupt):
        fetch(remote(server.at("/a", whole()), sha256="0" * 64), tmp_path)


# -- by hand -----------------------------------------------------------------------------------------


def test_a_file_that_nobody_may_fetch_is_asked_for_and_taken_when_it_is_there(tmp_path: Path) -> None:
    wanted = remote(by_hand="log in at example.org", sha256=SHA)
    with pytest.raises(errors.Missing, match=r"a\.zip must be fetched by hand: log in at example\.org\.$"):
        fetch(wanted, tmp_path)
    (tmp_path / "a.zip").write_bytes(DATA)
    assert fetch(wanted, tmp_path) == tmp_path / "a.zip" and download.present(wanted, tmp_path)


def test_the_wrong_file_put_there_by_hand_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"wrong")
    with pytest.raises(errors.Corrupt, match=r"expected sha256 .*, found .*; it is now a\.zip\.damaged-1"):
        fetch(remote(by_hand="log in", sha256=SHA), tmp_path)


# -- going on after a cut ----------------------------------------------------------------------------


def test_a_cut_is_resumed_where_it_happened_at_once_and_by_a_later_call(tmp_path: Path, server: Server) -> None:
    def cut(handler: BaseHTTPRequestHandler, before: int) -> None:
        polite(handler, give=100_000 if before < 2 else None)

    assert fetch(remote(server.at("/a", cut)), tmp_path).read_bytes() == DATA
    assert server.asked == [("/a", None, None), ("/a", "bytes=100000-", '"v1"'), ("/a", "bytes=200000-", '"v1"')]

    def die(handler: BaseHTTPRequestHandler, before: int) -> None:
        polite(handler, give=300_000) if before == 0 else answer(handler, 404)

    later = tmp_path / "later"
    with pytest.raises(errors.Missing, match=r"300\.0 kB are kept, and the same command goes on from there"):
        fetch(remote(server.at("/b", die)), later)
    server.asked.clear()
    server.at("/b", lambda handler, _: polite(handler))
    assert fetch(remote(f"http://{server.host}/b"), later).read_bytes() == DATA
    assert server.asked == [("/b", "bytes=300000-", '"v1"')]
    assert left(later) == ["a.zip", "a.zip.verified"]


def test_a_date_serves_where_there_is_no_tag(tmp_path: Path, server: Server) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"

    def dated(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            answer(handler, 200, DATA[:1000], Content_Length=len(DATA), Last_Modified=date, ETag='W/"weak"')
        else:
            polite(handler, etag=date)

    fetch(remote(server.at("/a", dated)), tmp_path)
    assert server.asked[1] == ("/a", "bytes=1000-", date)


@pytest.mark.parametrize("heeds", [True, False], ids=["the server heeds If-Range", "the server ignores If-Range"])
def test_a_file_that_changed_between_two_attempts_is_begun_anew(tmp_path: Path, server: Server, heeds: bool) -> None:
    new = DATA[::-1]

    def change(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            polite(handler, give=50_000)
        elif heeds or not handler.headers.get("Range"):
            polite(handler, new, '"v2"')
        else:
            head = {"Content_Range": f"bytes 50000-{len(new) - 1}/{len(new)}"}
            answer(handler, 206, new[50_000:], ETag='"v2"', **head)

    assert fetch(remote(server.at("/a", change), by_hand="-"), tmp_path).read_bytes() == new


def test_a_server_without_ranges_gives_everything_again(tmp_path: Path, server: Server) -> None:
    def simple(handler: BaseHTTPRequestHandler, before: int) -> None:
        answer(handler, 200, DATA[: 70_000 if before == 0 else None], Content_Length=len(DATA), ETag='"v1"')

    assert fetch(remote(server.at("/a", simple)), tmp_path).read_bytes() == DATA


def test_a_server_that_gives_another_range_is_not_believed(tmp_path: Path, server: Server) -> None:
    def confused(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            polite(handler, give=50_000)
        elif handler.headers.get("Range"):
            answer(handler, 206, DATA[10:], ETag='"v1"', Content_Range=f"bytes 10-{len(DATA) - 1}/{len(DATA)}")
        else:
            polite(handler)

    assert fetch(remote(server.at("/a", confused)), tmp_path).read_bytes() == DATA


def test_a_mirror_goes_on_where_the_origin_died_and_the_hash_decides(tmp_path: Path, server: Server) -> None:
    def die(handler: BaseHTTPRequestHandler, before: int) -> None:
        polite(handler, give=200_000) if before == 0 else answer(handler, 410)

    mirror = server.at("/mirror", lambda handler, _: polite(handler, etag='"other"'))
    assert fetch(remote(server.at("/a", die), mirror), tmp_path).read_bytes() == DATA
    assert server.asked[-1] == ("/mirror", "bytes=200000-", None)


def test_halves_of_two_files_are_thrown_away_and_the_address_is_asked_once_more(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"\1" * 1000)  # of nobody knows what
    url = server.at("/a", lambda handler, _: polite(handler))
    assert fetch(remote(url), tmp_path).read_bytes() == DATA
    assert [asked for _, asked, _ in server.asked] == ["bytes=1000-", None]


def test_without_hash_and_origin_a_part_is_worth_nothing(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"\1" * 1000)
    assert fetch(remote(server.at("/a", whole()), bytes=len(DATA)), tmp_path).read_bytes() == DATA
    assert server.asked == [("/a", None, None)]


@pytest.mark.parametrize("known", [{"sha256": SHA}, {"sha256": SHA, "bytes": len(DATA)}], ids=["416", "size known"])
def test_a_part_that_is_whole_already_only_gets_its_name(tmp_path: Path, server: Server, known: dict[str, Any]) -> None:
    (tmp_path / "a.zip.part").write_bytes(DATA)
    assert fetch(remote(server.at("/a", lambda handler, _: polite(handler)), **known), tmp_path).read_bytes() == DATA
    assert len(server.asked) == (0 if "bytes" in known else 1)


@pytest.mark.parametrize("known", [{"sha256": SHA}, {"sha256": SHA, "bytes": len(DATA)}], ids=["416", "size known"])
def test_a_part_that_is_longer_than_the_file_is_thrown_away(
    tmp_path: Path, server: Server, known: dict[str, Any]
) -> None:
    (tmp_path / "a.zip.part").write_bytes(DATA + b"more")
    assert fetch(remote(server.at("/a", lambda handler, _: polite(handler)), **known), tmp_path).read_bytes() == DATA


def test_a_server_that_always_cuts_is_given_up_after_a_few_attempts(tmp_path: Path, server: Server) -> None:
    url = server.at("/a", lambda handler, _: polite(handler, give=1000))
    with pytest.raises(errors.Missing, match=f"cut off after {1000 * download.TRIES} of {len(DATA)} bytes"):
        fetch(remote(url), tmp_path)
    assert len(server.asked) == download.TRIES


def test_whoever_gets_ahead_may_be_cut_as_often_as_it_takes(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "AHEAD", 40_000)
    assert (
        fetch(remote(server.at("/a", lambda handler, _: polite(handler, give=40_000))), tmp_path).read_bytes() == DATA
    )
    assert len(server.asked) == -(-len(DATA) // 40_000) > download.TRIES


# -- busy, slow and dead servers ---------------------------------------------------------------------


def test_a_missing_file_is_asked_for_once_and_then_the_mirror(tmp_path: Path, server: Server) -> None:
    fetch(remote(server.at("/gone", status(404)), server.at("/good", whole())), tmp_path)
    assert [path for path, _, _ in server.asked] == ["/gone", "/good"]


def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, server: Server) -> None:
    def busy(handler: BaseHTTPRequestHandler, before: int) -> None:
        answer(handler, 429, Retry_After=1) if before == 0 else polite(handler)

    began = time.monotonic()
    fetch(remote(server.at("/a", busy)), tmp_path)
    assert 1.0 <= time.monotonic() - began < 5 and len(server.asked) == 2


def test_a_date_to_come_back_is_understood(tmp_path: Path, server: Server) -> None:
    def busy(handler: BaseHTTPRequestHandler, before: int) -> None:
        date = email.utils.formatdate(time.time() + 1.5, usegmt=True)
        answer(handler, 503, Retry_After=date) if before == 0 else polite(handler)

    fetch(remote(server.at("/a", busy)), tmp_path)
    assert len(server.asked) == 2


def test_nobody_waits_for_an_hour(tmp_path: Path, server: Server) -> None:
    urls = server.at("/busy", status(429, Retry_After=3600)), server.at("/good", whole())
    began = time.monotonic()
    fetch(remote(*urls), tmp_path)
    assert time.monotonic() - began < 2
    with pytest.raises(errors.Missing, match="HTTP 429 and wants us to wait 3600 s"):
        fetch(remote(urls[0]), tmp_path / "other")


def test_a_server_in_trouble_is_tried_a_few_times(tmp_path: Path, server: Server) -> None:
    with pytest.raises(errors.Missing, match="HTTP 500"):
        fetch(remote(server.at("/a", status(500, Retry_After="soon"))), tmp_path)
    assert len(server.asked) == download.TRIES


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server) -> None:
    urls = server.at("/mute", lambda *_: time.sleep(2)), server.at("/good", whole())
    download.TRIES, before = 1, download.TRIES
    try:
        assert fetch(remote(*urls), tmp_path).read_bytes() == DATA
    finally:
        download.TRIES = before


def test_a_dripping_server_is_given_up_for_the_mirror(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
        answer(handler, 200, Content_Length=len(DATA))
        try:
            for _ in range(40):
                handler.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            pass

    monkeypatch.setattr(download, "TRIES", 1)
    urls = server.at("/drip", drip), server.at("/good", whole())
    began = time.monotonic()
    assert fetch(remote(*urls), tmp_path).read_bytes() == DATA
    assert time.monotonic() - began < 3
    with pytest.raises(errors.Missing, match="slower than 2000 bytes per second"):
        fetch(remote(urls[0]), tmp_path / "other")


def test_a_connection_that_breaks_is_tried_again(tmp_path: Path, server: Server) -> None:
    def hang_up(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            polite(handler)

    assert fetch(remote(server.at("/a", hang_up)), tmp_path).read_bytes() == DATA


def test_a_cut_in_a_reply_of_unknown_length_is_noticed(tmp_path: Path, server: Server) -> None:
    def chunked(handler: BaseHTTPRequestHandler, before: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        answer(handler, 200, Content_Length=None, Transfer_Encoding="chunked", Connection="close")
        handler.wfile.write(b"%x\r\n%b\r\n" % (1000, DATA[:1000]))
        if before:
            handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DATA) - 1000, DATA[1000:]))

    assert fetch(remote(server.at("/a", chunked), by_hand="-"), tmp_path).read_bytes() == DATA
    assert len(server.asked) == 2


def test_dead_hosts_are_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    urls = f"http://127.0.0.1:{port}/a", "http://no-such-host.invalid/a", "http://no-such-host.invalid/b"
    with pytest.raises(errors.Missing) as error:
        fetch(remote(*urls, sha256=SHA, by_hand="Ask the authors."), tmp_path)
    line = str(error.value)
    assert f"127.0.0.1:{port}: " in line and "Connection refused" in line
    assert line.count("no-such-host.invalid: its name cannot be resolved (no network?)") == 1
    assert line.endswith("Ask the authors.") and "\n" not in line


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "nonsense", "http://[broken"])
def test_only_http_is_spoken(tmp_path: Path, url: str) -> None:
    with pytest.raises(errors.Missing, match=r"a\.zip cannot be had"):
        fetch(remote(url), tmp_path)
    assert left(tmp_path) == []


def test_a_redirection_is_followed_with_its_range_but_not_to_a_file(tmp_path: Path, server: Server) -> None:
    def cut(handler: BaseHTTPRequestHandler, before: int) -> None:
        polite(handler, give=1000 if before == 0 else None)

    target = server.at("/target", cut)
    assert fetch(remote(server.at("/a", status(302, Location=target))), tmp_path).read_bytes() == DATA
    assert server.asked[-1] == ("/target", "bytes=1000-", '"v1"')
    with pytest.raises(errors.Missing):
        fetch(remote(server.at("/b", status(302, Location="file:///etc/passwd"))), tmp_path / "other")


def test_a_safe_line_is_not_left_for_an_open_one() -> None:
    request = urllib.request.Request("https://example.org/a")
    follow = partial(download._Redirects().redirect_request, request, io.BytesIO(), 302, "Found", Message())
    with pytest.raises(download._Fault, match="leads from https to http"):
        follow("http://example.org/a")
    followed = follow("https://example.net/a")
    assert followed is not None and followed.full_url == "https://example.net/a"


def test_a_certificate_that_is_not_valid_is_told_and_not_tried_again() -> None:
    refusal = ssl.SSLCertVerificationError(1, "x")
    refusal.verify_message = "certificate has expired"
    fault = download._network_fault(urllib.error.URLError(refusal))
    assert str(fault) == "its certificate is not valid (certificate has expired)" and not fault.again


def test_a_web_page_is_not_taken_for_the_file(tmp_path: Path, server: Server) -> None:
    page = whole(b"<html>please log in</html>", Content_Type="text/html; charset=utf-8")
    with pytest.raises(errors.Missing, match="answers with a web page"):
        fetch(remote(server.at("/a", page), by_hand="Log in."), tmp_path)


# -- Drive -------------------------------------------------------------------------------------------


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(download, "DRIVE", {server.host})
    return server


FORM = """<html><body><p>File is too large to scan</p><form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"><input type="hidden" name="id" value="123">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"""


def test_the_confirmation_page_of_drive_is_answered_and_downloads_resume(drive: Server, tmp_path: Path) -> None:
    targets: list[str] = []

    def give(handler: BaseHTTPRequestHandler, before: int) -> None:
        targets.append(handler.path)
        polite(handler, give=5000 if before == 0 else None)

    action = drive.at("/download", give)
    url = drive.at("/uc", whole(FORM.format(action=action).encode(), Content_Type="text/html"))
    assert fetch(remote(f"{url}?id=123"), tmp_path).read_bytes() == DATA
    assert targets == ["/download?id=123&confirm=t&uuid=a%26b"] * 2
    assert drive.asked[-1] == ("/download", "bytes=5000-", '"v1"')


def test_the_older_page_of_drive_has_a_link(drive: Server, tmp_path: Path) -> None:
    drive.at("/go", whole())
    page = b'<a id="uc-download-link" href="/go?confirm=x&amp;id=1">Download anyway</a>'
    url = drive.at("/uc", whole(page, Content_Type="text/html"))
    assert fetch(remote(f"{url}?id=1&export=download"), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("<title>Quota exceeded</title>", "too many people fetched the file"),
        ("<title>Sign in</title>", "a web page in place of the file"),
        (FORM.format(action="http://evil.invalid/x"), "a web page in place of the file"),
        (FORM.format(action="/uc"), "again and again"),
    ],
)
def test_other_pages_of_drive_are_told(drive: Server, tmp_path: Path, page: str, told: str) -> None:
    url = drive.at("/uc", whole(page.encode(), Content_Type="text/html"))
    with pytest.raises(errors.Missing, match=told):
        fetch(remote(f"{url}?id=1"), tmp_path)


# -- disks and interrupts ----------------------------------------------------------------------------


def test_too_little_room_is_noticed_before_the_first_byte(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(errors.Missing, match=r"needs 512\.0 kB more, and .* has 1\.0 kB; make room"):
        fetch(remote(server.at("/a", whole())), tmp_path)
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_is_one_line_and_what_came_is_kept(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.at("/a", lambda handler, _: polite(handler))
    genuine = Path.open

    class Full:
        """A file on a disk with room for two blocks."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 2 * 65536

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: self.room])
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")

    def full(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = genuine(self, mode, *rest, **more)
        return Full(file) if self.name.endswith(".part") and mode == "wb" else file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        errors.Missing, match=r"a\.zip\.part: No space left on device after .*; make room there"
    ) as error:
        fetch(remote(url), tmp_path)
    assert "\n" not in str(error.value)
    kept = (tmp_path / "a.zip.part").stat().st_size
    assert kept == 2 * 65536
    assert fetch(remote(url), tmp_path).read_bytes() == DATA
    assert server.asked[-1][1] == f"bytes={kept}-"


def test_a_truly_full_device_is_told_in_the_same_way(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.zip.part").symlink_to("/dev/full")
    with pytest.raises(errors.Missing, match="No space left on device"):
        fetch(remote(server.at("/a", whole())), tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.Missing, match="cannot write"):
        fetch(remote(server.at("/a", whole())), tmp_path / "file" / "below")


def test_another_thread_can_stop_a_download_and_a_wait(tmp_path: Path, server: Server) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server.at("/a", lambda handler, _: polite(handler))), tmp_path, stop=stop)
    assert (tmp_path / "a.zip.part").stat().st_size > 0
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server.at("/b", status(503, Retry_After=2))), tmp_path / "b", stop=stop)
    assert time.monotonic() - began < 1


CHILD = """
import sys
from pathlib import Path
from harness import download
from harness.types import Remote
wanted = Remote(file="a.zip", urls=(sys.argv[1],), bytes=int(sys.argv[2]), sha256=sys.argv[3])
try:
    download.fetch(wanted, Path(sys.argv[4]), lambda done, total: print(done, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_a_stopped_process_leaves_a_part_from_which_the_next_one_goes_on(
    tmp_path: Path, server: Server, blow: signal.Signals
) -> None:
    go_on = threading.Event()

    def halting(handler: BaseHTTPRequestHandler, before: int) -> None:
        polite(handler, give=200_000 if before == 0 else None)
        if before == 0:
            go_on.wait(20)  # the connection stays open, and nothing comes

    url = server.at("/a", halting)
    command = [sys.executable, "-c", CHILD, url, str(len(DATA)), SHA, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 200_000:
                break
        child.send_signal(blow)
        code = child.wait(20)
    go_on.set()
    assert code == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    kept = (tmp_path / "a.zip.part").stat().st_size
    assert kept > 0 and not (tmp_path / "a.zip").exists()
    assert fetch(remote(url), tmp_path).read_bytes() == DATA
    assert re.fullmatch(f"bytes={kept}-", server.asked[-1][1] or "")


def test_two_downloads_of_one_file_take_turns(tmp_path: Path, server: Server) -> None:
    def slow(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.3)
        polite(handler)

    wanted = remote(server.at("/a", slow))
    threads = [threading.Thread(target=fetch, args=(wanted, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and (tmp_path / "a.zip").read_bytes() == DATA


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", json.dumps({"url": 3}).encode()])
def test_damaged_notes_beside_a_part_do_not_matter(tmp_path: Path, server: Server, damage: bytes) -> None:
    (tmp_path / "a.zip.part").write_bytes(DATA[:1000])
    (tmp_path / "a.zip.part.json").write_bytes(damage)
    (tmp_path / "a.zip.verified").write_bytes(damage)
    assert fetch(remote(server.at("/a", lambda handler, _: polite(handler))), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (39_077_296_924, "39.1 GB"), (10**16, "10000.0 TB")])  # fmt: skip
def test_sizes_are_told_for_people(count: int, text: str) -> None:
    assert download.size_text(count) == text
