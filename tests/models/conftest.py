"""The network of each family, built once for all tests."""

import copy
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from tests.models.building import build
from tests.models.families import save

Make = Callable[[str], PreTrainedModel]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that returns a copy of a family's network for the three colors."""
    networks: dict[str, PreTrainedModel] = {}

    def make_copy(name: str) -> PreTrainedModel:
        if name not in networks:
            folder = tmp_path_factory.mktemp("family")
            save(name, folder)
            networks[name] = build(folder)
        return copy.deepcopy(networks[name])

    return make_copy
