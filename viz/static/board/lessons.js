// The lessons at the left edge: which there are, the one that is open, how far its reader is.
//
// A lesson's walk is a tour (board/tour.js) on the lesson's own run; its knobs run its scenario anew
// on the server's workbench. What was predicted is kept in this browser.

import { parseKnob } from "#board/knobs.js";
import { Tour } from "#board/tour.js";
import { loadLesson, loadLessons, loadWorkbench } from "#net/history.js";

export const TABS = [
  ["read", "Read"],
  ["walk", "Walk"],
  ["change", "Change"],
  ["hints", "Hints"],
  ["check", "Check"],
];

export class Lessons {
  constructor(board) {
    this.board = board;
    this.shown = false;
    this.list = null; // null: not fetched yet
    this.trouble = ""; // why there is none, or what is wrong with the reader's progress
    this.lesson = null; // the one that is open
    this.tab = "read";
    this.answers = {}; // stop → {choice, truth}
    this.hints = {}; // heading → how many are open
    this.knobs = []; // those that may be turned
    this.values = {};
    this.last = null; // the run that was made with changed knobs
    this.notice = "";
    this.busy = false;
  }

  // For the address.
  get params() {
    return this.shown && this.lesson ? { lesson: this.lesson.slug } : {};
  }

  async toggle() {
    return this.shown ? this.close() : this.open(this.lesson?.slug);
  }

  async open(slug = null) {
    this.shown = true;
    this.board.resized();
    await this.#fetchList();
    if (slug && slug !== this.lesson?.slug) await this.choose(slug);
    this.board.changed();
    this.board.focusRail();
  }

  close() {
    this.shown = false;
    if (this.board.tour?.isLesson) this.board.tour.finish();
    this.board.say("The lesson is closed.");
    this.board.resized();
  }

  async #fetchList() {
    try {
      const { lessons, trouble } = await loadLessons();
      [this.list, this.trouble] = [lessons, trouble];
    } catch (error) {
      [this.list, this.trouble] = [this.list ?? [], error.message];
    }
  }

  async choose(slug) {
    const { board } = this;
    try {
      this.lesson = await loadLesson(slug);
    } catch (error) {
      [this.lesson, this.trouble] = [null, error.message];
      return board.changed();
    }
    const kept = JSON.parse(board.recall(this.#key) ?? "{}");
    Object.assign(this, { tab: "read", answers: kept.answers ?? {}, hints: kept.hints ?? {}, values: {}, last: null, notice: "" });
    const { knobs = [] } = await loadWorkbench().catch(() => ({}));
    const names = this.lesson.tour?.change?.knobs ?? [];
    this.knobs = names.map((name) => knobs.find((knob) => knob.name === name)).filter(Boolean);
    return board.changed();
  }

  // Back to the list.
  leave() {
    if (this.board.tour?.isLesson) this.board.tour.finish();
    this.lesson = null;
    this.board.changed();
  }

  show(tab) {
    this.tab = tab;
    this.board.changed();
  }

  get #key() {
    return `lesson.${this.lesson.slug}`;
  }

  #keep() {
    this.board.remember(this.#key, JSON.stringify({ answers: this.answers, hints: this.hints }));
    this.board.changed();
  }

  // --- the walk ----------------------------------------------------------------------------------

  // Its tour, while it is under way.
  get tour() {
    const { tour } = this.board;
    return tour?.isLesson && tour.on ? tour : null;
  }

  async walk() {
    const { board, lesson } = this;
    if (board.run?.id !== lesson.run) await board.openRun(lesson.run, { step: 0 });
    if (!board.store?.config) return;
    board.tour = new Tour(board, lesson.tour, (stop, choice, truth) => {
      this.answers[stop] = { choice, truth };
      this.#keep();
    });
    this.tab = "walk";
    board.tour.start(false);
    board.tour.next();
  }

  // The walk has come to its end.
  walked() {
    this.show(this.lesson.tour.change ? "change" : "check");
    this.board.focusRail();
  }

  // --- hints -------------------------------------------------------------------------------------

  hint(heading) {
    this.hints[heading] = (this.hints[heading] ?? 0) + 1;
    this.#keep();
  }

  // --- other knobs ---------------------------------------------------------------------------------

  valueOf(knob) {
    return this.values[knob.name] ?? this.#original[knob.name] ?? knob.default;
  }

  // As the lesson's run has them, where that is known.
  get #original() {
    const config = this.board.runs.find((run) => run.id === this.lesson.run)?.header?.config ?? {};
    return { ...config.cache, ...config.scheduler };
  }

  turn(knob, text) {
    const value = parseKnob(knob, text);
    if (value === (this.#original[knob.name] ?? knob.default)) delete this.values[knob.name];
    else this.values[knob.name] = value;
    this.board.changed();
  }

  async runAnew() {
    const { board } = this;
    this.busy = true;
    board.changed();
    try {
      this.last = await board.engine.channel.command("simulate", { scenario: this.lesson.scenario, knobs: this.values });
      this.notice = "";
      await board.refreshRuns();
      await board.openRun(this.last, { step: 0 });
    } catch (error) {
      this.notice = error.message;
    } finally {
      this.busy = false;
      board.changed();
    }
  }

  // The lesson's run and the new one, side by side.
  async compare() {
    const { board } = this;
    if (board.run?.id !== this.lesson.run) await board.openRun(this.lesson.run, { step: 0 });
    board.frame.show("compare");
    await board.pair.load(this.last);
  }
}
