/**
 * Windows over the page, all of the browser's own kind: focus and Escape work as people know them.
 * @import {Studio} from './studio.js'
 */
import { el, iconButton } from './dom.js';
import { BINDINGS, GESTURES } from './keys.js';

/** Shows a dialog; what its form returns, null when it was closed. @param {string} title @param {(Node | string)[]} content @param {string} action the button's text, empty: none
 * @returns {Promise<FormData | null>} */
export function ask(title, content, action = '') {
  const form = el('form');
  const dialog = el('dialog', { 'aria-label': title }, el('header', {}, el('h2', {}, title), iconButton('close', 'Close', () => dialog.close())), form);
  form.append(...content, ...(action ? [el('footer', {}, el('button', { type: 'submit', className: 'main' }, action))] : []));
  form.onsubmit = (event) => {
    event.preventDefault(); // the page's policy lets no form go anywhere
    dialog.close('yes');
  };
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => {
      done(dialog.returnValue === 'yes' ? new FormData(form) : null);
      dialog.remove();
    };
    dialog.onclick = ({ target }) => {
      if (target === dialog) dialog.close();
    };
  });
}

export function keys() {
  const groups = [...new Set(BINDINGS.map(({ group }) => group))];
  const tables = groups.map((name) => list(name, BINDINGS.filter(({ group }) => group === name).map(({ keys, text }) => [keys, text])));
  tables.push(list('Pointer', GESTURES.map(([gesture, text]) => [[gesture], text])));
  return ask('Keys', [el('div', { className: 'keys' }, ...tables)]);
}

/** @param {string} title @param {[string[], string][]} rows */
function list(title, rows) {
  const lines = rows.map(([keys, text]) => el('div', {}, el('dt', {}, text), el('dd', {}, ...keys.map((key) => el('kbd', {}, key)))));
  return el('section', {}, el('h3', {}, title), el('dl', {}, ...lines));
}

/** Asks for one line. @param {string} title @param {string} text @param {string} value @param {string} action @param {string} hint what may be said of it */
export async function line(title, text, value, action, hint = '') {
  const input = el('input', { type: 'text', name: 'line', value, maxLength: 100, autofocus: true, autocomplete: 'off' });
  const said = hint ? [el('p', { className: 'quiet' }, hint)] : [];
  const answer = await ask(title, [...said, el('label', { className: 'field' }, el('span', {}, text), input)], action);
  return answer && String(answer.get('line'));
}

/** @param {string} title @param {string} text @param {string} action */
export const confirm = async (title, text, action) => Boolean(await ask(title, [el('p', {}, text)], action));

/** @param {Studio} studio */
export async function save(studio) {
  const { live } = studio;
  if (!live) return;
  const type = el('select', { name: 'type' }, ...Object.entries(TYPES).map(([value, text]) => el('option', { value }, text)));
  const quality = el('input', { type: 'range', name: 'quality', min: 0.5, max: 1, step: 0.01, value: 0.92 });
  const field = el('label', { className: 'field' }, el('span', {}, 'Quality'), quality);
  const note = el('p', { className: 'quiet' });
  const show = () => {
    const exact = type.value === 'image/png';
    field.hidden = exact;
    if (live.isCanvas) note.textContent = exact ? 'As its file was: every pixel, with transparency, 16 bits, colour profile and EXIF where it had them, and the settings inside.' : 'Smaller; pixels are changed by compression. Colour profile and EXIF are kept, with the settings.';
    else note.textContent = `${exact ? 'Exact pixels' : 'Smaller; pixels are changed by compression'}. Model, words and seed are inside: opening it here brings them back.`;
  };
  type.onchange = show;
  show();
  const answer = await ask('Export', [el('label', { className: 'field' }, el('span', {}, 'Format'), type), field, note], 'Export');
  if (answer) await studio.export(String(answer.get('type')), Number(answer.get('quality')));
}

const SIDES = /** @type {const} */ (['top', 'left', 'right', 'bottom']);
const MOST = 4096;

/** Asks by how many pixels the picture gets larger on each side; null: not. @param {Studio} studio @returns {Promise<Record<typeof SIDES[number], number> | null>} */
export async function expand(studio) {
  const { live } = studio;
  if (!live) return null;
  const { width, height } = live.picture;
  const step = Math.max(16, Math.round(Math.min(width, height) / 4 / 16) * 16);
  const inputs = Object.fromEntries(SIDES.map((side) => [side, el('input', { type: 'number', name: side, min: 0, max: MOST, step: 8, value: side === 'right' ? step : 0, 'aria-label': `Pixels on the ${side}`, autofocus: side === 'right' })]));
  const inner = el('div', { className: 'old' });
  const outer = el('div', { className: 'new' }, inner);
  const size = el('p', { className: 'quiet size' });
  const read = (/** @type {string} */ side) => Math.min(Math.max(Math.floor(Number(inputs[side].value)) || 0, 0), MOST);
  const show = () => {
    const [wide, high] = [width + read('left') + read('right'), height + read('top') + read('bottom')];
    const scale = 120 / Math.max(wide, high);
    Object.assign(outer.style, { width: `${wide * scale}px`, height: `${high * scale}px` });
    Object.assign(inner.style, { left: `${read('left') * scale}px`, top: `${read('top') * scale}px`, width: `${width * scale}px`, height: `${height * scale}px` });
    size.textContent = `${width} x ${height} becomes ${wide} x ${high} pixels. The words of the prompt are drawn there.`;
  };
  for (const input of Object.values(inputs)) input.oninput = show;
  show();
  const cross = el('div', { className: 'expand' }, ...SIDES.map((side) => el('label', { className: side }, inputs[side])), el('div', { className: 'sketch' }, outer));
  const answer = await ask('Expand the picture', [cross, size], 'Expand');
  if (!answer) return null;
  const sides = /** @type {Record<typeof SIDES[number], number>} */ (Object.fromEntries(SIDES.map((side) => [side, read(side)])));
  return Object.values(sides).some(Boolean) ? sides : null;
}

const TYPES = { 'image/png': 'PNG', 'image/jpeg': 'JPEG', 'image/webp': 'WebP' };
