// Incident: one of them from ten minutes before it began.

import { COLOURS, draw } from "./chart.js";
import { h } from "./dom.js";
import { commands, culprits, empty, limit, rest, runbook, severity, trouble } from "./parts.js";
import { Feed, serverNow, state } from "./state.js";
import { age, clock, cut, known, moment, number, percent, spoken, text } from "./words.js";

/** Shown before the onset and after the end, seconds. */
const BEFORE = 600;
const AFTER = 300;
/** Points of a chart, about one a pixel of a phone. */
const POINTS = 400;
const CHANGES = 12;

const record = new Feed(1_500);
const changes = new Feed(5_000);
const newest = new Feed(10_000);

const SERIES = {
  in_use: ["snowpit_sessions_in_use", "max"],
  waiting: ["snowpit_clients_waiting", "max"],
  expected: ["snowpit_connections_expected", "last"],
  upper: ["snowpit_connections_upper", "last"],
  locks: ["snowpit_sessions_waiting_for_lock", "max"],
  routes: ["snowpit_route_connections", "mean"],
  untagged: ["snowpit_untagged_connections", "mean"],
};

const series = Object.fromEntries(Object.keys(SERIES).map((name) => [name, new Feed(5_000)]));

let told = 0;

/** The one that was asked for, or the one that matters most now. */
function which(id) {
  if (id) return id;
  const open = state.now?.incidents[0];
  if (open) return open.id;
  newest.want("/api/v1/incidents?limit=1");
  return newest.data?.incidents[0]?.id ?? null;
}

export function render(wanted) {
  const id = which(wanted);
  if (!id) {
    return [
      h("h1", null, "Incident"),
      trouble(newest),
      empty(newest.data ? "Nothing is open, and nothing was lately." : "Asking the daemon …"),
    ];
  }
  const path = `/api/v1/incidents/${encodeURIComponent(id)}`;
  if (told !== state.changes) {
    told = state.changes;
    record.expire();
    changes.expire();
  }
  record.want(path);
  const one = record.data;
  if (!one) return [h("h1", null, "Incident"), trouble(record) ?? empty("Asking the daemon …")];
  changes.want(`${path}/changes`);
  ask(one);
  return [
    h(
      "header",
      { class: `title ${one.resolved_at ? "resolved" : one.severity}`, "data-key": "title" },
      h("h1", null, severity(one), " ", spoken(one.kind), " ", text(one.target, 60, { class: "target" })),
      h("p", { class: "summary" }, text(one.summary, 1000)),
      times(one),
      h("p", null, runbook(one.runbook)),
    ),
    trouble(record),
    one.actions.length > 0 && !one.resolved_at
      ? h("section", { "data-key": "do", "data-row": "do" }, h("h2", null, "What to do"), commands(one.actions))
      : null,
    one.attribution.length > 0
      ? h("section", { "data-key": "who" }, h("h2", null, "Who is behind the rise"), culprits(one))
      : null,
    charts(one),
    one.evidence.length > 0
      ? h("section", { "data-key": "evidence" }, h("h2", null, "Evidence"), h("ul", { class: "evidence" }, one.evidence.map((each) => h("li", null, text(each, 1000)))))
      : null,
    subject(one),
    story(one),
    one.actions.length > 0 && one.resolved_at
      ? h("section", { "data-key": "did", "data-row": "did" }, h("h2", null, "What was advised"), commands(one.actions))
      : null,
    h("p", { class: "quiet", "data-key": "raw" }, "Record: ", h("a", { href: path }, text(id, 120))),
  ];
}

export const limits = { changes: [CHANGES, 40] };

function times(one) {
  const end = one.resolved_at ?? serverNow();
  const item = (name, ...value) => h("div", null, h("dt", null, name), h("dd", null, value));
  return h(
    "dl",
    { class: "times" },
    item("began", moment(one.onset_at)),
    item("told", moment(one.opened_at), h("span", { class: "quiet" }, ` ${age(one.opened_at - one.onset_at)} later`)),
    one.resolved_at ? item("over", moment(one.resolved_at)) : null,
    item(one.resolved_at ? "lasted" : "for", age(end - one.onset_at)),
    one.cause ? item("cause", spoken(one.cause)) : null,
    known(one.unexplained_share) ? item("unexplained", percent(one.unexplained_share)) : null,
  );
}

function subject(one) {
  const entries = Object.entries(one.subject ?? {}).map(([name, value]) => [name, plain(value)]).filter(([, value]) => value !== "");
  if (entries.length === 0) return null;
  return h(
    "section",
    { "data-key": "subject" },
    h("h2", null, "What exactly"),
    h(
      "dl",
      { class: "subject" },
      entries.slice(0, 40).map(([name, value]) =>
        h("div", { "data-key": name }, h("dt", null, spoken(name)), h("dd", null, text(value, 300))),
      ),
    ),
  );
}

/** A value of a record in words. */
function plain(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
  if (Array.isArray(value)) return value.map(plain).filter(Boolean).join("; ");
  if (typeof value !== "object") return String(value);
  if (value.mode && value.object) return `${value.mode} on ${value.object}`;
  return Object.entries(value).map(([name, each]) => `${spoken(name)} ${plain(each)}`).join(", ");
}

/** What changed the verdict over time. */
function story(one) {
  const all = changes.data?.changes ?? [];
  const shown = limit("changes", CHANGES);
  const rows = all.map((change, index) => ({ change, before: all[index - 1]?.incident })).reverse();
  return h(
    "section",
    { "data-key": "story" },
    h("h2", null, "What was said when"),
    changes.data && !changes.data.complete
      ? h("p", { class: "quiet" }, all.length > 0 ? "Its first changes are not in memory any more." : "Its changes are not in memory any more: snowpit was started again since.")
      : null,
    h(
      "ol",
      { class: "story" },
      rows.slice(0, shown).map(({ change, before }) =>
        h(
          "li",
          { "data-key": `${change.t} ${change.event}` },
          h("span", { class: "when" }, moment(change.t), h("span", { class: "quiet" }, ` +${age(change.t - one.onset_at)}`)),
          h("span", { class: `event ${change.event}` }, change.event),
          h("span", { class: "what" }, difference(change.incident, before)),
        ),
      ),
    ),
    rest(Math.min(rows.length, shown), rows.length, "changes"),
  );
}

/** In words, what a change changed. */
function difference(now, before) {
  if (!before) return text(now.summary, 300);
  const news = [];
  const first = (one) => (one.attribution[0] ? `${one.attribution[0].route} ${percent(one.attribution[0].share)}` : "nobody");
  if (now.severity !== before.severity) news.push(`severity ${before.severity} → ${now.severity}`);
  if (now.cause !== before.cause) news.push(`cause ${spoken(before.cause ?? "none")} → ${spoken(now.cause ?? "none")}`);
  if (first(now) !== first(before)) news.push(`first candidate ${cut(first(before), 80)} → ${cut(first(now), 80)}`);
  if (now.actions.join() !== before.actions.join()) news.push("the command changed");
  return [news.length > 0 ? h("span", { class: "news" }, `${news.join("; ")}. `) : null, text(now.summary, 300, { class: "quiet" })];
}

/** Asks for the past of the target around the incident. */
function ask(one) {
  const end = one.resolved_at ? Math.min(one.resolved_at + AFTER, serverNow()) : serverNow();
  const step = Math.max(1, Math.ceil((end - one.onset_at + BEFORE) / POINTS));
  const start = Math.floor((one.onset_at - BEFORE) / step) * step;
  for (const [name, [metric, aggregate]] of Object.entries(SERIES)) {
    // An incident that is over does not change: what was read stays true.
    if (one.resolved_at && series[name].data && series[name].key === `${one.id} ${name} over`) continue;
    const match = `${metric}{target=${JSON.stringify(one.target)}}`;
    const query = new URLSearchParams({ match, start, end: Math.ceil(end), step, aggregate });
    const over = one.resolved_at && serverNow() > one.resolved_at + AFTER ? "over" : "open";
    series[name].want(`/api/v1/series?${query}`, `${one.id} ${name} ${over}`);
  }
}

function charts(one) {
  if (Object.values(series).every((feed) => feed.error)) return trouble(series.in_use);
  const answer = series.in_use.data;
  if (!answer) return h("section", { "data-key": "charts", class: "charts" }, empty("Reading the history …"));
  const many = routes(times_of(answer)).length > 0;
  const locks = values(series.locks, times_of(answer)).some((value) => value > 0);
  const chart = (id, words, shown) =>
    shown
      ? h(
          "figure",
          { "data-key": id },
          h("figcaption", null, words),
          h("div", { id, class: "chart", "data-foreign": "", role: "img", "aria-label": `${words}: ${one.summary}`.slice(0, 300) }),
        )
      : null;
  return h(
    "section",
    { "data-key": "charts", class: "charts" },
    h("h2", null, "Course"),
    chart("chart-use", "Sessions in use and clients waiting, against what is normal", true),
    chart("chart-routes", "Sessions in use by route", many),
    chart("chart-locks", "Sessions waiting for a lock", locks),
  );
}

/** Every step of an answer, from the first that has a value. */
function times_of({ start, end, step, series: [first] }) {
  const from = first?.values[0]?.[0] ?? start;
  const count = Math.max(0, Math.floor((end - from) / step)) + 1;
  return Array.from({ length: Math.min(count, POINTS * 3) }, (_, at) => from + at * step);
}

/** The values of the first series of an answer at these times. */
function values(feed, times, found = feed.data?.series[0]) {
  const at = new Map(found?.values ?? []);
  return times.map((t) => at.get(t) ?? null);
}

/** Routes with most sessions at their height, then all others together. */
function routes(times) {
  const named = [
    ...(series.routes.data?.series ?? []).map((one) => [one.labels.route, one]),
    ...(series.untagged.data?.series ?? []).map((one) => [`${one.labels.application || one.labels.service || "unknown"}, no route tag`, one]),
  ].map(([label, one]) => ({ label, values: values(null, times, one) }));
  const height = (line) => Math.max(...line.values.map((value) => value ?? 0));
  named.sort((a, b) => height(b) - height(a));
  const top = named.slice(0, COLOURS - 1).filter((line) => height(line) > 0);
  const others = named.slice(COLOURS - 1);
  if (others.length > 0) {
    const sum = times.map((_, at) => {
      const told = others.map((line) => line.values[at]).filter(known);
      return told.length > 0 ? told.reduce((a, b) => a + b, 0) : null;
    });
    top.push({ label: `${others.length} others`, values: sum });
  }
  return top;
}

/** Draws the charts, once their places are on the page. */
export function drawn() {
  const one = record.data;
  const answer = series.in_use.data;
  if (!one || !answer) return;
  const times = times_of(answer);
  const marks = [
    { t: one.onset_at, label: `began ${clock(one.onset_at)}`, stroke: "--bad" },
    { t: one.opened_at, label: `told ${clock(one.opened_at)}`, stroke: "--text" },
  ];
  if (one.resolved_at) marks.push({ t: one.resolved_at, label: `over ${clock(one.resolved_at)}`, stroke: "--good" });
  const used = values(series.in_use, times);
  const waiting = values(series.waiting, times);
  const all = used.map((value, at) => (value === null ? null : value + (waiting[at] ?? 0)));
  draw("chart-use", {
    times,
    marks,
    lines: [
      { label: "in use and waiting", values: all, stroke: "--line-0", fill: "--area-0", width: 2 },
      { label: "normal up to", values: values(series.upper, times), stroke: "--line-2", dash: [6, 4] },
      { label: "expected", values: values(series.expected, times), stroke: "--line-1", dash: [2, 3] },
    ],
    bands: [{ from: 2, to: 3, fill: "--area-1" }],
  });
  const lines = routes(times);
  if (lines.length > 0) {
    draw("chart-routes", {
      times,
      marks,
      stacked: true,
      lines: lines.map((line, index) => ({ ...line, stroke: `--line-${index % COLOURS}`, fill: `--stack-${index % COLOURS}`, width: 1 })),
    });
  }
  const locks = values(series.locks, times);
  if (locks.some((value) => value > 0)) {
    draw("chart-locks", { times, marks, lines: [{ label: "waiting for a lock", values: locks, stroke: "--line-3", fill: "--area-3", width: 2 }] });
  }
}
