// What is looked at, as the part of the address behind '#': #/run/ID/step/8/req/r4

export function parseHash(hash) {
  const [path] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map(decoded);
  const place = { run: null, step: null, event: null, req: null, block: null };
  for (let i = 0; i + 1 < parts.length; i += 2) {
    const [key, value] = [parts[i], parts[i + 1]];
    if (key === "run" || key === "req") place[key] = value;
    if (["step", "event", "block"].includes(key) && /^\d{1,9}$/.test(value)) {
      place[key] = Number(value);
    }
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

export function formatHash({ run, step, event, req, block }) {
  let hash = `#/run/${encodeURIComponent(run)}`;
  if (step !== null && step !== undefined) hash += `/step/${step}`;
  if (event !== null && event !== undefined) hash += `/event/${event}`;
  if (req) hash += `/req/${encodeURIComponent(req)}`;
  if (block !== null && block !== undefined) hash += `/block/${block}`;
  return hash;
}
