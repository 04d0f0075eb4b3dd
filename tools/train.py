"""``dense-resnet train``: from a dataset to a model directory."""

from __future__ import annotations

import argparse
import dataclasses
import os
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
    from segmentation.data.label_space import LabelSpace
    from segmentation.data.layouts import Layout
    from segmentation.data.samples import Dataset
    from segmentation.model import SegmentationModel
    from segmentation.training.loop import Outcome
    from segmentation.training.recipe import Recipe

HELP = "Train a segmentation model on a dataset; the same command resumes it, and larger --steps continue it."
AUTO, YES, NO = "auto", "yes", "no"
NONE, BALANCED = "none", "balanced"
ONE, MIRRORED, WORKERS = "one", "mirrored", "multi-worker"


def configure(parser: argparse.ArgumentParser) -> None:
    from segmentation.heads.plan import DEFAULT_HEAD

    options.add_dataset_options(parser)
    add = parser.add_argument
    add("--split", metavar="NAME", help="what to train on (default train, or the only one)")
    add("--validation", metavar="NAME", help="what to choose the best model by (default val if there is one; or none)")
    add("--out", required=True, metavar="DIR", help="where the model goes")

    network = parser.add_argument_group("network")
    add = network.add_argument
    add("--model", metavar="VARIANT", help="such as resnet_v2_50, or a .json file with a plan of your own")
    add("--init", metavar="DIR", help="a model directory to start from instead")
    add("--weights", metavar="PATH", help=f"of the backbone: {options.WEIGHTS_HELP}; else random")
    options.add_plan_options(network)
    add("--head", metavar="NAME", help=f"fcn, aspp or decoder (default {DEFAULT_HEAD})")
    add("--plain", action="store_true", help="plain 3x3 convolutions in the head, not separable ones")

    add = parser.add_argument_group("views of the images").add_argument
    add("--crop", type=int, default=513, metavar="N", help="side in pixels, 32n+1 (default 513)")
    add("--scale", type=float, nargs=2, default=[0.5, 2.0], metavar=("LOW", "HIGH"), help="default 0.5 2")
    add("--no-flip", action="store_true", help="no mirror images")
    add("--jitter", type=float, default=0.0, metavar="X", help="strength of color jitter, such as 0.3 (default 0)")

    add = parser.add_argument_group("recipe").add_argument
    add(
        "--steps", type=int, default=30000, metavar="N",
        help="batches in total; a larger number continues a training (default 30000)",
    )  # fmt: skip
    add("--batch", type=int, default=8, metavar="N", help="images per step, over all devices (default 8)")
    add("--lr", "--learning-rate", type=float, default=0.007, metavar="X", help="first learning rate (default 0.007)")
    add("--head-rate", type=float, default=1.0, metavar="X", help="factor on the head's learning rate (default 1)")
    add("--warmup", type=int, default=0, metavar="N", help="steps of rising learning rate (default 0)")
    add("--momentum", type=float, default=0.9, metavar="X", help="default 0.9")
    add("--weight-decay", type=float, default=0.0001, metavar="X", help="L2 (default 0.0001)")
    add("--clip", type=float, metavar="X", help="largest global norm of the gradients (default none)")
    add(
        "--class-weights", nargs="+", default=[NONE], metavar="X", help="none, balanced, or one number per class (default none)"
    )
    add(
        "--hardest", type=float, default=1.0, metavar="X",
        help="share of each image's pixels, those of largest loss (default 1)",
    )  # fmt: skip
    add(
        "--freeze-bn", choices=(AUTO, YES, NO), default=AUTO,
        help="batch norm by its moving averages (auto: below 12 images a batch, if weights are given; image pooling's "
        "always below 12 a device)",
    )  # fmt: skip
    add("--precision", default="float32", metavar="TYPE", help="float32 or bfloat16 (default float32)")
    add("--seed", type=int, default=0, metavar="N", help="default 0")

    add = parser.add_argument_group("run").add_argument
    add("--distribute", choices=(AUTO, ONE, MIRRORED, WORKERS), default=AUTO, help="auto: by TF_CONFIG")
    add("--validate-every", type=int, default=500, metavar="N", help="steps (default 500)")
    add("--save-every", type=int, default=500, metavar="N", help="steps (default 500)")
    add("--size", type=int, default=513, metavar="N", help="canvas of validation images, 32n+1 (default 513)")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.jobs.atomic_files import check_folder
    from segmentation.data.layouts import recognize

    if (args.model is None) == (args.init is None):
        raise InputError("give either --model VARIANT, or --init DIR to start from a trained model.")
    if args.model and options.is_folder(args.model):
        raise InputError(f"{args.model}: is a folder, not a variant's name. If it is a model directory: --init {args.model}.")
    if args.init and (args.weights or args.multi_grid or args.head or args.plain):
        raise InputError("--init brings the whole model: --weights, --multi-grid, --head and --plain go with --model.")
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

        dataset, validation, checked, recipe = prepared or _prepare(args, layout, planned)
        with strategy.scope():
            model, preprocessing = _model(args, planned, dataset.space)
        training = Training(
            model, dataset, validation, args.out, recipe,
            preprocessing=preprocessing, strategy=strategy, validation_size=args.size,
        )  # fmt: skip
        with terminal.progress_bar() as progress:
            outcome = training.run(progress=progress, stop=stop, say=print, checked=checked)
    if outcome.stopped:
        print(f"stopped at step {outcome.step} of {args.steps}; the same command resumes from here")
        return terminal.STOPPED
    if not training.chief:
        print(f"{args.out}: the first worker has written the model after {outcome.step} steps")
        return 0
    print(_result(args.out, outcome, validated=validation is not None))
    return 0


def _prepare(args: argparse.Namespace, layout: Layout, planned: Plan | None) -> tuple[Dataset, Dataset | None, Checked, Recipe]:
    """Return the datasets and the recipe, checked as far as possible before TensorFlow is imported and weights are read."""
    from dense_resnet.checkpoints import check_source
    from segmentation.data.doctor import check_splits
    from segmentation.heads.plan import DEFAULT_HEAD, plan_head
    from segmentation.prediction.options import Inference
    from segmentation.saving.description import check_head, explain_errors
    from segmentation.saving.model_directory import read_outline

    dataset, validation = _datasets(args, layout)
    splits = [split for split in (dataset, validation) if split is not None]
    for split in splits:
        split.check_apart(Path(args.out))
    if planned is None:
        outline = read_outline(args.init, args.output_stride)
        with explain_errors(Path(args.init)):
            check_head(outline)
        assert outline.space is not None
        _check_classes(args, outline.space, dataset.space)
        planned = outline.plan
    else:
        plan_head(planned, dataset.space.num_classes, args.head or DEFAULT_HEAD, separable=not args.plain)
    if args.weights:
        check_source(args.weights)
    check_aligned("crop", args.crop, planned.nominal_stride)
    Inference(args.size).check(planned.nominal_stride)
    recipe = _recipe(args)
    recipe.check(dataset.space.num_classes)
    with terminal.progress_bar() as progress:
        checked = check_splits(splits, progress)
    if args.class_weights == [BALANCED]:
        recipe = dataclasses.replace(recipe, class_weights=_balance_classes(checked.labels[0]))
    return dataset, validation, checked, recipe


def _check_classes(args: argparse.Namespace, own: LabelSpace, space: LabelSpace) -> None:
    if own.names != space.names:
        raise InputError(
            f"{args.init}: was trained on other classes ({', '.join(own.names)}). Take its backbone alone: "
            f"--model … --weights {args.init}/weights.safetensors"
        )


def _result(out: str, outcome: Outcome, *, validated: bool) -> str:
    """Say which models a training has left, where they are and what they scored."""
    from segmentation.training.state import LAST

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


def _recipe(args: argparse.Namespace) -> Recipe:
    from segmentation.data.transforms import Augmentation
    from segmentation.training.recipe import SMALLEST_BATCH, Recipe

    given = bool(args.weights or args.init)
    small = args.batch < SMALLEST_BATCH
    freeze = args.freeze_bn == YES or (args.freeze_bn == AUTO and small and given)
    why = f"{pluralize(args.batch, 'image')} a batch" if args.freeze_bn == AUTO else "as asked"
    if args.freeze_bn == AUTO and small and not given:
        why += ", which is few, but random weights have no moving averages yet"
    print(f"batch norm: {'frozen' if freeze else 'by the batch'} ({why})")
    own = "steps batch head_rate warmup momentum weight_decay clip hardest seed precision validate_every save_every"
    return Recipe(
        **{name: getattr(args, name) for name in own.split()},
        learning_rate=args.lr,
        freeze_batch_norm=freeze,
        class_weights=_class_weights(args.class_weights),
        augmentation=Augmentation((args.crop, args.crop), tuple(args.scale), not args.no_flip, args.jitter),
    )


def _balance_classes(labels: LabelCounts) -> tuple[float, ...]:
    """Return class weights from the labels of the training split; print them."""
    from segmentation.data.label_counts import class_weights

    weights = tuple(float(f"{weight:.4g}") for weight in class_weights(labels.pixels))
    named = ", ".join(f"{name} {w:g}" for name, w in zip(labels.space.names, weights, strict=True))
    print(f"class weights: {escape_control(named)}")
    return weights


def _class_weights(asked: list[str]) -> tuple[float, ...] | None:
    """Return the weights that are given as numbers; None without any, or if they are to be counted."""
    if asked in ([NONE], [BALANCED]):
        return None
    try:
        return tuple(float(weight) for weight in asked)
    except ValueError:
        raise InputError(f"--class-weights must be none, balanced, or one number per class (not {' '.join(asked)}).") from None


def _model(args: argparse.Namespace, planned: Plan | None, space: LabelSpace) -> tuple[SegmentationModel, str]:
    """Return the model with its initial weights, and their preprocessing scheme."""
    from dense_resnet.backbone import Backbone
    from dense_resnet.resnet_utils import BATCH_NORM_DECAY
    from segmentation.heads import plan
    from segmentation.heads.plan import DEFAULT_HEAD
    from segmentation.model import SegmentationModel
    from segmentation.saving.model_directory import load_model
    from segmentation.training.recipe import batch_norm_decay

    own, of_head = (batch_norm_decay(usual, args.steps) for usual in (BATCH_NORM_DECAY, plan.BATCH_NORM_DECAY))
    if planned is None:
        saved = load_model(args.init, args.output_stride, batch_norm_decays=(own, of_head))
        _check_classes(args, saved.space, space)
        return saved.model, saved.preprocessing
    backbone = Backbone(planned, seed=args.seed, batch_norm_decay=own)
    preprocessing = planned.preprocessing
    if args.weights:
        report = backbone.load(args.weights)
        print(escape_control(str(report)))
        preprocessing = (report.origin and report.origin.preprocessing) or preprocessing  # that of the weights' source
    else:
        print(f"{planned.name}: random weights. Pretrained ImageNet weights (--weights) shorten training considerably.")
    head = args.head or DEFAULT_HEAD
    model = SegmentationModel(
        backbone, space.num_classes, head, separable=not args.plain, seed=args.seed, batch_norm_decay=of_head
    )
    return model, preprocessing
