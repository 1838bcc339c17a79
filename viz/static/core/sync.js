// One cursor over two runs: by step (the same number), or by token (the step in which the chosen
// request says the same output token).

// Step of A → step of B. `req` null: by step.
export function twinStep(a, b, step, req = null) {
  const most = (to) => Math.min(Math.max(to, b.store.firstStep), b.store.lastStep);
  const [ours, theirs] = req ? [placeOf(a, req), placeOf(b, req)] : [null, null];
  if (!ours || !theirs || step < ours.arrived) return most(step);
  const said = ours.tokens.findLastIndex((at) => at <= step);
  // Before its first token: as far from its arrival, but not beyond that token.
  if (said < 0) return most(Math.min(theirs.arrived + step - ours.arrived, (theirs.tokens[0] ?? Infinity) - 1));
  const next = theirs.tokens[Math.min(said, theirs.tokens.length - 1)];
  if (next === undefined) return most(theirs.arrived + step - ours.arrived);
  return most(step > ours.tokens[said] && said === ours.tokens.length - 1 ? next + step - ours.tokens[said] : next);
}

// Its arrival, and the step of each of its output tokens.
function placeOf(trace, req) {
  const arrived = trace.events.find((event) => event.kind === "req.arrive" && event.req === req)?.step;
  if (arrived === undefined) return null;
  const tokens = trace.events.filter((event) => event.kind === "req.token" && event.req === req).map((event) => event.step);
  return { arrived, tokens };
}
