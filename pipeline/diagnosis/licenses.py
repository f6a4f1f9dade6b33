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
        if name := license_of(folder):
            yield Finding("note", SUBJECT, f"license of the {what}: {name}")


def license_of(folder: Path) -> str | None:
    """Return the license that the card (`README.md`) of a folder states, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        data = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError):  # damaged
        return None
    name = data.get("license_name") or data.get("license")
    return str(name) if name else None
