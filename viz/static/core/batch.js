// The flat batch of a step: the arrays that the model runner builds from the scheduler's decision,
// made from the events alone, so that they can be shown of any trace. Where the worker's own were
// recorded (level `tensors`), the view compares. Twin of minivllm/trace/batch.py;
// tests/data/views.json holds both to the same results.

export const ARRAYS = {
  input_ids: "which tokens run, all requests one after the other",
  positions: "where each stands in its own sequence",
  query_start_loc: "where each request’s tokens begin, and where the last one’s end",
  seq_lens: "how many tokens attention sees: those computed before, and these",
  slot_mapping: "block × block size + offset: where K and V of each token are written",
  block_table: "logical → physical block of each request; 0, the null block, where it has none",
};

// {batch, state}: the batch, and the state when it is laid out: tables have grown, drafts are not yet
// judged. Null where nothing ran in the step.
export function laidOut(store, step) {
  const events = store.eventsOf(step);
  const composed = events.find((event) => event.kind === "batch.compose");
  if (!composed || step <= store.firstStep) return null;
  const at = events.findIndex((event) => event.kind === "sched.ledger");
  const state = store.stateWithin(step, at < 0 ? events.indexOf(composed) : at);
  return { batch: layOut(state, composed.data), state };
}

export const batchOf = (store, step) => laidOut(store, step)?.batch ?? null;

function layOut(state, { rows, padding }) {
  const size = state.config.block_size;
  const tables = rows.map((row) => state.requests[row.req].table);
  const width = Math.max(0, ...tables.map((table) => table.length));
  const batch = {
    requests: rows.map((row) => row.req),
    why: rows.map((row) => row.why),
    input_ids: [],
    texts: [],
    positions: [],
    query_start_loc: [0],
    seq_lens: rows.map((row) => row.start + row.n),
    block_table: tables.map((table) => [...table, ...new Array(width - table.length).fill(0)]),
    slot_mapping: [],
    padding,
  };
  rows.forEach((row, i) => {
    const { tokens, drafts, texts } = state.requests[row.req];
    for (let position = row.start; position < row.start + row.n; position += 1) {
      batch.input_ids.push(position < tokens.length ? tokens[position] : drafts[position - tokens.length]);
      batch.texts.push(texts[position] ?? "");
      batch.positions.push(position);
      batch.slot_mapping.push(tables[i][Math.floor(position / size)] * size + (position % size));
    }
    batch.query_start_loc.push(batch.input_ids.length);
  });
  for (let i = 0; i < padding; i += 1) {
    batch.input_ids.push(0);
    batch.texts.push("");
    batch.positions.push(0);
    batch.slot_mapping.push(-1);
  }
  return batch;
}

// Where token `index` of the batch belongs: {req, position, slot, block, offset}; null for padding.
export function tokenPlace(batch, index, blockSize) {
  const row = batch.query_start_loc.findIndex((end, i) => i > 0 && index < end) - 1;
  if (row < 0) return null;
  const slot = batch.slot_mapping[index];
  const block = Math.floor(slot / blockSize);
  return { req: batch.requests[row], row, position: batch.positions[index], slot, block, offset: slot % blockSize };
}

// The first place where a recorded array is not what the events say: {name, index, told, recorded}.
export function firstDisagreement(batch, recorded) {
  for (const name of Object.keys(ARRAYS)) {
    if (!(name in recorded)) continue;
    const [told, found] = [batch[name].flat(), recorded[name].flat()];
    const length = Math.max(told.length, found.length);
    for (let index = 0; index < length; index += 1) {
      if (told[index] !== found[index]) return { name, index, told: told[index], recorded: found[index] };
    }
  }
  return null;
}
