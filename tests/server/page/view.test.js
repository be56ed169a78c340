import assert from 'node:assert/strict';
import { test } from 'node:test';
import { css, fit, grown, LARGEST, move, pinch, shown, toPicture, toScreen } from '../../../src/retouch/server/static/js/view.js';

const VIEW = { scale: 2.5, angle: 0.7, x: 31, y: -12 };
const near = (a, b) => assert.ok(Math.hypot(a.x - b.x, a.y - b.y) < 1e-9, `${a.x},${a.y} is not ${b.x},${b.y}`);

test('screen and picture are inverse', () => {
  for (const p of [{ x: 0, y: 0 }, { x: 100, y: 7 }, { x: -3, y: 55.5 }]) near(toPicture(VIEW, toScreen(VIEW, p)), p);
});

test('the transform of CSS is what toScreen computes', () => {
  const [, x, y, angle, scale] = /translate\((.+)px, (.+)px\) rotate\((.+)rad\) scale\((.+)\)/.exec(css(VIEW)).map(Number);
  near(toScreen({ x, y, angle, scale }, { x: 3, y: 4 }), toScreen(VIEW, { x: 3, y: 4 }));
});

test('what is under the pointer stays there when zooming and turning', () => {
  const at = { x: 200, y: 120 };
  near(toPicture(move(VIEW, at, at, 7, 2), at), toPicture(VIEW, at));
  assert.equal(move(VIEW, at, at, 1e9).scale, LARGEST);
});

test('both fingers keep what is under them', () => {
  const [a0, b0, a1, b1] = [[10, 10], [110, 40], [60, 0], [40, 210]].map(([x, y]) => ({ x, y }));
  const after = pinch(VIEW, a0, b0, a1, b1);
  near(toPicture(after, a1), toPicture(VIEW, a0));
  near(toPicture(after, b1), toPicture(VIEW, b0));
});

test('fit shows the whole picture in the middle, small ones enlarged', () => {
  const stage = { width: 800, height: 600 };
  const large = fit({ width: 2048, height: 1024 }, stage);
  assert.ok(large.scale * 2048 <= 800 && large.scale * 1024 <= 600);
  near(toScreen(large, { x: 1024, y: 512 }), { x: 400, y: 300 });
  assert.equal(fit({ width: 64, height: 64 }, stage).scale, 8);
});

test('what is in sight lies in the picture, and is null where nothing of it is', () => {
  const stage = { width: 100, height: 60 };
  const picture = { width: 400, height: 300 };
  assert.deepEqual(shown({ scale: 2, angle: 0, x: -40, y: -20 }, stage, picture).map((n) => Math.round(n / 4) * 4), [20, 12, 52, 32]);
  assert.deepEqual(shown({ scale: 0.1, angle: 0.4, x: 30, y: 10 }, stage, picture), [0, 0, 400, 300]);
  assert.equal(shown({ scale: 1, angle: 0, x: 500, y: 0 }, stage, picture), null);
});

test('a picture that grows on its left and top stays where it is', () => {
  const after = grown(VIEW, 16, 9);
  near(toScreen(after, { x: 3 + 16, y: 4 + 9 }), toScreen(VIEW, { x: 3, y: 4 }));
});
