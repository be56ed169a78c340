/**
 * The panel at the right: colours or labels, words and seed, variants, the last edit, what was computed.
 * @import {Studio} from './studio.js'
 */
import { areaList, objectList } from './chips.js';
import { colours, palette } from './colours.js';
import { check, percent, scrub, section, words } from './controls.js';
import { byId, el, iconButton } from './dom.js';
import { inspect } from './inspect.js';
import * as trees from './tree.js';
import { error, figures, looked, made, size } from './words.js';

/** @param {Studio} studio */
export function panels(studio) {
  studio.on('session', () => {
    const { live } = studio;
    if (!live) return byId('panels').replaceChildren();
    const { prompt, labels, inpaint, variants, areas, instances } = live.facts.capabilities;
    const parts = [labels?.length ? section('Labels', true, palette(studio.options, labels)) : section('Colour', true, colours(studio.options))];
    if (prompt || inpaint) parts.push(section('Edit', true, ...edit(studio, prompt, inpaint)));
    if (instances) parts.push(section('Objects', true, objectList(studio, live)));
    if (areas) parts.push(section('Words for areas', false, ...areaList(studio, live)));
    if (variants) parts.push(section('Variants', true, ...choices(studio)));
    parts.push(inspect(studio), section('Session', false, facts(studio)));
    byId('panels').replaceChildren(el('div', { className: 'sections' }, ...parts), last(studio));
  });
}

/** @param {Studio} studio @param {boolean} prompt @param {boolean} inpaint */
function edit(studio, prompt, inpaint) {
  const { options } = studio;
  const parts = [];
  if (prompt) {
    const field = words(options, 'prompt', 'Prompt', 'What the picture shows');
    field.id = 'prompt';
    parts.push(field, words(options, 'negative', 'Negative prompt', 'What it should not show'), ...planned(studio));
  } else parts.push(...planned(studio));
  const [seeds, another] = seed(studio);
  parts.push(...strength(studio), seeds);
  const soft = inpaint ? [check(options, 'soft', 'Soft mask', 'The grey of a mask is the strength at each place')] : [];
  const refine = check(options, 'refine', 'Refine when idle', 'The last edit is computed more exactly while nothing else waits');
  parts.push(el('div', { className: 'checks' }, another, ...soft, refine));
  return parts;
}

/** Which viewport is used, and why; of large pictures. @param {Studio} studio */
function planned(studio) {
  const { live } = studio;
  if (!live?.isCanvas) return [];
  const [last, here] = [el('p', {}), el('p', {})];
  const show = () => {
    const version = trees.find(live.tree, live.head);
    last.textContent = version ? made(version) : '';
    last.title = version?.viewport?.why ?? '';
    last.hidden = !last.textContent;
    here.textContent = looked(live.looking);
  };
  live.on('looking', show);
  live.on('tree', show);
  show();
  return [el('div', { className: 'hint planned' }, last, here)];
}

/** The slider, and what to do where more is wanted than was recorded. @param {Studio} studio */
function strength(studio) {
  const { options } = studio;
  const most = studio.recorded();
  const slider = scrub(options, 'strength', 'Strength', { least: 0.05, most: 1, step: 0.01, write: percent });
  const text = el('span', {});
  const hint = el('p', { className: 'hint' }, text, el('button', { type: 'button', className: 'link', onclick: () => studio.recordAgain() }, 'Record the picture again'));
  slider.style.setProperty('--limit', String((most - 0.05) / 0.95));
  const show = () => {
    hint.hidden = options.values.strength <= most;
    text.textContent = `Recorded for ${percent(most)}: edits take no more. For ${percent(options.values.strength)}: `;
  };
  options.on('change', show);
  show();
  return [slider, hint];
}

/** @param {Studio} studio */
function seed({ options }) {
  const input = el('input', { type: 'number', min: 0, max: 2 ** 32 - 1, step: 1, 'aria-label': 'Seed' });
  input.onchange = () => options.set({ seed: Math.min(Math.max(Math.floor(Number(input.value)) || 0, 0), 2 ** 32 - 1) });
  const show = () => (input.value = String(options.values.seed));
  options.on('change', (news) => 'seed' in news && show());
  show();
  const another = () => options.set({ seed: Math.floor(Math.random() * 1e6) });
  return [el('div', { className: 'row' }, el('label', { className: 'field' }, el('span', {}, 'Seed'), input), iconButton('dice', 'Another seed', another)), check(options, 'newSeed', 'New seed each time', 'Each edit takes another seed')];
}

/** @param {Studio} studio */
function choices(studio) {
  const { options } = studio;
  const count = scrub(options, 'variants', 'How many', { least: 2, most: 8, write: String });
  let asked = 0;
  const ask = () => {
    asked = studio.live?.tree.length ?? 0;
    studio.variants();
  };
  const make = el('button', { type: 'button', className: 'wide', onclick: () => ask() }, 'Make variants');
  const strip = el('div', { className: 'strip', role: 'group', 'aria-label': 'Variants to choose from' });
  const show = () => {
    const { live } = studio;
    const alike = live ? trees.siblings(live.tree, live.head) : [];
    strip.hidden = alike.length < 2;
    strip.replaceChildren(...(strip.hidden ? [] : alike.map(({ version }) => thumb(studio, version, `Variant, version ${version}`))));
    if (!asked || !live || live.tree.length <= asked) return;
    asked = 0;
    requestAnimationFrame(() => strip.scrollIntoView({ block: 'nearest' })); // when the figures below it have their place
  };
  studio.on('tree', show);
  show();
  return [el('div', { className: 'row pairs' }, count, make), strip];
}

/** @param {Studio} studio @param {number} version @param {string} text */
export function thumb(studio, version, text) {
  const live = /** @type {import('./live.js').Live} */ (studio.live);
  const image = el('img', { src: live.api.png(live.id, version, live.isCanvas ? 'thumb=change' : 'thumb'), alt: '', decoding: 'async', draggable: false });
  return el('button', { type: 'button', className: 'thumb', 'aria-label': text, title: text, 'aria-current': version === live.head ? 'true' : null, onclick: () => studio.goto(version) }, image);
}

/** What the last edit took and saved; always in sight. @param {Studio} studio */
function last(studio) {
  const list = el('dl', { className: 'saved' });
  const line = el('p', { className: 'quiet' });
  const ask = el('button', { type: 'button', className: 'link', onclick: () => studio.estimate() }, 'Estimate the error');
  const show = () => {
    const { live } = studio;
    const version = live && trees.find(live.tree, live.head);
    const found = version && version.parent !== null ? figures(version) : [];
    list.hidden = !found.length;
    list.replaceChildren(...found.map(([value, text]) => el('div', {}, el('dt', {}, text), el('dd', { className: value.endsWith('x') ? 'most' : '' }, value))));
    line.textContent = found.length ? error(version?.estimate ?? null) : 'Paint on the picture: here stands what the edit took and saved.';
    ask.hidden = !found.length || Boolean(line.textContent);
  };
  studio.on('tree', show);
  show();
  return el('section', { className: 'last', 'aria-label': 'Last edit' }, list, line, ask);
}

/** @param {Studio} studio */
function facts(studio) {
  const list = el('dl', {});
  const show = () => {
    const { live } = studio;
    if (!live) return;
    const [height, width] = live.facts.size;
    const rows = [['Model', live.facts.model], ['Size', `${width} x ${height}`], ['Versions', live.tree.length], ['Memory', live.facts.bytes ? size(live.facts.bytes) : ''], ['Received', size(live.received)]].filter(([, value]) => value);
    list.replaceChildren(...rows.flatMap(([name, value]) => [el('dt', {}, String(name)), el('dd', {}, String(value))]));
  };
  studio.on('tree', show);
  show();
  const archive = el('a', { className: 'wide', href: studio.live ? studio.api.url(`api/sessions/${studio.live.id}/archive`) : '', download: '' }, 'Save the whole session');
  const remove = el('button', { type: 'button', className: 'wide danger', onclick: () => studio.remove() }, 'Delete this session');
  return el('div', {}, list, archive, remove);
}
