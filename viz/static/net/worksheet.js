// The address of a run's worksheet, once the server has said that there is one.

import { ask as asked } from "#net/home.js";

export async function worksheetAt(run, { stream, life }, { sheets, ask, from, to }) {
  const query = new URLSearchParams({ stream, life: life ?? "", sheets, ask: ask.join(","), from, to });
  const path = `/api/runs/${encodeURIComponent(run)}/worksheet?${query}`;
  const answer = await asked(path);
  if (answer.ok) return path;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error ?? `the server answered ${answer.status}`);
}
