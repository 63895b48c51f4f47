// Locks: who waits for whom, and which advisory lock is held by whom.

import { h } from "./dom.js";
import { command, empty, limit, rest, sign, table, th, trouble } from "./parts.js";
import { Feed, once, passes, since, state } from "./state.js";
import { age, cut, known, number, plural, text } from "./words.js";

const ROOTS = 12;
const NODES = 30;
const LOCKS = 60;

const locks = new Feed(2_000);
const advisory = new Feed(2_000);

export const limits = { roots: [ROOTS, 40], locks: [LOCKS, 200] };

/** What needs somebody first. */
const ORDER = ["orphaned", "stranded", "carried", "suspect", "prepared", "unknown", "owned"];
const LEVEL = {
  orphaned: "critical",
  stranded: "critical",
  carried: "warning",
  suspect: "warning",
  prepared: "warning",
  unknown: "unknown",
  owned: "calm",
};

export function render() {
  locks.want("/api/v1/locks");
  advisory.want("/api/v1/advisory-locks");
  if (!locks.data && !advisory.data) {
    return [h("h1", null, "Locks"), trouble(locks) ?? empty("Asking the daemon …")];
  }
  return [h("h1", null, "Locks"), trouble(locks) ?? trouble(advisory), trees(), advisories()];
}

/** Seconds that have passed since the look. */
const grown = (target) => (target.fresh ? Math.max(0, since(target.at)) : 0);

const plus = (value, target) => (known(value) ? value + grown(target) : null);

const roots = once((data) =>
  (data?.targets ?? [])
    .flatMap((target) => target.root_blockers.map((root) => ({ target, root })))
    .filter(({ target, root }) =>
      passes(target.name, root.database, root.user, root.application, root.client, String(root.pid), root.state, root.query, root.prepared),
    )
    .sort((a, b) => b.root.waiters - a.root.waiters || (b.root.longest_wait_seconds ?? 0) - (a.root.longest_wait_seconds ?? 0)),
);

function trees() {
  const all = roots(locks.data);
  const blind = (locks.data?.targets ?? []).filter((target) => !target.fresh);
  const shown = limit("roots", ROOTS);
  return h(
    "section",
    { "data-key": "trees" },
    h("h2", null, `Who blocks whom (${number(all.length)})`),
    blind.length > 0 ? h("p", { class: "trouble" }, `Out of sight, as last seen: ${cut(blind.map((target) => target.name).join(", "), 200)}`) : null,
    all.length === 0 ? empty(state.filter ? "No session with these words is in anybody's way." : "Nobody is in anybody's way.") : null,
    all.slice(0, shown).map(({ target, root }) => tree(target, root)),
    rest(Math.min(all.length, shown), all.length, "roots"),
  );
}

function tree(target, root) {
  const key = `${target.name} ${root.pid ?? root.prepared}`;
  const name = `tree ${key}`;
  limits[name] ??= [NODES, 100];
  const budget = { left: limit(name, NODES) };
  return h(
    "article",
    { class: "blocker", "data-key": key, "data-row": key },
    h(
      "header",
      null,
      h("b", { class: "count" }, number(root.waiters)),
      h("span", null, root.waiters === 1 ? "waiter" : "waiters", h("span", { class: "quiet" }, `, ${number(root.direct_waiters)} directly; longest ${age(plus(root.longest_wait_seconds, target))}`)),
      text(target.name, 40, { class: "target" }),
    ),
    h(
      "div",
      { class: "session root" },
      h(
        "p",
        null,
        h("b", null, root.pid === null ? "prepared transaction " : `pid ${root.pid} `),
        root.prepared ? text(root.prepared, 80) : null,
        who(root),
        root.state ? h("span", { class: "state" }, text(root.state, 40), ` ${age(plus(root.state_seconds, target))}`) : null,
        known(root.transaction_seconds) ? h("span", { class: "quiet" }, `transaction ${age(plus(root.transaction_seconds, target))}`) : null,
      ),
      root.query ? h("code", { class: "query" }, text(root.query, 300)) : null,
      root.holds.length > 0 ? h("p", { class: "quiet holds" }, "holds ", root.holds.slice(0, 4).map((held, index) => [index > 0 ? ", " : "", object(held)]), root.holds.length > 4 ? ` and ${number(root.holds.length - 4)} more` : "") : null,
      root.action ? command(root.action) : null,
    ),
    branch(root.tree, target, budget),
    budget.left < 0 ? rest(limit(name, NODES), limit(name, NODES) - budget.left, name) : null,
  );
}

function branch(nodes, target, budget) {
  if (nodes.length === 0) return null;
  const items = [];
  for (const node of nodes) {
    budget.left -= 1;
    if (budget.left < 0) {
      count(node.tree, budget);
      continue;
    }
    items.push(
      h(
        "li",
        { "data-key": String(node.pid) },
        h(
          "div",
          { class: "session" },
          h(
            "p",
            null,
            h("b", null, `pid ${node.pid} `),
            who(node),
            h("span", { class: "state" }, `waits ${age(plus(node.wait_seconds, target))}`),
            h("span", { class: "quiet" }, node.queued ? "in the queue for " : "for ", object(node.waits_for), node.order_assumed ? ", order not certain" : ""),
          ),
          node.query ? h("code", { class: "query" }, text(node.query, 200)) : null,
        ),
        branch(node.tree, target, budget),
      ),
    );
  }
  return items.length > 0 ? h("ul", { class: "tree" }, items) : null;
}

function count(nodes, budget) {
  for (const node of nodes) {
    budget.left -= 1;
    count(node.tree, budget);
  }
}

const object = (held) => [h("span", null, `${cut(held.mode, 40)} on `), text(held.object || held.locktype, 80)];

function who(one) {
  const place = [one.database, one.user].filter(Boolean).join("/");
  return h(
    "span",
    { class: "who" },
    place ? text(place, 60) : null,
    one.application ? text(one.application, 60, { class: "application" }) : null,
    one.client ? text(one.client, 45, { class: "quiet" }) : null,
  );
}

const held = once((data) =>
  (data?.targets ?? [])
    .flatMap((target) => target.advisory_locks.map((lock) => ({ target, lock })))
    .filter(({ target, lock }) =>
      passes(target.name, lock.database, lock.key, lock.names, lock.verdict, lock.last_application, lock.pooler, lock.reason),
    )
    .sort(
      (a, b) =>
        ORDER.indexOf(a.lock.verdict) - ORDER.indexOf(b.lock.verdict) ||
        b.lock.waiters + b.lock.spinners - a.lock.waiters - a.lock.spinners ||
        b.lock.age_seconds - a.lock.age_seconds,
    ),
);

function advisories() {
  const all = held(advisory.data);
  const shown = limit("locks", LOCKS);
  const lost = all.filter(({ lock }) => lock.verdict === "orphaned" || lock.verdict === "stranded").length;
  return h(
    "section",
    { "data-key": "advisory" },
    h("h2", null, `Advisory locks (${number(all.length)})`),
    lost > 0 ? h("p", { class: "trouble" }, `${plural(lost, "lock")} held by nobody who could give it back.`) : null,
    all.length === 0
      ? empty(state.filter ? "No advisory lock has these words." : "No advisory lock is held.")
      : table(
          "advisory",
          [th("Verdict"), th("Key"), th("Database"), th("Held by"), th("Age"), th("Waiting"), th("Trying"), th("What frees it")],
          all.slice(0, shown).map(({ target, lock }) => row(target, lock)),
          "Advisory locks with their verdicts",
        ),
    rest(Math.min(all.length, shown), all.length, "locks"),
  );
}

function row(target, lock) {
  const key = `${target.name} ${lock.database} ${lock.key} ${lock.pid ?? lock.prepared} ${lock.mode}`;
  return h(
    "tr",
    { "data-key": key, "data-row": key, class: LEVEL[lock.verdict] ?? "unknown" },
    h("td", null, sign(LEVEL[lock.verdict] ?? "unknown", lock.verdict), h("div", { class: "reason quiet" }, text(lock.reason, 200))),
    h("td", null, h("code", null, text(lock.key, 40)), lock.names.length > 0 ? h("div", { class: "quiet" }, text(lock.names.join(", "), 80)) : null),
    h("td", null, text(lock.database, 40), h("div", { class: "quiet" }, text(target.name, 40))),
    h(
      "td",
      null,
      lock.pid === null ? text(lock.prepared, 60) : `pid ${lock.pid}`,
      lock.last_application ? h("div", { class: "quiet" }, "last used by ", text(lock.last_application, 40)) : null,
      lock.pooler ? h("div", { class: "quiet" }, text(lock.pooler, 30), lock.pool ? `, ${cut(lock.pool.pool_mode, 20)}` : "") : null,
    ),
    h("td", { class: "figure" }, age(plus(lock.age_seconds, target))),
    h("td", { class: "figure" }, number(lock.waiters)),
    h("td", { class: "figure" }, number(lock.spinners)),
    h("td", null, lock.action ? command(lock.action) : h("span", { class: "quiet" }, lock.allowed ? "allowed" : "nothing to do")),
  );
}
