// A request's life in words: for the detail line, the tables, and those who do not see the picture.

import { explain, listed, plural, waitText } from "#core/reasons.js";

export const BANDS = {
  wait: ["wait", "It waits to be admitted."],
  prefill: ["prefill", "Its prompt is computed, whole or in chunks."],
  decode: ["decode", "One token for one token."],
  preempted: ["preempted", "It gave way and waits again."],
  resume: ["resume", "What it had lost is computed again, where the cache did not keep it."],
  idle: ["granted nothing", "It runs, and this step had nothing for it."],
};

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
const far = ({ ended }) => (ended === null ? " so far" : "");

export const times = (n) => (n === 1 ? "once" : `${n} times`);

// How it stands, or how it ended.
export function endWords({ ended, finish, outputs, preemptions, columns, status }) {
  const again = preemptions ? ` · preempted ${times(preemptions)}` : "";
  if (ended !== null) return `finished: ${finish.reason} · ${plural(outputs, "token")}${again}`;
  return `${columns.length ? status : "arrived"}, unfinished · ${plural(outputs, "token")} so far${again}`;
}

// The whole picture in a few sentences.
export function summaryOf(life) {
  const bands = life.bands.map(({ band, steps }) => `${BANDS[band][0]} ${steps}`);
  const waits = Object.entries(life.waited).map(([reason, n]) => `${n} × ${explain(reason)}`);
  const last = life.columns.at(-1);
  const parts = [
    `${life.req}: ${plural(life.steps, "step")}${far(life)}: ${listed(bands, 12)}.`,
    last ? `${last.computed} of ${plural(last.known, "token")} computed.` : "",
    waits.length ? `Did not run: ${listed(waits, 6)}.` : "",
  ];
  return parts.filter(Boolean).join(" ");
}

// Why it did not run in the step of a column; "" if it did.
export function whyWords(life, { ran, wait, victim }, config) {
  if (ran) return "";
  return waitText(life.req, wait, config, { preempted: new Map(victim ? [[life.req, victim]] : []) });
}

// One step, and the block in one row of it where `row` is given.
export function columnWords(life, { step, row = null }, config) {
  const column = life.columns.find((item) => item.step === step);
  if (!column) return "";
  const ran = `${plural(column.ran, "token")} ran${column.hit ? `, ${column.hit} reused` : ""} (${BANDS[column.band][0]})`;
  const parts = [`step ${step}: ${whyWords(life, column, config) || ran}`, `${column.computed} of ${column.known} computed`];
  if (row !== null && column.table[row] !== undefined) {
    const held = life.tokens.slice(row * life.size, Math.min((row + 1) * life.size, column.computed));
    parts.push(`block ${column.table[row]} holds “${visible(held.map(({ text }) => text).join(""))}”`);
  }
  return parts.join(" · ");
}

// What became of a token: where and when it was computed, how it was sampled, whether it was kept back.
export function tokenWords(life, index, held) {
  const token = life.tokens[index];
  const periods = life.blocks[Math.floor(index / life.size)] ?? [];
  const passes = [
    ...token.hits.map((step) => ({ step, what: "reused" })),
    ...token.ran.map((step, i) => ({ step, what: i ? "again" : "computed" })),
  ].sort((a, b) => a.step - b.step);
  const where = passes.map(({ step, what }) => {
    const period = periods.find(({ from, to }) => step >= from && step <= to);
    return `${what} in step ${step}${period ? ` (block ${period.block})` : ""}`;
  });
  const { logprob = null, rank = null, before = [] } = token.row ?? {};
  const others = before.slice(0, 4).map((c) => `“${visible(c.text)}” ${c.logprob?.toFixed(2) ?? ""}`.trim());
  const until = held.get(index - life.numPrompt);
  const parts = [
    `token ${index + 1} “${visible(token.text)}”, slot ${index % life.size}`,
    !token.output ? "of the prompt" : token.sampled === null ? "sampled before the trace begins" : `sampled in step ${token.sampled}`,
    listed(where, 5) || "not computed",
    logprob === null ? "" : `logprob ${logprob.toFixed(2)}${rank ? `, rank ${rank}` : ""}`,
    others.length ? `likeliest ${others.join(", ")}` : "",
    until === undefined ? "" : until === null ? "held back" : `held back until “${visible(life.tokens[life.numPrompt + until].text)}”`,
  ];
  return parts.filter(Boolean).join(" · ");
}

// What a token is when the cursor stands on `step`; `column`: the life's column there, if it has one.
export function tokenState(life, column, held, step, index) {
  const token = life.tokens[index];
  const said = !token.output || token.sampled === null || token.sampled <= step;
  const until = held.get(index - life.numPrompt);
  const letGo = until === undefined ? -1 : until === null ? Infinity : life.tokens[life.numPrompt + until].sampled;
  const computed = Boolean(column) && index < column.computed;
  return {
    said,
    held: said && step < letGo,
    reused: computed && index < column.reused,
    computed,
    ran: computed && index >= column.computed - column.ran,
  };
}

export function stateWords({ said, held, reused, computed, ran }) {
  if (!said) return "not said yet";
  const state = ran ? "ran now" : reused ? "reused" : computed ? "computed" : "not computed";
  return held ? `${state}, held back` : state;
}
