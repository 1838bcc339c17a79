// Life as tables: for a screen reader, or to copy from.

import { html } from "lit-html";

import { livesIn } from "#core/life.js";
import { BANDS, stateWords, summaryOf, tokenState, whyWords } from "#core/lifewords.js";
import { table } from "#view/panels.js";
import { visible } from "#view/parts.js";

export function lifeTables(view) {
  const { board, life } = view;
  if (!life) {
    const lives = [...livesIn(board.store).values()];
    return table("Requests", ["request", "steps", "TTFT", "TPOT", "preempted", "end"], lives.map((item) => [item.req, item.steps, item.ttft ?? "", item.tpot?.toFixed(2) ?? "", item.preemptions, item.finish?.reason ?? "open"]));
  }
  const step = (column) => {
    const { step: k, band, ran, hit, computed, known, table: blocks } = column;
    return [k, BANDS[band][0], ran, hit, `${computed} of ${known}`, blocks.join(" "), whyWords(life, column, board.store.config)];
  };
  const state = (i) => stateWords(tokenState(life, view.column, view.text.held, board.step, i));
  return html`<p>${summaryOf(life)}</p>
    ${table("The way", ["hop", "ms after arrival", "took, ms", "bytes", "what"], view.way.hops.map((hop) => [hop.name, ((hop.t_ns - view.way.hops[0].t_ns) / 1e6).toFixed(3), hop.ns === null ? "" : (hop.ns / 1e6).toFixed(3), hop.bytes ?? "", hop.words]))}
    ${table("The stair", ["step", "band", "ran", "reused", "computed", "blocks", "why not"], life.columns.map(step))}
    ${table("The text", ["token", "text", "at the cursor", "what became of it"], life.tokens.map((token, i) => [i + 1, visible(token.text), state(i), view.tokenWords(i)]))}
    ${table("Where it went", ["band", "steps", "from", "to"], life.bands.map(({ band, steps, from, to }) => [BANDS[band][0], steps, from, to]))}`;
}
