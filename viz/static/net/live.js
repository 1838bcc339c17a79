// The live channel: hello, welcome, batch, ack, lag (viz/protocol.py tells the whole exchange).
// Events arrive in order and without a gap here, or are fetched: the store never sees a hole.

import { io } from "socket.io-client";

import { loadRange, loadSnapshot } from "#net/history.js";

export class LiveChannel {
  // `on`: {events(list), reset(), late(snapshot), mayJump(), status(s), role(r), runs(), link(up), problem(text)}
  constructor(on, transports = ["websocket", "polling"]) {
    this.on = on;
    this.run = null;
    this.stream = "engine0";
    this.epoch = null;
    this.seq = 0;
    this.turn = 0; // raised at each change of run: late answers to an earlier one are dropped
    this.chain = Promise.resolve(); // batches are taken one after another
    this.nextId = 1;
    this.waiting = new Map(); // command id → [resolve, reject]
    this.socket = io({ transports, tryAllTransports: true, reconnectionDelayMax: 2000 });
    const { socket } = this;
    socket.on("connect", () => {
      on.link(true);
      if (this.run) this.#hello();
    });
    socket.on("disconnect", (reason) => {
      on.link(false);
      if (reason === "io server disconnect") socket.connect(); // only then not by itself
    });
    socket.on("connect_error", () => on.link(false));
    socket.on("status", (status) => on.status(status));
    socket.on("role", (role) => on.role(role));
    socket.on("gate", (gate) => on.gate(gate));
    socket.on("runs", () => on.runs());
    socket.on("gone", () => on.problem("the run is no longer there"));
    socket.on("result", (result) => this.#settle(result));
    socket.on("welcome", (message) => this.#welcome(message));
    socket.on("batch", (about, bytes) => this.#queue(about, () => this.#batch(about, bytes)));
    socket.on("lag", (about) => this.#queue(about, () => this.#catchUp(about)));
  }

  // Follow a run from `seq` on; the earlier events are here already.
  follow(run, seq = 0, epoch = null) {
    this.run = run;
    this.seq = seq;
    this.epoch = epoch;
    this.turn += 1;
    if (this.socket.connected) this.#hello();
  }

  leave() {
    this.run = null;
    this.turn += 1;
  }

  // Ask something of the engine; resolves with its answer.
  command(op, value) {
    const id = this.nextId;
    this.nextId += 1;
    this.socket.emit("command", { id, op, value });
    return new Promise((resolve, reject) => this.waiting.set(id, [resolve, reject]));
  }

  #settle({ id, ok, value, error }) {
    const [resolve, reject] = this.waiting.get(id) ?? [];
    this.waiting.delete(id);
    if (ok) resolve?.(value);
    else reject?.(new Error(error));
  }

  #hello() {
    this.socket.emit("hello", {
      run: this.run,
      epoch: this.epoch,
      streams: { [this.stream]: this.seq },
    });
  }

  #welcome(message) {
    if (message.run !== this.run) return;
    if (message.reset) {
      this.turn += 1;
      this.seq = 0;
      this.on.reset();
    }
    this.epoch = message.epoch;
  }

  #queue(about, work) {
    const turn = this.turn;
    this.chain = this.chain
      .then(() => (turn === this.turn && about.run === this.run ? work() : null))
      .catch((error) => this.on.problem(error.message));
  }

  async #batch(about, bytes) {
    if (about.stream !== this.stream || about.epoch !== this.epoch) return this.#ack(about.stream, about.to);
    if (about.from > this.seq + 1) await this.#fetch(this.seq + 1, about.from - 1);
    this.#take(JSON.parse(new TextDecoder().decode(bytes)));
    this.#ack(about.stream, about.to);
  }

  async #catchUp(about) {
    if (about.stream !== this.stream) return this.#ack(about.stream, about.head);
    if (about.snapshot && this.on.mayJump()) {
      const snapshot = await loadSnapshot(this.run, this.stream);
      if (snapshot.seq > this.seq) {
        this.seq = snapshot.seq;
        this.on.late(snapshot);
      }
    }
    await this.#fetch(this.seq + 1, about.head);
    this.#ack(this.stream, this.seq);
  }

  async #fetch(from, to) {
    const turn = this.turn;
    await loadRange(this.run, this.stream, from, to, (events) => {
      if (turn !== this.turn) return false;
      this.#take(events);
      return true;
    });
  }

  #take(events) {
    const fresh = events.filter((event) => event.seq > this.seq);
    if (!fresh.length) return;
    this.seq = fresh[fresh.length - 1].seq;
    this.on.events(fresh);
  }

  #ack(stream, to) {
    this.socket.emit("ack", { stream, to });
  }
}
