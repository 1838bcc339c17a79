// Two runs on one page. A is the run that is open; B is picked, read from a file, or made by a fork.
// One cursor leads both, by step or by token. `B` flips the Board between them in place.

import { accounts } from "#core/account.js";
import { compare } from "#core/compare.js";
import { measure } from "#core/metrics.js";
import { plural } from "#core/reasons.js";
import { rows } from "#core/sidebyside.js";
import { story } from "#core/story.js";
import { twinStep } from "#core/sync.js";
import { timelineOf } from "#core/timeline.js";
import { traceOf } from "#core/trace.js";
import { parseKnob } from "#board/knobs.js";
import { loadWorkbench } from "#net/history.js";
import { hasServer } from "#net/home.js";

const LIVE_PAUSE_MS = 1000; // a run that grows is compared anew at most so often

export class Pair {
  constructor(board) {
    this.board = board;
    this.clear();
    this.offers = null; // the workbench's knobs
    this.changes = {}; // name → new value, of a fork to come
    this.fromStart = true; // or from the step at which the cursor stands
    this.all = false; // every row of the table, not only the first six
    this.opened = new Set(); // rows whose account is shown
  }

  clear() {
    this.away = null; // the side that is not on the Board: {run, lives, front, frontEvents, at, store}
    this.flipped = false; // is B on the Board?
    this.byToken = false;
    this.wanted = null; // the id of a run that is being loaded
    this.notice = "";
    this.busy = false;
    this.known = null;
  }

  get on() {
    return this.away !== null;
  }

  get #here() {
    const { run, lives, front, frontEvents, at, store } = this.board;
    return { run, lives, front, frontEvents, at, store };
  }

  get a() {
    return this.flipped ? this.away : this.#here;
  }

  get b() {
    return this.flipped ? this.#here : this.away;
  }

  // In Compare B takes A's colours, by name.
  hueOf(req) {
    return this.a?.store?.hues.of[req] ?? this.b?.store?.hues.of[req] ?? -1;
  }

  // Other runs, those of the same workload first.
  get candidates() {
    const own = this.a.run;
    const same = (run) => run.header?.name && run.header.name === own?.header?.name;
    const others = this.board.runs.filter((run) => run.id !== own?.id && !run.error);
    return [...others.filter(same), ...others.filter((run) => !same(run))];
  }

  // --- to have two ---------------------------------------------------------------------------

  async load(id) {
    const { board } = this;
    if (this.flipped) this.flip();
    if (board.horizon.on) {
      this.notice = "Another run would tell what comes next: end the prediction first (Q).";
      return board.changed();
    }
    [this.wanted, this.notice, this.away, this.known] = [id, "", null, null];
    board.changed();
    const { run } = board;
    try {
      const side = await board.loadSide(id);
      if (this.wanted !== id || board.run?.id !== run.id) return; // another one was picked meanwhile
      this.away = side;
    } catch (error) {
      if (this.wanted === id) this.notice = error.message;
    }
    this.wanted = null;
    if (this.on) board.say(this.verdict);
    board.resized();
  }

  // Another run was opened as A: B stays beside it.
  aOpened(run) {
    const other = this.flipped ? null : this.away;
    const { byToken } = this;
    this.clear();
    if (other && other.run.id !== run.id) [this.away, this.byToken] = [other, byToken];
    this.changes = {};
  }

  drop() {
    if (this.flipped) this.flip();
    this.clear();
    this.board.changed();
  }

  // What comes from the live engine while B is on the Board belongs to A: this side, else null.
  get growing() {
    return this.flipped && this.away.run.kind === "live" ? this.away : null;
  }

  flip() {
    if (!this.on) return;
    const { board } = this;
    const step = this.twin(board.step);
    const { away } = this;
    this.away = this.#here;
    this.flipped = !this.flipped;
    Object.assign(board, away);
    board.memos.clear();
    board.player.open(board.store, step);
    const { chosen } = board.focus;
    if (chosen?.req && !board.knows(chosen.req)) board.focus.chosen = null;
    board.focus.hover = null;
    board.say(`${this.flipped ? "B" : "A"}: ${board.run.label || board.run.id}, step ${step}`);
    board.changed();
  }

  // --- a fork ----------------------------------------------------------------------------------

  async askForKnobs() {
    if (this.offers || !hasServer) return;
    this.offers = { knobs: [], scenarios: [] };
    try {
      this.offers = await loadWorkbench();
    } catch (error) {
      this.notice = error.message;
    }
    this.board.changed();
  }

  // The step before which the knobs change. 1: from the start.
  get since() {
    return this.fromStart ? 1 : Math.min(Math.max(this.board.step, 1), this.board.lastStep);
  }

  // The knob as A has it there.
  valueOf(knob) {
    if (knob.name in this.changes) return this.changes[knob.name];
    const { store } = this.a;
    const config = this.fromStart ? store?.stateAfter(store.firstStep).config : store?.stateAfter(Math.max(this.since - 1, store.firstStep)).config;
    return config?.[knob.name] ?? knob.default;
  }

  set(knob, text) {
    this.notice = ""; // it was about what stood there before
    delete this.changes[knob.name];
    const value = parseKnob(knob, text);
    if (value !== this.valueOf(knob)) this.changes[knob.name] = value;
    this.board.changed();
  }

  setFromStart(on) {
    this.fromStart = on;
    this.notice = "";
    if (!on) for (const { name, live } of this.offers.knobs) if (!live) delete this.changes[name];
    this.board.changed();
  }

  // Why no fork can be made here; "" where it can.
  get refusal() {
    const { engine } = this.board;
    const { run } = this.a;
    const whose = hasServer ? "This run was read from your file and is not on the server." : "This page is one file, without a server.";
    if (run?.lives) return `${whose} On the command line: minivllm fork FILE${this.fromStart ? "" : ` --at-step ${this.since}`} --set KEY=VALUE`;
    if (this.offers && !this.offers.knobs.length) return "This server only shows runs: minivllm fork makes one on the command line.";
    if (!engine.linked) return "There is no connection to the server.";
    if (!engine.driver) return "Only the driver may run anything.";
    if (this.a.store?.lastStep === 0) return "Nothing has run yet.";
    return "";
  }

  async fork() {
    const { board } = this;
    const { run, at } = this.a;
    this.busy = true;
    this.notice = "";
    board.changed();
    try {
      const wish = { run: run.id, stream: at.stream, life: at.life, step: this.since, knobs: this.changes };
      const { run: id, placeholders } = await board.engine.channel.command("fork", wish);
      await board.refreshRuns();
      await this.load(id);
      const each = Object.entries(placeholders).map(([req, n]) => `${req} ${n}`);
      if (each.length) this.notice = `Placeholders stand for tokens that were never recorded: ${each.join(", ")}.`;
    } catch (error) {
      this.notice = error.message;
    }
    this.busy = false;
    board.changed();
  }

  // --- what they come to -------------------------------------------------------------------------

  // {a, b, comparison, rows, accounts, timelines}; made anew when a run has grown.
  get result() {
    if (!this.on) return null;
    const { a, b, board } = this;
    if (!a.store?.config || !b.store?.config) return null;
    const key = [a.store, b.store];
    const old = this.known;
    const same = old && old.key.every((store, i) => store === key[i]);
    const now = board.clock.now();
    const seq = a.store.seq + b.store.seq;
    if (same && (old.seq === seq || now - old.at < LIVE_PAUSE_MS)) return old;
    const [first, second] = [a, b].map((side) => traceOf(side.store, side.run.header));
    const comparison = compare(first, second);
    this.known = {
      key, seq, at: now, a: first, b: second, comparison,
      rows: rows(measure(first), measure(second)),
      accounts: comparison.notComparable ? new Map() : accounts(first, second),
      timelines: [timelineOf(a.store), timelineOf(b.store)],
    };
    return this.known;
  }

  get verdict() {
    const { comparison } = this.result ?? {};
    if (!comparison) return "";
    if (comparison.notComparable) return `Only the numbers can be compared: ${comparison.notComparable}.`;
    if (comparison.first) return `First other decision: step ${comparison.first.step}`;
    const [steps] = comparison.steps;
    if (comparison.same) return `The same in all ${plural(steps, "step")}.`;
    const { token } = comparison;
    if (token) return `The same decisions in all ${plural(steps, "step")}; ${token.req} says other tokens from step ${token.step} on.`;
    return `The same decisions in all ${plural(steps, "step")}.`;
  }

  // --- one cursor ----------------------------------------------------------------------------------

  // The step of the side that is not on the Board.
  twin(step) {
    const { result, board } = this;
    const { store } = this.away;
    const most = Math.min(Math.max(step, store.firstStep), store.lastStep);
    if (!result || !this.byToken || result.comparison.notComparable) return most;
    const { a, b } = result;
    const [here, there] = this.flipped ? [b, a] : [a, b];
    return twinStep(here, there, step, board.focus.chosen?.req ?? null);
  }

  // Of A (0) or B (1).
  stepOf(side) {
    return (side === 1) === this.flipped ? this.board.step : this.twin(this.board.step);
  }

  // Put the cursor on a step of A or of B: the other follows.
  seek(side, step) {
    if ((side === 1) === this.flipped || !this.byToken) return this.board.travel.seek(step);
    const { a, b } = this.result;
    const [from, to] = side === 1 ? [b, a] : [a, b];
    return this.board.travel.seek(twinStep(from, to, step, this.board.focus.chosen?.req ?? null));
  }

  headline(side) {
    const { store } = side === 0 ? this.a : this.b;
    const step = this.stepOf(side);
    const behind = this.board.step > store.lastStep && !this.byToken;
    if (behind) return `This run has ended after ${plural(store.lastStep, "step")}.`;
    if (step <= store.firstStep) return "Nothing has run yet.";
    return story(store.stateAfter(step - 1), store.eventsOf(step)).headline;
  }

  // --- in the address ----------------------------------------------------------------------------

  get params() {
    const id = this.away ? this.b.run.id : this.wanted;
    if (!id) return {};
    return { with: id, ...(this.flipped ? { side: "b" } : {}), ...(this.byToken ? { by: "token" } : {}) };
  }

  // What an address says of B, when A is open.
  async take({ with: id = null, side = null, by = null }) {
    if (!id) return this.on ? this.drop() : undefined;
    const given = this.away ? this.b.run.id : this.wanted;
    if (given !== id) await this.load(id);
    if (!this.on) return undefined;
    this.byToken = by === "token";
    if ((side === "b") !== this.flipped) this.flip();
    return this.board.changed();
  }
}
