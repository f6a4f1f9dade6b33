"""Backbones of a race: shipped lists, names, and what is wrong with them."""

from pathlib import Path

import pytest

from pipeline.config.backbones import (
    backbone_problems,
    display_name,
    expand_lists,
    folder_name,
    known_license,
    shipped_lists,
)
from pipeline.config.names import is_hub_id
from tests.conftest import save_vit


def test_the_lists_name_different_hub_models_with_their_licenses() -> None:
    assert list(shipped_lists()) == ["tutorial", "small", "best"]
    for name, models in shipped_lists().items():
        assert all(map(is_hub_id, models)), name
        assert all(models.values()), name
        assert list(backbone_problems([name], finalists=2)) == []
        assert expand_lists([name]) == list(models)
    assert expand_lists(["a/b", "small", "c"]) == ["a/b", *shipped_lists()["small"], "c"]
    assert known_license("microsoft/resnet-50") == "apache-2.0"
    assert known_license("a/b") is None


def test_a_backbone_has_one_folder_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_vit(tmp_path / "my vit")
    monkeypatch.chdir(tmp_path)
    for spelling in ("my vit", f"{tmp_path}/my vit/", "./my vit"):
        assert display_name(spelling) == "my vit"
        assert folder_name(spelling) == "my-vit"
    assert folder_name("owner/name") == "owner--name"


def test_a_hub_model_may_be_missing_and_a_folder_may_not(tmp_path: Path) -> None:
    assert list(backbone_problems(["owner/not-cached"], finalists=1)) == []
    (problem,) = backbone_problems([str(tmp_path / "no-folder")], finalists=1)
    assert problem.startswith(f"there is no model folder {tmp_path / 'no-folder'}")
    (problem,) = backbone_problems([str(tmp_path)], finalists=0)
    assert "has no config.json" in problem
    (problem,) = backbone_problems(["tutorial", "microsoft/resnet-50"], finalists=0)
    assert problem == "--backbones names microsoft/resnet-50 2 times: remove all but one"
