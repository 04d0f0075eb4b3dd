#!/usr/bin/env bash
# Sets everything up, then extracts features of a photograph and evaluates a small model: what comes with the package.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
exec dense-resnet demo "$@"
