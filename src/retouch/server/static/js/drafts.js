/**
 * Edits of a stroke that is still being drawn: shown inside it, never kept. One is under way at a time, so they come as
 * fast as the server computes them, and each has all of the stroke so far.
 * @import {Rect} from './types.js'
 * @import {Live, Wanted} from './live.js'
 */
import { packed } from './packed.js';
import { flatten, tint } from './paint.js';

const FAST = 1;
const MEASURED = 3;
const OVER = ['done', 'cancelled', 'failed'];

/** @typedef {{rect: Rect, rgba: Uint8ClampedArray<ArrayBuffer>}} Stencil Where a draft was painted. */

export class Drafts {
  /** @type {{job: number | null, stencil: Stencil} | null} */ #current = null;
  /** @type {Wanted | null} */ #next = null;
  /** @type {Set<number>} */ #jobs = new Set();

  /** @param {Live} live */
  constructor(live) {
    this.live = live;
  }

  /** Whether the last edits took so little that a stroke can be computed while it is drawn. */
  get areFast() {
    const seconds = this.live.tree.flatMap((one) => (one.parent !== null && one.seconds !== null ? [one.seconds] : [])).slice(-MEASURED);
    return seconds.length > 0 && seconds.sort((a, b) => a - b)[seconds.length >> 1] < FAST;
  }

  /** The stroke has grown. @param {Wanted} wanted */
  ask(wanted) {
    this.#next = wanted;
    if (!this.#current) this.#send();
  }

  /** The stroke has ended: the server stops the draft when its edit comes. */
  end() {
    this.#next = null;
  }

  /** Where the draft of a job was painted, null for other jobs. @param {number | null} job */
  stencil(job) {
    return job !== null && this.#current?.job === job ? this.#current.stencil : null;
  }

  /** A job is a draft; while one is asked for it is that. @param {number} job */
  heard(job) {
    if (this.#current && this.#current.job === null && !this.#jobs.has(job)) this.#is(job);
    else this.#jobs.add(job);
  }

  /** Whether a job is a draft. @param {number} job */
  owns(job) {
    return this.#jobs.has(job);
  }

  /** @param {number} job @param {string} state */
  told(job, state) {
    if (!OVER.includes(state) || this.#current?.job !== job) return;
    this.#current = null;
    if (this.#next) this.#send();
  }

  /** @param {number} job */
  #is(job) {
    this.#jobs.add(job);
    if (this.#current) this.#current.job = job;
  }

  #send() {
    const { live } = this;
    const wanted = this.#next;
    const { paint, mask } = live;
    const rect = live.bounds();
    this.#next = null;
    if (!wanted || !rect || live.sent.length) return;
    const current = { job: null, stencil: { rect, rgba: paint.isEmpty ? tint([mask], rect, [0, 0, 0], 1) : flatten([paint], rect) } };
    this.#current = current;
    const drawn = packed({ paint, mask, areas: [], rect, wanted });
    live.inOrder(async () => {
      const { settings, files } = await drawn;
      const { job } = await live.api.edit(live.id, 'edits', { ...settings, base: live.head, draft: true }, files);
      if (this.#current === current) this.#is(job);
      else this.#jobs.add(job);
    }).catch(() => this.#drop(current)); // the edit at the stroke's end tells what is wrong
  }

  /** @param {object} current */
  #drop(current) {
    if (this.#current === current) this.#current = this.#next = null;
  }
}
