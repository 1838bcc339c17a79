"""One file that opens from disk: the page, and the runs in it. No server, no network.

    Export(runs).parts() → the HTML in pieces, to a file (``minivllm trace export --html``) or to a
    browser (``GET /api/runs/ID/export``)

The page itself is the served one: ``index.html``, its style sheets inlined, its modules and
resources packed into one data block, each trace into another (gzip in base64, so that nothing in a
prompt can end the element it stands in). ``static/exported.js`` unpacks them, and
``static/net/home.js`` is where the page learns that there is no server. The policy in the file lets
run what this room put there, and lets nothing be loaded from anywhere. No counterpart in vLLM.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import msgspec

from minivllm.errors import ArtifactError, ExportError
from minivllm.learn.lessons import Lessons, find_lessons
from minivllm.trace.artifacts import ITEM_BYTES, Artifact
from minivllm.trace.cut import cut_steps, cut_time
from minivllm.trace.events import ArrayInfo
from minivllm.trace.words import join
from viz.export_extras import lessons_inside, worksheet_inside
from viz.page_parts import STATIC, take_apart
from viz.runs import Run

MAX_TRACE_BYTES = 64 * 2**20
"""Of one trace, unpacked: 250,000 events, which a browser takes in within some seconds."""
MAX_ARRAY_BYTES = 16 * 2**20
"""Of the arrays of all captured steps of a run, unpacked."""
SMALL_ARRAY_BYTES = 64 * 2**10
"""Arrays up to this size go in first, of all steps: the batch's own, which the drawer compares.
Then the attention weights, which the lens reads, then the others."""
_FORMS = {"F32": "f4", "F16": "f2", "BF16": "b2", "I32": "i4", "I64": "i8"}
"""How ``core/numbers.js`` calls them: the numbers go in as they stand in the step's own file."""


MORE = "Fewer steps (--from, --to) leave room for more; `minivllm view FILE` shows them all."

Steps = tuple[int, int]
"""The first and the last that are wanted."""
NO_END = 2**53 - 1
"""As a last step: there is no later one."""


class Export:
    """An exported file. Everything that can be refused is refused when it is made."""

    def __init__(
        self,
        runs: Sequence[Run],
        steps: Steps | None = None,
        max_bytes: int = MAX_TRACE_BYTES,
        lessons: Lessons | None = None,
    ) -> None:
        """With two runs the file opens with the second beside the first, in Compare. ``lessons``:
        those whose texts go along, unless they are the project's own.

        Raises TraceError for a run that cannot be read, ExportError for one that is too large, or
        whose beginning is no longer kept.
        """
        self._steps = steps
        self._packs = [_Pack(run, steps, max_bytes) for run in runs]
        ids = [pack.run.id for pack in self._packs]
        self.title = " and ".join(ids)
        beside = {"start": f"#/run/{ids[0]}?view=compare&with={ids[1]}"} if len(ids) == 2 else {}
        told = lessons_inside(lessons or find_lessons(), runs)
        rows = [self._row(i) for i in range(len(ids))]
        self._about = {"runs": rows, "lessons": told, **beside}

    def _row(self, number: int) -> dict[str, Any]:
        pack = self._packs[number]
        header = pack.header
        return {
            "id": pack.run.id,
            "label": pack.run.label,
            "script": pack.run.tour() if self._steps is None else None,  # it leads to all steps
            "trace": f"trace-{number}",
            "gallery": pack.run.gallery,
            "worksheet": pack.worksheet,
            "file": {
                "name": pack.run.file,
                "made": header["created"],
                "version": header["engine_version"],
            },
            "arrays": {
                "data": f"arrays-{number}",
                "index": pack.arrays.index,
                "left_out": pack.arrays.left_out,
            },
        }

    @property
    def left_out(self) -> list[str]:
        """A sentence for each run whose arrays are not all in the file."""
        return [
            f"{pack.run.id}: {pack.arrays.left_out}"
            for pack in self._packs
            if pack.arrays.left_out and pack.arrays.given
        ]

    def parts(self) -> Iterator[bytes]:
        page = take_apart()
        nonce = secrets.token_urlsafe(18)
        boot = (STATIC / "exported.js").read_text(encoding="utf-8")
        policy = (
            f"default-src 'none'; script-src {_hash(boot)} 'nonce-{nonce}'; "
            f"style-src {_hash(page.style)}; img-src data: blob:; base-uri 'none'; "
            "form-action 'none'"
        )
        yield (
            '<!doctype html>\n<html lang="en" data-theme="dark">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>minivllm · {escape(self.title)}</title>\n"
            f'<link rel="icon" href="{page.icon}">\n<style>{page.style}</style>\n</head>\n'
        ).encode()
        yield _waiting(page.body).encode()
        packed = {"modules": page.modules, "resources": page.resources, "about": self._about}
        yield from _block("page", [json.dumps(packed, ensure_ascii=False).encode()])
        for number, pack in enumerate(self._packs):
            yield from _block(f"trace-{number}", pack.lines)
            yield from _block(f"arrays-{number}", pack.arrays.data)
        yield f'<script nonce="{nonce}">{boot}</script>\n</body>\n</html>\n'.encode()


class _Pack:
    """One run as it goes into the file."""

    def __init__(self, run: Run, steps: Steps | None, max_bytes: int) -> None:
        self.run = run
        self.header = run.header()
        streams = {
            (life.stream, life.epoch): run.lines(life.stream, 1, life.head, life.epoch)
            for life in run.lives()
        }
        for lines in filter(None, streams.values()):
            _check_beginning(lines[0], run.id)
        if steps is not None:
            streams = _cut(streams, steps)
        ran = {key: _steps_of(lines) for key, lines in streams.items() if lines and _is_engine(key)}
        if not ran:
            raise ExportError(f"{run.id} has {_none_of(steps)}")
        size = sum(len(line) + 1 for lines in streams.values() for line in lines)
        if size > max_bytes:
            raise ExportError(
                f"the events of {run.id} take {size / 2**20:.0f} MB; a page takes "
                f"{max_bytes >> 20}. Choose some of its steps: --from and --to, in an address "
                "?from=1&to=500"
            )
        self.lines = [msgspec.json.encode(self.header) + b"\n"]
        self.lines += (line + b"\n" for lines in streams.values() for line in lines)
        self.arrays = _Arrays(run, ran)
        first = min(ran)  # of the first engine the newest life
        self.worksheet = worksheet_inside(
            run, streams[first[0], max(e for s, e in ran if s == first[0])]
        )


def _none_of(steps: Steps | None) -> str:
    if steps is None:
        return "no event of an engine: nothing ran, or all but its header was cut off"
    return f"no step {steps[0]}" + (f" to {steps[1]}" if steps[1] < NO_END else " or later")


def _check_beginning(line: bytes, run_id: str) -> None:
    head = msgspec.json.decode(line)
    if head["seq"] != 1 and head["kind"] != "run.snapshot":
        raise ExportError(
            f"the beginning of {run_id} is no longer in memory (its first {head['seq'] - 1} events "
            "are gone), and with it what a page would begin with: export the file of --trace, or "
            "serve with --trace-retention, which keeps a beginning"
        )


def _is_engine(key: tuple[str, int]) -> bool:
    return key[0].startswith("engine")


def _cut(
    streams: dict[tuple[str, int], list[bytes]], steps: Steps
) -> dict[tuple[str, int], list[bytes]]:
    kept = {key: cut_steps(lines, *steps) for key, lines in streams.items() if _is_engine(key)}
    told = [
        msgspec.json.decode(lines[at])["t_ns"] for lines in kept.values() if lines for at in (0, -1)
    ]
    for key, lines in streams.items():
        if not _is_engine(key) and told:
            kept[key] = cut_time(lines, min(told), max(told))
    return kept


def _steps_of(lines: list[bytes]) -> range:
    first, last = (msgspec.json.decode(line)["step"] for line in (lines[0], lines[-1]))
    return range(first, last + 1)


class _Arrays:
    """The arrays of the captured steps, as far as they may go in: of all steps the small first."""

    def __init__(self, run: Run, steps: dict[tuple[str, int], range]) -> None:
        self.index: dict[str, dict[str, Any]] = {}
        self.data: list[bytes] = []
        size = 0
        missing: list[str] = []
        captured = [
            (stream, life, step, told.arrays)
            for (stream, life), kept in steps.items()
            for step, told in run.artifacts(stream, life).items()
            if step in kept
        ]
        self.given = sum(len(infos) for *_, infos in captured)
        wanted = [
            ((stream, life, step), info) for stream, life, step, infos in captured for info in infos
        ]
        opened: dict[tuple[str, int, int], Artifact] = {}  # the last one
        for key, info in sorted(wanted, key=lambda each: _rank(each[1])):
            stream, life, step = key
            if size + _bytes(info) > MAX_ARRAY_BYTES:
                missing.append(f"{info.name} of step {step}")
                continue
            try:
                opened = opened if key in opened else {key: run.artifact(stream, step, life)}
            except ArtifactError as error:
                missing.append(f"{info.name} of step {step} ({error})")
                continue
            data = bytes(opened[key].raw(info.name))
            form = _FORMS[info.dtype]
            place = {"dtype": info.dtype, "shape": info.shape, "as": form, "from": size}
            self.index[f"{stream}/{life}/{step}/{info.name}"] = place
            self.data.append(data)
            size += len(data)
        most = f"At most {MAX_ARRAY_BYTES >> 20} MB of arrays are taken along"
        self.left_out = f"{most}; left out: {join(missing, most=4)}. {MORE}" if missing else ""


def _bytes(info: ArrayInfo) -> int:
    """What an array takes in the file, unpacked."""
    return math.prod(info.shape) * ITEM_BYTES[info.dtype]


def _rank(info: ArrayInfo) -> int:
    """Which go in first."""
    if _bytes(info) <= SMALL_ARRAY_BYTES:
        return 0
    return 1 if info.name.startswith("attention.") else 2


def _waiting(body: str) -> str:
    """Words that stand in the page until it is unpacked: for ever, where the download broke off."""
    found = body.find("</noscript>")
    if found < 0:
        raise ExportError("index.html has no place for words before the page is there")
    at = found + len("</noscript>")
    words = (
        "Unpacking the page … If this stays, the file is not whole: copy it anew from where it "
        "came."
    )
    return f"{body[:at]}<p>{words}</p>{body[at:]}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _block(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A data block: a script element that no browser runs."""
    yield f'<script type="application/gzip" id="{name}">'.encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with gzip's header
    rest = b""
    for piece in pieces:
        rest += packer.compress(piece)
        whole = len(rest) // 3 * 3
        yield base64.b64encode(rest[:whole])
        rest = rest[whole:]
    yield base64.b64encode(rest + packer.flush())
    yield b"</script>\n"
