/** How long work will take yet, by how long its parts took so far; of one part alone, by what the server predicts. */
export class Pace {
  #total = 0;
  #from = 0;
  #since = 0;
  #expected = 0;
  /** When it ends, in milliseconds; null: nothing is known yet. @type {number | null} */ #end = null;

  /** @param {number} seconds in all, 0 where nobody knows */
  expect(seconds) {
    this.#expected = 1000 * seconds;
    if (this.#end === null) this.#alone();
  }

  /** So many of all parts are done; another number of them is other work. @param {number} done @param {number} total @param {number} now in milliseconds */
  told(done, total, now) {
    if (total !== this.#total || done < this.#from) {
      [this.#total, this.#from, this.#since, this.#end] = [total, done, now, null];
      this.#alone();
    } else if (done > this.#from) this.#end = now + ((now - this.#since) * (total - done)) / (done - this.#from);
  }

  #alone() {
    if (this.#total === 1 && !this.#from && this.#expected) this.#end = this.#since + this.#expected;
  }

  /** Seconds, null where nobody knows. @param {number} now in milliseconds */
  left(now) {
    return this.#end === null ? null : Math.max((this.#end - now) / 1000, 0);
  }
}
