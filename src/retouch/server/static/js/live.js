/**
 * A session as this page sees it: the exact picture, the tree of versions, what was painted and not yet answered.
 * The socket's messages are worked on one after the other, so the buffer is always that of one version.
 * @import {EditSettings, Frame, Rect, SessionFacts, Version} from './types.js'
 * @import {Api} from './api.js'
 */
import { ApiError } from './api.js';
import { Areas } from './areas.js';
import { Drafts } from './drafts.js';
import { idsOf, instancesOf } from './instances.js';
import { Emitter } from './emitter.js';
import { parse, pixels, split } from './frames.js';
import { Pace } from './pace.js';
import { Picture } from './picture.js';
import { packed } from './packed.js';
import { decode, rgb } from './png.js';
import { intersect, union } from './rects.js';
import { Tiles } from './tiles.js';
import * as trees from './tree.js';
import { explain } from './words.js';

const REBASES = 4;

/**
 * @typedef {Partial<EditSettings> & {n?: number}} Wanted
 * @typedef {{paint: Tiles, mask: Tiles, areas: import('./areas.js').Area[], rect: Rect, wanted: Wanted, key: string, job: number | null, state: 'sending' | 'running' | 'held'}} Sent
 *   Paint of one edit. Held: it failed or was cancelled; it stays until it is sent again or discarded. Sent twice under one key it counts once.
 * @typedef {{job: number, kind: string, state: string, done: number, total: number, text: string, seconds: number, pace: Pace}} Work
 * @typedef {{
 *   picture: Rect, input: null, paint: Rect, tree: null, work: null, preview: {frame: Frame, layers: Sent[]},
 *   draft: {frame: Frame, stencil: import('./drafts.js').Stencil}, instances: null,
 *   resized: {left: number, top: number}, looking: null, refining: Rect, refined: number, settled: {layers: Sent[], rect: Rect}, problem: string, connection: 'open' | 'lost' | 'refused',
 * }} Events
 * @typedef {(address: () => string, handlers: import('./socket.js').Handlers) => {close: () => void, renew: () => void}} Connect
 */

/** @param {number} job @returns {Work} */
const waiting = (job) => ({ job, kind: 'edit', state: 'queued', done: 0, total: 0, text: '', seconds: 0, pace: new Pace() });

/** Whether a job makes a session, or opens it again. @param {Work} work */
const opens = ({ kind }) => kind === 'open' || kind === 'generate';

/** @extends {Emitter<Events>} */
export class Live extends Emitter {
  /** @type {Sent[]} */ sent = [];
  /** @type {Map<number, Work>} */ jobs = new Map();
  /** @type {'open' | 'lost' | 'refused'} */ connection = 'lost';
  /** The version that the buffer holds; null before the first picture. @type {number | null} */ seen = null;
  /** Rectangle of the last change. @type {Rect | null} */ changed = null;
  /** Bytes received in frames. */ received = 0;
  /** Objects of the map of labels. @type {import('./instances.js').Instance[]} */ instances = [];
  /** The object that is painted; null: a new one. @type {number | null} */ instance = null;
  #ids = new Int32Array();
  #posts = Promise.resolve();
  #messages = Promise.resolve();
  #finished = -1;
  /** What the server prepares of a canvas. @type {import('./types.js').Looking} */ looking = { viewport: null, state: 'none' };
  /** How often the picture had another size. */ shapes = 0;
  /** @type {Set<number>} */ #cancelled = new Set();
  #previews = 0;
  #inputs = 0;

  /** @param {Api} api @param {SessionFacts} facts @param {Connect} connect */
  constructor(api, facts, connect) {
    super();
    this.api = api;
    this.facts = facts;
    this.tree = facts.tree;
    this.head = facts.head;
    /** Where redo leads to. @type {number} */ this.latest = facts.head;
    const [height, width] = facts.size;
    this.picture = new Picture(width, height);
    /** What is painted on; the picture itself, but for labels and super-resolution. */
    this.input = this.hasInput ? new Picture(width / this.scale, height / this.scale) : this.picture;
    this.paint = this.#layer(4);
    this.mask = this.#layer(1);
    this.areas = new Areas(this.input.width, this.input.height);
    this.drafts = new Drafts(this);
    this.socket = connect(() => this.#address(), {
      message: (data) => this.#enqueue(data),
      state: (state) => this.#connected(state),
    });
  }

  get id() {
    return this.facts.id;
  }

  get scale() {
    return this.facts.capabilities.scale || 1;
  }

  get hasInput() {
    return this.scale > 1 || Boolean(this.facts.capabilities.labels);
  }

  /** Layers of paint from the lowest, those being computed first. */
  get paints() {
    return [...this.sent.map(({ paint }) => paint), this.paint];
  }

  /** Layers of masks. */
  get masks() {
    return [...this.sent.map(({ mask }) => mask), this.mask];
  }

  /** Whether the picture is edited in viewports, which may be anywhere. */
  get isCanvas() {
    return Boolean(this.facts.capabilities.canvas);
  }

  get hasPaint() {
    return !this.paint.isEmpty || !this.mask.isEmpty;
  }

  /** The mask that is painted: that of the selected area, else of the edit. */
  get target() {
    return this.areas.selected?.mask ?? this.mask;
  }

  /** Layers whose strokes can be taken back. */
  get layers() {
    return [this.paint, this.mask, ...this.areas.list.map(({ mask }) => mask)];
  }

  /** Where something was painted that was not sent. */
  bounds() {
    return union(this.paint.bounds(), this.mask.bounds());
  }

  get held() {
    return this.sent.filter(({ state }) => state === 'held');
  }

  /** What the server is doing: the newest job that runs, else that waits; null when it is idle. @returns {Work | null} */
  get work() {
    const jobs = [...this.jobs.values()];
    const newest = jobs.filter(({ state }) => state === 'running').at(-1) ?? jobs.at(-1);
    if (newest) return newest;
    return this.sent.some(({ state }) => state !== 'held') ? waiting(-1) : null;
  }

  /** Whether edits wait until the session is opened. */
  get waits() {
    const jobs = [...this.jobs.values()];
    return jobs.some(opens) && (this.sent.some(({ state }) => state !== 'held') || !jobs.every(opens));
  }

  close() {
    this.socket.close();
  }

  /** @param {number} channels */
  #layer(channels) {
    return new Tiles(this.input.width, this.input.height, channels);
  }

  #address() {
    const address = new URL(this.api.url(`api/sessions/${this.id}/live`));
    address.protocol = address.protocol.replace('http', 'ws');
    if (this.seen !== null) {
      address.searchParams.set('seen', String(this.seen));
      address.searchParams.set('refined', trees.find(this.tree, this.seen)?.refined ?? '');
    }
    return address.href;
  }

  // What the person asks for

  /**
   * Sends what was painted since the last time, or the words alone; what is held goes first.
   * @param {Wanted} wanted `n`: that many variants
   */
  submit(wanted) {
    for (const held of this.held) this.#send(held);
    this.drafts.end();
    const own = this.bounds();
    const rect = wanted.n ? own : union(own, this.areas.bounds());
    if (!rect && this.sent.length) return;
    /** @type {Sent} */
    const sent = { paint: this.paint, mask: this.mask, areas: wanted.n ? [] : this.areas.taken(), rect: rect ?? this.paint.whole, wanted, key: crypto.randomUUID(), job: null, state: 'sending' };
    this.paint = this.#layer(4);
    this.mask = this.#layer(1);
    this.sent.push(sent);
    this.emit('paint', sent.rect);
    this.#send(sent);
  }

  /** Posts go out in the order of strokes. @param {Sent} sent */
  #send(sent) {
    sent.state = 'sending';
    this.inOrder(() => this.#post(sent)).catch((error) => this.#refused(sent, error));
    this.emit('work', null);
  }

  /** Posts one after the other. @param {() => Promise<void>} post */
  inOrder(post) {
    const posted = this.#posts.then(post);
    this.#posts = posted.catch(() => {});
    return posted;
  }

  /** @param {Sent} sent */
  async #post(sent) {
    const { rect, wanted } = sent;
    const { settings, files } = await packed(sent);
    const { job } = await this.#rebased((base) => this.api.edit(this.id, wanted.n ? 'variants' : 'edits', { ...settings, base }, files, sent.key));
    sent.job = job;
    sent.state = 'running';
    if (job <= this.#finished) this.#settle(job, rect);
    else if (!this.jobs.has(job)) this.#note(job, { state: 'queued' });
  }

  /**
   * Another page may have moved the session on: the paint is put on its new head.
   * @template T @param {(base: number) => Promise<T>} ask @returns {Promise<T>}
   */
  async #rebased(ask) {
    for (let left = REBASES; ; left--) {
      try {
        return await ask(this.head);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 409 || left <= 0) throw error;
        const facts = await this.api.session(this.id);
        this.#grown(facts.head, facts.tree);
      }
    }
  }

  /** @param {Sent} sent @param {unknown} error */
  #refused(sent, error) {
    sent.state = 'held';
    this.emit('problem', this.#kept(error instanceof Error ? error.message : String(error)));
    this.emit('work', null);
  }

  /** What is wrong, and what can be done where paint was kept. @param {string} text */
  #kept(text) {
    return this.held.length ? `${text.replace(/\.?$/, '.')} The paint stays: Run sends it again.` : text;
  }

  /** Cancels what is being computed, edits before the opening that they wait for. The paint stays, as held. */
  async cancel() {
    await this.#posts;
    const all = [...this.jobs.values()];
    const edits = all.filter((work) => !opens(work));
    const running = (edits.length ? edits : all).map(({ job }) => job);
    for (const job of running) this.#cancelled.add(job);
    for (const job of running.reverse()) {
      await this.api.cancel(this.id, job).catch((error) => {
        if (error.status !== 409 && error.status !== 404) this.emit('problem', error.message);
      });
    }
  }

  /** Throws away what was painted and is not being computed. */
  discard() {
    this.drafts.end();
    const gone = [...this.held.flatMap(({ paint, mask }) => [paint, mask]), this.paint, this.mask];
    const rect = gone.reduce((/** @type {Rect | null} */ all, layer) => union(all, layer.extent()), null);
    this.sent = this.sent.filter(({ state }) => state !== 'held');
    this.paint = this.#layer(4);
    this.mask = this.#layer(1);
    if (rect) this.emit('paint', rect);
    this.emit('work', null);
  }

  /** Makes a version the head; the server answers all pages alike, over their sockets. @param {number} version */
  async goto(version) {
    for (const layer of this.layers) layer.forget();
    try {
      await this.api.head(this.id, version);
    } catch (error) {
      this.emit('problem', /** @type {Error} */ (error).message);
    }
  }

  /** Takes back paint, else an edit. */
  async undo() {
    const rect = this.layers.reduce((last, layer) => (layer.undoes > last.undoes ? layer : last)).undo();
    if (rect) return this.emit('paint', rect);
    if (this.work) return this.cancel();
    if (this.held.length) return this.discard();
    const before = trees.parent(this.tree, this.head);
    if (before === null) return;
    await this.goto(before);
  }

  async redo() {
    const rect = this.layers.reduce((first, layer) => (layer.redoes < first.redoes ? layer : first)).redo();
    if (rect) return this.emit('paint', rect);
    const next = trees.redo(this.tree, this.head, this.latest);
    if (next === null) return;
    const { latest } = this;
    await this.goto(next);
    this.latest = latest;
  }

  /** Tells the server what is looked at. @param {Rect} rect */
  async look(rect) {
    const found = await this.api.look(this.id, rect).catch(() => null); // nothing is lost but time
    if (found) this.#looks(found);
  }

  /** @param {import('./types.js').Looking} looking */
  #looks(looking) {
    this.looking = looking;
    this.emit('looking', null);
  }

  /** Makes the canvas larger. @param {{left: number, top: number, right: number, bottom: number}} sides @param {Wanted} words */
  async expand(sides, { prompt, negative, strength }) {
    const { job } = await this.#rebased((base) => this.api.expand(this.id, { base, ...sides, prompt, negative, strength }));
    if (job > this.#finished && !this.jobs.has(job)) this.#note(job, { state: 'queued' });
  }

  /** The exact pixels of any version; of a canvas as far as they lie in what is shown now. @param {number} version @param {'' | 'input' | 'instances'} kind */
  async version(version, kind = '') {
    if (this.isCanvas && this.seen !== null) return this.#before(version, this.seen, this.picture.copy());
    const image = await decode(await this.api.bytes(this.api.png(this.id, version, kind)));
    return new Picture(image.width, image.height, rgb(image));
  }

  /** @param {number} version @param {number} seen @param {Picture} shown */
  async #before(version, seen, shown) {
    const frames = split(await this.api.difference(this.id, version, seen));
    const { size, moved } = frames[0].header;
    const [left, top] = moved ?? [0, 0];
    let own = shown;
    if (size && moved) {
      own = new Picture(size[1], size[0]);
      own.place(shown, left, top);
    }
    for (const frame of frames) if (frame.header.rect[2]) own.put(frame.header.rect, await pixels(frame));
    if (own !== shown) shown.place(own, -left, -top);
    return shown;
  }

  /** Paints one of the objects that there are, or new ones. @param {number | null} instance */
  choose(instance) {
    this.instance = instance;
    this.emit('instances', null);
  }

  /** The object at a place of the map. @param {import('./types.js').Point} at */
  objectAt({ x, y }) {
    return this.#ids[Math.floor(y) * this.input.width + Math.floor(x)] ?? null;
  }

  /** Where an object is. @param {number} instance */
  maskOf(instance) {
    return { width: this.input.width, height: this.input.height, active: Uint8Array.from(this.#ids, (id) => Number(id === instance)) };
  }

  // What the server says

  /** @param {'open' | 'lost' | 'refused'} state */
  #connected(state) {
    this.connection = state;
    this.emit('connection', state);
  }

  /** @param {string | ArrayBuffer} data */
  #enqueue(data) {
    try {
      if (typeof data === 'string') {
        const event = JSON.parse(data);
        this.#messages = this.#messages.then(() => this.#event(event));
        return;
      }
      this.received += data.byteLength;
      const frame = parse(data);
      const preview = frame.header.kind === 'preview' ? ++this.#previews : 0;
      this.#messages = this.#messages.then(() => (preview ? this.#preview(frame, preview) : this.#exact(frame))).catch(() => this.#afresh());
    } catch {
      this.#afresh();
    }
  }

  /** What came cannot be read: the whole picture is asked for. */
  #afresh() {
    this.seen = null;
    this.socket.renew();
  }

  /** @param {any} event */
  #event(event) {
    if (event.event === 'hello') this.#hello(event.session);
    else if (event.event === 'tree') this.#grown(event.head, event.tree);
    else if (event.event === 'progress') this.drafts.owns(event.job) || this.#note(event.job, { state: 'running', done: event.done, total: event.total, text: event.text ?? '' });
    else if (event.event === 'job') this.#job(event);
    else if (event.event === 'viewport') this.#looks(event);
    else if (event.event === 'problem') this.emit('problem', explain(event.error));
  }

  /** @param {SessionFacts & {jobs?: (Partial<Work> & {job: number})[]}} facts */
  #hello(facts) {
    this.facts = facts;
    this.jobs.clear();
    for (const work of facts.jobs ?? []) if (work.kind !== 'draft') this.#note(work.job, work);
    const known = new Set((facts.jobs ?? []).map(({ job }) => job));
    const away = this.sent.filter(({ job, state }) => state === 'running' && job !== null && !known.has(job));
    this.#missed(away);
    this.#grown(facts.head, facts.tree);
    this.emit('work', null);
  }

  /** What became of edits that ended while the page was away; those that the server lost are sent again. @param {Sent[]} away */
  async #missed(away) {
    for (const sent of away) {
      const job = /** @type {number} */ (sent.job);
      await this.api.job(this.id, job).then(
        () => this.#settle(job, sent.rect),
        (error) => (error.status === 404 ? this.#send(sent) : this.#refused(sent, error)),
      );
    }
  }

  /** Why one of the jobs that go on here has failed, as far as this page knows; null: none has. @returns {Promise<ApiError | null>} */
  async failure() {
    for (const job of this.jobs.keys()) {
      const failed = await this.api.job(this.id, job).then(() => null, (error) => (error.status === 404 ? null : error));
      if (failed) return failed;
    }
    return null;
  }

  /** @param {number} head @param {Version[]} tree */
  #grown(head, tree) {
    this.tree = tree;
    if (head !== this.head || !trees.find(tree, this.latest)) this.latest = head;
    const moved = head !== this.head;
    this.head = head;
    this.emit('tree', null);
    if (moved) this.#refreshInput();
  }

  /** @param {{job: number, state: string, kind?: string, seconds?: number, error?: import('./types.js').Problem}} event */
  #job({ job, state, kind = 'edit', seconds = 0, error }) {
    if (kind === 'draft') this.drafts.heard(job);
    if (this.drafts.owns(job)) return this.drafts.told(job, state);
    if (state === 'queued' || state === 'running') return this.#note(job, { state, kind, ...(seconds ? { seconds } : {}) });
    this.jobs.delete(job);
    if (state === 'failed' || (state === 'cancelled' && this.#cancelled.delete(job))) {
      for (const sent of this.sent) if (sent.job !== null && sent.job <= job && sent.state === 'running') sent.state = 'held';
      if (error) this.emit('problem', this.#kept(explain(error)));
    } else if (state === 'done') this.#settle(job, this.changed ?? [0, 0, 0, 0]);
    this.emit('work', null);
  }

  /** @param {number} job @param {Partial<Work>} news */
  #note(job, news) {
    const work = { ...(this.jobs.get(job) ?? waiting(job)), ...news };
    if (news.seconds) work.pace.expect(news.seconds);
    if (news.total) work.pace.told(work.done, work.total, performance.now());
    this.jobs.set(job, work);
    this.emit('work', null);
  }

  /** @param {Frame} frame @param {number} number */
  #preview(frame, number) {
    if (number !== this.#previews) return;
    const { job } = frame.header;
    if (job !== null && this.drafts.owns(job)) {
      const stencil = this.drafts.stencil(job);
      if (stencil && !this.sent.length) this.emit('draft', { frame, stencil });
      return;
    }
    this.emit('preview', { frame, layers: this.sent.filter((sent) => job !== null && sent.job !== null && sent.job <= job) });
  }

  /** @param {Frame} frame */
  async #exact(frame) {
    const { kind, rect, version, job, size, moved } = frame.header;
    const [left, top, width, height] = rect;
    const data = await pixels(frame);
    if (size && (moved || size[0] !== this.picture.height || size[1] !== this.picture.width)) this.#resize(size, moved ?? null);
    if (!size && this.seen === null && kind === 'picture' && !left && !top && (width !== this.picture.width || height !== this.picture.height)) {
      throw new RangeError(`a picture of ${width}x${height} for a session of ${this.picture.width}x${this.picture.height}`);
    }
    if (kind === 'refined') this.emit('refining', rect);
    if (width && height) this.picture.put(rect, data);
    const first = this.seen === null;
    this.seen = version;
    if (version !== null && (version !== this.head || first)) {
      this.head = version;
      this.latest = version;
      this.#refreshInput();
    }
    if (kind === 'refined' && version !== null) this.emit('refined', version);
    if (kind !== 'picture') this.changed = intersect(rect, this.picture.whole);
    if (width && height) this.emit('picture', rect);
    if (job !== null && (kind === 'result' || kind === 'refined')) this.#settle(job, rect);
    this.emit('tree', null);
  }

  /** The picture gets another size; paint moves along. @param {[number, number]} size @param {[number, number] | null} moved where what was there comes to */
  #resize([height, width], moved) {
    const old = this.picture;
    const [left, top] = moved ?? [0, 0];
    this.facts = { ...this.facts, size: /** @type {[number, number]} */ ([height, width]) };
    this.input = this.picture = new Picture(width, height);
    if (moved) this.picture.place(old, left, top);
    const along = (/** @type {Tiles} */ layer) => layer.moved(width, height, left, top);
    [this.paint, this.mask] = [along(this.paint), along(this.mask)];
    this.areas.moved(width, height, left, top);
    for (const sent of this.sent) {
      const [x, y, across, down] = sent.rect;
      Object.assign(sent, { paint: along(sent.paint), mask: along(sent.mask), rect: [x + left, y + top, across, down] });
    }
    this.shapes++;
    this.looking = { viewport: null, state: 'none' };
    this.emit('resized', { left, top });
  }

  /** What was sent up to this job is in the picture. @param {number} job @param {Rect} rect */
  #settle(job, rect) {
    this.#finished = Math.max(this.#finished, job);
    const layers = this.sent.filter((sent) => sent.job !== null && sent.job <= job && sent.state === 'running');
    if (!layers.length) return;
    this.sent = this.sent.filter((sent) => !layers.includes(sent));
    for (const layer of layers) this.emit('paint', layer.rect);
    this.emit('settled', { layers, rect });
    this.emit('work', null);
  }

  async #refreshInput() {
    if (!this.hasInput) return;
    const wanted = ++this.#inputs;
    const input = await this.version(this.head, 'input').catch((error) => this.emit('problem', error.message));
    if (!input || wanted !== this.#inputs) return;
    this.input = input;
    this.emit('input', null);
    const { instances, labels } = this.facts.capabilities;
    if (!instances) return;
    const ids = await this.version(this.head, 'instances').catch((error) => this.emit('problem', error.message));
    if (!ids || wanted !== this.#inputs) return;
    this.#ids = idsOf(ids.data);
    this.instances = instancesOf(this.#ids, input.data, labels ?? []);
    if (this.instances.every(({ id }) => id !== this.instance)) this.instance = null;
    this.emit('instances', null);
  }
}
