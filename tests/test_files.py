import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.errors import Error
from resnetv2.files import new_folder, replace_file, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def python(code, *args):
    """Run code in a Python of its own; return it finished."""
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False)


def test_a_file_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with replace_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent  # a rename is atomic within one file system only
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
def test_a_file_can_be_read_by_whom_the_person_lets_read_new_files(tmp_path):
    (tmp_path / "other").touch()
    with replace_file(tmp_path / "file") as temporary:
        temporary.touch(mode=0o600)  # as safetensors does
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_of_two_writers_of_one_new_file_the_second_is_refused_and_the_first_file_stays(tmp_path):
    path = tmp_path / "file"

    def write_second():
        with replace_file(path, new=True) as temporary:
            temporary.write_bytes(b"second")
            path.write_bytes(b"first")

    with pytest.raises(Error, match=r"cannot write .*file: File exists"):
        write_second()
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file"]
    with replace_file(tmp_path / "other", new=True) as temporary:
        temporary.write_bytes(b"alone")
    assert names(tmp_path) == ["file", "other"]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old and long")
    with replace_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old and long"
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
def test_who_reads_the_old_file_reads_all_of_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old and long")
    with path.open("rb") as reader:
        with replace_file(path) as temporary:
            temporary.write_bytes(b"new")
        assert reader.read() == b"old and long"  # the name moved to another file, this one was not touched


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, ValueError])
def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with replace_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise error("mine")

    with pytest.raises(error, match=r"^mine$"):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_block_that_writes_nothing_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Error, match="cannot write"), replace_file(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b"old"


FULL = """
import resource, signal, sys
from pathlib import Path
from resnetv2.errors import Error
from resnetv2.files import replace_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: an error instead of a signal
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replace_file(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(bytes(100_000))
except Error as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_on_a_full_disk_the_error_names_the_file_and_the_old_one_stays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = python(FULL, path)
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert done.stderr == ""
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from resnetv2.files import replace_file

with replace_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of the new")
    print("writing", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_kill_amid_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = python(KILLED, path)
    assert done.stdout == "writing\n"
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_json(path, "the next one is not hindered by what the killed one left")
    assert path.read_text().startswith('"the next')


KILLED_OFTEN = """
import sys
from pathlib import Path
from resnetv2.files import replace_file

print("ready", flush=True)
for number in range(1_000_000):
    with replace_file(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(b"%07d" % (number % 10_000_000) * 10_000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_reader_never_sees_half_a_file_while_a_writer_replaces_it_and_is_killed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0000000" * 10_000)
    with subprocess.Popen([sys.executable, "-c", KILLED_OFTEN, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        seen = {path.read_bytes()}
        while len(seen) < 50 and writer.poll() is None:
            seen.add(path.read_bytes())
        writer.kill()
    seen.add(path.read_bytes())
    assert len(seen) >= 50
    assert all(content == content[:7] * 10_000 for content in seen)


def test_a_folder_that_refuses_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "folder").write_bytes(b"a file where a folder should be")
    path = tmp_path / "folder" / "file"
    with pytest.raises(Error, match=r"cannot write .*file: ") as caught, replace_file(path):
        pytest.fail("the block must not run")
    assert str(path) in str(caught.value)


def test_a_name_that_is_a_folder_is_an_error_and_the_folder_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(Error, match=r"cannot write .*folder"), replace_file(tmp_path / "folder") as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == ["folder"]


def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("permissions do not bind this user")
        with pytest.raises(Error, match="Permission denied"):
            write_json(tmp_path / "file", 1)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that no one may write to")
def test_a_file_system_that_takes_no_files_is_an_error():
    with pytest.raises(Error, match=r"cannot write /proc/resnetv2.json"):
        write_json(Path("/proc/resnetv2.json"), 1)


@given(JSON)
def test_json_round_trips(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_json_is_readable_text_with_an_end_of_line(tmp_path):
    write_json(tmp_path / "x.json", {"name": "Käse 🧀", "n": [1]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "name": "Käse 🧀",\n  "n": [\n    1\n  ]\n}\n'


def test_a_path_that_is_no_utf8_is_still_json(tmp_path):
    value = {"data": os.fsdecode(b"/home/caf\xe9")}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_what_is_no_json_leaves_the_old_file_and_no_other(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert (tmp_path / "x.json").read_text() == "1\n"
    assert names(tmp_path) == ["x.json"]


# --- folders ---


def test_a_folder_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder"
    with new_folder(path) as temporary:
        (temporary / "file").write_text("x")
        assert not path.exists()
    assert names(path) == ["file"]
    assert names(path.parent) == ["folder"]


def test_a_block_that_raises_leaves_no_folder(tmp_path):
    def fail():
        with new_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    code = """
import os, pathlib, signal, sys
from resnetv2.files import new_folder
with new_folder(pathlib.Path(sys.argv[1])) as temporary:
    (temporary / "old").write_text("x")
    os.kill(os.getpid(), signal.SIGTERM)
"""
    assert python(code, tmp_path / "folder").returncode != 0
    assert names(tmp_path) == [".folder.resnetv2.lock", ".folder.resnetv2.tmp"]
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "new").write_text("x")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_taken(tmp_path):
    with new_folder(tmp_path) as temporary:  # it is there, and empty
        (temporary / "file").write_text("x")
    with pytest.raises(Error, match="exists and is not an empty folder"), new_folder(tmp_path):
        pass
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_folder_are_told_apart_and_a_persons_hidden_folder_is_left_alone(tmp_path):
    (tmp_path / ".folder.tmp").mkdir()
    code = """
import pathlib, sys
from resnetv2.errors import Error
from resnetv2.files import new_folder
try:
    with new_folder(pathlib.Path(sys.argv[1])):
        pass
except Error as error:
    print(error)
"""
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("x")
        assert python(code, tmp_path / "folder").stdout.strip() == f"another process is writing {tmp_path / 'folder'}"
    assert names(tmp_path / "folder") == ["file"]
    assert names(tmp_path) == [".folder.tmp", "folder"]
