/** Texts about edits. @import {Version, Problem} from './types.js' */

/** @param {number} value */
const short = (value) => `${Number(value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2))}`;

/** @param {number} value */
const times = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));

/**
 * What an edit cost and saved, as figures and what they are.
 * @param {Pick<Version, 'seconds' | 'saved' | 'share'>} facts @returns {[figure: string, text: string][]}
 */
export function figures({ seconds, saved, share }) {
  /** @type {[string, string][]} */
  const found = [];
  if (seconds !== null) found.push([`${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`, 'time']);
  if (saved !== null) found.push([`${times(saved)}x`, 'less']);
  if (share !== null) found.push([`${(100 * share).toFixed(1)} %`, 'of the arithmetic']);
  return found;
}

/** How far an edit is off; empty where nobody knows. @param {number | null} estimate in grey levels */
export const error = (estimate) => (estimate === null ? '' : estimate < 0.05 ? 'no error' : `error about ${short(estimate)} levels`);

/**
 * What an edit cost and saved: "0.42 s, 18x, 2.1 % of the arithmetic, error about 3 levels".
 * @param {Pick<Version, 'seconds' | 'saved' | 'share' | 'estimate'>} facts
 */
export function saved({ estimate, ...facts }) {
  const parts = figures(facts).map(([figure, text]) => (text.startsWith('of') ? `${figure} ${text}` : figure));
  return [...parts, error(estimate)].filter(Boolean).join(', ');
}

/** @type {Record<string, string>} */
const WAYS = {
  sparse: 'recorded before',
  new: 'recorded for it',
  whole: 'all of the picture, recorded for it',
  tiles: 'several at once',
  dense: 'not recorded',
};

/** How large and at which scale: "512 px at 1:1". @param {import('./types.js').Viewport} viewport */
export function seen({ rect, scale }) {
  const [, , width, height] = rect;
  const ratio = scale >= 1 ? `${short(scale)}:1` : `1:${short(1 / scale)}`;
  return `${width === height ? width : `${width} x ${height}`} px at ${ratio}`;
}

/** In which viewport an edit was made, and how; empty where there was none. @param {Pick<Version, 'viewport' | 'seconds'>} version */
export function made({ viewport, seconds }) {
  if (!viewport) return '';
  const took = seconds === null ? '' : `, ${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)}\u00a0s`;
  return `Last edit: viewport ${seen(viewport)}${took}; ${WAYS[viewport.way] ?? viewport.way}`;
}

/** What is prepared of what is looked at. @param {import('./types.js').Looking} looking */
export function looked({ viewport, state, done, total }) {
  if (!viewport || state === 'none') return 'Zoom in where you want to edit: what is in sight is then recorded ahead.';
  const part = done && total ? ` (${Math.round((100 * done) / total)} %)` : '';
  return `Here: viewport ${seen(viewport)}, ${state === 'recorded' ? 'recorded' : `being recorded${part}`}`;
}

/** How long something takes yet, where that is worth a word. @param {number | null} seconds */
export function left(seconds) {
  if (seconds === null || seconds < 2) return '';
  return seconds < 90 ? `, ${Math.round(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
}

const SPANS = /** @type {[Intl.RelativeTimeFormatUnit, number][]} */ ([['day', 86_400_000], ['hour', 3_600_000], ['minute', 60_000]]);

/** How long ago, in the largest unit that fits: "5 minutes ago". @param {number} milliseconds */
export function ago(milliseconds) {
  const found = SPANS.find(([, length]) => milliseconds >= length);
  return found ? new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(-Math.floor(milliseconds / found[1]), found[0]) : 'just now';
}

/** @param {number} bytes */
export function size(bytes) {
  const unit = bytes < 1e6 ? ['kB', 1e3] : bytes < 1e9 ? ['MB', 1e6] : ['GB', 1e9];
  return `${short(bytes / /** @type {number} */ (unit[1]))} ${unit[0]}`;
}

/** @param {Problem} problem */
export const explain = (problem) => problem.detail || problem.title || 'The server gave no reason.';
