/**
 * What the person has set: tools, colours, words. Kept in the browser over reloads.
 * @import {RGB} from './types.js'
 */
import { Emitter } from './emitter.js';

const KEY = 'retouch-studio';

const DEFAULTS = {
  tool: 'brush',
  size: 24,
  hardness: 0.8,
  opacity: 1,
  smoothing: 0.3,
  pressureSize: true,
  pressureOpacity: false,
  tolerance: 24,
  outline: false,
  intoMask: false,
  colour: /** @type {RGB} */ ([232, 74, 52]),
  other: /** @type {RGB} */ ([250, 250, 250]),
  recent: /** @type {RGB[]} */ ([]),
  label: 0,
  prompt: '',
  negative: '',
  strength: 0.6,
  seed: 0,
  newSeed: false,
  variants: 4,
  soft: false,
  refine: true,
  live: true,
  frame: true,
  theme: 'dark',
  panels: globalThis.innerWidth > 860,
  model: '',
};

/** @typedef {typeof DEFAULTS} Values */

/** @extends {Emitter<{change: Partial<Values>}>} */
export class Options extends Emitter {
  /** @param {Pick<Storage, 'getItem' | 'setItem'>} storage */
  constructor(storage) {
    super();
    this.storage = storage;
    /** @type {Values} */ this.values = { ...DEFAULTS, ...read(storage) };
  }

  /** @param {Partial<Values>} news */
  set(news) {
    Object.assign(this.values, news);
    try {
      this.storage.setItem(KEY, JSON.stringify(this.values));
    } catch {
      // A full or forbidden storage only means that a reload forgets.
    }
    this.emit('change', news);
  }

  swap() {
    const { colour, other } = this.values;
    this.set({ colour: other, other: colour });
  }

  /** Remembers a colour that was painted with. */
  used() {
    const { colour, recent } = this.values;
    const others = recent.filter((c) => String(c) !== String(colour));
    if (String(recent[0]) !== String(colour)) this.set({ recent: [colour, ...others].slice(0, 12) });
  }
}

/** Values of known names and right types. @param {Pick<Storage, 'getItem'>} storage @returns {Partial<Values>} */
function read(storage) {
  try {
    const kept = JSON.parse(storage.getItem(KEY) ?? '{}');
    return Object.fromEntries(Object.entries(DEFAULTS).filter(([name, value]) => typeof kept[name] === typeof value).map(([name]) => [name, kept[name]]));
  } catch {
    return {};
  }
}
