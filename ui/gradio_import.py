"""Import Gradio without generating its type stubs, which takes half of the import's time.

At each import, Gradio parses the source of each of its components, renders a `.pyi` beside it, and parses
that too (gradio.component_meta.create_or_modify_pyi). No setting turns this off, so an import hook replaces
that function as soon as its module is loaded, before any component is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_MODULE, _FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


def skip_stubs() -> None:
    """Install the import hook. Call it before Gradio is imported; it has no effect afterwards."""
    if _MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds only gradio.component_meta, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with our loader; None for any other module."""
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _WithoutStubs(fullname, spec.origin)
        return spec


class _WithoutStubs(SourceFileLoader):
    """Loads the module, then replaces its function by one that does nothing."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, _FUNCTION):
            setattr(module, _FUNCTION, lambda *_: None)
