"""A scheduler of your own: the shortest prompt is admitted first, the longest gives way first.

    minivllm trace record tiny-pressure --scheduler-cls examples/shortest_first.py:ShortestFirst
    minivllm replay tiny-pressure.trace.jsonl

Everything but the order is inherited, and with it the events: dashboard, terminal and `minivllm
replay` tell this scheduler's decisions as they tell the shipped one's. Short prompts need not wait
behind a long one any more; a long one may starve. `minivllm compare` measures both.
"""

from minivllm.core.request_queue import PriorityQueue
from minivllm.core.scheduler import Scheduler
from minivllm.request import Request


class ShortestFirstQueue(PriorityQueue):
    @staticmethod
    def order(request: Request) -> tuple[int, int]:
        return (request.num_prompt_tokens, request.ordinal)


class ShortestFirst(Scheduler):
    def make_queue(self) -> ShortestFirstQueue:
        return ShortestFirstQueue()
