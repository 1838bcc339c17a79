// The lens by keyboard: Enter on the keys, or on the heads, and the arrows move there until Escape.

const MOVES = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
const within = (value, count) => Math.min(Math.max(value, 0), count - 1);

export class LensCursor {
  constructor(view) {
    this.view = view;
    this.on = null; // tokens | heads: what the arrow keys move over
    this.at = 0; // the token under the cursor
  }

  isAt(position) {
    return this.on === "tokens" && this.at === position;
  }

  keys(event) {
    const { view } = this;
    const { key, target } = event;
    if (this.on && target.closest?.(`[data-cells="${this.on}"]`)) return this.#move(key);
    if (key !== "Enter" || !target.matches?.("[data-cells]")) return false;
    this.on = target.dataset.cells;
    if (this.on === "tokens") this.#toToken(within(this.at, view.places.keys), "Cursor on tokens. ");
    else this.#toHead(view.layer ?? 0, view.head ?? 0, "Cursor on heads. ");
    return true;
  }

  #move(key) {
    const { board, places, row, layer, head } = this.view;
    const by = MOVES[key];
    if (this.on === "tokens") {
      if (key === "Enter") board.focus.choose({ req: places.req, position: this.at });
      else if (by) this.#toToken(within(this.at + by[0] + by[1] * places.size, places.keys));
      return Boolean(by) || key === "Enter";
    }
    if (!by) return false;
    const { layers, heads } = row.value ?? {};
    if (layers) this.#toHead(within((layer ?? 0) + by[1], layers), within((head ?? 0) + by[0], heads));
    return true;
  }

  #toToken(position, prefix = "") {
    this.at = position;
    this.view.point(position);
    this.view.board.say(prefix + this.view.words);
  }

  #toHead(layer, head, prefix = "") {
    const { view } = this;
    view.words = view.headWords(layer, head);
    view.set({ layer: String(layer), head: String(head) });
    view.board.say(prefix + view.words);
  }

  // Did it end something?
  escape() {
    if (!this.on) return false;
    this.on = null;
    this.view.point(null);
    this.view.board.say("Arrows step again.");
    return true;
  }
}
