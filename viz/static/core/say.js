// Words for those who do not see the picture: the whole state in four sentences, and a glossary.

import { MARKS } from "#core/facts.js";
import { FILLED, OUTPUT, RAN, REUSED } from "#core/layout.js";
import { listed, plural } from "#core/reasons.js";

// Running, waiting, budget, pool: for one who did not see the steps before.
export function sayState(scene) {
  const { running, waiting, budget, pool } = scene;
  const runs = running.length
    ? `Running: ${listed(running.map((row) => `${row.req} with ${row.computed} of ${plural(row.known, "token")}`), 8)}.`
    : "Nobody runs.";
  const waits = waiting.length
    ? `Waiting: ${listed(waiting.map((row) => `${row.req}, ${row.why}`), 5)}.`
    : "Nobody waits.";
  const rest = budget.unused && budget.why ? `; ${budget.unused} unused: ${budget.why}` : "";
  const spent = `Budget: ${budget.used} of ${budget.total} tokens run in step ${scene.step}${rest}.`;
  const cached = pool.free.filter((id) => pool.faces[id - 1].hashed).length;
  const blocks = `Pool: ${pool.used} of ${plural(pool.total, "block")} in use, ${pool.free.length} free, ${cached} of these still cached.`;
  return [runs, waits, spent, blocks];
}

export function sayTokens(row) {
  const ran = row.ranTo - row.ranFrom;
  const parts = [`${row.computed} of ${plural(row.known, "token")} computed`];
  if (row.cached) parts.push(`${row.cached} reused`);
  if (ran) parts.push(`${ran} ran in this step`);
  if (row.table.length) parts.push(`in ${row.table.length === 1 ? "block" : "blocks"} ${row.table.join(", ")}`);
  return `${row.req}: ${parts.join(", ")}`;
}

const STATES = {
  used: "in use",
  shared: "shared",
  cached: "free, still cached",
  blank: "free, blank",
};

export function sayBlock(face) {
  const owners = face.owners.length ? ` by ${listed(face.owners.map((owner) => owner.row.req))}` : "";
  const marks = face.marks ? `, ${[...face.marks].map((mark) => MARKS[mark]).join(" and ")} in this step` : "";
  return `block ${face.id}: ${STATES[face.state]}${owners}${face.hashed && face.owners.length ? ", hashed" : ""}${marks}`;
}

export const LEGEND_TOKENS = [
  { flags: FILLED, text: "prompt" },
  { flags: FILLED | OUTPUT, text: "output" },
  { flags: REUSED, text: "reused, not computed", short: "reused" },
  { flags: FILLED | OUTPUT | RAN, text: "ran in this step", short: "ran now" },
  { flags: OUTPUT, text: "known, not computed yet", short: "not computed yet" },
];

// One line for each term of a sentence.
export const GLOSSARY = {
  admitted: "taken from the waiting line into the running batch: its blocks are there",
  preempted: "sent back to the head of the waiting line; its blocks go to others, its text is kept",
  resumes: "runs again after it was preempted; what it lost is computed anew",
  finishes: "has said all its tokens; its blocks go back to the pool",
  finish: "have said all their tokens; their blocks go back to the pool",
  waits: "stands in line; the first in line is looked at in each step",
  wait: "stand in line; the first in line is looked at in each step",
  evicted: "the block is taken for something new, and what was cached in it is forgotten",
  budget: "the most tokens that one step may run, over all requests",
  cached: "the block lies free, but its content can still be found and shared",
  decode: "run the token said last, and drafts if there are any, to say what comes next",
  decodes: "runs the token said last, and drafts if there are any, to say what comes next",
  reused: "found in a block that holds the same tokens already: not computed",
  "given back": "blocks return to the free queue when no table holds them any more",
  taken: "from the front of the free queue",
  "prompt tokens": "the request's input, which must be computed before it can say anything",
  "prompt token": "the request's input, which must be computed before it can say anything",
  pool: "all KV blocks; each holds keys and values of a few neighbouring tokens",
  free: "in the free queue; the first in it is the next to be taken",
};

export const NO_MODEL = "NO MODEL · tokens are placeholders";
