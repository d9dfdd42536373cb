"""Every document by itself: what was archived stays, and the loss of each candidate is what reading it alone costs."""

import math
from dataclasses import replace

import pytest
import torch

from everlearn.learn import read
from everlearn.learn.archive import Archive
from everlearn.learn.route import BASE, Route, error_rate
from everlearn.memory import codec
from everlearn.memory.state import ModelState
from everlearn.models.text import encode
from everlearn.store import FolderArchive
from tests.tiny import CHUNK, TEXT, byte_model, fingerprint

TEXTS = {"cats": TEXT, "numbers": b"1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "as": b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
WHOLE = {"rank": 99, "bits": None}


STATES: dict[tuple[str, str, int, bytes], ModelState] = {}


def learned(model, text: bytes) -> ModelState:
    """Return what a text teaches; `byte_model` makes the same parameters in every call, so it is read once."""
    key = (model.config.mixer, str(model.config.levels), model.config.hidden_dim, text)
    if key not in STATES:
        with torch.no_grad():
            start = model.initial_state(1)
        STATES[key] = read(model, encode(text)[None], start, chunk_size=CHUNK, end="flush")[1]
    return STATES[key]


def archive(model, **options) -> Archive:
    kept = Archive(model, **options)
    for name, text in TEXTS.items():
        kept.keep(name, learned(model, text))
    return kept


def bits(kept: Archive) -> dict[str, str]:
    """Return a hash of every entry."""
    return {entry.name: codec.digest(entry.to_tensors()) for entry in kept.entries()}


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_a_candidate_costs_what_reading_with_its_state_costs(name, rows):
    """In batches of any size; the base is always among them, first."""
    model = byte_model(name)
    kept, window = archive(model, rows=rows, **WHOLE), encode(b"9 10 11 12 13")
    route = kept.route(window)
    assert list(route.losses) == [BASE, *TEXTS]
    for candidate, loss in route.losses.items():
        with torch.no_grad():
            state = model.initial_state(1)
        if candidate != BASE:
            levels = learned(model, TEXTS[candidate]).memory
            state = replace(state, memory=state.memory | {name: levels[name] for name in model.memories()})
        report, _ = read(model, window[None], state, chunk_size=CHUNK, learn=False)
        assert loss == pytest.approx(float(report.nll[0, 1:].mean()), abs=1e-10)
    assert route.choice == min(route.losses, key=lambda candidate: route.losses[candidate]) != BASE
    assert route.margin == pytest.approx(sorted(route.losses.values())[1] - min(route.losses.values()), abs=1e-12)
    assert route.tokens == 4 * len(window)


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_what_is_kept_whole_is_what_was_learned(name):
    model = byte_model(name)
    kept = archive(model, **WHOLE)
    for document, text in TEXTS.items():
        state, back = learned(model, text), kept.state(document)
        for layer in model.memories():
            for part in ("fast.up", "slow.down"):
                torch.testing.assert_close(back.memory[layer][part], state.memory[layer][part], atol=1e-12, rtol=0)
                assert not back.memory[layer][f"{part}.grad"].any()


def test_going_on_with_a_candidate_changes_the_levels_and_keeps_the_stream():
    model = byte_model()
    kept, stream = archive(model), model(encode(b"once upon")[None])[1].detach()
    on = kept.onto("cats", stream)
    for layer, carried in stream.context.items():
        assert codec.digest(on.context[layer]) == codec.digest(carried)
    assert torch.equal(on.memory["blocks.1.mixer"]["S"], stream.memory["blocks.1.mixer"]["S"])
    assert torch.equal(on.memory["blocks.1.mlp"]["fast.up"], kept.state("cats").memory["blocks.1.mlp"]["fast.up"])
    assert on.segment_len.tolist() == [9]
    # the window may stand in the middle of a stream; then its first token is predicted, too
    route, window = kept.route(encode(b" a time"), stream), encode(b" a time")[None]
    for candidate in (BASE, "cats"):
        logits, _ = model(window, kept.onto(candidate, stream))
        nll = torch.nn.functional.cross_entropy(logits[0, :-1], window[0, 1:], reduction="mean")
        assert route.losses[candidate] == pytest.approx(float(nll.detach()), abs=1e-10)


def test_context_is_read_and_not_counted():
    kept, window = archive(byte_model(), **WHOLE), encode(b"the cat 12 13 14")
    report, _ = read(kept.model, window[None], kept.state("cats"), chunk_size=CHUNK, learn=False)
    route = kept.route(window, context=8, truth="cats")
    assert route.losses["cats"] == pytest.approx(float(report.nll[0, 8:].mean()), abs=1e-10)
    for bad in (-1, len(window)):
        with pytest.raises(ValueError, match="has no token to count"):
            kept.route(window, context=bad)
    with pytest.raises(ValueError, match="one stream at a time"):
        kept.route(window[None])


def test_ties_and_what_is_too_small_a_gain_go_to_the_base():
    model = byte_model()
    kept = Archive(model)
    assert kept.route(encode(TEXT)) == Route(kept.route(encode(TEXT)).losses, BASE, math.inf, len(TEXT))
    with torch.no_grad():
        kept.keep("nothing", model.initial_state(1))
    route = kept.route(encode(TEXT))
    assert (route.choice, route.margin) == (BASE, pytest.approx(0, abs=1e-9))
    assert archive(model).route(encode(TEXT)).choice == "cats"
    reluctant = archive(model, min_gain=9.0).route(encode(TEXT), truth="cats")
    assert reluctant.choice == BASE and reluctant.margin < 0 and reluctant.wrong is True


def test_the_error_rate_counts_the_routes_whose_truth_is_known():
    routes = [Route({}, "a", 0.0, 1, truth) for truth in ("a", None, "b", "a", BASE)]
    assert [route.wrong for route in routes] == [False, None, True, False, True]
    assert error_rate(routes) == 0.5
    assert math.isnan(error_rate(routes[1:2]))


def test_a_text_is_scored_by_the_best_of_the_chunk_before():
    model = byte_model()
    kept = archive(model, **WHOLE)
    ids = encode(TEXTS["cats"][:16] + TEXTS["numbers"][:16])
    nll, routes = kept.score(ids, chunk_size=8, truth="cats")
    table = torch.stack(
        [read(model, ids[None], kept.state(name), chunk_size=CHUNK, learn=False)[0].nll[0] for name in (BASE, *TEXTS)]
    )
    used, names = [0], [BASE, *TEXTS]
    for start in (0, 8, 16):
        used.append(int(table[:, start : start + 8].nanmean(1).argmin()))
    wanted = torch.cat([table[row, 8 * i : 8 * i + 8] for i, row in enumerate(used)])
    torch.testing.assert_close(nll, wanted, atol=1e-10, rtol=0, equal_nan=True)
    assert [route.choice for route in routes] == [names[row] for row in used[1:]]
    assert error_rate(routes) == sum(names[row] != "cats" for row in used[1:]) / 3
    with pytest.raises(ValueError, match="chunk_size 1 is below 2"):
        kept.score(ids, chunk_size=1)


def test_keeping_one_document_leaves_the_others_bit_for_bit_and_can_be_undone():
    model = byte_model()
    kept = archive(model)
    before = bits(kept)
    kept.keep("cats", learned(model, b"cats are no dogs"))
    assert kept.names() == ["numbers", "as", "cats"]
    after = bits(kept)
    assert {n: h for n, h in after.items() if n != "cats"} == {n: h for n, h in before.items() if n != "cats"}
    assert after["cats"] != before["cats"]
    kept.roll_back("cats")
    assert bits(kept) == before
    kept.roll_back("cats")  # before it was kept for the first time
    assert kept.names() == ["numbers", "as"]
    with pytest.raises(ValueError, match=r"'cats' is not archived; the archive holds \['numbers', 'as'\]"):
        kept.roll_back("cats")


def test_a_reading_that_is_kept_again_takes_its_own_place():
    """As after a crash: no version is made of it, and none is lost; the newest stays where it is."""
    model = byte_model()
    kept = archive(model)
    kept.keep("cats", learned(model, b"cats are no dogs"))
    before = bits(kept)
    orders = [entry.order for entry in kept.entries()]
    kept.keep("cats", learned(model, b"cats are no dogs"), again=True)
    assert bits(kept) == before and [entry.order for entry in kept.entries()] == orders
    kept.keep("numbers", learned(model, TEXTS["numbers"]), again=True)
    assert bits(kept) == before and kept.names() == ["as", "cats", "numbers"]
    kept.keep("new", learned(model, TEXT), again=True)
    assert kept.names()[-1] == "new" and kept.entry("new").before is None


def test_routing_changes_nothing():
    kept = archive(byte_model())
    before, base = bits(kept), fingerprint(kept.state(BASE))
    kept.route(encode(TEXT))
    kept.score(encode(TEXT), chunk_size=8)
    assert (bits(kept), fingerprint(kept.state(BASE)), kept.names()) == (before, base, list(TEXTS))


def test_beyond_the_capacity_the_oldest_goes_unless_a_rule_says_otherwise():
    model = byte_model()
    kept = archive(model, capacity=2)
    assert kept.names() == ["numbers", "as"]
    kept.touch("numbers")
    assert kept.keep("cats", learned(model, TEXT)) == ["as"]
    assert kept.names() == ["numbers", "cats"]
    largest = Archive(model, capacity=1, drop=lambda entries: max(entries, key=lambda e: e.nbytes()).name)
    assert [largest.keep(name, learned(model, text)) for name, text in TEXTS.items()] == [[], ["cats"], ["numbers"]]
    wrong = Archive(model, capacity=1, drop=lambda entries: "no")
    wrong.keep("a", learned(model, TEXT))
    with pytest.raises(ValueError, match="drop named 'no'"):
        wrong.keep("b", learned(model, TEXT))


def test_an_archive_outlives_the_process_and_forgets_the_bytes(tmp_path):
    model = byte_model()
    shelf = FolderArchive(tmp_path / "ada", model.fingerprint())
    kept = archive(model, shelf=shelf)
    kept.keep("cats", learned(model, b"cats are no dogs"))
    again = Archive(model, FolderArchive(tmp_path / "ada", model.fingerprint()))
    assert (bits(again), again.names()) == (bits(kept), kept.names())
    assert again.route(encode(TEXT)) == kept.route(encode(TEXT))
    again.roll_back("cats")
    size = len(shelf.path("cats").read_bytes())
    assert bits(Archive(model, shelf)) == bits(archive(model))
    assert again.forget("cats") and not again.forget("cats")
    assert not shelf.path("cats").exists() and size > again.entries()[0].nbytes()
    assert Archive(model, shelf).names() == ["numbers", "as"]
    # what another process has on the shelf is removed, too
    shelf.save(replace(kept.entries()[0], name="other"))
    assert again.forget("other") and len(list((tmp_path / "ada").iterdir())) == 2


def test_a_failed_save_keeps_the_old_entry(tmp_path, monkeypatch):
    model = byte_model()
    kept = archive(model, shelf=FolderArchive(tmp_path, model.fingerprint()))
    before = bits(kept)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            kept.keep("cats", learned(model, b"another text"))
    assert bits(kept) == before == bits(Archive(model, FolderArchive(tmp_path, model.fingerprint())))


def test_what_does_not_belong_in_an_archive_is_refused(tmp_path):
    model, other = byte_model(), byte_model(hidden_dim=6)
    kept = Archive(model, FolderArchive(tmp_path, model.fingerprint()))
    state = learned(model, TEXT)
    broken = state.map(lambda t: t * math.nan if t.is_floating_point() else t)
    for name, bad, words in (
        ("base", state, "stands for the model as it was"),
        ("", state, "document name '' must have 1 to 128 printable characters"),
        ("two", state.rows([0, 0]), "has 2 rows"),
        ("nan", broken, "NaN"),
        ("foreign", learned(other, TEXT), "another model's"),
    ):
        with pytest.raises(ValueError, match=words):
            kept.keep(name, bad)
    assert kept.names() == [] and list(tmp_path.iterdir()) == []
    for options in ({"capacity": 0}, {"rows": 0}, {"min_gain": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} {next(iter(options.values()))}"):
            Archive(model, **options)


def test_damaged_renamed_and_foreign_files_are_refused(tmp_path):
    model = byte_model()
    shelf = FolderArchive(tmp_path, model.fingerprint())
    archive(model, shelf=shelf)
    path, whole = shelf.path("cats"), shelf.path("cats").read_bytes()
    with pytest.raises(ValueError, match="was archived with another model"):
        FolderArchive(tmp_path, "another").load()
    with pytest.raises(ValueError, match="this model has"):
        Archive(byte_model(hidden_dim=6), shelf)
    for broken, words in ((whole[:-1], "truncated"), (whole[:-1] + bytes([whole[-1] ^ 1]), "changed")):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=words):
            shelf.load()
    path.write_bytes(shelf.path("as").read_bytes())
    with pytest.raises(ValueError, match="must not be renamed"):
        shelf.load()
    codec.save_tensors(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="is no archived state"):
        shelf.load()
