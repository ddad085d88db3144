"""Packaging of awn_keras; all settings are in pyproject.toml."""

from setuptools import setup

setup()
