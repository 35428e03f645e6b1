// The trade-off plot: seconds (logarithmic) to the right, quality upwards. The dials are its axes: a dial's
// thumb stands where its line crosses the plot. All points are what the service measured or predicts.

import { $, element, hundredths, seconds, steps, svg } from "./words.js";

const PAD = 8; // half of a dial's thumb
const LEAST_S = 0.01; // what is quicker stands at the edge
const HUES = 6;
const TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600];
let low = 0.1, high = 10, isFitted = false;

/** Let the axis hold all points; returns whether it changed. It never narrows: dials do not jump. */
export function fit(points) {
  const times = points.map((p) => Math.max(p.total_s, LEAST_S));
  if (!times.length) return false;
  const from = Math.max(LEAST_S, Math.min(...times) / 1.6), to = Math.max(Math.max(...times) * 1.6, from * 20);
  const before = [low, high];
  [low, high] = isFitted ? [Math.min(low, from), Math.max(high, to)] : [from, to];
  isFitted = true;
  return low !== before[0] || high !== before[1];
}

export const secondsAt = (share) => low * (high / low) ** share;
export const shareOf = (s) => Math.min(1, Math.max(0, Math.log(Math.max(s, LEAST_S) / low) / Math.log(high / low)));

/** Points of which none is both sooner and better. */
function front(points) {
  let best = -1;
  return [...points].sort((a, b) => a.total_s - b.total_s || b.expected_quality - a.expected_quality)
    .filter((p) => p.expected_quality > best && ((best = p.expected_quality), true));
}

/** Draw the points, the Pareto front, the wishes (null: none) and the plan that is chosen. */
export function draw(points, plan, soon, good) {
  const plot = $("plot"), width = plot.clientWidth, height = plot.clientHeight;
  const x = (s) => PAD + shareOf(s) * (width - 2 * PAD), y = (q) => height - PAD - q * (height - 2 * PAD);
  const known = points.filter((p) => p.expected_quality !== undefined);
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  plot.replaceChildren(svg("rect", { class: "field", x: 0.5, y: 0.5, width: width - 1, height: height - 1, rx: 6 }));
  for (const tick of TICKS.filter((t) => t > low * 1.1 && t < high / 1.1)) {
    plot.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 1, y2: height - 1 }));
    plot.append(svg("text", { x: x(tick) + 3, y: height - 4 }, tick < 0.1 ? `${tick} s` : seconds(tick).replace(".0", "")));
  }
  for (const q of [0.25, 0.5, 0.75]) {
    plot.append(svg("line", { class: "grid", x1: 1, x2: width - 1, y1: y(q), y2: y(q) }));
    plot.append(svg("text", { x: 4, y: y(q) - 3 }, q * 100));
  }
  if (!known.length) plot.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No quality is measured for what is registered."));
  shade(plot, soon === null ? null : x(soon), good === null ? null : y(good), width, height);
  dots(plot, known, x, y);
  if (plan && plan.expected_quality !== undefined) {
    plot.append(svg("circle", { class: "chosen", cx: x(plan.prediction.total_s), cy: y(plan.expected_quality), r: 8 }));
  }
}

/** Shade what the wishes rule out: too late to the right, not good enough below. */
function shade(plot, late, poor, width, height) {
  if (late !== null) {
    plot.append(svg("rect", { class: "out", x: late, y: 1, width: Math.max(0, width - 1 - late), height: height - 2 }));
    plot.append(svg("line", { class: "wish", x1: late, x2: late, y1: 1, y2: height - 1 }));
  }
  if (poor !== null) {
    plot.append(svg("rect", { class: "out", x: 1, y: poor, width: width - 2, height: Math.max(0, height - 1 - poor) }));
    plot.append(svg("line", { class: "wish", x1: 1, x2: width - 1, y1: poor, y2: poor }));
  }
}

function dots(plot, known, x, y) {
  const names = [...new Set(known.map((p) => p.variant))].sort(), best = front(known);
  plot.append(svg("polyline", { class: "front", points: best.map((p) => `${x(p.total_s)},${y(p.expected_quality)}`).join(" ") }));
  for (const p of known) {
    const hue = `v${names.indexOf(p.variant) % HUES}`, isBest = best.includes(p);
    const dot = svg("circle", { class: `point ${hue}${isBest ? " best" : ""}`, cx: x(p.total_s), cy: y(p.expected_quality), r: isBest ? 5 : 3.5 });
    dot.append(svg("title", {}, `${p.variant}, ${steps(p.steps)}: ${seconds(p.total_s)}, quality ${hundredths(p.expected_quality)}`));
    plot.append(dot);
  }
  $("legend").replaceChildren(...names.map((name, i) => {
    const item = element("li");
    item.append(element("i", "●", { class: `v${i % HUES}`, "aria-hidden": "true" }), name);
    return item;
  }));
}

/** Call `wished(share of the time axis, share of the quality axis)` while the plot is dragged. */
export function draggable(wished) {
  const plot = $("plot");
  const at = (event) => {
    const box = plot.getBoundingClientRect(), part = (v, all) => Math.min(1, Math.max(0, (v - PAD) / (all - 2 * PAD)));
    wished(part(event.clientX - box.left, box.width), 1 - part(event.clientY - box.top, box.height));
  };
  plot.addEventListener("pointerdown", (event) => { plot.setPointerCapture(event.pointerId); at(event); });
  plot.addEventListener("pointermove", (event) => plot.hasPointerCapture(event.pointerId) && at(event));
}
