// No request is chosen: all of them, one small stair each; the slowest named.

import { html, nothing } from "lit-html";

import { times } from "#core/lifewords.js";
import { listed, plural } from "#core/reasons.js";
import { chip, visible } from "#view/parts.js";

const SHOWN = 100;
const SLOWEST = 3;

export function lifeList(lives, view) {
  const { board } = view;
  const all = [...lives.values()];
  if (!all.length) return html`<p class="empty">${board.isLive ? "No request has come yet. Type a prompt on the Board, or send one to the endpoint." : "No request came in this run."}</p>`;
  const slowest = all.toSorted((a, b) => b.steps - a.steps).slice(0, SLOWEST);
  const from = Math.min(...all.map(({ columns, arrived }) => columns[0]?.step ?? arrived));
  const to = Math.max(board.lastStep, from);
  const most = Math.max(...all.map(({ tokens }) => tokens.length));
  const shown = all.slice(0, SHOWN);
  for (const life of slowest) if (!shown.includes(life)) shown.push(life);
  return html`<div class="lives">
    <header><h2>${plural(all.length, "request")} <span>in steps ${from}–${to}</span></h2>
      ${all.length > 1 ? html`<p>The slowest: ${slowest.map((life, i) => html`${i ? ", " : ""}${chip(board, life.req, board.hueOf(life.req), { flip: false })} ${plural(life.steps, "step")}${whereWords(life)}`)}.</p>` : nothing}
      <p class="quiet">Choose one to follow it.</p></header>
    <ol>${shown.map((life) => html`<li><button class="life-row" data-req=${life.req} @click=${() => view.follow(life.req)}>
      <span class="chip ${board.hueOf(life.req) >= 0 ? `h${board.hueOf(life.req)}` : "grey"}"><span>${life.req}</span></span>
      <vz-ministair .data=${mini(life, board.hueOf(life.req), from, to, most)}></vz-ministair>
      <span class="count">${plural(life.steps, "step")}${life.ended === null ? " so far" : ""}</span>
      <span class="count">TTFT ${life.ttft ?? "–"}</span><span class="hidden">${whereWords(life)}</span>
      <span class="said">${visible(words(life))}</span></button></li>`)}</ol>
    ${all.length > shown.length ? html`<p class="quiet">… ${all.length - shown.length} more; <kbd>/</kbd> finds them.</p>` : nothing}
  </div>`;
}

// The same object while nothing in it has changed, so that the canvas rests.
const minis = new WeakMap();

function mini(life, hue, from, to, most) {
  const key = `${hue} ${from} ${to} ${most}`;
  if (minis.get(life)?.key !== key) minis.set(life, { key, columns: life.columns, hue, from, to, most });
  return minis.get(life);
}

const whereWords = ({ preemptions, bands }) => {
  const waits = bands.filter(({ band }) => band === "wait" || band === "preempted").reduce((sum, { steps }) => sum + steps, 0);
  const parts = [waits ? `${waits} waiting` : "", preemptions ? `preempted ${times(preemptions)}` : ""].filter(Boolean);
  return parts.length ? ` (${listed(parts)})` : "";
};

const words = ({ tokens, numPrompt }) => tokens.slice(Math.max(numPrompt - 6, 0)).map(({ text }) => text).join("").slice(0, 90);
