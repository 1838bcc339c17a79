// Knobs: the same scenario with other ones, or the live engine from its next step on.
//
// What knobs there are comes from the server (the table of the command line's flags). The values
// begin as the run on the Board has them; what the reader changes is all that is sent.

import { loadWorkbench } from "#net/history.js";

export class Knobs {
  constructor(board) {
    this.board = board;
    this.offers = null; // {knobs, scenarios}
    this.changes = {}; // name → new value
    this.scenario = null;
    this.notice = "";
    this.busy = false;
  }

  async open() {
    const { board } = this;
    this.changes = {};
    this.notice = "";
    board.open("knobs");
    try {
      this.offers ??= await loadWorkbench();
    } catch (error) {
      this.notice = error.message;
    }
    const { scenarios = [] } = this.offers ?? {};
    const name = board.run?.header?.name;
    this.scenario = scenarios.includes(name) ? name : scenarios.includes("tiny-pressure") ? "tiny-pressure" : scenarios[0];
    board.changed();
  }

  // The knob as the run on the Board has it. Another scenario brings its own.
  valueOf(knob) {
    if (knob.name in this.changes) return this.changes[knob.name];
    return this.board.store?.config?.[knob.name] ?? knob.default;
  }

  set(knob, text) {
    const value = parseKnob(knob, text);
    if (value === (this.board.store?.config?.[knob.name] ?? knob.default)) delete this.changes[knob.name];
    else this.changes[knob.name] = value;
    this.board.changed();
  }

  get changed() {
    return Object.keys(this.changes);
  }

  // May a live engine change this now?
  fits(knob) {
    return !this.board.isLive || knob.live;
  }

  async run() {
    const { board } = this;
    const same = this.scenario === board.run?.header?.name;
    const base = same ? this.#configOfRun() : {};
    await this.#send("simulate", { scenario: this.scenario, knobs: { ...base, ...this.changes } }, async (id) => {
      await board.refreshRuns();
      await board.openRun(id);
    });
  }

  async apply() {
    await this.#send("knobs", this.changes, () => this.board.travel.end());
  }

  #configOfRun() {
    const { config } = this.board.store ?? {};
    const names = this.offers.knobs.map((knob) => knob.name).filter((name) => name in (config ?? {}));
    return Object.fromEntries(names.map((name) => [name, config[name]]));
  }

  async #send(op, value, then) {
    const { board } = this;
    this.busy = true;
    board.changed();
    try {
      const answer = await board.engine.channel.command(op, value);
      this.notice = "";
      board.close();
      await then(answer);
    } catch (error) {
      this.notice = error.message;
    } finally {
      this.busy = false;
      board.changed();
    }
  }
}

export function parseKnob(knob, text) {
  if (knob.kind === "bool") return text === "on";
  if (knob.choices.length) return text;
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}
