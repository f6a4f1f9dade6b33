"""Headless Chromium, in real time: a page reports what it found when it is done, however busy the machine is.

With `--dump-dom`, Chromium either ends when the page is loaded or lets a virtual clock run, and on a busy machine the
virtual clock can end before images are decoded.
"""

import json
import queue
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

_SECONDS = 300  # for one page; a quiet machine needs about 3

# The function with which a page reports. A frame inside it sends what it found to it with `postMessage`.
REPORT = """
const report = (found) => fetch("http://127.0.0.1:" + location.search.slice(1), {
  method: "POST", mode: "no-cors", body: JSON.stringify(found),
});
"""


def open_page(file: Path, profile: Path, *flags: str) -> tuple[Any, list[str]]:
    """Open a page that calls `report` of `REPORT` once.

    Args:
        file: The page.
        profile: A folder for Chromium's settings.
        flags: More flags for Chromium.

    Returns:
        What the page reports, and the errors on the console.
    """
    found: queue.Queue[Any] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            found.put(json.loads(body))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--allow-file-access-from-files", "--window-size=1400,900", f"--user-data-dir={profile}",
            *flags, f"{file.as_uri()}?{server.server_port}",
        ]  # fmt: skip
        log = profile.with_name(f"{profile.name}.log")
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as browser:
            try:
                reported = found.get(timeout=_SECONDS)
            except queue.Empty:
                raise AssertionError(f"no report of {file}:\n{log.read_text(errors='replace')}") from None
            finally:
                browser.terminate()
        server.shutdown()
    return reported, [line for line in log.read_text(errors="replace").splitlines() if "CONSOLE" in line]
