// Puts each piece of the page in place as the server sends it anew, and says so when the server sends nothing any more.
// Without this, the page works all the same, but for that it has to be loaded again.
"use strict";

// For how long the server may be silent, and how long to wait before another attempt to reach it.
const SILENCE = 20_000;
const PAUSE = 3_000;

const script = new URL(document.currentScript.src);
const stream = new URL("live", script).pathname + location.search;
const byId = (id) => document.getElementById(id);
const connection = byId("connection");
const pause = byId("pause");
const places = document.querySelectorAll("[data-live]");
const name = document.querySelector("h1").textContent.trim();

let source;
let isLost = false;
let isPaused = false;
let lastNews = new Date();
let silence;
// Pieces that came while the page was held: by place, the newest only.
const waiting = new Map();

const icon = (level) => new URL(`icon/${level}`, script).pathname;
const clock = (moment) => moment.toISOString().slice(0, 19).replace("T", " ");

// The icon for a server that is gone cannot be asked for when it is.
new Image().src = icon("lost");

function label(level, headline) {
  byId("icon").href = icon(level);
  document.title = `${headline} · ${name}`;
}

// Whether what stands there is to stay: while the page is paused, and where a text is selected. The verdict never is.
function isHeld(place) {
  const selection = getSelection();
  return place.id !== "verdict" && (isPaused || !selection.isCollapsed && selection.containsNode(place, true));
}

function put(place, html) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const all = () => [...place.querySelectorAll("a, summary, [tabindex]")];
  const nth = all().indexOf(focused);
  const wide = () => [...place.querySelectorAll(".wide")];
  const scrolled = wide().map((table) => table.scrollLeft);
  // The server has escaped all that strangers sent; and the page's policy lets nothing run that is not this file.
  place.innerHTML = html;
  wide().forEach((table, nth) => { table.scrollLeft = scrolled[nth] ?? 0; });
  if (focused) {
    const href = focused.getAttribute("href");
    const same = href && all().find((link) => link.getAttribute("href") === href);
    (same || all()[nth])?.focus({ preventScroll: true });
  }
}

function show() {
  for (const [place, html] of waiting) {
    if (!isHeld(place)) {
      waiting.delete(place);
      put(place, html);
    }
  }
  const verdict = byId("verdict").firstElementChild;
  byId("lost").hidden = !isLost;
  byId("verdict").hidden = isLost;
  document.documentElement.classList.toggle("is-lost", isLost);
  if (isLost) {
    label("lost", byId("lost-headline").textContent);
    connection.textContent = `No news since ${clock(lastNews)}`;
    connection.className = "lost";
    return;
  }
  label(verdict.dataset.level, verdict.querySelector(".headline").textContent);
  connection.className = isPaused || waiting.size > 0 ? "held" : "live";
  connection.textContent = isPaused ? "Paused" : waiting.size > 0 ? "Held while a text is selected" : "Live";
}

function heard() {
  isLost = false;
  lastNews = new Date();
  watch();
}

function watch() {
  clearTimeout(silence);
  silence = setTimeout(() => lose(), SILENCE);
}

// The server is silent or gone. `detail` is what it says itself, if it can still be asked.
function lose(detail) {
  byId("lost-headline").textContent = detail ? "The server sends no news" : "The server does not answer";
  byId("lost-detail").textContent = detail ?? "";
  byId("lost-since").textContent = clock(lastNews);
  isLost = true;
  show();
  source.close();
  clearTimeout(silence);
  silence = setTimeout(connect, PAUSE);
}

// Why the stream ends or does not begin, if the server says so.
async function refusal() {
  try {
    const answer = await fetch(stream, { signal: AbortSignal.timeout(PAUSE) });
    if (answer.ok) {
      answer.body.cancel();
      return undefined;
    }
    return (await answer.json()).detail;
  } catch {
    return undefined;
  }
}

function connect() {
  source?.close();
  const mine = source = new EventSource(stream);
  let wasOpen = false;
  watch();
  const hear = () => {
    wasOpen = true;
    heard();
  };
  for (const place of places) {
    mine.addEventListener(place.id, (piece) => {
      hear();
      waiting.set(place, piece.data);
      show();
    });
  }
  mine.addEventListener("alive", () => {
    hear();
    show();
  });
  mine.addEventListener("error", async () => {
    mine.close();
    if (wasOpen) {
      // Once at once: a proxy may end what takes long.
      connect();
      return;
    }
    const detail = await refusal();
    if (mine === source) lose(detail);
  });
}

pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.textContent = isPaused ? "Go on" : "Pause";
  show();
});
document.addEventListener("selectionchange", show);
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (shown) => shown.persisted && connect());
connect();

// The answer to a form is what its sender wants to hear of first.
byId("answer")?.focus();
