"""A kill before each line: what a plain write leaves, what the library's leaves, and a function that fails."""

import pytest

from steelnb.runs.kill_points import contents_after_kills
from steelnb.storage import write_file


def write_plainly(path, content):
    with open(path, "wb") as file:
        file.write(content)


def write_nothing(path, content):
    raise ValueError("no content is wanted")


def test_a_plain_write_may_leave_neither_file():
    found = contents_after_kills(write_plainly)
    assert found[0] == "old"
    assert "broken" in found
    assert found[-1] == "new"


def test_the_librarys_leaves_the_old_one_or_the_new_one():
    found = contents_after_kills(write_file)
    turn = found.index("new")
    assert turn > 3
    assert set(found[:turn]) == {"old"}
    assert set(found[turn:]) == {"new"}


def test_a_function_that_fails_is_named():
    with pytest.raises(RuntimeError, match=r"(?s)write_nothing failed: .*no content is wanted"):
        contents_after_kills(write_nothing)
