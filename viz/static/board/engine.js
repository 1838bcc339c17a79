// The live engine as the page sees it: how far it is, its gate, and what may be asked of it.

import { findRequest } from "#net/history.js";
import { hasServer } from "#net/home.js";

const FOLLOW_TRIES = 20; // no more: a paused engine may say nothing for long
const FOLLOW_EVERY_MS = 250;
const OF_THE_GATE = ["pause", "resume", "step", "phase", "event", "until", "rate"]; // see viz/commands.py
const WORKLOAD = "shared-prefix"; // eight prompts that begin alike

export class EngineLink {
  constructor(board) {
    this.board = board;
    this.channel = null;
    this.status = null; // {state, text, remedy}: installing … ready
    this.driver = false; // may this page steer?
    this.gates = null; // {mode: run | pause, rate, engines: number → {mode, rate}, of several}
    this.alone = false; // of several engines, is only the one that is shown steered?
    this.goal = null; // {words, engine}: where the gate was asked to hold, by whichever page
    this.linked = true; // is the connection up?
    this.refused = false; // is there a server, which no longer lets this page in?
    this.lag = 0; // events that this page is behind and fetches
    this.notice = "";
    this.armed = null; // {store, after: step, words}: asked for, and not yet told of by the engine
  }

  get shown() {
    return Number(this.board.at.stream.slice("engine".length));
  }

  // What keeps this page from what is going on, and passes by itself: {what, cause, red, action}, or null.
  get lost() {
    const { isLive, lastStep } = this.board;
    if (this.refused) {
      const cause = "The server was started anew, and with it the class: its code is another one.";
      return { what: "This page is no longer let in.", cause, red: true, action: { text: "Type the new code", run: () => location.assign("/") } };
    }
    if (!this.linked) {
      const cause = isLive ? `What you see is from step ${lastStep}; it tries again by itself.` : "What is open can still be read; it tries again by itself.";
      return { what: "The connection to the server is lost.", cause, red: true };
    }
    if (!isLive || !this.channel?.gone) return null;
    const action = { text: "Open it anew", run: () => this.board.openRun(this.board.run.id) };
    return { what: "The engine of this run is no longer there.", cause: `What you see is from step ${lastStep}; the page follows the next one as soon as it is ready.`, red: true, action };
  }

  // The gate of the engine that is shown: what the page tells of and what space goes by.
  get gate() {
    return this.gates?.engines?.[this.shown] ?? this.gates;
  }

  // Of any of several engines: {mode, rate}; null where there is one, or that one does not live.
  gateOf(stream) {
    return (this.board.isLive && this.gates?.engines?.[stream.slice("engine".length)]) || null;
  }

  // Is there a choice of whom the gate steers?
  get several() {
    return this.board.isLive && this.driver && Object.keys(this.gates?.engines ?? {}).length > 1;
  }

  steerAlone(on) {
    this.alone = on;
    this.board.say(on ? `Pause, step, pace and stops are for engine ${this.shown} alone now.` : "Pause, step, pace and stops are for all engines now.");
    this.board.changed();
  }

  // May a prompt be sent now, and if not, why?
  get canSend() {
    const live = this.board.runs.some((run) => run.kind === "live");
    if (!hasServer) return { ready: false, reason: "a file has no engine" };
    if (!this.linked) return { ready: false, reason: "no connection to the server" };
    if (live && this.driver) return { ready: true, reason: "" };
    if (live) return { ready: false, reason: "only the driver may send prompts" };
    return { ready: false, reason: this.status ? `engine: ${this.status.text}` : "no engine here" };
  }

  // Ask the engine; null when it refused, and the prompt box says why.
  async ask(op, value) {
    try {
      const one = this.several && this.alone && OF_THE_GATE.includes(op) ? this.shown : null;
      const answer = await this.channel.command(op, value, one);
      this.notice = "";
      return { answer };
    } catch (error) {
      this.notice = error.message;
      return null;
    } finally {
      this.board.changed();
    }
  }

  // What was refused has been changed.
  clearNotice() {
    if (!this.notice) return;
    this.notice = "";
    this.board.changed();
  }

  async sendPrompt(event) {
    event.preventDefault();
    const field = event.target.closest("form").elements.prompt;
    const prompt = field.value;
    if (!prompt.trim()) return;
    const sent = await this.ask("submit", prompt);
    if (!sent) return;
    if (field.value === prompt) field.value = ""; // not what was typed meanwhile
    if (this.gate?.mode === "pause") this.notice = "The engine is paused: → runs one step.";
    await this.goLive();
    await this.#follow(sent.answer);
  }

  // To the engine that the router has sent it to, once an engine has said that it came.
  async #follow(request) {
    const { board } = this;
    if (board.engines.length < 2) return;
    for (let tries = 0; tries < FOLLOW_TRIES && board.isLive; tries++) {
      const found = await findRequest(board.run.id, request).catch(() => null);
      if (found) {
        if (found.stream !== board.at.stream) await board.showEngine(found.stream);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, FOLLOW_EVERY_MS));
    }
  }

  async runWorkload(name = WORKLOAD) {
    if (await this.ask("workload", name)) await this.goLive();
  }

  // Whoever sent something wants to see it.
  async goLive() {
    const { board } = this;
    if (!board.isLive) await board.openRun("live");
    else board.travel.end();
  }
}
