"""One spelling for each user's name."""

import pytest

from everlearn.memory.users import user_name


def test_composed_and_decomposed_letters_are_one_name():
    assert user_name("Zoe\u0308") == user_name("Zo\u00eb") == "Zo\u00eb"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "\udcff", "\x1b[31m", "a\0", "\u202e", 5, None])
def test_what_is_no_name_is_refused_in_one_printable_line(name):
    with pytest.raises(ValueError, match="user name") as refused:
        user_name(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize("name", ["../../x", "a b", "-", "x" * 128, "\u00fc"])
def test_any_printable_name_is_taken(name):
    assert user_name(name) == name
