"""The package's own front door: a learner saved whole comes back, bit for bit."""

import pytest
import torch

import everlearn as el
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import Decoder, preset


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


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="its parts are continual"):
        _ = el.hope
