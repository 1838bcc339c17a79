// The timeline: every request of the run over its steps, as many lanes as lived at once. Drag over
// it to look closer. What the Board cannot show of 256 requests stands here.

import { html, nothing, render } from "lit-html";

import { find } from "#core/find.js";
import { fixed } from "#core/phrases.js";
import { plural } from "#core/reasons.js";
import { CELLS, laneHeight, pan, timelineOf, wholeView, zoom } from "#core/timeline.js";
import { cellWords, lettersTable } from "#view/cellwords.js";
import { headOf } from "#view/cells.js";
import { keyButton } from "#view/parts.js";
import { register } from "#views/frame.js";

let main = null;
const at = { store: null, view: null, byTime: false, charts: ["budget", "kv"], marks: true, hover: null, room: 400 };

const timeline = (board) => (board.store?.config ? timelineOf(board.store) : null);

// What is seen: the whole run as it grows, until the reader looks closer.
function viewOf(board, shown) {
  if (at.store !== board.store) Object.assign(at, { store: board.store, view: null });
  const whole = wholeView(shown);
  return at.view ? pan(at.view, whole, 0) : whole;
}

function look(board, view) {
  const whole = wholeView(timeline(board));
  at.view = view && (view.from > whole.from || view.to < whole.to) ? view : null;
  board.changed();
}

function closer(board, factor, step = board.step) {
  const shown = timeline(board);
  if (!shown) return;
  const view = viewOf(board, shown);
  look(board, zoom(view, wholeView(shown), factor, Math.min(Math.max(step, view.from), view.to)));
}

function pick(board, { step, req } = {}) {
  if (step === undefined) return;
  if (req && board.focus.chosen?.req !== req) board.focus.chosen = { req };
  board.travel.seek(step);
}

// The request in the next lane at this step, or the lane before.
function along(board, by) {
  const shown = timeline(board);
  const { req } = board.focus.chosen ?? {};
  const from = req ? shown.rows.get(req)?.lane ?? -1 : by > 0 ? -1 : shown.peak;
  for (let lane = from + by; lane >= 0 && lane < shown.peak; lane += by) {
    const row = shown.rowIn(lane, board.step);
    if (!row) continue;
    board.focus.chosen = { req: row.req };
    board.say(cellWords(board.store, row.req, board.step));
    return board.changed();
  }
  return undefined;
}

function toggleChart(board, name) {
  at.charts = at.charts.includes(name) ? at.charts.filter((other) => other !== name) : [...at.charts, name];
  board.changed();
}

function bar(board, shown, hits) {
  const switched = (name, text) => html`<button class="tool" aria-pressed=${at.charts.includes(name)}
    @click=${() => toggleChart(board, name)}>${text}</button>`;
  return html`<header>
    <h2>Timeline <span>${plural(shown.rows.size, "request")} over ${plural(shown.lastStep, "step")},
      at most ${shown.peak} at once${at.byTime ? " · a step as wide as it lasted: this run, this machine" : ""}${hits ? ` · ▴ ${plural(hits.size, "step")} with “${board.query}”` : ""}</span></h2>
    <p class="tools">
      ${switched("budget", html`<i class="bars"></i>budget`)}
      ${switched("kv", html`<i class="line"></i>KV pool`)}
      <button class="tool" aria-pressed=${at.marks} @click=${() => {
        at.marks = !at.marks;
        board.changed();
      }}>! marks</button>
      <button class="tool" aria-pressed=${at.byTime} @click=${() => {
        at.byTime = !at.byTime;
        board.changed();
      }}>${at.byTime ? "by time" : "by step"}</button>
      ${keyButton("look closer", "+", () => closer(board, 0.5), { text: "+" })}
      ${keyButton("look wider", "−", () => closer(board, 2), { text: "−" })}
      ${keyButton("the whole run", "0", () => look(board, null), { text: "whole", disabled: !at.view })}
    </p></header>`;
}

export const CELL_LEGEND = [["p", "prefill"], ["h", "prefix hit"], ["d", "decode"], ["w", "waits"], ["!", "preempted"], ["R", "resumes"], ["✓", "finished"]];

register({
  id: "timeline",
  title: "Timeline",
  key: "y",
  named: false,

  mount(el) {
    main = el;
  },

  resized(board) {
    const body = main?.querySelector(".lanes-body");
    if (body) at.room = body.clientHeight / (board.narrow ? 1 : Number(getComputedStyle(document.documentElement).getPropertyValue("--scale")) || 1);
    if (at.room < 120) at.room = 360;
  },

  update(board) {
    const shown = timeline(board);
    if (!shown || !shown.lastStep) return render(html`<p class="quiet empty">Nothing has run yet.</p>`, main);
    const found = board.query ? new Set(find(board.store, board.query, () => "").hits.map((hit) => hit.step)) : null;
    const hits = board.marked ?? found; // what is selected, before what was looked for
    const { target } = board.focus;
    const head = { marks: at.marks || hits, charts: at.charts };
    const lane = laneHeight(shown.peak, at.room - headOf(head) - 8);
    const data = {
      timeline: shown,
      rows: [...shown.rows.values()].map((row) => ({ row, hue: board.hueOf(row.req), at: row.lane })),
      lanes: shown.peak,
      lane,
      gutter: lane >= 14 ? 28 : 0,
      byName: false,
      view: viewOf(board, shown),
      byTime: at.byTime,
      step: board.step,
      first: null,
      hits,
      ...head,
      faded: board.focus.faded,
      dim: (req) => Boolean(target?.req) && target.req !== req,
      chosen: board.focus.req,
      brush: true,
    };
    const height = headOf(data) + shown.peak * lane + 8;
    return render(html`${bar(board, shown, board.marked ? null : hits)}
      <div class="lanes-body" tabindex="0" role="group" aria-label="lanes of the requests"><vz-cells role="img" .style=${`height:calc(${height}px * var(--scale))`}
        aria-label=${`${plural(shown.rows.size, "request")} over ${plural(shown.lastStep, "step")}; the same as a table: Help`}
        .data=${data}
        @cell-point=${(event) => {
          at.hover = event.detail;
          board.focus.point(event.detail?.req ? { req: event.detail.req } : null);
        }}
        @cell-pick=${(event) => pick(board, event.detail ?? {})}
        @cell-brush=${(event) => look(board, zoom(event.detail, wholeView(shown), 1, event.detail.from))}
        @cell-whole=${() => look(board, null)}
        @cell-zoom=${(event) => closer(board, event.detail.factor, event.detail.at)}
        @cell-pan=${(event) => {
          const view = viewOf(board, shown);
          look(board, pan(view, wholeView(shown), event.detail.by * (view.to - view.from)));
        }}></vz-cells></div>
      ${board.narrow ? nothing : html`<p class="cell-legend">${CELL_LEGEND.map(([code, text]) => html`<span><i data-code=${code}></i>${text}</span>`)}
        <span class="quiet">drag: look closer · click: go there · ↑ ↓ the next lane</span></p>`}`, main);
  },

  follows: (what) => Boolean(what?.req),

  keys(event, board) {
    const { key } = event;
    if (key === "ArrowUp" || key === "ArrowDown") along(board, key === "ArrowUp" ? -1 : 1);
    else if (board.keysOff) return false;
    else if (key === "+" || key === "=") closer(board, 0.5);
    else if (key === "-") closer(board, 2);
    else if (key === "0") look(board, null);
    else return false;
    return true;
  },

  detail(board) {
    const { hover } = at;
    if (!hover || !timeline(board)) return "";
    if (hover.req) return cellWords(board.store, hover.req, hover.step);
    const about = timeline(board).at(hover.step);
    if (!about) return "";
    const { pool } = timeline(board);
    const lasted = about.end > about.begin ? `, ${fixed((about.end - about.begin) / 1e6, 2)} ms` : "";
    return `step ${hover.step}: ${about.used} of ${about.budget} tokens of the budget, ${pool - about.free} of ${pool} blocks in use${lasted}`;
  },

  table: (board) => (timeline(board) ? lettersTable(board, timeline(board), `Cells: ${Object.entries(CELLS).map(([code, words]) => `${code} ${words}`).join(" · ")}`) : nothing),
});
