// What stands in the lens's place where there are no weights: why, and how to get them.

import { html, nothing } from "lit-html";

import { capturedSteps, nearest } from "#core/lens.js";
import { lifeOf } from "#core/life.js";
import { listed } from "#core/reasons.js";
import { armBox } from "#view/arming.js";

const STEPS_SHOWN = 12;

// `quiet`: no way to get them need be told.
export function notHere(board, { what, cause, quiet = false }) {
  return html`<div class="empty lens-missing"><p><b>${what}</b> ${cause}</p>
    ${quiet && !board.isLive ? nothing : html`<p>${armBox(board)}</p>`}</div>`;
}

// It ran nothing in this step: where it did.
export function nothingRan(board, req) {
  const steps = req ? (lifeOf(board.store, req)?.columns ?? []).filter(({ ran }) => ran).map(({ step }) => step) : [];
  const what = req ? `No token of ${req} ran in step ${board.step}: it read nothing.` : "No token ran in this step: nothing was read.";
  const near = listed(nearest(steps, board.step, STEPS_SHOWN), STEPS_SHOWN + 1);
  const cause = steps.length ? `It ran in ${steps.length === 1 ? "step" : "steps"} ${near}${steps.length > STEPS_SHOWN ? " …" : ""}.` : "";
  return notHere(board, { what, cause, quiet: capturedSteps(board.store).size > 0 });
}
