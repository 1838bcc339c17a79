// What is looked at, as the part of the address behind '#': #/run/ID/engine/1/step/8/req/r4
// (what may be selected, and how it stands here: core/selection.js)
//
// `engine` and `life` are left out where a run has but one. Behind a '?' stand the view, where it is
// not the Board, an open drawer, and what that view needs beside: …/step/8?view=compare&with=run-2 An answer of the endpoint leads to its
// request by the client's own id: #/run/live?request=chatcmpl-…&view=life (or #run=live&request=…)

import { NOTHING } from "#core/selection.js";

const NOWHERE = { run: null, engine: null, life: null, step: null, event: null, ...NOTHING };
const TEXTS = ["run", "req", "told", "line", "gap"];
const NUMBERS = ["engine", "life", "step", "event", "block", "token"];

// {request, view, drawer, params}: null where the query does not name it, the rest in `params`.
function asked(query) {
  const { request = null, view = null, drawer = null, ...params } = Object.fromEntries(new URLSearchParams(query));
  delete params.run;
  return { request, view, drawer, params };
}

export function parseHash(hash) {
  if (/^#?\/?[a-z]+=/.test(hash)) {
    const query = hash.replace(/^#?\/?/, "");
    return { ...NOWHERE, ...asked(query), run: new URLSearchParams(query).get("run") ?? "live" };
  }
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map(decoded);
  const place = { ...NOWHERE, ...asked(query ?? "") };
  for (let i = 0; i + 1 < parts.length; i += 2) {
    const [key, value] = [parts[i], parts[i + 1]];
    if (TEXTS.includes(key)) place[key] = value;
    if (NUMBERS.includes(key) && /^\d{1,9}$/.test(value)) place[key] = Number(value);
  }
  return place;
}

// An address that somebody cut short is taken as it stands: it leads to no run, and is said so.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function formatHash({ run, engine, life, step, event, req, token, block, told, line, gap, view, drawer, params }) {
  let hash = `#/run/${encodeURIComponent(run)}`;
  if (engine !== null && engine !== undefined) hash += `/engine/${engine}`;
  if (life !== null && life !== undefined) hash += `/life/${life}`;
  if (step !== null && step !== undefined) hash += `/step/${step}`;
  if (event !== null && event !== undefined) hash += `/event/${event}`;
  if (req) hash += `/req/${encodeURIComponent(req)}`;
  if (req && token) hash += `/token/${token}`;
  if (block !== null && block !== undefined) hash += `/block/${block}`;
  if (told) hash += `/told/${encodeURIComponent(told)}`;
  if (line) hash += `/line/${encodeURIComponent(line)}`;
  if (gap) hash += `/gap/${gap}`;
  const query = new URLSearchParams();
  if (view) query.set("view", view);
  if (drawer) query.set("drawer", drawer);
  for (const [name, value] of Object.entries(params ?? {})) query.set(name, value);
  return query.size ? `${hash}?${query}` : hash;
}
