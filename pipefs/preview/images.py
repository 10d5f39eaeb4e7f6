"""Format and size of an image from its first bytes. Pure; needs no image library."""

from __future__ import annotations

import re
import struct


def image_size(head: bytes) -> tuple[str, int, int] | None:
    """(format, width, height) in pixels; None: no image that is known here, or it is damaged."""
    for look in (_png, _gif, _bmp, _webp, _jpeg, _tiff, _svg):
        try:
            found = look(head)
        except (struct.error, IndexError):
            continue
        if found is not None:
            return found
    return None


Found = tuple[str, int, int] | None


def _png(head: bytes) -> Found:
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        return None
    return ("PNG", *struct.unpack(">II", head[16:24]))


def _gif(head: bytes) -> Found:
    if head[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    return ("GIF", *struct.unpack("<HH", head[6:10]))


def _bmp(head: bytes) -> Found:
    if head[:2] != b"BM" or struct.unpack("<I", head[14:18])[0] not in (40, 52, 56, 108, 124):
        return None
    width, height = struct.unpack("<ii", head[18:26])
    return "BMP", abs(width), abs(height)


def _webp(head: bytes) -> Found:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[n : n + 3], "little") + 1 for n in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (n & 0x3FFF for n in struct.unpack("<HH", head[26:30]))
    return "WebP", width, height


def _jpeg(head: bytes) -> Found:
    """The frame's header is behind segments of any length; those with the size are C0 to CF."""
    if head[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        kind = head[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return "JPEG", width, height
        if kind == 0xFF:
            at += 1
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:
            at += 2
        else:
            at += 2 + struct.unpack(">H", head[at + 2 : at + 4])[0]
    return None


def _tiff(head: bytes) -> Found:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None:
        return None
    (at,) = struct.unpack(f"{order}I", head[4:8])
    (count,) = struct.unpack(f"{order}H", head[at : at + 2])
    sizes = {}
    for n in range(min(count, 200)):
        start = at + 2 + 12 * n
        tag, kind = struct.unpack(f"{order}HH", head[start : start + 4])
        form = {3: "H", 4: "I"}.get(kind)
        if tag in (256, 257) and form:
            width = struct.calcsize(form)
            (sizes[tag],) = struct.unpack(order + form, head[start + 8 : start + 8 + width])
    return ("TIFF", sizes[256], sizes[257]) if len(sizes) == 2 else None


# What may stand before the root element, so that a page with a drawing in it is none.
_SVG = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:\s|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>]*>)*<svg\b([^>]*)>", re.DOTALL
)


def _svg(head: bytes) -> Found:
    found = _SVG.match(head[:4096])
    if found is None:
        return None
    box = re.search(rb'viewBox\s*=\s*["\']([^"\']*)', found[1])
    said = [
        re.search(rb"\b" + name + rb'\s*=\s*["\']([\d.]+)', found[1])
        for name in (b"width", b"height")
    ]
    if said[0] and said[1]:
        return "SVG", round(float(said[0][1])), round(float(said[1][1]))
    numbers = box[1].replace(b",", b" ").split() if box else []
    if len(numbers) != 4:
        return "SVG", 0, 0
    return "SVG", round(float(numbers[2])), round(float(numbers[3]))
