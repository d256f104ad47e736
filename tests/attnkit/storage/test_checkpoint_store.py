"""Checkpoint files: what is kept, that damage is noticed, that a good one is never lost."""

import errno
import hashlib
import json
import os
import random
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from attnkit.errors import CheckpointError
from attnkit.storage import checkpoint_store as module
from attnkit.storage.checkpoint_manifest import (
    COPY,
    MANIFEST,
    SavedCheckpoint,
    manifest_text,
    read_manifest,
)
from attnkit.storage.checkpoint_store import CheckpointStore, KeepPolicy


def content_of(step):
    return random.Random(step).randbytes(5000)


def save(store, step, loss=None):
    store.save(content_of(step), step=step, loss=loss, event_bytes={"events": step})


@pytest.fixture
def store(tmp_path):
    """A store with checkpoints of steps 1 to 4; the best is of step 2."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.take_over()
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None)):
        save(store, step, loss)
    return store


def held(directory):
    return {file.name: file.read_bytes() for file in Path(directory).glob("*.ckpt")}


# What is kept


def test_the_newest_the_one_before_and_the_best_are_kept(store):
    assert held(store.directory) == {
        "last.ckpt": content_of(4),
        "previous.ckpt": content_of(3),
        "best.ckpt": content_of(2),
    }
    path, saved = store.newest()
    assert (path.name, saved.step, saved.event_bytes) == ("last.ckpt", 4, {"events": 4})


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (KeepPolicy(best=0), {"last": 6, "previous": 5}),
        (KeepPolicy(), {"last": 6, "previous": 5, "best": 3}),
        (
            KeepPolicy(best=3),
            {"last": 6, "previous": 5, "best": 3, "step-00000005": 5, "step-00000001": 1},
        ),
        (
            KeepPolicy(every=2),
            {"last": 6, "previous": 5, "best": 3, **{f"step-0000000{n}": n for n in (2, 4, 6)}},
        ),
    ],
    ids=["none", "best", "best 3", "every 2"],
)
def test_more_can_be_kept(tmp_path, kept, expected):
    store = CheckpointStore(tmp_path, kept)
    for step, loss in enumerate((2.0, 3.0, 1.0, 4.0, 1.5, None), start=1):
        save(store, step, loss)
    assert held(tmp_path) == {f"{name}.ckpt": content_of(step) for name, step in expected.items()}


def test_what_coincides_is_written_once(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1, 1.0)
    assert (tmp_path / "last.ckpt").stat().st_ino == (tmp_path / "best.ckpt").stat().st_ino


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = CheckpointStore(tmp_path)
    for step, loss in ((1, 1.0), (2, 2.0)):
        save(store, step, loss)
    assert held(tmp_path) == {
        "last.ckpt": content_of(2),
        "previous.ckpt": content_of(1),
        "best.ckpt": content_of(1),
    }
    assert set(store.verified()) == set(held(tmp_path))


def test_the_manifest_of_a_finished_run_names_just_what_is_there(store):
    store.tidy()
    content = json.loads((store.directory / MANIFEST).read_text())
    assert {entry["file"]: entry["sha256"] for entry in content["checkpoints"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in held(store.directory).items()
    }


# Damage


def test_every_flipped_bit_is_noticed(store):
    path, drawn = store.directory / "last.ckpt", random.Random(0)
    good = path.read_bytes()
    for _ in range(200):
        bad, bit = bytearray(good), drawn.randrange(8 * len(good))
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="sha256 differs"):
            store.check("last.ckpt")
    path.write_bytes(good)
    assert store.check("last.ckpt") == path


def test_every_truncation_is_noticed(store):
    path, drawn = store.directory / "last.ckpt", random.Random(0)
    good = path.read_bytes()
    for length in {0, len(good) - 1, *(drawn.randrange(len(good)) for _ in range(48))}:
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="sha256 differs"):
            store.check("last.ckpt")


def test_the_newest_is_the_newest_that_verifies(store):
    (store.directory / "last.ckpt").write_bytes(b"rubbish")
    path, saved = store.newest()
    assert (path.name, saved.step) == ("previous.ckpt", 3)
    path.unlink()
    path, saved = store.newest()
    assert (path.name, saved.step) == ("best.ckpt", 2)
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* best.ckpt, last.ckpt"):
        store.newest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged, and without it no checkpoint can be trusted"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"format": 2, "checkpoints": [{"file": "last.ckpt"}]}', "is damaged"),
        ('{"format": 7}', "has format 7, but this version of attnkit reads 2"),
    ],
)
def test_a_manifest_that_is_none_is_refused(store, text, message):
    (store.directory / MANIFEST).write_text(text)
    (store.directory / COPY).write_text(text)
    with pytest.raises(CheckpointError, match=f"{MANIFEST} {message}"):
        store.newest()


@pytest.mark.parametrize("name", [MANIFEST, COPY])
def test_no_flipped_bit_of_a_manifest_costs_a_checkpoint(store, name):
    file = store.directory / name
    content, written = file.read_bytes(), read_manifest(store.directory)
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_manifest(store.directory) == written


def test_nothing_was_saved_yet(tmp_path):
    store = CheckpointStore(tmp_path)
    assert store.newest() is None
    with pytest.raises(CheckpointError, match=r"last.ckpt does not exist; the run has not reached"):
        store.check("last.ckpt")


# Interruptions


class Killed(BaseException):
    """What happens to a process, as far as its files are concerned."""


def operations(monkeypatch, die_at):
    """Counts what changes the directory; before one of these, the process is gone."""
    count = 0
    for name in ("replace", "link", "fsync"):
        plain = getattr(os, name)

        def counted(*arguments, plain=plain):
            nonlocal count
            count += 1
            if count >= die_at:  # and nothing after it happens either
                raise Killed
            return plain(*arguments)

        monkeypatch.setattr(module.os, name, counted)
    monkeypatch.setattr(
        module, "_remove", lambda path: None if count >= die_at else path.unlink(True)
    )
    return lambda: count


def test_killed_at_any_operation_every_file_verifies(tmp_path):
    """And what was the newest before is still there, or the new one is."""
    died = 0
    for die_at in range(1, 40):
        directory = tmp_path / str(die_at)
        store = CheckpointStore(directory, KeepPolicy(best=2, every=2))
        store.take_over()
        for step, loss in ((1, 3.0), (2, 2.0), (3, 4.0)):
            save(store, step, loss)
        with pytest.MonkeyPatch.context() as patch:
            operations(patch, die_at)
            try:
                save(store, 4, 1.0)
            except Killed:
                died += 1
        after = CheckpointStore(directory, KeepPolicy(best=2, every=2))
        assert set(after.verified()) == set(held(directory))
        assert after.newest()[1].step in (3, 4)
        after.take_over()
        save(after, 4, 1.0)
        save(after, 5, 5.0)
        assert held(directory) == {
            "last.ckpt": content_of(5),
            "previous.ckpt": content_of(4),
            "best.ckpt": content_of(4),
            "step-00000002.ckpt": content_of(2),
            "step-00000004.ckpt": content_of(4),
        }
        assert not list(directory.glob(".*"))
    assert 10 < died < 39  # the range covers all of them, and more


def test_what_does_not_verify_is_removed_when_the_run_goes_on(store):
    (store.directory / "last.ckpt").write_bytes(b"rubbish")
    (store.directory / ".new.part").write_bytes(b"half")
    again = CheckpointStore(store.directory)
    again.take_over()
    assert {path.name for path in store.directory.iterdir()} == {
        "previous.ckpt", "best.ckpt", MANIFEST, COPY
    }  # fmt: skip
    assert again.steps() == [2, 3]


# A disk that refuses


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")],
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_what_the_disk_refuses_leaves_the_good_ones(store, monkeypatch, number, word, where):
    before = held(store.directory)

    def refuse(*_):
        raise OSError(number, word)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, where, refuse)
        with pytest.raises(
            CheckpointError,
            match=rf"step 5 cannot be written to .*: {word}; the last one is from step 4",
        ):
            save(store, 5)
    assert held(store.directory) == before
    assert set(store.verified()) == set(before)
    assert not list(store.directory.glob(".*"))
    save(store, 6)
    assert store.newest()[1].step == 6


def test_a_directory_that_has_gone_is_named(store, tmp_path):
    store.directory.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="checkpoints: No such file or directory; the last"):
        save(store, 5)


@pytest.fixture
def little_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "little"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_good_ones(little_disk):
    store = CheckpointStore(little_disk)
    for step in (1, 2):
        save(store, step, 1.0)
    before = held(little_disk)
    with pytest.raises(CheckpointError, match="No space left on device; the last one is from"):
        store.save(bytes(60_000), step=3, loss=None, event_bytes={})
    assert held(little_disk) == before
    assert set(store.verified()) == set(before)
    assert not list(little_disk.glob(".*"))


def test_what_the_manifest_says_is_read_back(store):
    (saved,) = read_manifest(store.directory)["best.ckpt"]
    assert saved == SavedCheckpoint(
        step=2,
        sha256=hashlib.sha256(content_of(2)).hexdigest(),
        num_bytes=5000,
        loss=1.0,
        event_bytes={"events": 2},
    )


# What the manifest may say, and what reaches the disk


@pytest.mark.parametrize(
    "name", ["../precious.ckpt", "/tmp/precious.ckpt", ".hidden.ckpt", "result.json"]
)
def test_an_entry_that_is_no_name_removes_nothing(store, name):
    """A checkpoint that no longer earns its name is removed: that must be one of this folder."""
    precious = store.directory.parent / "precious.ckpt"
    precious.write_bytes(content_of(1))
    files = read_manifest(store.directory)
    saved = replace(files["last.ckpt"][0], sha256=hashlib.sha256(content_of(1)).hexdigest())
    for manifest in (MANIFEST, COPY):
        (store.directory / manifest).write_text(manifest_text({**files, name: [saved]}))
    again = CheckpointStore(store.directory)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        again.take_over()
    assert precious.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("step", "4"), ("loss", []), ("event_bytes", {"../x": 1})]
)
def test_an_entry_of_other_types_is_told(store, key, value):
    files = {"last.ckpt": [replace(read_manifest(store.directory)["last.ckpt"][0], **{key: value})]}
    for manifest in (MANIFEST, COPY):
        (store.directory / manifest).write_text(manifest_text(files))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        read_manifest(store.directory)


def test_the_folder_reaches_the_disk_after_the_last_name(store, monkeypatch):
    """A rename lives in the folder: without its fsync a power cut gives the old names back."""
    done = []
    fsync, rename = os.fsync, os.replace

    def sync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def move(source, target):
        done.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    save(store, 5)
    assert done[-1] == "folder"
    assert done.index("name") > done.index("file")
