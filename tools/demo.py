"""``dense-resnet demo``: the main job on a photograph that comes with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Extract features of the photograph that comes with the package, and draw the alignment picture."
PHOTOGRAPH = Path(__file__).with_name("coffee.jpg")  # CC0, Rachel Michetti; from scikit-image's data


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo_output", metavar="DIR", help="where the files go (default demo_output)")


def main(args: argparse.Namespace) -> int:
    from . import cli

    model = "--model resnet_v2_152 --random-weights 0 --output-stride 16"
    code = cli.main(["extract", str(PHOTOGRAPH), *model.split(), "--layers", "4", "8", "16", "--picture", "--out", args.out])
    if code:
        return code

    from dense_resnet.features import read_features, sample

    features = read_features(Path(args.out) / f"{PHOTOGRAPH.name}.safetensors")
    height, width = features.placement.original_size
    print(f"{PHOTOGRAPH.name}: {width} x {height} pixels on a 513x513 canvas")
    for stride, values in features.maps.items():
        print(f"  stride {stride:>2}: {values.shape[0]} x {values.shape[1]} cells of {values.shape[2]} channels")
    point = (width // 2, height // 2)
    print(f"  sample(features, {point}, 16): {sample(features, point, 16).shape[1]} values at the middle of the photograph")
    print(f"The alignment picture: {args.out}/{PHOTOGRAPH.name}.alignment.png")
    return 0


if __name__ == "__main__":
    import cli

    cli.script(__file__)
