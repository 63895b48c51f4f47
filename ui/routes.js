// Routes: which of them have most requests at a time, and how that is against
// what is usual.

import { h } from "./dom.js";
import { bar, empty, limit, rest, spark, table, trouble } from "./parts.js";
import { Feed, passes } from "./state.js";
import { cut, known, number, seconds, text, times } from "./words.js";

const ROWS = 60;

const routes = new Feed(2_000);

export const limits = { routes: [ROWS, 200] };

const source = (route) => route.sources[0] ?? {};

const ratio = (now, usual) => (known(now) && known(usual) && usual > 1e-9 ? now / usual : null);

/** What a column shows and sorts by. */
const COLUMNS = {
  route: { head: "Route", by: (route) => route.route, up: true },
  concurrency: { head: "At a time", by: (route) => route.concurrency },
  change: { head: "Against usual", by: (route) => ratio(route.concurrency, source(route).usual?.concurrency) },
  trend: { head: "Last 30 min", by: null },
  rate: { head: "Requests/s", by: (route) => source(route).requests_per_second },
  hold: { head: "Time each", by: (route) => source(route).hold_seconds },
  p50: { head: "p50", by: (route) => source(route).hold_p50_seconds },
  p99: { head: "p99", by: (route) => source(route).hold_p99_seconds },
  tagged: { head: "Sessions", by: tagged },
};

let order = { column: "concurrency", up: false };

export function sort(column) {
  const up = COLUMNS[column].up ?? false;
  order = order.column === column ? { column, up: !order.up } : { column, up };
}

function tagged(route) {
  const told = route.targets.map((target) => target.tagged_connections).filter(known);
  return told.length > 0 ? told.reduce((a, b) => a + b, 0) : null;
}

export function render() {
  routes.want("/api/v1/routes");
  const data = routes.data;
  if (!data) return [h("h1", null, "Routes"), trouble(routes) ?? empty("Asking the daemon …")];
  const all = data.routes.filter((route) => passes(route.service, route.route, route.targets.map((target) => target.target)));
  const by = COLUMNS[order.column].by;
  const sign = order.up ? 1 : -1;
  all.sort((a, b) => {
    const [x, y] = [by(a) ?? -Infinity, by(b) ?? -Infinity];
    return (x < y ? -1 : x > y ? 1 : 0) * sign;
  });
  const most = Math.max(...data.routes.map((route) => route.concurrency), 1e-9);
  const shown = limit("routes", ROWS);
  return [
    h("h1", null, `Routes (${number(all.length)})`),
    trouble(routes),
    h(
      "p",
      { class: "quiet", "data-key": "words" },
      "“At a time” is requests running: the application's own gauge, or requests/s × time each. “Usual” is the half hour that ended two minutes ago.",
    ),
    all.length === 0
      ? empty(
          data.routes.length === 0
            ? "No application tells of its routes. [service.scrape] or [otlp] in the configuration lets them; route tags in statements are shown with an incident."
            : "No route has these words.",
        )
      : table("routes", Object.entries(COLUMNS).map(head), all.slice(0, shown).map((route) => row(route, most)), "Routes by requests at a time"),
    rest(Math.min(all.length, shown), all.length, "routes"),
    data.left_out > 0 ? h("p", { class: "quiet", "data-key": "left" }, `${number(data.left_out)} more have fewer requests at a time and are not told.`) : null,
  ];
}

function head([name, column]) {
  const sorted = order.column === name ? (order.up ? "ascending" : "descending") : null;
  return h(
    "th",
    { scope: "col", "aria-sort": sorted, class: name, "data-key": name },
    column.by ? h("button", { type: "button", "data-do": "sort", "data-sort": name }, column.head, sorted ? (order.up ? " ▲" : " ▼") : "") : column.head,
  );
}

function change(now, usual) {
  const value = ratio(now, usual);
  if (value === null) return h("span", { class: "quiet" }, "–");
  const level = value >= 2 ? "up" : value <= 0.5 ? "down" : "same";
  return h("span", { class: `change ${level}` }, level === "up" ? "▲ " : level === "down" ? "▼ " : "", times(value));
}

function row(route, most) {
  const told = source(route);
  const usual = told.usual ?? {};
  const key = `${route.service} ${route.route}`;
  const figure = (...children) => h("td", { class: "figure" }, children);
  return h(
    "tr",
    { "data-key": key, "data-row": key },
    h("th", { scope: "row" }, text(route.route, 90), h("div", { class: "quiet" }, text(route.service, 40), told.source ? `, ${cut(told.source, 20).replaceAll("_", " ")}` : "")),
    figure(number(route.concurrency), bar([["value", 0, route.concurrency / most]])),
    figure(change(route.concurrency, usual.concurrency)),
    h("td", { class: "trend" }, spark(route.trend ?? [], { label: `requests at a time of ${cut(route.route, 60)} in the last 30 minutes` })),
    figure(number(told.requests_per_second), " ", h("small", null, times(ratio(told.requests_per_second, usual.requests_per_second)) ?? "")),
    figure(seconds(told.hold_seconds), " ", h("small", null, times(ratio(told.hold_seconds, usual.hold_seconds)) ?? "")),
    figure(seconds(told.hold_p50_seconds)),
    figure(seconds(told.hold_p99_seconds)),
    figure(number(tagged(route))),
  );
}
