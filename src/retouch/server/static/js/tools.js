/**
 * What the pen does with each tool. A tool hears of the pen going down, moving, and being lifted, in pixels of what is
 * painted on; it writes to the layers of the session and says so.
 * @import {Point, Rect, RGB, Sample} from './types.js'
 * @import {Live} from './live.js'
 * @import {Options} from './options.js'
 * @import {Picture} from './picture.js'
 * @import {Ink} from './paint.js'
 */
import { toRGB } from './colour.js';
import { composite, Step } from './paint.js';
import { ellipse, flood, outline, Path, polygon, rectangle, segment } from './raster.js';
import { around, union } from './rects.js';
import { rasterise } from './text.js';

/**
 * @typedef {{shift: boolean, alt: boolean, pen: boolean}} Held What is held down; `pen`: the pointer knows pressure.
 * @typedef {{
 *   live: Live, options: Options, original: () => Promise<Picture | null>,
 *   changed: (rect: Rect | null) => void, shape: (path: string, className?: string) => void,
 *   done: () => void, ask: (at: Point) => Promise<string | null>, say: (text: string) => void,
 * }} Table What tools work on: `original` gives the first picture, `done` is called after each stroke, `ask` for text.
 */

export const NAMES = ['brush', 'eraser', 'fill', 'rectangle', 'ellipse', 'lasso', 'clone', 'eyedropper', 'mask', 'text', 'hand'];
const THINNEST = 0.12;

/** Does nothing: the hand, whose dragging moves the view. */
class Tool {
  /** @param {Table} table */
  constructor(table) {
    this.table = table;
  }

  get values() {
    return this.table.options.values;
  }

  /** @param {Sample} _pen @param {Held} _held */
  down(_pen, _held) {}
  /** @param {Sample[]} _pens @param {Held} _held */
  move(_pens, _held) {}
  /** @param {Sample} _pen @param {Held} _held */
  up(_pen, _held) {}
  /** What was begun is taken back. */
  cancel() {}

  get intoMask() {
    return (this.values.tool === 'mask' || this.values.intoMask) && this.table.live.facts.capabilities.inpaint;
  }

  get crisp() {
    return Boolean(this.table.live.facts.capabilities.labels) && !this.intoMask;
  }

  /** @returns {Ink} */
  get ink() {
    return { kind: 'colour', colour: colourOf(this.table) };
  }

  /** @param {Ink} ink */
  begin(ink = this.ink) {
    const { live } = this.table;
    if (ink.kind === 'colour' && !this.intoMask && !this.crisp) this.table.options.used();
    return new Step(this.intoMask ? live.target : live.paint, ink, this.values.opacity, this.crisp);
  }

  /** Covers at once, as one step. @param {(step: Step) => Rect | null} cover @param {Ink} ink */
  once(cover, ink = this.ink) {
    const step = this.begin(ink);
    const rect = cover(step);
    step.update(rect);
    step.commit();
    this.table.changed(rect);
    if (rect) this.table.done();
  }
}

/** The colour, or that of the label, that is painted with. @param {Pick<Table, 'live' | 'options'>} table @returns {RGB} */
export function colourOf({ live, options }) {
  const label = live.facts.capabilities.labels?.find(({ index }) => index === options.values.label);
  return label ? toRGB(label.colour) : options.values.colour;
}

class Brush extends Tool {
  /** @type {Step | null} */ step = null;
  /** @type {Path | null} */ path = null;
  /** The last place of the stroke. @type {Sample | null} */ last = null;
  /** Where the stroke before ended. @type {Sample | null} */ ended = null;

  /** @param {Sample} pen @param {Held} held */
  down(pen, held) {
    const ink = this.inkAt(pen);
    if (!ink) return;
    this.step = this.begin(ink);
    this.path = new Path(this.values.smoothing);
    this.last = null;
    const from = held.shift ? this.ended : null;
    this.#draw([...(from ? [from] : []), ...this.path.add(pen)], held);
  }

  /** @param {Sample[]} pens @param {Held} held */
  move(pens, held) {
    if (this.path) this.#draw(pens.flatMap((pen) => /** @type {Path} */ (this.path).add(pen)), held);
  }

  /** @param {Sample} pen @param {Held} held */
  up(pen, held) {
    if (!this.step || !this.path) return;
    this.#draw(this.path.end(pen), held);
    this.step.commit();
    this.step = this.path = null;
    this.ended = pen;
    this.table.done();
  }

  cancel() {
    this.table.changed(this.step?.abort() ?? null);
    this.step = this.path = null;
  }

  /** @param {Sample} _pen @returns {Ink | null} null: nothing can be painted */
  inkAt(_pen) {
    return this.ink;
  }

  /** @param {Sample[]} samples @param {Held} held */
  #draw(samples, held) {
    const { size, hardness, pressureSize, pressureOpacity } = this.values;
    const step = /** @type {Step} */ (this.step);
    /** @type {Rect | null} */
    let rect = null;
    for (const sample of samples) {
      const from = this.last ?? sample;
      const radius = (/** @type {number} */ pressure) => (size / 2) * (held.pen && pressureSize ? THINNEST + (1 - THINNEST) * pressure : 1);
      const [a, b] = [from, sample].map((end) => ({ ...end, r: radius(end.pressure) }));
      const most = held.pen && pressureOpacity ? sample.pressure : 1;
      rect = union(rect, segment(step.cover, a, b, this.crisp ? 1 : hardness, most));
      this.last = sample;
    }
    step.update(rect);
    this.table.changed(rect);
  }
}

/** Takes paint away that was not sent; where there is none, brings the first picture back. */
class Eraser extends Brush {
  /** @type {Picture | null} */ #original = null;

  inkAt() {
    const { live } = this.table;
    if (this.intoMask || !live.paint.isEmpty) return /** @type {Ink} */ ({ kind: 'erase' });
    if (this.#original) return /** @type {Ink} */ ({ kind: 'from', picture: this.#original, dx: 0, dy: 0 });
    this.table.original().then((picture) => (this.#original = picture));
    this.table.say('The first picture is being fetched.');
    return null;
  }

  /** Called when the tool is taken: fetches what it may bring back. */
  async prepare() {
    this.#original ??= await this.table.original();
  }
}

class Clone extends Brush {
  /** @type {Point | null} */ #source = null;
  /** @type {Point | null} */ #shift = null;

  /** @param {Sample} pen @param {Held} held */
  down(pen, held) {
    if (held.alt) {
      this.#source = pen;
      this.#shift = null;
      this.table.say('Source set: now paint where it should go.');
      return;
    }
    super.down(pen, held);
  }

  /** @param {Sample} pen @returns {Ink | null} */
  inkAt(pen) {
    if (!this.#source) {
      this.table.say('Hold Alt and click where the clone stamp should copy from.');
      return null;
    }
    this.#shift ??= { x: Math.round(this.#source.x - pen.x), y: Math.round(this.#source.y - pen.y) };
    return { kind: 'from', picture: this.table.live.input, dx: this.#shift.x, dy: this.#shift.y };
  }
}

/** Drags a shape; it is pixels only when the pen is lifted. */
class Shape extends Tool {
  /** @type {Point | null} */ from = null;

  /** @param {Sample} pen */
  down(pen) {
    this.from = pen;
  }

  /** @param {Sample[]} pens @param {Held} held */
  move(pens, held) {
    const points = this.points(/** @type {Sample} */ (pens.at(-1)), held);
    if (this.from) this.table.shape(pathOf(points), this.values.outline ? 'outline' : '');
  }

  /** @param {Sample} pen @param {Held} held */
  up(pen, held) {
    if (!this.from) return;
    const points = this.points(pen, held);
    this.cancel();
    if (points.length < 3 || isFlat(points)) return;
    const radius = Math.max(this.values.size / 2, 0.5);
    this.once(({ cover }) => (this.values.outline ? outline(cover, points, radius) : polygon(cover, points)));
  }

  cancel() {
    this.from = null;
    this.table.shape('');
  }

  /** The corners so far. @param {Point} _to @param {Held} _held @returns {Point[]} */
  points(_to, _held) {
    return [];
  }

  /** Where a square would end. @param {Point} to @param {Held} held */
  end(to, held) {
    const from = /** @type {Point} */ (this.from ?? to);
    if (!held.shift) return to;
    const side = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    return { x: from.x + side * Math.sign(to.x - from.x), y: from.y + side * Math.sign(to.y - from.y) };
  }
}

class Rectangle extends Shape {
  /** @param {Point} to @param {Held} held */
  points(to, held) {
    return rectangle(this.from ?? to, this.end(to, held));
  }
}

class Ellipse extends Shape {
  /** @param {Point} to @param {Held} held */
  points(to, held) {
    return ellipse(this.from ?? to, this.end(to, held));
  }
}

class Lasso extends Shape {
  /** @type {Point[]} */ #points = [];

  /** @param {Sample} pen */
  down(pen) {
    super.down(pen);
    this.#points = [pen];
  }

  /** @param {Sample[]} pens @param {Held} held */
  move(pens, held) {
    for (const pen of pens) {
      const last = /** @type {Point} */ (this.#points.at(-1));
      if (last && Math.hypot(pen.x - last.x, pen.y - last.y) >= 1) this.#points.push(pen);
    }
    super.move(pens, held);
  }

  points() {
    return this.#points;
  }
}

class Fill extends Tool {
  /** @param {Sample} pen */
  down(pen) {
    const { live } = this.table;
    if (!isInside(pen, live.input)) return;
    const seen = composite(live.input, live.paints);
    this.once(({ cover }) => flood(cover, seen, pen, this.crisp ? 0 : this.values.tolerance));
  }
}

class Eyedropper extends Tool {
  /** @param {Sample} pen */
  down(pen) {
    pick(this.table, pen);
  }

  /** @param {Sample[]} pens */
  move(pens) {
    pick(this.table, /** @type {Sample} */ (pens.at(-1)));
  }
}

/** Takes the colour, or label, of a place. @param {Pick<Table, 'live' | 'options'>} table @param {Point} at */
export function pick({ live, options }, at) {
  if (!isInside(at, live.input)) return;
  const seen = composite(live.input, live.paints);
  const i = (Math.floor(at.y) * live.input.width + Math.floor(at.x)) * 3;
  const colour = /** @type {RGB} */ ([seen[i], seen[i + 1], seen[i + 2]]);
  const label = live.facts.capabilities.labels?.find((one) => String(toRGB(one.colour)) === String(colour));
  if (label && live.instances.length) live.choose(live.objectAt(at));
  options.set(label ? { label: label.index } : { colour });
}

class Text extends Tool {
  /** @param {Sample} _pen */
  down(_pen) {}

  /** @param {Sample} pen */
  async up(pen) {
    const text = await this.table.ask(pen);
    if (text) this.once(({ cover }) => rasterise(cover, text, pen, Math.max(this.values.size, 6)));
  }
}

/** @param {Point[]} points */
const pathOf = (points) => points.map(({ x, y }, i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('') + (points.length ? 'Z' : '');

/** @param {Point[]} points */
function isFlat(points) {
  const rect = around(points);
  return !rect || rect[2] < 3 || rect[3] < 3;
}

/** @param {Point} at @param {Picture} picture */
const isInside = ({ x, y }, { width, height }) => x >= 0 && y >= 0 && x < width && y < height;

/** @param {Table} table @returns {Record<string, Tool>} */
export function toolbox(table) {
  return {
    brush: new Brush(table),
    mask: new Brush(table),
    eraser: new Eraser(table),
    fill: new Fill(table),
    rectangle: new Rectangle(table),
    ellipse: new Ellipse(table),
    lasso: new Lasso(table),
    clone: new Clone(table),
    eyedropper: new Eyedropper(table),
    text: new Text(table),
    hand: new Tool(table),
  };
}
