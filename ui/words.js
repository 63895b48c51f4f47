// Figures and names as a person on call reads them.

import { h } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A number; one decimal while it is small. */
export function number(value) {
  if (!known(value)) return "–";
  return Math.abs(value) < 10 ? tenth.format(value) : whole.format(value);
}

export const percent = (ratio) => (known(ratio) ? `${whole.format(ratio * 100)} %` : "–");

/** `0.4 ms`, `12 ms`, `2.5 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`. */
export function seconds(value) {
  if (!known(value)) return "–";
  const all = Math.max(0, value);
  if (all < 0.0995) return `${tenth.format(all * 1000)} ms`;
  if (all < 0.995) return `${whole.format(all * 1000)} ms`;
  if (all < 9.95) return `${tenth.format(all)} s`;
  return age(all);
}

/** The same in whole seconds, for what grows while it is looked at. */
export function age(value) {
  if (!known(value)) return "–";
  const all = Math.max(0, Math.round(value));
  if (all < 100) return `${all} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min ${all % 60} s`;
  if (all < 86400) return `${Math.floor(all / 3600)} h ${Math.floor((all % 3600) / 60)} min`;
  return `${Math.floor(all / 86400)} d ${Math.floor((all % 86400) / 3600)} h`;
}

/** `×3.2`; nothing without a ratio. */
export function times(value) {
  if (!known(value)) return null;
  return `×${value >= 99.5 ? whole.format(value) : tenth.format(value)}`;
}

const two = (value) => String(value).padStart(2, "0");

/** The time of day here; with the day when it is not today. */
export function clock(at) {
  const then = new Date(at * 1000);
  const time = `${two(then.getHours())}:${two(then.getMinutes())}:${two(then.getSeconds())}`;
  const today = new Date().toDateString() === then.toDateString();
  const day = `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())}`;
  return today ? time : `${day} ${time}`;
}

/** A moment: the time here, and in UTC for who points at it. */
export function moment(at) {
  if (!known(at)) return h("span", null, "–");
  const utc = new Date(at * 1000).toISOString();
  return h("time", { datetime: utc, title: `${utc.slice(0, 19).replace("T", " ")} UTC` }, clock(at));
}

/** What cannot be seen, or turns the order of what is beside it. */
const UNSEEN =
  // biome-ignore lint: control characters are what is looked for.
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** The text with everything unseen made visible. */
export function visible(value) {
  return String(value ?? "").replace(UNSEEN, (mark) => {
    if (mark === "\n" || mark === "\t" || mark === "\r") return " ";
    return `‹${mark.codePointAt(0).toString(16).padStart(4, "0").toUpperCase()}›`;
  });
}

/** At most so many characters. */
export function cut(value, limit) {
  const all = visible(value);
  if (all.length <= limit) return all;
  const characters = Array.from(all.slice(0, limit * 2));
  if (characters.length <= limit) return all;
  return `${characters.slice(0, limit - 1).join("")}…`;
}

/** A name or a statement from outside: cut, with all of it in the title, and
 *  never able to turn its surroundings around. */
export function text(value, limit = 80, properties = {}) {
  if (value === null || value === undefined || value === "") return h("span", { class: "quiet" }, "–");
  const short = cut(value, limit);
  const all = visible(value);
  return h("bdi", { ...properties, title: short === all ? null : all }, short);
}

/** `lock_pileup` as `lock pile-up`; an unknown word with spaces. */
const SPOKEN = {
  orphaned_advisory_lock: "orphaned advisory lock",
  try_lock_spin: "try-lock spin",
  lock_pileup: "lock pile-up",
  pool_deadlock: "pool deadlock",
  idle_in_transaction: "idle in transaction",
};

export const spoken = (word) =>
  Object.hasOwn(SPOKEN, word) ? SPOKEN[word] : cut(String(word ?? "").replaceAll("_", " "), 60);

export const plural = (count, noun, many = `${noun}s`) =>
  `${number(count)} ${count === 1 ? noun : many}`;
