"""The compiled attention against the float64 reference, and its last bits; for this machine's CPU,
and as one without AVX-512 has it."""

from __future__ import annotations

import ctypes
import math
import platform
import subprocess

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivllm.attention.metadata import AttentionMetadata
from minivllm.attention.native_backend import NativeAttention
from minivllm.native import build
from tests.kernels.batches import TOLERANCE, Case, make, same_bits

BF16 = torch.bfloat16
WAYS = ["this CPU", "portable"]


@pytest.fixture(scope="module", params=WAYS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    if request.param == "this CPU":
        found = build.library()
        assert found is not None, "they could not be compiled; see the log of minivllm.native"
        return found
    flags = [flag for flag in build.FLAGS if not flag.startswith(("-march", "-mprefer"))]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-march=x86-64-v3")
    made = tmp_path_factory.mktemp("portable") / "attention.so"
    sources = [str(path) for path in build.SOURCES if path.stem in ("attention", "pool")]
    command = ["cc", *flags, "-shared", *sources, "-o", str(made), "-lm", "-pthread"]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(made))
    for name in ("store", "paged_attention"):
        function = getattr(loaded, name)
        function.argtypes, function.restype = build.SIGNATURES[name], None
    return loaded


chunk = st.tuples(st.integers(0, 150), st.integers(1, 80))
decode = st.tuples(st.integers(0, 300), st.just(1))
idle = st.tuples(st.just(5), st.just(0))
cases = st.builds(
    Case,
    chunks=st.lists(st.one_of(chunk, decode, decode, idle), min_size=1, max_size=6),
    block_size=st.sampled_from([1, 3, 16, 128]),
    num_kv_heads=st.sampled_from([1, 3]),
    share=st.sampled_from([1, 3, 8]),
    head_dim=st.sampled_from([64, 128]),
    dtype=st.just(BF16),
    padding=st.sampled_from([0, 0, 3]),
    seed=st.integers(0, 10_000),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases)
def test_ragged_batches_equal_the_float64_reference(library: ctypes.CDLL, case: Case) -> None:
    """Cells that hold no token are NaN: what is read without having been written, shows."""
    batch = make(case)
    batch.kv_cache = batch.kv_cache.contiguous()
    backend = NativeAttention(library, case.num_kv_heads * case.share, case.num_kv_heads)
    torch.use_deterministic_algorithms(True)  # fresh tensors hold NaN
    try:
        out = batch.run(backend)
    finally:
        torch.use_deterministic_algorithms(False)
    error = (out.double() - batch.expected).abs()
    assert bool((error <= TOLERANCE[BF16] * (1 + batch.expected.abs())).all()), error.max()
    after = batch.cache_after[:, 1:-1, :, : case.num_kv_heads, : case.head_dim]
    assert same_bits(batch.kv_cache, after), "the cache holds something else"


class Requests:
    """Some requests' q, k and v, fed in steps of (request, tokens)."""

    def __init__(self, lengths: list[int], heads: int, kv_heads: int, dim: int = 64) -> None:
        self.heads, self.kv_heads, self.dim, self.lengths = heads, kv_heads, dim, lengths
        self.size = 16
        generator = torch.Generator().manual_seed(len(lengths) + heads)
        self.qkv = [
            torch.randn(length, heads + 2 * kv_heads, dim, generator=generator).to(BF16)
            for length in lengths
        ]

    def run(self, library: ctypes.CDLL, steps: list[list[tuple[int, int]]]) -> list[torch.Tensor]:
        """What each request's tokens get, (tokens, heads, dim)."""
        backend = NativeAttention(library, self.heads, self.kv_heads)
        blocks = -(-max(self.lengths) // self.size)
        shape = (1 + blocks * len(self.lengths), self.size, self.kv_heads, self.dim)
        cache = torch.full((2, *shape), math.nan, dtype=BF16)
        tables = 1 + torch.arange(shape[0] - 1, dtype=torch.int32).view(blocks, -1).T
        done, found = [0] * len(self.lengths), [[] for _ in self.lengths]
        for step in steps:
            starts, lens, slots, rows = [0], [], [], []
            for which, count in step:
                at = torch.arange(done[which], done[which] + count)
                places = tables[which, at // self.size].long() * self.size + at % self.size
                slots.append(places)
                rows.append(self.qkv[which][at])
                done[which] += count
                starts.append(starts[-1] + count)
                lens.append(done[which])
            metadata = AttentionMetadata(
                query_start_loc=torch.tensor(starts, dtype=torch.int32),
                seq_lens=torch.tensor(lens, dtype=torch.int32),
                block_table=tables[[which for which, _ in step]].contiguous(),
                slot_mapping=torch.cat(slots),
            )
            split = [self.heads, self.kv_heads, self.kv_heads]
            q, k, v = torch.cat(rows).split(split, dim=1)
            out = backend.prepare(metadata, self.size).forward(q, k, v, cache)
            for (which, _), some in zip(step, out.split([n for _, n in step]), strict=True):
                found[which].append(some)
        assert done == self.lengths
        return [torch.cat(some) for some in found]


def in_chunks(which: int, length: int, size: int) -> list[list[tuple[int, int]]]:
    return [[(which, min(size, length - at))] for at in range(0, length, size)]


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (8, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 64, 65, 200])
def test_a_prompt_may_be_cut_anywhere(
    library: ctypes.CDLL, size: int, heads: int, kv_heads: int
) -> None:
    """In one piece, in chunks, or token by token as a decode: the same bits."""
    requests = Requests([210], heads, kv_heads)
    whole = requests.run(library, [[(0, 210)]])[0]
    assert bool(whole.isfinite().all())
    assert same_bits(requests.run(library, in_chunks(0, 210, size))[0], whole)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), shape=st.sampled_from([(2, 2), (9, 3), (32, 1)]))
def test_neighbours_change_no_bit(
    library: ctypes.CDLL, data: st.DataObject, shape: tuple[int, int]
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 180), min_size=2, max_size=4))
    requests, left, steps = Requests(lengths, *shape), dict(enumerate(lengths)), []
    while left:
        who = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        enough = len(steps) > 8
        step = [
            (i, left[i] if enough else data.draw(st.one_of(st.just(1), st.integers(1, left[i]))))
            for i in who
        ]
        left = {i: n - dict(step).get(i, 0) for i, n in left.items()}
        left = {i: n for i, n in left.items() if n}
        steps.append(step)
    found = requests.run(library, steps)
    singly = requests.run(library, [[(i, length)] for i, length in enumerate(lengths)])
    for some, expected in zip(found, singly, strict=True):
        assert same_bits(some, expected)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_what_is_not_a_number_shows_in_all_who_see_it(library: ctypes.CDLL, part: str) -> None:
    """Of the poisoned request, from the token on (a query: in it alone). Nobody else's bits."""
    requests = Requests([100, 70], 2, 1)
    steps = [[(0, 80), (1, 70)], [(0, 20)]]
    clean = requests.run(library, steps)
    row = {"q": 0, "k": 2, "v": 3}[part]
    requests.qkv[0][85, row] = math.nan
    poisoned, other = requests.run(library, steps)
    assert same_bits(other, clean[1])
    assert same_bits(poisoned[:80], clean[0][:80])
    if part == "q":
        assert bool(poisoned[85, 0].isnan().all()), "a plausible number of a query that is none"
        kept = torch.arange(100) != 85
        assert same_bits(poisoned[kept], clean[0][kept])
        assert same_bits(poisoned[85, 1], clean[0][85, 1])
    else:
        assert bool(poisoned[85:].isnan().all())


def test_threads_change_no_bit(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, found = Requests([100, 70, 1], 9, 3), []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(requests.run(library, [[(0, 90), (1, 70), (2, 1)], [(0, 10)]]))
    for other in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(found[0], other, strict=True))
