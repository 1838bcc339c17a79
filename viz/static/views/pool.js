// The KV pool: block tables, physical blocks, the free queue and the cached prefixes, side by side.
// What is looked at in one is lit in all; lines lead from the table under the pointer to its blocks.

import { html, nothing, render } from "lit-html";

import { lostWords, whoMissed } from "#core/biography.js";
import { goneIn, originsOf, prefixText, prefixTree } from "#core/prefixes.js";
import { lights, physicalLayout, prefixesEmpty, queueEmpty, ranWords, sameQueue } from "#core/poolview.js";
import { listed, plural } from "#core/reasons.js";
import { sayBlock } from "#core/say.js";
import { table } from "#view/panels.js";
import { visible } from "#view/parts.js";
import { poolProgress } from "#view/poolregion.js";
import { theme } from "#view/theme.js";
import { register } from "#views/frame.js";
import "#view/pool.js";
import "#view/prefixes.js";
import "#view/queue.js";
import "#view/tables.js";

const MOST_LINES = 32;
const TALLEST = 308;
const ENTRY = 66; // a block table on a phone, about
const ROW = { usual: 26, touch: 44 };
const COLUMNS = ["vz-tables", "vz-pool", "vz-queue", "vz-prefixes"];
const ROWS_IN_TABLE = 500;
const HEAD_SAID = 6;
const EDGE = 4; // of a column, so that a ring is not cut

let main = null;
let room = { width: 592, height: 480 }; // for the physical blocks
let cursor = { where: null, at: 0 }; // the cursor on cells

register({
  id: "pool",
  title: "KV pool",
  key: "p",
  named: true,

  mount(el) {
    main = el;
  },

  update(board) {
    const scene = board.scene();
    render(scene ? columns(board, scene) : html`<p class="empty">${board.told().headline}</p>`, main);
    drawLines(board, scene);
  },

  resized(board) {
    const region = main.querySelector(".physical .room");
    if (!region) return;
    const { scale } = theme;
    room = { width: (region.clientWidth - 2 * EDGE) / scale, height: (board.narrow ? 320 : region.clientHeight - 2 * EDGE) / scale };
    board.changed();
  },

  keys(event, board) {
    return moveOnCells(event, board);
  },

  detail,

  says: (board) => readOut(board.scene()),

  follows: ({ block }) => Boolean(block),

  table: tables,
});

// --- the four columns ----------------------------------------------------------------------------

function columns(board, scene) {
  const { pool, config } = scene;
  const lit = board.memo("pool-lit", () => lights(scene, board.focus.target));
  const rows = [...scene.running, ...scene.waiting.filter((row) => row.table.length)];
  const tree = treeOf(board, scene);
  const region = (name, title, count, aside, body) => html`<section class=${name} aria-labelledby="pool-${name}">
    <h2 id="pool-${name}">${title} ${count === null ? nothing : html`<b>${count}</b>`}<span class="aside">${aside}</span></h2>
    <div class="room">${body}</div></section>`;
  return html`
    ${region("logical", "Block tables", null, "logical → physical", rows.length ? tablesOf(board, scene, rows, lit) : quiet("Nobody holds a block."))}
    ${region("physical", "Physical", pool.used, `of ${pool.total} in use · ${plural(config.block_size, "token")} a block`, physical(board, scene, lit))}
    ${region("free-queue", "Free queue", pool.free.length, "", pool.free.length || queueBefore(board) ? queueOf(board, scene, lit) : quiet(queueEmpty(pool)))}
    ${region("tree", "Cached prefixes", tree.cached || null, twinWords(tree), tree.rows.length ? prefixesOf(board, scene, tree, lit) : quiet(prefixesEmpty(config, pool)))}
    <svg class="lines" aria-hidden="true"><path></path></svg>`;
}

const quiet = (words) => html`<p class="quiet">${words}</p>`;

// Memos of the whole picture at one moment; `about` tells what else it is made of.
const memo = (board, name, make) => board.memo(`pool-${name}`, make, `${board.focus.key} ${room.width}x${room.height} ${board.narrow}`);

const on = (board) => ({
  point: (event) => board.focus.point(event.detail),
  pick: (event) => board.focus.choose(pickOf(event.detail)),
});

const pickOf = (what) => (what?.block ? { block: what.block } : what?.req ? { req: what.req } : null);

const digitsOf = (pool) => String(pool.total).length;

function wordsOf(board, state) {
  const size = state.config.block_size;
  return (face) => {
    const owner = face.owners[0];
    const place = owner ? { req: owner.row.req, logical: owner.logical, filled: size } : face.held;
    const texts = place ? state.requests[place.req]?.texts : null;
    if (!texts) return [];
    const first = place.logical * size;
    return texts.slice(first, first + place.filled).map(visible);
  };
}

function tablesOf(board, scene, rows, lit) {
  const data = memo(board, "tables", () => ({
    rows,
    faces: scene.pool.faces,
    digits: digitsOf(scene.pool),
    whole: board.focus.chosen?.req ?? null,
    words: (row) => ranWords(row, scene.facts),
    lit,
    faded: board.focus.faded,
  }));
  const label = `Block tables of ${plural(rows.length, "request")}. Enter moves among the blocks with the arrow keys.`;
  const { point, pick } = on(board);
  return html`<vz-tables tabindex="0" role="application" aria-label=${label} .style=${tall(board, rows.length, ENTRY)} .data=${data} @block-point=${point} @block-pick=${pick}></vz-tables>`;
}

function physical(board, scene, lit) {
  const { pool } = scene;
  const data = memo(board, "physical", () => {
    const words = wordsOf(board, board.state());
    return {
      faces: pool.faces,
      layout: physicalLayout(pool.total, room.width, room.height, board.narrow ? 60 : 72),
      before: board.scenes.facesBefore(),
      dim: lit ? (face) => !lit.blocks.has(face.id) : null,
      faded: board.focus.faded,
      cursor: board.focus.target?.block ?? null,
      slot: board.focus.slot,
      words,
    };
  });
  const label = `Physical blocks, ${pool.total}. Enter moves among them with the arrow keys.`;
  const { point, pick } = on(board);
  return html`<vz-pool tabindex="0" role="application" aria-label=${label}
      .style=${`height:calc(${data.layout.height}px * var(--scale));width:calc(${data.layout.width}px * var(--scale))`}
      .data=${data} .progress=${poolProgress(board)} @block-point=${point} @block-pick=${pick}></vz-pool>`;
}

// On a phone a column is as tall as what is in it, and at most so much.
const tall = (board, rows, row) => (board.narrow ? `height:${Math.min(rows * row, TALLEST)}px` : "");

// The queue before this beat, where it was another one.
function queueBefore(board) {
  const before = board.scenes.poolBeforeBeat();
  const now = board.scene().pool.free;
  return before && !sameQueue(before.free, now) ? before.free : null;
}

function queueOf(board, scene, lit) {
  const { pool } = scene;
  const data = memo(board, "queue", () => {
    const words = wordsOf(board, board.state());
    return {
      free: pool.free,
      before: queueBefore(board),
      faces: pool.faces,
      words: (face) => words(face).join("").trim() || (face.state === "blank" ? "blank" : ""),
      row: board.narrow ? ROW.touch : ROW.usual,
      digits: digitsOf(pool),
      lit,
      faded: board.focus.faded,
    };
  });
  const label = `Free queue, ${plural(pool.free.length, "block")}, the next to be taken first. Enter moves along it with the arrow keys.`;
  const { point, pick } = on(board);
  return html`<vz-queue tabindex="0" role="application" aria-label=${label} .style=${tall(board, pool.free.length, ROW.touch)} .data=${data} .progress=${poolProgress(board)}
    @block-point=${point} @block-pick=${pick}></vz-queue>`;
}

function treeOf(board, scene) {
  return memo(board, "tree", () => {
    const state = board.state();
    const origins = originsOf(board.store);
    const gone = goneIn(state, scene.facts.marks);
    const rows = prefixTree(state, origins, gone);
    for (const node of rows) if (node.gone) node.missed = missedWords(board, node.hash);
    const twins = rows.filter(({ blocks }) => blocks.length > 1).length;
    return { rows, twins, lost: rows.filter(({ lost, gone: went }) => lost && !went).length, cached: rows.length - gone.size, text: (hash) => visible(prefixText(state, origins, hash)).trim() };
  });
}

function missedWords(board, hash) {
  const missed = whoMissed(board.store, hash, board.step);
  return missed.length ? `missed by ${listed(missed.map(({ req, step }) => `${req} in ${step}`), 2)}` : "forgotten";
}

function twinWords({ twins, lost }) {
  return [twins ? `${twins} with twins` : "", lost ? `${lost} out of reach` : ""].filter(Boolean).join(" · ");
}

function prefixesOf(board, scene, tree, lit) {
  const data = memo(board, "prefixes", () => ({
    rows: tree.rows,
    text: tree.text,
    faces: scene.pool.faces,
    digits: digitsOf(scene.pool),
    row: board.narrow ? ROW.touch : ROW.usual,
    lit,
    faded: board.focus.faded,
  }));
  const label = `Cached prefixes, ${plural(tree.cached, "node")}, each under the block that it follows. Enter moves in the tree with the arrow keys.`;
  const { point, pick } = on(board);
  return html`<vz-prefixes tabindex="0" role="application" aria-label=${label} .style=${tall(board, tree.rows.length, ROW.touch)} .data=${data} @block-point=${point} @block-pick=${pick}></vz-prefixes>`;
}

// --- lines ---------------------------------------------------------------------------------------

// From each cell of the table under the pointer to its physical block.
function drawLines(board, scene) {
  const path = main.querySelector(".lines path");
  if (!path) return;
  const req = board.focus.hover?.req;
  const [from, pool] = [main.querySelector("vz-tables"), main.querySelector("vz-pool")];
  const ready = scene && req && from?.data && pool?.layout && !board.narrow && !board.player.motion;
  if (!ready) return path.setAttribute("d", "");
  const { left, top } = main.getBoundingClientRect();
  const lines = from.anchors(req).slice(0, MOST_LINES);
  path.setAttribute("d", lines.map(({ block, x, y }) => {
    const to = pool.anchor(block, theme.scale);
    const [x0, y0, x1, y1] = [x - left, y - top, to.x - left - (pool.layout.size / 2) * theme.scale, to.y - top];
    return `M${x0} ${y0} C${x0} ${y0 + 28} ${x1 - Math.max((x1 - x0) / 2, 24)} ${y1} ${x1} ${y1}`;
  }).join(" "));
  const hue = board.hueOf(req);
  return path.setAttribute("class", hue >= 0 ? `h${hue}` : "grey");
}

// --- words ---------------------------------------------------------------------------------------

function detail(board) {
  const { target, term } = board.focus;
  if (term || !target?.block) return "";
  const usual = board.focus.detail;
  const lost = lostWords(board.store, board.step, target.block);
  return lost && usual ? `${usual} · what was evicted: ${lost}` : "";
}

// Of the free queue, what stands at its head: the rest of the state is read out by D.
function readOut(scene) {
  if (!scene) return "";
  const { free } = scene.pool;
  const more = free.length > HEAD_SAID ? ` and ${free.length - HEAD_SAID} more` : "";
  return free.length ? `Free, the next to be taken first: ${free.slice(0, HEAD_SAID).join(", ")}${more}.` : queueEmpty(scene.pool);
}

function tables(board) {
  const scene = board.scene();
  if (!scene) return nothing;
  const { pool } = scene;
  const tree = treeOf(board, scene);
  const words = wordsOf(board, board.state());
  const rows = [...scene.running, ...scene.waiting.filter((row) => row.table.length)];
  const more = (list) => (list.length > ROWS_IN_TABLE ? html`<p>… ${list.length - ROWS_IN_TABLE} more</p>` : nothing);
  const notBlank = pool.faces.filter((face) => face.state !== "blank");
  const said = (face) => words(face).join("");
  return html`
    ${table(`Block tables, ${rows.length}`, ["request", "physical blocks, by logical index", "in this step"], rows.map((row) => [row.req, row.table.join(" "), ranWords(row, scene.facts)]))}
    ${table(`Physical blocks that are not blank, ${notBlank.length} of ${pool.total}`, ["block", "state", "words"], notBlank.slice(0, ROWS_IN_TABLE).map((face) => [face.id, sayBlock(face), said(face)]))}${more(notBlank)}
    ${table(`Free queue, ${pool.free.length}, the next first`, ["place", "block", "cached", "words"], pool.free.slice(0, ROWS_IN_TABLE).map((id, i) => [i + 1, id, pool.faces[id - 1].hashed ? "yes" : "no", said(pool.faces[id - 1])]))}${more(pool.free)}
    ${table(`Cached prefixes, ${tree.cached}`, ["level", "blocks", "references", "words", "notes"], tree.rows.slice(0, ROWS_IN_TABLE).map((node) => [
      node.depth + 1, node.blocks.join(" "), node.gone ? 0 : node.blocks.reduce((sum, id) => sum + pool.faces[id - 1].ref, 0), tree.text(node.hash),
      node.gone ? `evicted in this step; ${node.missed}` : node.lost ? "out of reach: what comes before it is forgotten" : "",
    ]))}${more(tree.rows)}`;
}

// --- the cursor on cells ---------------------------------------------------------------------------

// Enter puts it on the cells of the column that has the focus; arrows move it, Enter chooses.
function moveOnCells(event, board) {
  const { focus } = board;
  if (!focus.cells) {
    const where = COLUMNS.find((name) => event.target.matches?.(name));
    if (event.key !== "Enter" || !where || where === "vz-pool") return false;
    const element = main.querySelector(where);
    cursor = { where, at: element.cellOf(focus.chosen?.block) };
    focus.cells = true;
    return show(board, element, "Cursor on cells. ");
  }
  const element = main.querySelector(cursor.where ?? "none");
  if (!element || !event.target.matches?.(cursor.where)) return false;
  if (event.key === "Enter") {
    focus.choose(pickOf(element.cell(cursor.at)));
    return true;
  }
  if (!event.key.startsWith("Arrow") || event.shiftKey) return false;
  cursor.at = element.move(cursor.at, event.key);
  return show(board, element);
}

function show(board, element, prefix = "") {
  const cell = element.cell(cursor.at);
  if (!cell) return true;
  board.focus.hover = { req: cell.req, block: cell.block };
  board.say(`${prefix}${cell.words}: ${sayBlock(board.scene().pool.faces[cell.block - 1])}`);
  board.changed();
  return true;
}
