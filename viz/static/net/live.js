// The live channel: hello, welcome, lives, batch, ack, lag (viz/protocol.py tells the whole exchange).
// Two streams are followed: that of one engine, in one of its lives, and the front end's. Events of
// each arrive in order and without a gap here, or are fetched: the store never sees a hole.

import { io } from "socket.io-client";

import { FRONT } from "#core/lives.js";
import { loadRange, loadSnapshot } from "#net/history.js";
import { ask } from "#net/home.js";

const CUT_OFF = "The connection was cut before the answer came; whether it was done is not known.";
const INFLATES = "DecompressionStream" in globalThis;

async function parsed({ deflated }, bytes) {
  if (!deflated) return JSON.parse(new TextDecoder().decode(bytes));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

export class LiveChannel {
  // `on`: {events(stream, list), reset(), late(stream, snapshot), mayJump(stream), lives(list), status(s),
  // role(r), ofClass(name, message), runs(), link(up), gone(), refused(forGood), problem(text)}
  constructor(on, transports = ["websocket", "polling"]) {
    this.on = on;
    this.run = null;
    this.epoch = null; // of the run
    this.at = {}; // stream → {life, seq}: what is here
    this.turn = 0; // raised at each change of what is followed: late answers are dropped
    this.chain = Promise.resolve(); // batches are taken one after another
    this.nextId = 1;
    this.waiting = new Map(); // command id → [resolve, reject]
    this.gone = false; // the server has no such run, or not yet
    this.socket = io({ transports, tryAllTransports: true, reconnectionDelayMax: 2000 });
    const { socket } = this;
    socket.on("connect", () => {
      on.link(true);
      if (this.run) this.#hello();
      this.#show();
    });
    document.addEventListener("visibilitychange", () => this.#show());
    socket.on("disconnect", (reason) => {
      on.link(false);
      for (const [, reject] of this.waiting.values()) reject(new Error(CUT_OFF));
      this.waiting.clear();
      if (reason === "io server disconnect") socket.connect(); // only then not by itself
    });
    socket.on("connect_error", () => {
      on.link(false);
      this.#ask();
    });
    socket.on("status", (status) => on.status(status));
    socket.on("role", (role) => on.role(role));
    socket.on("gate", (gate) => on.gate(gate));
    socket.on("goal", (goal) => on.goal(goal));
    socket.on("runs", () => {
      on.runs();
      if (this.gone && this.run) this.#hello(); // perhaps it is there now
    });
    for (const name of ["class", "cursor", "crowd", "question", "reveal"]) {
      socket.on(name, (message) => on.ofClass(name, message));
    }
    socket.on("gone", ({ run }) => {
      if (run !== this.run) return;
      this.gone = true;
      on.gone();
    });
    socket.on("result", (result) => this.#settle(result));
    socket.on("welcome", (message) => this.#welcome(message));
    socket.on("lives", (about) => this.#queue(about, () => on.lives(about.lives)));
    socket.on("batch", (about, bytes) => this.#queue(about, () => this.#batch(about, bytes)));
    socket.on("lag", (about) => this.#queue(about, () => this.#catchUp(about)));
  }

  // Follow one life of an engine (null: the newest) from its beginning, and the front end's stream:
  // of the same run, from where that stands.
  follow(run, stream, life, again = false) {
    const front = (again && this.at[FRONT]) || { life: null, seq: 0 };
    if (!again) this.epoch = null;
    this.run = run;
    this.gone = false;
    this.at = { [stream]: { life, seq: 0 }, [FRONT]: front };
    this.turn += 1;
    if (this.socket.connected) this.#hello();
  }

  leave() {
    this.run = null;
    this.gone = false;
    this.turn += 1;
  }

  // Is this page no longer let in, since the server was started anew with another join code?
  async #ask() {
    const answer = await ask("/api/runs").catch(() => null);
    if (answer) this.on.refused(answer.status === 403);
  }

  // Ask something of the engine, or of the one of this number; resolves with its answer. Nothing is
  // kept for later: what somebody pressed while the connection was down must not happen to the
  // engine that is there afterwards.
  command(op, value, engine = null) {
    if (!this.socket.connected) return Promise.reject(new Error("There is no connection to the server: nothing was sent."));
    const id = this.nextId;
    this.nextId += 1;
    this.socket.emit("command", { id, op, value, engine });
    return new Promise((resolve, reject) => this.waiting.set(id, [resolve, reject]));
  }

  // Say something that has no answer of its own.
  tell(name, message) {
    if (this.socket.connected) this.socket.emit(name, message);
  }

  #settle({ id, ok, value, error }) {
    const [resolve, reject] = this.waiting.get(id) ?? [];
    this.waiting.delete(id);
    if (ok) resolve?.(value);
    else reject?.(new Error(error));
  }

  #hello() {
    this.socket.emit("hello", { run: this.run, epoch: this.epoch, streams: this.at, inflates: INFLATES });
  }

  // A page that nobody sees is sent no events; what it has missed comes when it is seen again.
  #show() {
    if (this.socket.connected) this.socket.emit("show", { hidden: document.hidden });
  }

  #welcome(message) {
    if (message.run !== this.run) return;
    this.gone = false;
    if (message.reset) {
      this.turn += 1;
      for (const stream of Object.keys(this.at)) this.at[stream] = { life: null, seq: 0 };
      this.on.reset();
    }
    this.epoch = message.epoch;
    this.on.lives(message.lives);
  }

  #queue(about, work) {
    const turn = this.turn;
    this.chain = this.chain
      .then(() => (turn === this.turn && about.run === this.run ? work() : null))
      .catch((error) => this.on.problem(error.message));
  }

  // Is it of what is followed? The newest life is known by its number once something of it came.
  #isOurs({ stream, life, epoch }) {
    const at = this.at[stream];
    if (!at || epoch !== this.epoch) return false;
    at.life ??= life;
    return at.life === life;
  }

  async #batch(about, bytes) {
    if (!this.#isOurs(about)) return this.#ack(about, about.to);
    const at = this.at[about.stream];
    if (about.from > at.seq + 1) await this.#fetch(about, at.seq + 1, about.from - 1);
    const { turn } = this;
    const events = await parsed(about, bytes);
    if (turn !== this.turn) return undefined; // something else was opened meanwhile
    this.#take(about, events);
    return this.#ack(about, about.to);
  }

  async #catchUp(about) {
    if (!this.#isOurs(about)) return this.#ack(about, about.head);
    const at = this.at[about.stream];
    this.on.lag(about.head - at.seq);
    if (about.snapshot && this.on.mayJump(about.stream)) {
      const turn = this.turn;
      const snapshot = await loadSnapshot(this.run, about);
      if (turn !== this.turn) return undefined;
      if (snapshot.seq > at.seq) {
        at.seq = snapshot.seq;
        this.on.late(about.stream, snapshot);
      }
    }
    await this.#fetch(about, at.seq + 1, about.head).finally(() => this.on.lag(0));
    return this.#ack(about, at.seq);
  }

  async #fetch(about, from, to) {
    const turn = this.turn;
    await loadRange(this.run, about, from, to, (events) => {
      if (turn !== this.turn) return false;
      this.#take(about, events);
      return true;
    });
  }

  #take({ stream }, events) {
    const at = this.at[stream];
    const fresh = events.filter((event) => event.seq > at.seq);
    if (!fresh.length) return;
    at.seq = fresh[fresh.length - 1].seq;
    this.on.events(stream, fresh);
  }

  #ack({ stream, life }, to) {
    this.tell("ack", { stream, life, to });
  }
}
