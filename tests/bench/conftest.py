"""Fixtures: the real chat model that installs from PyPI."""

from tests.engine.conftest import smollm2

__all__ = ["smollm2"]
