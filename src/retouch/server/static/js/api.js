/** The server's API. @import {SessionFacts, Problem} from './types.js' */

/** What the server refused, as RFC 9457 says it; status 0: it was not reached. */
export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail || problem.title || `The server answered ${problem.status}.`);
    this.problem = problem;
    this.status = problem.status ?? 0;
  }
}

const PATIENCE = 3;
const LONGEST_WAIT = 10;

export class Api {
  /** @param {string} base address of the page @param {typeof fetch} fetcher @param {(seconds: number) => Promise<void>} wait */
  constructor(base, fetcher = (...args) => fetch(...args), wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds))) {
    this.base = base;
    this.fetch = fetcher;
    this.wait = wait;
  }

  /** @param {string} path */
  url(path) {
    return new URL(path, this.base).href;
  }

  /**
   * Asks, and asks again where the server says when, or where it was not reached and asking twice does no harm.
   * @param {string} method @param {string} path @param {BodyInit | object | null} body @param {Record<string, string>} headers
   * @returns {Promise<Response>} @throws {ApiError}
   */
  async request(method, path, body = null, headers = {}) {
    const plain = body && !(body instanceof FormData) && !(body instanceof Blob);
    const init = {
      method,
      headers: plain ? { 'Content-Type': 'application/json', ...headers } : headers,
      body: plain ? JSON.stringify(body) : /** @type {BodyInit | null} */ (body),
    };
    const repeatable = method === 'GET' || 'Idempotency-Key' in headers;
    for (let left = PATIENCE; ; left--) {
      const response = await this.fetch(this.url(path), init).catch(() => null);
      if (response?.ok) return response;
      const pause = response ? Number(response.headers.get('Retry-After') ?? (response.status === 429 ? 1 : NaN)) : repeatable ? 1 : NaN;
      if (!(pause <= LONGEST_WAIT) || left <= 0) throw new ApiError(await problemOf(response));
      await this.wait(pause);
    }
  }

  /** @param {string} method @param {string} path @param {BodyInit | object | null} body @param {Record<string, string>} headers */
  async json(method, path, body = null, headers = {}) {
    const response = await this.request(method, path, body, headers);
    return response.status === 204 ? null : response.json();
  }

  /** @param {string} token */
  login(token) {
    return this.json('POST', 'api/login', { token });
  }

  /** @returns {Promise<any[]>} */
  models() {
    return this.json('GET', 'api/models');
  }

  /** @returns {Promise<any[]>} */
  sessions() {
    return this.json('GET', 'api/sessions');
  }

  /** @param {string} id @returns {Promise<SessionFacts>} */
  session(id) {
    return this.json('GET', `api/sessions/${id}`);
  }

  /**
   * A session from a picture, or generated. @param {object} settings @param {Blob | null} picture
   * @returns {Promise<{id: string, job: number}>}
   */
  create(settings, picture) {
    return this.json('POST', 'api/sessions', form({ settings, picture }), once());
  }

  /**
   * @param {string} id @param {'edits' | 'variants'} what @param {object} settings @param {import('./packed.js').Files} files
   * @param {string} [key] two requests of one key count once
   * @returns {Promise<{job: number}>}
   */
  edit(id, what, settings, files, key) {
    return this.json('POST', `api/sessions/${id}/${what}`, form({ settings, ...files }), once(key));
  }

  /** What a job does, or how it ended; fails as the job did. @param {string} id @param {number} job @returns {Promise<{state: string}>} */
  job(id, job) {
    return this.json('GET', `api/sessions/${id}/jobs/${job}`);
  }

  /** Goes to a version. The pixels come over the socket, in their order, so the reply's are thrown away. @param {string} id @param {number} version */
  async head(id, version) {
    const response = await this.request('POST', `api/sessions/${id}/head`, { version });
    await response.arrayBuffer();
  }

  /** @param {string} id @param {number} version @param {string} name */
  name(id, version, name) {
    return this.json('POST', `api/sessions/${id}/versions/${version}/name`, { name });
  }

  /** @param {string} id @param {number} job */
  cancel(id, job) {
    return this.json('DELETE', `api/sessions/${id}/jobs/${job}`);
  }

  /** A version's PNG. @param {string} id @param {number} version @param {'' | 'thumb' | 'thumb=change' | 'input' | 'instances'} kind */
  png(id, version, kind = '') {
    if (kind === 'instances') return this.url(`api/sessions/${id}/versions/${version}/instances.png`);
    return this.url(`api/sessions/${id}/versions/${version}.png${kind && `?${kind}`}`);
  }

  /** What brings a picture from one version of a canvas to another. @param {string} id @param {number} version @param {number} since */
  difference(id, version, since) {
    return this.bytes(this.url(`api/sessions/${id}/versions/${version}/difference?since=${since}`));
  }

  /** A version as a file to keep, of a canvas with all that its file had. @param {string} id @param {number} version @param {string} format @param {number} quality from 0 to 1, of all but PNG */
  file(id, version, format, quality) {
    return this.url(`api/sessions/${id}/versions/${version}.png?file&format=${format}&quality=${Math.round(95 * quality)}`);
  }

  /** Tells what is looked at of a canvas. @param {string} id @param {import('./types.js').Rect} rect @returns {Promise<import('./types.js').Looking>} */
  look(id, rect) {
    return this.json('POST', `api/sessions/${id}/view`, { rect });
  }

  /** @param {string} id @param {object} settings @returns {Promise<{job: number}>} */
  expand(id, settings) {
    return this.json('POST', `api/sessions/${id}/expand`, settings, once());
  }

  /** @param {string} address */
  async bytes(address) {
    return new Uint8Array(await (await this.request('GET', address)).arrayBuffer());
  }

  /** A session from its archive. @param {Blob} archive @returns {Promise<{id: string}>} */
  restore(archive) {
    const made = new FormData();
    made.append('archive', archive, 'session.zip');
    return this.json('POST', 'api/archives', made);
  }

  /** How far a version may be off, in grey levels; null: nothing is known. @param {string} id @param {number} version @returns {Promise<{version: number, error: number | null}>} */
  error(id, version) {
    return this.json('GET', `api/sessions/${id}/versions/${version}/error`);
  }

  /** What the last edit computed. @param {string} id @param {boolean} timed whether it is computed again, to time its layers @returns {Promise<any>} */
  explain(id, timed = false) {
    return this.json('GET', `api/sessions/${id}/explain${timed ? '?timed=true' : ''}`);
  }
}

/** So that a request that is repeated counts once. */
const once = (/** @type {string} */ key = crypto.randomUUID()) => ({ 'Idempotency-Key': key });

/** @param {{settings: object, [files: string]: object | Blob | Blob[] | null}} parts */
function form({ settings, ...files }) {
  const made = new FormData();
  made.append('settings', JSON.stringify(settings));
  for (const [name, some] of Object.entries(files)) for (const file of [some].flat()) if (file instanceof Blob) made.append(name, file, `${name}.png`);
  return made;
}

/** @param {Response | null} response @returns {Promise<Problem>} */
async function problemOf(response) {
  if (!response) return { status: 0, title: 'The server cannot be reached', detail: 'The server cannot be reached. Is it still running?' };
  const said = await response.json().catch(() => ({}));
  return { title: response.statusText, ...said, status: response.status };
}
