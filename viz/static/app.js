// The page: loads the palette and the runs, connects, and renders the Board whenever it changes.

import { html, nothing, render } from "lit-html";

import { Clock, FADE_MS } from "#core/clock.js";
import { parseHash } from "#core/url.js";
import { Board } from "#board/board.js";
import { Tour } from "#board/tour.js";
import { listenToKeys } from "#board/keys.js";
import { LiveChannel } from "#net/live.js";
import { listRuns, loadRange, loadRun, loadTour } from "#net/history.js";
import { TraceStore } from "#core/store.js";
import { doneLane, waitingLane } from "#view/lanes.js";
import { detailLine, sentenceRegion, topBar, transport } from "#view/frame.js";
import { chipPlaces, fade, linkPath, slideChips } from "#view/motion.js";
import { findPanel, helpPanel, problemPanel, tablesPanel, whyPanel } from "#view/panels.js";
import { poolProgress, poolRegion } from "#view/poolregion.js";
import { runningRegion } from "#view/running.js";
import { setTheme, theme } from "#view/theme.js";
import "#view/budget.js";
import "#view/pool.js";
import "#view/scrub.js";
import "#view/strip.js";
import "#view/token.js";

const root = document.getElementById("app");
const clock = new Clock((callback) => requestAnimationFrame(callback), () => performance.now());
const board = new Board(clock);

// --- rendering ---------------------------------------------------------------------------------

let asked = false;

board.changed = () => {
  if (asked) return;
  asked = true;
  queueMicrotask(() => {
    asked = false;
    draw();
  });
};

function draw() {
  const began = performance.now();
  const sliding = board.player.motion && board.player.beat === 1 && !clock.manual;
  const before = sliding ? chipPlaces(root) : null;
  const scene = board.scene();
  render(page(scene), root);
  if (before) slideChips(root, before);
  drawLinks();
  speak();
  if (board.run) history.replaceState(null, "", board.place() + location.search.replace(/^$/, ""));
  board.lastDrawMs = performance.now() - began;
  focusTour();
  if (board.player.moving || board.tour?.on) clock.next(frame);
}

// While the tour is on, its button has the focus, unless the reader put it elsewhere.
function focusTour() {
  const state = board.tour?.state ?? "off";
  if (state === tourState) return;
  tourState = state;
  const { activeElement } = document;
  const free = activeElement === document.body || activeElement.closest(".tour, .end-card, .choices");
  if (free && state !== "off") root.querySelector("[data-tour=next]")?.focus();
}

let tourState = "off";

function frame(now) {
  const { beat, step } = board.player;
  let more = board.player.frame(now);
  if (board.tour?.on) {
    more = board.tour.frame(now) || more;
    root.querySelector(".ring")?.style.setProperty("--left", board.tour.left(now));
  }
  if (board.player.beat !== beat || board.player.step !== step) return draw();
  for (const element of root.querySelectorAll("vz-pool, vz-budget, vz-strip")) {
    const { tagName } = element;
    if (tagName === "VZ-POOL") element.progress = poolProgress(board);
    else element.progress = board.progressOf(tagName === "VZ-STRIP" ? "run" : "schedule");
  }
  if (more) clock.next(frame);
}

function page(scene) {
  const told = board.told();
  const dimmed = board.engine.linked || !board.isLive ? "" : "stale";
  return html`
    ${topBar(board)}
    ${sentenceRegion(board, told)}
    ${problemPanel(board)}
    <main class="board ${dimmed}" .style=${`--faded:${board.focus.faded}`}>
      <div class="lanes">${waitingLane(board, scene)}${doneLane(board, scene)}</div>
      ${runningRegion(board, scene)}
      ${poolRegion(board, scene)}
      ${whyPanel(board, board.focus.card())}
    </main>
    ${detailLine(board)}
    ${transport(board)}
    ${board.panel === "help" ? helpPanel(board) : nothing}
    ${board.panel === "find" ? findPanel(board) : nothing}
    ${board.panel === "tables" ? tablesPanel(board, scene) : nothing}`;
}

function drawLinks() {
  const path = document.querySelector("#links path");
  const req = board.focus.hover?.req ?? board.focus.chosen?.req;
  const row = req ? board.scene()?.running.find((item) => item.req === req) : null;
  path.setAttribute("d", row && !board.narrow && !board.player.motion ? linkPath(root, req, row.table, theme.scale) : "");
  if (row) path.setAttribute("class", row.hue >= 0 ? `h${row.hue}` : "grey");
}

// The polite region tells the step when the cursor rests on it, not each one that flies by.
let spoken = "";

function speak() {
  const { player } = board;
  if (player.playing || player.following || player.motion || !board.store?.config) return;
  const words = `Step ${board.step}. ${board.told().headline}`;
  if (words === spoken) return;
  spoken = words;
  board.say(words);
}

board.say = (words) => {
  document.getElementById("say").textContent = words;
};

board.remember = (key, value) => localStorage.setItem(`minivllm.${key}`, value);

board.focusPrompt = () => root.querySelector(".prompt textarea").focus();

board.cutBack = () => {
  if (clock.manual || board.player.reducedMotion) return;
  const main = root.querySelector("main");
  if (main) fade(main, FADE_MS);
};


// --- sizes and theme ---------------------------------------------------------------------------

let palette = null;
const THEMES = [["dark", false], ["light", false], ["light", true]];
let themeAt = 0;

board.nextTheme = () => {
  themeAt = (themeAt + 1) % THEMES.length;
  localStorage.setItem("minivllm.theme", themeAt);
  applyTheme();
};

board.setKeys = (on) => {
  board.keysOff = !on;
  localStorage.setItem("minivllm.keys", on ? "on" : "off");
  board.changed();
};

function applyTheme() {
  const [name, projector] = THEMES[themeAt];
  document.documentElement.classList.toggle("projector", projector);
  setTheme(palette, name, projector);
  measure();
}

// Wide, middle, narrow: by the width there is for content at the theme's scale.
function measure() {
  const { scale } = theme;
  const width = innerWidth / scale;
  board.narrow = width < 700;
  document.documentElement.dataset.width = board.narrow ? "narrow" : width < 1280 ? "middle" : "wide";
  draw();
  const rows = root.querySelector(".rows");
  const pool = root.querySelector(".pool");
  if (!rows) return;
  const wide = document.documentElement.dataset.width === "wide";
  const tall = wide ? pool.clientHeight / scale - 168 : 320;
  board.sizes = {
    rows: (rows.clientWidth - 12) / scale,
    rowsHeight: (rows.clientHeight - 12) / scale,
    poolWidth: (pool.clientWidth - parseFloat(getComputedStyle(pool).paddingLeft) * 2) / scale,
    pool: Math.max(Math.min(tall, 720), 160),
  };
  draw();
}

// --- runs --------------------------------------------------------------------------------------

async function refreshRuns() {
  try {
    board.runs = await listRuns();
    const current = board.runs.find((run) => run.id === board.run?.id);
    if (current && board.run) board.run = current;
  } catch (error) {
    board.fail("The list of runs could not be read.", error.message);
  }
  board.changed();
}

board.openRun = async (id, place = {}) => {
  const run = board.runs.find((item) => item.id === id);
  if (!run) {
    const known = board.runs.map((item) => item.id).join(", ") || "none";
    return board.fail(`There is no run “${id}”.`, `There are: ${known}.`);
  }
  board.engine.channel.leave();
  board.begin(run);
  board.wanted = place;
  if (run.error) return board.fail("This trace cannot be read.", run.error);
  if (run.kind === "live") {
    board.player.following = place.step === null || place.step === undefined;
    board.engine.channel.follow(run.id);
  } else {
    await fetchAll(run);
  }
  if (board.run !== run) return undefined; // another one was opened meanwhile
  if (run.tour) await offerTour(run, place);
  board.arrive(true);
  measure();
  return undefined;
};

// The first visit begins with the tour; a link to a certain place does not.
async function offerTour(run, place) {
  const script = await loadTour(run.id).catch(() => null);
  if (!script || board.run !== run) return;
  board.tour = new Tour(board, script);
  if (place.step === null && localStorage.getItem("minivllm.tour") !== "seen") board.tour.start();
}

async function fetchAll(run) {
  try {
    const { streams } = await loadRun(run.id);
    const stream = Object.keys(streams).find((name) => name.startsWith("engine")) ?? "engine0";
    await loadRange(run.id, stream, 1, streams[stream] ?? 0, (events) => {
      if (board.run !== run) return false;
      board.take(events);
      board.changed();
      return true;
    });
  } catch (error) {
    board.fail("The recording could not be fetched.", error.message, false, {
      text: "Try again",
      run: () => board.openRun(run.id),
    });
  }
}

addEventListener("hashchange", () => {
  const place = parseHash(location.hash);
  if (place.run && place.run !== board.run?.id) board.openRun(place.run, place);
  else {
    board.focus.chosen = null;
    board.wanted = place;
    board.arrive(true);
    board.changed();
  }
});

// --- the live channel --------------------------------------------------------------------------

const transports = new URLSearchParams(location.search).get("transport");

const listeners = {
  events(events) {
    board.take(events);
    board.changed();
  },
  reset() {
    board.begin(board.run);
    board.player.following = true;
    board.changed();
  },
  late(snapshot) {
    board.begin(board.run, snapshot);
    board.player.following = true;
    board.changed();
    fetchPast(board.store, snapshot.seq);
  },
  status(status) {
    board.engine.status = status;
    board.changed();
  },
  role({ driver }) {
    board.engine.driver = driver;
    board.changed();
  },
  gate(gate) {
    board.engine.gate = gate;
    board.changed();
  },
  runs() {
    refreshRuns();
  },
  link(up) {
    const lost = board.engine.linked && !up;
    board.engine.linked = up;
    if (lost && board.isLive) {
      board.fail("The connection to the server is lost.", `What you see is from step ${board.lastStep}; it tries again by itself.`, true);
    } else if (up && board.problem?.red && !board.store?.violated.length) board.problem = null;
    board.changed();
  },
  problem(text) {
    board.fail("The run cannot be followed further.", text, false, {
      text: "Open it anew",
      run: () => board.openRun(board.run.id),
    });
  },
};

// A run that was joined late: fold its past apart, then put it before what is here.
async function fetchPast(store, upto) {
  const older = new TraceStore();
  const run = board.run;
  try {
    await loadRange(run.id, "engine0", 1, upto, (events) => {
      if (board.store !== store) return false;
      older.ingest(events);
      return true;
    });
  } catch {
    return; // the oldest events are no longer kept: the past begins at the snapshot
  }
  if (board.store === store && older.seq === upto) {
    store.prepend(older);
    board.changed();
  }
}

// --- start -------------------------------------------------------------------------------------

async function start() {
  palette = await (await fetch("/static/palette.json")).json();
  themeAt = Number(localStorage.getItem("minivllm.theme") ?? 0) % THEMES.length || 0;
  board.keysOff = localStorage.getItem("minivllm.keys") === "off";
  const quiet = matchMedia("(prefers-reduced-motion: reduce)");
  board.player.reducedMotion = quiet.matches;
  quiet.addEventListener("change", () => (board.player.reducedMotion = quiet.matches));
  board.engine.channel = new LiveChannel(listeners, transports ? [transports] : undefined);
  applyTheme();
  listenToKeys(board, root);
  addEventListener("resize", measure);
  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
    addEventListener(kind, touched, { capture: true, passive: true });
  }
  root.addEventListener("pointerover", pointAt);
  root.addEventListener("focusin", pointAt);
  root.addEventListener("pointerleave", () => board.focus.point(null));
  await refreshRuns();
  const place = parseHash(location.hash);
  const first = place.run ?? board.runs[0]?.id;
  if (first) await board.openRun(first, place);
  else board.fail("There is no run to show.", "Start the dashboard with a trace file, or wait for the engine.");
}

// Somebody is there. (A pointer that lies still under a page that changes is nobody.)
function touched(event) {
  if (event.type === "pointermove" && !event.movementX && !event.movementY) return;
  board.tour?.touched();
}

// What is under the pointer, or has the focus, is shown everywhere.
function pointAt(event) {
  const element = event.target.closest("[data-req], [data-block]");
  if (event.target.closest("vz-strip, vz-pool, vz-budget")) return;
  if (event.type === "focusin" && !event.target.matches(":focus-visible")) return;
  if (!element) return board.focus.point(null);
  const { req, block } = element.dataset;
  board.focus.point(req ? { req } : { block: Number(block) });
}

// For tests: the state at a step, the scene, and time by hand.
window.__viz = {
  board,
  clock,
  state: (step = board.step) => structuredClone(board.store.stateAfter(step)),
  scene: () => board.scene(),
  draw,
};

start();
