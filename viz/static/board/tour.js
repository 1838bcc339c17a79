// The first minute: stops along a recording, one question, and at its end the live engine. What to
// stop at and to ask stands in the run's tour.json.
//
// A page nobody has touched goes on by itself: a stop lasts eight seconds. The first key, touch or
// pointer move ends that for good. Esc ends the tour; that is remembered, and Help offers it again.

import { REST } from "#core/clock.js";

const START_MS = 1000;
const STOP_MS = 8000;
const ALONE_SPEED = 0.5; // steps per second, while the page plays by itself at first
const SPEED = 1;

export class Tour {
  constructor(board, script) {
    this.board = board;
    this.script = script;
    this.state = "off"; // off | ready | playing | stopped | asking | end
    this.target = 0;
    this.alone = true; // nobody has touched the page
    this.began = 0; // when the state that counts down was entered
    this.verdict = "";
    this.asked = false;
  }

  get on() {
    return this.state !== "off";
  }

  start(alone = true) {
    const { board } = this;
    this.speedBefore = board.player.speed;
    this.alone = alone && !board.player.reducedMotion;
    this.asked = false;
    this.verdict = "";
    board.player.place(0);
    board.frame.show("board");
    this.#enter("ready");
  }

  #enter(state) {
    this.state = state;
    this.began = this.board.clock.now();
    this.board.changed();
  }

  // The next stop after where the reader stands; null at the end.
  get #nextStop() {
    return this.script.stops.find((step) => step > this.board.step) ?? null;
  }

  // Is this stop the last? Then the button leads to the end card.
  get atLast() {
    return this.#nextStop === null;
  }

  // The question stands before one step; who has gone elsewhere is no longer asked.
  get asking() {
    return this.state === "asking" && this.board.step === this.script.question.before - 1;
  }

  // The button, and Space.
  next() {
    if (this.asking) return this.answer(null);
    if (this.state === "playing") return this.#arrive();
    const stop = this.#nextStop;
    if (stop === null) return this.#enter("end");
    const { question } = this.script;
    const before = question ? question.before - 1 : null;
    const asks = !this.asked && question && this.board.step <= before && stop > before;
    this.verdict = "";
    if (asks && this.board.step === before) return this.#enter("asking");
    return this.#playTo(asks ? before : stop);
  }

  #playTo(step) {
    const { player, clock } = this.board;
    this.target = step;
    player.speed = this.alone && step <= this.script.alone_until ? ALONE_SPEED : SPEED;
    player.play(clock.now());
    this.#enter("playing");
  }

  // At the stop at once, when somebody is in a hurry; else when the last beat has ended.
  #arrive() {
    const { player } = this.board;
    player.playing = false;
    if (player.step < this.target) player.place(this.target);
    const { question } = this.script;
    if (question && !this.asked && player.step === question.before - 1) return this.#enter("asking");
    return this.#enter(this.#nextStop === null ? "end" : "stopped");
  }

  // `choice` null: skipped. Either way the step plays and tells who it was.
  answer(choice) {
    const { question } = this.script;
    this.asked = true;
    this.#playTo(question.before);
    this.verdict = choice === null ? "" : choice === question.answer ? question.right : question.wrong;
  }

  // Take time into account; true while it needs more frames.
  frame(now) {
    const { player } = this.board;
    if (this.state === "playing") {
      if (player.step >= this.target) player.playing = false;
      if (player.step >= this.target && player.beat === REST) this.#arrive();
      else if (!player.playing && !player.motion) this.#enter("stopped"); // a key took over
      return true;
    }
    if (!this.alone || !this.on) return false;
    if (this.left(now) > 0) return true;
    if (this.state !== "end") this.next();
    else if (this.board.engine.canSend.ready) this.runLive();
    return true;
  }

  // How much of the countdown is left, 1…0.
  left(now) {
    const whole = this.state === "ready" ? START_MS : STOP_MS;
    return this.alone && this.on && this.state !== "playing" ? Math.max(1 - (now - this.began) / whole, 0) : 0;
  }

  // Somebody is there.
  touched() {
    if (!this.alone) return;
    this.alone = false;
    this.board.changed();
  }

  runLive() {
    this.finish();
    return this.board.engine.runWorkload(this.script.end.workload);
  }

  ask() {
    this.finish();
    this.board.focusChat();
  }

  follow() {
    const { board } = this;
    const req = this.script.end.follow;
    this.finish();
    board.travel.seek(board.store.index.get(req)?.[0] ?? board.step);
    board.focus.choose({ req });
    board.frame.show("life");
  }

  finish() {
    if (!this.on) return;
    this.board.player.speed = this.speedBefore;
    this.state = "off";
    this.board.remember("tour", "seen");
    this.board.changed();
  }
}
