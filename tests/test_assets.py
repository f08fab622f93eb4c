"""Promises of the assets: only the pinned bytes are used, nothing lands half-written, and errors say what to do."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from genesis_sft import assets
from genesis_sft.assets import Wheel
from genesis_sft.errors import AssetError

FILES = {
    "toyeval/__init__.py": b"raise RuntimeError('a wheel is read, never run')\n",
    "toyeval/data/piqa/rows.json": b'{"rows": 3}\n',
    "toyeval/data/piqa/state.json": b"{}\n",
    "toyeval/data/piqa_extra/rows.json": b'{"rows": 9}\n',
}


def build_wheel(folder: Path, files: dict[str, bytes] = FILES, *, lie_about: str = "") -> Wheel:
    """Write a wheel with a RECORD; ``lie_about`` names a member whose recorded hash is another file's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_eval-1.2-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        metadata = {
            "toy_eval-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-eval\nVersion: 1.2\n",
            "toy_eval-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nTag: py3-none-any\n",
        }
        for name, content in (files | metadata).items():
            archive.writestr(name, content)
            digest = hashlib.sha256(b"other" if name == lie_about else content).digest()
            record += f"{name},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(content)}\n"
        archive.writestr("toy_eval-1.2.dist-info/RECORD", record + "toy_eval-1.2.dist-info/RECORD,,\n")
    return Wheel(
        "toy-eval", "1.2", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, "MIT"
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that reaches no index."""
    monkeypatch.setenv("GENESIS_SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def cached(cache: Path) -> Wheel:
    """The toy wheel, in the cache already."""
    return build_wheel(cache / "wheels")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GENESIS_SFT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert assets.cache_dir() == tmp_path / ".cache" / "genesis-sft"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_dir() == tmp_path / "xdg" / "genesis-sft"
    monkeypatch.setenv("GENESIS_SFT_CACHE", "~/mine")
    assert assets.cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("GENESIS_SFT_CACHE", "~nouser/mine")
    with pytest.raises(AssetError, match="expected a folder in GENESIS_SFT_CACHE, found '~nouser/mine'"):
        assets.cache_dir()


def test_a_wheel_in_the_cache_is_used_without_pip(cached: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))
    assert not assets.needs_download(cached)
    assert assets.fetch_wheel(cached) == assets.cache_dir() / "wheels" / cached.file_name


def test_a_wrong_wheel_in_the_cache_is_named_with_both_hashes_and_kept(cached: Wheel) -> None:
    path = assets.cache_dir() / "wheels" / cached.file_name
    path.write_bytes(b"something else")
    with pytest.raises(AssetError) as caught:
        assets.fetch_wheel(cached)
    for part in (str(path), cached.sha256, hashlib.sha256(b"something else").hexdigest()):
        assert part in str(caught.value)
    assert caught.value.hint == f"Delete {path} and run this again; it will be fetched anew."
    assert path.read_bytes() == b"something else"


def test_pip_fetches_what_is_not_in_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = build_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert assets.needs_download(wheel)
    path = assets.fetch_wheel(wheel)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256
    assert [file.name for file in (cache / "wheels").iterdir()] == [wheel.file_name]
    assert not assets.needs_download(wheel)
    assert "fetching toy-eval==1.2 from the package index: 0 MB, MIT" in capsys.readouterr().err


def test_another_file_under_the_pinned_name_is_not_taken_into_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = dataclasses.replace(build_wheel(tmp_path / "index"), sha256="0" * 64)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(AssetError, match=f"expected SHA-256 {'0' * 64}, found "):
        assets.fetch_wheel(wheel)
    assert list((cache / "wheels").iterdir()) == []


def test_two_processes_fetch_the_same_wheel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = build_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    code = f"from genesis_sft import assets; print(assets.fetch_wheel(assets.Wheel{dataclasses.astuple(wheel)}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed == [str(cache / "wheels" / wheel.file_name)] * 2
    assert [file.name for file in (cache / "wheels").iterdir()] == [wheel.file_name]


def test_without_network_the_error_names_the_command_to_fetch_ahead(cache: Path) -> None:
    wheel = Wheel("toy-eval", "1.2", "toy_eval-1.2-py3-none-any.whl", "0" * 64, 10, "MIT")
    with pytest.raises(AssetError) as caught:
        assets.fetch_wheel(wheel)
    assert "toy_eval-1.2-py3-none-any.whl" in str(caught.value)
    assert "No matching distribution found for toy-eval==1.2" in str(caught.value)
    assert caught.value.hint is not None
    assert "pip download --no-deps --only-binary=:all: -d . toy-eval==1.2" in caught.value.hint
    assert str(cache / "wheels") in caught.value.hint
    assert list((cache / "wheels").iterdir()) == []


def test_an_error_never_shows_the_index_or_its_password(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = (
        "WARNING: Retrying\n"
        "ERROR: HTTPSConnectionPool(host='mirror.corp.example', port=443): https://me:s3cret@mirror.corp.example/x "
        "refused; see mirror.corp.example:8080 or me:s3cret@other.example/x for toy_eval-1.2-py3-none-any.whl\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", complaint))
    with pytest.raises(AssetError) as caught:
        assets.fetch_wheel(Wheel("toy-eval", "1.2", "toy_eval-1.2-py3-none-any.whl", "0" * 64, 10, "MIT"))
    shown = f"{caught.value} {caught.value.hint}"
    assert "s3cret" not in shown
    assert "example" not in shown
    assert "refused" in shown
    assert "toy_eval-1.2-py3-none-any.whl" in shown


def test_pip_that_takes_too_long_is_an_asset_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_ends(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", never_ends)
    with pytest.raises(AssetError, match="pip took longer than 30 min"):
        assets.fetch_wheel(Wheel("toy-eval", "1.2", "x.whl", "0" * 64, 10, "MIT"))


def test_a_cache_that_cannot_be_written_says_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GENESIS_SFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError) as caught:
        assets.fetch_wheel(Wheel("toy-eval", "1.2", "x.whl", "0" * 64, 10, "MIT"))
    assert caught.value.hint == "Set GENESIS_SFT_CACHE to a folder with room that you may write to."


def test_a_member_is_extracted_once_and_again_when_damaged(cached: Wheel) -> None:
    path = assets.extract_member(cached, "toyeval/data/piqa/rows.json")
    assert path == assets.cache_dir() / "unpacked/toy_eval-1.2/toyeval/data/piqa/rows.json"
    assert path.read_bytes() == FILES["toyeval/data/piqa/rows.json"]
    first = path.stat().st_mtime_ns
    assert assets.extract_member(cached, "toyeval/data/piqa/rows.json").stat().st_mtime_ns == first
    path.write_bytes(b'{"rows": 4}\n')  # same size, other bytes
    assert assets.extract_member(cached, "toyeval/data/piqa/rows.json").read_bytes() == b'{"rows": 3}\n'
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]


def test_a_member_that_is_not_there_is_named(cached: Wheel) -> None:
    with pytest.raises(AssetError, match=r"expected toyeval/none.json in toy_eval-1.2-py3-none-any.whl"):
        assets.extract_member(cached, "toyeval/none.json")


def test_a_member_with_other_bytes_than_recorded_does_not_land(cache: Path) -> None:
    wheel = build_wheel(cache / "wheels", lie_about="toyeval/data/piqa/rows.json")
    with pytest.raises(AssetError, match="not the file that its RECORD describes"):
        assets.extract_member(wheel, "toyeval/data/piqa/rows.json")
    with pytest.raises(AssetError, match="not the file that its RECORD describes"):
        assets.extract_folder(wheel, "toyeval/data/piqa")
    assert [path.name for path in (cache / "unpacked").rglob("*") if path.is_file()] == []
    assert not (cache / "unpacked/toy_eval-1.2/toyeval--data--piqa").exists()


@pytest.mark.parametrize(
    "name", ["../../escaped.txt", "/escaped.txt", "toyeval/../../../escaped.txt", "C:\\escaped.txt"]
)
def test_no_member_is_written_outside_the_cache(cache: Path, tmp_path: Path, name: str) -> None:
    wheel = build_wheel(cache / "wheels", {name: b"gotcha"})
    with pytest.raises(AssetError, match="outside the cache"):
        assets.extract_member(wheel, name)
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_folder_comes_out_whole_and_without_its_neighbour(cached: Wheel) -> None:
    folder = assets.extract_folder(cached, "toyeval/data/piqa")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"rows.json": b'{"rows": 3}\n', "state.json": b"{}\n"}
    assert assets.extract_folder(cached, "toyeval/data/piqa/") == folder
    assert {path.name for path in folder.parent.iterdir()} == {"toyeval--data--piqa"}


def test_a_folder_that_another_process_finished_first_is_used(cached: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def other_was_first(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assets.extract_folder(cached, "toyeval/data/piqa")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", other_was_first)
    folder = assets.extract_folder(cached, "toyeval/data/piqa")
    assert sorted(path.name for path in folder.iterdir()) == ["rows.json", "state.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["toyeval--data--piqa"]


def test_what_a_killed_process_left_is_removed_when_a_day_old(cached: Wheel) -> None:
    folder = assets.cache_dir() / "unpacked/toy_eval-1.2"
    for name in (".partial-old", ".partial-new"):
        (folder / name / "inside").mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    os.utime(folder / ".partial-old", (yesterday, yesterday))
    assets.extract_folder(cached, "toyeval/data/piqa")
    assert sorted(path.name for path in folder.iterdir()) == [".partial-new", "toyeval--data--piqa"]


def test_a_damaged_folder_is_not_used_silently(cached: Wheel) -> None:
    folder = assets.extract_folder(cached, "toyeval/data/piqa")
    (folder / "rows.json").unlink()
    with pytest.raises(AssetError, match=r"expected 12 bytes in .*rows.json; it is missing") as caught:
        assets.extract_folder(cached, "toyeval/data/piqa")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"Delete {folder}")


def test_members_are_those_that_the_record_lists(cached: Wheel) -> None:
    assert set(FILES) <= set(assets.wheel_members(cached))
    assert "toy_eval-1.2.dist-info/RECORD" not in assets.wheel_members(cached)


def test_assets_import_without_torch() -> None:
    code = "import sys; import genesis_sft.assets; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
