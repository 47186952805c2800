"""A real browser without a window, for pages: Chromium, driven by its DevTools protocol through a pair of pipes.

Nothing that it loads comes from a network: names of hosts lead nowhere. What it asks for, and what goes wrong in the
page, is recorded, so that a test can say that nothing did.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXPECTED = "PIKAFORGE_EXPECT_BROWSER"
"""If this variable is set, a machine without a browser fails the tests that need one, instead of skipping them."""
PATIENCE = 60.0
"""Seconds for an answer of the browser."""
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-pings", "--hide-scrollbars", "--mute-audio", "--password-store=basic",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--force-color-profile=srgb", "--font-render-hinting=none",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
KEYS: Mapping[str, int] = {
    "Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
"""Virtual key codes by the name that a page sees."""


def program() -> str | None:
    """The browser of this machine; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def required() -> str:
    """The browser; the test is skipped, or fails where one is expected, if there is none."""
    found = program()
    if found is None:
        if os.environ.get(EXPECTED):
            pytest.fail(f"there is no browser, and {EXPECTED} says that there is")
        pytest.skip("chromium is missing: `bash setup.sh tests` installs it")
    return found


class BrowserError(Exception):
    """The browser does not answer, or says no."""


class Browser:
    """A running browser with a profile of its own."""

    def __init__(self, path: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="pikaforge-browser-")
        to_read, self._commands = os.pipe()
        self._answers, to_write = os.pipe()
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium refuses its sandbox to root
        # The browser reads from descriptor 3 and writes to 4.
        script = 'exec "$@" 3<&"$R" 4>&"$W"'
        argv = ["bash", "-c", script, "browser", path, *OPTIONS, *sandbox, f"--user-data-dir={self._folder}"]
        env = {**os.environ, "R": str(to_read), "W": str(to_write), "HOME": self._folder}
        self._process = subprocess.Popen(
            argv, env=env, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._pending = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser, and remove its profile."""
        with contextlib.suppress(BrowserError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for end in (self._commands, self._answers):
            os.close(end)
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command; its result. Events that come before it are recorded."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        end = time.monotonic() + PATIENCE
        while True:
            answer = self.next(end)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def next(self, end: float) -> dict[str, Any]:
        """The next message; an event is recorded, too."""
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data:
                raise BrowserError("the browser does not answer")
            self._pending += data
        text, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def page(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True) -> Page:
        """Open a new page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.resize(size)
        page.media(dark=dark)
        if not script:
            page.send("Emulation.setScriptExecutionDisabled", value=True)
        return page


class Page:
    """A page of the browser."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command that is about this page."""
        return self._browser.send(method, self._session, **parameters)

    def close(self) -> None:
        """Close it."""
        self._browser.send("Target.closeTarget", targetId=self._target)

    def open(self, url: str) -> None:
        """Open a URL, and wait until it is loaded."""
        before = len(self._browser.events)
        if "loaderId" in self.send("Page.navigate", url=url):  # else it is the same document with another hash
            self._await("Page.loadEventFired", before)

    def _await(self, method: str, since: int) -> None:
        end = time.monotonic() + PATIENCE
        while not any(
            e["method"] == method and e.get("sessionId") == self._session for e in self._browser.events[since:]
        ):
            self._browser.next(end)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it becomes."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition of JavaScript is true; it is asked at each frame."""
        self.evaluate(
            f"new Promise((done, fail) => {{ const end = performance.now() + 20000; const look = () => {{"
            f"if ({condition}) done(true); else if (performance.now() > end) fail(new Error({json.dumps(condition)}));"
            f"else requestAnimationFrame(look); }}; look(); }})"
        )

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a mouse does."""
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        assert box is not None, f"there is no {selector}"
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        self.settle()

    def key(self, name: str, *, times: int = 1) -> None:
        """Press a key."""
        for _ in range(times):
            more = {"text": "\r"} if name == "Enter" else {}
            code = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name]}
            self.send("Input.dispatchKeyEvent", type="keyDown", **code, **more)
            self.send("Input.dispatchKeyEvent", type="keyUp", **code)
        self.settle()

    def write(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)
        self.settle()

    def back(self) -> None:
        """Go back in the history, as the browser's button does."""
        before = self.evaluate("location.href")
        self.evaluate("history.back()")
        self.wait(f"location.href !== {json.dumps(before)}")
        self.settle()

    def resize(self, size: tuple[int, int]) -> None:
        """Give the window another size; a narrow one is a phone's."""
        width, height = size
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def media(self, *, dark: bool = False, printed: bool = False) -> None:
        """Say which medium and colours are wanted."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media="print" if printed else "", features=scheme)

    def picture(self, path: Path, *, height: int = 2400) -> Path:
        """Write a picture of the page from its top, so high at most."""
        self.settle()
        whole = int(self.evaluate("document.documentElement.scrollHeight"))
        width = int(self.evaluate("innerWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
        data = self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def troubles(self) -> list[str]:
        """What went wrong in the page, and what it asked for beside itself."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            details = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(str(details["exceptionDetails"]))
                case "Log.entryAdded":
                    found.append(str(details["entry"]["text"]))
                case "Network.requestWillBeSent" if details.get("type") != "Document":
                    found.append(f"asked for {details['request']['url']}")
                case "Page.javascriptDialogOpening":
                    found.append(f"a dialog: {details['message']}")
        return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser for the time of a block."""
    running = Browser(required())
    try:
        yield running
    finally:
        running.close()
