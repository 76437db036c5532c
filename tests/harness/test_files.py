"""Files are there whole or not at all, and a full disk is told in one line."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import errors, files

unhurried = settings(deadline=None)  # a busy machine is no failure


def test_roots_follow_the_environment_and_then_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("HARNESS_DATA", "relative")
    assert files.cache_root() == tmp_path / "c"
    assert files.data_root() == Path.cwd() / "relative"
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("HARNESS_DATA", "")
    assert files.cache_root().is_absolute() and files.data_root().is_absolute()
    assert files.cache_root() != files.data_root()
    assert "harness" in files.cache_root().parts and "harness" in files.data_root().parts


@unhurried
@given(st.text(max_size=300))
def test_a_slug_is_always_a_plain_short_file_name(name):
    slug = files.slug(name)
    assert 0 < len(slug) <= 100
    assert set(slug) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not slug.startswith(".")
    assert files.slug(slug) == slug or len(slug) > files.LONGEST_NAME


@unhurried
@given(st.text(max_size=100), st.text(max_size=100))
def test_different_names_have_different_slugs(one, two):
    assert (files.slug(one) == files.slug(two)) == (one == two)


def test_a_plain_name_is_its_own_slug():
    assert files.slug("ViT-B-16_2.x") == "ViT-B-16_2.x"
    assert files.slug("\udcff") != files.slug("\udcfe")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert files.digest_of({"a": 1, "b": [2, "ü"]}) == files.digest_of({"b": [2, "ü"], "a": 1})
    assert files.digest_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert files.digest_of((1, 2)) == files.digest_of([1, 2]) != files.digest_of([2, 1])
    with pytest.raises(ValueError):
        files.digest_of(float("nan"))


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_names_are_compared_without_case_and_with_dashes_as_underscores():
    assert files.fresh_name("my-set", ["other"]) == "my-set"
    with pytest.raises(errors.UsageError, match=r"name 'My-Set' is taken by 'my_set'; give another with --name\."):
        files.fresh_name("My-Set", ["my_set"])


# -- writing -----------------------------------------------------------------------------------------


def test_an_atomic_write_makes_folders_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a" / "b" / "x.json"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    files.write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


FAULTS = [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("step", ["fsync", "replace", "open", "mkdir"])
def test_a_fault_at_any_step_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch, number, step):
    path = tmp_path / "x"
    files.write_atomic(path, b"old")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(errors.Missing) as error:
        files.write_atomic(path, b"new")
    monkeypatch.undo()
    message = str(error.value)
    assert os.strerror(number) in message and str(path) in message and "HARNESS_CACHE" in message
    assert "\n" not in message
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.Missing, match="cannot write"):
        files.write_atomic(tmp_path / "file" / "x", b"")


# -- folders -----------------------------------------------------------------------------------------


def test_a_new_folder_appears_at_once_and_whole(tmp_path):
    final = tmp_path / "deep" / "folder"
    with files.new_folder(final) as folder:
        (folder / "x").write_text("x")
        assert not final.exists()
    assert (final / "x").read_text() == "x"
    assert [one.name for one in final.parent.iterdir()] == ["folder"]


def test_a_folder_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_a_race_discards_its_copy(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        (folder / "x").write_text(folder.name)
    assert files.replace_folder(first, tmp_path / "final") is True
    assert files.replace_folder(second, tmp_path / "final") is False
    assert (tmp_path / "final" / "x").read_text() == "1"
    assert [one.name for one in tmp_path.iterdir()] == ["final"]


def test_a_folder_that_cannot_be_moved_is_told(tmp_path):
    with pytest.raises(errors.Missing, match="cannot write"):
        files.replace_folder(tmp_path / "absent", tmp_path / "final")


def test_what_made_room_is_dropped_after_success_and_put_back_after_failure(tmp_path):
    final = tmp_path / "final"
    with files.making_room(final):  # nothing there: nothing to do
        final.mkdir()
        (final / "x").write_text("old")
    with pytest.raises(RuntimeError), files.making_room(final):
        assert not final.exists()
        raise RuntimeError
    assert (final / "x").read_text() == "old"
    with files.making_room(final):
        final.mkdir()
        (final / "x").write_text("new")
    assert (final / "x").read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


def test_what_is_damaged_is_set_aside_under_a_free_name(tmp_path):
    path = tmp_path / "x.json"
    for content in ("one", "two"):
        path.write_text(content)
        files.set_aside(path)
    assert (tmp_path / "x.json.damaged-1").read_text() == "one"
    assert (tmp_path / "x.json.damaged-2").read_text() == "two"
    assert files.set_aside(path).name == "x.json.damaged-3"  # somebody else was quicker
    assert not path.exists()
    assert [one.name for one in tmp_path.iterdir() if not files.is_aside(one)] == []
    assert files.is_aside(tmp_path / ".x.tmp") and not files.is_aside(tmp_path / "x.damaged")


def test_listing_a_folder_passes_over_files_and_what_is_unfinished(tmp_path):
    for name in ("b", "a", ".a.tmp", "a.damaged-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert [path.name for path in files.folders_in(tmp_path)] == ["a", "b"]
    assert files.folders_in(tmp_path / "none") == []
    with pytest.raises(errors.Missing, match="file: cannot be listed: Not a directory"):
        files.folders_in(tmp_path / "file")


def test_json_of_any_value_is_hashed_the_same_way_twice():
    @unhurried
    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
           | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
    def same(value):
        assert files.digest_of(value) == files.digest_of(json.loads(json.dumps(value)))

    same()
