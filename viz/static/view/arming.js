// Ask a live engine for the arrays of a step to come; or say how else they come into a trace.

import { html, nothing } from "lit-html";

import { armedOf, armedWords, capturedSteps, nearest } from "#core/lens.js";

const SHOWN = 12;
const FURTHEST = 100_000; // steps ahead: a wish for later ones is a slip of the keyboard

// What can be done here and now, in one line.
export function armBox(board) {
  if (!board.isLive) return byCommand();
  const { engine } = board;
  const armed = armedOf(board.store);
  const words = armedWords(armed) || (engine.armed?.store === board.store && engine.armed.after === board.lastStep ? engine.armed.words : "");
  const notice = engine.notice ? html`<span class="notice" role="alert">${engine.notice}</span>` : nothing;
  if (words) {
    const held = engine.gate?.mode === "pause" ? " The engine is paused: → runs a step." : "";
    return html`${caughtButton(board)}<span class="armed" role="status">◎ ${words}${held}</span>
      ${engine.driver ? html`<button class="tool small" @click=${() => arm(board, "none")}>Cancel</button>` : nothing}${notice}`;
  }
  if (!engine.driver) return html`<span class="quiet">Only the driver may have a step of this engine recorded.</span>`;
  return html`${caughtButton(board)}<button class="tool small" @click=${() => arm(board, "next")}>Record the next step’s arrays</button>
    <form class="arm-step" @input=${() => board.engine.clearNotice()} @submit=${(event) => armStep(event, board)}><label>or of step
      <input name="step" inputmode="numeric" autocomplete="off" placeholder=${board.lastStep + 10} aria-label="number of the step to record"></label>
      <button class="tool small">Record it</button></form>
    <span class="quiet">That step alone runs slower.</span>${notice}`;
}

// The run goes on: what was caught lies behind the cursor.
function caughtButton(board) {
  const caught = [...capturedSteps(board.store).keys()].at(-1);
  if (caught === undefined || caught === board.step) return nothing;
  return html`<button class="primary small" role="status" @click=${() => board.travel.seek(caught)}>Step ${caught} is recorded: look at it</button> `;
}

function armStep(event, board) {
  event.preventDefault();
  const field = event.target.elements.step;
  const text = field.value.trim() || field.placeholder;
  const [first, last] = [board.lastStep + 1, board.lastStep + FURTHEST];
  const step = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (step >= first && step <= last) return arm(board, step);
  board.engine.notice = `“${text}” is no step to come: give a whole number from ${first} to ${last}.`;
  return board.changed();
}

// The engine that is shown, of several; the wish is told of by its next step, until then by this.
async function arm(board, step) {
  const { engine } = board;
  const number = board.engines.length > 1 ? Number(board.at.stream.slice("engine".length)) : null;
  const asked = { store: board.store, after: board.lastStep, words: step === "none" ? "" : armedWords({ next: step === "next", steps: step === "next" ? [] : [step] }) };
  if (await engine.ask("arm", { step, engine: number })) engine.armed = asked;
  board.changed();
}

function byCommand() {
  return html`<span class="quiet">This run has ended, so no step of it can be recorded any more. Arrays come with <code>minivllm generate "…" --trace run.jsonl --trace-level tensors</code>
    (then <code>minivllm replay run.jsonl</code>), or of a live engine from here.</span>`;
}

// Links to the steps that have arrays, those around the cursor.
export function recordedSteps(board) {
  const steps = [...capturedSteps(board.store).keys()];
  if (!steps.length) return nothing;
  const near = nearest(steps, board.step, SHOWN);
  return html`<span class="recorded">recorded: ${near.map((step, i) => html`${i ? " " : ""}<a href=${board.linkTo(step)} aria-current=${step === board.step ? "step" : nothing}
    @click=${(event) => {
      event.preventDefault();
      board.travel.seek(step);
    }}>${step}</a>`)}${steps.length > near.length ? html` <span class="quiet">… ${steps.length - near.length} more</span>` : nothing}</span>`;
}
