// The rows of the table: A, B, their difference, and the cause where it is a sum over events that
// adds up to the difference; else nothing. Twin of minivllm/trace/side_by_side.py: a cell here is
// what `minivllm compare` prints.

import { fixed, join, number, signed } from "#core/phrases.js";

// [{group, label, a, b, difference, because}]; a row that is 0 on both sides and need not be is left out.
export function rows(a, b) {
  const table = new Table(a, b);
  table.count("Work", "steps", (m) => m.steps);
  table.count("Work", "requests failed", (m) => m.ended.error ?? 0, "", true);
  table.count("Work", "output tokens", (m) => m.outputTokens);
  table.count("Work", "tokens run", (m) => m.tokensRun, whyRun(a, b));
  table.count("Work", "tokens reused", (m) => m.tokensReused, whyReused(a, b));
  table.count("Work", "tokens run again after preemption", (m) => m.again);
  table.count("Work", "tokens padded", (m) => m.tokensPadded, "", true);
  table.count("Work", "drafts run", (m) => m.draftsRun, "", true);
  table.count("Work", "drafts accepted", (m) => m.draftsAccepted, "", true);
  table.put("Throughput", "tokens out / step", a.outputTokensPerStep, b.outputTokensPerStep, 2);
  table.some("Throughput", "tokens out / s", (m) => m.milliseconds?.outputTokensPerSecond ?? null, 2);
  table.some("Waiting", "TTFT mean, steps", (m) => m.ttft?.mean ?? null, 2, whyTtft(a, b));
  for (const [name, field] of [["TTFT", "ttft"], ["TPOT", "tpot"], ["longest gap", "gap"], ["queue", "queue"]]) {
    for (const rank of ["p50", "p95"]) {
      table.some("Waiting", `${name} ${rank}, steps`, (m) => m[field]?.[rank] ?? null, field === "tpot" ? 2 : null);
      table.some("Waiting", `${name} ${rank}, ms`, (m) => m.milliseconds?.[field]?.[rank] ?? null, 1);
    }
  }
  table.count("Memory", "prefix hits", (m) => m.prefixHits);
  table.count("Memory", "preemptions", (m) => m.preemptions.length, victims(a, b));
  for (const [label, field] of [
    ["KV blocks taken", "taken"],
    ["KV holding tokens", "tokenStates"],
    ["KV taken, no token in it", "wasted"],
    ["KV free but scattered", "scattered"],
  ]) {
    for (const what of ["mean", "max"]) {
      table.percent("Memory", `${label}, ${what}`, (m) => m.memory?.[field][what] ?? null, field === "scattered");
    }
  }
  table.percent("Budget", "budget used", (m) => m.budgetUse);
  for (const reason of new Set([...a.unusedBecause.keys(), ...b.unusedBecause.keys()])) {
    table.put("Budget", `unused: ${reason}`, a.unusedBecause.get(reason) ?? 0, b.unusedBecause.get(reason) ?? 0, null);
  }
  return table.rows;
}

class Table {
  constructor(a, b) {
    [this.a, this.b, this.rows] = [a, b, []];
  }

  count(group, label, get, because = "", optional = false) {
    const [a, b] = [get(this.a), get(this.b)];
    if (!optional || a || b) this.put(group, label, a, b, null, because);
  }

  some(group, label, get, digits, because = "") {
    const [a, b] = [get(this.a), get(this.b)];
    if (a !== null || b !== null) this.put(group, label, a, b, digits, because);
  }

  put(group, label, a, b, digits, because = "") {
    const difference = a === null || b === null ? "" : signed(b - a, digits);
    this.rows.push({ group, label, a: number(a, digits), b: number(b, digits), difference, because });
  }

  percent(group, label, get, optional = false) {
    const [a, b] = [get(this.a), get(this.b)];
    if ((a === null && b === null) || (optional && !a && !b)) return;
    const rounded = (share) => Number(fixed(100 * share, 1));
    const difference = a === null || b === null ? "" : signed(rounded(b) - rounded(a), 1);
    const cell = (share) => (share === null ? "–" : `${fixed(share * 100, 1)}%`);
    this.rows.push({ group, label, a: cell(a), b: cell(b), difference, because: "" });
  }
}

// --- causes ------------------------------------------------------------------------------------

const terms = (list) => list.filter(([n]) => n).map(([n, words]) => `${signed(n)} ${words}`).join(", ");

// tokens_run = needed − reused_first + again + drafts_in_vain, term by term.
function whyRun(a, b) {
  const hits = a.reusedFirst - b.reusedFirst;
  return terms([
    [hits, hits > 0 ? "no hit" : "hit"],
    [b.again - a.again, "again"],
    [b.draftsInVain - a.draftsInVain, "drafts in vain"],
    [b.needed - a.needed, "to do"],
  ]);
}

// What was taken over is somebody else's work, or one's own from before a preemption.
function whyReused(a, b) {
  const first = b.reusedFirst - a.reusedFirst;
  const own = b.tokensReused - b.reusedFirst - (a.tokensReused - a.reusedFirst);
  return terms([[first, "of others"], [own, "of its own, after preemption"]]);
}

function victims(a, b) {
  return [["A", a], ["B", b]]
    .filter(([, side]) => side.preemptions.length)
    .map(([name, side]) => `${name}: ${join(side.preemptions.map((p) => `${p.req} in ${p.step}`), 5)}`)
    .join("; ");
}

// The requests whose own TTFT differs: their differences add up to n times that of the mean; and
// those whose is the same.
function whyTtft(a, b) {
  if (a.byRequest.size !== b.byRequest.size || [...a.byRequest.keys()].some((req) => !b.byRequest.has(req))) return "";
  const [parts, same] = [[], []];
  for (const [req, ours] of a.byRequest) {
    const [first, second] = [ours.ttft, b.byRequest.get(req).ttft];
    if (first === null || second === null) return "";
    if (first !== second) parts.push([second - first, req]);
    else same.push(req);
  }
  if (!parts.length) return "";
  parts.sort(([x], [y]) => Math.abs(y) - Math.abs(x));
  const shown = parts.slice(0, 4).map(([n, req]) => `${req} ${signed(n)}`);
  const rest = parts.slice(4);
  if (rest.length) shown.push(`${rest.length} others ${signed(rest.reduce((total, [n]) => total + n, 0))}`);
  return shown.join(", ") + (same.length ? ` (${join(same, 4)} the same)` : "");
}
