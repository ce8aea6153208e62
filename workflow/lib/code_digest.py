"""What code a script rests on, as a digest that changes when its meaning may have changed.

Snakemake sees a script, but not what the script imports: without this, results go stale in silence
when a formula in the package is edited.  A digest over the script and every project module that it
imports, directly or not, is a parameter of each rule.  It is taken over the syntax tree without
docstrings, so comments, layout and documentation rerun nothing.
"""

import ast
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = (ROOT / "src", ROOT / "workflow" / "scripts")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@cache
def digest(script: Path) -> str:
    """SHA-256 over the meaning of a script and of all project modules that it imports."""
    total = hashlib.sha256()
    for module in sorted(dependencies(script)):
        total.update(f"{module.relative_to(ROOT)} {_meaning(module)}\n".encode())
    return total.hexdigest()


def dependencies(script: Path) -> set[Path]:
    """The script and every project module that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(_imports(module))
    return found


@cache
def _tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


@cache
def _meaning(module: Path) -> str:
    tree = _tree(module)
    for node in _statements(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _imports(module: Path) -> tuple[Path, ...]:
    names: list[str] = []
    for node in _statements(_tree(module), skip=_is_for_types):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(path for name in names for path in _files(name))


def _statements(
    tree: ast.Module, skip: Callable[[ast.AST], bool] = lambda node: False
) -> Iterator[ast.AST]:
    """The statements of a module, nested ones too, without the bodies of those to skip."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        blocks = ("orelse",) if skip(node) else ("body", "orelse", "finalbody", "handlers", "cases")
        for block in blocks:
            waiting.extend(getattr(node, block, ()))


def _is_for_types(node: ast.AST) -> bool:
    """Whether it is an ``if TYPE_CHECKING``, whose imports never happen."""
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


@cache
def _files(name: str) -> tuple[Path, ...]:
    """The project files that importing a dotted name runs, its packages included."""
    parts = name.split(".")
    packages = [
        root.joinpath(*parts[:length]) for root in ROOTS for length in range(1, len(parts) + 1)
    ]
    named = (path for base in packages for path in (base.with_suffix(".py"), base / "__init__.py"))
    return tuple(filter(Path.is_file, named))
