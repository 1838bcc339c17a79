// All queries of the step at once: who looks at whom, and what of it was never computed here.

import { html } from "lit-html";

import { weightText } from "#core/lens.js";
import { plural } from "#core/reasons.js";
import { visible } from "#view/parts.js";
import { theme } from "#view/theme.js";
import { matrixSize } from "#view/weights.js";

export function matrixSection(view) {
  const { places, matrix, layer, head } = view;
  const of = `${layer === null ? "all layers" : `layer ${layer}`}, ${head === null ? "all heads" : `head ${head}`}`;
  const { value } = matrix;
  const parts = [];
  if (places.cached) parts.push(`▨ ${plural(places.cached, "column")} taken over from the cache: no query of this step computed them`);
  if (places.start > places.cached) parts.push(`━ ${plural(places.start - places.cached, "column")} computed in its steps before`);
  if (places.start) parts.push("│ here this step’s tokens begin");
  return html`<section class="matrix" data-state=${matrix.state} aria-labelledby="matrix-title">
    <h3 id="matrix-title">${plural(places.queries, "query", "queries")} × ${plural(places.keys, "key")} <span class="aside">${of}; each row to its own largest${summed(value)}</span></h3>
    <p class="quiet">${parts.join(" · ")}</p>
    ${value ? picture(view, value) : html`<p class="quiet">${matrix.state === "failed" ? matrix.words : "being fetched …"}</p>`}
  </section>`;
}

function summed(value) {
  if (!value) return "";
  const parts = [];
  if (value.keys_by > 1) parts.push(`${value.keys_by} keys are summed up in a column`);
  if (value.queries_by > 1) parts.push(`${value.queries_by} queries are averaged in a row`);
  return parts.length ? `; too many to draw each: ${parts.join(", ")}` : "";
}

function picture(view, value) {
  const { board, places } = view;
  const { target } = board.focus;
  const shares = board.memo("lens-shares", () => sharesOf(view, value), `${view.req} ${view.matrix.state} ${view.layer} ${view.head} ${board.frame.param("first")} ${view.root}`);
  const lit = target?.block ?? null;
  const data = board.memo("lens-matrix", () => ({
    shares, keysBy: value.keys_by, queriesBy: value.queries_by, places, query: view.query, lit,
  }), `${view.req} ${view.matrix.state} ${view.layer} ${view.head} ${view.query} ${lit} ${board.frame.param("first")} ${view.root} ${theme.name}`);
  const room = (view.main.querySelector(".lens-left")?.clientWidth || 700) / theme.scale;
  const { height } = matrixSize({ columns: shares[0].length, rows: shares.length }, room);
  return html`<vz-weights role="img" aria-label="${plural(places.queries, "query", "queries")} × ${plural(places.keys, "key")}; choose a query above to hear its row"
    .style=${`height:calc(${height}px * var(--scale))`} .data=${data}
    @weight-point=${(event) => point(view, value, event.detail)}
    @weight-pick=${(event) => view.pickQuery(event.detail.query)}></vz-weights>`;
}

// Each row to its largest; what lies behind the query is not seen, and the sink may be left out.
function sharesOf(view, { values, keys_by: by, queries_by: group }) {
  const { places } = view;
  return values.map((row, i) => {
    const last = Math.min((i + 1) * group, places.queries) - 1 + places.start; // the latest of its queries
    const seen = row.slice(0, Math.floor(last / by) + 1);
    const { shares } = view.scaleOf(seen);
    return row.map((_, k) => (k < shares.length ? shares[k] ?? 0 : null));
  });
}

function point(view, value, at) {
  if (!at) return view.point(null);
  const { places } = view;
  const { keys_by: by, queries_by: group, values } = value;
  const weight = values[at.row][at.column];
  const of = (from, n, most) => (n === 1 ? `token ${from + 1} “${visible(places.tokens[from].text)}”` : `tokens ${from + 1}–${Math.min(from + n, most)}`);
  const query = of(places.start + at.query, group, places.keys);
  if (at.key > places.start + Math.min(at.query + group, places.queries) - 1) return view.point(at.key, `${query} does not see ${of(at.key, by, places.keys)}: it comes later`);
  return view.point(at.key, `${query} looks at ${of(at.key, by, places.keys)}: ${weight.toFixed(4)} (${weightText(weight)}) · ${view.keyWords(at.key).split(" · ").slice(row(view)).join(" · ")}`);
}

const row = (view) => (view.row.value ? 2 : 1); // of the key's words, what stands in the line already
