"""Features of a folder of images, on disk: a job of :mod:`dense_resnet.jobs.resumable`.

    OUT/<relative path>.safetensors     see :mod:`dense_resnet.extraction.features`
    OUT/<relative path>.alignment.png   on request: the features over the image, to look at
    OUT/manifest.jsonl                  a line for each image
    OUT/extraction.json                 what the features depend on

Batches are cut from the whole list, so a run that resumes writes what an uninterrupted run would have written.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.checkpoints.containers import safetensors
from dense_resnet.errors import InputError, UnreadableError
from dense_resnet.extraction import features
from dense_resnet.extraction.settings import PROTOCOL, Settings
from dense_resnet.extraction.visualization import alignment_picture, write_picture
from dense_resnet.image_io import decoding, discovery
from dense_resnet.image_io.discovery import Found
from dense_resnet.inference.canvas import Placement, placement, resize
from dense_resnet.inference.runner import FEATURES, Runner, at_stride
from dense_resnet.jobs import atomic_files, resumable
from dense_resnet.jobs.journal import ERROR, FAIL, OK, Journal
from dense_resnet.jobs.resumable import Outcome, Progress, Run, cut, never, quiet
from dense_resnet.planning import geometry

MANIFEST = "manifest"
FORMAT = 1
PICTURE = ".alignment.png"


@dataclass(frozen=True)
class _Ready:
    """An image on its canvas."""

    image: Found
    canvas: np.ndarray  # [side, side, channels] uint8
    place: Placement
    sha256: str  # of the file


class Extraction:
    """A network, its settings, and the folder that features go to; a setting that does not fit is an :class:`InputError`.

    Args:
        out: the folder; features of ``a/b.jpg`` go to ``out/a/b.jpg.safetensors``. It must not hold the images.
        shard: (i, n) takes every n-th image from the i-th on, with its own manifest, which a run without shards takes over.
        max_pixels: larger images are refused.
        threads: batches that are computed at the same time.
    """

    def __init__(
        self,
        runner: Runner,
        out: str | os.PathLike[str],
        settings: Settings,
        *,
        shard: tuple[int, int] = (0, 1),
        max_pixels: int = decoding.MAX_PIXELS,
        threads: int = 1,
    ) -> None:
        plan = runner.plan
        settings.check(plan, runner.side)
        index, count = shard
        if not 0 <= index < count:
            raise InputError(f"shard must be (i, n) with 0 <= i < n (not {shard}).")
        self.runner, self.out, self.settings = runner, Path(out), settings
        self.layers = settings.strides(plan)
        self._names = {stride: FEATURES if stride == plan.output_stride else at_stride(stride) for stride in self.layers}
        if missing := [stride for stride, name in self._names.items() if name not in runner.names]:
            raise InputError(
                f"this network has no features at stride {missing[0]}: it was made for {plan.output_stride} alone."
            )
        self.shard, self.max_pixels = shard, geometry.positive_integer("max_pixels", max_pixels)
        self._threads = geometry.positive_integer("threads", threads)
        self.protocol = {
            "format": FORMAT,
            "plan": plan.name,
            "root": plan.root_name,
            "output_stride": plan.output_stride,
            "multi_grid": plan.multi_grid,
            "in_channels": plan.in_channels,
            "preprocessing": runner.preprocessing,
            "precision": runner.precision,
            "engine": runner.engine_protocol,
            "export": runner.export,
            "weights_sha256": runner.weights_sha256,
            **dataclasses.asdict(settings),
            "layers": self.layers,
            "resize": "OpenCV INTER_AREA where the long side exceeds size",
        }

    def run(
        self,
        found: Sequence[Found],
        *,
        on_error: str = FAIL,
        progress: Progress = quiet,
        stop: Callable[[], bool] = never,
        picture: bool = False,
    ) -> Outcome:
        """Extract the features of `found`, except those that an earlier run of the same protocol has finished.

        Args:
            found: of :func:`dense_resnet.image_io.discovery.find_images`.
            on_error: "fail" stops at a bad image, and checks every header before any compute; "skip" records it and continues.
            progress, stop: as :class:`dense_resnet.jobs.resumable.Run`.
            picture: also writes the alignment picture of each image, next to its features.

        Raises:
            InputError: a bad image under "fail", an unusable folder, another protocol in it, or another run at work on it.
        """
        run = Run[Found]("extracting", on_error, progress, stop)
        discovery.check_apart(found, self.out)
        index, count = self.shard
        found = list(found)[index::count]
        bad = run.check(found, self._check, "image")
        if run.stopped:
            return run.outcome
        targets = (place(image) for image in found for place in (self.path_of, self._picture_of))
        with resumable.claim(self.out, PROTOCOL, self.protocol, MANIFEST, self.shard, targets) as manifest, manifest:
            done = run.find_done(found, manifest, lambda image: image.relative, self._is_done)
            if run.stopped:
                return run.outcome
            bad = {image: error for image, error in bad.items() if image not in done}  # a lower limit takes nothing away
            for image, error in bad.items():
                self._fail(image, error, manifest)
                run.skip(error)
            atomic_files.probe_folder(self.out, self._bytes_per_image() * (len(found) - len(bad) - len(done)))
            if picture:
                for image in found:
                    if image in done and not self._picture_of(image).exists():
                        self._draw(image)
            batches = [[image for image in batch if image not in bad] for batch in cut(found, self.settings.batch)]
            run.work(
                [batch for batch in batches if not done.issuperset(batch)],
                done,
                read=self._read,
                compute=self._compute,
                write=lambda ready, maps: self._write(ready, maps, manifest, picture),
                fail=lambda image, error: self._fail(image, error, manifest),
                threads=self._threads,
            )
        return run.outcome

    def path_of(self, image: Found) -> Path:
        """Return the path of the features of `image`."""
        if ".." in Path(image.relative).parts or Path(image.relative).is_absolute():
            raise InputError(f"{image.relative!r} would lie outside {self.out}.")
        return self.out / f"{image.relative}{safetensors.SUFFIX}"

    def _picture_of(self, image: Found) -> Path:
        return self.out / f"{image.relative}{PICTURE}"

    # ------------------------------------------------------------------------------------------------------------------

    def _check(self, image: Found) -> None:
        if not atomic_files.name_fits(self.path_of(image)):
            raise InputError(f"{image.path}: the name is too long for a file name with {safetensors.SUFFIX} behind it.")
        decoding.check_image(image.path, self.max_pixels)

    def _is_done(self, image: Found, line: dict[str, Any]) -> bool:
        """Whether the line of the manifest is of this very image, and so are the features."""
        sha256 = features.image_sha256(self.path_of(image))
        return line.get("sha256") == sha256 and sha256 == atomic_files.sha256(decoding.read_file(image.path))

    def _read(self, image: Found) -> _Ready:
        channels, side = self.runner.plan.in_channels, self.settings.size
        data = decoding.read_file(image.path)
        pixels = decoding.decode_image(image.path, data, channels, self.max_pixels)
        place = placement((pixels.shape[0], pixels.shape[1]), side)
        canvas = np.zeros((side, side, channels), np.uint8)
        canvas[: place.size[0], : place.size[1]] = resize(pixels, place.size)
        return _Ready(image, canvas, place, atomic_files.sha256(data))

    def _compute(self, batch: Sequence[_Ready]) -> list[dict[int, np.ndarray]]:
        """Return the feature maps of each image, by stride."""
        canvases, sizes = np.stack([ready.canvas for ready in batch]), [ready.place.size for ready in batch]
        found = self.runner(canvases, sizes, tuple(self._names.values()))
        return [{stride: found[name][number] for stride, name in self._names.items()} for number in range(len(batch))]

    def _write(self, ready: _Ready, maps: dict[int, np.ndarray], manifest: Journal, picture: bool) -> None:
        image, place, dtype = ready.image, ready.place, self.settings.dtype
        with np.errstate(over="ignore"):  # said below
            own = {stride: values.astype(tf.as_dtype(dtype).as_numpy_dtype) for stride, values in maps.items()}
        for stride, values in own.items():
            if not np.isfinite(values.astype(np.float32)).all():
                cause = "the network made them: are these the weights of this variant, and is the file sound?"
                if np.isfinite(maps[stride]).all():
                    cause = f"they are too large for {dtype}; use --dtype bfloat16 or float32"
                raise InputError(f"{image.path}: features at stride {stride} are not finite: {cause}.")
        record = {"path": image.relative, "sha256": ready.sha256, "scale": place.scale, "stride": self.layers, "dtype": dtype}
        features.write_features(self.path_of(image), own, place, record | {"protocol": self.protocol})
        if picture:
            self._draw(image)
        elif self._is_ours(image, manifest):
            self._picture_of(image).unlink(missing_ok=True)  # of the image's earlier content
        manifest.add({**record, "status": OK, "original_size": place.original_size, "padding": place.padding})

    def _fail(self, image: Found, error: InputError, manifest: Journal) -> None:
        """Record a bad image and delete its earlier features; leave them alone if the file could not be read."""
        if self._is_ours(image, manifest):
            if isinstance(error, UnreadableError):
                return
            self.path_of(image).unlink(missing_ok=True)
            self._picture_of(image).unlink(missing_ok=True)
        manifest.add({"path": image.relative, "status": ERROR, "error": str(error)})

    def _is_ours(self, image: Found, manifest: Journal) -> bool:
        """Whether the manifest, or one of a shard, records that an image has features here."""
        line = manifest.find(image.relative)
        return line is not None and line["status"] == OK

    def _draw(self, image: Found) -> None:
        own = features.read_features(self.path_of(image))
        pixels = decoding.decode_image(image.path, decoding.read_file(image.path), max_pixels=self.max_pixels)
        write_picture(self._picture_of(image), alignment_picture(pixels, own))

    def _bytes_per_image(self) -> int:
        plan, size = self.runner.plan, self.settings.size
        values = sum(geometry.output_size(size, stride) ** 2 * (plan.pyramid[stride] or plan).depth for stride in self.layers)
        return values * tf.as_dtype(self.settings.dtype).size
