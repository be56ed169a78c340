/**
 * A picture on the screen: canvases over each other, all moved by one transform of CSS. They are written to, never read.
 * @import {Rect} from './types.js'
 */
import { context, el, imageData, still, svg } from './dom.js';

const ORDER = ['base', 'before', 'difference', 'region', 'sent', 'preview', 'ghost', 'paint', 'draft', 'areas', 'mask'];
const FADE = 240;

export class Sheet {
  /** @type {Map<string, HTMLCanvasElement>} */ #canvases = new Map();

  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.shape = svg('svg', { class: 'shape', viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
    /** The edge of what a model sees. */ this.outline = svg('svg', { class: 'shape outlines', viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' });
    this.element = el('div', { className: 'sheet' }, this.shape, this.outline);
    this.element.style.width = `${width}px`;
    this.element.style.height = `${height}px`;
  }

  /** A canvas of this sheet, made when it is first asked for. @param {string} name @param {Rect} rect where it lies */
  canvas(name, rect = [0, 0, this.width, this.height]) {
    let canvas = this.#canvases.get(name);
    if (!canvas) {
      canvas = el('canvas', { className: name });
      this.#canvases.set(name, canvas);
      this.#place(canvas, name);
    }
    const [left, top, width, height] = rect;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    Object.assign(canvas.style, { left: `${left}px`, top: `${top}px` });
    return canvas;
  }

  /** @param {string} name */
  remove(name) {
    this.#canvases.get(name)?.remove();
    this.#canvases.delete(name);
  }

  /** Moves a canvas to another's place. @param {string} from @param {string} to @returns {boolean} whether there was one */
  rename(from, to) {
    const canvas = this.#canvases.get(from);
    if (!canvas) return false;
    this.remove(to);
    this.#canvases.delete(from);
    canvas.className = to;
    this.#canvases.set(to, canvas);
    this.#place(canvas, to);
    return true;
  }

  /** @param {HTMLCanvasElement} canvas @param {string} name */
  #place(canvas, name) {
    const above = ORDER.slice(ORDER.indexOf(name) + 1).map((other) => this.#canvases.get(other)).find(Boolean);
    this.element.insertBefore(canvas, above ?? this.shape);
  }

  /** @param {string} name */
  has(name) {
    return this.#canvases.has(name);
  }

  /** Puts pixels on a canvas of the whole sheet. @param {string} name @param {Rect} rect @param {Uint8ClampedArray<ArrayBuffer>} rgba */
  put(name, rect, rgba) {
    if (rect[2] && rect[3]) context(this.canvas(name)).putImageData(imageData(rgba, rect[2]), rect[0], rect[1]);
  }

  /** Lays pixels over a rectangle and lets them fade away. @param {Rect} rect @param {Uint8ClampedArray<ArrayBuffer>} rgba */
  ghost(rect, rgba) {
    if (still() || !rect[2] || !rect[3]) return;
    const canvas = this.canvas('ghost', rect);
    context(canvas).putImageData(imageData(rgba, rect[2]), 0, 0);
    this.fade('ghost');
  }

  /** Lets a canvas fade away. @param {string} name */
  fade(name) {
    const canvas = this.#canvases.get(name);
    this.#canvases.delete(name);
    if (!canvas) return;
    if (still()) canvas.remove();
    else canvas.animate([{ opacity: 1 }, { opacity: 0 }], { duration: FADE, easing: 'ease-out', fill: 'forwards' }).onfinish = () => canvas.remove();
  }
}
