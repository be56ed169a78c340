/** Texts about edits. @import {Version, Problem} from './types.js' */

/** @param {number} value */
const short = (value) => `${Number(value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2))}`;

/** @param {number} value */
const times = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));

/**
 * What an edit cost and saved: "0.42 s, 18x, 2.1 % of the arithmetic, error about 3 levels".
 * @param {Pick<Version, 'seconds' | 'saved' | 'share' | 'estimate'>} facts
 */
export function saved({ seconds, saved, share, estimate }) {
  const parts = [];
  if (seconds !== null) parts.push(`${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`);
  if (saved !== null) parts.push(`${times(saved)}x`);
  if (share !== null) parts.push(`${(100 * share).toFixed(1)} % of the arithmetic`);
  if (estimate !== null) parts.push(estimate < 0.05 ? 'no error' : `error about ${short(estimate)} levels`);
  return parts.join(', ');
}

/** @param {number} bytes */
export function size(bytes) {
  const unit = bytes < 1e6 ? ['kB', 1e3] : bytes < 1e9 ? ['MB', 1e6] : ['GB', 1e9];
  return `${short(bytes / /** @type {number} */ (unit[1]))} ${unit[0]}`;
}

/** @param {Problem} problem */
export const explain = (problem) => problem.detail || problem.title || 'The server gave no reason.';
