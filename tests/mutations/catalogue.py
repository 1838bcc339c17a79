"""Lines of the core, broken on purpose: each must cost a test.

One entry a line: the file, its text as it stands (exactly once), what it becomes, what that breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    file: str  # below minivllm/
    old: str
    new: str
    breaks: str

    @property
    def path(self) -> Path:
        return Path("minivllm") / self.file

    def applied(self) -> str:
        """The file's text with the line broken. Raises LookupError if the line is gone."""
        text = (ROOT / self.path).read_text(encoding="utf-8")
        if (n := text.count(self.old)) != 1:
            raise LookupError(
                f"{self.path} has {self.old!r} {n} times: bring {__file__} up to date"
            )
        return text.replace(self.old, self.new)


def _in(file: str, *rows: tuple[str, str, str]) -> list[Mutation]:
    return [Mutation(file, *row) for row in rows]


SCHEDULER = _in(
    "core/scheduler.py",
    ("= self.waiting.victim(self.running)", "= self.running[0]", "the first gives way"),
    ("        if step.preempted:\n", "        if False:\n", "a step that preempts also admits"),
    (
        "self.kv.withdraw_hashes(victim, victim.num_computed_tokens)",
        "pass",
        "a victim's hashes stay, though their tokens never ran",
    ),
    (
        "tokens_lost, victim.num_computed_tokens = victim.num_computed_tokens, 0",
        "tokens_lost = victim.num_computed_tokens",
        "a victim counts as computed what it gave back",
    ),
    (
        "self.running.index(request) + 1 if step.preempted else index + 1",
        "index + 1",
        "somebody is passed over where a victim stood before",
    ),
    ("self.running.append(request)", "self.running.insert(0, request)", "newcomers go first"),
    ("n, limited_by = own, Reason.NO_FREE_BLOCKS", "pass", "a draft drives somebody out"),
    ("if self._outgrew_pool(request, n):", "if False:", "who outgrew the pool takes victims"),
    (
        "if self._outgrew_pool(request, request.num_tokens):",
        "if False:",
        "who outgrew the pool while it waited waits for ever",
    ),
    ("request.num_computed_tokens = hit", "request.num_computed_tokens = 0", "hits run again"),
    ("grant.request.num_computed_tokens += grant.n", "pass", "nothing is ever computed"),
    ("grant.request.spec_token_ids = []", "pass", "drafts are run twice"),
    ("victim.spec_token_ids = []", "pass", "a victim keeps its drafts"),
    (
        "self._ends.take_finished_req_ids() if step.grants else []",
        "self._ends.take_finished_req_ids()",
        "an end is lost with a batch that does not run",
    ),
    (
        "self.fail(self.requests[req_id], message, num_unsound=n)",
        "self.fail(self.requests[req_id], message, num_unsound=0)",
        "blocks of a failed step can be hit",
    ),
    (
        "self._ends.finished_req_ids += scheduled.finished_req_ids",
        "pass",
        "an end is lost with a step that failed",
    ),
    (
        "self.admission.config = self._drafts.config = config",
        "self.admission.config = config",
        "a knob of speculation changes nothing",
    ),
    (
        "if answer.reason is not Reason.WAITING_FOR_GRAMMAR:",
        "if True:",
        "who waits for a grammar holds up the line",
    ),
    (
        "(r.req_id for r in self.waiting if not r.waits_for_grammar)",
        "(r.req_id for r in self.waiting)",
        "who waits for a grammar is said to stand behind somebody",
    ),
    ("self._batch_width = len(self.running)", "pass", "a static batch has no padding"),
)

STEP = _in(
    "core/step.py",
    ("self.budget -= grant.n", "pass", "the budget is never used up"),
    ("self.budget += grant.n", "pass", "a victim's budget is lost"),
    ("if grant.why is GrantWhy.RESUME:", "if False:", "a resumed table is added to the old one"),
)

ADMISSION = _in(
    "core/admission.py",
    ("if request.waits_for_grammar:", "if False:", "somebody runs without its grammar"),
    (
        'if self.config.batching == "static" and step.num_running_before:',
        "if False:",
        "somebody joins a static batch",
    ),
    ("if len(running) >= self.config.max_num_seqs:", "if False:", "more run than may"),
    (
        "if not self.config.enable_chunked_prefill and lacking > budget:",
        "if False:",
        "a prompt is cut with chunking off",
    ),
    (
        "self.kv.shortage(request, request.num_tokens, hit, kept)",
        "self.kv.shortage(request, hit.num_tokens + wanted, hit, kept)",
        "a prompt is let in for the sake of its first chunk",
    ),
    ("if others_scheduled else 0", "if True else 0", "the watermark holds up who is alone"),
    (
        "int(self.config.watermark * len(self.kv.pool.blocks))",
        "0",
        "there is no watermark",
    ),
    (
        "sum(self.kv.num_blocks_needed(r, r.num_tokens) for r in running)",
        "0",
        "strict admission is no stricter",
    ),
    ("n, limited_by = threshold, Reason", "n, limited_by = n, Reason", "there is no threshold"),
)

QUEUE = _in(
    "core/request_queue.py",
    (
        "(request.priority, request.ordinal)",
        "(request.priority, -request.ordinal)",
        "of equal priority the youngest is first",
    ),
    ("self._requests.appendleft(request)", "self._requests.append(request)", "a victim goes last"),
    ("max(running, key=self.order)", "min(running, key=self.order)", "the most urgent gives way"),
    ("return running[-1]", "return running[0]", "the oldest gives way"),
    (
        "insort(self._requests, request, key=self.order)",
        "self._requests.append(request)",
        "no order",
    ),
)

POOL = _in(
    "core/block_pool.py",
    (
        "before.next_free, after.prev_free = after, before",
        "before.next_free = after",
        "the free queue is broken backwards",
    ),
    (
        "(back if block.block_hash is not None else front)",
        "back",
        "cached content is forgotten before a blank block is used",
    ),
    (
        "            self.free_queue.remove(block)\n        block.ref_cnt += 1",
        "            pass\n        block.ref_cnt += 1",
        "a shared block is still free",
    ),
    ("for block in reversed(table):", "for block in table:", "heads are evicted before tails"),
    (
        "                self._forget(block)\n            block.ref_cnt = 1",
        "                pass\n            block.ref_cnt = 1",
        "an evicted block can still be hit",
    ),
    ("del twins[block.block_id]", "twins.clear()", "a twin is forgotten as well"),
    (
        "if self.num_free_blocks != self.num_usable_blocks:",
        "if False:",
        "the cache is reset under those who run",
    ),
    ("        self.cached.clear()", "        pass", "a reset forgets nothing"),
    ("self.null_block = self.free_queue.popleft()", "self.null_block = self.blocks[0]", "block 0"),
)

KV = _in(
    "core/kv_cache_manager.py",
    (
        "max_blocks = (request.num_tokens - 1) // self.block_size",
        "max_blocks = request.num_tokens // self.block_size",
        "all tokens hit, and none gives logits",
    ),
    (
        "max(self.blocks_for(num_tokens) - held, 0) + free_hits",
        "max(self.blocks_for(num_tokens) - held, 0)",
        "hits that lie free are counted as free and as held",
    ),
    (
        "self._cache_full_blocks(request, min(num_tokens, request.num_tokens))",
        "self._cache_full_blocks(request, num_tokens)",
        "blocks of drafts have a name",
    ),
    ("self._num_cached.pop(request.req_id, None)", "pass", "a resumed request registers nothing"),
    ("[num_kept:num_cached]", "[num_kept + 1 : num_cached]", "one hash too few is withdrawn"),
    ("self._num_cached[request.req_id] = len(table)", "pass", "hits are registered again"),
    (
        "num_kept = num_executed_tokens // self.block_size",
        "num_kept = -(-num_executed_tokens // self.block_size)",
        "a block that ran in part can be hit",
    ),
)

HASH = _in(
    "core/block_hash.py",
    ('hashlib.sha256(parent or b"")', 'hashlib.sha256(b"")', "a hash knows nothing before it"),
    ("digest.update(extra.encode())", "pass", "salts share blocks"),
)

CONTIGUOUS = _in(
    "core/contiguous.py",
    ("if length >= n)", "if length >= n - 1)", "a gap one block too short is used"),
    ("if gaps and sum(gaps[-1]) == block.block_id:", "if gaps:", "all free blocks are one gap"),
    (
        "self.blocks_for(min(most, self.max_model_len))",
        "self.blocks_for(most)",
        "reserves too much",
    ),
    ("+ request.max_tokens", "", "nothing is set aside for the output"),
    ("            if block.ref_cnt:\n                continue", "", "blocks in use are gaps"),
)

ENDS = _in(
    "core/ends.py",
    (
        "self.kv.withdraw_hashes(request, request.num_computed_tokens - num_unsound)",
        "pass",
        "what a failed request computed can be hit",
    ),
    ("if request.known_to_worker:", "if False:", "the worker never hears of an end"),
    ("        self.kv.free(request)", "        pass", "blocks of the dead leak"),
    ("del self.requests[request.req_id]", "pass", "the dead are never forgotten"),
)

SPECULATION = _in(
    "core/speculation.py",
    (
        "if request.sampling_params.structured_outputs is not None:",
        "if False:",
        "drafts are run past a grammar",
    ),
    ("request.num_computed_tokens -= n", "pass", "wrong drafts count as computed"),
    ("request.num_output_tokens - 1,", "request.num_output_tokens,", "a draft too many is run"),
    ("self.max_model_len - request.num_tokens - 1,", "10**9,", "drafts reach past the context"),
    ("if found % width == 0:", "if True:", "a match may begin in the midst of a token"),
)

FOLD = _in(
    "trace/fold.py",
    (
        "request.num_computed_tokens = request.num_cached_tokens = data.hit",
        "request.num_cached_tokens = data.hit",
        "the fold does not count hits",
    ),
    ("data.front + state.free + data.back", "state.free + data.front + data.back", "wrong order"),
    ("twins.remove(block_id)", "twins.clear()", "the fold forgets a twin"),
    ("computed_tokens -= event.data.n", "computed_tokens -= 0", "the fold keeps wrong drafts"),
    ("request.num_preemptions += 1", "pass", "the fold counts no preemptions"),
)

MUTATIONS: list[Mutation] = [
    *SCHEDULER,
    *STEP,
    *ADMISSION,
    *QUEUE,
    *POOL,
    *KV,
    *HASH,
    *CONTIGUOUS,
    *ENDS,
    *SPECULATION,
    *FOLD,
]
