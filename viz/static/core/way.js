// The way of one request over all streams: from the first byte that came to the last that left, as
// an ordered list of hops. Twin of minivllm/trace/life.py; tests/data/ways.json holds both to the
// same hops.
//
//     {name, t_ns, stream, step, ns, bytes, tokens, times, words, of, waited: {reason: steps}}

import { familyOf } from "#core/family.js";
import { ROUTE_WHYS } from "#core/front.js";
import { listed, plural } from "#core/reasons.js";

// `lives`: {stream, life, events}, those of the front end included. Of an engine's life that is not
// here its part of the way is missing.
export function wayOf(lives, requestId) {
  const { shared, places, events } = familyOf(lives, requestId);
  const several = new Set(places.map(({ request_id }) => request_id)).size > 1;
  const [hops, walks] = [[], new Map()];
  for (const [of, event] of events) {
    if (!walks.has(of)) walks.set(of, new Walk(hops, several && !shared.includes(of) ? of : ""));
    walks.get(of).take(event);
  }
  return { requestId, places, hops: hops.sort((a, b) => a.t_ns - b.t_ns) };
}

class Walk {
  skipped = ""; // the last step in which it was passed over
  stage = null; // queue, prefill, decode or preempted: what goes on
  detokenise = null;
  back = null;
  sse = null;
  wire = new Map(); // message → its hop, until it has arrived

  constructor(hops, of) {
    this.hops = hops;
    this.of = of; // whose, of several prompts or samples
  }

  take(event) {
    HANDLERS[event.kind]?.(this, event, event.data);
  }

  hop(name, { t_ns, stream, step }, fields = {}) {
    const made = { name, t_ns, stream, step, ns: null, bytes: null, tokens: null, times: 1, words: "", of: this.of, waited: {}, ...fields };
    this.hops.push(made);
    return made;
  }

  // The front end sends a piece of the answer.
  sent(event) {
    this.sse ??= this.hop("sse", event, { times: 0 });
    this.sse.ns = event.t_ns - this.sse.t_ns;
    return this.sse;
  }

  begin(name, event, fields = {}) {
    this.close(event);
    this.stage = this.hop(name, event, { times: 0, ...fields });
  }

  close(event) {
    const { stage } = this;
    this.stage = null;
    if (!stage) return;
    stage.ns = event.t_ns - stage.t_ns;
    const ran = stage.times ? `${plural(stage.tokens ?? 0, "token")} in ${plural(stage.times, "step")}` : "";
    const reasons = Object.entries(stage.waited).map(([reason, n]) => `${reason} ×${n}`);
    const waits = reasons.length ? `waits for ${listed(reasons, 8)}` : "";
    stage.words = [stage.words, ran, waits].filter(Boolean).join(", ");
  }

  skip({ stream, step }, { reason }) {
    if (["queue", "preempted"].includes(this.stage?.name)) {
      this.stage.waited[reason] = (this.stage.waited[reason] ?? 0) + 1;
    }
    this.skipped = `${stream} ${step}`;
  }

  admit(event, { hit, tokens }) {
    const words = hit ? `${hit} of ${plural(tokens, "token")} reused` : "";
    this.begin("prefill", event, { tokens: 0, words });
  }
}

const HANDLERS = {
  // --- the front end
  "http.request": (walk, event, d) => walk.hop("http", event, { bytes: d.bytes, words: `${d.method} ${d.path}` }),
  "http.rejected": (walk, event, d) => walk.hop("end", event, { words: `refused with ${d.status}: ${d.message}` }),
  "http.first_byte": (walk, event) => walk.sent(event),
  "http.chunk"(walk, event, d) {
    const hop = walk.sent(event);
    hop.times += 1;
    hop.bytes = (hop.bytes ?? 0) + d.bytes;
    hop.tokens = (hop.tokens ?? 0) + d.tokens;
    hop.words = `${plural(hop.times, "chunk")} with ${plural(hop.tokens, "token")}`;
  },
  "http.done"(walk, event, d) {
    const hop = walk.sent(event);
    hop.bytes = d.bytes;
    hop.words = `status ${d.status}${hop.words ? `, ${hop.words}` : ""}`;
  },
  "req.tokenize"(walk, event, d) {
    const words = `${plural(d.characters, "character")} → ${plural(d.tokens, "token")}`;
    walk.hop("tokenise", event, { t_ns: event.t_ns - d.ns, tokens: d.tokens, ns: d.ns, words }); // told when it is done
  },
  "route.pick"(walk, event, d) {
    const others = d.candidates.map(
      (c) => `engine ${c.engine}: ${c.open_requests} open, ${plural(c.load_tokens, "token")} to run, ${c.cached_tokens} cached`,
    );
    const weighed = others.length > 1 ? ` (${others.join("; ")})` : "";
    walk.hop("route", event, { words: `to engine ${d.engine}: ${ROUTE_WHYS[d.why] ?? d.why}${weighed}` });
  },
  "req.detokenize"(walk, event, d) {
    const hop = (walk.detokenise ??= walk.hop("detokenise", event, { t_ns: event.t_ns - d.ns, ns: 0, tokens: 0, times: 0 }));
    hop.times += 1;
    hop.ns += d.ns;
    hop.tokens += d.tokens;
    hop.words = `${plural(hop.tokens, "token")} in ${plural(hop.times, "piece")}`;
  },
  "req.held_back"({ detokenise }) {
    if (detokenise) detokenise.waited["held back"] = (detokenise.waited["held back"] ?? 0) + 1;
  },
  "engine.dead"(walk, event, d) {
    walk.close(event);
    walk.hop("died", event, { words: `engine ${d.engine} died: ${d.message}` });
  },

  // --- the sockets
  "ipc.send"(walk, event, d) {
    const words = `${d.message} ${event.stream === "api" ? "to" : "from"} engine ${d.engine}`;
    walk.wire.set(d.message, walk.hop("ipc", event, { bytes: d.bytes, words }));
  },
  "ipc.recv"(walk, event, d) {
    if (d.of_step !== null && d.of_step !== undefined) {
      // What a step has said; others' words travel in the same message.
      const back = (walk.back ??= walk.hop("ipc back", event, { t_ns: event.t_ns - d.ns, ns: 0, bytes: 0, times: 0 }));
      back.times += 1;
      back.ns += d.ns;
      back.bytes += d.bytes;
      back.words = `${plural(back.times, "message")} from engine ${d.engine}`;
      return;
    }
    const hop = walk.wire.get(d.message) ?? walk.hop("ipc", event, { bytes: d.bytes, words: d.message });
    walk.wire.delete(d.message);
    hop.ns = d.ns;
  },

  // --- the engine
  "req.arrive": (walk, event) => walk.begin("queue", event, { words: `${event.req} on ${event.stream}` }),
  "req.admit": (walk, event, d) => walk.admit(event, d),
  "req.resume": (walk, event, d) => walk.admit(event, d),
  "sched.grant"(walk, event, d) {
    // It had said something before it resumed.
    if (d.why === "decode" && walk.stage?.name === "prefill") walk.begin("decode", event, { tokens: 0 });
    if (!walk.stage) return;
    walk.stage.times += 1;
    walk.stage.tokens = (walk.stage.tokens ?? 0) + d.n;
  },
  "sched.skip": (walk, event, d) => walk.skip(event, d),
  "sched.stop"(walk, event, d) {
    if (walk.skipped !== `${event.stream} ${event.step}`) walk.skip(event, d); // its own reason was not told before
  },
  "req.first_token": (walk, event) => walk.begin("decode", event, { tokens: 0 }),
  "req.preempt": (walk, event, d) =>
    walk.begin("preempted", event, { words: `${plural(d.tokens_lost, "computed token")} lost` }),
  "req.finish"(walk, event, d) {
    walk.close(event);
    walk.hop("end", event, { tokens: d.output_tokens, words: `${d.reason} after ${plural(d.output_tokens, "token")}` });
  },
};
