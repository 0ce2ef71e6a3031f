"""Chromium without a window, driven through chromedriver: WebDriver is JSON over HTTP, so this needs no package."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of a reference to an element
TAB, ENTER = "\ue004", "\ue007"


def programs() -> tuple[str, str] | None:
    """Chromium and its driver; None where one is missing."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    return (found[0], found[1]) if found[0] and found[1] else None


class Browser:
    """One window, 1280 by 900."""

    def __init__(self, chromium: str, driver: str, profile: Path) -> None:
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        port = next(m.group(1) for line in self.process.stdout if (m := re.search(r"successfully on port (\d+)", line)))
        self.url = f"http://127.0.0.1:{port}"
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.url += f"/session/{session}"

    def close(self) -> None:
        self._send("DELETE", "")
        self.process.terminate()
        self.process.wait()

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    # By the driver's own commands: a script that leaves its page is run again by chromedriver when the page ends
    # before its answer, and then goes back twice.
    def back(self) -> None:
        self._send("POST", "/back", {})

    def reload(self) -> None:
        self._send("POST", "/refresh", {})

    def js(self, script: str, *arguments: Any) -> Any:
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *, seconds: float = 20.0) -> None:
        """Hold until the script returns something true: events reach a page after the change that caused them."""
        deadline = time.monotonic() + seconds
        while not self.js(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)

    def find(self, css: str) -> str:
        return str(self._send("POST", "/element", {"using": "css selector", "value": css})[ELEMENT])

    def find_all(self, css: str) -> list[str]:
        return [str(e[ELEMENT]) for e in self._send("POST", "/elements", {"using": "css selector", "value": css})]

    def click(self, css: str) -> None:
        self._send("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        self._send("POST", f"/element/{self.find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        moves = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": moves}]})

    def text(self, css: str) -> str:
        return str(self._send("GET", f"/element/{self.find(css)}/text"))

    def name(self, element: str) -> str:
        """The accessible name, as assistive software is told it."""
        return str(self._send("GET", f"/element/{element}/computedlabel"))

    def role(self, element: str) -> str:
        return str(self._send("GET", f"/element/{element}/computedrole"))

    def complaints(self) -> list[str]:
        """What the console holds since the last time: errors of scripts, files that did not load."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def prefers(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", metrics)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def command(self, name: str, parameters: dict[str, Any]) -> Any:
        """One of Chromium's own, of its developer tools."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
