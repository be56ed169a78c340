/** Making elements. Nothing here writes HTML or inline styles from text: the page's policy forbids both. */

const SVG = 'http://www.w3.org/2000/svg';
const ICONS = new URL('../icons.svg', import.meta.url).pathname;

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} given Properties where the element has them (`onclick`, `value`), else attributes; null: left away.
 * @param {...(Node | string | null)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined) continue;
    if (name in element && name !== 'list') /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {...Node} children */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** A drawing of icons.svg. @param {string} name */
export const icon = (name) => svg('svg', { class: 'icon', 'aria-hidden': 'true' }, svg('use', { href: `${ICONS}#${name}` }));

/**
 * A button with a drawing; its text is its name and, with the key, its hint.
 * @param {string} drawing @param {string} text @param {() => void} onclick @param {string} key
 */
export function iconButton(drawing, text, onclick, key = '') {
  return el('button', { type: 'button', className: 'icon-button', title: key ? `${text} (${key})` : text, 'aria-label': text, 'aria-keyshortcuts': key ? shortcut(key) : null, onclick }, icon(drawing));
}

/** As ARIA writes it. @param {string} key */
const shortcut = (key) => key.replace('Ctrl', 'Control');

/** An element of the page's HTML. @param {string} id */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found;
}

/** A canvas's context for drawing only: nothing is ever read back. @param {HTMLCanvasElement} canvas */
export const context = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));

/** @param {Uint8ClampedArray<ArrayBuffer>} rgba @param {number} width */
export const imageData = (rgba, width) => new ImageData(rgba, width);

export const still = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

/** Calls once for all that is asked for until the next frame, when that is on the screen. @param {() => void} call */
export function afterFrame(call) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => setTimeout(() => {
      asked = false;
      call();
    }));
  };
}
