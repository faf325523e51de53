"""The commit of a checkout is read from git's files as git tells it, and nothing is told where there is none."""

import pytest

from qkov import checkout

ONE, OTHER = "1" * 40, "2" * 64


@pytest.fixture
def git(tmp_path):
    (tmp_path / ".git" / "refs" / "heads" / "a").mkdir(parents=True)
    (tmp_path / "inner").mkdir()
    return tmp_path / ".git"


def test_a_detached_head_is_the_commit(git):
    (git / "HEAD").write_text(ONE + "\n")
    assert checkout.commit_of(git.parent) == checkout.commit_of(git.parent / "inner") == ONE


def test_a_branch_is_followed(git):
    (git / "HEAD").write_text("ref: refs/heads/a/b\n")
    assert checkout.commit_of(git.parent) is None  # no commit yet
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{ONE} refs/heads/a\n{OTHER} refs/heads/a/b\n^{ONE}\n")
    assert checkout.commit_of(git.parent) == OTHER
    (git / "refs" / "heads" / "a" / "b").write_text(ONE)
    assert checkout.commit_of(git.parent) == ONE  # what is packed is older


def test_a_work_tree_beside_its_repository_is_followed(git):
    place = git / "worktrees" / "w"
    place.mkdir(parents=True)
    (place / "HEAD").write_text("ref: refs/heads/main")
    (place / "commondir").write_text("../..\n")
    (git / "refs" / "heads" / "main").write_text(ONE)
    tree = git.parent / "inner"
    (tree / ".git").write_text("gitdir: ../.git/worktrees/w\n")
    assert checkout.commit_of(tree) == ONE


@pytest.mark.parametrize("head", ["", "ref: ../../secret", "ref: refs/heads/a", "x" * 40, "1" * 39])
def test_what_is_no_commit_is_not_told(git, head):
    (git.parent.parent / "secret").write_text(ONE)
    (git / "HEAD").write_text(head)
    assert checkout.commit_of(git.parent) is None


def test_no_checkout_and_an_unreadable_one_have_none(tmp_path, git):
    assert checkout.commit_of(git.parent) is None  # no HEAD
    (git / "HEAD").write_bytes(b"\xff")
    assert checkout.commit_of(git.parent) is None
    (git.parent / "inner" / ".git").write_text("gitdir: /nowhere")
    assert checkout.commit_of(git.parent / "inner") is None
