import assert from 'node:assert/strict';
import { test } from 'node:test';

const at = '../../../src/retouch/server/static/js/';
const { Areas } = await import(`${at}areas.js`);
const { millisecondsOf, sorted } = await import(`${at}grids.js`);
const { idsOf, instancesOf } = await import(`${at}instances.js`);
const { Picture } = await import(`${at}picture.js`);
const { middle } = await import(`${at}rects.js`);
const { labelled } = await import(`${at}samples.js`);
const { Tiles } = await import(`${at}tiles.js`);
const { looked, made } = await import(`${at}words.js`);

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

test('paint moves along when the picture gets another size, and is cut at its edge', () => {
  const layer = new Tiles(100, 80, 1);
  for (const [x, y] of [[3, 4], [90, 70]]) layer.writable(Math.floor(y / 64) * 2 + Math.floor(x / 64))[(y % 64) * 64 + (x % 64)] = 200;
  const larger = layer.moved(150, 90, 20, 5);
  assert.deepEqual(larger.bounds(), [23, 9, 88, 67]);
  assert.deepEqual([...larger.read([110, 75, 1, 1])], [200]);
  assert.deepEqual(larger.moved(100, 60, -20, -5).bounds(), [3, 4, 1, 1]);
  assert.ok(new Tiles(9, 9, 4).moved(20, 20, 1, 1).isEmpty);
});

test('a picture is placed in another as far as it lies inside', () => {
  const [small, large] = [new Picture(2, 2, new Uint8Array(12).fill(7)), new Picture(3, 3)];
  large.place(small, -1, 2);
  assert.deepEqual([...large.data].map((value, i) => value && i), [...Array(27).keys()].map((i) => (i >= 18 && i < 21 ? i : 0)));
  large.place(small, 5, 5);
});

test('the line under the prompt says which viewport, and how', () => {
  const viewport = { rect: [0, 0, 512, 512], scale: 1, way: 'sparse', why: '' };
  assert.equal(made({ viewport, seconds: 0.93 }), 'Last edit: viewport 512 px at 1:1, 0.9\u00a0s; recorded before');
  assert.equal(made({ viewport: { ...viewport, scale: 0.5, rect: [0, 0, 1024, 900], way: 'dense' }, seconds: 12 }), 'Last edit: viewport 1024 x 900 px at 1:2, 12\u00a0s; not recorded');
  assert.equal(made({ viewport: null, seconds: 1 }), '');
  assert.equal(looked({ viewport, state: 'recording', done: 3, total: 10 }), 'Here: viewport 512 px at 1:1, being recorded (30 %)');
  assert.match(looked({ viewport: null, state: 'none' }), /Zoom in/);
});

test('colours become the nearest labels', () => {
  const picture = new Picture(2, 1, new Uint8Array([110, 170, 220, 120, 130, 125]));
  assert.deepEqual([...labelled(picture, LABELS)], [0, 7]);
});

test('the middle of a rectangle lies in it', () => {
  assert.deepEqual(middle([10, 20, 30, 18], 2 / 3), [15, 23, 20, 12]);
  assert.deepEqual(middle([5, 5, 1, 1], 2 / 3), [5, 5, 1, 1]);
});
