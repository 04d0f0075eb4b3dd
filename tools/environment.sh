# Sourced by the scripts here: a virtual environment with the package, made where there is none, and with the extra that
# $extra names and $alone, a package that pyproject.toml cannot name. $wheel is installed instead of the checkout where it is
# set. An active environment is used as it is; otherwise .venv in the checkout. PYTHON names the interpreter that makes it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=${VIRTUAL_ENV:-$root/.venv}
if [ ! -x "$environment/bin/python" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || {
    echo "error: Python 3.10 to 3.13 is needed ($("${PYTHON:-python3}" --version)). Set PYTHON=/path/to/python3.12" >&2
    exit 1
  }
  "${PYTHON:-python3}" -m venv "$environment"
fi
PATH="$environment/bin:$PATH"
export PATH
stamp=$environment/.dense-resnet${extra:-}
if [ "$root/pyproject.toml" -nt "$stamp" ] || [ "$root/setup.py" -nt "$stamp" ]; then
  echo "installing into $environment (TensorFlow is large: a few minutes)"
  # not compiled: most of TensorFlow's modules are never imported, and those that are, are compiled then
  python -m pip install --quiet --disable-pip-version-check --no-compile ${wheel:---editable "$root${extra:-}"}
  if [ -n "${alone:-}" ]; then # without its dependencies
    python -m pip install --quiet --disable-pip-version-check --no-deps "$alone"
  fi
  if ! python -c 'import cv2' 2>/dev/null; then # no libGL: a machine without a display
    python -m pip uninstall --quiet --yes --disable-pip-version-check opencv-python
    python -m pip install --quiet --disable-pip-version-check opencv-python-headless
  fi
  touch "$stamp"
fi
