// What the page knows, and who is told when it changes.

/** Everything that is shown comes from here. */
export const state = {
  /** The newest `now` event. */
  now: null,
  /** Its sessions in use and waiting by target: [time, value], oldest first. */
  recent: new Map(),
  /** `wait`, `live` or `stale`. */
  stream: "wait",
  /** When the newest event came, by the clock of this machine, milliseconds. */
  heardAt: null,
  /** The server's clock minus ours, seconds. */
  skew: 0,
  filter: "",
  /** Every change of an incident raises it. */
  changes: 0,
};

const listeners = new Set();
let asked = false;
let drawnAt = 0;
/** Milliseconds between two drawings: four times what one takes, so that a page
 *  with very much on it stays quick under the hand. */
let pause = 0;

export function onChange(listener) {
  listeners.add(listener);
}

/** Has the page drawn once, soon. */
export function changed() {
  if (asked) return;
  asked = true;
  const wait = drawnAt + pause - performance.now();
  if (wait > 0) setTimeout(() => requestAnimationFrame(draw), wait);
  else requestAnimationFrame(draw);
}

/** The same for what somebody did: without a pause. */
export function touched() {
  drawnAt = 0;
  if (asked) requestAnimationFrame(draw);
  else changed();
}

function draw() {
  if (!asked) return;
  asked = false;
  const began = performance.now();
  for (const listener of listeners) listener();
  drawnAt = performance.now();
  pause = Math.min((drawnAt - began) * 4, 2_000);
}

/** The same answer for the same data and filter is worked out once. */
export function once(work) {
  let last = null;
  let answer = null;
  return (...inputs) => {
    const now = [...inputs, state.filter];
    if (!last || now.some((each, at) => each !== last[at])) {
      answer = work(...inputs);
      last = now;
    }
    return answer;
  };
}

/** The time at the server, seconds. */
export const serverNow = () => Date.now() / 1000 + state.skew;

/** Seconds since `at`, at the server. */
export const since = (at) => serverNow() - at;

/** Whether what is looked at has the filter's words. */
export function passes(...values) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const all = values.flat().filter(Boolean).join(" ").toLowerCase();
  return words.every((word) => all.includes(word));
}

/** An answer of the API that is asked for again while somebody looks at it. */
export class Feed {
  constructor(gap) {
    this.gap = gap;
    this.key = null;
    this.data = null;
    this.error = null;
    this.askedAt = 0;
    this.busy = null;
  }

  /** Asks when the last answer is old, or was about something else. */
  want(url, key = url) {
    if (key !== this.key) {
      this.key = key;
      this.data = null;
      this.error = null;
      this.askedAt = 0;
      this.busy?.abort();
      this.busy = null;
    }
    if (this.busy || Date.now() - this.askedAt < this.gap) return;
    this.askedAt = Date.now();
    this.ask(url);
  }

  /** The next `want` asks at once. */
  expire() {
    this.askedAt = 0;
  }

  async ask(url) {
    const mine = new AbortController();
    this.busy = mine;
    try {
      const response = await fetch(url, { signal: mine.signal });
      const answer = await response.json();
      if (this.busy !== mine) return;
      if (response.ok) {
        this.data = answer;
        this.error = null;
      } else {
        this.error = { status: response.status, message: answer.error ?? response.statusText };
      }
    } catch {
      if (this.busy !== mine) return;
      this.error = { status: 0, message: "the daemon does not answer" };
    }
    this.busy = null;
    changed();
  }
}
