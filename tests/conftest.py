"""What every test shares: one thread, the same random state at its start, and slow tests only on demand."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from hypothesis import settings

# Before torch is imported. The tensors of tests are too small to share out, and beside another busy process two threads
# that wait for each other took a hundred times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("untimed", deadline=None)  # how long a call takes is the machine's affair
settings.load_profile("untimed")


# For the whole run and the processes it starts: tests neither read nor fill the cache of who runs them.
_CACHE = tempfile.TemporaryDirectory(prefix="resnetv2-cache-")
os.environ["RESNETV2_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def same_random_state():
    """Seed torch where a test uses it, so that no test depends on which ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def pytest_collection_modifyitems(config, items):
    """Skip ``slow`` tests unless ``-m`` names the marker, as in ``pytest -m "slow or not slow"``."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason='slow: run with -m "slow or not slow"'))
