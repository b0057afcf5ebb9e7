"""HTML of a self-contained page: style, tables, and pictures of tensors in a window of values."""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from invtoolbox.core.environment import machine, versions
from invtoolbox.datasets.output import write_bytes

#: Largest side of a picture in a page, pixels; larger pictures are averaged over blocks.
LARGEST_SIDE = 1024


#: Equally spaced colors of the scales of `to_bytes`, `diverging` and `heat`.
_STOPS = {
    "grey": np.array([[0.0, 0, 0], [255, 255, 255]]),
    "diverging": np.array([[33.0, 102, 172], [247, 247, 247], [178, 24, 43]]),
    "heat": np.array(
        [
            [0.0, 0, 4],
            [66, 10, 104],
            [147, 38, 103],
            [221, 81, 58],
            [252, 165, 10],
            [252, 255, 164],
        ]
    ),
}


class Window(NamedTuple):
    """Values shown as black and as white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def plane(item: Any) -> np.ndarray | None:
    """Convert one item ``(channel, *space)`` to a picture of float64.

    The picture is ``(rows, columns)`` or ``(rows, columns, 3)``. Complex values are shown by their
    magnitude, volumes by their middle slice. One or three channels are a picture; of any other
    number of channels the first one is shown.

    Args:
        item: one item of a batch.

    Returns:
        The picture; None if the item is no tensor with at least two axes of space.

    >>> import torch
    >>> plane(torch.zeros(3, 4, 5)).shape, plane(torch.zeros(1, 4, 5)).shape, plane(torch.zeros(1, 4))
    ((4, 5, 3), (4, 5), None)
    """
    if not isinstance(item, Tensor) or item.ndim < 3:
        return None
    array = item.detach().cpu().resolve_conj().numpy()
    array = np.abs(array) if np.iscomplexobj(array) else array
    array = array.astype(np.float64)
    while array.ndim > 3:  # (channel, slice, row, column)
        array = array[:, array.shape[1] // 2]
    return np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array[0]


def window_of(*pictures: np.ndarray | None) -> Window:
    """Return a window that covers all pictures.

    Half a percent of outliers at either end is left out. Pictures whose values lie between 0 and 1
    and cover most of that range keep it.
    """
    finite = [p[np.isfinite(p)].ravel() for p in pictures if p is not None]
    pixels = np.concatenate(finite) if finite else np.zeros(0)
    if not pixels.size:
        return Window(0.0, 1.0)
    low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5)))
    if -0.05 <= low <= 0.3 and 0.7 <= high <= 1.05:
        return Window(0.0, 1.0)
    if not high > low:
        low, high = float(np.min(pixels)), float(np.max(pixels))
    return Window(low, high) if high > low else Window(low, low + 1.0)


def symmetric_window(picture: np.ndarray | None) -> Window:
    """Return a window with 0 in its middle, for residuals and errors."""
    if picture is None:
        return Window(-1.0, 1.0)
    sizes = np.abs(picture[np.isfinite(picture)])
    largest = float(np.percentile(sizes, 99.5)) if sizes.size else 0.0
    return Window(-largest, largest) if largest > 0 else Window(-1.0, 1.0)


def to_bytes(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert a picture to uint8, grey or color; values that are not finite are black."""
    scaled = (picture - window.low) / (window.high - window.low)
    return (np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0) * 255).round().astype(np.uint8)


def diverging(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert signed values to uint8 colors: blue below 0, white at 0, red above."""
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num(grey / window.high, nan=0.0), -1.0, 1.0)[..., None]
    blue, white, red = _STOPS["diverging"]
    colors = np.where(t > 0, white + t * (red - white), white - t * (blue - white))
    return colors.round().astype(np.uint8)


def heat(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert magnitudes to uint8 colors, from black over red to white.

    The brightness rises evenly.
    """
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num((grey - window.low) / (window.high - window.low), nan=0.0), 0.0, 1.0)
    stops = _STOPS["heat"]
    places = np.linspace(0, 1, len(stops))
    return (
        np.stack([np.interp(t, places, stops[:, c]) for c in range(3)], -1).round().astype(np.uint8)
    )


def data_uri(pixels: np.ndarray, largest_side: int = LARGEST_SIDE) -> str:
    """Encode uint8 pixels as a PNG in a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(shrink(pixels, largest_side)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(pixels: np.ndarray, largest_side: int) -> np.ndarray:
    """Reduce uint8 pixels by the means of square blocks until no side is longer than a bound.

    Args:
        pixels: grey or color pixels, ``(rows, columns)`` or ``(rows, columns, 3)``.
        largest_side: largest number of rows and of columns.

    >>> shrink(np.full((6, 4), 7, np.uint8), 3).shape
    (3, 2)
    """
    factor = -(-max(pixels.shape[:2]) // largest_side)
    if factor == 1:
        return pixels
    rows, columns = (n // factor * factor for n in pixels.shape[:2])
    if not rows or not columns:  # a strip thinner than the factor
        return pixels
    blocks = pixels[:rows, :columns].reshape(
        rows // factor, factor, columns // factor, factor, *pixels.shape[2:]
    )
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f6f4; color: #22262a; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 22px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 20px 0 8px; color: #5a6067; font-weight: 600; }
p { margin: 4px 0 10px; max-width: 78ch; }
.lead { color: #5a6067; }
.link { margin-top: 12px; }
.row { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); align-items: start; }
.row.large { grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); }
.row.tight { grid-template-columns: repeat(auto-fit, minmax(146px, 1fr)); gap: 10px; }
.row + .row { margin-top: 14px; }
figure { margin: 0; background: #fff; border: 1px solid #e2e3df; border-radius: 8px; overflow: hidden; }
figure .frame { background: #111417; display: flex; align-items: center; justify-content: center; aspect-ratio: var(--shape); }
figure.light .frame { background: #f7f7f7; }
figure img { display: block; width: 100%; height: 100%; object-fit: contain; }
figure img[hidden] { display: none; }
figure .over { position: relative; }
figure .over img { position: absolute; inset: 0; }
figure button { font: inherit; padding: 0 8px; border: 1px solid #cfd2cc; border-radius: 6px; background: #fff; color: inherit; }
figure input[type=range] { width: 100%; margin: 4px 0 0; accent-color: #0072b2; }
figure img.coarse { image-rendering: pixelated; }
figure svg { display: block; width: 100%; height: auto; padding: 6px; background: #fff; }
figure .frame[onclick] { overflow: hidden; cursor: zoom-in; }
figure .frame.zoomed { cursor: zoom-out; }
figure .frame.zoomed img { transform: scale(4); image-rendering: pixelated; }
figure .bar { display: flex; align-items: center; gap: 8px; padding: 7px 11px 0; font-size: 12px; color: #5a6067;
  font-variant-numeric: tabular-nums; }
figure .bar i { flex: 1; height: 9px; border-radius: 2px; border: 1px solid #d5d7d2; }
figcaption { padding: 8px 11px 10px; font-size: 13.5px; line-height: 1.4; color: #5a6067; }
figcaption b { color: #22262a; font-weight: 600; display: block; }
figcaption .figures { display: block; color: #22262a; font-variant-numeric: tabular-nums; }
svg text { font: 11px system-ui, "Noto Sans", Arial, sans-serif; fill: #5a6067; }
svg .grid { stroke: #e6e7e3; stroke-width: 1; }
svg .level { stroke: #8a9096; stroke-width: 1; stroke-dasharray: 4 3; }
table { border-collapse: collapse; background: #fff; border: 1px solid #e2e3df; border-radius: 8px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: left; border-bottom: 1px solid #eeefec; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; background: #fbfbfa; }
td.number, th.number { text-align: right; }
td.best { font-weight: 700; }
td.words { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.good { color: #0b6e4f; } .bad { color: #b3261e; }
@media (max-width: 760px) { main { padding: 16px 10px 40px; } table { font-size: 12px; } th, td { padding: 4px 6px; } }
@media print { body { background: #fff; } figure { break-inside: avoid; } }
"""


def page(title: str, body: Sequence[str]) -> bytes:
    """Return the HTML of a self-contained page.

    Args:
        title: title of the page.
        body: HTML elements in their order.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + content_policy(handlers=(_ZOOM_CLICK, _ZOOM_MOVE, _SHOW, _CHOOSE, _PLAY, _WIPE))
        + f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    ).encode()


def write_page(
    path: str | Path,
    title: str,
    lead: str,
    body: Sequence[str],
    settings: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a page that ends with settings, versions and machine.

    Args:
        path: the file.
        title: title of the page.
        lead: a sentence below the title.
        body: HTML elements in their order.
        settings: facts about the run.
        overwrite: replace an existing file.
    """
    elements = [heading(title, lead), *body]
    if settings:
        elements += ["<h2>Settings</h2>", facts(settings)]
    elements += ["<h2>Versions and machine</h2>", facts({**versions(), **machine()})]
    return write_bytes(path, page(title, elements), overwrite)


def date() -> str:
    """Return the date and the time of day for the lead of a page."""
    return datetime.datetime.now().strftime("%Y-%m-%d %H:%M")


def heading(title: str, lead: str) -> str:
    """Return the title of a page and a sentence below it."""
    return f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'


def section(title: str, text: str) -> str:
    """Return the title of a section and its text."""
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>"


def color_bar(window: Window, colors: str = "grey") -> str:
    """Return a bar of colors between its least and its largest value.

    Args:
        window: the values at both ends.
        colors: "grey", "diverging" or "heat", as in `to_bytes`, `diverging` and `heat`.
    """
    stops = ",".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in _STOPS[colors])
    return (
        f'<div class="bar">{window.low:.3g}<i style="background:linear-gradient(to right,{stops})">'
        f"</i>{window.high:.3g}</div>"
    )


# A click enlarges the picture four times around the pointer, and with it the pictures of the same
# size in its row; the pointer then moves the enlarged part.
_POINT = (
    "const box = this.getBoundingClientRect(),"
    "place = `${100 * (event.clientX - box.left) / box.width}% ${100 * (event.clientY - box.top) / box.height}%`,"
    "own = this.querySelector('img'),"
    "same = [...(this.closest('.row') || this.parentNode).querySelectorAll('.frame[onclick]')].filter(f => {"
    "const other = f.querySelector('img');"
    "return other.naturalWidth == own.naturalWidth && other.naturalHeight == own.naturalHeight; });"
    "same.forEach(f => f.querySelector('img').style.transformOrigin = place);"
)
_ZOOM_CLICK = (
    f"{_POINT}const on = !this.classList.contains('zoomed');"
    "same.forEach(f => f.classList.toggle('zoomed', on))"
)
_ZOOM_MOVE = f"if (!this.classList.contains('zoomed')) return; {_POINT}"
_ZOOM = f'onclick="{_ZOOM_CLICK}" onmousemove="{_ZOOM_MOVE}"'

# The handlers are in attributes, so a page needs no script and each finds its own elements alone.
_SHOW = (
    "this.closest('figure').querySelectorAll('img').forEach((image, k) => image.hidden = k != "
    "this.value)"
)
_CHOOSE = f"{_SHOW};this.nextElementSibling.textContent = +this.value + 1"
_PLAY = (
    "clearInterval(this.timer); const playing = this.getAttribute('aria-pressed') != 'true';"
    "this.setAttribute('aria-pressed', playing); this.textContent = playing ? 'stop' : 'play';"
    "const range = this.closest('figure').querySelector('input');"
    "if (playing) this.timer = setInterval(() => { range.value = (+range.value + 1) % (+range.max + 1); range.oninput(); }, 90)"
)
_WIPE = (
    "this.closest('figure').querySelectorAll('img')[1].style.clipPath = "
    "`inset(0 0 0 ${this.value}%)`"
)


def content_policy(
    scripts: Sequence[str] = (), handlers: Sequence[str] = (), connect: bool = False
) -> str:
    """Return the element by which a page allows its own scripts, styles and pictures alone.

    A browser then runs no other script, and loads nothing from elsewhere.

    Args:
        scripts: contents of the script elements of the page.
        handlers: contents of the event attributes of the page.
        connect: whether scripts may read from the server of the page.
    """
    allowed = [f"'sha256-{_sha256(text)}'" for text in (*scripts, *handlers)]
    if handlers:
        allowed.insert(0, "'unsafe-hashes'")  # lets hashes allow event attributes
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
        f"{' '.join(allowed) or repr('none')}; base-uri 'none'; form-action 'none'"
    )
    if connect:
        policy += "; connect-src 'self'"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def script_data(content: Any) -> str:
    """Return plain values as JSON that no character can end or change the script element around."""
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def picture(
    pixels: np.ndarray,
    name: str,
    caption: str,
    figures: str = "",
    light: bool = False,
    bar: str = "",
) -> str:
    """Return a figure of uint8 pixels; small pictures are enlarged without smoothing.

    A click enlarges the picture, and the pictures of the same size in its row.

    Args:
        pixels: the picture.
        name: its name.
        caption: text next to the name.
        figures: line of numbers below the caption.
        light: whether the frame is light.
        bar: the colors and their values, from `color_bar`.
    """
    style, coarse = _frame(pixels)
    figures = f'<span class="figures">{html.escape(figures)}</span>' if figures else ""
    return (
        f"<figure{' class=light' if light else ''}>"
        f'<div class="frame" {style} title="click to zoom" {_ZOOM}>'
        f'<img{coarse} alt="{html.escape(name)}" src="{data_uri(pixels)}"></div>{bar}'
        f"<figcaption><b>{html.escape(name)}</b> "
        f"{html.escape(caption)}{figures}</figcaption></figure>"
    )


def shades(
    values: np.ndarray, window: Window, name: str, caption: str = "", figures: str = ""
) -> str:
    """Return a figure of values in a window, grey or color, with the bar of the window.

    The arguments are those of `to_bytes` and `picture`.
    """
    return picture(to_bytes(values, window), name, caption, figures, bar=color_bar(window))


def signed(values: np.ndarray, window: Window, name: str, caption: str = "") -> str:
    """Return a figure of signed values in a symmetric window, with the bar of the window.

    The arguments are those of `diverging` and `picture`.
    """
    bar = color_bar(window, "diverging")
    return picture(diverging(values, window), name, caption, light=True, bar=bar)


def slider(pictures: Sequence[np.ndarray], name: str, caption: str) -> str:
    """Return a figure that shows one of several pictures of one shape, chosen by a slider.

    Without scripting the first picture is shown.
    """
    count = '<span class="figures">1</span></label>'
    return _range(pictures, name, caption, _CHOOSE, count, _frame(pictures[0])[1])


def player(pictures: Sequence[np.ndarray], name: str, caption: str) -> str:
    """Return a figure that plays pictures of one shape in a loop.

    A slider chooses one of them. Without scripting the first picture is shown.
    """
    play = f'<button type="button" aria-pressed="false" onclick="{_PLAY}">play</button>'
    return _range(pictures, name, caption, _SHOW, f"</label> {play}")


def _range(
    pictures: Sequence[np.ndarray],
    name: str,
    caption: str,
    handler: str,
    controls: str,
    coarse: str = "",
) -> str:
    """Return a figure with a slider over pictures; ``controls`` end the label of the slider."""
    images = "".join(
        f'<img{coarse} alt="{html.escape(name)} {k + 1}" src="{data_uri(p, 512)}"{" hidden" if k else ""}>'
        for k, p in enumerate(pictures)
    )
    return (
        f'<figure><div class="frame" {_frame(pictures[0])[0]}>{images}</div><figcaption><label><b>{html.escape(name)}</b> '
        f'<input type="range" min="0" max="{len(pictures) - 1}" value="0" aria-label="{html.escape(name)}" oninput="{handler}">'
        f"{controls} {html.escape(caption)}</figcaption></figure>"
    )


def _frame(pixels: np.ndarray) -> tuple[str, str]:
    """Return the style of the frame of a picture, and the class of its image, as attributes.

    The bounds keep tall and flat sinograms from stretching the page.
    """
    rows, columns = pixels.shape[:2]
    shape = min(max(columns / rows, 0.75), 1.8)
    coarse = ' class="coarse"' if max(rows, columns) <= 400 else ""
    return f'style="--shape:{shape:.3f}"', coarse


def wipe(before: np.ndarray, after: np.ndarray, name: str, caption: str) -> str:
    """Return a figure of two pictures of one shape over each other.

    A slider moves their border.
    """
    style, coarse = _frame(before)
    return (
        f'<figure><div class="frame over" {style}><img{coarse} alt="{html.escape(name)}" src="{data_uri(before)}">'
        f'<img{coarse} alt="" src="{data_uri(after)}" style="clip-path: inset(0 0 0 50%)"></div>'
        f'<figcaption><label><b>{html.escape(name)}</b> <input type="range" min="0" max="100" value="50" '
        f'aria-label="{html.escape(name)}" oninput="{_WIPE}"></label> {html.escape(caption)}</figcaption></figure>'
    )


def link(address: str, name: str, caption: str) -> str:
    """Return a paragraph with a link and its caption."""
    return f'<p class="link"><a href="{html.escape(address)}">{html.escape(name)}</a>: {html.escape(caption)}.</p>'


def escape(words: str) -> str:
    """Escape the special characters of HTML."""
    return html.escape(words)


def chart(svg: str, name: str, caption: str) -> str:
    """Return a figure of a chart of `line_chart`."""
    return (
        f"<figure>{svg}<figcaption><b>{html.escape(name)}</b> "
        f"{html.escape(caption)}</figcaption></figure>"
    )


def row(figures: Sequence[str], size: Literal["", "tight", "large"] = "") -> str:
    """Return a row of figures; in a tight row they are smaller, in a large one two fit side by side."""
    return f'<div class="{f"row {size}".strip()}">{"".join(figures)}</div>'


def facts(entries: Mapping[str, str]) -> str:
    """Return a table of names and values in words; entries without a value are left out."""
    lines = "".join(
        f'<tr><th scope="row">{html.escape(k)}</th><td class="words">{html.escape(v)}</td></tr>'
        for k, v in entries.items()
        if v
    )
    return f'<div class="wide"><table>{lines}</table></div>'


def numbers(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    best: Mapping[int, int] | None = None,
) -> str:
    """Return a table of numbers; ``best[column] = row`` is set in bold."""
    best = best or {}
    head = "".join(
        f"<th{' class=number' if k else ''}>{html.escape(c)}</th>" for k, c in enumerate(columns)
    )
    lines = []
    for i, (name, texts) in enumerate(rows):
        cells = "".join(
            f'<td class="number{" best" if best.get(k) == i else ""}">{html.escape(text)}</td>'
            for k, text in enumerate(texts)
        )
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
