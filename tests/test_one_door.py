"""Weights that users share change in training and in `consolidate`: nothing else in the package writes parameters."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "everlearn"

# places that may change tensors in place or load parameters: "file::function", or a file or folder as a whole -> why
ALLOWED = {
    "levels/consolidate.py::consolidate": "the door",
    "train/": "training",
    "optim/": "training",
    "continual/strategies/": "training of a head or a network of the strategy's own",
    "evals/lora.py::add_low_rank": "a baseline trains a copy of its own",
    "evals/ways.py": "baselines train copies of their own",
    "memory/class_statistics.py::ClassStatistics.plus": "sums that were just made",
    "ops/self_modifying/matrix.py": "products are added to tensors that were just made",
    "recipes/meta_start.py::meta_start": "training of a start; the pretrained weights are not touched",
    "recipes/vit_trainer.py": "training of a model of its own",
    "recipes/vit.py::run": "training of a model of its own",
    "recipes/vit.py::load": "a model that was just built",
    "convert/deltas.py::StackedDeltas.set_starts": "a stacked model takes its adapter's starts, or learned ones",
    "convert/distil.py::_step": "training of a hybrid, which is a copy",
    "convert/starts.py::copy_projections": "a memory that was just built starts from the projections of attention",
    "convert/starts.py::copy_units": "a memory that was just built starts from the units of an MLP",
    "convert/replacement.py::load_replaced": "a model that was just built",
    "convert/mount.py::Mount.remove": "unstack(state), with which the owner of a model merges what one row has learned",
    "models/checkpoint.py::load_model": "a model that was just built",
    "models/hf/modeling.py::HopePreTrainedModel.from_pretrained": "a model that was just built moves in memory",
    "models/decoder.py::Decoder.with_levels": "a model that was just built shares the parameters as they are",
}
# it asks for a gradient and changes no value
LEAVES = {"requires_grad_"}
IN_PLACE = re.compile(r"[a-z]\w*[a-z0-9]_")
MAKES = {"Parameter", "register_buffer"}
LOADS = {"load_state_dict", "vector_to_parameters", "swap_tensors", "setattr", ".step"}


def scopes(node: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield every node with the dotted name of the function or class around it."""
    for child in ast.iter_child_nodes(node):
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        here = f"{name}.{child.name}".lstrip(".") if inner else name
        yield here, child
        yield from scopes(child, here)


def writes(node: ast.AST, scope: str) -> str | None:
    """Name what a node writes: a tensor in place, a parameter's `data`, weight or bias, or a model's parameters."""
    if isinstance(node, ast.Call):
        of_object = isinstance(node.func, ast.Attribute)
        called = node.func.attr if of_object else getattr(node.func, "id", "")
        built = scope.endswith("__init__")
        if called in LOADS or (of_object and f".{called}" in LOADS) or (called in MAKES and not built):
            return called
        # what a module does to its own tensors while it is built is its initialisation
        return called if IN_PLACE.fullmatch(called) and called not in LEAVES and not built else None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    for target in targets:
        if isinstance(target, ast.Attribute) and target.attr == "data":
            return "data"
        held = target.value if isinstance(target, ast.Subscript) else None
        if isinstance(held, ast.Attribute) and held.attr in ("data", "weight", "bias", "grad"):
            return held.attr
    return None


def faults(path: Path, root: Path) -> list[str]:
    file, found = path.relative_to(root).as_posix(), []
    for scope, node in scopes(ast.parse(path.read_text(encoding="utf-8"))):
        what = writes(node, scope)
        if what and not any(f"{file}::{scope}" == place or file.startswith(place) for place in ALLOWED):
            found.append(f"{file}::{scope} {what}")
    return found


def test_the_check_itself_sees_every_way_to_write(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        "def f(model, other):\n    model.weight.add_(1)\n    model.weight.data = other\n    model.load_state_dict({})\n"
        "    model.weight.data[0] += 1\n    model.bias[0] = 2\n    setattr(model, 'weight', other)\n"
        "    model.weight = nn.Parameter(other)\n    optimizer.step()\n    nn.init.zeros_(model.bias)\n"
        "    x = other.detach().requires_grad_()\n    x = data[0]\n\n"
        "class M:\n    def __init__(self):\n        self.a = nn.Parameter(x)\n        nn.init.zeros_(self.a)\n"
    )
    names = ["add_", "data", "load_state_dict", "data", "bias", "setattr", "Parameter", "step", "zeros_"]
    assert faults(page, tmp_path) == [f"page.py::f {name}" for name in names]


def test_nothing_else_writes_parameters():
    found = [fault for path in sorted(PACKAGE.rglob("*.py")) for fault in faults(path, PACKAGE)]
    assert not found, "go through levels.consolidate, or say in ALLOWED why this is training or a model's own start"


def test_every_place_that_is_allowed_exists_and_writes(monkeypatch):
    """A row that nothing needs any more would leave a door open."""
    for place in [p for p in ALLOWED if (PACKAGE / p.split("::")[0]).exists()]:
        monkeypatch.setitem(globals(), "ALLOWED", {other: why for other, why in ALLOWED.items() if other != place})
        path = PACKAGE / place.split("::")[0]
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        assert any(faults(file, PACKAGE) for file in files), place
        monkeypatch.undo()
