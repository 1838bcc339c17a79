// Words for single events, and whom a headline is about.

import { KINDS } from "#core/kinds.js";

// The first request the headline names, else its block, else the budget.
export function subjectOf(headline, knows) {
  const req = /\br\d+\b/.exec(headline)?.[0];
  if (req && knows(req)) return { req };
  const block = /\b[Bb]lock (\d+)/.exec(headline);
  return block ? { block: Number(block[1]) } : { unused: true };
}

const MOST_FIELDS = 7;
const MOST_ITEMS = 8;

// One event as a line: its place in the step, kind, request, and what it carries.
export function eventWords(event, at, count) {
  if (!event) return "";
  const fields = Object.entries(event.data)
    .filter(([name, value]) => value !== null && name !== "text" && !name.endsWith("ns") && isShort(value))
    .slice(0, MOST_FIELDS)
    .map(([name, value]) => `${name} ${written(value)}`);
  const who = event.req ? ` ${event.req}` : "";
  return `event ${at} of ${count}: ${event.kind}${who}${fields.length ? ` · ${fields.join(", ")}` : ""}`;
}

const isShort = (value) => typeof value !== "object" || (Array.isArray(value) && typeof value[0] !== "object");

function written(value) {
  if (!Array.isArray(value)) return String(value);
  return `[${value.slice(0, MOST_ITEMS).join(" ")}${value.length > MOST_ITEMS ? " …" : ""}]`;
}

// Of kinds of a later version, which the fold passes over: "2 events of kinds this page does not know:
// cache.warm, sched.steal", or "".
export function unknownWords(events) {
  const strange = events.filter(({ kind }) => !(kind in KINDS));
  if (!strange.length) return "";
  const kinds = [...new Set(strange.map(({ kind }) => kind))];
  const what = strange.length === 1 ? "1 event of a kind" : `${strange.length} events of ${kinds.length === 1 ? "a kind" : "kinds"}`;
  return `${what} this page does not know: ${kinds.slice(0, 4).join(", ")}`;
}
