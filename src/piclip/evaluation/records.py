"""The record of an evaluation: its figures, and everything needed to run it again."""

from __future__ import annotations

import inspect
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from piclip.datasets.protocols import OURS, protocol_named
from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU, confidence_interval
from piclip.io.documents import read_json, unfit
from piclip.io.outputs import write_json

FORMAT, KIND = 1, "evaluation"
_LIBRARIES = ("piclip", "torch", "transformers", "numpy", "pillow", "scipy")


@dataclass(frozen=True)
class SeedResult:
    """What one seed gave."""

    seed: int
    episodes_hash: str  # SHA-256 of its episodes; equal hashes mean equal tasks
    # Class name to summed pixels: intersections of background and foreground, then unions.
    counts: Mapping[str, tuple[int, ...]]
    # Whether a class without episodes counts as 0 in the mIoU, as the protocol says; else it is
    # left out.
    unseen_is_zero: bool = False

    @classmethod
    def of(
        cls, seed: int, episodes_hash: str, meter: FewShotIoU, unseen_is_zero: bool = False
    ) -> SeedResult:
        """Takes the counts out of a meter."""
        pixels = np.concatenate([meter.intersection, meter.union], axis=1)[:, :, 0].tolist()
        counts = dict(zip(meter.classes, map(tuple, pixels), strict=True))
        return cls(seed, episodes_hash, counts, unseen_is_zero)

    def meter(self) -> FewShotIoU:
        """The counts as they were."""
        meter = FewShotIoU(tuple(self.counts))
        pixels = np.array(list(self.counts.values()), dtype=np.int64).reshape(-1, 2, 2, 1)
        meter.intersection, meter.union = pixels[:, 0], pixels[:, 1]
        return meter

    @property
    def miou(self) -> float:
        """Class-accumulated mIoU in percent."""
        return 100 * self.meter().miou(unseen=0 if self.unseen_is_zero else math.nan)

    @property
    def fb_iou(self) -> float:
        """FB-IoU in percent."""
        return 100 * self.meter().fb_iou()

    @property
    def per_class(self) -> dict[str, float | None]:
        """IoU of each class in percent; None for a class without episodes."""
        values = 100 * self.meter().per_class()
        return {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(self.counts, values, strict=True)
        }


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is evaluated: names, options and hashes."""

    method: str  # "training-free", or the decoder's name
    prior: str  # "imagenet", "piclip", "none", or which CLIP maps were used ("vtp+vvp")
    backbone: str | None = None  # the decoder's
    text: str | None = None  # visual-text map: "none", "plain", "refined"; None without CLIP
    visual: str | None = None  # the same of the visual-visual map, or "raw" for its cosines
    settings: Mapping[str, Any] = field(default_factory=dict)  # what else decides the figures
    recipe: Mapping[str, Any] | None = None  # of the training, resolved; None without training
    clip: Mapping[str, str] | None = None  # its "name" and "sha256"; None without CLIP
    weights_sha256: str | None = None  # of the decoder's weights; None without a decoder


@dataclass(frozen=True, kw_only=True)
class Evaluation(Method):
    """One method on one fold with one number of shots."""

    dataset: str
    fold: int  # which was held out
    shots: int
    candidates: str  # "target"; "oracle" took class names from the truth of the query
    episodes: int  # of each seed
    folds: int = 1  # how many the dataset has
    seeds: tuple[int, ...] = ()  # those asked for; those in ``per_seed`` are done
    per_seed: tuple[SeedResult, ...] = ()  # what came out, in the order of ``seeds``
    versions: Mapping[str, str] = field(default_factory=dict)  # of Python and the libraries
    command: str | None = None
    # How episodes were drawn and answers measured, by a name of
    # `piclip.datasets.protocols.PROTOCOLS`; files of old versions name none.
    protocol: str = OURS.name

    @property
    def complete(self) -> bool:
        """Whether every seed that was asked for is done."""
        return set(self.seeds) <= {result.seed for result in self.per_seed}

    @property
    def selected_on_novel(self) -> bool:
        """Whether the training picked its weights on novel classes."""
        return (self.recipe or {}).get("select") == "novel-val"

    @property
    def miou(self) -> tuple[float, float]:
        """Mean over the seeds in percent and half of its 95 % interval (NaN for one seed)."""
        return confidence_interval([result.miou for result in self._done()])

    @property
    def fb_iou(self) -> tuple[float, float]:
        """The same of the FB-IoU."""
        return confidence_interval([result.fb_iou for result in self._done()])

    @property
    def per_class(self) -> dict[str, float | None]:
        """Mean over the seeds of each class's IoU in percent; None for one without episodes."""
        found: dict[str, list[float]] = {}
        for result in self._done():
            for name, value in result.per_class.items():
                found.setdefault(name, []).extend([] if value is None else [value])
        return {name: float(np.mean(v)) if v else None for name, v in found.items()}

    def with_seed(self, result: SeedResult) -> Evaluation:
        """Adds the result of a seed, or replaces the one that is there."""
        done = {item.seed: item for item in self.per_seed} | {result.seed: result}
        return replace(self, per_seed=tuple(done[seed] for seed in sorted(done)))

    def difference(self, other: Evaluation) -> str | None:
        """The first thing that makes two evaluations incomparable, in words; None if nothing does.

        Seeds, versions and the command line may differ.
        """
        free = {"seeds", "per_seed", "versions", "command"}
        mine, theirs = self.to_json(), other.to_json()
        for name in (item.name for item in fields(self) if item.name not in free):
            if mine[name] != theirs[name]:
                shown = [json.dumps(value) for value in (theirs[name], mine[name])]
                if max(map(len, shown)) > 80:
                    return f"another {name}"
                return f"{name} {shown[0]} instead of {shown[1]}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain data; figures in percent, an interval that one seed cannot give is None."""
        head = {"format": FORMAT, "kind": KIND, "complete": self.complete}
        figures = _figures(self) if self.per_seed else {}
        per_seed = [
            {"seed": one.seed}
            | _figures(one)
            | {"counts": dict(one.counts), "episodes_hash": one.episodes_hash}
            for one in self.per_seed
        ]
        return head | figures | asdict(self) | {"per_seed": per_seed}

    def _done(self) -> tuple[SeedResult, ...]:
        if not self.per_seed:
            raise UsageError("No seed of this evaluation is done yet; let it finish first.")
        return self.per_seed


def write_result(result: Evaluation, path: str | Path) -> Path:
    """Writes a record atomically; OutputError where the file cannot be written."""
    return write_json(result.to_json(), path)


def read_result(path: str | Path) -> Evaluation:
    """Reads what `write_result` wrote; the figures are counted anew from the pixels.

    Raises:
        UsageError: There is no such file, or it holds no evaluation of this format.
    """
    advice = "give files that 'piclip evaluate --output' wrote"
    try:
        data = read_json(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not a JSON file that can be read ({error}); {advice}."
        ) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UsageError(f"{path} holds no result of an evaluation; {advice}.")
    if data.get("format") != FORMAT:
        raise UsageError(
            f"{path} has the format {data.get('format')!r}, but this version of piclip reads "
            f"{FORMAT}; run the evaluation again."
        )
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{path} is an incomplete or damaged result of an evaluation ({error}); run the "
            f"evaluation again."
        ) from error


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the figures."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _from_json(data: Mapping[str, Any]) -> Evaluation:
    known: dict[str, Any] = {}
    for part in (Method, Evaluation):
        known |= inspect.get_annotations(part, eval_str=True)
    values = {name: value for name, value in data.items() if name in known}
    values["seeds"] = tuple(map(int, data["seeds"]))
    zero = protocol_named(data.get("protocol", OURS.name)).unseen_is_zero
    per_seed = []
    for item in data["per_seed"]:
        counts = {name: tuple(map(int, row)) for name, row in item["counts"].items()}
        for name, pixels in counts.items():
            if len(pixels) != 4:
                raise ValueError(f"{len(pixels)} counts of the class {name!r} instead of 4")
            if not 0 <= min(pixels) <= max(pixels) < 1 << 63:
                raise ValueError(f"the counts of the class {name!r} are no counts")
        per_seed.append(SeedResult(int(item["seed"]), str(item["episodes_hash"]), counts, zero))
    values["per_seed"] = tuple(per_seed)
    if fault := unfit(values, known):
        raise ValueError(fault)
    return Evaluation(**values)


def _figures(result: Evaluation | SeedResult) -> dict[str, Any]:
    """The figures as they are written: four digits, None for one that there is not."""

    def rounded(figure: Any) -> Any:  # noqa: ANN401 - a number, a pair, or numbers by class
        if isinstance(figure, dict):
            return {name: rounded(value) for name, value in figure.items()}
        if isinstance(figure, tuple):
            return [rounded(value) for value in figure]
        return None if figure is None or math.isnan(figure) else round(figure, 4)

    return {name: rounded(getattr(result, name)) for name in ("miou", "fb_iou", "per_class")}
