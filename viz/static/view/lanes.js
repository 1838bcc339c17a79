// The lanes at the left: who waits and why, the prompt box, who is done.

import { html, nothing } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";

import { shownQueue } from "#core/layout.js";
import { plural } from "#core/reasons.js";
import { chip } from "#view/parts.js";

const DONE_SHOWN = 12;

export function waitingLane(board, scene) {
  const rows = scene?.waiting ?? [];
  const { first, more, last } = shownQueue(rows, board.narrow ? 24 : board.sizes.waiting);
  return html`<section class="waiting" aria-labelledby="waiting-title">
    <h2 id="waiting-title">Waiting <b>${rows.length}</b></h2>
    <ol class="queue">
      ${repeat(first, (row) => row.req, (row) => waitingRow(board, row))}
      ${more ? html`<li class="more">… ${more} more</li>` : nothing}
      ${repeat(last, (row) => row.req, (row) => waitingRow(board, row))}
      ${rows.length ? nothing : html`<li class="quiet">${scene ? gapButton(board, "waiting", emptyWords(board, scene)) : "nobody"}</li>`}
    </ol>
    ${promptBox(board)}
  </section>`;
}

// An empty lane can be asked, too.
export function gapButton(board, gap, words) {
  return html`<button class="word plain" @click=${() => board.focus.choose({ gap })}>${words}</button>`;
}

function emptyWords(board, scene) {
  if (scene && board.isLive && !scene.running.length) {
    return "Nothing runs. Type a prompt or send a workload.";
  }
  return "nobody";
}

function waitingRow(board, row) {
  return html`<li class=${board.focus.dims({ req: row.req }) ? "dimmed" : ""} data-req=${row.req}>
    <div>${chip(board, row.req, row.hue, { mark: row.mark })}
      <span class="count">${row.computed} of ${row.known}</span></div>
    <p>${row.why}</p>
  </li>`;
}

// Prompts go to the live engine; while there is none the box says what it is waiting for.
function promptBox(board) {
  const { ready, reason } = board.engine.canSend;
  const sent = board.engine.notice;
  if (!ready && !board.isLive) {
    return html`<form class="prompt folded"><p class="quiet">${reason}</p>
      <button class="term" type="button" title="Playground (H)" @click=${() => board.focusChat()}>talk with it in the Playground</button></form>`;
  }
  return html`<form class="prompt" @submit=${(event) => board.engine.sendPrompt(event)}>
    <textarea name="prompt" rows="2" aria-label="Prompt" ?disabled=${!ready}
      placeholder=${ready ? "Type a prompt" : reason}
      @keydown=${(event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) board.engine.sendPrompt(event);
      }}></textarea>
    <div><button class="tool" ?disabled=${!ready}>Send</button>
      <button class="tool" type="button" ?disabled=${!ready} @click=${() => board.engine.runWorkload()}
        >Run 8 prompts</button></div>
    <button class="term" type="button" title="Playground (H)" @click=${() => board.focusChat()}>talk with it in the Playground</button>
    <p class="notice" role="status">${sent}</p>
  </form>`;
}

export function doneLane(board, scene) {
  const rows = scene?.done ?? [];
  const shown = rows.slice(-DONE_SHOWN).reverse();
  return html`<section class="done" aria-labelledby="done-title">
    <h2 id="done-title">Done <b>${rows.length}</b></h2>
    <ul class="queue">
      ${repeat(shown, (row) => row.req, (row) => html`<li data-req=${row.req}
        class=${board.focus.dims({ req: row.req }) ? "dimmed" : ""}>
        <div>${chip(board, row.req, row.hue, { mark: row.mark })}
          <span class="count">${ending(row)}</span></div>
      </li>`)}
      ${rows.length > shown.length ? html`<li class="more">… ${rows.length - shown.length} earlier</li>` : nothing}
      ${rows.length ? nothing : html`<li class="quiet">${scene ? gapButton(board, "done", "nobody") : "nobody"}</li>`}
    </ul>
  </section>`;
}

function ending(row) {
  const tokens = plural(row.outputs, "token");
  return row.reason === "abort" || row.reason === "error" ? `${row.reason}, ${tokens}` : tokens;
}
