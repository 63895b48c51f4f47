// The stream of events: kept open, opened again when it ends, and honest about
// how old what is shown is.

import { changed, state } from "./state.js";

/** The server says something every 5 s. */
const SILENCE = 12_000;
/** After a refusal; the browser itself tries again after a broken connection. */
const AGAIN = 3_000;
/** A browser gives one server six connections for all its tabs together: a tab
 *  that nobody sees gives its own back. */
const HIDDEN = 60_000;
/** Values kept for the small charts: a quarter of an hour of one a second. */
const RECENT = 900;

let source = null;
let again = null;
let hide = null;

export function start() {
  open();
  setInterval(watch, 1_000);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hide);
    if (document.hidden) hide = setTimeout(close, HIDDEN);
    else if (!source) open();
  });
}

function open() {
  clearTimeout(again);
  again = null;
  source?.close();
  source = new EventSource("/api/v1/events");
  source.addEventListener("now", (event) => {
    heard();
    take(JSON.parse(event.data));
    changed();
  });
  source.addEventListener("incident", (event) => {
    heard();
    tell(JSON.parse(event.data));
    changed();
  });
  source.addEventListener("error", () => {
    lost();
    if (source?.readyState === EventSource.CLOSED) retry();
  });
}

function close() {
  source?.close();
  source = null;
}

function retry() {
  if (again === null) again = setTimeout(open, AGAIN);
}

/** A connection can die without a word. */
function watch() {
  if (source && state.heardAt !== null && Date.now() - state.heardAt > SILENCE && again === null) {
    lost();
    retry();
  }
  changed();
}

function heard() {
  state.stream = "live";
  state.heardAt = Date.now();
}

function lost() {
  if (state.stream !== "stale") {
    state.stream = "stale";
    changed();
  }
}

function take(now) {
  state.skew = now.served_at - Date.now() / 1000;
  state.now = now;
  const names = new Set();
  for (const target of now.targets) {
    names.add(target.name);
    if (target.in_use === null || target.at === null || !target.fresh) continue;
    const values = state.recent.get(target.name) ?? [];
    if ((values.at(-1)?.[0] ?? 0) < target.at) {
      values.push([target.at, target.in_use + (target.clients_waiting ?? 0)]);
    }
    if (values.length > RECENT) values.splice(0, values.length - RECENT);
    state.recent.set(target.name, values);
  }
  for (const name of state.recent.keys()) if (!names.has(name)) state.recent.delete(name);
}

/** For who does not see the page. */
function tell({ event, incident }) {
  state.changes += 1;
  if (event !== "updated") {
    document.getElementById("news").textContent = `${event}: ${incident.summary}`;
  }
}
