"""UDP datagrams of a network recording: pcap and pcapng, with fragments of IP put together.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; RFC 791 (IPv4) and RFC 768 (UDP).
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.errors import InputError

#: First bytes of a pcap file (microseconds, nanoseconds), and types of the blocks of a pcapng file.
_PCAP = (0xA1B2C3D4, 0xA1B23C4D)
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
#: Link layers by number: the place of the type of the content (None: always IP), and of the content.
_LINKS: dict[int, tuple[int | None, int]] = {
    1: (12, 14),
    113: (14, 16),
    276: (0, 20),
    101: (None, 0),
    0: (None, 4),
}
_IP, _VLANS, _UDP = 0x0800, (0x8100, 0x88A8), 17


class Datagram(NamedTuple):
    """Place of the content of a datagram in its file.

    Attributes:
        stream: address of the sender, and port of the receiver.
        size: number of bytes.
        pieces: position and number of bytes of every fragment, in order.
    """

    stream: tuple[bytes, int]
    size: int
    pieces: tuple[tuple[int, int], ...]


def list_datagrams(path: Path) -> list[Datagram]:
    """List the datagrams of a recording in the order of the file; the contents are not read.

    Raises:
        InputError: the file is no pcap or pcapng, holds no datagram, or ends within a packet.
    """
    with reading(path, "pcap") as file:
        status = file.stat()
        return _list_datagrams(file, status.st_size, status.st_mtime_ns)


# Every pair of sweeps opens the recording, which is then not listed again.
@functools.lru_cache(maxsize=4)
def _list_datagrams(path: Path, size: int, changed: int) -> list[Datagram]:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        datagrams = list(_join_fragments(path, file))
    if not datagrams:
        raise InputError(f"{path}: the recording holds no UDP packet over IPv4; record it again")
    return datagrams


def read_datagrams(path: Path, datagrams: Sequence[Datagram]) -> np.ndarray:
    """Read the contents of datagrams of one size: uint8 ``(n, size)``."""
    content = np.empty((len(datagrams), datagrams[0].size), np.uint8)
    file = np.memmap(path, np.uint8, "r")
    for row, datagram in zip(content, datagrams):
        start = 0
        for place, length in datagram.pieces:
            row[start : start + length] = file[place : place + length]
            start += length
    return content


def _packets(path: Path, file: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Yield the link layer, the start and the end of every packet."""
    order = "<"
    (magic,) = struct.unpack_from("<I", file)
    if magic in _PCAP or struct.unpack_from(">I", file)[0] in _PCAP:
        order = "<" if magic in _PCAP else ">"
        # The upper bits of the link layer hold the length of a check sum.
        link, place = struct.unpack_from(f"{order}I", file, 20)[0] & 0xFFFF, 24
        while place < len(file):
            (length,) = struct.unpack_from(f"{order}I", file, _inside(path, file, place, 16) + 8)
            yield link, place + 16, _inside(path, file, place + 16, length) + length
            place += 16 + length
        return
    if magic != _SECTION:
        raise InputError(f"{path}: not a pcap or pcapng file; record it with tcpdump or Wireshark")
    links: list[int] = []
    place = 0
    while place < len(file):
        kind, length = struct.unpack_from(f"{order}II", file, _inside(path, file, place, 12))
        if kind == _SECTION:
            order = "<" if file[place + 8 : place + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            (length,), links = struct.unpack_from(f"{order}I", file, place + 4), []
        if length < 12:
            raise InputError(f"{path}: damaged at byte {place:,}, a block has {length} bytes")
        _inside(path, file, place, length)
        if kind == _INTERFACE:
            links.append(*struct.unpack_from(f"{order}H", file, place + 8))
        elif kind == _PACKET:
            interface, _, _, captured = struct.unpack_from(f"{order}4I", file, place + 8)
            yield links[interface], place + 28, min(place + 28 + captured, place + length)
        place += length


def _inside(path: Path, file: mmap.mmap, place: int, length: int) -> int:
    """Return a place after which a number of bytes follows, or raise an `InputError`."""
    if place + length > len(file):
        raise InputError(
            f"{path}: the recording ends within a packet, or is damaged, at byte {place:,} of "
            f"{len(file):,}; write its whole packets by `editcap {path.name} whole.pcap`"
        )
    return place


def _join_fragments(path: Path, file: mmap.mmap) -> Iterator[Datagram]:
    """Yield the datagrams; a datagram of which a fragment was lost is left out."""
    waiting: dict[bytes, dict[int, tuple[int, int, bool]]] = {}
    for link, start, end in _packets(path, file):
        if link not in _LINKS:
            raise InputError(
                f"{path}: the packets are of the link layer {link}, and Ethernet, Linux cooked "
                "captures and plain IP are read; record the lidar's Ethernet interface"
            )
        place, ip = _LINKS[link]
        if place is not None and end - start > ip:
            (content,) = struct.unpack_from(">H", file, start + place)
            while content in _VLANS and end - start > ip + 4:
                (content,), ip = struct.unpack_from(">H", file, start + ip + 2), ip + 4
            if content != _IP:
                continue
        ip += start
        if end - ip < 20 or file[ip] >> 4 != 4 or file[ip + 9] != _UDP:
            continue
        header = 4 * (file[ip] & 15)
        length, name, flags = struct.unpack_from(">HHH", file, ip + 2)
        if ip + length > end or length < header:
            raise InputError(
                f"{path}: a packet at byte {start:,} was recorded in part ({end - ip} of {length} "
                "bytes); record whole packets (tcpdump -s 0)"
            )
        # RFC 791: the lower 13 bits are the offset in units of 8 bytes, 0x2000 means more fragments.
        offset, is_last = 8 * (flags & 0x1FFF), not flags & 0x2000
        # Sender, receiver and number name the datagram of a fragment.
        key = file[ip + 12 : ip + 20] + name.to_bytes(2, "big")
        if offset == 0:
            waiting.pop(key, None)
        fragments = waiting.setdefault(key, {})
        fragments[offset] = (ip + header, length - header, is_last)
        pieces = [fragments[at] for at in sorted(fragments)]
        total = sum(size for _, size, _ in pieces)
        if not pieces[-1][2] or total != max(fragments) + pieces[-1][1] or 0 not in fragments:
            continue
        del waiting[key]
        if pieces[0][1] < 8:
            continue
        (port,) = struct.unpack_from(">H", file, pieces[0][0] + 2)
        places = [(at, size) for at, size, _ in pieces]
        places[0] = (places[0][0] + 8, places[0][1] - 8)
        yield Datagram((key[:4], port), total - 8, tuple(places))
