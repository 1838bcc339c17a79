// What the reader looks at: pointed at, chosen, or under the cursor on cells; and the words for it.

import { routeCard } from "#core/front.js";
import { plural } from "#core/reasons.js";
import { GLOSSARY, sayBlock, sayState } from "#core/say.js";
import { findEvent, samePick, targetOf } from "#core/selection.js";
import { blockWords, whyCard } from "#core/why.js";
import { eventWords } from "#core/words.js";

export class Focus {
  constructor(board) {
    this.board = board;
    this.clear();
  }

  clear() {
    this.chosen = null; // see core/selection.js; stands in the address
    this.hover = null; // the same, for as long as the pointer or the keyboard's focus is there
    this.before = null; // the request a view went on following while a block is chosen
    this.term = null; // a line of the glossary, or the state read out
    this.cells = false; // the arrow keys move over the pool's blocks
    this.cell = null;
  }

  choose(what) {
    this.chosen = samePick(what, this.chosen) ? null : what;
    this.term = null;
    this.board.changed();
  }

  point(what) {
    const block = what?.block ?? (what?.position !== undefined ? this.#blockOf(what) : undefined);
    const next = what ? { req: what.req, block, position: what.position } : null;
    if (JSON.stringify(next) === JSON.stringify(this.hover)) return;
    this.hover = next;
    this.term = null;
    this.board.changed();
  }

  #blockOf({ req, position }) {
    const scene = this.board.scene();
    const row = scene?.running.find((item) => item.req === req);
    return row?.table[Math.floor(position / scene.config.block_size)];
  }

  pickBudget(what) {
    if (what) this.choose(what.req ? { req: what.req } : { unused: true });
  }

  // --- what steps back -------------------------------------------------------------------------

  get target() {
    return this.hover ?? this.#subject;
  }

  // What the selection is about, as {req, position, block}: of an event its request and its block.
  get #subject() {
    const { board, chosen } = this;
    if (!chosen?.event && chosen?.position === undefined) return targetOf(chosen);
    return board.memo("subject", () => {
      const subject = board.store?.config ? targetOf(chosen, board.store, board.frontEvents) : null;
      return subject?.position === undefined ? subject : { ...subject, block: this.#blockOf(subject) };
    }, JSON.stringify(chosen));
  }

  // The request that is selected, or that the selection belongs to.
  get req() {
    return this.chosen?.req ?? this.#subject?.req ?? null;
  }

  // Its slot: {block, offset}, where it lies in a block.
  get slot() {
    const { token, board } = this;
    const size = board.store?.config?.block_size;
    return token?.block ? { block: token.block, offset: token.position % size } : null;
  }

  // The same for links to the views that tell more of it.
  get about() {
    return this.#subject ?? {};
  }

  // The token that is looked at: {req, position, block} or null.
  get token() {
    const { target } = this;
    return target?.req && target.position !== undefined && target.position !== null ? target : null;
  }

  // How strong the rest stays: firm under the pointer, gentle while something is chosen.
  get faded() {
    return this.hover ? 0.35 : 0.6;
  }

  // Is this beside what is looked at?
  dims({ req, face }) {
    const { target } = this;
    if (!target || this.#isBlank(target)) return false;
    const holds = (block) => block.owners.some((owner) => owner.row.req === target.req);
    if (req) {
      if (target.req) return target.req !== req;
      const block = this.board.scene().pool.faces[target.block - 1];
      return !block?.owners.some((owner) => owner.row.req === req);
    }
    if (target.block === face.id) return false;
    return !target.req || (!holds(face) && (Boolean(target.block) || face.held?.req !== target.req));
  }

  // A blank block has nothing to do with anybody: nothing steps back for it.
  #isBlank({ req, block }) {
    return !req && this.board.scene()?.pool.faces[block - 1]?.state === "blank";
  }

  // Tells when a picture of the same moment must be drawn anew.
  get key() {
    return `${JSON.stringify([this.hover, this.chosen])} ${this.cell}`;
  }

  // --- words -----------------------------------------------------------------------------------

  explain(word) {
    this.tell(`${word}: ${GLOSSARY[word]}`);
  }

  // The whole state, for one who did not see the steps before.
  readOut() {
    const scene = this.board.scene();
    if (scene) this.tell(sayState(scene).join(" "));
  }

  tell(words) {
    this.term = words;
    this.board.say(words);
    this.board.changed();
  }

  // The detail line.
  get detail() {
    if (this.term) return this.term;
    const scene = this.board.scene();
    if (!scene) return "";
    if (!this.hover) return this.#eventDetail();
    return this.hover.block ? this.#blockDetail(scene, this.hover.block) : this.#requestDetail(scene, this.hover.req);
  }

  #blockDetail(scene, id) {
    const face = scene.pool.faces[id - 1];
    if (!face) return "";
    const state = this.board.state();
    const hash = state.blocks[id].hash;
    const parts = [sayBlock(face), blockWords(state, id), this.#before(face), hash ? `hash ${hash}` : ""];
    return parts.filter(Boolean).join(" · ");
  }

  // For ✕ and for a block that went from one to another: what it held before.
  #before(face) {
    const { board } = this;
    if (!face.marks || face.marks === "−" || face.marks === "↺" || board.step <= board.firstStep) return "";
    const words = blockWords(board.store.stateAfter(board.step - 1), face.id);
    return words.replace(/^It (still )?holds/, "before:");
  }

  #requestDetail(scene, req) {
    const r = this.board.state().requests[req];
    if (!r) return "";
    const row = [...scene.running, ...scene.waiting].find((item) => item.req === req);
    const count = row ? ` · ${row.computed} of ${plural(row.known, "token")} computed` : "";
    const said = r.texts.slice(r.num_prompt_tokens).join("") || r.texts.join("");
    return `${req}: ${row?.why ?? r.status}${count} · “${said.slice(-90)}”`;
  }

  // Of a selected event what it carries, as long as nothing is pointed at.
  #eventDetail() {
    const { board, chosen } = this;
    const found = chosen?.event ? findEvent(board.store, chosen.event, board.frontEvents) : null;
    return found?.place ? `step ${found.step}, ${eventWords(found.event, found.place, found.count)}` : "";
  }

  card() {
    const { board } = this;
    if (!this.chosen || !board.store?.config) return null;
    const card = whyCard(board.store, board.step, this.chosen, board.hueOf, undefined, board.frontEvents);
    const request = this.chosen.position === undefined ? board.state().requests[this.chosen.req] : null;
    return card && request ? { ...card, route: routeCard(board.front, request) } : card;
  }
}
