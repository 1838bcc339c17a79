"""Compile the C files beside this one for this machine's CPU, once, and load them.

It takes some seconds; the library stays in the cache directory under a name made from the sources,
the flags and the CPU, so another machine with the same home directory has one of its own. Whatever
goes wrong (no compiler, a read-only disk, a wrong number in :func:`_check`), the answer is None,
and torch's operators run: they are slower, not different. Counterpart in vLLM: ``csrc/cpu/``, which
is compiled when the package is built.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from minivllm.models.source import cache_dir

log = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ["-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"]
"""Sums may be re-ordered, which vectors need; NaN and infinity stay what they are."""
if platform.machine() in ("x86_64", "AMD64"):  # else gcc takes half of a register that is there
    FLAGS.append("-mprefer-vector-width=512")
TIMEOUT_S = 60.0

_POINTER, _INT, _FLOAT, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
SIGNATURES = {
    "rms_norm": [_POINTER] * 5 + [_INT] * 3 + [_FLOAT, _THREADS],
    "silu_mul": [_POINTER] * 2 + [_INT] * 2 + [_THREADS],
    "rotate": [_POINTER] * 4 + [_INT] * 4 + [_THREADS],
    "store": [_POINTER] * 5 + [_INT] * 4,
    "layer_before": [_POINTER] * 5 + [_INT, _THREADS],
    "layer_after": [_POINTER] * 4 + [_INT, _THREADS],
    "codes_linear": [_POINTER] * 3 + [_INT, _THREADS],
    "paged_attention": [_POINTER] * 5 + [_INT, _THREADS],
}


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None. ``MINIVLLM_NATIVE=0`` says None, too."""
    loaded, why = _load()
    if loaded is None and os.environ.get("MINIVLLM_NATIVE") != "0":
        log.warning("the C code of minivllm does not run here, torch is slower: %s", why)
    return loaded


def why_none() -> str:
    """Why :func:`library` has none."""
    return _load()[1]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("MINIVLLM_NATIVE") == "0":
        return None, "MINIVLLM_NATIVE is 0"
    try:
        loaded = ctypes.CDLL(str(_built()))
        for name, arguments in SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None
        _check(loaded)
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        return None, str(error)
    return loaded, ""


def _built() -> Path:
    texts = [path.read_bytes() for path in (*HEADERS, *SOURCES)]
    of = (*texts, " ".join(FLAGS).encode(), _cpu().encode())
    name = hashlib.sha256(b"\0".join(of)).hexdigest()[:16]
    target = cache_dir() / "native" / f"kernels-{name}.so"
    digest = target.with_suffix(".sha256")
    if target.is_file() and digest.is_file() and _digest(target) == digest.read_text():
        return target  # whole: a process that loads a part of it is killed
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if not compiler:
        raise RuntimeError("there is no C compiler (cc)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        objects, made = [f"{work}/{path.stem}.o" for path in SOURCES], Path(work) / "kernels.so"
        _run(
            [
                [*compiler, "-c", *FLAGS, str(source), "-o", into]
                for source, into in zip(SOURCES, objects, strict=True)
            ]
        )
        _run([[*compiler, "-shared", *objects, "-o", str(made), "-lm", "-pthread"]])
        said = Path(work) / "said"
        said.write_text(_digest(made))
        made.replace(target)  # other processes see no file or the whole file
        said.replace(digest)
    return target


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(commands: list[list[str]]) -> None:
    """All at once; raises RuntimeError if one fails."""
    started = [subprocess.Popen(one, stderr=subprocess.PIPE, text=True) for one in commands]
    try:
        for process, command in zip(started, commands, strict=True):
            _, said = process.communicate(timeout=TIMEOUT_S)
            if process.returncode:
                raise RuntimeError(f"{command[0]} says: {said.strip()[:300]}")
    finally:
        for process in started:
            process.kill()  # of one that has ended, nothing
            process.wait()


def _cpu() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _check(loaded: ctypes.CDLL) -> None:
    """A norm as torch has it; raises RuntimeError. Catches a library that is for another CPU's
    number format or compiler's ways, not a wrong kernel: for that there are tests."""
    x = torch.linspace(-2, 2, 64, dtype=torch.bfloat16)
    out, weight = torch.empty_like(x), torch.ones_like(x)
    pointers = out.data_ptr(), None, x.data_ptr(), None, weight.data_ptr()
    loaded.rms_norm(*pointers, 1, 64, 64, 1e-5, 1)
    expected = x.float() / x.float().square().mean().sqrt()
    if not torch.allclose(out.float(), expected, rtol=0.01, atol=0.01):
        raise RuntimeError("the compiled norm is wrong")
