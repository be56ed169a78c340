/**
 * Mouse, pen, fingers and arrow keys on the canvas: who paints, who moves the view.
 * @import {Point, Sample} from './types.js'
 * @import {Stage} from './stage.js'
 * @import {Held} from './tools.js'
 */
import * as views from './view.js';

const CHANGED_MIND = 400;
const WHEEL_ZOOM = 0.0022;
const LINE = 16;
/** The button that the other end of a pen presses (Pointer Events, section 4.1). */
const ERASER = 5;

/**
 * @typedef {{
 *   down: (pen: Sample, held: Held) => void, move: (pens: Sample[], held: Held) => void, up: (pen: Sample, held: Held) => void,
 *   cancel: () => void, hover: (at: Point | null) => void, pans: () => boolean,
 * }} Receiver `pans`: whether dragging moves the view with the tool at hand.
 */

export class Pointer {
  /** @type {Map<number, Point>} */ #fingers = new Map();
  /** The pointer that paints. @type {number | null} */ #painting = null;
  /** The pointer that pans, and where it was. @type {{id: number, at: Point} | null} */ #panning = null;
  /** Whether the other end of the pen paints. */ erases = false;
  #since = 0;
  #space = false;
  /** The pen that arrow keys move. @type {Point | null} */ #keyboard = null;

  /** @param {Stage} stage @param {Receiver} receiver */
  constructor(stage, receiver) {
    this.stage = stage;
    this.receiver = receiver;
    const { element } = stage;
    element.addEventListener('pointerdown', (event) => this.#down(event));
    element.addEventListener('pointermove', (event) => this.#move(event));
    element.addEventListener('pointerup', (event) => this.#up(event));
    element.addEventListener('pointercancel', (event) => this.#lost(event));
    element.addEventListener('pointerleave', () => this.#painting === null && receiver.hover(null));
    element.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    element.addEventListener('contextmenu', (event) => event.preventDefault());
    element.addEventListener('keydown', (event) => this.#key(event));
    element.addEventListener('blur', () => this.#left());
    window.addEventListener('keydown', (event) => this.#spaceBar(event, true));
    window.addEventListener('keyup', (event) => this.#spaceBar(event, false));
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (/** @type {Element} */ (event.target).closest('.divider, textarea')) return;
    const at = this.stage.onPane(event);
    this.#lift();
    this.stage.element.classList.add('pointed');
    this.stage.element.setPointerCapture?.(event.pointerId);
    if (event.pointerType === 'pen') document.body.classList.add('pen');
    if (event.pointerType === 'touch') {
      this.#fingers.set(event.pointerId, at);
      if (this.#fingers.size === 2) return this.#pinchBegins();
      if (this.#fingers.size > 2 || this.#painting !== null) return;
    }
    if (event.button === 1 || this.#space || this.receiver.pans()) {
      this.#panning = { id: event.pointerId, at };
      this.stage.element.classList.add('grabbing');
    } else if ((event.button === 0 || event.button === ERASER) && this.#painting === null) {
      this.#painting = event.pointerId;
      this.erases = event.button === ERASER;
      this.#since = event.timeStamp;
      this.receiver.down(this.#sample(event), heldBy(event));
    }
  }

  /** A second finger: what the first began is taken back, unless it has been at it for a while. */
  #pinchBegins() {
    this.#panning = null;
    if (this.#painting === null || !this.#fingers.has(this.#painting)) return;
    const last = /** @type {Point} */ (this.#fingers.get(this.#painting));
    this.#painting = null;
    if (performance.now() - this.#since < CHANGED_MIND) this.receiver.cancel();
    else this.receiver.up({ ...views.toPicture(this.stage.view, last), pressure: 1 }, { shift: false, alt: false, pen: false });
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const at = this.stage.onPane(event);
    if (this.#fingers.has(event.pointerId)) {
      const before = new Map(this.#fingers);
      this.#fingers.set(event.pointerId, at);
      if (this.#fingers.size === 2) return this.#pinch(before);
    }
    if (this.#panning?.id === event.pointerId) {
      this.stage.show(views.move(this.stage.view, this.#panning.at, at));
      this.#panning.at = at;
    } else if (this.#painting === event.pointerId) {
      const events = event.getCoalescedEvents?.() ?? [];
      this.receiver.move((events.length ? events : [event]).map((each) => this.#sample(each)), heldBy(event));
    }
    if (event.pointerType !== 'touch' || this.#painting === event.pointerId) this.receiver.hover(this.#onStage(event));
  }

  /** @param {Map<number, Point>} before */
  #pinch(before) {
    const [[a, a1], [b, b1]] = [...this.#fingers];
    const [a0, b0] = [before.get(a), before.get(b)];
    if (a0 && b0) this.stage.show(views.pinch(this.stage.view, a0, b0, a1, b1));
  }

  /** @param {PointerEvent} event */
  #up(event) {
    this.#fingers.delete(event.pointerId);
    if (this.#panning?.id === event.pointerId) this.#endPan();
    if (this.#painting !== event.pointerId) return;
    this.#painting = null;
    this.receiver.up(this.#sample(event), heldBy(event));
  }

  /** @param {PointerEvent} event */
  #lost(event) {
    this.#fingers.delete(event.pointerId);
    if (this.#panning?.id === event.pointerId) this.#endPan();
    if (this.#painting !== event.pointerId) return;
    this.#painting = null;
    this.receiver.cancel();
  }

  #endPan() {
    this.#panning = null;
    this.stage.element.classList.remove('grabbing');
  }

  /** Whether something is being painted. */
  get paints() {
    return this.#painting !== null;
  }

  /** Takes back what is being painted. @returns {boolean} whether there was something */
  cancel() {
    const painting = this.#painting !== null;
    this.#painting = null;
    if (painting) this.receiver.cancel();
    return painting;
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? LINE : 1;
    const at = this.stage.onPane(event);
    if (event.ctrlKey || event.metaKey) {
      return this.stage.zoom(this.stage.view.scale * Math.exp(-event.deltaY * unit * WHEEL_ZOOM), at);
    }
    const [x, y] = event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
    this.stage.show(views.move(this.stage.view, at, { x: at.x - x * unit, y: at.y - y * unit }));
  }

  // The keyboard's pen

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.target !== this.stage.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 1 : Math.max(4, 12 / this.stage.view.scale);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      this.#keyboard ??= views.toPicture(this.stage.view, { x: this.stage.size.width / 2, y: this.stage.size.height / 2 });
      this.#keyboard = { x: this.#keyboard.x + way[0] * step, y: this.#keyboard.y + way[1] * step };
    } else if (event.key === 'Enter' && this.#keyboard) {
      const pen = { ...this.#keyboard, pressure: 1 };
      if (this.#painting === KEYBOARD) this.#lift();
      else if (this.#painting === null) {
        this.#painting = KEYBOARD;
        this.erases = false;
        this.receiver.down(pen, heldBy(event));
      }
    } else return;
    event.preventDefault();
    if (!this.#keyboard) return;
    if (way && this.#painting === KEYBOARD) this.receiver.move([{ ...this.#keyboard, pressure: 1 }], heldBy(event));
    this.receiver.hover(views.toScreen(this.stage.view, this.#keyboard));
  }

  /** The focus is elsewhere; when it comes back by keys it is shown. */
  #left() {
    this.#lift();
    this.stage.element.classList.remove('pointed');
  }

  /** Ends what the keyboard's pen draws. */
  #lift() {
    if (this.#painting !== KEYBOARD || !this.#keyboard) return;
    this.#painting = null;
    this.receiver.up({ ...this.#keyboard, pressure: 1 }, { shift: false, alt: false, pen: false });
  }

  /** @param {KeyboardEvent} event @param {boolean} down */
  #spaceBar(event, down) {
    const typing = /** @type {Element} */ (event.target)?.closest?.('input, textarea, button, select, a, [role=slider], summary, dialog');
    if (event.key !== ' ' || (down && typing)) return;
    this.#space = down;
    this.stage.element.classList.toggle('grab', down);
    if (down) event.preventDefault();
  }

  /** @param {PointerEvent} event @returns {Sample} */
  #sample(event) {
    return { ...this.stage.place(event), pressure: event.pointerType === 'pen' ? event.pressure : 1 };
  }

  /** @param {PointerEvent} event @returns {Point} */
  #onStage({ clientX, clientY }) {
    const box = this.stage.element.getBoundingClientRect();
    return { x: clientX - box.left, y: clientY - box.top };
  }
}

const KEYBOARD = -1;

/** @param {{shiftKey: boolean, altKey: boolean, pointerType?: string}} event @returns {Held} */
const heldBy = (event) => ({ shift: event.shiftKey, alt: event.altKey, pen: event.pointerType === 'pen' });
