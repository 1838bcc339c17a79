// What the next step decides, as a question before it: pure, from the state before the step and its
// events. The answer is what the events say; the wrong ones are what might have been.
//
//     {kind, ask, choices: [{id, text}], answer: [ids]}, or null where nothing is decided
//
// In this order: who gives way, which block is forgotten, what becomes of who is first in line, who
// runs.

import { stepFacts } from "#core/facts.js";
import { explain, listed, plural } from "#core/reasons.js";

const MOST = 5; // choices

export function questionOf(before, events) {
  const facts = stepFacts(events);
  return whoGivesWay(facts) ?? whichBlock(before, events, facts) ?? whatBecomes(before, facts) ?? whoRuns(before, facts);
}

const named = (ids) => ids.map((id) => ({ id: String(id), text: String(id) }));

// Some of a list, its order kept, those of `must` among them.
function some(list, must, most = MOST) {
  const kept = new Set(must);
  for (const item of list) if (kept.size < most) kept.add(item);
  return list.filter((item) => kept.has(item));
}

function whoGivesWay(facts) {
  const [first] = facts.preempted;
  if (!first) return null;
  const [victim, { for: who, need, have, candidates = [] }] = first;
  if (candidates.length < 2 || !candidates.includes(victim)) return null;
  const free = have === 0 ? "none is free" : `${have} ${have === 1 ? "is" : "are"} free`;
  return {
    kind: "victim",
    ask: `${who} needs ${plural(need, "block")} and ${free}. Who gives way?`,
    choices: named(some(candidates, [victim, who])),
    answer: [victim],
  };
}

// For one that runs already; to ask it of one that waits would tell that it is admitted.
function whichBlock(before, events, facts) {
  const gone = events.filter((event) => event.kind === "kv.evict");
  if (!gone.length || facts.admitted.has(gone[0].req)) return null;
  const { req, data } = gone[0];
  const later = new Set(gone.slice(1).map((event) => event.data.block));
  const others = before.free.filter((id) => id !== data.block && before.blocks[id].hash !== null && !later.has(id));
  const used = before.running.filter((other) => other !== req).flatMap((other) => before.requests[other].table.slice(0, 1));
  // The far end of the queue, its middle, and one that is in use.
  const wrong = [others.at(-1), others[Math.floor(others.length / 2)], used[0], used[1]].filter((id) => id !== undefined);
  const ids = [...new Set([data.block, ...wrong])].slice(0, MOST - 1).sort((a, b) => a - b);
  if (ids.length < 2) return null;
  return {
    kind: "block",
    ask: `${req} needs a block, and no blank one comes first. Which block is forgotten${later.size ? " first" : ""} for it?`,
    choices: ids.map((id) => ({ id: String(id), text: `block ${id}` })),
    answer: [String(data.block)],
  };
}

const REFUSALS = {
  no_budget: "it waits: the budget is used up",
  no_free_blocks: "it waits: too few blocks are free",
  max_num_seqs: "it waits: as many run as may run",
};

function whatBecomes(before, facts) {
  const head = facts.stop?.head ?? null;
  const skip = head === null ? undefined : facts.skipped.get(head);
  const known = before.requests[head]?.wait;
  const isNews = skip && (known?.reason !== skip.reason || Boolean(known.behind));
  const [admitted] = facts.admitted.keys();
  // Of one that was let in and one behind it that was not, who has waited longer.
  const who = isNews && !before.waiting.includes(admitted) ? head : admitted;
  if (!who) return null;
  const waits = who === head && isNews;
  const again = before.requests[who]?.num_preemptions > 0;
  const runs = { id: "runs", text: again ? "it resumes" : "it is admitted" };
  const refusals = Object.entries(REFUSALS).map(([id, text]) => ({ id, text }));
  const answer = waits ? skip.reason : "runs";
  if (waits && !(answer in REFUSALS)) refusals.push({ id: answer, text: `it waits: ${explain(answer)}` });
  const came = facts.arrived.includes(who) ? "has come" : "waits";
  const ahead = before.waiting.indexOf(who) === 0 ? ", first in line" : "";
  return { kind: "fate", ask: `${who} ${came}${ahead}. What becomes of it?`, choices: [runs, ...refusals], answer: [answer] };
}

function whoRuns(before, facts) {
  const ran = facts.grants.map(({ req }) => req);
  const same = ran.length === before.running.length && before.running.every((req) => ran.includes(req));
  if (!ran.length || same) return null;
  const waiting = [...before.waiting, ...facts.arrived];
  const sets = [ran, before.running, [...before.running, ...waiting], before.running.slice(0, -1), before.running.slice(0, 1)];
  const choices = new Map();
  for (const set of sets) {
    if (set.length) choices.set([...set].sort().join(" "), listed([...new Set(set)]));
  }
  const rows = [...choices].slice(0, MOST - 1).map(([id, text]) => ({ id, text }));
  if (rows.length < 2) return null;
  const id = [...ran].sort().join(" ");
  return { kind: "runs", ask: "Who runs in this step?", choices: rows.sort((a, b) => (a.id < b.id ? -1 : 1)), answer: [id] };
}
