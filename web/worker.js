// Decodes pictures and counts in them, away from the page, which therefore never freezes.
import {
  GLANCE_PIXELS,
  MOST_PIXELS,
  STRIDE,
  dropAlpha,
  isFlat,
  shrink,
  total,
  withinPixels,
  withinSide,
} from './pixels.js';

const PREVIEW_SIDE = 1280; // pixels of the picture that the page shows
const PREVIEW = { type: 'image/jpeg', quality: 0.88 };
const SAME = { imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'none' };
const AGREEMENT = 0.001; // the part by which WebGPU's count of the check picture may differ

let ort; // the runtime, loaded for the first model
let session;
let bytes; // of the model that was fetched last

/** A problem that the page explains by the text of this key. */
class Problem extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}

const tasks = {
  /** Fetches a model of models.json and the runtime, which may take minutes. */
  async fetch({ model, runtime, engine, threads }) {
    bytes = await download(model);
    ort ??= await startRuntime(runtime, engine, threads);
  },

  /** Opens the fetched model, in place of the one before. */
  async open({ model, engine, check }) {
    await session?.release();
    session = undefined;
    try {
      session = await ort.InferenceSession.create(bytes, {
        executionProviders: [engine],
        enableCpuMemArena: false, // blocks of one picture's size would be kept for the next
        enableMemPattern: false,
        logSeverityLevel: 3,
      });
    } catch (error) {
      throw asProblem(error, 'modelDamaged', { file: model.file });
    }
    if (engine === 'webgpu') await compare(check, model.check);
  },

  /** Returns the reading of a Blob or an ImageBitmap. */
  async count({ image, maxSide }) {
    const bitmap = image instanceof Blob ? await decode(image) : image;
    try {
      const preview = await drawPreview(bitmap);
      return { ...(await read(readPixels(bitmap), maxSide)), preview };
    } finally {
      bitmap.close();
    }
  },
};

/** Returns a model's bytes, which must be those that models.json describes. */
async function download({ file, sha256 }) {
  const url = here(`${file}?${sha256.slice(0, 16)}`);
  for (let tries = 1; tries <= 2; tries++) {
    const response = await fetch(url).catch(() => null);
    if (!response?.ok) throw new Problem('modelMissing', { file });
    const bytes = await response.arrayBuffer();
    if (await hasHash(bytes, sha256)) return bytes;
    await forget([url]);
  }
  throw new Problem('modelDamaged', { file });
}

async function hasHash(bytes, sha256) {
  if (!crypto.subtle) return true; // over plain HTTP from another machine there is none
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('') === sha256;
}

/** Removes files from what sw.js keeps: a server may have answered with something else once. */
async function forget(urls) {
  const cache = await self.caches?.open('skt').catch(() => null);
  for (const url of urls) await cache?.delete(url);
}

const here = (path) => new URL(path, import.meta.url).href;

async function startRuntime(runtime, engine, threads) {
  const { module, glue, wasm } = runtime[engine];
  try {
    const started = await import(here(module));
    if (engine === 'webgpu') await (await fetch(here(wasm))).arrayBuffer(); // while nobody waits
    Object.assign(started.env.wasm, {
      numThreads: threads,
      wasmPaths: { mjs: here(glue), wasm: here(wasm) },
    });
    return started;
  } catch {
    await forget([module, glue, wasm].map(here));
    throw new Problem('runtimeMissing');
  }
}

/** Throws unless this engine counts the check picture as the CPU did when the page was built. */
async function compare(check, expected) {
  const response = await fetch(new URL(check, import.meta.url));
  const bitmap = await decode(await response.blob());
  const { count } = await read(readPixels(bitmap), null);
  bitmap.close();
  if (!(Math.abs(count - expected) <= AGREEMENT * expected)) throw new Problem('engineDiffers');
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob, SAME);
  } catch {
    const start = new TextDecoder('latin1').decode(await blob.slice(4, 12).arrayBuffer());
    throw new Problem(/^ftyp(hei|hev|mif|msf)/.test(start) ? 'heic' : 'notPicture');
  }
}

/** Returns a bitmap's RGB pixels and their size. */
function readPixels(bitmap) {
  const size = [bitmap.height, bitmap.width];
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const pen = canvas.getContext('2d', { willReadFrequently: true });
    pen.drawImage(bitmap, 0, 0);
    let { data } = pen.getImageData(0, 0, bitmap.width, bitmap.height);
    canvas.width = canvas.height = 0; // gives its memory back now
    if (isTransparent(data)) data = readUnmixed(bitmap) ?? data;
    return { rgb: dropAlpha(data), size };
  } catch {
    throw new Problem('tooLarge', { width: size[1], height: size[0] });
  }
}

function isTransparent(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] < 255) return true;
  return false;
}

/** Returns RGBA as the file holds it, while a 2D canvas loses the colour of transparent pixels. */
function readUnmixed(bitmap) {
  const gl = new OffscreenCanvas(1, 1).getContext('webgl2');
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const rgba = new Uint8Array(bitmap.width * bitmap.height * 4);
  gl.readPixels(0, 0, bitmap.width, bitmap.height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  const failed = gl.getError();
  gl.getExtension('WEBGL_lose_context')?.loseContext();
  return failed ? null : rgba;
}

async function drawPreview(bitmap) {
  const [height, width] = withinSide([bitmap.height, bitmap.width], PREVIEW_SIDE);
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext('2d');
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob(PREVIEW);
}

/** Counts as counting/predictor.py does. */
async function read({ rgb, size }, maxSide) {
  let counted = maxSide ? withinSide(size, maxSide) : size;
  if (counted[0] * counted[1] > MOST_PIXELS) counted = withinPixels(size, MOST_PIXELS);
  const pixels = shrink(rgb, size, counted);
  const glanceSize = withinPixels(size, GLANCE_PIXELS);
  const glance = shrink(rgb, size, glanceSize);
  const began = performance.now();
  const flat = isFlat(glance);
  const density = flat ? emptyMap(counted) : await run(pixels, counted, 'density');
  const ms = performance.now() - began;
  const count = total(density);
  if (!Number.isFinite(count)) throw new Problem('notFinite');
  const rates = session.outputNames.includes('unlikeness');
  const unlikeness = rates ? (await run(glance, glanceSize, 'unlikeness'))[0] : null;
  return { density, count, flat, unlikeness, size, counted, ms };
}

function emptyMap(size) {
  const [rows, columns] = size.map((side) => Math.ceil(side / STRIDE));
  return new Float32Array(rows * columns);
}

/** Returns the values of one output of the model for RGB pixels. */
async function run(rgb, [height, width], output) {
  const pixels = new ort.Tensor('uint8', rgb, [1, height, width, 3]);
  try {
    const results = await session.run({ pixels }, [output]);
    const values = Float32Array.from(await results[output].getData());
    results[output].dispose();
    return values;
  } catch (error) {
    throw asProblem(error, 'tooLarge', { height, width });
  } finally {
    pixels.dispose();
  }
}

function asProblem(error, key, values) {
  if (error instanceof Problem) return error;
  console.warn(String(error)); // for who looks for the cause
  return new Problem(key, values);
}

self.onmessage = async ({ data: { id, task, ...values } }) => {
  try {
    const result = await tasks[task](values);
    self.postMessage({ id, result }, result?.density ? [result.density.buffer] : []);
  } catch (error) {
    const { key, values: named } = asProblem(error, 'unexpected', { reason: String(error) });
    self.postMessage({ id, problem: { key, values: named } });
  }
};
