// The right: the KV pool, and its free queue in the order in which blocks will be taken.

import { html, nothing } from "lit-html";

import { FREE_SHOWN, poolLayout } from "#core/layout.js";
import { sayBlock } from "#core/say.js";
import { plural } from "#core/reasons.js";
import { keyButton } from "#view/parts.js";

export function poolRegion(board, scene) {
  const pool = scene?.pool;
  return html`<section class="pool" aria-labelledby="pool-title">
    <h2 id="pool-title">KV pool ${pool ? html`<b>${pool.used}</b><span class="of">of ${pool.total} in use</span>` : nothing}
      ${keyButton("the pool by itself, larger", "P", () => board.frame.show("pool"), { text: "larger" })}
      <span class="aside">${pool ? `${plural(scene.config.block_size, "token")} a block` : ""}</span></h2>
    ${pool ? grid(board, scene) : nothing}
    ${pool ? freeQueue(board, pool, board.low ? FREE_SHOWN / 2 : FREE_SHOWN) : nothing}
  </section>`;
}

const SIZES = { narrow: [60, 52], low: [72, 60, 52], usual: [72] }; // of blocks that show their slots

function grid(board, scene) {
  const { pool } = scene;
  const data = board.memo("pool", () => ({
    faces: pool.faces,
    layout: largest(board, pool.total),
    before: board.scenes.facesBefore(),
    dim: board.focus.target ? (face) => board.focus.dims({ face }) : null,
    faded: board.focus.faded,
    cursor: board.focus.cell,
    slot: board.focus.slot,
  }));
  const { height } = data.layout;
  const label = `KV pool, ${plural(pool.total, "block")}. Enter moves among them with the arrow keys.`;
  return html`<vz-pool tabindex="0" role="application" aria-label=${label}
    .style=${`height:calc(${height}px * var(--scale))`}
    .data=${data} .progress=${poolProgress(board)}
    @block-point=${(event) => board.focus.point(event.detail)}
    @block-pick=${(event) => board.focus.choose(event.detail)}
    @focus=${() => board.say(`${label} ${sayBlock(pool.faces[0])}`)}></vz-pool>`;
}

// The blocks shrink before they vanish.
function largest({ narrow, low, sizes }, count) {
  const tried = SIZES[narrow || sizes.shallow ? "narrow" : low ? "low" : "usual"].map((large) => poolLayout(count, sizes.poolWidth, sizes.pool, large));
  return tried.find(({ detail }) => detail === "slots") ?? tried[0];
}

// The pool moves in three beats: blocks change hands, slots fill, blocks come back.
export function poolProgress(board) {
  const { beat } = board.player;
  return board.progressOf(beat === 3 ? "run" : beat === 4 ? "output" : "blocks");
}

function freeQueue(board, { free, faces, used, total }, most) {
  const shown = free.slice(0, most);
  const last = free.length > most ? free[free.length - 1] : null;
  return html`<div class="free">
    <span>free ${free.length}, next to be taken →</span>
    <ol>${shown.map((id) => queued(board, id, faces[id - 1]))}
      ${last !== null ? html`<li class="more">… ${free.length - most} more, last</li>${queued(board, last, faces[last - 1])}` : nothing}
      ${free.length ? nothing : html`<li class="quiet">none: ${used} of ${total} are in use</li>`}</ol>
    <span class="null-block" title="padding points here; it is never taken and not counted">0 null</span>
  </div>`;
}

function queued(board, id, face) {
  return html`<li class=${board.focus.dims({ face }) ? "dimmed" : ""}><button class="queued" data-block=${id}
    @click=${() => board.focus.choose({ block: id })}
    aria-label=${sayBlock(face)}>${id}${face.hashed ? html`<i>◆</i>` : nothing}</button></li>`;
}
