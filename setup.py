from setuptools import setup

setup()  # pyproject.toml says it all.
