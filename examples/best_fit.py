"""A KV cache manager of your own: contiguous blocks, but the tightest gap is used.

    minivllm trace record tiny-pressure --no-enable-prefix-caching --contiguous-reserve request \
        --kv-manager-cls examples/best_fit.py:BestFit

The shipped `contiguous` takes the first gap that is long enough. Whether best fit leaves fewer
gaps that nobody can use is an old question about memory; `minivllm compare` answers it for a
workload.
"""

from minivllm.core.contiguous import ContiguousKVManager


class BestFit(ContiguousKVManager):
    def find_gap(self, n: int) -> int | None:
        fitting = [(length, first) for first, length in self.gaps() if length >= n]
        return min(fitting)[1] if fitting else None
