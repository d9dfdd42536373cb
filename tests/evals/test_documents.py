"""Which page is for what: fixed by a hash, and no page has two uses."""

import hashlib

import pytest

from everlearn.evals.documents import assign

TEXT = "".join(f"{n:04d}" for n in range(250))


def test_no_character_has_two_roles_and_the_order_is_that_of_the_hash():
    roles = {"tune": 2, "read": 3, "heldout": 1}
    taken = assign("book", TEXT, roles, length=100)
    pieces = [piece for role in roles for piece in taken[role]]
    assert [len(taken[role]) for role in roles] == [2, 3, 1]
    assert len({piece.index for piece in pieces}) == 6
    keys = [hashlib.sha256(piece.name.encode()).hexdigest() for piece in pieces]
    assert keys == sorted(keys)
    for role in roles:
        for piece in taken[role]:
            assert (piece.role, piece.domain) == (role, "book")
            assert piece.text == TEXT[100 * piece.index : 100 * piece.index + 100]
            assert piece.sha256 == hashlib.sha256(piece.text.encode()).hexdigest()


def test_a_role_more_at_the_end_moves_nothing():
    before = assign("book", TEXT, {"tune": 2}, length=100)
    assert assign("book", TEXT, {"tune": 2, "read": 4}, length=100)["tune"] == before["tune"]


def test_too_short_a_text_is_refused():
    with pytest.raises(ValueError, match=r"'book' holds 10 pieces of 100 characters, but 11 are needed \(tune 11\)"):
        assign("book", TEXT, {"tune": 11}, length=100)
