// The panel of breakpoints: the marks of the scrubber as switches, and words for everything else.

import { html, nothing } from "lit-html";

import { MARKED } from "#core/breaks.js";
import { REASONS, plural } from "#core/reasons.js";
import { dialog } from "#view/panels.js";
import { keyButton } from "#view/parts.js";

export function breaksPanel(board) {
  const { breaks, travel } = board;
  const marked = MARKED.map(([, words]) => words);
  const { req } = board.focus.chosen ?? {};
  const own = breaks.list.map(({ words }) => words).filter((words) => !marked.includes(words));
  return dialog(board, "Stop where …", html`<div class="breaks">
    <p class="quiet">${howItStops(board)}</p>
    <p class="switches">${MARKED.map(([mark, words]) => toggle(breaks, words, html`<b aria-hidden="true">${mark}</b> ${words}`))}
      ${req && !own.includes(req) ? toggle(breaks, req, html`any event of ${req}`) : nothing}</p>
    <form @submit=${(event) => breaks.add(event)}>
      <label>or at <input name="words" list="break-words" autocomplete="off" placeholder="no_free_blocks · finish r4 · step 30 · scheduler.py:210"></label>
      <button class="tool">Add</button>
      <datalist id="break-words">${["skip", "sched.chunk", "kv.cache", "req.first_token", ...Object.keys(REASONS)].map((words) => html`<option value=${words}></option>`)}</datalist>
    </form>
    ${own.length ? html`<ul>${own.map((words) => html`<li><code>${words}</code>
      <button class="tool" aria-label="remove ${words}" @click=${() => breaks.toggle(words)}>✕</button></li>`)}</ul>` : nothing}
    ${breaks.ofOthers ? html`<p class="notice" data-others>The engine ${breaks.ofOthers.replace("stopped", "was stopped")}.</p>` : nothing}
    <div class="foot">
      <span class="notice" role="status">${breaks.notice || count(board)}</span>
      ${travel.steers ? html`
        <button class="tool" @click=${() => board.engine.ask("phase")}>next phase</button>
        <button class="tool" @click=${() => board.engine.ask("event")}>next event</button>` : nothing}
      ${keyButton("previous breakpoint", ",", () => breaks.go(-1), { lettered: "previous", disabled: !breaks.list.length })}
      ${keyButton("next breakpoint", ".", () => breaks.go(1), { lettered: travel.steers ? "run until the next" : "next", disabled: !breaks.list.length })}
    </div></div>`);
}

const toggle = (breaks, words, text) => html`<button class="tool" aria-pressed=${breaks.has(words)} @click=${() => breaks.toggle(words)}>${text}</button>`;

function howItStops({ isLive, engine }) {
  if (!isLive) return "Play stops at the event itself, inside its step; → shows the rest of the step.";
  if (engine.driver) return "The engine is held at the event itself, inside its step; Space lets it go on to the next.";
  return "Only the driver may hold the engine; these stop you when you play the past.";
}

function count({ breaks, lastStep }) {
  if (!breaks.list.length) return "none yet";
  return `${plural(breaks.steps?.size ?? 0, "step")} of ${lastStep} ${breaks.steps?.size === 1 ? "has" : "have"} one`;
}
