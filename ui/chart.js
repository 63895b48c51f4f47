// Charts of the past: lines, areas on each other, and marks at moments.

import { cut, number } from "./words.js";

const HEIGHT = 210;
/** Above the highest value, for the words of the marks. */
const ROOM = 1.4;
/** Enough to tell apart, in an order in which neighbours differ for everybody. */
export const COLOURS = 8;

let library = null;

/** The library is only loaded where a chart is looked at. */
function load() {
  library ??= import("./uplot.js").then((module) => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = "/ui/uplot.css";
    document.head.append(sheet);
    return module.default;
  });
  return library;
}

const drawn = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const two = (value) => String(value).padStart(2, "0");

function hour(t, whole) {
  const at = new Date(t * 1000);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return whole ? text : `${text}:${two(at.getSeconds())}`;
}

/** Draws into the element with this id.
 *  `times`: seconds. `lines`: `{label, values, stroke, fill, dash, width}` with
 *  names of colours. `stacked`: they stand on each other. `marks`: `{t, label}`. */
export async function draw(id, spec) {
  const uPlot = await load();
  const place = document.getElementById(id);
  if (!place) return;
  const shape = JSON.stringify([spec.lines.map((line) => [line.label, line.stroke, line.dash]), spec.stacked, themeNow()]);
  let known = drawn.get(id);
  if (known && (known.place !== place || known.shape !== shape)) {
    known.plot.destroy();
    known.watch.disconnect();
    drawn.delete(id);
    known = null;
  }
  const holder = known ?? { place, shape, marks: [], raw: [] };
  holder.marks = spec.marks ?? [];
  holder.raw = spec.lines.map((line) => line.values);
  const data = [spec.times, ...(spec.stacked ? stack(holder.raw) : holder.raw)];
  if (known) {
    known.plot.setData(data);
    return;
  }
  place.replaceChildren();
  holder.plot = new uPlot(options(spec, holder, place.clientWidth), data, place);
  holder.watch = new ResizeObserver(() => {
    if (place.clientWidth > 0) holder.plot.setSize({ width: place.clientWidth, height: HEIGHT });
  });
  holder.watch.observe(place);
  drawn.set(id, holder);
}

const themeNow = () =>
  document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");

/** The first stands on all others, so that each covers what is below it. Where
 *  none has a value there is none. */
function stack(all) {
  const nothing = all[0].map((_, at) => all.every((values) => values[at] === null));
  const sums = all.map((values) => values.map((value, at) => (nothing[at] ? null : (value ?? 0))));
  for (let line = sums.length - 2; line >= 0; line -= 1) {
    sums[line] = sums[line].map((value, at) => (value === null ? null : value + sums[line + 1][at]));
  }
  return sums;
}

function options(spec, holder, width) {
  const text = colour("--quiet");
  const grid = { stroke: colour("--line"), width: 1 };
  const font = "12px system-ui, sans-serif";
  return {
    width,
    height: HEIGHT,
    cursor: { sync: { key: "snowpit" }, points: { size: 5 } },
    legend: { live: true },
    scales: { y: { range: (plot, low, high) => [0, Math.max(high, 1) * ROOM] } },
    axes: [
      {
        stroke: text,
        grid,
        ticks: grid,
        font,
        space: 90,
        values: (plot, splits) => splits.map((t) => hour(t, splits.every((each) => each % 60 === 0))),
      },
      { stroke: text, grid, ticks: grid, font, size: 56, values: (plot, splits) => splits.map(number) },
    ],
    series: [
      { label: "Time", value: (plot, t) => (t === null ? "" : hour(t)) },
      ...spec.lines.map((line, index) => ({
        label: cut(line.label, 60),
        stroke: colour(line.stroke),
        fill: line.fill ? colour(line.fill) : undefined,
        width: line.width ?? 1.5,
        dash: line.dash,
        points: { show: false },
        value: (plot, value, series, at) => number(at === null ? (holder.raw[index].findLast((each) => each !== null) ?? null) : holder.raw[index][at]),
      })),
    ],
    bands: spec.bands?.map(({ from, to, fill }) => ({ series: [from, to], fill: colour(fill) })),
    hooks: { draw: [(plot) => mark(plot, holder.marks)] },
  };
}

/** Lines down at moments, with a word each. */
function mark(plot, marks) {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  ctx.lineWidth = 1.5 * scale;
  marks.forEach(({ t, label, stroke }, row) => {
    if (t < plot.scales.x.min || t > plot.scales.x.max) return;
    const x = plot.valToPos(t, "x", true);
    ctx.strokeStyle = colour(stroke);
    ctx.setLineDash([4 * scale, 3 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const width = ctx.measureText(label).width;
    const left = x + width + 10 * scale > bbox.left + bbox.width ? x - width - 6 * scale : x + 5 * scale;
    const top = bbox.top + (2 + row * 15) * scale;
    ctx.fillStyle = colour(stroke);
    ctx.fillText(label, left, top + 12 * scale);
  });
  ctx.restore();
}
