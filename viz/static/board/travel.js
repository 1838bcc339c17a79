// Moving through the steps. The reader's cursor is theirs: nothing but a key, a button or a link
// moves it, except that a reader who stands at the head of a live run goes along with it.
//
// At the head of a live run, space, → and the speed are the engine's, for the driver: pause it, let
// it make one step, make it faster. Going back never touches the engine.

import { nextSpeed } from "#core/clock.js";

const FULL_SPEED_AFTER = 50; // steps per second; one faster is no limit at all

export class Travel {
  constructor(board) {
    this.board = board;
    this.player = board.player;
  }

  // The driver, at the head of the live run.
  get steers() {
    const { board } = this;
    return board.isLive && this.player.following && board.engine.driver && board.engine.gate !== null;
  }

  get moving() {
    const { board, player } = this;
    if (!board.isLive || !player.following) return player.playing;
    return board.engine.gate?.mode === "run" && !board.idle;
  }

  get pace() {
    const { board, player } = this;
    return board.isLive && player.following && board.engine.gate ? board.engine.gate.rate : player.speed;
  }

  // Every move ends what is under way.
  #move(action) {
    const { board, player } = this;
    if (!board.store?.config) return;
    player.playing = false;
    board.wanted = null;
    action();
    player.following = board.isLive && player.following && player.atHead;
    board.focus.term = null;
    board.changed();
  }

  on() {
    const { board, player } = this;
    if (board.predict.on && player.atHead) return void board.predict.step();
    const held = this.steers && board.engine.gate.mode === "pause";
    if (held && player.atHead) return void board.engine.ask("step", 1);
    board.tour?.passBy();
    return this.#move(() => {
      if (player.event !== null) player.place(player.step);
      else player.advance(board.clock.now());
    });
  }

  back() {
    const { board, player } = this;
    this.#move(() => {
      player.following = false;
      player.place(player.event !== null ? player.step : player.step - 1);
      board.cutBack();
    });
  }

  // One event, inside the step. At the head of a held engine the engine makes it.
  walk(direction) {
    const { board, player } = this;
    if (direction > 0 && this.steers && player.atHead && board.engine.gate.mode === "pause") return void board.engine.ask("event");
    return this.#move(() => player.walk(direction));
  }

  // `event`: within the step, how many of its events are shown.
  seek(step, event = null) {
    const { board, player } = this;
    this.#move(() => {
      player.following = board.isLive && step >= board.lastStep && event === null;
      player.place(step, event);
    });
  }

  home() {
    this.seek(this.board.firstStep);
  }

  end() {
    this.seek(this.board.lastStep);
  }

  toggle() {
    const { board, player } = this;
    if (!board.store?.config) return;
    if (this.steers) return void (board.engine.gate.mode === "run" ? board.engine.ask("pause") : board.breaks.letGo());
    if (player.playing) player.pause();
    else if (player.following) player.following = false;
    else if (board.isLive && player.atHead) player.following = true;
    else player.play(board.clock.now());
    board.focus.term = null;
    board.changed();
  }

  faster(direction) {
    const { board, player } = this;
    if (this.steers) {
      const rate = board.engine.gate.rate || 2 * FULL_SPEED_AFTER;
      const limit = direction > 0 && rate >= FULL_SPEED_AFTER ? 0 : nextSpeed(rate, direction);
      return void board.engine.ask("rate", limit);
    }
    player.speed = nextSpeed(player.speed, direction);
    board.changed();
  }

  // A presenter's clicker: the run's stops where it has some, else steps.
  stop(direction) {
    const { board } = this;
    const { tour, predict, step } = board;
    if (direction > 0 && predict.on) return void predict.next();
    if (direction > 0 && tour?.on) return void tour.next();
    const stops = (tour?.script.stops ?? []).map((stop) => stop.step ?? stop);
    const target = direction > 0 ? stops.find((k) => k > step) : stops.findLast((k) => k < step);
    if (target !== undefined) return void this.seek(target);
    if (direction > 0) this.on();
    else this.back();
  }

  // The next or previous step in which something happened to the chosen request.
  jump(direction) {
    const { board } = this;
    const steps = board.store?.index.get(board.focus.req) ?? [];
    const target = direction > 0 ? steps.find((k) => k > board.step) : steps.filter((k) => k < board.step).pop();
    if (target !== undefined) this.seek(target);
  }

  goto(event) {
    event.preventDefault();
    const field = event.target.elements.step;
    const step = Number.parseInt(field.value, 10);
    if (Number.isFinite(step)) this.seek(step);
    field.value = String(this.board.step);
    field.blur();
  }
}
