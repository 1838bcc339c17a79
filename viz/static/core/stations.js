// The stations of a request's way, with their own times: hops come from the front end's and the
// engine's events (core/way.js), the loop's from the steps in which it ran. What no event told is
// left open, and is said so.

import { plural } from "#core/reasons.js";

// What each is, where it stands in vLLM, and which events belong to it.
const STATIONS = {
  http: ["HTTP", /^http\.(request|rejected)$/, "The body of the request arrives at the API server and gets an id.", "vllm/entrypoints/openai/api_server.py"],
  validate: ["validate", /^http\.rejected$/, "The body is read and checked: fields, limits, the model's name. Whoever asks for what cannot be is refused here and costs the engine nothing.", "vllm/entrypoints/openai/protocol.py"],
  tokenise: ["tokenise", /^req\.tokenize$/, "The prompt's text becomes token ids, still in the API process, so that the engine's loop never waits for it.", "vllm/v1/engine/processor.py"],
  route: ["route", /^(route\.pick|engine\.dead)$/, "Of several engines one is picked, by its load and by what its prefix cache probably holds.", "vllm/v1/engine/core_client.py, DPLBAsyncMPClient"],
  ipc: ["IPC", /^ipc\./, "The request is packed and travels over a socket to the engine's process.", "vllm/v1/engine/core_client.py, MPClient"],
  wait: ["wait", /^(req\.(arrive|enqueue|preempt|grammar_\w+)|sched\.(skip|stop|victim))$/, "It stands in the waiting queue: until budget and blocks are there, and again after a preemption. Each step tells its reason.", "vllm/v1/core/sched/scheduler.py, Scheduler.schedule"],
  schedule: ["schedule", /^(sched\.(grant|chunk|refund)|req\.(admit|resume))$/, "In each step the scheduler grants tokens: first to those that run, then to those that wait. There is no prefill phase and no decode phase, only tokens that are not computed yet.", "vllm/v1/core/sched/scheduler.py, Scheduler.schedule"],
  blocks: ["blocks", /^kv\./, "The KV cache manager finds the blocks: cached ones are hit, free ones are taken from the queue's front, which may evict what was cached there.", "vllm/v1/core/kv_cache_manager.py, KVCacheManager.allocate_slots"],
  batch: ["batch", /^batch\.compose$/, "All that was granted becomes one flat batch: token ids, positions, slots, block tables. Its time here is what the step took around the forward pass.", "vllm/v1/worker/gpu_model_runner.py, _prepare_inputs"],
  forward: ["forward", /^exec\./, "The model runs the flat batch once; attention reads each request's blocks. The time is the whole batch's: all who ran share it.", "vllm/v1/worker/gpu_model_runner.py, execute_model"],
  sample: ["sample", /^(sample|req\.(token|first_token|finish)|spec\.\w+|grammar\.mask)$/, "Of the last position's logits one token is drawn; then the request may have ended.", "vllm/v1/sample/sampler.py, Sampler.forward"],
  back: ["IPC back", /^ipc\.recv$/, "What a step has said travels back over a socket, one message for all who ran in it: its bytes and time are the batch's.", "vllm/v1/engine/core_client.py, process_outputs_socket"],
  detokenise: ["detokenise", /^req\.(detokenize|held_back|released)$/, "Tokens become text. Half a character, or what may begin a stop string, is held back until the next token decides.", "vllm/v1/engine/output_processor.py, detokenizer.py"],
  sse: ["SSE", /^http\.(first_byte|chunk|done)$/, "The text leaves as server-sent events, piece by piece, or as one answer.", "vllm/entrypoints/openai/serving_chat.py"],
};

export const LOOP = ["schedule", "blocks", "batch", "forward", "sample"];
export const BEFORE = ["http", "validate", "tokenise", "route", "ipc", "wait"];
export const AFTER = ["back", "detokenise", "sse"];
const FRONT = ["http", "validate", "tokenise", "route", "detokenise", "sse"];

// Does an event belong to a station? Both ways over the socket tell the same kind.
export function isOf(id, { kind, data }) {
  const back = kind === "ipc.recv" && data.of_step !== null && data.of_step !== undefined;
  return STATIONS[id][1].test(kind) && (id !== "ipc" || !back) && (id !== "back" || back);
}

// `way` of core/way.js, `life` of core/life.js; `timed`: did a model run, so that times mean something?
// Answers {stations: id → {id, title, ns, note, told, text, source}, ran, front: was there a front end?}
export function stationsOf(way, life, store, timed) {
  // Of a request that was sent twice, what belongs to the engine that ended it.
  const again = (item) => item.name === "route" || item.name === "ipc";
  const hop = (name) => way.hops.findLast((item) => item.name === name && again(item)) ?? way.hops.find((item) => item.name === name);
  const ran = life.columns.filter((column) => column.ran);
  const loop = loopTimes(ran, store);
  const waits = life.columns.filter(({ band }) => band === "wait" || band === "preempted").length;
  const waitNs = way.hops.filter(({ name }) => name === "queue" || name === "preempted").reduce((sum, { ns }) => sum + (ns ?? 0), 0);
  const back = hop("ipc back");
  const { http, tokenise, route, ipc, detokenise, sse } = Object.fromEntries(Object.keys(STATIONS).map((name) => [name, hop(name)]));
  const front = way.hops.some(({ stream }) => stream === "api");
  const made = {
    http: { note: http?.bytes === undefined ? "" : `${http.bytes} B` },
    validate: { ns: http && tokenise ? tokenise.t_ns - http.t_ns : null },
    tokenise: { ns: tokenise?.ns, note: tokenise ? plural(tokenise.tokens, "token") : "" },
    route: { note: route ? route.words.slice(3).split(":")[0] : "" },
    ipc: { ns: ipc?.ns, note: ipc ? `${ipc.bytes} B` : front ? "one process" : "" },
    wait: { ns: timed ? waitNs : null, note: plural(waits, "step") },
    schedule: { ns: loop.schedule, note: grants(life) },
    blocks: { note: blockNote(life), within: "in schedule" },
    batch: { ns: loop.batch, note: `${loop.tokens} tokens` },
    forward: { ns: loop.forward, note: "" },
    sample: { note: plural(life.outputs, "token"), within: "in forward" },
    back: { ns: back?.ns, note: back ? `${back.bytes} B, ${back.times}×` : front ? "one process" : "" },
    detokenise: { ns: detokenise?.ns, note: detokenise ? heldNote(detokenise) : "" },
    sse: { ns: sse?.ns, note: sse ? (sse.times > 1 ? plural(sse.times, "chunk") : "1 answer") : "" },
  };
  const stations = {};
  for (const [id, [title, , text, vllm]] of Object.entries(STATIONS)) {
    const told = FRONT.includes(id) ? Boolean(hop(id === "validate" ? "tokenise" : id)) : !["ipc", "back"].includes(id) || Boolean(hop(id === "back" ? "ipc back" : id)) || front;
    const { ns = null, note = "", within = "" } = made[id];
    const inLoop = LOOP.includes(id);
    stations[id] = { id, title, text, vllm, told, note, within, ns: inLoop && !timed ? null : ns };
  }
  return { stations, ran: ran.length, front };
}

function loopTimes(ran, store) {
  const sums = { schedule: 0, batch: 0, forward: 0, tokens: 0 };
  for (const { step, ran: tokens } of ran) {
    const events = store.eventsOf(step);
    const end = events.at(-1)?.data ?? {};
    const forward = events.find(({ kind }) => kind === "exec.forward")?.data.ns ?? 0;
    sums.schedule += end.schedule_ns ?? 0;
    sums.forward += forward;
    sums.batch += Math.max((end.execute_ns ?? 0) - forward, 0);
    sums.tokens += tokens;
  }
  return sums;
}

const grants = ({ columns }) => {
  const chunks = columns.filter(({ ran, band }) => ran && band !== "decode").length;
  return chunks > 1 ? `${chunks} × prefill` : "";
};

function blockNote({ blocksTaken: taken, blocksHit: hit }) {
  return hit ? `${taken} taken, ${hit} hit` : `${taken} taken`;
}

const heldNote = ({ waited, times }) => (waited["held back"] ? `${waited["held back"]}× held back` : plural(times, "piece"));

// Where the request is when the cursor stands on `step` (and on that step's event `kind`, if on one).
export function litStations(life, step, kind = null) {
  if (step < life.arrived) return [];
  const column = life.columns.find((item) => item.step === step);
  if (!column) return life.ended !== null && step > life.ended ? ["sse"] : ["wait"];
  if (kind) {
    const id = Object.keys(STATIONS).find((name) => STATIONS[name][1].test(kind) && (LOOP.includes(name) || name === "wait"));
    if (id) return [id];
  }
  return column.ran ? LOOP : ["wait"];
}

// Nanoseconds, short: 840 ns, 12 µs, 3.4 ms, 1.2 s.
export function duration(ns) {
  if (ns === null || ns === undefined) return "";
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  const [value, unit] = ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}
