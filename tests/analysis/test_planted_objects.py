"""Where a trained model is known to look: relevance and maps find the one patch that decides."""

import pytest
import torch

from tests.analysis import planted as planted_module
from tests.analysis.planted import CELLS, OBJECT_KINDS, PATCH, look, planted_images, train


@pytest.fixture
def one_thread():
    """The same sums whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_objects_are_where_they_are_said_to_be(monkeypatch):
    monkeypatch.setattr(planted_module, "NOISE", 0.1)
    images, classes, objects, distracts = planted_images(200, seed=3)
    energy = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).square().mean((1, 4, 5)).flatten(1)
    planted = classes < OBJECT_KINDS
    assert energy.shape == (200, CELLS**2) and 0.7 < planted.float().mean() < 0.9
    rows = torch.arange(200)
    bright = distracts.clone()
    bright[rows[planted], objects[planted]] = True
    assert energy[bright].min() > 2 * energy[~bright].max()
    assert not distracts[rows, objects].any() and (distracts.sum(1) == 5).all()


@pytest.mark.slow
def test_relevance_and_maps_of_a_trained_model_lie_on_the_object(one_thread):
    found = look(train("dna"))
    assert found["accuracy"] >= 0.95
    assert found["relevance on top"] >= 0.9
    assert found["positive: object"] > 2 * found["positive: distractor"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["softmax", "differential"])
def test_other_variants_attend_to_the_object_as_well(variant, one_thread):
    found = look(train(variant))
    assert found["accuracy"] >= 0.95
    assert found["rollout on top"] >= 0.85
    assert found["positive: object"] > found["positive: distractor"]
