"""A browser without a window, to see what a page draws."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


def screenshot(page: Path | str, fragment: str, side: int, to: Path) -> Tensor:
    """The page as a browser of ``side`` by ``side`` pixels shows it, ``(3, side, side)`` from 0 to 1; skips where there is no browser."""
    from PIL import Image

    browser = next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
            if (found := shutil.which(name))
        ),
        None,
    )
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
        f"--window-size={side},{side}",
        "--virtual-time-budget=2000",
        f"--user-data-dir={to.parent / 'browser'}",
        f"--screenshot={to}",
        f"{page if isinstance(page, str) else page.resolve().as_uri()}{fragment}",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if not to.exists():
        pytest.skip(f"chromium draws nothing here: {' '.join(ran.stderr.split())[-200:]}")
    with Image.open(to) as picture:
        array = np.asarray(picture.convert("RGB"))
    assert array.shape == (side, side, 3)
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
