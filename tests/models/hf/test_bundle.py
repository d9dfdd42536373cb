"""Modules joined into one file do what the package does, however their names collide and hide each other."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from everlearn.models.hf.bundle import bundle

FILES = {
    "__init__": "",
    "low/__init__": "from pack.low.numbers import value as seven",
    "low/numbers": '''
        """A docstring that is left out."""
        from __future__ import annotations
        import math as m

        # why it is seven
        value = 7
        sum = 3  # the name of a builtin

        def shift(x): return x + 1

        def scale(x: float, by: float = value) -> float:
            """Kept."""
            def value():  # another one, in here
                return x * by
            return value() * m.pi
        ''',
    "low/words": """
        from collections.abc import Iterator

        class value:
            def scale(self) -> str:
                return "scaled"

        def scale(words: Iterator[str]) -> list[str]:
            value = [scale for scale in words]
            return [word.upper() for word in value]
        """,
    "low/middle": "from pack.low.numbers import scale as scale_of_all, sum as three\nunused = 1",
    "top": """
        from dataclasses import dataclass
        import math

        from pack.low import numbers, seven
        from pack.low.words import scale as scale_words, value
        from pack.low.middle import scale_of_all as scale, three

        def late(x):
            from pack.low.words import scale as also
            return also(iter([x]))

        @dataclass
        class Result:
            numbers: float = numbers.scale(2.0)
            seven: int = seven

            def all(self, math=math.e, three=three) -> tuple:
                total = sum([1, 2])
                return (self.numbers, self.seven, numbers.value, scale(1.0), scale_words(iter("ab")), value().scale(),
                        math, three, total, late("c"), f"{seven} {scale(0.0)}", (lambda scale: scale)(5),
                        {scale: 1 for scale in "x"}, numbers.sum)

        def local():
            value_of = [value().scale()]
            scale = scale_words(iter(value_of))
            shift = numbers.shift(1)
            return scale, shift

        def caught():
            try:
                raise ValueError("caught")
            except ValueError as scale:
                return str(scale)

        def result():
            return (*Result().all(), caught(), local())
        """,
}


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Return what writes files into a package of the name pack."""

    def write(files: dict[str, str]) -> None:
        for name, source in files.items():
            path = tmp_path / "pack" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
        del sys.modules[name]
    bundle.__globals__["_file"].cache_clear()


def test_the_file_gives_what_the_package_gives(pack, monkeypatch):
    pack(FILES)
    wanted = importlib.import_module("pack.top").result()
    text = bundle(["pack.top"], '"""Head."""')
    for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    space = {"__name__": "one_file"}
    monkeypatch.setitem(sys.modules, "one_file", type(sys)("one_file"))
    exec(compile(text, "one_file.py", "exec"), space)
    assert space["result"]() == wanted
    assert space["Result"].__module__ == "one_file"


def test_comments_and_docstrings_stay_and_names_change_where_they_collide_only(pack):
    pack(FILES)
    text = bundle(["pack.top"], '"""Head."""')
    head = '"""Head."""\n\nfrom __future__ import annotations\n\nfrom collections.abc import Iterator\n'
    assert text.startswith(head)
    assert "# why it is seven\nvalue_numbers = 7\n" in text and '"""Kept."""' in text
    assert "A docstring that is left out" not in text and "from pack" not in text
    assert "def scale_numbers(x: float, by: float = value_numbers)" in text
    assert "class value_words:\n    def scale(self)" in text
    assert "\nseven = value_numbers\nscale_words = scale_low_words\nthree = sum_numbers\n" in text
    assert "class Result:\n    numbers: float = scale_numbers(2.0)" in text
    assert text.index("# pack/low/numbers.py") < text.index("# pack/top.py")
    assert bundle(["pack.top", "pack.low.words"], '"""Head."""') == text


REFUSED = {
    "a star": ("from pack.a import *", r"pack\.b imports everything of pack\.a"),
    "a whole module": ("import pack.a", r"pack\.b imports pack\.a as a whole"),
    "a module as a value": ("from pack import a\nx = [a]", r"uses the module a as a value in line 2"),
    "a module inside": ("def f():\n    from pack import a", r"imports the module pack\.a inside a function"),
    "a local of the new name": (
        "x = 2\ndef f(x_b):\n    from pack.a import x\n    return x",
        "has a local x_b in line 2",
    ),
    "two imports of one name": ("from pack.a import x\nfrom math import sin as tau", "tau is from math import sin"),
    "what an __init__ defines": ("from pack import own", "pack itself defines own, and cannot be joined"),
    "what comes from elsewhere": ("from pack.a import tau", r"imports tau of pack\.a, which has it from elsewhere"),
    "what is not there": ("from pack.none import x", "there is no module 'pack.none' to join"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_joined_is_refused(source, message, pack):
    pack({"__init__": "own = 3", "a": "from math import tau\nx = 1", "b": source})
    with pytest.raises(ValueError, match=message):
        bundle(["pack.b"], "")
