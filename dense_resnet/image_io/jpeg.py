"""Detect JPEGs with too many scans, each of which makes a decoder process all pixels: 300 kB with 400 scans took 50 s.

Markers are searched where libjpeg finds them: not within segments, so previews in EXIF are ignored, and not after the end.
(https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B)
"""

from __future__ import annotations

import re

MAX_SCANS = 100  # encoders write 10, and optimizers some dozens
START, END, SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # in pixels, 255 is followed by 0 or a restart's number


def has_too_many_scans(data: bytes) -> bool:
    if data.count(SCAN) <= MAX_SCANS:  # nearly always true, even with the scans of thumbnails
        return False
    found = at = 0
    while found <= MAX_SCANS and (marker := MARKER.search(data, at)) and marker[0] != END:
        found += marker[0] == SCAN
        at = marker.end()
        if marker[0] != START:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return found > MAX_SCANS
