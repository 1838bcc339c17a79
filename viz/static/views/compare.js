// Compare: two runs of one workload, one cursor over both, and what their difference adds up from.

import { html, nothing, render } from "lit-html";

import { plural } from "#core/reasons.js";
import { stepsOf } from "#core/selection.js";
import { CELLS, wholeView } from "#core/timeline.js";
import { passesOf } from "#core/tokens.js";
import { cellWords, lettersTable } from "#view/cellwords.js";
import { headOf } from "#view/cells.js";
import { differenceTable } from "#view/difference.js";
import { forkForm, pickB } from "#view/forkform.js";
import { table } from "#view/panels.js";
import { chip, sentence } from "#view/parts.js";
import { register } from "#views/frame.js";
import { CELL_LEGEND } from "#views/timeline.js";

let main = null;
let hover = null; // {side, req, step}
const BY_NAME_UP_TO = 16; // requests that have a row of their own, in A's order; more share lanes

// The rows of one side: the same request on the same height in both, while they are few.
function rowsOf(board, result, side) {
  const { timelines } = result;
  const names = [...new Set(timelines.flatMap((each) => [...each.rows.keys()]))];
  const own = [...timelines[side].rows.values()];
  const byName = names.length <= BY_NAME_UP_TO && !result.comparison.notComparable;
  return {
    rows: own.map((row) => ({ row, hue: board.hueOf(row.req), at: byName ? names.indexOf(row.req) : row.lane })),
    lanes: byName ? names.length : timelines[side].peak,
    byName,
  };
}

// The steps of each side that the selection is about: a token's of the same request, a line's hits. An
// event is one run's alone.
function marksOf(board, side) {
  const { pair, focus } = board;
  const here = (side === 1) === pair.flipped;
  if (!focus.chosen || (focus.chosen.event && !here)) return null;
  const { store } = side === 0 ? pair.a : pair.b;
  return stepsOf(store, focus.chosen, passesOf);
}

function cells(board, result, side) {
  const { pair } = board;
  const { timelines, comparison } = result;
  const { rows, lanes, byName } = rowsOf(board, result, side);
  const most = Math.max(...timelines.map((each) => each.lastStep));
  const whole = wholeView(timelines[side]);
  const lane = Math.max(Math.min(Math.floor(200 / Math.max(lanes, 1)), 30), byName ? 16 : 1);
  const target = board.focus.target?.req;
  const data = {
    timeline: timelines[side],
    rows,
    lanes,
    lane,
    gutter: byName ? 44 : lane >= 14 ? 28 : 0,
    byName,
    view: { from: whole.from, to: Math.max(most + 1, whole.to) }, // one scale for both
    byTime: false,
    step: pair.stepOf(side),
    first: comparison.first?.step ?? null,
    hits: marksOf(board, side),
    marks: marksOf(board, side) !== null,
    charts: [],
    faded: board.focus.faded,
    dim: (req) => Boolean(target) && target !== req,
    chosen: board.focus.req,
    brush: false,
  };
  const name = "AB"[side];
  return html`<vz-cells role="img" .style=${`height:calc(${headOf(data) + lanes * lane + 2}px * var(--scale))`} .data=${data}
    aria-label=${`${name}: ${plural(timelines[side].lastStep, "step")}, the cursor on ${pair.stepOf(side)}`}
    @cell-point=${(event) => {
      hover = event.detail ? { side, ...event.detail } : null;
      board.focus.point(event.detail?.req ? { req: event.detail.req } : null);
    }}
    @cell-pick=${({ detail }) => {
      if (!detail) return;
      if (detail.req && (detail.name || board.focus.chosen?.req !== detail.req)) board.focus.chosen = { req: detail.req };
      if (!detail.name) pair.seek(side, detail.step);
      else board.changed();
    }}></vz-cells>`;
}

function sidePanel(board, result, side) {
  const { pair } = board;
  const { run } = side === 0 ? pair.a : pair.b;
  const step = pair.stepOf(side);
  const here = (side === 1) === pair.flipped;
  return html`<section class="side ${here ? "here" : ""}" aria-label=${`Run ${"AB"[side]}`}>
    <h2><b>${"AB"[side]}</b> <span class="name">${run.label || run.id}</span>
      ${side === 1 ? html`<button class="tool" @click=${() => pair.drop()}>another</button>` : nothing}</h2>
    ${cells(board, result, side)}
    <p class="told"><b>${step}</b>${sentence(board, pair.headline(side))}</p>
  </section>`;
}

function head(board, result) {
  const { pair } = board;
  const { first, notComparable } = result.comparison;
  const { req } = board.focus.chosen ?? {};
  return html`<header>
    <p class="verdict" role="status" tabindex="-1">${first
      ? html`<button class="tool" @click=${() => pair.seek(0, first.step)}>${pair.verdict}</button>`
      : pair.verdict}</p>
    <fieldset class="by" ?disabled=${Boolean(notComparable)}><legend>cursor by</legend>
      ${[["step", false], ["token", true]].map(([name, on]) => html`<button class="tool" aria-pressed=${pair.byToken === on}
        @click=${() => {
          pair.byToken = on;
          board.changed();
        }}>${name}</button>`)}
      ${pair.byToken ? html`<span class="quiet">${req ? html`of ${chip(board, req, board.hueOf(req), { flip: false })}` : "choose a request"}</span>` : nothing}
    </fieldset>
    <button class="tool" @click=${() => {
      pair.flip();
      board.frame.show("board");
    }}><kbd aria-hidden="true">B</kbd> the Board, on ${pair.flipped ? "A" : "B"}</button>
  </header>`;
}

// What parted them, and what may have made it; of the decisions those of each request on both sides.
function parting(board, { comparison }) {
  const { first, cause, knobs, inputs, byNature, token } = comparison;
  const told = new Set(cause);
  const more = [
    ...knobs.filter((pair) => !told.has(pair.words)).map((pair) => pair.words),
    ...inputs.filter((pair) => !told.has(pair.words)).map((pair) => pair.words),
    token && !cause.some((words) => words.includes(token.req)) ? `${token.req}’s output token ${token.index + 1} is another: “${token.a}” in A, “${token.b}” in B (step ${token.step})` : "",
  ].filter(Boolean);
  const kinds = Object.entries(byNature);
  if (!first && !more.length && !kinds.length) return nothing;
  return html`<section class="parting" aria-label="Where they part">
    ${first ? html`<h3>Where they part: <button class="word plain" @click=${() => board.pair.seek(0, first.step)}>step ${first.step}</button></h3>
      <div class="others">${first.others.slice(0, 8).map((other) => html`<p><b>${other.req ? chip(board, other.req, board.hueOf(other.req), { flip: false }) : "all"}</b>
        <span>A <em>${other.a}</em></span><span>B <em>${other.b}</em></span></p>`)}
        ${first.others.length > 8 ? html`<p class="quiet">… ${first.others.length - 8} more</p>` : nothing}</div>
      <p>because ${cause.join("; ")}</p>` : nothing}
    ${more.length ? html`<p class="quiet">also differs: ${more.join("; ")}</p>` : nothing}
    ${kinds.length ? html`<p class="quiet">by nature, not counted (only in A | only in B): ${kinds.map(([kind, [a, b]]) => `${kind} ${a} | ${b}`).join(", ")}</p>` : nothing}
  </section>`;
}

function showHead({ narrow }) {
  const verdict = main.querySelector(".verdict");
  if ([document.body, main].includes(document.activeElement)) verdict.focus({ preventScroll: true });
  if (narrow) verdict.scrollIntoView({ block: "center" });
  main.scrollTop = 0;
}

function both(board, result) {
  return html`${head(board, result)}
    <div class="pair">
      ${sidePanel(board, result, 0)}${sidePanel(board, result, 1)}
      ${differenceTable(board, result)}
      <div class="under">${result.comparison.notComparable ? nothing : parting(board, result)}
        ${board.narrow ? nothing : html`<p class="cell-legend">${CELL_LEGEND.map(([code, text]) => html`<span><i data-code=${code}></i>${text}</span>`)}</p>`}
        ${board.pair.notice ? html`<p class="notice" role="status">${board.pair.notice}</p>` : nothing}</div>
    </div>`;
}

register({
  id: "compare",
  title: "Compare",
  key: "c",
  named: true,

  mount(el) {
    main = el;
  },

  update(board) {
    const { pair } = board;
    const result = board.run ? pair.result : null;
    const came = result && main.classList.contains("one"); // the form gave way to what came of it
    main.classList.toggle("one", !result);
    if (result) render(both(board, result), main);
    if (came) showHead(board);
    if (result) return;
    pair.askForKnobs();
    render(html`<div class="make">${pickB(board)}${forkForm(board)}</div>`, main);
  },

  keys(event, board) {
    if (event.key.toLowerCase() !== "b" || !board.pair.on || board.keysOff) return false;
    board.pair.flip();
    return true;
  },

  detail(board) {
    const { result } = board.pair;
    if (!hover?.req || !result) return "";
    const { store } = hover.side === 0 ? board.pair.a : board.pair.b;
    return `${"AB"[hover.side]} · ${cellWords(store, hover.req, hover.step)}`;
  },

  // The headline is that of the run on the Board; here, the other one's.
  says({ pair }) {
    if (!pair.result) return "";
    const other = pair.flipped ? 0 : 1;
    return `${"AB"[other]}, step ${pair.stepOf(other)}: ${pair.headline(other)}`;
  },

  table(board) {
    const { result } = board.pair;
    if (!result) {
      const others = board.runs.filter((run) => run.id !== board.run?.id).map((run) => [run.label || run.id]);
      return html`<p>One run is open, ${board.run?.label || board.run?.id || "none"}. Nothing stands beside it yet: choose another, or run this one again with other knobs.</p>
        ${others.length ? table("What it can be compared with", ["run"], others) : nothing}`;
    }
    const letters = [0, 1].map((side) => lettersTable(board, result.timelines[side], `${"AB"[side]}: ${board.pair.headline(side)}`));
    return html`<p>${board.pair.verdict}</p>
      ${table("What they come to", ["", "A", "B", "B−A", "because"], result.rows.map((row) => [row.label, row.a, row.b, row.difference, row.because]))}
      ${letters}<p>${Object.entries(CELLS).map(([code, words]) => `${code} ${words}`).join(" · ")}</p>`;
  },
});
