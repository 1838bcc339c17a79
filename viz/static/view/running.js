// The middle: the step's token budget, and the running requests with their tokens.

import { html, nothing } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";

import { rowMode, shownBars, tokenCells } from "#core/layout.js";
import { plural } from "#core/reasons.js";
import { NO_MODEL, sayTokens } from "#core/say.js";
import { gapButton } from "#view/lanes.js";
import { chip, hueClass, textTail } from "#view/parts.js";
import { endCard } from "#view/tour.js";

const BAR_PITCH = 12;
const SCALE_STEP = 16; // tokens

export function runningRegion(board, scene) {
  const rows = scene?.running ?? [];
  const limit = scene?.config.max_num_seqs;
  const fcfs = scene?.config.policy === "fcfs" && rows.length > 1;
  return html`<section class="running" aria-labelledby="running-title">
    <h2 id="running-title">Running <b>${rows.length}</b>${limit ? html`<span>, at most ${limit}</span>` : nothing}
      <span class="aside">${fcfs ? "the lowest row is the next to be preempted (fcfs)" : ""}</span></h2>
    ${scene ? budgetBar(board, scene) : nothing}
    <div class="rows ${modeOf(board, rows)}">${scene ? rowList(board, scene, rows) : nothing}${scene && !rows.length ? html`<p class="quiet">${gapButton(board, "running", "nobody")}</p>` : nothing}${endCard(board)}</div>
  </section>`;
}

function budgetBar(board, { budget, step }) {
  const words = budget.unused && budget.used + budget.unused > 0 && board.step > 0;
  const unused = !words
    ? budget.used ? "the budget is full" : ""
    : budget.why ? `${budget.unused} unused: ${budget.why}` : "";
  const label = `budget of step ${step}: ${budget.used} of ${budget.total} tokens. ${unused}`;
  const data = board.memo("budget", () => ({
    total: budget.total,
    segments: budget.segments,
    dim: (req) => req !== null && board.focus.dims({ req }),
    faded: board.focus.faded,
  }));
  return html`<div class="budget">
    <p><span>budget</span> <b>${budget.used}</b> of ${budget.total}</p>
    <vz-budget role="img" aria-label=${label} .data=${data} .progress=${board.progressOf("schedule")}
      @budget-point=${(event) => board.focus.point(event.detail?.req ? { req: event.detail.req } : null)}
      @budget-pick=${(event) => board.focus.pickBudget(event.detail)}></vz-budget>
    <p class="unused">${unused
      ? html`<button class="word plain" @click=${() => board.focus.choose({ unused: true })}>${unused}</button>`
      : nothing}</p>
  </div>`;
}

const modeOf = ({ low, sizes }, rows) => rowMode(rows.length, low ? sizes.rowsHeight : Infinity);

function rowList(board, scene, rows) {
  const mode = modeOf(board, rows);
  const size = scene.config.block_size;
  // Rounded up, so that growing rows do not change the scale at every step.
  const longest = Math.ceil(Math.max(1, ...rows.map((row) => row.known)) / SCALE_STEP) * SCALE_STEP;
  const room = board.sizes.rows - (mode === "bars" ? 44 : 60) - (isShort(board) ? 44 : 92);
  const cells = tokenCells(longest, size, Math.max(room, 80));
  if (mode === "bars") return barList(board, scene, rows, cells, size);
  const height = mode === "full" ? 16 : 14;
  return html`<ol>
    ${repeat(rows, (row) => row.req, (row) => html`<li data-req=${row.req}
      class=${board.focus.dims({ req: row.req }) ? "dimmed" : ""}>
      ${chip(board, row.req, row.hue)}
      <vz-strip role="img" aria-label=${sayTokens(row)} data-req=${row.req}
        .data=${board.memo(`strip ${row.req}`, () => ({ row, cells, blockSize: size, height, mark: markOf(board, row) }))}
        .progress=${board.progressOf("run")}
        @token-point=${(event) => board.focus.point(event.detail ?? { req: row.req })}
        @token-pick=${(event) => board.focus.choose(event.detail)}
        @token-leave=${() => board.focus.point(null)}></vz-strip>
      <span class="count">${isShort(board) ? row.known : plural(row.known, "token")}</span>
      ${mode === "full" && !board.narrow ? (board.placeholders ? html`<p class="tail quiet">${NO_MODEL}</p>` : textTail(row.text)) : nothing}
    </li>`)}
  </ol>`;
}

// Is there no room for the word behind a row's number of tokens?
const isShort = ({ narrow, low, sizes }) => narrow || (low && sizes.rows < 400);

// The token of this row that is selected: what is under the pointer needs no ring.
const markOf = ({ focus: { chosen } }, { req }) => (chosen?.req === req ? chosen.position ?? null : null);

// More than twenty: bars of 8 px, those to whom something happened first, and a count of the rest.
function barList(board, { facts }, rows, cells, size) {
  const capacity = Math.max(Math.floor((board.sizes.rowsHeight - 24) / BAR_PITCH), 4);
  const why = new Map(facts.grants.map((grant) => [grant.req, grant.why]));
  const busy = (row) => facts.admitted.has(row.req) || (why.has(row.req) && why.get(row.req) !== "decode");
  const { shown, rest } = shownBars(rows, busy, capacity);
  const decoding = rest.every((row) => why.get(row.req) === "decode");
  return html`<ol>
    ${repeat(shown, (row) => row.req, (row) => html`<li data-req=${row.req}
      class="${hueClass(row.hue)} ${board.focus.dims({ req: row.req }) ? "dimmed" : ""}">
      <button class="bar-name" data-req=${row.req} @click=${() => board.focus.choose({ req: row.req })}>${row.req}</button>
      <vz-strip role="img" aria-label=${sayTokens(row)} data-req=${row.req}
        .data=${board.memo(`strip ${row.req}`, () => ({ row, cells, blockSize: size, height: 8, mark: markOf(board, row) }))}
        .progress=${board.progressOf("run")}></vz-strip>
      <span class="count">${row.known}</span>
    </li>`)}
    ${rest.length ? html`<li class="more"><button class="word plain" title="Timeline (Y)" @click=${() => board.frame.show("timeline")}
      >+ ${rest.length} more${decoding ? " decode 1 token each" : ""}</button></li>` : nothing}
  </ol>`;
}

