// Life: one request from its arrival to its end. The way, the stair, the text, where its steps went.

import { html, nothing, render } from "lit-html";

import { lifeOf, livesIn, textOf } from "#core/life.js";
import { columnWords, endWords, summaryOf, tokenWords } from "#core/lifewords.js";
import { eventsOf } from "#core/family.js";
import { isOf } from "#core/stations.js";
import { wayOf } from "#core/way.js";
import { NO_MODEL } from "#core/say.js";
import { chip, visible } from "#view/parts.js";
import { theme } from "#view/theme.js";
import { register } from "#views/frame.js";
import { lifeList } from "#views/life/list.js";
import { stairSection } from "#views/life/stairbox.js";
import { lifeTables } from "#views/life/tables.js";
import { textSection } from "#views/life/text.js";
import { whereSection } from "#views/life/where.js";
import { waySection } from "#views/life/way.js";

const ASKED_SHOWN = 56; // characters of the prompt's end, so that the answer has room beside it
const REST_MS = 400; // what looks at all events of a live run is made anew only so often

class LifeView {
  board = null;
  main = null;
  unit = "steps";
  unfolded = false;
  promptOpen = false;
  station = null; // the one that is open
  why = false; // is the Why card open?
  cell = null; // the token under the cursor on cells
  point = null; // {step, row} under the pointer
  words = ""; // for the detail line
  late = {};
  timer = null;
  kept = {}; // what was made of the store, until it has more
  room = 1000;

  // --- what is shown, made of the shared state ----------------------------------------------------

  get req() {
    return this.board.focus.req ?? this.board.focus.before ?? null;
  }

  keep(name, about, make) {
    const { store, frontEvents } = this.board;
    const key = [store, store.seq, store.firstStep, frontEvents, about];
    const old = this.kept[name];
    if (!old?.key.every((part, i) => part === key[i])) this.kept[name] = { key, value: make() };
    return this.kept[name].value;
  }

  // The same for what costs more: of a run that grows it may be a little late.
  keepLate(name, about, make) {
    const { store, isLive } = this.board;
    const old = this.late[name];
    const young = old?.store === store && old.about === about && performance.now() - old.at < REST_MS;
    if (isLive && young) {
      this.timer ??= setTimeout(() => {
        this.timer = null;
        this.board.changed();
      }, REST_MS);
      return old.value;
    }
    const value = this.keep(name, about, make);
    this.late[name] = { store, about, value, at: performance.now() };
    return value;
  }

  get life() {
    return this.req === null ? null : this.keep("life", this.req, () => lifeOf(this.board.store, this.req));
  }

  // All that this page has of the run's streams.
  get streams() {
    const { board } = this;
    const front = { stream: "api", life: 1, events: board.frontEvents };
    if (board.run.lives) return [front, ...board.run.lives.filter(({ stream }) => stream !== "api")];
    const events = [...board.store.steps.values()].flatMap((step) => step.events);
    return [front, { ...board.at, events: [...events, ...board.store.pending] }];
  }

  // Of a sample or a prompt of a batch, too: what they share is found by it.
  get clientId() {
    return this.life.requestId;
  }

  get way() {
    return this.keepLate("way", this.req, () => wayOf(this.streams, this.clientId));
  }

  get events() {
    return this.keepLate("events", this.req, () => {
      const events = eventsOf(this.streams, this.clientId);
      return [...events, ...this.#shared()].sort((a, b) => a.t_ns - b.t_ns);
    });
  }

  // Events of whole steps in which it ran: the batch, the forward pass, the sampling.
  #shared() {
    const steps = this.life.columns.filter(({ ran }) => ran).map(({ step }) => this.board.store.eventsOf(step));
    return steps.flat().filter(({ kind }) => ["batch.compose", "exec.forward", "exec.tensors", "sample"].includes(kind));
  }

  get text() {
    return this.keep("text", this.req, () => textOf(this.life, this.board.frontEvents));
  }

  get chunkAt() {
    return this.keep("chunks", this.req, () => new Set(this.text.chunks));
  }

  eventsOf(station) {
    return this.events.filter((event) => isOf(station, event));
  }

  sourceOf(event) {
    if (!event) return null;
    const front = this.board.frontEvents.find(({ kind, data }) => kind === "run.source" && data.src === event.src);
    return event.stream === "api" ? (front?.data ?? null) : (this.board.store.sources.get(event.src) ?? null);
  }

  // The token of it that is selected, or under the pointer elsewhere.
  get token() {
    const { token } = this.board.focus;
    return token?.req === this.req ? token.position : null;
  }

  // The column under the cursor; past the end the last, before the arrival none.
  get column() {
    const { columns, ended } = this.life;
    const { step } = this.board;
    if (ended !== null && step > ended) return null;
    return columns.find((column) => column.step === step) ?? null;
  }

  // --- what the reader does --------------------------------------------------------------------

  follow(req) {
    Object.assign(this, { station: null, cell: null, why: false, promptOpen: false, point: null });
    this.board.focus.chosen = { req };
    this.board.changed();
    this.main.focus();
    const life = this.life;
    if (life) this.board.say(summaryOf(life));
  }

  set(fields) {
    Object.assign(this, fields);
    this.board.changed();
  }

  openStation(id) {
    this.set({ station: this.station === id ? null : id });
    queueMicrotask(() => this.main.querySelector(".station-card")?.scrollIntoView({ block: "nearest" })); // once it is drawn
  }

  togglePrompt() {
    this.set({ promptOpen: !this.promptOpen });
  }

  setUnit(unit) {
    this.set({ unit });
  }

  openBlock(block) {
    if (block === null) return;
    this.board.focus.before = this.req; // the request that is followed, while a block is looked at
    this.why = true;
    this.board.focus.choose({ block });
  }

  // A token takes every view to where it was said; one of the prompt to where it was computed.
  goToToken(index) {
    const token = this.life.tokens[index];
    const step = token.sampled ?? token.ran[0] ?? token.hits[0];
    this.board.focus.chosen = { req: this.req, position: index };
    if (step !== undefined) this.board.travel.seek(step);
  }

  pointAt(point) {
    this.point = point;
    this.words = point ? columnWords(this.life, point, this.board.store.config) : "";
    this.board.changed();
  }

  tokenWords(index) {
    return tokenWords(this.life, index, this.text.held);
  }

  // --- the picture -----------------------------------------------------------------------------

  update() {
    const { board, main } = this;
    if (!board.store?.config) return render(html`<p class="empty">No run is open.</p>`, main);
    if (board.focus.req) board.focus.before = null;
    const { life } = this;
    if (!life) return render(this.#list(), main);
    const hue = board.hueOf(life.req);
    main.className = `view life ${hue >= 0 ? `h${hue}` : "grey"}`;
    render(this.#page(life), main);
    this.#keepCursorInSight();
    return undefined;
  }

  #list() {
    const lives = this.keepLate("lives", "", () => livesIn(this.board.store));
    const gone = this.req === null ? nothing : html`<p class="empty">Nothing of ${this.req} is here: it ended before step ${this.board.firstStep + 1}, and those steps were not kept.</p>`;
    return html`${gone}${lifeList(lives, this)}`;
  }

  #page(life) {
    return html`${this.#head(life)}${waySection(life, this)}${stairSection(life, this)}${textSection(life, this)}${whereSection(life, this)}`;
  }

  #head(life) {
    const { board } = this;
    const said = life.tokens.slice(life.numPrompt).map(({ text }) => text).join("");
    const asked = life.tokens.slice(0, life.numPrompt).map(({ text }) => text).join("");
    return html`<header class="life-head">
      ${chip(board, life.req, board.hueOf(life.req), { flip: false })}
      <h2>${board.placeholders ? NO_MODEL : html`<q>${asked.length > ASKED_SHOWN ? "…" : ""}${visible(asked.slice(-ASKED_SHOWN))}</q> → <q class="said">${visible(said.slice(0, 160))}</q>`}</h2>
      <p>${endWords(life)}</p>
      <button class="tool" @click=${() => this.set({ why: !this.why })} aria-pressed=${this.why}>Why?</button>
      <button class="tool" @click=${() => this.all()}>all requests</button>
    </header>`;
  }

  all() {
    this.board.focus.before = null;
    this.board.focus.chosen = null;
    this.board.changed();
    this.main.focus();
  }

  #keepCursorInSight() {
    const scroll = this.main.querySelector(".stair-scroll");
    const { step } = this.board;
    if (!scroll || this.seen === `${this.req} ${step}`) return;
    this.seen = `${this.req} ${step}`;
    const at = this.stairData.layout.columns.find(({ item }) => (item.column ? item.column.step === step : step >= item.from && step <= item.to));
    if (!at) return;
    const [left, right] = [at.x * theme.scale, (at.x + at.width) * theme.scale];
    if (left < scroll.scrollLeft || right > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = left - scroll.clientWidth / 2;
  }

  // --- keys on tokens ----------------------------------------------------------------------------

  keys(event) {
    const { key } = event;
    if (this.cell !== null && event.target.closest?.("[data-cells]")) {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.life.size, ArrowUp: -this.life.size }[key];
      if (key === "Enter") this.goToToken(this.cell);
      else if (by) this.#moveTo(Math.min(Math.max(this.cell + by, 0), this.life.tokens.length - 1));
      else return false;
      return true;
    }
    if (key !== "Enter" || !event.target.matches?.("[data-cells]")) return false;
    this.#moveTo(this.life.numPrompt < this.life.tokens.length ? this.life.numPrompt : 0, "Cursor on tokens. ");
    return true;
  }

  #moveTo(index, prefix = "") {
    this.cell = index;
    this.words = this.tokenWords(index);
    this.board.say(prefix + this.words);
    this.board.changed();
  }

  // Esc: the innermost that is open. True if there was one.
  escape() {
    if (this.cell !== null) this.set({ cell: null, words: "" });
    else if (this.station) this.set({ station: null });
    else if (this.why) closeCard(this);
    else if (this.req !== null) this.all();
    else return false;
    return true;
  }
}

const view = new LifeView();

function closeCard(view) {
  view.why = false;
  const { focus } = view.board;
  if (focus.before) focus.chosen = { req: focus.before };
  focus.before = null;
  view.board.changed();
}

function measureRoom(board) {
  const style = view.main.isConnected ? getComputedStyle(view.main) : null;
  if (style) view.room = (view.main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)) / theme.scale;
}

function onPointer(event) {
  const token = event.target.closest?.("[data-token]");
  const words = token ? view.tokenWords(Number(token.dataset.token)) : "";
  if (event.target.closest?.("vz-stair") || words === view.words) return;
  view.words = words;
  view.board.changed();
}

register({
  id: "life",
  title: "Life",
  key: "l",
  named: true,

  mount(el, board) {
    Object.assign(view, { main: el, board });
    el.addEventListener("pointerover", onPointer);
    el.addEventListener("pointerleave", () => view.words && view.set({ words: "", point: null }));
    el.addEventListener("focusout", (event) => event.target.matches("[data-cells]") && view.cell !== null && view.set({ cell: null }));
    el.addEventListener("click", (event) => {
      const token = event.target.closest("[data-token]");
      if (token) view.goToToken(Number(token.dataset.token));
    });
  },

  update: () => view.update(),
  resized: measureRoom,
  keys: (event) => view.keys(event),
  escape: () => view.escape(),
  detail: () => view.words,
  says: () => (view.req && view.life && view.column ? `${view.req}, ${columnWords(view.life, view.column, view.board.store.config)}.` : ""),
  table: () => lifeTables(view),
  follows: ({ req }) => Boolean(req),
  card: { shown: () => view.why, open: () => (view.why = true), close: () => closeCard(view) },
});
