"""A file is the old one or the new one, whatever fails; and the error says what to do."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from steelnb import storage
from steelnb.storage import StorageError

ROOM = "Make room there (on Google Drive, empty the trash too), then run the same command again"
REACH = "The folder can no longer be reached: mount it again, then run the same command again"


@pytest.fixture
def old(tmp_path):
    """A file that is there already."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"old")
    return tmp_path / "folder" / "file"


def fail(monkeypatch, name, number):
    """Makes a call of os fail with an errno."""

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, name, failing)


def test_new_content_takes_the_old_one_s_place(old):
    storage.write_file(old, b"new" * 1000)
    assert old.read_bytes() == b"new" * 1000
    storage.write_file(str(old), b"")  # text for a path, and nothing for content
    assert old.read_bytes() == b""
    assert [path.name for path in old.parent.iterdir()] == ["file"]


def test_what_a_kill_left_is_no_hindrance_and_is_deleted_on_request(old, monkeypatch):
    left = old.parent / ".file.0123456789abcdef.part"
    left.write_bytes(b"half of something longer than this")
    storage.write_file(old, b"new")
    assert old.read_bytes() == b"new"
    others = [".file.part", ".file.0123456789abcdeg.part", "file.0123456789abcdef.part"]
    for name in others:  # of somebody else
        (old.parent / name).write_bytes(b"theirs")
    storage.delete_unfinished(old.parent)
    assert sorted(path.name for path in old.parent.iterdir()) == sorted(["file", *others])


def test_temporary_names_are_nobody_else_s(old, monkeypatch):
    """Not followed where one is taken, by a link that was planted say; never the same twice."""
    assert len({storage.temporary_name(old) for _ in range(100)}) == 100
    assert len(os.fsencode(storage.temporary_name(old.parent / ("ä" * 250)).name)) < 255
    monkeypatch.setattr(storage.secrets, "token_hex", lambda n: "0" * 2 * n)
    (other := old.parent / "precious").write_bytes(b"precious")
    planted = storage.temporary_name(old)
    try:
        planted.symlink_to(other)
    except OSError:
        pytest.skip("links take rights on this system")
    with pytest.raises(StorageError, match="File exists"):
        storage.write_file(old, b"new")
    planted.symlink_to(other) if not planted.is_symlink() else None
    with pytest.raises(StorageError, match="File exists"), storage.unfinished(old):
        raise AssertionError("not reached")
    assert (old.read_bytes(), other.read_bytes()) == (b"old", b"precious")


def test_a_file_with_a_second_name_is_not_cut(old):
    """`cp -al run backup` gives every file a second name; deleting one leaves the other as it was."""
    backup, linked = old.parent / "backup", old.parent / "linked"
    os.link(old, backup)
    storage.delete_file(old)
    assert (old.exists(), backup.read_bytes()) == (False, b"old")
    linked.symlink_to(backup)
    storage.delete_file(linked)
    assert (linked.is_symlink(), backup.read_bytes()) == (False, b"old")


def in_use(times, number=32):
    """os.replace as Windows answers while another program has the file open, so many times."""
    left, replace = iter(range(times)), os.replace

    def refused(*paths):
        if next(left, None) is None:
            return replace(*paths)
        error = PermissionError(13, "The process cannot access the file because it is being used by another process")
        error.winerror = number
        raise error

    return refused


@pytest.mark.parametrize("number", [5, 32, 33])  # refused, shared, locked
def test_a_file_that_is_open_elsewhere_is_tried_again_for_a_while(old, monkeypatch, number):
    now = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(storage.os, "replace", in_use(20, number))
    storage.write_file(old, b"new")
    assert (old.read_bytes(), round(now[0], 6)) == (b"new", 2.0)
    monkeypatch.setattr(storage.os, "replace", in_use(1000))
    with pytest.raises(StorageError, match="being used by another process"):
        storage.write_file(old, b"newer")
    assert (old.read_bytes(), round(now[0] - 2)) == (b"new", 5)
    monkeypatch.setattr(storage.os, "replace", in_use(1, number=None))  # any other refusal is final
    with pytest.raises(StorageError, match="being used by another process"):
        storage.write_file(old, b"newer")


def test_content_is_on_the_disk_before_it_has_its_name(old, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(storage.os, name, lambda *a, name=name, call=call: (done.append(name), call(*a)))
    storage.write_file(old, b"new")
    assert done[:2] == ["fsync", "replace"]
    assert done[2:] == (["fsync"] if os.name == "posix" else [])  # the folder, which knows the name


@pytest.mark.parametrize("back", [b"", b"ne", b"nfw", b"newer"])
def test_what_reads_back_otherwise_is_not_taken(old, monkeypatch, back):
    monkeypatch.setattr(Path, "read_bytes", lambda path: back)
    with pytest.raises(StorageError, match=r"cannot write .*: the content read back differs from what was written"):
        storage.write_file(old, b"new")
    monkeypatch.undo()
    assert old.read_bytes() == b"old"
    assert [path.name for path in old.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, ROOM), (errno.EDQUOT, ROOM), (errno.EFBIG, ROOM), (errno.ENOENT, REACH), (errno.ENOTCONN, REACH),
     (errno.EIO, REACH), (errno.EACCES, "Fix this, then run the same command again")],
)
def test_the_error_says_what_to_do(old, monkeypatch, operation, number, advice):
    fail(monkeypatch, operation, number)
    with pytest.raises(StorageError) as error:
        storage.write_file(old, bytes(2_500_000))
    monkeypatch.undo()
    assert str(error.value) == f"cannot write file, 2.5 MB, in {old.parent}: {os.strerror(number)}. {advice}"
    assert error.value.__cause__.errno == number
    assert old.read_bytes() == b"old"
    assert [path.name for path in old.parent.iterdir()] == ["file"]


def test_an_error_of_cleaning_up_hides_no_other(old, monkeypatch):
    fail(monkeypatch, "fsync", errno.ENOSPC)
    fail(monkeypatch, "truncate", errno.ENOTCONN)
    with pytest.raises(StorageError, match="Make room there"):
        storage.write_file(old, b"new")


def test_a_folder_that_has_gone_is_not_made_again(old):
    shutil.rmtree(old.parent)
    with pytest.raises(StorageError, match="The folder can no longer be reached: mount it again"):
        storage.write_file(old, b"new")
    assert not old.parent.exists()
    old.parent.write_bytes(b"")  # and where a file has taken its place
    with pytest.raises(StorageError, match="can no longer be reached"):
        storage.write_file(old, b"new")


def test_a_mount_that_syncs_no_folders_will_do(old, monkeypatch):
    sync, calls = os.fsync, []

    def files_only(descriptor):
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", files_only)
    storage.write_file(old, b"new")
    assert old.read_bytes() == b"new"


def test_what_is_discarded_is_cut_to_nothing_first(old, monkeypatch):
    sizes, unlink = [], os.unlink

    def seen(path):
        sizes.append(os.path.getsize(path))
        unlink(path)

    monkeypatch.setattr(storage.os, "unlink", seen)
    storage.delete_file(old)
    assert sizes == [0]
    assert not old.exists()
    storage.delete_file(old)  # not there: nothing to do


def test_digest_is_sha_256():
    assert storage.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def write_in_a_process(path, before=""):
    """Writes 100,000 bytes in a process of its own, and returns what it says."""
    code = f"""
        from steelnb import storage
        {before}
        try:
            storage.write_file({str(path)!r}, bytes(100_000))
        except storage.StorageError as error:
            print(error)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")
def test_a_file_size_limit_leaves_the_old_file(old):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    assert write_in_a_process(old, limit) == f"cannot write file, 0.1 MB, in {old.parent}: File too large. {ROOM}"
    assert old.read_bytes() == b"old"
    assert [path.name for path in old.parent.iterdir()] == ["file"]
    assert write_in_a_process(old) == ""  # the same command again
    assert old.read_bytes() == bytes(100_000)


def test_a_full_disk_leaves_the_old_file(old):
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", old.parent], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system takes root's rights; a file-size limit stands in for it")
    try:
        old.write_bytes(b"old")
        assert write_in_a_process(old).endswith(f"No space left on device. {ROOM}")
        assert old.read_bytes() == b"old"
        assert [path.name for path in old.parent.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", old.parent], check=True)
