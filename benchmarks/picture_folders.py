"""Folders of pictures through `denoise`, `deblur`, `superresolve` and `inpaint`: what stays, what is gained.

    python benchmarks/picture_folders.py [--commands denoise,deblur] [--keep FOLDER]

Twelve pictures of 160 x 200 pixels: 8 and 16 bits, grey and color, PNG and TIFF, with alpha, with a
palette, and JPEG with an orientation tag. Of every picture the truth is known: Set12, photographs of
Berlin, a rendered room and a video of a fox, most of them reduced in size, on none of which a default
was chosen. They are made noisy (0.06 of the range), blurred (a disc of radius 2.5 and noise 0.005, cut out of the
blurred scene), small (bicubic, factor 2) or full of gaps (a quarter of the pixels, squares and a line),
and then stored. All commands run with their defaults, once per folder.

A row holds the PSNR of the stored picture and of the result. A small picture is compared with its
bicubic enlargement, and a row also holds the nearest one, or the biharmonic interpolation of gaps. Names, formats, bit depths, orientation, profiles, resolution,
texts and alpha are read by Pillow and tifffile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from common import data_folder, machine, run_script, verdict
from PIL import Image, ImageCms, PngImagePlugin
from torch import Tensor

import invtoolbox as it
from invtoolbox.cli import main as run_command
from invtoolbox.datasets.volumes.pictures import Original
from invtoolbox.jobs.images.decisions.held_out_pixels import interpolate_smoothly
from invtoolbox.jobs.images.kernels import disc_kernel

ROWS, COLUMNS = 160, 200
#: Pictures: file, sources, factor by which the source is reduced, first row and column of the part.
PICTURES = {
    "grey8.png": ("set12/07.png", 1, 30, 10),
    "grey16.png": ("set12/09.png", 2, 40, 30),
    "scan8.tif": ("set12/10.png", 2, 50, 40),
    "scan16.tif": ("set12/11.png", 2, 60, 40),
    "grey.jpg": ("set12/12.png", 2, 40, 40),
    "rgb8.png": ("livingroom_rgbd/image/00177.jpg", 2, 40, 60),
    "rgb16.png": ("livingroom_rgbd/image/00060.jpg", 2, 40, 60),
    "rgba8.png": ("ngp_fox_270x480/images/0030.jpg", 1, 200, 35),
    "palette.png": ("opensfm_berlin/images/02.jpg", 8, 90, 100),
    "color8.tif": ("opensfm_berlin/images/01.jpg", 8, 90, 100),
    "rgba16.tif": ("opensfm_berlin/images/03.jpg", 8, 90, 100),
    "rotated.jpg": ("ngp_fox_270x480/images/0001.jpg", 1, 100, 35),
}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def main(commands: str = "denoise,deblur,superresolve,inpaint", keep: str = "") -> None:
    """Run the benchmark.

    Args:
        commands: commands to run, with commas between them.
        keep: folder in which the pictures stay.
    """
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        for command in commands.split(","):
            folder = Path(keep or temporary, command)
            folder.mkdir(parents=True)
            report(command, folder)


def report(command: str, folder: Path) -> None:
    """Make a folder of pictures, run a command on it, and print what stayed and what was gained."""
    source, target = folder / "in", folder / "out"
    source.mkdir()
    truths: dict[str, Tensor] = {}
    for number, name in enumerate(PICTURES):
        scene = read_scene(name)
        truths[name] = scene[..., 16:-16, 16:-16]
        store(source / name, DAMAGE[command](scene, number, folder / f"{name}.mask.png"))
    words = {
        "denoise": [],
        "deblur": ["--kernel", "disc:2.5"],
        "superresolve": ["--factor", "2"],
        "inpaint": ["--mask", str(make_masks(folder))],
    }[command]
    start = time.process_time()
    code = run_command(
        [command, str(source), *words, "--output", str(target), "--threads", "1", "-q"]
    )
    seconds = time.process_time() - start
    names = sorted(
        path.name for path in target.iterdir() if path.suffix in (".png", ".tif", ".jpg")
    )
    kept, gains, over = [names == sorted(PICTURES)], [], []
    for name, truth in truths.items():
        before, after = (it.datasets.open(place / name)[0].y for place in (source, target))
        faults = compare(source / name, target / name, 2 if command == "superresolve" else 1)
        kept.append(not faults)
        first = psnr(before, truth) if before.shape == truth.shape else psnr(enlarge(before), truth)
        other = ""
        if command == "superresolve":
            value = psnr(before.repeat_interleave(2, 2).repeat_interleave(2, 3), truth)
            over.append(psnr(after, truth) - value)
            other = f" (nearest {value:.2f})"
        if command == "inpaint":
            mask = torch.as_tensor(
                np.array(Image.open(folder / "masks" / f"{Path(name).stem}.png"))
            )
            known = (mask == 0).expand_as(before)
            other = f" (biharmonic {psnr(interpolate_smoothly(before, known), truth):.2f})"
        gains.append(psnr(after, truth) - first)
        print(
            f"{command} {name}: {first:.2f}{other} -> {psnr(after, truth):.2f} dB, {gains[-1]:+.2f} dB"
            + "".join(f"; LOST {fault}" for fault in faults)
        )
    if over:
        print(
            f"{command}: gain over the nearest enlargement {np.mean(over):.2f} dB in the mean, "
            f"{min(over):.2f} at worst {verdict(min(over) >= 1, '1 dB each')}"
        )
    print(
        f"{command}: gain {np.mean(gains):.2f} dB in the mean, {min(gains):.2f} at worst "
        f"{verdict(min(gains) >= 1, '1 dB each')}; {sum(g >= 1 for g in gains)} of {len(gains)} reach "
        f"1 dB; names, formats, depths, orientation, profiles, texts and alpha of {sum(kept) - 1} of "
        f"{len(gains)} pictures {verdict(all(kept) and code == 0, 'all')}; {seconds:.0f} s of processor "
        "time"
    )


def read_scene(name: str) -> Tensor:
    """Return a picture with a margin of 16 pixels, ``(1, channel, rows, columns)``."""
    path, factor, top, left = PICTURES[name]
    y = it.datasets.open(data_folder() / path)[0].y
    y = torch.nn.functional.avg_pool2d(y, factor)
    rows, columns = ROWS + 32, COLUMNS + 32
    top, left = min(top, y.shape[2] - rows), min(left, y.shape[3] - columns)
    return y[..., top : top + rows, left : left + columns]


def _noisy(scene: Tensor, number: int, mask: Path) -> Tensor:
    return _add_noise(scene[..., 16:-16, 16:-16], 0.06, number)


def _blurred(scene: Tensor, number: int, mask: Path) -> Tensor:
    blur = it.operators.Blur(disc_kernel(2.5, "kernel"), tuple(scene.shape[-2:]))
    return _add_noise(blur(scene)[..., 16:-16, 16:-16], 0.005, number)


def _small(scene: Tensor, number: int, mask: Path) -> Tensor:
    return it.operators.Downsampling((ROWS, COLUMNS), 2)(scene[..., 16:-16, 16:-16])


def _with_gaps(scene: Tensor, number: int, mask: Path) -> Tensor:
    truth, draws = scene[..., 16:-16, 16:-16], torch.Generator().manual_seed(number)
    known = torch.rand(ROWS, COLUMNS, generator=draws) > 0.25
    for _ in range(5):
        row = int(torch.randint(0, ROWS - 8, (), generator=draws))
        column = int(torch.randint(0, COLUMNS - 8, (), generator=draws))
        known[row : row + 8, column : column + 8] = False
    known[:, 90:93] = False
    Image.fromarray((~known).numpy().astype(np.uint8) * 255).save(mask)
    return truth * known


DAMAGE: dict[str, Callable[[Tensor, int, Path], Tensor]] = {
    "denoise": _noisy,
    "deblur": _blurred,
    "superresolve": _small,
    "inpaint": _with_gaps,
}


def _add_noise(x: Tensor, std: float, seed: int) -> Tensor:
    return x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def make_masks(folder: Path) -> Path:
    """Return the folder of the masks, under the names of their pictures."""
    masks = folder / "masks"
    masks.mkdir()
    for path in folder.glob("*.mask.png"):
        path.rename(masks / f"{Path(path.name.removesuffix('.mask.png')).stem}.png")
    return masks


def store(path: Path, y: Tensor) -> None:
    """Store a picture in the form of its name."""
    depth = 65535 if "16" in path.stem else 255
    codes = (y[0].clamp(0, 1) * depth).round().permute(1, 2, 0).numpy()
    array = codes.astype(np.uint16 if depth > 255 else np.uint8)
    if "rgba" in path.stem:
        ramp = np.linspace(0, depth, array.shape[1]).round().astype(array.dtype)
        array = np.dstack([array, np.broadcast_to(ramp[:, None], (*array.shape[:2], 1))])
    array = array[..., 0] if array.shape[-1] == 1 else array
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "a photographer")
    exif = Image.Exif()
    exif[271], exif[306] = "a maker", "2026:01:01 12:00:00"
    if path.suffix == ".tif":
        colors = {"photometric": "rgb"} if array.ndim == 3 else {"photometric": "minisblack"}
        if "rgba" in path.stem:
            colors["extrasamples"] = ["unassalpha"]
        if array.ndim == 3:
            colors["iccprofile"] = PROFILE
        artist = (315, 2, 0, "a photographer", True)
        tifffile.imwrite(
            path,
            array,
            resolution=(300, 300),
            resolutionunit=2,
            extratags=[artist],
            metadata=None,
            **colors,
        )
    elif path.suffix == ".jpg":
        if path.stem == "rotated":
            exif[274] = 6
            array = np.ascontiguousarray(np.rot90(array))
        profile = {"icc_profile": PROFILE} if array.ndim == 3 else {}
        Image.fromarray(array).save(
            path, quality=98, subsampling=0, exif=exif, dpi=(240, 240), **profile
        )
    elif array.dtype == np.uint16 and array.ndim == 3:
        import kornia_rs.io

        kornia_rs.io.write_image_png_u16(str(path), np.ascontiguousarray(array), "rgb")
    else:
        picture = Image.fromarray(array)
        if path.stem == "palette":
            picture = picture.quantize(256)
        profile = {"icc_profile": PROFILE} if array.ndim == 3 else {}
        picture.save(path, pnginfo=notes, dpi=(300, 300), **profile)


def compare(before: Path, after: Path, factor: int) -> list[str]:
    """Return what a picture has lost."""
    if not after.exists():
        return ["the picture"]
    first, second = (describe(path) for path in (before, after))
    if first["mode"] == "P":  # a palette has no room for new colors
        first["mode"] = "RGB"
    if first["resolution"] is not None:
        first["resolution"] = tuple(round(float(n) * factor) for n in first["resolution"])
    if second["resolution"] is not None:
        second["resolution"] = tuple(round(float(n)) for n in second["resolution"])
    first["size"] = tuple(n * factor for n in first["size"])
    alphas = first.pop("alpha"), second.pop("alpha")
    lost = [key for key in first if first[key] != second[key]]
    if (alphas[0] is None) != (alphas[1] is None):
        return [*lost, "alpha"]
    if alphas[0] is not None:
        small = alphas[1][::factor, ::factor].astype(float)
        tolerance = 0 if factor == 1 else 0.02 * np.iinfo(alphas[0].dtype).max
        if np.abs(small - alphas[0]).max() > tolerance:
            lost.append("alpha")
    return lost


def describe(path: Path) -> dict[str, Any]:
    """Return the form of a picture, as Pillow and tifffile read it."""
    with Image.open(path) as picture:
        form: dict[str, Any] = {
            "format": picture.format,
            "mode": picture.mode,
            "size": picture.size,
            "orientation": picture.getexif().get(274, 1),
            "maker": picture.getexif().get(271),
            "date": picture.getexif().get(306),
            "profile": picture.info.get("icc_profile"),
            "author": picture.info.get("Author") or picture.getexif().get(315),
            "resolution": picture.info.get("dpi"),
        }
    colors, alpha = Original(path).read()
    return form | {"depth": str(colors.dtype), "alpha": alpha}


def enlarge(y: Tensor) -> Tensor:
    """Return the bicubic enlargement of a small picture."""
    size = (ROWS, COLUMNS)
    return torch.nn.functional.interpolate(y, size, mode="bicubic", align_corners=False)


def psnr(x: Tensor, truth: Tensor) -> float:
    """Return the PSNR of a picture, dB."""
    return float(it.metrics.psnr(x.clamp(0, 1), truth, data_range=1.0))


if __name__ == "__main__":
    run_script(main)
