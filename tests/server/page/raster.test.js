import assert from 'node:assert/strict';
import { test } from 'node:test';
import { composite, flatten, Step, tint } from '../../../src/retouch/server/static/js/paint.js';
import { Picture } from '../../../src/retouch/server/static/js/picture.js';
import { ellipse, flood, outline, Path, polygon, rectangle, segment } from '../../../src/retouch/server/static/js/raster.js';
import { around, intersect, union } from '../../../src/retouch/server/static/js/rects.js';
import { TILE, Tiles } from '../../../src/retouch/server/static/js/tiles.js';

const cover = (width = 200, height = 150) => new Tiles(width, height, 1);
const total = (tiles) => tiles.read(tiles.whole).reduce((sum, value) => sum + value, 0) / 255;
const at = (tiles, x, y) => tiles.read([x, y, 1, 1])[0];
const within = (value, expected, share) => assert.ok(Math.abs(value - expected) <= share * expected, `${value}, not ${expected}`);

test('rectangles: union, intersection, around points', () => {
  assert.deepEqual(union([0, 0, 2, 2], [5, 1, 1, 4]), [0, 0, 6, 5]);
  assert.deepEqual(union(null, [1, 2, 3, 4]), [1, 2, 3, 4]);
  assert.equal(intersect([0, 0, 2, 2], [2, 0, 2, 2]), null);
  assert.deepEqual(intersect([0, 0, 5, 5], [3, 4, 9, 9]), [3, 4, 2, 1]);
  assert.equal(around([]), null);
  assert.deepEqual(around([{ x: 2.5, y: 3 }], 1), [1, 2, 4, 3]);
});

test('a dab covers the area of its circle, across tiles', () => {
  const tiles = cover();
  segment(tiles, { x: 64, y: 64, r: 20 }, { x: 64, y: 64, r: 20 }, 1);
  within(total(tiles), Math.PI * 400, 0.01);
  assert.equal(at(tiles, 64, 64), 255);
  assert.equal(at(tiles, 64, 90), 0);
});

test('a segment covers a capsule, thicker towards the larger radius', () => {
  const tiles = cover();
  const changed = segment(tiles, { x: 30, y: 40, r: 5 }, { x: 130, y: 40, r: 5 }, 1);
  within(total(tiles), 100 * 10 + Math.PI * 25, 0.01);
  assert.deepEqual(intersect(tiles.bounds(), changed), tiles.bounds());
  const cone = cover();
  segment(cone, { x: 30, y: 40, r: 2 }, { x: 130, y: 40, r: 10 }, 1);
  assert.ok(at(cone, 120, 47) > 0 && at(cone, 40, 47) === 0);
});

test('a soft brush falls from the middle, a hard one at its edge', () => {
  const [soft, hard] = [cover(), cover()];
  segment(soft, { x: 50, y: 50, r: 20 }, { x: 50, y: 50, r: 20 }, 0);
  segment(hard, { x: 50, y: 50, r: 20 }, { x: 50, y: 50, r: 20 }, 1);
  const values = [50, 55, 60, 65].map((x) => at(soft, x, 50));
  assert.deepEqual(values, [...values].sort((a, b) => b - a));
  assert.ok(values[3] < 60 && at(hard, 65, 50) === 255);
});

test('coverage beyond the border is left away', () => {
  const tiles = cover(70, 70);
  segment(tiles, { x: -5, y: -5, r: 10 }, { x: 80, y: 80, r: 10 }, 1);
  assert.deepEqual(tiles.bounds(), [0, 0, 70, 70]);
  assert.equal(segment(tiles, { x: 500, y: 0, r: 3 }, { x: 500, y: 9, r: 3 }, 1), null);
});

test('polygons: rectangle, ellipse, outline, a hole by the even-odd rule', () => {
  const tiles = cover();
  polygon(tiles, rectangle({ x: 10.5, y: 20 }, { x: 110, y: 60.25 }));
  within(total(tiles), 99.5 * 40.25, 0.001);
  const round = cover();
  polygon(round, ellipse({ x: 20, y: 20 }, { x: 120, y: 100 }));
  within(total(round), Math.PI * 50 * 40, 0.005);
  const line = cover();
  outline(line, rectangle({ x: 20, y: 20 }, { x: 100, y: 80 }), 2);
  within(total(line), 4 * 280, 0.02);
  assert.equal(at(line, 60, 50), 0);
  const star = cover();
  const [a, b] = [rectangle({ x: 10, y: 10 }, { x: 90, y: 90 }), rectangle({ x: 30, y: 30 }, { x: 60, y: 60 })];
  polygon(star, [...a, a[0], ...b, b[0]]);
  assert.equal(at(star, 45, 45), 0);
  assert.equal(at(star, 20, 50), 255);
});

test('flood fills what is connected and alike, and stops at other colours', () => {
  const picture = new Picture(100, 80);
  for (let y = 0; y < 80; y++) picture.put([50, y, 1, 1], new Uint8Array([200, 0, 0]));
  picture.put([60, 0, 1, 1], new Uint8Array([4, 4, 4]));
  const tiles = new Tiles(100, 80, 1);
  assert.deepEqual(flood(tiles, picture.data, { x: 10, y: 10 }, 8), [0, 0, 50, 80]);
  assert.equal(total(tiles), 50 * 80);
  const exact = new Tiles(100, 80, 1);
  flood(exact, picture.data, { x: 70, y: 40 }, 0);
  assert.equal(total(exact), 49 * 80 - 1);
});

test('flood turns corners', () => {
  const picture = new Picture(30, 30);
  for (let y = 0; y < 30; y += 2) {
    for (let x = 0; x < 30; x++) if (x !== (y % 4 ? 0 : 29)) picture.put([x, y + 1 < 30 ? y + 1 : y, 1, 1], new Uint8Array([255, 255, 255]));
  }
  const tiles = new Tiles(30, 30, 1);
  flood(tiles, picture.data, { x: 5, y: 0 }, 0);
  const black = picture.data.filter((value, i) => i % 3 === 0 && value === 0).length;
  assert.equal(total(tiles), black);
});

test('a smoothed path starts and ends where the pen did, and is smoother', () => {
  const zigzag = Array.from({ length: 20 }, (_, i) => ({ x: 10 * i, y: i % 2 ? 8 : 0, pressure: 1 }));
  const rough = (smoothing) => {
    const path = new Path(smoothing);
    const points = zigzag.flatMap((pen) => path.add(pen));
    points.push(...path.end(zigzag.at(-1)));
    assert.deepEqual([points[0], points.at(-1)], [zigzag[0], zigzag.at(-1)]);
    return points.slice(1).reduce((sum, p, i) => sum + Math.abs(p.y - points[i].y), 0);
  };
  assert.ok(rough(0.8) < 0.4 * rough(0));
});

test('a single touch is one dab', () => {
  const path = new Path(0);
  assert.equal(path.add({ x: 5, y: 6, pressure: 1 }).length, 1);
  assert.deepEqual(path.end({ x: 5, y: 6, pressure: 1 }), []);
});

const dab = (step, x, y, r = 10) => step.update(segment(step.cover, { x, y, r }, { x, y, r }, 1));
const RED = { kind: 'colour', colour: [255, 0, 0] };

test('opacity holds over a whole stroke, and two strokes add up', () => {
  const layer = new Tiles(100, 100, 4);
  const step = new Step(layer, RED, 0.5);
  dab(step, 50, 50);
  dab(step, 52, 50);
  step.commit();
  assert.deepEqual([...layer.read([50, 50, 1, 1])], [255, 0, 0, 128]);
  const second = new Step(layer, { kind: 'colour', colour: [0, 0, 255] }, 0.5);
  dab(second, 50, 50);
  second.commit();
  const [r, , b, alpha] = layer.read([50, 50, 1, 1]);
  assert.ok(alpha === 191 || alpha === 192, `${alpha}`);
  within(b / r, 2, 0.03);
});

test('erasing, undo and redo by tiles', () => {
  const layer = new Tiles(300, 300, 4);
  const step = new Step(layer, RED, 1);
  dab(step, 64, 64);
  step.commit();
  const painted = layer.read(layer.whole);
  const gum = new Step(layer, { kind: 'erase' }, 1);
  dab(gum, 64, 64, 20);
  gum.commit();
  assert.equal(layer.bounds(), null);
  assert.deepEqual(layer.undo(), [0, 0, 128, 128]);
  assert.deepEqual(layer.read(layer.whole), painted);
  layer.undo();
  assert.ok(layer.isEmpty && !layer.canUndo);
  layer.redo();
  assert.deepEqual(layer.read(layer.whole), painted);
  assert.ok(layer.nbytes <= 3 * 4 * 4 * TILE * TILE, 'only touched tiles are kept');
});

test('an aborted step leaves everything as it was', () => {
  const layer = new Tiles(100, 100, 4);
  const first = new Step(layer, RED, 1);
  dab(first, 30, 30);
  first.commit();
  const before = layer.read(layer.whole);
  const second = new Step(layer, { kind: 'colour', colour: [0, 255, 0] }, 1);
  dab(second, 35, 30);
  assert.notDeepEqual(layer.read(layer.whole), before);
  assert.ok(second.abort());
  assert.deepEqual(layer.read(layer.whole), before);
});

test('the clone stamp paints moved pixels, and nothing from beyond the border', () => {
  const picture = new Picture(100, 100);
  picture.data.forEach((_, i) => (picture.data[i] = i % 251));
  const layer = new Tiles(100, 100, 4);
  const step = new Step(layer, { kind: 'from', picture, dx: -40, dy: 3 }, 1);
  dab(step, 45, 50);
  assert.deepEqual([...layer.read([48, 50, 1, 1])].slice(0, 3), [...picture.data.subarray((53 * 100 + 8) * 3, (53 * 100 + 8) * 3 + 3)]);
  assert.equal(layer.read([37, 50, 1, 1])[3], 0);
});

test('labels are painted whole or not at all', () => {
  const layer = new Tiles(100, 100, 4);
  const step = new Step(layer, { kind: 'colour', colour: [1, 2, 3] }, 0.3, true);
  dab(step, 50.3, 50.7);
  const alphas = layer.read(layer.whole).filter((_, i) => i % 4 === 3);
  assert.deepEqual([...new Set(alphas)].sort(), [0, 255]);
});

test('a soft mask keeps the larger value; the eraser lowers it', () => {
  const mask = new Tiles(100, 100, 1);
  for (const opacity of [0.8, 0.3]) {
    const step = new Step(mask, RED, opacity);
    dab(step, 50, 50);
    step.commit();
  }
  assert.equal(mask.read([50, 50, 1, 1])[0], 204);
  const gum = new Step(mask, { kind: 'erase' }, 0.5);
  dab(gum, 50, 50);
  assert.equal(mask.read([50, 50, 1, 1])[0], 102);
  assert.deepEqual([...tint([mask], [50, 50, 1, 1], [9, 8, 7], 0.5)], [9, 8, 7, 51]);
});

test('layers over each other, and over the picture', () => {
  const picture = new Picture(70, 70);
  const [low, high] = [new Tiles(70, 70, 4), new Tiles(70, 70, 4)];
  const first = new Step(low, RED, 1);
  dab(first, 30, 30);
  first.commit();
  const second = new Step(high, { kind: 'colour', colour: [0, 0, 255] }, 0.5);
  dab(second, 30, 30);
  second.commit();
  const [r, , b] = composite(picture, [low, high]).subarray((30 * 70 + 30) * 3);
  assert.ok(Math.abs(r - 127) <= 1 && Math.abs(b - 128) <= 1);
  const flat = flatten([low, high], [30, 30, 1, 1]);
  assert.ok(flat[3] === 255 && Math.abs(flat[0] - r) <= 1);
});
