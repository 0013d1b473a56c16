import os
import shutil
import signal

import pytest

CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)


@pytest.fixture(scope="session")
def chromium():
    "One headless Chromium for all browser tests; no name resolves in it but the loopback address."
    if CHROMIUM is None:
        message = (
            "no Chromium found: install it (Debian: apt-get install chromium fonts-dejavu-core) or set CHROMIUM to its"
            " path"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    playwright = (
        pytest.importorskip("playwright.sync_api", reason="needs the dev extra: pip install -e .[dev]")
        if os.environ.get("CI") != "true"
        else __import__("playwright.sync_api").sync_api
    )
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            ],
        )
        yield browser
        browser.close()


# A shell that starts the tests in the background has them ignore interrupts, and their children too; the tests send
# some.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
