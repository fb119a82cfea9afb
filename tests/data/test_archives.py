"""What an archive holds lies in one folder, or nothing does: hostile, damaged and cut ones leave no trace."""

import errno
import gzip
import os
import shutil
import stat
import subprocess
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steelnb import runtime
from steelnb.data import archives, dataset, sources
from steelnb.data.archives import unpacked
from steelnb.data.dataset import DataError

CONTENT = {"a.txt": b"a" * 700, "b/c.bin": bytes(range(256)) * 9, "b/empty": b"", "b/d/ü.txt": "ü".encode()}


@pytest.fixture
def cache(home):
    """Where archives are unpacked; it must never hold what was not finished."""
    yield home / "cache"
    assert not list((home / "cache").glob("unfinished-*"))


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(cache):
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"] if cache.exists() else []


def filled(folder, content=CONTENT):
    for name, value in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    return folder


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, value in members:
            file.writestr(name, value)
    return path


# ---- what it is for


def test_a_round_trip_through_shutil(tmp_path, cache):
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", filled(tmp_path / "set"))
    folder = unpacked(archive)
    assert tree(folder) == CONTENT
    assert folder.parent == cache
    assert folder.name.startswith("unpacked-set-")


@pytest.mark.parametrize("command", [
    ["zip", "-q", "-0", "-r", "../set.made", "."], ["zip", "-q", "-r", "../set.made", "b", "a.txt"],
])
def test_archives_of_other_programs(tmp_path, cache, command):
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    subprocess.run(command, cwd=filled(tmp_path / "set"), check=True)
    made = next(tmp_path.glob("set.made*"))
    archive = made.rename(tmp_path / "no_suffix_that_helps")
    assert tree(unpacked(archive)) == CONTENT


@pytest.mark.parametrize("top", [False, True])
def test_a_data_set_is_read_from_its_archive_like_from_its_folder(steel, steel_folder, tmp_path, cache, top):
    inside = dict(root_dir=steel_folder.parent, base_dir=steel_folder.name) if top else dict(root_dir=steel_folder)
    archive = Path(shutil.make_archive(str(tmp_path / "steel"), "zip", **inside))
    found = sources.open_dataset(archive, progress=False)
    assert found.fingerprint() == steel.fingerprint()
    for image_id in steel.images["ImageId"][:3]:
        assert np.array_equal(found.image(image_id), steel.image(image_id))
    assert f"found at the place asked for, unpacked from {archive.name}" in found.describe()
    assert sources.open_dataset(str(archive), progress=False).folder == found.folder


def test_the_variable_may_name_an_archive(steel, steel_folder, tmp_path, cache, monkeypatch):
    archive = shutil.make_archive(str(tmp_path / "steel"), "zip", steel_folder)
    monkeypatch.setenv("STEELNB_DATA", archive)
    found = sources.open_dataset(progress=False)
    assert found.fingerprint() == steel.fingerprint()
    assert "found through STEELNB_DATA, unpacked from steel.zip" in found.describe()
    zipped(Path(archive), [("unrelated.txt", b"")])
    with pytest.raises(DataError, match=r"STEELNB_DATA=.*steel\.zip: .*no data set"):
        sources.open_dataset(progress=False)


def test_it_is_unpacked_once_and_again_when_it_changes(tmp_path, cache, monkeypatch):
    archive = zipped(tmp_path / "set.zip", [("a", b"1")])
    first = unpacked(archive)
    with monkeypatch.context() as patched:
        patched.setattr(archives, "_make", None)
        assert unpacked(str(archive)) == first
    os.utime(archive, ns=(1, 1))
    second = unpacked(archive)
    assert second != first
    zipped(archive, [("a", b"2")])
    assert tree(unpacked(archive)) == {"a": b"2"}
    assert tree(first) == {"a": b"1"}
    (tmp_path / "other").mkdir()
    assert unpacked(shutil.copy2(archive, tmp_path / "other")) != unpacked(archive)


def test_from_another_disk_it_is_copied_in_one_piece(tmp_path, cache, monkeypatch):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk here")
    copied, copy = [], archives._copy
    monkeypatch.setattr(archives, "_copy", lambda *given: (copied.append(given[0]), copy(*given)))
    with tempfile.TemporaryDirectory(dir=elsewhere) as drive:
        archive = shutil.make_archive(f"{drive}/set", "zip", filled(tmp_path / "set"))
        assert tree(unpacked(archive)) == CONTENT
    assert len(copied) == 1
    unpacked(zipped(tmp_path / "here.zip", CONTENT.items()))
    assert len(copied) == 1


def test_a_copy_that_ends_early_is_noticed(tmp_path, cache, monkeypatch):
    archive = zipped(tmp_path / "set.zip", CONTENT.items())

    class Short:
        def __init__(self, path, mode):
            self.file = whole(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size):
            return self.file.read(100) if self.file.tell() == 0 else b""

    whole = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode: (Short if path == archive else whole)(path, *mode))
    with pytest.raises(EOFError, match=f"100 of {archive.stat().st_size} bytes"):
        archives._copy(archive, tmp_path / "copy", False)


def test_one_process_unpacks_and_the_others_wait(tmp_path, cache):
    archive = zipped(tmp_path / "set.zip", CONTENT.items())
    ask = ("import sys; from steelnb.data import archives; make = archives._make; archives._make = lambda *given: ("
           "print('made'), make(*given))[1]; print(archives.unpacked(sys.argv[1]))")
    asked = [subprocess.Popen([os.sys.executable, "-c", ask, archive], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate()[0].split() for process in asked]
    assert sorted(map(len, said)) == [1, 2]
    assert said[0][-1] == said[1][-1]
    assert tree(Path(said[0][-1])) == CONTENT


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_what_a_kill_left_is_removed_at_the_next_unpacking(tmp_path, home):
    archive, other = (zipped(tmp_path / f"{name}.zip", CONTENT.items()) for name in ("set", "other"))
    ask = ("import os, sys; from steelnb.data import archives; write = archives._unpack; "
           "archives._unpack = lambda *all: (write(*all), os.kill(os.getpid(), 9)); archives.unpacked(sys.argv[1])")
    for one in (archive, other):
        assert subprocess.run([os.sys.executable, "-c", ask, one]).returncode == -9
        assert len(left(home / "cache")) == 1
    (home / "cache" / "unfinished-of-a-version-before").mkdir()
    assert tree(folder := unpacked(archive)) == CONTENT
    assert left(home / "cache") == [folder.name]


def test_what_another_process_is_unpacking_stays(tmp_path, home):
    draft = home / "cache" / "unfinished-theirs"
    draft.mkdir(parents=True)
    with FileLock(home / "cache" / "theirs.lock"):
        unpacked(zipped(tmp_path / "set.zip", CONTENT.items()))
        assert draft.exists()
    unpacked(zipped(tmp_path / "more.zip", CONTENT.items()))
    assert not draft.exists()


def test_progress(tmp_path, cache, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    archive = zipped(tmp_path / "set.zip", CONTENT.items())
    unpacked(archive)
    assert capsys.readouterr().err == ""
    os.utime(archive, ns=(1, 1))
    unpacked(archive, progress=True)
    bar = capsys.readouterr().err
    assert "unpacking set.zip" in bar
    assert "100%" in bar


def test_what_macos_adds_is_left_out(tmp_path, cache):
    added = ["__MACOSX/._a.txt", "__MACOSX/b/._c", "b/._c.bin", ".DS_Store", "b/.DS_Store"]
    archive = zipped(tmp_path / "set.zip", [*CONTENT.items(), *((name, b"x") for name in added)])
    assert tree(unpacked(archive)) == CONTENT


def test_names_with_backslashes_are_folders(tmp_path, cache):
    assert tree(unpacked(zipped(tmp_path / "set.zip", [("b\\c.txt", b"1")]))) == {"b/c.txt": b"1"}


# ---- hostile archives

OUTSIDE = ["../out", "b/../../out", "/out", "//host/out", "..\\out", "b\\..\\..\\out", "C:\\out", "C:out", "\\out",
           ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, cache, name):
    archive = zipped(tmp_path / "set.zip", [("good", b"1"), (name, b"out")])
    with pytest.raises(DataError, match=r"is outside of the folder .*nothing was unpacked"):
        unpacked(archive)
    assert left(cache) == []
    assert not [path for path in tmp_path.rglob("*out*")]
    assert not Path("/out").exists()


def test_absolute_names_of_a_folder_are_refused_too(tmp_path, cache):
    target = tmp_path / "evil"
    with pytest.raises(DataError, match="outside"):
        unpacked(zipped(tmp_path / "set.zip", [(f"{target}/", b"")]))
    assert not target.exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, cache, kind):
    info = zipfile.ZipInfo("odd")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(DataError, match="'odd' is neither file nor folder"):
        unpacked(zipped(tmp_path / "set.zip", [("good", b"1"), (info, b"..")]))
    assert left(cache) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("members", [
    [("a", b"1"), ("a", b"2")], [("a", b"1"), ("./a", b"2")], [("a", b"1"), ("a/b", b"2")],
    [("a/b", b"1"), ("a", b"2")], [("a", b"1"), ("a/", b"")],
])
def test_one_name_twice_is_refused(tmp_path, cache, members):
    with pytest.raises(DataError, match="is there twice"):
        unpacked(zipped(tmp_path / "set.zip", members))
    assert left(cache) == []


def test_what_is_unpacked_is_neither_executable_nor_owned_by_others(tmp_path, cache):
    info = zipfile.ZipInfo("a")
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o6777) << 16
    file = unpacked(zipped(tmp_path / "set.zip", [(info, b"1")])) / "a"
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert file.stat().st_uid == (tmp_path / "plain").stat().st_uid


def test_more_than_the_disk_has_room_for(tmp_path, cache, monkeypatch):
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", filled(tmp_path / "set", {"zeros": bytes(10**6)}))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 999, 999_999))
    with pytest.raises(DataError, match=r"no room .* 0\.00 GB are needed, 0\.00 GB are free.*STEELNB_HOME"):
        unpacked(archive)
    assert left(cache) == []


def test_a_disk_that_fills_up_on_the_way(tmp_path, cache, monkeypatch):
    archive = zipped(tmp_path / "set.zip", CONTENT.items())
    write = archives._unpack

    def full(file, member, *rest):
        if member.filename.startswith("b/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, member, *rest)

    monkeypatch.setattr(archives, "_unpack", full)
    with pytest.raises(DataError, match=r"no room to unpack it in .*: \d+\.\d\d GB are free"):
        unpacked(archive)
    assert left(cache) == []
    monkeypatch.setattr(archives, "_unpack", write)
    assert tree(unpacked(archive)) == CONTENT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_cleared_the_next_time(tmp_path, cache, monkeypatch):
    archive = zipped(tmp_path / "a.zip", CONTENT.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads of others play no part in the child
        child = os.fork()
    if child == 0:
        monkeypatch.setattr(archives, "_unpack", lambda *_: os._exit(9))  # no `finally` is left to it
        unpacked(archive)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len([name for name in left(cache) if name.startswith("unfinished-")]) == 1
    assert tree(unpacked(archive)) == CONTENT
    assert len(left(cache)) == 1


def test_a_file_without_a_name_is_refused(tmp_path, cache):
    content = zipped(tmp_path / "a.zip", [("x", b"1"), ("y", b"2")]).read_bytes()
    first = content.index(b"PK\1\2")  # the directory's first entry: its name's length, and the name, go
    entry = content[first : first + 28] + b"\0\0" + content[first + 30 : first + 46]
    spoilt = content[:first] + entry + content[first + 47 :]
    end = spoilt.index(b"PK\5\6")
    spoilt = spoilt[: end + 12] + (end - first).to_bytes(4, "little") + spoilt[end + 16 :]
    (tmp_path / "a.zip").write_bytes(spoilt)
    with pytest.raises(DataError, match=r"a\.zip: '' is the name of a file in it, so nothing was unpacked"):
        unpacked(tmp_path / "a.zip")


def test_a_drive_that_goes_away_and_the_stop_button_leave_nothing(tmp_path, cache, monkeypatch):
    archive = zipped(tmp_path / "set.zip", CONTENT.items())
    for error in (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), KeyboardInterrupt()):
        def fails(*_, error=error):
            raise error
        with monkeypatch.context() as patched:
            patched.setattr(archives, "_unpack", fails)
            with pytest.raises((DataError, KeyboardInterrupt)) as caught:
                unpacked(archive)
        assert "mount it again" in str(caught.value) or caught.type is KeyboardInterrupt
        assert left(cache) == []


# ---- damaged archives


def test_every_archive_that_is_cut_off_is_noticed(tmp_path, cache):
    whole = Path(shutil.make_archive(str(tmp_path / "set"), "zip", filled(tmp_path / "set"))).read_bytes()
    for size in sorted({1, 3, 511, 512, 513, *range(1024, len(whole) - 1, 37), len(whole) - 1}):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"damaged or truncated|not a \.zip archive"):
            unpacked(tmp_path / "cut")
    assert left(cache) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@example(place=0.8803092674884915, change=64)  # a version of the format that does not exist
def test_a_changed_byte_never_changes_what_is_read(tmp_path, place, change):
    """A zip holds checksums of the content: it is the same or refused; only file times and modes may change."""
    content = {"a.txt": bytes(range(256)) * 3, "b/c": b"12345"}
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in content.items():
            file.writestr(zipfile.ZipInfo(name), value)
    changed = bytearray(archive.read_bytes())
    changed[int(place * len(changed))] ^= change
    archive.write_bytes(changed)
    shutil.rmtree(runtime.cache_folder(), ignore_errors=True)
    try:
        found = tree(unpacked(archive))
    except DataError:
        assert left(runtime.cache_folder()) == []
    else:
        assert sorted(found.values()) == sorted(content.values())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begin=st.sampled_from([b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", gzip.compress(b"text"), b""]),
       rest=st.binary(max_size=600))
def test_noise_is_refused(tmp_path, begin, rest):
    (tmp_path / "noise.zip").write_bytes(begin + rest)
    with pytest.raises(DataError):
        unpacked(tmp_path / "noise.zip")


def test_what_is_no_archive_is_said_to_be_none(tmp_path, cache):
    for name, content in (("a.csv", b"ImageId,ClassId,EncodedPixels\n"), ("a.7z", b"7z\xbc\xaf"), ("empty.zip", b""),
                          ("a.tar.gz", gzip.compress(bytes(1024)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: a file, but not a \.zip archive\. Give a \.zip or a folder"):
            sources.open_dataset(tmp_path / name)
    with pytest.raises(DataError, match=r"gone\.zip: No such file"):
        unpacked(tmp_path / "gone.zip")
    for empty in (zipped(tmp_path / "none.zip", []), zipped(tmp_path / "folders.zip", [("a/", b"")])):
        with pytest.raises(DataError, match="contains no files"):
            unpacked(empty)


def test_passwords_and_odd_packing_are_named(tmp_path, cache):
    archive = zipped(tmp_path / "set.zip", [("a", b"1")])
    content = archive.read_bytes()
    centre = content.index(b"PK\x01\x02")
    for offset, value, problem in ((8, 1, "needs a password"), (10, 9, "is compressed by a method that Python")):
        changed = bytearray(content)
        changed[centre + offset] |= value
        archive.write_bytes(changed)
        with pytest.raises(DataError, match=f"'a' {problem}"):
            unpacked(archive)


def test_what_reads_folders_says_what_to_do_with_a_file(tmp_path):
    with pytest.raises(DataError, match="unpack it first"):
        dataset.read_dataset(zipped(tmp_path / "set.zip", [("a", b"1")]))
