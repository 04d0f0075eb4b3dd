"""``dense-resnet doctor``: validate a dataset before training."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import escape_control, group_alike, pluralize

from . import options, terminal

if TYPE_CHECKING:
    from rich.table import Table

    from segmentation.data.doctor import Finding, Report
    from segmentation.data.label_counts import SplitCounts

HELP = "Validate a dataset before training: every problem at once, the class histogram and class weights."


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_dataset_options(parser)
    parser.add_argument("--split", metavar="S", help="only this split (default: all)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger images (default 89478485)")
    parser.add_argument("--json", metavar="FILE", help="also write all findings and counts to a file")
    parser.add_argument("--records", metavar="DIR", help="if there is no error, write the splits as TFRecords")


def main(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dense_resnet.jobs.atomic_files import check_folder, probe_file, write_bytes
    from segmentation.data.doctor import inspect
    from segmentation.data.layouts import VALIDATION, open_layout, recognize, usual_split

    if args.json:
        probe_file(args.json)
    if args.records:
        check_folder(args.records)
    max_pixels = options.max_pixels_from_args(args)
    layout = recognize(args.dataset, classes=args.classes, label_map=args.label_map)
    for note in layout.notes:
        terminal.print_note(note)
    if args.records or layout.is_records:
        options.start_tensorflow()
    with terminal.progress_bar() as progress:
        splits = layout.splits if args.split is None else (args.split,)
        datasets = [open_layout(layout, split, exif=args.exif, strict=False) for split in splits]
        report = inspect(datasets, max_pixels, progress)
        if args.records and not report.errors:
            from segmentation.data.tfrecords import write_records

            for dataset in datasets:
                write_records(dataset, args.records, max_pixels=max_pixels, progress=progress)
    if args.json:
        write_bytes(args.json, (json.dumps(report.as_json(), indent=1) + "\n").encode())
    for counts in report.splits:
        Console().print(_table(report, counts))
    of_splits = dict.fromkeys(note for dataset in datasets for note in dataset.notes)  # splits may share a folder
    for note in (*of_splits, *report.notes):
        terminal.print_note(note)
    if args.split is None and usual_split(layout, VALIDATION) is None:
        terminal.print_note(
            "the dataset does not have a validation split, by which train chooses the best model: set some images aside"
        )
    lines = [*_lines("warning", report.warnings), *_lines("error", report.errors)]
    if len(lines) < len(report.findings) and not args.json:
        lines.append("note: --json FILE lists every one of them")
    for line in lines:
        print(escape_control(line))
    found = f"{pluralize(len(report.errors), 'error')}, {pluralize(len(report.warnings), 'warning')}"
    print(f"{escape_control(report.name)}: {found}")
    if args.records:
        print(f"{args.records}: " + ("nothing was written; fix the errors first" if report.errors else "written"))
    return 1 if report.errors else 0


def _table(report: Report, counts: SplitCounts) -> Table:
    """Return a split's histogram."""
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    scored = int(counts.pixels.sum())
    shares = counts.pixels / max(1, scored)
    ignored = counts.ignored / max(1, scored + counts.ignored)
    title = f"{escape_control(counts.split)}: {pluralize(counts.images, 'image')}, {scored:,} px and {ignored:.1%} ignored"
    table = Table(title=Text(title), title_justify="left")
    for column in ("", "class", "pixels", "share", "", "images", "weight"):
        table.add_column(column, justify="left" if column in ("class", "") else "right")
    for index, name in enumerate(report.space.names):
        table.add_row(
            str(index),
            Text(escape_control(name)),
            f"{counts.pixels[index]:,}",
            f"{shares[index]:.2%}",
            Bar(max(shares.max(), 1e-9), 0, shares[index], width=20),
            f"{counts.occurrences[index]:,}",
            f"{counts.weights[index]:.3g}",
        )
    return table


def _lines(title: str, findings: tuple[Finding, ...]) -> list[str]:
    """Return the findings by kind and split, with similar ones merged."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, {}).setdefault(finding.split, []).append(finding.message)
    return [
        f"{title}: {split}: {message}"
        for own in kinds.values()
        for split, alike in own.items()
        for message in group_alike(alike)
    ]
