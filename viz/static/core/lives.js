// The streams of a run, and their lives: an engine that is started anew writes its stream again, as
// its next life, with steps and sequence numbers from 1 on.

export const FRONT = "api";

const numberOf = (stream) => Number(stream.slice("engine".length));

export const engineName = (stream) => `engine ${numberOf(stream)}`;

// The engines' streams, in order of their numbers; those that have said nothing yet included.
export function engineStreams(lives, front) {
  const spoke = lives.map(({ stream }) => stream).filter((stream) => stream.startsWith("engine"));
  const known = Object.keys(front?.engines ?? {}).map((number) => `engine${number}`);
  return [...new Set([...spoke, ...known])].sort((a, b) => numberOf(a) - numberOf(b));
}

// The numbers of a stream's lives that can be had.
export const livesOf = (lives, stream) => lives.filter((item) => item.stream === stream).map(({ life }) => life);

export const newestOf = (lives, stream) => Math.max(...livesOf(lives, stream), 0) || null;

// One of them, or undefined.
export const findLife = (lives, stream, life) =>
  lives.find((item) => item.stream === stream && (life === null || life === undefined || item.life === life));

// All events as lives, each with its events.
export function splitLives(events) {
  const lives = [];
  const open = new Map(); // stream → its last life
  for (const event of events) {
    let life = open.get(event.stream);
    if (!life || event.kind === "run.start") {
      const number = Math.max(event.data.epoch ?? 1, (life?.life ?? 0) + 1);
      life = { stream: event.stream, life: number, first: event.seq, head: 0, events: [] };
      open.set(event.stream, life);
      lives.push(life);
    }
    life.events.push(event);
    life.head = event.seq;
  }
  return lives;
}

// Where a request ran, by its client's id: {stream, life, req, step}; null if nowhere. As
// `find_request` in viz/runs.py, for a file that is read in the page.
export function findRequest(lives, id) {
  let found = null;
  for (const { stream, life, events } of lives) {
    for (const { kind, t_ns, req, step, data } of events) {
      if (kind !== "req.arrive") continue;
      const asked = data.request_id === id || (data.parent === id && data.request_id.startsWith("0_"));
      if (asked && !(found?.t_ns > t_ns)) found = { t_ns, stream, life, req, step };
    }
  }
  return found;
}
