/** From photos and drawings to the numbers that a network takes. */

import { Problem } from "awn/problem.js";

// Some phones give no larger canvas.
const LARGEST_CANVAS = 16e6;
// Of Pillow's arithmetic with 8-bit pixels.
const PRECISION_BITS = 22;

/**
 * Decodes a photo, turned as its EXIF tag says.
 * @param {Blob} file
 * @return {Promise<ImageData>} Its pixels; transparent ones are white.
 */
export async function decode(file) {
  let bitmap;
  try {
    // Colours as they are in the file, as awn_keras reads them.
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Problem(
      `“${file.name || "The photo"}” cannot be read: it is damaged, or of a kind that ` +
        "this browser does not know. JPEG, PNG and WebP work.",
    );
  }
  const pixels = grab(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return pixels;
}

/**
 * Takes the pixels of what can be drawn.
 * @param {CanvasImageSource} source
 * @param {number} width Its own.
 * @param {number} height
 * @return {ImageData}
 */
export function grab(source, width, height) {
  const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(width * scale));
  canvas.height = Math.max(1, Math.floor(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/**
 * Stretches a whole photo to a network's size, as Pillow does in awn_keras: bilinear,
 * over all pixels of the photo that lie in one of the result.
 * @param {ImageData} photo
 * @param {number} rows
 * @param {number} cols
 * @param {number} channels 3, or 1 for grey.
 * @return {Uint8Array} rows x cols x channels
 */
export function stretch(photo, rows, cols, channels) {
  let pixels = withChannels(photo.data, channels);
  pixels = resizeAxis(pixels, photo.height, photo.width, channels, cols);
  return resizeAxis(pixels, 1, photo.height, cols * channels, rows);
}

/** RGBA, opaque, to RGB or grey. */
function withChannels(rgba, channels) {
  const count = rgba.length / 4;
  const pixels = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    const red = rgba[4 * i];
    const green = rgba[4 * i + 1];
    const blue = rgba[4 * i + 2];
    if (channels === 1) {
      pixels[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    } else {
      pixels[3 * i] = red;
      pixels[3 * i + 1] = green;
      pixels[3 * i + 2] = blue;
    }
  }
  return pixels;
}

/** Resizes the middle axis of (outer, size, inner) pixels. */
function resizeAxis(pixels, outer, size, inner, wanted) {
  if (size === wanted) return pixels;
  const result = new Uint8Array(outer * wanted * inner);
  const scale = size / wanted;
  const reach = Math.max(scale, 1);
  for (let to = 0; to < wanted; to++) {
    const center = (to + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(size, Math.trunc(center + reach + 0.5));
    const weights = [];
    for (let from = first; from < last; from++) {
      weights.push(Math.max(0, 1 - Math.abs((from - center + 0.5) / reach)));
    }
    const sum = weights.reduce((a, b) => a + b);
    const whole = Int32Array.from(weights, (w) =>
      Math.trunc(0.5 + (w / sum) * (1 << PRECISION_BITS)),
    );
    for (let i = 0; i < outer; i++) {
      for (let k = 0; k < inner; k++) {
        let total = 1 << (PRECISION_BITS - 1);
        for (let j = 0; j < whole.length; j++) {
          total += pixels[(i * size + first + j) * inner + k] * whole[j];
        }
        result[(i * wanted + to) * inner + k] = Math.min(255, total >> PRECISION_BITS);
      }
    }
  }
  return result;
}

/**
 * Turns pixels into inputs.
 * @param {Uint8Array} pixels rows x cols x channels
 * @param {{dtype: string, channels: number, mean: number[], std: number[]}} input
 * @return {Uint8Array|Float32Array}
 */
export function toInput(pixels, { dtype, channels, mean, std }) {
  if (dtype === "uint8") return pixels;
  // In single precision, as awn_keras computes.
  const of = (values, i) => Math.fround(values[values.length > 1 ? i % channels : 0]);
  return Float32Array.from(pixels, (p, i) => Math.fround(p - of(mean, i)) / of(std, i));
}

/**
 * Draws lines as a network is used to see them: as large as the field, in its middle,
 * by a pen of one width.
 * @param {{x: number, y: number}[][]} lines In any unit.
 * @param {{rows: number, cols: number}} input
 * @param {{paper: number, ink: number, margin: number}} drawing What a pixel without
 *     ink and one full of it are worth, and how many pixels stay free on each side.
 * @return {Uint8Array} rows x cols
 */
export function drawn(lines, { rows, cols }, { paper, ink, margin }) {
  const fine = 8; // pixels of the canvas in one of the network's, along a side
  const canvas = document.createElement("canvas");
  canvas.width = cols * fine;
  canvas.height = rows * fine;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const points = lines.flat();
  if (points.length) {
    const room = Math.min(rows, cols) - 2 * margin;
    const pen = (room / 8) * 1.2; // as thick as in handwriting of eight pixels
    const [left, right] = ends(points.map((p) => p.x));
    const [top, bottom] = ends(points.map((p) => p.y));
    // A dot stays one.
    const extent = Math.max(right - left, bottom - top, 0.15);
    const scale = (room - pen) / extent;
    context.setTransform(fine, 0, 0, fine, canvas.width / 2, canvas.height / 2);
    trace(
      context,
      lines.map((line) =>
        line.map(({ x, y }) => ({
          x: (x - (left + right) / 2) * scale,
          y: (y - (top + bottom) / 2) * scale,
        })),
      ),
      pen,
    );
  }
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint8Array(rows * cols);
  for (let i = 0; i < pixels.length; i++) {
    let covered = 0;
    for (let k = 0; k < fine * fine; k++) {
      const row = Math.floor(i / cols) * fine + Math.floor(k / fine);
      const col = (i % cols) * fine + (k % fine);
      covered += data[4 * (row * canvas.width + col) + 3];
    }
    pixels[i] = Math.round(paper + ((ink - paper) * covered) / (255 * fine * fine));
  }
  return pixels;
}

/** Draws lines on a canvas; a line of one point is a dot. */
export function trace(context, lines, pen) {
  context.lineWidth = pen;
  context.lineCap = context.lineJoin = "round";
  for (const line of lines) {
    context.beginPath();
    context.moveTo(line[0].x, line[0].y);
    for (const { x, y } of line) context.lineTo(x, y);
    context.stroke();
  }
}

function ends(values) {
  return [Math.min(...values), Math.max(...values)];
}
