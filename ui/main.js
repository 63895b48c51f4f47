// The page: which view is shown, and what a press of a button does.

import { put } from "./dom.js";
import * as history from "./history.js";
import * as incident from "./incident.js";
import * as keys from "./keys.js";
import * as locks from "./locks.js";
import * as now from "./now.js";
import { more, tellCopied } from "./parts.js";
import * as routes from "./routes.js";
import { changed, onChange, state, touched } from "./state.js";
import * as stream from "./stream.js";
import { age, clock, number } from "./words.js";

const VIEWS = { now, incident, locks, routes, history };
const TITLES = { now: "Now", incident: "Incident", locks: "Locks", routes: "Routes", history: "History" };

const main = document.getElementById("main");
const element = (id) => document.getElementById(id);

/** `#/incident/ID` is view and argument. */
function place() {
  const [, view, argument] = location.hash.split("/");
  if (!Object.hasOwn(VIEWS, view)) return { view: "now", argument: null };
  let id = null;
  try {
    id = argument ? decodeURIComponent(argument) : null;
  } catch {
    // A half of an escape is no name.
  }
  return { view, argument: id };
}

let shown = null;

function render() {
  const { view, argument } = place();
  if (view !== shown) {
    shown = view;
    main.replaceChildren();
    main.dataset.view = view;
    window.scrollTo(0, 0);
  }
  put(main, VIEWS[view].render(argument));
  VIEWS[view].drawn?.();
  keys.mark();
  head(view);
}

function head(view) {
  const open = state.now?.open_incidents ?? 0;
  document.title = `${open > 0 ? `(${number(open)}) ` : ""}${TITLES[view]} · snowpit`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  live();
  if (state.now) element("about").textContent = `snowpit ${state.now.version}, up ${age(state.now.served_at - state.now.started_at)}`;
}

function live() {
  const heard = state.heardAt === null ? null : state.heardAt / 1000;
  const stale = state.stream === "stale";
  element("live").dataset.state = state.stream;
  element("live").lastElementChild.textContent = { wait: "connecting", live: "live", stale: "stale" }[state.stream];
  const banner = element("stale");
  banner.hidden = !stale;
  const words = heard === null
    ? "The daemon does not answer. Trying again."
    : `Stale since ${clock(heard)}: what is shown is ${age(Date.now() / 1000 - heard)} old. Trying to reach the daemon again.`;
  if (stale && banner.textContent !== words) banner.textContent = words;
}

const THEMES = ["auto", "dark", "light"];

function theme(next) {
  const root = document.documentElement;
  const now = root.dataset.theme ?? "auto";
  const chosen = next ?? THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (chosen === "auto") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  try {
    localStorage.setItem("snowpit-theme", chosen);
  } catch {
    // No storage: for this page only.
  }
  element("theme").textContent = `Theme: ${chosen}`;
  touched();
}

async function copy(button) {
  const words = button.dataset.copy;
  let done = false;
  try {
    await navigator.clipboard.writeText(words);
    done = true;
  } catch {
    // Without TLS a browser has no clipboard but this.
    const field = document.createElement("textarea");
    field.value = words;
    field.className = "unseen";
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
  }
  tellCopied(words, done);
  touched();
}

const DO = {
  copy,
  theme: () => theme(),
  help: () => element("help").showModal(),
  skip: () => main.focus(),
  sort: (button) => routes.sort(button.dataset.sort),
  more: (button) => {
    const key = button.dataset.more;
    for (const view of Object.values(VIEWS)) if (view.limits?.[key]) more(key, ...view.limits[key]);
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || !DO[button.dataset.do]) return;
  if (button.dataset.do === "skip") event.preventDefault();
  DO[button.dataset.do](button);
  touched();
});
document.addEventListener("change", (event) => {
  if (event.target.dataset.do === "choose") {
    history.choose(event.target.dataset.choose, event.target.value);
    touched();
  }
});
element("filter").addEventListener("input", (event) => {
  state.filter = event.target.value;
  touched();
});
window.addEventListener("hashchange", () => {
  keys.forget();
  render();
});
matchMedia("(prefers-color-scheme: light)").addEventListener("change", changed);

onChange(render);
theme(document.documentElement.dataset.theme ?? "auto");
keys.start({ theme, help: DO.help });
stream.start();
render();
