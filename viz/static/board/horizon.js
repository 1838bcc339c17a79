// Nothing is known beyond a step: while a page asks what comes next, the Board's store is cut there.
// Views are pictures of that store, so the marks in the scrubber, “next” in the Why card, later steps
// of Life, Timeline and a block's history, and addresses that lie ahead are gone with it.

export class Horizon {
  constructor(board) {
    this.board = board;
    this.whole = null; // the store as it is
    this.frontEvents = null;
    this.step = null;
  }

  get on() {
    return this.whole !== null;
  }

  cut(step) {
    const { board } = this;
    if (!board.store?.config) return;
    if (board.pair.on) board.pair.drop(); // the other run tells what comes, too
    this.whole ??= board.store;
    this.frontEvents ??= board.frontEvents;
    const { whole } = this;
    this.step = Math.min(Math.max(step, whole.firstStep), whole.lastStep);
    board.player.following = false;
    this.#show(whole.upTo(this.step));
    board.frontEvents = this.#frontUpTo();
  }

  #frontUpTo() {
    const last = this.board.store.last?.t_ns ?? 0;
    return this.frontEvents.filter((event) => event.t_ns <= last);
  }

  #show(store) {
    const { board } = this;
    const { player } = board;
    board.store = player.store = store;
    if (player.step > store.lastStep) player.place(store.lastStep);
    board.memos.clear();
    board.changed();
  }

  // The front end has told more.
  takeFront(events) {
    this.frontEvents = [...this.frontEvents, ...events];
  }

  lift() {
    if (!this.on) return;
    const { whole, frontEvents } = this;
    this.forget();
    this.board.frontEvents = frontEvents;
    this.#show(whole);
  }

  // Another run or life has been opened.
  forget() {
    [this.whole, this.frontEvents, this.step] = [null, null, null];
  }
}
