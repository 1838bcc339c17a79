// The drawer under S: the source that ran. Lines that told something carry their count; the line of
// the current event is lit. A line leads to its events; of a live engine, it can be a breakpoint.

import { html, nothing, render } from "lit-html";

import { plural } from "#core/reasons.js";
import { findEvent, samePick, srcsOf } from "#core/selection.js";
import { eventsOfLine, sourceMap, stepsOfLine } from "#core/sources.js";
import { decisive } from "#core/why.js";
import { eventWords } from "#core/words.js";
import { registerDrawer } from "#views/frame.js";

const STEPS_SHOWN = 24;
const EVENTS_SHOWN = 12;

let body = null;
let picked = null; // {file, first} that the reader chose; null: the cursor's
let lit = "";

registerDrawer({
  id: "source",
  title: "Source",
  short: "source",
  key: "s",
  side: "right",

  mount(el) {
    body = el;
  },

  update(board) {
    render(board.store?.config ? content(board) : html`<p class="quiet">No run is open.</p>`, body);
    follow(board);
  },
});

// The event whose line is lit: the one the walk stands at, the line or the event that is selected, what
// the Why card tells, or the step's most telling one.
function currentEvent(board) {
  const events = board.store.eventsOf(board.step);
  const { event } = board.player;
  if (event !== null) return events[event - 1] ?? null;
  const { chosen } = board.focus;
  if (chosen?.event) return findEvent(board.store, chosen.event)?.event ?? null;
  if (chosen?.line) {
    const srcs = srcsOf(board.store, chosen.line);
    return events.find(({ src, kind }) => srcs.includes(src) && kind !== "run.source") ?? { src: srcs[0], kind: "nothing in this step" };
  }
  const source = board.focus.card()?.source;
  if (source) return events.find(({ src }) => src === source.src) ?? { src: source.src, kind: source.kind };
  return decisive(events.filter(({ src }) => src)) ?? null;
}

function content(board) {
  const files = board.memo("sources", () => sourceMap(board.store, board.step), "");
  if (!files.length) return html`<p class="quiet">This trace does not tell its source.</p>`;
  const event = currentEvent(board);
  const at = event && board.store.sources.get(event.src);
  const shown = picked ?? (at ? { file: at.file, first: at.first_line } : { file: files[0].file, first: files[0].functions[0].first });
  const file = files.find((each) => each.file === shown.file);
  const fn = file?.functions.find((each) => each.first === shown.first);
  return html`
    <div class="choose"><label><span class="hidden">function</span><select @change=${(change) => pick(board, change.target.value)}>
      ${files.map((each) => html`<optgroup label=${each.file}>${each.functions.map((one) => html`<option value=${`${each.file}:${one.first}`}
        ?selected=${each.file === shown.file && one.first === shown.first}>${one.name} — ${one.hits}${one.now ? ` (${one.now} now)` : ""}</option>`)}</optgroup>`)}
    </select></label>
    <button class="tool" aria-pressed=${picked === null} @click=${() => pick(board, null)}>follow the cursor</button></div>
    ${event && at ? html`<p class="at">${currentWords(board, event)}</p>` : html`<p class="at quiet">No event here.</p>`}
    ${fn ? listing(board, file.file, fn, at) : html`<p class="quiet">Its text is not in the trace.</p>`}`;
}

function currentWords(board, event) {
  if (!event.data) return event.kind;
  const found = findEvent(board.store, event);
  if (!found) return event.kind;
  return `${found.step === board.step ? "" : `step ${found.step}, `}${eventWords(event, found.place, found.count)}`;
}

function pick(board, value) {
  const cut = value?.lastIndexOf(":") ?? -1;
  picked = value === null ? null : { file: value.slice(0, cut), first: Number(value.slice(cut + 1)) };
  lit = "";
  board.changed();
}

function listing(board, file, fn, at) {
  return html`<p class="where"><code>${file}</code> <b>${fn.name}</b> <span class="quiet">${plural(fn.hits, "event")} up to this step, ${fn.now} in it</span></p>
    <ol class="code">${fn.lines.map((line) => {
      const current = at?.file === file && at.line === line.number;
      const opened = samePick(board.focus.chosen, { line: { file, line: line.number } });
      return html`<li class="${current ? "current" : ""} ${line.now ? "now" : ""}" aria-current=${current ? "true" : nothing}>
        <span class="hits">${line.hits || ""}</span><span class="line-number">${line.number}</span>${line.srcs.length
          ? html`<button aria-expanded=${opened} title=${plural(line.hits, "event")} @click=${() => board.focus.choose({ line: { file, line: line.number } })}><code>${line.text || " "}</code></button>`
          : html`<code>${line.text || " "}</code>`}
        ${opened ? eventsAt(board, file, line) : nothing}</li>`;
    })}</ol>`;
}

// What a line told: in this step event by event, and the other steps.
function eventsAt(board, file, line) {
  const { store, step } = board;
  const here = eventsOfLine(store, line.srcs, step);
  const steps = stepsOfLine(store, line.srcs);
  const total = store.eventsOf(step).length;
  const near = around(steps, step);
  return html`<div class="told">
    ${here.length ? html`<ul>${here.slice(0, EVENTS_SHOWN).map(({ event, place }) => html`<li><button class="link" @click=${() => board.travel.seek(step, place)}>${eventWords(event, place, total)}</button></li>`)}
      ${here.length > EVENTS_SHOWN ? html`<li class="quiet">… ${here.length - EVENTS_SHOWN} more</li>` : nothing}</ul>` : html`<p class="quiet">nothing in this step</p>`}
    ${steps.length ? html`<p>in ${steps.length === 1 ? "step" : "steps"} ${near.map(({ step: k, n }, i) => html`${i ? ", " : ""}<a href=${board.linkTo(k)} aria-current=${k === step ? "step" : nothing}
      @click=${(click) => {
        click.preventDefault();
        board.travel.seek(k);
      }}>${k}</a>${n > 1 ? html`<small> ×${n}</small>` : nothing}`)}${steps.length > near.length ? html` <span class="quiet">… ${steps.length - near.length} more</span>` : nothing}</p>` : html`<p class="quiet">not yet reached in this run</p>`}
    ${breakpoint(board, file, line.number)}</div>`;
}

// The steps nearest to the cursor.
function around(steps, step) {
  const at = steps.findIndex((each) => each.step >= step);
  const from = Math.max(Math.min((at < 0 ? steps.length : at) - STEPS_SHOWN / 2, steps.length - STEPS_SHOWN), 0);
  return steps.slice(from, from + STEPS_SHOWN);
}

// The engine runs until this line tells something again, and is held there.
function breakpoint(board, file, number) {
  const words = `${file}:${number}`;
  const stop = html`<button class="tool" aria-pressed=${board.breaks.has(words)} @click=${() => board.breaks.toggle(words)}>Stop at this line</button>`;
  if (!board.isLive || !board.engine.driver) return html`<p>${stop}</p>`;
  return html`<p>${stop} <button class="tool" @click=${() => runUntil(board, file, number)}>Run until this line</button>
    ${board.engine.notice ? html`<span class="notice">${board.engine.notice}</span>` : nothing}</p>`;
}

async function runUntil(board, file, number) {
  if (await board.engine.ask("until", `${file}:${number}`)) board.travel.end();
}

// The lit line comes into sight when it is another one, and only then: the reader may scroll.
function follow(board) {
  const line = body.querySelector(".code .current");
  const now = line ? `${board.step} ${board.player.event} ${line.querySelector(".line-number").textContent}` : "";
  if (now === lit) return;
  lit = now;
  if (line) body.scrollTop = line.offsetTop - body.clientHeight / 2;
}
