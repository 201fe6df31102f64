"""Package doors that import nothing until a name is asked for (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`; `modules` maps each public name to its module.

    The first access imports the module and binds the name in the package, so later ones cost nothing.
    """

    def getattribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        vars(import_module(package))[name] = value
        return value

    return getattribute, lambda: sorted({*vars(import_module(package)), *modules})
