// Where this page came from: a server, or one exported file that has everything inside
// (viz/export.py writes it, exported.js unpacks it). Whoever needs a server asks here first.

import { parseTrace } from "#core/file.js";
import { widen } from "#core/numbers.js";

const inside = globalThis.minivllmInside ?? null; // {resources, runs, start, unpack(id) → ArrayBuffer}

export const hasServer = inside === null;

export const NO_SERVER = "This page is one file, without a server or an engine: it shows what was recorded.";

// Where the file opens when its address names no place.
export const startHash = inside?.start ?? "";

// As fetch; a page without a server refuses in words what the browser would refuse in silence.
export const ask = (path, wish) => (hasServer ? fetch(path, wish) : Promise.reject(new Error(NO_SERVER)));

// A .json file of the page.
export async function resource(name) {
  if (inside) return JSON.parse(inside.resources[name]);
  const response = await ask(`/static/${name}`);
  if (!response.ok) throw new Error(`${name} could not be read: the server answered ${response.status}.`);
  return response.json();
}

let runs = null;

// The runs in the file, each whole: rows as the server gives them, and `lives` with all events.
export async function runsInside() {
  runs ??= await Promise.all(inside.runs.map(async (about) => {
    const text = new TextDecoder().decode(await inside.unpack(about.trace));
    return { ...about, ...parseTrace(text), kind: "recorded", inside: true, tour: about.script !== null };
  }));
  return runs;
}

const arrays = new Map(); // id of a data block → its bytes, once asked for

// One array of a captured step, or the part of it at these indices, as viz/artifacts.py answers it.
export async function arrayInside(run, { stream, life }, step, name, at) {
  const about = inside.runs.find(({ id }) => id === run).arrays;
  const found = about.index[`${stream}/${life ?? 1}/${step}/${name}`];
  if (!found) throw new Error(`${name} of step ${step} is not in this file. ${about.left_out}`);
  if (!arrays.has(about.data)) arrays.set(about.data, inside.unpack(about.data));
  return widen(await arrays.get(about.data), found, name, at);
}
