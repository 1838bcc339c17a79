// A conversation with the served model, as data: what is sent to /v1/chat/completions, what its
// stream makes of an answer, and what an error means. No page and no network in here.

// The sampling parameters, each with what it does. An empty field is not sent: the server's own
// value holds then.
export const PARAMS = [
  { name: "temperature", kind: "number", min: 0, max: 2, step: 0.1, says: "0: always the likeliest token. 1: as the model says. More: flatter, so more surprising." },
  { name: "top_p", kind: "number", min: 0.01, max: 1, step: 0.05, says: "Only the likeliest tokens that together have this much probability." },
  { name: "top_k", kind: "integer", min: -1, max: 1000, step: 1, says: "Only the k likeliest tokens; 0 or −1: all." },
  { name: "min_p", kind: "number", min: 0, max: 1, step: 0.05, says: "Only tokens at least this likely, measured by the likeliest." },
  { name: "repetition_penalty", kind: "number", min: 0.1, max: 2, step: 0.1, says: "Above 1: what stands in prompt or answer already gets less likely." },
  { name: "presence_penalty", kind: "number", min: -2, max: 2, step: 0.1, says: "Takes this off the logit of each token that the answer has already." },
  { name: "frequency_penalty", kind: "number", min: -2, max: 2, step: 0.1, says: "The same, once for each time it has it." },
  { name: "max_tokens", kind: "integer", min: 1, max: 100000, step: 1, says: "The answer ends after so many tokens (finish: length)." },
  { name: "seed", kind: "integer", min: 0, max: 2 ** 53 - 1, step: 1, says: "The same seed draws the same tokens, whoever shares the batch." },
  { name: "stop", kind: "lines", says: "The answer ends before any of these texts, one a line." },
  { name: "n", kind: "integer", min: 1, max: 8, step: 1, says: "So many answers at once; they share the prompt’s blocks." },
  { name: "top_logprobs", kind: "integer", min: 0, max: 20, step: 1, says: "Show each token with its probability and so many likeliest; empty: without." },
  { name: "system", kind: "lines", says: "What the model is told before the conversation." },
];

// What somebody typed, as the parameter's value; undefined: empty. Throws what is allowed.
export function readParam(param, text) {
  const given = String(text ?? "");
  if (!given.trim()) return undefined;
  if (param.kind === "lines") return param.name === "stop" ? given.split("\n").filter(Boolean) : given;
  const value = Number(given.trim().replace("−", "-").replace(",", "."));
  const fits = Number.isFinite(value) && value >= param.min && value <= param.max && (param.kind !== "integer" || Number.isInteger(value));
  if (!fits) {
    const what = param.kind === "integer" ? "a whole number" : "a number";
    throw new Error(`${param.name}: got “${given.trim()}”; allowed: ${what} from ${param.min} to ${param.max}, or nothing`);
  }
  return value;
}

// {name: text} as typed → {values, errors: {name: words}}.
export function readParams(typed) {
  const values = {};
  const errors = {};
  for (const param of PARAMS) {
    try {
      const value = readParam(param, typed[param.name]);
      if (value !== undefined) values[param.name] = value;
    } catch (error) {
      errors[param.name] = error.message;
    }
  }
  return { values, errors };
}

// Turns whose answer is whole or was stopped by the reader; the others were no part of the talk.
export const counts = (turn) => (turn.state === "done" || turn.state === "stopped") && Boolean(turn.answers[turn.chosen]?.text);

// The body of the request for one more turn.
export function requestBody(turns, ask, { system, top_logprobs: top, ...values }) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns.filter(counts)) {
    messages.push({ role: "user", content: turn.ask });
    messages.push({ role: "assistant", content: turn.answers[turn.chosen].text });
  }
  messages.push({ role: "user", content: ask });
  const logprobs = top === undefined ? {} : { logprobs: true, top_logprobs: top };
  return { messages, stream: true, stream_options: { include_usage: true }, ...values, ...logprobs };
}

export function newTurn(ask, now) {
  return { ask, answers: [], chosen: 0, state: "sent", sentAt: now, firstAt: null, lastAt: null, id: null, usage: null, error: null };
}

// One body of the stream, told at `now` (ms), taken into the turn.
export function takeChunk(turn, chunk, now) {
  turn.id ??= chunk.id ?? null;
  if (chunk.usage) turn.usage = { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens, cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0 };
  for (const { index, delta, logprobs, finish_reason: finish, stop_reason: stop } of chunk.choices ?? []) {
    while (turn.answers.length <= index) turn.answers.push({ text: "", tokens: [], finish: null, stop: null });
    const answer = turn.answers[index];
    const tokens = (logprobs?.content ?? []).map(token);
    if (delta?.content || tokens.length) {
      turn.firstAt ??= now;
      turn.lastAt = now;
      turn.state = "streaming";
    }
    answer.text += delta?.content ?? "";
    answer.tokens.push(...tokens);
    if (finish) [answer.finish, answer.stop] = [finish, stop ?? null];
  }
}

const token = ({ token: text, logprob, top_logprobs: top }) => ({
  text,
  logprob,
  top: (top ?? []).map((other) => ({ text: other.token, logprob: other.logprob })),
});

// As this page saw it, in ms: time to first token, and time per output token after it.
export function timesOf({ sentAt, firstAt, lastAt, usage, answers }) {
  if (firstAt === null) return { ttft: null, tpot: null };
  const each = usage && answers.length ? usage.completion / answers.length : null;
  return { ttft: firstAt - sentAt, tpot: each > 1 ? (lastAt - firstAt) / (each - 1) : null };
}

// Why the answer ended.
export function endWords({ finish, stop }) {
  if (finish === "length") return "it reached max_tokens, or the context was full (length)";
  if (finish === "stop" && stop !== null) return `it came to the stop ${JSON.stringify(stop)}`;
  return finish === "stop" ? "the model ended it (stop)" : "";
}

export const chance = (logprob) => Math.exp(logprob);

export function percent(logprob) {
  const p = chance(logprob) * 100;
  return p >= 99.95 ? "100 %" : p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(1)} %` : "< 0.1 %";
}

// How sure the model was of a token: 3 (it nearly had to) … 0 (it was a gamble).
export const sureness = (logprob) => [0.1, 0.4, 0.8].filter((limit) => chance(logprob) >= limit).length;

// How many of an answer's tokens its text is made of: EOS and what a stop cut off are beyond it.
export function inText({ text, tokens }) {
  let length = 0;
  const first = tokens.findIndex(({ text: own }) => (length += own.length) > text.length);
  return first < 0 ? tokens.length : first;
}

// A token as it can be seen: blanks and line breaks have signs, one of no text its own.
export function shown(text) {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
}

// Does the conversation hold so much that a model must forget? Without its first turns, then.
export function withoutFirst(turns) {
  const first = turns.findIndex(counts);
  return first < 0 ? turns : turns.filter((_, i) => i !== first);
}

// --- errors ------------------------------------------------------------------------------------

// {what, cause, todo}: todo: "key" | "again" | "shorten" | "". `again`: seconds that the server asks for.
export function refusal(status, body, headers = {}) {
  const told = body?.error ?? {};
  const cause = typeof told === "string" ? told : (told.message ?? "");
  const wait = Number.parseInt(headers["retry-after"] ?? "", 10);
  const again = Number.isFinite(wait) ? wait : null;
  if (status === 401) return { what: "This server asks for an API key.", cause: "The page’s join code and the driver’s code do not open the endpoint.", todo: "key", again };
  if (status === 403) return { what: "You may not ask the model here.", cause, todo: "", again };
  if (status === 404 && !told.code) return { what: "There is no endpoint at this address.", cause: "This server shows runs and serves no model; minivllm serve does, and minivllm demo.", todo: "", again };
  if (told.code === "context_length_exceeded") return { what: "The conversation is too long for this model.", cause, todo: "shorten", again };
  if (told.code === "engine_dead") return { what: "The engine has died.", cause: `${cause} The top of the page says when there is another.`, todo: "again", again };
  if (status === 429 || status === 503) return { what: "The server cannot take this now.", cause, todo: "again", again };
  if (status >= 500) return { what: "The server failed.", cause, todo: "again", again };
  return { what: "The server refuses this request.", cause: cause || `It answered ${status}.`, todo: "", again };
}

export const BROKEN_OFF = { what: "The connection broke off in the middle of the answer.", cause: "The engine stops working on it as soon as it notices.", todo: "again", again: null };

export const NO_CONNECTION = { what: "The server cannot be reached.", cause: "It has ended, or the network is gone.", todo: "again", again: null };

// --- the stream --------------------------------------------------------------------------------

// Server-sent events out of pieces that are cut anywhere: `take(piece)` gives the data of each
// frame that is whole. Comments (keep-alives) and other fields are passed over.
export class FrameReader {
  constructor() {
    this.rest = "";
  }

  take(piece) {
    const frames = (this.rest + piece).split(/\r?\n\r?\n/);
    this.rest = frames.pop();
    return frames.map(dataOf).filter((data) => data !== null);
  }
}

function dataOf(frame) {
  const lines = frame.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : null;
}

// The id that the engine knows a request by, out of the answer's Link header.
export function lifeLink(header) {
  const found = /<([^>]*)>\s*;[^,]*rel="?describedby"?/.exec(header ?? "");
  const hash = found?.[1].slice(found[1].indexOf("#"));
  const request = hash?.startsWith("#/") ? new URLSearchParams(hash.split("?")[1] ?? "").get("request") : null;
  return request ? { href: hash, request } : null;
}

// --- keeping it ----------------------------------------------------------------------------------

// As text for the browser's session, and back; what was under way at a reload is said to be cut.
export const pack = (turns, typed) => JSON.stringify({ version: 1, turns, typed });

export function unpack(text) {
  try {
    const { version, turns, typed } = JSON.parse(text);
    if (version !== 1) return null;
    const kept = turns.map((turn) => (["sent", "streaming"].includes(turn.state) ? { ...turn, state: "cut" } : turn));
    return { turns: kept, typed: { ...typed } };
  } catch {
    return null;
  }
}
