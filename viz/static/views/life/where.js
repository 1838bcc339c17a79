// WHERE IT WENT: the steps of a life in bands, or its milliseconds; never both on one line.

import { html, nothing } from "lit-html";

import { bandsInTime, clientTimes } from "#core/lifetimes.js";
import { BANDS } from "#core/lifewords.js";
import { explain, plural } from "#core/reasons.js";
import { duration } from "#core/stations.js";

export function whereSection(life, view) {
  const { board } = view;
  const ms = view.unit === "ms";
  const timed = board.run?.header?.fidelity !== "given" && !life.cut;
  const bands = ms ? bandsInTime(life) : life.bands;
  const weight = (band) => (ms ? Math.max(band.ns, 1) : band.steps);
  const far = life.ended === null ? " so far" : "";
  return html`<section class="where" aria-labelledby="where-title">
    <h3 id="where-title">Where it went
      <span class="units" role="group" aria-label="unit">${["steps", "ms"].map((unit) => html`<button class="tool" aria-pressed=${view.unit === unit}
        ?disabled=${unit === "ms" && !timed} title=${unit === "ms" && !timed ? "no model ran, or its beginning is not here" : nothing}
        @click=${() => view.setUnit(unit)}>${unit}</button>`)}</span>
      <span class="aside">${ms ? "this run, this machine" : ""}</span></h3>
    <div class="bands">${bands.map((band) => html`<button class="band ${band.band} ${board.step >= band.from && board.step <= band.to ? "here" : ""}"
      .style=${`flex-grow:${weight(band)}`} title="${nameOf(band, ms)}: ${ms ? duration(band.ns) : bandWords(band)}. ${BANDS[band.band][1]}"
      @click=${() => board.travel.seek(band.from)}><b>${nameOf(band, ms)}</b> <span>${ms ? duration(band.ns) : band.steps}</span></button>`)}</div>
    <p class="sums"><span>${ms ? timeSums(life, view, far) : stepSums(life, far)}</span>${unran(life)}</p>
  </section>`;
}

const nameOf = ({ band }, ms) => (ms && band === "wait" ? "queue" : BANDS[band][0]);

const bandWords = ({ from, to, steps }) => (steps === 1 ? `step ${from}` : `${steps} steps, ${from}–${to}`);

// The steps in which it did not run, by their reasons.
function unran({ waited }) {
  const reasons = Object.entries(waited);
  if (!reasons.length) return nothing;
  return html`<span class="quiet">did not run: ${reasons.map(([reason, n], i) => html`${i ? ", " : ""}<b>${n}</b> ×
    <code title=${reason === "not_told" ? "no reason was told" : explain(reason)}>${reason}</code>`)}</span>`;
}

function timeSums(life, view, far) {
  const total = life.bands.reduce((sum, { ns }) => sum + ns, 0);
  const first = life.columns.find(({ step }) => step === life.firstToken);
  const last = life.columns.find(({ step }) => step === life.lastToken);
  const ttft = first ? first.end_ns - life.arrived_ns : null;
  const tpot = first && last && life.outputs > 1 ? (last.end_ns - first.end_ns) / (life.outputs - 1) : null;
  const queue = life.admitted_ns === null ? null : life.admitted_ns - life.arrived_ns;
  const client = clientTimes(view.events);
  return html`<b>${duration(total)}</b>${far} · queue <b>${duration(queue) || "–"}</b> · TTFT <b>${duration(ttft) || "–"}</b>${client.first === null ? nothing : html` in the engine, <b>${duration(client.first)}</b> at the door`}
    · TPOT <b>${duration(tpot) || "–"}</b>${client.times ? html` · held back <b>${duration(client.held)}</b>` : nothing}`;
}

function stepSums(life, far) {
  const tpot = life.tpot === null ? "–" : String(Math.round(life.tpot * 100) / 100);
  return html`<b>${plural(life.steps, "step")}</b>${far} · TTFT <b>${life.ttft ?? "–"}</b> · TPOT <b>${tpot}</b>
    ${life.cut ? html`<span class="quiet">; its steps before ${life.columns[0]?.step ?? "here"} were not kept</span>` : nothing}`;
}
