"""What pyproject.toml cannot say: the folder tiny_models beside the package is installed inside it."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["minipeft*"]), "minipeft.tiny_models"],
    package_dir={"minipeft.tiny_models": "tiny_models"},
)
