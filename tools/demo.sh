#!/usr/bin/env bash
# Sets everything up and runs the main job on the photograph that comes with the package.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
exec dense-resnet demo "$@"
