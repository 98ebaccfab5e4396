"""The work of ``piclip segment``: many files, some of them bad, stopped and taken up again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from piclip import FewShotSegmenter, Segmentation, __version__
from piclip.cli.console import people, print_some, progress_bar
from piclip.cli.fitting import Examples, check_examples, fitted_segmenter
from piclip.cli.run_record import FILE_NAME, OVERLAYS, RunRecord, source_of
from piclip.clip.checkpoints import BUILTIN_FOLDER
from piclip.decoders.saved import Checkpoint, holds_decoder
from piclip.errors import ImageError, OutputError, PiclipError, UsageError
from piclip.io.documents import check_regular
from piclip.io.images import list_images
from piclip.io.outputs import ensure_folder


@dataclass(frozen=True)
class SegmentRequest:
    """What the command line asks for; see ``piclip segment --help``."""

    examples: Examples
    queries: Sequence[Path]
    output: Path
    model: str
    clip: str | None
    overlay: bool
    threshold: float | None
    batch_size: int
    device: str
    dtype: str
    max_pixels: int
    overwrite: bool

    @property
    def labelled(self) -> list[tuple[Path, Path]]:
        """All (image, mask) pairs."""
        return [pair for pairs in self.examples.values() for pair in pairs]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        record: What ``results.json`` holds.
        done: Entries of the queries that have their mask, earlier runs included.
        failed: Entries of the queries that have none.
        earlier: How many were there from earlier runs.
    """

    record: RunRecord
    done: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    earlier: int


def segment_queries(request: SegmentRequest) -> Outcome:
    """Segment every query file that has no mask yet, and write masks and ``results.json``.

    Raises:
        PiclipError: Something is wrong with the request, the examples, the model or the output
            folder, or Ctrl-C was pressed; what was finished stays.
    """
    queries = _query_files(request)
    check_examples(request.examples, request.max_pixels)
    record = RunRecord.open(request.output, _settings(request), overwrite=request.overwrite)
    names = record.name_outputs(queries, overwrite=request.overwrite)
    waiting = [query for query in queries if not record.is_done(query, overlay=request.overlay)]
    if waiting:
        ensure_folder(request.output)
        segmenter = fitted_segmenter(
            request.examples,
            model=request.model,
            clip=request.clip,
            device=request.device,
            dtype=request.dtype,
            max_pixels=request.max_pixels,
        )
        record.write()
        try:
            _work_off(request, segmenter, record, {query: names[query] for query in waiting})
        except KeyboardInterrupt as error:
            done = len(record.entries(queries, "done"))
            raise PiclipError(
                f"Stopped with {done} of {len(queries)} images done; run the same command again "
                f"to go on."
            ) from error
    return Outcome(
        record,
        done=record.entries(queries, "done"),
        failed=record.entries(queries, "failed"),
        earlier=len(queries) - len(waiting),
    )


def report(outcome: Outcome, output: Path) -> None:
    """Tell people how a run ended."""
    total = len(outcome.done) + len(outcome.failed)
    earlier = f" ({outcome.earlier} from an earlier run)" if outcome.earlier else ""
    if outcome.failed:
        people().print(f"{len(outcome.failed)} of {total} images failed:")
        print_some([_with_name(entry) for entry in outcome.failed], f"see {FILE_NAME}")
    people().print(f"{len(outcome.done)} of {total} images segmented{earlier}; see {output}")


def _with_name(entry: dict[str, Any]) -> str:
    name, reason = Path(entry["file"]).name, str(entry["reason"])
    return reason if name in reason else f"{name}: {reason}"


def _query_files(request: SegmentRequest) -> list[Path]:
    """The files to segment, each once; none may lie where the outputs go."""
    files = {file.resolve(): file for query in request.queries for file in list_images(query)}
    outputs = {request.output.resolve(), (request.output / OVERLAYS).resolve()}
    inputs = [*files.values(), *(path for pair in request.labelled for path in pair)]
    for path in inputs:
        if path.resolve().parent in outputs:
            raise UsageError(
                f"The results would go to {request.output}, where {path.name}, one of the files to "
                f"read, lies and might be overwritten; choose another --output."
            )
    return list(files.values())


def _settings(request: SegmentRequest) -> dict[str, Any]:
    """What decides about the masks, without what only decides about speed."""
    return {
        "piclip": __version__,
        "model": request.model,
        "clip": request.clip,
        **_weights(request),
        "classes": {
            name: [{"image": _digest(image), "mask": _digest(mask)} for image, mask in pairs]
            for name, pairs in request.examples.items()
        },
        "threshold": request.threshold,
        "dtype": request.dtype,
    }


def _weights(request: SegmentRequest) -> dict[str, str | None]:
    """The content of the weights of the model and, if that is a decoder, of its CLIP."""
    model, clip = request.model, request.clip
    if model == "builtin" or not holds_decoder(model):
        return {"weights": _weights_digest(model)}
    checkpoint = Checkpoint.find(model)
    clip = clip or checkpoint.value("clip", "model")
    return {
        "weights": _weights_digest(checkpoint.folder),
        "clip weights": None if clip is None else _weights_digest(clip),
    }


def _weights_digest(model: str | Path) -> str | None:
    """The content of local weights, which may change under the same name; None for the hub."""
    path = BUILTIN_FOLDER if model == "builtin" else Path(model).expanduser()
    weights = path / "model.safetensors" if path.is_dir() else path
    return _digest(weights) if weights.is_file() else None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        check_regular(path)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the file.") from error
    return f"sha256:{digest.hexdigest()}"


def _work_off(
    request: SegmentRequest, segmenter: FewShotSegmenter, record: RunRecord, names: dict[Path, str]
) -> None:
    with progress_bar() as progress:
        task = progress.add_task("Segmenting", total=len(names))
        results = segmenter.stream(
            names,
            on_error=lambda query, error: record.add_failed(Path(str(query)), str(error)),
            batch_size=request.batch_size,
            threshold=request.threshold,
            max_pixels=request.max_pixels,
        )
        try:
            for number, result in enumerate(results, start=1):
                query = Path(str(result.source))
                try:
                    _save(request, record, query, replace(result, name=names[query]))
                except ImageError as error:  # it vanished in the meantime
                    record.add_failed(query, str(error))
                if number % request.batch_size == 0:
                    record.write()
                    progress.update(task, completed=_tried(record, names))
        finally:
            record.write()
        progress.update(task, completed=_tried(record, names))


def _tried(record: RunRecord, names: dict[Path, str]) -> int:
    queries = list(names)
    return len(record.entries(queries, "done")) + len(record.entries(queries, "failed"))


def _save(request: SegmentRequest, record: RunRecord, query: Path, result: Segmentation) -> None:
    source = source_of(query)
    try:
        files = result.save(request.output, overlay=request.overlay, overwrite=True)
    except OutputError as error:
        done = len(record.entries([Path(file) for file in record.images], "done"))
        raise OutputError(f"{error} {done} finished images are kept.") from error
    height, width = result.size
    inside = result.mask
    record.add_done(
        query,
        {
            **{kind: str(path.relative_to(request.output)) for kind, path in files.items()},
            "width": width,
            "height": height,
            "share": round(float(inside.mean()), 6),
            "shares": {
                name: round(float(result.mask_of(name).mean()), 6) for name in result.class_names
            },
            "mean_score": round(float(np.mean(result.score)), 6),
            "mean_score_inside": (
                round(float(result.score[inside].mean()), 6) if inside.any() else None
            ),
        },
        source,
    )
