// Predict (Q): before a step that decides something, the page asks what it will be, and shows nothing
// beyond. The events grade. Where this page leads a class, the question goes to all, and the votes
// are counted until it reveals.

import { questionOf } from "#core/predict.js";

export class Predict {
  constructor(board) {
    this.board = board;
    this.forget();
  }

  forget() {
    this.state = "off"; // off | asking | told | waiting | over
    this.question = null;
    this.last = null; // {question, choice}: the last that was answered
    [this.right, this.answered] = [0, 0];
  }

  get on() {
    return this.state !== "off";
  }

  // Is it asked here, where the reader stands?
  get asking() {
    return this.state === "asking" && this.board.player.atHead;
  }

  get #leads() {
    return this.board.classroom.is.leads;
  }

  toggle() {
    if (this.on) return this.end();
    const { board } = this;
    if (!board.store?.config) return undefined;
    if (board.classroom.follows) return board.focus.tell("While this page follows, the teacher asks.");
    board.tour?.finish();
    board.player.playing = false;
    this.forget();
    this.state = "told";
    board.horizon.cut(board.player.following ? board.lastStep : board.step);
    this.#ask();
    return board.changed();
  }

  end() {
    if (this.#leads && this.question) this.board.classroom.tell({ op: "close" });
    this.forget();
    this.board.horizon.lift();
    this.board.say("The prediction has ended.");
    this.board.changed();
  }

  #questionBefore(step) {
    const { whole } = this.board.horizon;
    return step > whole.firstStep && step <= whole.lastStep ? questionOf(whole.stateAfter(step - 1), whole.eventsOf(step)) : null;
  }

  // The question before the next step, if there is one; true then.
  #ask() {
    const { board } = this;
    const question = this.#questionBefore(board.horizon.step + 1);
    if (!question) return false;
    [this.question, this.state, this.last] = [question, "asking", null];
    const { ask, choices } = question;
    this.askAll();
    board.say(`${ask} ${choices.map(({ text }) => text).join(", ")}`);
    return true;
  }

  // Where this page leads, what stands is a question for the class.
  askAll() {
    if (!this.#leads || this.state !== "asking") return;
    const { ask, choices } = this.question;
    this.board.classroom.tell({ op: "ask", ask, choices, place: this.board.place() });
  }

  // One step on, if nothing is asked before it.
  step() {
    const { board } = this;
    const { horizon, player } = board;
    if (this.asking || (horizon.step < horizon.whole.lastStep && this.#ask())) return board.changed();
    if (horizon.step >= horizon.whole.lastStep) return this.#atEnd();
    this.last = null;
    horizon.cut(horizon.step + 1);
    player.advance(board.clock.now());
    return board.changed();
  }

  // The button, and Space: skip (or, for a class, reveal), else on to the next question.
  next() {
    const { board } = this;
    const { horizon } = board;
    if (this.state === "asking") {
      if (!board.player.atHead) board.player.place(horizon.step);
      return this.#reveal(null);
    }
    for (let step = horizon.step + 1; step <= horizon.whole.lastStep; step += 1) {
      if (!this.#questionBefore(step)) continue;
      if (step - 1 > horizon.step) horizon.cut(step - 1);
      board.player.place(step - 1);
      this.#ask();
      return board.changed();
    }
    horizon.cut(horizon.whole.lastStep);
    board.player.place(horizon.step);
    return this.#atEnd();
  }

  #atEnd() {
    this.last = null;
    this.state = this.board.isLive && !this.board.horizon.whole.ended ? "waiting" : "over";
    return this.board.changed();
  }

  answer(choice) {
    if (!this.asking || this.#leads) return;
    this.answered += 1;
    if (this.question.answer.includes(choice)) this.right += 1;
    this.#reveal(choice);
  }

  #reveal(choice) {
    const { board, question } = this;
    const { horizon, player } = board;
    [this.last, this.question, this.state] = [{ question, choice }, null, "told"];
    horizon.cut(horizon.step + 1);
    player.advance(board.clock.now());
    if (this.#leads) board.classroom.tell({ op: "reveal", answer: question.answer, told: board.told().headline });
    if (choice !== null) board.say(this.verdict);
    board.changed();
  }

  // A live run has come further.
  grown() {
    const { horizon } = this.board;
    if (this.state !== "waiting" || horizon.whole.lastStep <= horizon.step) return;
    this.state = "told";
    this.next();
  }

  get verdict() {
    if (!this.last) return "";
    const { question, choice } = this.last;
    const truth = question.choices.filter(({ id }) => question.answer.includes(id)).map(({ text }) => text).join(" and ");
    if (choice === null) return `The answer: ${truth}.`;
    return question.answer.includes(choice) ? `Right: ${truth}.` : `No: ${truth}.`;
  }

  get score() {
    return `${this.right} of ${this.answered} right`;
  }
}
