// History: what was, and what is; one of them opens as it was.

import { h } from "./dom.js";
import { empty, limit, rest, severity, table, th, trouble } from "./parts.js";
import { Feed, passes, serverNow, state } from "./state.js";
import { age, cut, moment, number, percent, spoken, text } from "./words.js";

const ROWS = 100;

const incidents = new Feed(5_000);

export const limits = { history: [ROWS, 200] };

const chosen = { state: "all", kind: "all", target: "all" };

let told = 0;

export function choose(name, value) {
  chosen[name] = value;
}

export function render() {
  if (told !== state.changes) {
    told = state.changes;
    incidents.expire();
  }
  incidents.want("/api/v1/incidents");
  const data = incidents.data;
  if (!data) return [h("h1", null, "History"), trouble(incidents) ?? empty("Asking the daemon …")];
  const all = data.incidents.filter(
    (one) =>
      (chosen.state === "all" || (chosen.state === "open") === (one.resolved_at === null)) &&
      (chosen.kind === "all" || chosen.kind === one.kind) &&
      (chosen.target === "all" || chosen.target === one.target) &&
      passes(one.target, one.kind, spoken(one.kind), one.summary, one.cause, one.attribution.map((each) => each.route)),
  );
  all.sort((a, b) => b.opened_at - a.opened_at);
  const shown = limit("history", ROWS);
  return [
    h("h1", null, `History (${number(all.length)})`),
    trouble(incidents),
    h(
      "div",
      { class: "choices", "data-key": "choices" },
      select("state", "State", ["open", "over"]),
      select("kind", "Kind", unique(data.incidents.map((one) => one.kind)), spoken),
      select("target", "Server", unique(data.incidents.map((one) => one.target))),
    ),
    all.length === 0
      ? empty(data.incidents.length === 0 ? "Nothing has happened yet." : "Nothing like this has happened.")
      : table(
          "history",
          [th("State"), th("What"), th("Server"), th("Began"), th("Lasted"), th("In a sentence"), th("Named")],
          all.slice(0, shown).map(row),
          "Incidents, newest first",
        ),
    rest(Math.min(all.length, shown), all.length, "history"),
    h("p", { class: "quiet", "data-key": "older" }, "The newest 200 that are over are kept in memory; ", h("code", null, "snowpit incidents"), " lists all that the journal has."),
  ];
}

const unique = (values) => [...new Set(values)].sort();

function select(name, words, values, say = (value) => value) {
  return h(
    "label",
    { "data-key": name },
    `${words} `,
    h(
      "select",
      { "data-do": "choose", "data-choose": name },
      h("option", { value: "all" }, "all"),
      values.map((value) => h("option", { value, selected: chosen[name] === value, "data-key": value }, cut(say(value), 60))),
    ),
  );
}

function row(one) {
  const named = one.cause === "endpoint" ? one.attribution[0] : null;
  return h(
    "tr",
    { "data-key": one.id, "data-row": one.id },
    h("td", null, severity(one)),
    h("td", null, h("a", { href: `#/incident/${encodeURIComponent(one.id)}`, "data-enter": "" }, spoken(one.kind))),
    h("td", null, text(one.target, 40)),
    h("td", { class: "figure" }, moment(one.onset_at)),
    h("td", { class: "figure" }, age((one.resolved_at ?? serverNow()) - one.onset_at)),
    h("td", null, text(one.summary, 200)),
    h("td", null, named ? [text(named.route, 60), h("div", { class: "quiet" }, `${percent(named.share)}, confidence ${percent(named.confidence)}`)] : one.cause ? h("span", { class: "quiet" }, spoken(one.cause)) : h("span", { class: "quiet" }, "–")),
  );
}
