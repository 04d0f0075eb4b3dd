"""``dense-resnet demo``: extract and evaluate with the files that come with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

if __name__ == "__main__":
    import script

    script.run(__file__)

from . import cli, terminal

HELP = "Extract features of the photograph that comes with the package, and evaluate the small model on drawn scenes."
HERE = Path(__file__).parent
PHOTOGRAPH = HERE / "coffee.jpg"  # CC0, Rachel Michetti; from scikit-image's data
MODEL = HERE / "scenes_model"  # trained by recipe.sh, scored in its evaluation.json
SCENES = 64  # of the validation split: what that evaluation scored


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo_output", metavar="DIR", help="where the files go (default demo_output)")
    parser.add_argument(
        "--scenes",
        type=int,
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="only draw training data: the number of scenes in each split",
    )


def main(args: argparse.Namespace) -> int:
    out = Path(args.out)
    if args.scenes:
        return _draw(out, *args.scenes)
    return _extract(out / "features") or _draw(out / "scenes", 1, SCENES) or _evaluate(out)


def _extract(out: Path) -> int:
    model = "--model resnet_v2_152 --random-weights 0 --output-stride 16"
    layers = ["--layers", "4", "8", "16", "--picture"]
    if code := cli.main(["extract", str(PHOTOGRAPH), *model.split(), *layers, "--out", str(out)]):
        return code

    from dense_resnet.extraction.features import read_features, sample

    features = read_features(out / f"{PHOTOGRAPH.name}.safetensors")
    height, width = features.placement.original_size
    print(f"{PHOTOGRAPH.name}: {width} x {height} pixels on a 513x513 canvas")
    for stride, values in features.maps.items():
        print(f"  stride {stride:>2}: {values.shape[0]} x {values.shape[1]} cells of {values.shape[2]} channels")
    point = (width // 2, height // 2)
    print(f"  sample(features, {point}, 16): {sample(features, point, 16).shape[1]} values at the middle of the photograph")
    print(f"The alignment picture: {out}/{PHOTOGRAPH.name}.alignment.png")
    return 0


def _draw(out: Path, train: int, val: int) -> int:
    from segmentation.data.synthetic import write_scenes

    with terminal.progress_bar() as progress:
        write_scenes(out, train, val, progress=progress)
    print(f"{out}: {train} training and {val} validation scenes, drawn by a program: for demonstrations, not a benchmark")
    return 0


def _evaluate(out: Path) -> int:
    page = out / "evaluation"
    if code := cli.main(["evaluate", str(out / "scenes"), "--model", str(MODEL), "--out", str(page)]):
        return code

    from segmentation.evaluation.results import read_result

    own, recorded = read_result(page)[0]["mean_iou"], read_result(MODEL)[0]["mean_iou"]
    print(f"mean IoU {own:.4f}; recorded when the model was trained: {recorded:.4f}")
    print(f"The page: {page}/report/index.html")
    return 0
