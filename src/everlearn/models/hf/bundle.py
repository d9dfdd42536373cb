"""Modules of a package joined into one file that needs the package no more."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

Span = tuple[int, int, int, int]  # first line and column, last line and column, as ast counts them
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTIONS, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Module:
    """One module: its source, what it defines, and what it takes from where.

    Args:
        name: dotted.
        source: its text.
        tree: the parsed text.
        defined: names that its top level binds itself.
        taken: local name -> (module, name) of this package, imported at the top.
        inside: the same for each import inside a function or block, by its line.
        modules: local name -> module of this package, used as `name.attribute`.
        foreign: local name -> the import statement that binds it.
    """

    name: str
    source: str
    tree: ast.Module
    defined: list[str] = field(default_factory=list)
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)
    inside: dict[int, dict[str, tuple[str, str]]] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)


def bundle(roots: Sequence[str], head: str) -> str:
    """Return one file with everything that some modules define and need of their package.

    A module is joined whole, before those that import it. Names that two modules give to different things get the name
    of their module as well. Imports of the package inside functions may stand; those of an `__init__` lead to the
    module that defines the name.

    Args:
        roots: dotted names of modules, such as "everlearn.models.decoder".
        head: text at the top, such as a docstring.
    Raises:
        ValueError: a module that this cannot join, such as one that imports a star.
    """
    modules: dict[str, Module] = {}
    for root in roots:
        _collect(root, modules)
    final, imports = _names(list(modules.values()))
    bodies = [f"# {_place(m.name)}\n\n{_body(m, final)}" for m in modules.values()]
    start = f"{head.rstrip()}\n\nfrom __future__ import annotations\n\n" + "\n".join(imports)
    return "\n\n\n".join([start, *bodies]) + "\n"


def _collect(name: str, found: dict[str, Module]) -> None:
    """Add a module after those that it imports."""
    if name in found:
        return
    module = _read(name)
    taken = [*module.taken.values(), *(home for found in module.inside.values() for home in found.values())]
    for other in dict.fromkeys([*(home for home, _ in taken), *module.modules.values()]):
        _collect(other, found)
    found[name] = module


@lru_cache
def _file(name: str) -> Path:
    """Return where a module stands."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {name!r} to join; name one that can be imported")
    return Path(spec.origin)


def _place(name: str) -> str:
    """Return the path of a module inside its distribution."""
    return name.replace(".", "/") + ".py"


def _read(name: str) -> Module:
    """Parse a module and note what it binds."""
    source = _file(name).read_text(encoding="utf-8")
    module, package = Module(name, source, ast.parse(source)), name.partition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and _of(node.module, package):
            top = node in module.tree.body
            place = module.taken if top else module.inside.setdefault(node.lineno, {})
            for alias in node.names:
                if alias.name == "*":
                    raise ValueError(f"{name} imports everything of {node.module}; name what it needs")
                local, (home, found) = alias.asname or alias.name, _home(str(node.module), alias.name)
                if found is not None:
                    place[local] = (home, found)
                elif top:
                    module.modules[local] = home
                else:
                    raise ValueError(f"{name} imports the module {home} inside a function; import its parts")
        elif isinstance(node, ast.Import) and any(_of(alias.name, package) for alias in node.names):
            raise ValueError(f"{name} imports {node.names[0].name} as a whole; import names from it instead")
    # a name of its own for what is imported under another one
    module.defined = [local for local, (_, found) in module.taken.items() if local != found]
    for statement in module.tree.body:
        module.foreign |= dict(_foreign(statement, package))
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            module.defined += _bound([statement])
    return module


def _of(name: str | None, package: str) -> bool:
    """Tell whether a module belongs to the package."""
    return name is not None and (name == package or name.startswith(f"{package}."))


def _home(module: str, name: str) -> tuple[str, str | None]:
    """Return the module that defines a name, and its name there; or the module that it is itself, and None."""
    file, package = _file(module), module.partition(".")[0]
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and _of(node.module, package):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _home(str(node.module), alias.name)
    if file.name != "__init__.py":
        return module, name
    if importlib.util.find_spec(f"{module}.{name}") is None:
        raise ValueError(f"{module} itself defines {name}, and cannot be joined; define it in a module of its own")
    return f"{module}.{name}", None


def _foreign(node: ast.stmt, package: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement imports from elsewhere, each with a statement of its own."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            text = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            yield alias.asname or alias.name.partition(".")[0], text
    elif isinstance(node, ast.ImportFrom) and node.module != "__future__" and not _of(node.module, package):
        for alias in node.names:
            text = f"from {node.module} import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            yield alias.asname or alias.name, text


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that statements or targets bind in their own scope."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if not isinstance(node, (*SCOPES, ast.ClassDef)):
            yield from _bound(ast.iter_child_nodes(node))


def _names(modules: Sequence[Module]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return the final name of every definition, and the import statements of the file."""
    owners: dict[str, list[str]] = {}
    statements: dict[str, set[str]] = {}
    for module in modules:
        for name in dict.fromkeys(module.defined):
            owners.setdefault(name, []).append(module.name)
        for name, statement in module.foreign.items():
            statements.setdefault(name, set()).add(statement)
    for name, found in statements.items():
        if len(found) > 1 and not all(re.fullmatch(r"import [\w.]+", statement) for statement in found):
            raise ValueError(f"{name} is {' and '.join(sorted(found))} in two modules; use one of them in both")
    final: dict[tuple[str, str], str] = {}
    hidden = {use for module in modules for use in _hidden_uses(module)}
    used = {*owners, *statements, *vars(builtins)}
    for name, homes in owners.items():
        for home in homes:
            final[home, name] = name
            if len(homes) > 1 or name in statements or name in vars(builtins) or (home, name) in hidden:
                parts = home.split(".")
                longer = ("_".join([name, *parts[-n:]]) for n in range(1, len(parts) + 1))
                final[home, name] = next(new for new in longer if new not in used)
                used.add(final[home, name])
    return final, sorted({statement for found in statements.values() for statement in found})


def _hidden_uses(module: Module) -> Iterator[tuple[str, str]]:
    """Yield what a module uses as `other.name` where some function of it has a `name` of its own."""
    own = {name for node in ast.walk(module.tree) if isinstance(node, SCOPES) for name in _locals(node)}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name) or node.attr not in own:
            continue
        if (home := module.modules.get(node.value.id)) is not None:
            yield home, node.attr


def _body(module: Module, final: dict[tuple[str, str], str]) -> str:
    """Return the source of a module without its docstring and imports, in final names."""
    new = {local: _final(module, home, final) for local, home in module.taken.items()}
    new |= {name: final[module.name, name] for name in module.defined}
    _check_free(module, new)
    edits = dict(_references(module, module.tree.body, new, final, frozenset(), None))
    first = module.tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        edits[_span(first)] = ""
    for node in ast.walk(module.tree):
        top = node in module.tree.body
        if isinstance(node, ast.ImportFrom) and (top or node.lineno in module.inside):
            found = {local: module.taken[local] for local in _bound([node]) if local in module.taken} if top else {}
            found = found or module.inside.get(node.lineno, {})
            pairs = [(new[name] if top else name, _final(module, home, final)) for name, home in found.items()]
            lines = [f"{name} = {value}" for name, value in pairs if name != value]
            edits[_span(node)] = "; ".join(lines) if lines or top else "pass"
        elif isinstance(node, ast.Import) and top:
            edits[_span(node)] = ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and top and new[node.name] != node.name:
            edits |= _renamed(module, node, new[node.name])
    return re.sub(r"\n{4,}", "\n\n\n", _edited(module, edits)).strip("\n")


def _final(module: Module, home: tuple[str, str], final: Mapping[tuple[str, str], str]) -> str:
    """Return the final name of what a module imports."""
    if home not in final:
        raise ValueError(f"{module.name} imports {home[1]} of {home[0]}, which has it from elsewhere; do so too")
    return final[home]


def _check_free(module: Module, new: Mapping[str, str]) -> None:
    """Refuse a final name that a function of the module gives to something of its own."""
    changed = {final for name, final in new.items() if final != name}
    for node in ast.walk(module.tree):
        if isinstance(node, SCOPES) and (taken := sorted(changed & _locals(node))):
            raise ValueError(f"{module.name} has a local {taken[0]} in line {node.lineno}; call it otherwise")


def _renamed(module: Module, node: ast.FunctionDef | ast.ClassDef, name: str) -> dict[Span, str]:
    """Return the edit that gives a function or class another name."""
    line = module.source.splitlines()[node.lineno - 1]
    start = line.index(node.name, node.col_offset)
    return {(node.lineno, start, node.lineno, start + len(node.name)): name}


def _span(node: ast.expr | ast.stmt) -> Span:
    """Return where a node stands."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _references(
    module: Module,
    nodes: Iterable[ast.AST],
    new: Mapping[str, str],
    final: Mapping[tuple[str, str], str],
    hidden: frozenset[str],
    of_class: frozenset[str] | None,
) -> Iterator[tuple[Span, str]]:
    """Yield an edit for each use of a top-level name that is called otherwise in the file.

    Args:
        module: where they are used.
        nodes: searched, with what is in them.
        new: local name -> final name.
        final: (module, name) -> final name.
        hidden: names that a function around the nodes has bound itself.
        of_class: names that the class around the nodes has bound so far, which functions in it do not see; None where
            there is no class directly around them.
    """
    own = hidden | (of_class or frozenset())
    for node in nodes:
        outer: list[ast.AST] = []
        parts, inner, names = ast.iter_child_nodes(node), hidden, of_class
        if isinstance(node, SCOPES):
            outer, parts = _parts(node)
            inner, names = hidden | _locals(node), None
        elif isinstance(node, ast.ClassDef):
            outer = [child for child in ast.iter_child_nodes(node) if child not in node.body]
            for i, statement in enumerate(node.body):
                bound = frozenset(_bound(node.body[:i]))
                yield from _references(module, [statement], new, final, hidden, bound)
            parts = iter(())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = module.modules.get(node.value.id)
            if other is not None and node.value.id not in own:
                yield _span(node), final[other, node.attr]
                continue
        elif isinstance(node, ast.Name) and node.id not in own and (of_class is None or isinstance(node.ctx, ast.Load)):
            yield from _renamed_use(module, node, new)
        yield from _references(module, outer, new, final, hidden, of_class)
        yield from _references(module, parts, new, final, inner, names)


def _renamed_use(module: Module, node: ast.Name, new: Mapping[str, str]) -> Iterator[tuple[Span, str]]:
    """Yield the edit for the use of one name, if it is called otherwise in the file."""
    if node.id in module.modules:
        raise ValueError(f"{module.name} uses the module {node.id} as a value in line {node.lineno}; name its parts")
    if new.get(node.id, node.id) == node.id:
        return
    # before Python 3.12 what stands in an f-string may be said to stand elsewhere
    if ast.get_source_segment(module.source, node) != node.id:
        raise ValueError(f"{module.name} uses {node.id} inside a string in line {node.lineno}; name it first")
    yield _span(node), new[node.id]


def _parts(node: ast.AST) -> tuple[list[ast.AST], Iterator[ast.AST]]:
    """Return what of a function stands in the scope around it (decorators, defaults, annotations), and the rest."""
    if not isinstance(node, FUNCTIONS):
        return [], ast.iter_child_nodes(node)
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    return [child for child in ast.iter_child_nodes(node) if child not in body], iter(body)


def _locals(node: ast.AST) -> frozenset[str]:
    """Return the names that a function or comprehension binds itself."""
    outer, parts = _parts(node)
    arguments = {inner.arg for part in outer for inner in ast.walk(part) if isinstance(inner, ast.arg)}
    return frozenset(arguments | set(_bound(parts)))


def _edited(module: Module, edits: dict[Span, str]) -> str:
    """Apply edits to a source, the last one first."""
    lines = [line.encode() for line in module.source.splitlines(keepends=True)]
    for (line, column, last, end), text in sorted(edits.items(), reverse=True):
        before, after = lines[line - 1][:column], lines[last - 1][end:]
        lines[line - 1 : last] = [before + text.encode() + after]
    return b"".join(lines).decode()
