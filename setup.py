"""Find the packages; the tools are installed as ``dense_resnet_tools``. pyproject.toml has the rest."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["dense_resnet*", "segmentation*"])
    + [f"dense_resnet_{name}" for name in find_packages(include=["tools*"])]
)
