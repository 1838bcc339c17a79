// Breakpoints: where play stops, and where the driver's engine is held. A recording stops at the event
// itself, as the engine's gate does; both know the same words (core/breaks.js, trace/until.py).

import { ahead, breakAt, findStop, stopIn, stopsAt } from "#core/breaks.js";
import { eventWords } from "#core/words.js";

export class Breaks {
  constructor(board) {
    this.board = board;
    this.list = []; // {words, matches}
    this.notice = ""; // why words were not taken, or nothing was found
    this.known = { store: null }; // steps with a stop, as far as they have been looked for
    board.player.stops = (step, shown) => (this.list.length ? stopIn(board.player.store, this.list, step, shown) : 0);
  }

  get words() {
    return this.list.map(({ words }) => words).join(" or ");
  }

  has(words) {
    return this.list.some((each) => each.words === words);
  }

  toggle(words) {
    if (this.has(words)) this.list = this.list.filter((each) => each.words !== words);
    else {
      try {
        this.list = [...this.list, breakAt(words)];
      } catch (error) {
        this.notice = error.message;
        return this.board.changed();
      }
    }
    this.notice = "";
    this.known = { store: null };
    this.#tellEngine();
    return this.board.changed();
  }

  add(event) {
    event.preventDefault();
    const field = event.target.elements.words;
    const words = field.value.trim().split(/\s+/).join(" ");
    if (this.has(words)) return;
    this.toggle(words);
    if (this.has(words)) field.value = "";
  }

  // Of an engine that runs, the gate must know at once.
  #tellEngine() {
    const { travel, engine } = this.board;
    if (travel.steers && engine.gate.mode === "run") this.letGo();
  }

  // The engine goes on: to the next breakpoint, if there is one.
  letGo() {
    const { engine, store, lastStep } = this.board;
    const under = store?.pending.find(({ kind }) => kind === "step.begin")?.step ?? lastStep;
    const words = ahead(this.list, under);
    return words ? engine.ask("until", words) : engine.ask("resume");
  }

  // To the next (+1) or the previous (−1) stop. At the head of a live run the engine runs until there.
  go(direction) {
    const { board } = this;
    if (!board.store?.config) return undefined;
    if (!this.list.length) return board.open("breaks");
    const at = findStop(board.store, this.list, board.player, direction);
    if (at) {
      this.notice = "";
      return board.travel.seek(at.step, at.event);
    }
    if (direction > 0 && board.travel.steers) return this.letGo();
    return this.#tell(direction > 0 ? "No breakpoint lies ahead." : "No breakpoint lies behind.");
  }

  #tell(words) {
    this.notice = words;
    this.board.focus.term = words;
    this.board.say(words);
    this.board.changed();
  }

  // The breakpoint at whose event the reader stands, or "".
  get here() {
    const { store, step, event } = this.board.player;
    if (!this.list.length || event === null || !store) return "";
    const told = store.eventsOf(step)[event - 1];
    return told ? (stopsAt(store, this.list, told) ?? "") : "";
  }

  // A live engine that is held inside a step: where, in words.
  get held() {
    const { board } = this;
    const { store, player, engine } = board;
    if (!board.isLive || engine.gate?.mode !== "pause" || !player.following || !store) return "";
    const begun = store.pending.findIndex(({ kind }) => kind === "step.begin");
    if (begun < 0) return "";
    const last = store.pending.at(-1);
    return `held inside step ${last.step}, ${eventWords(last, store.pending.length, "…")}${this.ofOthers ? ` · ${this.ofOthers}` : ""}`;
  }

  // What another driver's page has asked of the engine's gate, in words; "" where nobody has.
  get ofOthers() {
    const { isLive, engine } = this.board;
    const { words, engine: of } = engine.goal ?? {};
    if (!isLive || !words || (of !== null && of !== engine.shown)) return "";
    if (words.split(" or ").every((part) => this.words.split(" or ").includes(part))) return "";
    return engine.gate?.mode === "pause" ? `stopped by another page at “${words}”` : `runs until “${words}”, for another page`;
  }

  // The steps that have one, for the scrubber.
  get steps() {
    const { store } = this.board;
    if (!store || !this.list.length) return null;
    if (this.known.store !== store || this.known.first !== store.firstStep) {
      this.known = { store, first: store.firstStep, upTo: store.firstStep - 1, steps: new Set() };
    }
    const { known } = this;
    for (let k = known.upTo + 1; k <= store.lastStep; k += 1) if (stopIn(store, this.list, k)) known.steps.add(k);
    known.upTo = store.lastStep;
    return known.steps;
  }
}
