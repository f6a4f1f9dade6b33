"""Findings about the licenses of the base model and of the data, where their cards state one."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from pipeline.diagnosis.finding import Finding

SUBJECT = "model"


def licenses(folders: dict[str, Path]) -> Iterator[Finding]:
    """Yield a note for each folder whose card (`README.md`) states a license.

    Args:
        folders: Local folder by what it holds, such as `base model`.
    """
    for what, folder in folders.items():
        card = folder / "README.md"
        if not card.is_file():
            continue
        try:
            data = metadata_load(card) or {}
        except (ValueError, yaml.YAMLError):  # damaged
            continue
        if name := data.get("license_name") or data.get("license"):
            yield Finding("note", SUBJECT, f"license of the {what}: {name}")
