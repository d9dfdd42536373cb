"""What a reader may ask for, and where it is found."""

from pathlib import Path

import pytest

from everlearn.paper import EQUATIONS, Found, Tag, ask, look_up, merge
from everlearn.paper.find import join


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("71", ["NL eq. 71"]),
        ("(71)", ["NL eq. 71"]),
        ("eq71", ["NL eq. 71"]),
        ("Eq. 71", ["NL eq. 71"]),
        ("NL equation 71", ["NL eq. 71"]),
        ("[NL eq. 71]", ["NL eq. 71"]),
        ("eq. 64-65", ["NL eq. 64", "NL eq. 65"]),
        ("64 – 65", ["NL eq. 64", "NL eq. 65"]),  # noqa: RUF001
        ("eqs 92, 64 and 65", ["NL eq. 64", "NL eq. 65", "NL eq. 92"]),
        ("92 92", ["NL eq. 92"]),
        # 58 to 61 and 63 are not on the list
        ("57-64", ["NL eq. 57", "NL eq. 62", "NL eq. 64"]),
        ("alg 1", ["NL alg. 1"]),
        ("algorithm 1", ["NL alg. 1"]),
        ("def. 2, eq. 71", ["NL eq. 71", "NL def. 2"]),
        ("def", ["NL def. 2", "NL def. 3", "NL def. 4"]),
        ("sec 7.3", ["NL sec. 7.3"]),
        # another paper begins with its equations again
        ("alg 1, Titans 13", ["NL alg. 1", "Titans eq. 13"]),
        ("Titans 13", ["Titans eq. 13"]),
        ("titans eq. 13-14, NL 71", ["NL eq. 71", "Titans eq. 13", "Titans eq. 14"]),
        ("Titans", [f"Titans eq. {number}" for number in range(8, 32)]),
        ("Oja", ["NL eq. 66"]),
        ("delta rule L2", ["NL eq. 65"]),
        ("", list(EQUATIONS)),
    ],
)
def test_equations_are_understood_however_they_are_written(text, expected):
    assert ask(text) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("76", "NL eq. 76 is not on the list of equations; the nearest on it: NL eq. 75, NL eq. 83; see all: "),
        ("71, 76", "NL eq. 76 is not on the list"),
        ("500", "NL eq. 500 is not on the list of equations; the nearest on it: NL eq. 121; see all: "),
        ("76-82", "NL eq. 76-82 is not on the list of equations; the nearest on it: NL eq. 75, NL eq. 83; see all: "),
        ("Titans alg 1", "Titans alg. 1 is not on the list of equations; it has NL eq., NL alg., NL def., NL sec., "),
        ("65-64", "the range NL eq. 65-64 does not count up; write it like NL eq. 64-65"),
        ("7.3", "NL eq. 7.3 is not on the list of equations; it has NL sec. 7.3; see all: "),
        ("phlogiston", "nothing on the list is called 'phlogiston'; give a number (71), a range (64-65), "),
        ("Miras", "nothing on the list is called 'Miras'; give "),
        ("71x", "nothing on the list is called '71x'; give "),
        ("-71", "nothing on the list is called '-71'; give "),
        (",", "nothing on the list is called ','; give "),
        ("-", "nothing on the list is called '-'; give "),
        ("9" * 5000, "nothing on the list is called '9999"),
        ("1.5-" + "9" * 5000, "nothing on the list is called '1.5-9999"),
    ],
)
def test_what_is_not_on_the_list_is_one_line_that_names_what_is(text, line):
    with pytest.raises(ValueError) as error:
        ask(text)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def tag(label: str, file: str = "a.py", line: int = 3, name: str = "f") -> Tag:
    return Tag(label, Path(file), line, name)


def test_an_equation_is_found_with_its_code_and_its_tests():
    code, tests = [tag("NL eq. 64"), tag("NL eq. 65"), tag("NL eq. 65", "b.py")], [tag("NL eq. 65", "test_a.py")]
    found = look_up(["NL eq. 65", "NL eq. 66"], code, tests)
    assert found[0] == Found(("NL eq. 65",), EQUATIONS["NL eq. 65"], (code[1], code[2]), (tests[0],))
    assert found[1].code == found[1].tests == ()


def test_neighbours_are_merged_where_name_and_places_are_the_same():
    wanted = ["NL eq. 10", "NL eq. 11", "NL eq. 12", "NL eq. 13", "NL eq. 33"]
    code = [tag(label) for label in wanted]
    assert [one.title for one in merge(look_up(wanted, code, []))] == ["NL eq. 10-13, 33"]
    # a test that names one of them alone sets it apart
    tests = [tag("NL eq. 12", "test_a.py")]
    titles = [one.title for one in merge(look_up(wanted, code, tests))]
    assert titles == ["NL eq. 10-11", "NL eq. 12", "NL eq. 13, 33"]
    # the same places do not make one equation of two with different names
    other = ["NL eq. 64", "NL eq. 65"]
    assert [one.title for one in merge(look_up(other, [tag(label) for label in other], []))] == other
    # nor the same name one of two papers
    two = [Found(("NL eq. 1",), "a step", (), ()), Found(("Titans eq. 8",), "a step", (), ())]
    assert merge(two) == two


def test_labels_of_a_paper_are_joined_as_a_tag_writes_them():
    assert join(["Titans eq. 8"]) == "Titans eq. 8"
    assert join(["NL sec. 7.3", "NL sec. 7.4"]) == "NL sec. 7.3, 7.4"


def test_every_equation_says_what_it_is():
    assert all(name and name == name.strip() and not name.endswith(".") for name in EQUATIONS.values())
