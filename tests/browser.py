"""Pages in a real browser, headless and offline."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
# It asks nobody for anything, and shares no settings with who runs the tests or with another test.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--dump-dom"),
)


def browse(path):
    """Open a page in Chromium; return its elements after its script ran, and what it complained of."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def click_heads(path, column):
    """Click on a sortable column's head, twice; return its values after each click. The page must not complain."""
    click = """<script>
    const table = document.querySelector("table.sortable");
    const rows = () => [...table.tBodies[0].rows].map(r => r.cells[COLUMN].dataset.value);
    const button = table.querySelectorAll("th button")[COLUMN];
    button.click(); const once = rows(); button.click();
    document.title = JSON.stringify([once, rows()]);
    </script></body>"""
    text = re.sub(r"script-src &#39;sha256-\S+&#39;", "script-src 'unsafe-inline'", path.read_text(encoding="utf-8"))
    copy = Path(path.parent, "clicked.html")
    copy.write_text(text.replace("</body>", click.replace("COLUMN", str(column))), encoding="utf-8")
    elements, complaints = browse(copy)
    copy.unlink()
    assert complaints == []
    return json.loads(re.search(r"<title>(.*?)</title>", elements)[1].replace("&quot;", '"'))
