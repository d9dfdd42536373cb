"""The package's own front door: a learner saved whole comes back, bit for bit."""

import math
from pathlib import Path

import pytest
import torch

import everlearn as el
from everlearn.convert import Continuum, Delta, replace_blocks
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import Decoder, preset
from everlearn.models.hub import load_base
from tests.learn.words import Words
from tests.pretrained import pretrained
from tests.tiny import TEXT, byte_model, fingerprint

STACKED = (Level("fast", 8, 0.5, anchor_decay=0.02, reset="document"), Level("slow", mean_of="fast", decay=0.9))


def learner(store=None):
    torch.manual_seed(0)
    levels = [Level("fast", 4, eta=0.3)]
    return el.Learner(
        Decoder(preset("delta_net", dim=8, num_heads=1, hidden_dim=8, levels=levels, chunk_size=4)), store
    )


def test_a_learner_saved_whole_goes_on_where_it_was(tmp_path):
    reader = learner()
    reader.read({"ada": "to be or not to be", "bob": "that is the question"})
    el.save(reader, tmp_path / "all")
    again = el.load(tmp_path / "all")
    assert again.known_users() == ["ada", "bob"]
    for each in (reader, again):
        each.read("whether tis nobler", user="ada", end="open")
    for user in ("ada", "bob"):
        assert digest(to_tensors(again.state(user))) == digest(to_tensors(reader.state(user)))
    assert el.load(tmp_path / "all").position("ada") == len("whether tis nobler")


def test_a_path_becomes_a_store_and_other_models_are_refused(tmp_path):
    learner(tmp_path).read("to be or not to be", user="ada")
    assert (tmp_path / learner(tmp_path).store.path("ada")).exists()
    torch.manual_seed(1)
    other = Decoder(preset("delta_net", dim=8, num_heads=1, hidden_dim=8, levels=[Level("fast", 4)], chunk_size=4))
    with pytest.raises(ValueError, match="memory of another model"):
        el.Learner(other, tmp_path).state("ada")


def hybrid_learner(folder):
    """Return a learner with levels on a hybrid, and the hybrid."""
    model, words = load_base(pretrained(folder))
    levels = (*STACKED, Level("still", math.inf))
    places = {"attention": {1: Delta()}, "mlp": {0: Continuum(levels=levels)}}
    hybrid = replace_blocks(model, words, **places, chunk_size=8)
    return el.Learner(el.stack_levels(hybrid, levels=STACKED, chunk_size=8)), hybrid


def test_a_hybrid_with_levels_on_it_is_saved_whole_and_moves_with_its_folder(tmp_path):
    reader, _ = hybrid_learner(tmp_path / "hf")
    text = "the cat sat on the mat and the dog sat by the cat. " * 2
    reader.read(text, "ada")
    el.save(reader, tmp_path / "all")
    (tmp_path / "hf").rename(tmp_path / "gone")  # the original is not needed
    (tmp_path / "all").rename(tmp_path / "moved")
    again = el.load(tmp_path / "moved")
    for each in (reader, again):
        each.read("and a ship sailed over the sea", "ada", end="open")
    assert digest(to_tensors(again.state("ada"))) == digest(to_tensors(reader.state("ada")))
    with pytest.raises(ValueError, match="holds a model that is whole by itself; leave out base="):
        el.load(tmp_path / "moved", base=tmp_path / "gone")
    (tmp_path / "moved" / "base" / "replacement.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no replaced model \(replacement.safetensors is missing\); give"):
        el.load(tmp_path / "moved")


def test_an_adapter_alone_asks_for_the_hybrid_that_it_was_made_on(tmp_path):
    reader, hybrid = hybrid_learner(tmp_path / "hf")
    ids = reader.model.encode("the cat sat on the mat")[None]
    expected = reader.model(ids)[0]
    reader.model.save_adapter(tmp_path / "all" / "base")
    hybrid.save(tmp_path / "hybrid")
    with pytest.raises(ValueError, match="does not say where its base is; give it: base=FOLDER"):
        el.load(tmp_path / "all")
    assert torch.equal(el.load(tmp_path / "all", base=tmp_path / "hybrid").model(ids)[0], expected)
    with pytest.raises(ValueError, match="was made on another base: its SHA-256"):
        el.load(tmp_path / "all", base=tmp_path / "hf")
    other = replace_blocks(load_base(tmp_path / "hf")[0], mlp={0: Continuum(levels=STACKED)}, chunk_size=8)
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="was made on another base: its SHA-256"):
        el.load(tmp_path / "all", base=tmp_path / "other")


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="its parts are continual"):
        _ = el.hope


def test_every_part_that_exports_names_is_reached_from_the_package():
    folder = Path(el.__file__).parent
    exporting = {init.parent.name for init in folder.glob("*/__init__.py") if "__all__" in init.read_text()}
    assert exporting <= set(el._PARTS)


def test_a_stacked_model_is_saved_without_its_base_and_goes_on_where_it_was(tmp_path):
    """Round trip: two users, one in the middle of a document, continue bit for bit after a restart."""
    place = pretrained(tmp_path / "hf")
    learner = el.Learner(el.stack_levels(*load_base(place), chunk_size=8, levels=STACKED))
    learner.read(TEXT * 4, "ada")
    learner.read(TEXT, "bob", end="open")
    el.save(learner, tmp_path / "saved")
    again = el.load(tmp_path / "saved")
    assert again.known_users() == ["ada", "bob"]
    for user in ("ada", "bob"):
        assert fingerprint(again.state(user)) == fingerprint(learner.state(user))
        assert again.score(TEXT, user).bits_per_byte == learner.score(TEXT, user).bits_per_byte
        learner.read(TEXT, user)
        again.read(TEXT, user)
        assert fingerprint(again.state(user)) == fingerprint(learner.state(user))
    assert not list((tmp_path / "saved" / "base").glob("model*"))
    place.rename(tmp_path / "moved")
    assert el.load(tmp_path / "saved", base=tmp_path / "moved").knows("ada")
    with pytest.raises(ValueError, match=r"the base of .* is not there.*does not exist.*--base FOLDER"):
        el.load(tmp_path / "saved")


def test_a_model_of_another_kind_has_no_file_format(tmp_path):
    with pytest.raises(ValueError, match="a Words has no file format here"):
        el.save(el.Learner(Words()), tmp_path / "saved")


def test_a_decoder_is_whole_by_itself_and_takes_no_base(tmp_path):
    el.save(el.Learner(byte_model()), tmp_path / "saved")
    with pytest.raises(ValueError, match="is whole by itself; leave out base='x'"):
        el.load(tmp_path / "saved", base="x")


def test_a_model_that_was_not_converted_is_told_how(tmp_path):
    """What a newcomer tries first: the model itself, or its name; no folder is made."""
    model, _ = load_base(pretrained(tmp_path / "base"))
    with pytest.raises(ValueError, match=r"a LlamaForCausalLM does not learn .* Learner\(stack_levels\(model, tok"):
        el.Learner(model, store=tmp_path / "memory")
    with pytest.raises(ValueError, match=r"got 'Qwen/Qwen3-0.6B' where a model is needed; load it first"):
        el.stack_levels("Qwen/Qwen3-0.6B")
    assert not (tmp_path / "memory").exists()
