#!/usr/bin/env bash
# Sets everything up and runs the tests; arguments go to pytest.
set -euo pipefail
extra="[test]"
alone="timm==1.0.22" # of its dependencies torchvision would bring another PyTorch, and no ResNet needs it
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
exec python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
