"""Features of a folder of images, on disk: read, run and write at the same time, and go on after a kill.

Three things happen at once: threads decode the next images, TensorFlow runs a batch, a thread writes the last one. Every
finished image adds a line to ``manifest.jsonl`` after its file is in place, so a run that was killed goes on where it
stopped; batches are cut from the whole list, so what it writes then is what an uninterrupted run would have written.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from dense_resnet import checkpoints, features, files, geometry, images
from dense_resnet.backbone import Backbone
from dense_resnet.errors import InputError
from dense_resnet.images import Found, Placement
from dense_resnet.picture import alignment_picture, write_picture
from dense_resnet.preprocessing import preprocess

MANIFEST = "manifest.jsonl"
PROTOCOL = "extraction.json"
FORMAT = 1
FAIL, SKIP = "fail", "skip"
DECODERS = 2
BATCHES_AHEAD = 2  # decoded or waiting to be written: what bounds the memory


@dataclass(frozen=True)
class Settings:
    """How features are extracted. All of it is recorded, and a run goes on only under the same."""

    size: int = 513  # side of the canvas in pixels, 32n+1
    layers: tuple[int, ...] = ()  # strides; () is the network's own output
    dtype: str = "float32"
    batch: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    written: int  # in this run
    total: int  # of the run's images, those that now have features
    failed: tuple[str, ...]  # messages
    stopped: bool  # by `stop`, before the end


class Extraction:
    """A backbone, its settings, and the folder that features go to.

    Args:
        backbone: with weights loaded.
        out: the folder; features of ``a/b.jpg`` go to ``out/a/b.jpg.safetensors``.
        settings: see :class:`Settings`.
        shard: (i, n) takes every n-th image from the i-th on, with a manifest of its own.
        max_pixels: larger images are refused.
        provenance: what else the protocol should record, such as where the weights came from.

    Raises:
        InputError: a setting does not fit the backbone; the message names the valid values.
    """

    def __init__(
        self,
        backbone: Backbone,
        out: str | os.PathLike[str],
        settings: Settings,
        *,
        shard: tuple[int, int] = (0, 1),
        max_pixels: int = images.MAX_PIXELS,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        plan = backbone.plan
        aligned = plan.aligned_size(settings.size)[0]
        if aligned != settings.size:
            raise InputError(
                f"--size must be {plan.nominal_stride}n+1 pixels, so that cells sit exactly on pixels (not {settings.size}); "
                f"the nearest are {aligned - plan.nominal_stride} and {aligned}."
            )
        layers = settings.layers or (plan.output_stride,)
        if unknown := sorted(set(layers) - set(plan.pyramid)):
            raise InputError(f"--layers must be among {', '.join(map(str, plan.pyramid))} (not {unknown[0]}).")
        if settings.dtype not in features.DTYPES:
            raise InputError(f"--dtype must be one of {', '.join(features.DTYPES)} (not {settings.dtype!r}).")
        geometry.positive_integer("--batch", settings.batch)
        index, count = shard
        if not 0 <= index < count:
            raise InputError(f"--shard must be i/n with 0 <= i < n (not {index}/{count}).")
        if plan.in_channels not in (1, 3):
            raise InputError(f"images have 1 or 3 channels, this network takes {plan.in_channels}.")
        self.backbone, self.out, self.settings = backbone, Path(out), settings
        self.layers = tuple(sorted(set(layers)))
        self.shard, self.max_pixels = shard, max_pixels
        self.protocol = {
            "format": FORMAT,
            "plan": plan.name,
            "output_stride": plan.output_stride,
            "multi_grid": plan.multi_grid,
            "in_channels": plan.in_channels,
            "preprocessing": plan.preprocessing,
            "weights_sha256": checkpoints.fingerprint(backbone.weights),
            **dataclasses.asdict(settings),
            "layers": self.layers,
            "resize": "OpenCV INTER_AREA where the long side exceeds size",
            **(provenance or {}),
        }

    def run(
        self,
        found: Sequence[Found],
        *,
        on_error: str = FAIL,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stop: Callable[[], bool] = lambda: False,
        picture: bool = False,
    ) -> Outcome:
        """Extracts the features of `found`, less what an earlier run of the same protocol has finished.

        Args:
            found: of :func:`dense_resnet.images.find_images`.
            on_error: "fail" stops at a bad image, and checks every header before any compute; "skip" records it and goes on.
            progress: called with (images done, images in all), those of an earlier run included.
            stop: asked before each batch; True finishes what has begun and returns.
            picture: also writes the alignment picture of each image, beside its features.

        Raises:
            InputError: a bad image under "fail", an unusable folder, another protocol in it, or another run at work on it.
        """
        index, count = self.shard
        found = list(found)[index::count]
        bad = self._bad_headers(found)
        if bad and on_error == FAIL:
            listed = "\n".join(f"  {message}" for message in list(bad.values())[:20])
            raise InputError(
                f"{len(bad)} of {len(found)} images cannot be used; nothing was computed. "
                f"--on-error skip leaves them out.\n{listed}"
            )
        files.probe_folder(self.out, sum(self._bytes_per_image().values()) * (len(found) - len(bad)))
        self._agree_on_protocol()
        with _Manifest(self.out / self._manifest_name()) as manifest:
            return self._work(found, bad, manifest, on_error, progress, stop, picture)

    def path_of(self, image: Found) -> Path:
        """Where the features of `image` go."""
        return self.out / f"{image.relative}{checkpoints.safetensors.SUFFIX}"

    # ------------------------------------------------------------------------------------------------------------------

    def _work(
        self,
        found: list[Found],
        bad: dict[str, str],
        manifest: _Manifest,
        on_error: str,
        progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        picture: bool,
    ) -> Outcome:
        done = {image.relative for image in found if self._is_done(image, manifest)}
        written, failures, stopped = 0, dict(bad), False
        for name, message in bad.items():
            manifest.add_failure(name, message)
        size = self.settings.batch
        batches = [found[start : start + size] for start in range(0, len(found), size)]
        todo = [
            usable
            for batch in batches
            if (usable := [image for image in batch if image.relative not in bad])
            and any(image.relative not in done for image in usable)
        ]
        progress(len(done), len(found))
        with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(1) as writer:
            decoded = _ahead(decoders, self._read, todo, BATCHES_AHEAD)
            writing: list[Future[None]] = []
            for batch in todo:
                if stop():
                    stopped = True
                    break
                ready = []
                for image, future in zip(batch, next(decoded), strict=True):
                    try:
                        ready.append((image, *future.result()))
                    except InputError as error:
                        if on_error == FAIL:
                            raise
                        failures[image.relative] = str(error)
                        writing.append(writer.submit(manifest.add_failure, image.relative, str(error)))
                if not ready:
                    continue
                maps = self._forward(np.stack([pixels for _, pixels, _, _ in ready]))
                while len(writing) >= BATCHES_AHEAD:
                    writing.pop(0).result()
                writing.append(writer.submit(self._write, ready, maps, done, manifest, picture))
                written += sum(image.relative not in done for image, *_ in ready)
                progress(len(done) + written, len(found))
            for future in writing:
                future.result()
        return Outcome(written, len(done) + written, tuple(failures.values()), stopped)

    def _read(self, image: Found) -> tuple[np.ndarray, Placement, str]:
        plan, side = self.backbone.plan, self.settings.size
        data = images.read_file(image.path)
        pixels = images.decode_image(image.path, data, plan.in_channels, self.max_pixels)
        place = images.placement((pixels.shape[0], pixels.shape[1]), side)
        values = preprocess(images.resize(pixels, place.size), plan.preprocessing)
        canvas = np.zeros((side, side, plan.in_channels), np.float32)
        canvas[: place.size[0], : place.size[1]] = values
        return canvas, place, hashlib.sha256(data).hexdigest()

    def _forward(self, batch: np.ndarray) -> dict[int, np.ndarray]:
        if self.layers == (self.backbone.plan.output_stride,):
            return {self.layers[0]: self.backbone(tf.constant(batch)).numpy()}
        pyramid = self.backbone.features(tf.constant(batch))
        return {stride: pyramid[stride].numpy() for stride in self.layers}

    def _write(
        self,
        ready: list[tuple[Found, np.ndarray, Placement, str]],
        maps: dict[int, np.ndarray],
        done: set[str],
        manifest: _Manifest,
        picture: bool,
    ) -> None:
        dtype = tf.dtypes.as_dtype(self.settings.dtype).as_numpy_dtype
        for number, (image, _, place, sha256) in enumerate(ready):
            if image.relative in done:
                continue
            with np.errstate(over="ignore"):  # said below
                own = {stride: values[number].astype(dtype) for stride, values in maps.items()}
            for stride, values in own.items():
                if not np.isfinite(values.astype(np.float32)).all():
                    finite = np.isfinite(maps[stride][number]).all()
                    cause = (
                        f"they are too large for {self.settings.dtype}; use --dtype bfloat16 or float32"
                        if finite
                        else ("the network made them: are these the weights of this variant, and is the file sound?")
                    )
                    raise InputError(f"{image.path}: features at stride {stride} are not finite: {cause}.")
            record = {
                "path": image.relative,
                "sha256": sha256,
                "scale": place.scale,
                "stride": self.layers,
                "dtype": self.settings.dtype,
            }
            features.write_features(self.path_of(image), own, place, record | {"protocol": self.protocol})
            if picture:
                self._draw(image)
            manifest.add(
                {
                    **record,
                    "status": "ok",
                    "original_size": place.original_size,
                    "padding": place.padding,
                }
            )

    def _draw(self, image: Found) -> None:
        own = features.read_features(self.path_of(image))
        pixels = images.decode_image(image.path, images.read_file(image.path), max_pixels=self.max_pixels)
        write_picture(self.out / f"{image.relative}.png", alignment_picture(pixels, own))

    def _bad_headers(self, found: Sequence[Found]) -> dict[str, str]:
        bad = {}
        for image in found:
            try:
                images.check_image(image.path, self.max_pixels)
            except InputError as error:
                bad[image.relative] = str(error)
        return bad

    def _bytes_per_image(self) -> dict[int, int]:
        plan, side = self.backbone.plan, self.settings.size
        width = tf.dtypes.as_dtype(self.settings.dtype).size
        units = plan.pyramid
        return {
            stride: math.prod(geometry.output_size(side, stride) for _ in range(2))
            * (units[stride] or plan.units[-1]).depth
            * width
            for stride in self.layers
        }

    def _is_done(self, image: Found, manifest: _Manifest) -> bool:
        line = manifest.lines.get(image.relative)
        if line is None or line["status"] != "ok" or not self.path_of(image).is_file():
            return False
        return hashlib.sha256(images.read_file(image.path)).hexdigest() == line["sha256"]

    def _manifest_name(self) -> str:
        index, count = self.shard
        return MANIFEST if count == 1 else f"manifest.{index}-of-{count}.jsonl"

    def _agree_on_protocol(self) -> None:
        path = self.out / PROTOCOL
        text = json.dumps(self.protocol, indent=1) + "\n"
        if not path.exists():
            files.write_bytes(path, text.encode())
            return
        try:
            old = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: cannot be read ({error}). Choose another --out, or delete that file.") from error
        new = json.loads(text)
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differing:
            listed = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing)
            raise InputError(f"{self.out}: holds features of another protocol ({listed}). Choose another --out.")


class _Manifest:
    """The append-only log: a line an image, the last line of an image counts. Open by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _Manifest:
        self._file: TextIO = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(f"{self.path}: another run is writing here. Wait for it, or choose another --out.") from None
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind("\n") + 1]  # a kill can leave half a line
        self._file.truncate(len(whole.encode()))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self.lines[record["path"]] = record
            except (ValueError, KeyError, TypeError):
                self._file.close()
                raise InputError(
                    f"{self.path}, line {number}: damaged. Delete that line; its image will be extracted again."
                ) from None
        return self

    def add(self, record: dict[str, Any]) -> None:
        """Appends a line, on disk when this returns."""
        self.lines[record["path"]] = record
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def add_failure(self, name: str, message: str) -> None:
        """Appends what was wrong with an image, once."""
        record = {"path": name, "status": "error", "error": message}
        if self.lines.get(name) != record:
            self.add(record)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Found], Any], batches: Sequence[Sequence[Found]], ahead: int
) -> Iterator[list[Future[Any]]]:
    """The futures of each batch's images, submitted `ahead` batches before they are asked for."""
    pending: list[list[Future[Any]]] = []
    for batch in batches:
        pending.append([pool.submit(read, image) for image in batch])
        if len(pending) > ahead:
            yield pending.pop(0)
    yield from pending
