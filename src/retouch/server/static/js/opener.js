/**
 * How sessions come to be: from pictures that are dropped, pasted or chosen, from words, from archives.
 * @import {Options} from './options.js'
 * @import {Picture} from './picture.js'
 * @import {Studio} from './studio.js'
 */
import { settingsIn } from './files.js';
import { encode } from './png.js';

/** Takes words and figures that came with a picture or session. @param {Options} options @param {Record<string, any>} settings */
export function adopt(options, settings) {
  const known = /** @type {const} */ (['prompt', 'negative', 'strength', 'seed']);
  options.set(Object.fromEntries(known.filter((name) => typeof settings?.[name] === typeof options.values[name]).map((name) => [name, settings[name]])));
}

export class Opener {
  /** @type {any[] | null} */ #models = null;

  /** @param {Studio} studio */
  constructor(studio) {
    this.studio = studio;
  }

  /** @returns {Promise<any[]>} */
  async models() {
    return (this.#models ??= await this.studio.api.models());
  }

  /** The chosen model. @returns {any} */
  model() {
    const list = this.#models ?? [];
    return list.find(({ name }) => name === this.studio.options.values.model) ?? list[0];
  }

  /** A session from a picture, or words alone. @param {Picture | Blob | null} source @param {{strength?: number, canvas?: boolean}} more */
  async create(source, more = {}) {
    try {
      const { prompt, negative, seed } = this.studio.options.values;
      const model = this.model();
      const words = model?.capabilities.prompt ? { prompt, negative } : {};
      const settings = { model: model?.name, ...words, seed, ...more, generate: !source };
      const picture = source instanceof Blob ? source : source && (await encode({ width: source.width, height: source.height, channels: 3, data: source.data }));
      const made = this.studio.api.create(settings, picture);
      const { id, job } = await this.studio.during(picture ? 'Opening the picture' : 'Generating a picture', made);
      await this.studio.open(id, job);
    } catch (error) {
      this.studio.fail(error);
    }
  }

  /** A file that was dropped, pasted or chosen: a picture, or a saved session. @param {File | Blob} file */
  async take(file) {
    if (file.type.startsWith('image/') || !(file instanceof File)) {
      const settings = await settingsIn(file);
      if (settings) adopt(this.studio.options, settings);
      return this.create(file);
    }
    try {
      const { id } = await this.studio.during('Opening the session', this.studio.api.restore(file));
      await this.studio.open(id);
    } catch (error) {
      this.studio.fail(error);
    }
  }

  /** From the clipboard, by the button: browsers ask the person first. */
  async paste() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((one) => one.startsWith('image/'));
        if (type) return this.take(await item.getType(type));
      }
      this.studio.say('There is no picture in the clipboard.');
    } catch {
      this.studio.say('The browser does not let the page read the clipboard: press Ctrl+V instead.');
    }
  }
}
