"""``dense-resnet compare``: is one evaluation better than another, beyond chance?"""

from __future__ import annotations

import argparse
import json

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import escape_control, pluralize

from . import terminal
from .evaluate import explain_missing_intervals, number

HELP = "Compare two evaluations of the same images: paired bootstrap of the difference, in total and per class."
DATASET = "dataset"  # the scope of what is resampled


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="a folder that evaluate wrote, or its evaluation.json")
    parser.add_argument("second", metavar="B", help="the evaluation to compare it with")
    parser.add_argument("--force", action="store_true", help="compare despite differing protocols or images")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.jobs.atomic_files import probe_file, write_bytes
    from segmentation.evaluation.results import compare
    from segmentation.metrics.intervals import FEWEST_IMAGES

    if args.json:
        probe_file(args.json)
    found = compare(args.first, args.second, force=args.force)
    others = [scope for scope in dict.fromkeys(found["scopes"]) if scope != DATASET]
    name = f"{DATASET} mean IoU" if others else "mean IoU"
    rows = []
    for one in found["classes"] + [{"name": name, **found["mean_iou"]}]:
        difference, interval = "-" if one["difference"] is None else f"{one['difference']:+.4f}", ""
        if one["interval"] is not None:
            low, high = one["interval"]
            interval = f"{low:+.4f} to {high:+.4f}{'' if low <= 0 <= high else ' *'}"
        rows.append((one["name"], number(one["first"]), number(one["second"]), difference, interval))
    terminal.print_table(rows, "class", "A", "B", "A - B", "95 %")
    mean = found["mean_iou"]
    lines = [f"protocols differ: {line}" for line in found["differing"]]
    if others:
        lines.append(
            f"the evaluations' own mean IoU has scope {' and '.join(others)}, which is another figure: what is compared is "
            "the mean IoU of the counts of all images"
        )
    images = pluralize(found["images"], "image")
    if mean["p_value"] is not None:
        lines.append(
            f"{images}, {found['resamples']} resamples; p = {number(mean['p_value'])} (two-sided) for the difference of the "
            "mean IoUs; * marks intervals without 0"
        )
        lines += explain_missing_intervals(found["classes"], "difference")
    elif mean["difference"] is None:
        lines.append(f"{images}: a mean IoU is undefined, so there is no difference to judge")
    else:
        lines.append(
            f"{images}: too few images to tell; intervals and a p-value need at least {FEWEST_IMAGES} with scored pixels"
        )
    for line in lines:
        print(escape_control(line))
    if args.json:
        write_bytes(args.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0
