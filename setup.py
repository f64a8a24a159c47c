"""Packages of the wheel: the code, and the repository's search_spaces/ as data under ensemble/search_spaces."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ensemble*"]), "ensemble.search_spaces"],
    package_dir={"ensemble.search_spaces": "search_spaces"},
    package_data={
        "ensemble": ["py.typed"],
        "ensemble.reporting.render": ["*.j2", "*.css", "*.js"],
        "ensemble.search_spaces": ["*.yaml", "schema.json"],
    },
)
