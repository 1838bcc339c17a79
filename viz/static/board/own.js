// A scenario of one's own: the form's rows and knobs, running it, and its place in the address.
//
// The form stands in the address (?own=…) beside the run that came of it. The run is named after the
// form, so the address leads to the same run on every server: where it is not there, it is run.

import { NEW_KNOBS, NEW_ROW, addressOf, formAt, tomlOf } from "#core/own.js";
import { loadWorkbench } from "#net/history.js";
import { NO_SERVER, hasServer } from "#net/home.js";
import { ownOffers, readOwnFile, runOwn } from "#net/own.js";
import { parseKnob } from "#board/knobs.js";

const SHOWN_FIRST = Object.keys(NEW_KNOBS).concat(["policy", "enable_prefix_caching", "enable_chunked_prefill"]);

export class Own {
  constructor(board) {
    this.board = board;
    this.rows = [{ ...NEW_ROW }, { ...NEW_ROW, arrives: 2 }];
    this.engine = { ...NEW_KNOBS };
    this.forms = new Map(); // run's id → its form, of those that were run here
    this.offers = null; // {presets, bounds, most, kept}
    this.knobs = [];
    this.wrong = {}; // field → what is wrong with it
    this.notice = "";
    this.busy = false;
  }

  get form() {
    return { request: this.rows, engine: this.engine };
  }

  async open() {
    const { board } = this;
    const shown = this.forms.get(board.run?.id);
    if (shown) this.#take(shown);
    [this.wrong, this.notice] = [{}, ""];
    board.open("own");
    try {
      if (!hasServer) throw new Error(NO_SERVER);
      [this.offers, this.knobs] = await Promise.all([this.offers ?? ownOffers(), this.knobs.length ? this.knobs : loadWorkbench().then(({ knobs }) => knobs)]);
    } catch (error) {
      this.notice = error.message;
    }
    board.changed();
  }

  #take({ request, engine }) {
    this.rows = request.map((row) => ({ ...NEW_ROW, ...row }));
    this.engine = { ...engine };
  }

  // --- the form ----------------------------------------------------------------------------------

  set(row, name, text) {
    const number = Number(text);
    this.rows[row] = { ...this.rows[row], [name]: text.trim() === "" || Number.isNaN(number) ? text : number };
    delete this.wrong[`request.${row + 1}.${name}`];
    this.board.changed();
  }

  setKnob(knob, text) {
    this.engine = { ...this.engine, [knob.name]: parseKnob(knob, text) };
    delete this.wrong[knob.name];
    this.board.changed();
  }

  knobValue(knob) {
    return this.engine[knob.name] ?? knob.default ?? "";
  }

  // Those that a beginner wants, then the rest.
  get knobGroups() {
    const first = SHOWN_FIRST.map((name) => this.knobs.find((knob) => knob.name === name)).filter(Boolean);
    return [first, this.knobs.filter((knob) => !first.includes(knob))];
  }

  get full() {
    return this.rows.length >= (this.offers?.most ?? 32);
  }

  add(after = this.rows.length - 1) {
    const copy = { ...(this.rows[after] ?? NEW_ROW) };
    this.rows = this.rows.toSpliced(after + 1, 0, copy);
    this.#rowsMoved();
  }

  remove(row) {
    this.rows = this.rows.toSpliced(row, 1);
    this.#rowsMoved();
  }

  preset(name) {
    const form = this.offers?.presets[name];
    if (form) this.#take(form);
    this.#rowsMoved();
  }

  #rowsMoved() {
    [this.wrong, this.notice] = [{}, ""];
    this.board.changed();
  }

  // --- the file ----------------------------------------------------------------------------------

  get fileText() {
    return tomlOf(this.form, "own");
  }

  async readFile(file) {
    await this.#try(async () => {
      this.#take(await readOwnFile(await file.text()));
      this.notice = `${file.name} is in the form`;
    });
  }

  // --- the run -----------------------------------------------------------------------------------

  async run() {
    await this.#try(async () => {
      const id = await this.#made(this.form);
      this.board.close();
      await this.board.openRun(id, { step: 0 });
    });
  }

  async #made(form) {
    const { id, form: understood, gone } = await runOwn(form);
    this.forms.set(id, understood);
    if (gone.length) this.board.say(`The oldest ${gone.length === 1 ? "scenario was" : "scenarios were"} let go: ${gone.join(", ")}.`);
    return id;
  }

  // What an address asks for that the server does not have: its form is run. Answers the run's id, or null.
  async again(text) {
    const form = formAt(text);
    if (!form) return null;
    this.#take(form);
    try {
      return await this.#made(form);
    } catch (error) {
      [this.wrong, this.notice] = [error.fields ?? {}, error.message];
      return null;
    }
  }

  // A run that was opened by an address with its form in it.
  knows(id, text) {
    const form = formAt(text);
    if (form && !this.forms.has(id)) this.forms.set(id, form);
  }

  // For the address.
  paramsOf(run) {
    const form = this.forms.get(run?.id);
    return form ? { own: addressOf(form) } : {};
  }

  async #try(action) {
    const { board } = this;
    [this.busy, this.wrong, this.notice] = [true, {}, ""];
    board.changed();
    try {
      await action();
    } catch (error) {
      this.wrong = error.fields ?? {};
      this.notice = error.fields && Object.keys(error.fields).length > 1 ? `${Object.keys(error.fields).length} fields are not right` : error.message;
    }
    this.busy = false;
    board.changed();
  }
}
