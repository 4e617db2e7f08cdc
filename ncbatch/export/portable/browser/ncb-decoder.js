/* A decoder of .ncb files for browsers, for a model that `ncbatch export-decoder` wrote.

   const decoder = new ncb.Decoder(model);      // an ArrayBuffer with decoder.safetensors
   const image = decoder.decode(bytes);         // a Uint8Array with a file: {width, height, data}, data is RGBA
   const image = await ncb.worker(model).decode(bytes);   // the same beside the page, which goes on

   It needs no other file and no network, and follows the specification of the format, docs/formats/ncb.md of ncbatch,
   in its names. Latents are integers: numbers here are float64, in which every step up to them is exact, or BigInts.
   g_s is computed in float32. Products of matrices take nearly all of the time; a kernel of some hundred bytes of
   WebAssembly with SIMD does them, which is assembled below. Where a browser lacks it, or a page's policy forbids it,
   JavaScript does the same, some eight times slower.
*/
"use strict";

const ncb = (function core() {
  const PRECISION = 2 ** 24, WORD = 2 ** 32;
  const LARGEST = 2 ** 23 - 1;             // of the activations of h_s
  const Z_TILE = 16, Y_TILE = 32, HALO = 2;   // positions per side that h_s and g_s compute at once, and around them
  const MAX_PIXELS = 1e8;

  class DecodingError extends Error {}

  // The file, the model.

  const CRC = new Uint32Array(256).map((_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xEDB88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });

  function crc32(bytes, end) {
    let crc = -1;
    for (let i = 0; i < end; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
    return (crc ^ -1) >>> 0;
  }

  /** Takes a file apart. What follows the checksum in version 3 is none of the image, and passed over. */
  function readFile(bytes, maxPixels) {
    const magic = String.fromCharCode(...bytes.subarray(0, 3));
    if (magic === "NCP") throw new DecodingError("a pack of several images, which only ncbatch decodes");
    if (magic !== "NCB") throw new DecodingError("not an .ncb file");
    const version = bytes[3];
    if (![1, 2, 3].includes(version)) {
      throw new DecodingError("the .ncb file is of a version that this decoder does not know");
    }
    const digest = [...bytes.subarray(5, 13)].map(byte => byte.toString(16).padStart(2, "0")).join("");
    let position = 13;
    const leb128 = () => {
      for (let value = 0, group = 0; group < 5 && position < bytes.length; group++) {
        const byte = bytes[position++];
        value += (byte & 127) * 128 ** group;
        if (byte < 128) return value;
      }
      throw new DecodingError("the header holds a number that does not end");
    };
    const width = leb128(), height = leb128(), count = leb128(), end = position + 4 * count;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const whole = version === 3 ? end + 4 <= bytes.length : end + 4 === bytes.length;
    if (!whole || view.getUint32(end, true) !== crc32(bytes, end)) {
      throw new DecodingError("the checksum does not match: the file is cut short or damaged");
    }
    if (!(width > 0 && height > 0 && width <= 65535 && height <= 65535 && width * height <= maxPixels)) {
      throw new DecodingError(`the image has ${width} x ${height} pixels, more than ${maxPixels}`);
    }
    const words = Array.from({length: count}, (_, i) => view.getUint32(position + 4 * i, true));
    return {version, digest, width, height, words};
  }

  function float16(bits) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    return bits & 0x8000 ? -size : size;
  }

  const READERS = {
    F16: [2, (view, at) => float16(view.getUint16(at, true))],
    F32: [4, (view, at) => view.getFloat32(at, true)],
    I16: [2, (view, at) => view.getInt16(at, true)],
    I32: [4, (view, at) => view.getInt32(at, true)],
    I64: [8, (view, at) => view.getInt32(at + 4, true) * WORD + view.getUint32(at, true)],
  };

  /** The metadata and the tensors of decoder.safetensors, as {shape, data: Float64Array} by their names. */
  function readModel(buffer) {
    const view = new DataView(buffer), start = 8 + view.getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
    const tensors = {}, about = JSON.parse(header.__metadata__.ncbatch);
    delete header.__metadata__;
    for (const [name, {dtype, shape, data_offsets: [from, to]}] of Object.entries(header)) {
      const [size, read] = READERS[dtype], data = new Float64Array((to - from) / size);
      for (let i = 0; i < data.length; i++) data[i] = read(view, start + from + i * size);
      tensors[name] = {shape, data};
    }
    return {about, tensors};
  }

  // The entropy coder.

  /** ANS: a state below 2^64, in two halves, and the 32-bit words below it. */
  class Stack {
    constructor(words) {
      this.words = words;
      this.high = 0;
      this.low = 0;
      if (!words.length) return;
      this.low = words.pop();
      if (this.low === 0) throw new DecodingError("the payload is not an ANS stream; the file is damaged");
      if (words.length) [this.high, this.low] = [this.low, words.pop()];
    }

    get empty() { return !this.words.length && this.high === 0 && this.low === 0; }

    /** Takes off the symbol whose interval, which q lies in, begins at `left` and has `size` integers. */
    take(q, left, size) {
      // (state div 2^24) * size + q - left, of which the two parts below stay under 2^53.
      const above = this.high * 256 + (this.low >>> 24);
      const lower = (above % 65536) * size + q - left;
      const upper = Math.floor(above / 65536) * size + Math.floor(lower / 65536);
      this.high = Math.floor(upper / 65536);
      this.low = (upper % 65536) * 65536 + lower % 65536;
      if (this.high === 0 && this.words.length) [this.high, this.low] = [this.low, this.words.pop()];
    }

    popUniform(n) {
      const q = this.low % PRECISION, size = Math.floor(PRECISION / n);
      const symbol = Math.min(Math.floor(q / size), n - 1);
      this.take(q, symbol * size, symbol < n - 1 ? size : PRECISION - symbol * size);
      return symbol;
    }

    /** Pops `count` symbols of one table, whose last entry is the escape, and tells each its place. */
    popSequence(count, first, frequencies, tell) {
      const n = frequencies.length, left = new Float64Array(n + 1), escaped = [];
      let sum = 0;
      for (const frequency of frequencies) sum += frequency;
      const scale = (PRECISION - n) / sum;
      for (let i = 0, below = 0; i < n; below += frequencies[i++]) left[i] = Math.floor(scale * below) + i;
      left[n] = PRECISION;
      for (let place = 0; place < count; place++) {
        const q = this.low % PRECISION;
        let entry = 0;
        for (let end = n; end - entry > 1;) {
          const middle = (entry + end) >> 1;
          if (left[middle] <= q) entry = middle; else end = middle;
        }
        this.take(q, left[entry], left[entry + 1] - left[entry]);
        if (entry === n - 1) escaped.push(place); else tell(place, first + entry);
      }
      for (const place of escaped) tell(place, this.popEscaped());
    }

    popEscaped() {
      const k = this.popUniform(22), c = 2 ** k + (k ? this.popUniform(2 ** k) : 0) - 1;
      const value = c % 2 ? -(c + 1) / 2 : c / 2;
      if (Math.abs(value) > 2 ** 20) {
        throw new DecodingError("a latent lies outside the coded range; the file is damaged");
      }
      return value;
    }
  }

  // The Gaussian tables.

  let T;   // Phi(i / 1024) - 1/2 in units of 2^-30

  function distribution() {
    const one = 1n << 96n;
    const expm = x => {
      let total = one, power = one;
      for (let k = 1n; power; k++) {
        power = (power * x >> 96n) / k;
        total += k & 1n ? -power : power;
      }
      return total;
    };
    let ratio = expm(1n << 73n);
    const step = expm(1n << 74n), d = [one], s = [0n];
    for (let i = 1; i <= 16384; i++) {
      d.push(d[i - 1] * ratio >> 96n);
      ratio = ratio * step >> 96n;
    }
    for (let i = 0; i < 16384; i += 2) s.push(s[i / 2] + d[i] + 4n * d[i + 1] + d[i + 2]);
    return Float64Array.from(s, value => Number((value << 29n) / s[8192]));
  }

  function gaussianTable(sigma) {
    T = T || distribution();
    const below = distance => {
      const t = Math.min(Math.floor(Math.abs(distance) * 2 ** 22 / sigma), 8192 * 4096);
      const i = Math.min(Math.floor(t / 4096), 8191);
      const v = T[i] + Math.floor((T[i + 1] - T[i]) * (t - 4096 * i) / 4096);
      return distance < 0 ? -v : v;
    };
    const r = Math.floor(6 * sigma / 256) + 2, frequencies = new Float64Array(2 * r + 2);
    const lowest = below(-256 * r - 128);
    let last = lowest;
    for (let k = -r; k <= r; k++) {
      const next = below(256 * k + 128);
      frequencies[k + r] = next - last + 1;
      last = next;
    }
    frequencies[2 * r + 1] = 2 ** 30 - (last - lowest) + 1;
    return {r, frequencies};
  }

  function coarse(sigma) {
    const t = Math.max(32 - Math.clz32(sigma) - 7, 0);
    return Math.min((sigma + ((1 << t) >> 1)) >> t << t, 65024);
  }

  /** The symbols of y: for each sigma in ascending order, those of the elements that have it, in their order. */
  function popGaussian(stack, sigma) {
    const symbols = new Int32Array(sigma.length), order = new Uint32Array(sigma.length);
    const starts = new Uint32Array(65537);
    for (const value of sigma) starts[value + 1]++;
    for (let value = 0; value < 65536; value++) starts[value + 1] += starts[value];
    const next = starts.slice();
    sigma.forEach((value, place) => { order[next[value]++] = place; });
    for (let value = 0; value < 65536; value++) {
      const start = starts[value], count = starts[value + 1] - start;
      if (!count) continue;
      const {r, frequencies} = gaussianTable(value);
      stack.popSequence(count, -r, frequencies, (place, symbol) => { symbols[order[start + place]] = symbol; });
    }
    return symbols;
  }

  // Convolutions: four pixels by two vectors of channels at a time.

  /** The kernel's module. It and `convolveSlowly` do the same; sizes are in bytes there, in elements here. */
  function assemble() {
    const number = n => { const b = []; do { b.push(n & 127 | (n > 127 ? 128 : 0)); n >>>= 7; } while (n); return b; };
    const list = items => [...number(items.length), ...items.flat()];
    const sized = bytes => [...number(bytes.length), ...bytes];
    const I32 = 0x7f, V128 = 0x7b;
    const get = local => [0x20, local], set = local => [0x21, local], tee = local => [0x22, local];
    const constant = n => { // signed LEB128
      const b = [];
      for (;;) {
        const low = n & 127;
        n >>= 7;
        if ((n === 0 && !(low & 64)) || (n === -1 && low & 64)) return [0x41, ...b, low];
        b.push(low | 128);
      }
    };
    const ADD = 0x6a, MULTIPLY = 0x6c;
    const sum = (...terms) => [...terms[0], ...terms.slice(1).flatMap(term => [...term, ADD])];
    const increase = (local, by) => [...sum(get(local), by), ...set(local)];
    /** Repeats a body, counting a local down to 0; at least once. */
    const times = (local, body) => [
      0x03, 0x40, ...body, ...get(local), ...constant(-1), ADD, ...tee(local), 0x0d, 0, 0x0b,
    ];
    const kernel = ({size, splat, add, mul}) => {
      const [x, pixel, row, rows, run, w, bias, y, yPixel, quads, blocks] = Array(11).keys();
      const [q, r, k, xq, yq, xr, wp] = [11, 12, 13, 14, 15, 16, 17], p = [18, 19, 20, 21];
      const acc = i => 22 + i, [w0, w1, s] = [30, 31, 32];
      const load = (address, offset) => [...get(address), 0xfd, 0, 4, offset];
      const four = [...get(pixel), ...constant(4), MULTIPLY], fourY = [...get(yPixel), ...constant(4), MULTIPLY];
      const inner = [
        ...load(wp, 0), ...set(w0), ...load(wp, 16), ...set(w1),
        ...p.flatMap((pointer, i) => [
          ...get(pointer), 0xfd, splat, size === 4 ? 2 : 3, 0, ...set(s),
          ...[w0, w1].flatMap((weight, half) => [
            ...get(acc(2 * i + half)), ...get(s), ...get(weight), 0xfd, ...mul, 0xfd, ...add, ...set(acc(2 * i + half)),
          ]),
          ...increase(pointer, constant(size)),
        ]),
        ...increase(wp, constant(32)),
      ];
      const body = times(blocks, [
        ...get(x), ...set(xq), ...get(y), ...set(yq), ...get(quads), ...set(q),
        ...times(q, [
          ...p.flatMap((_, i) => [...load(bias, 0), ...set(acc(2 * i)), ...load(bias, 16), ...set(acc(2 * i + 1))]),
          ...get(w), ...set(wp), ...get(xq), ...set(xr), ...get(rows), ...set(r),
          ...times(r, [
            ...get(xr), ...p.flatMap((pointer, i) => [...(i ? [...get(pixel), ADD] : []), ...tee(pointer)]), 0x1a,
            ...get(run), ...set(k), ...times(k, inner),
            ...increase(xr, get(row)),
          ]),
          ...get(yq), ...set(xr),
          ...p.flatMap((_, i) => [
            ...get(xr), ...get(acc(2 * i)), 0xfd, 11, 4, 0, ...get(xr), ...get(acc(2 * i + 1)), 0xfd, 11, 4, 16,
            ...increase(xr, get(yPixel)),
          ]),
          ...increase(xq, four), ...increase(yq, fourY),
        ]),
        ...get(wp), ...set(w), ...increase(bias, constant(32)), ...increase(y, constant(32)),
      ]);
      return sized([...list([[11, I32], [11, V128]]), ...body, 0x0b]);
    };
    const kernels = [
      kernel({size: 4, splat: 9, add: [0xe4, 1], mul: [0xe6, 1]}),
      kernel({size: 8, splat: 10, add: [0xf0, 1], mul: [0xf2, 1]}),
    ];
    const name = text => sized([...text].map(letter => letter.charCodeAt(0)));
    const section = (id, content) => [id, ...sized(content)];
    return new Uint8Array([
      0, 97, 115, 109, 1, 0, 0, 0,
      ...section(1, list([[0x60, ...list(Array(11).fill([I32])), 0]])),
      ...section(2, list([[...name("a"), ...name("memory"), 2, 0, 1]])),
      ...section(3, list([[0], [0]])),
      ...section(7, list([[...name("float32"), 0, 0], [...name("float64"), 0, 1]])),
      ...section(10, list(kernels)),
    ]);
  }

  /** The kernel in JavaScript, on an array and in its elements; `vector` is how many of them 16 bytes hold. */
  function convolveSlowly(a, vector, x, pixel, row, rows, run, w, bias, y, yPixel, quads, blocks) {
    const width = 2 * vector;
    for (let block = 0; block < blocks; block++, w += rows * run * width, bias += width, y += width) {
      for (let q = 0; q < 4 * quads; q++) {
        for (let o = 0; o < width; o += 4) {
          let s0 = a[bias + o], s1 = a[bias + o + 1], s2 = a[bias + o + 2], s3 = a[bias + o + 3], wp = w + o;
          for (let r = 0; r < rows; r++) {
            const start = x + q * pixel + r * row;
            for (let p = start; p < start + run; p++, wp += width) {
              const value = a[p];
              s0 += value * a[wp];
              s1 += value * a[wp + 1];
              s2 += value * a[wp + 2];
              s3 += value * a[wp + 3];
            }
          }
          const out = y + q * yPixel + o;
          a[out] = s0; a[out + 1] = s1; a[out + 2] = s2; a[out + 3] = s3;
        }
      }
    }
  }

  /** Memory for numbers of one type, and the kernel that works in it. */
  class Memory {
    constructor(type, simd) {
      this.type = type;
      this.size = type.BYTES_PER_ELEMENT;
      this.used = 0;
      if (simd && typeof WebAssembly !== "undefined") {
        try {
          this.memory = new WebAssembly.Memory({initial: 1});
          const module = new WebAssembly.Module(assemble());
          const {exports} = new WebAssembly.Instance(module, {a: {memory: this.memory}});
          this.kernel = exports[type === Float32Array ? "float32" : "float64"];
        } catch (error) {
          if (!(error instanceof WebAssembly.CompileError)) throw error;   // no SIMD, or forbidden by the page
        }
      }
      this.fast = Boolean(this.kernel);
      this.array = new type(this.fast ? this.memory.buffer : 0);
    }

    /** Where so many numbers have room, all of them 0; a place is in elements. */
    take(length) {
      const place = this.used;
      this.used += Math.ceil(length / 8) * 8;
      if (this.used > this.array.length) {
        if (this.fast) {
          this.memory.grow(Math.ceil((this.used * this.size - this.memory.buffer.byteLength) / 65536));
          this.array = new this.type(this.memory.buffer);
        } else {
          const larger = new this.type(2 * this.used);
          larger.set(this.array);
          this.array = larger;
        }
      }
      this.array.fill(0, place, this.used);
      return place;
    }

    put(numbers) {
      const place = this.take(numbers.length);
      this.array.set(numbers, place);
      return place;
    }

    /** Gives back what was taken since `used` was so much. */
    release(used) { this.used = used; }

    convolve(x, pixel, row, rows, run, w, bias, y, yPixel, quads, blocks) {
      const size = this.size;
      if (this.fast) {
        this.kernel(x * size, pixel * size, row * size, rows, run, w * size, bias * size, y * size, yPixel * size,
          quads, blocks);
      } else {
        convolveSlowly(this.array, 16 / size, x, pixel, row, rows, run, w, bias, y, yPixel, quads, blocks);
      }
    }
  }

  const eights = channels => Math.ceil(channels / 8) * 8;

  /** Channels of a rectangle, [row][column][channel], with a border of zeros, and as many columns as quads need. */
  class Plane {
    constructor(memory, channels, height, width, columns = Math.ceil(width / 4) * 4) {
      this.depth = eights(channels);
      Object.assign(this, {memory, channels, height, width, columns, row: (columns + 2) * this.depth});
      this.place = memory.take((height + 2) * this.row + 8 * this.depth);
    }

    at(i, j) { return this.place + (i + 1) * this.row + (j + 1) * this.depth; }

    get end() { return this.place + (this.height + 2) * this.row; }

    /** Makes zeros of what the last quad of each row wrote beyond the width. */
    clear() {
      for (let i = 0; i < this.height; i++) this.memory.array.fill(0, this.at(i, this.width), this.at(i, this.columns));
    }
  }

  /** A convolution's weights and bias, as the kernel takes them. tap(o, c, d, e): the weight of a neighbour. */
  function packed(memory, inputs, outputs, ds, es, tap, bias) {
    const depth = eights(inputs), width = 32 / memory.size, blocks = eights(outputs) / width;
    const weights = new Float64Array(blocks * ds.length * es.length * depth * width);
    let position = 0;
    for (let block = 0; block < blocks; block++) {
      for (const d of ds) for (const e of es) for (let c = 0; c < depth; c++) for (let i = 0; i < width; i++) {
        const o = block * width + i;
        weights[position++] = c < inputs && o < outputs ? tap(o, c, d, e) : 0;
      }
    }
    const biases = new Float64Array(blocks * width);
    biases.set(bias);
    return {weights: memory.put(weights), bias: memory.put(biases), blocks, rows: ds.length, run: es.length * depth};
  }

  /** 5 x 5, stride 2, transposed: a convolution of its own for each parity of the output's row and column. */
  class Transposed {
    constructor(memory, {shape: [inputs, outputs], data}, bias) {
      Object.assign(this, {memory, outputs, parts: []});
      // Output 2 i + a takes the tap a + 4 - 2 d of the input at i + d - 1; where a is 1, there is none for d = 0.
      for (const a of [0, 1]) for (const b of [0, 1]) {
        const tap = (o, c, d, e) => data[((c * outputs + o) * 5 + a + 4 - 2 * d) * 5 + b + 4 - 2 * e];
        const part = packed(memory, inputs, outputs, [0, 1, 2].slice(a), [0, 1, 2].slice(b), tap, bias);
        this.parts.push({a, b, ...part});
      }
    }

    apply(x) {
      const y = new Plane(this.memory, this.outputs, 2 * x.height, 2 * x.width, 2 * x.columns);
      for (const part of this.parts) for (let i = 0; i < x.height; i++) {
        this.memory.convolve(x.at(i + part.a - 1, part.b - 1), x.depth, x.row, part.rows, part.run, part.weights,
          part.bias, y.at(2 * i + part.a, part.b), 2 * y.depth, x.columns / 4, part.blocks);
      }
      y.clear();
      return y;
    }
  }

  /** 3 x 3. */
  class Convolution {
    constructor(memory, {shape: [outputs, inputs], data}, bias) {
      Object.assign(this, {memory, outputs});
      const tap = (o, c, d, e) => data[((o * inputs + c) * 3 + d) * 3 + e];
      this.part = packed(memory, inputs, outputs, [0, 1, 2], [0, 1, 2], tap, bias);
    }

    apply(x) {
      const y = new Plane(this.memory, this.outputs, x.height, x.width, x.columns), part = this.part;
      for (let i = 0; i < x.height; i++) {
        this.memory.convolve(x.at(i - 1, -1), x.depth, x.row, part.rows, part.run, part.weights, part.bias,
          y.at(i, 0), y.depth, x.columns / 4, part.blocks);
      }
      y.clear();
      return y;
    }
  }

  /** x * sqrt(beta + gamma x^2), in place. Zeros stay zeros. */
  class InverseGDN {
    constructor(memory, gamma, beta) {
      this.memory = memory;
      const channels = beta.data.length, low = 2 ** -36;
      const stored = gamma.data.map(g => Math.max(g, 2 ** -18) ** 2 - low);
      const bias = beta.data.map(b => Math.max(b, Math.sqrt(1e-6 + low)) ** 2 - low);
      this.part = packed(memory, channels, channels, [0], [0], (o, c) => stored[o * channels + c], bias);
    }

    apply(x) {
      const {memory, part} = this, used = memory.used, length = x.columns * x.depth;
      const squares = memory.take(length), norms = memory.take(length), a = memory.array;
      for (let i = 0; i < x.height; i++) {
        const start = x.at(i, 0);
        for (let k = 0; k < length; k++) a[squares + k] = a[start + k] * a[start + k];
        memory.convolve(squares, x.depth, 0, 1, part.run, part.weights, part.bias, norms, x.depth, x.columns / 4,
          part.blocks);
        for (let k = 0; k < length; k++) a[start + k] *= Math.sqrt(a[norms + k]);
      }
      memory.release(used);
      return x;
    }
  }

  /** Rectangles that cover height x width, each with as much around it as its own part depends on. */
  function* tiles(height, width, side) {
    for (let top = 0; top < height; top += side) for (let left = 0; left < width; left += side) {
      const bottom = Math.min(top + side, height), right = Math.min(left + side, width);
      const above = Math.max(top - HALO, 0), before = Math.max(left - HALO, 0);
      const below = Math.min(bottom + HALO, height), behind = Math.min(right + HALO, width);
      yield {top, left, bottom, right, above, before, below, behind};
    }
  }

  // The decoder.

  class Decoder {
    /** model: an ArrayBuffer with decoder.safetensors. simd: false computes in JavaScript alone. */
    constructor(model, {simd = true} = {}) {
      const {about, tensors} = readModel(model);
      this.about = about;
      this.tensors = tensors;
      this.doubles = new Memory(Float64Array, simd);
      this.floats = new Memory(Float32Array, simd);
      if (!this.floats.fast) this.floats = new Memory(Float64Array, false);   // conversions would take most of the time
      this.hyper = [Transposed, Transposed, Convolution].map((kind, l) =>
        new kind(this.doubles, tensors[`exact.${l}.weight`], tensors[`exact.${l}.bias`].data));
      this.synthesis = [0, 1, 2, 3, 4, 5, 6].map(l => l % 2
        ? new InverseGDN(this.floats, tensors[`g_s.${l}.gamma`], tensors[`g_s.${l}.beta`])
        : new Transposed(this.floats, tensors[`g_s.${l}.weight`], tensors[`g_s.${l}.bias`].data));
    }

    /** Whether the fast kernel is in use. */
    get fast() { return this.floats.fast; }

    /** The image of a file: {width, height, data}, data being red, green, blue and alpha as of ImageData. */
    decode(bytes, maxPixels = MAX_PIXELS) {
      const {width, height, yHat} = this.latents(bytes, maxPixels);
      return {width, height, data: this.synthesise(yHat, width, height)};
    }

    /** The latents of a file, {width, height, yHat}: Int32Array [M, 4 h, 4 w] in units of 1/256. */
    latents(bytes, maxPixels = MAX_PIXELS) {
      const {version, digest, width, height, words} = readFile(bytes, maxPixels);
      if (!this.about.digest.startsWith(digest)) {
        throw new DecodingError(`the file is of the model ${digest}, not of ${this.about.digest.slice(0, 16)}`);
      }
      const {n, m} = this.about, h = Math.ceil(height / 64), w = Math.ceil(width / 64), stack = new Stack(words);
      const z = new Float64Array(n * h * w), [median, first, lengths, frequencies] =
        ["median", "first", "lengths", "frequencies"].map(name => this.tensors[`z.${name}`].data);
      for (let c = 0, start = 0; c < n; start += lengths[c++]) {
        const table = frequencies.subarray(start, start + lengths[c]);
        const tell = (place, symbol) => { z[c * h * w + place] = 256 * symbol + median[c]; };
        stack.popSequence(h * w, first[c], table, tell);
      }
      const {mu, sigma} = this.hyperSynthesis(z, h, w);
      const symbols = popGaussian(stack, version === 1 ? sigma : sigma.map(coarse));
      if (!stack.empty) throw new DecodingError("the payload holds more than the image; the file is damaged");
      return {width, height, yHat: mu.map((value, place) => 256 * symbols[place] + value)};
    }

    /** The exact h_s: mu and sigma of z, [N, h, w], all in units of 1/256; Int32Array [M, 4 h, 4 w] each. */
    hyperSynthesis(z, h, w) {
      const {n, m, shifts} = this.about, memory = this.doubles, size = 16 * h * w;
      const mu = new Int32Array(m * size), sigma = new Int32Array(m * size);
      const clamp = value => Math.min(Math.max(value, -LARGEST), LARGEST);
      for (const tile of tiles(h, w, Z_TILE)) {
        const used = memory.used;
        let x = new Plane(memory, n, tile.below - tile.above, tile.behind - tile.before);
        for (let i = tile.above; i < tile.below; i++) for (let j = tile.before; j < tile.behind; j++) {
          const place = x.at(i - tile.above, j - tile.before);
          for (let c = 0; c < n; c++) memory.array[place + c] = clamp(16 * z[(c * h + i) * w + j]);
        }
        this.hyper.forEach((layer, l) => {
          x = layer.apply(x);
          const scale = 2 ** -shifts[l], last = l === 2, a = memory.array;
          for (let k = x.place; k < x.end; k++) {
            const value = clamp(Math.floor(a[k] * scale + 0.5));
            a[k] = last || value >= 0 ? value : Math.floor(value * 655 / 65536);
          }
        });
        for (let i = 4 * tile.top; i < 4 * tile.bottom; i++) for (let j = 4 * tile.left; j < 4 * tile.right; j++) {
          const place = x.at(i - 4 * tile.above, j - 4 * tile.before), to = i * 4 * w + j;
          for (let c = 0; c < m; c++) {
            sigma[c * size + to] = Math.min(Math.max(Math.floor(memory.array[place + c] / 16 + 0.5), 28), 65535);
            mu[c * size + to] = Math.floor(memory.array[place + m + c] / 16 + 0.5);
          }
        }
        memory.release(used);
      }
      return {mu, sigma};
    }

    /** The image of latents, Uint8ClampedArray [height, width, 4]. */
    synthesise(yHat, width, height) {
      const {m} = this.about, memory = this.floats, h = 4 * Math.ceil(height / 64), w = 4 * Math.ceil(width / 64);
      const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
      for (const tile of tiles(h, w, Y_TILE)) {
        const used = memory.used;
        let x = new Plane(memory, m, tile.below - tile.above, tile.behind - tile.before);
        for (let i = tile.above; i < tile.below; i++) for (let j = tile.before; j < tile.behind; j++) {
          const place = x.at(i - tile.above, j - tile.before);
          for (let c = 0; c < m; c++) memory.array[place + c] = yHat[(c * h + i) * w + j] / 256;
        }
        for (const layer of this.synthesis) x = layer.apply(x);
        for (let i = 16 * tile.top; i < Math.min(16 * tile.bottom, height); i++) {
          for (let j = 16 * tile.left; j < Math.min(16 * tile.right, width); j++) {
            const place = x.at(i - 16 * tile.above, j - 16 * tile.before), to = 4 * (i * width + j);
            for (let c = 0; c < 3; c++) pixels[to + c] = 255 * memory.array[place + c];   // rounds and clamps
          }
        }
        memory.release(used);
      }
      return pixels;
    }
  }

  /** A decoder in a worker of its own. `decode` returns a promise of what `Decoder.decode` returns. */
  function worker(model, options) {
    const source = `const ncb = (${core})(), load = ${(event) => {
      const {id, model, options, bytes} = event.data;
      try {
        if (model) self.decoder = new ncb.Decoder(model, options);
        const image = bytes ? self.decoder.decode(bytes) : null;
        self.postMessage({id, image}, image ? [image.data.buffer] : []);
      } catch (error) {
        self.postMessage({id, error: error.message});
      }
    }}; self.onmessage = load;`;
    const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const thread = new Worker(address), waiting = new Map();
    let asked = 0;
    const ask = message => new Promise((resolve, reject) => {
      waiting.set(++asked, {resolve, reject});
      thread.postMessage({id: asked, ...message});
    });
    thread.onmessage = ({data: {id, image, error}}) => {
      const {resolve, reject} = waiting.get(id);
      waiting.delete(id);
      if (error) reject(new DecodingError(error)); else resolve(image);
    };
    thread.onerror = event => {
      for (const {reject} of waiting.values()) reject(new DecodingError(event.message));
      waiting.clear();
    };
    const loaded = ask({model, options});
    loaded.catch(() => {});
    return {
      decode: async bytes => { await loaded; return ask({bytes}); },
      end: () => { thread.terminate(); URL.revokeObjectURL(address); },
    };
  }

  return {Decoder, DecodingError, worker};
})();

if (typeof module !== "undefined") module.exports = ncb;
