"""Files of folders: hidden files and those of operating systems are not listed."""

from pathlib import Path

from pipeline.images.files import holds_only_folders, is_empty, list_files, list_visible_folders


def test_hidden_files_and_those_of_operating_systems_are_not_listed(tmp_path: Path) -> None:
    names = ["a/1.png", "a/Thumbs.db", ".hidden/2.png", "__MACOSX/a/3.png", "a/deep/4.png", "desktop.ini", "b/.5.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [file.relative_to(tmp_path).as_posix() for file in list_files(tmp_path)] == ["a/1.png", "a/deep/4.png"]
    assert [folder.name for folder in list_visible_folders(tmp_path)] == ["a", "b"]
    assert is_empty(tmp_path / "b")
    assert not is_empty(tmp_path / "a")
    assert holds_only_folders(tmp_path)
    assert not holds_only_folders(tmp_path / "a")
    assert not holds_only_folders(tmp_path / "b")
