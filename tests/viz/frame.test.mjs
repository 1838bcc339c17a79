// The frame around the views: what is shown, what the address says of it, what a key leads to.

import assert from "node:assert/strict";
import test from "node:test";

const { Frame, register, registerDrawer } = await import(new URL("../../viz/static/views/frame.js", import.meta.url));

register({ id: "life", title: "Life", key: "l", named: true, follows: ({ req }) => Boolean(req) });
register({ id: "timeline", title: "Timeline", key: "y", named: false });
register({ id: "board", title: "Board", key: "b", named: true });
registerDrawer({ id: "source", title: "Source", key: "s", side: "right", keys: (event) => event.key === "x" });

function frameOf() {
  const told = { said: [], failed: [], changed: 0, settled: 0 };
  const board = {
    focus: { hover: {}, cells: true, chosen: null, card: () => ({ title: "r4" }) },
    changed: () => void (told.changed += 1),
    resized() {},
    say: (words) => told.said.push(words),
    settle: () => void (told.settled += 1),
    fail: (what, cause) => told.failed.push(`${what} ${cause}`),
  };
  return { frame: new Frame(board), told, board };
}

test("a reader goes to a view, and the browser's back is to lead there again", () => {
  const { frame, told, board } = frameOf();
  frame.show("life");
  assert.deepEqual(frame.place, { view: "life", drawer: null, params: {} });
  assert.ok(frame.moved && told.said.includes("Life") && told.changed === 1);
  assert.equal(board.focus.hover, null);
  frame.moved = false;
  frame.show("life");
  frame.show("nowhere");
  assert.ok(!frame.moved && frame.id === "life");
});

test("an address is taken as it stands, without a new entry; what is not there is told", () => {
  const { frame, told } = frameOf();
  frame.take({ view: "timeline", drawer: "source", params: { with: "b" } });
  assert.deepEqual(frame.place, { view: "timeline", drawer: "source", params: { with: "b" } });
  assert.ok(!frame.moved && frame.param("with") === "b" && frame.param("other") === null);
  frame.setParams({ with: null, from: "3" });
  assert.deepEqual(frame.params, { from: "3" });
  frame.take({ view: "moon", drawer: null, params: {} });
  assert.equal(frame.id, "board");
  assert.deepEqual(told.failed, ["There is no view “moon”. There are: Board, Life, Timeline."]);
  frame.take({ view: "life", drawer: "batch", params: {} });
  assert.equal(told.failed.at(-1), "There is no drawer “batch”. There are: Source.");
  assert.equal(told.settled, 0);
  frame.show("board"); // who goes on has read it
  assert.equal(told.settled, 1);
  frame.show("life");
  assert.equal(told.settled, 1);
  frame.take({ view: null, drawer: null });
  assert.deepEqual(frame.place, { view: null, drawer: null, params: {} });
  assert.equal(told.failed.length, 2);
});

test("names stand in their order, keys lead to views and drawers, a drawer sees keys first", () => {
  const { frame } = frameOf();
  assert.deepEqual(frame.named.map(({ title }) => title), ["Board", "Life"]);
  assert.equal(frame.ofKey("y").view.id, "timeline");
  assert.equal(frame.ofKey("s").drawer.id, "source");
  assert.equal(frame.ofKey("q"), null);
  assert.equal(frame.takesKey({ key: "x" }), false);
  frame.toggle("source");
  assert.equal(frame.takesKey({ key: "x" }), true);
  frame.closeDrawer();
  assert.equal(frame.drawer, null);
  assert.deepEqual(frame.keyRows.map(([keys]) => keys), ["L Y B", "S"]);
});

test("a Why card has links to the views that tell more, but to the one that is shown", () => {
  const { frame } = frameOf();
  assert.deepEqual(frame.followers({ req: "r4" }).map(({ id }) => id), ["life"]);
  assert.deepEqual(frame.followers({ block: 3 }), []);
  frame.show("life");
  assert.deepEqual(frame.followers({ req: "r4" }), []);
});
