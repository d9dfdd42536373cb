"""Who may import whom: the mathematics knows no model, a model knows no learner, and nothing heavy loads early."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "everlearn"

# a folder or module of everlearn -> those that it may import; itself is always allowed
ALLOWED = {
    "rules": "",
    "levels": "",
    "ops": "",
    "memory": "rules ops levels",
    "optim": "rules levels",
    "layers": "rules memory levels ops",
    "models": "layers memory levels",
    "convert": "models layers memory levels rules",
    "continual": "models layers memory rules levels ops",
    "learn": "models layers memory levels",
    "evals": "models learn continual optim layers memory rules levels ops train",
    "train": "models learn continual optim memory rules levels",
    "recipes": "train models convert learn continual evals optim rules memory levels",
    "store": "memory levels",
    "serve": "learn continual store",
    "device": "",
    "layout": "",
    "paper": "",
}
COMPOSERS = {"demo", "cli", "compose", "__init__", "__main__"}  # they put the parts together and may import all of them
SERVES_ALL = {"device", "layout"}  # may be imported from everything above the models
ABOVE_MODELS = {"models", "evals", "train", "recipes", "serve", "learn", "continual"}

TORCH_ONLY = {"torch"}
THIRD_PARTY = {
    "rules": TORCH_ONLY,
    "levels": TORCH_ONLY,
    "ops": TORCH_ONLY,
    "layers": TORCH_ONLY,
    "models": TORCH_ONLY,
    "optim": TORCH_ONLY,
    "device": TORCH_ONLY,
    "memory": {"torch", "safetensors"},
    "store": {"torch", "safetensors"},
    "paper": set(),
    "layout": set(),
    "__init__": set(),
    "__main__": set(),
}
# files that may import more than their folder: what speaks with Hugging Face
WIDER = {
    "models/hf/": {"transformers"},
    "models/tokenizer.py": {"transformers"},
    "models/hub.py": {"transformers", "huggingface_hub"},
    # what an extra installs, imported where it is used alone
    "continual/encoders.py": {"sentence_transformers"},
    "continual/text_sets.py": {"datasets"},
    "continual/image_files.py": {"PIL"},
    "continual/image_encoders.py": {"transformers"},
    "recipes/image_files.py": {"datasets"},
}
# where a distribution and its module differ
IMPORT_NAMES = {"scikit-learn": "sklearn", "sentence-transformers": "sentence_transformers", "pillow": "PIL"}
HEAVY = {"torch", "numpy", "sklearn", "scipy", "matplotlib", "rich", "jinja2", "safetensors", "transformers", "tyro"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def band_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def names_of(node: ast.AST) -> list[str]:
    """Return the dotted names that an import statement may bind: of `from a import b` both a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in names_of(node):
            yield node.lineno, name


def early_imports(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Yield the imports that run when the module is imported: not in functions, not for type checkers."""
    for node in body:
        for name in names_of(node):
            yield node.lineno, name
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from early_imports(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                yield from early_imports(vars(node).get(block, []))


def direction_faults(path: Path) -> list[str]:
    here = band_of(path)
    if here in COMPOSERS:
        return []
    allowed = set(ALLOWED[here].split()) | {here} | (SERVES_ALL if here in ABOVE_MODELS else set())
    faults = set()
    for line, name in imports(path):
        top, _, rest = name.partition(".")
        there = rest.split(".")[0]
        if top == "everlearn" and there in set(ALLOWED) | COMPOSERS and there not in allowed:
            faults.add(f"{path.name}:{line}: {here} must not import {there}")
    return sorted(faults)


def test_the_check_itself_sees_a_wrong_direction(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "rules").mkdir()
    wrong = tmp_path / "rules" / "x.py"
    wrong.write_text(
        "import torch\nfrom everlearn import models\n\ndef f():\n    from everlearn.cli.main import main\n"
    )
    assert direction_faults(wrong) == ["x.py:2: rules must not import models", "x.py:5: rules must not import cli"]


def test_every_folder_has_its_place_in_the_order():
    unknown = {band_of(path) for path in FILES} - set(ALLOWED) - COMPOSERS
    assert not unknown, f"{unknown} have no row in ALLOWED: decide what they may import"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_follow_the_direction(path):
    assert direction_faults(path) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_are_absolute_and_name_no_star(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of the module"
            assert [alias.name for alias in node.names] != ["*"], f"line {node.lineno}: name what is imported"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_third_party_imports_are_declared_and_lawful(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = import_names(project["dependencies"])
    extras = import_names(name for those in project["optional-dependencies"].values() for name in those)
    file = path.relative_to(PACKAGE).as_posix()
    wider = {name for place, names in WIDER.items() if file.startswith(place) for name in names}
    allowed = (THIRD_PARTY.get(band_of(path), declared) & declared) | (wider & (declared | extras))
    foreign = {name.split(".")[0] for _, name in imports(path)} - sys.stdlib_module_names - {"everlearn"}
    assert foreign <= allowed, f"{band_of(path)} may import {sorted(allowed)}; this file imports {sorted(foreign)}"
    # what only an extra brings may be missing: it is imported where it is needed, and not with the module
    early = {name.split(".")[0] for _, name in early_imports(ast.parse(path.read_text(encoding="utf-8")).body)}
    assert not early & (extras - declared)


def import_names(requirements: Iterable[str]) -> set[str]:
    names = {requirement.split(">")[0].split("=")[0].split("<")[0].strip() for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_no_module_waits_for_itself():
    known = {module_of(path): path for path in FILES}
    graph = {}
    for module, path in known.items():
        early = {name for _, name in early_imports(ast.parse(path.read_text(encoding="utf-8")).body)}
        targets = {name for name in early if name in known}
        # `from a.b import c` names the package a.b and the module a.b.c: the module is what is waited for
        targets = {name for name in targets if not any(other.startswith(f"{name}.") for other in targets)}
        graph[module] = targets - {module}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=module_of)
def test_a_verb_imports_nothing_heavy_at_its_top(path):
    early = [name for _, name in early_imports(ast.parse(path.read_text(encoding="utf-8")).body)]
    light = sys.stdlib_module_names | {"tyro"}  # the parser is needed to read the options of any verb
    heavy = {name for name in early if name.split(".")[0] not in light}
    heavy = {
        name
        for name in heavy
        if name != "everlearn" and not name.startswith(("everlearn.cli", "everlearn.__", "everlearn.layout"))
    }
    assert not heavy, f"import {sorted(heavy)} inside the function that needs it"


def test_help_and_version_load_no_library():
    code = (
        "import sys; from everlearn.cli.main import main; main(['--help']); main(['--version']); "
        f"sys.exit(', '.join({HEAVY!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"loaded by --help: {done.stderr}"
