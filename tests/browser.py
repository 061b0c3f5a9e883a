"""Debian's Chromium, headless, driven by playwright, for tests of pages.

To run these tests: ``pip install playwright`` (it is in the extra ``test``) and ``apt-get install chromium``; playwright's own browsers
are not needed. Where one of them is missing the tests are skipped by name.
"""

import os
import shutil
from contextlib import contextmanager

import pytest

HOW = "install it with `apt-get install chromium` (Debian's package); playwright comes with `pip install 'gradlens-toolkit[test]'`"
WAIT = 180_000  # ms; a busy machine starts plotly slowly, and nothing here is about time


@contextmanager
def open_chromium():
    """A browser; without one the test that asks is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {HOW}")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip(f"no chromium: {HOW}")
    with playwright.sync_playwright() as driver:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # chromium refuses to run as root with it
        browser = driver.chromium.launch(executable_path=path, args=sandbox, timeout=WAIT)
        yield browser
        browser.close()
