// The attention lens (A, and from Life, T and the Why card): what one query of a request reads of its
// KV cache in this step. Left its keys over their blocks, below them all queries of the step, right
// the same query in every layer and head. The weights are asked for piece by piece (net/history.js).

import { html, nothing, render } from "lit-html";

import { laidOut } from "#core/batch.js";
import { blockOrigin, isSink, kvHeadOf, missingWords, placesOf, readersWords, shades, weightText } from "#core/lens.js";
import { plural } from "#core/reasons.js";
import { loadLens } from "#net/history.js";
import { recordedSteps } from "#view/arming.js";
import { chip, hueClass, visible } from "#view/parts.js";
import { register } from "#views/frame.js";
import { cacheSection } from "#views/lens/cache.js";
import { headsSection } from "#views/lens/heads.js";
import { matrixSection } from "#views/lens/matrix.js";
import { notHere, nothingRan } from "#views/lens/missing.js";
import { lensTables } from "#views/lens/tables.js";

const KEPT = 200; // answers of the server
const number = (text) => (/^\d{1,5}$/.test(text ?? "") ? Number(text) : null);

class LensView {
  board = null;
  main = null;
  metric = "where"; // of the small multiples: where | keys | back
  why = false; // is the Why card open?
  words = ""; // for the detail line
  cursor = null; // tokens | heads: what the arrow keys move over
  at = 0; // the token under that cursor
  answers = new Map();
  last = {}; // row | heads | matrix → the latest answer: {of, value}
  answersOf = null; // the store they belong to
  followed = null; // the request that is read, while something else is chosen

  // --- what is shown, made of the shared state and the address ------------------------------------

  get laid() {
    const { board } = this;
    return board.memo("lens-batch", () => laidOut(board.store, board.step), "");
  }

  get batch() {
    return this.laid?.batch ?? null;
  }

  get req() {
    const { chosen } = this.board.focus;
    if (chosen?.req) return chosen.req;
    const there = this.batch?.requests ?? [];
    if (there.includes(this.followed)) return this.followed;
    return there.find((req) => !missingWords(this.board.store, this.board.step, req)) ?? there[0] ?? null;
  }

  get places() {
    const { board, req } = this;
    return board.memo("lens-places", () => placesOf(board.store, board.step, req, this.laid), req);
  }

  // Of the address; null: the mean of all.
  get layer() {
    return number(this.board.frame.param("layer"));
  }

  get head() {
    return number(this.board.frame.param("head"));
  }

  // The query by its position in the sequence; the last one of the step, if none is asked for.
  get query() {
    const { start, queries } = this.places;
    const asked = number(this.board.frame.param("query"));
    return asked !== null && asked >= start && asked < start + queries ? asked - start : queries - 1;
  }

  get position() {
    return this.places.start + this.query;
  }

  get root() {
    return this.board.frame.param("scale") === "root";
  }

  without(weights) {
    const asked = this.board.frame.param("first");
    return asked ? asked === "out" : isSink(weights);
  }

  // --- the numbers ---------------------------------------------------------------------------------

  // {state: asked | here | failed, value, words}. While it is asked, `value` is the one before of the
  // same step and request, so that nothing jumps; it is drawn dimmed.
  ask(what, asked) {
    const { board, req } = this;
    const { store, step } = board;
    if (this.answersOf !== store) {
      this.answers.clear();
      this.last = {};
      this.answersOf = store;
    }
    const key = JSON.stringify([step, req, what, asked]);
    const known = this.answers.get(key);
    if (known) return known;
    const last = this.last[what];
    const mine = { state: "asked", value: last?.of === `${step} ${req}` ? last.value : null, words: "" };
    this.answers.set(key, mine);
    if (this.answers.size > KEPT) this.answers.delete(this.answers.keys().next().value);
    loadLens(board.run, board.at, step, req, what, asked)
      .then((value) => {
        Object.assign(mine, { state: "here", value });
        this.last[what] = { of: `${step} ${req}`, value };
      })
      .catch((error) => Object.assign(mine, { state: "failed", value: null, words: error.message }))
      .finally(() => this.answersOf === store && board.changed());
    return mine;
  }

  get row() {
    return this.ask("row", { layer: this.layer, head: this.head, query: this.query });
  }

  get overview() {
    return this.ask("heads", { query: this.query, block: this.places.size });
  }

  get matrix() {
    return this.ask("matrix", { layer: this.layer, head: this.head, block: this.places.size });
  }

  // --- what the reader does --------------------------------------------------------------------

  set(params) {
    this.board.frame.setParams(params);
  }

  // A block's card; the request goes on being read.
  openBlock(block) {
    this.followed = this.req;
    this.why = true;
    this.board.focus.choose({ block });
  }

  closeCard() {
    this.why = false;
    const { focus } = this.board;
    if (!focus.chosen?.req && this.followed) focus.chosen = { req: this.followed };
    this.board.changed();
  }

  pickHead({ layer, head }) {
    const same = layer === this.layer && head === this.head;
    this.set(same ? { layer: null, head: null } : { layer: String(layer), head: String(head) });
  }

  pickQuery(query) {
    this.set({ query: String(this.places.start + query) });
  }

  // A key under the pointer or the cursor: its block and its request are lit everywhere.
  point(position, words = null) {
    const { board, places } = this;
    if (position === null) {
      this.words = "";
      return board.focus.point(null);
    }
    this.words = words ?? this.keyWords(position);
    board.focus.point({ req: places.req, position, block: places.blocks[Math.floor(position / places.size)].id });
    return board.changed();
  }

  // Of what is under the pointer here, or of the token that is pointed at anywhere.
  detail() {
    const { hover } = this.board.focus;
    if (this.words || hover?.position === undefined || !this.board.store?.config) return this.words;
    return hover.req === this.req && this.places?.tokens[hover.position] ? this.keyWords(hover.position) : "";
  }

  keyWords(position) {
    const { places, row } = this;
    const token = places.tokens[position];
    const block = places.blocks[Math.floor(position / places.size)];
    const slot = position % places.size;
    const weight = row.value?.weights[position];
    const parts = [
      `token ${position + 1} “${visible(token.text)}”`,
      weight === undefined ? "" : `weight ${weight.toFixed(4)}`,
      `slot ${block.id * places.size + slot}: block ${block.id}, offset ${slot}`,
      token.query ? "computed in this step" : blockOrigin(block, places),
      readersWords(block),
    ];
    return parts.filter(Boolean).join(" · ");
  }

  // --- the picture -----------------------------------------------------------------------------

  update() {
    const { board, main } = this;
    if (!board.store?.config) return render(html`<p class="empty">No run is open.</p>`, main);
    if (board.focus.chosen?.req) this.followed = board.focus.chosen.req;
    const { req } = this;
    const hue = req ? board.hueOf(req) : -1;
    main.className = `view lens ${hueClass(hue)}`;
    render(html`${this.#head(req)}${this.#body(req)}`, main);
    return undefined;
  }

  #body(req) {
    const { board } = this;
    if (!req || !this.places) return nothingRan(board, req);
    const missing = missingWords(board.store, board.step, req);
    if (missing) return notHere(board, missing);
    const { row } = this;
    if (row.state === "failed") return notHere(board, { what: `The attention of ${req} in step ${board.step} cannot be read.`, cause: row.words, quiet: true });
    return html`<div class="lens-body">
      <div class="lens-left">${cacheSection(this)}${this.places.queries > 1 ? matrixSection(this) : nothing}</div>
      ${headsSection(this)}
    </div>`;
  }

  #head(req) {
    const { board } = this;
    const others = this.batch?.requests ?? [];
    const { value } = req && this.places && !missingWords(board.store, board.step, req) ? this.row : {};
    const token = req && this.places ? this.places.tokens[this.position] : null;
    return html`<header class="lens-head">
      <h2>${req ? chip(board, req, board.hueOf(req), { flip: false }) : nothing}
        ${token ? html`<span>what <q>${visible(token.text)}</q> (token ${this.position + 1}) reads</span>` : html`<span>Attention lens</span>`}</h2>
      ${value ? this.#choices(value) : nothing}
      ${others.length > 1 ? html`<p class="with-it"><span class="quiet">in this step, too:</span> ${others.filter((other) => other !== req).slice(0, 8).map((other) => chip(board, other, board.hueOf(other), { flip: false }))}</p>` : nothing}
      <p class="when">${recordedSteps(board)}
        ${req ? html`<button class="tool" aria-pressed=${this.why} @click=${() => (this.why ? this.closeCard() : board.frame.why({ req }))}>Why?</button>` : nothing}</p>
    </header>`;
  }

  #choices({ layers, heads, kv_heads: kvHeads }) {
    const { places } = this;
    const choose = (name, value, count, word, more = () => "") => html`<label>${word} <select @change=${(event) => this.set({ [name]: event.target.value || null })}>
      <option value="" ?selected=${value === null}>mean of ${count}</option>
      ${Array.from({ length: count }, (_, i) => html`<option value=${i} ?selected=${value === i}>${i}${more(i)}</option>`)}</select></label>`;
    return html`<p class="choices-of-lens">
      ${choose("layer", this.layer, layers, "layer")}
      ${choose("head", this.head, heads, "head", (h) => (kvHeads && kvHeads < heads ? ` · K/V ${kvHeadOf(h, heads, kvHeads)}` : ""))}
      ${places.queries > 1 ? html`<label>query <select @change=${(event) => this.pickQuery(Number(event.target.value))}>
        ${places.tokens.slice(places.start).map(({ text, position }, i) => html`<option value=${i} ?selected=${i === this.query}>${position + 1} ${visible(text)}</option>`)}</select></label>` : nothing}
    </p>`;
  }

  // --- keys ----------------------------------------------------------------------------------------

  keys(event) {
    const { key } = event;
    const inside = (name) => event.target.closest?.(`[data-cells="${name}"]`);
    if (this.cursor && inside(this.cursor)) return this.#move(key);
    if (key !== "Enter" || !event.target.matches?.("[data-cells]")) return false;
    this.cursor = event.target.dataset.cells;
    if (this.cursor === "tokens") this.#moveTo(Math.min(this.at, this.places.keys - 1), "Cursor on tokens. ");
    else this.#headTo(this.layer ?? 0, this.head ?? 0, "Cursor on heads. ");
    return true;
  }

  #move(key) {
    const by = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
    if (this.cursor === "tokens") {
      if (key === "Enter") this.board.focus.choose({ req: this.places.req, position: this.at });
      else if (by) this.#moveTo(Math.min(Math.max(this.at + by[0] + by[1] * this.places.size, 0), this.places.keys - 1));
      return Boolean(by) || key === "Enter";
    }
    if (!by) return false;
    const { layers, heads } = this.row.value ?? {};
    if (!layers) return true;
    this.#headTo(Math.min(Math.max((this.layer ?? 0) + by[1], 0), layers - 1), Math.min(Math.max((this.head ?? 0) + by[0], 0), heads - 1));
    return true;
  }

  #moveTo(position, prefix = "") {
    this.at = position;
    this.point(position);
    this.board.say(prefix + this.words);
  }

  #headTo(layer, head, prefix = "") {
    this.words = this.headWords(layer, head);
    this.set({ layer: String(layer), head: String(head) });
    this.board.say(prefix + this.words);
  }

  headWords(layer, head) {
    const { value } = this.overview;
    if (!value) return `layer ${layer}, head ${head}`;
    const of = (name) => value[name][layer][head];
    const shared = value.kv_heads && value.kv_heads < value.heads ? ` (K/V head ${kvHeadOf(head, value.heads, value.kv_heads)})` : "";
    return `layer ${layer}, head ${head}${shared}: as if ${(2 ** of("entropy")).toFixed(1)} of ${plural(value.keys, "key")} shared it (entropy ${of("entropy").toFixed(2)} bits) · ${plural(Number(of("distance").toFixed(1)), "token")} back on average · first token ${weightText(of("first"))}, itself ${weightText(of("own"))}`;
  }

  escape() {
    if (!this.cursor && this.why) return this.closeCard() ?? true;
    if (!this.cursor) return false;
    this.cursor = null;
    this.point(null);
    this.board.say("Arrows step again.");
    return true;
  }

  scaleOf(weights) {
    return shades(weights, { without: this.without(weights), root: this.root });
  }
}

const view = new LensView();

register({
  id: "lens",
  title: "Attention lens",
  short: "Lens",
  key: "a",
  named: false,

  mount(el, board) {
    Object.assign(view, { main: el, board });
    el.addEventListener("pointerleave", () => view.words && view.point(null));
    el.addEventListener("pointerover", (event) => event.target.closest(".key") && (view.words = ""));
    el.addEventListener("focusout", (event) => event.target.matches("[data-cells]") && view.cursor && view.escape());
  },

  update: () => view.update(),
  resized: () => view.board.changed(),
  keys: (event) => view.keys(event),
  escape: () => view.escape(),
  detail: () => view.detail(),
  says: () => (view.req && view.board.store?.config ? view.main.querySelector(".reads-what")?.textContent.trim() ?? "" : ""),
  table: () => lensTables(view),
  follows: ({ req }) => Boolean(req),
  card: { shown: () => view.why, open: () => (view.why = true), close: () => view.closeCard() },
});
