"""Settings that scanners write as lines ``name = value``, and their check against the pictures."""

from __future__ import annotations

import math
import re
from pathlib import Path

from invtoolbox.datasets.volumes.tiff import tiff_files
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError

#: Largest number of bytes of a file of settings; a larger file is something else.
_LONGEST = 2**22


class Ini(dict[str, str]):
    """Settings by name in lower case, without sections."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def number(self, name: str, default: float | None = None) -> float:
        """Return a setting as a finite number; a decimal comma counts as a point.

        Args:
            name: name of the setting.
            default: value if it is not in the file; without one, that is an error.
        """
        if not self.get(name):
            if default is not None:
                return default
            raise InputError(f"{self.path}: the file lacks {name}; export it again")
        try:
            number = float(self[name].replace(",", ".").split()[0])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{self.path}: {name} is {self[name][:40]!r}, which is no number; correct it"
            )
        return number

    def count(self, name: str) -> int:
        """Return a setting as a whole number from 1 to a million."""
        number = self.number(name)
        if number != int(number) or not 1 <= number <= 1e6:
            raise InputError(
                f"{self.path}: {name} is {number:g}; it must be a positive whole number"
            )
        return int(number)


def read_ini(path: Path) -> Ini:
    """Read the lines ``name = value`` of a file; sections and comments are passed over."""
    if path.stat().st_size > _LONGEST:
        raise InputError(f"{path}: too long for a file of settings; give the file of the scanner")
    ini = Ini(path)
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip()[:1] not in ("", ";", "#", "["):
            ini.setdefault(name.strip().lower(), value.strip())
    return ini


def check_panel(path: Path, pictures: Volume, ini: Ini, names: tuple[str, str]) -> None:
    """Refuse pictures of another size than the file declares.

    Args:
        path: the file of settings.
        pictures: the pictures.
        ini: its settings.
        names: names of the numbers of rows and of columns.
    """
    declared = (ini.count(names[0]), ini.count(names[1]))
    if pictures.shape[1:] != declared:
        raise InputError(
            f"{path}: it declares pictures of {declared[0]} rows and {declared[1]} columns, but those "
            f"in {pictures.path} have {pictures.shape[1]} and {pictures.shape[2]}; fetch the right ones"
        )


def numbered(folder: Path, name: str) -> list[Path]:
    """Return the TIFF files whose names are `name` and a number; all of them if there are none.

    Args:
        folder: folder of the pictures.
        name: beginning of their names.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures; copy it to this place")
    pattern = re.compile(re.escape(name) + r"[_-]?\d+\.tiff?", re.IGNORECASE)
    files = tiff_files(folder)
    return [f for f in files if pattern.fullmatch(f.name)] or files
