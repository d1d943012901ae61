import os

from supclust import paths


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path / "out"))
    assert paths.data() == tmp_path / "data"
    for folder in ("reports", "figures", "artefacts"):
        assert getattr(paths, folder)("quick") == tmp_path / "out" / folder / "quick"


def test_by_default_everything_is_in_the_repository(monkeypatch):
    monkeypatch.delenv("SUPCLUST_DATA", raising=False)
    monkeypatch.delenv("SUPCLUST_OUT", raising=False)
    assert paths.data() == paths.REPOSITORY / "data"
    assert paths.out() == paths.REPOSITORY


def test_an_installed_package_writes_into_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SUPCLUST_OUT", raising=False)
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert paths.reports("quick") == tmp_path / "reports" / "quick"


def test_the_features_that_ship_are_there():
    assert paths.shipped_features("cifar10").is_file()


def test_folders_of_another_process_hold_for_a_block(monkeypatch, tmp_path):
    monkeypatch.delenv("SUPCLUST_DATA", raising=False)
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path / "here"))
    before = paths.folders()
    with paths.same_folders({"SUPCLUST_DATA": str(tmp_path / "a"), "SUPCLUST_OUT": str(tmp_path / "b")}):
        assert (paths.data(), paths.out()) == (tmp_path / "a", tmp_path / "b")
    assert paths.folders() == before
    assert "SUPCLUST_DATA" not in os.environ
