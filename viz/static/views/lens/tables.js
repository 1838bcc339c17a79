// The lens as tables: the row that is shown, and every layer and head as numbers.

import { html, nothing } from "lit-html";

import { blockOrigin, capturedSteps, kvHeadOf, readersWords } from "#core/lens.js";
import { table } from "#view/panels.js";
import { visible } from "#view/parts.js";

const ROWS = 500;

export function lensTables(view) {
  const { places } = view.board.store?.config && view.req ? view : {};
  const kept = places && capturedSteps(view.board.store).has(places.step); // else nobody need be asked
  const weights = kept && view.row.value?.weights;
  if (!weights) return html`<p>No weights are shown: ${view.main.querySelector(".lens-missing")?.textContent.trim() ?? "they are being fetched"}</p>`;
  const order = weights.map((_, key) => key).sort((a, b) => weights[b] - weights[a]).slice(0, ROWS);
  const { value } = view.overview;
  const which = (name, at) => (at === null ? `mean of all ${name}s` : `${name} ${at}`);
  const block = (key) => places.blocks[Math.floor(key / places.size)];
  return html`
    ${table(`What token ${view.position + 1} of ${places.req} reads in step ${places.step}: ${which("layer", view.layer)}, ${which("head", view.head)}; the largest first`,
      ["token", "text", "weight", "block : slot", "computed", "also read or held"],
      order.map((key) => [key + 1, visible(places.tokens[key].text), weights[key].toFixed(4), `${block(key).id} : ${key % places.size}`,
        places.tokens[key].query ? "in this step" : blockOrigin(block(key), places), readersWords(block(key))]))}
    ${weights.length > ROWS ? html`<p>… ${weights.length - ROWS} smaller ones</p>` : nothing}
    ${value ? table("The same query in every layer and head", ["layer", "head", "K/V head", "entropy, bits", "tokens back", "on the first token", "on itself"],
      value.entropy.flatMap((line, l) => line.map((entropy, h) => [l, h, value.kv_heads ? kvHeadOf(h, value.heads, value.kv_heads) : "", entropy.toFixed(2), value.distance[l][h].toFixed(1), value.first[l][h].toFixed(4), value.own[l][h].toFixed(4)]))) : nothing}`;
}
