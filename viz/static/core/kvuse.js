// KV memory, step by step, in tokens: what holds tokens, what is held for nothing. Twin of
// minivllm/trace/kv_use.py, which says what is what. Measured while the batch runs.

import { apply, clone, newState } from "#core/fold.js";

// [{step, pool, tokenStates, reserved, neverUsed, scattered, tooFew, free, taken}]
export function memoryBySteps(events, opening = null) {
  const state = opening ? clone(opening) : newState();
  const found = [];
  const stays = new Map(); // request → [{memory, slots, filled}], until its table is given back
  let lack = null;
  for (const event of events) {
    if (event.kind === "step.begin") lack = null;
    else if (event.kind === "sched.skip") lack = event.data.reason;
    else if (event.kind === "sched.stop" && event.data.reason === "preempted_this_step") lack = "no_free_blocks";
    else if (event.kind === "kv.free" && stays.has(event.req)) {
      endStay(stays.get(event.req), state.requests[event.req].num_computed_tokens);
      stays.delete(event.req);
    }
    apply(state, event);
    if (event.kind === "batch.compose" && state.config) found.push(measureStep(state, event.step, stays, lack));
  }
  // The trace ends before they do.
  for (const [req, stay] of stays) endStay(stay, state.requests[req].num_computed_tokens);
  for (const memory of found) memory.taken = memory.tokenStates + memory.reserved + memory.neverUsed;
  return found;
}

function endStay(stay, filled) {
  for (const { memory, slots, filled: then } of stay) {
    const later = Math.max(Math.min(filled, slots) - then, 0);
    memory.reserved += later;
    memory.neverUsed += slots - then - later;
  }
}

function measureStep(state, step, stays, lack) {
  const size = state.config.block_size;
  const [pool, free] = [(state.blocks.length - 1) * size, state.free.length * size];
  const memory = { step, pool, tokenStates: 0, reserved: 0, neverUsed: 0, scattered: 0, tooFew: 0, free: 0 };
  let unfilled = 0;
  for (const req of state.running) {
    const request = state.requests[req];
    const slots = request.table.length * size;
    const filled = Math.min(request.num_computed_tokens, slots);
    unfilled += slots - filled;
    const stay = stays.get(req) ?? [];
    stay.push({ memory, slots, filled });
    stays.set(req, stay);
  }
  // Whatever two tables share is full, so what is not filled is nobody else's.
  memory.tokenStates = pool - free - unfilled;
  if (lack === "fragmented") memory.scattered = free;
  else if (lack === "no_free_blocks") memory.tooFew = free;
  else memory.free = free;
  return memory;
}
