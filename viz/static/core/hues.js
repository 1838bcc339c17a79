// Which request has which hue: a pure function of the trace, so scrubbing back and a second viewer
// show the same. At its arrival a request takes the lowest hue that no living request holds; when
// none is left it stays grey. Twin of minivllm/trace/hues.py.

export const NUM_HUES = 8;
export const GREY = -1;

export class HueAssigner {
  constructor(of = {}, living = []) {
    this.of = { ...of }; // request → 0…7, or GREY
    this.held = new Map(living.filter((r) => of[r] >= 0).map((r) => [r, of[r]]));
  }

  see(event) {
    if (event.kind === "req.arrive") {
      const taken = new Set(this.held.values());
      let hue = 0;
      while (hue < NUM_HUES && taken.has(hue)) hue += 1;
      this.of[event.req] = hue < NUM_HUES ? hue : GREY;
      if (hue < NUM_HUES) this.held.set(event.req, hue);
    } else if (event.kind === "req.finish") {
      this.held.delete(event.req);
    }
  }
}
