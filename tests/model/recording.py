"""A stand-in for CUDA graphs, on a CPU: records each torch operation and does it again, on the same
memory, without running any Python of the model. So what Python decided at recording is baked in, as
it is in a real graph, and an operation that has to look at a number is refused, as it is there.

With it an attention that can be recorded, since torch's own looks at the lengths; and ``Looks``,
which lists what a GPU would have to be waited for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from minivllm.attention.metadata import AttentionMetadata

LOOKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}


class HostSyncError(RuntimeError):
    """The computation asked the device for a number."""


def _refuse(_: torch.Tensor) -> Any:
    raise HostSyncError("tolist")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name in LOOKS:
            raise HostSyncError(func._schema.name)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


METHODS = ("tolist", "numpy", "cpu")
"""Looks without an operation, where the tensor is on the CPU as in the tests."""

SHAPED_BY_VALUES = {"aten::_unique2", "aten::masked_select", "aten::bincount", "aten::equal"}


class Looks(TorchDispatchMode):
    """``with Looks() as seen``: every look at a number, every shape that depends on one, and every
    copy to another device that is waited for. ``tolist`` of a meta tensor gives zeros: the meta
    device has no numbers, so on it nothing can be looked at behind this one's back."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._patches = ExitStack()

    def __enter__(self) -> list[str]:  # type: ignore[override]
        for name in METHODS:
            patch = mock.patch.object(torch.Tensor, name, self._method(name))
            self._patches.enter_context(patch)
        # There is no pinned memory without a GPU; the copy that follows is what counts.
        pin = mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor)
        self._patches.enter_context(pin)
        super().__enter__()
        return self.seen

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._patches.close()

    def _method(self, name: str) -> Callable[[torch.Tensor], Any]:
        original = getattr(torch.Tensor, name)

        def look(tensor: torch.Tensor) -> Any:
            self.seen.append(name)
            if name == "tolist" and tensor.is_meta:
                return [0.0] * tensor.numel()
            return original(tensor)

        return look

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        flat = [arg for arg in tree_flatten((args, kwargs))[0] if isinstance(arg, torch.Tensor)]
        indices = flat[1:] if name in ("aten::index", "aten::index_put_") else []
        result = func(*args, **kwargs)
        if name in ("aten::_to_copy", "aten::copy_"):
            waits = not (kwargs.get("non_blocking") or True in args[2:])
            if waits and result.device != flat[-1].device:
                self.seen.append(f"{name} waits")
        elif name in LOOKS | SHAPED_BY_VALUES or any(i.dtype == torch.bool for i in indices):
            self.seen.append(name)
        elif len({tensor.device for tensor in flat if tensor.dim()}) > 1:
            self.seen.append(f"{name} over devices")
        return result


class RecordedCapture:
    """A GraphCapture."""

    def __init__(self) -> None:
        self.replays: list[int] = []
        """Rows of each replay."""

    def __call__(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        run()  # the warm-up that a real capture needs
        recorder = _Recorder()
        # On a CPU this one reads the memory without an operation.
        with recorder, mock.patch.object(torch.Tensor, "tolist", _refuse):
            result = run()

        def replay() -> torch.Tensor:
            self.replays.append(result.shape[0])
            for func, args, kwargs, recorded in recorder.calls:
                again = func(*args, **kwargs)
                _refill(recorded, again)
            return result

        return replay


def _refill(recorded: Any, again: Any) -> None:
    """What an operation made is written over what it made at the recording: later ones read it
    there. A view, or the result of an operation in place, lies there already."""
    if isinstance(recorded, torch.Tensor):
        if recorded.data_ptr() != again.data_ptr():
            recorded.copy_(again)
    elif isinstance(recorded, (tuple, list)):
        for one, other in zip(recorded, again, strict=True):
            _refill(one, other)


class GatheringAttention:
    """Decodes over the whole width of the block table, what lies beyond a request's end masked:
    shapes that no length changes. A slot of -1 is stored in the last block, which no request of a
    test has."""

    name = "gathering"

    def kv_cache_shape(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, ...]:
        return (2, num_blocks + 1, block_size, num_kv_heads, head_dim)

    def prepare(self, metadata: AttentionMetadata, block_size: int) -> GatheringStep:
        return GatheringStep(metadata, block_size)


class GatheringStep:
    def __init__(self, metadata: AttentionMetadata, block_size: int) -> None:
        self.metadata, self.block_size = metadata, block_size

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        meta = self.metadata
        _, num_kv_heads, head_dim = k.shape
        keys, values = kv_cache.view(2, -1, num_kv_heads, head_dim)  # (slots, kv heads, head_dim)
        slots = meta.slot_mapping.remainder(keys.shape[0])  # -1 → the very last slot
        keys.index_copy_(0, slots, k)
        values.index_copy_(0, slots, v)
        num_reqs = meta.seq_lens.shape[0]
        width = meta.block_table.shape[1] * self.block_size
        places = torch.arange(width)
        exists = places < meta.seq_lens[:, None]  # (num_reqs, width)
        at = meta.block_table.long()[:, places // self.block_size] * self.block_size
        at = (at + places % self.block_size) * exists
        share = q.shape[1] // num_kv_heads
        own_k = keys[at].repeat_interleave(share, 2)  # (num_reqs, width, heads, head_dim)
        own_v = values[at].repeat_interleave(share, 2)
        scores = torch.einsum("rhd,rkhd->rhk", q[:num_reqs], own_k) * head_dim**-0.5
        scores = scores.masked_fill(~exists[:, None], float("-inf"))
        weights = scores.softmax(-1).nan_to_num(0.0)  # a row of nobody has no keys
        return torch.einsum("rhk,rkhd->rhd", weights, own_v)
