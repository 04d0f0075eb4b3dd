"""Label a folder of images: one index PNG per image, and the other requested files.

    OUT/<relative path without extension>.png                         what `evaluate --predictions` reads
    OUT/<relative path without extension>.overlay.jpg                 the labels over the image, to look at
    OUT/<relative path without extension>.probabilities.safetensors   `probabilities`, float16 [height, width, classes]
    OUT/predictions.jsonl, protocol.json                              what is done, and how: a killed run resumes

A photograph with an EXIF rotation is rotated upright for the network, and its labels and probabilities are rotated back, so
that they lie on the pixels as stored; the overlay stays upright.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError, UnreadableError
from dense_resnet.image_io import decoding, discovery
from dense_resnet.image_io.discovery import Found
from dense_resnet.jobs import atomic_files, resumable
from dense_resnet.jobs.atomic_files import sha256
from dense_resnet.jobs.journal import ERROR, FAIL, OK, Journal
from dense_resnet.jobs.resumable import Outcome, Progress, Run, cut, never, quiet
from dense_resnet.planning.geometry import positive_integer
from segmentation.data.label_files import encode_label
from segmentation.data.source import without_suffix
from segmentation.prediction.options import Inference

if TYPE_CHECKING:
    from dense_resnet.inference.runner import Runner
    from segmentation.prediction.predictor import Prediction
    from segmentation.saving.description import OpenedModel

FORMAT = 1
LOG, PROTOCOL = "predictions", "protocol.json"
KINDS = LABELS, OVERLAY, PROBABILITIES = ".png", ".overlay.jpg", ".probabilities.safetensors"
OPACITY = 0.55  # of the classes' colors over the image


@dataclass(frozen=True)
class _Ready:
    """An image to be labeled."""

    image: Found
    pixels: np.ndarray  # [height, width, 3] uint8, upright
    orientation: int  # EXIF's, 1 to 8
    sha256: str  # of the file


class Labeling:
    """A model and the folder that labels go to.

    Args:
        saved: the model: of :func:`segmentation.load_model`, or exported.
        runner: how it is run: of ``saved.runner()``.
        out: the folder; it must not hold the images.
        inference: see :class:`Inference`.
        shard: (i, n) takes every n-th image from the i-th on.
        overlay: also writes a picture of the labels over the image.
        probabilities: also writes those of every class.
        max_pixels: larger images are refused.
        batch: images that the network takes at a time.
        threads: batches that are computed at the same time.
    """

    def __init__(
        self,
        saved: OpenedModel,
        runner: Runner,
        out: str | os.PathLike[str],
        inference: Inference,
        *,
        shard: tuple[int, int] = (0, 1),
        overlay: bool = False,
        probabilities: bool = False,
        max_pixels: int = decoding.MAX_PIXELS,
        batch: int = 1,
        threads: int = 1,
    ) -> None:
        if saved.space is None or saved.head is None:
            raise InputError(f"{saved.path}: this is a backbone without a segmentation head: `extract` takes it.")
        from segmentation.prediction.predictor import Predictor  # and TensorFlow

        self._predictor = Predictor(runner, saved.head, inference, batch)
        self._batch, self._threads = batch, positive_integer("threads", threads)
        self.space, self.out, self.shard, self.max_pixels = saved.space, Path(out), shard, max_pixels
        self.tiling_note = self._predictor.tiling_note
        self._kinds = [LABELS, *([OVERLAY] if overlay else []), *([PROBABILITIES] if probabilities else [])]
        self.protocol = {
            "format": FORMAT,
            "system": {**saved.protocol, "precision": runner.precision, "engine": runner.engine_protocol, "batch": batch},
            "classes": saved.space.names,
            "inference": asdict(inference),
        }

    def path_of(self, image: Found, kind: str = LABELS) -> Path:
        """Return the path of the labels of `image`, or of its OVERLAY or PROBABILITIES."""
        return target_of(image, self.out, kind)

    def run(
        self, found: Sequence[Found], *, on_error: str = FAIL, progress: Progress = quiet, stop: Callable[[], bool] = never
    ) -> Outcome:
        """Label the images that an earlier run has not labeled.

        Args:
            found: of :func:`dense_resnet.image_io.discovery.find_images`.
            on_error: "fail" stops at a bad image, and checks every header first; "skip" lists it and continues.
            progress, stop: as :meth:`segmentation.evaluation.Evaluation.run`.

        Raises:
            InputError: a bad image under "fail", two images whose labels would have one name, an unusable folder, or logits
                that are not finite.
        """
        run = Run[Found]("labelling", on_error, progress, stop)
        check_targets(found, self.out)
        index, count = self.shard
        found = list(found)[index::count]
        if on_error == FAIL:
            run.check(found, self._check, "image")
            if run.stopped:
                return run.outcome
        targets = (self.path_of(image, kind) for image in found for kind in KINDS)
        with resumable.claim(self.out, PROTOCOL, self.protocol, LOG, self.shard, targets) as log, log:
            done = run.find_done(found, log, lambda image: image.relative, self._is_done)
            run.work(
                cut([image for image in found if image not in done], self._batch),
                done,
                read=self._read,
                compute=self._compute,
                write=lambda ready, prediction: self._write(ready, prediction, log),
                fail=lambda image, error: self._fail(image, error, log),
                threads=self._threads,
            )
        return run.outcome

    # ------------------------------------------------------------------------------------------------------------------

    def _check(self, image: Found) -> None:
        """Refuse an image that cannot be used, judged by its header."""
        self._predictor.check_size(image.path, decoding.check_image(image.path, self.max_pixels).size)

    def _is_done(self, image: Found, line: dict[str, Any]) -> bool:
        """Whether the line of the log is of this very image, with all its files; raise an error if one cannot be read."""
        expected = {image.path: line.get("sha256")}
        expected |= {self.path_of(image, kind): line.get("files", {}).get(kind) for kind in self._kinds}
        return all(sha256(decoding.read_file(path)) == digest for path, digest in expected.items())

    def _find_digests(self, image: Found, log: Journal) -> dict[str, str]:
        """Return the digests of the files that an earlier run has made of `image`, by kind."""
        return dict((log.find(image.relative) or {}).get("files", {}))

    def _read(self, image: Found) -> _Ready:
        data = decoding.read_file(image.path)
        pixels = decoding.decode_image(image.path, data, max_pixels=self.max_pixels)
        self._predictor.check_size(image.path, pixels.shape[:2])
        return _Ready(image, pixels, decoding.orientation_of(image.path, data, self.max_pixels), sha256(data))

    def _compute(self, batch: Sequence[_Ready]) -> list[Prediction]:
        keep = PROBABILITIES in self._kinds
        try:
            predictions = self._predictor.many([ready.pixels for ready in batch], keep_probabilities=keep)
        except InputError as error:
            raise InputError(f"{', '.join(str(ready.image.path) for ready in batch)}: {error}") from error
        return [_in_half_precision(prediction) for prediction in predictions]

    def _write(self, ready: _Ready, prediction: Prediction, log: Journal) -> None:
        """Write the requested files, and delete the others of the image's earlier content."""
        image, orientation = ready.image, ready.orientation
        earlier = self._find_digests(image, log)
        if prediction.probabilities is not None:
            values = decoding.undo_orientation(prediction.probabilities, orientation)
            safetensors.write(self.path_of(image, PROBABILITIES), {"probabilities": values}, {"classes": self.space.names})
        if OVERLAY in self._kinds:
            colors = self.space.colorize(prediction.labels)
            opacity = OPACITY * colors.any(axis=-1, keepdims=True)  # black, the usual background, would hide the image
            blended = (1 - opacity) * ready.pixels + opacity * colors
            picture = io.BytesIO()
            Image.fromarray(np.rint(blended).astype(np.uint8)).save(picture, "JPEG", quality=90)
            atomic_files.write_bytes(self.path_of(image, OVERLAY), picture.getvalue())
        labels = encode_label(decoding.undo_orientation(prediction.labels, orientation), self.space)
        atomic_files.write_bytes(self.path_of(image), labels)
        written = {kind: sha256(decoding.read_file(self.path_of(image, kind))) for kind in self._kinds}
        for kind in earlier.keys() - written.keys():
            self.path_of(image, kind).unlink(missing_ok=True)
        log.add({"path": image.relative, "status": OK, "sha256": ready.sha256, "files": written})

    def _fail(self, image: Found, error: InputError, log: Journal) -> None:
        """Record a bad image and delete its earlier labels; leave them alone if the file could not be read."""
        earlier = self._find_digests(image, log)
        if earlier and isinstance(error, UnreadableError):
            return
        for kind in earlier:
            self.path_of(image, kind).unlink(missing_ok=True)
        log.add({"path": image.relative, "status": ERROR, "error": str(error)})


def _in_half_precision(prediction: Prediction) -> Prediction:
    """Convert probabilities to float16, as they are written, to halve their memory until then."""
    probabilities = prediction.probabilities
    return prediction if probabilities is None else replace(prediction, probabilities=probabilities.astype(np.float16))


def target_of(image: Found, out: Path, kind: str = LABELS) -> Path:
    """Return the path of the labels of `image` in the folder `out`, or of its OVERLAY or PROBABILITIES."""
    return out / f"{without_suffix(image.relative)}{kind}"


def check_targets(found: Sequence[Found], out: Path) -> None:
    """Refuse, before any work and without TensorFlow, a folder that cannot hold the labels of some images.

    Raises:
        InputError: it is not a folder or holds the images, two images would have labels of one name, or a name is too long.
    """
    atomic_files.check_folder(out)
    discovery.check_apart(found, out)
    owners: dict[Path, Found] = {}
    for image in found:
        other = owners.setdefault(target_of(image, out), image)
        if other is not image:
            raise InputError(f"the labels of {other.path} and {image.path} would both be {target_of(image, out)}. Rename one.")
        if not atomic_files.name_fits(target_of(image, out, PROBABILITIES)):
            raise InputError(f"{image.path}: the name is too long for a file name with {PROBABILITIES} behind it.")
