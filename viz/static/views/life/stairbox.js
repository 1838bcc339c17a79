// THE STAIR: the canvas (stair.js) with its labels at the left, which stay while it scrolls.

import { html, nothing } from "lit-html";

import { foldColumns } from "#core/life.js";
import { summaryOf } from "#core/lifewords.js";
import { HEAD, RAN, WHY, stairLayout } from "#views/life/stair.js";

const FOLD_FROM = 40; // columns

export function stairSection(life, view) {
  const { board } = view;
  const folds = life.columns.length > FOLD_FROM;
  const rows = Math.max(Math.ceil(life.tokens.length / life.size), 1);
  const room = view.room - (board.narrow ? 116 : 168);
  const layout = view.keep("stair", `${view.req} ${view.unfolded} ${room}`, () => {
    const shown = folds && !view.unfolded ? foldColumns(life.columns) : life.columns.map((column) => ({ column }));
    return stairLayout(shown, rows, life.tokens.length, life.size, room);
  });
  const point = view.point?.step ?? null;
  const key = [layout, board.step, point, board.hueOf(life.req), view.token];
  if (!view.stairData?.key.every((part, i) => part === key[i])) {
    view.stairData = { key, layout, hue: board.hueOf(life.req), step: board.step, point, periods: life.blocks, token: view.token };
  }
  return html`<section class="stair" aria-labelledby="stair-title">
    <h3 id="stair-title">The stair <span class="aside">computed tokens after each step; dashed: what there is to compute</span>
      ${folds ? html`<button class="tool" aria-pressed=${view.unfolded} @click=${() => view.set({ unfolded: !view.unfolded })}>every step</button>` : nothing}</h3>
    <div class="stair-box">
      <div class="labels" .style=${`padding-top:calc(${HEAD}px * var(--scale))`}>
        <div class="rows-of-blocks" .style=${`height:calc(${layout.plot}px * var(--scale))`}>${rowLabels(life, layout, view)}</div>
        <span class="label" .style=${`height:calc(${RAN}px * var(--scale))`}>ran</span>
        <span class="label" .style=${`height:calc(${WHY}px * var(--scale))`}>why not</span>
      </div>
      <div class="stair-scroll" tabindex="0" role="region" aria-label="the stair’s steps">${life.columns.length
        ? html`<vz-stair role="img" aria-label=${summaryOf(life)} .data=${view.stairData}
            .style=${`width:calc(${layout.width}px * var(--scale));height:calc(${layout.height}px * var(--scale))`}
            @stair-point=${(event) => view.pointAt(event.detail)}
            @stair-pick=${(event) => pick(view, life, event.detail)}></vz-stair>`
        : html`<p class="quiet">It has come; no step was taken since.</p>`}</div>
    </div>
  </section>`;
}

// A click goes to the step; below the stair, where it says why it did not run, it asks why.
function pick(view, life, at) {
  if (!at) return;
  view.board.travel.seek(at.step);
  const column = life.columns.find(({ step }) => step === at.step);
  if (at.below || (column && !column.ran)) view.board.frame.why({ req: life.req });
}

// At the left of each row: its tokens, and the physical blocks that held it, in their order.
function rowLabels(life, { rows, rowHeight }, { board }) {
  const every = Math.max(Math.ceil(14 / rowHeight), 1);
  return Array.from({ length: rows }, (_, i) => rows - 1 - i).map((logical) => {
    const [from, to] = [logical * life.size + 1, Math.min((logical + 1) * life.size, life.tokens.length)];
    const names = (life.blocks[logical] ?? []).map(({ block }) => block);
    const shown = logical % every === 0;
    const short = names.length > 3 ? ["…", ...names.slice(-2)] : names;
    return html`<span class="row-label" .style=${`height:calc(${rowHeight}px * var(--scale))`}>${shown ? html`
      <span class="range">${from === to ? from : `${from}–${to}`}</span> <span class="names">${board.narrow ? "" : "block "}${short.join(" → ") || "–"}</span>` : nothing}</span>`;
  });
}
