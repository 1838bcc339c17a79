// The weights that the lens shows, asked for piece by piece and kept as long as the run is open.

import { loadLens } from "#net/history.js";

const KEPT = 200;

export class Answers {
  constructor(board) {
    this.board = board;
    this.known = new Map();
    this.last = {}; // row | heads | matrix → the latest answer: {of, value}
    this.store = null; // that they belong to
  }

  // {state: asked | here | failed, value, words}. While it is asked, `value` is the one before of the
  // same step and request, so that nothing jumps; it is drawn dimmed.
  ask(req, what, asked) {
    const { board } = this;
    const { store, step } = board;
    if (this.store !== store) Object.assign(this, { store, known: new Map(), last: {} });
    const key = JSON.stringify([step, req, what, asked]);
    const known = this.known.get(key);
    if (known) return known;
    const last = this.last[what];
    const mine = { state: "asked", value: last?.of === `${step} ${req}` ? last.value : null, words: "" };
    this.known.set(key, mine);
    if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
    loadLens(board.run, board.at, step, req, what, asked)
      .then((value) => {
        Object.assign(mine, { state: "here", value });
        if (this.store === store) this.last[what] = { of: `${step} ${req}`, value };
      })
      .catch((error) => Object.assign(mine, { state: "failed", value: null, words: error.message }))
      .finally(() => this.store === store && board.changed());
    return mine;
  }
}
