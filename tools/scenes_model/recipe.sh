#!/usr/bin/env bash
# How the model in this folder was trained: from scratch, on drawn scenes, without a look at the validation ones.
# bash tools/scenes_model/recipe.sh OUT    about 20 minutes on 2 cores
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/tools/environment.sh"
out=${1:-scenes_training}
dense-resnet demo --out "$out/scenes" --scenes 400 64
dense-resnet train "$out/scenes" --validation none --model "$root/tools/scenes_model/plan.json" --output-stride 8 --head fcn \
  --crop 257 --scale 0.8 1.25 --batch 12 --steps 1200 --lr 0.1 --warmup 50 --clip 2 --freeze-bn no --save-every 300 --out "$out/model"
dense-resnet evaluate "$out/scenes" --model "$out/model" --exact --out "$out/evaluation"
