/**
 * PNG from and to exact bytes (RFC 2083): 8 bits per channel, not interlaced. A canvas would change pixels: browsers
 * manage colours, multiply by alpha and may randomise what is read back.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
/** @type {Record<number, number>} */
const TYPES = { 1: 0, 3: 2, 4: 6 };
/** @type {Record<number, number>} */
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
export const LARGEST = 1 << 28;

/** @typedef {{width: number, height: number, channels: number, data: Uint8Array<ArrayBuffer>, text: Record<string, string>}} Image */

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** CRC-32 as in ISO 3309. @param {Uint8Array} bytes */
export function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {CompressionStream | DecompressionStream} stream @param {number} most */
async function through(bytes, stream, most = Infinity) {
  const writer = stream.writable.getWriter();
  const written = writer.write(bytes).then(() => writer.close());
  written.catch(() => {}); // the reader sees the same error
  const parts = [];
  let length = 0;
  const reader = stream.readable.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    length += part.value.length;
    if (length > most) throw new RangeError(`more than ${most} bytes after inflating`);
    parts.push(part.value);
  }
  await written;
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** With a zlib header (RFC 1950). @param {Uint8Array<ArrayBuffer>} bytes */
export const deflate = (bytes) => through(bytes, new CompressionStream('deflate'));

/** @param {Uint8Array<ArrayBuffer>} bytes @param {number} most bytes that may come out */
export const inflate = (bytes, most = LARGEST) => through(bytes, new DecompressionStream('deflate'), most);

/** @param {string} type @param {Uint8Array} body */
function chunk(type, body) {
  const out = new Uint8Array(body.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) out[4 + i] = type.charCodeAt(i);
  out.set(body, 8);
  view.setUint32(body.length + 8, crc(out.subarray(4, body.length + 8)));
  return out;
}

/** Rows with the filter (none, sub, up) whose sum of absolute differences is least. @param {Image} image */
function filtered({ height, channels, data, width }) {
  const stride = width * channels;
  const out = new Uint8Array((stride + 1) * height);
  const row = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    let least = Infinity;
    for (let filter = 0; filter < 3; filter++) {
      let sum = 0;
      for (let x = 0, i = y * stride; x < stride; x++, i++) {
        const behind = filter === 1 ? (x >= channels ? data[i - channels] : 0) : filter === 2 && y ? data[i - stride] : 0;
        const value = (data[i] - behind) & 255;
        row[x] = value;
        sum += value < 128 ? value : 256 - value;
      }
      if (sum >= least) continue;
      least = sum;
      out[y * (stride + 1)] = filter;
      out.set(row, y * (stride + 1) + 1);
    }
  }
  return out;
}

/**
 * @param {{width: number, height: number, channels: 1 | 3 | 4, data: Uint8Array<ArrayBuffer>, text?: Record<string, string>}} image
 *   `text`: tEXt chunks by keyword; beyond ASCII, characters are escaped as in JSON.
 */
export async function encode(image) {
  const { width, height, channels, data, text = {} } = image;
  if (data.length !== width * height * channels) throw new RangeError(`${data.length} bytes are not ${width}x${height}x${channels}`);
  const header = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 8, TYPES[channels], 0, 0, 0]);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  const texts = Object.entries(text).map(([key, value]) => chunk('tEXt', new TextEncoder().encode(`${key}\0${ascii(value)}`)));
  const body = await deflate(filtered({ width, height, channels, data, text }));
  return new Blob([new Uint8Array(SIGNATURE), chunk('IHDR', header), ...texts, chunk('IDAT', body), chunk('IEND', new Uint8Array())], { type: 'image/png' });
}

/** @param {string} value */
const ascii = (value) => value.replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** @param {Uint8Array<ArrayBuffer>} bytes */
function* chunks(bytes) {
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new TypeError('not a PNG');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    if (at + 12 + length > bytes.length) throw new TypeError('the PNG ends within a chunk');
    yield { type: String.fromCharCode(...bytes.subarray(at + 4, at + 8)), body: bytes.subarray(at + 8, at + 8 + length) };
    at += 12 + length;
  }
}

/** The tEXt chunks by keyword, without decoding pixels. @param {Uint8Array<ArrayBuffer>} bytes @returns {Record<string, string>} */
export function texts(bytes) {
  /** @type {Record<string, string>} */
  const found = {};
  for (const { type, body } of chunks(bytes)) {
    if (type === 'tEXt') Object.assign(found, pair(new TextDecoder('latin1').decode(body)));
    if (type === 'iTXt' && body[body.indexOf(0) + 1] === 0) Object.assign(found, international(body));
  }
  return found;
}

/** @param {string} text @returns {Record<string, string>} */
function pair(text) {
  const end = text.indexOf('\0');
  return end < 0 ? {} : { [text.slice(0, end)]: text.slice(end + 1) };
}

/** @param {Uint8Array} body @returns {Record<string, string>} */
function international(body) {
  const text = new TextDecoder().decode(body);
  const [key] = text.split('\0', 1);
  const rest = text.slice(key.length + 3);
  return { [key]: rest.split('\0').slice(2).join('\0') };
}

/** @param {Uint8Array<ArrayBuffer>} bytes @returns {Promise<Image>} */
export async function decode(bytes) {
  /** @type {Uint8Array[]} */
  const parts = [];
  let [width, height, type, palette] = [0, 0, 0, new Uint8Array()];
  for (const { type: name, body } of chunks(bytes)) {
    if (name === 'IHDR') {
      const view = new DataView(body.buffer, body.byteOffset);
      [width, height, type] = [view.getUint32(0), view.getUint32(4), body[9]];
      if (body[8] !== 8 || body[12] !== 0 || !(type in CHANNELS)) throw new TypeError('only PNG of 8 bits per channel, not interlaced');
    }
    if (name === 'PLTE') palette = body.slice();
    if (name === 'IDAT') parts.push(body);
  }
  const channels = CHANNELS[type];
  const expected = (width * channels + 1) * height;
  if (!expected || expected > LARGEST) throw new RangeError(`a PNG of ${width}x${height} pixels`);
  const joined = new Uint8Array(await new Blob(/** @type {any} */ (parts)).arrayBuffer());
  const rows = await inflate(joined, expected);
  if (rows.length !== expected) throw new TypeError('the PNG lacks rows');
  const data = unfiltered(rows, width * channels, channels, height);
  const text = texts(bytes);
  if (type !== 3) return { width, height, channels, data, text };
  const coloured = new Uint8Array(width * height * 3);
  data.forEach((index, i) => coloured.set(palette.subarray(3 * index, 3 * index + 3), 3 * i));
  return { width, height, channels: 3, data: coloured, text };
}

/** @param {Uint8Array} rows @param {number} stride @param {number} channels @param {number} height */
function unfiltered(rows, stride, channels, height) {
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)];
    if (filter > 4) throw new TypeError(`filter ${filter} in a PNG`);
    for (let x = 0; x < stride; x++) {
      const i = y * stride + x;
      const a = x >= channels ? out[i - channels] : 0;
      const b = y ? out[i - stride] : 0;
      const c = x >= channels && y ? out[i - stride - channels] : 0;
      out[i] = rows[y * (stride + 1) + 1 + x] + [0, a, b, (a + b) >> 1, filter === 4 ? paeth(a, b, c) : 0][filter];
    }
  }
  return out;
}

/** @param {number} a @param {number} b @param {number} c */
function paeth(a, b, c) {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/** The same pixels as RGB8; grey becomes three channels, alpha is left away. @param {Image} image */
export function rgb({ width, height, channels, data }) {
  if (channels === 3) return data;
  const out = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) out[3 * i + c] = data[i * channels + (channels > 2 ? c : 0)];
  }
  return out;
}
