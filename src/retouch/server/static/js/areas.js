/**
 * Parts of the picture with words of their own. Their masks are painted like any other; they go out with the next edit
 * and stay listed, switched off, to be used again.
 * @import {Rect, RGB} from './types.js'
 */
import { Emitter } from './emitter.js';
import { union } from './rects.js';
import { Tiles } from './tiles.js';

export const MOST = 8;
/** @type {RGB[]} */
const COLOURS = [[64, 156, 255], [255, 196, 0], [52, 199, 120], [214, 92, 255], [255, 99, 72], [0, 206, 209], [255, 130, 190], [160, 200, 60]];

/** @typedef {{words: string, colour: RGB, mask: Tiles, on: boolean}} Area `on`: part of the next edit. */

/** @extends {Emitter<{change: Rect | null}>} */
export class Areas extends Emitter {
  /** @type {Area[]} */ list = [];
  /** Whose mask is painted; null: that of the edit. @type {Area | null} */ selected = null;

  /** @param {number} width @param {number} height of what is painted on */
  constructor(width, height) {
    super();
    this.width = width;
    this.height = height;
  }

  /** A new one, which is selected. */
  add() {
    const colour = COLOURS.find((each) => this.list.every((area) => area.colour !== each)) ?? COLOURS[0];
    const area = { words: '', colour, mask: new Tiles(this.width, this.height, 1), on: true };
    this.list = [...this.list, area];
    this.select(area);
    return area;
  }

  /** @param {Area} area */
  remove(area) {
    this.list = this.list.filter((each) => each !== area);
    if (this.selected === area) this.selected = null;
    this.emit('change', area.mask.extent());
  }

  /** @param {Area | null} area */
  select(area) {
    this.selected = area;
    if (area) area.on = true;
    this.emit('change', area?.mask.extent() ?? null);
  }

  /** @param {Area} area @param {Partial<Pick<Area, 'words' | 'on'>>} news */
  set(area, news) {
    Object.assign(area, news);
    this.emit('change', area.mask.extent());
  }

  /** Those that the next edit has: with words and somewhere. */
  get ready() {
    return this.list.filter(({ on, words, mask }) => on && words.trim() && !mask.isEmpty);
  }

  /** Those that can be seen. */
  get shown() {
    return this.list.filter(({ on }) => on);
  }

  /** Where those of the next edit lie. @returns {Rect | null} */
  bounds() {
    return this.ready.reduce((/** @type {Rect | null} */ all, { mask }) => union(all, mask.bounds()), null);
  }

  /** The picture gets another size; masks move along. @param {number} width @param {number} height @param {number} left @param {number} top */
  moved(width, height, left, top) {
    [this.width, this.height] = [width, height];
    for (const area of this.list) area.mask = area.mask.moved(width, height, left, top);
    this.emit('change', null);
  }

  /** They are on their way: what is painted next belongs to no area. */
  taken() {
    const taken = this.ready;
    for (const area of taken) area.on = false;
    this.selected = null;
    this.emit('change', taken.reduce((/** @type {Rect | null} */ all, { mask }) => union(all, mask.extent()), null));
    return taken;
  }
}
