"""The events: every kind, its fields, and the closed vocabulary of reasons.

This file is the schema. The JSON Schema in ``events.schema.json`` is exported from it
(``schema.py``), and the fold (``fold.py``, and ``fold.js`` for the page) is written against it. One
struct per kind; the engine emits it at the branch that took the decision:

    self.trace.emit(KvEvict, req, block=6, hash=..., left_by="r2")

An event with the word *moves* in its docstring changes the state; all others only tell. Fields
that end in ``ns`` are times and never enter the fold or a comparison.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar

import msgspec

SCHEMA = "minivllm.trace/1.0"


class Vocabulary(str, Enum):
    """A closed list of words for who writes, an open one for who reads.

    A word that a later minor version added is kept as its text, equal to no word of this one.
    """

    @classmethod
    def _missing_(cls, value: object) -> Vocabulary | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word


class Explained(dict[Any, str]):
    """Word → one line about it; also for a word of a later version."""

    def __missing__(self, word: Vocabulary) -> str:
        return f"“{word.value}”, a word of a later version"


class Reason(Vocabulary):
    """Why something did not happen, or happened to somebody. The vocabulary of the lessons."""

    # Why a request got nothing (sched.skip, sched.stop), or less than it asked (sched.ledger).
    NO_BUDGET = "no_budget"
    NO_FREE_BLOCKS = "no_free_blocks"
    MAX_NUM_SEQS = "max_num_seqs"
    PREEMPTED_THIS_STEP = "preempted_this_step"
    CHUNKING_OFF = "chunking_off"
    LARGER_THAN_POOL = "larger_than_pool"
    LONG_PREFILL_THRESHOLD = "long_prefill_threshold"
    MAX_MODEL_LEN = "max_model_len"
    PREEMPTED = "preempted"
    STATIC_BATCH = "static_batch"
    FRAGMENTED = "fragmented"
    WAITING_FOR_GRAMMAR = "waiting_for_grammar"
    # Why budget was left over (sched.ledger).
    NOTHING_WAITS = "nothing_waits"
    # Why a prefix lookup ended where it did (kv.miss).
    NOT_CACHED = "not_cached"
    LAST_TOKEN = "last_token"
    PARTIAL_BLOCK = "partial_block"
    PROMPT_LOGPROBS = "prompt_logprobs"
    # Why a hash was withdrawn (kv.uncache).
    NOT_EXECUTED = "not_executed"
    # Why a draft was computed in vain (spec.reject).
    DRAFT_MISMATCH = "draft_mismatch"
    OUTPUT_ENDED = "output_ended"
    # Why a request was ended from outside (req.abort).
    CLIENT = "client"
    STOP_STRING = "stop_string"
    SHUTDOWN = "shutdown"
    TIMEOUT = "timeout"
    # Why arrays that were asked for are not kept (trace.left_out).
    TENSORS_LIMIT = "tensors_limit"
    TENSORS_FULL = "tensors_full"
    NOT_WRITTEN = "not_written"
    NO_MODEL = "no_model"
    NOTHING_RAN = "nothing_ran"
    STEP_PASSED = "step_passed"


REASONS: dict[Reason, str] = {
    Reason.NO_BUDGET: "the token budget of this step is used up",
    Reason.NO_FREE_BLOCKS: "too few KV blocks are free for the whole sequence",
    Reason.MAX_NUM_SEQS: "as many requests run as may run at once",
    Reason.PREEMPTED_THIS_STEP: "somebody was preempted in this step, so nobody is admitted",
    Reason.CHUNKING_OFF: "chunked prefill is off and the prompt is larger than the budget left",
    Reason.LARGER_THAN_POOL: "the sequence needs more blocks than the whole pool has",
    Reason.LONG_PREFILL_THRESHOLD: "one prompt may run only so many tokens in a step",
    Reason.MAX_MODEL_LEN: "the context window has no more room",
    Reason.PREEMPTED: "it was preempted in this step",
    Reason.STATIC_BATCH: "batching is static: nobody joins until the whole batch has ended",
    Reason.FRAGMENTED: "enough blocks are free, but too few of them are neighbours",
    Reason.WAITING_FOR_GRAMMAR: "its grammar is still being compiled; it blocks nobody",
    Reason.NOTHING_WAITS: "nothing waits",
    Reason.NOT_CACHED: "no block holds this content now",
    Reason.LAST_TOKEN: "the last token must run, to give logits, so its block is not reused",
    Reason.PARTIAL_BLOCK: "only full blocks are cached",
    Reason.PROMPT_LOGPROBS: "logprobs of the whole prompt are wanted, so all of it must run",
    Reason.NOT_EXECUTED: "the tokens were scheduled but will not be run",
    Reason.DRAFT_MISMATCH: "the model says something else there than was guessed",
    Reason.OUTPUT_ENDED: "the output ended before it",
    Reason.CLIENT: "the caller cancelled it or went away",
    Reason.STOP_STRING: "its text contains one of its stop strings",
    Reason.SHUTDOWN: "the engine shuts down",
    Reason.TIMEOUT: "it took longer than one request may",
    Reason.TENSORS_LIMIT: "the arrays of one step may have only so many bytes",
    Reason.TENSORS_FULL: "the arrays of the whole run have all the bytes they may have",
    Reason.NOT_WRITTEN: "the disk takes no more arrays",
    Reason.NO_MODEL: "no model runs, so there are no arrays",
    Reason.NOTHING_RAN: "no token ran in that step",
    Reason.STEP_PASSED: "that step had begun before the wish for its arrays came",
}
REASONS = Explained(REASONS)


class GrantWhy(Vocabulary):
    """What kind of work a grant is."""

    PREFILL = "prefill"  # a whole prompt (or all that a prefix hit left of it)
    CHUNK = "chunk"  # a piece of a prompt, not its last
    LAST_CHUNK = "last_chunk"  # the piece that completes a prompt
    RESUME = "resume"  # prompt and output of a preempted request, again
    DECODE = "decode"  # the token said last, with its drafts


class RouteWhy(Vocabulary):
    """Why a request goes to this engine."""

    ONLY_ENGINE = "only_engine"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    TIE = "tie"
    CACHED_PREFIX = "cached_prefix"
    SAME_PARENT = "same_parent"
    RETRY = "retry"


ROUTE_WHYS: dict[RouteWhy, str] = {
    RouteWhy.ONLY_ENGINE: "no other engine takes requests",
    RouteWhy.ROUND_ROBIN: "it is its turn",
    RouteWhy.LEAST_LOADED: "it has the fewest tokens to run",
    RouteWhy.TIE: "another one has as little to run, and it is its turn",
    RouteWhy.CACHED_PREFIX: (
        "it holds so much of the prompt in its prefix cache that its load does not matter"
    ),
    RouteWhy.SAME_PARENT: "another sample of the same prompt went there",
    RouteWhy.RETRY: "its first engine died before it had said anything",
}
ROUTE_WHYS = Explained(ROUTE_WHYS)


class EngineWhy(Vocabulary):
    """Why an engine is started."""

    SERVER_START = "server_start"
    DEATH = "death"  # the one before it died
    ADMIN = "admin"  # somebody asked for a restart


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all payloads; ``KIND`` is the event's ``kind`` on the wire."""

    KIND: ClassVar[str] = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a trace."""

    stream: str
    """``engine0``, ``api``, …; each stream numbers its own events."""
    seq: int
    """1, 2, 3, … within the stream, without a gap."""
    step: int
    """Engine step during which it happened; 0 before the first."""
    phase: str
    """``input`` | ``schedule`` | ``execute`` | ``update`` | ``idle``."""
    kind: str
    t_ns: int
    """Since the run's start."""
    src: int
    """Which source line emitted it; a ``run.source`` event tells, before its first use."""
    req: str | None
    """``r7``: requests are named in order of arrival."""
    data: Any
    """The kind's payload: its struct below, or a plain dict for a kind of a later version."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a trace file."""

    schema: str = SCHEMA
    run_id: str
    created: str
    engine_version: str
    name: str = ""
    """The scenario's or workload's name, if it has one."""
    config: dict[str, Any] = {}
    model: str = ""
    dtype: str = ""
    device: str = ""
    threads: int = 0
    kernel_path: str = ""
    seed: int = 0
    fidelity: str = "live"
    """``live`` from a model; ``given`` when the tokens were given and no model ran; ``recorded`` in
    a fork that took a model's tokens over."""
    forked_from: str | None = None
    """``RUN_ID@STEP``: another run's inputs, with knobs changed from that step on."""
    redacted: bool = False
    """Token ids are 0 and texts "…": what was said is not in here (``--trace-redact``)."""


# --- run ---------------------------------------------------------------------------------------


class RunStart(Data):
    """*Moves*: forgets everything. The first event of a stream.

    ``epoch`` is 1, 2, … for the first, second, … engine (or front end) that writes this stream of
    the run: after a restart ``seq`` counts from 1 again and means other events.
    """

    KIND = "run.start"
    epoch: int


class RunSnapshot(Data):
    """*Moves*: makes the state that stands in it. Earlier events were not kept.

    The first line of its stream, with the ``seq`` of the last event that it stands for.
    """

    KIND = "run.snapshot"
    epoch: int
    state: dict[str, Any] | None
    """As the fold's ``to_json`` gives it; of the stream ``api``, as ``front.py`` does. None in
    traces of an earlier version, which had no state of that stream."""
    sources: list[RunSource]
    """What ``run.source`` events had told."""
    hues: dict[str, int] = {}
    """Request → hue, as the whole run gives it (``hues.py``)."""


class RunConfig(Data):
    """*Moves*: makes the empty pool, with ``num_kv_blocks`` blocks of which block 0 is null."""

    KIND = "run.config"
    num_kv_blocks: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    policy: str
    enable_chunked_prefill: bool
    enable_prefix_caching: bool
    long_prefill_token_threshold: int
    watermark: float
    admission: str
    batching: str = "continuous"
    scheduler_cls: str = "default"
    kv_manager_cls: str = "paged"
    contiguous_reserve: str = "max_model_len"
    speculative_ngram: int = 0
    prompt_lookup_min: int = 2
    prompt_lookup_max: int = 4


class RunKnob(Data):
    """*Moves*: a knob of ``run.config`` has another value from the step that follows on."""

    KIND = "run.knob"
    name: str
    value: bool | int | float | str
    waiting: list[str] | None = None
    """The waiting queue as it stands now, where the knob moved it (``policy``)."""


class RunSource(Data):
    """The text behind a ``src`` id. ``text`` is the whole function, once per function."""

    KIND = "run.source"
    src: int
    file: str
    line: int
    function: str
    first_line: int
    text: str


class RunIdle(Data):
    """Nothing can run; the engine sleeps until a request comes, or a grammar is ready."""

    KIND = "run.idle"


class RunError(Data):
    """A step did not run: those who were in it end. In the last place before ``run.end``: the
    engine's loop itself failed."""

    KIND = "run.error"
    error: str
    message: str


class RunEnd(Data):
    """The engine was shut down after ``steps`` steps."""

    KIND = "run.end"
    steps: int


class TraceViolation(Data):
    """An invariant does not hold: a bug in the engine or in the trace."""

    KIND = "trace.violation"
    message: str


class TraceArm(Data):
    """Somebody asked for the arrays of a step to come (``exec.tensors``): no decision of the
    engine."""

    KIND = "trace.arm"
    armed_step: int | None
    """None: of the next step that runs tokens."""
    called_back: bool = False
    """Nobody wants them any more, of whatever step."""


class TraceLeftOut(Data):
    """Arrays that were asked for are not kept."""

    KIND = "trace.left_out"
    reason: Reason
    arrays: list[str]
    """Their names; empty where it is all of the step."""
    need: int
    """Bytes, 0 where they are not known."""
    limit: int
    """Bytes, 0 where it is no matter of size."""
    message: str = ""
    """What the system said (``not_written``)."""


class TraceGap(Data):
    """Events of a stream were lost on their way from the engine's process: it ended, or its replay
    buffer no longer had them. ``first`` to ``last`` are their sequence numbers; nothing of this
    life comes after them."""

    KIND = "trace.gap"
    of_stream: str
    first: int
    last: int
    epoch: int = 1


class GateChange(Data):
    """Somebody paused the engine, let it go on, or changed its pace: no decision of the engine."""

    KIND = "gate.change"
    mode: str
    """``run`` | ``pause``."""
    rate: float
    """Steps per second at most; 0 = full speed."""


class CoreInput(Data):
    """One message the core consumed, applied before the step that follows.

    ``op``: ``add`` (the ``req.arrive`` right after it has the contents) | ``abort`` |
    ``reset_prefix_cache`` | ``set_knobs`` (the ``run.knob`` events after it have the contents) |
    ``grammar_ready`` | ``grammar_failed`` (``req.error`` says why).
    """

    KIND = "core.input"
    op: str
    why: Reason | None = None


class CoreDrop(Data):
    """A request is never taken in: the word to abort it had come as well before the core looked.
    No decision, as whether they come together depends on which thread is faster."""

    KIND = "core.drop"
    request_id: str
    why: Reason


# --- the api process ---------------------------------------------------------------------------


class HttpRequest(Data):
    """A client asks: ``bytes`` is the body's size."""

    KIND = "http.request"
    request_id: str
    method: str
    path: str
    bytes: int


class HttpFirstByte(Data):
    """The first byte of the answer leaves."""

    KIND = "http.first_byte"
    request_id: str
    status: int


class HttpChunk(Data):
    """A piece of a streamed answer leaves, with so many tokens' text."""

    KIND = "http.chunk"
    request_id: str
    bytes: int
    tokens: int


class HttpDone(Data):
    """The answer is complete."""

    KIND = "http.done"
    request_id: str
    status: int
    bytes: int


class HttpRejected(Data):
    """The request is refused before the engine hears of it."""

    KIND = "http.rejected"
    request_id: str
    status: int
    message: str


class ReqTokenize(Data):
    """The prompt's text became token ids."""

    KIND = "req.tokenize"
    request_id: str
    characters: int
    tokens: int
    ns: int


class ReqHeldBack(Data):
    """The detokeniser keeps text back: half a character, or what may begin a stop string."""

    KIND = "req.held_back"
    request_id: str
    text: str


class ReqReleased(Data):
    """Text that was held back goes out after all."""

    KIND = "req.released"
    request_id: str
    text: str


class ReqDetokenize(Data):
    """Output tokens became text; ``characters`` may be 0 while half a character is held back."""

    KIND = "req.detokenize"
    request_id: str
    tokens: int
    characters: int
    ns: int


# --- engines, as the api process sees them -----------------------------------------------------


class EngineStart(Data):
    """The process of an engine is started; ``epoch`` is which life of it this is."""

    KIND = "engine.start"
    engine: int
    epoch: int
    pid: int
    why: EngineWhy


class EngineReady(Data):
    """It has loaded its model and takes requests; ``ns`` since its start."""

    KIND = "engine.ready"
    engine: int
    epoch: int
    num_kv_blocks: int
    ns: int


class EngineDead(Data):
    """It has ended though nobody asked it to. Of its open requests, ``retried`` had said nothing
    yet and went to another engine, ``failed`` ended with an error."""

    KIND = "engine.dead"
    engine: int
    epoch: int
    message: str
    retried: int
    failed: int


class EngineDrain(Data):
    """It gets no new requests from now on; ``open_requests`` are still to be finished."""

    KIND = "engine.drain"
    engine: int
    epoch: int
    open_requests: int


class EngineResume(Data):
    """It gets requests again."""

    KIND = "engine.resume"
    engine: int
    epoch: int


class RouteCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that could have been picked, with the numbers that were weighed."""

    engine: int
    open_requests: int
    load_tokens: int
    """Tokens that its open requests still have to run, as far as the router knows."""
    cached_tokens: int
    """Prompt tokens that its prefix cache probably holds."""


class RoutePick(Data):
    """Which engine a request is sent to, and why."""

    KIND = "route.pick"
    request_id: str
    engine: int
    policy: str
    why: RouteWhy
    candidates: list[RouteCandidate]


class IpcSend(Data):
    """A message leaves this process: ``message`` is its kind (``add``, ``abort``, …)."""

    KIND = "ipc.send"
    engine: int
    message: str
    bytes: int
    request_id: str | None = None


class IpcRecv(Data):
    """A message from another process has come; ``ns`` since it was sent."""

    KIND = "ipc.recv"
    engine: int
    message: str
    bytes: int
    ns: int
    request_id: str | None = None
    epoch: int | None = None
    """With ``outputs``: which life of the engine they come from,"""
    of_step: int | None = None
    """and which of its steps. What a step says to all its requests is one message."""


# --- requests ----------------------------------------------------------------------------------


class ReqArrive(Data):
    """*Moves*: makes the request, in no queue yet."""

    KIND = "req.arrive"
    request_id: str
    """The caller's id."""
    prompt_token_ids: list[int]
    texts: list[str]
    """The piece of text of each prompt token."""
    params: dict[str, Any]
    max_tokens: int
    priority: int = 0
    parent: str | None = None
    cache_salt: str | None = None
    eos_token_id: int | None = None


class ReqEnqueue(Data):
    """*Moves*: puts the request into the waiting queue at ``position`` (0 = head)."""

    KIND = "req.enqueue"
    position: int


class ReqGrammarWait(Data):
    """*Moves*: the request, which stands in the queue, waits for its grammar and is passed over."""

    KIND = "req.grammar_wait"
    form: str
    """``json`` | ``json_object`` | ``regex`` | ``choice`` | ``grammar``."""


class ReqGrammarReady(Data):
    """*Moves*: the grammar is there; the request waits as all others do."""

    KIND = "req.grammar_ready"


class ReqAdmit(Data):
    """*Moves*: from waiting to the end of running, with ``hit`` tokens already computed."""

    KIND = "req.admit"
    hit: int
    tokens: int
    """All tokens of the request, those of the hit included."""


class ReqResume(Data):
    """*Moves*: as ``req.admit``, for a request that was preempted."""

    KIND = "req.resume"
    hit: int
    tokens: int


class ReqPreempt(Data):
    """*Moves*: from running to ``position`` in waiting; none of its tokens is computed now."""

    KIND = "req.preempt"
    tokens_lost: int
    position: int


class ReqFirstToken(Data):
    """The request has said its first token: what TTFT measures."""

    KIND = "req.first_token"
    steps_since_arrival: int
    """1 = in the first step that could have run it."""


class ReqToken(Data):
    """*Moves*: appends one output token."""

    KIND = "req.token"
    token_id: int
    text: str
    index: int
    """0 for the first output token."""


class ReqFinish(Data):
    """*Moves*: from its queue to finished."""

    KIND = "req.finish"
    reason: str
    """``stop`` | ``length`` | ``abort`` | ``error``."""
    why: Reason | None
    stop_reason: int | str | None
    prompt_tokens: int
    output_tokens: int
    preemptions: int


class ReqAbort(Data):
    """Its end was asked for from outside; ``req.finish`` follows."""

    KIND = "req.abort"
    why: Reason


class ReqError(Data):
    """It failed alone, or could never run; ``req.finish`` follows."""

    KIND = "req.error"
    message: str


# --- steps -------------------------------------------------------------------------------------


class StepBegin(Data):
    """*Moves*: the step number."""

    KIND = "step.begin"
    budget: int
    max_num_seqs: int
    waiting: int
    running: int
    free_blocks: int


class StepEnd(Data):
    """The step is over; how long its three phases took."""

    KIND = "step.end"
    schedule_ns: int
    execute_ns: int
    update_ns: int


# --- decisions ---------------------------------------------------------------------------------


class SchedGrant(Data):
    """The request runs ``n`` tokens in this step, from position ``start``."""

    KIND = "sched.grant"
    n: int
    start: int
    why: GrantWhy


class SchedChunk(Data):
    """Only ``n`` of the ``of`` tokens that it lacked run in this step."""

    KIND = "sched.chunk"
    n: int
    of: int


class SchedSkip(Data):
    """*Moves*: notes why the request waits. It was looked at and not scheduled."""

    KIND = "sched.skip"
    reason: Reason
    need: int
    """Blocks (no_free_blocks, larger_than_pool; fragmented: neighbours), tokens (no_budget,
    chunking_off), requests (max_num_seqs; static_batch: those that must end first), grammars."""
    have: int
    """Of the same; fragmented: the longest run of free neighbours."""
    hit: int
    """Tokens of it that the prefix cache holds now, where that was looked up."""
    kept: int = 0
    """Free blocks that are not counted in ``have``: the watermark, the strict admission's."""


class SchedStop(Data):
    """*Moves*: notes why all of these wait. The waiting queue is not looked at further, and
    somebody is left in it."""

    KIND = "sched.stop"
    reason: Reason
    head: str
    behind: list[str]


class SchedVictim(Data):
    """The event's request gives way to ``for``, chosen among ``candidates``."""

    KIND = "sched.victim"
    for_req: str = msgspec.field(name="for")
    need: int
    """Blocks that ``for`` lacks."""
    have: int
    policy: str
    candidates: list[str]
    tokens_lost: int


class SchedRefund(Data):
    """A victim had been granted tokens in this step already: they go back to the budget."""

    KIND = "sched.refund"
    n: int


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    req: str
    asked: int
    granted: int
    limited_by: Reason | None


class SchedLedger(Data):
    """*Moves*: advances ``num_computed_tokens`` of each request by what it was granted."""

    KIND = "sched.ledger"
    budget: int
    used: int
    unused_reason: Reason | None
    """Why budget is left, or None if none is."""
    rows: list[LedgerRow]


# --- blocks ------------------------------------------------------------------------------------


class KvHit(Data):
    """A prefix lookup found ``tokens`` tokens in ``blocks``; they are not taken yet."""

    KIND = "kv.hit"
    tokens: int
    blocks: list[int]


class KvMiss(Data):
    """The lookup ended at logical block ``at_block``."""

    KIND = "kv.miss"
    at_block: int
    reason: Reason
    hash: str | None
    """The hash that was not found, where one was looked for."""


class KvTouch(Data):
    """*Moves*: the request shares ``block`` as its next logical block; ``ref`` tables hold it."""

    KIND = "kv.touch"
    block: int
    ref: int


class KvEvict(Data):
    """*Moves*: the block, about to be taken for the event's request, loses its hash."""

    KIND = "kv.evict"
    block: int
    hash: str
    left_by: str | None
    """The request that gave the block back last."""


class KvAlloc(Data):
    """*Moves*: takes ``blocks`` from the front of the free queue; they become the request's
    logical blocks ``logical``, ``logical`` + 1, …"""

    KIND = "kv.alloc"
    blocks: list[int]
    logical: int


class KvReserve(Data):
    """*Moves*: takes ``blocks``, neighbours, out of the free queue, wherever they stand there: the
    request's whole table (contiguous KV cache)."""

    KIND = "kv.reserve"
    blocks: list[int]
    logical: int = 0


class KvCache(Data):
    """*Moves*: logical block ``logical`` is full: its hash is registered for others to hit."""

    KIND = "kv.cache"
    logical: int
    block: int
    hash: str
    parent: str | None


class KvUncache(Data):
    """*Moves*: withdraws a hash whose tokens will not be run."""

    KIND = "kv.uncache"
    block: int
    hash: str
    reason: Reason


class KvFree(Data):
    """*Moves*: the request gives back its whole table, tail first.

    Blocks that no other table holds enter the free queue: ``front`` (no hash; listed in queue
    order) at its front, ``back`` (cached) at its back. Shared ones are in neither list.
    """

    KIND = "kv.free"
    blocks: list[int]
    front: list[int]
    back: list[int]


class KvReset(Data):
    """*Moves*: forgets every cached hash; no block is in use."""

    KIND = "kv.reset"
    cached_blocks: int


# --- speculation -------------------------------------------------------------------------------


class SpecPropose(Data):
    """*Moves*: these drafts may follow the request's tokens; the next step runs them with it."""

    KIND = "spec.propose"
    token_ids: list[int]


class SpecAccept(Data):
    """The first ``n`` of ``of`` drafts are what the model says; they follow as ``req.token``."""

    KIND = "spec.accept"
    n: int
    of: int


class SpecReject(Data):
    """*Moves*: the last ``n`` tokens that were computed do not count."""

    KIND = "spec.reject"
    n: int
    why: Reason


# --- batch, execution, sampling ----------------------------------------------------------------


class MaskRow(msgspec.Struct, frozen=True, kw_only=True):
    req: str
    masked: int
    """Tokens of the vocabulary that may not come next."""


class GrammarMask(Data):
    """The requests that are sampled under a grammar in this step."""

    KIND = "grammar.mask"
    rows: list[MaskRow]


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    req: str
    why: GrantWhy
    start: int
    n: int


class BatchCompose(Data):
    """The flat batch, in its order."""

    KIND = "batch.compose"
    rows: list[BatchRow]
    tokens: int
    padding: int


class ExecForward(Data):
    """The model ran the flat batch, sampling included."""

    KIND = "exec.forward"
    tokens: int
    ns: int


class ArrayInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One array of an artifact."""

    name: str
    """``input_ids`` | ``positions`` | ``query_start_loc`` | ``seq_lens`` | ``slot_mapping`` |
    ``block_table``: the flat batch. ``k`` | ``v`` (layers, tokens, kv heads, head dim): of the
    tokens that ran. ``attention.r3`` (layers, heads, queries, keys): the weights of that request.
    ``top.rows`` (rows,), ``top.token_ids`` and ``top.logprobs`` (rows, 10): the likeliest tokens
    after these rows of the batch, as the model said it."""
    dtype: str
    """``F32`` | ``F16`` | ``BF16`` | ``I64`` | ``I32``."""
    shape: list[int]


class ExecTensors(Data):
    """The arrays of this step lie beside the trace, in a safetensors file."""

    KIND = "exec.tensors"
    file: str
    """Its name in the folder ``FILE.tensors`` beside the trace ``FILE``."""
    bytes: int
    crc32: int
    """Of the whole file: an altered one is not read."""
    requests: list[str]
    """In batch order: request i has rows ``query_start_loc[i]`` to ``query_start_loc[i + 1]``."""
    arrays: list[ArrayInfo]


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token that could have been drawn."""

    token_id: int
    text: str
    logprob: float | None = None
    """Before: raw, the natural logarithm."""
    probability: float | None = None
    """After: in the distribution that was drawn from."""


class ProcessorEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of the sampler did to this row's scores."""

    name: str
    """``grammar`` | ``allowed_token_ids`` | ``bad_words`` | ``min_tokens`` | ``logit_bias`` |
    ``repetition_penalty`` | ``frequency_penalty`` | ``presence_penalty`` | ``temperature`` |
    ``min_p`` | ``top_k`` | ``top_p``: the order in which they run."""
    masked: bool
    """True: these tokens cannot be drawn any more. False: their scores were changed."""
    count: int
    token_ids: list[int]
    """The ten most likely of them."""
    texts: list[str]


class SampleRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token that was drawn. The last three are there at trace level ``sampling`` only."""

    req: str
    token_id: int
    text: str
    logprob: float | None
    rank: int | None
    before: list[Candidate] = []
    """The ten most likely tokens as the model said it."""
    after: list[Candidate] = []
    """The ten most likely tokens of the distribution that was drawn from; greedy has one."""
    processors: list[ProcessorEffect] = []
    """Those that did something, in order."""


class Sample(Data):
    """What was sampled: one row for each token that a request got."""

    KIND = "sample"
    rows: list[SampleRow]


KINDS: dict[str, type[Data]] = {cls.KIND: cls for cls in Data.__subclasses__()}
