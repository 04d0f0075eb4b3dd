"""What a user is told where tf-slim cannot run."""

import subprocess
import sys


def test_the_error_names_versions_that_work():
    code = "import sys; sys.modules['tf_keras'] = None\nimport dense_resnet.compat"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tf-slim cannot run here (tensorflow 2.")
    assert "TensorFlow 2.16 to 2.21" in last
    assert "pip install" in last
