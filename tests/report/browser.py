"""A headless Chromium, driven through the DevTools protocol over two pipes: no package is needed, only the browser.

https://chromedevtools.github.io/devtools-protocol/; with --remote-debugging-pipe the browser reads commands from file
descriptor 3 and writes answers to 4, JSON that ends with a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")


def found() -> str | None:
    """The path of a Chromium on this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. A context manager. `errors`: what the page's console and the security policy complained about."""

    def __init__(self, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False):
        self.errors: list[str] = []
        self._look = (width, height, dark, phone)
        self._next, self._rest = 0, b""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (ours_out, theirs_in), (theirs_out, ours_in) = _pipe(), _pipe()
        self._write, self._read = ours_out, ours_in
        line = [
            found(), "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--no-first-run", "--disable-extensions", f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]  # fmt: skip
        # Chromium insists on the descriptors 3 and 4; the shell puts the pipes there.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *line], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", session=False, url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", session=False, targetId=target, flatten=True)["sessionId"]
        width, height, dark, phone = self._look
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(self, path: Path, fragment: str = "") -> None:
        """Loads a file and waits until its scripts have run."""
        self.call("Page.navigate", url=path.absolute().as_uri() + fragment)
        self.wait_for("document.readyState === 'complete'")

    def wait_for(self, condition: str, seconds: float = 20.0) -> None:
        """Waits until a JavaScript expression holds. Raises TimeoutError that names it."""
        end = time.monotonic() + seconds
        while not self.value(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not become true in {seconds} s; the page said {self.errors}")
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises RuntimeError when it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """A real click in the middle of the first element that matches, which is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
        place = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, session: bool = True, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _receive(self, seconds: float = 60.0) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], seconds)[0]:
                raise TimeoutError(f"the browser said nothing for {seconds} s")
            received = os.read(self._read, 1 << 16)
            if not received:
                raise RuntimeError("the browser ended")
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["params"]["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning", "assert"):
            self.errors.append(str(event["params"]["args"]))


def _pipe() -> tuple[int, int]:
    """(write end, read end)."""
    read, write = os.pipe()
    return write, read
