// Words for single events, and whom a headline is about.

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
