import os
import sys

import pytest

from spacy_mmib.images.errors import ImageError, MissingFileError, OutsideRootError
from spacy_mmib.images.files import existing_inside, resolve_inside


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "root-twin").mkdir()
    (tmp_path / "root-twin" / "a.jpg").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "sub/../a.jpg", "../root/a.jpg", "sub/b.jpg"])
def test_inside(root, name):
    assert resolve_inside(root, name) == (root / name).resolve()


def test_absolute_path_inside(root):
    assert resolve_inside(root, root / "a.jpg") == (root / "a.jpg").resolve()
    assert resolve_inside(str(root), str(root / "a.jpg")) == (root / "a.jpg").resolve()


def test_root_may_be_relative_and_a_link(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert resolve_inside("root", "a.jpg") == (root / "a.jpg").resolve()
    (root.parent / "link").symlink_to(root)
    assert resolve_inside("link", "a.jpg") == (root / "a.jpg").resolve()
    assert resolve_inside("link", root / "a.jpg") == (root / "a.jpg").resolve()


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "..", "../root-twin/a.jpg", "nope/../../x"],
)
def test_outside(root, name):
    with pytest.raises(OutsideRootError, match="leads out of the image root"):
        resolve_inside(root, name)


def test_links_that_lead_out(root):
    (root / "file").symlink_to(root.parent / "secret.jpg")
    (root / "folder").symlink_to(root.parent)
    (root / "inside").symlink_to(root / "a.jpg")
    for name in ("file", "folder/secret.jpg"):
        with pytest.raises(OutsideRootError):
            resolve_inside(root, name)
    assert resolve_inside(root, "inside") == (root / "a.jpg").resolve()


@pytest.mark.parametrize("name", ["", "  ", "a\0b.jpg", "x" * 5000, "x/" * 3000 + "y.jpg"])
def test_impossible_names(root, name):
    with pytest.raises(ImageError) as info:
        existing_inside(root, name)
    message = str(info.value)
    assert len(message) < 600
    assert "\n" not in message


def test_loop_of_links(root):
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(ImageError):
        existing_inside(root, "loop")


def test_missing(root):
    with pytest.raises(MissingFileError, match="no such file"):
        existing_inside(root, "b.jpg")
    with pytest.raises(MissingFileError):
        existing_inside(root, "a.jpg/b.jpg")
    assert existing_inside(root, "a.jpg") == (root / "a.jpg").resolve()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user without rights")
def test_no_permission(root):
    (root / "sub").chmod(0)
    try:
        with pytest.raises(ImageError):
            existing_inside(root, "sub/b.jpg")
    finally:
        (root / "sub").chmod(0o700)
