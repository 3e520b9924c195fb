"""The source files that decide something: some modules, and all that they import within their own package."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def sources(*packages: str) -> dict[str, Path]:
    """The files of these packages, and of what they import at any depth within the same top-level package, by module.

    Read from the code: imports at the top, in functions, and modules named in a text (which may be imported late).
    What only a type checker reads does not count, nor the `__init__.py` of the packages above.
    """
    tree = _modules(packages[0].partition(".")[0])
    todo = [name for name in tree for package in packages if f"{name}.".startswith(f"{package}.")]
    needed: dict[str, Path] = {}
    while todo:
        if (name := todo.pop()) not in needed:
            needed[name] = tree[name]
            todo += _imports(_parsed(tree[name]), tree)
    return dict(sorted(needed.items()))


def digest(*packages: str) -> str:
    """SHA-256 over what the sources of these packages do: comments, docstrings, layout and descriptions do nothing."""
    total = hashlib.sha256()
    for name, path in sources(*packages).items():
        total.update(f"{name}\n{_meaning(path, path.stat().st_mtime_ns)}\n".encode())
    return total.hexdigest()


def libraries(*packages: str) -> dict[str, str]:
    """The version of every distribution that the sources of these packages import, and of those which these need."""
    names = {name for path in sources(*packages).values() for name in _foreign(_parsed(path))}
    known = _distributions()
    todo = [each for name in names - sys.stdlib_module_names for each in known.get(name, ())]
    found: dict[str, str] = {}
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            with suppress(metadata.PackageNotFoundError):  # a need that is not installed, as on other platforms
                found[name] = metadata.version(name)
                needs = (need for need in metadata.requires(name) or () if "extra ==" not in need)
                todo += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs]
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, Sequence[str]]:
    """The distributions that bring a top-level package, by its name."""
    return metadata.packages_distributions()


def _foreign(tree: ast.Module) -> Iterator[str]:
    """The top-level packages that a module imports, be it in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _modules(top: str) -> dict[str, Path]:
    """Every module of a top-level package, by its dotted name."""
    spec = find_spec(top)
    assert spec is not None, f"there is no package {top}"
    assert spec.submodule_search_locations is not None, f"{top} is no package"
    root = Path(spec.submodule_search_locations[0])
    named = {path: ".".join((top, *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in named.items()}


def _parsed(path: Path) -> ast.Module:
    """The syntax tree of what runs: what only a type checker reads is not in it."""
    tree: ast.Module = _Running().visit(ast.parse(path.read_bytes()))
    return tree


def _imports(node: ast.AST, tree: Collection[str]) -> Iterator[str]:
    """The modules of a tree that are imported: `from a import b` means the module a.b, or else something in a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in tree)
    elif isinstance(node, ast.ImportFrom) and node.module in tree:
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in tree else str(node.module) for name in whole)
    elif isinstance(node, ast.Constant) and node.value in tree:
        yield str(node.value)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, tree)


@lru_cache(maxsize=1024)
def _meaning(path: Path, changed: int) -> str:
    """The syntax tree without what is said to people; kept as long as the file was last changed then."""
    del changed
    return ast.dump(_Silent().visit(_parsed(path)))


class _Running(ast.NodeTransformer):
    """Leaves out the body of `if TYPE_CHECKING`."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"} else node


class _Silent(ast.NodeTransformer):
    """Leaves out docstrings and the descriptions of settings."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = body[1:]
        return super().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)
