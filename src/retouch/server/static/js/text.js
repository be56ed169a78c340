/**
 * Letters as coverage. Text is the one thing that a canvas has to rasterise, so this is the one place that reads a
 * canvas: what is read is where ink lies, and it becomes paint like any other; no pixel of a picture passes here.
 * @import {Point, Rect} from './types.js'
 * @import {Tiles} from './tiles.js'
 */
import { TILE } from './tiles.js';

const FONT = '600 {size}px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';

/** Height of a line where text is typed, in sizes of the letters. */
const LINE = 1.25;

/** Covers letters where they are shown while they are typed, from a point on. @param {Tiles} cover @param {string} text @param {Point} at @param {number} size @returns {Rect | null} */
export function rasterise(cover, text, at, size) {
  const lines = text.split('\n');
  const font = FONT.replace('{size}', String(size));
  const measure = drawing(1, 1);
  measure.font = font;
  const width = Math.min(Math.ceil(Math.max(...lines.map((line) => measure.measureText(line).width))) + 4, cover.width);
  const height = Math.min(Math.ceil(LINE * size * lines.length) + 4, cover.height);
  const letters = drawing(width, height);
  letters.font = font;
  const { fontBoundingBoxAscent: above, fontBoundingBoxDescent: below } = measure.measureText('');
  lines.forEach((line, i) => letters.fillText(line, 2, 2 + LINE * size * (i + 0.5) + (above - below) / 2));
  const { data } = letters.getImageData(0, 0, width, height);
  /** @type {Rect} */
  const rect = [Math.round(at.x) - 2, Math.round(at.y) - 2, width, height];
  cover.each(rect, (part, number, x0, y0) => {
    const tile = cover.writable(number);
    for (let y = part[1]; y < part[1] + part[3]; y++) {
      for (let x = part[0]; x < part[0] + part[2]; x++) tile[(y - y0) * TILE + x - x0] = data[((y - rect[1]) * width + x - rect[0]) * 4 + 3];
    }
  });
  return rect;
}

/** @param {number} width @param {number} height */
const drawing = (width, height) => /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true }));
