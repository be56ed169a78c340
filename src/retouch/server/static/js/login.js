/** Asking for the token where the server wants one. @import {Api} from './api.js' */
import { line } from './dialogs.js';

const TEXT = 'Token: the part after #token= in the address that retouch studio printed';

/** `fetch` that asks the person for the token when the server refuses (401), and then once again. @param {() => Api} api @returns {typeof fetch} */
export function withLogin(api) {
  /** @type {Promise<void> | null} */
  let asking = null;
  return async (input, init) => {
    const response = await fetch(input, init);
    if (response.status !== 401 || String(input).endsWith('/login')) return response;
    await (asking ??= ask(api()).finally(() => (asking = null)));
    return fetch(input, init);
  };
}

/** @param {Api} api */
async function ask(api) {
  for (let text = TEXT; ; text = `That was not it. ${TEXT}`) {
    const token = await line('Log in', text, '', 'Log in');
    if (token === null) return;
    const accepted = await api.login(token.trim().replace(/^.*#token=/, '')).then(() => true, () => false);
    if (accepted) return;
  }
}
