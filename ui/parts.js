// Pieces that several views show.

import { h, s } from "./dom.js";
import { Feed } from "./state.js";
import { cut, known, number, percent, spoken, text, times, visible } from "./words.js";

/** Shape and word beside the colour: not everybody sees colours alike. */
const SIGNS = { critical: "▲", warning: "◆", calm: "●", unknown: "○", resolved: "✓" };

export function sign(level, word = level) {
  return h("span", { class: `sign ${level}` }, h("i", { "aria-hidden": "true" }, SIGNS[level] ?? "○"), spoken(word));
}

/** The severity of an incident, or that it is over. */
export const severity = (incident) =>
  incident.resolved_at ? sign("resolved") : sign(Object.hasOwn(SIGNS, incident.severity) ? incident.severity : "unknown", incident.severity);

const status = new Feed(60_000);

/** The way to a runbook that this daemon has. */
export function runbook(name) {
  if (!status.data) status.want("/api/v1/status");
  if (!status.data?.runbooks?.includes(name)) return null;
  return h("a", { href: `/runbooks/${encodeURIComponent(name)}`, "data-key": "runbook" }, "Runbook");
}

/** What was copied last, and until when that is said. */
const copied = { words: null, done: false, until: 0 };

export function tellCopied(words, done) {
  Object.assign(copied, { words, done, until: Date.now() + 2_500 });
}

/** A command as it is to be typed, and a button that copies exactly that. */
export function command(action) {
  const told = copied.words === action && Date.now() < copied.until;
  return h(
    "div",
    { class: "command" },
    h("code", { title: action.length > 600 ? visible(action) : null }, h("bdi", null, cut(action, 600))),
    h(
      "button",
      { type: "button", class: told && copied.done ? "done" : null, "data-do": "copy", "data-copy": action, title: "Copy exactly this (c)" },
      told ? (copied.done ? "Copied" : "Copy it by hand") : "Copy",
    ),
  );
}

export const commands = (actions) =>
  actions.length === 0 ? null : h("div", { class: "commands" }, actions.map(command));

/** How many are left out, and a way to see more. */
export function rest(shown, all, key) {
  if (all <= shown) return null;
  return h(
    "p",
    { class: "rest", "data-key": `rest-${key}` },
    `${number(all - shown)} more are not shown. `,
    h("button", { type: "button", "data-do": "more", "data-more": key }, "Show more"),
    " Or filter ( / ).",
  );
}

const limits = new Map();

/** How many of a list are shown now. */
export const limit = (key, first) => limits.get(key) ?? first;

export const more = (key, first, step) => limits.set(key, limit(key, first) + step);

/** A horizontal bar of parts of a scale: `[class, from, to]` in 0 to 1. */
export function bar(parts, marks = [], label = null) {
  const x = (value) => (Math.min(Math.max(value, 0), 1) * 100).toFixed(2);
  return s(
    "svg",
    {
      class: "bar",
      viewBox: "0 0 100 10",
      preserveAspectRatio: "none",
      role: label ? "img" : null,
      "aria-label": label,
      "aria-hidden": label ? null : "true",
    },
    s("rect", { class: "ground", x: 0, y: 0, width: 100, height: 10 }),
    parts
      .filter(([, from, to]) => to > from)
      .map(([name, from, to]) => s("rect", { class: name, x: x(from), y: 0, width: (x(to) - x(from)).toFixed(2), height: 10 })),
    marks.map(([name, at]) => s("rect", { class: name, x: Math.min(x(at), 99.2), y: 0, width: 0.8, height: 10 })),
  );
}

/** Values over time, small: `[time, value]` or plain values; a gap is `null`. */
export function spark(values, { label, from = null, to = null, band = null } = {}) {
  const points = values.map((value, index) => (Array.isArray(value) ? value : [index, value]));
  const told = points.filter(([, value]) => known(value));
  if (told.length < 2) return h("span", { class: "spark quiet" }, "");
  const [first, last] = [from ?? points[0][0], to ?? points.at(-1)[0]];
  const top = Math.max(...told.map(([, value]) => value), band?.upper ?? 0, 1e-9) * 1.08;
  const x = (t) => (((t - first) / Math.max(last - first, 1e-9)) * 100).toFixed(2);
  const y = (value) => (24 - (value / top) * 24).toFixed(2);
  let path = "";
  let down = false;
  for (const [t, value] of points) {
    if (t < first) continue;
    if (!known(value)) {
      down = false;
      continue;
    }
    path += `${down ? "L" : "M"}${x(t)} ${y(value)}`;
    down = true;
  }
  return s(
    "svg",
    { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", role: "img", "aria-label": label },
    band ? s("rect", { class: "band", x: 0, width: 100, y: y(band.upper), height: (24 - y(band.upper)).toFixed(2) }) : null,
    s("path", { d: path, "vector-effect": "non-scaling-stroke" }),
  );
}

/** Who is behind a rise: a bar each, of the whole rise; requests and their time
 *  apart where that is told. */
export function culprits(incident) {
  const all = incident.attribution ?? [];
  if (all.length === 0) return null;
  const named = incident.cause === "endpoint";
  const rows = all.slice(0, 5).map((one, index) => {
    const total = one.share > 0 ? one.connections / one.share : 0;
    const part = (value) => (known(value) && total > 0 ? Math.max(value, 0) / total : 0);
    const [rate, hold] = [part(one.rate_part), part(one.hold_part)];
    const split = rate + hold > 0;
    const share = Math.max(one.share, 0);
    const scale = split && rate + hold > share ? share / (rate + hold) : 1;
    const parts = split
      ? [
          ["rate", 0, rate * scale],
          ["hold", rate * scale, (rate + hold) * scale],
          ["joint", (rate + hold) * scale, share],
        ]
      : [["share", 0, share]];
    const changes = [
      times(one.rate_change) && `requests ${times(one.rate_change)}`,
      times(one.hold_change) && `time each ${times(one.hold_change)}`,
      split && `${number(one.rate_part)} by requests, ${number(one.hold_part)} by time each`,
    ].filter(Boolean);
    return h(
      "li",
      { class: named && index === 0 ? "named" : null, "data-key": `${one.service} ${one.route}` },
      h(
        "div",
        { class: "who" },
        text(one.route, 90, { class: "route" }),
        text(one.service, 40, { class: "quiet" }),
        named && index === 0 ? h("span", { class: "tag" }, "named") : null,
      ),
      bar(parts, [], `${cut(one.route, 90)} explains ${percent(one.share)} of the rise`),
      h(
        "div",
        { class: "figures" },
        h("b", null, percent(one.share)),
        ` of the rise, ${number(one.connections)} sessions`,
        changes.length > 0 ? ` · ${changes.join(" · ")}` : null,
        h("span", { class: "confidence" }, ` · confidence ${percent(one.confidence)}`),
      ),
    );
  });
  const split = all.some((one) => known(one.rate_part) || known(one.hold_part));
  return h(
    "div",
    { class: "culprits" },
    h("ol", null, rows),
    h(
      "p",
      { class: "quiet legend" },
      split
        ? [
            h("i", { class: "rate", "aria-hidden": "true" }),
            "more requests ",
            h("i", { class: "hold", "aria-hidden": "true" }),
            "longer requests ",
            h("i", { class: "joint", "aria-hidden": "true" }),
            "not told apart ",
          ]
        : null,
      known(incident.unexplained_share) ? `${percent(incident.unexplained_share)} of the rise unexplained` : null,
    ),
  );
}

/** What went wrong with an answer of the API. */
export const trouble = (feed) =>
  feed.error ? h("p", { class: "trouble", "data-key": "trouble" }, `Not asked with success: ${cut(feed.error.message, 300)}`) : null;

/** A word instead of nothing. */
export const empty = (words) => h("p", { class: "quiet empty", "data-key": "empty" }, words);

/** A table in a box of its own that scrolls where it is too wide. */
export function table(name, columns, rows, caption) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, "data-key": `table-${name}` },
    h(
      "table",
      { class: name },
      h("caption", { class: "unseen" }, caption),
      h("thead", null, h("tr", null, columns)),
      h("tbody", null, rows),
    ),
  );
}

export const th = (words, properties = {}) => h("th", { scope: "col", ...properties }, words);
