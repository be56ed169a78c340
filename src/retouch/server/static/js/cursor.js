/**
 * The ring at the pointer: as large as the brush, and around it how far the edit is.
 * @import {Point} from './types.js'
 */
import { still, svg } from './dom.js';

const SMALLEST = 9;
/** Milliseconds between turns: an animation would draw sixty times a second what is then missing to the edit. */
const TURN = 100;
const STEP = 40;
/** And until the first one: what is over soon need not turn. */
const STILL = 400;

export class Cursor {
  #turning = 0;
  #angle = -90;

  constructor() {
    this.brush = [svg('circle', { class: 'dark' }), svg('circle', { class: 'light' })];
    this.track = svg('circle', { class: 'track' });
    this.ring = svg('circle', { class: 'progress', pathLength: 100 });
    this.element = /** @type {SVGElement} */ (svg('svg', { class: 'cursor', 'aria-hidden': 'true' }, ...this.brush, this.track, this.ring));
    this.radius = 0;
    this.show(null);
    this.progress(null);
  }

  /** It begins in the middle, and stays where it was last. @param {Point | null} at from the corner of the stage */
  show(at) {
    for (const circle of this.brush) circle.toggleAttribute('hidden', !at);
    if (at) Object.assign(this.element.style, { left: 0, top: 0, transform: `translate(${at.x}px, ${at.y}px)` });
  }

  /** @param {number} radius in CSS pixels; 0: none */
  size(radius) {
    this.radius = radius;
    this.brush[0].setAttribute('r', String(radius));
    this.brush[1].setAttribute('r', String(Math.max(radius - 1, 0)));
    const outer = Math.max(Math.min(radius, 60) + 5, SMALLEST);
    for (const circle of [this.track, this.ring]) circle.setAttribute('r', String(outer));
  }

  /** @param {number | null} share from 0 to 1; -1: at work, nobody knows how far; null: idle */
  progress(share) {
    const busy = share !== null;
    for (const circle of [this.track, this.ring]) circle.toggleAttribute('hidden', !busy);
    const turns = busy && share < 0 && !still();
    if (turns && !this.#turning) this.#turnIn(STILL);
    else if (!turns) {
      clearTimeout(this.#turning);
      this.#turning = 0;
      this.#turn(-90);
    }
    if (busy) this.ring.setAttribute('stroke-dasharray', share < 0 ? '25 75' : `${Math.max(100 * share, 2)} 100`);
  }

  /** @param {number} pause */
  #turnIn(pause) {
    this.#turning = window.setTimeout(() => {
      this.#turn(this.#angle + STEP);
      this.#turnIn(TURN);
    }, pause);
  }

  /** @param {number} angle in degrees */
  #turn(angle) {
    this.#angle = angle % 360;
    this.ring.setAttribute('transform', `rotate(${this.#angle})`);
  }
}
