// The frame: which views and drawers there are, and which is shown. A view is a picture of the one
// state that all share (`ctx`, the Board object): run, cursor (`ctx.step`), selection (`ctx.focus`),
// engine and life (`ctx.at`). It never keeps a copy of any of these.
//
//     register({
//       id, title, key,            // key: a single letter, or null
//       named: true,               // has its name in the bar; else it is reached from elsewhere
//       mount(el, ctx) {},         // once, before it is first shown; el: a <main> that stays
//       update(ctx) {},            // after each change, while it is shown
//       resized(ctx) {},           // optional: the window, the theme or the view has changed
//       keys(event, ctx) {},       // optional: the first to see a key; true: taken
//       says(ctx) {},              // optional: what is read out of it at each step, behind the headline
//       escape(ctx) {},            // optional: closes the innermost that is open; true: there was one
//       detail(ctx) {},            // optional: its words for the detail line, "" for the usual ones
//       table(ctx) {},             // optional: its twin as tables, see view/panels.js
//       follows(what) {},          // optional: may a Why card about {req} or {block} lead here?
//       card: {shown(ctx), open(ctx), close(ctx)}, // optional: the view itself says whether the Why card is open
//     })
//     registerDrawer({ id, title, short, key, side: "right" | "foot", mount, update, keys })
//
// The address ends in ?view=life&drawer=source; what a view needs there beside it is a param:
// ctx.frame.param("with"), ctx.frame.setParams({ with: "run-2" }).

import { samePick } from "#core/selection.js";

const views = new Map();
const drawers = new Map();
const ORDER = ["board", "life", "pool", "compare"]; // of the names in the bar

export function register(view) {
  views.set(view.id, view);
}

export function registerDrawer(drawer) {
  drawers.set(drawer.id, drawer);
}

export class Frame {
  constructor(board) {
    this.board = board;
    this.id = "board";
    this.drawerId = null;
    this.params = {};
    this.hosts = new Map(); // view or drawer → its element, once it was shown
    this.strayed = false; // an address named what is not here, and that is being said
    this.moved = false; // by the reader, so that "back" leads here
  }

  get view() {
    return views.get(this.id);
  }

  get drawer() {
    return drawers.get(this.drawerId) ?? null;
  }

  get named() {
    const at = (view) => (ORDER.indexOf(view.id) + 1 || ORDER.length + 1);
    return [...views.values()].filter((view) => view.named).sort((a, b) => at(a) - at(b));
  }

  get views() {
    return [...views.values()];
  }

  // Those that are reached from elsewhere than the bar.
  get unnamed() {
    return [...views.values()].filter((view) => !view.named);
  }

  get drawers() {
    return [...drawers.values()];
  }

  knows(id) {
    return views.has(id) || drawers.has(id);
  }

  // The reader goes to another view; the cursor and the selection stay.
  show(id, params = {}) {
    if (id === this.id || !views.has(id)) return;
    [this.id, this.params, this.moved] = [id, params, true];
    this.#found();
    this.board.focus.hover = null;
    this.board.focus.cells = false;
    this.board.changed();
    this.board.resized();
    if (this.board.narrow) scrollTo(0, 0); // there the page scrolls, not the view
    this.board.say(this.view.title);
  }

  // Open or close a drawer. Of two, the later takes the earlier one's place.
  toggle(id) {
    if (!drawers.has(id)) return;
    this.drawerId = this.drawerId === id ? null : id;
    this.moved = true;
    this.#found();
    this.board.changed();
    this.board.say(this.drawer ? this.drawer.title : "closed");
  }

  closeDrawer() {
    if (this.drawerId) this.toggle(this.drawerId);
  }

  param(name) {
    return this.params[name] ?? null;
  }

  // null takes one away.
  setParams(params) {
    this.params = Object.fromEntries(
      Object.entries({ ...this.params, ...params }).filter(([, value]) => value !== null),
    );
    this.board.changed();
  }

  // What an address says. A view that is not here is told, and the Board is shown.
  take({ view, drawer, params }) {
    const known = views.has(view ?? "board");
    const changed = this.id !== (known ? view ?? "board" : "board");
    this.id = known ? view ?? "board" : "board";
    this.drawerId = drawers.has(drawer) ? drawer : null;
    this.params = params ?? {};
    if (changed) this.board.resized();
    if (known && (!drawer || this.drawerId)) return;
    const [what, list] = known ? [`drawer “${drawer}”`, this.drawers] : [`view “${view}”`, [...this.named, ...this.unnamed]];
    this.astray(`There is no ${what}.`, `There are: ${list.map(({ id, title }) => (id === title.toLowerCase() ? title : `${title} (${id})`)).join(", ")}.`);
  }

  // An address that is wrong in part: what there is instead, until the reader goes on.
  astray(what, cause) {
    this.board.fail(what, cause, false, { text: "Go on", run: () => this.board.settle() });
    this.strayed = true;
  }

  #found() {
    if (!this.strayed) return;
    this.strayed = false;
    this.board.settle();
  }

  // The Why card that is open.
  get card() {
    const { card } = this.view;
    return card && !card.shown(this.board) ? null : this.board.focus.card();
  }

  // The Why card about this, wherever the reader is.
  why(what) {
    const { focus } = this.board;
    const { card } = this.view;
    if (!card || !samePick(focus.chosen, what)) focus.choose(what);
    card?.open(this.board);
    this.board.changed();
  }

  closeCard() {
    if (this.view.card) this.view.card.close(this.board);
    else this.board.focus.choose(null);
  }

  // The views that tell more of what is chosen.
  followers(what) {
    return what ? [...views.values()].filter((view) => view !== this.view && view.follows?.(what)) : [];
  }

  // For the address.
  get place() {
    return { view: this.id === "board" ? null : this.id, drawer: this.drawerId, params: this.params };
  }

  // The one that a single key leads to: {view} | {drawer} | null.
  ofKey(key) {
    const by = (list) => [...list.values()].find((item) => item.key === key);
    const [view, drawer] = [by(views), by(drawers)];
    return view ? { view } : drawer ? { drawer } : null;
  }

  // For the table of keys: [keys, words].
  get keyRows() {
    const keyed = (list) => [...list.values()].filter(({ key }) => key);
    const row = (list, what) => [list.map(({ key }) => key.toUpperCase()).join(" "), `${what}: ${list.map(({ title }) => title).join(", ")}`];
    return [[keyed(views), "the views"], [keyed(drawers), "drawers"]].filter(([list]) => list.length).map(([list, what]) => row(list, what));
  }

  // Before the usual keys: the drawer, then the view.
  takesKey(event) {
    return Boolean(this.drawer?.keys?.(event, this.board) || this.view.keys?.(event, this.board));
  }

  // The element of a view or a drawer, made and mounted once.
  host(item, tag) {
    let host = this.hosts.get(item);
    if (!host) {
      host = document.createElement(tag);
      host.className = `${tag === "main" ? "view" : "drawer-body"} ${item.id}`;
      host.tabIndex = -1;
      host.setAttribute("aria-label", item.title);
      this.hosts.set(item, host);
      item.mount(host, this.board);
    }
    return host;
  }

  // Draw what is shown; the page around it has been rendered.
  update() {
    this.view.update(this.board);
    this.drawer?.update(this.board);
    // Who stood in a view that has gone stands in the one that came.
    const host = this.hosts.get(this.view);
    if (this.shown && this.shown !== host && document.activeElement === document.body) host.focus();
    this.shown = host;
  }
}
