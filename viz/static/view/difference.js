// The table of two runs: A, B, their difference and what it adds up from. A row opens: the ledger's
// account of it, by step, limit and request; each number of a step leads there.

import { html, nothing } from "lit-html";

import { signed } from "#core/phrases.js";
import { REASONS, plural } from "#core/reasons.js";
import { chip } from "#view/parts.js";

const FIRST = ["steps", "tokens run", "tokens reused", "preemptions", "TTFT mean, steps", "tokens out / step"];
const STEPS_SHOWN = 12;

export function differenceTable(board, result) {
  const { pair } = board;
  const by = new Map(result.rows.map((row) => [row.label, row]));
  const shown = pair.all ? result.rows : FIRST.map((label) => by.get(label)).filter(Boolean);
  let group = "";
  const lines = shown.map((row) => {
    const heading = pair.all && row.group !== group ? html`<tr class="group"><th colspan="5" scope="colgroup">${row.group}</th></tr>` : nothing;
    ({ group } = row);
    return html`${heading}${line(board, result, row)}`;
  });
  return html`<section class="difference" aria-label="What they come to"><table>
      <thead><tr><th scope="col">measure</th><th scope="col">A</th><th scope="col">B</th><th scope="col">B−A</th><th scope="col">because</th></tr></thead>
      <tbody>${lines}</tbody></table>
    <p><button class="tool" aria-expanded=${pair.all} @click=${() => {
      pair.all = !pair.all;
      board.changed();
    }}>${pair.all ? "the first six" : `all ${result.rows.length} rows`}</button></p>
  </section>`;
}

function line(board, result, { label, a, b, difference, because }) {
  const { pair } = board;
  const account = result.accounts.get(label);
  const open = Boolean(account) && pair.opened.has(label);
  const toggle = () => {
    if (open) pair.opened.delete(label);
    else pair.opened.add(label);
    board.changed();
  };
  return html`<tr class=${open ? "open" : ""}>
      <th scope="row">${account
        ? html`<button class="word plain" aria-expanded=${open} @click=${toggle}><i>${open ? "▾" : "▸"}</i>${label}</button>`
        : html`<span class="flat">${label}</span>`}</th>
      <td>${a}</td><td>${b}</td><td class="delta">${difference}</td><td class="because">${because}</td></tr>
    ${open ? html`<tr class="account"><td colspan="5">${accountOf(board, account)}</td></tr>` : nothing}`;
}

function accountOf(board, { parts, whose, reqs, per, same, unit, a, b }) {
  return html`${whose ? html`<p>It is the value of ${whose[0].join(", ")} in A, of ${whose[1].join(", ")} in B. ${reqs[0]}’s ${plural(a, "step")} and ${reqs[1]}’s ${b}${
      per ? ` (${per[0]} and ${per[1]} tokens after the first)` : ""}:</p>` : nothing}
    <ul>${parts.map((part) => partLine(board, part, unit))}</ul>
    ${same?.length ? html`<p class="quiet">${same.join(", ")}: the same</p>` : nothing}`;
}

function partLine(board, part, unit) {
  const name = part.req ? chip(board, part.req, board.hueOf(part.req), { flip: false }) : html`<code title=${wordsOf(part.label)}>${part.label}</code>`;
  return html`<li>${name} <b>${signed(part.b - part.a)}</b> <span class="quiet">${part.a} → ${part.b} ${unit}</span>
    ${part.steps ? html`<span class="where">${[0, 1].map((side) => stepLinks(board, part.steps[side], side))}</span>` : nothing}
    ${part.parts ? html`<ul>${part.parts.map((each) => partLine(board, each, "steps"))}</ul>` : nothing}</li>`;
}

// A label is a limit, or what a request did and the limit behind it.
function wordsOf(label) {
  const reason = label.split(": ").at(-1);
  if (reason === "budget") return "the whole budget was used";
  return REASONS[reason] ?? "";
}

function stepLinks(board, steps, side) {
  if (!steps.length) return nothing;
  const list = [...new Set(steps)];
  return html`<span>${"AB"[side]} ${list.slice(0, STEPS_SHOWN).map((step) => html`<button class="word plain" aria-label=${`step ${step} of ${"AB"[side]}`}
    @click=${() => board.pair.seek(side, step)}>${step}</button>`)}${list.length > STEPS_SHOWN ? html`<span class="quiet">… ${list.length - STEPS_SHOWN} more</span>` : nothing}</span>`;
}
