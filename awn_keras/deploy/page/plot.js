/** A small plot of milliseconds over multiply-accumulates, as SVG. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420;
const HEIGHT = 250;
const LEFT = 48;
const RIGHT = 20;
const TOP = 26;
const BOTTOM = 44;

/**
 * @param {{width: number, macs: number, ms: number, same: boolean}[]} rows
 * @param {function(number): string} count Writes a number of multiply-accumulates.
 * @return {SVGElement}
 */
export function plot(rows, count) {
  const known = rows.every((row) => row.macs);
  const x = scale(rows.map((row) => (known ? row.macs : row.width)), LEFT, WIDTH - RIGHT);
  const y = scale(rows.map((row) => row.ms), HEIGHT - BOTTOM, TOP);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", "Milliseconds over work; the table below has the numbers");
  for (const tick of y.ticks) {
    const at = y.at(tick);
    svg.append(element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at, class: "grid" }));
    svg.append(text(String(tick), LEFT - 6, at + 4, "end"));
  }
  for (const tick of x.ticks) {
    svg.append(text(known ? count(tick) : String(tick), x.at(tick), HEIGHT - BOTTOM + 17));
  }
  svg.append(text("ms", LEFT - 6, TOP - 12, "end"));
  svg.append(text(known ? "multiply-accumulates" : "width", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6));
  const points = rows.map((row) => [x.at(known ? row.macs : row.width), y.at(row.ms)]);
  svg.append(element("polyline", { points: points.join(" "), class: "curve" }));
  rows.forEach((row, i) => {
    const [cx, cy] = points[i];
    svg.append(element("circle", { cx, cy, r: 5.5, class: row.same ? "same" : "other" }));
    const [nextX, nextY] = points[i + 1] ?? [];
    // Beside a near one to the right there is room below only.
    const crowded = nextX - cx < 34 && cy - nextY < 24;
    svg.append(text(String(row.width), cx, cy + (crowded ? 19 : -11), "middle", "name"));
  });
  return svg;
}

/** From 0 to a round number above all values. */
function scale(values, from, to) {
  const largest = Math.max(...values) * 1.05 || 1;
  const power = 10 ** Math.floor(Math.log10(largest / 3));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => largest / s <= 4.5);
  const ticks = [];
  for (let i = 0; i * step <= largest; i++) ticks.push(Number((i * step).toPrecision(6)));
  return { ticks, at: (value) => from + ((to - from) * value) / largest };
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(content, x, y, anchor = "middle", kind = "tick") {
  const made = element("text", { x, y, "text-anchor": anchor, class: kind });
  made.textContent = content;
  return made;
}
