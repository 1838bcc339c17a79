// Find: a request, a block, a reason or a kind of event gives the list of its steps.

import { REASONS, plural } from "#core/reasons.js";

const MOST = 200;

export const READY_MADE = [
  { label: "preemptions", test: (summary) => summary.preemptions > 0 },
  { label: "evictions", test: (summary) => summary.evictions > 0 },
  { label: "prefix hits", test: (summary) => summary.hits > 0 },
  { label: "budget unused while someone waits", test: (summary) => summary.idleWhileWaiting },
];

// {hits: [{step, text, req?, block?}], more}
export function find(store, query, headlineOf) {
  const text = query.trim().toLowerCase();
  const ready = READY_MADE.find(({ label }) => label === text);
  if (ready) return bySummary(store, ready.test, headlineOf);
  if (text === "the longest waits") return longestWaits(store);
  if (!text) return { hits: [], more: 0 };
  const block = /^(?:block\s*)?(\d+)$/.exec(text);
  const hits = [];
  for (const [step, { events }] of store.steps) {
    const event = events.find((item) => matches(item, text, block ? Number(block[1]) : null));
    if (!event) continue;
    hits.push({ step, text: `${event.kind}${event.req ? ` · ${event.req}` : ""}`, req: event.req, block: block ? Number(block[1]) : null });
  }
  return { hits: hits.slice(0, MOST), more: Math.max(hits.length - MOST, 0) };
}

function matches(event, text, block) {
  if (block !== null) {
    if (!event.kind.startsWith("kv.")) return false;
    return event.data.block === block || (event.data.blocks?.includes(block) ?? false);
  }
  if (event.req?.toLowerCase() === text) return true;
  if (event.kind.includes(text)) return true;
  const { reason } = event.data;
  return typeof reason === "string" && (reason.includes(text) || (REASONS[reason] ?? "").includes(text));
}

function bySummary(store, test, headlineOf) {
  const hits = [];
  for (const [step, { summary }] of store.steps) {
    if (summary && test(summary)) hits.push({ step, text: headlineOf(step) });
  }
  return { hits: hits.slice(0, MOST), more: Math.max(hits.length - MOST, 0) };
}

// Steps between arrival and first admission, the most first.
function longestWaits(store) {
  const arrived = new Map();
  const waits = [];
  for (const [step, { events }] of store.steps) {
    for (const { kind, req } of events) {
      if (kind === "req.arrive") arrived.set(req, step);
      if (kind === "req.admit" && arrived.has(req)) waits.push({ req, step, steps: step - arrived.get(req) });
    }
  }
  waits.sort((a, b) => b.steps - a.steps);
  const hits = waits.filter((wait) => wait.steps > 0).slice(0, 20);
  return {
    hits: hits.map(({ req, step, steps }) => ({ step, req, text: `${req} waited ${plural(steps, "step")}` })),
    more: 0,
  };
}
