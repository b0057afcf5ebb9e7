"""HTML of a self-contained page: style, verdict, tables, and rows of pictures that are compared."""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.environment import machine, versions
from invtoolbox.datasets.output import write_bytes
from invtoolbox.plotting.pixels import STOPS, Window, data_uri, diverging, to_bytes


def page(title: str, body: Sequence[str]) -> bytes:
    """Return the HTML of a self-contained page.

    Args:
        title: title of the page.
        body: HTML elements in their order.
    """
    style = files("invtoolbox.plotting").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + content_policy(handlers=(_ZOOM, _AGAIN, _SHOW, _CHOOSE, _PLAY, _SWIPE))
        + f"<title>{html.escape(title)}</title><style>{style}</style>"
        # Controls that need scripting are left out without it; all pictures stay.
        + "<noscript><style>figure input, figure button, .swipe { display: none !important; }"
        + "</style></noscript></head>\n<body><main>\n"
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
        elements.append(folded("Settings", facts(settings)))
    elements.append(folded("Versions and machine", facts({**versions(), **machine()})))
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


def verdict(head: str, text: str, is_good: bool | None = None) -> str:
    """Return the paragraph that states whether a result is good, and by how much.

    Args:
        head: what a reader must see first, such as a gain in dB.
        text: one or two sentences.
        is_good: True and False color the paragraph; None leaves it grey.
    """
    kind = "verdict" if is_good is None else f"verdict {'good' if is_good else 'bad'}"
    return f'<p class="{kind}"><b>{html.escape(head)}</b> {html.escape(text)}</p>'


def folded(title: str, content: str) -> str:
    """Return a section that a click on its title opens; it needs no script.

    Args:
        title: title of the section.
        content: HTML elements.
    """
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def color_bar(window: Window, colors: str = "grey", unit: str = "") -> str:
    """Return a bar of colors between its least and its largest value.

    Args:
        window: the values at both ends.
        colors: "grey", "diverging" or "heat", as in `to_bytes`, `diverging` and `heat`.
        unit: unit of the values; empty for values without one.
    """
    stops = ",".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in STOPS[colors])
    return (
        f'<div class="bar">{_number(window.low)}<i style="background:linear-gradient(to right,{stops})">'
        f"</i>{_number(window.high)}{f' {html.escape(unit)}' if unit else ''}</div>"
    )


def _number(value: float) -> str:
    """Return three digits of a value, or all digits of a larger whole part."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


# A click, or the key Enter, enlarges a picture four times around the pointer, and with it all pictures
# of the same proportions in its row; the pointer or the arrow keys then move the enlarged part.
_ZOOM = (
    "const frame = event.target.closest('.frame'), image = frame && frame.querySelector('img');"
    "if (!image) return;"
    "const step = {ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10]}[event.key],"
    "turn = event.type == 'click' || event.key == 'Enter', was = frame.classList.contains('zoomed');"
    "if (!turn && !(was && (step || event.type == 'pointermove'))) return;"
    "let [x, y] = (frame.style.getPropertyValue('--at') || '50% 50%').split(' ').map(parseFloat);"
    "if (step) { x = Math.min(100, Math.max(0, x + step[0])); y = Math.min(100, Math.max(0, y + step[1])); event.preventDefault(); }"
    "else if (event.type != 'keydown') { const box = frame.getBoundingClientRect();"
    "x = 100 * (event.clientX - box.left) / box.width; y = 100 * (event.clientY - box.top) / box.height; }"
    "this.querySelectorAll('.frame').forEach(other => { const size = other.querySelector('img');"
    "if (Math.abs(size.naturalWidth * image.naturalHeight / (size.naturalHeight * image.naturalWidth) - 1) > 0.02) return;"
    "other.style.setProperty('--at', `${x}% ${y}%`); if (turn) other.classList.toggle('zoomed', !was); })"
)
_AGAIN = "this.onclick(event)"
_LINKED = f'onclick="{_ZOOM}" onpointermove="{_AGAIN}" onkeydown="{_AGAIN}"'

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
# The picture of the previous card covers the picture of this card, up to the place of the slider.
_SWIPE = (
    "const card = this.closest('figure'), frame = card.querySelector('.frame');"
    "if (!frame.querySelector('.cut')) { const cut = frame.appendChild(document.createElement('span'));"
    "cut.className = 'cut'; cut.appendChild(card.previousElementSibling.querySelector('img').cloneNode()).alt = ''; }"
    "frame.style.setProperty('--cut', `${this.value}%`)"
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
    swipe: str = "",
) -> str:
    """Return a figure of uint8 pixels; small pictures are enlarged without smoothing.

    A click enlarges the picture, and the pictures of the same proportions in its `row`.

    Args:
        pixels: the picture.
        name: its name.
        caption: text next to the name.
        figures: line of numbers below the caption.
        light: whether the frame is light.
        bar: the colors and their values, from `color_bar`.
        swipe: name of the figure before this one in the row, which has the same size; a slider
            lays it over this picture. Empty for none.
    """
    style, coarse = _frame(pixels)
    words = html.escape(", ".join(filter(None, (name, caption, figures))))
    figures = f'<span class="figures">{html.escape(figures)}</span>' if figures else ""
    slide = (
        f'<label class="swipe"><span>swipe: {html.escape(swipe)}</span><input type="range" min="0" '
        f'max="100" value="0" oninput="{_SWIPE}"></label>'
        if swipe
        else ""
    )
    return (
        f"<figure{' class=light' if light else ''}>"
        f'<div class="frame" {style} tabindex="0" title="click or Enter to zoom">'
        f'<img{coarse} alt="{words}" src="{data_uri(pixels)}"></div>'
        f"<figcaption><b>{html.escape(name)}</b> "
        f"{html.escape(caption)}{figures}</figcaption>{slide}{bar}</figure>"
    )


def shades(
    values: np.ndarray,
    window: Window,
    name: str,
    caption: str = "",
    figures: str = "",
    swipe: str = "",
    unit: str = "",
) -> str:
    """Return a figure of values in a window, grey with the bar of the window, or color without.

    The arguments are those of `to_bytes`, `picture` and `color_bar`.
    """
    bar = "" if values.ndim == 3 else color_bar(window, unit=unit)
    return picture(to_bytes(values, window), name, caption, figures, bar=bar, swipe=swipe)


def signed(
    values: np.ndarray,
    window: Window,
    name: str,
    caption: str = "",
    figures: str = "",
    unit: str = "",
) -> str:
    """Return a figure of signed values in a symmetric window, with the bar of the window.

    The arguments are those of `diverging`, `picture` and `color_bar`.
    """
    bar = color_bar(window, "diverging", unit)
    return picture(diverging(values, window), name, caption, figures, light=True, bar=bar)


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

    The bounds keep tall sinograms from stretching the page, and flat ones visible.
    """
    rows, columns = pixels.shape[:2]
    shape = min(max(columns / rows, 0.75), 5.0)
    coarse = ' class="coarse"' if max(rows, columns) <= 400 else ""
    return f'style="--shape:{shape:.3f}"', coarse


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


def row(figures: Sequence[str], columns: int = 3) -> str:
    """Return figures in columns of one width and rows of one height; pictures zoom together.

    On a narrow screen there are two columns.

    Args:
        figures: the figures, from left to right and from top to bottom.
        columns: number of columns on a wide screen.
    """
    kind = "row single" if columns == 1 else "row"
    return f'<div class="{kind}" style="--n:{columns}" {_LINKED}>{"".join(figures)}</div>'


def charts(figures: Sequence[str], columns: int = 3) -> str:
    """Return figures of `chart` in columns; on a narrow screen in one, so that they stay readable.

    Args:
        figures: the figures.
        columns: number of columns on a wide screen.
    """
    return f'<div class="row charts" style="--n:{columns}">{"".join(figures)}</div>'


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
