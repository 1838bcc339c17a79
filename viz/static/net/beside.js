// The arrays of a trace that the reader opened from the own disk: each captured step has a file of its
// own (NAME.tensors/step-000003.safetensors). Those that were chosen along with the trace are
// read here, when they are asked for, and sent nowhere.

import { StepArrays, placesIn } from "#core/numbers.js";

const MOST_BYTES = 512 * 2 ** 20;

export const isArrays = ({ name }) => name.endsWith(".safetensors");

export class ArraysBeside {
  constructor(trace, files) {
    this.folder = `${trace.replace(/\.gz$/, "")}.tensors`;
    this.files = new Map();
    this.last = null; // {name, arrays}: of the file that was read last
    this.add(files);
  }

  add(files) {
    for (const file of files) this.files.set(file.name, file);
    this.last = null;
  }

  async open(_at, step, told) {
    const file = this.files.get(told.file);
    if (!file) throw new Error(`The arrays of step ${step} are in a file of their own beside the trace, ${this.folder}/${told.file}: open that one, too (O).`);
    if (told.bytes > MOST_BYTES) throw new Error(`The arrays of step ${step} take ${told.bytes >> 20} MB; a page reads at most ${MOST_BYTES >> 20}: minivllm view ${this.folder.replace(/\.tensors$/, "")}`);
    if (this.last?.name !== told.file) this.last = { name: told.file, arrays: this.#read(file, told) };
    return this.last.arrays;
  }

  async #read(file, told) {
    const buffer = await file.arrayBuffer();
    const places = placesIn(buffer, told);
    return new StepArrays(buffer, told, (name) => {
      if (!places[name]) throw new Error(`${told.file} has no array ${name}.`);
      return places[name];
    });
  }
}
