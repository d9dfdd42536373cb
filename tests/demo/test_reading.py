"""Scene 2 on a tiny model and made-up texts: each number is that of a learner, or worked out by hand."""

import math

import pytest
import torch

from everlearn.demo import reading
from everlearn.demo.corpus import Document
from everlearn.demo.reading import Texts, _buckets, _by_bucket, _change, _kept, _ngrams, repeated_names, rows_never_mix
from everlearn.evals.dynamic_evaluation import dynamic_evaluation
from everlearn.evals.ngram import ByteNgram
from everlearn.evals.positions import bucket_means
from everlearn.learn import Learner, learn_chunk
from everlearn.levels import Level
from everlearn.models.text import encode
from everlearn.recipes import byte_reader
from tests.tiny import byte_model

LENGTH, CHUNK = 300, 12
KNOWN = [Document("known", b"def known_name(first, second):\n    return first + second\n" * 3)]
HELDOUT = [Document(f"h{i}", bytes(range(65, 91)) * (6 - i)) for i in range(4)]
FILES = [
    Document("a", b"def gather(numbers): return sum(numbers)  # numbers\n" * 7),
    # the shortest file bounds what is read of all
    Document("b", (b"class Lighthouse: lighthouse = Lighthouse, 1, 2, 3\n" * 7)[:LENGTH]),
    Document("c", b"while running: running = step(running) or running is\n" * 7),
]
TEXTS = Texts(KNOWN, HELDOUT, FILES)
LEVELS = [Level("fast", CHUNK, 0.3, reset="document"), Level("mid", 2 * CHUNK, 0.3), Level("slow", 4 * CHUNK, 0.3)]


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "HELDOUT_LENGTH", 78)
        patch.setattr(reading, "HELDOUT_FILES", 2)
        patch.setattr(byte_reader, "ONE_RATE", tuple(Level(level.name, CHUNK, eta=0.1) for level in LEVELS))
        yield


@pytest.fixture(scope="module")
def model():
    return byte_model(levels=LEVELS, num_layers=1, chunk_size=CHUNK)


@pytest.fixture(scope="module")
def scene(model, short):
    words = []
    results, pictures = reading.run(model, TEXTS, words.append)
    assert len(words) == reading.PARTS
    return results, pictures


def learned(model, file) -> tuple[Learner, torch.Tensor]:
    """Let one reader alone read one file and leave it open."""
    learner = Learner(model)
    bits = learner.read(FILES[file].data[:LENGTH], user="x", end="open").bits
    return learner, bits


def memory_alone(model, learner, text: bytes) -> torch.Tensor:
    """Score a text from its start by what a reader's levels hold, its open document left aside."""
    fresh = Learner(model)
    levels = {name: learner.state("x").memory[name] for name in model.memories()}
    state = fresh.state("y")
    fresh.restore("y", type(state)(state.memory | levels, {}, state.tokens_seen, state.segment_len))
    return fresh.score(text, "y").bits


def means(rows) -> list[float]:
    """Average each reader's bits by bucket, then over readers."""
    each = [bucket_means(row.double().numpy(), _buckets(LENGTH)) for row in rows]
    return torch.tensor(each, dtype=torch.float64).mean(0).tolist()


def test_the_scene_is_what_each_reader_alone_would_measure(model, scene):
    results, _ = scene
    alone = [learned(model, i) for i in range(3)]
    texts = [d.data[:LENGTH] for d in FILES]
    expected = {
        "frozen": [Learner(model).score(text).bits for text in texts],
        "learning": [bits for _, bits in alone],
        # row i reads its own file with what the next row has learned
        "control": [memory_alone(model, alone[(i + 1) % 3][0], text) for i, text in enumerate(texts)],
        "one_rate": [learned(model.with_levels(byte_reader.ONE_RATE), i)[1] for i in range(3)],
    }
    for way, rows in expected.items():
        assert results[way] == pytest.approx(means(rows), abs=1e-9), way
        each = [bucket_means(row.double().numpy(), _buckets(LENGTH)) for row in rows]
        for got, own in zip(results["per_file"][way], each, strict=True):
            assert got == pytest.approx(own, abs=1e-9)
        spread = torch.tensor(each, dtype=torch.float64).std(0).tolist()
        assert results[f"{way}_sd"] == pytest.approx(spread, abs=1e-9)
    ids = torch.stack([encode(text) for text in texts])
    all_weights = dynamic_evaluation(model, ids, eta=byte_reader.ALL_WEIGHTS_ETA)[0] / math.log(2)
    assert results["all_weights"] == pytest.approx(means(all_weights), abs=1e-9)
    assert len({round(results[way][-1], 6) for way in (*expected, "all_weights")}) == 5


def test_the_scene_names_its_files_and_saves_the_first_one_s_bits(model, scene):
    results, pictures = scene
    assert results["buckets"] == [[1, 256], [256, LENGTH]]
    assert results["files"] == ["a", "b", "c"]
    assert results["isolation"] == {"identical": True}
    page = pictures["bytes"]
    assert page["name"] == "a"
    assert bytes(page["text_bytes"]) == FILES[0].data[:LENGTH]
    saved = Learner(model).score(FILES[0].data[:LENGTH]).bits - learned(model, 0)[1]
    assert page["saved_bits"][0] == 0
    assert page["saved_bits"][1:] == pytest.approx(saved[1:].tolist(), abs=1e-9)


def test_buckets_grow_and_end_with_the_text():
    assert _buckets(8193) == [(1, 256), (256, 1024), (1024, 2048), (2048, 4096), (4096, 8193)]
    assert _buckets(1024) == [(1, 256), (256, 1024)]
    assert _buckets(1025) == [(1, 256), (256, 1024), (1024, 1025)]
    assert _buckets(100) == [(1, 100)]


def test_averages_over_files_by_hand():
    """Two files of four bytes in one bucket of three: means 2 and 4, spread sqrt 2; byte 0 is left out."""
    bits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 3.0, 4.0, 5.0]])
    two = [Document("a", b"abcd"), Document("b", b"efgh")]
    results = _by_bucket({"frozen": bits}, two, 4)
    assert results["frozen"] == [3.0]
    assert results["frozen_sd"] == pytest.approx([math.sqrt(2)])
    assert results["per_file"]["frozen"] == [[2.0], [4.0]]
    assert _by_bucket({"frozen": bits[:1]}, two[:1], 4)["frozen_sd"] == [None]
    assert set(results) == {"buckets", "frozen", "frozen_sd", "gzip", "gzip_sd", "per_file"}


def test_the_ngrams_know_what_the_model_knows_and_only_the_online_one_learns():
    rows = _ngrams(TEXTS, 200)
    for name, learn in (("ngram", False), ("ngram_online", True)):
        for row, document in zip(rows[name], FILES, strict=True):
            known = ByteNgram(order=5)
            known.train(KNOWN[0].data)
            assert row.tolist() == known.bits(document.data[:200], learn=learn).tolist()
    assert rows["ngram_online"].mean() < rows["ngram"].mean()


def test_what_is_kept_is_what_a_loop_over_readers_and_texts_finds(model):
    """A, then the next reader's file B, each closed; then the old texts, and A again, by hand."""
    ids = torch.stack([encode(d.data[:LENGTH]) for d in FILES])
    opened = reading._learn(model, ids)[1]
    ways = {"learning": torch.zeros(3, LENGTH), "frozen": torch.zeros(3, LENGTH)}
    ways["learning"][:, 256:] = torch.tensor([[1.0], [2.0], [6.0]])
    ways["frozen"][:, 256:] = 5.0
    results = _kept(model, TEXTS, ids, opened, ways)
    # two of the four held-out documents are long enough and come first: 156 and 130 bytes, cut at 78
    old = [d.data[:78] for d in HELDOUT[:2]]
    before = sum(Learner(model).score(text).bits_per_byte for text in old) / 2
    after, again = [], []
    for row in range(3):
        learner, _ = learned(model, row)
        learner.close("x")
        learner.read(FILES[(row + 1) % 3].data[:LENGTH], user="x", end="drop")
        after.append(sum(learner.score(text, "x").bits_per_byte for text in old) / 2)
        again.append(float(memory_alone(model, learner, FILES[row].data[:LENGTH])[256:].mean()))
    kept = results["kept"]
    assert kept["files"] == 2
    assert kept["before"] == pytest.approx(before, abs=1e-9)
    assert kept["after"] == pytest.approx(sum(after) / 3, abs=1e-9)
    assert kept["change_sd"] == pytest.approx(float(torch.tensor(after, dtype=torch.float64).std()), abs=1e-9)
    first = results["first_again"]
    assert (first["before"], first["frozen"]) == (3.0, 5.0)
    assert first["after"] == pytest.approx(sum(again) / 3, abs=1e-9)


def test_the_one_rate_control_is_measured_with_its_own_levels(model, monkeypatch):
    """Three levels whose rates are all zero keep everything: before and after agree to the bit."""
    monkeypatch.setattr(byte_reader, "ONE_RATE", tuple(Level(level.name, CHUNK, eta=0.0) for level in LEVELS))
    files = [Document(d.name, d.data[:90]) for d in FILES[:2]]
    results, _ = reading.run(model, Texts(KNOWN, HELDOUT, files), lambda word: None)
    assert results["one_rate"] == pytest.approx(results["frozen"], abs=1e-9)
    assert results["one_rate_kept"]["after"] == pytest.approx(results["one_rate_kept"]["before"], abs=1e-9)
    assert results["kept"]["after"] != pytest.approx(results["kept"]["before"], abs=1e-3)


def test_a_change_by_hand():
    """Readers change by +1 and +3: means 2 to 4, spread sqrt 2."""
    change = _change(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0]))
    assert change == {"before": 2.0, "after": 4.0, "change_sd": pytest.approx(math.sqrt(2))}
    assert _change(torch.ones(1), torch.zeros(1))["change_sd"] is None


def test_repeated_names_by_hand():
    """`wonder` stands five times in one file, oftener in the other; `known_name` is known and `seldom` too rare."""
    texts = [
        b" wonder, known_name seldom" + b" wonder known_name" * 4,
        b"wonder" + b" wonder seldom" * 4 + b" wonder" * 6,
    ]
    data = Texts(KNOWN, [], [Document("a", texts[0]), Document("b", texts[1])])
    length = min(map(len, texts))
    frozen, learning = torch.zeros(2, length), torch.zeros(2, length)
    for row, text in enumerate(texts):
        places = [i for i in range(1, length - 5) if text[i : i + 6] == b"wonder"]
        assert len(places) >= 5
        for n, at in enumerate(places):
            # a mean of 6, which falls by a half from one occurrence to the next in the second file
            frozen[row, at : at + 6] = torch.tensor([0.0, 12.0, 6.0, 6.0, 6.0, 6.0]) - n * row / 2
            learning[row, at : at + 6] = 6.0 - n * (row + 1)
    names = repeated_names(data, length, frozen, learning)
    assert names["count"] == 2
    assert names["frozen"] == [6.0, 5.75, 5.5, 5.25, 5.0]
    assert names["learning"] == [6.0, 4.5, 3.0, 1.5, 0.0]
    # gained by learning, from the first to the fifth: 4 - 0 bits in one file, 8 - 2 in the other
    assert names["extra_sd"] == pytest.approx(math.sqrt(2))
    one = Texts(KNOWN, [], data.files[:1])
    assert repeated_names(one, length, frozen[:1], learning[:1])["extra_sd"] is None
    assert repeated_names(one, 40, frozen, learning) == {"count": 0}


def test_a_name_at_byte_0_has_no_prediction_and_is_left_out():
    assert reading._places(b"wonder wonder") == {b"wonder": [(7, 13)]}
    assert reading._places(b" short _seven7 7letters") == {b"_seven7": [(7, 14)], b"letters": [(16, 23)]}


def test_isolation_is_measured_and_turns_false_when_rows_mix(model, monkeypatch):
    assert rows_never_mix(model, FILES, 60)

    def leaking(model, ids, state, mask=None, **options):
        report, state = learn_chunk(model, ids, state, mask, **options)
        memory = {name: dict(tensors) for name, tensors in state.memory.items()}
        weights = memory["blocks.0.mlp"]["fast.up"]
        memory["blocks.0.mlp"]["fast.up"] = weights + 1e-9 * weights.mean(0)
        return report, type(state)(memory, state.context, state.tokens_seen, state.segment_len)

    monkeypatch.setattr("everlearn.learn.stream.learn_chunk", leaking)
    assert not rows_never_mix(model, FILES, 60)


def test_two_readers_pass_each_other_s_memory_and_counters_start_fresh(model):
    state = reading._learn(model, torch.stack([encode(d.data[:100]) for d in FILES]))[1]
    for shift in (0, 1):
        handed = reading._memory_of(model, state, shift)
        for row in range(3):
            for leaf, tensor in state.memory["blocks.0.mlp"].items():
                assert torch.equal(handed.memory["blocks.0.mlp"][leaf][row], tensor[(row + shift) % 3])
        assert handed.tokens_seen.tolist() == [0, 0, 0]
        assert handed.context == {}
        assert not bool(handed.memory["blocks.0.mixer"]["S"].any())  # the matrix memory is the document's
