"""The counts of an image, and every figure of an evaluation as a function of those counts.

``evaluation.json`` and a comparison of two systems are computed from the log's lines alone, so each figure can be checked.
What the figures mean: :mod:`segmentation.metrics`, :mod:`segmentation.metrics.presets`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding
from dense_resnet.jobs import journal, strict_json
from dense_resnet.jobs.journal import OK
from segmentation import metrics
from segmentation.data.label_space import LabelSpace
from segmentation.evaluation.numbering import numbering_doubt
from segmentation.metrics import boundaries, calibration, intervals, presets
from segmentation.metrics.confusion import image_counts
from segmentation.metrics.presets import PRESETS, Switches

FORMAT = 1
LOG, RESULT = "images", "evaluation.json"
PREDICTIONS = "predictions"  # key of a protocol's system that is a folder of predictions
OF_IMAGES = ("names_sha256", "split_sha256")  # keys of protocols

Line = Mapping[str, Any]


@dataclass(frozen=True)
class ImageCounts:
    """All counts of an image; a dataset's counts are their sums."""

    matrix: np.ndarray  # int64 [classes, classes]
    boundary: np.ndarray  # int64 [classes, 3]
    trimap: np.ndarray  # int64 [widths, classes, 3]
    calibration: np.ndarray | None  # int64 [bins, 3]; None without probabilities

    @classmethod
    def of(
        cls, label: np.ndarray, prediction: np.ndarray, confidence: np.ndarray | None, classes: int, ignore_label: int | None
    ) -> ImageCounts:
        """Count arrays ``[height, width]``: the ground truth, the prediction and, if there is one, its probability."""
        both = label, prediction, classes, ignore_label
        bins = None
        if confidence is not None:
            valid = None if ignore_label is None else label != ignore_label
            bins = calibration.calibration_counts(confidence, label == prediction, valid)
        return cls(image_counts(*both), boundaries.boundary_counts(*both), boundaries.trimap_counts(*both), bins)

    def as_json(self) -> dict[str, Any]:
        """Return the counts for a line: of each array the places and values that are not 0."""
        return {name: None if counts is None else _sparse(counts) for name, counts in vars(self).items()}

    @classmethod
    def from_line(cls, line: Line, classes: int) -> ImageCounts:
        """Read the counts in an image's line; raise an :class:`InputError` if they are incomplete or contradict each other."""
        try:
            bins = line["calibration"]
            counts = cls(
                _dense(line["matrix"], classes, classes),
                _dense(line["boundary"], classes, 3),
                _dense(line["trimap"], len(boundaries.TRIMAP_WIDTHS), classes, 3),
                None if bins is None else _dense(bins, calibration.BINS, 3),
            )
            numbers = [*line["size"], line["scored"], line["ignored"], line["padded"]]
            is_sound = (
                all(type(number) is int and number >= 0 for number in numbers)
                and len(line["size"]) == 2
                and line["scored"] == math.prod(line["size"]) - line["ignored"]
                and all(bytes.fromhex(line[key]) for key in ("image_sha256", "label_sha256"))
                and counts._add_up(line["scored"])
            )
        except (KeyError, ValueError, TypeError, OverflowError):
            is_sound = False
        if not is_sound:
            raise InputError(f"the log's line of {line['path']} is damaged. Delete that line; its image is then scored again.")
        return counts

    def _add_up(self, scored: int) -> bool:
        """Whether the counts are mutually consistent."""
        matrix, right = self.matrix, np.diag(self.matrix)
        most = np.stack([right, matrix.sum(axis=1), matrix.sum(axis=0)], axis=1)  # [classes, 3], as edges are counted
        sound = [
            matrix.max(initial=0) <= scored == matrix.sum(),
            scored * matrix.size < 2**63,  # otherwise the sums may overflow
            *((one <= most).all() and (one[:, :1] <= one).all() for one in (self.boundary, *self.trimap)),
            (np.diff(self.trimap, axis=0) >= 0).all(),
        ]
        if self.calibration is not None:
            pixels, hits, confidence = self.calibration.T
            sound += [pixels.sum() == scored, hits.sum() == right.sum(), (hits <= pixels).all()]
            sound.append((confidence <= pixels * calibration.ONE).all())
        return all(sound)


def summarize(
    lines: Callable[[], Iterable[Line]], space: LabelSpace, switches: Switches, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """Compute ``evaluation.json`` from the lines of a log.

    Args:
        lines: gives them, sorted by image, each time it is called.
        switches: of the mean IoU and its interval; the classes' figures do not depend on them.
        protocol: recorded with the figures.

    Raises:
        InputError: no image was scored, or a line is damaged.
    """
    classes = space.num_classes
    matrix = np.zeros((classes, classes), np.int64)
    boundary = np.zeros((classes, 3), np.int64)
    trimap = np.zeros((len(boundaries.TRIMAP_WIDTHS), classes, 3), np.int64)
    bins = np.zeros((calibration.BINS, 3), np.int64)
    counts = dict.fromkeys(("images", "skipped", "pixels", "scored", "ignored", "padded"), 0)
    sums: list[np.ndarray] = []
    each: list[dict[str, Any]] = []
    skipped: list[str] = []
    split = hashlib.sha256()
    for line in lines():
        if line["status"] != OK:
            skipped.append(str(line.get("error")))
            continue
        own = ImageCounts.from_line(line, classes)
        matrix += own.matrix
        boundary += own.boundary
        trimap += own.trimap
        bins += 0 if own.calibration is None else own.calibration
        counts["pixels"] += math.prod(line["size"])
        for key in ("scored", "ignored", "padded"):
            counts[key] += line[key]
        split.update(f"{line['path']} {line['image_sha256']} {line['label_sha256']}\n".encode("utf-8", "surrogateescape"))
        sums.append(metrics.class_sums(own.matrix))
        each.append({"path": line["path"], "mean_iou": _number(metrics.mean_iou(own.matrix))})
    if not sums:
        raise InputError("no image was scored, so there is no result." + (f" {skipped[0]}" if skipped else ""))
    counts |= {"images": len(sums), "skipped": len(skipped)}

    def under(conventions: Switches) -> float | None:
        if not counts["scored"]:
            return None  # if absent classes count 0 or 1, a mean over nothing would be a figure
        whole = [matrix] if conventions.scope == "dataset" else None
        every = (_dense(line["matrix"], classes, classes) for line in lines() if line["status"] == OK)
        return _number(presets.mean_iou_under(whole or every, conventions))

    conventions: dict[str, Any] = {"absent": switches.absent, "background": switches.background}
    of_classes = intervals.bootstrap_mean_iou(np.stack(sums))
    of_mean = intervals.bootstrap_mean_iou(np.stack(sums), **conventions)
    doubt = numbering_doubt(matrix, space, of_model=PREDICTIONS not in protocol["system"])
    iou, accuracy, edges = metrics.class_iou(matrix), metrics.class_accuracy(matrix), boundaries.boundary_iou(boundary)
    averaged = np.isfinite(metrics.class_iou(matrix, **conventions))
    near_edges = zip(boundaries.TRIMAP_WIDTHS, boundaries.trimap_mean_iou(trimap), strict=True)
    return {
        "format": FORMAT,
        "mean_iou": under(switches),
        "classes": [
            {
                "name": one.name,
                "color": list(one.color),
                "iou": _number(iou[number]),
                "interval": _pair(of_classes.classes[number]),
                "accuracy": _number(accuracy[number]),
                "boundary_iou": _number(edges[number]),
                "pixels": int(matrix[number].sum()),
                "predicted": int(matrix[:, number].sum()),
                "averaged": bool(averaged[number]),
            }
            for number, one in enumerate(space.classes)
        ],
        "averaged_classes": int(averaged.sum()),
        "pixel_accuracy": _number(metrics.pixel_accuracy(matrix)),
        "mean_accuracy": _number(metrics.mean_accuracy(matrix)),
        "frequency_weighted_iou": _number(metrics.frequency_weighted_iou(matrix)),
        "mean_boundary_iou": _number(boundaries.mean_boundary_iou(boundary)),
        "mean_image_iou": under(Switches(scope="image")),
        "trimap": [{"width": width, "mean_iou": _number(value)} for width, value in near_edges],
        "calibration": _calibration(bins) if bins.any() else None,
        "conventions": {name: under(conventions) for name, conventions in PRESETS.items()},
        "matrix": matrix.tolist(),
        "intervals": {
            "level": intervals.LEVEL,
            "resamples": of_mean.resamples,
            "seed": of_mean.seed,
            "mean_iou": _pair(of_mean.mean) if switches.scope == "dataset" else None,  # because its counts are resampled
        },
        "counts": counts,
        "images": each,
        "skipped": skipped,
        "warnings": [doubt] if doubt else [],
        "protocol": {**protocol, "split_sha256": split.hexdigest(), "switches": dataclasses.asdict(switches)},
    }


def read_result(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Path]:
    """Return (``evaluation.json``, its folder) of an evaluation's folder or file.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(path)
    if path.is_dir() and not (path / RESULT).is_file():
        raise InputError(f"{path}: contains no {RESULT}, so it is not the folder of a finished evaluation.")
    path = path / RESULT if path.is_dir() else path
    data = decoding.read_file(path)
    try:
        result = strict_json.loads(data)
        names = [one["name"] for one in result["classes"]]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names of classes that are not text")
        version, _ = result["format"], (result["mean_iou"], names[0], result["matrix"][0][0])
        Switches(**result["protocol"]["switches"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: is not an evaluation, or is damaged ({error!r:.80}). Run evaluate again.") from error
    if version != FORMAT:
        raise InputError(f"{path}: format {version!r} is not read by this version, which reads {FORMAT}.")
    return result, path.parent


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], *, force: bool = False) -> dict[str, Any]:
    """Compare the first evaluation's system with the second's: paired bootstrap over the images of both.

    Args:
        first, second: folders of evaluations.
        force: compare despite differing protocols, on the images that both have scored.

    Returns:
        ``mean_iou`` (of the first, of the second, their difference, its interval, p_value, not_better) of the dataset's
        counts, ``classes`` (the same for each class), ``images``, ``resamples``, ``seed``, ``differing`` (where the protocols
        differ), ``scopes`` (of the two evaluations' own mean IoU, another figure unless it is "dataset"). The interval,
        p_value and not_better are None if fewer than ``intervals.FEWEST_IMAGES`` images bear on the figure.

    Raises:
        InputError: the protocols or the images differ, or the classes or the ground truth do, or a file is damaged.
    """
    (own, own_folder), (other, other_folder) = read_result(first), read_result(second)
    both = f"{own_folder} and {other_folder}"
    names = [[one["name"] for one in result["classes"]] for result in (own, other)]
    if names[0] != names[1]:
        raise InputError(f"{both} have different classes: {', '.join(names[0])}; and {', '.join(names[1])}.")
    differing = [
        f"{key}: other images" if key in OF_IMAGES else f"{key}: {journal.format_value(old)} and {journal.format_value(new)}"
        for key, old, new in journal.differences(own["protocol"], other["protocol"])
        if key.partition(".")[0] != "system"  # which is compared
    ]
    if differing and not force:
        raise InputError(
            f"{both} were evaluated by different protocols ({'; '.join(differing)}). "
            "Figures of different protocols are not comparable; --force compares them anyway."
        )
    sums = [_class_sums(own, own_folder), _class_sums(other, other_folder)]
    common = sorted(sums[0].keys() & sums[1].keys())
    if not common:
        raise InputError(f"{both} have no scored image in common.")
    for name in common:
        if (sums[0][name][:, 1] != sums[1][name][:, 1]).any():
            raise InputError(f"{both} have scored different labels of {name}, so they are not comparable.")
    rows = [np.stack([each[name] for name in common]) for each in sums]
    switches = Switches(**own["protocol"]["switches"])
    conventions: dict[str, Any] = {"absent": switches.absent, "background": switches.background}
    of_mean = intervals.paired_bootstrap(rows[0], rows[1], **conventions)
    of_classes = intervals.paired_bootstrap(rows[0], rows[1])
    means = [intervals.bootstrap_mean_iou(row, 1, **conventions).mean for row in rows]
    values = [intervals.bootstrap_mean_iou(row, 1).classes for row in rows]
    of_each = zip(names[0], *values, of_classes.classes, strict=True)
    return {
        "images": len(common),
        "differing": differing,
        "scopes": [result["protocol"]["switches"]["scope"] for result in (own, other)],
        "mean_iou": {
            **_difference(means, of_mean.mean),
            "p_value": _number(of_mean.p_value),
            "not_better": _number(of_mean.not_better),
        },
        "classes": [{"name": name, **_difference(pair, difference)} for name, *pair, difference in of_each],
        "resamples": of_mean.resamples,
        "seed": of_mean.seed,
    }


def _class_sums(result: Mapping[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """Return the class sums of each scored image, if the log still matches the result."""
    path, classes = folder / journal.log_name(LOG), len(result["classes"])
    matrix = np.zeros((classes, classes), np.int64)
    sums = {}
    for line in journal.read(path):
        if line["status"] == OK:
            try:
                own = ImageCounts.from_line(line, classes).matrix
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            matrix += own
            sums[line["path"]] = metrics.class_sums(own)
    if matrix.tolist() != result["matrix"]:
        raise InputError(f"{path}: its counts are not those of {RESULT}. Run evaluate again to complete both.")
    return sums


def _difference(pair: Sequence[intervals.Interval], difference: intervals.Interval) -> dict[str, Any]:
    return {
        "first": _number(pair[0].value),
        "second": _number(pair[1].value),
        "difference": _number(difference.value),
        "interval": _pair(difference),
    }


def _calibration(bins: np.ndarray) -> dict[str, Any]:
    return {
        "expected_error": _number(calibration.expected_calibration_error(bins)),
        "bins": [
            {
                "low": number / calibration.BINS,
                "high": (number + 1) / calibration.BINS,
                "pixels": int(pixels),
                "accuracy": float(right / pixels) if pixels else None,
                "confidence": float(confidence / calibration.ONE / pixels) if pixels else None,
            }
            for number, (pixels, right, confidence) in enumerate(bins)
        ],
    }


def _sparse(counts: np.ndarray) -> list[list[int]]:
    places = np.argwhere(counts)
    return np.concatenate([places, counts[tuple(places.T)][:, None]], axis=1).tolist()


def _dense(sparse: Sequence[Sequence[int]], *shape: int) -> np.ndarray:
    """Invert :func:`_sparse`; raise a :class:`ValueError` for what it does not write."""
    counts = np.zeros(shape, np.int64)
    if sparse == []:
        return counts
    rows = np.array(sparse)
    if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != len(shape) + 1 or rows.min() < 0:
        raise ValueError("not places and counts")
    places = np.ravel_multi_index(tuple(rows[:, :-1].T), shape)  # raises an error for those that are outside
    if (np.diff(places) <= 0).any():
        raise ValueError("places that are not in order")
    counts.ravel()[places] = rows[:, -1]
    return counts


def _number(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _pair(interval: intervals.Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]
