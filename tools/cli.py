"""The command ``dense-resnet``: one file here per verb, in the order of the work.

A verb's file has ``HELP``, ``configure(parser)`` and ``main(args)``, which returns the exit code. Verbs import the library
inside their functions, so that ``--help`` and ``describe`` start at once. Exit codes: 0 done, 1 a mistake in the input or
a law that fails, 2 unknown options, 75 stopped by a signal and ready to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import io
import itertools
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dense_resnet.backbone import Backbone
    from dense_resnet.images import Encoded
    from dense_resnet.pace import Pace
    from dense_resnet.plan import Plan
    from dense_resnet.runner import Runner
    from segmentation.export import Exported
    from segmentation.inference import Inference
    from segmentation.model_directory import Outline, SavedModel

VERBS = (
    "describe", "check", "convert", "extract", "doctor", "train", "evaluate", "compare", "predict", "export", "benchmark",
    "demo",
)  # fmt: skip
STOPPED = 75  # EX_TEMPFAIL: run it again
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an output that takes no more


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; a mistake in the input becomes one message."""
    try:  # Ctrl-C can come at once
        from dense_resnet import __version__
        from dense_resnet.errors import InputError, spelt

        _outlive_readers()
        parser = argparse.ArgumentParser(
            prog="dense-resnet", description="ResNet backbones for dense prediction.", allow_abbrev=False
        )
        parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        modules = {verb: importlib.import_module(f"{__package__}.{verb}") for verb in VERBS}
        parsers = {
            verb: verbs.add_parser(verb, help=module.HELP, description=module.HELP, allow_abbrev=False)
            for verb, module in modules.items()
        }
        for verb, module in modules.items():
            module.configure(parsers[verb])
        words = sys.argv[1:] if arguments is None else arguments
        _check_verb(parser, words)
        strange = _strange_options(words[1:], parsers[words[0]]) if words and words[0] in parsers else []
        if strange:  # `--output DIR` says more than that --out is missing
            for part in (*parsers[words[0]]._actions, *parsers[words[0]]._mutually_exclusive_groups):
                part.required = False
        args, unknown = parser.parse_known_args(words)
        if unknown or strange:
            listed = " ".join(unknown or strange)
            hints = "".join(f" {hint}" for hint in _hints(strange, args.verb, parsers))
            parsers[args.verb].error(f"unrecognized arguments: {listed}{'.' if hints else ''}{hints}")
        _check_texts(args)
        with _interrupts(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Image size .* exceeds limit", RuntimeWarning)  # they are refused by name
            warnings.showwarning = _print_warning
            code: int = modules[args.verb].main(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STOPPED
    except ModuleNotFoundError as error:
        message = f"{error}, in the Python {sys.executable}. `pip install .` in the checkout puts all that is needed there."
    except (InputError, ImportError) as error:
        message = str(error)
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        if error.filename is None:
            _drop_output()
        message = f"{error.filename or 'the output'}: {error.strerror}."
    print(f"error: {spelt(message)}", file=sys.stderr)
    return 1


def _print_warning(message: Warning | str, *unused: Any) -> None:
    """A warning of the library, without its place in the code."""
    from dense_resnet.errors import spelt

    print(f"warning: {spelt(str(message))}", file=sys.stderr)


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM does what SIGINT does: a KeyboardInterrupt, even where the extension that it came into raised another."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with _handling(handle):
            yield
    except Exception as error:
        if received:
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def _handling(handle: Callable[[int, object], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handle`; where whoever started us had one ignored, it stays so."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.FileIO):
    """A stream whose reader may go: what nobody reads is dropped, and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def _outlive_readers() -> None:
    """Standard output and errors that no reader's end disturbs, and no name: what cannot be printed is spelt out."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # who calls has put something else there
        stream.flush()
        raw = _Output(stream.fileno(), "w", closefd=False)
        buffer = raw if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(raw)  # PYTHONUNBUFFERED, or not
        lasting = io.TextIOWrapper(
            buffer,  # type: ignore[arg-type]
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lasting)


def _drop_output() -> None:
    """What is still in the output's buffer has nowhere to go."""
    with contextlib.suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_verb(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Ends where the first argument is neither a verb nor an option of the command itself: says what may be meant."""
    if not arguments or arguments[0] in (*VERBS, "-h", "--help", "--version"):
        return
    first = arguments[0]
    if first.startswith("-"):
        verb = next((argument for argument in arguments if argument in VERBS), "VERB")
        parser.error(f"{first} stands before the verb; options follow it: dense-resnet {verb} … {first}")
    close = difflib.get_close_matches(first, VERBS, 1)
    parser.error(f"unknown verb {first!r}.{f' Did you mean {close[0]}?' if close else ''} Verbs: {', '.join(VERBS)}.")


def _strange_options(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The options among a verb's arguments that it does not have."""
    given = itertools.takewhile(lambda word: word != "--", words)
    names = [word.partition("=")[0] for word in given if re.match(r"--?[A-Za-z]\S*$", word)]
    return [name for name in names if name not in parser._option_string_actions]


def _hints(strange: Sequence[str], verb: str, parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """What is meant by options that `verb` does not have: one of its own, by meaning or by letters, or another verb's."""
    from . import synonyms

    options = {name: parser._option_string_actions.keys() for name, parser in parsers.items()}
    own, places = options[verb], {str(action.metavar) for action in parsers[verb]._actions if not action.option_strings}
    for given in strange:
        plain = f"--{synonyms.plain_name(given)}"
        if plain in own:
            yield f"Did you mean {plain}?"
        elif said := synonyms.meant(given, own | places):
            yield said
        elif others := [name for name in parsers if given in options[name]]:
            yield f"{given} is an option of {', '.join(others)}."
        elif close := [name for name in own if name.startswith(plain)] or difflib.get_close_matches(plain, own, 1):
            yield f"Did you mean {close[0]}?"


def _check_texts(args: argparse.Namespace) -> None:
    """Refuses empty texts, which would mean the folder here, and puts the home folder for a ``~`` that no shell replaced."""
    from dense_resnet.errors import InputError

    def checked(name: str, text: str) -> str:
        if not text:
            raise InputError(f"{name}: is empty. Is it a variable of the shell that is not set?")
        return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text

    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, checked(name, value))
        elif isinstance(value, list):
            setattr(args, name, [checked(name, item) if isinstance(item, str) else item for item in value])


def script(file: str) -> None:
    """Runs a verb's file as a script, from a checkout that need not be installed."""
    here = Path(file).resolve()
    sys.path[0] = str(here.parent.parent)
    cli = importlib.import_module(f"{here.parent.name}.cli")
    raise SystemExit(cli.main([here.stem, *sys.argv[1:]]))


# --------------------------------------------------------------------------------------------------------------------
# What several verbs share


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """--output-stride and --multi-grid."""
    parser.add_argument("--output-stride", type=int, metavar="N", help="pixels per feature cell: 4, 8, 16, 32")
    parser.add_argument(
        "--multi-grid", type=int, nargs="+", metavar="N", help="atrous factors of the last block, such as 1 2 4"
    )


WEIGHTS_HELP = "a slim .ckpt, .safetensors, Keras .h5 or .keras, PyTorch .pth, keras:ResNet152V2, or a model directory"


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """--weights or --random-weights."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--weights", metavar="PATH", help=WEIGHTS_HELP)
    group.add_argument("--random-weights", type=int, metavar="SEED", help="fresh weights instead, for trying things out")


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """The dataset and how its labels are read."""
    parser.add_argument("dataset", metavar="DATASET", help="a folder in a layout that doctor knows, or a CSV list")
    parser.add_argument("--classes", metavar="FILE", help="a dataset.json with class names and colours")
    parser.add_argument(
        "--label-map", metavar="MAP", help="labelIds, trainIds, reduce_zero_label, or a JSON file of value: label"
    )
    parser.add_argument(
        "--exif", choices=("error", "apply", "ignore"), default="error", help="what a rotated image gets (default error)"
    )


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """How a model is run on an image."""
    group = parser.add_argument_group("inference")
    group.add_argument("--output-stride", type=int, metavar="N", help="another one than the model was trained at")
    group.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="side of the canvas, 32n+1 (default: that of the model's validation or export, else 513)",
    )
    group.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="X", help="such as 0.5 0.75 1 1.25 (default 1)"
    )
    group.add_argument("--flip", action="store_true", help="also mirrored, and averaged")
    group.add_argument("--tile", type=int, metavar="N", help="sliding windows of that side, 32n+1, over large images")


def asked_inference(args: argparse.Namespace, model: Outline | SavedModel | Exported, **others: str) -> Inference:
    """What :func:`add_inference_options` asks for; refuses what `model` cannot."""
    from dense_resnet.errors import InputError
    from segmentation.inference import Inference

    size = model.size if args.size is None else args.size
    asked = {"scales": tuple(args.scales), "flip": args.flip, "tile": args.tile, **others}
    inference = Inference(**asked) if size is None else Inference(size=size, **asked)
    inference.check(model.plan.nominal_stride)
    side = getattr(model, "side", None)  # of an export's only canvas
    if side and inference.scales == (1.0,) and min(inference.size, inference.tile or inference.size) != side:
        raise InputError(
            f"--size: this network was exported for canvases of {side}x{side} pixels alone (not {inference.size}). "
            "`export --size dynamic` writes one that takes any."
        )
    return inference


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """How a network is run, for the same answers."""
    group = parser.add_argument_group("speed")
    precision = group.add_mutually_exclusive_group()
    precision.add_argument(
        "--precision", default="auto", help="auto (bfloat16 where the processor has it), float32 or bfloat16 (default auto)"
    )
    precision.add_argument("--exact", action="store_true", help="the slim graph in float32 instead of the folded one")
    group.add_argument("--batch", type=int, metavar="N", help="images at a time (default: measured where it pays)")
    group.add_argument("--threads", type=int, metavar="N", help="batches at the same time (default: measured where it pays)")


def asked_precision(args: argparse.Namespace) -> str:
    """What :func:`add_speed_options` asks for; refuses before anything is read."""
    from dense_resnet.errors import InputError
    from dense_resnet.geometry import positive_integer
    from dense_resnet.precision import PRECISIONS

    for name in ("batch", "threads"):
        if (value := getattr(args, name)) is not None:
            positive_integer(f"--{name}", value)
    if args.exact:
        return "exact"
    if args.precision not in PRECISIONS:
        raise InputError(f"--precision must be auto, float32 or bfloat16 (not {args.precision!r}).")
    return str(args.precision)


def chosen_pace(args: argparse.Namespace, runner: Runner, side: int, images: int, protocol: str) -> Pace:
    """Batch and threads: as asked for, the batch as in the `protocol` of an earlier run in --out, or measured; says which.

    Shards run one image at a time unless told otherwise, so that machines agree.
    """
    import numpy as np

    from dense_resnet import journal, pace
    from dense_resnet.errors import counted
    from dense_resnet.runner import CELLS

    names = (CELLS,) if CELLS in runner.names else runner.names  # what the run will ask for
    earlier = journal.recorded(Path(args.out) / protocol)
    recorded = earlier.get("system", earlier)
    recorded = recorded.get("batch") if isinstance(recorded, dict) else None
    batch = args.batch or (recorded if isinstance(recorded, int) and recorded > 0 else None)
    batch = batch or (None if shard_of(args.shard)[1] == 1 else 1)
    canvas = np.random.default_rng(0).integers(0, 256, (side, side, runner.plan.in_channels), np.uint8)
    chosen = pace.chosen(lambda size: runner(np.stack([canvas] * size), names=names), images, batch=batch, threads=args.threads)
    batches = f"{counted(chosen.batch, 'image')} at a time" + (
        f", {chosen.threads} batches at once" if chosen.threads > 1 else ""
    )
    speed = f", measured: {chosen.images_per_second:.2f} images/s" if chosen.images_per_second else ""
    print(f"{runner.precision}: {batches}{speed}")
    return chosen


def outlined_model(args: argparse.Namespace) -> Outline | None:
    """What is known of the segmentation model that --model names before TensorFlow is imported; None of an ONNX file.

    Refuses what is no model, so that nobody waits for it.
    """
    from segmentation.export_files import is_exported
    from segmentation.model_directory import check_head, explained, saved_outline

    outline = outlined_export(args) if is_exported(args.model) else saved_outline(args.model, args.output_stride)
    if outline:
        with explained(Path(args.model)):
            check_head(outline)
    return outline


def outlined_export(args: argparse.Namespace) -> Outline | None:
    """What is known of the exported file that --model names before TensorFlow is imported; None of an ONNX file."""
    from segmentation.export_files import exported_outline

    outline = exported_outline(args.model)
    if outline:
        _check_exported_stride(args, outline.plan)
    return outline


def opened_model(args: argparse.Namespace) -> SavedModel | Exported:
    """The model directory, or exported file, that --model names."""
    from segmentation.export_files import is_exported
    from segmentation.model_directory import load_model

    return opened_export(args) if is_exported(args.model) else load_model(args.model, args.output_stride)


def opened_export(args: argparse.Namespace) -> Exported:
    """The exported file that --model names."""
    from segmentation.export import open_exported

    exported = open_exported(args.model)
    _check_exported_stride(args, exported.plan)
    return exported


def _check_exported_stride(args: argparse.Namespace, planned: Plan) -> None:
    from dense_resnet.errors import InputError

    if args.output_stride not in (None, planned.output_stride):
        own = planned.output_stride
        raise InputError(f"{args.model}: was exported at output_stride {own}. `export --output-stride` writes another.")


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Which images, and what bad ones get."""
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th image from the I-th on")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="at a bad image (default fail)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger images (default 89478485)")


def asked_max_pixels(args: argparse.Namespace) -> int:
    """--max-pixels, or the default."""
    from dense_resnet.geometry import positive_integer
    from dense_resnet.images import MAX_PIXELS

    return MAX_PIXELS if args.max_pixels is None else positive_integer("max_pixels", args.max_pixels)


def shard_of(text: str) -> tuple[int, int]:
    """--shard as numbers."""
    from dense_resnet.errors import InputError

    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard must be I/N with 0 <= I < N, such as 0/4 (not {text!r}).")
    return int(index), int(count)


def start_tensorflow() -> None:
    """Imports TensorFlow with oneDNN, and without the lines that it prints before anybody can set its log level.

    TensorFlow leaves oneDNN off on processors without AVX512-VNNI, though convolutions are faster with it there too.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(silent, 2)
    try:
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")  # a run traces functions for many sizes, which users cannot act on
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


def described_network(name: str) -> Any:
    """--model as :func:`dense_resnet.variants.from_description` takes it: a variant's name, or a .json file's blocks."""
    from dense_resnet import strict_json
    from dense_resnet.errors import InputError

    if not (name.endswith(".json") and os.path.isfile(name)):
        return checked_name(name)
    try:
        return strict_json.loads(Path(name).read_bytes())
    except ValueError as error:
        raise InputError(f"{name}: is not JSON: {error}.") from error


def checked_name(name: str) -> str:
    """`name` where it may be a variant's; refuses what is a path, or like no variant's name."""
    from dense_resnet.errors import InputError
    from dense_resnet.variants import VARIANTS

    if name in VARIANTS:
        return name
    if os.path.isfile(name) or os.path.isfile(f"{name}.index"):
        raise InputError(f"{name}: is a file, no variant's name. If it holds weights, name the VARIANT, and --weights {name}.")
    if os.sep in name or "." in name or "resnet" not in name.lower():
        raise InputError(f"{name}: no such file or folder, and no variant's name.")
    return name


def is_folder(name: str) -> bool:
    """Whether --model is a model directory; a variant's name is that variant, whatever else has it."""
    from dense_resnet.variants import VARIANTS

    return name not in VARIANTS and Path(name).is_dir()


def asked_plan(args: argparse.Namespace, name: str) -> Plan:
    """The plan that --output-stride and --multi-grid ask for, of a variant or of a model directory's backbone.

    Refuses, without TensorFlow and before weights are read, if none are given or none are there.
    """
    from dense_resnet.errors import InputError
    from dense_resnet.geometry import checked_seed
    from dense_resnet.variants import plan

    given = args.weights is not None or args.random_weights is not None
    if is_folder(name):
        if given:
            raise InputError(f"{name}: a model directory has its own weights: leave --weights and --random-weights out.")
        from segmentation.model_directory import saved_plan

        return saved_plan(name, args.output_stride, multi_grid=args.multi_grid)
    planned = plan(checked_name(name), args.output_stride, multi_grid=args.multi_grid)
    if not given:
        raise InputError("no weights: give --weights PATH, or --random-weights SEED to try things out.")
    if args.weights is None:
        checked_seed(args.random_weights)
    else:
        from dense_resnet.checkpoints import check_source

        check_source(args.weights)
    return planned


def loaded_backbone(args: argparse.Namespace, name: str, planned: Plan) -> Backbone:
    """The backbone with what --weights or --random-weights ask for, or a model directory's; prints the load report."""
    start_tensorflow()
    from dense_resnet.backbone import Backbone
    from dense_resnet.errors import spelt

    if is_folder(name):
        from segmentation.model_directory import load_backbone

        return load_backbone(name, args.output_stride, multi_grid=args.multi_grid)
    backbone = Backbone(planned, seed=args.random_weights)
    if args.weights is not None:
        print(spelt(str(backbone.load(args.weights))))
    else:
        print(
            f"{planned.name}: random weights of seed {args.random_weights}. The features mean nothing; the geometry is exact."
        )
    return backbone


def checked_laws(backbone: Backbone, nominal: Plan, size: int) -> bool:
    """Whether laws 2 and 3 hold on the backbone's weights; prints a table of the figures."""
    from rich.console import Console
    from rich.table import Table

    from dense_resnet import laws

    table = Table("law", "largest error", "of std", "")
    holds = True
    for finding in laws.check(backbone, nominal, size):
        verdict = "[green]holds[/]" if finding.holds else "[red]FAILS[/]"
        table.add_row(finding.law, f"{finding.error:.1e}", f"{finding.spread:.3g}", verdict)
        holds = holds and finding.holds
    console = Console()
    console.print(table)
    console.print(
        f"Errors are max|a - b| / std(b); a law holds up to {laws.TOLERANCE:g}, "
        f"and must break by {laws.BREAKS:g} at even sizes."
    )
    return holds


def print_note(message: str) -> None:
    """What is no mistake, and good to know."""
    from dense_resnet.errors import spelt

    print(f"note: {spelt(message)}")


def print_deep(pictures: Iterable[Encoded], max_pixels: int) -> None:
    """Which of the images to be read have 16 bits, and what of their range is used; nothing where none has."""
    from dense_resnet.errors import spelt
    from dense_resnet.images import find_deep

    if deep := find_deep(pictures, max_pixels):
        print(f"{'warning' if deep.are_dark else 'note'}: {spelt(str(deep))}")


def print_skipped(failed: Sequence[str]) -> None:
    """The messages of the images that were left out, if any."""
    from dense_resnet.errors import counted, spelt

    if failed:
        print(f"{counted(len(failed), 'image')} skipped:")
        for message in failed:
            print(f"  {spelt(message)}")


def print_outcome(outcome: Any, out: str, what: str) -> int:
    """What a run over images has written to `out`, what it left out, whether it was stopped; gives the exit code."""
    from dense_resnet.errors import counted

    earlier = outcome.total - outcome.written
    print(
        f"{out}: {what} of {counted(outcome.total, 'image')}" + (f", {earlier} of them from an earlier run" if earlier else "")
    )
    print_skipped(outcome.failed)
    if outcome.stopped:
        print("stopped; the same command goes on from here")
        return STOPPED
    return 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came; a second signal ends the process at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        with contextlib.suppress(OSError):  # nobody may read it any more
            print("stopping after what has begun; once more to end at once", file=sys.stderr)

    with _handling(handle):
        yield lambda: bool(received)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """A function of (what, done, total, note) that draws a bar with images/s and the time left; the note may be left out."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from dense_resnet.errors import spelt

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.2f} images/s" if task.speed else "")

    text, note = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[note]}"))
    columns = (text, BarColumn(20), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), note)
    with Progress(*columns, speed_estimate_period=120) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int, note: str = "") -> None:
            what = spelt(what)
            if what not in tasks:  # what came before has made room for it
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total, completed=done, note=note)
            bar.update(tasks[what], completed=done, note=note)

        yield show
