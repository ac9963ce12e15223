"""Downloads, against a real server on this machine: every way to fail, and that the next try mends it."""

import hashlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from servers import Served, serving

from resnetv2.cache import cache_path, locked
from resnetv2.errors import ConfigError, DownloadError, Error
from resnetv2.weights import transfer as transfer_module
from resnetv2.weights.download import fetch_file, file_path
from resnetv2.weights.location import Location

BODY = bytes(range(256)) * 4096  # 1 MiB
HALF = len(BODY) // 2
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
FETCH = """
import json, sys
from resnetv2.errors import Error
from resnetv2.weights.download import fetch_file
from resnetv2.weights.location import Location
try:
    print(fetch_file(Location(**json.loads(sys.argv[1])), timeout=5))
except Error as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, no proxy, no pauses."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(transfer_module, "_PAUSES", (0.0, 0.0, 0.0))
    return tmp_path / "cache"


def served(server, body=BODY, **faults):
    """Serve a file at /file.npz; return its location without a digest."""
    server.files["/file.npz"] = Served(body, **faults)
    return Location(url=server.url("/file.npz"))


def stated(location, **fields):
    return Location(**{**location.to_dict(), **fields})


def ranges(server):
    return [asked for _, _, asked in server.asked]


def start(location, **environment):
    """Fetch in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(location.to_dict())],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return the exit code, stdout and stderr of a process."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out.strip(), err


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.01)


def left(path):
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


# A file that arrives


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_a_file_arrives_whole_and_is_asked_for_once(server, cache, kind):
    digest = f"{kind}:{hashlib.new(kind, BODY).hexdigest()}"
    location = stated(served(server), digest=digest, size=len(BODY))
    path = fetch_file(location)
    assert path.read_bytes() == BODY
    assert path.name == "file.npz"
    assert cache in path.parents
    assert left(path) == ["file.npz"]
    assert fetch_file(location) == path
    assert len(server.asked) == 1


def test_the_first_eight_digits_of_a_digest_are_enough_and_are_checked(server):
    location = served(server)
    assert fetch_file(stated(location, digest=SHA256[:15])).read_bytes() == BODY
    with pytest.raises(DownloadError, match="its sha256 is"):
        fetch_file(stated(location, digest="sha256:00000000"))


def test_two_addresses_with_the_same_file_name_are_two_files(server):
    server.files = {"/a/file.npz": Served(b"a"), "/b/file.npz": Served(b"b")}
    a, b = (fetch_file(Location(url=server.url(f"/{folder}/file.npz"))) for folder in "ab")
    assert (a.read_bytes(), b.read_bytes()) == (b"a", b"b")


def test_a_cached_file_needs_no_folder_that_can_be_written(server, monkeypatch):
    location = stated(served(server), digest=SHA256)
    path = fetch_file(location)
    monkeypatch.setattr("resnetv2.weights.download.locked", pytest.fail)
    assert fetch_file(location) == path


def test_nothing_is_written_to_stdout_and_no_bar_to_a_pipe(server):
    code, out, err = finish(start(served(server)))
    assert (code, err) == (0, "")
    assert Path(out).read_bytes() == BODY


@pytest.mark.parametrize("announced", [True, False])
def test_a_terminal_shows_the_name_as_it_is_and_how_much_is_here(server, monkeypatch, announced):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("resnetv2.console.talk", lambda: terminal)
    served(server, announced=announced)
    fetch_file(Location(url=server.url("/file.npz"), filename="{0}[bold].npz"))
    assert "{0}[bold].npz" in shown.getvalue()
    assert f"1.0/{'1.0' if announced else '?'} MB" in shown.getvalue()


# Connections that break


def test_a_cut_is_mended_by_asking_for_the_rest_only(server):
    location = served(server, cut=[HALF])
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server) == ["", f"bytes={HALF}-"]
    assert server.sent == len(BODY)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40_000), max_size=12))
def test_wherever_connections_are_cut_every_byte_is_sent_once(server, cuts):
    cuts = [bytes_sent or 1 for bytes_sent in cuts]  # three answers in a row without a byte are an error, by design
    body = BODY[:100_000]
    location = served(server, body, cut=list(cuts))
    file_path(location).unlink(missing_ok=True)
    before = server.sent
    assert fetch_file(location).read_bytes() == body
    assert server.sent - before == len(body)


def test_a_server_without_ranges_is_asked_for_the_whole_again(server):
    location = served(server, cut=[HALF], ranges=False)
    assert fetch_file(location).read_bytes() == BODY
    assert server.sent == HALF + len(BODY)


def test_a_server_that_always_cuts_the_whole_ends_in_an_error(server):
    location = served(server, cut=[HALF] * 99, ranges=False)
    with pytest.raises(DownloadError, match=f"cut after {HALF:,} of {len(BODY):,} bytes"):
        fetch_file(location)
    assert len(server.asked) == 4  # the first, and after it three that brought no more


def test_what_arrived_before_an_error_is_kept_for_the_next_call(server):
    location = served(server, cut=[HALF], status=[200, 503, 503, 503, 503])
    with pytest.raises(DownloadError, match=rf"503 .*{HALF:,} bytes of it are kept"):
        fetch_file(location)
    assert fetch_file(location).read_bytes() == BODY
    assert server.sent == len(BODY)


@pytest.mark.parametrize("etag", ['"second"', 'W/"weak"', ""])
def test_a_file_that_changed_between_cut_and_resumption_is_fetched_anew(server, etag):
    location = served(server, cut=[HALF], status=[200, 503, 503, 503, 503])
    with pytest.raises(DownloadError):
        fetch_file(location)
    other = bytes(reversed(BODY))
    served(server, other, etag=etag)
    assert fetch_file(location).read_bytes() == other


@pytest.mark.parametrize("etag", ['"second"', ""])
def test_a_server_that_ignores_if_range_does_not_mix_two_versions(server, etag):
    location = served(server, cut=[HALF], status=[200, 503, 503, 503, 503])
    with pytest.raises(DownloadError):
        fetch_file(location)
    other = bytes(reversed(BODY))
    served(server, other, etag=etag, blind=True)
    assert fetch_file(location).read_bytes() == other


def test_another_part_than_the_one_asked_for_is_not_taken(server):
    location = served(server, cut=[HALF], headers={"Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"})
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server) == ["", f"bytes={HALF}-", ""]


def test_a_version_that_cannot_be_told_is_not_resumed(server):
    location = served(server, etag='W/"weak"', cut=[HALF])
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server) == ["", ""]


def test_the_date_tells_the_version_where_there_is_no_etag(server):
    location = served(server, etag="", cut=[HALF], headers={"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.files["/file.npz"].ranges = False  # so that only the request is looked at
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server) == ["", f"bytes={HALF}-"]


def test_an_error_of_the_server_that_passes_is_waited_for(server):
    assert fetch_file(served(server, status=[500, 503, 429])).read_bytes() == BODY
    assert len(server.asked) == 4


def test_a_connection_without_a_byte_for_the_timeout_is_tried_again(server):
    assert fetch_file(served(server, hold=[HALF]), timeout=0.5).read_bytes() == BODY
    assert ranges(server) == ["", f"bytes={HALF}-"]


def test_more_kept_than_the_server_has_is_discarded(server):
    location = served(server, cut=[HALF], status=[200, 503, 503, 503, 503])
    with pytest.raises(DownloadError):
        fetch_file(location)
    served(server, BODY[:HALF])
    assert fetch_file(location).read_bytes() == BODY[:HALF]


# Processes


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_killed_in_the_middle_is_gone_on_from(server, number):
    location = stated(served(server, hold=[HALF]), digest=SHA256)
    part = file_path(location).with_name("file.npz.part")
    process = start(location)
    until(lambda: part.exists() and part.stat().st_size == HALF)
    process.send_signal(number)
    assert finish(process)[0] == -number
    server.release.set()
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server) == ["", f"bytes={HALF}-"]
    assert left(file_path(location)) == ["file.npz"]


def test_two_processes_at_once_download_once_and_the_second_says_why_it_waits(server):
    location = stated(served(server, hold=[HALF]), digest=SHA256)
    first = start(location)
    until(lambda: server.asked)
    second = start(location)
    assert "another process is at work on file.npz" in second.stderr.readline()
    server.release.set()
    results = [finish(first)[:2], finish(second)[:2]]
    assert results == [(0, str(file_path(location)))] * 2
    assert (len(server.asked), server.sent) == (1, len(BODY))


# Files that are not the one stated


def test_a_wrong_digest_removes_the_file_and_says_both(server):
    location = stated(served(server), digest="md5:" + "0" * 32)
    with pytest.raises(DownloadError) as caught:
        fetch_file(location)
    assert f"its md5 is {hashlib.md5(BODY).hexdigest()}, expected {'0' * 32}" in str(caught.value)
    assert left(file_path(location)) == []


def test_a_wrong_size_is_refused_before_the_file_is_sent(server):
    with pytest.raises(DownloadError, match=r"npz has 1,048,576 bytes, expected 5\."):
        fetch_file(stated(served(server), size=5))
    assert len(server.asked) == 1


def test_a_server_that_sends_without_end_is_stopped_at_the_size(server):
    location = stated(served(server, BODY * 16, announced=False), size=len(BODY))
    with pytest.raises(DownloadError, match=r"more than the 1,048,576 bytes"):
        fetch_file(location)
    assert left(file_path(location)) == []


def test_an_empty_answer_is_no_file(server):
    with pytest.raises(DownloadError, match="0 bytes"):
        fetch_file(served(server, b""))


@pytest.mark.parametrize("known", [{"digest": SHA256}, {"size": len(BODY)}])
def test_a_file_damaged_in_the_cache_is_said_and_fetched_anew(server, capsys, known):
    location = stated(served(server), **known)
    path = fetch_file(location)
    path.write_bytes(BODY[:-1])
    assert fetch_file(location).read_bytes() == BODY
    assert "is damaged" in capsys.readouterr().err
    assert len(server.asked) == 2


# What the server does not give


def test_an_absent_file_is_said_at_once(server):
    location = Location(url=server.url("/absent.npz"))
    with pytest.raises(DownloadError, match=r"404 .* put there by hand") as caught:
        fetch_file(location)
    assert location.url in str(caught.value)
    assert str(file_path(location)) in str(caught.value)
    assert len(server.asked) == 1


def test_a_server_that_does_not_answer_is_an_error_that_says_where_to_put_the_file():
    with serving() as server:
        location = Location(url=server.url("/file.npz"))
    with pytest.raises(DownloadError, match="refused") as caught:
        fetch_file(location)
    assert str(file_path(location)) in str(caught.value)


def test_redirects_are_followed_but_not_out_of_encryption(server):
    served(server)
    server.files["/near"] = Served(status=[302], headers={"Location": server.url("/file.npz")})
    assert fetch_file(Location(url=server.url("/near"))).read_bytes() == BODY
    for target in ("http://example.invalid/file.npz", "ftp://127.0.0.1/file.npz", "file:///etc/passwd"):
        server.files["/far"] = Served(status=[302], headers={"Location": target})
        with pytest.raises(DownloadError, match=r"not https|302"):
            fetch_file(Location(url=server.url("/far")))


@pytest.mark.parametrize(
    "url", ["http://example.invalid/a.npz", "file:///etc/passwd", "ftp://a/b.npz", "https:///a.npz"]
)
def test_an_address_without_encryption_is_refused(url):
    with pytest.raises(DownloadError, match="https"):
        fetch_file(Location(url=url))


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a\\b", "a\0b", "%2e%2e", "c:", "a%0Ab"])
def test_a_name_that_could_leave_the_cache_is_refused(name):
    with pytest.raises(DownloadError, match="no file can have the name"):
        file_path(Location(url=f"https://example.invalid/a/{name}"))


def test_what_is_no_address_is_refused():
    with pytest.raises(DownloadError, match="no file can have the name"):
        fetch_file(Location(url="https://[example/a.npz"))
    with pytest.raises(DownloadError, match="https"):
        fetch_file(Location(url="https://[example/a.npz", filename="a.npz"))


def test_the_proxy_is_the_environments(server, monkeypatch):
    server.files["http://localhost:9/file.npz"] = Served(BODY)
    monkeypatch.setenv("http_proxy", server.url())
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch_file(Location(url="http://localhost:9/file.npz")).read_bytes() == BODY


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_certificates_are_checked_and_https_does_not_lead_to_http(tmp_path, server):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", certificate, "-days", "2"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as secure:
        location = stated(served(secure), digest=SHA256)
        code, _, err = finish(start(location))
        assert code == 1
        assert "DownloadError" in err
        assert "SSL_CERT_FILE" in err
        assert secure.asked == []

        code, out, err = finish(start(location, SSL_CERT_FILE=str(certificate)))
        assert (code, err) == (0, "")
        assert Path(out).read_bytes() == BODY

        served(server)
        secure.files["/back"] = Served(status=[302], headers={"Location": server.url("/file.npz")})
        code, _, err = finish(start(Location(url=secure.url("/back")), SSL_CERT_FILE=str(certificate)))
        assert code == 1
        assert "which is not https" in err
        assert server.asked == []


# Without a connection


def test_offline_says_the_address_and_the_place_and_takes_a_file_put_there(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    location = stated(served(server), digest=SHA256)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE") as caught:
        fetch_file(location)
    assert location.url in str(caught.value)
    place = Path(str(caught.value).rpartition(": ")[2])
    place.write_bytes(BODY)
    assert fetch_file(location) == place
    place.write_bytes(b"another file")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        fetch_file(location)
    assert place.read_bytes() == b"another file"  # not ours to remove while there is nothing better
    assert server.asked == []


# The disk


def test_a_cache_that_cannot_be_made_is_one_error_that_names_the_variable(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Error, match="set RESNETV2_CACHE to a folder that can be written"):
        fetch_file(served(server))
    assert server.asked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission_is_one_error_that_names_the_variable(server, cache):
    cache.mkdir(mode=0o500)
    with pytest.raises(Error, match="set RESNETV2_CACHE to a folder that can be written"):
        fetch_file(served(server))


def test_a_full_disk_is_said_before_the_download_where_the_size_is_known(server, small_disk, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(small_disk))
    with pytest.raises(DownloadError, match=r"needs 1,048,576 bytes more and .* left: make room"):
        fetch_file(served(server))
    assert len(server.asked) == 1


def test_a_disk_that_becomes_full_is_said_and_what_arrived_is_kept(server, small_disk, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(small_disk))
    location = served(server, announced=False)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch_file(location)
    assert len(server.asked) == 1
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert fetch_file(location).read_bytes() == BODY
    assert ranges(server)[1] != ""


def test_the_cache_is_the_systems_where_no_variable_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNETV2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cache_path("downloads")
    assert path.is_absolute()
    assert path.name == "downloads"
    assert "resnetv2" in path.parts
    assert not path.exists()


def test_a_lock_is_free_again_after_an_error_in_its_block(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "new" / "file"):
        raise KeyError
    with locked(tmp_path / "new" / "file"):
        pass


# Locations


def test_a_location_survives_json():
    location = Location(repo="a/b", revision="v1", filename="c.npz", digest="md5:0123456789abcdef", size=3)
    assert Location.from_dict(json.loads(json.dumps(location.to_dict()))) == location


def test_a_location_that_cannot_be_says_all_its_problems_at_once():
    with pytest.raises(ConfigError) as caught:
        Location(url="https://a/b", repo="a/b", digest="crc:12", size=-1)
    for words in ("a repo or a url", "needs a filename", "digest must be", "size must be"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="size must be of type int"):
        Location(url="https://a/b", size="1")


# The hub: its library reads the environment when it is imported, so each case has a process of its own

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_HEADERS = {"X-Repo-Commit": COMMIT}


def hub_file(server, body=BODY, revision="v1", etag="f" * 64):
    path = f"/publisher/network/resolve/{revision}/model.safetensors"
    server.files[path] = Served(body, etag=f'"{etag}"', headers=HUB_HEADERS)
    return Location(repo="publisher/network", revision=revision, filename="model.safetensors")


def from_hub(server, location, **environment):
    mirror = {"HF_ENDPOINT": server.url(), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return finish(start(location, **{**mirror, **environment}))


def test_the_hub_is_asked_once_for_a_file_with_a_digest_also_at_a_mirror(server, tmp_path):
    location = stated(hub_file(server), digest=SHA256, size=len(BODY))
    code, out, err = from_hub(server, location)
    assert code == 0, err
    assert Path(out).read_bytes() == BODY
    assert tmp_path / "hub" in Path(out).parents  # the hub's own cache, which its other users share
    asked = len(server.asked)
    assert from_hub(server, location)[:2] == (0, out)
    assert from_hub(server, location, HF_HUB_OFFLINE="1")[:2] == (0, out)
    assert len(server.asked) == asked


def test_the_hubs_file_without_a_digest_is_cached_by_its_commit_and_offline(server):
    location = hub_file(server, revision=COMMIT)
    code, out, err = from_hub(server, location)
    assert code == 0, err
    asked = len(server.asked)
    assert from_hub(server, location)[:2] == (0, out)
    assert from_hub(server, location, HF_HUB_OFFLINE="1")[:2] == (0, out)
    assert len(server.asked) == asked


def test_a_tag_of_the_hub_that_moved_is_followed_where_no_digest_is_stated(server):
    location = hub_file(server)
    assert from_hub(server, location)[0] == 0
    hub_file(server, b"another", etag="e" * 64)
    server.files["/publisher/network/resolve/v1/model.safetensors"].headers = {"X-Repo-Commit": COMMIT[::-1]}
    code, out, err = from_hub(server, location)
    assert code == 0, err
    assert Path(out).read_bytes() == b"another"


def test_the_hubs_file_damaged_in_the_cache_is_said_and_fetched_anew(server):
    location = stated(hub_file(server), digest=SHA256)
    _, out, _ = from_hub(server, location)
    Path(out).write_bytes(b"damaged")
    code, out, err = from_hub(server, location)
    assert code == 0, err
    assert "is damaged" in err
    assert Path(out).read_bytes() == BODY


def test_a_file_of_the_hub_with_another_digest_is_refused(server):
    code, _, err = from_hub(server, stated(hub_file(server), digest="sha256:00000000"))
    assert code == 1
    assert f"its {SHA256.replace(':', ' is ')}, expected 00000000" in err


def test_offline_without_the_hubs_file_says_where_to_put_it_and_takes_it_there(server):
    location = stated(hub_file(server), digest=SHA256)
    code, _, err = from_hub(server, location, HF_HUB_OFFLINE="1")
    assert code == 1
    place = file_path(location)
    assert err.startswith("DownloadError")
    assert str(place) in err
    assert "/publisher/network/resolve/v1/model.safetensors" in err
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    assert from_hub(server, location, HF_HUB_OFFLINE="1")[:2] == (0, str(place))
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "EntryNotFound", "no such file at this revision"),
        (404, "RevisionNotFound", "no revision 'v1'"),
        (401, "RepoNotFound", "no such repository, or a private one"),
        (403, "GatedRepo", "gated: accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_one_error_that_says_what_to_do(server, status, code, words):
    location = hub_file(server)
    path = "/publisher/network/resolve/v1/model.safetensors"
    server.files[path] = Served(status=[status] * 9, headers={"X-Error-Code": code, **HUB_HEADERS})
    exit_code, _, err = from_hub(server, location)
    assert exit_code == 1
    assert err.startswith("DownloadError: cannot download http://127.0.0.1")
    assert words in err


def test_a_file_put_by_hand_for_the_hub_that_is_another_is_said_and_not_taken(server):
    location = stated(hub_file(server), digest=SHA256)
    place = file_path(location)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another file")
    code, out, err = from_hub(server, location)
    assert (code, Path(out).read_bytes()) == (0, BODY)
    assert f"{place} is damaged: it" in err
    assert place.read_bytes() == b"another file"


def test_a_repository_with_an_impossible_name_is_one_error(server):
    code, _, err = from_hub(server, Location(repo="a/b/c", filename="d"))
    assert code == 1
    assert err.startswith("DownloadError")
    assert server.asked == []
