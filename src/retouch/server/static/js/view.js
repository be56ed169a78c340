/**
 * How the picture lies on the screen: screen = rotation(angle) * scale * picture + (x, y).
 * Angles in radians, clockwise; lengths in CSS pixels and pixels of the picture.
 * @import {Point, Rect} from './types.js'
 * @typedef {{scale: number, angle: number, x: number, y: number}} View
 * @typedef {{width: number, height: number}} Size
 */
import { around, intersect } from './rects.js';

export const SMALLEST = 0.02;
export const LARGEST = 64;

/** @param {number} scale */
export const clampScale = (scale) => Math.min(Math.max(scale, SMALLEST), LARGEST);

/** @param {View} view @param {Point} p @returns {Point} */
export function toScreen(view, p) {
  const c = Math.cos(view.angle) * view.scale;
  const s = Math.sin(view.angle) * view.scale;
  return { x: c * p.x - s * p.y + view.x, y: s * p.x + c * p.y + view.y };
}

/** @param {View} view @param {Point} p @returns {Point} */
export function toPicture(view, p) {
  const c = Math.cos(view.angle) / view.scale;
  const s = Math.sin(view.angle) / view.scale;
  const x = p.x - view.x;
  const y = p.y - view.y;
  return { x: c * x + s * y, y: c * y - s * x };
}

/**
 * The view with another scale and angle, in which what is at `from` on the screen comes to `to`.
 * @param {View} view @param {Point} from @param {Point} to @param {number} scale @param {number} angle @returns {View}
 */
export function move(view, from, to = from, scale = view.scale, angle = view.angle) {
  const anchor = toPicture(view, from);
  const turned = { scale: clampScale(scale), angle, x: 0, y: 0 };
  const there = toScreen(turned, anchor);
  return { ...turned, x: to.x - there.x, y: to.y - there.y };
}

/**
 * The view after two fingers went from `a0`, `b0` to `a1`, `b1`: zoom, pan and rotation at once.
 * @param {View} view @param {Point} a0 @param {Point} b0 @param {Point} a1 @param {Point} b1 @returns {View}
 */
export function pinch(view, a0, b0, a1, b1) {
  const before = Math.hypot(b0.x - a0.x, b0.y - a0.y);
  const after = Math.hypot(b1.x - a1.x, b1.y - a1.y);
  const turn = Math.atan2(b1.y - a1.y, b1.x - a1.x) - Math.atan2(b0.y - a0.y, b0.x - a0.x);
  const scale = before > 0 ? (view.scale * after) / before : view.scale;
  return move(view, middle(a0, b0), middle(a1, b1), scale, view.angle + turn);
}

/**
 * The whole picture, upright, in the middle of the stage; small pictures are enlarged by whole numbers at most 8.
 * @param {Size} picture @param {Size} stage @param {number} margin @returns {View}
 */
export function fit(picture, stage, margin = 32) {
  const room = (/** @type {number} */ length) => Math.max(length - 2 * margin, 16);
  const most = Math.min(room(stage.width) / picture.width, room(stage.height) / picture.height);
  const scale = clampScale(most > 1 ? Math.min(Math.floor(most * 4) / 4, 8) : most);
  return centred(picture, stage, scale);
}

/** @param {Size} picture @param {Size} stage @param {number} scale @returns {View} */
export function centred(picture, stage, scale) {
  const x = Math.round((stage.width - picture.width * scale) / 2);
  return { scale, angle: 0, x, y: Math.round((stage.height - picture.height * scale) / 2) };
}

/** The part of a picture that is on the stage; null: nothing of it. @param {View} view @param {Size} stage @param {Size} picture @returns {Rect | null} */
export function shown(view, stage, picture) {
  const corners = [[0, 0], [stage.width, 0], [0, stage.height], [stage.width, stage.height]].map(([x, y]) => toPicture(view, { x, y }));
  return intersect(around(corners), [0, 0, picture.width, picture.height]);
}

/** The view in which a picture stays where it is on the screen when it gets so many pixels on its left and top. @param {View} view @param {number} left @param {number} top @returns {View} */
export const grown = (view, left, top) => ({ ...view, ...toScreen(view, { x: -left, y: -top }) });

/** As a transform of CSS. @param {View} view */
export const css = ({ scale, angle, x, y }) => `translate(${x}px, ${y}px) rotate(${angle}rad) scale(${scale})`;

/** @param {Point} a @param {Point} b @returns {Point} */
const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
