"""Imports of the packages that compose the others, such as `inference`, under the installed name.

They name the others as a script at the root does: `from models.vit import ...`. A relative import would climb above the
root of a checkout, where they are top-level packages. Imported as `sigma_video.inference`, which is its name in an
installation, they get the others as `sigma_video.models` and so on: `datasets` may be another project's there.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

COMPOSED = ("models", "datasets", "engine")
COMPOSING = ("inference", "evaluation", "programs")
_NAME = __package__  # sigma_video


class _PrefixingLoader(SourceFileLoader):
    """Compiles a module with `sigma_video.` before the names of our packages in its imports."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        tree = ast.parse(data, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                package = (node.module or "").partition(".")[0]
                node.module = f"{_NAME}.{node.module}" if package in (*COMPOSED, *COMPOSING) else node.module
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def path_stats(self, path: Any) -> dict[str, Any]:
        """Refused: the cache of bytecode holds what the file is under its own name."""
        raise OSError


class _Finder:
    """Finds modules of the composing packages; all others are left to Python's own finders."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        parts = name.split(".")
        if parts[0] != _NAME or len(parts) < 2 or parts[1] not in COMPOSING:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PrefixingLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Let `import sigma_video.inference` work from anywhere, in a checkout and installed."""
    sys.meta_path.insert(0, _Finder())
