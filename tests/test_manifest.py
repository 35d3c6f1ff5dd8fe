"""The manifest of a run: versions, and the commit of this checkout, never of another repository."""

import importlib.util
import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from qure_lib import manifest


def git(folder: Path, *words: str) -> str:
    settings = ("user.name=a", "user.email=a@b", "commit.gpgsign=false")
    command = ["git", "-C", folder, *(word for s in settings for word in ("-c", s)), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def unpack(folder: Path) -> Path:
    """Put a copy of the module where the package would lie; return the folder."""
    (folder / "qure_lib").mkdir(parents=True)
    shutil.copy(manifest.__file__, folder / "qure_lib" / "manifest.py")
    return folder


def commit_of(folder: Path) -> str | None:
    """What the copy in `folder` takes for its commit."""
    spec = importlib.util.spec_from_file_location("copy", folder / "qure_lib" / "manifest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.git_commit()


def commit_all(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def other(tmp_path):
    """Another project's repository."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "theirs.py").write_text("")
    commit_all(tmp_path / "other")
    return tmp_path / "other"


def test_a_checkout_says_its_commit_and_whether_tracked_files_differ(tmp_path):
    checkout = unpack(tmp_path / "checkout")
    (checkout / "README.md").write_text("first")
    commit = commit_all(checkout)
    assert commit_of(checkout) == commit
    (checkout / "untracked.txt").write_text("")
    assert commit_of(checkout) == commit
    (checkout / "README.md").write_text("second")
    assert commit_of(checkout) == f"{commit}-dirty"


def test_a_checkout_inside_another_repository_says_its_own_commit(other):
    checkout = unpack(other / "third_party" / "checkout")
    assert commit_of(checkout) is None
    commit = commit_all(checkout)
    assert commit_of(checkout) == commit


def test_a_linked_worktree_says_its_own_commit(tmp_path):
    commit = commit_all(unpack(tmp_path / "checkout"))
    git(tmp_path / "checkout", "worktree", "add", "-q", "--detach", tmp_path / "linked")
    assert commit_of(tmp_path / "linked") == commit


@pytest.mark.parametrize("place", ["venv/lib/python3.11/site-packages", "third_party", "."])
@pytest.mark.parametrize("ignored", [True, False])
def test_a_package_in_another_repository_has_no_commit(other, place, ignored):
    if ignored:
        (other / ".gitignore").write_text("venv\nthird_party\nqure_lib\n")
        commit_all(other)
    assert commit_of(unpack(other / place)) is None


def test_a_package_that_another_repository_tracks_in_a_folder_has_no_commit(other):
    package = unpack(other / "third_party")
    commit_all(other)
    assert commit_of(package) is None


def test_gits_environment_does_not_name_the_repository(other, tmp_path, monkeypatch):
    checkout = unpack(tmp_path / "checkout")
    commit = commit_all(checkout)
    archive = unpack(tmp_path / "archive")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert (commit_of(checkout), commit_of(archive)) == (commit, None)


def test_without_a_repository_a_commit_or_git_there_is_none(tmp_path, monkeypatch):
    folder = unpack(tmp_path / "folder")
    assert commit_of(folder) is None
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    assert commit_of(folder) is None
    commit_all(folder)
    monkeypatch.setenv("PATH", "")
    assert commit_of(folder) is None


def test_a_manifest_holds_its_parts_versions_and_machine():
    found = manifest.run_manifest(seed=1000, data={"sha256": "0"})
    assert (found["seed"], found["data"]) == (1000, {"sha256": "0"})
    assert found["versions"].keys() == set(manifest.PACKAGES)
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (found["python"], found["threads"]) == (
        platform.python_version(),
        torch.get_num_threads(),
    )
    assert found["git_commit"] == manifest.git_commit()
    json.dumps(found)
