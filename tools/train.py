"""``dense-resnet train``: from a dataset to a model directory."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError, escape_control, pluralize
from dense_resnet.planning.geometry import check_aligned
from dense_resnet.planning.variants import USUAL_STRIDE, plan_from_config

from . import options, terminal

if TYPE_CHECKING:
    from dense_resnet.planning.plan import Plan
    from segmentation.data.doctor import Checked
    from segmentation.data.label_counts import LabelCounts
    from segmentation.data.layouts import Layout
    from segmentation.data.samples import Dataset
    from segmentation.training.loop import Outcome, Training
    from segmentation.training.recipe import Recipe
    from segmentation.training.start import Start

HELP = "Train a segmentation model on a dataset; the same command resumes it, and larger --steps continue it."
AUTO, YES, NO = "auto", "yes", "no"
NONE, BALANCED = "none", "balanced"
ONE, MIRRORED, WORKERS = "one", "mirrored", "multi-worker"
SCENES = "scenes"  # names the model that comes with the package
SCENES_MODEL = Path(__file__).resolve().parent / "scenes_model"


def configure(parser: argparse.ArgumentParser) -> None:
    from segmentation.heads.plan import DEFAULT_HEAD

    options.add_dataset_options(parser)
    add = parser.add_argument
    add("--split", metavar="NAME", help="what to train on (default train, or the only one)")
    add("--validation", metavar="NAME", help="what to choose the best model by (default val if there is one; or none)")
    add("--out", required=True, metavar="DIR", help="where the model goes")

    network = parser.add_argument_group("network")
    add = network.add_argument
    add(
        "--init",
        metavar="DIR",
        help=f"a model directory to start from, or {SCENES}, the small model that comes with this (default)",
    )
    add(
        "--model", metavar="VARIANT", help="start from a backbone, such as resnet_v2_50 or a .json file with a plan of your own"
    )
    add("--weights", metavar="PATH", help=f"of the backbone: {options.WEIGHTS_HELP}; else random")
    options.add_plan_options(network)
    add("--head", metavar="NAME", help=f"fcn, aspp or decoder (default {DEFAULT_HEAD})")
    add("--plain", action="store_true", help="plain 3x3 convolutions in the head, not separable ones")

    add = parser.add_argument_group("views of the images").add_argument
    add("--crop", type=int, metavar="N", help="side in pixels, 32n+1 (default: by the images' sizes)")
    add("--scale", type=float, nargs=2, default=[0.5, 2.0], metavar=("LOW", "HIGH"), help="default 0.5 2")
    add("--no-flip", action="store_true", help="no mirror images")
    add("--jitter", type=float, default=0.0, metavar="X", help="strength of color jitter, such as 0.3 (default 0)")
    add(
        "--augment",
        type=float,
        default=0.0,
        metavar="X",
        help="strength of rotation, blur, noise and colors, up to 1 (default 0)",
    )

    add = parser.add_argument_group("recipe").add_argument
    add(
        "--steps",
        type=int,
        metavar="N",
        help="batches in total; a larger number continues a training (default: by images and time)",
    )
    add("--batch", type=int, metavar="N", help="images per step, over all devices (default: by memory, at most 8)")
    add("--optimizer", default="sgd", metavar="NAME", help="sgd or adamw (default sgd)")
    add("--lr", "--learning-rate", type=float, metavar="X", help="first learning rate (default: by optimizer, start and batch)")
    add("--schedule", default="poly", metavar="NAME", help="of the learning rate: poly or cosine (default poly)")
    add("--head-rate", type=float, default=1.0, metavar="X", help="factor on the head's learning rate (default 1)")
    add("--warmup", type=int, default=0, metavar="N", help="steps of rising learning rate (default 0)")
    add("--momentum", type=float, default=0.9, metavar="X", help="default 0.9")
    add("--weight-decay", type=float, metavar="X", help="of convolutions (default 0.0001; of adamw 0.01)")
    add("--clip", type=float, metavar="X", help="largest global norm of the gradients (default: 1 if --lr is not given)")
    add("--loss", default="ce", metavar="NAME", help="ce, focal, dice, lovasz or ce+dice (default ce)")
    add("--class-weights", nargs="+", metavar="X", help="none, balanced, or one number per class (default: by the labels)")
    add(
        "--hardest", type=float, default=1.0, metavar="X",
        help="share of each image's pixels, those of largest loss (default 1)",
    )  # fmt: skip
    add(
        "--freeze-bn", choices=(AUTO, YES, NO), default=AUTO,
        help="batch norm by its moving averages (auto: below 12 images a batch, if weights of pictures are given; image "
        "pooling's always below 12 a device)",
    )  # fmt: skip
    add("--auxiliary", type=float, default=0.0, metavar="X", help="weight of a second head's loss, such as 0.4 (default 0)")
    add("--ema", type=float, metavar="X", help="average the weights with this decay, such as 0.999 (default none)")
    add("--patience", type=int, metavar="N", help="end after so many validations without a better model (default none)")
    add("--precision", default="float32", metavar="TYPE", help="float32 or bfloat16 (default float32)")
    add("--seed", type=int, default=0, metavar="N", help="default 0")

    add = parser.add_argument_group("run").add_argument
    add("--distribute", choices=(AUTO, ONE, MIRRORED, WORKERS), default=AUTO, help="auto: by TF_CONFIG")
    add("--validate-every", type=int, metavar="N", help="steps (default: a tenth of --steps, from 50 to 500)")
    add("--save-every", type=int, metavar="N", help="steps (default: as --validate-every)")
    add("--size", type=int, metavar="N", help="canvas of validation images, 32n+1 (default: by the images' sizes)")
    add("--yes", action="store_true", help="begin a training that takes more than a day")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.jobs.atomic_files import check_folder
    from segmentation.data.layouts import recognize
    from segmentation.training.choice import MOST_STEPS
    from segmentation.training.recipe import FOLDER

    if args.model and args.init:
        raise InputError("give either --model VARIANT, or --init DIR to start from a trained model.")
    if args.model and options.is_folder(args.model):
        raise InputError(f"{args.model}: is a folder, not a variant's name. If it is a model directory: --init {args.model}.")
    if not args.model:
        if args.weights or args.multi_grid or args.head or args.plain:
            raise InputError("--init brings the whole model: --weights, --multi-grid, --head and --plain go with --model.")
        if not args.init:
            print(f"start: the small model that comes with this (--init {SCENES}); --model and --weights start from others")
        args.init = str(SCENES_MODEL) if args.init in (None, SCENES) else args.init
    check_folder(args.out)
    planned = None if args.init else _plan(args)
    layout = recognize(args.dataset, classes=args.classes, label_map=args.label_map)
    for note in layout.notes:
        terminal.print_note(note)
    prepared = None if layout.is_records else _prepare(args, layout, planned)  # reports mistakes before TensorFlow is imported
    with terminal.stop_signals() as stop:
        options.start_tensorflow()
        import tensorflow as tf

        strategy = _strategy(args.distribute)  # before anything else of TensorFlow runs
        tf.config.experimental.enable_op_determinism()
        from segmentation.training.loop import Training

        work = prepared or _prepare(args, layout, planned)

        def make(out: str, steps: int) -> tuple[Training, Start]:
            with strategy.scope():
                start = _start(args, work, steps)
            training = Training(
                start.model, work.dataset, work.validation, out, _recipe(args, steps),
                preprocessing=start.preprocessing, strategy=strategy, validation_size=args.size,
            )  # fmt: skip
            return training, start

        if args.steps is None:
            with tempfile.TemporaryDirectory() as unused:
                _choose_steps(args, work, make(unused, MOST_STEPS)[0])
        _print_choice(work.chosen)
        training, start = make(args.out, args.steps)
        for note in start.notes:
            print(escape_control(note))
        with terminal.progress_bar() as progress:
            outcome = training.run(progress=progress, stop=stop, say=print, checked=work.checked, unbounded=args.yes)
    if outcome.stopped:
        print(f"stopped at step {outcome.step} of {args.steps}; the same command resumes from here")
        return terminal.STOPPED
    if not training.chief:
        print(f"{args.out}: the first worker has written the model after {outcome.step} steps")
        return 0
    print(_result(args.out, outcome, validated=work.validation is not None))
    if work.validation is not None:
        print(f"the page: {os.path.join(args.out, FOLDER, 'index.html')}")
        print(f"next: dense-resnet evaluate {args.dataset} --model {args.out} --out evaluation")
    return 0


@dataclasses.dataclass(frozen=True)
class Work:
    """What is known of a training before TensorFlow is imported."""

    dataset: Dataset
    validation: Dataset | None
    checked: Checked
    planned: Plan | None  # of a new model; None for the model of --init
    chosen: dict[str, str]  # options that were not given, as text, and why


def _prepare(args: argparse.Namespace, layout: Layout, planned: Plan | None) -> Work:
    """Read the datasets and choose what is not given, checked as far as possible before weights are read."""
    from dense_resnet.checkpoints import check_source
    from segmentation.data.doctor import check_splits
    from segmentation.heads.plan import DEFAULT_HEAD, plan_head
    from segmentation.prediction.options import Inference
    from segmentation.saving.description import check_head, explain_errors
    from segmentation.saving.model_directory import read_outline
    from segmentation.training.choice import MOST_STEPS

    dataset, validation = _datasets(args, layout)
    splits = [split for split in (dataset, validation) if split is not None]
    for split in splits:
        split.check_apart(Path(args.out))
    if planned is None:
        outline = read_outline(args.init, args.output_stride)
        with explain_errors(Path(args.init)):
            check_head(outline)
        planned = outline.plan
    else:
        plan_head(planned, dataset.space.num_classes, args.head or DEFAULT_HEAD, separable=not args.plain)
    if args.weights:
        check_source(args.weights)
    _resume(args)
    if args.crop is not None:
        check_aligned("crop", args.crop, planned.nominal_stride)
    if args.size is not None:
        Inference(args.size).check(planned.nominal_stride)
    _recipe(args, args.steps or MOST_STEPS).check(dataset.space.num_classes)
    with terminal.progress_bar() as progress:
        checked = check_splits(splits, progress)
    chosen = _choose(args, planned, checked.labels[0])
    print(f"batch norm: {_batch_norm(args)[1]}")
    return Work(dataset, validation, checked, None if args.init else planned, chosen)


def _resume(args: argparse.Namespace) -> None:
    """Take what is not given from the training in the folder, if there is one: the same command resumes it."""
    from segmentation.training.choice import read_choice

    if (before := read_choice(Path(args.out))) is not None:
        for name, value in before.items():
            if getattr(args, name) is None:
                setattr(args, name, value)


def _choose(args: argparse.Namespace, plan: Plan, labels: LabelCounts) -> dict[str, str]:
    """Set every option that is not given, but the steps; return them as text, with the reasons."""
    from segmentation.training import choice
    from segmentation.training.recipe import PIXEL_LOSSES

    sizes, fits, chosen = labels.sizes, _fits(args), {}

    def set_option(name: str, value: Any, reason: str) -> None:
        if getattr(args, name) is None:
            setattr(args, name, value)
            chosen[f"--{name.replace('_', '-')} {value[0] if isinstance(value, list) else value}"] = reason

    set_option("crop", choice.choose_crop(sizes), "half of the images' median shorter side")
    size = choice.choose_size(sizes)
    fitting = sum(number for shape, number in sizes.items() if max(shape) <= size)
    set_option("size", size, f"{fitting} of {pluralize(sizes.total(), 'image')} fit on this canvas; larger ones get their own")
    set_option("batch", choice.choose_batch(plan, args.crop, choice.free_memory()), "by the free memory")
    if args.lr is None:  # else the two are of one's own
        set_option("clip", choice.CLIP, "so that no single batch can destroy the weights")
    rate = choice.choose_rate(args.optimizer, args.batch, fits=fits)
    set_option(
        "lr", rate, f"by optimizer and batch, for weights that are {'trained' if fits else 'random, or of drawn scenes'}"
    )
    set_option("weight_decay", choice.WEIGHT_DECAYS[args.optimizer], f"usual for {args.optimizer}")
    rare = choice.find_rare(labels.pixels) if args.loss in PIXEL_LOSSES else None
    why = (
        "no class is rare"
        if rare is None
        else f"{labels.space.names[rare]!r} has {labels.pixels[rare] / labels.pixels.sum():.2%} of the pixels"
    )
    set_option("class_weights", [NONE if rare is None else BALANCED], why)
    if args.class_weights == [BALANCED]:
        args.class_weights = _balance_classes(labels)
    return chosen


def _choose_steps(args: argparse.Namespace, work: Work, training: Training) -> None:
    """Set the steps by the time of a few of them."""
    from segmentation.training.choice import choose_steps
    from segmentation.training.step import measure_step

    seconds, images, cluster = measure_step(training), len(work.dataset.samples), training.cluster
    steps = choose_steps(work.checked.labels[0].sizes, args.crop, args.batch, seconds)
    args.steps = cluster.total(steps) // cluster.workers
    minutes = max(1, round(args.steps * seconds / 60))
    views = pluralize(round(args.steps * args.batch / images), "view")
    work.chosen[f"--steps {args.steps}"] = f"{views} of each image, {seconds:.2f} s a step: about {minutes} min"


def _print_choice(chosen: dict[str, str]) -> None:
    """Print what was chosen and why, and as options to paste."""
    if chosen:
        print("chosen from the data and for this machine:")
        for option, reason in chosen.items():
            print(f"  {option:26} {escape_control(reason)}")
        print(f"as options: {' '.join(chosen)}")


def _result(out: str, outcome: Outcome, *, validated: bool) -> str:
    """Say which models a training has left, where they are and what they scored."""
    from segmentation.training.recipe import LAST

    if not validated:
        return f"{out}: the model after {outcome.step} steps"
    mean, last = ("no mean IoU" if score is None else f"mean IoU {score:.4f}" for score in (outcome.best, outcome.last))
    at = "" if outcome.best_step is None else f" at step {outcome.best_step}"
    return f"best: {mean}{at}, in {out}; last: {last} at step {outcome.step}, in {os.path.join(out, LAST)}"


def _datasets(args: argparse.Namespace, layout: Layout) -> tuple[Dataset, Dataset | None]:
    from dense_resnet.image_io.decoding import MAX_PIXELS
    from segmentation.data.layouts import TRAINING, VALIDATION, open_layout, usual_split

    dataset = open_layout(layout, args.split or usual_split(layout, TRAINING), exif=args.exif)
    chosen = args.validation or usual_split(layout, VALIDATION) or NONE
    validation = None if chosen == NONE else open_layout(layout, chosen, exif=args.exif)
    splits = (dataset, validation) if validation else (dataset,)
    for note in dict.fromkeys(note for split in splits for note in split.notes):
        terminal.print_note(note)
    terminal.print_deep(dict.fromkeys(sample.image for split in splits for sample in split.samples), MAX_PIXELS)
    if validation is None:
        print("no validation images: the last model is kept, not the best")
    return dataset, validation


def _plan(args: argparse.Namespace) -> Plan:
    stride = USUAL_STRIDE if args.output_stride is None else args.output_stride
    return plan_from_config(options.read_network_config(args.model), stride, args.multi_grid)


def _strategy(asked: str) -> Any:
    import tensorflow as tf

    if asked == WORKERS or (asked == AUTO and os.environ.get("TF_CONFIG")):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"TF_CONFIG does not describe a cluster ({error}). Expected, for example: "
                '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
            ) from error
    return tf.distribute.MirroredStrategy() if asked == MIRRORED else tf.distribute.get_strategy()


def _fits(args: argparse.Namespace) -> bool:
    """Return whether the weights to start from are trained ones of pictures: those of the drawn scenes are not."""
    return bool(args.weights) or (bool(args.init) and Path(args.init).resolve() != SCENES_MODEL)


def _batch_norm(args: argparse.Namespace) -> tuple[bool, str]:
    """Return whether the backbone's batch norm is frozen, and that in words with the reason."""
    from segmentation.training.recipe import SMALLEST_BATCH

    fits, small = _fits(args), args.batch < SMALLEST_BATCH
    freeze = args.freeze_bn == YES or (args.freeze_bn == AUTO and small and fits)
    why = f"{pluralize(args.batch, 'image')} a batch" if args.freeze_bn == AUTO else "as asked"
    if args.freeze_bn == AUTO and small and not fits:
        why = "the moving averages of drawn scenes do not fit" if args.init else "random weights have no moving averages"
    return freeze, f"{'frozen' if freeze else 'by the batch'} ({why})"


def _recipe(args: argparse.Namespace, steps: int) -> Recipe:
    """Return the recipe; what is not given yet has the recipe's own default."""
    from segmentation.data.transforms import Augmentation
    from segmentation.training.recipe import Recipe

    own = (
        "batch head_rate warmup momentum weight_decay clip hardest seed precision validate_every save_every optimizer schedule "
        "loss ema auxiliary patience"
    )
    given = {name: getattr(args, name) for name in own.split()}
    given |= {"learning_rate": args.lr, "class_weights": _class_weights(args.class_weights)}
    every = min(max(steps // 10, 50), 500)
    given["validate_every"] = args.validate_every or every
    given["save_every"] = args.save_every or given["validate_every"]
    crop = Augmentation.crop if args.crop is None else (args.crop, args.crop)
    return Recipe(
        steps,
        **{name: value for name, value in given.items() if value is not None},
        freeze_batch_norm=args.batch is not None and _batch_norm(args)[0],
        augmentation=Augmentation(crop, tuple(args.scale), not args.no_flip, args.jitter, args.augment),
    )


def _balance_classes(labels: LabelCounts) -> tuple[float, ...]:
    """Return class weights from the labels of the training split; print them."""
    from segmentation.data.label_counts import class_weights

    weights = tuple(float(f"{weight:.4g}") for weight in class_weights(labels.pixels))
    named = ", ".join(f"{name} {w:g}" for name, w in zip(labels.space.names, weights, strict=True))
    print(f"class weights: {escape_control(named)}")
    return weights


def _class_weights(asked: Sequence[Any] | None) -> tuple[float, ...] | None:
    """Return the weights that are given as numbers; None without any, or if they are to be counted."""
    if asked in (None, [NONE], [BALANCED]):
        return None
    try:
        return tuple(float(weight) for weight in asked)
    except ValueError:
        raise InputError(f"--class-weights must be none, balanced, or one number per class (not {' '.join(asked)}).") from None


def _start(args: argparse.Namespace, work: Work, steps: int) -> Start:
    """Return the model with its initial weights."""
    from segmentation.heads.plan import DEFAULT_HEAD
    from segmentation.training.start import start_from_backbone, start_from_model

    space = work.dataset.space
    if work.planned is None:
        return start_from_model(args.init, space, steps, output_stride=args.output_stride, seed=args.seed)
    return start_from_backbone(
        work.planned, space, steps,
        weights=args.weights, head=args.head or DEFAULT_HEAD, separable=not args.plain, seed=args.seed,
    )  # fmt: skip
