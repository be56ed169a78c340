import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateSync } from 'node:zlib';
import { parse, pixels, split } from '../../../src/retouch/server/static/js/frames.js';
import { Picture } from '../../../src/retouch/server/static/js/picture.js';
import { crc, decode, deflate, encode, inflate, rgb, texts } from '../../../src/retouch/server/static/js/png.js';

const noise = (length) => Uint8Array.from({ length }, (_, i) => (i * 7919 + (i >> 3) * 31) & 255);
const bytes = async (blob) => new Uint8Array(await blob.arrayBuffer());

for (const channels of [1, 3, 4]) {
  test(`a PNG of ${channels} channels comes back bit for bit`, async () => {
    const data = noise(37 * 23 * channels);
    const png = await bytes(await encode({ width: 37, height: 23, channels, data }));
    const read = await decode(png);
    assert.deepEqual([read.width, read.height, read.channels], [37, 23, channels]);
    assert.deepEqual(read.data, data);
  });
}

test('texts travel with it, beyond ASCII escaped as in JSON', async () => {
  const settings = JSON.stringify({ prompt: 'Käse “red”' });
  const png = await bytes(await encode({ width: 1, height: 1, channels: 3, data: noise(3), text: { retouch: settings } }));
  assert.deepEqual(JSON.parse(texts(png).retouch), JSON.parse(settings));
});

test('CRC-32 and zlib are the standard ones', async () => {
  assert.equal(crc(new TextEncoder().encode('123456789')), 0xcbf43926);
  const data = noise(5000);
  assert.deepEqual(await inflate(new Uint8Array(deflateSync(data))), data);
  assert.deepEqual(await inflate(await deflate(data)), data);
});

test('what inflates to too much is refused', async () => {
  await assert.rejects(inflate(new Uint8Array(deflateSync(new Uint8Array(1e6))), 1000), RangeError);
});

test('broken PNGs are refused', async () => {
  const png = await bytes(await encode({ width: 8, height: 8, channels: 3, data: noise(192) }));
  await assert.rejects(decode(png.slice(1)), /not a PNG/);
  await assert.rejects(decode(png.slice(0, 50)), /within a chunk/);
  const short = png.slice();
  short[19] = 7;
  await assert.rejects(decode(short));
  const huge = png.slice();
  huge.set([255, 255, 255, 255], 16);
  await assert.rejects(decode(huge), RangeError);
});

test('flat paint compresses to little', async () => {
  const blob = await encode({ width: 512, height: 512, channels: 4, data: new Uint8Array(512 * 512 * 4).fill(90) });
  assert.ok(blob.size < 4000, `${blob.size}`);
});

test('grey and alpha become RGB', () => {
  assert.deepEqual([...rgb({ width: 1, height: 1, channels: 1, data: new Uint8Array([7]), text: {} })], [7, 7, 7]);
  assert.deepEqual([...rgb({ width: 1, height: 1, channels: 4, data: new Uint8Array([1, 2, 3, 4]), text: {} })], [1, 2, 3]);
});

const message = (header, body) => {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const out = new Uint8Array(4 + text.length + body.length);
  new DataView(out.buffer).setUint32(0, text.length, true);
  out.set(text, 4);
  out.set(body, 4 + text.length);
  return out.buffer;
};
const HEADER = { kind: 'result', job: 3, version: 2, rect: [1, 2, 4, 3], encoding: 'raw' };

test('a raw frame and a PNG frame give the same pixels', async () => {
  const data = noise(36);
  const raw = parse(message(HEADER, await deflate(data)));
  assert.deepEqual(raw.header, HEADER);
  assert.deepEqual(await pixels(raw), data);
  const png = await bytes(await encode({ width: 4, height: 3, channels: 3, data }));
  assert.deepEqual(await pixels(parse(message({ ...HEADER, encoding: 'png' }, png))), data);
});

test('messages that were sent back to back are told apart by their lengths', () => {
  const parts = [[5, 6, 7], [], [8]].map((body) => new Uint8Array(message({ ...HEADER, bytes: body.length }, new Uint8Array(body))));
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (joined.set(part, at), at + part.length), 0);
  assert.deepEqual(split(joined).map(({ bytes: body }) => [...body]), [[5, 6, 7], [], [8]]);
});

test('frames that are none are refused', async () => {
  const empty = new Uint8Array();
  for (const broken of [new ArrayBuffer(0), new ArrayBuffer(3), new Uint8Array([255, 255, 255, 255, 1]).buffer]) {
    assert.throws(() => parse(broken), TypeError);
  }
  assert.throws(() => parse(message({ ...HEADER, kind: 'other' }, empty)), TypeError);
  assert.throws(() => parse(message({ ...HEADER, rect: [0, 0, -1, 4] }, empty)), TypeError);
  await assert.rejects(pixels(parse(message(HEADER, await deflate(noise(35))))), TypeError);
  await assert.rejects(pixels(parse(message({ ...HEADER, encoding: 'webp' }, empty))), TypeError);
});

test('a picture: rectangles, hash, difference', async () => {
  const picture = new Picture(8, 8);
  const before = picture.copy();
  picture.put([2, 3, 2, 1], new Uint8Array([1, 2, 3, 4, 5, 6]));
  assert.deepEqual([...picture.rgba([2, 3, 2, 1])], [1, 2, 3, 255, 4, 5, 6, 255]);
  assert.notEqual(await picture.hash(), await before.hash());
  assert.deepEqual([...picture.difference(before, 10).subarray((3 * 8 + 2) * 4, (3 * 8 + 3) * 4)], [10, 20, 30, 255]);
  assert.throws(() => picture.put([7, 0, 2, 1], new Uint8Array(6)), RangeError);
  assert.throws(() => new Picture(2, 2, new Uint8Array(11)), RangeError);
});

test('what is transparent in a frame stays as it is', async () => {
  const [before, part] = [noise(6 * 5 * 3), noise(3 * 2 * 4)];
  part.forEach((_, i) => i % 4 === 3 && (part[i] = i === 7 || i === 15 ? 255 : 0));
  const png = await bytes(await encode({ width: 3, height: 2, channels: 4, data: part }));
  const header = { kind: 'result', job: 1, version: 1, rect: [2, 1, 3, 2], encoding: 'png' };
  const picture = new Picture(6, 5, before.slice());
  picture.put(header.rect, await pixels({ header, bytes: png }));
  const expected = before.slice();
  expected.set(part.subarray(4, 7), (1 * 6 + 3) * 3);
  expected.set(part.subarray(12, 15), (2 * 6 + 2) * 3);
  assert.deepEqual(picture.data, expected);
  assert.throws(() => picture.put([4, 1, 3, 2], part), RangeError);
});
