"""What test files share: small networks, small datasets, folders, and the command."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"

sys.path.insert(0, str(GOLDEN))  # of det_weights, in the processes that tests start too
