"""Score a dataset, one image at a time, so that a run can be stopped, killed, split and checked.

Which files it writes: segmentation/README.md. The ground truth is never resized. A bad image or label may be skipped, and is
then listed; an invalid prediction is always an error, so that hard images cannot be skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io import decoding
from dense_resnet.jobs import atomic_files, resumable
from dense_resnet.jobs.atomic_files import sha256
from dense_resnet.jobs.journal import ERROR, FAIL, OK, Journal
from dense_resnet.jobs.resumable import Progress, Run, cut, never, quiet
from dense_resnet.planning.geometry import positive_integer
from segmentation.data.doctor import judge
from segmentation.data.label_counts import LabelCounts, check_pair, compare_sizes
from segmentation.data.label_files import decode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Dataset, Sample
from segmentation.evaluation.report.pictures import Example
from segmentation.evaluation.report.sections import write_page
from segmentation.evaluation.results import FORMAT, LOG, RESULT, ImageCounts, summarize
from segmentation.evaluation.systems import Answer, System
from segmentation.metrics import boundaries, calibration
from segmentation.metrics.presets import Switches
from segmentation.prediction.options import INPUT

PROTOCOL, REPORT = "protocol.json", "report"
WORST, MIDDLE, BEST = 4, 2, 2  # images on the page
DEFINITION = Switches()


@dataclass(frozen=True)
class Outcome(resumable.Outcome):
    """What a run did."""

    result: dict[str, Any] | None = None  # evaluation.json; None where the run was stopped or did a shard


def check_classes(space: LabelSpace, dataset: Dataset) -> None:
    """Raise an :class:`InputError` if a model's classes are not the dataset's."""
    if space.names != dataset.space.names:
        raise InputError(
            f"the model has {_format_classes(space)}, {dataset.name} has {_format_classes(dataset.space)}: they must be the "
            "same, in the same order. See --classes and --label-map."
        )


@dataclass(frozen=True)
class _Pair:
    """An image and its label, decoded."""

    sample: Sample
    image: np.ndarray  # [height, width, 3] uint8
    label: np.ndarray  # [height, width]
    digests: dict[str, str]  # of both files


class Evaluation:
    """A system, a dataset, and the folder for the result.

    Args:
        system: a model, or a folder of predictions.
        dataset: with labels.
        out: the folder.
        switches: how absent classes are scored, and the other conventions on which evaluators differ.
        shard: (i, n) takes every n-th image from the i-th on; a run without shards joins them.
        max_pixels: larger images are refused.
        threads: batches that the system computes at the same time.

    Raises:
        InputError: the system's classes are not the dataset's, or it does not support the switches.
    """

    def __init__(
        self,
        system: System,
        dataset: Dataset,
        out: str | os.PathLike[str],
        switches: Switches = DEFINITION,
        *,
        shard: tuple[int, int] = (0, 1),
        max_pixels: int = decoding.MAX_PIXELS,
        threads: int = 1,
    ) -> None:
        check_classes(system.space, dataset)
        dataset.check_apart(Path(out))
        if system.size != switches.size:
            raise InputError(f"size {switches.size!r} is to be scored, and the predictions are of size {system.size!r}.")
        if system.upsample not in (None, switches.upsample):
            raise InputError(f"upsample is to be {switches.upsample!r}, and the model's inference has {system.upsample!r}.")
        if system.size == INPUT and dataset.space.ignore_label is None:
            raise InputError("scoring the input canvas needs an ignore label for its padding, and this dataset has none.")
        self.system, self.dataset, self.out, self.switches = system, dataset, Path(out), switches
        self.shard, self.max_pixels, self._threads = shard, max_pixels, positive_integer("threads", threads)
        names = "\n".join(sorted(sample.name for sample in dataset.samples))
        self.protocol = {
            "format": FORMAT,
            "dataset": dataset.name,
            "split": dataset.split,
            "names_sha256": sha256(names.encode("utf-8", "surrogateescape")),
            "labels": dataset.space.as_json(),
            "exif": dataset.samples[0].exif if dataset.samples else None,
            "system": system.protocol,
            "inference": system.inference,
            "boundary": {"dilation_ratio": boundaries.DILATION_RATIO, "trimap_widths": boundaries.TRIMAP_WIDTHS}
            | ({"area": "image"} if system.size == INPUT else {}),  # a log of before counted those of the canvas
            "calibration_bins": calibration.BINS,
        }

    def run(
        self,
        *,
        on_error: str = FAIL,
        merge: bool = False,
        progress: Progress = quiet,
        stop: Callable[[], bool] = never,
        note: Callable[[str], object] = lambda message: None,
        report: bool = True,
    ) -> Outcome:
        """Score the images that an earlier run of the same protocol has not scored, then write the result.

        Args:
            on_error: "fail" names all bad pairs that labels and the images' headers show, before any compute, and
                stops at one that is found later; "skip" lists those that it finds and continues.
            merge: only joins shards: an image that is in no shard's log is an error.
            progress: called with (task, images done, images in total).
            stop: called before each image; True finishes the work that has begun and returns.
            note: called with warnings about the labels of the whole split.
            report: also writes the page.

        Raises:
            InputError: a bad pair under "fail", a split without a labeled pixel, a bad prediction, an unusable folder, another
                protocol in it, or another run at work on it.
        """
        run = Run[Sample]("scoring", on_error, progress, stop)
        index, count = self.shard
        if merge and count > 1:
            raise InputError("a shard has nothing to merge: leave out --shard.")
        samples, labels = self.dataset.samples[index::count], LabelCounts(self.dataset.space)
        run.check(samples, lambda sample: self._check(sample, labels), "pair")
        if run.stopped:
            return Outcome(**vars(run.outcome))
        if count == 1:  # a shard may hold what its split does not
            for doubt in judge([(self.dataset, labels)]).values():
                note(doubt)
        targets = (self.out / name for name in (RESULT, REPORT))
        with resumable.claim(self.out, PROTOCOL, self.protocol, LOG, self.shard, targets) as log:
            with log:
                self._score(samples, run, log, merge)
                if run.stopped or count > 1:
                    return Outcome(**vars(run.outcome))
                text = json.dumps(self._result(log), indent=1, allow_nan=False) + "\n"
            atomic_files.write_bytes(self.out / RESULT, text.encode())
            result = json.loads(text)
            if report:
                write_page(self.out / REPORT, result, list(self._examples(result["images"], progress)))
        return Outcome(**vars(run.outcome), result=result)

    # ------------------------------------------------------------------------------------------------------------------

    def _check(self, sample: Sample, labels: LabelCounts) -> None:
        """Refuse a pair that cannot be used, judged by its label and the image's header; count the labels of the others."""
        own = LabelCounts(labels.space)
        self.system.check_size(sample, check_pair(sample, own, self.max_pixels))
        labels.add(own)

    def _score(self, samples: Sequence[Sample], run: Run[Sample], log: Journal, merge: bool) -> None:
        done = run.find_done(samples, log, lambda sample: sample.name, self._is_done)
        todo = [sample for sample in samples if sample not in done]
        if merge and not run.stopped and (missing := [sample for sample in todo if not log.find(sample.name)]):
            lacking = f"{len(missing)} of {pluralize(len(samples), 'image')} {'is' if len(missing) == 1 else 'are'}"
            raise InputError(
                f"{self.out}: {lacking} in no shard's log, the first is {missing[0]}. "
                "Run the shards that are missing, or leave out --merge to score them now."
            )
        run.work(
            cut(todo, self.system.batch),
            done,
            read=self._read,
            compute=self._compute,
            write=lambda pair, answer: self._write(pair, answer, log),
            fail=lambda sample, error: log.add({"path": sample.name, "status": ERROR, "error": str(error)}),
            threads=self._threads,
        )

    def _is_done(self, sample: Sample, line: dict[str, Any]) -> bool:
        """Whether the line of the log is of this very image, label and prediction."""
        digests = sha256(sample.image_bytes()), sha256(sample.label_bytes()), self.system.fingerprint(sample)
        return digests == tuple(line.get(f"{what}_sha256") for what in ("image", "label", "prediction"))

    def _read(self, sample: Sample) -> _Pair:
        data, label_data = sample.image_bytes(), sample.label_bytes()
        place = sample.label.place if sample.label else sample.name
        image = sample.decode_image(data, self.max_pixels)
        label = decode_label(place, label_data, self.dataset.space, self.max_pixels)
        compare_sizes(sample, image.shape[:2], label)
        self.system.check_size(sample, label.shape)
        return _Pair(sample, image, label, {"image_sha256": sha256(data), "label_sha256": sha256(label_data)})

    def _compute(self, batch: Sequence[_Pair]) -> list[Answer]:
        return self.system([pair.sample for pair in batch], [pair.image for pair in batch])

    def _write(self, pair: _Pair, answer: Answer, log: Journal) -> None:
        """Add the image's line to the log."""
        space, label = self.dataset.space, pair.label
        own = tuple(slice(side) for side in label.shape)  # padding is ignored, and outlines and their widths are the image's
        predicted = answer.labels[own].astype(label.dtype)
        confidence = None if answer.confidence is None else answer.confidence[own]
        counts = ImageCounts.of(label, predicted, confidence, space.num_classes, space.ignore_label)
        scored = int(counts.matrix.sum())
        log.add(
            {
                "path": pair.sample.name,
                "status": OK,
                **pair.digests,
                "prediction_sha256": answer.sha256,
                "size": label.shape,
                "scored": scored,
                "ignored": label.size - scored,
                "padded": answer.padded,
                **counts.as_json(),
            }
        )

    def _result(self, log: Journal) -> dict[str, Any]:
        names = sorted(sample.name for sample in self.dataset.samples)

        def lines() -> Iterator[dict[str, Any]]:
            return (line for name in names if (line := log.find(name)))

        try:
            return summarize(lines, self.dataset.space, self.switches, self.protocol)
        except InputError as error:
            raise InputError(f"{self.out}: {error}") from error

    def _examples(self, scored: Iterable[Mapping[str, Any]], progress: Progress) -> Iterator[Example]:
        """Predict the worst images, some of the middle and the best once more, and yield them."""
        order = sorted((line["mean_iou"], line["path"]) for line in scored if line["mean_iou"] is not None)
        middle = max(0, (len(order) - MIDDLE) // 2)
        chosen = dict.fromkeys([*order[:WORST], *order[middle : middle + MIDDLE], *order[-BEST:]])
        by_name = {sample.name: sample for sample in self.dataset.samples}
        for number, (mean, name) in enumerate(chosen):
            progress("drawing", number, len(chosen))
            pair = self._read(by_name[name])
            [answer] = self._compute([pair])
            height, width = pair.label.shape
            yield Example(name, pair.image, pair.label, answer.labels[:height, :width], mean)
        progress("drawing", len(chosen), len(chosen))


def _format_classes(space: LabelSpace) -> str:
    names = ", ".join(space.names[:5]) + (", …" if space.num_classes > 5 else "")
    return f"{pluralize(space.num_classes, 'class')} ({names})"
