// The drawer under T: the flat batch of this step, token by token and request by request, and how
// each new token was drawn. The arrays are made from the events; where the worker's own were
// recorded (trace level `tensors`, or a step that was armed), they are compared.

import { html, nothing, render } from "lit-html";

import { ARRAYS, batchOf, firstDisagreement } from "#core/batch.js";
import { plural } from "#core/reasons.js";
import { PROCESSORS, batchText, knownTexts, samplingRows, withTop } from "#core/sampling.js";
import { loadArray } from "#net/history.js";
import { armBox } from "#view/arming.js";
import { chip, hueClass, visible } from "#view/parts.js";
import { registerDrawer } from "#views/frame.js";

const TOKENS_SHOWN = 256;
const REQUESTS_SHOWN = 64;
const BLOCKS_SHOWN = 64;

let body = null;
const recorded = new Map(); // of the life that is shown: step → {state: asked | here | failed, arrays, words}
let recordedOf = null;

registerDrawer({
  id: "tensors",
  title: "Batch and tensors",
  short: "batch",
  key: "t",
  side: "foot",

  mount(el) {
    body = el;
  },

  update(board) {
    render(board.store?.config ? content(board) : html`<p class="quiet">No run is open.</p>`, body);
  },
});

function content(board) {
  const batch = board.memo("batch", () => batchOf(board.store, board.step), "");
  if (!batch) return html`<p class="quiet">${board.step <= board.firstStep ? "Before the first step there is no batch." : "No token ran in this step."}</p><p>${armBox(board)}</p>`;
  return html`
    <p class="summary">${plural(batch.input_ids.length - batch.padding, "token")} of ${plural(batch.requests.length, "request")} in one flat batch${batch.padding ? `, ${batch.padding} of padding` : ""}.
      ${comparison(board, batch)} ${lensLink(board, batch)}</p>
    ${tokensTable(board, batch)}
    ${requestsTable(board, batch)}
    ${sampling(board, batch)}`;
}

// What its tokens read of the cache: a view of its own.
function lensLink(board, batch) {
  const req = batch.requests.includes(board.focus.chosen?.req) ? board.focus.chosen.req : batch.requests[0];
  return html`<a href=${board.linkTo(board.step, { req }, "lens")} @click=${(event) => {
    event.preventDefault();
    board.focus.chosen = { req };
    board.frame.show("lens");
  }}>what they read: the attention lens</a>`;
}

// --- the arrays ----------------------------------------------------------------------------------

// Those of the chosen request where not all fit.
function shownTokens(board, batch) {
  const count = batch.input_ids.length;
  const row = Math.max(batch.requests.indexOf(board.focus.chosen?.req), 0);
  const first = count <= TOKENS_SHOWN ? 0 : Math.min(batch.query_start_loc[row], count - TOKENS_SHOWN);
  return { first, last: Math.min(first + TOKENS_SHOWN, count), count };
}

function tokensTable(board, batch) {
  const { first, last, count } = shownTokens(board, batch);
  const size = board.store.config.block_size;
  const columns = [];
  let row = 0;
  for (let i = first; i < last; i += 1) {
    while (row < batch.requests.length && i >= batch.query_start_loc[row + 1]) row += 1;
    const req = batch.requests[row] ?? null;
    columns.push({ i, req, hue: req ? board.hueOf(req) : -1, begins: i === first || i === batch.query_start_loc[row], slot: batch.slot_mapping[i], position: batch.positions[i] });
  }
  const block = ({ slot }) => (slot < 0 ? nothing : Math.floor(slot / size));
  const pick = ({ slot, req, position }, what) => slot >= 0 && board.focus.choose(what === "block" ? { block: Math.floor(slot / size) } : { req, position });
  const line = (name, cell, what = "token") => html`<tr><th scope="row" title=${ARRAYS[name] ?? ""}>${name}</th>${columns.map((column) => html`<td
    class="${hueClass(column.hue)} ${column.begins ? "begins" : ""} ${looksAt(board, column, size) ? "looked" : ""}" data-block=${block(column)}
    @click=${() => pick(column, what)}>${cell(column)}</td>`)}</tr>`;
  const textOf = knownTexts(board.state());
  const text = (i) => visible(batchText(batch, i, textOf)).trim() || "␣";
  return html`<div class="scrolls" tabindex="0" role="region" aria-label="the batch, token by token"><table class="flat">
    <caption>${count > TOKENS_SHOWN ? `tokens ${first} to ${last - 1} of ${count}; choose a request to see its own` : `(${count},) each`}</caption>
    <tbody>
      <tr class="owners"><th scope="row">request</th>${spans(columns).map(({ req, length }) => html`<td colspan=${length}>${req ? chip(board, req, board.hueOf(req), { flip: false }) : "padding"}</td>`)}</tr>
      ${line("text", ({ i }) => html`<b>${text(i)}</b>`)}
      ${line("input_ids", ({ i }) => batch.input_ids[i])}
      ${line("positions", ({ i }) => batch.positions[i])}
      ${line("slot_mapping", ({ slot }) => slot)}
      ${line("block : offset", ({ slot }) => (slot < 0 ? "–" : html`${Math.floor(slot / size)}<i>:${slot % size}</i>`), "block")}
    </tbody></table></div>`;
}

function looksAt(board, { slot, req, position }, size) {
  const { target } = board.focus;
  if (!target || slot < 0) return false;
  if (board.focus.token) return target.req === req && target.position === position;
  return target.block ? Math.floor(slot / size) === target.block : target.req === req;
}

function spans(columns) {
  const list = [];
  for (const { req } of columns) {
    if (list.length && list.at(-1).req === req) list.at(-1).length += 1;
    else list.push({ req, length: 1 });
  }
  return list;
}

function requestsTable(board, batch) {
  const width = batch.block_table[0]?.length ?? 0;
  const shown = Math.min(width, BLOCKS_SHOWN);
  const more = batch.requests.length - REQUESTS_SHOWN;
  return html`<div class="scrolls" tabindex="0" role="region" aria-label="the batch, request by request"><table class="by-request">
    <thead><tr><th scope="col">request</th><th scope="col">work</th><th scope="col" title=${ARRAYS.query_start_loc}>query_start_loc</th>
      <th scope="col" title=${ARRAYS.seq_lens}>seq_lens</th><th scope="col" title=${ARRAYS.block_table}>block_table (${batch.requests.length}, ${width})</th></tr></thead>
    <tbody>${batch.requests.slice(0, REQUESTS_SHOWN).map((req, i) => html`<tr>
      <th scope="row">${chip(board, req, board.hueOf(req), { flip: false })}</th><td>${batch.why[i].replace("_", " ")}</td>
      <td>${batch.query_start_loc[i]} … ${batch.query_start_loc[i + 1]}</td><td>${batch.seq_lens[i]}</td>
      <td class="blocks">${batch.block_table[i].slice(0, shown).map((id) => (id
        ? html`<button class="queued" data-block=${id} @click=${() => board.focus.choose({ block: id })}>${id}</button>`
        : html`<span class="null">0</span>`))}${width > shown ? html`<span class="quiet">… ${width - shown} more</span>` : nothing}</td></tr>`)}</tbody></table>
    ${more > 0 ? html`<p class="quiet">… ${plural(more, "more request")}</p>` : nothing}</div>`;
}

// --- recorded arrays -------------------------------------------------------------------------------

function comparison(board, batch) {
  const event = board.store.eventsOf(board.step).find(({ kind }) => kind === "exec.tensors");
  if (!event) return html`<span class="quiet">Made from the events: the worker’s own arrays were not recorded.</span> ${armBox(board)}`;
  const found = fetched(board, event);
  if (found.state === "asked") return html`<span class="quiet">The worker’s own arrays are being fetched …</span>`;
  if (found.state === "failed") return html`<span>The worker’s own arrays cannot be read: ${found.words}</span>`;
  const wrong = firstDisagreement(batch, found.arrays);
  if (!wrong) return html`<span class="same">✓ the same as the worker’s own arrays, recorded in this step</span>`;
  return html`<strong class="differs">The worker’s own ${wrong.name} differs at ${wrong.index}: ${wrong.recorded}, the events say ${wrong.told}.</strong>`;
}

function fetched(board, event) {
  if (recordedOf !== board.store) {
    recorded.clear();
    recordedOf = board.store;
  }
  const { step, store } = board;
  const known = recorded.get(step);
  if (known) return known;
  const mine = { state: "asked", arrays: {}, words: "" };
  recorded.set(step, mine);
  const names = event.data.arrays.map(({ name }) => name).filter((name) => name in ARRAYS || name.startsWith("top."));
  Promise.all(names.map((name) => loadArray(board.run, board.at, step, name)))
    .then((arrays) => {
      names.forEach((name, i) => (mine.arrays[name] = arrays[i].values));
      mine.state = "here";
    })
    .catch((error) => Object.assign(mine, { state: "failed", words: error.message }))
    .finally(() => recordedOf === store && board.changed());
  return mine;
}

// --- sampling --------------------------------------------------------------------------------------

// The likeliest tokens that the captured arrays tell, where the event itself does not.
function sampledRows(board, batch) {
  const rows = board.memo("sampling", () => samplingRows(board.store.eventsOf(board.step)), "");
  const arrays = recordedOf === board.store ? recorded.get(board.step)?.arrays : null;
  if (!arrays?.["top.rows"] || rows.every((row) => row.told)) return rows;
  const top = { rows: arrays["top.rows"], token_ids: arrays["top.token_ids"], logprobs: arrays["top.logprobs"] };
  return withTop(rows, batch, top, knownTexts(board.state()));
}

function sampling(board, batch) {
  const rows = sampledRows(board, batch);
  if (!rows.length) return nothing;
  const first = board.focus.chosen?.req;
  const ordered = [...rows].sort((a, b) => Number(b.req === first) - Number(a.req === first));
  const told = rows.some((row) => row.told);
  return html`<h3>Sampled in this step</h3>
    ${told ? html`<p class="quiet">✕ cannot be drawn any more · ~ its score was changed · after each name how many tokens · ▸ drawn</p>` : html`<p class="quiet">What the others were is told at trace level <code>sampling</code>, and of a step whose arrays are recorded: the ten likeliest before and after, and what each processor did.</p>`}
    <div class="drawn">${ordered.slice(0, REQUESTS_SHOWN).map((row) => drawn(board, row))}</div>
    ${rows.length > REQUESTS_SHOWN ? html`<p class="quiet">… ${rows.length - REQUESTS_SHOWN} more</p>` : nothing}`;
}

const percent = (share) => (share === null ? "" : share >= 0.0995 ? `${Math.round(share * 100)} %` : share >= 0.001 ? `${(share * 100).toFixed(1)} %` : "< 0.1 %");

function drawn(board, row) {
  const said = html`${chip(board, row.req, board.hueOf(row.req), { flip: false })} <b class="token">${visible(row.text) || "·"}</b>
    <span class="quiet">${row.token_id}${row.rank ? ` · rank ${row.rank}` : ""}${row.logprob === null ? "" : ` · logprob ${row.logprob.toFixed(3)}`}</span>`;
  if (!row.told) return html`<p>${said}</p>`;
  const { processors } = row;
  return html`<table class="${hueClass(board.hueOf(row.req))} sampled"><caption>${said}</caption>
    <thead><tr><th scope="col">token</th><th scope="col">the model says</th>
      ${processors.map(({ name, count, masked }) => html`<th scope="col" title=${PROCESSORS[name] ?? ""}>${name} <small>${masked ? "✕" : "~"} ${count}</small></th>`)}
      ${row.modelOnly ? nothing : html`<th scope="col">drawn from</th>`}</tr></thead>
    <tbody>${row.candidates.map((each) => html`<tr class=${each.drawn ? "chosen" : ""}>
      <th scope="row">${each.drawn ? "▸ " : ""}${visible(each.text) || each.token_id}</th><td>${bar(each.before)}</td>
      ${each.marks.map((mark) => html`<td class="mark-cell">${mark === "masked" ? html`<span title="cannot be drawn any more">✕</span>` : mark === "changed" ? html`<span title="its score was changed">~</span>` : nothing}</td>`)}
      ${row.modelOnly ? nothing : html`<td>${bar(each.after)}</td>`}</tr>`)}</tbody></table>`;
}

const bar = (share) => html`<span class="share"><i .style=${`width:${Math.round((share ?? 0) * 100)}%`}></i></span><span class="number-of">${percent(share)}</span>`;
