// Events and states by HTTP: recordings, gaps, and the past of a run that was joined late.

import { answerOf } from "#core/attention.js";
import { findLife } from "#core/lives.js";
import { ask, hasServer, lessonInside, lessonsInside, runsInside } from "#net/home.js";

const CHUNK = 5000; // what the server gives at once

async function getJson(path) {
  const response = await ask(path);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? body.error ?? `the server answered ${response.status}`);
  return body;
}

export const loadWorkbench = () => getJson("/api/workbench");
export const loadLessons = () => (hasServer ? getJson("/api/lessons") : lessonsInside());
export const loadLesson = (slug) => (hasServer ? getJson(`/api/lessons/${encodeURIComponent(slug)}`) : lessonInside(slug));
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

// The arrays of a captured step of a run that has them itself: in this file, or on the reader's disk.
function arraysOf(run, at, step) {
  const events = findLife(run.lives, at.stream, at.life)?.events ?? [];
  const told = events.find((event) => event.kind === "exec.tensors" && event.step === step)?.data;
  if (!told) throw new Error(`Step ${step} of ${run.id} was not recorded with its arrays.`);
  return run.arrays.open(at, step, told);
}

const addressOf = (run, { stream, life }, what, asked) =>
  `/api/runs/${encodeURIComponent(run.id)}/${what}?${new URLSearchParams([["stream", stream], ["life", life ?? ""], ...asked])}`;

// One array of a captured step: {name, dtype, shape, values}; `indices` fix its first axes.
export async function loadArray(run, at, step, name, indices = []) {
  if (run.arrays) return (await arraysOf(run, at, step)).widened(name, indices);
  const asked = indices.length ? [["at", indices.join(",")]] : [];
  return getJson(addressOf(run, at, `artifacts/${step}/${encodeURIComponent(name)}`, asked));
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
export async function loadLens(run, at, step, req, what, asked) {
  if (run.arrays) return answerOf(await arraysOf(run, at, step), req, what, asked);
  const given = Object.entries(asked).filter(([, value]) => value !== null);
  return getJson(addressOf(run, at, `lens/${step}/${encodeURIComponent(req)}/${what}`, given));
}
