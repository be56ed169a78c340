/**
 * The panel at the right: colours or labels, words and seed, variants, the last edit, what was computed.
 * @import {Studio} from './studio.js'
 */
import { colours, palette } from './colours.js';
import { check, percent, scrub, section, words } from './controls.js';
import { byId, el, iconButton } from './dom.js';
import { inspect } from './inspect.js';
import * as trees from './tree.js';
import { saved, size } from './words.js';

/** @param {Studio} studio */
export function panels(studio) {
  studio.on('session', () => {
    const { live } = studio;
    if (!live) return byId('panels').replaceChildren();
    const { prompt, labels, inpaint, variants } = live.facts.capabilities;
    const parts = [labels?.length ? section('Labels', true, palette(studio.options, labels)) : section('Colour', true, colours(studio.options))];
    if (prompt || inpaint) parts.push(section('Edit', true, ...edit(studio, prompt, inpaint)));
    if (variants) parts.push(section('Variants', true, ...choices(studio)));
    parts.push(section('Last edit', true, last(studio)), inspect(studio), section('Session', false, facts(studio)));
    byId('panels').replaceChildren(...parts);
  });
}

/** @param {Studio} studio @param {boolean} prompt @param {boolean} inpaint */
function edit(studio, prompt, inpaint) {
  const { options } = studio;
  const parts = [];
  if (prompt) {
    const field = words(options, 'prompt', 'Prompt', 'What the picture shows');
    field.id = 'prompt';
    parts.push(field, words(options, 'negative', 'Negative prompt', 'What it should not show'));
  }
  const most = studio.live?.facts.settings.strength ?? 1; // as much as was recorded
  parts.push(scrub(options, 'strength', 'Strength', { least: 0.05, most, step: 0.01, write: percent }), ...seed(studio));
  if (inpaint) parts.push(check(options, 'soft', 'Soft mask', 'The grey of a mask is the strength at each place'));
  parts.push(check(options, 'refine', 'Refine when idle', 'The last edit is computed more exactly while nothing else waits'));
  return parts;
}

/** @param {Studio} studio */
function seed({ options }) {
  const input = el('input', { type: 'number', min: 0, max: 2 ** 32 - 1, step: 1, 'aria-label': 'Seed' });
  input.onchange = () => options.set({ seed: Math.min(Math.max(Math.floor(Number(input.value)) || 0, 0), 2 ** 32 - 1) });
  const show = () => (input.value = String(options.values.seed));
  options.on('change', (news) => 'seed' in news && show());
  show();
  const another = () => options.set({ seed: Math.floor(Math.random() * 1e6) });
  return [el('div', { className: 'row' }, el('label', { className: 'field' }, el('span', {}, 'Seed'), input), iconButton('dice', 'Another seed', another)), check(options, 'newSeed', 'New each time', 'Each edit takes another seed')];
}

/** @param {Studio} studio */
function choices(studio) {
  const { options } = studio;
  const count = scrub(options, 'variants', 'How many', { least: 2, most: 8, write: String });
  const make = el('button', { type: 'button', className: 'wide', onclick: () => studio.variants() }, 'Make variants');
  const strip = el('div', { className: 'strip', role: 'group', 'aria-label': 'Variants to choose from' });
  const show = () => {
    const { live } = studio;
    const alike = live ? trees.siblings(live.tree, live.head) : [];
    strip.hidden = alike.length < 2;
    strip.replaceChildren(...(strip.hidden ? [] : alike.map(({ version }) => thumb(studio, version, `Variant, version ${version}`))));
  };
  studio.on('tree', show);
  show();
  return [count, make, strip];
}

/** @param {Studio} studio @param {number} version @param {string} text */
export function thumb(studio, version, text) {
  const live = /** @type {import('./live.js').Live} */ (studio.live);
  const image = el('img', { src: live.api.png(live.id, version, 'thumb'), alt: '', decoding: 'async', draggable: false });
  return el('button', { type: 'button', className: 'thumb', 'aria-label': text, title: text, 'aria-current': version === live.head ? 'true' : null, onclick: () => studio.goto(version) }, image);
}

/** @param {Studio} studio */
function last(studio) {
  const line = el('p', { className: 'saved' });
  const more = el('p', { className: 'quiet' });
  const ask = el('button', { type: 'button', className: 'link', onclick: () => studio.estimate() }, 'Estimate the error');
  const show = () => {
    const { live } = studio;
    const version = live && trees.find(live.tree, live.head);
    const text = version && version.parent !== null ? saved(version) : '';
    line.textContent = text || 'Nothing edited yet: paint on the picture.';
    line.classList.toggle('quiet', !text);
    more.textContent = version?.edit && text ? version.edit : '';
    more.hidden = !more.textContent;
    ask.hidden = !text || version?.estimate !== null;
  };
  studio.on('tree', show);
  show();
  return el('div', {}, line, more, ask);
}

/** @param {Studio} studio */
function facts(studio) {
  const list = el('dl', {});
  const show = () => {
    const { live } = studio;
    if (!live) return;
    const [height, width] = live.facts.size;
    const rows = [['Model', live.facts.model], ['Size', `${width} x ${height}`], ['Versions', live.tree.length], ['Memory', size(live.facts.bytes ?? 0)], ['Received', size(live.received)]];
    list.replaceChildren(...rows.flatMap(([name, value]) => [el('dt', {}, String(name)), el('dd', {}, String(value))]));
  };
  studio.on('tree', show);
  show();
  const archive = el('a', { className: 'wide', href: studio.live ? studio.api.url(`api/sessions/${studio.live.id}/archive`) : '', download: '' }, 'Save the whole session');
  const remove = el('button', { type: 'button', className: 'wide danger', onclick: () => studio.remove() }, 'Delete this session');
  return el('div', {}, list, archive, remove);
}
