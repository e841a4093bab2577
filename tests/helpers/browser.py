"""A headless Chromium without network, for tests of pages; tests are skipped, visibly, where there is none."""

import base64
import json
import shutil
import time
from contextlib import contextmanager

import pytest

INSTALL = "apt-get install chromium chromium-driver; pip install selenium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 60.0  # seconds for a page to be ready
LOCAL = ("file:", "data:", "blob:")


class Browser:
    """A page in the browser.

    Attributes:
        driver: of selenium.
    """

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1280, height=900, ready="document.readyState === 'complete'"):
        """Open a file in a window of this size, and wait until a condition in JavaScript holds."""
        mobile = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", mobile)
        for log in ("browser", "performance"):  # of the browser's own first page, or of the page before
            self.driver.get_log(log)
        self.driver.get(path.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while not self.run(f"return Boolean({ready})"):
            assert time.monotonic() < end, (path, self.errors(), self.driver.page_source[:2000])
            time.sleep(0.1)

    def run(self, script, *arguments):
        """The value of a script."""
        return self.driver.execute_script(script, *arguments)

    def errors(self):
        """What the console says since the page was opened, or the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses of what was asked for since the page was opened, but for files of this machine."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        assert sent, "the browser does not say what it asks for"
        addresses = [params["request"]["url"] for params in sent]
        return [address for address in addresses if not address.startswith(LOCAL)]

    def pdf(self):
        """The page as it would be printed."""
        return base64.b64decode(self.driver.print_page())


@contextmanager
def opened(profile):
    """Yield a `Browser` whose profile is in a new folder."""
    selenium = pytest.importorskip("selenium", reason=f"no selenium: {INSTALL}")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no {' and no '.join(missing)}: {INSTALL}")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = Chrome(options=options, service=Service(programs["chromedriver"]))
    except selenium.common.exceptions.WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {error.msg.splitlines()[0]}")
    try:
        yield Browser(driver)
    finally:
        driver.quit()
