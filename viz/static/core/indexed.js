// An index over all whole steps of a store that is kept up as the run grows: each event is seen
// once, however often the index is asked for. When an older part was put before the store, the
// index is made anew.

export function indexOver(make, see) {
  const known = new WeakMap();
  return (store) => {
    let index = known.get(store);
    if (!index || index.first !== store.firstStep || index.base !== store.base) {
      index = { first: store.firstStep, base: store.base, upto: store.firstStep - 1, value: make(store) };
      known.set(store, index);
    }
    for (let step = index.upto + 1; step <= store.lastStep; step += 1) {
      for (const event of store.eventsOf(step)) see(index.value, event, step);
    }
    index.upto = Math.max(index.upto, store.lastStep);
    return index.value;
  };
}
