import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromHSV, toHex, toHSV, toRGB } from '../../../src/retouch/server/static/js/colour.js';
import { actionOf, BINDINGS, written } from '../../../src/retouch/server/static/js/keys.js';
import { Pace } from '../../../src/retouch/server/static/js/pace.js';
import { layout, parent, redo, siblings } from '../../../src/retouch/server/static/js/tree.js';
import { left, saved, size } from '../../../src/retouch/server/static/js/words.js';

const tree = (...pairs) => pairs.map(([version, parent]) => ({ version, parent }));
const place = ({ nodes }) => Object.fromEntries(nodes.map(({ version, column, row }) => [version.version, [column, row]]));

test('one line of edits is one row', () => {
  const { columns, rows, ...rest } = layout(tree([0, null], [1, 0], [2, 1]));
  assert.deepEqual(place(rest), { 0: [0, 0], 1: [1, 0], 2: [2, 0] });
  assert.deepEqual([columns, rows, rest.edges.length], [3, 1, 2]);
});

test('branches get rows of their own, in the order in which they were made', () => {
  const { rows, ...rest } = layout(tree([0, null], [1, 0], [2, 1], [3, 0], [4, 1], [5, 3]));
  assert.deepEqual(place(rest), { 0: [0, 0], 1: [1, 0], 2: [2, 0], 4: [2, 1], 3: [1, 2], 5: [2, 2] });
  assert.equal(rows, 3);
});

test('no two versions stand at one place, in a large tree of random branches', () => {
  let seed = 1;
  const pairs = Array.from({ length: 500 }, (_, i) => [i, i ? (seed = (seed * 48271) % 2147483647) % i : null]);
  const { nodes } = layout(tree(...pairs));
  assert.equal(new Set(nodes.map(({ column, row }) => `${column},${row}`)).size, 500);
});

test('an empty tree, a version whose parent is gone', () => {
  assert.deepEqual(layout([]), { nodes: [], edges: [], columns: 0, rows: 0 });
  assert.deepEqual(place(layout(tree([4, 2], [5, 4]))), { 4: [0, 0], 5: [1, 0] });
});

test('undo, redo, what may be chosen instead', () => {
  const branches = tree([0, null], [1, 0], [2, 1], [3, 0], [4, 3]);
  assert.deepEqual([parent(branches, 2), parent(branches, 0)], [1, null]);
  assert.equal(redo(branches, 0, 2), 1);
  assert.equal(redo(branches, 0, null), 3);
  assert.equal(redo(branches, 4, 4), null);
  assert.deepEqual(siblings(branches, 1).map((v) => v.version), [1, 3]);
  assert.deepEqual(siblings(branches, 0), []);
});

const press = (key, held = {}) => ({ key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...held });

test('keys', () => {
  assert.equal(actionOf(press('b')), 'tool:brush');
  assert.equal(actionOf(press('z', { ctrlKey: true })), 'undo');
  assert.equal(actionOf(press('Z', { metaKey: true, shiftKey: true })), 'redo');
  assert.equal(actionOf(press('?', { shiftKey: true })), 'keys');
  assert.equal(actionOf(press('{', { shiftKey: true })), 'softer');
  assert.equal(actionOf(press('b', { altKey: true })), null);
  assert.equal(actionOf(press('Tab')), null);
  assert.equal(written(press('F2')), 'F2');
  const keys = BINDINGS.flatMap((binding) => binding.keys);
  assert.equal(new Set(keys).size, keys.length, 'each key does one thing');
});

test('what an edit saved, in words', () => {
  const facts = { seconds: 0.4213, saved: 18.2, share: 0.0213, estimate: 3 };
  assert.equal(saved(facts), '0.42 s, 18x, 2.1 % of the arithmetic, error about 3 levels');
  assert.equal(saved({ seconds: 12.34, saved: null, share: null, estimate: 0 }), '12.3 s, no error');
  assert.equal(size(2.5e6), '2.5 MB');
});

test('colours', () => {
  for (const rgb of [[0, 0, 0], [255, 255, 255], [12, 200, 99], [250, 3, 4], [30, 20, 220]]) {
    assert.deepEqual(fromHSV(...toHSV(rgb)), rgb);
    assert.deepEqual(toRGB(toHex(rgb)), rgb);
  }
  assert.throws(() => toRGB('red'), TypeError);
});

test('the time left follows from the parts that are done, and begins anew with other work', () => {
  const pace = new Pace();
  pace.told(0, 100, 1000);
  assert.equal(pace.left(1000), null);
  pace.told(20, 100, 3000);
  assert.equal(pace.left(3000), 8);
  assert.equal(pace.left(5000), 6);
  assert.equal(pace.left(99000), 0);
  pace.told(50, 100, 4000);
  assert.equal(pace.left(4000), 3);
  pace.told(0, 12, 5000);
  assert.equal(pace.left(5000), null);
  pace.told(0, 1, 100000);
  assert.equal(pace.left(100000), null);
  pace.expect(8);
  assert.equal(pace.left(101000), 7);
  pace.told(0, 10, 102000);
  assert.equal(pace.left(102000), null, 'what is predicted is of one part');
  assert.deepEqual([null, 1.4, 12.4, 200].map(left), ['', '', ', 12 s left', ', 3 min left']);
});
