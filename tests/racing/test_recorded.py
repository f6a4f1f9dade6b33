"""A call is known to measure nothing only if neither its flags nor a file that it reads has changed."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.racing.recorded import describe_request, find_result
from tests.conftest import save_vit


def test_every_flag_and_every_file_is_part_of_the_request(tmp_path: Path) -> None:
    model, data = save_vit(tmp_path / "vit"), tmp_path / "data"
    (data / "a").mkdir(parents=True)
    (data / "a" / "1.png").write_bytes(b"1")
    (tmp_path / "names.txt").write_text("a,b")
    values: dict[str, Any] = {"dataset_name": str(data), "backbones": [str(model)], "output_dir": "x", "seed": 1}
    first = describe_request(values)
    assert first is not None
    assert describe_request(values | {"output_dir": "y"}) == first
    others = [
        describe_request(values | {"seed": 2}),
        describe_request(values | {"class_names": tmp_path / "names.txt"}),
    ]
    (data / "a" / "2.png").write_bytes(b"2")
    others.append(describe_request(values))
    os.utime(data / "a" / "1.png", ns=(0, 1))
    others.append(describe_request(values))
    (model / "config.json").write_text("{}")
    others.append(describe_request(values))
    assert len({first, *others}) == 1 + len(others)
    assert describe_request(values | {"dataset_name": "owner/name"}) is None  # only the Hub knows
    assert describe_request(values | {"follow_paths": True}) is None


def test_only_a_complete_result_of_the_same_request_is_found(tmp_path: Path) -> None:
    row = {"error": None, "folder": "vit/model"}
    content = {"request": "abc", "rows": [row, row | {"folder": None}]}
    assert find_result(tmp_path, "abc") is None
    (tmp_path / "race.json").write_text(json.dumps(content))
    assert find_result(tmp_path, "abc") is None  # the model is gone
    (tmp_path / "vit" / "model").mkdir(parents=True)
    assert find_result(tmp_path, "abc") == content
    assert find_result(tmp_path, "abd") is None
    assert find_result(tmp_path, None) is None
    (tmp_path / "race.json").write_text(json.dumps(content | {"rows": [row | {"error": "offline"}]}))
    assert find_result(tmp_path, "abc") is None
    (tmp_path / "race.json").write_text("{")
    assert find_result(tmp_path, "abc") is None
