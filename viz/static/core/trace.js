// One life of one engine as the comparison reads it: all its events in order, and by step. Step k
// has the inputs that were applied before it; key 0 what came before any step.

const made = new WeakMap(); // store → {seq, header, trace}

export function traceOf(store, header) {
  const known = made.get(store);
  if (known?.seq === store.seq && known.first === store.firstStep && known.header === header) return known.trace;
  const events = [...[...store.steps.values()].flatMap((step) => step.events), ...store.pending];
  const steps = new Map();
  for (const event of events) {
    const list = steps.get(event.step);
    if (list) list.push(event);
    else steps.set(event.step, [event]);
  }
  const trace = {
    store,
    opening: store.firstStep > 0 ? store.stateAfter(store.firstStep) : null, // of one whose beginning is not here
    header: header ?? {},
    events,
    steps,
    lastStep: Math.max(0, ...steps.keys()),
    eventsOf: (step) => steps.get(step) ?? [],
    stateBefore: (step) => (step - 1 > store.lastStep ? store.head : store.stateAfter(step - 1)),
  };
  made.set(store, { seq: store.seq, first: store.firstStep, header, trace });
  return trace;
}
