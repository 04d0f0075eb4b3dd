#!/usr/bin/env bash
# Sets everything up and runs the tests; arguments go to pytest.
set -euo pipefail
extra="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
exec python -m pytest "$@"
