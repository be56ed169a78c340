/**
 * Ways to look at the picture: before and after, where it differs, what the last edit computed.
 * @import {Explanation} from './grids.js'
 * @import {Picture} from './picture.js'
 * @import {Studio} from './studio.js'
 */
import { ApiError } from './api.js';
import { active, finest } from './grids.js';
import * as trees from './tree.js';

const KEPT = 4;

/** @typedef {'' | 'compare' | 'difference' | 'region'} Look */

export class Looks {
  /** @type {Look} */ current = '';
  /** @type {Map<string, Picture>} */ #pictures = new Map();
  /** @type {Explanation | null} */ #explained = null;

  /** @param {Studio} studio */
  constructor(studio) {
    this.studio = studio;
  }

  /** For another session. */
  reset() {
    this.current = '';
    this.#pictures.clear();
    this.#explained = null;
  }

  /** Looks so, or plainly when it did before. @param {Look} look */
  async toggle(look) {
    const { stage } = this.studio;
    this.current = this.current === look ? '' : look;
    stage.compare(null);
    stage.difference(null);
    stage.region(null);
    await this.#show();
  }

  /** The picture has changed. */
  async again() {
    this.#explained = null;
    await this.#show();
  }

  async #show() {
    const { live, stage } = this.studio;
    const look = this.current;
    if (!live || !look) return;
    if (look === 'region') {
      const found = await this.explanation();
      const grid = found && finest(found.networks);
      const where = found?.networks.find(({ grids }) => grid && grids.includes(grid))?.rect;
      if (this.current === look) stage.region(grid ? active(grid) : null, where);
      return;
    }
    const picture = await this.picture(trees.parent(live.tree, live.head) ?? live.head);
    if (!picture || this.current !== look) return;
    if (look === 'compare') stage.compare(picture);
    else stage.difference(picture);
  }

  /** The exact pixels of a version, null when it cannot be had. @param {number} version @param {'' | 'input'} kind */
  async picture(version, kind = '') {
    const key = `${version}${kind} ${this.studio.live?.shapes}`;
    try {
      const kept = this.#pictures.get(key) ?? (await this.studio.live?.version(version, kind));
      if (kept) this.#pictures.set(key, kept);
      if (this.#pictures.size > KEPT) this.#pictures.delete([...this.#pictures.keys()][0]);
      return kept ?? null;
    } catch (error) {
      this.studio.fail(error);
      return null;
    }
  }

  /** What was painted on first. */
  async original() {
    const { live } = this.studio;
    const root = live?.tree.find(({ parent }) => parent === null);
    return root ? this.picture(root.version, live?.hasInput ? 'input' : '') : null;
  }

  /** What the last edit computed; null before there was one. @param {boolean} timed whether its layers are timed @returns {Promise<Explanation | null>} */
  async explanation(timed = false) {
    const { api, live } = this.studio;
    if (!live) return null;
    try {
      if (timed || !this.#explained) this.#explained = await api.explain(live.id, timed);
    } catch (error) {
      if (!(error instanceof ApiError && [404, 409].includes(error.status))) this.studio.fail(error);
    }
    return this.#explained;
  }
}
