// What the query reads: each key over the slot and the block that hold it, filled by its weight.

import { html, nothing } from "lit-html";

import { blockOrigin, readersWords, shownBlocks, sumOf, weightText } from "#core/lens.js";
import { listed, plural } from "#core/reasons.js";
import { chip, hueClass, visible } from "#view/parts.js";

const NUMBERED = 0.045; // weights from here on stand in their cells

export function cacheSection(view) {
  const { places, row, position } = view;
  const weights = row.value?.weights;
  if (!weights) return html`<section class="reads"><p class="quiet">The weights are being fetched …</p></section>`;
  const scale = view.scaleOf(weights);
  const { shown, left, weight } = shownBlocks(places, weights, position);
  return html`<section class="reads" data-state=${row.state} aria-labelledby="reads-title">
    <h3 id="reads-title">The cache it reads</h3>
    <p class="reads-what">${readWords(view)}</p>
    ${scaleLine(view, weights, scale)}
    <div class="cache" role="application" tabindex="0" data-cells="tokens"
      aria-label="${plural(places.keys, "key")} over their blocks. Enter moves among them with the arrow keys.">
      ${shown.map((block) => blockBox(view, block, weights, scale))}
    </div>
    ${left ? html`<p class="quiet">Left out: ${plural(left, "block")} that together hold ${weightText(weight)}; choose a query or a head to see others.</p>` : nothing}
  </section>`;
}

// How many keys, and whose work they are.
function readWords({ places }) {
  const others = new Map(); // "r1 in step 1" → tokens
  for (const { how, by, from, to } of places.blocks) {
    if (how !== "hit") continue;
    const name = by ? `${by.req} in step ${by.step}` : "somebody whose steps were not kept";
    others.set(name, (others.get(name) ?? 0) + Math.min(to, places.cached) - from);
  }
  const parts = [`${places.queries} computed in this step`];
  const own = places.start - places.cached;
  if (own) parts.push(`${own} in its steps before`);
  for (const [name, n] of others) parts.push(`${n} not at all: ${name} had computed ${n === 1 ? "it" : "them"}`);
  return `It reads ${plural(places.keys, "token")} in ${plural(places.blocks.length, "block")}: ${listed(parts)}.`;
}

function scaleLine(view, weights, { most, at }) {
  const { places } = view;
  const without = view.without(weights);
  const sink = `The first token holds ${weightText(weights[0])}`;
  return html`<p class="scale">
    <i class="ramp" aria-hidden="true"></i><span>0 … ${weightText(most)}, on <q>${visible(places.tokens[at]?.text ?? "")}</q>${view.root ? " (square root)" : ""}.
      ${without ? html`${sink} and is left out of the scale: what a head has no use for goes there.` : nothing}</span>
    <button class="tool small" aria-pressed=${without} @click=${() => view.set({ first: without ? "in" : "out" })}>without the first token</button>
    <button class="tool small" aria-pressed=${view.root} @click=${() => view.set({ scale: view.root ? null : "root" })}>√ scale</button></p>`;
}

function blockBox(view, block, weights, scale) {
  const { board, places } = view;
  const { target } = board.focus;
  const { id, from, to, how, by, readers, holders } = block;
  const whose = how === "hit" && by ? by.req : places.req;
  const looked = target?.block === id && target.position === undefined;
  return html`<div class="cache-block ${how} ${hueClass(board.hueOf(whose))} ${looked ? "looked" : ""}">
    <div class="keys">${places.tokens.slice(from, to).map((token) => keyCell(view, token, id, weights[token.position], scale.shares[token.position]))}</div>
    <p class="holder"><button class="name" data-block=${id} tabindex="-1" title="${blockOrigin(block, places)}${readersWords(block) ? `; ${readersWords(block)}` : ""}"
      @click=${() => view.openBlock(id)}><b>${id}</b>${how === "hit" ? " ↺" : ""}</button>
      ${how === "hit" && by ? html`<small>by ${by.req}, step ${by.step}</small>` : nothing}
      ${readers.length || holders.length ? html`<small title=${readersWords(block)}>×${1 + readers.length + holders.length}</small>${readers.slice(0, 2).map((req) => chip(board, req, board.hueOf(req), { flip: false }))}` : nothing}
      <span class="sum">${weightText(sumOf(weights, block))}</span></p>
  </div>`;
}

function keyCell(view, { position, text, query }, block, weight, share) {
  const { board, places } = view;
  const { target } = board.focus;
  const own = target?.req === places.req && target.position === position;
  const looks = position === view.position;
  const later = position > view.position;
  const classes = [query ? "ran" : "", share === null ? "out" : "", own ? "looked" : "", looks ? "query" : "", later ? "later" : "", view.cursor.isAt(position) ? "cell" : ""];
  return html`<button class="key ${classes.filter(Boolean).join(" ")}" tabindex="-1" data-req=${places.req} data-position=${position} data-block=${block}
    data-weight=${weight.toFixed(4)}
    @click=${() => board.focus.choose({ req: places.req, position })}
    ><b>${visible(text).trim() || "␣"}</b><i .style=${`--w:${share === null ? 0 : (share * 100).toFixed(1)}%`}></i><small>${later ? "–" : weight >= NUMBERED ? weightText(weight) : ""}</small></button>`;
}
