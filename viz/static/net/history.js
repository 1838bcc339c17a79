// Events and states by HTTP: recordings, gaps, and the past of a run that was joined late.

import { arrayInside, ask, hasServer, runsInside } from "#net/home.js";

const CHUNK = 5000; // what the server gives at once

async function getJson(path) {
  const response = await ask(path);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? body.error ?? `the server answered ${response.status}`);
  return body;
}

export const loadWorkbench = () => getJson("/api/workbench");
export const loadLessons = () => getJson("/api/lessons");
export const loadLesson = (slug) => getJson(`/api/lessons/${encodeURIComponent(slug)}`);
export const listRuns = () => (hasServer ? getJson("/api/runs") : runsInside());
export const loadRun = (run) => getJson(`/api/runs/${encodeURIComponent(run)}`);
export const loadTour = (run) => getJson(`/api/runs/${encodeURIComponent(run)}/tour`);

export const findRequest = (run, id) =>
  getJson(`/api/runs/${encodeURIComponent(run)}/find?request=${encodeURIComponent(id)}`);

export function loadEvents(run, { stream, life }, from, to) {
  const query = `stream=${encodeURIComponent(stream)}&life=${life ?? ""}&from=${from}&to=${to}`;
  return getJson(`/api/runs/${encodeURIComponent(run)}/events?${query}`);
}

export function loadSnapshot(run, { stream, life }) {
  const query = `stream=${encodeURIComponent(stream)}&life=${life ?? ""}`;
  return getJson(`/api/runs/${encodeURIComponent(run)}/snapshot?${query}`);
}

// One array of a captured step: {name, dtype, shape, values}; `at` fixes its first axes.
export function loadArray(run, { stream, life }, step, name, at = []) {
  if (!hasServer) return arrayInside(run, { stream, life }, step, name, at);
  const query = `stream=${encodeURIComponent(stream)}&life=${life ?? ""}${at.length ? `&at=${at.join(",")}` : ""}`;
  return getJson(`/api/runs/${encodeURIComponent(run)}/artifacts/${step}/${encodeURIComponent(name)}?${query}`);
}

// Where the server gives a run, and one to compare it with, as one file that opens from disk.
export const exportAddress = (run, beside = null) =>
  `/api/runs/${encodeURIComponent(run)}/export${beside ? `?with=${encodeURIComponent(beside)}` : ""}`;

// All events of a range of one life of a stream, in chunks; `take(events)` gets each, and may end it by returning false.
export async function loadRange(run, at, from, to, take) {
  for (let start = from; start <= to; start += CHUNK) {
    const events = await loadEvents(run, at, start, Math.min(start + CHUNK - 1, to));
    if (!events.length || take(events) === false) return;
  }
}

// What the attention lens shows of one request in a captured step: `what` is row | heads | matrix.
export function loadLens(run, { stream, life }, step, req, what, asked) {
  const given = Object.entries(asked).filter(([, value]) => value !== null);
  const query = new URLSearchParams([["stream", stream], ["life", life ?? ""], ...given]);
  return getJson(`/api/runs/${encodeURIComponent(run)}/lens/${step}/${encodeURIComponent(req)}/${what}?${query}`);
}
