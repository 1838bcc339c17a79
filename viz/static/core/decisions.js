// What a step decided, as phrases: the form in which two runs' decisions are compared and told.
// Twin of minivllm/trace/decisions.py.

import { join, span } from "#core/phrases.js";

export const BATCH = ""; // the key of the batch as a whole: the order of those who ran

// Request → phrase.
export function decisions(events) {
  const told = new Map();
  const tell = (req, words) => {
    const list = told.get(req ?? BATCH);
    if (list) list.push(words);
    else told.set(req ?? BATCH, [words]);
  };
  for (const { kind, req, data } of events) TELL[kind]?.(tell, req, data, told);
  return new Map([...told].map(([req, words]) => [req, words.join(", ")]));
}

const TELL = {
  "req.admit": (tell, req, data) => tell(req, `is admitted (${data.hit} of ${data.tokens} tokens reused)`),
  "req.resume": (tell, req, data) => tell(req, `resumes (${data.hit} of ${data.tokens} tokens reused)`),
  "sched.skip": (tell, req, data) => tell(req, `is passed over (${data.reason})`),
  "sched.stop": (tell, _req, data) => {
    for (const other of data.behind) tell(other, `waits behind ${data.head} (${data.reason})`);
  },
  "sched.victim": (tell, req, data) => tell(req, `gives way to ${data.for === req ? "itself" : data.for}`),
  "batch.compose": (tell, _req, { rows }) => {
    for (const row of rows) tell(row.req, `runs ${span(row.start + 1, row.start + row.n)} (${row.why})`);
    if (rows.length) tell(null, `the batch is ${join(rows.map((row) => row.req), 64)}`);
  },
  "sched.ledger": (tell, _req, { rows }, told) => {
    for (const row of rows) {
      if (!row.granted && row.limited_by && !told.has(row.req)) tell(row.req, `runs nothing (${row.limited_by})`);
    }
  },
  "req.error": (tell, req, data) => tell(req, `fails: ${data.message}`),
  "req.finish": (tell, req, data) => tell(req, `ends (${data.reason}${data.why ? `, ${data.why}` : ""})`),
  "run.error": (tell, _req, data) => tell(null, `the step fails (${data.error})`),
};
