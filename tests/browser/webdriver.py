"""A small WebDriver client: headless Chromium through chromedriver, with its console and its requests."""

import base64
import json
import socket
import subprocess
import time
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    def __init__(self, chromedriver, chromium):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen([chromedriver, f"--port={port}"], stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        self.session = None
        deadline = time.monotonic() + 30
        while True:
            try:
                if self._send("GET", "/status")["ready"]:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, "chromedriver does not start"
            time.sleep(0.1)
        options = {
            "binary": chromium,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"pageLoad": 60_000, "script": 60_000},
        }
        answer = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{answer['sessionId']}"

    def _send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        request.method = method
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        """Opens a file; returns the seconds until it is loaded."""
        self.requests(), self.console()
        started = time.monotonic()
        self._send("POST", f"{self.session}/url", {"url": path.as_uri()})
        return time.monotonic() - started

    def run(self, script, *arguments):
        return self._send("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script):
        return self._send("POST", f"{self.session}/execute/async", {"script": script, "args": []})

    def press(self, keys):
        """Presses keys on the focused element."""
        element = self._send("GET", f"{self.session}/element/active")[ELEMENT]
        self._send("POST", f"{self.session}/element/{element}/value", {"text": keys})

    def command(self, name, **parameters):
        """A command of the DevTools protocol."""
        body = {"cmd": name, "params": parameters}
        return self._send("POST", f"{self.session}/goog/cdp/execute", body)

    def resize(self, width, dark=False):
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path, height=8000):
        """A picture of the page from its top, at most so many pixels high."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height), "scale": 1}
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _log(self, kind):
        return self._send("POST", f"{self.session}/se/log", {"type": kind})

    def console(self):
        return [entry for entry in self._log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [it for it in messages if it["method"] == "Network.requestWillBeSent"]
        return [it["params"]["request"]["url"] for it in sent]

    def close(self):
        try:
            if self.session:
                self._send("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=20)
