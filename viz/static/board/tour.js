// A tour: stops along a run, questions between them, perhaps a card at its end. The first minute is
// one, a lesson's walk another; what to stop at and to ask stands in tour.json (core/tour.js).
//
// The first minute on a page nobody has touched goes on by itself: a stop lasts eight seconds. The
// first key, touch or pointer move ends that for good. Esc ends a tour; that is remembered of the
// first minute, and Help offers it again. While a question is open, nothing is known beyond its step
// (board/horizon.js): no mark, no "next", no later step tells the answer.

import { REST } from "#core/clock.js";
import { answerOf, grade, nextStop, stopBefore } from "#core/tour.js";

const START_MS = 1000;
const STOP_MS = 8000;
const ALONE_SPEED = 0.5; // steps per second, while the page plays by itself at first
const SPEED = 1;

export class Tour {
  // `graded(stop, choice, truth)`: hears of each question that was answered.
  constructor(board, script, graded = null) {
    this.board = board;
    this.script = script;
    this.graded = graded;
    this.state = "off"; // off | ready | playing | stopped | asking | end
    this.at = -1; // the stop that was come to last
    this.target = -1; // the one that is played to
    this.alone = true; // nobody has touched the page
    this.began = 0; // when the state that counts down was entered
    this.verdict = null; // {words, step}: where they are true
    this.asked = new Set();
    this.hides = false; // is the future hidden, for a question?
  }

  get on() {
    return this.state !== "off";
  }

  get isLesson() {
    return this.graded !== null;
  }

  // The stop at which the reader stands.
  get stop() {
    const stop = this.script.stops[this.at];
    return stop?.step === this.board.step ? stop : null;
  }

  start(alone = true) {
    const { board } = this;
    this.speedBefore = board.player.speed;
    this.alone = alone && !board.player.reducedMotion;
    this.asked.clear();
    this.at = -1;
    this.verdict = null;
    board.player.following = false;
    board.player.place(board.firstStep);
    board.frame.show("board");
    this.#enter("ready");
  }

  #enter(state) {
    this.state = state;
    this.began = this.board.clock.now();
    this.#hide();
    this.board.changed();
  }

  // Also on the way back to a question that somebody has turned away from.
  #hide() {
    const back = this.hides && this.state === "playing" && this.script.stops[this.target].step <= this.board.horizon.step;
    if (back) return;
    const hides = this.state === "asking";
    if (hides) this.board.horizon.cut(this.script.stops[this.at].step);
    else if (this.hides) this.board.horizon.lift();
    this.hides = hides;
  }

  get #next() {
    return nextStop(this.script.stops, this.board.step, this.at, this.asked);
  }

  // Is this stop the last? Then the button leads to the end.
  get atLast() {
    return this.#next === null;
  }

  // A question stands before a step; who has gone elsewhere is no longer asked.
  get question() {
    return this.state === "asking" ? (this.stop?.ask ?? null) : null;
  }

  get asking() {
    return this.question !== null;
  }

  // Who stands where a question was answered reads what was true.
  get told() {
    return this.on && this.verdict?.step === this.board.step ? this.verdict.words : "";
  }

  // The button, and Space.
  next() {
    if (this.asking) return this.answer(null);
    if (this.state === "playing") return this.#arrive();
    const next = this.#next;
    if (next === null) return this.#end();
    this.verdict = null;
    return this.#playTo(next);
  }

  back() {
    const before = stopBefore(this.script.stops, this.board.step, this.at);
    if (before === null) return;
    this.asked.delete(before);
    this.target = before;
    this.#arrive();
  }

  #end() {
    if (this.script.end) return this.#enter("end");
    this.finish();
    return this.isLesson && this.board.lessons.walked();
  }

  #playTo(index) {
    const { player, clock } = this.board;
    const { step } = this.script.stops[index];
    this.target = index;
    if (step <= player.step) return this.#arrive();
    player.speed = this.alone && step <= this.script.alone_until ? ALONE_SPEED : SPEED;
    player.play(clock.now());
    return this.#enter("playing");
  }

  // At the stop at once, when somebody is in a hurry; else when the last beat has ended.
  #arrive() {
    const { player } = this.board;
    const stop = this.script.stops[this.target];
    player.playing = false;
    if (player.step !== stop.step) player.place(stop.step);
    this.at = this.target;
    this.#show(stop);
    if (stop.ask && !this.asked.has(this.at)) return this.#enter("asking");
    return this.#enter(this.atLast && this.script.end ? "end" : "stopped");
  }

  #show({ view, drawer, select, say }) {
    const { frame, focus } = this.board;
    if (view) frame.show(view);
    if (drawer !== undefined && drawer !== frame.drawerId) drawer === null ? frame.closeDrawer() : frame.toggle(drawer);
    if (select !== undefined) focus.chosen = select;
    if (say) this.board.say(say);
  }

  // `choice` null: skipped. Either way the tour goes on, and tells what it was.
  answer(choice) {
    const { ask } = this.script.stops[this.at];
    const truth = answerOf(this.board.wholeStore.eventsOf(ask.of.step), ask.of);
    this.asked.add(this.at);
    this.#enter("stopped"); // what comes may be seen
    if (choice !== null) this.graded?.(this.at, choice, truth);
    const next = this.#next;
    this.verdict = { words: grade(ask, choice, truth).words, step: ask.of.step };
    if (next === null) return this.#end();
    return this.#playTo(next);
  }

  // Take time into account; true while it needs more frames.
  frame(now) {
    const { player } = this.board;
    if (this.state === "playing") {
      const { step } = this.script.stops[this.target];
      if (player.step >= step) player.playing = false;
      if (player.step > step) this.#enter("stopped"); // the reader went on beyond: there they stay
      else if (player.step === step && player.beat === REST) this.#arrive();
      else if (!player.playing && !player.motion) this.#enter("stopped"); // a key took over
      return true;
    }
    if (!this.alone || !this.on) return false;
    if (this.left(now) > 0) return true;
    if (this.state !== "end") this.next();
    else if (this.board.engine.canSend.ready) this.runLive();
    return true;
  }

  // One step on from a question: who sees the answer is no longer asked.
  passBy() {
    if (this.asking) this.#enter("stopped");
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
    this.#hide();
    if (!this.isLesson) this.board.remember("tour", "seen");
    this.board.changed();
  }
}
