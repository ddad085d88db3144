/** A field to draw on, by mouse, finger or keyboard. */

import { trace } from "awn/pixels.js";

const PEN = 0.09; // of the field's side
const STEP = 0.04;

export class DrawingField {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {function()} changed Called after each change.
   */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    /** Lines of points in 0..1. */
    this.lines = [];
    // Of the keyboard's pen, which is shown once a key was pressed.
    this.pen = { x: 0.5, y: 0.5, down: false, shown: false };
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => {
      this.pen.shown = this.pen.down = false;
      this.paint();
    });
    new ResizeObserver(() => this.paint()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  clear() {
    this.lines = [];
    this.pen.down = false;
    this.paint();
    this.changed();
  }

  begin(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pen.shown = this.pen.down = false;
    this.lines.push([this.place(event)]);
    this.paint();
    this.changed();
  }

  move(event) {
    if (!this.canvas.hasPointerCapture(event.pointerId)) return;
    this.lines.at(-1).push(this.place(event));
    this.paint();
    this.changed();
  }

  press(event) {
    const [dx, dy] =
      { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ??
      [];
    if (event.key !== " " && dx === undefined) return;
    event.preventDefault();
    const pen = this.pen;
    pen.shown = true;
    if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.lines.push([{ x: pen.x, y: pen.y }]);
    } else {
      pen.x = Math.min(1, Math.max(0, pen.x + dx * STEP));
      pen.y = Math.min(1, Math.max(0, pen.y + dy * STEP));
      if (pen.down) this.lines.at(-1).push({ x: pen.x, y: pen.y });
    }
    this.paint();
    if (pen.down) this.changed();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width,
      y: (event.clientY - box.top) / box.height,
    };
  }

  paint() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio) || 1;
    this.canvas.width = this.canvas.height = side; // which also empties it
    const context = this.canvas.getContext("2d");
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.scale(side, side);
    trace(context, this.lines, PEN);
    if (this.pen.shown) {
      context.lineWidth = 0.008;
      context.beginPath();
      context.arc(this.pen.x, this.pen.y, this.pen.down ? PEN / 2 : PEN / 1.5, 0, 7);
      context.stroke();
    }
  }
}
