"""Data sets by name: a TOML file of the catalogue names files, reader and checksums.

Such a file reads::

    # One line that describes the data set.
    reader = "htc2022"
    folder = "htc2022"                       # in INVTOOLBOX_DATA; with `package`, in that package
    default = "htc2022_ta_full.mat"          # file that is opened by default; "." is the folder
    licence = "CC BY 4.0"
    source = "where to get it"

    [sha256]                                 # every file, relative to the folder
    "htc2022_ta_full.mat" = "..."

    [readers]                                # optional: files with another reader
    "labels.png" = "pictures"

    [options]                                # optional, of a reader of lidar sweeps;
    poses = "poses.txt"                      # `poses`, `calibration` and `times` name files above

A simulated data set has a table ``[simulated]`` in place of folder, default and checksums; its
reader reads the TOML file itself.

`ct_small` and `photograph` read small real data that come with installed packages and need no
download.
"""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from invtoolbox.catalogue import shelves
from invtoolbox.core.checks import missing_path, require_keys
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.measurement import DataSet, Measurement
from invtoolbox.datasets.opening import open as open_path
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.scans.scan_geometry import ScanGeometry
from invtoolbox.datasets.sweeps.opening import SWEEP_PATHS, SWEEP_READERS, open_sweeps
from invtoolbox.datasets.volumes.dicom import Dicom
from invtoolbox.datasets.volumes.pictures import Pictures
from invtoolbox.errors import InputError, require_name, unknown_name


def data_folder() -> Path:
    """Return the folder of real measurements.

    It is ``INVTOOLBOX_DATA``, or else ``invtoolbox`` in the user's data directory
    (``XDG_DATA_HOME``, by default ``~/.local/share``).
    """
    user = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share")
    return Path(os.environ.get("INVTOOLBOX_DATA") or Path(user, "invtoolbox")).expanduser()


def find_file(name: str, file: str | None = None) -> Path:
    """Return the path of a file of a data set of the catalogue.

    Args:
        name: name of the data set.
        file: name of the file; by default the file that the data set opens by default. The path of
            an existing file that is not in the catalogue is returned, for a scan of your own that
            the reader of the data set reads.

    Raises:
        InputError: an unknown data set or file, or a file that does not exist.
    """
    description, settings = _described(name)
    if "simulated" in settings:
        if file is not None:
            raise InputError(
                f"the data set {name} is simulated and has no files; {file} is asked for"
            )
        return description
    chosen = file or settings["default"]
    folders = {
        ".",
        *(str(parent) for listed in settings["sha256"] for parent in Path(listed).parents),
    }
    if chosen not in folders and chosen not in settings["sha256"]:
        elsewhere = Path(chosen).expanduser()
        if elsewhere.is_file():
            return elsewhere
        if len(elsewhere.parts) > 1:
            raise InputError(f"{elsewhere}: there is no such file, and none of the data set {name}")
        raise unknown_name(f"file of the data set {name}", chosen, settings["sha256"])
    path = _folder(description, settings) / chosen
    if not path.exists():
        raise InputError(
            f"{path}: this file of the data set {name} is missing; fetch its "
            f"{len(settings['sha256'])} files from {settings['source']} into {describe_place(name)}; "
            f"`invtoolbox data {name}` lists them, and its --from FOLDER takes them from a folder"
        )
    return path


def describe_place(name: str) -> str:
    """Return the folder of a data set in words, with the variable that moves it.

    Args:
        name: name of a data set with files.
    """
    description, settings = _described(name)
    place = str(_folder(description, settings))
    if "package" in settings:
        return f"{place}, the installed package {settings['package']}"
    return f"{place} (the folder {settings['folder']}/ in the folder that INVTOOLBOX_DATA names)"


def missing_files(name: str) -> list[str]:
    """Return the files of a data set that are not in its folder.

    Args:
        name: name of the data set; a simulated one has no files.

    >>> missing_files("ct-small")
    []
    """
    description, settings = _described(name)
    files = settings.get("sha256", {})
    return [file for file in files if not (_folder(description, settings) / file).is_file()]


def take_files(name: str, source: str | os.PathLike[str]) -> list[Path]:
    """Copy missing files of a data set to their places, and return the copies.

    Args:
        name: name of the data set.
        source: folder in which the files lie anywhere, under their names. Files whose checksum
            differs are not copied.

    Raises:
        InputError: there is no such folder, or the disk is full.
    """
    if not Path(source).expanduser().is_dir():
        raise InputError(missing_path(source))
    description, settings = _described(name)
    by_name: dict[str, list[Path]] = {}
    for path in sorted(Path(source).expanduser().rglob("*")):
        by_name.setdefault(path.name, []).append(path)
    copies = []
    for file in missing_files(name):
        place = _folder(description, settings) / file
        for path in by_name.get(place.name, []):
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() == settings["sha256"][file]:
                place.parent.mkdir(parents=True, exist_ok=True)
                copies.append(write_bytes(place, content))
                break
    return copies


def open_named(name: str, file: str | None = None, geometry: ScanGeometry | None = None) -> DataSet:
    """Open a data set of the catalogue, as `open` opens a path.

    Lidar sweeps are opened with the options of the catalogue.

    Args:
        name: name of the data set.
        file: name of the file; by default the file that the data set opens by default.
        geometry: geometry of a scan, in place of the geometry in the data.

    >>> open_named("ct-small")[0].y.shape
    torch.Size([1, 1, 128, 128])
    """
    path = find_file(name, file)
    settings = shelves.find("datasets", name).read()
    reader = settings.get("readers", {}).get(file, settings["reader"])
    if reader in SWEEP_READERS:
        return open_sweeps(path, reader, **sweep_options(name))  # type: ignore[return-value]
    return open_path(path, geometry, reader=reader)


def sweep_options(name: str) -> dict[str, Any]:
    """Return the options in the catalogue for the reader of a data set of lidar sweeps.

    Names of its files are replaced by paths.
    """
    description, settings = _described(name)
    options: dict[str, Any] = dict(settings.get("options", {}))
    for key in (key for key in SWEEP_PATHS if key in options):
        if options[key] not in settings.get("sha256", ()):
            where = f"file of the option {key} in {description}"
            raise unknown_name(where, str(options[key]), settings.get("sha256", ()))
        options[key] = find_file(name, options[key])
    return options


def verify(name: str) -> None:
    """Compare every existing file of a data set with its checksum.

    Raises:
        InputError: a file differs; the error names the first such file.
    """
    description, settings = _described(name)
    if "simulated" in settings:
        return
    folder = _folder(description, settings)
    for file, digest in settings["sha256"].items():
        path = folder / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{path}: differs from the file that {description.name} describes; fetch it again"
            )


def _described(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the file that describes a data set, and its settings, which are complete."""
    entry = shelves.find("datasets", name)
    settings = entry.read()
    keys = ("reader", "licence", "source") + (
        () if "simulated" in settings else ("folder", "default", "sha256")
    )
    require_keys(f"{entry.path}: a data set of the catalogue needs", keys, settings, "see shelf.py")
    if "simulated" not in settings:
        folder = _folder(entry.path, settings)
        for file in (settings["default"], *settings["sha256"]):
            named_file(folder, file, entry.path)
    return entry.path, settings


def _folder(path: Path, settings: dict[str, Any]) -> Path:
    if "package" not in settings:
        return named_file(data_folder(), str(settings["folder"]), path)
    name = settings["package"]
    if name not in PACKAGES:
        raise InputError(
            f"{path}: the package {name!r} is none of those that hold data ({', '.join(PACKAGES)}); "
            "leave package out, and put the files into the folder that INVTOOLBOX_DATA names"
        )
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise InputError(f"{path}: the package {name} is not installed; install it with pip")
    return named_file(Path(spec.origin).parent, str(settings["folder"]), path)


#: Packages whose files a data set may name. `find_spec` imports what holds a module, so that no
#: other name may come from a file.
PACKAGES = ("pydicom", "skimage")

#: Photographs inside the wheels of scikit-image and matplotlib, whose other pictures would be
#: downloaded.
PHOTOGRAPHS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "camera": "skimage/data/camera.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "moon": "skimage/data/moon.png",
    "page": "skimage/data/page.png",
    "rocket": "skimage/data/rocket.jpg",
}


def ct_small(units: str = "HU") -> Measurement:
    """Return a real CT slice of 128x128 pixels of 0.66 mm from pydicom (`CT_small.dcm`).

    Args:
        units: units of the values, "HU" or "1/mm", as in `Dicom`.

    >>> slice_ = ct_small()
    >>> slice_.y.shape, slice_.meta["units"]
    (torch.Size([1, 1, 128, 128]), 'HU')
    """
    from pydicom.data import get_testdata_file

    path = get_testdata_file("CT_small.dcm", download=False)
    if not isinstance(path, str):
        raise InputError(
            "CT_small.dcm is missing from the installed pydicom; install pydicom 3 from PyPI"
        )
    return Dicom(path, units=units)[0]


def photograph(name: str = "camera") -> Tensor:
    """Return a real photograph that comes with scikit-image or matplotlib.

    Its shape is ``(1, channel, rows, columns)``, its values are between 0 and 1.

    Args:
        name: a name out of `PHOTOGRAPHS`.

    >>> photograph("camera").shape, photograph("cat").shape
    (torch.Size([1, 1, 512, 512]), torch.Size([1, 3, 300, 451]))
    """
    file = PHOTOGRAPHS[require_name("photograph", name, PHOTOGRAPHS)]
    package = file.partition("/")[0]
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, package
    path = Path(spec.origin).parents[1] / file
    if not path.is_file():
        distribution = {"skimage": "scikit-image"}.get(package, package)
        raise InputError(
            f"{path.name} is missing from the installed {distribution}; install it from PyPI"
        )
    return Pictures(path)[0].y
