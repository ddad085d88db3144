"""Runs a headless Chromium, LiteRT.js and a web server, for tests of pages.

Chromium comes from the Debian packages `chromium` and `chromium-driver`.
`tests/deploy/litertjs.sh FOLDER` fetches LiteRT.js. The environment variable
AWN_LITERTJS names that folder.
"""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

CORE = Path(os.environ.get("AWN_LITERTJS") or "none") / "@litertjs" / "core"
_PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
_MISSING = [name for name, place in _PROGRAMS.items() if place is None]
_MISSING += [] if find_spec("selenium") else ["selenium"]
_LITERTJS = "AWN_LITERTJS names no folder with LiteRT.js (tests/deploy/litertjs.sh)"

needs_litertjs = pytest.mark.skipif(not CORE.is_dir(), reason=_LITERTJS)
needs_browser = pytest.mark.skipif(
    bool(_MISSING), reason=f"no {' and no '.join(_MISSING)} on this machine"
)

FLAGS = (
    *("--headless=new", "--no-sandbox", "--window-size=1200,1000"),
    # No background requests, and a camera that needs no permission.
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-quic", "--no-first-run"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
    # A GPU in software.
    *("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"),
)


@contextlib.contextmanager
def chromium(*flags):
    """Starts a new browser, and yields its driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _PROGRAMS["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    service = webdriver.ChromeService(_PROGRAMS["chromedriver"])
    driver = webdriver.Chrome(options, service)
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def served(folder):
    """Serves a folder on this machine, and yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Page:
    """An open page of `awn web`."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address, *, before=""):
        """Opens a page, and waits until it is ready or shows an error.

        Args:
            address: Address of the page.
            before: JavaScript that runs before the scripts of the page.
        """
        script = self.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": before}
        )
        self.driver.get(address)
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        self.wait("document.documentElement.dataset.ready || !status.hidden === false")
        return self

    def wait(self, condition, seconds=60):
        """Waits until a condition in JavaScript is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = f"const status = document.getElementById('status'); return {condition}"
        return WebDriverWait(self.driver, seconds, 0.05).until(
            lambda driver: driver.execute_script(script)
        )

    def js(self, code, *arguments):
        """Runs `code` as the body of an async function, and returns its result."""
        return self.driver.execute_script(
            f"return (async () => {{ {code} }})()", *arguments
        )

    def find(self, identifier):
        return self.driver.find_element("id", identifier)

    def text(self, identifier):
        """Returns the text of an element, even of a hidden element."""
        return self.find(identifier).get_property("textContent").strip()

    @property
    def problem(self):
        """The error message on the page, or "" if there is none."""
        shown = self.find("problem")
        return shown.text if shown.is_displayed() else ""

    def idle(self):
        self.js("await new Promise((done) => setTimeout(done)); await awn.idle()")

    def choose_width(self, index):
        self.js(
            "const slider = document.getElementById('width'); slider.value = "
            f"{index}; slider.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
        self.idle()

    def choose_photo(self, path, identifier="file"):
        # The page clears the field at the end, after success and after an error.
        self.find(identifier).send_keys(str(path))
        self.wait(f"document.getElementById('{identifier}').value === ''")
        self.idle()

    def draw(self, points):
        """Draws a line with the mouse. Points are in 0..1 of the field."""
        from selenium.webdriver.common.action_chains import ActionChains

        paper = self.find("paper")
        self.js("document.getElementById('paper').scrollIntoView({block: 'center'})")
        side = paper.size["width"]
        places = [(round((x - 0.5) * side), round((y - 0.5) * side)) for x, y in points]
        actions = ActionChains(self.driver, duration=5)
        actions.move_to_element_with_offset(paper, *places[0]).click_and_hold()
        for place in places[1:]:
            actions.move_to_element_with_offset(paper, *place)
        actions.release().perform()
        self.idle()

    @property
    def answers(self):
        """The answers on the page as `[(label, percent), ...]`."""
        rows = self.js(
            "return [...document.querySelectorAll('#answers li')].map((li) => "
            "[...li.children].slice(0, 2).map((span) => span.textContent))"
        )
        return [(label, float(percent.removesuffix(" %"))) for label, percent in rows]
