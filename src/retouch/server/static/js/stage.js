/**
 * Where the picture is shown: one pane, or two (what is painted on beside what the model makes of it).
 * @import {Point, Rect, RGB} from './types.js'
 * @import {Live, Sent} from './live.js'
 * @import {View} from './view.js'
 * @import {Picture} from './picture.js'
 */
import { context, el, imageData, svg } from './dom.js';
import { Emitter } from './emitter.js';
import { pixels } from './frames.js';
import { flatten, tint } from './paint.js';
import { intersect, union } from './rects.js';
import { Sheet } from './sheet.js';
import * as views from './view.js';

/** @type {RGB} */
const MASK = [255, 64, 110];
const SHADE = [10, 10, 14, 160];
const EDGE = [124, 196, 255, 255];
const CRISP = 6;

/** @extends {Emitter<{view: View}>} */
export class Stage extends Emitter {
  /** @type {Live | null} */ live = null;
  /** @type {View} */ view = { scale: 1, angle: 0, x: 0, y: 0 };
  /** What the model made. @type {Sheet} */ result = new Sheet(1, 1);
  /** What is painted on; often the same. @type {Sheet} */ input = this.result;
  /** @type {Record<string, Rect | null>} */ #dirty = {};
  #frame = 0;
  #fitted = true;
  #looks = 0;
  /** Whether what is shown of the edit is what its last draft made. */ #drafted = false;

  /** @param {HTMLElement} element */
  constructor(element) {
    super();
    this.element = element;
    this.divider = el('div', { className: 'divider', tabIndex: 0, role: 'slider', 'aria-label': 'Before and after', 'aria-valuemin': 0, 'aria-valuemax': 100, hidden: true }, ...['Before', 'After'].map((text) => el('span', {}, text)));
    new ResizeObserver(() => (this.#fitted ? this.fit() : this.show(this.view))).observe(element);
  }

  /** @param {Live} live */
  open(live) {
    this.live = live;
    this.#sheets(live);
    live.on('resized', ({ left, top }) => {
      this.#sheets(live);
      this.dirtyPaint(live.paint.whole);
      if (this.#fitted) this.fit();
      else this.show(views.grown(this.view, left, top));
    });
    live.on('picture', (rect) => this.dirty('base', rect));
    live.on('input', () => this.dirty('input', live.paint.whole));
    live.on('paint', (rect) => this.dirtyPaint(rect));
    live.on('preview', (preview) => this.#preview(preview));
    live.on('draft', (draft) => this.#draft(draft));
    live.areas.on('change', (rect) => rect && this.dirty('areas', rect));
    live.on('refining', (rect) => this.result.ghost(rect, live.picture.rgba(rect)));
    live.on('settled', (settled) => this.#settled(settled));
    this.fit();
  }

  /** Sheets as large as the session's pictures. @param {Live} live */
  #sheets(live) {
    this.result = new Sheet(live.picture.width, live.picture.height);
    this.input = live.hasInput ? new Sheet(live.input.width, live.input.height) : this.result;
    this.panes = [...new Set([this.input, this.result])].map((sheet) => el('div', { className: 'pane' }, sheet.element));
    if (live.hasInput) this.panes.forEach((pane, i) => (pane.dataset.label = ['Paint here', 'What the model makes of it'][i]));
    this.element.replaceChildren(...this.panes);
    this.element.classList.toggle('two', this.panes.length > 1);
    this.result.element.append(this.divider);
    this.divider.hidden = true;
    this.dirty('base', live.picture.whole);
  }

  // What is where

  /** The size of a pane. */
  get size() {
    const { clientWidth, clientHeight } = this.element;
    return { width: clientWidth / (this.panes?.length ?? 1), height: clientHeight };
  }

  /** A place of the page in pixels of what is painted on. @param {{clientX: number, clientY: number}} event */
  place(event) {
    return views.toPicture(this.view, this.onPane(event));
  }

  /** A place of the page, from the corner of its pane. @param {{clientX: number, clientY: number}} event @returns {Point} */
  onPane({ clientX, clientY }) {
    const box = this.element.getBoundingClientRect();
    const x = clientX - box.left;
    const { width } = this.size;
    return { x: this.panes?.length === 2 && x >= width ? x - width : x, y: clientY - box.top };
  }

  /** @param {View} view @param {boolean} fitted */
  show(view, fitted = false) {
    this.view = view;
    this.#fitted = fitted;
    const scale = this.live?.scale ?? 1;
    this.input.element.style.transform = views.css(view);
    if (this.result !== this.input) this.result.element.style.transform = views.css({ ...view, scale: view.scale / scale });
    for (const sheet of [this.input, this.result]) {
      const own = sheet === this.result ? view.scale / scale : view.scale;
      sheet.element.classList.toggle('crisp', own >= CRISP);
      sheet.element.style.setProperty('--unit', String(1 / own));
    }
    this.emit('view', view);
  }

  fit() {
    this.show(views.fit(this.input, this.size), true);
  }

  /** @param {number} scale */
  zoom(scale, at = { x: this.size.width / 2, y: this.size.height / 2 }) {
    this.show(views.move(this.view, at, at, scale));
  }

  /** @param {number} angle */
  turn(angle, at = { x: this.size.width / 2, y: this.size.height / 2 }) {
    this.show(views.move(this.view, at, at, this.view.scale, this.view.angle + angle));
  }

  // What has changed

  /** @param {string} name @param {Rect} rect */
  dirty(name, rect) {
    this.#dirty[name] = union(this.#dirty[name] ?? null, rect);
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** @param {Rect | null} rect */
  dirtyPaint(rect) {
    if (rect) for (const name of ['sent', 'paint', 'mask', 'areas']) this.dirty(name, rect);
    this.#drafted = Boolean(this.live?.sent.length && this.live.paint.isEmpty && this.result.rename('draft', 'preview'));
    if (!this.#drafted) this.result.remove('draft');
  }

  flush() {
    this.#frame = 0;
    const { live } = this;
    const dirty = this.#dirty;
    this.#dirty = {};
    if (!live) return;
    for (const [name, wanted] of Object.entries(dirty)) {
      const rect = intersect(wanted, name === 'base' ? live.picture.whole : live.paint.whole);
      if (rect) this.#draw(live, name, rect);
    }
  }

  /** @param {Live} live @param {string} name @param {Rect} rect */
  #draw(live, name, rect) {
    if (name === 'base') this.result.put('base', rect, live.picture.rgba(rect));
    else if (name === 'input') this.input.put('base', rect, live.input.rgba(rect));
    else if (name === 'paint') this.#layer('paint', !live.paint.isEmpty, rect, () => flatten([live.paint], rect));
    else if (name === 'sent') this.#sent(live);
    else if (name === 'areas') this.#layer('areas', live.areas.shown.some(({ mask }) => !mask.isEmpty), rect, () => tinted(live.areas.shown, rect));
    else this.#layer('mask', live.masks.some((mask) => !mask.isEmpty), rect, () => tint(live.masks, rect, MASK, 0.5));
  }

  /** Paint that is being computed, on a canvas no larger than that: it is drawn again with every frame. @param {Live} live */
  #sent(live) {
    const painted = live.sent.filter(({ paint }) => !paint.isEmpty);
    const rect = painted.reduce((/** @type {Rect | null} */ all, sent) => union(all, sent.rect), null);
    if (!rect) return this.input.remove('sent');
    context(this.input.canvas('sent', rect)).putImageData(imageData(flatten(painted.map(({ paint }) => paint), rect), rect[2]), 0, 0);
  }

  /** A canvas for paint, there only while there is some. @param {string} name @param {boolean} needed @param {Rect} rect @param {() => Uint8ClampedArray<ArrayBuffer>} rgba */
  #layer(name, needed, rect, rgba) {
    if (needed) this.input.put(name, rect, rgba());
    else this.input.remove(name);
  }

  /** A preview is seen only inside what was painted. @param {{frame: import('./types.js').Frame, layers: Sent[]}} preview */
  async #preview({ frame, layers }) {
    if (this.#drafted) return; // that is further than any preview
    const image = await shown(frame);
    const stencil = await this.#stencil(frame.header.rect, layers.flatMap(stencils));
    if (layers.some((sent) => this.live?.sent.includes(sent))) this.#inside('preview', frame.header.rect, image, stencil);
  }

  /** A draft lies over the paint that it was made of. @param {{frame: import('./types.js').Frame, stencil: import('./drafts.js').Stencil}} draft */
  async #draft({ frame, stencil }) {
    const { rect } = frame.header;
    if (!rect[2] || !rect[3]) return;
    const image = await shown(frame);
    const where = await this.#stencil(rect, [stencil]);
    if (this.live?.hasPaint) this.#inside('draft', rect, image, where);
  }

  /** @param {string} name @param {Rect} rect @param {ImageBitmap} image @param {OffscreenCanvas} stencil */
  #inside(name, rect, image, stencil) {
    const drawing = context(this.result.canvas(name, rect));
    drawing.globalCompositeOperation = 'copy';
    drawing.drawImage(image, 0, 0, rect[2], rect[3]);
    drawing.globalCompositeOperation = 'destination-in';
    drawing.drawImage(stencil, 0, 0);
  }

  /** What was painted or masked, in pixels of the result's rectangle. @param {Rect} rect @param {import('./drafts.js').Stencil[]} parts */
  async #stencil(rect, parts) {
    const scale = this.live?.scale ?? 1;
    const stencil = new OffscreenCanvas(rect[2], rect[3]);
    const drawing = /** @type {OffscreenCanvasRenderingContext2D} */ (stencil.getContext('2d'));
    for (const { rgba, rect: around } of parts) {
      const part = await createImageBitmap(imageData(rgba, around[2]));
      drawing.drawImage(part, around[0] * scale - rect[0], around[1] * scale - rect[1], around[2] * scale, around[3] * scale);
    }
    return stencil;
  }

  /** The result fades in where the paint was. @param {{layers: Sent[], rect: Rect}} settled */
  #settled({ layers }) {
    this.#drafted = false;
    if (this.result.has('preview')) return this.result.fade('preview');
    const rect = layers.reduce((/** @type {Rect | null} */ all, sent) => union(all, sent.paint.isEmpty ? null : sent.rect), null);
    if (rect) this.input.ghost(rect, flatten(layers.map(({ paint }) => paint), rect));
  }

  // Looking

  /** Shows `before` left of the divider; null: not. @param {Picture | null} before */
  compare(before) {
    this.divider.hidden = !before;
    if (!before) return this.result.remove('before');
    this.result.put('before', before.whole, before.rgba(before.whole));
    this.divide(Number(this.divider.getAttribute('aria-valuenow') ?? 50));
  }

  /** @param {number} percent */
  divide(percent) {
    const at = Math.min(Math.max(percent, 0), 100);
    this.divider.setAttribute('aria-valuenow', String(Math.round(at)));
    this.divider.style.left = `${at}%`;
    this.result.canvas('before').style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  }

  /** Where the picture is not as `before`; null: not shown. @param {Picture | null} before */
  difference(before) {
    if (before && this.live) this.result.put('difference', before.whole, this.live.picture.difference(before));
    else this.result.remove('difference');
  }

  /** Draws the edge of a rectangle of the picture; null: none. @param {Rect | null} rect @param {boolean} ready whether the model has seen it */
  frame(rect, ready = true) {
    const path = rect && `M${rect[0]} ${rect[1]}h${rect[2]}v${rect[3]}h${-rect[2]}z`;
    this.result.outline.replaceChildren(...(path ? ['under', ready ? 'over' : 'over coming'].map((name) => svg('path', { d: path, class: name })) : []));
  }

  /** The part of the picture that is in sight; null: nothing of it. */
  get sight() {
    return views.shown(this.view, this.size, this.input);
  }

  /** Puts what was not computed into the shade; null: not shown. @param {{width: number, height: number, active: Uint8Array} | null} grid @param {Rect} rect where the grid lies */
  region(grid, rect = [0, 0, this.result.width, this.result.height]) {
    const look = ++this.#looks;
    if (!grid) return this.result.remove('region');
    const rgba = new Uint8ClampedArray(grid.width * grid.height * 4);
    grid.active.forEach((on, i) => on || rgba.set(isEdge(grid, i) ? EDGE : SHADE, 4 * i));
    createImageBitmap(imageData(rgba, grid.width)).then((image) => {
      if (look !== this.#looks) return;
      const drawing = context(this.result.canvas('region'));
      drawing.clearRect(0, 0, this.result.width, this.result.height);
      drawing.fillStyle = `rgb(${SHADE.slice(0, 3).join(' ')} / ${SHADE[3] / 255})`;
      drawing.fillRect(0, 0, this.result.width, this.result.height);
      drawing.clearRect(...rect);
      drawing.imageSmoothingEnabled = false;
      drawing.drawImage(image, ...rect);
    });
  }

  /** A shape that is being drawn, as a path of SVG in pixels of what is painted on. @param {string} path @param {string} className */
  shape(path, className = '') {
    this.input.shape.replaceChildren(...(path ? [svg('path', { d: path, class: className })] : []));
  }
}

/** Where a sent edit was painted and masked. @param {Sent} sent @returns {import('./drafts.js').Stencil[]} */
function stencils({ paint, mask, areas, rect }) {
  const masks = [mask, ...areas.map((area) => area.mask)].filter((each) => !each.isEmpty);
  const found = masks.length ? [tint(masks, rect, MASK, 1)] : [];
  return [...(paint.isEmpty ? [] : [flatten([paint], rect)]), ...found].map((rgba) => ({ rgba, rect }));
}

/** Areas, each in its colour. @param {import('./areas.js').Area[]} areas @param {Rect} rect */
function tinted(areas, rect) {
  const out = new Uint8ClampedArray(rect[2] * rect[3] * 4);
  for (const { mask, colour } of areas) {
    const one = tint([mask], rect, colour, 0.45);
    for (let i = 3; i < one.length; i += 4) if (one[i]) out.set(one.subarray(i - 3, i + 1), i - 3);
  }
  return out;
}

/** @param {import('./types.js').Frame} frame */
async function shown(frame) {
  const { rect, encoding } = frame.header;
  if (encoding === 'raw') return createImageBitmap(imageData(opaque(await pixels(frame)), rect[2]));
  return createImageBitmap(new Blob([frame.bytes], { type: `image/${encoding}` }));
}

/** Whether a neighbour was computed. @param {{width: number, active: Uint8Array}} grid @param {number} i */
function isEdge({ width, active }, i) {
  const x = i % width;
  return Boolean(active[i - width] || active[i + width] || (x && active[i - 1]) || (x < width - 1 && active[i + 1]));
}

/** RGB8 as RGBA8. @param {Uint8Array} rgb */
function opaque(rgb) {
  const out = new Uint8ClampedArray((rgb.length / 3) * 4).fill(255);
  for (let i = 0, o = 0; i < rgb.length; i += 3, o += 4) out.set(rgb.subarray(i, i + 3), o);
  return out;
}
