// Life: one request from its arrival to its end. The way, the stair, the text, where its steps went.

import { html, nothing, render } from "lit-html";

import { foldColumns, lifeOf, livesIn, textOf } from "#core/life.js";
import { BANDS, columnWords, endWords, stateWords, summaryOf, tokenState, tokenWords, whyWords } from "#core/lifewords.js";
import { eventsOf, wayOf } from "#core/way.js";
import { chip, visible } from "#view/parts.js";
import { table } from "#view/panels.js";
import { theme } from "#view/theme.js";
import { register } from "#views/frame.js";
import { lifeList } from "#views/life/list.js";
import { HEAD, RAN, WHY, stairLayout } from "#views/life/stair.js";
import { textSection } from "#views/life/text.js";
import { whereSection } from "#views/life/where.js";
import { waySection } from "#views/life/way.js";

const FOLD_FROM = 40; // columns
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
    return this.board.focus.chosen?.req ?? this.board.focus.before ?? null;
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

  // By the client's id: of several samples, the front end's hops are shared.
  get clientId() {
    const { requestId, parent } = this.life;
    return parent && requestId.startsWith("0_") ? parent : requestId;
  }

  get way() {
    return this.keepLate("way", this.req, () => wayOf(this.streams, this.clientId));
  }

  get events() {
    return this.keepLate("events", this.req, () => {
      const { events } = eventsOf(this.streams, this.clientId);
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

  eventsOf(kinds) {
    return this.events.filter(({ kind }) => kinds.test(kind));
  }

  sourceOf(event) {
    if (!event) return null;
    const front = this.board.frontEvents.find(({ kind, data }) => kind === "run.source" && data.src === event.src);
    return event.stream === "api" ? (front?.data ?? null) : (this.board.store.sources.get(event.src) ?? null);
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
    if (board.focus.chosen?.req) board.focus.before = null;
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
    return html`${this.#head(life)}${waySection(life, this)}${this.#stair(life)}${textSection(life, this)}${whereSection(life, this)}`;
  }

  #head(life) {
    const { board } = this;
    const said = life.tokens.slice(life.numPrompt).map(({ text }) => text).join("");
    const asked = life.tokens.slice(0, life.numPrompt).map(({ text }) => text).join("");
    return html`<header class="life-head">
      ${chip(board, life.req, board.hueOf(life.req), { flip: false })}
      <h2><q>${visible(asked.slice(-120))}</q> → <q class="said">${visible(said.slice(0, 160))}</q></h2>
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

  #stair(life) {
    const { board } = this;
    const folds = life.columns.length > FOLD_FROM;
    const rows = Math.max(Math.ceil(life.tokens.length / life.size), 1);
    const room = this.room - (board.narrow ? 116 : 168);
    const layout = this.keep("stair", `${this.req} ${this.unfolded} ${room}`, () => {
      const shown = folds && !this.unfolded ? foldColumns(life.columns) : life.columns.map((column) => ({ column }));
      return stairLayout(shown, rows, life.tokens.length, life.size, room);
    });
    const point = this.point?.step ?? null;
    const key = [layout, board.step, point, board.hueOf(life.req)];
    if (!this.stairData?.key.every((part, i) => part === key[i])) {
      this.stairData = { key, layout, hue: board.hueOf(life.req), step: board.step, point, periods: life.blocks };
    }
    return html`<section class="stair" aria-labelledby="stair-title">
      <h3 id="stair-title">The stair <span class="aside">computed tokens after each step; dashed: what there is to compute</span>
        ${folds ? html`<button class="tool" aria-pressed=${this.unfolded} @click=${() => this.set({ unfolded: !this.unfolded })}>every step</button>` : nothing}</h3>
      <div class="stair-box">
        <div class="labels" .style=${`padding-top:calc(${HEAD}px * var(--scale))`}>
          <div class="rows-of-blocks" .style=${`height:calc(${layout.plot}px * var(--scale))`}>${rowLabels(life, layout, this)}</div>
          <span class="label" .style=${`height:calc(${RAN}px * var(--scale))`}>ran</span>
          <span class="label" .style=${`height:calc(${WHY}px * var(--scale))`}>why not</span>
        </div>
        <div class="stair-scroll">${life.columns.length
          ? html`<vz-stair role="img" aria-label=${summaryOf(life)} .data=${this.stairData}
              .style=${`width:calc(${layout.width}px * var(--scale));height:calc(${layout.height}px * var(--scale))`}
              @stair-point=${(event) => this.pointAt(event.detail)}
              @stair-pick=${(event) => event.detail && board.travel.seek(event.detail.step)}></vz-stair>`
          : html`<p class="quiet">It has come; no step was taken since.</p>`}</div>
      </div>
    </section>`;
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

// At the left of each row: its tokens, and the physical blocks that held it, in their order.
function rowLabels(life, { rows, rowHeight }, { board }) {
  const every = Math.max(Math.ceil(14 / rowHeight), 1);
  return Array.from({ length: rows }, (_, i) => rows - 1 - i).map((logical) => {
    const [from, to] = [logical * life.size + 1, Math.min((logical + 1) * life.size, life.tokens.length)];
    const names = (life.blocks[logical] ?? []).map(({ block }) => block);
    const shown = logical % every === 0;
    const short = names.length > 3 ? ["…", ...names.slice(-2)] : names;
    return html`<span class="row-label" .style=${`height:calc(${rowHeight}px * var(--scale))`}>${shown ? html`
      <span class="range">${from === to ? from : `${from}–${to}`}</span> <span class="names">${board.narrow ? "" : "block "}${short.join(" → ") || "–"}</span>` : nothing}</span>`;
  });
}

function tables(board) {
  view.board = board;
  const { life } = view;
  if (!life) {
    const lives = [...livesIn(board.store).values()];
    return table("Requests", ["request", "steps", "TTFT", "TPOT", "preempted", "end"], lives.map((item) => [item.req, item.steps, item.ttft ?? "", item.tpot?.toFixed(2) ?? "", item.preemptions, item.finish?.reason ?? "open"]));
  }
  const step = (column) => {
    const { step: k, band, ran, hit, computed, known, table: blocks } = column;
    return [k, BANDS[band][0], ran, hit, `${computed} of ${known}`, blocks.join(" "), whyWords(life, column, board.store.config)];
  };
  const state = (i) => stateWords(tokenState(life, view.column, view.text.held, board.step, i));
  return html`<p>${summaryOf(life)}</p>
    ${table("The way", ["hop", "ms after arrival", "took, ms", "bytes", "what"], view.way.hops.map((hop) => [hop.name, ((hop.t_ns - view.way.hops[0].t_ns) / 1e6).toFixed(3), hop.ns === null ? "" : (hop.ns / 1e6).toFixed(3), hop.bytes ?? "", hop.words]))}
    ${table("The stair", ["step", "band", "ran", "reused", "computed", "blocks", "why not"], life.columns.map(step))}
    ${table("The text", ["token", "text", "at the cursor", "what became of it"], life.tokens.map((token, i) => [i + 1, visible(token.text), state(i), view.tokenWords(i)]))}
    ${table("Where it went", ["band", "steps", "from", "to"], life.bands.map(({ band, steps, from, to }) => [BANDS[band][0], steps, from, to]))}`;
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
  table: tables,
  follows: ({ req }) => Boolean(req),
  card: { shown: () => view.why, open: () => (view.why = true), close: () => closeCard(view) },
});
