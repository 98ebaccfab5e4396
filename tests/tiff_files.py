"""TIFF files of any number, kind and order of bands, which Pillow cannot write."""

import struct
import zlib

import numpy as np


def write_tiff(
    path, values, *, order="<", tile=None, rows=5, planes=False, deflate=False, predictor=1, **tags
):
    """Write samples (H, W, bands) in strips of ``rows`` or tiles (height, width)."""
    height, width, bands = values.shape
    down, across = tile or (rows, width)
    padded = np.pad(values, ((0, down if tile else 0), (0, across if tile else 0), (0, 0)))
    pieces = []
    for chosen in [[band] for band in range(bands)] if planes else [range(bands)]:
        for top in range(0, height, down):
            for left in range(0, width, across):
                end = top + down if tile else min(top + down, height)
                piece = padded[top:end, left : left + across, chosen]
                data = differences(piece, predictor, order).tobytes()
                pieces.append(zlib.compress(data) if deflate else data)
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    extra = bands - {2: 3, 5: 4}.get(tags.get("photometric", 1), 1)
    entries = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * bands,
        259: [8 if deflate else 1],
        262: [tags.get("photometric", 1)],
        274: [tags.get("orientation", 1)],
        277: [bands],
        284: [2 if planes else 1],
        317: [predictor],
        338: [tags.get("alpha", 0)] * extra,
        339: [kind] * bands,
        **({322: [across], 323: [down]} if tile else {278: [rows]}),
        42113: list(tags.get("no_data", "").encode()),
    }
    entries = {tag: found for tag, found in entries.items() if found}
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    places = np.cumsum([0, *map(len, pieces)])[:-1] + at
    entries[324 if tile else 273] = places.tolist()
    entries[325 if tile else 279] = [len(piece) for piece in pieces]
    body = b"".join(pieces)
    table = b""
    for tag, found in sorted(entries.items()):
        code = {273: 4, 279: 4, 324: 4, 325: 4, 42113: 2}.get(tag, 3)
        data = struct.pack(f"{order}{len(found)}{' BHI'[code - 1]}", *found)
        if len(data) > 4:
            body += bytes(len(body) % 2)
            data, body = struct.pack(f"{order}I", at + len(body)), body + data
        table += struct.pack(f"{order}HHI", tag, code, len(found))
        table += data.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(f"{order}IH", 8, len(entries))
    path.write_bytes(head + table + bytes(4) + body)


def differences(piece, predictor, order):
    """The samples as TIFF's predictors write them."""
    stored = piece.astype(piece.dtype.newbyteorder(order))
    if predictor == 1:
        return stored
    if predictor == 2:
        whole = piece.view(f"u{piece.itemsize}")
        steps = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
        return steps.astype(steps.dtype.newbyteorder(order))
    height, _, bands = piece.shape
    high_first = np.ascontiguousarray(piece.astype(piece.dtype.newbyteorder(">")))
    planes = high_first.view(np.uint8).reshape(height, -1, piece.itemsize).swapaxes(1, 2)
    rows = planes.reshape(height, -1, bands)
    return np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
