/**
 * Small controls that several panels use, bound to the options.
 * @import {Options, Values} from './options.js'
 */
import { el } from './dom.js';

/**
 * @typedef {{least: number, most: number, step?: number, write: (value: number) => string,
 *   curve?: {to: (position: number) => number, from: (value: number) => number}}} Range `curve`: from the slider's position to the value.
 */

/**
 * A slider with its name and value in one bar.
 * @param {Options} options @param {keyof Values} name @param {string} text @param {Range} range
 */
export function scrub(options, name, text, { least, most, step = 1, write, curve = { to: (x) => x, from: (x) => x } }) {
  const output = el('output');
  const input = el('input', { type: 'range', min: least, max: most, step, 'aria-label': text });
  const element = el('label', { className: 'scrub', title: text }, el('span', {}, text), output, input);
  const show = () => {
    const value = Number(options.values[name]);
    input.value = String(curve.from(value));
    output.value = write(value);
    input.setAttribute('aria-valuetext', output.value);
    element.style.setProperty('--part', String((Number(input.value) - least) / (most - least)));
  };
  input.oninput = () => options.set({ [name]: curve.to(Number(input.value)) });
  options.on('change', (news) => name in news && show());
  show();
  return element;
}

/** @param {number} value */
export const percent = (value) => `${Math.round(100 * value)} %`;

/** @param {Options} options @param {keyof Values} name @param {string} text @param {string} hint */
export function check(options, name, text, hint = '') {
  const input = el('input', { type: 'checkbox', className: 'switch' });
  const show = () => (input.checked = Boolean(options.values[name]));
  input.onchange = () => options.set({ [name]: input.checked });
  options.on('change', (news) => name in news && show());
  show();
  return el('label', { className: 'check', title: hint || text }, input, el('span', {}, text));
}

/** A field for words that grows. @param {Options} options @param {'prompt' | 'negative'} name @param {string} text @param {string} placeholder */
export function words(options, name, text, placeholder = '') {
  const input = el('textarea', { rows: 2, placeholder, 'aria-label': text, spellcheck: false, value: options.values[name], maxLength: 2000 });
  input.oninput = () => options.set({ [name]: input.value });
  options.on('change', (news) => {
    if (name in news && input.value !== options.values[name]) input.value = options.values[name];
  });
  return input;
}

/** A part of the panel that folds. @param {string} title @param {boolean} open @param {...Node} children */
export function section(title, open, ...children) {
  const made = el('details', { className: 'section', open }, el('summary', {}, title), el('div', { className: 'body' }, ...children));
  made.firstElementChild?.addEventListener('click', () => requestAnimationFrame(() => made.scrollIntoView({ block: 'nearest' })));
  return made;
}

/** The size of a brush runs in powers, so that small ones can be set finely. */
export const SIZES = { to: (/** @type {number} */ x) => Math.round(10 * 2 ** (x / 12)) / 10, from: (/** @type {number} */ value) => 12 * Math.log2(Math.max(value, 1)) };
