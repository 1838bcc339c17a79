// The Playground's state: the conversation, what is being typed, the request that is under way.
//
// The answer comes over the endpoint that every client uses; that it lives on the Board, too, is
// because the engine tells its steps there. It is kept in the browser's session, the key is not.

import { BROKEN_OFF, NO_CONNECTION, lifeLink, newTurn, pack, readParams, refusal, requestBody, takeChunk, unpack, withoutFirst } from "#core/chat.js";
import { plural } from "#core/reasons.js";
import { NO_SERVER, hasServer } from "#net/home.js";
import { Refused, loadOffers, streamChat } from "#net/chat.js";

const KEPT = "minivllm.chat";

export class Chat {
  constructor(board) {
    this.board = board;
    this.turns = [];
    this.typed = { max_tokens: "128" }; // parameter → as it was typed
    this.draft = "";
    this.key = ""; // an API key, as long as the page lives
    this.open = null; // {turn, abort} while an answer is under way
    this.looked = null; // {turn, answer, token}: the token that is looked at
    this.offers = null; // the workloads
    this.notice = "";
    this.unkept = false; // the conversation is too long for the browser's session
    this.#restore();
  }

  // Why nothing can be sent: {what, todo}; null if it can.
  get obstacle() {
    const { engine, runs } = this.board;
    if (!hasServer) return { what: NO_SERVER, todo: "minivllm demo brings one, or minivllm serve; open the page that they name." };
    if (runs.some((run) => run.kind === "live")) {
      return engine.linked ? null : { what: "There is no connection to the server.", todo: "It is looked for; this page need not be reloaded." };
    }
    const { status } = engine;
    if (status?.state === "failed") return { what: `The engine could not be started: ${status.text.replace(/^failed: /, "")}.`, todo: status.remedy ?? "" };
    if (status && status.state !== "ready") return { what: `The engine is not there yet: ${status.text}.`, todo: "The recorded run can be looked at meanwhile; this line goes when it is ready." };
    return { what: "There is no engine here, only recorded runs.", todo: "minivllm demo brings one, or minivllm serve; open the page that they name." };
  }

  get errors() {
    return readParams(this.typed).errors;
  }

  get last() {
    return this.turns.at(-1);
  }

  // --- the conversation ------------------------------------------------------------------------

  async send(ask = this.draft) {
    if (this.open || this.obstacle || !ask.trim()) return;
    const { values, errors } = readParams(this.typed);
    if (Object.keys(errors).length) return void this.#tell(Object.values(errors)[0]);
    const body = requestBody(this.turns, ask, values);
    const turn = newTurn(ask, performance.now());
    this.turns.push(turn);
    if (ask === this.draft) this.draft = "";
    this.open = { turn, abort: new AbortController() };
    this.notice = "";
    this.looked = null;
    await this.#watch();
    await this.#run(turn, body);
  }

  // Whoever asks sees the engine that answers, too.
  async #watch() {
    const { board } = this;
    if (!board.isLive) await board.openRun("live");
    board.changed();
  }

  async #run(turn, body) {
    const { signal } = this.open.abort;
    turn.sentAt = performance.now();
    try {
      const whole = await streamChat(body, {
        key: this.key,
        signal,
        on: { begun: (link) => (turn.life = lifeLink(link)), data: (data) => this.#take(turn, data) },
      });
      if (!turn.error) [turn.state, turn.error] = whole ? ["done", null] : ["failed", BROKEN_OFF];
    } catch (error) {
      if (signal.aborted) turn.state = "stopped";
      else [turn.state, turn.error] = ["failed", this.#explain(turn, error)];
    } finally {
      this.open = null;
      this.#keep();
      this.board.say(this.#ending(turn));
      this.board.changed();
    }
  }

  #take(turn, data) {
    if (data.error) [turn.state, turn.error] = ["failed", refusal(500, data)];
    else takeChunk(turn, data, performance.now());
    this.board.changed();
  }

  #explain(turn, error) {
    if (error instanceof Refused) return refusal(error.status, error.body, error.headers);
    if (error instanceof SyntaxError) return { what: "The stream cannot be read.", cause: error.message, todo: "again", again: null };
    return turn.life || turn.firstAt !== null ? BROKEN_OFF : NO_CONNECTION;
  }

  #ending(turn) {
    if (turn.error) return `${turn.error.what} ${turn.error.cause}`;
    const tokens = turn.usage ? `: ${plural(turn.usage.completion, "token")}` : "";
    return turn.state === "stopped" ? "Stopped." : `The answer has ended${tokens}.`;
  }

  // The server sees that the connection is gone, and the engine ends the request.
  stop() {
    if (!this.open) return false;
    this.open.abort.abort();
    return true;
  }

  // The last turn once more.
  again() {
    const { last } = this;
    if (this.open || !last) return undefined;
    this.turns.pop();
    return this.send(last.ask);
  }

  // The earliest turn is forgotten, and the last one sent once more.
  shorten() {
    const last = this.turns.pop();
    this.turns = withoutFirst(this.turns);
    return this.send(last.ask);
  }

  // Of several answers, the one that the conversation goes on with.
  choose(turn, index) {
    turn.chosen = index;
    this.#keep();
    this.board.changed();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.looked = null;
    this.#keep();
    this.board.say("The conversation is forgotten.");
    this.board.changed();
  }

  unlock(key) {
    this.key = key.trim();
    return this.again();
  }

  type(name, text) {
    this.typed[name] = text;
    this.#keep();
    this.board.changed();
  }

  look(what) {
    const same = ["turn", "answer", "token"].every((key) => this.looked?.[key] === what?.[key]);
    if (same) return;
    this.looked = what;
    this.board.changed();
  }

  // What its request is called on the Board, where the engine that is shown has it.
  requestOf(turn) {
    const { board } = this;
    const id = turn.life?.request;
    if (!id || !board.isLive || !board.store?.config) return null;
    turn.req ??= Object.entries(board.store.head.requests).find(([, { request_id: own, parent }]) => own === id || parent === id)?.[0];
    return board.knows(turn.req) ? turn.req : null;
  }

  // --- workloads ---------------------------------------------------------------------------------

  async fetchOffers() {
    if (this.offers) return;
    this.offers = { scenarios: [], about: {} };
    if (!hasServer) return;
    try {
      this.offers = await loadOffers();
    } catch (error) {
      this.offers.missing = error.message; // asked once more by a button, not by each rendering
    }
    this.board.changed();
  }

  offersAnew() {
    this.offers = null;
    return this.fetchOffers();
  }

  async runWorkload(name) {
    await this.board.engine.runWorkload(name);
    this.#tell(this.board.engine.notice || `${name} is under way.`);
  }

  #tell(words) {
    this.notice = words;
    this.board.say(words);
    this.board.changed();
  }

  // --- the browser's session -----------------------------------------------------------------------

  #keep() {
    try {
      sessionStorage.setItem(KEPT, pack(this.turns, this.typed));
      this.unkept = false;
    } catch {
      this.unkept = true;
    }
  }

  #restore() {
    let kept = null;
    try {
      kept = unpack(sessionStorage.getItem(KEPT) ?? "");
    } catch {
      this.unkept = true; // the browser keeps nothing for this page
    }
    if (!kept) return;
    this.turns = kept.turns;
    this.typed = kept.typed;
  }
}
