/** Rectangles `[left, top, width, height]`, in whole pixels. An empty one is null. @import {Rect, Point} from './types.js' */

/**
 * The smallest rectangle that holds both.
 * @param {Rect | null} a @param {Rect | null} b @returns {Rect | null}
 */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const left = Math.min(a[0], b[0]);
  const top = Math.min(a[1], b[1]);
  const right = Math.max(a[0] + a[2], b[0] + b[2]);
  return [left, top, right - left, Math.max(a[1] + a[3], b[1] + b[3]) - top];
}

/**
 * What both hold.
 * @param {Rect | null} a @param {Rect | null} b @returns {Rect | null}
 */
export function intersect(a, b) {
  if (!a || !b) return null;
  const left = Math.max(a[0], b[0]);
  const top = Math.max(a[1], b[1]);
  const width = Math.min(a[0] + a[2], b[0] + b[2]) - left;
  const height = Math.min(a[1] + a[3], b[1] + b[3]) - top;
  return width > 0 && height > 0 ? [left, top, width, height] : null;
}

/** The middle of a rectangle, a part of it in each direction. @param {Rect} rect @param {number} part @returns {Rect} */
export function middle([left, top, width, height], part) {
  const [inner, lower] = [Math.max(Math.round(width * part), 1), Math.max(Math.round(height * part), 1)];
  return [left + ((width - inner) >> 1), top + ((height - lower) >> 1), inner, lower];
}

/**
 * Whole pixels around points, `margin` to each side.
 * @param {Iterable<Point>} points @param {number} margin @returns {Rect | null}
 */
export function around(points, margin = 0) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const { x, y } of points) {
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x);
    bottom = Math.max(bottom, y);
  }
  if (left > right) return null;
  left = Math.floor(left - margin);
  top = Math.floor(top - margin);
  return [left, top, Math.ceil(right + margin) - left + 1, Math.ceil(bottom + margin) - top + 1];
}
