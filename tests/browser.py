"""A headless Chromium for tests of pages, spoken to through pipes: no library and no network socket of ours is needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
# The browser reads from descriptor 3 and writes to 4. Both are moved out of the way first: one may be where the other goes.
HAND_OVER = """
import fcntl, os, sys
found = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
for one, wanted in zip(found, (3, 4)):
    os.dup2(one, wanted)
    os.close(one)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60  # seconds
MISSING = "there is no chromium here; the report was not opened in a browser"


def path():
    """Where the browser is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def opened():
    """Start a browser with a profile of its own; yields a :class:`Browser`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        to_it, ours = os.pipe()
        from_it, theirs = os.pipe()
        started = subprocess.Popen(
            [sys.executable, "-SE", "-c", HAND_OVER, str(to_it), str(theirs), path(), *OPTIONS, f"--user-data-dir={profile}",
             "about:blank"],
            pass_fds=(to_it, theirs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_it)
        os.close(theirs)
        try:
            yield Browser(ours, from_it)
        finally:
            os.close(ours)
            os.close(from_it)
            started.kill()
            started.wait()


class Browser:
    """One tab: pages, script, mouse, keys, pictures, and everything that was written to the console."""

    def __init__(self, to_it, from_it):
        self._to, self._from, self._buffer, self._number = to_it, from_it, b"", 0
        self.console, self.requests, self._events = [], [], []
        targets = self._send("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = None
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        self._send("Emulation.setFocusEmulationEnabled", enabled=True)

    def _send(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self._note(found)

    def _next(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._from, 2**20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        kind, facts = event.get("method"), event.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.console.append(str(facts["args"]))
        elif kind == "Runtime.exceptionThrown":
            self.console.append(str(facts["exceptionDetails"]))
        elif kind == "Log.entryAdded":
            self.console.append(str(facts["entry"]))
        elif kind == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif kind:
            self._events.append(kind)

    def open(self, address, *, width=1280, height=900, ready="document.documentElement.dataset.ready === 'yes'"):
        """Open a page and wait until it says that it is ready."""
        self.resize(width, height)
        self.console.clear()
        self.requests.clear()
        # A change of the part behind # alone would not load the page anew.
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=address)
        until = time.monotonic() + PATIENCE
        while not self.run(f"document.readyState === 'complete' && ({ready})"):
            if time.monotonic() > until:
                raise TimeoutError(f"{address} is not ready; its console: {self.console}")
            time.sleep(0.02)

    def resize(self, width, height):
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, *, kind="", dark=False):
        """Show the page as in print (``kind="print"``), or to who prefers dark pages."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", media=kind, features=features)

    def run(self, script):
        """Evaluate an expression in the page and return its plain value."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def middle(self, selector):
        """Scroll the first element that a selector finds into view; where its middle is, in the window."""
        return self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView({{block: 'center'}});"
            " const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )

    def point(self, selector):
        x, y = self.middle(selector)
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys):
        for one in keys:
            text = {"Enter": "\r", " ": " "}.get(one, "")
            self._send(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key=one,
                code=one,
                text=text,
                windowsVirtualKeyCode=CODES.get(one, 0),
            )
            self._send(
                "Input.dispatchKeyEvent", type="keyUp", key=one, code=one, windowsVirtualKeyCode=CODES.get(one, 0)
            )

    def picture(self, file, *, whole=True):
        """Save what is shown as a PNG file: the whole page, or the window."""
        found = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(file, "wb") as stream:
            stream.write(base64.b64decode(found["data"]))

    def print(self, file):
        """Print the page to a PDF file."""
        with open(file, "wb") as stream:
            stream.write(
                base64.b64decode(self._send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
            )


CODES = {
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "Tab": 9,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}
