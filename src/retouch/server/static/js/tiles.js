/**
 * A layer of pixels that is mostly empty, kept as tiles of 64x64; what is undone is tiles, not layers.
 * @import {Rect} from './types.js'
 */
import { intersect, union } from './rects.js';

export const TILE = 64;

/** @typedef {Map<number, Uint8Array | null>} Step What tiles held before, by their number; null: there was none. */

/** When steps were taken, over all layers: the last one is undone first. @type {WeakMap<Step, number>} */
const TIMES = new WeakMap();
let time = 0;

export class Tiles {
  /** @type {Map<number, Uint8Array>} */ #tiles = new Map();
  /** @type {Step[]} */ #undo = [];
  /** @type {Step[]} */ #redo = [];
  /** @type {Step | null} */ #step = null;

  /** @param {number} width @param {number} height @param {number} channels The last one says how opaque a pixel is. */
  constructor(width, height, channels) {
    this.width = width;
    this.height = height;
    this.channels = channels;
    this.columns = Math.ceil(width / TILE);
  }

  /** @returns {Rect} */
  get whole() {
    return [0, 0, this.width, this.height];
  }

  get isEmpty() {
    return this.#tiles.size === 0;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  /** When what would be undone was done; -Infinity: there is nothing. */
  get undoes() {
    const step = this.#undo.at(-1);
    return step ? (TIMES.get(step) ?? 0) : -Infinity;
  }

  /** When what would be redone was done; Infinity: there is nothing. */
  get redoes() {
    const step = this.#redo.at(-1);
    return step ? (TIMES.get(step) ?? 0) : Infinity;
  }

  /** Bytes that tiles and steps hold. */
  get nbytes() {
    const held = [this.#tiles, ...this.#undo, ...this.#redo].flatMap((tiles) => [...tiles.values()]);
    return held.reduce((sum, tile) => sum + (tile?.length ?? 0), 0);
  }

  /** A tile's pixels, null where nothing was painted. @param {number} number */
  at(number) {
    return this.#tiles.get(number) ?? null;
  }

  /** A tile to write to; within a step, what it held is kept. @param {number} number */
  writable(number) {
    let tile = this.#tiles.get(number);
    if (this.#step && !this.#step.has(number)) this.#step.set(number, tile ? tile.slice() : null);
    if (!tile) this.#tiles.set(number, (tile = new Uint8Array(TILE * TILE * this.channels)));
    return tile;
  }

  /** What a tile held before this step began. @param {number} number */
  before(number) {
    const kept = this.#step?.get(number);
    return kept === undefined ? this.at(number) : kept;
  }

  /**
   * Calls `visit` for the part of `rect` in each tile, with the part's rectangle and the tile's number and corner.
   * @param {Rect | null} rect
   * @param {(part: Rect, number: number, left: number, top: number) => void} visit
   */
  each(rect, visit) {
    const inside = intersect(rect, this.whole);
    if (!inside) return;
    const [left, top, width, height] = inside;
    for (let ty = Math.floor(top / TILE); ty * TILE < top + height; ty++) {
      for (let tx = Math.floor(left / TILE); tx * TILE < left + width; tx++) {
        const part = intersect(inside, [tx * TILE, ty * TILE, TILE, TILE]);
        if (part) visit(part, ty * this.columns + tx, tx * TILE, ty * TILE);
      }
    }
  }

  begin() {
    this.#step = new Map();
  }

  /** Ends the step: it can be undone as a whole. */
  commit() {
    if (this.#step?.size) {
      TIMES.set(this.#step, ++time);
      this.#undo.push(this.#step);
      this.#redo = [];
    }
    this.#step = null;
  }

  /** Takes the step back that has begun. @returns {Rect | null} what changed */
  abort() {
    const step = this.#step;
    this.#step = null;
    return step && this.#restore(step).rect;
  }

  /** @returns {Rect | null} what changed */
  undo() {
    return this.#exchange(this.#undo, this.#redo);
  }

  /** @returns {Rect | null} what changed */
  redo() {
    return this.#exchange(this.#redo, this.#undo);
  }

  /** What was undone cannot be redone any more. */
  forget() {
    this.#redo = [];
  }

  /** @param {Step[]} from @param {Step[]} to */
  #exchange(from, to) {
    const step = from.pop();
    if (!step) return null;
    const { rect, held } = this.#restore(step);
    TIMES.set(held, TIMES.get(step) ?? 0);
    to.push(held);
    return rect;
  }

  /** @param {Step} step */
  #restore(step) {
    /** @type {Step} */
    const held = new Map();
    /** @type {Rect | null} */
    let rect = null;
    for (const [number, tile] of step) {
      held.set(number, this.at(number));
      if (tile) this.#tiles.set(number, tile);
      else this.#tiles.delete(number);
      rect = union(rect, this.rectOf(number));
    }
    return { rect: intersect(rect, this.whole), held };
  }

  /** @param {number} number @returns {Rect} */
  rectOf(number) {
    return [(number % this.columns) * TILE, Math.floor(number / this.columns) * TILE, TILE, TILE];
  }

  /** The rectangle of all tiles. @returns {Rect | null} */
  extent() {
    /** @type {Rect | null} */
    let rect = null;
    for (const number of this.#tiles.keys()) rect = union(rect, this.rectOf(number));
    return intersect(rect, this.whole);
  }

  /** The smallest rectangle that holds every pixel that is not fully transparent. @returns {Rect | null} */
  bounds() {
    let [left, top, right, bottom] = [this.width, this.height, -1, -1];
    const last = this.channels - 1;
    for (const [number, tile] of this.#tiles) {
      const [x0, y0] = this.rectOf(number);
      for (let i = 0, p = last; i < TILE * TILE; i++, p += this.channels) {
        if (!tile[p]) continue;
        const x = x0 + (i % TILE);
        const y = y0 + Math.floor(i / TILE);
        if (x < left) left = x;
        if (x > right) right = x;
        if (y < top) top = y;
        if (y > bottom) bottom = y;
      }
    }
    return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
  }

  /**
   * The same on a picture of another size; its steps cannot be undone any more.
   * @param {number} width @param {number} height @param {number} left where the corner comes to @param {number} top
   */
  moved(width, height, left, top) {
    const made = new Tiles(width, height, this.channels);
    const rect = this.extent();
    if (!rect) return made;
    const n = this.channels;
    const from = this.read(rect);
    const [x, y] = [rect[0] + left, rect[1] + top];
    made.each([x, y, rect[2], rect[3]], (part, number, x0, y0) => {
      const tile = made.writable(number);
      for (let row = part[1]; row < part[1] + part[3]; row++) {
        const at = ((row - y) * rect[2] + part[0] - x) * n;
        tile.set(from.subarray(at, at + part[2] * n), ((row - y0) * TILE + part[0] - x0) * n);
      }
    });
    return made;
  }

  /**
   * The pixels of a rectangle, `[height, width, channels]`.
   * @param {Rect} rect
   */
  read(rect) {
    const [left, top, width, height] = rect;
    const n = this.channels;
    const out = new Uint8Array(width * height * n);
    this.each(rect, (part, number, x0, y0) => {
      const tile = this.at(number);
      if (!tile) return;
      for (let y = part[1]; y < part[1] + part[3]; y++) {
        const from = ((y - y0) * TILE + part[0] - x0) * n;
        out.set(tile.subarray(from, from + part[2] * n), ((y - top) * width + part[0] - left) * n);
      }
    });
    return out;
  }
}
