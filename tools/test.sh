#!/usr/bin/env bash
# Sets everything up and runs the tests: the short form, everything (--all), or what other arguments tell pytest.
set -euo pipefail
extra="[test]"
alone="timm==1.0.22" # of its dependencies torchvision would bring another PyTorch, and no ResNet needs it
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
run() { python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"; }
if [ $# = 0 ]; then
  run -m "not slow" --ignore tests/campaign
elif [ "$1" = --all ]; then
  run "${@:2}"
  # the quick tests of what exports are made of once more, as it runs in a TensorFlow without oneDNN
  TF_ENABLE_ONEDNN_OPTS=0 run "${@:2}" -m "not slow" tests/segmentation/saving/test_export.py tests/segmentation/test_canvases.py \
    tests/dense_resnet/inference/test_runner.py tests/dense_resnet/inference/test_folding.py
else
  run "$@"
fi
