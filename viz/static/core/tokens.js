// What became of one token: when it was computed, reused, computed again, and drawn. Kept while the
// store has no more.

import { lifeOf } from "#core/life.js";

const lives = new WeakMap(); // store → {seq, first, req, life}

function lifeIn(store, req) {
  const known = lives.get(store);
  if (known?.req === req && known.seq === store.seq && known.first === store.firstStep) return known.life;
  const life = lifeOf(store, req);
  lives.set(store, { req, seq: store.seq, first: store.firstStep, life });
  return life;
}

export const tokenOf = (store, { req, position }) => lifeIn(store, req)?.tokens[position] ?? null;

// [{step, what: computed | again | reused | drawn}], in order.
export function passesOf(store, chosen) {
  const token = tokenOf(store, chosen);
  if (!token) return [];
  return [
    ...token.hits.map((step) => ({ step, what: "reused" })),
    ...token.ran.map((step, i) => ({ step, what: i ? "again" : "computed" })),
    ...(token.sampled === null ? [] : [{ step: token.sampled, what: "drawn" }]),
  ].sort((a, b) => a.step - b.step);
}
