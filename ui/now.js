// Now: what is wrong, and how each server is.

import { h } from "./dom.js";
import { bar, commands, culprits, empty, limit, rest, runbook, severity, sign, spark } from "./parts.js";
import { Feed, passes, serverNow, since, state } from "./state.js";
import { age, cut, known, moment, number, plural, seconds, spoken, text } from "./words.js";

const CARDS = 60;
const OPEN = 20;
/** The small charts begin with this much of the past, seconds. */
const PAST = 900;

const past = { in_use: new Feed(120_000), waiting: new Feed(120_000) };
let began = null;

export function render() {
  const now = state.now;
  if (!now) return [empty("Asking the daemon …")];
  remember(now);
  const incidents = now.incidents.filter((one) => passes(one.target, one.kind, spoken(one.kind), one.summary));
  const targets = [...now.targets].filter((one) => passes(one.name)).sort(byTrouble(now));
  return [
    h("h1", { class: "unseen" }, "Now"),
    verdictOfAll(now),
    incidents.length > 0
      ? h(
          "section",
          { class: "incidents", "aria-label": "Open incidents", "data-key": "open" },
          incidents.slice(0, limit("open", OPEN)).map(card),
          rest(Math.min(incidents.length, limit("open", OPEN)), incidents.length + now.open_incidents - now.incidents.length, "open"),
        )
      : null,
    down(now),
    h(
      "section",
      { class: "targets", "aria-label": "Servers", "data-key": "targets" },
      targets.slice(0, limit("targets", CARDS)).map(target),
      targets.length === 0 ? empty("No server has these words in its name.") : null,
    ),
    rest(Math.min(targets.length, limit("targets", CARDS)), targets.length, "targets"),
  ];
}

export const limits = { open: [OPEN, 20], targets: [CARDS, 60] };

function verdictOfAll(now) {
  const critical = now.incidents.filter((one) => one.severity === "critical").length;
  const blind = now.targets.filter((one) => !one.fresh).length;
  if (now.open_incidents > 0) {
    return h(
      "p",
      { class: "verdict", "data-key": "verdict" },
      sign(critical > 0 ? "critical" : "warning", `${plural(now.open_incidents, "incident")} open`),
      critical > 0 ? h("span", { class: "quiet" }, `${number(critical)} critical`) : null,
    );
  }
  return h(
    "p",
    { class: "verdict", "data-key": "verdict" },
    blind > 0 ? sign("unknown", "no incident known") : sign("calm", "all is calm"),
    h(
      "span",
      { class: "quiet" },
      blind > 0
        ? `${plural(blind, "server")} of ${number(now.targets.length)} cannot be seen`
        : `${plural(now.targets.length, "server")}, nothing open`,
    ),
  );
}

function down(now) {
  if (now.sources_down === 0) return null;
  return h(
    "details",
    { class: "down", "data-key": "down" },
    h("summary", null, `${plural(now.sources_down, "source")} of ${number(now.sources)} without an answer`),
    h(
      "ul",
      null,
      now.down.map((one) =>
        h("li", null, `${one.source} `, text(one.name, 60), " ", text(one.last_error, 200, { class: "quiet" })),
      ),
    ),
  );
}

/** An open incident: the sentence, who, since when, what to do. */
function card(incident) {
  return h(
    "article",
    { class: `incident ${incident.severity}`, "data-key": incident.id, "data-row": incident.id },
    h(
      "header",
      null,
      severity(incident),
      h("h2", null, h("a", { href: `#/incident/${encodeURIComponent(incident.id)}`, "data-enter": "" }, spoken(incident.kind))),
      text(incident.target, 40, { class: "target" }),
      incident.cause ? h("span", { class: "tag" }, `cause: ${spoken(incident.cause)}`) : null,
      runbook(incident.runbook),
      h("span", { class: "since" }, `for ${age(since(incident.onset_at))}, since `, moment(incident.onset_at)),
    ),
    h("p", { class: "summary" }, text(incident.summary, 400)),
    culprits(incident),
    commands(incident.actions),
  );
}

function wordOf(target, now) {
  const open = now.incidents.filter((one) => one.target === target.name);
  if (!target.fresh) return ["unknown", target.at === null ? "not seen yet" : "out of sight"];
  if (open.some((one) => one.severity === "critical")) return ["critical", "incident"];
  if (open.length > 0 || target.open_incidents.length > 0) return ["warning", "warning"];
  if (target.upper === null) return ["unknown", "learning"];
  return ["calm", "calm"];
}

const RANK = { critical: 0, warning: 1, unknown: 2, calm: 3 };

const byTrouble = (now) => (a, b) =>
  RANK[wordOf(a, now)[0]] - RANK[wordOf(b, now)[0]] || (a.name < b.name ? -1 : 1);

function target(one) {
  const [level, word] = wordOf(one, state.now);
  return h(
    "article",
    { class: `card ${level}`, "data-key": one.name, "data-row": `target ${one.name}` },
    h(
      "header",
      null,
      h("h2", null, text(one.name, 40)),
      one.in_recovery ? h("span", { class: "tag" }, "standby") : null,
      sign(level, word),
    ),
    one.error ? h("p", { class: "trouble" }, text(one.error, 160)) : null,
    one.at !== null && !one.fresh ? h("p", { class: "quiet" }, `last seen ${age(since(one.at))} ago; the figures are of then`) : null,
    one.at === null ? null : figures(one),
  );
}

function figures(one) {
  return [use(one), sessions(one), waits(one), pools(one)];
}

/** The watched quantity against what is normal for it. */
function use(one) {
  if (one.in_use === null) return h("p", { class: "quiet" }, "this role cannot see what sessions do");
  const value = one.in_use + (one.clients_waiting ?? 0);
  const band = known(one.upper);
  const scale = Math.max(value, (one.upper ?? 0) * 1.4, 8) * 1.05;
  const over = band && value > one.upper;
  const parts = [];
  if (band) parts.push(["band", 0, one.upper / scale]);
  parts.push([over ? "value over" : "value", 0, value / scale]);
  return h(
    "div",
    { class: "figure" },
    h(
      "p",
      null,
      h("span", null, "In use and waiting"),
      h(
        "span",
        null,
        h("b", null, number(value)),
        band ? h("span", { class: "quiet" }, ` expected ${number(one.expected)}, up to ${number(one.upper)}`) : h("span", { class: "quiet" }, " learning what is normal"),
      ),
    ),
    // Without a normal there is nothing to hold it against.
    band ? bar(parts, [["tick", one.expected / scale]]) : null,
    small(one),
  );
}

function small(one) {
  const values = [...before(one), ...(state.recent.get(one.name) ?? [])];
  const to = one.at;
  // A daemon that is young has less to show.
  const from = Math.min(Math.max(to - PAST, values[0]?.[0] ?? 0), to - 60);
  return spark(
    values.filter(([t]) => t >= from),
    {
      from,
      to,
      label: `sessions in use and waiting, the last ${age(to - from)}; now ${number(one.in_use)}`,
      band: known(one.upper) ? { upper: one.upper } : null,
    },
  );
}

/** All sessions against the limit of the server. */
function sessions(one) {
  const room = known(one.max_connections) ? one.max_connections - (one.reserved_connections ?? 0) : null;
  const scale = one.max_connections ?? Math.max(one.connections, 1);
  const part = (state) => (one.states[state] ?? 0) / scale;
  const active = part("active");
  const open = part("idle in transaction") + part("idle in transaction (aborted)");
  const near = room !== null && one.connections >= 0.85 * room;
  return h(
    "div",
    { class: "figure" },
    h(
      "p",
      null,
      h("span", null, "Sessions"),
      h(
        "span",
        null,
        h("b", { class: near ? "near" : null }, number(one.connections)),
        h("span", { class: "quiet" }, room === null ? "" : ` of ${number(room)}`),
      ),
    ),
    bar(
      [
        ["all", 0, one.connections / scale],
        ["active", 0, active],
        ["open", active, active + open],
      ],
      room === null ? [] : [["tick", room / scale]],
      `${number(one.connections)} sessions, ${number(one.states.active ?? 0)} active`,
    ),
    h(
      "p",
      { class: "quiet states" },
      h("i", { class: "active", "aria-hidden": "true" }),
      `${number(one.states.active ?? 0)} active `,
      h("i", { class: "open", "aria-hidden": "true" }),
      `${number((one.states["idle in transaction"] ?? 0) + (one.states["idle in transaction (aborted)"] ?? 0))} idle in transaction `,
      h("i", { class: "all", "aria-hidden": "true" }),
      `${number(one.states.idle ?? 0)} idle`,
    ),
  );
}

function waits(one) {
  const { waiters, longest_wait_seconds: longest, advisory } = one.locks;
  const lost = (advisory.orphaned ?? 0) + (advisory.stranded ?? 0);
  return h(
    "p",
    { class: "waits" },
    h("span", { class: waiters > 0 ? "some" : "quiet" }, waiters > 0 ? `${number(waiters)} wait for locks, longest ${seconds(longest)}` : "nobody waits for locks"),
    lost > 0 ? h("span", { class: "some" }, `${plural(lost, "advisory lock")} nobody owns`) : null,
    known(one.clients_waiting)
      ? h("span", { class: one.clients_waiting > 0 ? "some" : "quiet" }, one.clients_waiting > 0 ? `${plural(one.clients_waiting, "client")} wait in poolers` : "nobody waits in poolers")
      : null,
  );
}

function pools(one) {
  if (one.pools.length === 0) return null;
  const worst = one.pools[0];
  const all = one.pools.length + one.pools_left_out;
  return h(
    "details",
    { class: "pools", "data-key": "pools" },
    h(
      "summary",
      null,
      `${plural(all, "pool")}: `,
      h("span", { class: "quiet" }, `busiest ${cut(`${worst.database}/${worst.user}`, 30)} ${number(worst.servers_active)} of ${worst.size ?? "?"} busy`),
    ),
    h(
      "ul",
      null,
      one.pools.map((pool) =>
        h(
          "li",
          { "data-key": `${pool.pooler} ${pool.database} ${pool.user}` },
          text(`${pool.database}/${pool.user}`, 40),
          h(
            "span",
            { class: "quiet" },
            ` ${cut(pool.pooler, 30)}, ${pool.mode}: ${number(pool.servers_active)} of ${pool.size ?? "?"} busy, ${number(pool.servers_idle)} free, ${number(pool.clients_waiting)} waiting`,
            pool.max_wait_seconds > 0 ? `, longest ${seconds(pool.max_wait_seconds)}` : "",
            pool.paused ? ", paused" : "",
            pool.fresh ? "" : ", out of sight",
          ),
        ),
      ),
      one.pools_left_out > 0 ? h("li", { class: "quiet" }, `${number(one.pools_left_out)} more`) : null,
    ),
  );
}

/** Asks once for the time before this page was opened. */
function remember(now) {
  began ??= now.at;
  const query = (name) =>
    `/api/v1/series?match=${name}&start=${Math.floor(began - PAST)}&end=${Math.ceil(began)}&step=10&aggregate=mean`;
  for (const [feed, name] of [
    [past.in_use, "snowpit_sessions_in_use"],
    [past.waiting, "snowpit_clients_waiting"],
  ]) {
    if (!feed.data && !(feed.error?.status >= 400)) feed.want(query(name));
  }
}

/** The sum of both, by time. */
function before(one) {
  const of = (feed) => feed.data?.series.find((each) => each.labels.target === one.name)?.values ?? [];
  const first = state.recent.get(one.name)?.[0]?.[0] ?? serverNow();
  const waiting = new Map(of(past.waiting));
  return of(past.in_use)
    .filter(([t]) => t < first)
    .map(([t, value]) => [t, value + (waiting.get(t) ?? 0)]);
}
