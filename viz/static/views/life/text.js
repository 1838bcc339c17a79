// THE TEXT: each token over its slot and its block, as they stand at the cursor.

import { html, nothing } from "lit-html";

import { tokenState } from "#core/lifewords.js";
import { plural } from "#core/reasons.js";
import { visible } from "#view/parts.js";

const PROMPT_OPEN = 48; // tokens; a longer prompt is folded to one cell for each block
const BLOCKS_SHOWN = 120;

export function textSection(life, view) {
  const { board, column, text } = view;
  const { size } = life;
  const folds = life.numPrompt > PROMPT_OPEN;
  const folded = folds && !view.promptOpen;
  const groups = [];
  for (let logical = 0; logical * size < life.tokens.length; logical += 1) groups.push(logical);
  const shown = groups.slice(-BLOCKS_SHOWN);
  const legend = text.chunks.length ? "▏ a piece of the answer begins" : "";
  return html`<section class="text" aria-labelledby="text-title">
    <h3 id="text-title">The text <span class="aside">${legend}</span>
      <button class="tool" @click=${() => board.frame.show("lens")}>what its tokens read</button>
      ${folds ? html`<button class="tool" aria-pressed=${!folded} @click=${() => view.togglePrompt()}>${folded ? "unfold the prompt" : "fold the prompt"}</button>` : nothing}</h3>
    <div class="blocks" role="application" tabindex="0" data-cells
      aria-label="Tokens over their blocks, ${plural(life.tokens.length, "token")}. Enter moves among them with the arrow keys.">
      ${groups.length > shown.length ? html`<span class="quiet">… ${plural(groups.length - shown.length, "block")} before</span>` : nothing}
      ${shown.map((logical) => group(life, view, logical, folded && (logical + 1) * size <= life.numPrompt, column, board.step))}
    </div>
  </section>`;
}

function group(life, view, logical, folded, column, step) {
  const { size } = life;
  const from = logical * size;
  const to = Math.min(from + size, life.tokens.length);
  const indices = Array.from({ length: to - from }, (_, i) => from + i);
  const periods = life.blocks[logical] ?? [];
  const now = column?.table[logical];
  const last = periods.filter((period) => period.from <= step).at(-1);
  const name = now ?? null;
  const label = name !== null ? html`<b>${name}</b>` : last ? html`<s>${last.block}</s>` : html`–`;
  return html`<div class="block ${folded ? "folded" : ""}">
    <div class="toks">${folded ? foldedCells(life, view, indices) : indices.map((index) => tokenCell(life, view, index))}</div>
    <button class="name" tabindex="-1" ?disabled=${name === null} data-block=${name ?? nothing} title=${periodWords(periods)}
      @click=${() => view.openBlock(name)}>${label}</button>
  </div>`;
}

const periodWords = (periods) => periods.map(({ block, from, to }) => `block ${block} in steps ${from}–${to}`).join(", then ");

function foldedCells(life, view, indices) {
  const words = indices.map((index) => life.tokens[index].text).join("");
  const states = indices.map((index) => tokenState(life, view.column, view.text.held, view.board.step, index));
  const all = (name) => (states.every((state) => state[name]) ? name : "");
  return html`<span class="tok prompt ${all("computed")} ${all("reused")} ${all("ran")}"><b>${visible(words.trim().slice(0, 14))}…</b><i></i></span>`;
}

function tokenCell(life, view, index) {
  const token = life.tokens[index];
  const state = tokenState(life, view.column, view.text.held, view.board.step, index);
  const out = index - life.numPrompt;
  const classes = [
    token.output ? "output" : "prompt",
    state.said ? "" : "unsaid",
    ...["held", "reused", "computed", "ran"].filter((name) => state[name]),
    out >= 0 && view.chunkAt.has(out) ? "chunk" : "",
    view.cell === index ? "cell" : "",
    view.token === index ? "looked" : "",
    token.sampled === view.board.step ? "new" : "",
  ];
  return html`<button class="tok ${classes.filter(Boolean).join(" ")}" tabindex="-1" data-token=${index} aria-label=${view.tokenWords(index)}
    ><b>${visible(token.text) || "∅"}</b><i></i></button>`;
}
