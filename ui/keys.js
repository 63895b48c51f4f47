// The keyboard: views, a place in the list of the view, and what can be done
// there.

const VIEWS = ["now", "incident", "locks", "routes", "history"];

/** The entry that is pointed at, by its key. */
let at = null;

export function start({ theme, help }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const filter = document.getElementById("filter");
    if (event.target === filter) {
      if (event.key === "Escape") {
        filter.value = "";
        filter.dispatchEvent(new Event("input", { bubbles: true }));
      }
      if (event.key === "Escape" || event.key === "Enter") filter.blur();
      return;
    }
    if (event.target.closest?.("input, select, textarea, dialog")) return;
    const done = act(event.key, { theme, help, filter });
    if (done) event.preventDefault();
  });
}

function act(key, { theme, help, filter }) {
  const view = VIEWS[Number(key) - 1];
  if (view) {
    location.hash = `#/${view}`;
    return true;
  }
  switch (key) {
    case "j":
      return step(1);
    case "k":
      return step(-1);
    case "Enter":
      return enter();
    case "c":
      return press(entry()?.querySelector("[data-do=copy]") ?? document.querySelector("main [data-do=copy]"));
    case "/":
      filter.focus();
      filter.select();
      return true;
    case "t":
      theme();
      return true;
    case "?":
      help();
      return true;
    default:
      return false;
  }
}

const entries = () => [...document.querySelectorAll("main [data-row]")];

const entry = () => entries().find((one) => one.dataset.row === at);

function press(element) {
  element?.click();
  return Boolean(element);
}

function step(by) {
  const all = entries();
  if (all.length === 0) return false;
  const index = all.findIndex((one) => one.dataset.row === at);
  const next = index < 0 ? (by > 0 ? 0 : all.length - 1) : index + by;
  const one = all[Math.min(Math.max(next, 0), all.length - 1)];
  at = one.dataset.row;
  mark();
  one.scrollIntoView({ block: "nearest" });
  return true;
}

/** A focused link or button does what it does by itself. */
function enter() {
  if (document.activeElement?.closest("a, button, summary")) return false;
  return press(entry()?.querySelector("[data-enter]"));
}

/** Shows the place again after the page was drawn. */
export function mark() {
  for (const one of document.querySelectorAll("main [data-row]")) {
    if (one.dataset.row === at) one.setAttribute("data-at", "");
    else one.removeAttribute("data-at");
  }
}

/** A new view begins without a place. */
export function forget() {
  at = null;
}
