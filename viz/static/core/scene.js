// The scene: what the Board shows at one moment, as plain data. A pure function of state, facts of
// the step and beat; the views only draw it.

import { REST } from "#core/clock.js";
import { FILLED, NO_TOKEN, OUTPUT, RAN, REUSED } from "#core/layout.js";
import { unusedText, waitText } from "#core/reasons.js";

const ARRIVE = 0;
const RUN = 3;
const OUTPUT_BEAT = 4;
const TAIL_CHARACTERS = 160;

// `hueOf(req)` → 0…7 or −1. `beat`: the last beat whose effect is seen.
export function buildScene(state, facts, hueOf, beat = REST) {
  const config = state.config;
  if (!config) return null;
  const grants = beat > ARRIVE ? facts.grants : [];
  const ran = new Map(beat >= RUN && facts.ledger ? grants.map((g) => [g.req, g]) : []);
  const pendingRun = new Map(beat < RUN && facts.ledger ? grants.map((g) => [g.req, g]) : []);
  const look = (req) => describe(req, state, hueOf, ran.get(req), pendingRun.get(req));
  return {
    step: state.step,
    config,
    waiting: state.waiting.map((req) => ({
      ...look(req),
      mark: beat > ARRIVE && facts.preempted.has(req) ? "!" : "",
      why: waitText(req, state.requests[req].wait, config, facts),
    })),
    running: state.running.map((req) => ({ ...look(req), ...tail(req, state.requests[req], facts, beat) })),
    done: state.finished.map((req) => finished(req, state, hueOf, facts)),
    budget: budget(state, facts, hueOf, grants),
    pool: pool(state, facts, hueOf, look, beat),
    facts,
  };
}

function describe(req, state, hueOf, ran, pending) {
  const r = state.requests[req];
  return {
    req,
    hue: hueOf(req),
    prompt: r.num_prompt_tokens,
    known: r.tokens.length,
    computed: pending ? pending.start : r.num_computed_tokens,
    cached: Math.min(r.num_cached_tokens, r.num_computed_tokens),
    ranFrom: ran ? ran.start : 0,
    ranTo: ran ? ran.start + ran.n : 0,
    table: r.table,
    status: r.status,
  };
}

// How the token at a position is drawn.
export function tokenFlags(row, position) {
  let flags = position < row.prompt ? 0 : OUTPUT;
  if (position < row.computed) flags |= position < row.cached ? REUSED : FILLED;
  if (position >= row.ranFrom && position < row.ranTo) flags |= RAN;
  return flags;
}

// The end of a request's text: prompt, output, and the newest piece.
function tail(req, r, facts, beat) {
  const fresh = beat >= OUTPUT_BEAT && facts.tokens.has(req) ? 1 : 0;
  let room = TAIL_CHARACTERS;
  const last = (from, to) => {
    let text = "";
    for (let i = to - 1; i >= from && room > 0; i -= 1) {
      text = r.texts[i] + text;
      room -= r.texts[i].length;
    }
    return text;
  };
  const end = r.texts.length;
  const newest = last(end - fresh, end);
  const output = last(r.num_prompt_tokens, end - fresh);
  return { text: { newest, output, prompt: last(0, r.num_prompt_tokens) } };
}

function finished(req, state, hueOf, facts) {
  const r = state.requests[req];
  return {
    req,
    hue: hueOf(req),
    outputs: r.tokens.length - r.num_prompt_tokens,
    reason: r.finish_reason,
    mark: !facts.finished.has(req) ? "" : r.finish_reason === "error" ? "⊘" : "✓",
    status: r.status,
  };
}

function budget(state, facts, hueOf, grants) {
  const total = facts.ledger?.budget ?? facts.begin?.budget ?? state.config.max_num_batched_tokens;
  const used = grants.reduce((sum, grant) => sum + grant.n, 0);
  const segments = grants.map((grant) => {
    const prompt = state.requests[grant.req].num_prompt_tokens;
    return { ...grant, hue: hueOf(grant.req), prompt };
  });
  return { total, used, segments, unused: total - used, why: unusedText(facts, state.config) };
}

// Most blocks of a large pool are free and stay as they are: the fold replaces a block's object
// when it changes, so a free block's face can be kept as long as its object lives.
const freeFaces = new WeakMap();
const NOBODY = [];

function pool(state, facts, hueOf, look, beat) {
  const holders = new Map(); // block → [{row, logical}]
  for (const req of [...state.running, ...state.waiting]) {
    const { table } = state.requests[req];
    if (!table.length) continue;
    const row = look(req);
    table.forEach((id, logical) => {
      const list = holders.get(id);
      if (list) list.push({ row, logical });
      else holders.set(id, [{ row, logical }]);
    });
  }
  const marks = beat > 1 ? facts.marks : new Map();
  const size = state.config.block_size;
  const faces = [];
  for (let id = 1; id < state.blocks.length; id += 1) {
    const block = state.blocks[id];
    const owners = holders.get(id) ?? NOBODY;
    const shown = marks.get(id);
    const keeps = block.ref === 0 && !shown;
    if (keeps && freeFaces.has(block)) {
      faces.push(freeFaces.get(block));
      continue;
    }
    const { ref, hash, held } = block;
    const face = {
      id,
      ref,
      state: ref > 1 ? "shared" : ref === 1 ? "used" : hash ? "cached" : "blank",
      hashed: hash !== null,
      hashedNow: hash !== null && beat > 1 && facts.hashed.has(id),
      marks: shown ? uniqueMarks(shown) : "",
      owners,
      held,
      size,
    };
    if (keeps) freeFaces.set(block, face);
    faces.push(face);
  }
  return { faces, total: faces.length, free: state.free, used: faces.length - state.free.length };
}

function uniqueMarks(list) {
  let marks = "";
  for (const { mark } of list) if (!marks.includes(mark)) marks += mark;
  return marks;
}

// What each slot of a block shows: flags of the first owner's tokens, or what it held before.
export function slots(face) {
  const flags = new Array(face.size).fill(NO_TOKEN);
  if (face.owners.length) {
    const { row, logical } = face.owners[0];
    for (let i = 0; i < face.size; i += 1) {
      const position = logical * face.size + i;
      if (position < row.known) flags[i] = tokenFlags(row, position);
    }
  } else if (face.held) {
    for (let i = 0; i < face.held.filled; i += 1) flags[i] = FILLED;
  }
  return flags;
}
