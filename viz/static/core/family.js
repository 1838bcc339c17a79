// The ids of one request of a client, and what all streams tell of them. Twin of
// minivllm/trace/family.py: a batch has a request for each prompt (cmpl-a-0), n samples are each
// their own (0_cmpl-a-0), and all have the door and the answer of what the client sent (cmpl-a).

const PROMPT = /^(.+)-\d+$/s;
const SAMPLE = /^\d+_(.+)$/s;

class Families {
  parents = new Map();
  known = new Set();
  asked = new Set(); // by HTTP

  constructor(lives) {
    for (const { kind, data } of lives.flatMap(({ events }) => events)) {
      const id = data?.request_id;
      if (id === null || id === undefined) continue;
      this.known.add(id);
      if (kind === "http.request") this.asked.add(id);
      if (kind === "req.arrive" && data.parent) {
        this.parents.set(id, data.parent);
        this.known.add(data.parent);
      }
    }
  }

  // It, the prompt that it is a sample of, and what the client sent.
  line(id) {
    const line = [id];
    const sample = SAMPLE.exec(id)?.[1];
    const parent = this.parents.get(id) ?? (this.known.has(sample) ? sample : undefined);
    if (parent !== undefined) line.push(parent);
    const prompt = PROMPT.exec(line.at(-1))?.[1];
    if (prompt !== undefined && !this.asked.has(line.at(-1)) && this.asked.has(prompt)) line.push(prompt);
    return line;
  }
}

// {shared: ids of what all of it has in common, places, events: [whose, event] by clock}
export function familyOf(lives, requestId) {
  const families = new Families(lives);
  const shared = families.line(requestId);
  const ids = new Set([...families.known].filter((id) => families.line(id).includes(requestId)).concat(shared));
  const [told, arrivals, open, awaited] = [[], [], new Map(), new Map()];
  for (const { stream, life, events } of lives) {
    if (stream === "api") continue;
    const newest = new Map();
    for (const { kind, req, data } of events) {
      if (kind === "req.arrive" && ids.has(data.request_id)) newest.set(data.request_id, req);
    }
    const names = new Map([...newest].map(([id, req]) => [req, id]));
    const stillOpen = new Set(newest.keys());
    for (const event of events) {
      for (const of of whose(event, names, ids)) {
        told.push([of, event]);
        if (event.kind === "req.token") {
          const key = `${stream} ${life} ${event.step}`;
          awaited.set(key, (awaited.get(key) ?? new Set()).add(of));
        } else if (event.kind === "req.finish") stillOpen.delete(of);
        else if (event.kind === "req.arrive") {
          arrivals.push([event.t_ns, { stream, life, req: event.req, request_id: of }]);
        }
      }
    }
    open.set(`${stream} ${life}`, [...stillOpen]);
  }
  const front = lives.filter(({ stream }) => stream === "api").flatMap(({ events }) => events);
  for (const event of front) {
    for (const of of ofFront(event, ids, open, awaited)) told.push([of, event]);
  }
  return {
    shared,
    places: arrivals.sort(([a], [b]) => a - b).map(([, place]) => place),
    events: told.sort(([, a], [, b]) => a.t_ns - b.t_ns), // stable: as they were told
  };
}

// What all streams tell of a request, by clock, each once.
export function eventsOf(lives, requestId) {
  return [...new Set(familyOf(lives, requestId).events.map(([, event]) => event))];
}

function whose({ kind, req, data }, names, ids) {
  if (req !== null && req !== undefined) return names.has(req) ? [names.get(req)] : [];
  if (kind === "sched.stop") return [data.head, ...data.behind].filter((r) => names.has(r)).map((r) => names.get(r));
  return kind.startsWith("ipc.") && ids.has(data.request_id) ? [data.request_id] : [];
}

// A message of outputs has no request's name, but the step's number; the first of that number
// brings what the step has said.
function ofFront({ kind, data }, ids, open, awaited) {
  if (kind === "engine.dead") return open.get(`engine${data.engine} ${data.epoch}`) ?? [];
  if (kind === "ipc.recv" && data.of_step !== null && data.of_step !== undefined) {
    const key = `engine${data.engine} ${data.epoch} ${data.of_step}`;
    const who = awaited.get(key) ?? [];
    awaited.delete(key);
    return who;
  }
  return ids.has(data?.request_id) ? [data.request_id] : [];
}
