// The front end's own state, made from the events of its stream (`api`) alone: how each engine
// stands, and which engine each request was sent to and why. Twin of minivllm/trace/front.py; and
// tests/data/front.json holds both to the same results.

import { listed, plural } from "#core/reasons.js";

const ROUTES_KEPT = 1024;
const DEATHS_KEPT = 16;
const GAPS_KEPT = 16;

export function newFront() {
  return { seq: 0, engines: {}, routes: new Map(), deaths: [], gaps: [] }; // a Map keeps the order of any ids
}

export function frontFrom(state) {
  if (!state) return newFront();
  return { ...structuredClone(state), routes: new Map(Object.entries(state.routes ?? {})) };
}

export function frontJson(front) {
  return { ...front, routes: Object.fromEntries(front.routes) };
}

// Change `front` by one event; those of other streams are passed over.
export function applyToFront(front, event) {
  if (event.stream !== "api") return;
  if (event.kind === "run.snapshot") Object.assign(front, newFront(), frontFrom(event.data.state));
  else if (event.kind === "run.start") Object.assign(front, newFront());
  front.seq = event.seq;
  HANDLERS[event.kind]?.(front, event.data);
}

function engineOf(front, { engine, epoch }) {
  front.engines[engine] ??= start({ epoch });
  front.engines[engine].epoch = epoch;
  return front.engines[engine];
}

const start = ({ epoch, pid = 0, why = "" }, state = "") => ({ state, epoch, pid, why, open_requests: 0 });

const HANDLERS = {
  "engine.start": (front, data) => void (front.engines[data.engine] = start(data, "starting")),
  "engine.ready": (front, data) => void (engineOf(front, data).state = "ready"),
  "engine.drain": (front, data) =>
    void Object.assign(engineOf(front, data), { state: "draining", open_requests: data.open_requests }),
  "engine.resume": (front, data) => void Object.assign(engineOf(front, data), { state: "ready", open_requests: 0 }),
  "engine.dead": (front, data) => {
    engineOf(front, data).state = "dead";
    front.deaths = [...front.deaths, data].slice(-DEATHS_KEPT);
  },
  "route.pick": (front, data) => {
    const before = front.routes.get(data.request_id);
    front.routes.delete(data.request_id); // so that it stands at the end
    const { engine, policy, why, candidates } = data;
    const tried = before ? [...before.tried, before.engine] : [];
    front.routes.set(data.request_id, { engine, policy, why, candidates, tried });
    if (front.routes.size > ROUTES_KEPT) front.routes.delete(front.routes.keys().next().value);
  },
  "trace.gap": (front, data) => void (front.gaps = [...front.gaps, data].slice(-GAPS_KEPT)),
};

// --- words -------------------------------------------------------------------------------------

// Held to RouteWhy in minivllm/trace/events.py by a test.
export const ROUTE_WHYS = {
  only_engine: "no other engine takes requests",
  round_robin: "it is its turn",
  least_loaded: "it has the fewest tokens to run",
  tie: "another one has as little to run, and it is its turn",
  cached_prefix: "it holds so much of the prompt in its prefix cache that its load does not matter",
  same_parent: "another sample of the same prompt went there",
  retry: "its first engine died before it had said anything",
};

// Which engine a request was sent to and why: {text, name, candidates}; null where nobody chose.
export function routeCard(front, request) {
  const route = front.routes.get(request.request_id) ?? front.routes.get(request.parent);
  if (!route) return null;
  const why = ROUTE_WHYS[route.why] ?? `“${route.why}”, a word of a later version`;
  const tried = route.tried.length ? ` It was sent to engine ${listed(route.tried)} before.` : "";
  return { text: `To engine ${route.engine}: ${why}.${tried}`, name: route.why, ...route };
}

// How the life of an engine that is shown has ended, {what, cause}; null while it goes on.
export function endOfLife(front, stream, life, newest) {
  const engine = Number(stream.slice("engine".length));
  const now = front.engines[engine];
  const then = now?.epoch > life || newest > life ? " It was started anew." : "";
  const death = front.deaths.findLast((item) => item.engine === engine && item.epoch === life);
  const gap = front.gaps.find((item) => item.of_stream === stream && item.epoch === life);
  if (!death && gap) {
    const lost = `events ${gap.first} to ${gap.last} were lost on their way`;
    return { what: `Here the trace of engine ${engine} breaks off: ${lost}.`, cause: then };
  }
  if (!death) return then ? { what: `Here life ${life} of engine ${engine} ends.`, cause: then } : null;
  const fate = [
    death.retried ? `${plural(death.retried, "request")} went to another engine` : "",
    death.failed ? `${plural(death.failed, "request")} ended with an error` : "",
  ].filter(Boolean);
  return {
    what: `Engine ${engine} died here: ${death.message}.`,
    cause: `${fate.length ? `Of what it had, ${listed(fate)}.` : ""}${then}`,
  };
}
