// Where this page came from: a server, or one exported file that has everything inside
// (viz/export.py writes it, exported.js unpacks it). Whoever needs a server asks here first.

import { parseTrace } from "#core/file.js";
import { StepArrays } from "#core/numbers.js";

const inside = globalThis.minivllmInside ?? null; // {resources, runs, lessons, start, unpack(id) → ArrayBuffer}

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
    try {
      const text = new TextDecoder().decode(await inside.unpack(about.trace));
      const arrays = new ArraysInside(about.arrays);
      return { ...about, ...parseTrace(text), arrays, kind: "recorded", inside: true, tour: about.script !== null };
    } catch (error) {
      throw new Error(`${about.id} cannot be unpacked, this file is damaged: ${error.message}. Copy it anew from where it came.`);
    }
  }));
  return runs;
}

// The lessons' texts, as the server gives them.
export const lessonsInside = async () => ({ lessons: inside.lessons.lessons, trouble: "" });

export async function lessonInside(slug) {
  const lesson = inside.lessons.texts[slug];
  if (!lesson) throw new Error(`There is no lesson ${slug} in this file.`);
  return lesson;
}

// The arrays of a run's captured steps that viz/export.py took along.
class ArraysInside {
  constructor({ data, index, left_out }) {
    Object.assign(this, { data, index, leftOut: left_out, buffer: null });
  }

  // `told` is the data of the step's exec.tensors.
  async open({ stream, life }, step, told) {
    this.buffer ??= inside.unpack(this.data); // once somebody asks for one
    return new StepArrays(await this.buffer, told, (name) => {
      const place = this.index[`${stream}/${life ?? 1}/${step}/${name}`];
      if (!place) throw new Error(`${name} of step ${step} is not in this file. ${this.leftOut}`);
      return place;
    });
  }
}
