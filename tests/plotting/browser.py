"""A browser without a window, to see what a page draws and how it answers to a reader."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


def _run(page: str, options: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Open a page in Chromium; the test is skipped without a browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no chromium here to look at pages with")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-unsafe-swiftshader",
        "--use-angle=swiftshader",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        "--virtual-time-budget=2000",
        f"--user-data-dir={folder / 'browser'}",
        *options,
        page,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def screenshot(page: Path | str, fragment: str, side: int, to: Path) -> Tensor:
    """The page as a browser of ``side`` by ``side`` pixels shows it, ``(3, side, side)`` from 0 to 1; skips where there is no browser."""
    from PIL import Image

    address = page if isinstance(page, str) else page.resolve().as_uri()
    options = [f"--window-size={side},{side}", f"--screenshot={to}"]
    ran = _run(f"{address}{fragment}", options, to.parent)
    if not to.exists():
        pytest.skip(f"chromium draws nothing here: {' '.join(ran.stderr.split())[-200:]}")
    with Image.open(to) as picture:
        array = np.asarray(picture.convert("RGB"))
    assert array.shape == (side, side, 3)
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def evaluate(page: Path, script: str, width: int, folder: Path) -> Any:
    """Run a script at the end of a page in a window of a width, and return its ``result``.

    The policy of the page stays in force, so the handlers of the page run only if it allows them;
    the script of the test is added to what it allows.
    """
    script = f"{script}; document.title = 'result:' + JSON.stringify(result)"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    copy = folder / f"evaluated-{width}.html"
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    ran = _run(copy.resolve().as_uri(), [f"--window-size={width},900", "--dump-dom"], folder)
    title = re.search(r"<title>result:(.*?)</title>", ran.stdout)
    assert title is not None, ran.stdout[-500:] + ran.stderr[-500:]
    return json.loads(html.unescape(title[1]))
