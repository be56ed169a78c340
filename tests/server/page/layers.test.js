import assert from 'node:assert/strict';
import { test } from 'node:test';

const at = '../../../src/retouch/server/static/js/';
const { Areas } = await import(`${at}areas.js`);
const { millisecondsOf, sorted } = await import(`${at}grids.js`);
const { idsOf, instancesOf } = await import(`${at}instances.js`);
const { Tiles } = await import(`${at}tiles.js`);

const LABELS = [{ index: 0, name: 'sky', colour: '#70b4e6' }, { index: 7, name: 'road', colour: [128, 128, 128] }];

/** Marks a pixel as a step. */
function mark(layer, x, y) {
  layer.begin();
  layer.writable(0)[y * 64 + x] = 255;
  layer.commit();
}

test('areas go out with an edit once they have words and a place, and are switched off then', () => {
  const areas = new Areas(64, 64);
  const [hat, beard] = [areas.add(), areas.add()];
  assert.notDeepEqual(hat.colour, beard.colour);
  assert.equal(areas.selected, beard);
  areas.set(hat, { words: 'hat' });
  mark(hat.mask, 3, 4);
  mark(beard.mask, 9, 9);
  assert.deepEqual(areas.ready, [hat]);
  assert.deepEqual(areas.bounds(), [3, 4, 1, 1]);
  areas.set(beard, { words: 'beard' });
  assert.deepEqual(areas.taken(), [hat, beard]);
  assert.deepEqual([areas.ready, areas.selected, areas.bounds()], [[], null, null]);
  areas.select(hat);
  assert.deepEqual(areas.ready, [hat]);
  areas.remove(hat);
  assert.deepEqual(areas.list, [beard]);
});

test('objects have the label that they are painted in, the largest first', () => {
  const ids = idsOf(Uint8Array.of(1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1));
  assert.deepEqual([...ids], [1, 257, 257, 65536]);
  const map = Uint8Array.of(112, 180, 230, 128, 128, 128, 128, 128, 128, 1, 2, 3);
  assert.deepEqual(instancesOf(ids, map, LABELS).map(({ id, label, count }) => [id, label.name, count]), [[257, 'road', 2], [1, 'sky', 1]]);
});

test('layers are sorted by what was measured, else predicted', () => {
  const layer = (name, milliseconds, predicted) => ({ name, milliseconds, predicted_milliseconds: predicted });
  const layers = [layer('a', null, 3), layer('b', 5, 1), layer('c', null, null)];
  assert.deepEqual(sorted(layers, millisecondsOf).map(({ name }) => name), ['b', 'a', 'c']);
  assert.equal(layers[0].name, 'a');
});

test('layers know when their last step was taken', () => {
  const [paint, mask] = [new Tiles(64, 64, 1), new Tiles(64, 64, 1)];
  assert.deepEqual([paint.undoes, paint.redoes], [-Infinity, Infinity]);
  mark(paint, 0, 0);
  mark(mask, 1, 1);
  assert.ok(mask.undoes > paint.undoes);
  const [first, second] = [paint.undoes, mask.undoes];
  mask.undo();
  paint.undo();
  assert.deepEqual([paint.redoes, mask.redoes], [first, second]);
});
