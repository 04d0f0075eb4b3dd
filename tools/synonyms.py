"""Names that other tools give to our options: PyTorch, Keras, timm, mmsegmentation, and DeepLab's own scripts.

An unknown option is looked up here by its name before the closest spelling is proposed. The first row whose option, or
positional argument, the verb has is the one that is proposed.
"""

from __future__ import annotations

from collections.abc import Collection

ROWS = (  # (our option, other tools' names for it, a remark)
    ("--steps", "epochs epoch num-epochs max-epochs n-epochs train-epochs", "It counts batches: epochs x images / --batch."),
    ("--steps", "iters iterations max-iters max-iter max-steps num-steps train-steps training-number-of-steps", ""),
    ("--batch", "bs b train-batch-size per-device-train-batch-size samples-per-gpu", ""),
    ("--lr", "base-lr base-learning-rate initial-lr initial-learning-rate lr0 max-lr", ""),
    ("--schedule", "lr-schedule lr-scheduler scheduler lr-policy lr-config lr-decay learning-policy", "poly or cosine."),
    ("--lr", "power gamma", "The poly schedule has the power 0.9, from --lr down to 0 at --steps."),
    ("--warmup", "warmup-steps warmup-iters warmup-epochs lr-warmup lr-warmup-iters slow-start-step", "It counts batches."),
    ("--optimizer", "optim opt adam adamw sgd", "sgd, with momentum, or adamw."),
    ("--weight-decay", "wd l2 l2-regularization decay", ""),
    ("--clip", "clip-grad clip-grad-norm grad-clip gradient-clip-val gradient-clipping max-grad-norm clipnorm", ""),
    ("--class-weights", "class-weight loss-weights weighted-loss balanced", ""),
    ("--loss", "criterion loss-function focal dice lovasz", "ce, focal, dice, lovasz or ce+dice."),
    ("--auxiliary", "aux aux-loss aux-weight auxiliary-loss auxiliary-head deep-supervision", "It is the weight of its loss."),
    ("--ema", "model-ema ema-decay swa averaging moving-average-decay", "It is the decay."),
    ("--patience", "early-stopping early-stop", "It counts validations."),
    ("--augment", "augmentation augmentations rotation rotate blur noise albumentations", "It is a strength, up to 1."),
    ("--hardest", "ohem hard-mining hard-example-mining top-k-percent-pixels", ""),
    ("--freeze-bn", "freeze-batch-norm fine-tune-batch-norm norm-eval sync-bn", ""),
    ("--head-rate", "head-lr lr-mult head-lr-mult last-layer-gradient-multiplier", "It is a factor on --lr."),
    ("--validate-every", "val-interval val-every val-freq eval-interval eval-every eval-steps validation-interval", ""),
    ("--save-every", "save-interval save-steps save-freq checkpoint-interval checkpoint-every", ""),
    ("--validation", "val-split eval-split val-dir validation-split validation-data", "It is a split's name."),
    ("--split", "val-split eval-split test-split train-split vis-split subset validation", ""),
    ("--crop", "crop-size train-crop-size image-size img-size imgsz input-size resolution", ""),
    ("--size", "crop crop-size eval-crop-size image-size img-size imgsz input-size input-shape resolution", ""),
    ("--tile", "tile-size window window-size sliding-window slide patch-size", ""),
    ("--scale", "scales scale-range ratio-range scale-limits min-scale-factor max-scale-factor random-scale", ""),
    ("--scales", "scale ms multiscale multi-scale eval-scales tta aug-test", ""),
    ("--no-flip", "flip hflip random-flip horizontal-flip mirror", "Mirror images are on unless this is given."),
    ("--flip", "hflip mirror horizontal-flip add-flipped-images", ""),
    ("--jitter", "color-jitter colour-jitter photometric-distortion", ""),
    ("--seed", "random-seed manual-seed random-state", ""),
    ("--random-weights", "seed random-seed manual-seed", ""),
    ("--distribute", "gpus gpu num-gpus devices device strategy launcher", ""),
    ("--threads", "workers num-workers n-jobs jobs j", ""),
    ("--precision", "amp fp16 bf16 half mixed-precision dtype", ""),
    ("--weights", "pretrained checkpoint ckpt load-from init-weights tf-initial-checkpoint finetune imagenet", ""),
    ("--out", "resume resume-from auto-resume continue", "The same command with the same --out resumes by itself."),
    (
        "--out",
        "output output-dir output-path out-dir outdir o save-dir save-path work-dir workdir log-dir logdir train-logdir "
        "eval-logdir vis-logdir checkpoint-dir results-dir model-dir dest",
        "",
    ),
    ("--model", "arch architecture backbone encoder network net variant model-name model-variant", ""),
    ("--model", "weights pretrained checkpoint ckpt checkpoint-path model-path", "It is a model directory."),
    ("--head", "decode-head decoder aspp", ""),
    ("--predictions", "pred preds pred-dir prediction-dir predictions-dir", ""),
    ("--overlay", "visualize vis show show-dir palette blend opacity", ""),
    ("--save-probs", "probs probabilities softmax logits save-logits save-softmax", ""),
    ("--ignore-label", "ignore-index ignore-value void-label", ""),
    ("--classes", "ignore-label ignore-index ignore-value", "A dataset.json has an ignore_label."),
    ("--classes", "num-classes nclass n-classes nc class-names names", "The dataset's dataset.json names them, or this file."),
    ("--label-map", "label-mapping reduce-zero-label", ""),
    ("--output-stride", "os stride outstride", ""),
    ("--output-stride", "rates atrous-rates dilation dilations", "Atrous rates follow from it."),
    ("--to", "format export-format target", ""),
    ("--records", "tfrecord tfrecords to-tfrecord", ""),
    ("--shard", "shards num-shards shard-index", ""),
    ("--on-error", "ignore-errors skip-errors continue-on-error", ""),
    ("DATASET", "data dataset data-dir data-path data-root dataset-dir root input images d", "Pass it without an option name."),
    ("IMAGES", "images image image-dir img-dir input inputs source i data data-dir", "Pass them without an option name."),
    ("MODEL", "model model-path", "Pass it without an option name."),
)


def suggest_option(name: str, own: Collection[str]) -> str:
    """Say which of a verb's `own` options and arguments an option called `name` means; return "" if none is known.

    >>> suggest_option("--output_dir", {"--out", "--model"})
    'Did you mean --out?'
    >>> suggest_option("--epochs", {"--steps"})
    'Did you mean --steps? It counts batches: epochs x images / --batch.'
    """
    plain = plain_name(name)
    for option, names, remark in ROWS:
        if option in own and plain in names.split():
            return f"Did you mean {option}? {remark}".rstrip()
    return ""


def plain_name(name: str) -> str:
    """Return an option's name in our spelling, without its leading dashes.

    >>> plain_name("--Batch_Size")
    'batch-size'
    """
    return name.lstrip("-").lower().replace("_", "-")
