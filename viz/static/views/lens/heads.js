// The same query in every layer and head; a click takes that one.

import { html } from "lit-html";

import { heightOf } from "#view/heads.js";
import { theme } from "#view/theme.js";

const METRICS = [
  ["where", "where", "its keys from left to right, strong where it looks; each cell to its own largest"],
  ["keys", "how many", "as if so many keys shared it alike: 2 to the power of the entropy"],
  ["back", "how far", "tokens back, on average over the weights"],
];
const MIDDLE = 12; // px a layer where there are many

export function headsSection(view) {
  const { board, overview, metric } = view;
  const { value } = overview;
  const words = METRICS.find(([id]) => id === metric)[2];
  return html`<section class="heads" data-state=${overview.state} aria-labelledby="heads-title">
    <h3 id="heads-title">Layers × heads ${METRICS.map(([id, name]) => html`<button class="tool small" aria-pressed=${metric === id}
      @click=${() => {
        view.metric = id;
        board.changed();
      }}>${name}</button>`)}</h3>
    <p class="quiet">${words}${value?.kv_heads && value.kv_heads < value.heads ? `. ${value.heads / value.kv_heads} query heads read with one K/V head` : ""}.</p>
    ${value ? multiples(view, value) : html`<p class="quiet">${overview.state === "failed" ? overview.words : "being fetched …"}</p>`}
  </section>`;
}

function multiples(view, value) {
  const { board, layer, head, metric } = view;
  const row = value.layers > 40 ? MIDDLE : 16;
  const data = board.memo("lens-heads", () => ({
    layers: value.layers, heads: value.heads, kvHeads: value.kv_heads, row, layer, head,
    cells: cellsOf(view, value, metric),
  }), `${view.req} ${view.overview.state} ${layer} ${head} ${metric} ${view.query} ${board.frame.param("first")} ${view.root} ${theme.name}`);
  return html`<vz-heads role="application" tabindex="0" data-cells="heads" .style=${`height:calc(${heightOf(value.layers, row)}px * var(--scale))`}
    aria-label="${value.layers} layers × ${value.heads} heads; Enter moves among them with the arrow keys; the same as a table: Help"
    .data=${data}
    @head-point=${(event) => {
      view.words = event.detail ? view.headWords(event.detail.layer, event.detail.head) : "";
      board.changed();
    }}
    @head-pick=${(event) => view.pickHead(event.detail)}></vz-heads>`;
}

function cellsOf(view, { keys, entropy, distance, first, bins }, metric) {
  const root = view.root;
  const asked = view.board.frame.param("first");
  if (metric === "keys") {
    const most = Math.log2(Math.max(keys, 2));
    return (l, h) => ({ share: entropy[l][h] / most, text: (2 ** entropy[l][h]).toFixed(entropy[l][h] < 3.3 ? 1 : 0) });
  }
  if (metric === "back") {
    const most = Math.max(...distance.flat(), 1);
    return (l, h) => ({ share: distance[l][h] / most, text: distance[l][h].toFixed(distance[l][h] < 9.95 ? 1 : 0) });
  }
  return (l, h) => {
    const out = asked ? asked === "out" : first[l][h] >= 0.3;
    const sums = bins[l][h].map((sum, i) => (out && i === 0 ? Math.max(sum - first[l][h], 0) : sum));
    const most = Math.max(...sums) || 1;
    return { shares: sums.map((sum) => (root ? Math.sqrt(sum / most) : sum / most)) };
  };
}
