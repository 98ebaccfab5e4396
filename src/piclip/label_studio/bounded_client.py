"""An HTTP client that takes no more bytes than it was told, however few of them travel."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import httpx

_PIECE = 2**16  # most bytes that are decoded at once


def bounded_client(most_bytes: int, *, follow_redirects: bool) -> httpx.Client:
    """A client whose answers are decoded in small pieces, up to a limit.

    A few bytes can stand for gigabytes, which httpx itself makes at once. More than ``most_bytes``
    of an answer are an ``httpx.DecodingError``, as is any encoding but gzip once.
    """

    def bound(response: httpx.Response) -> None:
        coding = response.headers.pop("Content-Encoding", "identity").strip().lower()
        if coding not in {"identity", "gzip", "x-gzip"}:
            raise httpx.DecodingError(
                f"the server sends it encoded as {coding[:50]!r}; serve it as it is, or in gzip "
                f"once"
            )
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Bounded(response.stream, most_bytes, gzip=coding != "identity")

    return httpx.Client(
        headers={"Accept-Encoding": "gzip"},
        timeout=httpx.Timeout(30, connect=5),
        follow_redirects=follow_redirects,
        event_hooks={"response": [bound]},
    )


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, most_bytes: int, *, gzip: bool) -> None:
        self._stream, self._most_bytes, self._gzip = stream, most_bytes, gzip

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in _gunzipped(self._stream) if self._gzip else self._stream:
            size += len(piece)
            if size > self._most_bytes:
                raise httpx.DecodingError(f"it is larger than {self._most_bytes // 1_000_000} MB")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _gunzipped(stream: Iterable[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        for raw in stream:
            piece = decoder.decompress(raw, _PIECE)
            yield piece
            while len(piece) == _PIECE:
                piece = decoder.decompress(decoder.unconsumed_tail, _PIECE)
                yield piece
    except zlib.error as error:
        raise httpx.DecodingError("its gzip is damaged") from error
    if not decoder.eof:
        raise httpx.DecodingError("its gzip is cut off")
