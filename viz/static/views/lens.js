// The attention lens (A, and from Life, T and the Why card): what one query of a request reads of its
// KV cache in this step. Left its keys over their blocks, below them all queries of the step, right
// the same query in every layer and head. The weights are asked for piece by piece (net/history.js).

import { html, nothing, render } from "lit-html";

import { laidOut } from "#core/batch.js";
import { blockOrigin, isSink, kvHeadOf, missingWords, placesOf, readersWords, shades, weightText } from "#core/lens.js";
import { plural } from "#core/reasons.js";
import { recordedSteps } from "#view/arming.js";
import { chip, hueClass, visible } from "#view/parts.js";
import { register } from "#views/frame.js";
import { Answers } from "#views/lens/answers.js";
import { cacheSection } from "#views/lens/cache.js";
import { LensCursor } from "#views/lens/cursor.js";
import { headsSection } from "#views/lens/heads.js";
import { matrixSection } from "#views/lens/matrix.js";
import { notHere, nothingRan } from "#views/lens/missing.js";
import { lensTables } from "#views/lens/tables.js";

const number = (text) => (/^\d{1,5}$/.test(text ?? "") ? Number(text) : null);

class LensView {
  board = null;
  main = null;
  metric = "where"; // of the small multiples: where | keys | back
  why = false; // is the Why card open?
  words = ""; // for the detail line
  cursor = new LensCursor(this);
  answers = null; // the numbers, as they are asked for
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

  get row() {
    return this.answers.ask(this.req, "row", { layer: this.layer, head: this.head, query: this.query });
  }

  get overview() {
    return this.answers.ask(this.req, "heads", { query: this.query, block: this.places.size });
  }

  get matrix() {
    return this.answers.ask(this.req, "matrix", { layer: this.layer, head: this.head, block: this.places.size });
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
      ${others.length > 1 ? html`<p class="with-it"><span class="quiet">in this step, too:</span> ${others.filter((other) => other !== req).slice(0, 8).map((other) => chip(board, other, board.hueOf(other), { flip: false }))}${others.length > 9 ? html` <span class="quiet">+ ${others.length - 9} more</span>` : nothing}</p>` : nothing}
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

  headWords(layer, head) {
    const { value } = this.overview;
    if (!value) return `layer ${layer}, head ${head}`;
    const of = (name) => value[name][layer][head];
    const shared = value.kv_heads && value.kv_heads < value.heads ? ` (K/V head ${kvHeadOf(head, value.heads, value.kv_heads)})` : "";
    return `layer ${layer}, head ${head}${shared}: as if ${(2 ** of("entropy")).toFixed(1)} of ${plural(value.keys, "key")} shared it (entropy ${of("entropy").toFixed(2)} bits) · ${plural(Number(of("distance").toFixed(1)), "token")} back on average · first token ${weightText(of("first"))}, itself ${weightText(of("own"))}`;
  }

  escape() {
    if (this.cursor.escape()) return true;
    if (!this.why) return false;
    this.closeCard();
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
    Object.assign(view, { main: el, board, answers: new Answers(board) });
    el.addEventListener("pointerleave", () => view.words && view.point(null));
    el.addEventListener("pointerover", (event) => event.target.closest(".key") && (view.words = ""));
    el.addEventListener("focusout", (event) => event.target.matches("[data-cells]") && view.cursor.escape());
  },

  update: () => view.update(),
  resized: () => view.board.changed(),
  keys: (event) => view.cursor.keys(event),
  escape: () => view.escape(),
  detail: () => view.detail(),
  says: () => (view.req && view.board.store?.config ? view.main.querySelector(".reads-what")?.textContent.trim() ?? "" : ""),
  table: () => lensTables(view),
  follows: ({ req }) => Boolean(req),
  card: { shown: () => view.why, open: () => (view.why = true), close: () => view.closeCard() },
});
