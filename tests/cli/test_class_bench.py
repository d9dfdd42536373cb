"""`bench digits` and its like, as a user runs them."""

import csv
import json

import pytest
from verbs_fixture import Shell

from everlearn.cli import class_bench


@pytest.fixture
def shell(tmp_path, capsys):
    return Shell(tmp_path, capsys)


def texts(folder):
    """Twelve topics, each with words of its own."""
    folder.mkdir()
    for part, count in (("train", 20), ("test", 5)):
        rows = [
            (f"word{c} says {'abcde'[i % 5]} thing {i} {part}", f"topic {c}") for c in range(12) for i in range(count)
        ]
        with (folder / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(class_bench, "DEFAULT", ("nearest_mean", "fine_tune"))


def test_it_chooses_measures_and_goes_on_where_it_stopped(shell, tmp_path, monkeypatch):
    asked = ("bench", "banking", "--data", texts(tmp_path / "texts"), "--encoder", "hashed", "--seeds", "2")
    document = shell.json(*asked, "--out", tmp_path / "out")
    assert set(document["rows"]) == {"nearest_mean", "fine_tune"} and len(document["rows"]["nearest_mean"]) == 2
    assert document["rows"]["nearest_mean"][0]["final"] > 0.9 > 0.5 > document["rows"]["fine_tune"][0]["final"]
    assert document["chosen"]["fine_tune"] == document["tried"]["fine_tune"][0][0] and len(document["floor"]) == 2
    assert (tmp_path / "out" / "banking" / "tasks.png").is_file()
    rows = sorted((tmp_path / "out" / "banking" / "rows").iterdir())
    times = [file.stat().st_mtime_ns for file in rows]
    again = shell.json(*asked, "--out", tmp_path / "out")
    assert again == document and [file.stat().st_mtime_ns for file in rows] == times


def test_the_table_and_every_candidate_are_printed(shell, tmp_path):
    words = ("--strategies", "nearest_mean", "--seeds", "1", "--stream", "single")
    said = shell("bench", "digits", *words, "--out", tmp_path)
    assert "| nearest_mean | " in said and "joint probe, trained anew" in said and "nothing to choose" in said
    assert (tmp_path / "digits" / "single.png").is_file()


def test_what_accuracy_costs_stands_below_and_in_the_document(shell, tmp_path):
    words = ("--strategies", "nearest_mean", "streaming_lda", "one_model_per_domain", "--quick", "--out", tmp_path)
    said = shell("bench", "digits", *words)
    assert "settings not chosen" in said and "within 1 point of streaming_lda" in said
    assert "| records, boundaries, each test record's domain |" in said
    document = shell.json("bench", "digits", *words, "--reference", "nearest_mean", "--margin", "2.5")
    assert document["seeds"] == 1 and document["tried"]["nearest_mean"] == [[{}, None]]
    costs = document["economics"]
    assert costs["reference"] == "nearest_mean" and costs["margin"] == pytest.approx(0.025)
    assert costs["equal"]["streaming_lda"]["experience"] == 1
    (row,) = document["rows"]["streaming_lda"]
    assert costs["courses"]["streaming_lda"]["seconds"] == pytest.approx(
        [a + b for a, b in zip(row["seconds"], row["solving_seconds"], strict=True)]
    )
    assert (tmp_path / "digits" / "tasks-economics.png").read_bytes()[:4] == b"\x89PNG"


def test_rows_that_were_measured_without_solving_still_serve(shell, tmp_path):
    words = ("bench", "digits", "--strategies", "nearest_mean", "--quick", "--out", tmp_path)
    shell(*words)
    (kept,) = (tmp_path / "digits" / "rows").glob("nearest_mean-*.json")
    old = json.loads(kept.read_text())
    del old["row"]["solving_seconds"]
    kept.write_text(json.dumps(old))
    said = shell(*words)
    assert "| 1 of 5 | ≥ " in said and "≥: measured before the time of solving was told apart" in said


@pytest.fixture
def images(tmp_path):
    """Six colours, three of them dark, with ten shades each."""
    image = pytest.importorskip("PIL.Image")
    for number in range(6):
        place = tmp_path / "colours" / f"colour {number}"
        place.mkdir(parents=True)
        for n in range(10):
            level = (80 if number < 3 else 200) + n
            shade = tuple(level if channel == number % 3 else n for channel in range(3))
            image.new("RGB", (9, 7), shade).save(place / f"{n}.png")
    return tmp_path / "colours"


def test_a_folder_of_images_is_a_stream_of_classes(shell, tmp_path, images):
    words = ("bench", "images", "--data", images, "--side", "4", "--seeds", "1", "--out", tmp_path / "out")
    words += ("--strategies", "nearest_mean", "streaming_lda")
    document = shell.json(*words)
    assert document["scenario"] == "colours" and document["per_experience"] == 1
    # six colours are told apart by their pixels, and none is forgotten
    assert document["rows"]["streaming_lda"][0]["final"] == 1 and len(document["rows"]["nearest_mean"][0]["seen"]) == 6
    assert (tmp_path / "out" / "images" / "colours" / "tasks-economics.png").is_file()
    other = shell.json(*words, "--per-experience", "4")
    assert other["per_experience"] == 4 and len(other["rows"]["nearest_mean"][0]["seen"]) == 2
    assert shell.json(*words) == document, "rows are kept for each way of dealing"


def test_images_are_encoded_by_a_vision_model_and_only_once(shell, tmp_path, images, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pil = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **shape)).save_pretrained(tmp_path / "vit")
    pil.ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    words = ("bench", "images", "--data", images, "--encoder", tmp_path / "vit", "--quick", "--side", "5")
    words += ("--strategies", "nearest_mean", "--out", tmp_path / "out")
    said = shell(*words)
    assert "--side has no effect on a model of images" in said and "records of 16 features" in said

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr("everlearn.continual.image_encoders.HFImageEncoder.__call__", refuse)
    assert "| nearest_mean | " in shell(*words)


def test_a_broken_image_is_named_in_one_line(shell, tmp_path, images):
    (images / "colour 2" / "7.png").write_bytes(b"no image")
    said = shell("bench", "images", "--data", images, "--quick", "--out", tmp_path / "out", code=2)
    error = said.strip().splitlines()[-1]
    assert error.startswith("everlearn: ") and "7.png cannot be read as an image" in error and "Traceback" not in said


def test_an_interrupt_while_encoding_says_that_features_are_kept(shell, tmp_path, images, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("everlearn.continual.image_encoders.RandomPixels.__call__", interrupted)
    said = shell("bench", "images", "--data", images, "--out", tmp_path / "out", code=130)
    assert "features are kept in" in said.splitlines()[-1] and said.endswith("goes on where it stopped\n")


def test_options_without_effect_are_named(shell, tmp_path):
    words = ("--side", "9", "--misspelt", "0.1", "--encoder", "hashed", "--strategies", "nearest_mean", "--quick")
    said = shell("bench", "digits", *words, "--out", tmp_path)
    assert [f"--{name} has no effect on digits" in said for name in ("side", "misspelt", "encoder")] == [True] * 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("digits", "--strategies", "magic"), "unknown strategy 'magic'; give all, or some of"),
        (("digits", "--stream", "river"), "unknown stream 'river'; give one of tasks"),
        (("digits", "--seeds", "0"), "--seeds is 0; give a whole number of at least 1"),
        (("digits", "--workers", "0"), "--workers is 0"),
        (("digits", "--reference", "ewc", "--strategies", "si", "lwf"), "'ewc' is not measured; give one of si, lwf"),
        (
            ("digits", "--per-experience", "11"),
            "11 classes at a time cannot be dealt from the 10 of",
        ),
        (("images",), "images need a folder with one subfolder for each class; give it: --data FOLDER"),
        (("images", "--data", "."), "of the subfolders that stand for classes; at least 2 are needed"),
        (("images", "--data", ".", "--encoder", "hashed"), "--encoder hashed is of texts; leave it out"),
        (("digits", "--stream", "domains"), "digits has no domains; choose another stream"),
        (("digits", "--margin", "-1"), "--margin is -1; give points of accuracy from 0 to below 100, such as 1"),
        (("banking", "--data", "nowhere", "--encoder", "hashed"), "train.csv is missing; give the folder"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(shell, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    said = shell("bench", *words, "--out", tmp_path, code=2)
    assert line in said and said.strip().count("\n") == 0
