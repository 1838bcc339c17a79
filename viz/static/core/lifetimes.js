// The nanoseconds of a life: its bands by the clock, and what the front end's events add: when the
// first byte left, and for how long text was held back. Pure. (Its steps: core/life.js.)

// The same stretches by time: what lay between arrival and admission is the queue's, though it be less
// than a step.
export function bandsInTime({ bands, arrived_ns: arrived, admitted_ns: admitted }) {
  if (!bands.length || arrived === null || admitted === null) return bands;
  const queue = { ...bands[0], band: "wait", ns: admitted - arrived };
  let over = queue.ns; // what of the queue lies in the bands that follow
  const rest = [];
  for (const band of bands) {
    const ns = Math.max(band.ns - over, 0);
    over -= band.ns - ns;
    if (band.band !== "wait" || ns) rest.push({ ...band, ns });
  }
  return [queue, ...rest];
}

// {first: from the request's last byte to the answer's first, held: with text kept back, times}; null
// where the front end told nothing. `events`: all of the request, by clock.
export function clientTimes(events) {
  const at = (kind) => events.find((event) => event.kind === kind)?.t_ns ?? null;
  const [asked, began] = [at("http.request"), at("http.first_byte")];
  const times = { first: asked !== null && began !== null ? began - asked : null, held: 0, times: 0 };
  let since = null; // text is being held back
  let piece = null; // a piece has come, and it is not told yet whether any is kept of it
  const end = (t_ns) => {
    if (since !== null) times.held += t_ns - since;
    since = null;
  };
  const settle = () => {
    if (piece !== null) end(piece);
    piece = null;
  };
  for (const { kind, t_ns } of events) {
    if (kind === "req.detokenize") {
      settle();
      piece = t_ns;
    } else if (kind === "req.held_back") {
      since ??= t_ns;
      piece = null;
      times.times += 1;
    } else if (kind === "req.released" || kind === "http.done") {
      settle();
      end(t_ns);
    }
  }
  settle();
  return times;
}
